//! Failing logs and stores, lost acknowledgements, several owners: the deltas stay exact.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use event_log::Content;
use futures::stream::BoxStream;
use rand::Rng;
use speed_layer::{OnlyCounted, Owned, SpeedLayer, SpeedParts, SpeedSettings};
use tokio::sync::watch;
use view_store::{
    Beside, DeltaWrite, KeyRange, Priors, Progress, PublishOutcome, StoreError, ViewRead, ViewStore, WriteOutcome,
};
use views::{Offset, Published, TopicPartition, View};

use crate::memory_store::MemoryStore;
use crate::oracle::Event;
use crate::world::{Topic, World, quick};

#[tokio::test]
async fn calls_that_fail_and_acknowledgements_that_get_lost_change_nothing() {
    let mut failures = 0;
    for seed in 0..80 {
        let segment_records = [2, 9, 40, 500][seed as usize % 4];
        let mut world = World::new(seed, Topic::of_segments(segment_records)).await;
        world.dice.set(world.random.random_range(10..300));
        let settings = SpeedSettings { max_records: world.random.random_range(1..100), ..quick() };
        let layer = world.start(world.sound_views(), settings);
        for _ in 0..3 {
            world.append_some(60).await;
            world.settle_all().await;
        }
        failures += layer.counters().failures.load(Ordering::Relaxed);
        layer.shutdown().await;
        world.check();
    }
    assert!(failures > 100, "the dice were asleep: {failures} failures");
}

#[tokio::test]
async fn two_owners_at_once_are_exact() {
    let mut conflicts = 0;
    for seed in 200..230 {
        let mut world = World::new(seed, Topic::of_segments(20)).await;
        world.dice.set(if seed % 2 == 0 { 0 } else { 50 });
        world.append_some(100).await;
        let start =
            |name| world.start_on(world.store.clone(), world.sound_views(), quick(), Arc::new(OnlyCounted), name);
        let (one, two) = (start("one"), start("two"));
        for _ in 0..4 {
            world.append_some(40).await;
            world.settle_all().await;
        }
        for layer in [one, two] {
            conflicts += layer.counters().conflicts.load(Ordering::Relaxed);
            layer.shutdown().await;
        }
        world.check();
    }
    assert!(conflicts > 0, "the owners never met");
}

/// A store whose writes wait until it is opened: an owner that is stopped in the middle.
struct Held {
    store: Arc<dyn ViewStore>,
    open: watch::Sender<bool>,
    waiting: watch::Sender<u64>,
}

#[async_trait]
impl ViewStore for Held {
    async fn published(&self) -> Result<Option<Published>, StoreError> {
        self.store.published().await
    }

    async fn read(&self, view: &Arc<View>, range: &KeyRange) -> Result<ViewRead, StoreError> {
        self.store.read(view, range).await
    }

    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> Result<Progress, StoreError> {
        self.store.progress(view, partition).await
    }

    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &RecordBatch,
        beside: &[Beside],
    ) -> Result<Priors, StoreError> {
        self.store.deltas(view, partition, at, groups, beside).await
    }

    async fn write_deltas(&self, write: DeltaWrite) -> Result<WriteOutcome, StoreError> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.store.write_deltas(write).await
    }

    async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        rows: BoxStream<'static, Result<RecordBatch, StoreError>>,
    ) -> Result<u64, StoreError> {
        self.store.write_generation(view, generation, rows).await
    }

    async fn publish(&self, next: &Published) -> Result<PublishOutcome, StoreError> {
        self.store.publish(next).await
    }

    async fn retire(&self, views: &[Arc<View>]) -> Result<(), StoreError> {
        self.store.retire(views).await
    }
}

#[tokio::test]
async fn a_stale_owner_that_wakes_up_writes_nothing() {
    for seed in 300..320 {
        let mut world = World::new(seed, Topic { partitions: 1, segment_records: 30, window: None }).await;
        while world.log.records(&TopicPartition::new("clicks", 0)).is_empty() {
            world.append_some(50).await;
        }
        let held =
            Arc::new(Held { store: world.store.clone(), open: watch::channel(false).0, waiting: watch::channel(0).0 });
        let stale = world.start_on(held.clone(), world.sound_views(), quick(), Arc::new(OnlyCounted), "stale");
        held.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.expect("a write that waits");
        let owner = world.start_on(world.store.clone(), world.sound_views(), quick(), Arc::new(OnlyCounted), "owner");
        world.append_some(50).await;
        world.settle_all().await;
        owner.shutdown().await;
        let before = world.deltas(&world.view("totals"), &TopicPartition::new("clicks", 0));
        held.open.send_replace(true);
        stale.shutdown().await;
        assert_eq!(world.deltas(&world.view("totals"), &TopicPartition::new("clicks", 0)), before);
        world.check();
    }
}

/// So that a store can read what all of them go on from at once. It is told the truth: see the memory store.
#[tokio::test]
async fn tasks_that_begin_tell_each_other_where_they_stand() {
    let world = World::new(7, Topic { partitions: 3, segment_records: 10_000, window: None }).await;
    let append_to_all = async |world: &World| {
        for partition in world.partitions() {
            world.append(&partition, (0..50).map(|n| Event::new("ann", n).record()).collect()).await;
        }
    };
    append_to_all(&world).await;
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    layer.shutdown().await;
    let told = world.store.told();
    append_to_all(&world).await;
    let held =
        Arc::new(Held { store: world.store.clone(), open: watch::channel(false).0, waiting: watch::channel(0).0 });
    let layer = world.start_on(held.clone(), world.sound_views(), quick(), Arc::new(OnlyCounted), "next");
    println!("waiting for three tasks that are about to write");
    held.waiting.subscribe().wait_for(|waiting| *waiting == 3).await.expect("writes that wait");
    // The last that began has heard of both others, for each view.
    assert!(world.store.told() >= told + 2 * world.sound_views().len(), "{} and {told}", world.store.told());
    held.open.send_replace(true);
    world.settle_all().await;
    append_to_all(&world).await;
    world.settle_all().await;
    // Whoever has written twice has done with beginning.
    let told = world.store.told();
    append_to_all(&world).await;
    world.settle_all().await;
    assert_eq!(world.store.told(), told);
    layer.shutdown().await;
    world.check();
}

#[tokio::test]
async fn a_shutdown_leaves_nothing_half_written() {
    for seed in 400..440 {
        let mut world = World::new(seed, Topic::of_segments(25)).await;
        world.append_some(200).await;
        let layer = world.start(world.sound_views(), quick());
        let writes = world.random.random_range(0..6);
        let mut written = layer.written();
        tokio::select! {
            _ = written.wait_for(|count| *count >= writes) => {}
            () = world.settle_all() => {}
        }
        layer.shutdown().await;
        // Whatever was written is exact up to the progress that was written with it, for every view alike.
        for partition in world.partitions() {
            let [totals, evens] =
                ["totals", "evens"].map(|name| world.store.written_progress(&world.view(name), &partition));
            assert_eq!(totals, evens);
            let records = &world.log.records(&partition)[..totals.offset as usize];
            let expected = crate::oracle::deltas(crate::oracle::Shape::Totals, records, 25, None);
            assert_eq!(world.deltas(&world.view("totals"), &partition), expected);
        }
    }
}

/// A store of rows apart: nobody is stopped from writing beside another, writes break off in the middle, and deltas are there
/// before the progress that covers them.
#[tokio::test]
async fn owners_that_meet_in_a_store_of_rows_apart_are_exact() {
    let mut broken_off = 0;
    for seed in 500..560 {
        let segment_records = [3, 20, 70, 1000][seed as usize % 4];
        let mut world = World::new(seed, Topic::of_segments(segment_records)).await;
        world.store = MemoryStore::apart(world.dice.clone());
        world.dice.set(if seed % 3 == 0 { 0 } else { world.random.random_range(1..60) });
        world.append_some(100).await;
        let owners: Vec<_> = (0..world.random.random_range(1..4))
            .map(|number| {
                let settings = SpeedSettings { max_records: world.random.random_range(1..100), ..quick() };
                let sink = Arc::new(OnlyCounted);
                world.start_on(world.store.clone(), world.sound_views(), settings, sink, &format!("owner {number}"))
            })
            .collect();
        for _ in 0..3 {
            world.append_some(60).await;
            world.settle_all().await;
        }
        for layer in owners {
            broken_off += layer.counters().failures.load(Ordering::Relaxed);
            layer.shutdown().await;
        }
        // Whoever comes last has what the others left behind, half written or not.
        world.dice.set(0);
        world.append_some(30).await;
        let last = world.start(world.sound_views(), quick());
        world.settle_all().await;
        last.shutdown().await;
        world.check();
    }
    assert!(broken_off > 100, "the dice were asleep: {broken_off} failures");
}

/// Processes share the partitions, and who has which changes all the time.
#[tokio::test]
async fn partitions_that_change_hands_are_exact() {
    for seed in 600..620 {
        let window = (seed % 2 == 0).then(|| Duration::from_millis(50));
        let mut world = World::new(seed, Topic { partitions: 3, segment_records: 40, window }).await;
        world.store = MemoryStore::apart(world.dice.clone());
        world.dice.set(if seed % 3 == 0 { 0 } else { 20 });
        let partitions: Vec<_> = world.partitions().collect();
        let (owned, owners): (Vec<_>, Vec<_>) = (0..2)
            .map(|number| {
                let owned = watch::channel(BTreeSet::new()).0;
                let parts = SpeedParts {
                    owned: Owned::named(owned.subscribe()),
                    ..world.parts(world.store.clone(), &format!("owner {number}"))
                };
                (owned, SpeedLayer::start(parts, world.sound_views(), quick()).expect("a start"))
            })
            .unzip();
        for _ in 0..6 {
            let mut sets = [BTreeSet::new(), BTreeSet::new()];
            for partition in &partitions {
                sets[world.random.random_range(0..2)].insert(partition.clone());
            }
            for (owned, set) in owned.iter().zip(sets) {
                owned.send_replace(set);
            }
            world.append_some(60).await;
            if world.random.random_range(0..2) == 0 {
                world.settle_all().await;
            }
        }
        world.settle_all().await;
        for layer in &owners {
            layer.stop().await;
        }
        world.check();
    }
}

/// What a process does not own it does not touch.
#[tokio::test]
async fn a_partition_that_is_not_owned_is_left_alone() {
    let mut world = World::new(700, Topic { partitions: 2, segment_records: 40, window: None }).await;
    world.append_some(60).await;
    let [mine, other] = [0, 1].map(|number| TopicPartition::new("clicks", number));
    world.append(&mine, vec![Content::Marker(1)]).await;
    world.append(&other, vec![Content::Marker(1)]).await;
    let owned = watch::channel(BTreeSet::from([mine.clone()])).0;
    let parts = SpeedParts { owned: Owned::named(owned.subscribe()), ..world.parts(world.store.clone(), "one") };
    let layer = SpeedLayer::start(parts, world.sound_views(), quick()).expect("a start");
    let mut changed = world.store.changed();
    let totals = world.view("totals");
    let end = |partition: &TopicPartition| world.log.records(partition).len() as Offset;
    while world.store.written_progress(&totals, &mine).offset < end(&mine) {
        changed.changed().await.expect("the store is there");
    }
    assert_eq!(world.store.written_progress(&totals, &other), Progress::START);
    assert_eq!(layer.status().len(), 1);
    owned.send_replace(BTreeSet::from([other.clone()]));
    while world.store.written_progress(&totals, &other).offset < end(&other) {
        changed.changed().await.expect("the store is there");
    }
    assert_eq!(layer.status().iter().map(|status| &status.partition).collect::<Vec<_>>(), [&other]);
    layer.shutdown().await;
    world.check();
}
