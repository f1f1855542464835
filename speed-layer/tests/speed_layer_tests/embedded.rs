//! The same on the embedded log and the embedded store, on disk, behind the fault wrappers that come with the ports.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_log::{Content, EmbeddedLog, EmbeddedOptions, EventLog, FaultyLog, LogFaults, ReadLimit, Record, TopicSpec};
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use speed_layer::{OnlyCounted, Owned, SpeedLayer, SpeedParts};
use tempfile::TempDir;
use view_store::{EmbeddedStore, FaultRates, FaultyStore, KeyRange, Origin, ViewStore};
use views::{Application, Offset, TopicPartition, View};

use crate::memory_log::OneSchema;
use crate::oracle::{Event, Rows, SCHEMA, Shape, deltas};
use crate::world::{Topic, application, quick, values};

const SEGMENT_RECORDS: u64 = 64;

async fn append_some(log: &EmbeddedLog, random: &mut StdRng) {
    for number in 0..2 {
        let records = (0..random.random_range(0..150)).map(|_| match random.random_range(0..50) {
            0 => Content::Marker(random.random_range(1..9)),
            _ => Event::new(&format!("user {}", random.random_range(0..9)), random.random_range(-50..50)).record(),
        });
        log.append(&TopicPartition::new("clicks", number), records.collect()).await.expect("an append");
    }
}

async fn records(log: &EmbeddedLog, partition: &TopicPartition) -> Vec<Record> {
    log.read(partition, 0, ReadLimit::records(1 << 20)).await.expect("a read")
}

/// Waits until the store has everything, asking again whenever a view may have moved.
async fn settle(layer: &SpeedLayer, log: &EmbeddedLog, store: &dyn ViewStore, application: &Application) {
    let mut written = layer.written();
    let ends = log.bounds("clicks").await.expect("bounds");
    for (number, end) in (0..).zip(ends) {
        let partition = TopicPartition::new("clicks", number);
        for name in ["totals", "evens"] {
            let view = application.view(name).expect("a view");
            while store.progress(view, &partition).await.expect("progress").offset < end.end {
                written.changed().await.expect("the layer runs");
            }
        }
    }
}

async fn found(store: &dyn ViewStore, view: &Arc<View>, partition: &TopicPartition) -> BTreeMap<Offset, Rows> {
    let mut read = store.read(view, &KeyRange::default()).await.expect("a read");
    let mut rows: BTreeMap<Offset, Vec<_>> = BTreeMap::new();
    while let Some(chunk) = read.rows.next().await {
        let chunk = chunk.expect("rows");
        for (row, origin) in chunk.origins.iter().enumerate() {
            match origin {
                Origin::Speed { segment, .. } if segment.partition == *partition => {
                    rows.entry(segment.start).or_default().push(chunk.states.slice(row, 1));
                }
                Origin::Speed { .. } => {}
                Origin::Batch => panic!("there is no generation"),
            }
        }
    }
    rows.into_iter().map(|(start, states)| (start, values(view, &states))).collect()
}

#[tokio::test]
async fn exact_on_disk_with_faults_and_restarts() {
    let (mut store_faults, mut log_faults) = (0, 0);
    for seed in 900..908 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let folder = TempDir::new().expect("a folder");
        let options = EmbeddedOptions { fsync: false, file_bytes: 8 << 10, ..EmbeddedOptions::default() };
        let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), options).expect("a log"));
        let topic = TopicSpec { name: "clicks".into(), partitions: 2, segment_records: SEGMENT_RECORDS };
        log.create_topic(&topic).await.expect("a topic");
        let application = application(&Topic { partitions: 2, segment_records: SEGMENT_RECORDS, window: None });
        let views: Vec<_> = ["totals", "evens"].iter().filter_map(|name| application.view(name).cloned()).collect();

        for round in 0..3 {
            append_some(&log, &mut random).await;
            let store = EmbeddedStore::open(&folder.path().join("store"), view_store::EmbeddedOptions::default());
            let store: Arc<dyn ViewStore> = Arc::new(store.expect("a store"));
            let faulty_log = Arc::new(FaultyLog::new(log.clone(), seed + round, LogFaults::SOME));
            let faulty_store = Arc::new(FaultyStore::new(store.clone(), seed + round, FaultRates::one_in(20)));
            let start = |name: &str| {
                let parts = SpeedParts {
                    log: faulty_log.clone(),
                    registry: Arc::new(OneSchema(SCHEMA.into())),
                    store: faulty_store.clone(),
                    rejected: Arc::new(OnlyCounted),
                    dedupe_dir: folder.path().join(name),
                    owned: Owned::all(),
                };
                SpeedLayer::start(parts, views.clone(), quick())
            };
            let (one, two) = (start("one").expect("a start"), start("two").expect("a start"));
            append_some(&log, &mut random).await;
            if round == 2 {
                settle(&one, &log, &*store, &application).await;
            }
            one.shutdown().await;
            two.shutdown().await;
            store_faults += faulty_store.faults();
            log_faults += faulty_log.injected();

            for partition in [0, 1].map(|number| TopicPartition::new("clicks", number)) {
                let records = records(&log, &partition).await;
                for (view, shape) in views.iter().zip([Shape::Totals, Shape::Evens]) {
                    let reached = store.progress(view, &partition).await.expect("progress").offset;
                    let expected = deltas(shape, &records[..reached as usize], SEGMENT_RECORDS, None);
                    let expected: BTreeMap<_, _> =
                        expected.into_iter().map(|((start, _), rows)| (start, rows)).collect();
                    assert_eq!(found(&*store, view, &partition).await, expected, "{} in {partition}", view.name);
                }
            }
        }
    }
    assert!(
        store_faults > 0 && log_faults > 0,
        "no faults, no proof: {store_faults} of the store, {log_faults} of the log"
    );
}
