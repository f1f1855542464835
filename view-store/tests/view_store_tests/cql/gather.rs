//! Rows of one CQL partition that several writers want written at the same time.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use view_store::store::{DeltaWrite, KeyRange, Progress, ViewDeltas, ViewStore, WriteOutcome};
use view_store::{CqlOptions, CqlStore};
use views::{Segment, View};

use super::server::Keyspace;
use super::world::{self, Counts, partition};

const PARTITIONS: u32 = 4;
/// A write takes a tenth of a second.
const HUNG: Duration = Duration::from_secs(60);

/// Every record is a click on each of so many urls.
fn all(urls: i64, count: u64) -> Counts {
    (0..urls).map(|url| ((format!("u{url:03}"), 0), count as i64)).collect()
}

fn write(view: &Arc<View>, number: u32, from: u64, to: u64) -> DeltaWrite {
    let states = world::states(view, &all(120, to));
    let views = vec![ViewDeltas { view: view.clone(), segments: vec![(Segment::FIRST, states)] }];
    let to = Progress { offset: to, segment: Segment::FIRST };
    DeltaWrite { partition: partition(number), from, to, views }
}

/// Writers that go away in the middle owe others their turn: these are written all the same, and every answer is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_go_away_hold_up_nobody() {
    let keyspace = Keyspace::new("gather").await;
    // So that nearly all rows wait, and those of several writers meet.
    let options = CqlOptions { in_flight: 2, patience: Duration::from_millis(200), ..keyspace.options() };
    let store = CqlStore::connect(options.clone()).await.expect("a store");
    let view = world::view("minutes");
    for number in 0..PARTITIONS {
        let written = store.write_deltas(write(&view, number, 0, 10)).await;
        assert_eq!(written.expect("a write"), WriteOutcome::Written);
    }
    let seed: u64 = std::env::var("TIDEMARK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut stands = [10; PARTITIONS as usize];
    for round in 0..12 {
        println!("round {round}: waiting for four writers, of whom some go away");
        let writers: Vec<_> = (0..PARTITIONS)
            .map(|number| {
                let patience = random.random_bool(0.5).then(|| Duration::from_millis(random.random_range(1..30)));
                let (store, view, from) = (store.clone(), view.clone(), stands[number as usize]);
                tokio::spawn(async move {
                    let writing = store.write_deltas(write(&view, number, from, from + 10));
                    match patience {
                        Some(patience) => tokio::time::timeout(patience, writing).await.ok(),
                        None => Some(tokio::time::timeout(HUNG, writing).await.expect("nobody holds it up")),
                    }
                })
            })
            .collect();
        for (number, writer) in writers.into_iter().enumerate() {
            match writer.await.expect("a writer") {
                // Whoever was writing its rows went away: it is to try again.
                None | Some(Err(_)) => {
                    stands[number] = world::stands(&store, &view, number as u32).await.expect("where it stands");
                }
                Some(Ok(outcome)) => {
                    assert_eq!(outcome, WriteOutcome::Written);
                    stands[number] += 10;
                }
            }
        }
        for url in (0..120).step_by(17) {
            let range = KeyRange { key: Some(world::key(&view, &format!("u{url:03}"))), ..KeyRange::default() };
            let (counts, position) = world::counts(&store, &view, &range).await.expect("a read");
            let clicks: u64 = (0..PARTITIONS).filter_map(|number| position.get(&partition(number))).sum();
            assert_eq!(counts.values().sum::<i64>() as u64, clicks, "url {url} at {position}");
        }
    }
    assert!(stands.iter().any(|stands| *stands > 10), "some were patient");
    keyspace.drop().await;
}
