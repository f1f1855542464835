//! Lookups of merged keys over HTTP, against a handler that returns a constant of the same size.
//!
//! A real `tidemark run` with its default settings holds a generation and, past its frontier, deltas; only keys that have
//! both are asked for. The constant comes from a process with as many actix-web workers, asked in turns with the product by the
//! same client.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use integration_tests::process::Process;
use serde_json::Value;
use tempfile::TempDir;
use tidemark::generator::{Clicks, Traffic};

use crate::constant::Constant;
use crate::http::{Connection, address, closed_loop, get, open_loop, post, post_clicks};
use crate::measure::{Busy, median, median_ratio, percentile, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// How many questions are under way at once.
pub const CONNECTIONS: usize = 32;
/// How many different keys are asked for.
const KEYS: usize = 1000;

/// The clickstream application, as it is shipped.
pub fn application() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/clickstream")
}

/// Measures it.
pub fn measure(scale: &Scale, table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let folder = TempDir::new().expect("a temporary folder");
        let product = Process::start(&application(), folder.path(), &[]);
        let at = address(&product.url);
        let mut connection = Connection::open(at).await;
        eprintln!("lookups: {} clicks into a process", short(scale.lookup_events as f64));
        let mut clicks = Clicks::with(Traffic { broken_ppm: 0, ..Traffic::default() });
        feed(&mut connection, &mut clicks, scale.lookup_events * 3 / 4).await;
        connection.must(&post("/v1/batch/runs?wait=true&full=true", "application/json", b"")).await;
        let position = feed(&mut connection, &mut clicks, scale.lookup_events / 4).await;
        let seen = get(&format!("/v1/views/user_activity?user_id=user-1&min_position={position}&timeout=30s"));
        connection.must(&seen).await;

        let users = (1..).map(|rank| format!("/v1/views/user_activity?user_id=user-{rank}"));
        let users = merged(&mut connection, users).await;
        compare("lookup of one merged row (user_activity)", at, &users, Target::AtLeast(0.5), scale, table).await;

        // The last minute of the generation; deltas hold what came late for it.
        let split = Traffic::default().start_us + Traffic::default().step_us * (scale.lookup_events as i64 * 3 / 4);
        let day = |us: i64| chrono::DateTime::from_timestamp_micros(us).expect("a time").format("%Y-%m-%dT%H:%M:%SZ");
        let pages = |from: i64, to: i64| {
            let range = format!("from={}&to={}", day(from), day(to));
            (1..=300).map(move |page| format!("/v1/views/page_views?url=/products/{page}&{range}"))
        };
        let minute = (split - 1) - (split - 1).rem_euclid(60_000_000);
        let tiles = merged(&mut connection, pages(minute, minute + 60_000_000)).await;
        compare("lookup of one merged tile (page_views)", at, &tiles, Target::AtLeast(0.5), scale, table).await;
        // Minutes on both sides of it: a score of rows out of many more states, which no constant has to put together.
        let ranges = merged(&mut connection, pages(split - 600_000_000, split + 600_000_000)).await;
        compare("lookup of a page's 20 minutes (page_views)", at, &ranges, Target::None, scale, table).await;
    });
}

/// Posts so many clicks, and gives the position after the last ones.
pub async fn feed(connection: &mut Connection, clicks: &mut Clicks, events: u64) -> String {
    let mut position = String::new();
    let mut left = events;
    while left > 0 {
        let count = left.min(1000);
        left -= count;
        let mut lines = Vec::new();
        for _ in 0..count {
            clicks.write(&mut lines);
            lines.push(b'\n');
        }
        let answer: Value = serde_json::from_slice(connection.must(&post_clicks(&lines)).await).expect("JSON");
        assert_eq!(answer["accepted"], count, "{answer}");
        position = answer["position"].as_str().unwrap_or_default().to_owned();
    }
    position
}

/// Questions whose answers are made of both layers, and the mean size of the answers.
pub struct Questions {
    /// The requests.
    pub requests: Arc<Vec<Vec<u8>>>,
    /// Their paths.
    pub paths: Vec<String>,
    /// Bytes of an answer.
    pub size: usize,
}

/// The first questions of those given whose answers are made of both layers.
pub async fn merged(connection: &mut Connection, paths: impl Iterator<Item = String>) -> Questions {
    let (mut requests, mut asked, mut bytes) = (Vec::new(), Vec::new(), 0);
    for path in paths.take(KEYS * 3) {
        let answer = connection.must(&get(&format!("{path}&explain=true"))).await;
        let answer: Value = serde_json::from_slice(answer).expect("JSON");
        let rows = answer["rows"].as_array().expect("rows");
        let has = |layer: &dyn Fn(&Value) -> bool| rows.iter().any(|row| layer(&row["layers"]));
        let is_merged = has(&|layers| layers["batch"].is_object())
            && has(&|layers| layers["speed"].as_array().is_some_and(|deltas| !deltas.is_empty()));
        if is_merged {
            bytes += connection.must(&get(&path)).await.len();
            requests.push(get(&path));
            asked.push(path);
        }
        if requests.len() == KEYS {
            break;
        }
    }
    assert!(!requests.is_empty(), "no answer is made of both layers");
    Questions { size: bytes / requests.len(), requests: Arc::new(requests), paths: asked }
}

async fn compare(
    what: &str,
    at: std::net::SocketAddr,
    questions: &Questions,
    target: Target,
    scale: &Scale,
    table: &mut Table,
) {
    let busy = Busy::since_now();
    let Questions { requests, size, .. } = questions;
    let constant = Constant::start(*size);
    let time = scale.lookup_turn;
    // Both warm.
    for to in [at, constant.address] {
        closed_loop(to, requests, CONNECTIONS, Duration::from_millis(500)).await;
    }
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..scale.turns {
        ours.push(closed_loop(at, requests, CONNECTIONS, time).await);
        plain.push(closed_loop(constant.address, requests, CONNECTIONS, time).await);
    }
    table.add(Measured {
        what,
        measured: format!("{}/s, {} keys, {size} bytes", short(median(&ours)), requests.len()),
        reference: format!("constant {}/s", short(median(&plain))),
        figure: (median_ratio(&ours, &plain), ""),
        target,
    });
    let half = median(&ours) / 2.0;
    let took = open_loop(at, requests, CONNECTIONS, half, time * 3).await;
    let took_plain = open_loop(constant.address, requests, CONNECTIONS, half, time * 3).await;
    table.add(Measured {
        what: "  its p99 at half that load",
        measured: format!("p50 {:.2} ms at {}/s", percentile(&took, 0.5), short(half)),
        reference: format!("constant p99 {:.2} ms", percentile(&took_plain, 0.99)),
        figure: (percentile(&took, 0.99), "ms"),
        target: Target::None,
    });
    table.note(format!("{what}: {CONNECTIONS} connections, {}", busy.remark()));
}
