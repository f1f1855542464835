//! The log on Kafka: the port's promises against a real broker, and what only Kafka does to a log.
//!
//! The broker is the one at `TIDEMARK_TEST_KAFKA` (`127.0.0.1:19092` when that is not set); `./dev up` starts it. Tests that kill a
//! broker, or need one with passwords, start one of their own from the same jars ([`broker`]).

mod beginning;
mod broker;
mod connecting;
mod foreign;
mod membership;
mod promises;
mod restart;
mod topics;

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use event_log::{Content, EventLog, KafkaLog, KafkaOptions, LogError, ReadLimit, Record, TopicSpec};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use views::{Offset, TopicPartition};

/// Where the broker is. Fails the test when nobody is there.
fn brokers() -> String {
    let brokers = std::env::var("TIDEMARK_TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:19092".to_owned());
    let first = brokers.split(',').next().unwrap_or_default();
    let answers = first
        .to_socket_addrs()
        .is_ok_and(|mut all| all.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()));
    assert!(answers, "no Kafka at {brokers}: ./dev up starts it");
    brokers
}

fn options() -> KafkaOptions {
    KafkaOptions { brokers: brokers(), ..KafkaOptions::default() }
}

async fn connect() -> Arc<dyn EventLog> {
    Arc::new(KafkaLog::connect(options()).await.expect("connect"))
}

fn new_name(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4())
}

fn spec(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions, segment_records: 100 }
}

/// A new topic of one partition.
async fn new_partition(log: &dyn EventLog) -> TopicPartition {
    let name = new_name("kafka");
    log.create_topic(&spec(&name, 1)).await.expect("create topic");
    TopicPartition::new(name, 0)
}

fn event(text: impl Into<String>) -> Content {
    Content::Event { key: None, value: text.into().into() }
}

/// Everything from `from` on that can be read now.
async fn read_all(log: &dyn EventLog, of: &TopicPartition, from: Offset) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let next = all.last().map_or(from, |record| record.offset + 1);
        let read = log.read(of, next, ReadLimit::records(1000)).await.expect("read");
        if read.is_empty() {
            return all;
        }
        all.extend(read);
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| match &record.content {
        Content::Event { value, .. } => String::from_utf8_lossy(value).into_owned(),
        Content::Marker(number) => format!("marker {number}"),
    };
    records.iter().map(text).collect()
}

/// A client that is not ours.
fn foreign(settings: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers());
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config
}

fn admin() -> AdminClient<DefaultClientContext> {
    foreign(&[]).create().expect("an admin client")
}

/// Creates a topic as somebody else would.
async fn create_foreign(name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let outcome = admin().create_topics([&topic], &options).await.expect("create topics");
    assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
}

/// The message of an error that asks for another request.
#[track_caller]
fn invalid<T: std::fmt::Debug>(result: Result<T, LogError>) -> String {
    match result {
        Err(LogError::Invalid(message)) => message,
        other => panic!("not refused: {other:?}"),
    }
}
