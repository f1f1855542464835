//! The port to the event log, and what a backend promises.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use views::{Offset, TopicPartition};

use crate::error::{LogError, Result};

/// A topic as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// Its name: letters, digits, `.`, `_` and `-`, at most 200 characters.
    pub name: String,
    /// How many partitions it has. May grow, never shrink.
    pub partitions: u32,
    /// Every multiple of this is a cut. Fixed when the topic is created.
    pub segment_records: u64,
}

/// More partitions than this are a mistake: each costs a task here and files there.
const MOST_PARTITIONS: u32 = 10_000;

impl TopicSpec {
    /// Whether a topic may be called this.
    pub(crate) fn check_name(name: &str) -> Result<()> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 200 || name == "." || name == ".." || !name.bytes().all(allowed) {
            return Err(LogError::Invalid(format!(
                "topic name {name:?}: it must be 1 to 200 letters, digits, `.`, `_` or `-`, and not `.` or `..`"
            )));
        }
        Ok(())
    }

    /// Whether there may be such a topic.
    pub(crate) fn check(&self) -> Result<()> {
        Self::check_name(&self.name)?;
        let Self { name, partitions, .. } = self;
        if !(1..=MOST_PARTITIONS).contains(partitions) {
            let message = format!("topic {name}: {partitions} partitions; it must be 1 to {MOST_PARTITIONS}");
            return Err(LogError::Invalid(message));
        }
        if self.segment_records == 0 {
            return Err(LogError::Invalid(format!("topic {name}: segment_records must not be 0")));
        }
        Ok(())
    }

    /// Whether the topic may become `wanted`.
    pub(crate) fn check_growth(&self, wanted: &Self) -> Result<()> {
        if wanted.segment_records != self.segment_records {
            return Err(LogError::Invalid(format!(
                "topic {}: its segment_records is {} and cannot be changed to {}",
                self.name, self.segment_records, wanted.segment_records
            )));
        }
        if wanted.partitions < self.partitions {
            return Err(LogError::Invalid(format!(
                "topic {}: it has {} partitions and cannot shrink to {}",
                self.name, self.partitions, wanted.partitions
            )));
        }
        Ok(())
    }
}

/// A record as it is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition.
    pub offset: Offset,
    /// When the log took it: microseconds since the epoch. Never decreases within a partition.
    pub append_time: i64,
    /// What it holds.
    pub content: Content,
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An event.
    Event {
        /// The bytes that chose the partition: the key field's value as UTF-8 text.
        key: Option<Bytes>,
        /// The Avro datum in Confluent framing: a zero byte, the schema id as a big-endian u32, the datum.
        value: Bytes,
    },
    /// A marker of the batch layer. Not an event: everybody skips it as data.
    Marker(u64),
}

/// A record to be appended: [`Record`] without what the log sets.
pub type NewRecord = Content;

/// How much to read at once, and how long to wait for it.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// At most this many records.
    pub records: usize,
    /// Stop after the record with which this many bytes are reached.
    pub bytes: usize,
    /// How long to wait when there is nothing to read yet. Zero returns at once.
    pub wait: Duration,
}

impl ReadLimit {
    /// At most `records` records and 8 MiB, without waiting.
    pub fn records(records: usize) -> Self {
        Self { records, bytes: 8 << 20, wait: Duration::ZERO }
    }
}

/// An append-only log of topics with partitions, shaped like Kafka's.
///
/// What a backend promises:
///
/// 1. **Durable.** When `append` returns `Ok`, the records survive kill -9 and a power cut.
/// 2. **Ordered, immutable.** Offsets grow; a record once read at an offset is that record for ever. Offsets may
///    have gaps (Kafka) but never go back.
/// 3. **Whole or not.** Records are never changed, merged or split. A failed `append` may have appended all, some or none
///    of its records (a lost acknowledgement looks like this); records of one `append` keep their order.
/// 4. **Readable once acknowledged.** A read after `append` returned sees its records. A read never sees a
///    record that could still vanish.
/// 5. **Refuses damage.** Bytes that are not what was written are an error that names the place, never data, and never
///    skipped.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Creates a topic, or adds partitions to it. Calling it again with the same topic is harmless.
    ///
    /// # Errors
    ///
    /// `Invalid` for fewer partitions than there are, another `segment_records`, or a name that is not allowed.
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()>;

    /// Every topic there is, by name.
    async fn topics(&self) -> Result<Vec<TopicSpec>>;

    /// Appends records in order and returns the offsets they got, once they are durable.
    ///
    /// # Errors
    ///
    /// `NotFound` for an unknown partition; `Unavailable` when nothing is known about the outcome.
    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>>;

    /// Reads records in offset order, the first at `from` or the next one there is.
    ///
    /// Empty when the end is reached and `limit.wait` has passed. Nothing between two returned records, or
    /// between `from` and the first, is left out.
    ///
    /// # Errors
    ///
    /// `NotFound` for an unknown partition; `Invalid` when `from` lies before the start of what is kept;
    /// `Damaged` when the bytes there are not what was written.
    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>>;

    /// The first kept offset and the next one to be written, of every partition of a topic.
    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>>;

    /// Lets go of records before an offset. A backend may keep more than it is asked to; it never lets go of a record
    /// at or past `before`.
    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()>;
}
