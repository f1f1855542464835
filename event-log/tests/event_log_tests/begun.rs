//! A log in which every topic that is created has a beginning: what holds for a log must hold for one with older events before it.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use event_log::error::Result;
use event_log::{Beginnings, EventLog, Imported, NewRecord, ReadLimit, Record, TopicSpec};
use views::{Offset, TopicPartition};

pub struct Begun(pub Arc<dyn Beginnings>);

/// Partitions with many, few and no imported events.
pub fn imported(partitions: u32) -> Vec<Imported> {
    (0..partitions).map(|number| Imported { events: [1234, 7, 0][number as usize % 3], crc32: number }).collect()
}

#[async_trait]
impl EventLog for Begun {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        if self.0.topics().await?.iter().any(|known| known.name == topic.name) {
            return self.0.create_topic(topic).await;
        }
        let partitions = if topic.partitions > 10_000 { 1 } else { topic.partitions };
        match self.0.begin_topic(topic, &imported(partitions)).await {
            Ok(_) => Ok(()),
            // Two created it at once, as they may.
            Err(_) if self.0.beginning(&topic.name).await?.is_some() => self.0.create_topic(topic).await,
            Err(error) => Err(error),
        }
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        self.0.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        self.0.append(to, records).await
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        self.0.read(of, from, limit).await
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        self.0.bounds(topic).await
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        self.0.trim(of, before).await
    }
}
