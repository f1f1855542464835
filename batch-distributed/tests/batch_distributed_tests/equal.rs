//! What a cluster computes is what this process computes.

use std::sync::atomic::Ordering;

use batch_layer::ReadCounters;
use rand::Rng;

use crate::archive::{World, assert_equal, click, seeded, states};
use crate::cluster::{Cluster, soon};

const CLICKS: &str =
    "CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'user', event_time = 'ts', partitions = 3);";

/// Tiles, floats, sketches, sets, aggregates that depend on order, HAVING, no GROUP BY, and groups that are null.
const VIEWS: &str = "
CREATE MATERIALIZED VIEW page_views WITH (key = 'url') AS
SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS views, approx_distinct(user) AS visitors,
       sum(bytes) / count(*) AS mean_bytes
FROM clicks WHERE status < 400 GROUP BY url, minute;
CREATE MATERIALIZED VIEW users AS
SELECT user, count(*) FILTER (WHERE status >= 400) AS errors, min(ts) AS first, max(bytes) AS most, avg(latency) AS mean,
       stddev(latency) AS spread, count(DISTINCT url) AS urls
FROM clicks GROUP BY user HAVING count(*) > 20;
CREATE MATERIALIZED VIEW pages AS
SELECT url, status, array_agg(bytes ORDER BY ts) AS sizes, first_value(user ORDER BY ts) AS first_user,
       string_agg(user, ',') AS users, sum(bytes) AS bytes
FROM clicks GROUP BY url, status;
CREATE MATERIALIZED VIEW places AS
SELECT _partition, latency, max(_offset) AS last, array_agg(DISTINCT url) AS urls FROM clicks GROUP BY _partition, latency;
CREATE MATERIALIZED VIEW medians AS SELECT status, median(bytes) AS median FROM clicks GROUP BY status;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS views, sum(bytes) AS bytes, max(url) AS last FROM clicks;
CREATE MATERIALIZED VIEW nothing AS SELECT count(*) AS views FROM clicks WHERE bytes < 0;
";

fn counts(read: &ReadCounters) -> [u64; 3] {
    [&read.records, &read.rejected, &read.bytes].map(|count| count.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_every_kind_of_view() {
    let mut chance = seeded("for_every_kind_of_view");
    let deduped = CLICKS.replace("event_time", "event_id = 'id', dedupe_window = '100 seconds', event_time");
    for source in [CLICKS, &deduped] {
        let world = World::new(&format!("{source}{VIEWS}")).await;
        for _ in 0..12 {
            let (partition, records) = (chance.random_range(0..3), chance.random_range(1..300));
            world.seal(partition, records, &mut |_| click(&mut chance)).await;
        }
        let cluster = Cluster::start(&world, 3, "64MiB");
        let engine = world.ballista(world.cluster_settings(&cluster.scheduler.address, 5));
        for view in &world.application.views {
            let job = world.job(view).await;
            let (ours, ours_read) = states(&world.local(), &job).await;
            let (theirs, theirs_read) = soon(states(&engine, &job)).await;
            assert_equal(view, &ours, &theirs);
            assert_eq!(counts(&ours_read), counts(&theirs_read), "{}", view.name);
            assert_eq!(*ours_read.clean.lock(), *theirs_read.clean.lock());
            assert!(ours_read.records.load(Ordering::Relaxed) > 0);
        }
    }
}

/// Before anything is archived there is nothing to hand out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_an_empty_archive() {
    let world = World::new(&format!("{CLICKS}{VIEWS}")).await;
    let cluster = Cluster::start(&world, 1, "64MiB");
    let engine = world.ballista(world.cluster_settings(&cluster.scheduler.address, 5));
    for view in &world.application.views {
        let job = world.job(view).await;
        assert_equal(view, &states(&world.local(), &job).await.0, &soon(states(&engine, &job)).await.0);
    }
}

/// An executor has less memory than a view has groups.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_executors_spill() {
    let mut chance = seeded("when_executors_spill");
    let view = "CREATE MATERIALIZED VIEW visits AS
        SELECT user, bytes, count(*) AS visits, min(url) AS first, array_agg(status ORDER BY ts) AS statuses
        FROM clicks GROUP BY user, bytes;";
    let world = World::new(&format!("{CLICKS}{view}")).await;
    for partition in 0..3 {
        for _ in 0..2 {
            world.seal(partition, 6000, &mut |_| click(&mut chance)).await;
        }
    }
    let cluster = Cluster::start(&world, 2, "6MiB");
    let engine = world.ballista(world.cluster_settings(&cluster.scheduler.address, 2));
    let job = world.job(world.view("visits")).await;
    let (ours, _) = states(&world.local(), &job).await;
    let (theirs, read) = soon(states(&engine, &job)).await;
    assert!(ours.num_rows() > 20_000, "{}", ours.num_rows());
    assert!(read.spilled.load(Ordering::Relaxed) > 1 << 20, "{read:?}");
    assert_equal(&job.view, &ours, &theirs);
}
