//! Processes of the cluster die, and the states are right.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use batch_layer::{BatchEngine, ReadCounters, ViewJob};
use futures::{StreamExt, TryStreamExt};

use crate::archive::{World, assert_equal, click, seeded, states};
use crate::cluster::{Cluster, soon, until};

const SQL: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 4);
CREATE MATERIALIZED VIEW visits AS
SELECT user, bytes, count(*) AS visits, sum(status) AS statuses, min(url) AS first, array_agg(ts ORDER BY ts) AS times
FROM clicks GROUP BY user, bytes;
";

/// Enough events for a job of many tasks that takes seconds.
async fn world(test: &str) -> (World, ViewJob) {
    let mut chance = seeded(test);
    let world = World::new(SQL).await;
    for partition in 0..4 {
        for _ in 0..6 {
            world.seal(partition, 1500, &mut |_| click(&mut chance)).await;
        }
    }
    let job = world.job(world.view("visits")).await;
    (world, job)
}

/// With what it had computed for others already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_executors_in_the_middle_of_a_job() {
    let (world, job) = world("one_of_three_executors_in_the_middle_of_a_job").await;
    let (ours, ours_read) = states(&world.local(), &job).await;
    let mut cluster = Cluster::start(&world, 3, "64MiB");
    let engine = world.ballista(world.cluster_settings(&cluster.scheduler.address, 24));
    let (engine, asked) = (Arc::new(engine), job.clone());
    let running = tokio::spawn(async move { states(engine.as_ref(), &asked).await });
    let victim = &mut cluster.executors[0];
    until("the first executor has done a task", || victim.has_output()).await;
    assert!(!running.is_finished(), "it is done already");
    victim.kill();
    let (theirs, theirs_read) = soon(running).await.expect("states");
    assert_equal(&job.view, &ours, &theirs);
    let records = |read: &ReadCounters| read.records.load(Ordering::Relaxed);
    assert_eq!(records(&ours_read), records(&theirs_read), "each record counts once, however often it was read");
    // The two that are left go on.
    let engine = world.ballista(world.cluster_settings(&cluster.scheduler.address, 5));
    assert_equal(&job.view, &ours, &soon(states(&engine, &job)).await.0);
}

/// Ballista is done by then: the job is done again, and goes on behind the last group that was handed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_whose_result_is_being_read() {
    let (world, job) = world("an_executor_whose_result_is_being_read").await;
    let (ours, ours_read) = states(&world.local(), &job).await;
    let mut cluster = Cluster::start(&world, 3, "64MiB");
    let engine = world.ballista(world.cluster_settings(&cluster.scheduler.address, 3));
    let read = Arc::<ReadCounters>::default();
    let mut stream = engine.states(&job, &read).await.expect("states");
    let first = soon(stream.next()).await.expect("some").expect("states");
    cluster.executors.iter_mut().take(2).for_each(|victim| victim.kill());
    let rest: Vec<RecordBatch> = soon(stream.try_collect()).await.expect("the rest");
    let theirs = concat_batches(&job.view.state_schema, [&first].into_iter().chain(&rest)).expect("states");
    assert_equal(&job.view, &ours, &theirs);
    assert_eq!(ours_read.records.load(Ordering::Relaxed), read.records.load(Ordering::Relaxed));
}

/// Nobody else knows of the job: it is gone, and the run ends in one line within seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheduler() {
    let (world, job) = world("the_scheduler").await;
    let mut cluster = Cluster::start(&world, 1, "64MiB");
    let address = cluster.scheduler.address.clone();
    let engine = Arc::new(world.ballista(world.cluster_settings(&address, 24)));
    let running = tokio::spawn(async move {
        let stream = engine.states(&job, &Arc::default()).await.expect("states");
        stream.try_collect::<Vec<_>>().await.expect_err("no scheduler").to_string()
    });
    until("the executor has done a task", || cluster.executors[0].has_output()).await;
    cluster.scheduler.kill();
    let error = soon(running).await.expect("an error");
    assert!(error.contains(&address) && !error.contains('\n'), "{error}");
}
