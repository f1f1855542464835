//! Writing: folds to absolute deltas, deltas and progress to the store.
//!
//! The states of an open segment are not kept in memory between two writes: the store is where they are continued
//! from. For each touched group the delta written so far (the *prior*) is read and merged with the new states, and the sum is
//! written in its place.
//!
//! Prior and write are of one moment, although they are two calls. The write happens only if the view still stands at
//! `from`, and where a view stands never moves back; so if it stands at `from` when the write is done, it stood there when the
//! prior was read as well, and the prior holds exactly the records of the segment before `from`. Whatever else happened in
//! between (another owner, an earlier write of ours whose acknowledgement was lost, a new generation) has moved the view, and then
//! nothing is written.

use view_store::{DeltaWrite, Progress, StoreError, ViewDeltas, WriteOutcome};
use views::{Offset, Segment, SegmentId};

use arrow::record_batch::RecordBatch;

use crate::error::{Result, SpeedError};
use crate::layer::Partition;
use crate::micro_batch::{MicroBatch, ViewFolds, guarded};
use crate::status::add;

/// What writing a micro-batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Every view that has not failed stands at the micro-batch's position.
    Written,
    /// Some view stands elsewhere than was thought: read again where.
    Conflict,
}

/// Writes a micro-batch; it is empty afterwards, and of no use after an error or a conflict.
pub(crate) async fn flush(partition: &Partition, batch: &mut MicroBatch) -> Result<Flushed> {
    let to = Progress { offset: batch.position, segment: batch.open };
    // Views that stand together are written together. After the first write that is all of them.
    while let Some(from) = lowest(batch, to.offset) {
        let views = deltas_from(partition, batch, from, to.offset).await?;
        if views.is_empty() {
            continue;
        }
        let states: usize = views.iter().flat_map(|view| &view.segments).map(|(_, states)| states.num_rows()).sum();
        let write = DeltaWrite { partition: partition.place.clone(), from, to, views };
        if partition.shared.store.write_deltas(write).await? == WriteOutcome::Conflict {
            add(&partition.shared.counters.conflicts, 1);
            return Ok(Flushed::Conflict);
        }
        for view in batch.views.iter_mut().filter(|view| view.failed.is_none() && view.from == from) {
            view.from = to.offset;
            partition.stands_at(&view.view.name, to.offset);
        }
        add(&partition.shared.counters.writes, 1);
        add(&partition.shared.counters.states, states);
        partition.shared.written.send_modify(|writes| *writes += 1);
    }
    batch.records = 0;
    Ok(Flushed::Written)
}

fn lowest(batch: &MicroBatch, to: Offset) -> Option<Offset> {
    let waiting = batch.views.iter().filter(|view| view.failed.is_none() && view.from < to);
    waiting.map(|view| view.from).min()
}

/// The deltas of the views that stand at `from`. A view whose states cannot be merged fails, and is left out.
async fn deltas_from(
    partition: &Partition,
    batch: &mut MicroBatch,
    from: Offset,
    to: Offset,
) -> Result<Vec<ViewDeltas>> {
    let mut written = Vec::new();
    for view in batch.views.iter_mut().filter(|view| view.failed.is_none() && view.from == from) {
        match deltas(partition, view).await {
            Ok(segments) => written.push(ViewDeltas { view: view.view.clone(), segments }),
            Err(NoDeltas::OfThisView(reason)) => view.fail(reason, to),
            Err(NoDeltas::ForNow(error)) => return Err(error),
        }
    }
    Ok(written)
}

enum NoDeltas {
    OfThisView(String),
    ForNow(SpeedError),
}

async fn deltas(partition: &Partition, view: &mut ViewFolds) -> Result<Vec<(Segment, RecordBatch)>, NoDeltas> {
    let mut segments = Vec::with_capacity(view.folds.len());
    for (segment, mut fold) in std::mem::take(&mut view.folds) {
        let mut states = guarded(|| fold.take_states()).map_err(NoDeltas::OfThisView)?;
        if states.num_rows() == 0 {
            continue;
        }
        // Only the segment that was open at `from` can have deltas already.
        if segment.start < view.from {
            let id = SegmentId { partition: partition.place.clone(), start: segment.start };
            let prior = partition.shared.store.deltas(&view.view, &id, segment.marker, &states).await;
            let prior = prior.map_err(NoDeltas::from)?;
            if prior.num_rows() > 0 {
                let merged = guarded(|| {
                    // The older records first: some aggregates keep their order.
                    fold.merge(&prior)?;
                    fold.merge(&states)?;
                    fold.take_states()
                });
                states = merged.map_err(NoDeltas::OfThisView)?;
            }
        }
        segments.push((segment, states));
    }
    Ok(segments)
}

impl From<StoreError> for NoDeltas {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::View(_) | StoreError::Damaged(_) => Self::OfThisView(error.to_string()),
            StoreError::Unavailable { .. } | StoreError::Invalid(_) => Self::ForNow(error.into()),
        }
    }
}
