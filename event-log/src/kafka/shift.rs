//! Where offsets in Kafka are in the log.
//!
//! A topic with a beginning ([`crate::beginning`]) has offsets that Kafka does not know: what Kafka keeps comes after them. So an
//! offset there is another one here, by as much for every record of a partition. Everything below [`super::KafkaLog`] counts as Kafka does;
//! what goes in or out is shifted there, and nowhere else.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;
use views::{Offset, TopicPartition};

use crate::error::{LogError, Result};
use crate::log::Record;

/// One partition's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shift {
    /// Where the log begins.
    pub first: Offset,
    /// What Kafka calls that offset: it has let go of everything before.
    pub kafka: Offset,
    /// No record has an earlier append time. Kafka's clock may be behind that of whoever imported.
    pub not_before: i64,
}

impl Shift {
    fn is_none(&self) -> bool {
        self.first == self.kafka
    }

    /// An offset of the log, as Kafka counts; `None` before the log begins.
    pub fn to_kafka(self, offset: Offset) -> Option<Offset> {
        Some(offset.checked_sub(self.first)?.saturating_add(self.kafka))
    }

    /// An offset of Kafka's.
    pub fn offset(&self, of: &TopicPartition, kafka: Offset) -> Result<Offset> {
        let past = kafka.checked_sub(self.kafka).ok_or_else(|| {
            LogError::Damaged(format!(
                "{of}: Kafka has offset {kafka}, and had let go of everything before {} when older events were imported: the topic was \
                 made anew",
                self.kafka
            ))
        })?;
        Ok(self.first + past)
    }

    /// Offsets of Kafka's.
    pub fn offsets(&self, of: &TopicPartition, kafka: &Range<Offset>) -> Result<Range<Offset>> {
        Ok(self.offset(of, kafka.start)?..self.offset(of, kafka.end)?)
    }

    /// Records as they came from Kafka.
    pub fn records(&self, of: &TopicPartition, mut records: Vec<Record>) -> Result<Vec<Record>> {
        if *self == Self::default() {
            return Ok(records);
        }
        for record in &mut records {
            record.offset = self.offset(of, record.offset)?;
            record.append_time = record.append_time.max(self.not_before);
        }
        Ok(records)
    }

    /// An error that may speak of offsets as Kafka counts.
    pub fn explain(&self, error: LogError) -> LogError {
        if self.is_none() {
            return error;
        }
        let told =
            |message: String| format!("{message} (as Kafka counts: its offset {} is {} here)", self.kafka, self.first);
        match error {
            LogError::Invalid(message) => LogError::Invalid(told(message)),
            LogError::Damaged(message) => LogError::Damaged(told(message)),
            error => error,
        }
    }
}

/// Those of all topics that are known. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Shifts(Arc<RwLock<HashMap<String, Vec<Shift>>>>);

impl Shifts {
    /// Notes a topic's, which never change.
    pub fn learn(&self, topic: &str, shifts: Vec<Shift>) {
        self.0.write().entry(topic.to_owned()).or_insert(shifts);
    }

    /// A partition's; `None` when nothing is known of the topic. Partitions that were added have none.
    pub fn get(&self, of: &TopicPartition) -> Option<Shift> {
        Some(self.0.read().get(&*of.topic)?.get(of.partition as usize).copied().unwrap_or_default())
    }
}
