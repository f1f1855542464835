-- A web server's access log, for the tests of real data.

-- Lines have no id in the log; the loader makes one of file name, line number and line. A file that is loaded twice counts once.
-- Segments are short, so that answers merge many deltas.
CREATE SOURCE requests WITH (
  schema = 'request.avsc',
  key = 'ip',
  event_time = 'ts',
  event_id = 'id',
  dedupe_window = '1 day',
  partitions = 3,
  segment_records = 1000
);

-- Pages, minute by minute: the key has many values.
CREATE MATERIALIZED VIEW pages WITH (key = 'url') AS
SELECT url,
       date_bin(INTERVAL '1 minute', ts) AS minute,
       status,
       count(*) AS hits,
       sum(bytes) AS bytes,
       count(DISTINCT ip) AS visitors,
       approx_distinct(ip) AS visitors_estimate,
       max(bytes) AS largest
FROM requests
GROUP BY url, minute, status;

-- Answers by status and hour: the key has few values, with many rows under each.
CREATE MATERIALIZED VIEW statuses WITH (key = 'status') AS
SELECT status,
       date_bin(INTERVAL '1 hour', ts) AS hour,
       method,
       count(*) AS answers,
       avg(bytes) AS mean_bytes,
       stddev(bytes) AS spread,
       count(DISTINCT user_agent) AS agents,
       count(DISTINCT session_id) AS sessions
FROM requests
GROUP BY status, hour, method;

-- No key at all: the hours of the site, with expressions over aggregates.
CREATE MATERIALIZED VIEW hours AS
SELECT date_bin(INTERVAL '1 hour', ts) AS hour,
       count(*) AS hits,
       count(*) FILTER (WHERE status >= 400) AS errors,
       CAST(count(*) FILTER (WHERE status >= 400) AS DOUBLE) / count(*) AS error_rate,
       sum(bytes) / count(*) AS mean_bytes,
       approx_distinct(url) AS urls,
       count(DISTINCT session_id) AS sessions,
       bool_or(method <> 'GET') AS has_others
FROM requests
GROUP BY hour;

-- Where visitors come from; null where they do not say. Sites that sent fewer than three are not shown.
CREATE MATERIALIZED VIEW referrers WITH (key = 'site') AS
SELECT split_part(referrer, '/', 3) AS site,
       count(*) AS clicks,
       count(DISTINCT url) AS targets,
       approx_distinct(ip) AS visitors,
       min(ts) AS first_seen,
       max(ts) AS last_seen
FROM requests
GROUP BY site
HAVING count(*) >= 3;

-- What each address did, in order. All of its requests are in one partition, so `_offset` settles what came first within a second.
CREATE MATERIALIZED VIEW addresses WITH (key = 'ip') AS
SELECT ip,
       count(*) AS hits,
       count(DISTINCT session_id) AS sessions,
       first_value(url ORDER BY ts, _offset) AS entry_page,
       last_value(url ORDER BY ts, _offset) AS exit_page,
       last_value(referrer ORDER BY ts, _offset) FILTER (WHERE referrer IS NOT NULL) AS last_referrer,
       sum(bytes) FILTER (WHERE status = 200) AS bytes
FROM requests
GROUP BY ip;
