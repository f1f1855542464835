//! The port's promises, under every way to open the log that changes what code runs.

use std::sync::Arc;

use event_log::{EmbeddedLog, EmbeddedOptions, EventLog, FaultyLog, LogFaults, conformance};

use super::{on_disk, open};

async fn suite(options: EmbeddedOptions) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log: Arc<dyn EventLog> = Arc::new(open(directory.path(), &options).expect("open"));
    conformance::suite(async || log.clone()).await;
}

async fn durable(options: EmbeddedOptions) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    conformance::durable(async || {
        let log: Arc<dyn EventLog> = Arc::new(open(directory.path(), &options).expect("open"));
        log
    })
    .await;
}

#[tokio::test]
async fn kept_by_default() {
    suite(EmbeddedOptions::default()).await;
    durable(EmbeddedOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kept_with_many_threads() {
    suite(EmbeddedOptions::default()).await;
}

#[tokio::test]
async fn kept_without_fsync() {
    let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::default() };
    suite(options.clone()).await;
    durable(options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kept_by_many_small_files_read_from_disk() {
    suite(on_disk(300)).await;
    durable(on_disk(300)).await;
}

#[tokio::test]
async fn kept_when_memory_holds_little() {
    suite(EmbeddedOptions { fsync: false, recent_bytes: 2000, file_bytes: 4000, ..EmbeddedOptions::default() }).await;
}

#[tokio::test]
async fn kept_by_a_faulty_log_that_has_no_faults() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(directory.path(), on_disk(1 << 20)).expect("open"));
    let log: Arc<dyn EventLog> = Arc::new(FaultyLog::new(log, 1, LogFaults::NONE));
    conformance::suite(async || log.clone()).await;
}
