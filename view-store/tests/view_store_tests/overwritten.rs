//! Groups that are written again and again: every way to read them gives what was written last, wherever the versions lie (in
//! memory, on their way, in tables).

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use view_store::store::{DeltaWrite, KeyRange, Progress, ViewDeltas, ViewStore, WriteOutcome};
use view_store::{EmbeddedOptions, EmbeddedStore};
use views::Segment;

use crate::fixture::{counts, key, partition, states, view};

/// Some begin with others, and some sort next to them.
const URLS: [&str; 8] = ["", "a", "a/", "a0", "aa", "b", "b\u{0}", "\u{10ffff}"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_what_was_written_last() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().expect("a directory");
    // So small that there are tables, and memtables on their way to them, all the time.
    let options =
        EmbeddedOptions { memtable_bytes: 8 << 10, write_buffer_bytes: 64 << 10, ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(dir.path(), options).expect("a store");
    let view = view();
    let mut written: BTreeMap<(&str, u64), i64> = BTreeMap::new();
    let mut open = Segment::FIRST;
    let mut asked = 0;
    for from in 0..1500_u64 {
        if random.random_bool(0.01) {
            open = Segment { start: from, marker: open.marker };
        }
        let mut touched = Vec::new();
        for url in URLS {
            // The first of them are in every write.
            if url.len() < 2 || random.random_bool(0.1) {
                let count = random.random_range(1..1000);
                written.insert((url, open.start), count);
                touched.push((url.to_owned(), count));
            }
        }
        let views = vec![ViewDeltas { view: view.clone(), segments: vec![(open, states(&view, &touched))] }];
        let write =
            DeltaWrite { partition: partition(), from, to: Progress { offset: from + 1, segment: open }, views };
        assert_eq!(store.write_deltas(write).await.expect("a write"), WriteOutcome::Written);
        if random.random_bool(0.1) {
            let mut expected = BTreeMap::new();
            for ((url, _), count) in &written {
                *expected.entry((*url).to_owned()).or_insert(0) += count;
            }
            let (all, _) = counts(&store, &view, &KeyRange::default()).await.expect("an answer");
            assert_eq!(all, expected, "everything after {from}");
            for url in URLS {
                let (one, position) = counts(&store, &view, &key(&view, url)).await.expect("an answer");
                let expected = expected.get(url).map(|count| (url.to_owned(), *count)).into_iter().collect();
                assert_eq!((one, position.get(&partition())), (expected, Some(from + 1)), "{url:?} after {from}");
                asked += 1;
            }
        }
    }
    assert!(asked > 100, "{asked}");
}
