//! What can be set, with the defaults.

use std::num::NonZeroU64;
use std::time::Duration;

/// Settings of the speed layer.
#[derive(Debug, Clone)]
pub struct SpeedSettings {
    /// While caught up, at least this long between two writes of a partition: freshness against write load. An event that
    /// comes after a longer silence is written at once.
    pub flush_interval: Duration,
    /// While behind, at most about this long between two writes: micro-batches grow with the lag up to here. Twice as long when the
    /// end is near.
    pub catch_up_interval: Duration,
    /// Bytes of states that may wait for being written, in all partitions together. A write holds about twice that while it
    /// lasts, so half of this makes a micro-batch end.
    pub memory: usize,
    /// A micro-batch ends after this many records, however small.
    pub max_records: u64,
    /// How many bytes of records one read takes at most.
    pub read_bytes: usize,
    /// How many records one read takes at most.
    pub read_records: usize,
    /// How long one read waits for new records. Only bounds how long the log holds a request; nothing waits for it.
    pub long_poll: Duration,
    /// Views that stand no more than this many offsets apart share a task, and so one decoding.
    pub close: u64,
    /// How many records a second tasks may read together whose views lag far behind the others of their source: new ones. `None`: as many
    /// as they can.
    pub backfill_rate: Option<NonZeroU64>,
    /// How often to look for partitions that were added to a topic.
    pub discover_interval: Duration,
    /// How long to wait after the first failure in a row; doubled after each further one.
    pub retry_first: Duration,
    /// The longest wait after a failure.
    pub retry_most: Duration,
}

impl Default for SpeedSettings {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_millis(10),
            catch_up_interval: Duration::from_secs(1),
            memory: 128 << 20,
            max_records: 1_000_000,
            read_bytes: 4 << 20,
            read_records: 8192,
            long_poll: Duration::from_secs(1),
            close: 10_000,
            backfill_rate: None,
            discover_interval: Duration::from_secs(5),
            retry_first: Duration::from_millis(10),
            retry_most: Duration::from_secs(5),
        }
    }
}
