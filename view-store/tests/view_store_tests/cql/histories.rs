//! Owners side by side that stop at any moment, batch runs and readers: every answer is the truth at its position.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use view_store::store::PublishOutcome;
use view_store::{CqlOptions, CqlStore, ViewStore};
use views::{Position, View};

use super::server::Keyspace;
use super::world::{self, SEGMENT, Turn};

const PARTITIONS: u32 = 2;

/// An owner that takes turns until the log's end is written, and drops some of its writes half way.
async fn own(store: CqlStore, view: Arc<View>, seed: u64, end: u64, dropped: Arc<AtomicU64>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut upto = [u64::MAX; PARTITIONS as usize];
    loop {
        let mut done = true;
        for number in 0..PARTITIONS {
            let from = world::stands(&store, &view, number).await.expect("where it stands");
            if from >= end {
                continue;
            }
            done = false;
            let limit = &mut upto[number as usize];
            let to =
                (from + random.random_range(1..=25)).min(end).min(std::mem::replace(limit, u64::MAX)).max(from + 1);
            let turn = world::turn(&store, &view, number, from, to);
            let patience = Duration::from_micros(random.random_range(0..20_000));
            match tokio::time::timeout(if random.random_bool(0.3) { patience } else { Duration::MAX }, turn).await {
                Ok(Ok(Turn::Ahead(reached))) => *limit = reached,
                Ok(Ok(Turn::Written(_) | Turn::Conflict)) => {}
                Ok(Err(error)) => panic!("{error}"),
                Err(_elapsed) => drop(dropped.fetch_add(1, Ordering::Relaxed)),
            }
        }
        if done {
            return;
        }
    }
}

/// Batch runs, each up to cuts that the deltas have passed.
async fn run_batches(store: CqlStore, view: Arc<View>, end: u64, done: Arc<AtomicBool>) -> u64 {
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        let mut frontier = Position::new();
        for partition in 0..PARTITIONS {
            let at = world::stands(&store, &view, partition).await.expect("where it stands").min(end);
            frontier.set(&world::partition(partition), at - at % SEGMENT);
        }
        number += 1;
        let outcome = world::generation(&store, &view, number, &frontier).await.expect("a generation");
        assert_eq!(outcome, PublishOutcome::Published);
        store.retire(std::slice::from_ref(&view)).await.expect("retiring");
    }
    number
}

async fn read(store: CqlStore, view: Arc<View>, url: Option<&'static str>, done: Arc<AtomicBool>) -> u64 {
    let mut last = Position::new();
    let mut moments = 0;
    while !done.load(Ordering::Relaxed) {
        let before = last.clone();
        world::check(&store, &view, url, &mut last).await.expect("a read");
        moments += u64::from(last != before);
    }
    moments
}

async fn history(keyspace: &Keyspace, seed: u64, scope: &str, end: u64) {
    println!("seed {seed}");
    // Reads that take longer than this are frequent: they must notice by themselves.
    let options = CqlOptions {
        scope: scope.to_owned(),
        grace: Duration::from_millis(20),
        // Of some groups the states are in the cache, of others not.
        cache_bytes: 1500,
        ..keyspace.options()
    };
    let view = world::view("minutes");
    let (first, second, reader) =
        (open(&options).await, open(&options).await, open(&CqlOptions { cache_bytes: 0, ..options.clone() }).await);
    let (done, dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let owners = [first.clone(), second.clone()].into_iter().enumerate().map(|(owner, store)| {
        tokio::spawn(own(store, view.clone(), seed.wrapping_add(owner as u64), end, dropped.clone()))
    });
    let owners: Vec<_> = owners.collect();
    let batches = tokio::spawn(run_batches(second.clone(), view.clone(), end, done.clone()));
    let readers: Vec<_> = [(&first, Some("u0")), (&reader, Some("u1")), (&reader, Some("u2")), (&reader, None)]
        .into_iter()
        .map(|(store, url)| tokio::spawn(read((*store).clone(), view.clone(), url, done.clone())))
        .collect();
    println!("waiting for two owners to write {end} records of {PARTITIONS} partitions");
    for owner in owners {
        owner.await.expect("an owner");
    }
    done.store(true, Ordering::Relaxed);
    let mut reads = Vec::new();
    for reader in readers {
        reads.push(reader.await.expect("a reader"));
    }
    let generations = batches.await.expect("batch runs");
    let dropped = dropped.load(Ordering::Relaxed);
    println!("{reads:?} moments seen, {generations} generations, {dropped} writes dropped in {:?}", began.elapsed());
    assert!(reads.iter().all(|reads| *reads > 0) && generations > 0 && dropped > 0);
    for url in [Some("u0"), Some("u1"), Some("u2"), None] {
        let mut at_end = (0..PARTITIONS).map(|number| (world::partition(number), end)).collect();
        world::check(&reader, &view, url, &mut at_end).await.expect("a read of all");
    }
}

async fn open(options: &CqlOptions) -> CqlStore {
    CqlStore::connect(options.clone()).await.expect("a store")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_the_truth_at_its_position() {
    let keyspace = Keyspace::new("histories").await;
    for (round, scope) in ["first", "second"].into_iter().enumerate() {
        let seed: u64 = rand::random::<u64>().wrapping_add(round as u64);
        history(&keyspace, seed, scope, 1000).await;
    }
    keyspace.drop().await;
}
