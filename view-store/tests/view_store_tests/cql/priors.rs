//! Reading the states to continue from: those of other partitions along with one's own.

use std::sync::Arc;

use view_store::store::{Beside, DeltaWrite, Progress, ViewDeltas, ViewStore, WriteOutcome};
use view_store::{CqlStore, StoreError};
use views::{Segment, View};

use super::server::Keyspace;
use super::world::{self, Counts, partition};

/// More groups than are read to see whether other partitions have them.
const URLS: i64 = 100;

fn all(count: i64) -> Counts {
    (0..URLS).map(|url| ((format!("u{url:03}"), 0), count)).collect()
}

async fn write(store: &CqlStore, view: &Arc<View>, number: u32, from: u64, to: u64, counts: &Counts) {
    let views = vec![ViewDeltas { view: view.clone(), segments: vec![(Segment::FIRST, world::states(view, counts))] }];
    let to = Progress { offset: to, segment: Segment::FIRST };
    let written = store.write_deltas(DeltaWrite { partition: partition(number), from, to, views }).await;
    assert_eq!(written.expect("a write"), WriteOutcome::Written);
}

fn at(offset: u64) -> Progress {
    Progress { offset, segment: Segment::FIRST }
}

async fn priors(
    store: &CqlStore,
    view: &Arc<View>,
    number: u32,
    at: Progress,
    beside: &[Beside],
) -> Result<Vec<(i64, u64)>, StoreError> {
    let priors = store.deltas(view, &partition(number), at, &world::states(view, &all(0)), beside).await?;
    Ok(world::counted(&priors.states).into_iter().map(|(_, count)| count).zip(priors.through).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_read_brings_the_states_of_several_partitions() {
    let keyspace = Keyspace::new("beside").await;
    let view = world::view("minutes");
    let writer = keyspace.store().await;
    for (number, count) in [(0, 10), (1, 20), (2, 30)] {
        write(&writer, &view, number, 0, count as u64, &all(count)).await;
    }
    // Partition 3 has one group only, and 2 has been where nobody says that it is.
    write(&writer, &view, 3, 0, 5, &[(("u007".to_owned(), 0), 5)].into()).await;
    write(&writer, &view, 2, 30, 35, &all(35)).await;

    let store = keyspace.store().await;
    let stands = [(0, 10), (1, 20), (2, 30), (3, 5)].map(|(partition, offset)| Beside { partition, at: at(offset) });
    let found = priors(&store, &view, 0, at(10), &stands).await.expect("priors");
    assert_eq!(found, vec![(10, 10); URLS as usize]);
    // What was not read yet cannot be read any more.
    for table in keyspace.tables().await {
        keyspace.run(&format!("TRUNCATE KS.{table}")).await;
    }
    assert_eq!(priors(&store, &view, 1, at(20), &stands).await.expect("priors"), vec![(20, 20); URLS as usize]);
    assert_eq!(priors(&store, &view, 3, at(5), &[]).await.expect("priors"), [(5, 5)]);
    // Nothing is taken for the state at one offset that was read for another, or that reaches past it.
    for (number, offset) in [(1, 19), (2, 30)] {
        assert_eq!(priors(&store, &view, number, at(offset), &[]).await.expect("priors"), []);
    }
    keyspace.drop().await;
}

/// Who goes on from what was brought along, and who goes on from a read of its own, come to the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_brought_along_is_forgotten_when_it_is_written() {
    let keyspace = Keyspace::new("brought").await;
    let view = world::view("minutes");
    let writer = keyspace.store().await;
    write(&writer, &view, 0, 0, 10, &all(10)).await;
    write(&writer, &view, 1, 0, 10, &all(10)).await;
    let store = keyspace.store().await;
    let stands = [0, 1].map(|partition| Beside { partition, at: at(10) });
    priors(&store, &view, 0, at(10), &stands).await.expect("priors");
    // Half of the groups are touched; the others keep what they have.
    let touched: Counts = all(15).into_iter().step_by(2).collect();
    write(&store, &view, 1, 10, 15, &touched).await;
    let found = priors(&store, &view, 1, at(15), &stands).await.expect("priors");
    assert_eq!(found, [(15, 15), (10, 10)].repeat(URLS as usize / 2));
    // Where it stood before is told by a task that has not heard of it: nothing goes back.
    priors(&store, &view, 0, at(10), &stands).await.expect("priors");
    assert_eq!(priors(&store, &view, 1, at(15), &stands).await.expect("priors"), found);
    keyspace.drop().await;
}
