//! The broker is killed in the middle of appends and reads, and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use event_log::{Content, EventLog, KafkaLog, KafkaOptions, ReadLimit, Record};
use futures::future::join_all;
use views::{Offset, TopicPartition};

use super::broker::Broker;
use super::{event, new_name, read_all, spec, texts};

const PARTITIONS: u32 = 2;
const WRITERS: u64 = 3;

/// What a writer was told, and the offsets it was told.
type Acknowledged = Vec<(String, std::ops::Range<Offset>)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_is_there_once_and_in_order() {
    let mut broker = tokio::task::spawn_blocking(Broker::start).await.expect("a broker");
    let options = KafkaOptions { brokers: broker.address(), ..KafkaOptions::default() };
    let log: Arc<dyn EventLog> = Arc::new(KafkaLog::connect(options.clone()).await.expect("connect"));
    let name = new_name("restart");
    log.create_topic(&spec(&name, PARTITIONS)).await.expect("create topic");
    let place = |partition| TopicPartition::new(name.as_str(), partition);

    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..PARTITIONS)
        .flat_map(|partition| (0..WRITERS).map(move |writer| (partition, writer)))
        .map(|(partition, writer)| {
            tokio::spawn(write(log.clone(), place(partition), writer, stop.clone(), count.clone()))
        })
        .collect();
    let readers: Vec<_> =
        (0..PARTITIONS).map(|partition| tokio::spawn(follow(log.clone(), place(partition), stop.clone()))).collect();

    for kill in 1..=2 {
        acknowledged(&count, 300).await;
        println!("kill {kill} of the broker after {} appends", count.load(SeqCst));
        broker.kill();
        broker.start_again();
    }
    acknowledged(&count, 300).await;
    stop.store(true, SeqCst);
    println!("waiting for writers and readers to end");
    let written = join_all(writers).await;
    let read = join_all(readers).await;

    let fresh = KafkaLog::connect(options).await.expect("connect");
    for partition in 0..PARTITIONS {
        let all = read_all(&fresh, &place(partition), 0).await;
        let seen = read[partition as usize].as_ref().expect("a reader");
        assert_eq!(seen[..], all[..seen.len()], "the reader that was there all the time saw something else");
        let mut places: BTreeMap<String, Vec<Offset>> = BTreeMap::new();
        for (text, record) in texts(&all).into_iter().zip(&all) {
            places.entry(text).or_default().push(record.offset);
        }
        let own = written.iter().skip((partition as usize) * WRITERS as usize).take(WRITERS as usize);
        for acknowledged in own {
            let mut last = None;
            for (text, range) in acknowledged.as_ref().expect("a writer") {
                let offsets = places.get(text).cloned().unwrap_or_default();
                assert_eq!(offsets.len(), 1, "{text:?} of partition {partition} is at {offsets:?}");
                assert!(range.contains(&offsets[0]), "{text:?} is at {offsets:?}, not in {range:?}");
                assert!(last < Some(offsets[0]), "{text:?} came before its predecessor");
                last = Some(offsets[0]);
            }
        }
    }
}

/// Waits for so many more acknowledged appends.
async fn acknowledged(count: &AtomicU64, more: u64) {
    let until = count.load(SeqCst) + more;
    println!("waiting for {more} appends");
    let reached = async {
        while count.load(SeqCst) < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), reached).await.expect("appends go on");
}

/// Appends until told to stop. What failed may be there or not; the next attempt says something else.
async fn write(
    log: Arc<dyn EventLog>,
    to: TopicPartition,
    writer: u64,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Acknowledged {
    let mut told = Vec::new();
    for number in 0.. {
        if stop.load(SeqCst) {
            break;
        }
        let texts: Vec<String> = (0..3).map(|part| format!("{writer} {number} {part}")).collect();
        let records: Vec<Content> = texts.iter().map(|text| event(text.as_str())).collect();
        match log.append(&to, records).await {
            Ok(range) => {
                told.extend(texts.into_iter().map(|text| (text, range.clone())));
                count.fetch_add(1, SeqCst);
            }
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                println!("an append failed: {error}");
            }
        }
    }
    told
}

/// Follows a partition until told to stop.
async fn follow(log: Arc<dyn EventLog>, of: TopicPartition, stop: Arc<AtomicBool>) -> Vec<Record> {
    let mut seen: Vec<Record> = Vec::new();
    while !stop.load(SeqCst) {
        let next = seen.last().map_or(0, |record| record.offset + 1);
        let limit = ReadLimit { wait: Duration::from_millis(100), ..ReadLimit::records(500) };
        match log.read(&of, next, limit).await {
            Ok(records) => seen.extend(records),
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                println!("a read failed: {error}");
            }
        }
    }
    seen
}
