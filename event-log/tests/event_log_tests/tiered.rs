//! One log of two tiers: readers do not notice where the log ends and the archive begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use event_log::archive::Archive;
use event_log::archiver::{Archiver, ArchiverOptions};
use event_log::durable_files::DurableFiles;
use event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use event_log::tiered::TieredLog;
use event_log::{Content, EventLog, LogError, ReadLimit, Record, TopicSpec};
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use views::TopicPartition;

use crate::clicks::{MemoryLog, Schemas, clicks};

fn first() -> TopicPartition {
    TopicPartition::new("clicks", 0)
}

struct Case {
    log: Arc<MemoryLog>,
    archive: Arc<Archive>,
    tiered: TieredLog,
}

/// A log of these contents, archived up to the last cut.
async fn case(contents: Vec<Content>, sealed: u64) -> Case {
    let log = MemoryLog::with("clicks", 1, 25).await;
    let archive = Arc::new(Archive::new(Arc::new(InMemory::new()), ""));
    log.append(&first(), contents).await.unwrap();
    let topic = TopicSpec { name: "clicks".to_owned(), partitions: 1, segment_records: 25 };
    let archiver =
        Archiver::start(log.clone(), archive.clone(), Arc::new(Schemas), vec![topic], ArchiverOptions::default());
    archiver.wait_sealed(&first(), sealed).await.unwrap();
    archiver.stop().await;
    let tiered = TieredLog::new(log.clone(), archive.clone());
    Case { log, archive, tiered }
}

async fn read_all(log: &dyn EventLog, from: u64, limit: ReadLimit) -> Vec<Record> {
    let mut all = Vec::new();
    let mut next = from;
    loop {
        let read = log.read(&first(), next, limit).await.unwrap();
        let Some(last) = read.last() else { return all };
        assert!(read.len() <= limit.records);
        next = last.offset + 1;
        all.extend(read);
    }
}

#[tokio::test]
async fn reads_go_on_across_the_trim_as_if_there_were_none() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut contents = clicks(seed, 190);
    contents.insert(30, Content::Marker(1));
    contents.insert(80, Content::Marker(2));
    let case = case(contents, 175).await;
    let whole = case.log.all(&first());
    assert_eq!(case.tiered.bounds("clicks").await.unwrap(), [0..192]);
    for trimmed in [0, 1, 25, 31, 100, 174, 175] {
        case.log.trim(&first(), trimmed).await.unwrap();
        assert_eq!(case.log.bounds("clicks").await.unwrap(), [trimmed..192]);
        assert_eq!(case.tiered.bounds("clicks").await.unwrap(), [0..192]);
        for _ in 0..20 {
            let from = chance.random_range(0..=192);
            let limit =
                ReadLimit { bytes: chance.random_range(1..4000), ..ReadLimit::records(chance.random_range(1..60)) };
            let read = read_all(&case.tiered, from, limit).await;
            assert!(read == whole[from as usize..], "seed {seed}: trimmed to {trimmed}, from {from}");
        }
    }
}

#[tokio::test]
async fn two_readers_and_appends_do_not_disturb_each_other() {
    let case = case(clicks(1, 100), 100).await;
    case.log.trim(&first(), 100).await.unwrap();
    let whole = case.log.all(&first());
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for step in 0..100 {
        one.extend(case.tiered.read(&first(), step, ReadLimit::records(1)).await.unwrap());
        two.extend(case.tiered.read(&first(), 99 - step, ReadLimit::records(1)).await.unwrap());
    }
    two.reverse();
    assert!(one == whole && two == whole);
    case.tiered.append(&first(), clicks(2, 3)).await.unwrap();
    assert_eq!(read_all(&case.tiered, 0, ReadLimit::records(40)).await, case.log.all(&first()));
}

#[tokio::test]
async fn what_neither_tier_has_is_a_hole() {
    let case = case(clicks(3, 60), 50).await;
    case.log.trim(&first(), 55).await.unwrap();
    let read = case.tiered.read(&first(), 10, ReadLimit::records(5)).await;
    let Err(LogError::Hole(hole)) = read else { panic!("{read:?}") };
    assert!(hole.contains("50 to 54") && hole.contains("clicks/0"), "{hole}");
}

#[tokio::test]
async fn damage_in_one_archived_segment_is_told_and_the_others_are_read() {
    use object_store::ObjectStoreExt;
    let objects = Arc::new(InMemory::new());
    let case = case(clicks(4, 75), 75).await;
    let archive = Arc::new(Archive::new(objects.clone(), ""));
    for segment in case.archive.list(&first()).await.unwrap() {
        let mut bytes = case.archive.open(&segment).await.unwrap().object().to_vec();
        if segment.start == 25 {
            let last = bytes.len() - 20;
            bytes[last] ^= 4;
        }
        objects.put(&archive.object_name(&segment), bytes.into()).await.unwrap();
    }
    assert!(objects.head(&"clicks/00000/00000000000000000025-00000000000000000050.avro".into()).await.is_ok());
    case.log.trim(&first(), 75).await.unwrap();
    let tiered = TieredLog::new(case.log.clone(), archive);
    assert_eq!(tiered.read(&first(), 0, ReadLimit::records(100)).await.unwrap().len(), 25);
    let Err(LogError::Damaged(message)) = tiered.read(&first(), 30, ReadLimit::records(1)).await else { panic!() };
    assert!(message.contains("00000000000000000025-"), "{message}");
    assert_eq!(tiered.read(&first(), 50, ReadLimit::records(100)).await.unwrap().len(), 25);
}

#[tokio::test]
async fn a_reader_at_the_end_waits_for_the_log() {
    let case = case(clicks(5, 25), 25).await;
    case.log.trim(&first(), 25).await.unwrap();
    let tiered = Arc::new(case.tiered);
    let reader = tiered.clone();
    let waiting = tokio::spawn(async move {
        let limit = ReadLimit { wait: Duration::from_secs(3600), ..ReadLimit::records(10) };
        reader.read(&first(), 25, limit).await
    });
    tokio::task::yield_now().await;
    tiered.append(&first(), clicks(6, 1)).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn the_embedded_log_archives_lets_go_and_reads_on() {
    let folder = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { file_bytes: 4 << 10, recent_bytes: 2 << 10, ..EmbeddedOptions::default() };
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(folder.path().join("log"), options).unwrap());
    let topic = TopicSpec { name: "clicks".to_owned(), partitions: 1, segment_records: 100 };
    log.create_topic(&topic).await.unwrap();
    let objects = Arc::new(DurableFiles::open(folder.path().join("archive")).unwrap());
    let archive = Arc::new(Archive::new(objects, ""));
    let options = ArchiverOptions {
        retention: BTreeMap::from([("clicks".to_owned(), Duration::ZERO)]),
        clock: Arc::new(|| i64::MAX),
        ..ArchiverOptions::default()
    };
    // Nothing is let go of before everything has been read once.
    let mut whole = Vec::new();
    for round in 0..5 {
        let mut contents = clicks(round, 90);
        contents.push(Content::Marker(round + 1));
        log.append(&first(), contents).await.unwrap();
    }
    whole.extend(read_all(&*log, 0, ReadLimit::records(1000)).await);
    assert_eq!(whole.len(), 455);

    let archiver = Archiver::start(log.clone(), archive.clone(), Arc::new(Schemas), vec![topic], options);
    archiver.wait_sealed(&first(), 455).await.unwrap();
    archiver.stop().await;
    let kept = log.bounds("clicks").await.unwrap()[0].start;
    assert!(kept > 0, "the log lets go of nothing");
    let tiered = TieredLog::new(log.clone(), archive);
    assert_eq!(tiered.bounds("clicks").await.unwrap(), [0..455]);
    for from in [0, 1, 90, 91, kept - 1, kept, 454, 455] {
        let read = read_all(&tiered, from, ReadLimit::records(37)).await;
        assert!(read == whole[from as usize..], "from {from}");
    }
}
