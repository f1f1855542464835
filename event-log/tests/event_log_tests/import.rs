//! Imported events: from the spool into the archive, and read back as one log with what comes after.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use event_log::archive::Archive;
use event_log::archiver::{Archiver, ArchiverOptions};
use event_log::dead_letter;
use event_log::encode::EncodedEvent;
use event_log::import::{self, Spool, Spooled};
use event_log::tiered::TieredLog;
use event_log::{
    Beginning, Beginnings, Content, EmbeddedLog, EmbeddedOptions, EventLog, LogError, ReadLimit, TopicSpec,
};
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use views::TopicPartition;

use crate::clicks::{Schemas, click};

const PARTITIONS: u32 = 3;

struct Case {
    directory: TempDir,
    log: Arc<EmbeddedLog>,
    archive: Arc<Archive>,
    topic: TopicSpec,
    /// What is imported, by partition.
    events: Vec<Vec<Content>>,
}

fn of(partition: u32) -> TopicPartition {
    TopicPartition::new("clicks", partition)
}

fn encoded(content: &Content) -> EncodedEvent {
    let Content::Event { key, value } = content else { panic!("{content:?}") };
    EncodedEvent { key: key.clone(), value: value.clone() }
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let segment_records = chance.random_range(1..60);
        let counts = [
            chance.random_range(0..200),
            // Exactly at a multiple, one before, one after.
            segment_records * chance.random_range(1..4) + chance.random_range(0..3) - 1,
            0,
        ];
        let events = counts.map(|count| {
            // Several writer schemas, and what is none.
            let kind = chance.random_range(0..4);
            let event = |chance: &mut StdRng| match kind {
                0 if chance.random_bool(0.05) => Content::Event { key: None, value: Bytes::from_static(b"no frame") },
                1 => {
                    let id = chance.random_range(1..=2);
                    click(chance, id)
                }
                _ => click(chance, 1),
            };
            (0..count).map(|_| event(&mut chance)).collect()
        });
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::default() };
        let log = Arc::new(EmbeddedLog::open(directory.path().join("log"), options).unwrap());
        let archive = Arc::new(Archive::new(Arc::new(InMemory::new()), ""));
        let topic = TopicSpec { name: "clicks".to_owned(), partitions: PARTITIONS, segment_records };
        Self { directory, log, archive, topic, events: events.into() }
    }

    fn spooled(&self) -> Spooled {
        let mut spool = Spool::new(&self.directory.path().join("spill"), PARTITIONS).unwrap();
        for (partition, events) in (0..).zip(&self.events) {
            events.iter().for_each(|event| spool.push(partition, &encoded(event)).unwrap());
        }
        assert_eq!(
            std::fs::read_dir(self.directory.path().join("spill")).unwrap().count(),
            0,
            "nothing can stay behind"
        );
        spool.finish().unwrap()
    }

    async fn begin(&self) -> (Beginning, Spooled) {
        let spooled = self.spooled();
        (self.log.begin_topic(&self.topic, &spooled.imported()).await.unwrap(), spooled)
    }

    async fn put(&self, partition: u32, beginning: &Beginning, spooled: &Spooled) -> Result<u64, LogError> {
        let done = Arc::new(AtomicU64::new(0));
        let records = self.topic.segment_records;
        import::put_segments(&self.archive, &Schemas, &of(partition), records, beginning, spooled, &done).await
    }

    async fn import(&self) -> Beginning {
        let (beginning, spooled) = self.begin().await;
        for partition in 0..PARTITIONS {
            let segments = self.put(partition, &beginning, &spooled).await.unwrap();
            assert_eq!(segments, beginning.end(partition).div_ceil(self.topic.segment_records));
        }
        beginning
    }
}

async fn read_all(log: &dyn EventLog, of: &TopicPartition, records: usize) -> Vec<event_log::Record> {
    let mut all: Vec<event_log::Record> = Vec::new();
    loop {
        let next = all.last().map_or(0, |record| record.offset + 1);
        let read = log.read(of, next, ReadLimit::records(records)).await.unwrap();
        if read.is_empty() {
            return all;
        }
        all.extend(read);
    }
}

/// From the first imported event to the last that was appended there is one log, without a gap, and the archiver goes on where the import
/// ended.
#[tokio::test]
async fn imported_events_and_what_comes_after_are_one_log() {
    let seed: u64 = rand::random();
    for seed in (0..25).map(|number| seed.wrapping_add(number)) {
        println!("seed {seed}");
        let case = Case::new(seed);
        let mut chance = StdRng::seed_from_u64(seed);
        let beginning = case.import().await;
        import::check_complete(&case.archive, "clicks", &beginning).await.unwrap();
        let tiered = TieredLog::new(case.log.clone(), case.archive.clone());
        let topics = vec![case.topic.clone()];
        let archiver = Archiver::start(
            case.log.clone(),
            case.archive.clone(),
            Arc::new(Schemas),
            topics,
            ArchiverOptions::default(),
        );
        for (partition, events) in (0..).zip(&case.events) {
            let end = beginning.end(partition);
            let mut expected = events.clone();
            expected.extend((end > 0).then_some(Content::Marker(1)));
            assert_eq!(tiered.bounds("clicks").await.unwrap()[partition as usize], 0..end);
            // The reader comes to the end of the log without anything having been appended.
            let read = read_all(&tiered, &of(partition), chance.random_range(1..90)).await;
            assert_eq!(read.len() as u64, end);
            let live: Vec<Content> = (0..chance.random_range(1..150)).map(|_| click(&mut chance, 1)).collect();
            expected.extend(live.clone());
            expected.push(Content::Marker(2));
            tiered.append(&of(partition), live).await.unwrap();
            tiered.append(&of(partition), vec![Content::Marker(2)]).await.unwrap();
            let read = read_all(&tiered, &of(partition), chance.random_range(1..90)).await;
            assert!(read.iter().map(|record| &record.content).eq(&expected), "partition {partition}");
            assert!(read.iter().enumerate().all(|(place, record)| record.offset == place as u64));
            assert!(read.is_sorted_by_key(|record| record.append_time));
            assert!(read[..end as usize].iter().all(|record| record.append_time == beginning.append_time));
            archiver.wait_sealed(&of(partition), expected.len() as u64).await.unwrap();
            let listed = case.archive.list(&of(partition)).await.unwrap();
            assert!(listed.iter().any(|segment| segment.end == end) || end == 0, "the import ends at a cut");
            let mut archived = Vec::new();
            for segment in &listed {
                archived.extend(case.archive.read(segment).await.unwrap());
            }
            assert_eq!(archived, read, "partition {partition}");
        }
        archiver.stop().await;
    }
}

#[tokio::test]
async fn an_import_that_is_broken_off_is_a_hole_until_it_is_done_again() {
    let seed: u64 = rand::random();
    for seed in (0..15).map(|number| seed.wrapping_add(number)) {
        println!("seed {seed}");
        let case = Case::new(seed);
        let mut chance = StdRng::seed_from_u64(seed);
        let beginning = case.import().await;
        let Some(partition) = (0..PARTITIONS).find(|partition| beginning.end(*partition) > 0) else { continue };
        let whole = read_all(&TieredLog::new(case.log.clone(), case.archive.clone()), &of(partition), 50).await;
        // Broken off before any of its objects was put.
        let listed = case.archive.list(&of(partition)).await.unwrap();
        let missing = &listed[chance.random_range(0..listed.len())];
        case.archive.objects().delete(&case.archive.object_name(missing)).await.unwrap();

        let incomplete = import::check_complete(&case.archive, "clicks", &beginning).await;
        let Err(LogError::Hole(hole)) = incomplete else { panic!("{incomplete:?}") };
        assert!(hole.contains(&format!("offsets {} to", missing.start)) && hole.contains("run the same"), "{hole}");
        let tiered = TieredLog::new(case.log.clone(), case.archive.clone());
        let mut next = 0;
        let error = loop {
            match tiered.read(&of(partition), next, ReadLimit::records(20)).await {
                Ok(read) => next = read.last().expect("nothing may look like an end").offset + 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, LogError::Hole(_)), "{error}");

        assert_eq!(case.import().await, beginning, "the append time is that of the first time");
        import::check_complete(&case.archive, "clicks", &beginning).await.unwrap();
        let tiered = TieredLog::new(case.log.clone(), case.archive.clone());
        assert_eq!(read_all(&tiered, &of(partition), 50).await, whole);
    }
}

#[tokio::test]
async fn a_segment_that_is_there_with_other_events_is_refused() {
    let mut case = Case::new(1);
    case.events = vec![(0..20).map(|number| click(&mut StdRng::seed_from_u64(number), 1)).collect(), vec![], vec![]];
    let beginning = case.import().await;
    case.events[0].swap(3, 4);
    let spooled = case.spooled();
    let other = case.log.begin_topic(&case.topic, &spooled.imported()).await;
    assert!(matches!(other, Err(LogError::Invalid(_))), "{other:?}");
    // Even one who did not ask the log would not get past the archive.
    let put = case.put(0, &beginning, &spooled).await;
    assert!(matches!(put, Err(LogError::Damaged(_))), "{put:?}");
    let refused = import::check_nothing_archived(&case.archive, &case.topic).await;
    assert!(matches!(refused, Err(LogError::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn dead_letters_go_on_after_those_that_are_there() {
    let case = Case::new(2);
    let mut spool = Spool::new(&case.directory.path().join("spill"), 1).unwrap();
    for number in 0..50_u64 {
        let value = vec![number as u8; 1 << 18];
        spool.push_letter(&Content::Event { key: Some(import::letter_key(number)), value: value.into() }).unwrap();
    }
    let spooled = spool.finish().unwrap();
    let letters = dead_letter::topic_of("clicks");
    case.log.create_topic(&letters).await.unwrap();
    let to = TopicPartition::new(letters.name.as_str(), 0);
    // Others are between them, and an import that was broken off came to the seventh.
    let other = Content::Event { key: None, value: Bytes::from_static(b"another") };
    let first =
        |number| Content::Event { key: Some(import::letter_key(number)), value: vec![number as u8; 1 << 18].into() };
    case.log.append(&to, (0..7).map(first).chain([other]).collect()).await.unwrap();
    assert_eq!(import::put_dead_letters(case.log.as_ref(), "clicks", &spooled).await.unwrap(), 43);
    assert_eq!(import::put_dead_letters(case.log.as_ref(), "clicks", &spooled).await.unwrap(), 0);
    let all = read_all(case.log.as_ref(), &to, 1000).await;
    let keys: Vec<Bytes> = all.iter().filter_map(|record| encoded(&record.content).key).collect();
    assert_eq!(keys, (0..50).map(import::letter_key).collect::<Vec<_>>());
    assert_eq!(all.len(), 51);
}
