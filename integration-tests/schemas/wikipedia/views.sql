-- Edits of Wikipedia, for the tests of real data. Their times are out of order by days, their text is of every script.

CREATE SOURCE edits WITH (
  schema = 'edit.avsc',
  key = 'page',
  event_time = 'time',
  partitions = 4,
  segment_records = 2500
);

CREATE MATERIALIZED VIEW channels WITH (key = 'channel') AS
SELECT channel,
       date_bin(INTERVAL '1 hour', "time") AS hour,
       count(*) AS edits,
       sum(added) AS added,
       sum(deleted) AS deleted,
       sum(added) - sum(deleted) - sum(delta) AS unexplained,
       count(*) FILTER (WHERE "isRobot") AS by_robots,
       count(*) FILTER (WHERE "isAnonymous") AS anonymous,
       count(DISTINCT "user") AS users,
       approx_distinct("user") AS users_estimate,
       max(character_length(comment)) AS longest_comment
FROM edits
GROUP BY channel, hour;

-- Every page: far more rows under a key than a page of an answer holds. The page is looked at as it is now.
CREATE MATERIALIZED VIEW pages WITH (key = 'channel') AS
SELECT channel,
       page,
       count(*) AS edits,
       sum(delta) AS delta,
       max("user") AS last_by_name,
       last_value("user" ORDER BY "time", _offset) AS last_user,
       bool_and("isMinor") AS all_minor
FROM edits
GROUP BY channel, page;

CREATE MATERIALIZED VIEW namespaces WITH (key = 'channel') AS
SELECT channel,
       namespace,
       count(*) AS edits,
       count(DISTINCT page) AS pages,
       CAST(sum(added) AS DOUBLE) / count(*) AS mean_added,
       bit_xor(added) AS fold_of_added
FROM edits
GROUP BY channel, namespace;

-- Anonymous edits by country: the null country holds everybody else.
CREATE MATERIALIZED VIEW countries WITH (key = 'countryIsoCode') AS
SELECT "countryIsoCode",
       min("countryName") AS country,
       count(*) AS edits,
       count("cityName") AS with_city,
       approx_distinct("cityName") AS cities,
       min("metroCode") AS least_metro,
       sum("metroCode") AS metro_sum,
       var_pop(delta) AS variance,
       corr(added, deleted) AS correlation
FROM edits
GROUP BY "countryIsoCode";

-- The busy ones, across all channels.
CREATE MATERIALIZED VIEW busy_users WITH (key = 'user') AS
SELECT "user",
       count(*) AS edits,
       count(DISTINCT channel) AS channels,
       median(delta) AS median_delta,
       max("time") AS last_edit
FROM edits
GROUP BY "user"
HAVING count(*) >= 20 AND NOT bool_or("isAnonymous");
