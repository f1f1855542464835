//! A source, compiled: a topic of events with its schema and what `CREATE SOURCE` says of it.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;

/// The names of the system columns, in the order in which they follow the event's own columns.
///
/// `_topic` Utf8; `_partition` Int32; `_offset` Int64; `_append_time` Timestamp(Microsecond, "+00:00"); `_key` Utf8,
/// the only one that may be null.
pub const SYSTEM_COLUMNS: [&str; 5] = ["_topic", "_partition", "_offset", "_append_time", "_key"];

/// A compiled `CREATE SOURCE`. Its name is the topic's.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name, and the topic's.
    pub name: Arc<str>,
    /// The Avro schema of its events (a record), as JSON text: the reader schema.
    pub avro: Arc<str>,
    /// The event's own columns, then [`SYSTEM_COLUMNS`].
    pub schema: SchemaRef,
    /// The field that chooses the partition.
    pub key: Option<String>,
    /// The timestamp field that is the event time; the append time when absent.
    pub event_time: Option<String>,
    /// The field by which repeated deliveries are recognised.
    pub event_id: Option<String>,
    /// How long an id is remembered: a record counts nowhere when a record before it in the same partition has the same
    /// id and an append time less than or exactly this much earlier.
    pub dedupe_window: Duration,
    /// How many partitions the topic has.
    pub partitions: u32,
    /// Every multiple of this is a cut.
    pub segment_records: u64,
    /// How long the embedded log keeps records after they are archived.
    pub retention: Duration,
    /// The statement, as written.
    pub statement: String,
    /// Where it is defined: `file:line`.
    pub defined_at: String,
}

impl Source {
    /// How many of the columns are the event's own; the system columns follow.
    pub fn event_columns(&self) -> usize {
        self.schema.fields().len() - SYSTEM_COLUMNS.len()
    }

    /// The topic that takes what cannot be accepted.
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dead-letters", self.name)
    }
}
