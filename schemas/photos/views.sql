-- An event-sourced photo service: the log of what happened is the truth, the views are what the pages show.

-- All events of one photo lie in one partition, in the order they were sent; popular owners are spread out.
CREATE SOURCE photo_events WITH (
  schema = 'photo_event.avsc',
  key = 'photo_id',
  event_time = 'ts',
  partitions = 4
);

-- How often a photo was looked at.
CREATE MATERIALIZED VIEW photo_views
WITH (key = 'photo_id', freshness_slo = '1s') AS
SELECT photo_id,
       count(*) AS views,
       approx_distinct(viewer_id) AS viewers,
       max(ts) AS last_viewed
FROM photo_events
WHERE type = 'viewPhoto'
GROUP BY photo_id;

-- The same, minute by minute.
CREATE MATERIALIZED VIEW photo_views_per_minute
WITH (key = 'photo_id', retention = '400 days') AS
SELECT photo_id,
       date_bin(INTERVAL '1 minute', ts) AS minute,
       count(*) AS views
FROM photo_events
WHERE type = 'viewPhoto'
GROUP BY photo_id, minute;

-- How many photos a user has now. Ask with the `position` of the upload as `min_position`, and the upload is in it.
CREATE MATERIALIZED VIEW user_photos
WITH (key = 'user_id', freshness_slo = '1s') AS
SELECT user_id,
       count(*) FILTER (WHERE type = 'addPhoto') - count(*) FILTER (WHERE type = 'deletePhoto') AS photos,
       count(*) FILTER (WHERE type = 'addPhoto') AS added,
       count(*) FILTER (WHERE type = 'deletePhoto') AS deleted,
       max(ts) FILTER (WHERE type = 'addPhoto') AS last_added
FROM photo_events
WHERE type IN ('addPhoto', 'deletePhoto')
GROUP BY user_id;

-- A user's photos, as rows under the user: `order=-views` shows the most viewed first.
CREATE MATERIALIZED VIEW user_photo_views
WITH (key = 'user_id', freshness_slo = '1s') AS
SELECT user_id,
       photo_id,
       count(*) FILTER (WHERE type = 'viewPhoto') AS views,
       last_value(title ORDER BY ts) FILTER (WHERE title IS NOT NULL) AS title,
       min(ts) FILTER (WHERE type = 'addPhoto') AS added
FROM photo_events
GROUP BY user_id, photo_id
HAVING bool_or(type = 'addPhoto') AND NOT bool_or(type = 'deletePhoto');

-- What a photo is now: of each field the last value that was given, by event time, and by the place in the log where that is
-- equal. A deleted photo has no row, nor has
-- one whose addPhoto has not come yet.
CREATE MATERIALIZED VIEW photo_current
WITH (key = 'photo_id', freshness_slo = '1s') AS
SELECT photo_id,
       last_value(user_id ORDER BY ts) AS user_id,
       last_value(title ORDER BY ts) FILTER (WHERE title IS NOT NULL) AS title,
       last_value(description ORDER BY ts) FILTER (WHERE description IS NOT NULL) AS description,
       last_value(tags ORDER BY ts) FILTER (WHERE tags IS NOT NULL) AS tags,
       last_value(latitude ORDER BY ts) FILTER (WHERE latitude IS NOT NULL) AS latitude,
       last_value(longitude ORDER BY ts) FILTER (WHERE longitude IS NOT NULL) AS longitude,
       last_value(url ORDER BY ts) FILTER (WHERE url IS NOT NULL) AS url,
       last_value(bytes ORDER BY ts) FILTER (WHERE bytes IS NOT NULL) AS bytes,
       last_value(width ORDER BY ts) FILTER (WHERE width IS NOT NULL) AS width,
       last_value(height ORDER BY ts) FILTER (WHERE height IS NOT NULL) AS height,
       min(ts) AS added,
       max(ts) AS changed
FROM photo_events
WHERE type <> 'viewPhoto'
GROUP BY photo_id
HAVING bool_or(type = 'addPhoto') AND NOT bool_or(type = 'deletePhoto');
