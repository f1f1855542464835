//! Bytes of the clicks in Kafka's own log directory, with the producer settings that are shipped, against the same events as
//! JSON lines. They come in over HTTP, through a real `tidemark serve`: at full load, many events a request from a few connections;
//! and at a thousand a second, one event a request.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use integration_tests::servers::Servers;
use tidemark::application::clickstream;
use tidemark::generator::{Clicks, Traffic};
use tokio::task::JoinSet;

use super::corner::Corner;
use crate::http::{Connection, address, post_clicks};
use crate::measure::{millis, percentile, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// What `linger.ms` is tried beside the one that is shipped.
const LINGERS: [&str; 3] = ["", "1", "20"];

/// Measures it.
pub async fn measure(servers: &Servers, scale: &Scale, table: &mut Table) {
    for linger in LINGERS {
        let more = if linger.is_empty() { String::new() } else { format!("[log.kafka]\n\"linger.ms\" = {linger}\n") };
        let named = if linger.is_empty() { "as shipped".to_owned() } else { format!("linger.ms = {linger}") };
        let target = if linger.is_empty() { Target::AtLeast(0.82) } else { Target::None };
        let full = Load { producers: 4, events: scale.disk_events, of_request: 1000, rate: None };
        one(servers, &more, &format!("topic on disk at full load, {named}"), full, target, table).await;
        let seconds = scale.freshness.as_secs();
        let slow = Load { producers: 32, events: 1000 * seconds, of_request: 1, rate: Some(1000.0) };
        one(servers, &more, &format!("topic on disk at 1,000 events/s, {named}"), slow, Target::None, table).await;
    }
}

#[derive(Clone, Copy)]
struct Load {
    producers: usize,
    events: u64,
    of_request: u64,
    /// Events per second of all producers; `None`: as fast as they are taken.
    rate: Option<f64>,
}

async fn one(servers: &Servers, more: &str, what: &str, load: Load, target: Target, table: &mut Table) {
    let corner = Corner::new(servers, "disk");
    let process = corner.start("serve", &clickstream(), more);
    let at = address(&process.url);
    let started = Instant::now();
    let mut producers = JoinSet::new();
    for number in 0..load.producers {
        producers.spawn(produce(at, number, load));
    }
    let (mut json_bytes, mut took) = (0, Vec::new());
    for (bytes, acknowledged) in producers.join_all().await {
        json_bytes += bytes;
        took.extend(acknowledged);
    }
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful");
    let bytes = log_bytes(&servers.kafka_data(), &corner.topic());
    let settings = corner.settings();
    Servers::forget(&settings).await;
    let per_event = |bytes: u64| bytes as f64 / load.events as f64;
    table.add(Measured {
        what,
        measured: format!("{:.0} bytes/event, {} events/s", per_event(bytes), short(load.events as f64 / seconds)),
        reference: format!("JSON {:.0} bytes/event", per_event(json_bytes)),
        figure: (1.0 - bytes as f64 / json_bytes as f64, "less"),
        target,
    });
    let (p50, p99) = (percentile(&took, 0.5), percentile(&took, 0.99));
    table.note(format!("{what}: acknowledged after p50 {p50:.1} ms, p99 {p99:.1} ms"));
}

/// One producer's events: their bytes as JSON lines, and the milliseconds after which each request was answered.
async fn produce(at: SocketAddr, number: usize, load: Load) -> (u64, Vec<f64>) {
    let mut connection = Connection::open(at).await;
    let mut clicks = Clicks::with(Traffic { seed: number as u64 + 1, broken_ppm: 0, ..Traffic::default() });
    let requests = load.events / load.of_request / load.producers as u64;
    let (mut json_bytes, mut took) = (0, Vec::new());
    let started = tokio::time::Instant::now();
    let mut lines = Vec::new();
    for request in 0..requests {
        if let Some(rate) = load.rate {
            let turn = request * load.producers as u64 + number as u64;
            tokio::time::sleep_until(started + Duration::from_secs_f64((turn * load.of_request) as f64 / rate)).await;
        }
        lines.clear();
        for _ in 0..load.of_request {
            clicks.write(&mut lines);
            lines.push(b'\n');
        }
        json_bytes += lines.len() as u64;
        let sent = Instant::now();
        connection.must(&post_clicks(&lines)).await;
        took.push(millis(sent.elapsed()));
    }
    (json_bytes, took)
}

/// What the segments of a topic's partitions take, without their indexes.
fn log_bytes(data: &Path, topic: &str) -> u64 {
    let mut bytes = 0;
    let partitions = std::fs::read_dir(data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
    for partition in partitions.flatten() {
        let name = partition.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(topic)?.strip_prefix('-'));
        if number.is_none_or(|number| number.parse::<u32>().is_err()) {
            continue;
        }
        for file in std::fs::read_dir(partition.path()).expect("a partition's folder").flatten() {
            if file.path().extension().is_some_and(|extension| extension == "log") {
                bytes += file.metadata().expect("a file's size").len();
            }
        }
    }
    assert!(bytes > 0, "no log of {topic} in {}", data.display());
    bytes
}
