//! Count and sum per page from the same Avro topic, by the speed layer (to CQL), by Kafka Streams (to its RocksDB store) and by
//! Flink (to nowhere): events per second of processor time of the process that does it. The servers' time is not counted.
//!
//! The programs of the other two are in `benches/against/`; `against install` builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration_tests::servers::Servers;
use serde_json::Value;

use super::corner::{Corner, application};
use super::flow::fold;
use crate::measure::{Busy, Seconds, median, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// Measures it.
pub async fn measure(servers: &Servers, scale: &Scale, table: &mut Table) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/against");
    let install = Command::new(here.join("against")).arg("install").status();
    assert!(install.is_ok_and(|status| status.success()), "the other systems cannot be had");
    let corner = Corner::new(servers, "others");
    let clicks = corner.clickstream(&application()).await;
    eprintln!("others: {} generated clicks into Kafka", short(scale.others_events as f64));
    let events = clicks.fill(scale.others_events).await.events;
    let busy = Busy::since_now();
    let mut ours = Vec::new();
    for _ in 0..scale.turns.min(3) {
        ours.push(fold(&corner, &clicks, &clicks.view("pages")).await);
    }
    let ours: Vec<f64> = ours.iter().map(|took: &Seconds| events as f64 / took.processor).collect();
    for (name, program, target) in
        [("Kafka Streams", "streams", Target::None), ("Flink", "flink", Target::AtLeast(10.0))]
    {
        eprintln!("others: {name}");
        let theirs = run(&here.join("against"), program, &corner, events).await;
        let rate = events as f64 / theirs["cpu_seconds"].as_f64().expect("seconds");
        let whole = events as f64 / theirs["cpu_seconds_whole"].as_f64().expect("seconds");
        table.add(Measured {
            what: &format!("count and sum per page, against {name}"),
            measured: format!("{} events/CPU-s", short(median(&ours))),
            reference: format!("{name} {} events/CPU-s, {} with its start", short(rate), short(whole)),
            figure: (median(&ours) / rate, "times"),
            target,
        });
        table.note(format!(
            "{name}: {} events in {:.1} s",
            short(events as f64),
            theirs["seconds"].as_f64().unwrap_or(0.0)
        ));
    }
    table.note(format!("others: {}", busy.remark()));
}

/// What a program says of itself, when it has counted what there is to count.
async fn run(against: &Path, program: &str, corner: &Corner, events: u64) -> Value {
    let schema: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/clickstream/page_event.avsc");
    let mut command = Command::new(against);
    command.arg(program).arg(corner.settings().log.brokers).arg(corner.topic()).arg(schema).arg(events.to_string());
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it runs");
    assert!(output.status.success(), "{program}: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{program} said {line}: {error}"));
    assert_eq!(said["events"], events, "{program} counts every event: {said}");
    said
}
