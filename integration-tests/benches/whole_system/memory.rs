//! Peak memory of a real `tidemark run` with its default settings while many events with many keys go in over HTTP and a
//! batch run passes: the `VmHWM` that the system keeps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use integration_tests::process::Process;
use serde_json::Value;
use tempfile::TempDir;
use tidemark::generator::{Clicks, Traffic};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::http::{Connection, address, get, post, post_clicks};
use crate::lookups::application;
use crate::measure::{Busy, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// How many requests are under way at once.
const PRODUCERS: usize = 4;
/// How many events each has.
const EVENTS: u64 = 2000;
/// How often to say how far it is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Measures it.
pub fn measure(scale: &Scale, table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(load(scale.memory_events, table));
}

async fn load(events: u64, table: &mut Table) {
    eprintln!("memory: {} clicks into a process", short(events as f64));
    let folder = TempDir::new().expect("a temporary folder");
    let product = Process::start(&application(), folder.path(), &[]);
    let at = address(&product.url);
    let busy = Busy::since_now();
    let started = Instant::now();

    let (requests, queue) = mpsc::channel(PRODUCERS);
    let queue = Arc::new(Mutex::new(queue));
    let generating = tokio::task::spawn_blocking(move || generate(events, &requests));
    let mut producers = JoinSet::new();
    for _ in 0..PRODUCERS {
        let queue = queue.clone();
        producers.spawn(async move {
            let mut connection = Connection::open(at).await;
            loop {
                let request = queue.lock().await.recv().await;
                let Some(request) = request else { break };
                connection.must(&request).await;
            }
        });
    }
    drop(queue);
    let mut said = Instant::now();
    while let Some(done) =
        tokio::time::timeout(Duration::from_millis(500), producers.join_next()).await.unwrap_or(Some(Ok(())))
    {
        done.expect("events are taken");
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let (position, end) = progress(at).await;
            let (peak, now) = rss(product.id());
            eprintln!(
                "  {:.0} s: {} in the log, {} folded, RSS {now:.0} MiB, peak {peak:.0} MiB",
                started.elapsed().as_secs_f64(),
                short(end as f64),
                short(position as f64),
            );
        }
    }
    generating.await.expect("generated");
    let loading = started.elapsed();
    let (loaded, _) = rss(product.id());

    let before = Instant::now();
    let mut connection = Connection::open(at).await;
    let report = loop {
        let response = connection.ask(&post("/v1/batch/runs?wait=true&full=true", "application/json", b"")).await;
        let response = response.expect("a response");
        match response.status {
            // The timer's run goes on.
            409 => tokio::time::sleep(Duration::from_secs(1)).await,
            status => break (status, String::from_utf8_lossy(response.body).into_owned()),
        }
    };
    assert_eq!(report.0, 200, "{}", report.1);
    let running = before.elapsed();
    let before = Instant::now();
    loop {
        let (position, end) = progress(at).await;
        if position >= end {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (peak, _) = rss(product.id());
    table.add(Measured {
        what: &format!("memory, {} events in and a batch run", short(events as f64)),
        measured: format!("peak RSS {peak:.0} MiB"),
        reference: format!("{loaded:.0} MiB before the run"),
        figure: (peak, "MiB"),
        target: Target::AtMost(1024.0),
    });
    table.note(format!(
        "memory: in within {:.0} s ({} events/s over HTTP), batch run {:.0} s, speed layer done {:.0} s later; {}; {}",
        loading.as_secs_f64(),
        short(events as f64 / loading.as_secs_f64()),
        running.as_secs_f64(),
        before.elapsed().as_secs_f64(),
        keys(&report.1),
        busy.remark(),
    ));
}

/// Requests of generated clicks, ready to be sent.
fn generate(events: u64, to: &mpsc::Sender<Vec<u8>>) {
    // Visits are keys of a view: with these there are a million and a half of them among ten million events.
    let traffic = Traffic { users: 1_000_000, pages: 4000, open_sessions: 20_000, broken_ppm: 0, ..Traffic::default() };
    let mut clicks = Clicks::with(traffic);
    let mut left = events;
    while left > 0 {
        let count = left.min(EVENTS);
        left -= count;
        let mut lines = Vec::with_capacity(500 * EVENTS as usize);
        for _ in 0..count {
            clicks.write(&mut lines);
            lines.push(b'\n');
        }
        if to.blocking_send(post_clicks(&lines)).is_err() {
            return;
        }
    }
}

/// How many records the speed layer has folded, and how many the log has.
async fn progress(at: SocketAddr) -> (u64, u64) {
    // A new connection: one that says nothing for long is closed.
    let mut connection = Connection::open(at).await;
    let status: Value = serde_json::from_slice(connection.must(&get("/v1/status")).await).expect("JSON");
    let partitions = status["topics"]["clicks"]["partitions"].as_array().cloned().unwrap_or_default();
    let sum = |field: &str| partitions.iter().filter_map(|partition| partition[field].as_u64()).sum();
    (sum("position"), sum("end"))
}

/// The rows of every view, as the batch run reports them.
fn keys(report: &str) -> String {
    let report: Value = serde_json::from_str(report).unwrap_or_default();
    format!("rows of all views {}", report["rows"])
}

/// The peak and the present resident memory of a process, in MiB.
fn rss(process: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of the status");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number")
    };
    (kib("VmHWM:") / 1024.0, kib("VmRSS:") / 1024.0)
}
