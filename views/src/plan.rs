//! A view's fold as an operator of a DataFusion plan, for the batch layer.
//!
//! [`FoldExec`] is partial aggregation: each partition of its input is folded, and states come out. DataFusion's own
//! `AggregateExec` would do, but for two things: it plans order inside aggregates as an order of the whole input, and refuses
//! views whose aggregates want different ones; and with [`Fold`] both layers run the same code, not only the same
//! functions. Memory is bounded by the session's pool: when it gives no more, the states so far come out early, so a group
//! may appear more than once, and whoever reads the states merges them.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{EmissionType, PlanProperties};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties};

use crate::error::ViewError;
use crate::fold::Fold;
use crate::view::View;

impl View {
    /// The order in which groups are stored: ascending by every group column, nulls first.
    pub fn group_ordering(&self) -> Option<LexOrdering> {
        let by = |(index, field): (usize, &Arc<datafusion::arrow::datatypes::Field>)| {
            let column = Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>;
            PhysicalSortExpr::new_default(column)
        };
        LexOrdering::new(self.group_schema.fields().iter().enumerate().map(by))
    }
}

/// Folds the events of each input partition into states.
#[derive(Debug)]
pub struct FoldExec {
    view: Arc<View>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl FoldExec {
    /// Folds `input` (the view's `input_schema`) into states (its `state_schema`).
    pub fn new(view: &Arc<View>, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(view.state_schema.clone()),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            input.boundedness(),
        );
        Self { view: view.clone(), input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for FoldExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FoldExec: view={}", self.view.name)
    }
}

impl ExecutionPlan for FoldExec {
    fn name(&self) -> &'static str {
        "FoldExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(&self.view, input))),
            _ => Err(DataFusionError::Internal("FoldExec has one input".to_owned())),
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        // The view's expressions are compiled and not for optimizers to see.
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context.clone())?;
        let reservation =
            MemoryConsumer::new(format!("FoldExec[{partition}]")).with_can_spill(true).register(context.memory_pool());
        let folding = Folding {
            fold: Fold::new(&self.view).map_err(into_datafusion)?,
            view: self.view.clone(),
            input: Some(input),
            reservation,
            batch_size: context.session_config().batch_size(),
            ready: None,
        };
        let stream = futures::stream::try_unfold(folding, Folding::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.view.state_schema.clone(), stream)))
    }
}

struct Folding {
    view: Arc<View>,
    fold: Fold,
    input: Option<SendableRecordBatchStream>,
    reservation: MemoryReservation,
    batch_size: usize,
    /// States on their way out, and how many rows of them are out.
    ready: Option<(RecordBatch, usize)>,
}

impl Folding {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some((states, given)) = &mut self.ready {
                if *given < states.num_rows() {
                    let rows = self.batch_size.min(states.num_rows() - *given);
                    let chunk = states.slice(*given, rows);
                    *given += rows;
                    return Ok(Some((chunk, self)));
                }
                self.ready = None;
                self.reservation.resize(self.fold.size());
            }
            let Some(input) = &mut self.input else { return Ok(None) };
            match futures::TryStreamExt::try_next(input).await? {
                Some(events) => {
                    self.fold.update(&events).map_err(into_datafusion)?;
                    if self.reservation.try_resize(self.fold.size()).is_err() && !self.fold.is_empty() {
                        self.emit()?;
                    }
                }
                None => {
                    self.input = None;
                    self.emit()?;
                }
            }
        }
    }

    fn emit(&mut self) -> Result<()> {
        self.ready = Some((self.fold.take_states().map_err(into_datafusion)?, 0));
        debug_assert!(self.fold.is_empty(), "{} still holds groups", self.view.name);
        Ok(())
    }
}

fn into_datafusion(error: ViewError) -> DataFusionError {
    match error {
        ViewError::Evaluate(error) => error,
        other => DataFusionError::External(Box::new(other)),
    }
}
