//! What cannot be, is said in one line.

use std::time::{Duration, Instant};

use batch_layer::{BatchEngine, Failure, ViewJob};
use futures::TryStreamExt;

use crate::archive::{World, click, files, seeded};
use crate::cluster::{Cluster, soon};

const SQL: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 2);
CREATE MATERIALIZED VIEW pages AS SELECT url, count(*) AS views FROM clicks WHERE status < 400 GROUP BY url;
";

async fn error(engine: &dyn BatchEngine, job: &ViewJob) -> String {
    let outcome = match engine.states(job, &Default::default()).await {
        Ok(states) => states.try_collect::<Vec<_>>().await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Err(Failure::Engine(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_of_another_version() {
    let mut chance = seeded("an_executor_of_another_version");
    let world = World::new(SQL).await;
    world.seal(0, 10, &mut |_| click(&mut chance)).await;
    let cluster = Cluster::start(&world, 1, "64MiB");
    let (executor, job) = (cluster.executors[0].address.clone(), world.job(world.view("pages")).await);
    let ours = world.view("pages").fingerprint.to_string();

    // It comes to another fingerprint over the files than the batch layer did.
    let mut settings = world.cluster_settings(&cluster.scheduler.address, 2);
    settings.application = files(&SQL.replace("< 400", "< 500"));
    let found = soon(error(&world.ballista(settings), &job)).await;
    assert!(found.contains(&format!("executor {executor} is of another version")), "{found}");
    assert!(found.contains("view pages") && found.contains(&ours), "{found}");

    // It does not understand the files at all.
    let mut settings = world.cluster_settings(&cluster.scheduler.address, 2);
    settings.application = files(&SQL.replace("count(*)", "a_function_to_come(url)"));
    let found = soon(error(&world.ballista(settings), &job)).await;
    assert!(found.contains(&format!("executor {executor} cannot compile view pages")), "{found}");

    // It reads another archive.
    let mut settings = world.cluster_settings(&cluster.scheduler.address, 2);
    settings.archive_url = "file:///somewhere/else".to_owned();
    let found = soon(error(&world.ballista(settings), &job)).await;
    assert!(found.contains(&executor) && found.contains("\"file:///somewhere/else\""), "{found}");
    assert!(!found.contains('\n'), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_is_not_there() {
    let world = World::new(SQL).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let begun = Instant::now();
    for (scheduler, why) in [(free.to_string(), "no scheduler answers"), ("nowhere:port".to_owned(), "not host:port")] {
        let engine = world.ballista(world.cluster_settings(&scheduler, 2));
        let expected = format!("batch.scheduler = \"{scheduler}\": {why}");
        let checked = engine.check().await.expect_err("it is not there");
        assert!(checked.starts_with(&expected), "{checked}");
        let found = soon(error(&engine, &world.job(world.view("pages")).await)).await;
        assert!(found.starts_with(&expected) && !found.contains('\n'), "{found}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
