//! The store that fails, and what comes right all the same when callers do as the port says.

use std::sync::Arc;

use tempfile::TempDir;
use view_store::store::{DeltaWrite, Progress, ViewDeltas, ViewStore, WriteOutcome};
use view_store::{FaultRates, FaultyStore};
use views::Segment;

use crate::fixture::{answer, open, partition, states, urls, view};

/// A writer that retries what failed, and reads its place again after a conflict, ends with the right counts.
#[tokio::test]
async fn a_writer_that_tries_again_counts_once() {
    let view = view();
    let mut faults = 0;
    for seed in 0..5 {
        println!("seed {seed}");
        let dir = TempDir::new().expect("a directory");
        let store = FaultyStore::new(Arc::new(open(dir.path())), seed, FaultRates::one_in(3));
        let mut at = 0;
        while at < 20 {
            let segments = vec![(Segment::FIRST, states(&view, &urls(at as i64 + 1)))];
            let views = vec![ViewDeltas { view: view.clone(), segments }];
            let to = Progress { offset: at + 1, segment: Segment::FIRST };
            let outcome = store.write_deltas(DeltaWrite { partition: partition(), from: at, to, views }).await;
            match outcome {
                Ok(WriteOutcome::Written) => at += 1,
                Err(error) => assert!(error.is_transient(), "{error}"),
                Ok(WriteOutcome::Conflict) => {
                    // The acknowledgement of an earlier try was lost.
                    if let Ok(progress) = store.progress(&view, &partition()).await {
                        assert_eq!(progress.offset, at + 1);
                        at = progress.offset;
                    }
                }
            }
        }
        store.calm();
        assert_eq!(answer(&store, &view).await.expect("an answer"), 20);
        faults += store.faults();
    }
    assert!(faults > 0, "nothing failed");
}
