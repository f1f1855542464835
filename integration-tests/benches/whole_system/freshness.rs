//! How long after its acknowledgement an event is in an answer, while others come in at a steady rate.
//!
//! A real `tidemark run` with its default settings. Among the load, single events with a user of their own are posted; after
//! the acknowledgement of each, the user is looked up again and again until the answer has the event, or once with
//! `min_position`, by turns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use integration_tests::process::Process;
use serde_json::Value;
use tempfile::TempDir;
use tidemark::generator::{Clicks, Traffic};
use tokio::task::JoinSet;

use crate::http::{Connection, address, get, post_clicks};
use crate::lookups::application;
use crate::measure::{Busy, millis, percentile, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// How many producers share the load.
const PRODUCERS: usize = 4;
/// How often each of them posts.
const EVERY: Duration = Duration::from_millis(20);
/// Between two probes.
const PAUSE: Duration = Duration::from_millis(7);
/// Not yet warm, and not counted.
const WARM_UP: Duration = Duration::from_secs(2);

/// Measures it at both rates.
pub fn measure(scale: &Scale, table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (rate, target) in [(1_000, Target::AtMost(100.0)), (20_000, Target::None)] {
        eprintln!("freshness: {rate} events/s");
        runtime.block_on(at_rate(rate, target, scale.freshness, table));
    }
}

async fn at_rate(rate: u64, target: Target, time: Duration, table: &mut Table) {
    let folder = TempDir::new().expect("a temporary folder");
    let product = Process::start(&application(), folder.path(), &[]);
    let at = address(&product.url);
    let busy = Busy::since_now();
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        producers.spawn(produce(at, number, rate, stop.clone(), sent.clone()));
    }
    tokio::time::sleep(WARM_UP).await;
    let probes = probe(at, time).await;
    stop.store(true, Ordering::Relaxed);
    producers.join_all().await;
    let reached = sent.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();

    let p50_and_p99 =
        |took: &[f64]| format!("p50 {:.1} ms, p99 {:.1} ms", percentile(took, 0.5), percentile(took, 0.99));
    table.add(Measured {
        what: &format!("freshness at {} events/s", short(rate as f64)),
        measured: format!("{} ({} probes)", p50_and_p99(&probes.polled), probes.polled.len()),
        reference: format!("with min_position: {}", p50_and_p99(&probes.waited)),
        figure: (percentile(&probes.polled, 0.99), "ms"),
        target,
    });
    table.note(format!(
        "freshness at {}/s: {} events/s were acknowledged, acknowledgement {}; {}",
        short(rate as f64),
        short(reached),
        p50_and_p99(&probes.acknowledged),
        busy.remark()
    ));
}

/// One producer's share of the load.
async fn produce(at: SocketAddr, number: usize, rate: u64, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) {
    let mut connection = Connection::open(at).await;
    let traffic = Traffic { seed: number as u64 + 1, broken_ppm: 0, ..Traffic::default() };
    let mut clicks = Clicks::with(traffic);
    let mut ticks = tokio::time::interval(EVERY);
    tokio::time::sleep(EVERY * number as u32 / PRODUCERS as u32).await;
    let (started, mut produced) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let due = (started.elapsed().as_secs_f64() * rate as f64 / PRODUCERS as f64) as u64;
        // What could not be sent in time is sent later, but never all at once.
        let count = (due - produced).min(rate);
        if count == 0 {
            continue;
        }
        clicks.set_clock(Utc::now().timestamp_micros());
        let mut lines = Vec::new();
        for _ in 0..count {
            clicks.write(&mut lines);
            lines.push(b'\n');
        }
        connection.must(&post_clicks(&lines)).await;
        produced += count;
        sent.fetch_add(count, Ordering::Relaxed);
    }
}

/// What the probes took, in milliseconds.
#[derive(Default)]
struct Probes {
    acknowledged: Vec<f64>,
    polled: Vec<f64>,
    waited: Vec<f64>,
}

async fn probe(at: SocketAddr, time: Duration) -> Probes {
    let mut connection = Connection::open(at).await;
    let mut probes = Probes::default();
    let started = Instant::now();
    for number in 0.. {
        if started.elapsed() >= time {
            break;
        }
        let now = Utc::now().timestamp_micros();
        let event = format!(
            r#"{{"id":"probe-{number}","ts":{now},"session_id":"probe-{number}","user_id":"probe-{number}","url":"/"}}"#
        );
        let sent = Instant::now();
        let answer: Value =
            serde_json::from_slice(connection.must(&post_clicks(event.as_bytes())).await).expect("JSON");
        let acknowledged = Instant::now();
        probes.acknowledged.push(millis(acknowledged - sent));
        let path = format!("/v1/views/user_activity?user_id=probe-{number}");
        let has_it = |answer: &[u8]| !answer.windows(9).any(|window| window == br#""rows":[]"#);
        if number % 2 == 0 {
            let question = get(&path);
            while !has_it(connection.must(&question).await) {}
            probes.polled.push(millis(acknowledged.elapsed()));
        } else {
            let position = answer["position"].as_str().expect("a position");
            let question = get(&format!("{path}&min_position={position}&timeout=10s"));
            assert!(has_it(connection.must(&question).await), "the answer reaches the position without the event");
            probes.waited.push(millis(acknowledged.elapsed()));
        }
        tokio::time::sleep(PAUSE).await;
    }
    probes
}
