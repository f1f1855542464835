//! The embedded store keeps the port's promises, after a stop of any kind and with damaged files too.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use view_store::store::{KeyRange, ViewStore};
use view_store::{EmbeddedOptions, EmbeddedStore, StoreError, conformance};
use views::Segment;

use crate::fixture::{answer, copy, copy_open, counts, key, open, publish, view, write, written};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let dirs = Mutex::new(Vec::new());
    conformance::suite(|| async {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        dirs.lock().expect("the list").push(dir);
        Arc::new(store) as Arc<dyn ViewStore>
    })
    .await;
}

/// Two generations, deltas before and past the frontier, retired once.
async fn fill(store: &EmbeddedStore) {
    let view = view();
    let (first, second) = (Segment { start: 10, marker: 1 }, Segment { start: 20, marker: 2 });
    write(store, &view, 0, 10, Segment::FIRST, 10).await;
    publish(store, &view, 1, 10, 10).await;
    write(store, &view, 10, 20, first, 10).await;
    write(store, &view, 20, 24, second, 4).await;
    publish(store, &view, 2, 20, 20).await;
    store.retire(std::slice::from_ref(&view)).await.expect("retiring");
    write(store, &view, 24, 25, second, 5).await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = TempDir::new().expect("a directory");
    let view = view();
    let store = open(dir.path());
    fill(&store).await;
    let published = store.published().await.expect("published");
    drop(store);
    for _ in 0..3 {
        let store = open(dir.path());
        assert_eq!(store.published().await.expect("published"), published);
        assert_eq!(answer(&store, &view).await.expect("an answer"), 25);
        assert_eq!(store.numbers().views[0].generation_rows, 50);
    }
    let store = open(dir.path());
    write(&store, &view, 25, 30, Segment { start: 20, marker: 2 }, 10).await;
    publish(&store, &view, 3, 30, 30).await;
    store.retire(std::slice::from_ref(&view)).await.expect("retiring");
    drop(store);
    assert_eq!(answer(&open(dir.path()), &view).await.expect("an answer"), 30);
}

/// What kill -9 leaves: the files as they are, at any moment, with everything acknowledged so far.
#[tokio::test]
async fn the_files_of_an_open_store_hold_everything_acknowledged() {
    let dir = TempDir::new().expect("a directory");
    let view = view();
    let store = open(dir.path());
    let mut at = 0;
    for generation in 1..=3_u64 {
        let segment = Segment { start: at, marker: generation - 1 };
        let start = at;
        for _ in 0..3 {
            write(&store, &view, at, at + 5, segment, (at + 5 - start) as i64).await;
            at += 5;
            let killed = copy_open(dir.path());
            assert_eq!(answer(&open(killed.path()), &view).await.expect("an answer"), at);
        }
        publish(&store, &view, generation, at, at as i64).await;
        if generation == 2 {
            store.retire(std::slice::from_ref(&view)).await.expect("retiring");
        }
        let killed = copy_open(dir.path());
        let reopened = open(killed.path());
        assert_eq!(reopened.published().await.expect("published").map(|p| p.generation), Some(generation));
        assert_eq!(answer(&reopened, &view).await.expect("an answer"), at);
    }
}

/// Letting go of a view takes several writes, and may end after any of them. What is left must be right for a process that
/// has the view after all: here the write of what is published fails.
#[tokio::test]
async fn a_view_that_is_let_go_of_half_is_still_right() {
    for written_meanwhile in [0, 7, 23] {
        let dir = TempDir::new().expect("a directory");
        let view = view();
        let store = open(dir.path());
        fill(&store).await;
        // The keyspaces are numbered as they were made: `records`, then `published`.
        let tables = dir.path().join("db/keyspaces/2/tables");
        let away = dir.path().join("away");
        std::fs::rename(&tables, &away).expect("taken away");
        store.retire(&[]).await.expect_err("what is published cannot be written");
        std::fs::rename(&away, &tables).expect("brought back");
        assert_eq!(answer(&store, &view).await.expect("an answer"), 0, "it starts from nothing");
        // Not the segment that its last deltas were over: they must not be found again.
        let (before, past) = (Segment::FIRST, Segment { start: 21, marker: 2 });
        if written_meanwhile > 0 {
            let end = written_meanwhile.min(20);
            write(&store, &view, 0, end, before, end as i64).await;
            if written_meanwhile > 20 {
                write(&store, &view, 20, written_meanwhile, past, written_meanwhile as i64 - 20).await;
            }
        }
        assert_eq!(answer(&store, &view).await.expect("an answer"), written_meanwhile);
        drop(store);
        // On disk, the generation is still said to hold it.
        let store = open(dir.path());
        assert!(store.published().await.expect("published").expect("a generation").of(&view).is_some());
        let stands = written_meanwhile.max(20);
        assert_eq!(answer(&store, &view).await.expect("an answer"), stands);
        write(&store, &view, stands, 26, past, 6).await;
        assert_eq!(answer(&store, &view).await.expect("an answer"), 26);
        store.retire(&[]).await.expect("retiring");
        assert!(store.published().await.expect("published").expect("a generation").of(&view).is_none());
        assert_eq!(answer(&store, &view).await.expect("an answer"), 0);
        drop(store);
        let store = open(dir.path());
        assert_eq!(answer(&store, &view).await.expect("an answer"), 0);
        assert!(store.numbers().views.is_empty());
    }
}

/// What a power cut leaves of the journal: some first part of it.
#[tokio::test]
async fn a_torn_journal_leaves_a_prefix() {
    let dir = TempDir::new().expect("a directory");
    let view = view();
    let store = open(dir.path());
    fill(&store).await;
    let journal = journals(dir.path()).pop().expect("a journal");
    let end_before = written_bytes(&journal);
    for count in 6..10 {
        write(&store, &view, 19 + count, 20 + count, Segment { start: 20, marker: 2 }, count as i64).await;
    }
    let end = written_bytes(&journal);
    let mut reached = Vec::new();
    for length in (end_before..=end).step_by(((end - end_before) / 20).max(1)) {
        let cut = copy_open(dir.path());
        let journal = journals(cut.path()).pop().expect("a journal");
        std::fs::File::options()
            .write(true)
            .open(&journal)
            .and_then(|file| file.set_len(length as u64))
            .expect("a cut");
        let store = open(cut.path());
        reached.push(answer(&store, &view).await.expect("an answer"));
        let at = *reached.last().expect("one");
        write(&store, &view, at, at + 1, Segment { start: 20, marker: 2 }, (at - 19) as i64).await;
        drop(store);
        assert_eq!(answer(&open(cut.path()), &view).await.expect("an answer"), at + 1);
    }
    assert!(reached.is_sorted() && reached[0] == 25, "{reached:?}");
}

/// Flips bits in every file of a closed store. The answer is right, or the store says what is damaged.
#[tokio::test]
async fn flipped_bits_are_found_or_harmless() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    let flips = std::env::var("FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(4);
    println!("SEED={seed} FLIPS={flips}");
    let mut chance = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().expect("a directory");
    let view = view();
    let store = open(dir.path());
    fill(&store).await;
    drop(store);
    let mut found = 0;
    for file in files(dir.path()) {
        let name = file.strip_prefix(dir.path()).expect("a file of the store").to_owned();
        let length = written_bytes(&file);
        // The small files that say what the others are get more.
        let flips: usize = if length < 2000 { flips } else { flips / 2 };
        for _ in 0..flips.min(length) {
            let (place, bit) = (chance.random_range(0..length), chance.random_range(0..8));
            let copied = TempDir::new().expect("a directory");
            copy(dir.path(), copied.path());
            let mut bytes = std::fs::read(copied.path().join(&name)).expect("a file");
            bytes[place] ^= 1 << bit;
            std::fs::write(copied.path().join(&name), &bytes).expect("a file");
            let what = format!("{} byte {place} bit {bit}", name.display());
            let outcome = match EmbeddedStore::open(copied.path(), EmbeddedOptions::default()) {
                Ok(store) => answer(&store, &view).await,
                Err(error) => Err(error),
            };
            match outcome {
                // Deltas may be forgotten from some place on; `answer` checks that what is left is whole. A store of
                // another format starts empty.
                Ok(reached) => {
                    let is_format = name == Path::new("format");
                    assert!(reached >= 20 || is_format && reached == 0, "{what}: reached {reached}");
                }
                Err(StoreError::Damaged(message)) => {
                    assert!(message.contains(&copied.path().display().to_string()), "{what}: {message}");
                    found += 1;
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
    assert!(found > 0, "no flip was ever found");
}

#[test]
fn one_process_at_a_time() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let second = EmbeddedStore::open(dir.path(), EmbeddedOptions::default());
    let message = second.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("another process has it open"), "{message}");
    assert!(EmbeddedStore::remove(dir.path()).is_err());
    drop(store);
    drop(open(dir.path()));
    EmbeddedStore::remove(dir.path()).expect("removing");
    drop(open(dir.path()));
}

#[tokio::test]
async fn a_store_of_another_format_is_rebuilt() {
    let dir = TempDir::new().expect("a directory");
    let view = view();
    let store = open(dir.path());
    fill(&store).await;
    drop(store);
    std::fs::write(dir.path().join("format"), "tidemark view store 0\n").expect("a file");
    let store = open(dir.path());
    assert_eq!(store.published().await.expect("published"), None);
    assert_eq!(answer(&store, &view).await.expect("an answer"), 0);
    fill(&store).await;
    drop(store);
    assert_eq!(answer(&open(dir.path()), &view).await.expect("an answer"), 25);
}

/// More deltas than fit in memory: they are in tables, and still right.
#[tokio::test]
async fn deltas_that_do_not_fit_in_memory_are_kept() {
    let dir = TempDir::new().expect("a directory");
    let view = view();
    let small =
        EmbeddedOptions { write_buffer_bytes: 64 << 10, memtable_bytes: 32 << 10, ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(dir.path(), small.clone()).expect("a store");
    for at in 0..200 {
        write(&store, &view, at, at + 1, Segment::FIRST, at as i64 + 1).await;
    }
    assert_eq!(answer(&store, &view).await.expect("an answer"), 200);
    drop(store);
    let store = EmbeddedStore::open(dir.path(), small).expect("a store");
    assert_eq!(answer(&store, &view).await.expect("an answer"), 200);
}

/// Prints what a lookup costs; asserts nothing about time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_is_timed() {
    const LOOKUPS: u32 = 2_000;
    let dir = TempDir::new().expect("a directory");
    let view = view();
    let store = open(dir.path());
    fill(&store).await;
    write(&store, &view, 25, 26, Segment { start: 25, marker: 2 }, 1).await;
    let range = key(&view, "u07");
    let start = Instant::now();
    for _ in 0..LOOKUPS {
        let (counts, _) = counts(&store, &view, &range).await.expect("an answer");
        assert_eq!(counts.get("u07"), Some(&26));
    }
    println!("one group, a generation row and two deltas: {:?} a lookup", start.elapsed() / LOOKUPS);
    let nobody = counts(&store, &view, &KeyRange { ..key(&view, "nobody") }).await.expect("an answer");
    assert!(nobody.0.is_empty());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn journals(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "jnl")).collect()
}

fn written_bytes(file: &Path) -> usize {
    written(&std::fs::read(file).expect("a file"))
}
