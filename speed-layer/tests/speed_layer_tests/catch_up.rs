//! Views that stand apart: new ones, failing ones, and ones that a published generation carries forward.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use event_log::Content;
use speed_layer::SpeedSettings;
use views::{Offsets, Published, TopicPartition};

use crate::oracle::{Event, Shape, deltas};
use crate::world::{Topic, World, quick};

#[tokio::test]
async fn a_new_view_catches_up_and_joins_the_others() {
    for seed in 500..520 {
        let mut world = World::new(seed, Topic::of_segments(30)).await;
        let settings = SpeedSettings { close: 20, ..quick() };
        world.append_some(600).await;
        let old = vec![world.view("totals")];
        let layer = world.start(old.clone(), settings.clone());
        world.settle(&old).await;
        layer.shutdown().await;

        world.dice.set(30);
        world.append_some(50).await;
        let layer = world.start(world.sound_views(), settings);
        for _ in 0..3 {
            world.settle_all().await;
            world.append_some(50).await;
        }
        world.settle_all().await;
        layer.shutdown().await;
        world.check();
    }
}

/// Only lower bounds: how much longer it takes is the machine's business.
#[tokio::test]
async fn a_new_view_is_in_no_hurry_and_the_others_do_not_wait_for_it() {
    let world = World::new(0, Topic { partitions: 1, segment_records: 100, window: None }).await;
    let partition = TopicPartition::new("clicks", 0);
    let event = |n| Event::new("ann", n).record();
    world.append(&partition, (0..600).map(|_| event(1)).collect()).await;
    let old = vec![world.view("totals")];
    let layer = world.start(old.clone(), quick());
    world.settle(&old).await;
    layer.shutdown().await;

    let started = std::time::Instant::now();
    let settings = SpeedSettings { close: 20, backfill_rate: NonZeroU64::new(1000), ..quick() };
    let layer = world.start(world.sound_views(), settings);
    world.append(&partition, vec![event(2)]).await;
    world.settle(&old).await;
    let new = world.view("evens");
    assert!(world.store.written_progress(&new, &partition).offset < 601, "the others were first");
    world.settle_all().await;
    // The head takes it over when it is close, and whoever reads last need not wait for having read.
    let least = Duration::from_millis(600 - 20 - 17);
    assert!(started.elapsed() >= least, "600 records at 1000 a second took {:?}", started.elapsed());
    layer.shutdown().await;
    world.check();
}

#[tokio::test]
async fn a_view_that_fails_does_not_stop_the_others() {
    let world = World::new(0, Topic { partitions: 1, segment_records: 100, window: None }).await;
    let partition = TopicPartition::new("clicks", 0);
    let event = |n| Event::new("ann", n).record();
    world.append(&partition, vec![event(1), event(2)]).await;
    let views = vec![world.view("fragile"), world.view("totals"), world.view("evens")];
    let layer = world.start(views.clone(), quick());
    world.settle(&views).await;

    world.append(&partition, vec![event(3), event(13), event(4)]).await;
    world.settle_all().await;
    // The failure is reported before the next records are read, so their writing shows that it was.
    world.append(&partition, vec![event(5)]).await;
    world.settle_all().await;
    let status = layer.status().remove(0);
    let fragile = &status.views["fragile"];
    let failure = fragile.failed.as_ref().expect("it failed");
    assert!(failure.reason.to_lowercase().contains("zero"), "{}", failure.reason);
    assert_eq!((failure.from, failure.to, fragile.position), (3, 4, 2), "the event, and before what was read with it");
    assert_eq!(layer.counters().failed_views.load(Ordering::Relaxed), 1);
    assert!(status.views["totals"].failed.is_none());
    layer.shutdown().await;
    world.check();
    assert_eq!(world.store.written_progress(&world.view("fragile"), &partition).offset, 2);
}

#[tokio::test]
async fn a_partition_whose_views_all_failed_waits_quietly() {
    let world = World::new(0, Topic { partitions: 1, segment_records: 100, window: None }).await;
    let partition = TopicPartition::new("clicks", 0);
    world.append(&partition, vec![Event::new("ann", 13).record()]).await;
    let layer = world.start(vec![world.view("fragile")], quick());
    while layer.counters().failed_views.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    layer.shutdown().await;
    assert_eq!(world.store.written_progress(&world.view("fragile"), &partition).offset, 0);
}

/// Publishes a generation whose frontier is right after the last record of the partition, which is a marker.
fn published(world: &World, generation: u64, views: &[&str]) -> Published {
    let ends = world.partitions().map(|partition| {
        let end = world.log.records(&partition).len() as u64;
        (partition, end)
    });
    let fingerprints = views.iter().map(|name| {
        let view = world.view(name);
        (view.name.clone(), view.fingerprint.clone())
    });
    let (frontier, views) = (ends.collect::<Offsets>(), fingerprints.collect::<BTreeMap<_, _>>());
    Published { generation, frontier, views, behind: Vec::new() }
}

#[tokio::test]
async fn a_view_starts_at_the_published_frontier() {
    for seed in 600..620 {
        let mut world = World::new(seed, Topic::of_segments(40)).await;
        world.append_some(200).await;
        for partition in world.partitions() {
            // Higher than the generation's own number: generation 20's marker never got here.
            world.append(&partition, vec![Content::Marker(21)]).await;
        }
        let published = published(&world, 20, &["totals"]);
        world.store.set_published(published.clone());
        world.append_some(100).await;
        let layer = world.start(world.sound_views(), SpeedSettings { close: 10, ..quick() });
        world.append_some(100).await;
        world.settle_all().await;
        layer.shutdown().await;
        world.check_view("evens", Shape::Evens);
        let totals = world.view("totals");
        for partition in world.partitions() {
            let frontier = published.frontier.get(&partition).expect("every partition is named");
            let mut expected = deltas(Shape::Totals, &world.log.records(&partition), 40, None);
            expected.retain(|(start, _), _| *start >= frontier);
            assert_eq!(world.deltas(&totals, &partition), expected, "{partition}");
        }
    }
}

#[tokio::test]
async fn a_generation_that_is_published_meanwhile_moves_the_views() {
    for seed in 700..730 {
        let mut world = World::new(seed, Topic::of_segments(40)).await;
        let layer = world.start(world.sound_views(), SpeedSettings { close: 10, ..quick() });
        let mut frontier = Offsets::new();
        for generation in [20, 30, 40] {
            world.append_some(150).await;
            for partition in world.partitions() {
                world.append(&partition, vec![Content::Marker(generation)]).await;
            }
            // Anywhere in the middle of the layer's work.
            let published = published(&world, generation, &["totals", "evens"]);
            frontier = published.frontier.clone();
            world.store.set_published(published);
            world.append_some(60).await;
        }
        world.append(&TopicPartition::new("clicks", 0), vec![Event::new("ann", 1).record()]).await;
        world.append(&TopicPartition::new("clicks", 1), vec![Event::new("ann", 1).record()]).await;
        world.settle_all().await;
        layer.shutdown().await;
        // What the frontier covers is of no interest any more; everything past it is exact.
        for (name, shape) in [("totals", Shape::Totals), ("evens", Shape::Evens)] {
            let view: Arc<views::View> = world.view(name);
            for partition in world.partitions() {
                let frontier = frontier.get(&partition).unwrap_or(0);
                let past = |(start, _): &(u64, u64)| *start >= frontier;
                let mut expected = deltas(shape, &world.log.records(&partition), 40, None);
                expected.retain(|segment, _| past(segment));
                let mut found = world.deltas(&view, &partition);
                found.retain(|segment, _| past(segment));
                assert_eq!(found, expected, "{name} in {partition}");
            }
        }
    }
}
