//! What can be seen of the speed layer from outside: where every view stands, what failed, and counters for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use views::{Offset, TopicPartition};

/// Where the speed layer stands in one partition.
#[derive(Debug, Clone)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset to be written to the log, when last looked at.
    pub log_end: Offset,
    /// Its views, by name.
    pub views: BTreeMap<Arc<str>, ViewStatus>,
    /// The first record that was read after the last write, and when the log took it (microseconds since the epoch).
    pub read_first: Option<(Offset, i64)>,
    /// Why the last attempt failed, until one succeeds.
    pub last_error: Option<String>,
}

/// Where one view stands in one partition.
#[derive(Debug, Clone, Default)]
pub struct ViewStatus {
    /// The next offset to fold: every record before it is in the store.
    pub position: Offset,
    /// Why it goes no further. A restart tries again.
    pub failed: Option<Failure>,
}

/// A view that could not be evaluated.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What DataFusion said.
    pub reason: String,
    /// The first offset of the records among which the cause is.
    pub from: Offset,
    /// The offset after the last of them.
    pub to: Offset,
}

impl PartitionStatus {
    pub(crate) fn new(partition: TopicPartition) -> Self {
        Self { partition, log_end: 0, views: BTreeMap::new(), read_first: None, last_error: None }
    }

    /// Every record before this is in the store, for every view that has not failed.
    pub fn position(&self) -> Offset {
        let going = self.views.values().filter(|view| view.failed.is_none());
        going.map(|view| view.position).min().unwrap_or(self.log_end)
    }

    /// Where the view stands that got furthest: new ones, which catch up, do not make the others look old.
    pub fn furthest(&self) -> Offset {
        let going = self.views.values().filter(|view| view.failed.is_none());
        going.map(|view| view.position).max().unwrap_or(self.log_end)
    }

    /// When the log took the first record at or past `position` (microseconds since the epoch), if that is what was read.
    pub fn waiting_since(&self, position: Offset) -> Option<i64> {
        self.read_first.filter(|(offset, _)| *offset >= position).map(|(_, time)| time)
    }

    /// How many records are not in the store yet, for the slowest view that has not failed.
    pub fn lag(&self) -> u64 {
        self.log_end.saturating_sub(self.position())
    }
}

/// Totals since the start, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records read, whatever they hold. A record read by two tasks, or again after a failure, counts again.
    pub records: AtomicU64,
    /// Events folded (once per task that folds them, not per view).
    pub events: AtomicU64,
    /// Events that counted nowhere because their id was there before.
    pub duplicates: AtomicU64,
    /// Events that could not be decoded and were handed on.
    pub rejected: AtomicU64,
    /// Writes that were done.
    pub writes: AtomicU64,
    /// States written.
    pub states: AtomicU64,
    /// Writes that found the view elsewhere: another owner, a new generation, or a lost acknowledgement.
    pub conflicts: AtomicU64,
    /// Failures after which a task started again.
    pub failures: AtomicU64,
    /// Views that stopped in a partition because they could not be evaluated.
    pub failed_views: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}
