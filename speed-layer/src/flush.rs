//! Writing: folds to absolute deltas, deltas and progress to the store.
//!
//! The states of an open segment are not kept in memory between two writes: the store is where they are continued
//! from. For each touched group the delta written so far (the *prior*) is read and merged with the new states, and the sum is
//! written in its place.
//!
//! A prior says how far it reaches. The view stands at `from`: everything before is in its deltas, so a prior that reaches no further
//! than `from` holds exactly the group's records of the segment before `from`, whoever wrote it. One that reaches further was
//! written by another owner, or by a write of ours that broke off. It must not be merged with records that it holds already:
//!
//! - if it reaches the end of this micro-batch or past it, nothing is missing in it: the group is left out of the write;
//! - if it ends within, the micro-batch is folded again, up to there ([`Flushed::Ahead`]). Then that group is of the first kind,
//!   and the next micro-batch begins where the prior ends.
//!
//! So every delta holds exactly the records that it says, whatever else is written at the same time, and a store where the delta
//! that reaches further always wins needs no lock and no lease. A store that looks and writes in one step refuses the write when
//! the view has moved, and then no such prior is ever merged either.

use std::collections::HashSet;
use std::time::Instant;

use arrow::array::BooleanArray;
use arrow::compute::{filter_record_batch, not};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use view_store::{DeltaWrite, Priors, Progress, StoreError, ViewDeltas, WriteOutcome};
use views::{Offset, Segment, View, ViewError};

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
    /// Some delta reaches past where its view stands, and ends at this offset, within the micro-batch: fold up to there.
    Ahead(Offset),
}

/// Writes a micro-batch; it is empty afterwards, and of no use after an error or a conflict.
pub(crate) async fn flush(partition: &Partition, batch: &mut MicroBatch) -> Result<Flushed> {
    let to = Progress { offset: batch.position, segment: batch.open };
    // Views that stand together are written together. After the first write that is all of them.
    while let Some(from) = lowest(batch, to.offset) {
        let began = Instant::now();
        let views = match deltas_from(partition, batch, from, to).await? {
            Ok(views) => views,
            Err(ahead) => return Ok(Flushed::Ahead(ahead)),
        };
        if views.is_empty() {
            continue;
        }
        let states: usize = views.iter().flat_map(|view| &view.segments).map(|(_, states)| states.num_rows()).sum();
        let continued = began.elapsed();
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
        let (place, to, took) = (&partition.place, to.offset, began.elapsed());
        tracing::debug!(partition = %place, from, to, states, ?continued, ?took, "deltas written");
    }
    batch.records = 0;
    Ok(Flushed::Written)
}

fn lowest(batch: &MicroBatch, to: Offset) -> Option<Offset> {
    let waiting = batch.views.iter().filter(|view| view.failed.is_none() && view.from < to);
    waiting.map(|view| view.from).min()
}

/// The deltas of the views that stand at `from`, or where one ends that got further. A view whose states cannot be merged
/// fails, and is left out.
async fn deltas_from(
    partition: &Partition,
    batch: &mut MicroBatch,
    from: Offset,
    to: Progress,
) -> Result<Result<Vec<ViewDeltas>, Offset>> {
    let mut written = Vec::new();
    let mut nearest: Option<Offset> = None;
    for view in batch.views.iter_mut().filter(|view| view.failed.is_none() && view.from == from) {
        match deltas(partition, view, to).await {
            Ok(segments) => written.push(ViewDeltas { view: view.view.clone(), segments }),
            Err(NoDeltas::Ahead(end)) => nearest = Some(nearest.map_or(end, |nearest| nearest.min(end))),
            Err(NoDeltas::OfThisView(reason)) => view.fail(reason, to.offset),
            Err(NoDeltas::ForNow(error)) => return Err(error),
        }
    }
    Ok(nearest.map_or(Ok(written), Err))
}

enum NoDeltas {
    /// A delta ends here, past where the view stands.
    Ahead(Offset),
    OfThisView(String),
    ForNow(SpeedError),
}

async fn deltas(
    partition: &Partition,
    view: &mut ViewFolds,
    to: Progress,
) -> Result<Vec<(Segment, RecordBatch)>, NoDeltas> {
    let folds = std::mem::take(&mut view.folds);
    let cuts: Vec<Offset> = folds.iter().map(|(segment, _)| segment.start).chain([to.segment.start]).collect();
    let mut segments = Vec::with_capacity(folds.len());
    for (segment, mut fold) in folds {
        let mut states = guarded(|| fold.take_states()).map_err(NoDeltas::OfThisView)?;
        if states.num_rows() == 0 {
            continue;
        }
        // A segment that begins in this micro-batch is folded from its start: nothing is to be continued.
        if segment.start >= view.from {
            segments.push((segment, states));
            continue;
        }
        // How far these states reach: a cut ends what a segment can hold.
        let through = cuts.iter().copied().filter(|cut| *cut > segment.start).fold(to.offset, Offset::min);
        let at = Progress { offset: view.from, segment };
        let beside = partition.shared.beginners.beside(&view.view, &partition.place);
        let priors = partition.shared.store.deltas(&view.view, &partition.place, at, &states, &beside).await;
        let Priors { states: priors, through: reached } = priors.map_err(NoDeltas::from)?;
        let past = reached.iter().copied().filter(|reached| *reached > view.from && *reached < through).min();
        if let Some(end) = past {
            return Err(NoDeltas::Ahead(end));
        }
        let whole: BooleanArray = reached.iter().map(|reached| Some(*reached >= through)).collect();
        if whole.true_count() > 0 {
            states = guarded(|| without(&view.view, &states, &filter_record_batch(&priors, &whole)?))
                .map_err(NoDeltas::OfThisView)?;
        }
        if priors.num_rows() > whole.true_count() {
            let merged = guarded(|| {
                // The older records first: some aggregates keep their order.
                fold.merge(&filter_record_batch(&priors, &not(&whole)?)?)?;
                fold.merge(&states)?;
                fold.take_states()
            });
            states = merged.map_err(NoDeltas::OfThisView)?;
        }
        if states.num_rows() > 0 {
            segments.push((segment, states));
        }
    }
    Ok(segments)
}

/// `states` without the groups that are in `whole`.
fn without(view: &View, states: &RecordBatch, whole: &RecordBatch) -> Result<RecordBatch, ViewError> {
    let columns = view.group_schema.fields().len();
    let fields = view.group_schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let there = converter.convert_columns(&whole.columns()[..columns])?;
    let there: HashSet<&[u8]> = there.iter().map(|group| group.data()).collect();
    let groups = converter.convert_columns(&states.columns()[..columns])?;
    let keep: BooleanArray = groups.iter().map(|group| Some(!there.contains(group.data()))).collect();
    Ok(filter_record_batch(states, &keep)?)
}

impl From<StoreError> for NoDeltas {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::View(_) | StoreError::Damaged(_) => Self::OfThisView(error.to_string()),
            StoreError::Unavailable { .. } | StoreError::Invalid(_) => Self::ForNow(error.into()),
        }
    }
}
