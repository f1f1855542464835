//! The promises of [`EventLog`], as tests that every backend has to pass.
//!
//! [`suite`] checks what one open log promises, [`durable`] what must be there after it was closed and opened again. Both make
//! topics of their own, so they can run against servers that hold others. They assume no more than the port says:
//! offsets may have gaps, a read may return less than it could, and a partition need not begin at 0.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use views::{Offset, TopicPartition};

use crate::error::LogError;
use crate::log::{Content, EventLog, ReadLimit, Record, TopicSpec};

/// A log that does not answer within this time hangs.
const HANGS: Duration = Duration::from_secs(60);
/// How long a read waits that is expected to be woken: longer than [`HANGS`].
const LONG: Duration = Duration::from_secs(600);

/// Checks the promises of the log that `make` makes; panics at the first that is broken. `make` may return the same log
/// every time.
pub async fn suite(make: impl AsyncFn() -> Arc<dyn EventLog>) {
    macro_rules! check {
        ($($name:ident)*) => {$(
            println!("event log: {}", stringify!($name).replace('_', " "));
            let log = make().await;
            tokio::time::timeout(HANGS, $name(log)).await.expect(concat!(stringify!($name), " hangs"));
        )*};
    }
    check! {
        topics_are_created_once_and_only_grow
        names_that_are_not_allowed_are_refused
        what_is_unknown_is_not_found
        records_come_back_as_they_were_appended
        an_empty_append_appends_nothing
        markers_come_back_as_markers
        an_append_is_readable_once_acknowledged
        append_times_never_decrease
        reads_keep_to_their_limits
        reads_begin_at_any_offset
        a_read_at_the_end_is_empty
        a_waiting_read_wakes_up
        every_waiting_reader_wakes_up
        partitions_do_not_mix
        concurrent_appends_lose_nothing_and_keep_their_order
        a_concurrent_reader_sees_every_record_once_and_in_order
        an_abandoned_append_harms_nobody
        trim_never_lets_go_of_more_than_asked
    }
}

/// Checks what must survive closing: `open` is called several times, each time after the log before was dropped, and
/// opens the same log.
pub async fn durable(open: impl AsyncFn() -> Arc<dyn EventLog>) {
    println!("event log: what was acknowledged is there after opening it again");
    let topic = new_topic(2, 64);
    let partition = TopicPartition::new(topic.name.as_str(), 1);
    let mut expected = Vec::new();
    for round in 0..5 {
        let log = open().await;
        if round == 0 {
            log.create_topic(&topic).await.expect("create topic");
        }
        let topics = log.topics().await.expect("topics");
        assert!(topics.contains(&topic), "round {round}: the topic is {topics:?}");
        assert_eq!(whole(&*log, &partition).await, expected, "round {round}");

        let contents = vec![event(round, 0), Content::Marker(round), event(round, 1)];
        let range = log.append(&partition, contents.clone()).await.expect("append");
        let new = read_all(&*log, &partition, range.start).await;
        assert_eq!(new.iter().map(|record| record.content.clone()).collect::<Vec<_>>(), contents);
        if let (Some(last), Some(first)) = (expected.last(), new.first()) {
            let (last, first): (&Record, &Record) = (last, first);
            assert!(last.append_time <= first.append_time, "the append time went back after opening");
            assert!(last.offset < first.offset, "an offset was given twice");
        }
        expected.extend(new);
    }
}

async fn topics_are_created_once_and_only_grow(log: Arc<dyn EventLog>) {
    let mut topic = new_topic(2, 100);
    for _ in 0..2 {
        log.create_topic(&topic).await.expect("create topic");
        assert_eq!(log.bounds(&topic.name).await.expect("bounds").len(), 2);
    }
    let first = TopicPartition::new(topic.name.as_str(), 0);
    log.append(&first, vec![event(0, 0)]).await.expect("append");

    topic.partitions = 4;
    let twice = join_all([log.create_topic(&topic), log.create_topic(&topic)]).await;
    assert!(twice.iter().all(Result::is_ok), "{twice:?}");
    assert!(log.topics().await.expect("topics").contains(&topic));
    assert_eq!(log.bounds(&topic.name).await.expect("bounds").len(), 4);
    assert_eq!(contents(&*log, &first).await, [event(0, 0)], "growing a topic must not touch its records");
    let last = TopicPartition::new(topic.name.as_str(), 3);
    log.append(&last, vec![event(0, 1)]).await.expect("append to an added partition");
    assert_eq!(contents(&*log, &last).await, [event(0, 1)]);

    let fewer = TopicSpec { partitions: 3, ..topic.clone() };
    assert_invalid(log.create_topic(&fewer).await, "fewer partitions");
    let other_cuts = TopicSpec { segment_records: 101, ..topic.clone() };
    assert_invalid(log.create_topic(&other_cuts).await, "other segment_records");
    assert!(log.topics().await.expect("topics").contains(&topic), "a refused change must change nothing");
}

async fn names_that_are_not_allowed_are_refused(log: Arc<dyn EventLog>) {
    let before = log.topics().await.expect("topics");
    let long = "n".repeat(201);
    for name in ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a b", "ä", "a\0", "a\n", "~lock", "a:b", &long] {
        let topic = TopicSpec { name: name.into(), partitions: 1, segment_records: 10 };
        assert_invalid(log.create_topic(&topic).await, name);
    }
    assert_invalid(log.create_topic(&new_topic(0, 10)).await, "no partitions");
    assert_invalid(log.create_topic(&new_topic(1, 0)).await, "segments of no records");
    assert_eq!(log.topics().await.expect("topics"), before);
    let mut good = new_topic(1, 10);
    good.name = format!("A.b_c-{}", good.name);
    log.create_topic(&good).await.expect("an allowed name");
}

async fn what_is_unknown_is_not_found(log: Arc<dyn EventLog>) {
    let topic = new_topic(1, 10);
    let unknown = TopicPartition::new(topic.name.as_str(), 0);
    assert_not_found(log.bounds(&topic.name).await, "bounds of an unknown topic");
    assert_not_found(log.read(&unknown, 0, ReadLimit::records(1)).await, "read of an unknown topic");
    assert_not_found(log.append(&unknown, vec![event(0, 0)]).await, "append to an unknown topic");
    assert_not_found(log.trim(&unknown, 1).await, "trim of an unknown topic");
    log.create_topic(&topic).await.expect("create topic");
    let unknown = TopicPartition::new(topic.name.as_str(), 1);
    assert_not_found(log.read(&unknown, 0, ReadLimit::records(1)).await, "read of an unknown partition");
    assert_not_found(log.append(&unknown, vec![event(0, 0)]).await, "append to an unknown partition");
    assert_not_found(log.trim(&unknown, 1).await, "trim of an unknown partition");
}

async fn records_come_back_as_they_were_appended(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    let bytes: Bytes = (0..=255).collect();
    let all = vec![
        Content::Event { key: None, value: bytes.clone() },
        Content::Event { key: Some(bytes.clone()), value: Bytes::from_static(b"value") },
        // An empty key is a key.
        Content::Event { key: Some(Bytes::new()), value: Bytes::from_static(b"value") },
        Content::Event { key: Some(Bytes::from_static("schlüssel".as_bytes())), value: Bytes::from_static(&[0]) },
        Content::Event { key: None, value: vec![7; 200_000].into() },
        Content::Marker(1),
        Content::Event { key: None, value: Bytes::from_static(b"last") },
    ];
    let range = log.append(&partition, all.clone()).await.expect("append");
    assert!(range.end - range.start >= all.len() as Offset, "{range:?} for {} records", all.len());
    let records = read_all(&*log, &partition, range.start).await;
    assert_eq!(records.iter().map(|record| record.content.clone()).collect::<Vec<_>>(), all);
    assert!(records.iter().all(|record| range.contains(&record.offset)));
    assert_eq!(read_all(&*log, &partition, range.start).await, records, "a record is that record for ever");
}

async fn an_empty_append_appends_nothing(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    log.append(&partition, vec![event(0, 0)]).await.expect("append");
    let range = log.append(&partition, vec![]).await.expect("an empty append");
    assert!(range.is_empty(), "{range:?}");
    assert_eq!(contents(&*log, &partition).await, [event(0, 0)]);
}

async fn markers_come_back_as_markers(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    // An event with the bytes of a marker is still an event.
    let look_alike = Content::Event { key: None, value: Bytes::copy_from_slice(&3u64.to_le_bytes()) };
    let all = vec![
        Content::Marker(3),
        look_alike,
        Content::Marker(0),
        Content::Marker(u64::MAX),
        event(0, 0),
        Content::Marker(3),
    ];
    log.append(&partition, all.clone()).await.expect("append");
    assert_eq!(contents(&*log, &partition).await, all);
}

async fn an_append_is_readable_once_acknowledged(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    for number in 0..50 {
        let range = log.append(&partition, vec![event(0, number)]).await.expect("append");
        let read = log.read(&partition, range.start, ReadLimit::records(10)).await.expect("read");
        assert_eq!(read.len(), 1, "append {number}");
        assert_eq!(read[0].content, event(0, number));
        let bounds = log.bounds(&partition.topic).await.expect("bounds");
        assert!(bounds[0].contains(&read[0].offset), "{bounds:?} without {}", read[0].offset);
        assert!(bounds[0].end >= range.end);
    }
}

async fn append_times_never_decrease(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    for number in 0..30 {
        log.append(&partition, (0..number % 4 + 1).map(|part| event(number, part)).collect()).await.expect("append");
    }
    let records = whole(&*log, &partition).await;
    assert!(records.is_sorted_by_key(|record| record.append_time));
    // Microseconds: between 2020 and 2100.
    let plausible = 1_577_836_800_000_000..4_102_444_800_000_000;
    assert!(records.iter().all(|record| plausible.contains(&record.append_time)), "{:?}", records.first());
}

async fn reads_keep_to_their_limits(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    let all: Vec<_> = (0..100).map(|number| event(7, number)).collect();
    let range = log.append(&partition, all).await.expect("append");
    let each = length(&event(7, 0));
    for records in [1, 2, 3, 50, 99, 100, 1000] {
        let read = log.read(&partition, range.start, ReadLimit::records(records)).await.expect("read");
        assert!((1..=records).contains(&read.len()), "{} records for a limit of {records}", read.len());
    }
    assert!(log.read(&partition, range.start, ReadLimit::records(0)).await.expect("read").is_empty());
    for bytes in [0, 1, each, each + 1, 10 * each] {
        let limit = ReadLimit { records: 1000, bytes, wait: Duration::ZERO };
        let read = log.read(&partition, range.start, limit).await.expect("read");
        assert!(!read.is_empty(), "a limit of bytes must not keep a reader from coming on");
        let before_last: usize = read[..read.len() - 1].iter().map(|record| length(&record.content)).sum();
        assert!(before_last == 0 || before_last < bytes, "{} records for a limit of {bytes} bytes", read.len());
    }
}

async fn reads_begin_at_any_offset(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    for number in 0..20 {
        log.append(&partition, (0..5).map(|part| event(number, part)).collect()).await.expect("append");
    }
    let all = whole(&*log, &partition).await;
    assert_eq!(all.len(), 100);
    for (number, record) in all.iter().enumerate() {
        let read = log.read(&partition, record.offset, ReadLimit::records(7)).await.expect("read");
        assert!(!read.is_empty());
        assert_eq!(read, all[number..number + read.len()], "from offset {}", record.offset);
    }
}

async fn a_read_at_the_end_is_empty(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    for _ in 0..2 {
        let end = log.bounds(&partition.topic).await.expect("bounds")[0].end;
        for from in [end, end + 1, end + 1_000_000, Offset::MAX / 2] {
            for wait in [Duration::ZERO, Duration::from_millis(5)] {
                let limit = ReadLimit { wait, ..ReadLimit::records(10) };
                let read = log.read(&partition, from, limit).await.expect("read at the end");
                assert_eq!(read, [], "from {from}, the end being {end}");
            }
        }
        log.append(&partition, vec![event(0, 0)]).await.expect("append");
    }
}

async fn a_waiting_read_wakes_up(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    let mut from = start(&*log, &partition).await;
    for number in 0..50 {
        let limit = ReadLimit { wait: LONG, ..ReadLimit::records(10) };
        let (reader, of) = (log.clone(), partition.clone());
        let read = tokio::spawn(async move { reader.read(&of, from, limit).await });
        if number % 2 == 0 {
            // Let it begin to wait.
            tokio::task::yield_now().await;
        }
        let range = log.append(&partition, vec![event(0, number)]).await.expect("append");
        let read = read.await.expect("the reader").expect("read");
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].content, event(0, number));
        from = range.end;
    }
}

async fn every_waiting_reader_wakes_up(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    let limit = ReadLimit { wait: LONG, ..ReadLimit::records(10) };
    let from = start(&*log, &partition).await;
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let (reader, of) = (log.clone(), partition.clone());
            tokio::spawn(async move { reader.read(&of, from, limit).await })
        })
        .collect();
    tokio::task::yield_now().await;
    log.append(&partition, vec![event(0, 0)]).await.expect("append");
    for read in join_all(readers).await {
        let read = read.expect("a reader").expect("read");
        assert_eq!(read.iter().map(|record| record.content.clone()).collect::<Vec<_>>(), [event(0, 0)]);
    }
}

async fn partitions_do_not_mix(log: Arc<dyn EventLog>) {
    let topics = [new_topic(3, 100), new_topic(3, 100)];
    let mut partitions = Vec::new();
    for topic in &topics {
        log.create_topic(topic).await.expect("create topic");
        partitions.extend((0..3).map(|partition| TopicPartition::new(topic.name.as_str(), partition)));
    }
    for round in 0..5 {
        for (number, partition) in (0..).zip(&partitions) {
            log.append(partition, vec![event(number, round)]).await.expect("append");
        }
    }
    for (number, partition) in (0..).zip(&partitions) {
        let expected: Vec<_> = (0..5).map(|round| event(number, round)).collect();
        assert_eq!(contents(&*log, partition).await, expected, "{partition}");
    }
}

async fn concurrent_appends_lose_nothing_and_keep_their_order(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    let writers = (0..16).map(|writer| {
        let (log, to) = (log.clone(), partition.clone());
        tokio::spawn(async move {
            let mut ranges = Vec::new();
            for round in 0..10 {
                let records = (0..5).map(|part| event(writer, round * 5 + part)).collect();
                ranges.push(log.append(&to, records).await.expect("append"));
            }
            ranges
        })
    });
    let mut ranges = Vec::new();
    for writer in join_all(writers).await {
        let own = writer.expect("a writer");
        assert!(own.windows(2).all(|pair| pair[0].end <= pair[1].start), "{own:?}");
        ranges.push(own);
    }
    let records = whole(&*log, &partition).await;
    assert_eq!(records.len(), 16 * 50);
    for (writer, own) in (0..).zip(ranges) {
        let mine: Vec<_> = records.iter().filter(|record| writer_of(&record.content) == Some(writer)).collect();
        let expected: Vec<_> = (0..50).map(|number| event(writer, number)).collect();
        assert_eq!(mine.iter().map(|record| record.content.clone()).collect::<Vec<_>>(), expected);
        for (record, range) in mine.iter().zip(own.iter().flat_map(|range| std::iter::repeat_n(range, 5))) {
            assert!(range.contains(&record.offset), "offset {} outside of {range:?}", record.offset);
        }
    }
}

async fn a_concurrent_reader_sees_every_record_once_and_in_order(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    let first = start(&*log, &partition).await;
    let readers: Vec<_> = [1, 7, 1000]
        .map(|records| {
            let (log, of) = (log.clone(), partition.clone());
            tokio::spawn(async move {
                let limit = ReadLimit { wait: LONG, ..ReadLimit::records(records) };
                let mut seen: Vec<Record> = Vec::new();
                while seen.len() < 400 {
                    let from = seen.last().map_or(first, |record| record.offset + 1);
                    seen.extend(log.read(&of, from, limit).await.expect("read"));
                }
                seen
            })
        })
        .into();
    let writers = (0..4).map(|writer| {
        let (log, to) = (log.clone(), partition.clone());
        async move {
            for round in 0..20 {
                let records = (0..5).map(|part| event(writer, round * 5 + part)).collect();
                log.append(&to, records).await.expect("append");
            }
        }
    });
    join_all(writers).await;
    let all = whole(&*log, &partition).await;
    let different: BTreeSet<_> = all.iter().map(|record| format!("{:?}", record.content)).collect();
    assert_eq!((all.len(), different.len()), (400, 400));
    for reader in readers {
        assert_eq!(reader.await.expect("a reader"), all);
    }
}

async fn an_abandoned_append_harms_nobody(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    for number in 0..20 {
        let (other, to) = (log.clone(), partition.clone());
        let abandoned = tokio::spawn(async move { other.append(&to, vec![event(1, number)]).await });
        tokio::task::yield_now().await;
        abandoned.abort();
        log.append(&partition, vec![event(0, number)]).await.expect("append");
    }
    let all = contents(&*log, &partition).await;
    let kept: Vec<_> = all.iter().filter(|content| writer_of(content) == Some(0)).cloned().collect();
    assert_eq!(kept, (0..20).map(|number| event(0, number)).collect::<Vec<_>>());
    let abandoned: Vec<_> = all.iter().filter(|content| writer_of(content) == Some(1)).collect();
    let once: BTreeSet<_> = abandoned.iter().map(|content| format!("{content:?}")).collect();
    assert_eq!(once.len(), abandoned.len(), "an abandoned append may be there, but once");
}

async fn trim_never_lets_go_of_more_than_asked(log: Arc<dyn EventLog>) {
    let partition = new_partition(&*log).await;
    for number in 0..50 {
        log.append(&partition, (0..10).map(|part| event(number, part)).collect()).await.expect("append");
    }
    let all = whole(&*log, &partition).await;
    let mut asked = 0;
    for before in [0, all[1].offset, all[250].offset, all[100].offset, all[499].offset + 1, Offset::MAX / 2] {
        log.trim(&partition, before).await.expect("trim");
        // A lower offset later on brings nothing back.
        asked = asked.max(before);
        let bounds = log.bounds(&partition.topic).await.expect("bounds")[0].clone();
        assert!(bounds.start <= all[499].offset + 1 && bounds.end > all[499].offset, "{bounds:?}");
        let kept: Vec<_> = all.iter().filter(|record| record.offset >= bounds.start).cloned().collect();
        assert!(all.iter().all(|record| record.offset < asked || kept.contains(record)), "{bounds:?} after {asked}");
        assert_eq!(read_all(&*log, &partition, bounds.start).await, kept);
        if bounds.start > 0 {
            let read = log.read(&partition, bounds.start - 1, ReadLimit::records(1)).await;
            assert_invalid(read, "a read before the start");
        }
    }
    let range = log.append(&partition, vec![event(99, 0)]).await.expect("append after a trim");
    assert!(range.start > all[499].offset, "an offset was given twice");
    assert_eq!(read_all(&*log, &partition, range.start).await.len(), 1);
}

fn new_topic(partitions: u32, segment_records: u64) -> TopicSpec {
    TopicSpec { name: format!("conformance-{}", uuid::Uuid::new_v4()), partitions, segment_records }
}

async fn new_partition(log: &dyn EventLog) -> TopicPartition {
    let topic = new_topic(1, 100);
    log.create_topic(&topic).await.expect("create topic");
    TopicPartition::new(topic.name, 0)
}

/// Event `number` of `writer`; all are of one length.
fn event(writer: u64, number: u64) -> Content {
    let key = writer.is_multiple_of(2).then(|| Bytes::from(format!("key {number:04}")));
    Content::Event { key, value: format!("writer {writer:04} event {number:08}").into() }
}

fn writer_of(content: &Content) -> Option<u64> {
    let Content::Event { value, .. } = content else { return None };
    std::str::from_utf8(value).ok()?.split(' ').nth(1)?.parse().ok()
}

fn length(content: &Content) -> usize {
    match content {
        Content::Event { key, value } => key.as_ref().map_or(0, Bytes::len) + value.len(),
        Content::Marker(_) => 0,
    }
}

/// Every record from `from` to the present end, each read beginning right after the record before.
async fn read_all(log: &dyn EventLog, of: &TopicPartition, from: Offset) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let next = all.last().map_or(from, |record| record.offset + 1);
        let read = log.read(of, next, ReadLimit::records(10_000)).await.expect("read");
        if read.is_empty() {
            return all;
        }
        assert!(
            read[0].offset >= next && read.is_sorted_by(|one, two| one.offset < two.offset),
            "from {next}: {read:?}"
        );
        all.extend(read);
    }
}

async fn contents(log: &dyn EventLog, of: &TopicPartition) -> Vec<Content> {
    whole(log, of).await.into_iter().map(|record| record.content).collect()
}

/// Where a partition begins: not always at 0, for what was imported comes before.
async fn start(log: &dyn EventLog, of: &TopicPartition) -> Offset {
    log.bounds(&of.topic).await.expect("bounds")[of.partition as usize].start
}

/// Every record that the log has.
async fn whole(log: &dyn EventLog, of: &TopicPartition) -> Vec<Record> {
    read_all(log, of, start(log, of).await).await
}

fn assert_invalid<T: std::fmt::Debug>(result: Result<T, LogError>, what: &str) {
    assert!(matches!(result, Err(LogError::Invalid(_))), "{what:?}: {result:?}");
}

fn assert_not_found<T: std::fmt::Debug>(result: Result<T, LogError>, what: &str) {
    assert!(matches!(result, Err(LogError::NotFound(_))), "{what:?}: {result:?}");
}
