//! Topics: what they are created with, and what is refused of those that others made.

use std::time::Duration;

use event_log::{Content, LogError, ReadLimit, TopicSpec};
use futures::future::join_all;
use rdkafka::admin::{AdminOptions, NewPartitions, ResourceSpecifier};
use views::TopicPartition;

use super::{admin, connect, create_foreign, event, invalid, new_name, new_partition, read_all, spec, texts};

const GOOD: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

#[tokio::test]
async fn a_created_topic_keeps_everything_until_it_is_trimmed() {
    let log = connect().await;
    let name = new_name("created");
    log.create_topic(&spec(&name, 2)).await.expect("create topic");
    let topic = [ResourceSpecifier::Topic(&name)];
    let settings = admin().describe_configs(&topic, &AdminOptions::new()).await.expect("describe").remove(0);
    let settings = settings.expect("the topic's settings");
    let get = |name: &str| settings.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
    assert_eq!(get("message.timestamp.type"), "LogAppendTime");
    assert_eq!(get("cleanup.policy"), "delete");
    assert_eq!(get("retention.ms"), "-1");
    assert_eq!(get("retention.bytes"), "-1");
    assert_eq!(get("compression.type"), "producer");
    assert!(get("max.message.bytes").parse::<u64>().expect("a number") > 64 << 20);
}

#[tokio::test]
async fn topics_that_would_break_a_guarantee_are_refused() {
    let log = connect().await;
    for (settings, setting, value) in [
        (vec![], "message.timestamp.type", "CreateTime"),
        (vec![GOOD, ("cleanup.policy", "compact")], "cleanup.policy", "compact"),
        (vec![GOOD, ("cleanup.policy", "compact,delete")], "cleanup.policy", "compact,delete"),
        (vec![GOOD, ("retention.ms", "60000")], "retention.ms", "60000"),
    ] {
        let name = new_name("refused");
        create_foreign(&name, 1, &settings).await;
        let message = invalid(log.create_topic(&spec(&name, 1)).await);
        for part in [name.as_str(), setting, value, "set "] {
            assert!(message.contains(part), "{message:?} without {part}");
        }
        let topics = log.topics().await.expect("topics");
        assert!(topics.iter().all(|topic| topic.name != name), "a refused topic is none");
    }
}

#[tokio::test]
async fn a_topic_that_others_made_is_taken() {
    let (log, other) = (connect().await, connect().await);
    let name = new_name("taken");
    // The retention is enough, and worth a warning.
    create_foreign(&name, 2, &[GOOD, ("retention.ms", "7200000")]).await;
    assert!(log.topics().await.expect("topics").iter().all(|topic| topic.name != name), "nobody knows its cuts yet");
    let fewer = invalid(log.create_topic(&spec(&name, 1)).await);
    assert!(fewer.contains(&name) && fewer.contains('2'), "{fewer}");
    log.create_topic(&spec(&name, 3)).await.expect("take it and add a partition");
    for log in [&log, &other] {
        assert!(log.topics().await.expect("topics").contains(&spec(&name, 3)));
    }
    let other_cuts = TopicSpec { segment_records: 7, ..spec(&name, 3) };
    assert!(invalid(other.create_topic(&other_cuts).await).contains("segment_records"));
}

#[tokio::test]
async fn the_first_to_name_the_cuts_counts_for_all() {
    let name = new_name("raced");
    let logs = join_all((0..4).map(|_| connect())).await;
    let wanted: Vec<TopicSpec> = (1..=4).map(|cuts| TopicSpec { segment_records: cuts, ..spec(&name, 2) }).collect();
    let outcomes = join_all(logs.iter().zip(&wanted).map(|(log, topic)| log.create_topic(topic))).await;
    let won: Vec<_> = outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_ok()).map(|(at, _)| at).collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(LogError::Invalid(_)))), "{outcomes:?}");
    for log in &logs {
        assert!(log.topics().await.expect("topics").contains(&wanted[won[0]]));
    }
}

#[tokio::test]
async fn partitions_that_others_add_are_seen() {
    let log = connect().await;
    let name = new_name("grown");
    log.create_topic(&spec(&name, 1)).await.expect("create topic");
    let first = TopicPartition::new(name.as_str(), 0);
    log.append(&first, vec![event("first")]).await.expect("append");
    assert_eq!(texts(&read_all(&*log, &first, 0).await), ["first"]);

    let grown = admin().create_partitions([&NewPartitions::new(&name, 3)], &AdminOptions::new()).await;
    grown.expect("add partitions").remove(0).expect("add partitions");
    println!("waiting for the bounds to have three partitions");
    let seen = async {
        while log.bounds(&name).await.expect("bounds").len() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("added partitions are seen");
    assert!(log.topics().await.expect("topics").contains(&spec(&name, 3)));
    let last = TopicPartition::new(name.as_str(), 2);
    assert!(log.read(&last, 0, ReadLimit::records(10)).await.expect("read").is_empty());
    log.append(&last, vec![event("last")]).await.expect("append to an added partition");
    assert_eq!(texts(&read_all(&*log, &last, 0).await), ["last"]);
    log.create_topic(&spec(&name, 3)).await.expect("the same topic again");
}

#[tokio::test]
async fn names_that_others_need_are_refused() {
    let log = connect().await;
    for name in ["_tidemark_topics", "__consumer_offsets", "__mine"] {
        assert!(invalid(log.create_topic(&spec(name, 1)).await).contains(name));
    }
}

#[tokio::test]
async fn large_records_fit() {
    let log = connect().await;
    let partition = new_partition(&*log).await;
    // Nothing that compresses: what limits batches counts compressed bytes.
    let mut value = vec![0; 40 << 20];
    rand::Rng::fill(&mut rand::rng(), &mut value[..]);
    let large = Content::Event { key: Some("key".into()), value: value.into() };
    let range = log.append(&partition, vec![event("before"), large.clone(), event("after")]).await.expect("append");
    assert_eq!(range, 0..3);
    let read = read_all(&*log, &partition, 0).await;
    assert_eq!(read.len(), 3);
    assert!(read[1].content == large, "the large record came back as another");
    let larger = Content::Event { key: None, value: vec![0; (64 << 20) + 1].into() };
    assert!(invalid(log.append(&partition, vec![larger]).await).contains("bytes"));
}
