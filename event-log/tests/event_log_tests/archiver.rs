//! The archiver: cuts, racing, resuming, faults, and letting the log go of what is archived.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use event_log::archive::{Archive, Layout};
use event_log::archiver::{Archiver, ArchiverOptions, Ended};
use event_log::faulty_objects::{FaultyObjects, ObjectFaults};
use event_log::tiered::TieredLog;
use event_log::{Content, EventLog, LogError, Record, TopicSpec};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use views::{Segment, TopicPartition};

use crate::clicks::{MemoryLog, Schemas, append_time, click, clicks};
use crate::lagging::Lagging;

fn topic(partitions: u32, segment_records: u64) -> TopicSpec {
    TopicSpec { name: "clicks".to_owned(), partitions, segment_records }
}

fn first() -> TopicPartition {
    TopicPartition::new("clicks", 0)
}

fn quick() -> ArchiverOptions {
    ArchiverOptions { wait: Duration::from_millis(20), ..ArchiverOptions::default() }
}

fn start(log: &Arc<MemoryLog>, archive: &Arc<Archive>, topic: TopicSpec, options: ArchiverOptions) -> Archiver {
    Archiver::start(log.clone(), archive.clone(), Arc::new(Schemas), vec![topic], options)
}

fn in_memory() -> (Arc<InMemory>, Arc<Archive>) {
    let objects = Arc::new(InMemory::new());
    (objects.clone(), Arc::new(Archive::new(objects, "archive")))
}

/// The archived offsets of the first partition.
async fn cuts(archive: &Archive) -> Vec<(u64, u64)> {
    archive.list(&first()).await.unwrap().iter().map(|segment| (segment.start, segment.end)).collect()
}

/// Everything in the archive of a partition equals the log up to where the archive ends. Markers that cut nothing are not kept.
pub async fn assert_equals_log(archive: &Archive, log: &MemoryLog, partition: &TopicPartition) {
    let mut archived = Vec::new();
    let segments = archive.list(partition).await.unwrap();
    for segment in &segments {
        archived.extend(archive.read(segment).await.unwrap());
    }
    let end = segments.last().map_or(0, |segment| segment.end);
    let mut highest = 0;
    let mut expected = log.all(partition);
    expected.retain(|record| match record.content {
        _ if record.offset >= end => false,
        Content::Event { .. } => true,
        Content::Marker(number) => {
            let cuts = number > highest;
            highest = highest.max(number);
            cuts
        }
    });
    assert!(archived == expected, "{partition}: {} archived, {} expected", archived.len(), expected.len());
}

#[tokio::test]
async fn markers_that_rise_and_multiples_cut_and_nothing_else_does() {
    let log = MemoryLog::with("clicks", 1, 10).await;
    let (_, archive) = in_memory();
    let archiver = start(&log, &archive, topic(1, 10), quick());
    let mut appends = clicks(1, 25);
    appends.insert(4, Content::Marker(2)); // offset 4 cuts at 5
    appends.insert(6, Content::Marker(1)); // lower: cuts nothing
    appends.insert(7, Content::Marker(2)); // again: cuts nothing
    appends.insert(19, Content::Marker(5)); // the last of a multiple: one cut
    log.append(&first(), appends).await.unwrap();
    archiver.wait_sealed(&first(), 20).await.unwrap();
    assert_eq!(cuts(&archive).await, [(0, 5), (5, 10), (10, 20)]);
    assert_eq!(archiver.sealed(&first()), 20);

    let headers: Vec<_> = {
        let segments = archive.list(&first()).await.unwrap();
        let mut headers = Vec::new();
        for segment in &segments {
            headers.push(archive.header(segment).await.unwrap());
        }
        headers
    };
    let markers: Vec<_> =
        headers.iter().map(|it| (it.marker_before, it.marker_after.map(|(number, _)| number))).collect();
    assert_eq!(markers, [(0, Some(2)), (2, None), (2, Some(5))]);

    // A marker seals at once what came before it.
    let at = log.append(&first(), vec![Content::Marker(6)]).await.unwrap();
    archiver.wait_sealed(&first(), at.end).await.unwrap();
    assert_eq!(cuts(&archive).await[3..], [(20, 30)]);
    assert_equals_log(&archive, &log, &first()).await;
    archiver.stop().await;
}

#[tokio::test]
async fn gaps_in_the_offsets_make_empty_segments() {
    let log = MemoryLog::with("clicks", 1, 10).await;
    let (_, archive) = in_memory();
    let archiver = start(&log, &archive, topic(1, 10), quick());
    log.append(&first(), clicks(2, 3)).await.unwrap();
    log.skip(&first(), 32);
    log.append(&first(), clicks(3, 2)).await.unwrap();
    archiver.wait_sealed(&first(), 30).await.unwrap();
    assert_eq!(cuts(&archive).await, [(0, 10), (10, 20), (20, 30)]);
    // The log goes on after a gap to the end of the segment, without a record: the segment has ended all the same.
    log.skip(&first(), 3);
    archiver.wait_sealed(&first(), 40).await.unwrap();
    assert_equals_log(&archive, &log, &first()).await;
}

#[tokio::test]
async fn archivers_that_race_and_restart_make_the_same_archive() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let log = MemoryLog::with("clicks", 2, 50).await;
    let (objects, archive) = in_memory();
    let mut running = vec![start(&log, &archive, topic(2, 50), quick()), start(&log, &archive, topic(2, 50), quick())];
    let mut highest = 0;
    for _ in 0..40 {
        let partition = TopicPartition::new("clicks", chance.random_range(0..2));
        let mut appends: Vec<Content> = (0..chance.random_range(0..60)).map(|_| click(&mut chance, 1)).collect();
        if chance.random_bool(0.2) {
            appends.push(click(&mut chance, 2));
        }
        if chance.random_bool(0.5) {
            highest += 1;
            appends.push(Content::Marker(chance.random_range(highest / 2..=highest)));
        }
        log.append(&partition, appends).await.unwrap();
        if chance.random_bool(0.2) {
            let stopped = running.remove(0);
            if chance.random_bool(0.5) {
                stopped.stop().await;
            }
            drop(stopped);
            running.push(start(&log, &archive, topic(2, 50), quick()));
        }
    }
    for partition in (0..2).map(|number| TopicPartition::new("clicks", number)) {
        let end = log.append(&partition, vec![Content::Marker(1000)]).await.unwrap().end;
        for archiver in &running {
            archiver.wait_sealed(&partition, end).await.unwrap();
        }
        assert_equals_log(&archive, &log, &partition).await;
    }

    // Another archiver, alone, on another store: byte for byte the same objects.
    let (others, alone) = in_memory();
    let archiver = start(&log, &alone, topic(2, 50), quick());
    let all: Vec<_> = objects.list(None).try_collect().await.unwrap();
    for (partition, progress) in running[0].progress() {
        archiver.wait_sealed(&partition, progress.sealed).await.unwrap();
    }
    let same: Vec<_> = others.list(None).try_collect().await.unwrap();
    assert_eq!(all.len(), same.len(), "seed {seed}");
    for object in all {
        let one = objects.get(&object.location).await.unwrap().bytes().await.unwrap();
        let other = others.get(&object.location).await.unwrap().bytes().await.unwrap();
        assert!(one == other, "seed {seed}: {} differs", object.location);
    }
}

#[tokio::test]
async fn a_store_that_fails_and_forgets_delays_the_archive_and_no_more() {
    for seed in 0..20 {
        let log = MemoryLog::with("clicks", 1, 20).await;
        let inner = Arc::new(InMemory::new());
        let faults = ObjectFaults { fails: 0.3, lost: 0.3, slow: 0.3, slowness: Duration::from_millis(2) };
        let faulty = Arc::new(FaultyObjects::new(inner.clone(), faults, seed));
        let archive = Arc::new(Archive::new(faulty, "archive"));
        let options = ArchiverOptions { backoff: Duration::from_millis(1)..=Duration::from_millis(4), ..quick() };
        let archiver = start(&log, &archive, topic(1, 20), options);
        log.append(&first(), clicks(seed, 130)).await.unwrap();
        archiver.wait_sealed(&first(), 120).await.unwrap();
        assert_equals_log(&Archive::new(inner, "archive"), &log, &first()).await;
        archiver.stop().await;
    }
}

/// Archivers restart and the log lets go of what is archived, while listings show only what was put a while ago, and not in order.
#[tokio::test]
async fn a_listing_that_is_behind_does_no_harm() {
    let lag = Duration::from_millis(300);
    let inner = Arc::new(InMemory::new());
    let log = MemoryLog::with("clicks", 1, 10).await;
    let now = Arc::new(AtomicI64::new(append_time(1_000_000)));
    let options = || {
        let clock = now.clone();
        ArchiverOptions {
            retention: BTreeMap::from([("clicks".to_owned(), Duration::ZERO)]),
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
            backoff: Duration::from_millis(1)..=Duration::from_millis(20),
            ..quick()
        }
    };
    let lagging: Arc<dyn ObjectStore> = Arc::new(Lagging::new(inner.clone(), lag));
    let archive =
        Arc::new(Archive::new(lagging, "archive").with_listing_lag(Duration::from_secs(10)).in_parts_above(500));
    let mut all = Vec::new();
    for round in 0..8 {
        println!("round {round}: waiting for two archivers that see old listings");
        let archivers = [0, 1].map(|_| start(&log, &archive, topic(1, 10), options()));
        let written = log.append(&first(), clicks(round, 35)).await.unwrap();
        all.extend(log.all(&first()).into_iter().filter(|record| record.offset >= written.start));
        for archiver in &archivers {
            archiver.wait_sealed(&first(), written.end / 10 * 10).await.unwrap();
        }
        for archiver in archivers {
            archiver.stop().await;
        }
    }
    println!("waiting until the log has let go and a reader finds all of it in the archive");
    let end = all.len() as u64 / 10 * 10;
    log.trim(&first(), end).await.unwrap();
    let tiered = TieredLog::new(log.clone(), archive.clone());
    let mut read = Vec::new();
    while (read.len() as u64) < end {
        let next = read.len() as u64;
        read.extend(tiered.read(&first(), next, event_log::ReadLimit::records(1000)).await.unwrap());
    }
    all.truncate(read.len());
    assert!(read == all);
    let kept: Vec<_> = inner.list(None).try_collect().await.unwrap();
    assert_eq!(kept.len() as u64, end / 10, "no upload stays behind, and no segment is there twice");
}

#[tokio::test]
async fn what_cannot_be_helped_is_told_instead_of_waited_for() {
    // The log has let go of what is not archived.
    let log = MemoryLog::with("clicks", 1, 10).await;
    let (_, archive) = in_memory();
    log.append(&first(), clicks(4, 30)).await.unwrap();
    log.trim(&first(), 5).await.unwrap();
    let archiver = start(&log, &archive, topic(1, 10), quick());
    let Err(LogError::Hole(hole)) = archiver.wait_sealed(&first(), 10).await else { panic!("no hole") };
    assert!(hole.contains("clicks/0") && hole.contains('5'), "{hole}");
    assert!(matches!(&archiver.progress()[..], [(_, progress)] if matches!(progress.ended, Some(Ended::Hole(_)))));

    // The object is there with other content.
    let log = MemoryLog::with("clicks", 1, 10).await;
    let (_, archive) = in_memory();
    log.append(&first(), clicks(5, 10)).await.unwrap();
    let archiver = start(&log, &archive, topic(1, 10), quick());
    archiver.wait_sealed(&first(), 10).await.unwrap();
    let stranger = crate::clicks::records(10, clicks(6, 10));
    archive.put(&first(), Segment { start: 10, marker: 0 }, 20, &stranger, &Schemas).await.unwrap();
    log.append(&first(), clicks(7, 10)).await.unwrap();
    let Err(LogError::Damaged(other)) = archiver.wait_sealed(&first(), 20).await else { panic!("not refused") };
    assert!(other.contains("other content"), "{other}");
    // What it had sealed before stays true.
    archiver.wait_sealed(&first(), 10).await.unwrap();

    let unknown = archiver.wait_sealed(&TopicPartition::new("clicks", 9), 1).await;
    assert!(matches!(unknown, Err(LogError::NotFound(_))));
    let (_, archive) = in_memory();
    let log = MemoryLog::with("clicks", 1, 10).await;
    let archiver = start(&log, &archive, topic(1, 10), quick());
    archiver.stop().await;
    assert!(matches!(archiver.wait_sealed(&first(), 1).await, Err(LogError::Unavailable { .. })));
}

#[tokio::test]
async fn partitions_that_come_later_are_followed_too() {
    let log = MemoryLog::with("clicks", 1, 10).await;
    let (_, archive) = in_memory();
    let archiver = start(&log, &archive, topic(1, 10), quick());
    log.create_topic(&topic(3, 10)).await.unwrap();
    archiver.follow(&[topic(3, 10)]);
    let last = TopicPartition::new("clicks", 2);
    log.append(&last, clicks(8, 10)).await.unwrap();
    archiver.wait_sealed(&last, 10).await.unwrap();
    assert_equals_log(&archive, &log, &last).await;
}

#[tokio::test]
async fn the_log_lets_go_of_what_is_archived_and_old_and_of_nothing_else() {
    let log = MemoryLog::with("clicks", 1, 10).await;
    let (_, archive) = in_memory();
    let now = Arc::new(AtomicI64::new(0));
    let clock = now.clone();
    let options = ArchiverOptions {
        retention: BTreeMap::from([("clicks".to_owned(), Duration::from_secs(60))]),
        clock: Arc::new(move || clock.load(Ordering::SeqCst)),
        ..quick()
    };
    let archiver = start(&log, &archive, topic(1, 10), options.clone());
    log.append(&first(), clicks(9, 35)).await.unwrap();
    archiver.wait_sealed(&first(), 30).await.unwrap();
    assert_eq!(log.bounds("clicks").await.unwrap(), [0..35]);

    // The segments that end before 10 and 20 are old enough, the last by a microsecond; the third is not.
    now.store(append_time(19) + 60_000_000, Ordering::SeqCst);
    log.wait_start(&first(), 20).await;
    assert_eq!(log.bounds("clicks").await.unwrap(), [20..35]);
    archiver.stop().await;

    // However old it is, what is not archived stays. The ages come from the archive after a restart.
    now.store(append_time(1_000_000), Ordering::SeqCst);
    let archiver = start(&log, &archive, topic(1, 10), options);
    log.wait_start(&first(), 30).await;
    log.append(&first(), vec![Content::Marker(1)]).await.unwrap();
    archiver.wait_sealed(&first(), 36).await.unwrap();
    assert_eq!(log.bounds("clicks").await.unwrap()[0].start, 36);
    assert_equals_log(&archive, &log, &first()).await;
}

#[tokio::test]
async fn a_segment_as_large_as_it_gets_is_laid_flat_in_blocks() {
    let log = MemoryLog::with("clicks", 1, 40_000).await;
    let (objects, archive) = in_memory();
    let archiver = start(&log, &archive, topic(1, 40_000), quick());
    log.append(&first(), clicks(10, 40_000)).await.unwrap();
    archiver.wait_sealed(&first(), 40_000).await.unwrap();
    let segment = &archive.list(&first()).await.unwrap()[0];
    assert_eq!(archive.header(segment).await.unwrap().layout, Layout::Flat { schema_id: 1 });
    let raw: usize = log.all(&first()).iter().map(raw_bytes).sum();
    let stored: Vec<_> = objects.list(None).try_collect().await.unwrap();
    println!("{} bytes of records became {} bytes", raw, stored[0].size);
    assert!(stored[0].size < raw as u64);
    assert_equals_log(&archive, &log, &first()).await;
}

fn raw_bytes(record: &Record) -> usize {
    match &record.content {
        Content::Event { key, value } => key.as_ref().map_or(0, |key| key.len()) + value.len(),
        Content::Marker(_) => 0,
    }
}
