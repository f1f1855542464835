//! Archive to the states of one view, in the order of their groups.
//!
//! ```text
//! segments ─► [without repeats] ─► WHERE, partial aggregation ─► sort by group ─► merge ─► states
//!             └────────── on every thread, spilling ──────────────────────┘
//! ```
//!
//! Partial aggregation hands on what it has when memory runs short, and the sort spills, so a group may arrive in
//! several states; they stand together once sorted, and a [`Fold`] that holds no more than one chunk of groups merges them.

use std::sync::Arc;

use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use futures::stream::{BoxStream, StreamExt, try_unfold};
use views::plan::FoldExec;
use views::{Fold, View, ViewError};

use crate::chunks::{self, given};
use crate::dedupe;
use crate::retention;
use crate::scan::ArchiveScan;

/// The states of one view, and the plans they come from (for their metrics): up to the fold, and from there on.
pub(crate) struct GenerationRows {
    pub(crate) rows: BoxStream<'static, Result<RecordBatch, ViewError>>,
    pub(crate) plans: [Arc<dyn ExecutionPlan>; 2],
}

/// Begins to recompute a view. Tiles at or before `horizon` are left out.
pub(crate) async fn rows(
    session: &SessionContext,
    view: &Arc<View>,
    scan: &ArchiveScan,
    horizon: Option<i64>,
) -> Result<GenerationRows, ViewError> {
    let events = dedupe::plan(session, scan, &view.input_columns).await?;
    let (merged, plan) = merged(session, view, &(Arc::new(FoldExec::new(view, events.clone())) as _))?;
    let view = view.clone();
    let rows = merged.map(move |rows| young_enough(&view, rows?, horizon)).boxed();
    Ok(GenerationRows { rows, plans: [events, plan] })
}

/// Merges states that are there already: several of a group, in no order. Their batches may be of any size.
pub(crate) fn merge(
    session: &SessionContext,
    view: &Arc<View>,
    states: SendableRecordBatchStream,
) -> Result<GenerationRows, ViewError> {
    let states = chunks::small(states, session.state().config().batch_size());
    let states = given(&view.state_schema, vec![states])?;
    let (rows, plan) = merged(session, view, &states)?;
    Ok(GenerationRows { rows, plans: [states, plan] })
}

/// One stream of several, each of which is in the order of the view's groups and has groups of its own.
pub(crate) fn in_order(
    session: &SessionContext,
    view: &Arc<View>,
    streams: Vec<SendableRecordBatchStream>,
) -> Result<SendableRecordBatchStream, ViewError> {
    let streams = given(&view.state_schema, streams)?;
    let plan: Arc<dyn ExecutionPlan> = match view.group_ordering() {
        Some(order) => Arc::new(SortPreservingMergeExec::new(order, streams)),
        None => Arc::new(CoalescePartitionsExec::new(streams)),
    };
    Ok(execute_stream(plan, session.task_ctx())?)
}

/// Sorts states by group, and merges those of the same group.
fn merged(
    session: &SessionContext,
    view: &Arc<View>,
    states: &Arc<dyn ExecutionPlan>,
) -> Result<(BoxStream<'static, Result<RecordBatch, ViewError>>, Arc<dyn ExecutionPlan>), ViewError> {
    let states = chunks::owned(states)?;
    let plan: Arc<dyn ExecutionPlan> = match view.group_ordering() {
        Some(order) => {
            let sorted = SortExec::new(order.clone(), states).with_preserve_partitioning(true);
            Arc::new(SortPreservingMergeExec::new(order, Arc::new(sorted)))
        }
        None => Arc::new(CoalescePartitionsExec::new(states)),
    };
    let merger = Merger::new(view, execute_stream(plan.clone(), session.task_ctx())?)?;
    let rows = try_unfold(merger, |mut merger| async move {
        let rows = merger.next().await?;
        Ok::<_, ViewError>(rows.map(|rows| (rows, merger)))
    });
    Ok((rows.boxed(), plan))
}

fn young_enough(view: &View, rows: RecordBatch, horizon: Option<i64>) -> Result<RecordBatch, ViewError> {
    let (Some(horizon), Some(time)) = (horizon, view.time) else {
        return Ok(rows);
    };
    let kept = retention::kept(rows.column(time.index), horizon)?;
    Ok(filter_record_batch(&rows, &kept)?)
}

/// Merges states that are sorted by group: every group comes out once, in order.
///
/// The last group of a chunk may go on in the next one, so it stays in the fold.
struct Merger {
    view: Arc<View>,
    states: SendableRecordBatchStream,
    fold: Fold,
    order: RowConverter,
    /// The group that is still open.
    open: Option<OwnedRow>,
    ended: bool,
}

impl Merger {
    fn new(view: &Arc<View>, states: SendableRecordBatchStream) -> Result<Self, ViewError> {
        let fields = view.group_schema.fields();
        let fields = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        Ok(Self {
            view: view.clone(),
            states,
            fold: Fold::new(view)?,
            order: RowConverter::new(fields)?,
            open: None,
            ended: false,
        })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, ViewError> {
        while !self.ended {
            let finished = match self.states.next().await {
                Some(states) => self.merge(&states?)?,
                None => {
                    self.ended = true;
                    (!self.fold.is_empty()).then(|| self.fold.take_states()).transpose()?
                }
            };
            if finished.is_some() {
                return Ok(finished);
            }
        }
        Ok(None)
    }

    /// Merges a chunk, and gives the groups that are complete by it.
    fn merge(&mut self, states: &RecordBatch) -> Result<Option<RecordBatch>, ViewError> {
        if states.num_rows() == 0 {
            return Ok(None);
        }
        // The plan's schema has its own names and nullability.
        let states = RecordBatch::try_new(self.view.state_schema.clone(), states.columns().to_vec())?;
        let groups = self.order.convert_columns(&states.columns()[..self.view.group_schema.fields().len()])?;
        let last_row = states.num_rows() - 1;
        let last = groups.row(last_row);
        let (mut low, mut high) = (0, last_row);
        while low < high {
            let middle = (low + high) / 2;
            if groups.row(middle) < last { low = middle + 1 } else { high = middle }
        }
        let goes_on = low == 0 && self.open.as_ref().is_some_and(|open| open.row() == last);
        self.open = Some(last.owned());
        if goes_on {
            self.fold.merge(&states)?;
            return Ok(None);
        }
        self.fold.merge(&states.slice(0, low))?;
        let finished = (!self.fold.is_empty()).then(|| self.fold.take_states()).transpose()?;
        self.fold.merge(&states.slice(low, states.num_rows() - low))?;
        Ok(finished)
    }
}
