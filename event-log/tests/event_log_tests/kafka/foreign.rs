//! Producers that are not ours: what they write is read as it is, gaps of transactions included.

use std::time::Duration;

use event_log::{Content, EventLog, ReadLimit};
use futures::future::join_all;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer};
use views::TopicPartition;

use super::{connect, event, foreign, new_name, new_partition, read_all, texts};

const LONG: Duration = Duration::from_secs(30);

/// A producer that begins, commits and aborts.
fn transactional() -> FutureProducer {
    let producer: FutureProducer =
        foreign(&[("transactional.id", &new_name("test"))]).create().expect("a transactional producer");
    println!("waiting for the coordinator of transactions");
    producer.init_transactions(LONG).expect("init transactions");
    producer
}

async fn send(producer: &FutureProducer, to: &TopicPartition, values: &[&str]) {
    let sent = values.iter().map(|value| {
        let record = FutureRecord::<[u8], _>::to(&to.topic).partition(to.partition as i32).payload(*value);
        producer.send(record, LONG)
    });
    for outcome in join_all(sent).await {
        outcome.expect("send");
    }
}

#[tokio::test]
async fn what_a_plain_producer_wrote_is_read() {
    let log = connect().await;
    let partition = new_partition(&*log).await;
    let producer: BaseProducer = foreign(&[("linger.ms", "0")]).create().expect("a producer");
    let to = || BaseRecord::<[u8], [u8], ()>::to(&partition.topic).partition(0);
    let marker = |value: &[u8]| {
        let other = Header { key: "trace", value: Some(b"17".as_slice()) };
        OwnedHeaders::new().insert(other).insert(Header { key: "tidemark-marker", value: Some(value) })
    };
    let records = [
        to().key(b"key").payload(b"value"),
        to().payload(b"no key"),
        to().key(b"").payload(b"empty key"),
        to().key(b"").payload(b""),
        // Without a value: no event, and no marker without the header or with a key.
        to().key(b"deleted"),
        to(),
        to().headers(marker(b"7")),
        to().payload(b"with a value").headers(marker(b"8")),
        to().key(b"with a key").headers(marker(b"9")),
        to().headers(marker(b"no number")),
    ];
    for record in records {
        producer.send(record).map_err(|(error, _)| error).expect("send");
    }
    println!("waiting for the producer to be done");
    producer.flush(LONG).expect("flush");
    let event = |key: Option<&'static str>, value: &'static str| Content::Event {
        key: key.map(|key| key.as_bytes().into()),
        value: value.as_bytes().into(),
    };
    let read: Vec<_> = read_all(&*log, &partition, 0).await.into_iter().map(|record| record.content).collect();
    assert_eq!(
        read,
        [
            event(Some("key"), "value"),
            event(None, "no key"),
            event(Some(""), "empty key"),
            event(Some(""), ""),
            event(Some("deleted"), ""),
            event(None, ""),
            Content::Marker(7),
            event(None, "with a value"),
            event(Some("with a key"), ""),
            event(None, ""),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_exactly_what_was_committed() {
    let (log, other) = (connect().await, connect().await);
    let partition = new_partition(&*log).await;
    let producer = transactional();
    let mut expected = Vec::new();
    for round in 0..6 {
        let value = |part: usize| format!("round {round} part {part}");
        let values = [value(0), value(1), value(2)];
        producer.begin_transaction().expect("begin");
        send(&producer, &partition, &values.each_ref().map(String::as_str)).await;
        if round % 3 == 1 {
            producer.abort_transaction(LONG).expect("abort");
        } else {
            producer.commit_transaction(LONG).expect("commit");
            expected.extend(values);
        }
        if round % 2 == 0 {
            let own = format!("our own {round}");
            log.append(&partition, vec![event(own.as_str())]).await.expect("append");
            expected.push(own);
        }
        // At every stage, and by a reader that begins afresh.
        settle(&*log, &partition, &expected).await;
        settle(&*other, &partition, &expected).await;
    }
    // From any offset, those in gaps included, the next record there is comes first.
    let all = read_all(&*log, &partition, 0).await;
    assert!(all.windows(2).any(|pair| pair[0].offset + 1 < pair[1].offset), "there are gaps");
    for from in 0..=all[all.len() - 1].offset {
        let read = log.read(&partition, from, ReadLimit::records(2)).await.expect("read");
        let at = all.partition_point(|record| record.offset < from);
        assert_eq!(read[..], all[at..at + read.len()], "from {from}");
        assert!(!read.is_empty());
    }
    // A waiting reader is not kept by an end that nobody can read.
    producer.begin_transaction().expect("begin");
    send(&producer, &partition, &["aborted"]).await;
    producer.abort_transaction(LONG).expect("abort");
    let next = all[all.len() - 1].offset + 1;
    let limit = ReadLimit { wait: Duration::from_millis(300), ..ReadLimit::records(10) };
    assert_eq!(log.read(&partition, next, limit).await.expect("read"), []);
    settle(&*log, &partition, &expected).await;
}

/// Waits until a reader has seen exactly these and is told that it is at the end: Kafka ends a transaction in a partition a moment
/// after it has told the producer. Meanwhile nothing else may be seen.
async fn settle(log: &dyn EventLog, partition: &TopicPartition, expected: &[String]) {
    println!("waiting for {} records, and for no lag behind them", expected.len());
    let settled = async {
        loop {
            let read = read_all(log, partition, 0).await;
            let seen = texts(&read);
            assert!(expected.starts_with(&seen), "{seen:?} is no beginning of {expected:?}");
            let next = read.last().map_or(0, |record| record.offset + 1);
            let bounds = log.bounds(&partition.topic).await.expect("bounds")[0].clone();
            assert!(bounds.end >= next, "{bounds:?} is not past what was read up to {next}");
            if seen.len() == expected.len() && bounds.end == next {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, settled).await.expect("the lag goes to zero");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_past_an_open_transaction() {
    let log = connect().await;
    let partition = new_partition(&*log).await;
    let producer = transactional();
    log.append(&partition, vec![event("before")]).await.expect("append");
    producer.begin_transaction().expect("begin");
    send(&producer, &partition, &["in it"]).await;
    log.append(&partition, vec![event("after")]).await.expect("append");
    let before = read_all(&*log, &partition, 0).await;
    assert_eq!(texts(&before), ["before"]);
    assert_eq!(log.bounds(&partition.topic).await.expect("bounds")[0], 0..1, "an end past what can be read");
    let (reader, of) = (log.clone(), partition.clone());
    let limit = ReadLimit { wait: Duration::from_secs(60), ..ReadLimit::records(10) };
    let waiting = tokio::spawn(async move { reader.read(&of, 1, limit).await });
    producer.commit_transaction(LONG).expect("commit");
    println!("waiting for the reader to wake up");
    let read = waiting.await.expect("the reader").expect("read");
    assert_eq!(texts(&read)[0], "in it");
    settle(&*log, &partition, &["before", "in it", "after"].map(str::to_owned)).await;
}
