//! Processes of the cluster die, and the states are right.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use batch_layer::{BatchEngine, ReadCounters, ViewJob};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use rand::Rng;

use crate::archive::{World, assert_equal, click, seeded, states};
use crate::cluster::{Cluster, soon, until};

const CLICKS: &str = "CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 4);";

const VISITS: &str = "
CREATE MATERIALIZED VIEW visits AS
SELECT user, bytes, count(*) AS visits, sum(status) AS statuses, min(url) AS first, array_agg(ts ORDER BY ts) AS times
FROM clicks GROUP BY user, bytes;
";

/// Enough events for a job of many tasks that takes seconds.
async fn world(test: &str) -> (World, ViewJob) {
    let mut chance = seeded(test);
    let world = World::new(&format!("{CLICKS}{VISITS}")).await;
    for partition in 0..4 {
        for _ in 0..6 {
            world.seal(partition, 1500, &mut |_| click(&mut chance)).await;
        }
    }
    let job = world.job(world.view("visits")).await;
    (world, job)
}

/// Kills one of three executors when it has written some output of a stage and the job is not done.
async fn kill_in_stage(test: &str, stage: usize) {
    let (world, job) = world(test).await;
    let (ours, ours_read) = states(&world.local(), &job).await;
    let mut cluster = Cluster::start(&world, 3, "64MiB");
    let engine = Arc::new(world.ballista(world.cluster_settings(&cluster.scheduler.address, 24)));
    let asked = job.clone();
    let running = tokio::spawn(async move { states(engine.as_ref(), &asked).await });
    let victim = &mut cluster.executors[0];
    until("the first executor has done a task", || victim.outputs(stage) >= 2).await;
    assert!(!running.is_finished(), "the job is done already");
    victim.kill();
    let (theirs, theirs_read) = soon(running).await.expect("states");
    assert_equal(&job.view, &ours, &theirs);
    let records = |read: &ReadCounters| read.records.load(Ordering::Relaxed);
    assert_eq!(records(&ours_read), records(&theirs_read), "each record counts once, however often it was read");
    // The two that are left go on.
    let engine = world.ballista(world.cluster_settings(&cluster.scheduler.address, 5));
    assert_equal(&job.view, &ours, &soon(states(&engine, &job)).await.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_executors_while_segments_are_read() {
    kill_in_stage("one_of_three_executors_while_segments_are_read", 1).await;
}

/// With states that others have yet to fetch from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_executors_while_states_are_merged() {
    kill_in_stage("one_of_three_executors_while_states_are_merged", 2).await;
}

/// What this thread logs until it is dropped.
fn heard() -> (Heard, tracing::subscriber::DefaultGuard) {
    let heard = Heard::default();
    let writer = heard.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (heard, tracing::subscriber::set_default(subscriber))
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn times(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock()).matches(text).count()
    }
}

impl std::io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Ballista is done by then: the job is done again, and goes on behind the last group that was handed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_whose_result_is_being_read() {
    let mut chance = seeded("an_executor_whose_result_is_being_read");
    let view = "CREATE MATERIALIZED VIEW last AS SELECT user, bytes, max(url) AS url FROM clicks GROUP BY user, bytes;";
    let world = World::new(&format!("{CLICKS}{view}")).await;
    for partition in 0..4 {
        // Too much for all that lies between two processes, and nothing that could be compressed.
        world
            .seal(partition, 2500, &mut |_| {
                let url: String = (0..128).map(|_| format!("{:032x}", chance.random::<u128>())).collect();
                click(&mut chance).replace("\"url\": \"/", &format!("\"url\": \"/{url}"))
            })
            .await;
    }
    let job = world.job(world.view("last")).await;
    let (ours, ours_read) = states(&world.local(), &job).await;
    let mut cluster = Cluster::start(&world, 3, "64MiB");
    let engine = world.ballista(world.cluster_settings(&cluster.scheduler.address, 3));
    let (heard, _guard) = heard();
    let read = Arc::<ReadCounters>::default();
    let mut stream = engine.states(&job, &read).await.expect("states");
    let first = soon(stream.next()).await.expect("some").expect("states");
    assert!(first.num_rows() < ours.num_rows() / 2, "there is much to come");
    cluster.executors.iter_mut().take(2).for_each(|victim| victim.kill());
    let rest: Vec<RecordBatch> = soon(stream.try_collect()).await.expect("the rest");
    assert_eq!(heard.times("the job is lost: once more"), 1);
    let theirs = concat_batches(&job.view.state_schema, [&first].into_iter().chain(&rest)).expect("states");
    assert_equal(&job.view, &ours, &theirs);
    assert_eq!(ours_read.records.load(Ordering::Relaxed), read.records.load(Ordering::Relaxed));
}

/// With it goes the job. When it is back, the executors find it, and the job is done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheduler() {
    let (world, job) = world("the_scheduler").await;
    let (ours, _) = states(&world.local(), &job).await;
    let mut cluster = Cluster::start(&world, 2, "64MiB");
    let address = cluster.scheduler.address.clone();
    let engine = Arc::new(world.ballista(world.cluster_settings(&address, 24)));
    let (asked, used) = (job.clone(), engine.clone());
    let running = tokio::spawn(async move { states(used.as_ref(), &asked).await.0 });
    until("an executor has done a task", || cluster.executors[0].outputs(1) >= 2).await;
    cluster.scheduler.kill();
    cluster.scheduler = crate::cluster::scheduler(&world, &address);
    assert_equal(&job.view, &ours, &soon(running).await.expect("states"));

    // And when it does not come back, the run ends in one line within seconds.
    let running = tokio::spawn(async move {
        let stream = engine.states(&job, &Arc::default()).await.expect("states");
        stream.try_collect::<Vec<_>>().await.expect_err("no scheduler").to_string()
    });
    until("an executor works", || cluster.executors.iter().any(|executor| executor.outputs(1) > 0)).await;
    cluster.scheduler.kill();
    let error = soon(running).await.expect("an error");
    assert!(error.starts_with(&format!("batch.scheduler = \"{address}\"")) && !error.contains('\n'), "{error}");
}
