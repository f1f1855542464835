//! Whole batch runs: what they publish and report does not depend on the engine.

use std::sync::Arc;
use std::time::Duration;

use batch_layer::{BatchLayer, NoProgress, Outcome, PolledArchive};
use event_log::archiver::{Archiver, ArchiverOptions};
use event_log::encode::EventEncoder;
use event_log::tiered::TieredLog;
use event_log::{Content, EmbeddedLog, EmbeddedOptions, EventLog, TopicSpec};
use futures::TryStreamExt;
use view_store::{EmbeddedOptions as StoreOptions, EmbeddedStore, KeyRange, ViewStore};
use views::TopicPartition;

use crate::archive::{World, click, seeded};
use crate::cluster::{Cluster, soon};

const SQL: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 2, segment_records = 16);
CREATE MATERIALIZED VIEW pages AS SELECT url, count(*) AS views, sum(bytes) AS bytes FROM clicks GROUP BY url;
CREATE MATERIALIZED VIEW ratios AS SELECT url, sum(1000 / bytes) AS ratio FROM clicks GROUP BY url;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS views FROM clicks;
";

/// A view that fails on an event is left out, by the same words; what cannot be decoded goes to the dead letters, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_view_that_fails_and_events_that_are_none() {
    let mut chance = seeded("with_a_view_that_fails_and_events_that_are_none");
    let world = World::new(SQL).await;
    let source = world.application.sources[0].clone();
    let cluster = Cluster::start(&world, 2, "64MiB");
    let log = EmbeddedLog::open(world.directory.path().join("log"), EmbeddedOptions::default()).expect("a log");
    let log: Arc<dyn EventLog> = Arc::new(TieredLog::new(Arc::new(log), world.archive.clone()));
    let topic = TopicSpec { name: source.name.to_string(), partitions: 2, segment_records: 16 };
    log.create_topic(&topic).await.expect("a topic");
    log.create_topic(&event_log::dead_letter::topic_of(&source.name)).await.expect("a topic");
    let (archive, registry) = (world.archive.clone(), world.registry.clone());
    let archiver =
        Archiver::start(log.clone(), archive.clone(), registry.clone(), vec![topic], ArchiverOptions::default());

    let schema_id = registry.register("clicks-value", &source.avro).await.expect("a schema");
    let encoder = EventEncoder::new(&source, schema_id).expect("an encoder");
    for number in 0..200 {
        let event = click(&mut chance).replace("\"bytes\": 0,", "\"bytes\": 1,");
        let event = if number == 90 { event.replace("\"bytes\": ", "\"bytes\": 0, \"was\": ") } else { event };
        // The schema has no field `was`: made without it.
        let event = match event.split_once(", \"was\"") {
            Some((before, after)) => format!("{before}{}", &after[after.find(", \"latency\"").expect("a field")..]),
            None => event,
        };
        let value = encoder.json(event.as_bytes()).expect("a good event").value;
        let value = if number % 50 == 7 { value.slice(..value.len() - 1) } else { value };
        let partition = TopicPartition::new(source.name.clone(), number % 2);
        log.append(&partition, vec![Content::Event { key: None, value }]).await.expect("appended");
    }

    let mut reports = Vec::new();
    let mut answers = Vec::new();
    for engine in [None, Some(world.ballista(world.cluster_settings(&cluster.scheduler.address, 4)))] {
        let name = if engine.is_some() { "ballista" } else { "local" };
        let store = EmbeddedStore::open(&world.directory.path().join(name), StoreOptions::default()).expect("a store");
        let store: Arc<dyn ViewStore> = Arc::new(store);
        let layer = BatchLayer::new(
            log.clone(),
            archive.clone(),
            registry.clone(),
            store.clone(),
            world.application.views.clone(),
            Arc::new(PolledArchive::new(archive.clone(), Duration::from_millis(20))),
            batch_layer::Settings {
                spill_dir: world.directory.path().join(format!("spill-{name}")),
                ..world.settings()
            },
        );
        let mut layer = layer.expect("a batch layer");
        if let Some(engine) = engine {
            layer = layer.with_engine(Arc::new(engine));
        }
        let report = soon(layer.run(true, &NoProgress)).await.expect("a run");
        assert_eq!(report.outcome, Outcome::Published, "{name}");
        let failed = report.views["ratios"].error.clone().expect("it fails");
        assert!(failed.starts_with("clicks/0 at offset 45: "), "{name}: {failed}");
        let mut rows = Vec::new();
        for view in [world.view("pages"), world.view("totals")] {
            let read = store.read(view, &KeyRange::default()).await.expect("a read");
            let chunks: Vec<_> = read.rows.try_collect().await.expect("rows");
            rows.extend(chunks.into_iter().map(|chunk| chunk.states));
        }
        answers.push(rows);
        reports.push((report.views, report.records_rejected, report.dead_letters));
    }
    let [(ours, rejected, put), (theirs, rejected_again, put_again)] = &reports[..] else { panic!("two reports") };
    assert_eq!(ours, theirs);
    // The second run finds them there.
    assert_eq!((*put, *put_again), (4, 0));
    assert!(*rejected >= 8 && *rejected_again >= 8, "{rejected} {rejected_again}");
    assert_eq!(answers[0], answers[1]);
    archiver.stop().await;
}
