//! Where partitions end for a reader, which is not always where Kafka says.
//!
//! Kafka's end of a partition lies past the records that end transactions, which nobody can read. A reader that has come to the
//! last record that can be read would look behind for ever. So once a reader has found out that there is nothing to
//! read from X to Kafka's end Y, it is noted here, and the end is X as long as Kafka's is Y.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use views::{Offset, TopicPartition};

use super::cluster::{Cluster, Ends};
use crate::error::{LogError, Result};

/// Whoever asks for bounds may get an answer this old: several layers ask often.
const FRESH: Duration = Duration::from_millis(20);

/// What is known of the ends of partitions besides what Kafka says.
#[derive(Debug, Default)]
pub(super) struct KnownEnds {
    partitions: Mutex<HashMap<TopicPartition, Known>>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    /// Nothing before it is kept.
    start: Offset,
    /// The end of what was appended here.
    appended: Offset,
    /// There is nothing to read in it, up to Kafka's end.
    nothing: Range<Offset>,
}

impl KnownEnds {
    /// Records up to here were acknowledged.
    pub fn appended(&self, to: &TopicPartition, end: Offset) {
        self.change(to, |known| known.appended = known.appended.max(end));
    }

    /// Records before `start` are gone.
    pub fn starts(&self, of: &TopicPartition, start: Offset) {
        self.change(of, |known| known.start = known.start.max(start));
    }

    /// A reader found nothing from `from` to Kafka's `end`.
    pub fn nothing(&self, of: &TopicPartition, from: Offset, end: Offset) {
        self.change(of, |known| {
            // From an earlier place to the same end says more.
            if known.nothing.end != end || from < known.nothing.start {
                known.nothing = from..end;
            }
        });
    }

    /// Nothing before this offset is kept.
    pub fn start(&self, of: &TopicPartition) -> Offset {
        self.partitions.lock().get(of).map_or(0, |known| known.start)
    }

    /// Whether there is nothing to read from `from` on while Kafka's end is `end`.
    pub fn is_nothing(&self, of: &TopicPartition, from: Offset, end: Offset) -> bool {
        let partitions = self.partitions.lock();
        from >= end || partitions.get(of).is_some_and(|known| known.nothing.end == end && known.nothing.start <= from)
    }

    fn change(&self, of: &TopicPartition, change: impl FnOnce(&mut Known)) {
        let mut partitions = self.partitions.lock();
        match partitions.get_mut(of) {
            Some(known) => change(known),
            None => change(partitions.entry(of.clone()).or_default()),
        }
    }

    /// The bounds of every partition of a topic.
    pub async fn bounds(&self, cluster: &Cluster, topic: &str) -> Result<Vec<Range<Offset>>> {
        let now = Instant::now();
        let topic: Arc<str> = topic.into();
        let mut ends = cluster.ends(&topic, now.checked_sub(FRESH).unwrap_or(now)).await?;
        if self.were_appended_to(&topic, &ends) {
            ends = cluster.ends(&topic, now).await?;
        }
        let partitions = self.partitions.lock();
        let bounds = (0u32..).zip(ends.iter()).map(|(partition, kept)| {
            let known = partitions.get(&TopicPartition { topic: topic.clone(), partition });
            known.map_or_else(|| kept.clone(), |known| known.bounds(kept))
        });
        Ok(bounds.collect())
    }

    /// Whether something was appended here past these ends.
    fn were_appended_to(&self, topic: &Arc<str>, ends: &Ends) -> bool {
        let partitions = self.partitions.lock();
        (0u32..).zip(ends.iter()).any(|(partition, kept)| {
            let known = partitions.get(&TopicPartition { topic: topic.clone(), partition });
            known.is_some_and(|known| known.appended > kept.end)
        })
    }

    /// Where a partition begins and where Kafka says it ends, at `since` or later.
    pub async fn kafka(&self, cluster: &Cluster, of: &TopicPartition, since: Instant) -> Result<Range<Offset>> {
        let ends = cluster.ends(&of.topic, since).await?;
        let kept = ends.get(of.partition as usize).cloned();
        let kept = kept.ok_or_else(|| LogError::NotFound(format!("partition {of}")))?;
        self.starts(of, kept.start);
        Ok(kept)
    }
}

impl Known {
    /// The end stays Kafka's even if more was appended here: behind a transaction that somebody has open, acknowledged records
    /// cannot be read yet, and an end past them would say that there are none.
    fn bounds(&self, kept: &Range<Offset>) -> Range<Offset> {
        let readable = if kept.end == self.nothing.end { self.nothing.start } else { kept.end };
        let start = kept.start.max(self.start);
        start..readable.max(start)
    }
}
