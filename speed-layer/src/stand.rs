//! Where a view stands in a partition: the next record to fold, and the segment that is open there.
//!
//! That is the progress of its deltas, or the frontier of the last published generation that holds this very definition,
//! when that lies further. What is read here may be out of date a moment later (another owner writes, a generation is
//! published); the conditional write notices.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use event_log::{Content, EventLog, ReadLimit};
use parking_lot::Mutex;
use view_store::{Beside, Progress, ViewStore};
use views::{Offset, Published, Segment, TopicPartition, View};

use crate::error::{Result, SpeedError};
use crate::layer::Partition;

/// A view and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub view: Arc<View>,
    pub at: Progress,
}

/// Reads where `views` stand in `partition`.
pub(crate) async fn stand(
    log: &dyn EventLog,
    store: &dyn ViewStore,
    views: &[Arc<View>],
    partition: &TopicPartition,
) -> Result<Vec<Standing>> {
    let published = store.published().await?;
    let mut standings = Vec::with_capacity(views.len());
    for view in views {
        let mut at = store.progress(view, partition).await?;
        let frontier = published.as_ref().and_then(|published| frontier_of(published, view, partition));
        if let Some(frontier) = frontier
            && frontier > at.offset
        {
            at = Progress { offset: frontier, segment: segment_at_frontier(log, partition, frontier).await? };
        }
        standings.push(Standing { view: view.clone(), at });
    }
    Ok(standings)
}

/// Where tasks stand that have written nothing from there yet: by view, by partition. When a layer begins they will all ask for the
/// states of much the same groups.
#[derive(Default)]
pub(crate) struct Beginners(Mutex<HashMap<Arc<str>, BTreeMap<u32, Progress>>>);

impl Beginners {
    /// Where a view stands in other partitions.
    pub fn beside(&self, view: &View, partition: &TopicPartition) -> Vec<Beside> {
        let begun = self.0.lock();
        let others = begun.get(&view.name).into_iter().flatten().filter(|(number, _)| **number != partition.partition);
        others.map(|(number, at)| Beside { partition: *number, at: *at }).collect()
    }
}

/// A task among the [`Beginners`], until it is dropped.
pub(crate) struct Beginner {
    partition: Arc<Partition>,
    views: Vec<Arc<View>>,
}

impl Beginner {
    /// With the views of a partition, where they stand.
    pub fn new(partition: &Arc<Partition>, standings: &[Standing]) -> Self {
        let mut beginners = partition.shared.beginners.0.lock();
        for Standing { view, at } in standings {
            beginners.entry(view.name.clone()).or_default().insert(partition.place.partition, *at);
        }
        drop(beginners);
        let views = standings.iter().map(|standing| standing.view.clone()).collect();
        Self { partition: partition.clone(), views }
    }
}

impl Drop for Beginner {
    fn drop(&mut self) {
        let mut beginners = self.partition.shared.beginners.0.lock();
        for view in &self.views {
            if let Some(begun) = beginners.get_mut(&view.name) {
                begun.remove(&self.partition.place.partition);
            }
        }
    }
}

fn frontier_of(published: &Published, view: &View, partition: &TopicPartition) -> Option<Offset> {
    let (_, frontier) = published.of(view)?;
    frontier.get(partition)
}

/// The segment that begins at a frontier: right after a marker, whose number is the highest so far. It may be higher than the
/// generation's, when the marker of that generation never reached this partition.
async fn segment_at_frontier(log: &dyn EventLog, partition: &TopicPartition, frontier: Offset) -> Result<Segment> {
    let before = log.read(partition, frontier - 1, ReadLimit::records(1)).await?;
    match before.first() {
        Some(record) if record.offset == frontier - 1 => match record.content {
            Content::Marker(number) => Ok(Segment { start: frontier, marker: number }),
            Content::Event { .. } => Err(SpeedError::NoMarker { partition: partition.clone(), frontier }),
        },
        _ => Err(SpeedError::NoMarker { partition: partition.clone(), frontier }),
    }
}
