//! Deltas equal the oracle's, however the log is chopped up and whenever the layer is restarted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use event_log::{Content, EventLog, Record, TopicSpec};
use parking_lot::Mutex;
use rand::Rng;
use speed_layer::{RejectedEvent, RejectedSink, SpeedSettings};
use views::{Offset, Segment, TopicPartition};

use crate::oracle::{Event, broken};
use crate::world::{Topic, World, quick};

#[tokio::test]
async fn deltas_are_the_oracles_for_many_segment_lengths() {
    for (seed, segment_records) in [(1, 1), (2, 2), (3, 7), (4, 64), (5, 1 << 20)] {
        let mut world = World::new(seed, Topic::of_segments(segment_records)).await;
        world.append_some(300).await;
        let layer = world.start(world.sound_views(), quick());
        for _ in 0..5 {
            world.append_some(60).await;
            world.settle_all().await;
            world.check();
        }
        layer.shutdown().await;
    }
}

#[tokio::test]
async fn a_restart_anywhere_changes_nothing() {
    for seed in 0..40 {
        let segment_records = [3, 10, 50, 1000][seed as usize % 4];
        let mut world = World::new(seed, Topic::of_segments(segment_records)).await;
        for _ in 0..6 {
            world.append_some(80).await;
            let settings = SpeedSettings { max_records: world.random.random_range(1..60), ..quick() };
            let layer = world.start(world.sound_views(), settings);
            // Stops after some writes, wherever that is, unless everything is done before.
            let mut written = layer.written();
            let writes = world.random.random_range(0..4);
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
    }
}

#[tokio::test]
async fn only_higher_markers_cut() {
    let world = World::new(0, Topic { partitions: 1, segment_records: 100, window: None }).await;
    let partition = TopicPartition::new("clicks", 0);
    let one = || Event::new("ann", 1).record();
    let records = vec![one(), Content::Marker(3), one(), Content::Marker(3), one(), Content::Marker(2), one()];
    world.append(&partition, records).await;
    world.append(&partition, vec![Content::Marker(5), Content::Marker(6), one()]).await;
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    layer.shutdown().await;
    let segments: Vec<(Offset, u64)> = world.deltas(&world.view("totals"), &partition).into_keys().collect();
    assert_eq!(segments, [(0, 0), (2, 3), (9, 6)]);
    let progress = world.store.written_progress(&world.view("totals"), &partition);
    assert_eq!(progress.segment, Segment { start: 9, marker: 6 });
    world.check();
}

#[tokio::test]
async fn progress_passes_records_that_count_nowhere() {
    let world = World::new(0, Topic::of_segments(4)).await;
    let partition = TopicPartition::new("clicks", 1);
    world.append(&partition, vec![Content::Marker(1), broken(), Content::Marker(1), broken(), broken()]).await;
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    let mut written = layer.written();
    while layer.status().len() < 2 || layer.status()[1].position() < 5 {
        written.changed().await.expect("a write");
    }
    assert_eq!(layer.status().iter().map(|one| (one.position(), one.lag())).collect::<Vec<_>>(), [(0, 0), (5, 0)]);
    layer.shutdown().await;
    world.check();
}

#[derive(Default)]
struct Kept(Mutex<Vec<(TopicPartition, Offset, Record)>>);

#[async_trait]
impl RejectedSink for Kept {
    async fn take(
        &self,
        partition: &TopicPartition,
        events: &[RejectedEvent],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for event in events {
            assert!(!event.reason.is_empty());
            self.0.lock().push((partition.clone(), event.record.offset, event.record.clone()));
        }
        Ok(())
    }
}

#[tokio::test]
async fn every_rejected_event_is_handed_on_once_with_its_bytes() {
    let world = World::new(0, Topic::of_segments(10)).await;
    let kept = Arc::new(Kept::default());
    let partition = TopicPartition::new("clicks", 0);
    for number in 0..50 {
        let good = Event::new("ann", number).record();
        world.append(&partition, vec![good, broken(), Content::Marker(number as u64)]).await;
    }
    let layer = world.start_on(world.store.clone(), world.sound_views(), quick(), kept.clone(), "one");
    world.settle_all().await;
    layer.shutdown().await;
    let kept = kept.0.lock().clone();
    let expected: Vec<_> =
        world.log.records(&partition).into_iter().filter(|record| record.content == broken()).collect();
    assert_eq!(kept.into_iter().map(|(_, _, record)| record).collect::<Vec<_>>(), expected);
    world.check();
}

#[tokio::test]
async fn a_partition_that_is_added_is_followed() {
    let mut world = World::new(9, Topic::of_segments(10)).await;
    world.append_some(30).await;
    let layer = world.start(world.sound_views(), quick());
    world.settle_all().await;
    world.topic.partitions = 4;
    let spec = TopicSpec { name: "clicks".into(), partitions: 4, segment_records: 10 };
    world.log.create_topic(&spec).await.expect("more partitions");
    world.append_some(30).await;
    world.settle_all().await;
    assert_eq!(layer.status().len(), 4);
    layer.shutdown().await;
    world.check();
}

#[tokio::test]
async fn micro_batches_grow_with_the_lag_but_not_beyond_the_memory() {
    for (memory, most_states) in [(1 << 30, usize::MAX), (1 << 20, 8_000)] {
        let world = World::new(0, Topic { partitions: 1, segment_records: 1 << 20, window: None }).await;
        let partition = TopicPartition::new("clicks", 0);
        let keys = 30_000;
        for from in (0..keys).step_by(1000) {
            let events =
                (from..from + 1000).map(|key| Event::new(&format!("a user with the number {key}"), 1).record());
            world.append(&partition, events.collect()).await;
        }
        let settings = SpeedSettings {
            memory,
            read_records: 500,
            catch_up_interval: Duration::from_secs(3600),
            ..SpeedSettings::default()
        };
        let totals = vec![world.view("totals")];
        let layer = world.start(totals.clone(), settings);
        world.settle(&totals).await;
        layer.shutdown().await;
        let writes = world.store.writes();
        assert_eq!(writes.iter().sum::<usize>(), keys);
        let largest = writes.iter().copied().max().unwrap_or(0);
        assert!(largest <= most_states, "{largest} states in one write with {memory} bytes");
        if most_states == usize::MAX {
            assert!(largest >= keys - 1000, "a large lag made a small micro-batch: {largest}");
        }
    }
}
