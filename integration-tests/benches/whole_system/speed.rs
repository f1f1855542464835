//! The speed layer on one core, from the log to deltas in the embedded store, against `arrow-avro` decoding the same
//! bytes.
//!
//! Both are measured by turns in a process of their own (this binary again) that `taskset` holds on one core, with all
//! its threads: reading the log, decoding, folding, writing, and what the store does in the background. The reference
//! has its bytes in memory, in one piece, and decodes every field in batches of 8192.
//!
//! The rates are events per second of that core, so that what else runs on the machine does not count. The remark gives them by
//! the clock.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use event_log::{Content, ReadLimit};
use speed_layer::{OnlyCounted, Owned, SpeedLayer, SpeedParts, SpeedSettings};
use tempfile::TempDir;
use view_store::{EmbeddedOptions, EmbeddedStore};
use views::{Offset, View};

use crate::clicks::Clickstream;
use crate::measure::{Busy, Seconds, Stopwatch, median, median_ratio, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// Measures it in a process of its own.
pub fn measure(scale: &Scale, table: &mut Table) {
    let folder = TempDir::new().expect("a temporary folder");
    eprintln!("speed: {} generated clicks into a log", short(scale.speed_events as f64));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let filled = runtime.block_on(async { Clickstream::open(folder.path()).await.fill(scale.speed_events).await });
    drop(runtime);

    let busy = Busy::since_now();
    let own = std::env::current_exe().expect("this binary");
    let (mut command, held) = match last_core() {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core).arg(own);
            (command, "one core")
        }
        None => (Command::new(own), "NOT held on one core: there is no taskset"),
    };
    command.arg("--one-core").arg(folder.path()).arg(scale.turns.to_string()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("this binary again");
    let (mut page_views, mut all_views, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_the_clock = Vec::new();
    let lines = std::io::BufReader::new(child.stdout.take().expect("its output")).lines();
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default();
        let rates: Vec<f64> =
            words.map(|seconds| filled.events as f64 / seconds.parse::<f64>().expect("seconds")).collect();
        let [clock, rate] = rates[..] else { continue };
        eprintln!("  {what}: {} events/s, by the clock {}", short(rate), short(clock));
        match what {
            "page_views" => {
                page_views.push(rate);
                by_the_clock.push(clock);
            }
            "all_views" => all_views.push(rate),
            _ => plain.push(rate),
        }
    }
    assert!(child.wait().is_ok_and(|status| status.success()), "the measuring process failed");

    let rate = |rates: &[f64]| format!("{} events/s", short(median(rates)));
    let reference = format!("arrow-avro alone {}", rate(&plain));
    table.add(Measured {
        what: &format!("speed layer, page_views, {held}"),
        measured: rate(&page_views),
        reference: reference.clone(),
        figure: (median_ratio(&page_views, &plain), ""),
        target: Target::AtLeast(0.4),
    });
    table.add(Measured {
        what: &format!("speed layer, all five views, {held}"),
        measured: rate(&all_views),
        reference,
        figure: (median_ratio(&all_views, &plain), ""),
        target: Target::None,
    });
    table.note(format!(
        "speed: {} events; page_views by the clock {}; {}",
        short(filled.events as f64),
        rate(&by_the_clock),
        busy.remark()
    ));
}

/// The last core that we may use, if there is a `taskset` to hold a process on it.
fn last_core() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let last = cores.trim().rsplit([',', '-']).next()?.to_owned();
    Command::new("taskset").arg("--version").stdout(Stdio::null()).status().ok()?;
    Some(last)
}

/// What the measuring process does: turns of each, told in seconds, one a line.
pub fn turns(folder: &Path, turns: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let say = |what: &str, took: Seconds| println!("{what} {} {}", took.clock, took.processor);
    runtime.expect("a runtime").block_on(async {
        let clickstream = Clickstream::open(folder).await;
        let ends: Vec<Offset> =
            clickstream.log.bounds("clicks").await.expect("bounds").into_iter().map(|kept| kept.end).collect();
        let (frames, events) = all_frames(&clickstream).await;
        let page_views = [clickstream.view("page_views")];
        for turn in 0..turns {
            say("page_views", fold(&clickstream, &page_views, &ends).await);
            say("plain", decode(&clickstream, &frames, events));
            if turn < turns.div_ceil(2) {
                say("all_views", fold(&clickstream, &clickstream.application.views, &ends).await);
            }
        }
    });
}

/// Seconds from the start of a speed layer until every event is in the deltas of an empty store.
async fn fold(clickstream: &Clickstream, views: &[Arc<View>], ends: &[Offset]) -> Seconds {
    let folder = TempDir::new().expect("a temporary folder");
    // As `tidemark run` does with its default settings.
    let options = EmbeddedOptions { cache_bytes: 128 << 20, ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(&folder.path().join("views"), options).expect("a view store");
    let settings = SpeedSettings { memory: 256 << 20, ..SpeedSettings::default() };
    let watch = Stopwatch::start();
    let parts = SpeedParts {
        log: clickstream.log.clone(),
        registry: clickstream.registry.clone(),
        store: Arc::new(store),
        rejected: Arc::new(OnlyCounted),
        dedupe_dir: folder.path().join("dedupe"),
        owned: Owned::all(),
    };
    let layer = SpeedLayer::start(parts, views.to_vec(), settings);
    let layer = layer.expect("a speed layer");
    let mut written = layer.written();
    let is_done = || {
        let status = layer.status();
        status.len() == ends.len()
            && status.iter().zip(ends).all(|(partition, end)| {
                partition.views.len() == views.len() && partition.views.values().all(|view| view.position >= *end)
            })
    };
    while !is_done() {
        written.changed().await.expect("the speed layer runs");
    }
    let took = watch.stop();
    layer.shutdown().await;
    took
}

/// Every datum in its frame, end to end.
async fn all_frames(clickstream: &Clickstream) -> (Vec<u8>, usize) {
    let (mut frames, mut events) = (Vec::new(), 0);
    for partition in clickstream.partitions() {
        let mut next = 0;
        loop {
            let records = clickstream.log.read(&partition, next, ReadLimit::records(8192)).await.expect("records");
            let Some(last) = records.last() else { break };
            next = last.offset + 1;
            for record in &records {
                if let Content::Event { value, .. } = &record.content {
                    frames.extend_from_slice(value);
                    events += 1;
                }
            }
        }
    }
    (frames, events)
}

/// Seconds in which `arrow-avro` decodes all fields of all events.
fn decode(clickstream: &Clickstream, frames: &[u8], events: usize) -> Seconds {
    let id = u32::from_be_bytes(frames[1..5].try_into().expect("a frame"));
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(id), AvroSchema::new(clickstream.source().avro.to_string())).expect("a schema");
    let builder = ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(8192);
    let mut decoder = builder.build_decoder().expect("a decoder");
    let watch = Stopwatch::start();
    let (mut at, mut rows) = (0, 0);
    while at < frames.len() {
        at += decoder.decode(&frames[at..]).expect("decoded");
        if decoder.batch_is_full() || at == frames.len() {
            rows += decoder.flush().expect("a batch").map_or(0, |batch| batch.num_rows());
        }
    }
    assert_eq!(rows, events, "every event is decoded");
    watch.stop()
}
