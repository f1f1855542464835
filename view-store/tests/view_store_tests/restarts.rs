//! What is written after a restart is there after the next one, whatever was dropped before.

use futures::{StreamExt, stream};
use tempfile::TempDir;
use view_store::store::ViewStore;
use view_store::{EmbeddedStore, StoreError};

use crate::fixture::{answer, open, publish, states, urls, view};

/// A run that fails: its rows break off, and what it wrote is dropped.
async fn fail(store: &EmbeddedStore, generation: u64) {
    let view = view();
    let broken = Err(StoreError::unavailable("reading", "the archive is away"));
    let rows = stream::iter([Ok(states(&view, &urls(1))), broken]).boxed();
    store.write_generation(&view, generation, rows).await.expect_err("a run that fails");
}

#[tokio::test]
async fn a_generation_outlives_restarts_though_runs_failed_before() {
    let view = view();
    for failed_before in 1..=2 {
        for restarts in 1..=2 {
            let dir = TempDir::new().expect("a directory");
            let store = open(dir.path());
            publish(&store, &view, 1, 10, 10).await;
            for _ in 0..failed_before {
                fail(&store, 2).await;
            }
            drop(store);
            for generation in 2..2 + restarts {
                let store = open(dir.path());
                publish(&store, &view, generation, generation * 10, generation as i64 * 10).await;
                store.retire(std::slice::from_ref(&view)).await.expect("retiring");
                drop(store);
                let store = open(dir.path());
                assert_eq!(answer(&store, &view).await.expect("an answer"), generation * 10);
                fail(&store, generation + 1).await;
            }
        }
    }
}
