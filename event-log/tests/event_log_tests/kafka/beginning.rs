//! Topics whose log goes on after imported events: Kafka counts from 0, and here its records come after them.

use std::sync::Arc;
use std::time::Duration;

use event_log::kafka::Membership;
use event_log::prefixed::PrefixedTopics;
use event_log::{Beginnings, Content, EventLog, Imported, KafkaLog, LogError, ReadLimit, TopicSpec, conformance};
use futures::future::join_all;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use views::TopicPartition;

use super::{connect, create_foreign, event, foreign, invalid, new_name, options, read_all, spec, texts};
use crate::begun::{Begun, imported};

async fn begin() -> Arc<dyn Beginnings> {
    Arc::new(KafkaLog::connect(options()).await.expect("connect"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_ports_promises_are_kept_after_a_beginning() {
    let log: Arc<dyn EventLog> = Arc::new(Begun(begin().await));
    conformance::suite(async || log.clone()).await;
    conformance::durable(async || {
        let log: Arc<dyn EventLog> = Arc::new(Begun(begin().await));
        log
    })
    .await;
}

#[tokio::test]
async fn a_log_goes_on_after_what_was_imported() {
    let (log, other) = (begin().await, connect().await);
    let name = new_name("begun");
    let of = |partition| TopicPartition::new(name.as_str(), partition);
    assert_eq!(log.beginning(&name).await.expect("beginning"), None);
    let noted = log.begin_topic(&spec(&name, 3), &imported(3)).await.expect("begin");
    assert_eq!(noted.partitions, imported(3));
    for log in [&*log as &dyn EventLog, &*other] {
        assert_eq!(log.bounds(&name).await.expect("bounds"), [1235..1235, 8..8, 0..0]);
        assert!(log.topics().await.expect("topics").contains(&spec(&name, 3)));
    }
    assert_eq!(log.append(&of(0), vec![]).await.expect("append"), 1235..1235);
    assert_eq!(log.append(&of(0), vec![event("a"), event("b")]).await.expect("append"), 1235..1237);
    assert_eq!(other.append(&of(0), vec![event("c")]).await.expect("append"), 1237..1238);
    assert_eq!(other.append(&of(2), vec![event("first")]).await.expect("append"), 0..1);
    let read = read_all(&*other, &of(0), 1235).await;
    assert_eq!(texts(&read), ["a", "b", "c"]);
    assert!(read.iter().map(|record| record.offset).eq(1235..1238));
    assert!(read.iter().all(|record| record.append_time >= noted.append_time));
    for from in [0, 1234] {
        let message = invalid(log.read(&of(0), from, ReadLimit::records(1)).await);
        assert!(message.contains("1235"), "{message}");
    }

    log.trim(&of(0), 1000).await.expect("nothing to let go of");
    assert_eq!(log.bounds(&name).await.expect("bounds")[0], 1235..1238);
    log.trim(&of(0), 1236).await.expect("trim");
    assert_eq!(log.bounds(&name).await.expect("bounds")[0], 1236..1238);
    assert_eq!(texts(&read_all(&*log, &of(0), 1236).await), ["b", "c"]);
    invalid(log.read(&of(0), 1235, ReadLimit::records(1)).await);

    // Partitions that come have no beginning; the same once more is harmless.
    log.create_topic(&spec(&name, 4)).await.expect("grow");
    assert_eq!(log.append(&of(3), vec![event("new")]).await.expect("append"), 0..1);
    assert_eq!(log.begin_topic(&spec(&name, 3), &imported(3)).await.expect("again"), noted);
    assert_eq!(begin().await.beginning(&name).await.expect("beginning"), Some(noted));
}

#[tokio::test]
async fn another_beginning_is_refused_in_words() {
    let log = begin().await;
    let name = new_name("begun");
    log.begin_topic(&spec(&name, 2), &imported(2)).await.expect("begin");
    let mut other = imported(2);
    other[1].events += 1;
    let message = invalid(log.begin_topic(&spec(&name, 2), &other).await);
    assert!(message.contains("7 events in partition 1, not 8"), "{message}");
    let cuts = TopicSpec { segment_records: 7, ..spec(&name, 2) };
    assert!(invalid(log.begin_topic(&cuts, &imported(2)).await).contains("segment_records"));
    let used = new_name("used");
    log.create_topic(&spec(&used, 1)).await.expect("create");
    let message = invalid(log.begin_topic(&spec(&used, 1), &imported(1)).await);
    assert!(message.contains(&used) && message.contains("tidemark load"), "{message}");
}

/// A topic that others write to, and of which Kafka has let go of the older part: what it still has comes after the imported events.
#[tokio::test]
async fn what_kafka_has_already_comes_after_what_is_imported() {
    let name = new_name("history");
    create_foreign(&name, 3, &[("message.timestamp.type", "LogAppendTime")]).await;
    let of = |partition| TopicPartition::new(name.as_str(), partition);
    // By a log that has no record of the topic: it counts as Kafka does.
    let plain = connect().await;
    for partition in [0, 1] {
        for number in 0..5 {
            plain.append(&of(partition), vec![event(format!("old {number}"))]).await.expect("append");
        }
    }
    plain.trim(&of(0), 3).await.expect("trim");
    plain.trim(&of(1), 5).await.expect("trim");
    let first = read_all(&*plain, &of(0), 3).await[0].append_time;

    let log = begin().await;
    let fewer = invalid(log.begin_topic(&spec(&name, 2), &imported(2)).await);
    assert!(fewer.contains(&name) && fewer.contains('3'), "{fewer}");
    let before: Vec<Imported> = [2, 100, 0].map(|events| Imported { events, crc32: 1 }).into();
    let noted = log.begin_topic(&spec(&name, 3), &before).await.expect("begin");
    assert!(noted.append_time <= first, "{} after {first}", noted.append_time);
    // Kafka's 3 is 3 here by chance, and its 5 is 101.
    assert_eq!(log.bounds(&name).await.expect("bounds"), [3..5, 101..101, 0..0]);
    assert_eq!(texts(&read_all(&*log, &of(0), 3).await), ["old 3", "old 4"]);
    assert_eq!(log.append(&of(1), vec![event("new")]).await.expect("append"), 101..102);
    // Whoever has counted as Kafka does until now finds out.
    assert_eq!(plain.bounds(&name).await.expect("bounds"), [3..5, 101..102, 0..0]);
    assert_eq!(texts(&read_all(&*plain, &of(1), 101).await), ["new"]);
    let second = of(1);
    let waiting = log.read(&second, 102, ReadLimit { wait: Duration::from_secs(20), ..ReadLimit::records(5) });
    let (read, appended) = tokio::join!(waiting, plain.append(&second, vec![Content::Marker(2)]));
    assert_eq!(appended.expect("append"), 102..103);
    assert_eq!(texts(&read.expect("read")), ["marker 2"]);
}

#[tokio::test]
async fn of_several_that_import_at_once_one_counts() {
    let name = new_name("raced");
    let logs = join_all((0..4).map(|_| begin())).await;
    let spec = spec(&name, 1);
    let wanted: Vec<Vec<Imported>> = (0..4).map(|events| vec![Imported { events, crc32: 0 }]).collect();
    let outcomes = join_all(logs.iter().zip(&wanted).map(|(log, imported)| log.begin_topic(&spec, imported))).await;
    let won: Vec<usize> = (0..4).filter(|number| outcomes[*number].is_ok()).collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(LogError::Invalid(_)))), "{outcomes:?}");
    for log in &logs {
        let noted = log.beginning(&name).await.expect("beginning").expect("one");
        assert_eq!(noted.partitions, wanted[won[0]]);
    }
}

/// A version that knows nothing of beginnings must not take the topic for one that begins at 0.
#[tokio::test]
async fn the_record_of_a_beginning_is_no_record_of_another_kind() {
    let log = begin().await;
    let name = new_name("begun");
    log.begin_topic(&spec(&name, 1), &imported(1)).await.expect("begin");
    let records = read_all(&*log, &TopicPartition::new("_tidemark_topics", 0), 0).await;
    let value = records.iter().find_map(|record| match &record.content {
        Content::Event { key: Some(key), value } if key == name.as_bytes() => Some(value.clone()),
        _ => None,
    });
    let value: serde_json::Value = serde_json::from_slice(&value.expect("a record of the topic")).expect("JSON");
    assert!(value.get("segment_records").is_none(), "{value}");
    assert_eq!(value["begun"]["segment_records"], 100, "{value}");
    assert_eq!(value["begun"]["partitions"], serde_json::json!([{"events": 1234, "crc32": 0, "kafka": 0}]), "{value}");
}

#[tokio::test]
async fn groups_are_told_positions_as_kafka_counts() {
    let kafka = KafkaLog::connect(options()).await.expect("connect");
    let (name, group) = (new_name("begun"), new_name("group"));
    kafka.begin_topic(&spec(&name, 1), &imported(1)).await.expect("begin");
    let of = TopicPartition::new(name.as_str(), 0);
    kafka.append(&of, vec![event("a"), event("b")]).await.expect("append");
    let member = Membership::join(&kafka, &group, std::slice::from_ref(&name)).expect("join");
    let mut assigned = member.assigned();
    println!("waiting until the member has the partition");
    let has = assigned.wait_for(|assigned| assigned.partitions.contains(&of));
    drop(tokio::time::timeout(Duration::from_secs(60), has).await.expect("it has it").expect("a member"));
    for (position, expected) in [(17, 0), (1235, 0), (1236, 1), (1237, 2)] {
        member.commit(&of, position);
        let (seen_by, asked) =
            (foreign(&[("group.id", &group)]).create::<BaseConsumer>().expect("a consumer"), of.clone());
        println!("waiting for the commit of {position} to be seen by others");
        let committed = tokio::task::spawn_blocking(move || {
            loop {
                let mut place = TopicPartitionList::new();
                place.add_partition(&asked.topic, 0);
                let offsets = seen_by.committed_offsets(place, Duration::from_secs(10)).expect("committed offsets");
                if offsets.elements()[0].offset() == rdkafka::Offset::Offset(expected) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        tokio::time::timeout(Duration::from_secs(60), committed).await.expect("the commit is seen").expect("asked");
    }
    member.leave().await;
}

#[tokio::test]
async fn a_prefix_goes_before_the_name_of_a_topic_with_a_beginning_too() {
    let kafka = begin().await;
    let prefix = new_name("p");
    let log = PrefixedTopics::new(kafka.clone(), prefix.as_str());
    let noted = log.begin_topic(&spec("clicks", 2), &imported(2)).await.expect("begin");
    assert_eq!(log.beginning("clicks").await.expect("beginning").as_ref(), Some(&noted));
    assert_eq!(kafka.beginning(&format!("{prefix}clicks")).await.expect("beginning"), Some(noted));
    assert_eq!(log.bounds("clicks").await.expect("bounds"), [1235..1235, 8..8]);
}
