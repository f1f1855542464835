//! A bare `rdkafka` consumer: the reference for whatever reads a topic. Its settings are librdkafka's own.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::measure::{Seconds, Stopwatch};

/// What it takes, from making the client to its last record, to read so many records of a topic with four partitions from these
/// offsets on. Every byte of keys and values is there to be used; nothing is done with them.
pub fn consume(brokers: &str, topic: &str, from: &[u64], records: u64) -> Seconds {
    let watch = Stopwatch::start();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "bench").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut places = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(from) {
        let at = Offset::Offset(i64::try_from(*offset).expect("an offset"));
        places.add_partition_offset(topic, partition, at).expect("a place");
    }
    consumer.assign(&places).expect("assigned");
    let (mut count, mut bytes) = (0, 0);
    while count < records {
        let Some(message) = consumer.poll(Duration::from_secs(30)) else { panic!("{count} of {records} records came") };
        let message = message.expect("a record");
        bytes += message.key_len() + message.payload_len();
        count += 1;
    }
    assert!(bytes > 0, "records have bytes");
    watch.stop()
}
