//! Repeated deliveries count once, by the rule as the oracle has it: whatever is restarted or lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use event_log::Content;
use rand::Rng;
use speed_layer::{OnlyCounted, SpeedSettings};
use views::TopicPartition;

use crate::memory_store::MemoryStore;
use crate::oracle::{Event, duplicates};
use crate::world::{Topic, World, quick};

/// As wide as a slot of the index is at least: a few windows are a few slots.
const LONG: Duration = Duration::from_secs(600);
/// Many windows in one slot.
const SHORT: Duration = Duration::from_millis(1);

fn topic(window: Duration) -> Topic {
    Topic { partitions: 2, segment_records: 30, window: Some(window) }
}

fn some_topic(seed: u64) -> Topic {
    topic(if seed.is_multiple_of(2) { LONG } else { SHORT })
}

/// Appends events in several appends, with time passing in between: often none, sometimes exactly a window, seldom long.
async fn append_over_time(world: &mut World, appends: usize) {
    let window = world.topic.window.expect("ids are recognised").as_micros() as i64;
    for _ in 0..appends {
        let pass = match world.random.random_range(0..20) {
            0..10 => 0,
            10..18 => world.random.random_range(1..window / 8),
            18 => window,
            _ => world.random.random_range(window / 2..window * 3),
        };
        world.log.pass(pass);
        world.append_some(6).await;
    }
}

#[tokio::test]
async fn the_edge_of_the_window_belongs_to_it() {
    let world = World::new(0, topic(LONG)).await;
    let window = LONG.as_micros() as i64;
    let partition = TopicPartition::new("clicks", 0);
    let same = || Event::new("ann", 2).with_id("same").record();
    // A window later is a duplicate, and so is the next, of the duplicate; more than a window later it counts again.
    for pass in [0, window, window, window + 1] {
        world.log.pass(pass);
        world.append(&partition, vec![same(), Content::Marker(1)]).await;
    }
    world.append(&partition, vec![Event::new("ann", 2).record(), Event::new("ann", 2).record()]).await;
    assert_eq!(duplicates(&world.log.records(&partition), window).len(), 2);
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    assert_eq!(layer.counters().duplicates.load(Ordering::Relaxed), 2);
    layer.shutdown().await;
    world.check();
}

#[tokio::test]
async fn duplicates_are_the_oracles_through_restarts_and_losses() {
    let mut found = 0;
    for seed in 800..816 {
        let mut world = World::new(seed, some_topic(seed)).await;
        for _ in 0..5 {
            append_over_time(&mut world, 25).await;
            if world.random.random_range(0..3) == 0 {
                let _ = std::fs::remove_dir_all(world.dedupe_dir("one"));
            }
            world.dice.set(if world.random.random_range(0..2) == 0 { 60 } else { 0 });
            let settings = SpeedSettings { max_records: world.random.random_range(1..60), ..quick() };
            let layer = world.start(world.sound_views(), settings);
            let mut written = layer.written();
            let writes = world.random.random_range(0..5);
            tokio::select! {
                _ = written.wait_for(|count| *count >= writes) => {}
                () = world.settle_all() => {}
            }
            layer.shutdown().await;
        }
        let layer = world.start(world.sound_views(), quick());
        world.settle_all().await;
        layer.shutdown().await;
        world.check();
        let window = world.topic.window.expect("ids are recognised").as_micros() as i64;
        found += world.partitions().map(|one| duplicates(&world.log.records(&one), window).len()).sum::<usize>();
    }
    assert!(found > 1000, "hardly any duplicates: {found}");
}

#[tokio::test]
async fn two_owners_with_an_index_each_agree() {
    for seed in 850..856 {
        let mut world = World::new(seed, some_topic(seed)).await;
        append_over_time(&mut world, 30).await;
        let start =
            |name| world.start_on(world.store.clone(), world.sound_views(), quick(), Arc::new(OnlyCounted), name);
        let layers = [start("one"), start("two")];
        append_over_time(&mut world, 30).await;
        world.settle_all().await;
        for layer in layers {
            layer.shutdown().await;
        }
        world.check();
    }
}

#[tokio::test]
async fn a_new_view_judges_old_records_although_the_index_began_later() {
    for seed in 870..876 {
        let mut world = World::new(seed, some_topic(seed)).await;
        append_over_time(&mut world, 60).await;
        let old = vec![world.view("totals")];
        let layer = world.start(old.clone(), quick());
        world.settle(&old).await;
        layer.shutdown().await;
        std::fs::remove_dir_all(world.dedupe_dir("one")).expect("it was there");
        append_over_time(&mut world, 10).await;
        let layer = world.start(world.sound_views(), SpeedSettings { close: 5, ..quick() });
        world.settle_all().await;
        append_over_time(&mut world, 10).await;
        world.settle_all().await;
        layer.shutdown().await;
        world.check();
    }
}

#[tokio::test]
async fn a_lost_index_is_rebuilt_from_one_window_and_a_lost_store_from_the_start() {
    let mut world = World::new(890, topic(LONG)).await;
    for _ in 0..40 {
        world.log.pass(LONG.as_micros() as i64 / 3);
        world.append_some(80).await;
    }
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    layer.shutdown().await;
    let total: usize = world.partitions().map(|one| world.log.records(&one).len()).sum();

    std::fs::remove_dir_all(world.dedupe_dir("one")).expect("it was there");
    let before = world.log.handed_out();
    world.append_some(80).await;
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    layer.shutdown().await;
    world.check();
    let read = world.log.handed_out() - before;
    assert!(read < total / 3, "{read} of {total} records were read for one window");

    // Now the index begins late, and everything has to be judged once more.
    world.store = MemoryStore::new(world.dice.clone());
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    layer.shutdown().await;
    world.check();
}

#[tokio::test]
async fn ids_of_any_length_are_told_apart() {
    let world = World::new(0, Topic { partitions: 1, segment_records: 1000, window: Some(SHORT) }).await;
    let partition = TopicPartition::new("clicks", 0);
    let long = "x".repeat(100_000);
    let ids = ["", "x", "xx", &long, &format!("{long}y"), "", "x", "xx", &long, &format!("{long}y")];
    let events = ids.iter().map(|id| Event::new("ann", 1).with_id(id).record()).collect();
    world.append(&partition, events).await;
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    assert_eq!(layer.counters().duplicates.load(Ordering::Relaxed), 5);
    layer.shutdown().await;
    world.check();
}
