//! The port's promises.

use event_log::conformance;

use super::connect;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kept() {
    let log = connect().await;
    conformance::suite(async || log.clone()).await;
}

#[tokio::test]
async fn kept_on_one_thread() {
    let log = connect().await;
    conformance::suite(async || log.clone()).await;
}

#[tokio::test]
async fn kept_by_what_was_acknowledged() {
    conformance::durable(async || connect().await).await;
}
