//! The faulty log does what it says, and the same for the same seed.

use std::sync::Arc;

use event_log::{
    Content, EmbeddedLog, EmbeddedOptions, EventLog, FaultyLog, LogError, LogFaults, ReadLimit, TopicSpec,
};
use tempfile::TempDir;
use views::TopicPartition;

async fn new_log() -> (TempDir, Arc<dyn EventLog>, TopicPartition) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::default() };
    let log = EmbeddedLog::open(directory.path(), options).expect("open");
    let topic = TopicSpec { name: "topic".into(), partitions: 1, segment_records: 10 };
    log.create_topic(&topic).await.expect("create topic");
    (directory, Arc::new(log), TopicPartition::new("topic", 0))
}

fn events(first: u64) -> Vec<Content> {
    (first..first + 4).map(|number| Content::Event { key: None, value: number.to_string().into() }).collect()
}

/// How many records 200 appends of four added each, and whether each was acknowledged.
async fn appends(seed: u64, faults: LogFaults) -> Vec<(u64, bool)> {
    let (_directory, log, partition) = new_log().await;
    let faulty = FaultyLog::new(log.clone(), seed, faults);
    let mut outcomes = Vec::new();
    let mut end = 0;
    for number in 0..200 {
        let acknowledged = match faulty.append(&partition, events(number)).await {
            Ok(_) => true,
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                false
            }
        };
        let read = log.read(&partition, end, ReadLimit::records(100)).await.expect("read");
        let contents: Vec<_> = read.into_iter().map(|record| record.content).collect();
        assert_eq!(contents, events(number)[..contents.len()], "a prefix");
        end += contents.len() as u64;
        outcomes.push((contents.len() as u64, acknowledged));
    }
    let errors = outcomes.iter().filter(|(_, acknowledged)| !acknowledged).count() as u64;
    assert_eq!(faulty.injected(), errors);
    outcomes
}

#[tokio::test]
async fn each_fault_is_what_it_says() {
    let error = appends(1, LogFaults { error: 0.3, ..LogFaults::NONE }).await;
    assert!(error.iter().all(|outcome| [(0, false), (4, true)].contains(outcome)));
    assert!(error.contains(&(0, false)) && error.contains(&(4, true)));

    let lost = appends(1, LogFaults { lost_acknowledgement: 0.3, ..LogFaults::NONE }).await;
    assert!(lost.iter().all(|(appended, _)| *appended == 4));
    assert!(lost.contains(&(4, false)) && lost.contains(&(4, true)));

    let partial = appends(1, LogFaults { partial_append: 0.3, ..LogFaults::NONE }).await;
    assert!(partial.iter().all(|(appended, acknowledged)| *acknowledged == (*appended == 4)));
    assert!((0..4).all(|prefix| partial.contains(&(prefix, false))), "every prefix");

    assert!(appends(1, LogFaults::NONE).await.iter().all(|outcome| *outcome == (4, true)));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let one = appends(7, LogFaults::SOME).await;
    assert_eq!(one, appends(7, LogFaults::SOME).await);
    assert_ne!(one, appends(8, LogFaults::SOME).await);
}

#[tokio::test]
async fn short_reads_leave_nothing_out() {
    let (_directory, log, partition) = new_log().await;
    for number in 0..50 {
        log.append(&partition, events(number)).await.expect("append");
    }
    let expected = log.read(&partition, 0, ReadLimit::records(1000)).await.expect("read");
    assert_eq!(expected.len(), 200);
    let faulty = FaultyLog::new(log, 3, LogFaults { short_read: 0.8, ..LogFaults::NONE });
    let mut read = Vec::new();
    while read.len() < 200 {
        let some = faulty.read(&partition, read.len() as u64, ReadLimit::records(1000)).await.expect("read");
        assert!(!some.is_empty(), "a short read still comes on");
        read.extend(some);
    }
    assert_eq!(read, expected);
    assert!(faulty.injected() > 0);
}

#[tokio::test]
async fn it_heals() {
    let (_directory, log, partition) = new_log().await;
    let faulty = FaultyLog::new(log, 3, LogFaults { error: 1.0, ..LogFaults::NONE });
    assert!(matches!(faulty.topics().await, Err(LogError::Unavailable { .. })));
    assert!(matches!(faulty.bounds("topic").await, Err(LogError::Unavailable { .. })));
    assert!(matches!(faulty.trim(&partition, 0).await, Err(LogError::Unavailable { .. })));
    faulty.set_faults(LogFaults::NONE);
    assert_eq!(faulty.topics().await.expect("topics").len(), 1);
}
