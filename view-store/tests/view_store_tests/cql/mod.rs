//! The CQL store keeps the port's promises, on a real server.

mod errors;
mod gather;
mod histories;
mod priors;
mod server;
mod sides;
mod tables;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use view_store::{CqlOptions, CqlStore, ViewStore, conformance};

use server::Keyspace;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let keyspace = Keyspace::new("conforms").await;
    let stores = AtomicU32::new(0);
    conformance::suite(|| async {
        // Stores that share a keyspace and have nothing else in common: a keyspace for each would cost minutes.
        let scope = format!("check {}", stores.fetch_add(1, Ordering::Relaxed));
        let options = CqlOptions { scope, grace: Duration::from_millis(300), ..keyspace.options() };
        Arc::new(CqlStore::connect(options).await.expect("a store")) as Arc<dyn ViewStore>
    })
    .await;
    keyspace.drop().await;
}
