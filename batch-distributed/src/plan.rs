//! The plan of a job, and its two operators.
//!
//! ```text
//! stage 1, a task for each hand of segments        stage 2, a task for each part of the groups
//! segments ─► fold, sort, merge ─► states ──hash of the group──► sort, merge ─► states in order
//! ```
//!
//! Which segments a task reads are the rows of the plan's leaf, DataFusion's own in-memory table: Ballista hands each task its
//! part of a leaf that it knows, and of no other. What the operators do is `batch_layer`'s [`LocalEngine`], with its memory and its
//! spilling: there is no second implementation of anything.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use batch_layer::{BatchEngine, Failure, LocalEngine, ReadCounters, ViewJob, deal_apart};
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{EmissionType, PlanProperties};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning};
use event_log::archive::ArchivedSegment;
use futures::stream::{BoxStream, StreamExt, TryStreamExt, once};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use views::{TopicPartition, View, ViewError};

use crate::assignment::{Assignment, Worker};
use crate::told::{self, Report};

/// The plan by which a view's states are computed in up to `tasks` tasks, twice.
pub(crate) fn of(job: &ViewJob, assignment: &Arc<Assignment>, tasks: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let hands = deal_apart(&job.view.source, &job.segments, tasks);
    let hands = hands.iter().map(|hand| Ok(vec![as_rows(hand)?])).collect::<Result<Vec<_>>>()?;
    let parts = hands.len();
    let segments = MemorySourceConfig::try_new_exec(&hands, segment_schema(), None)?;
    let travelling = told::travelling(&job.view.state_schema);
    let folded = WorkExec::new(Work::Fold, assignment.clone(), travelling.clone(), segments, None);
    let groups = job.view.group_schema.fields().iter().enumerate();
    let group = |(index, field): (usize, &Arc<Field>)| Arc::new(Column::new(field.name(), index)) as _;
    let by_group: Vec<Arc<dyn PhysicalExpr>> = groups.map(group).collect();
    let parted = RepartitionExec::try_new(Arc::new(folded), Partitioning::Hash(by_group, parts))?;
    Ok(Arc::new(WorkExec::new(Work::Merge, assignment.clone(), travelling, Arc::new(parted), None)))
}

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Segments to states.
    Fold,
    /// States of the same groups to one each, in order.
    Merge,
}

/// An operator that works in `batch_layer`'s way. Only executors have the parts it needs.
#[derive(Debug)]
pub(crate) struct WorkExec {
    pub(crate) work: Work,
    pub(crate) assignment: Arc<Assignment>,
    worker: Option<Arc<Worker>>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl WorkExec {
    pub(crate) fn new(
        work: Work,
        assignment: Arc<Assignment>,
        schema: SchemaRef,
        input: Arc<dyn ExecutionPlan>,
        worker: Option<Arc<Worker>>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            input.boundedness(),
        );
        Self { work, assignment, worker, input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for WorkExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TidemarkExec: {:?} view={}", self.work, self.assignment.view)
    }
}

impl ExecutionPlan for WorkExec {
    fn name(&self) -> &'static str {
        "TidemarkExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// Nobody may deal the rows of the input out anew: they say what each task reads.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return Err(DataFusionError::Internal("TidemarkExec has one input".to_owned()));
        };
        Ok(Arc::new(Self::new(self.work, self.assignment.clone(), self.schema(), input, self.worker.clone())))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(worker) = self.worker.clone() else {
            return Err(DataFusionError::Internal("TidemarkExec runs on Tidemark's executors only".to_owned()));
        };
        let input = self.input.execute(partition, context)?;
        let (work, assignment) = (self.work, self.assignment.clone());
        let states = once(async move {
            let view = worker.view(&assignment).map_err(told::refused)?;
            let task = Task { worker, view, horizon: assignment.horizon, read: Arc::default() };
            match work {
                Work::Fold => task.fold(input).await,
                Work::Merge => task.merge(input),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), states.try_flatten())))
    }
}

/// A task of an executor.
struct Task {
    worker: Arc<Worker>,
    view: Arc<View>,
    horizon: Option<i64>,
    read: Arc<ReadCounters>,
}

type Travelling = BoxStream<'static, Result<RecordBatch>>;

impl Task {
    fn engine(&self) -> Result<LocalEngine> {
        let Worker { archive, registry, settings, .. } = &*self.worker;
        LocalEngine::new(archive.clone(), registry.clone(), settings)
    }

    async fn fold(self, segments: SendableRecordBatchStream) -> Result<Travelling> {
        let mut all = Vec::new();
        for rows in segments.try_collect::<Vec<_>>().await? {
            all.extend(from_rows(&rows, &self.view.source.name)?);
        }
        let job = ViewJob { view: self.view.clone(), segments: Arc::new(all), horizon: self.horizon };
        let name = self.worker.name.clone();
        let states = self.engine()?.states(&job, &self.read).await.map_err(|failure| told::failed(&name, failure))?;
        let packed = states.map(move |states| told::packed(&states.map_err(|failure| told::failed(&name, failure))?));
        let report = once(async move { Report::of(&self.read).row(&self.view.state_schema) });
        Ok(packed.chain(report).boxed())
    }

    fn merge(self, travelled: SendableRecordBatchStream) -> Result<Travelling> {
        let Self { worker, view, read, .. } = &self;
        let reports: Arc<Mutex<Report>> = Arc::default();
        let is_cut_off = Arc::new(AtomicBool::new(false));
        let (schema, told, cut_off) = (view.state_schema.clone(), reports.clone(), is_cut_off.clone());
        let states = travelled.map(move |batch| {
            let (states, reports) =
                unpacked_or(batch, &schema).inspect_err(|_| cut_off.store(true, Ordering::Relaxed))?;
            reports.into_iter().for_each(|report| told.lock().add(report));
            Ok(states)
        });
        let states = RecordBatchStreamAdapter::new(view.state_schema.clone(), states);
        let merged = self.engine()?.merge(view, Box::pin(states), read);
        let name = worker.name.clone();
        let failed = move |error: ViewError| match error {
            // From another executor: Ballista knows by the very error that it has to run that one's tasks again.
            ViewError::Evaluate(error) if is_cut_off.load(Ordering::Relaxed) => error,
            error => told::failed(&name, Failure::from(error)),
        };
        let merged = merged.map_err(&failed)?;
        let packed = merged.map(move |states| told::packed(&states.map_err(&failed)?));
        let report = once(async move {
            let mut all = std::mem::take(&mut *reports.lock());
            all.add(Report::of(&self.read));
            all.row(&self.view.state_schema)
        });
        Ok(packed.chain(report).boxed())
    }
}

fn unpacked_or(batch: Result<RecordBatch>, schema: &SchemaRef) -> Result<(RecordBatch, Vec<Report>)> {
    told::unpacked(&batch?, schema)
}

/// The columns that name segments of one topic.
fn segment_schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        field("partition", DataType::UInt32),
        field("start", DataType::UInt64),
        field("end", DataType::UInt64),
        field("bytes", DataType::UInt64),
    ]))
}

fn as_rows(segments: &[ArchivedSegment]) -> Result<RecordBatch> {
    let numbers = |of: fn(&ArchivedSegment) -> u64| Arc::new(segments.iter().map(of).collect::<UInt64Array>());
    let partitions: UInt32Array = segments.iter().map(|segment| segment.partition.partition).collect();
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(partitions),
        numbers(|segment| segment.start),
        numbers(|segment| segment.end),
        numbers(|segment| segment.bytes),
    ];
    Ok(RecordBatch::try_new(segment_schema(), columns)?)
}

fn from_rows(rows: &RecordBatch, topic: &Arc<str>) -> Result<Vec<ArchivedSegment>> {
    // The types of another sender's columns are not ours to trust.
    let rows = RecordBatch::try_new(segment_schema(), rows.columns().to_vec())?;
    let partitions = rows.column(0).as_primitive::<UInt32Type>();
    let number = |column: usize, row: usize| rows.column(column).as_primitive::<UInt64Type>().value(row);
    let segment = |row: usize| ArchivedSegment {
        partition: TopicPartition::new(topic.clone(), partitions.value(row)),
        start: number(1, row),
        end: number(2, row),
        bytes: number(3, row),
    };
    Ok((0..rows.num_rows()).map(segment).collect())
}
