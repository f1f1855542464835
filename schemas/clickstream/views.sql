-- The clickstream of a web site: every request, and what one wants to know of it while it happens.

-- The log partition of an event is chosen by its session. It is never null, and no single user or page, however
-- popular, makes one partition hotter than the others. A session's states then come from one partition.
--
-- Events carry an `id`, so repeated deliveries can be told apart: uncomment the two lines to let them count once. Remembering
-- every id of the last hour costs memory, disk and a good part of the throughput, so a stream of clicks goes without.
CREATE SOURCE clicks WITH (
  schema = 'page_event.avsc',
  key = 'session_id',
  event_time = 'ts',
  -- event_id = 'id',
  -- dedupe_window = '1 hour',
  partitions = 4
);

-- How often each page is seen, minute by minute. `rollup=1h` or `rollup=true` merges minutes, visitors included:
-- it is sketches that are merged, not counts that are added up. With `retention = '400 days'` among the options, tiles older
-- than that would be let go of; here all are kept, so that an access log of any age can be loaded.
CREATE MATERIALIZED VIEW page_views
WITH (key = 'url', freshness_slo = '1s') AS
SELECT url,
       date_bin(INTERVAL '1 minute', ts) AS minute,
       count(*) AS views,
       approx_distinct(user_id) AS visitors,
       CAST(sum(bytes) AS DOUBLE) / count(*) AS mean_bytes
FROM clicks
WHERE status < 400
GROUP BY url, minute;

-- What each signed-in user has done so far: one row per user.
CREATE MATERIALIZED VIEW user_activity
WITH (key = 'user_id', freshness_slo = '1s') AS
SELECT user_id,
       count(*) AS clicks,
       approx_distinct(session_id) AS sessions,
       count(*) FILTER (WHERE status >= 400) AS errors,
       sum(bytes) AS bytes,
       min(ts) AS first_seen,
       max(ts) AS last_seen,
       last_value(url ORDER BY ts) AS last_page
FROM clicks
WHERE user_id IS NOT NULL
GROUP BY user_id;

-- Each visit from its first page to its last. Events may come in any order: first and last are by event time, and by the place in
-- the log where that is equal.
CREATE MATERIALIZED VIEW sessions
WITH (key = 'session_id') AS
SELECT session_id,
       max(user_id) AS user_id,
       min(ts) AS started,
       max(ts) AS ended,
       count(*) AS clicks,
       count(DISTINCT url) AS pages,
       first_value(url ORDER BY ts) AS entry_page,
       last_value(url ORDER BY ts) AS exit_page
FROM clicks
GROUP BY session_id;

-- Where visitors come from: the host of the referring page, hour by hour.
CREATE MATERIALIZED VIEW referrers
WITH (key = 'site') AS
SELECT coalesce(split_part(referrer, '/', 3), 'direct') AS site,
       date_bin(INTERVAL '1 hour', ts) AS hour,
       count(*) AS clicks,
       approx_distinct(session_id) AS sessions
FROM clicks
GROUP BY site, hour;

-- How the server answers: per status and minute. The methods are rows under the key.
CREATE MATERIALIZED VIEW status_codes
WITH (key = 'status') AS
SELECT status,
       date_bin(INTERVAL '1 minute', ts) AS minute,
       method,
       count(*) AS answers,
       avg(duration_ms) AS mean_ms,
       max(duration_ms) AS max_ms
FROM clicks
GROUP BY status, minute, method;
