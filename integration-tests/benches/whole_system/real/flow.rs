//! The speed layer from a Kafka topic to CQL: few keys against a bare consumer of the topic, many keys against a bare loop of
//! prepared writes. The layer runs in this process, with the parts and the settings of `tidemark speed`; each turn has an empty
//! keyspace, whose tables are there when its time begins.

use std::sync::Arc;

use integration_tests::servers::Servers;
use speed_layer::{OnlyCounted, Owned, SpeedLayer, SpeedParts, SpeedSettings};
use tempfile::TempDir;
use tidemark::backends::Backends;
use view_store::{DeltaWrite, Progress, ViewDeltas};
use views::{Offset, View};

use super::consumer::consume;
use super::corner::{Corner, application};
use super::writes;
use crate::clicks::Clickstream;
use crate::measure::{Busy, Seconds, Stopwatch, median, median_ratio, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// Measures it.
pub async fn measure(servers: &Servers, scale: &Scale, table: &mut Table) {
    let corner = Corner::new(servers, "flow");
    let clicks = corner.clickstream(&application()).await;
    eprintln!("flow: {} generated clicks into Kafka", short(scale.speed_events as f64));
    let filled = clicks.fill(scale.speed_events).await;
    few_keys(&corner, &clicks, filled.events, scale, table).await;
    many_keys(servers, scale, table).await;
}

async fn few_keys(corner: &Corner, clicks: &Clickstream, events: u64, scale: &Scale, table: &mut Table) {
    let busy = Busy::since_now();
    let brokers = corner.settings().log.brokers;
    let (mut ours, mut plain, mut pages) = (Vec::new(), Vec::new(), Vec::new());
    let rate = |took: Seconds| events as f64 / took.clock;
    for _ in 0..scale.turns {
        ours.push(rate(fold(corner, clicks, &clicks.view("answers")).await));
        let (brokers, topic) = (brokers.clone(), corner.topic());
        let bare = tokio::task::spawn_blocking(move || consume(&brokers, &topic, &[0; 4], events));
        plain.push(rate(bare.await.expect("consumed")));
        pages.push(rate(fold(corner, clicks, &clicks.view("pages")).await));
    }
    let reference = format!("rdkafka consumer {} events/s", short(median(&plain)));
    table.add(Measured {
        what: "speed layer, Kafka to CQL, few keys (status)",
        measured: format!("{} events/s", short(median(&ours))),
        reference: reference.clone(),
        figure: (median_ratio(&ours, &plain), ""),
        target: Target::AtLeast(0.5),
    });
    table.add(Measured {
        what: "speed layer, Kafka to CQL, a key per page",
        measured: format!("{} events/s", short(median(&pages))),
        reference,
        figure: (median_ratio(&pages, &plain), ""),
        target: Target::None,
    });
    table.note(format!("flow: {} events of {} partitions, {}", short(events as f64), 4, busy.remark()));
}

async fn many_keys(servers: &Servers, scale: &Scale, table: &mut Table) {
    let corner = Corner::new(servers, "many");
    let clicks = corner.clickstream(&application()).await;
    let filled = clicks.fill(scale.write_rows).await;
    let busy = Busy::since_now();
    let rate = |took: Seconds| filled.events as f64 / took.clock;
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..scale.turns {
        ours.push(rate(fold(&corner, &clicks, &clicks.view("requests")).await));
        let settings = corner.with_empty_store();
        let rows = usize::try_from(filled.events).expect("a count");
        plain.push(rate(writes::write(&settings, rows, settings.store.in_flight).await));
        Servers::forget(&settings).await;
    }
    table.add(Measured {
        what: "speed layer, Kafka to CQL, a key per event",
        measured: format!("{} rows/s", short(median(&ours))),
        reference: format!("prepared writes {} rows/s", short(median(&plain))),
        figure: (median_ratio(&ours, &plain), ""),
        target: Target::AtLeast(0.5),
    });
    table.note(format!("flow, a key per event: {} rows, {}", short(filled.events as f64), busy.remark()));
}

/// What it takes from the start of a speed layer until every event is in the deltas of one view in an empty keyspace.
pub async fn fold(corner: &Corner, clicks: &Clickstream, view: &Arc<View>) -> Seconds {
    let folder = TempDir::new().expect("a temporary folder");
    let settings = corner.with_empty_store();
    let backends = Backends::open(&settings).await.unwrap_or_else(|failure| panic!("{}", failure.message));
    let mut ends: Vec<Offset> = Vec::new();
    for kept in backends.log.bounds("clicks").await.expect("bounds") {
        ends.push(kept.end);
    }
    for partition in clicks.partitions() {
        let nothing = DeltaWrite {
            partition,
            from: 0,
            to: Progress::START,
            views: vec![ViewDeltas { view: view.clone(), segments: Vec::new() }],
        };
        backends.store.write_deltas(nothing).await.expect("the tables are made");
    }
    let speed = SpeedSettings { memory: 256 << 20, ..SpeedSettings::default() };
    let watch = Stopwatch::start();
    let parts = SpeedParts {
        log: backends.log.clone(),
        registry: backends.registry.clone(),
        store: backends.store.clone(),
        rejected: Arc::new(OnlyCounted),
        dedupe_dir: folder.path().join("dedupe"),
        owned: Owned::all(),
    };
    let layer = SpeedLayer::start(parts, vec![view.clone()], speed).expect("a speed layer");
    let mut written = layer.written();
    let is_done = || {
        let status = layer.status();
        status.len() == ends.len()
            && status.iter().zip(&ends).all(|(partition, end)| {
                partition.views.len() == 1 && partition.views.values().all(|view| view.position >= *end)
            })
    };
    while !is_done() {
        written.changed().await.expect("the speed layer runs");
    }
    let took = watch.stop();
    layer.shutdown().await;
    drop(backends);
    Servers::forget(&settings).await;
    took
}
