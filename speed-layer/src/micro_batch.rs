//! What was read since the last write: per view and segment a fold, and how far the reading has come.
//!
//! Nothing here outlives a write or a failure. Between two writes it may grow with the lag, up to the memory that
//! the caller grants.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use event_log::Content;
use views::{Fold, Offset, Segment, View, ViewError};

use crate::cuts::Layout;
use crate::error::{Result, SpeedError};
use crate::rejected::RejectedEvent;
use crate::stand::Standing;
use crate::status::Failure;

/// The unwritten part of what a task has read.
pub(crate) struct MicroBatch {
    /// The next record to read.
    pub position: Offset,
    /// The segment that is open there.
    pub open: Segment,
    /// What each view makes of the records. Views that failed stay until they are reported.
    pub views: Vec<ViewFolds>,
    /// Events that no view could count.
    pub rejected: Vec<RejectedEvent>,
    /// How many records it holds.
    pub records: u64,
}

/// What one view makes of the records.
pub(crate) struct ViewFolds {
    pub view: Arc<View>,
    /// Where its input columns are in the decoded events.
    columns: Vec<usize>,
    /// Where it stands in the store: records before it are in its deltas already.
    pub from: Offset,
    /// The touched segments, in order.
    pub folds: Vec<(Segment, Fold)>,
    /// Why it can go no further.
    pub failed: Option<Failure>,
}

impl MicroBatch {
    /// An empty one, from where the views stand; `decoded` lists the columns that events are decoded to. `None` without views.
    pub fn begin(standings: &[Standing], decoded: &[usize]) -> Result<Option<Self>> {
        let Some(lowest) = standings.iter().map(|standing| standing.at).min_by_key(|at| at.offset) else {
            return Ok(None);
        };
        let views = standings.iter().map(|standing| ViewFolds::new(standing, decoded)).collect::<Result<_>>()?;
        Ok(Some(Self { position: lowest.offset, open: lowest.segment, views, rejected: Vec::new(), records: 0 }))
    }

    /// Whether there is nothing to write, not even progress.
    pub fn is_empty(&self) -> bool {
        self.views.iter().all(|view| view.failed.is_some() || view.from >= self.position)
    }

    /// The bytes it holds, about.
    pub fn size(&self) -> usize {
        let folds = self.views.iter().flat_map(|view| &view.folds).map(|(_, fold)| fold.size()).sum::<usize>();
        let rejected = self.rejected.iter().map(|event| match &event.record.content {
            Content::Event { key, value } => key.as_ref().map_or(0, |key| key.len()) + value.len(),
            Content::Marker(_) => 0,
        });
        folds + rejected.sum::<usize>()
    }

    /// Folds decoded events into every view, and moves on to `position`. A view that fails on them stops there; the others
    /// do not notice.
    pub fn fold(&mut self, events: &RecordBatch, layout: &Layout, position: Offset) {
        for view in &mut self.views {
            view.fold(events, layout, position);
        }
        self.position = position;
        self.open = layout.open;
    }
}

impl ViewFolds {
    fn new(standing: &Standing, decoded: &[usize]) -> Result<Self> {
        let view = standing.view.clone();
        let place = |column: &usize| {
            let missing = || SpeedError::Definition(format!("view {}: column {column} is not decoded", view.name));
            decoded.iter().position(|decoded| decoded == column).ok_or_else(missing)
        };
        let columns = view.input_columns.iter().map(place).collect::<Result<_>>()?;
        Ok(Self { view, columns, from: standing.at.offset, folds: Vec::new(), failed: None })
    }

    fn fold(&mut self, events: &RecordBatch, layout: &Layout, position: Offset) {
        if self.failed.is_some() || self.from >= position {
            return;
        }
        if let Err(reason) = guarded(|| self.try_fold(events, layout)) {
            let event = self.first_failure(events, layout);
            self.fail(reason, position);
            // Told as exactly as can be.
            if let (Some(event), Some(failure)) = (event, &mut self.failed) {
                (failure.from, failure.to) = (event, event + 1);
            }
        }
    }

    fn try_fold(&mut self, events: &RecordBatch, layout: &Layout) -> Result<(), ViewError> {
        let events = events.project(&self.columns)?;
        let first_own_row = layout.offsets.partition_point(|offset| *offset < self.from);
        for (segment, rows) in &layout.runs {
            let start = rows.start.max(first_own_row);
            if start < rows.end {
                self.fold_of(*segment)?.update(&events.slice(start, rows.end - start))?;
            }
        }
        Ok(())
    }

    /// The offset of the first event that the view cannot fold.
    fn first_failure(&self, events: &RecordBatch, layout: &Layout) -> Option<Offset> {
        let own = layout.offsets.partition_point(|offset| *offset < self.from);
        let events = events.project(&self.columns).ok()?;
        let row = views::fold::first_failure(&self.view, &events.slice(own, events.num_rows() - own))?;
        layout.offsets.get(own + row).copied()
    }

    fn fold_of(&mut self, segment: Segment) -> Result<&mut Fold, ViewError> {
        if self.folds.last().is_none_or(|(last, _)| *last != segment) {
            self.folds.push((segment, Fold::new(&self.view)?));
        }
        match self.folds.last_mut() {
            Some((_, fold)) => Ok(fold),
            None => Err(ViewError::Invalid("no open fold".into())),
        }
    }

    /// Gives the view up: what it has folded is of no use any more.
    pub fn fail(&mut self, reason: String, to: Offset) {
        self.folds.clear();
        self.failed = Some(Failure { reason, from: self.from, to });
    }
}

/// Runs a view's expressions or aggregates. What goes wrong in them, a panic included, is that view's alone.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, ViewError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("panicked: {}", panic_message(panic.as_ref()))),
    }
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
