//! What stands before a topic's log: older events, which were imported into the archive as its first segments.
//!
//! The beginning of a partition is its imported events at the offsets from 0 on, and one marker after them. The marker is a cut
//! ([`views::Segment`]), so the last imported segment ends with it, and the log goes on at [`Imported::end`] without a gap: whoever
//! follows the log comes to its end, and nothing must know that anything was imported. A partition without imported events has
//! no such marker and begins at 0.
//!
//! **Order.** The log notes the whole beginning in the step that creates the topic, before the first segment is in the archive. From
//! then on every reader knows that the log begins at `end` and that the archive must have what is before: until it does, that is
//! a hole, an error, and never a topic without these events. Importing the same events again fills it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use views::Offset;

use crate::error::{LogError, Result};
use crate::log::{EventLog, TopicSpec};

/// The number of the marker after imported events. The first there can be: it cuts, and every batch run takes a higher one.
pub const MARKER: u64 = 1;

/// What was imported into one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// How many events.
    pub events: u64,
    /// The checksum of their keys and values, in order.
    pub crc32: u32,
}

impl Imported {
    /// The offset at which the log goes on.
    pub fn end(&self) -> Offset {
        if self.events == 0 { 0 } else { self.events + 1 }
    }
}

/// What was imported into a topic, as its log has noted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beginning {
    /// The append time of every imported record: no record of the log has an earlier one.
    pub append_time: i64,
    /// What was imported, by partition. Partitions that were added later have no beginning.
    pub partitions: Vec<Imported>,
}

impl Beginning {
    /// Where the log of a partition goes on.
    pub fn end(&self, partition: u32) -> Offset {
        self.partitions.get(partition as usize).map_or(0, Imported::end)
    }

    /// Refuses another beginning than this.
    pub(crate) fn check_same(&self, topic: &str, other: &[Imported]) -> Result<()> {
        let refused = |what: String| {
            LogError::Invalid(format!(
                "topic {topic}: another import was begun, {what}: give the same files in the same order as then"
            ))
        };
        if self.partitions.len() != other.len() {
            return Err(refused(format!("into {} partitions, not {}", self.partitions.len(), other.len())));
        }
        for (number, (then, now)) in self.partitions.iter().zip(other).enumerate() {
            if then.events != now.events {
                let what = format!("with {} events in partition {number}, not {}", then.events, now.events);
                return Err(refused(what));
            }
            if then.crc32 != now.crc32 {
                return Err(refused(format!("with {} other events in partition {number}", then.events)));
            }
        }
        Ok(())
    }
}

/// A log whose topics can have a beginning: the port of whoever imports.
#[async_trait]
pub trait Beginnings: EventLog {
    /// Creates a topic whose log goes on after what is imported, one entry for each of its partitions. In one step: after a crash the
    /// topic has all of its beginning, or is not there. Calling it again with the same is harmless, and returns what
    /// was noted the first time.
    ///
    /// What a foreign producer has in the topic already, where there can be such a thing, comes after the beginning.
    ///
    /// # Errors
    ///
    /// `Invalid` when the topic is there without a beginning, or with another one, or cannot be as it is asked for.
    async fn begin_topic(&self, topic: &TopicSpec, imported: &[Imported]) -> Result<Beginning>;

    /// The beginning of a topic; `None` when it has none, or there is no such topic.
    async fn beginning(&self, topic: &str) -> Result<Option<Beginning>>;
}

/// Why events cannot be put before a log that is there.
pub fn in_use(topic: &str) -> LogError {
    LogError::Invalid(format!(
        "topic {topic} is in use: its offsets are given from 0 on, so nothing can be put before them. Older events have to be imported \
         before the topic is first used; append them with `tidemark load` instead"
    ))
}

/// Whether such a topic may have such a beginning.
pub(crate) fn check(topic: &TopicSpec, imported: &[Imported]) -> Result<()> {
    topic.check()?;
    if imported.len() != topic.partitions as usize {
        return Err(LogError::Invalid(format!(
            "topic {}: a beginning of {} partitions, and it has {}",
            topic.name,
            imported.len(),
            topic.partitions
        )));
    }
    Ok(())
}
