//! Topics whose log goes on after imported events.

use event_log::{Beginning, Beginnings, Imported, conformance};

use super::frozen::{assert_same_files, write_frozen};
use super::*;
use crate::begun::{Begun, imported};

const TIME: i64 = 1_700_000_000_000_000;

fn of(partition: u32) -> TopicPartition {
    TopicPartition::new("topic", partition)
}

#[tokio::test]
async fn the_ports_promises_are_kept_after_a_beginning() {
    for options in [EmbeddedOptions::default(), on_disk(300)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log: Arc<dyn EventLog> = Arc::new(Begun(Arc::new(open(directory.path(), &options).expect("open"))));
        conformance::suite(async || log.clone()).await;
        drop(log);
        conformance::durable(async || {
            let log: Arc<dyn EventLog> = Arc::new(Begun(Arc::new(open(directory.path(), &options).expect("open"))));
            log
        })
        .await;
    }
}

#[tokio::test]
async fn a_log_goes_on_after_what_was_imported() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let host = Arc::new(TestHost::default());
    host.now.store(TIME, SeqCst);
    let log = open(directory.path(), &on_host(&host)).expect("open");
    let noted = log.begin_topic(&topic(3), &imported(3)).await.expect("begin");
    assert_eq!(noted, Beginning { append_time: TIME, partitions: imported(3) });
    assert_eq!(log.bounds("topic").await.expect("bounds"), [1235..1235, 8..8, 0..0]);
    assert_eq!(log.append(&of(0), vec![event(0), event(1)]).await.expect("append"), 1235..1237);
    let before = log.read(&of(0), 1234, ReadLimit::records(1)).await;
    assert!(matches!(before, Err(LogError::Invalid(_))), "{before:?}");

    // The clock went back: append times do not, not even across the import.
    host.now.store(TIME - 5, SeqCst);
    drop(log);
    let log = open(directory.path(), &on_host(&host)).expect("open");
    log.append(&of(1), vec![event(2)]).await.expect("append");
    assert_eq!(read_from(&log, &of(1), 8).await.expect("read")[0].append_time, TIME);

    // It is the same for ever, partitions may come, and what comes has no beginning.
    assert_eq!(log.beginning("topic").await.expect("beginning"), Some(noted.clone()));
    assert_eq!(log.begin_topic(&topic(3), &imported(3)).await.expect("again"), noted);
    log.create_topic(&topic(4)).await.expect("grow");
    assert_eq!(log.bounds("topic").await.expect("bounds"), [1235..1237, 8..9, 0..0, 0..0]);
    assert_eq!(log.begin_topic(&topic(3), &imported(3)).await.expect("again"), noted);
    drop(log);
    let log = open(directory.path(), &on_host(&host)).expect("open");
    assert_eq!(log.beginning("topic").await.expect("beginning"), Some(noted));
    assert_eq!(log.topics().await.expect("topics"), [topic(4)]);
}

#[tokio::test]
async fn another_beginning_is_refused_in_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(300)).expect("open");
    log.begin_topic(&topic(2), &imported(2)).await.expect("begin");
    let refused = async |topic: TopicSpec, imported: &[Imported]| match log.begin_topic(&topic, imported).await {
        Err(LogError::Invalid(message)) => message,
        other => panic!("{other:?}"),
    };
    let mut more = imported(2);
    more[1].events = 8;
    let message = refused(topic(2), &more).await;
    assert!(message.contains("7 events in partition 1, not 8"), "{message}");
    let mut other = imported(2);
    other[0].crc32 += 1;
    let message = refused(topic(2), &other).await;
    assert!(message.contains("1234 other events in partition 0"), "{message}");
    assert!(refused(TopicSpec { segment_records: 11, ..topic(2) }, &imported(2)).await.contains("segment_records"));
    assert!(refused(topic(2), &imported(3)).await.contains("3 partitions"));

    let used = TopicSpec { name: "used".into(), ..topic(1) };
    log.create_topic(&used).await.expect("create");
    let message = refused(used, &imported(1)).await;
    assert!(message.contains("topic used is in use") && message.contains("tidemark load"), "{message}");
    assert_eq!(log.beginning("used").await.expect("beginning"), None);
    assert_eq!(log.beginning("unknown").await.expect("beginning"), None);
}

/// The topic's note comes last: without it nothing was created, and whatever is created then begins where it is to begin.
#[tokio::test]
async fn a_creation_that_was_broken_off_leaves_nothing_behind() {
    for first in [None, Some(imported(2))] {
        for second in [None, Some(vec![Imported { events: 3, crc32: 1 }, Imported::default()])] {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let log = open(directory.path(), &on_disk(300)).expect("open");
            let create = async |log: &EmbeddedLog, imported: &Option<Vec<Imported>>| match imported {
                None => log.create_topic(&topic(2)).await,
                Some(imported) => log.begin_topic(&topic(2), imported).await.map(drop),
            };
            create(&log, &first).await.expect("create");
            drop(log);
            fs::remove_file(directory.path().join("topic/topic.json")).expect("remove");
            let log = open(directory.path(), &on_disk(300)).expect("open");
            assert_eq!(log.topics().await.expect("topics"), []);
            create(&log, &second).await.expect("create");
            let start = if second.is_some() { 4 } else { 0 };
            assert_eq!(log.bounds("topic").await.expect("bounds"), [start..start, 0..0]);
            log.append(&of(0), vec![event(0)]).await.expect("append");
            drop(log);
            let log = open(directory.path(), &on_disk(300)).expect("open");
            assert_eq!(read_from(&log, &of(0), start).await.expect("read").len(), 1);
        }
    }
}

#[tokio::test]
async fn files_that_begin_before_the_beginning_are_damage() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (log, other) =
        (open(&directory.path().join("a"), &on_disk(300)), open(&directory.path().join("b"), &on_disk(300)));
    log.expect("open").begin_topic(&topic(1), &imported(1)).await.expect("begin");
    other.expect("open").create_topic(&topic(1)).await.expect("create");
    let note = directory.path().join("b/topic/topic.json");
    fs::copy(directory.path().join("a/topic/topic.json"), &note).expect("copy");
    assert_damaged(open(&directory.path().join("b"), &on_disk(300)), &note, "another beginning");
}

/// A log with a beginning; the clock and the salts are fixed.
async fn write_log(directory: &Path) {
    let host = Arc::new(TestHost::default());
    host.salt.store(0x5a17_0000, SeqCst);
    host.now.store(TIME, SeqCst);
    let log = open(directory, &on_host(&host)).expect("open");
    log.begin_topic(&topic(3), &imported(3)).await.expect("begin");
    host.now.store(TIME + 1_000_000, SeqCst);
    for partition in 0..3 {
        log.append(&of(partition), (0..4).map(event).collect()).await.expect("append");
    }
}

#[tokio::test]
async fn a_beginning_is_read_as_it_was_written() {
    let copy = crash_copy(&frozen::folder("log-v1-begun"));
    let log = open(copy.path(), &on_disk(300)).expect("open");
    let noted = Beginning { append_time: TIME, partitions: imported(3) };
    assert_eq!(log.beginning("topic").await.expect("beginning"), Some(noted));
    assert_eq!(log.bounds("topic").await.expect("bounds"), [1235..1239, 8..12, 0..4]);
    for (partition, start) in [(0, 1235), (1, 8), (2, 0)] {
        let read = read_from(&log, &of(partition), start).await.expect("read");
        let expected = (start..).zip(0..4).map(|(offset, number)| Record {
            offset,
            append_time: TIME + 1_000_000,
            content: event(number),
        });
        assert_eq!(read, expected.collect::<Vec<_>>());
    }
}

/// Fails when the bytes that are written change; `TIDEMARK_FREEZE=1` writes them where there are none.
#[tokio::test]
async fn a_beginning_is_written_as_it_was_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write_log(directory.path()).await;
    write_frozen(directory.path(), "log-v1-begun");
    assert_same_files(directory.path(), "log-v1-begun");
}
