//! The engine in this process: DataFusion, on as many threads as the settings say.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use event_log::archive::Archive;
use event_log::registry::SchemaRegistry;
use futures::stream::{BoxStream, StreamExt};
use views::{View, ViewError};

use crate::engine::{Engine, Settings};
use crate::generation::{self, GenerationRows};
use crate::scan::ArchiveScan;
use crate::states::{BatchEngine, Failure, ReadCounters, StateStream, ViewJob};

/// Computes states in this process.
pub struct LocalEngine {
    archive: Arc<Archive>,
    registry: Arc<dyn SchemaRegistry>,
    engine: Engine,
}

impl LocalEngine {
    /// An engine with memory of its own.
    ///
    /// # Errors
    ///
    /// When the spill directory cannot be made.
    pub fn new(
        archive: Arc<Archive>,
        registry: Arc<dyn SchemaRegistry>,
        settings: &Settings,
    ) -> Result<Self, DataFusionError> {
        Ok(Self { archive, registry, engine: Engine::new(settings)? })
    }

    /// Merges states of a view (its `state_schema`), of which a group may have several, in any order. Every group comes out once, in
    /// ascending order.
    ///
    /// # Errors
    ///
    /// What `states` says, as it is; otherwise as [`Failure`] tells them apart.
    pub fn merge(
        &self,
        view: &Arc<View>,
        states: SendableRecordBatchStream,
        read: &Arc<ReadCounters>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, ViewError>>, ViewError> {
        let GenerationRows { rows, plans } = generation::merge(&self.engine.session(view), view, states)?;
        Ok(counted(rows, plans, read))
    }

    /// Makes one stream of several, each of which is in the order of the view's groups and has groups of its own.
    ///
    /// # Errors
    ///
    /// What the streams say.
    pub fn in_order(
        &self,
        view: &Arc<View>,
        streams: Vec<SendableRecordBatchStream>,
    ) -> Result<SendableRecordBatchStream, ViewError> {
        generation::in_order(&self.engine.session(view), view, streams)
    }
}

#[async_trait]
impl BatchEngine for LocalEngine {
    async fn states(&self, job: &ViewJob, read: &Arc<ReadCounters>) -> Result<StateStream, Failure> {
        let ViewJob { view, segments, horizon } = job;
        let scan = ArchiveScan {
            archive: self.archive.clone(),
            registry: self.registry.clone(),
            source: view.source.clone(),
            segments: segments.clone(),
            read: read.clone(),
        };
        let GenerationRows { rows, plans } =
            generation::rows(&self.engine.session(view), view, &scan, *horizon).await?;
        Ok(counted(rows, plans, read).map(|rows| Ok(rows?)).boxed())
    }

    fn keeps_pace(&self) -> bool {
        true
    }
}

/// The same rows; what the plans spilled is counted when they are done with.
fn counted(
    rows: BoxStream<'static, Result<RecordBatch, ViewError>>,
    plans: [Arc<dyn ExecutionPlan>; 2],
    read: &Arc<ReadCounters>,
) -> BoxStream<'static, Result<RecordBatch, ViewError>> {
    let spills = Spills { plans, read: read.clone() };
    rows.inspect(move |_| {
        let _ = &spills;
    })
    .boxed()
}

struct Spills {
    plans: [Arc<dyn ExecutionPlan>; 2],
    read: Arc<ReadCounters>,
}

impl Drop for Spills {
    fn drop(&mut self) {
        let spilled = self.plans.iter().map(|plan| spilled_bytes(plan.as_ref())).sum();
        self.read.spilled.fetch_add(spilled, Ordering::Relaxed);
    }
}

/// What the operators of a plan spilled.
fn spilled_bytes(plan: &dyn ExecutionPlan) -> u64 {
    let own = plan.metrics().and_then(|metrics| metrics.spilled_bytes()).unwrap_or(0) as u64;
    own + plan.children().into_iter().map(|child| spilled_bytes(child.as_ref())).sum::<u64>()
}
