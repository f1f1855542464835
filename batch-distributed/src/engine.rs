//! The engine: each view is a Ballista job.
//!
//! Ballista runs the tasks of an executor that died again on others. What it cannot save (the scheduler itself; results that died with
//! their executor after the job was done) is done again from the start, a few times: a job writes nowhere, so that is harmless. States
//! that were handed on already are not handed on again: they come in the order of their groups, so it is known where to go on.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use async_trait::async_trait;
use batch_layer::{BatchEngine, Failure, LocalEngine, ReadCounters, StateStream, ViewJob};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use event_log::archive::Archive;
use event_log::registry::SchemaRegistry;
use futures::stream::{StreamExt, TryStreamExt, try_unfold};
use parking_lot::Mutex;
use views::{ApplicationFile, View, ViewError};

use crate::assignment::Assignment;
use crate::cluster::{self, Job, JobError, Scheduler};
use crate::plan;
use crate::told::{self, Report};

/// How many times a job is done from its start.
const ATTEMPTS: usize = 3;

/// What the engine needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The scheduler, as `host:port`: the setting `batch.scheduler`.
    pub scheduler: String,
    /// Into how many tasks segments, and again groups, are dealt out: the setting `batch.tasks`.
    pub tasks: usize,
    /// Where the archive is: the setting `archive.url`, which must be the same for executors.
    pub archive_url: String,
    /// The files that the views were compiled from.
    pub application: Vec<ApplicationFile>,
}

/// Computes states on a Ballista cluster.
#[derive(Clone)]
pub struct BallistaEngine {
    settings: Arc<Settings>,
    /// Merges what comes back.
    local: Arc<LocalEngine>,
}

impl BallistaEngine {
    /// An engine. `local`: the memory for merging what comes back.
    ///
    /// # Errors
    ///
    /// When the spill directory cannot be made.
    pub fn new(
        settings: Settings,
        archive: Arc<Archive>,
        registry: Arc<dyn SchemaRegistry>,
        local: &batch_layer::Settings,
    ) -> Result<Self, DataFusionError> {
        let local = LocalEngine::new(archive, registry, local)?;
        Ok(Self { settings: Arc::new(settings), local: Arc::new(local) })
    }

    /// Whether the scheduler answers.
    ///
    /// # Errors
    ///
    /// For a person: what is wrong with it, naming the setting.
    pub async fn check(&self) -> Result<(), String> {
        Scheduler::connect(&self.settings.scheduler).await.map(drop).map_err(|error| error.to_string())
    }

    /// Does a job, and opens its result.
    async fn attempt(&self, job: &ViewJob, is_first: bool) -> Result<Attempt, JobError> {
        let Settings { scheduler, tasks, archive_url, application } = &*self.settings;
        let ViewJob { view, horizon, .. } = job;
        let assignment = Arc::new(Assignment {
            application: application.iter().map(|file| (file.path.clone(), file.text.clone())).collect(),
            view: view.name.to_string(),
            fingerprint: view.fingerprint.0.clone(),
            horizon: *horizon,
            archive: archive_url.clone(),
        });
        let plan = plan::of(job, &assignment, (*tasks).max(1)).map_err(|error| JobError::Told(error.into()))?;
        let scheduler = match is_first {
            true => Scheduler::connect(scheduler).await?,
            false => Scheduler::connect_soon(scheduler).await?,
        };
        let mut running = scheduler.submit(&view.name, plan).await?;
        let report: Arc<Mutex<Report>> = Arc::default();
        let mut parts = Vec::new();
        for part in running.done().await? {
            parts.push(told_apart(cluster::open(part).await?, view, &report));
        }
        let states = self.local.in_order(view, parts).map_err(|error| JobError::Told(error.into()))?;
        Ok(Attempt { states, report, _running: running })
    }
}

/// The states of a part; what is told beside them is kept.
fn told_apart(
    part: SendableRecordBatchStream,
    view: &Arc<View>,
    reports: &Arc<Mutex<Report>>,
) -> SendableRecordBatchStream {
    let (schema, reports) = (view.state_schema.clone(), reports.clone());
    let states = part.map(move |batch| {
        let (states, told) = told::unpacked(&batch?, &schema)?;
        told.into_iter().for_each(|report| reports.lock().add(report));
        Ok(states)
    });
    Box::pin(RecordBatchStreamAdapter::new(view.state_schema.clone(), states))
}

#[async_trait]
impl BatchEngine for BallistaEngine {
    async fn states(&self, job: &ViewJob, read: &Arc<ReadCounters>) -> Result<StateStream, Failure> {
        let fields = job.view.group_schema.fields().iter();
        let order = RowConverter::new(fields.map(|field| SortField::new(field.data_type().clone())).collect());
        let states = States {
            engine: self.clone(),
            job: job.clone(),
            read: read.clone(),
            order: order.map_err(|error| Failure::from(ViewError::from(error)))?,
            last: None,
            given: None,
            attempts: 0,
            current: None,
        };
        let states = try_unfold(states, |mut states| async move {
            let next = states.next().await?;
            Ok::<_, Failure>(next.map(|batch| (batch, states)))
        });
        Ok(states.boxed())
    }
}

/// A job that is done, whose result is being read.
struct Attempt {
    states: SendableRecordBatchStream,
    report: Arc<Mutex<Report>>,
    /// The result is there as long as this is.
    _running: Job,
}

/// The states of a view, from as many attempts as it takes.
struct States {
    engine: BallistaEngine,
    job: ViewJob,
    read: Arc<ReadCounters>,
    order: RowConverter,
    /// The last state that was handed on.
    last: Option<RecordBatch>,
    /// Its group, when the attempt that gave it is lost.
    given: Option<OwnedRow>,
    attempts: usize,
    current: Option<Attempt>,
}

impl States {
    async fn next(&mut self) -> Result<Option<RecordBatch>, Failure> {
        loop {
            let lost = match self.next_of_attempt().await {
                Ok(None) => return Ok(None),
                Ok(Some(batch)) => {
                    let new = self.new_of(batch)?;
                    if new.num_rows() > 0 {
                        self.last = Some(new.slice(new.num_rows() - 1, 1));
                        return Ok(Some(new));
                    }
                    continue;
                }
                Err(JobError::Told(failure)) => return Err(failure),
                Err(lost @ JobError::NoScheduler { .. }) => return Err(Failure::Engine(Box::new(lost))),
                Err(lost) => lost,
            };
            self.current = None;
            if let Some(last) = &self.last {
                self.given = Some(self.groups(last)?.row(0).owned());
            }
            if self.attempts >= ATTEMPTS {
                return Err(Failure::Engine(format!("{lost}; that was the last of {ATTEMPTS} attempts").into()));
            }
            let (view, attempt) = (&self.job.view.name, self.attempts);
            tracing::warn!(%view, attempt, reason = %lost, "the job is lost: once more from the start");
        }
    }

    async fn next_of_attempt(&mut self) -> Result<Option<RecordBatch>, JobError> {
        let attempt = match &mut self.current {
            Some(attempt) => attempt,
            none => {
                self.attempts += 1;
                none.insert(self.engine.attempt(&self.job, self.attempts == 1).await?)
            }
        };
        match attempt.states.try_next().await {
            Ok(Some(states)) => Ok(Some(states)),
            Ok(None) => {
                let report = std::mem::take(&mut *attempt.report.lock());
                report.count(&self.job.view.source.name, &self.read);
                Ok(None)
            }
            Err(error @ DataFusionError::ResourcesExhausted(_)) => Err(JobError::Told(error.into())),
            Err(error) => Err(JobError::Lost(format!("reading the result: {}", error.strip_backtrace()))),
        }
    }

    /// The states of a batch whose groups no earlier attempt handed on.
    fn new_of(&mut self, batch: RecordBatch) -> Result<RecordBatch, Failure> {
        let Some(given) = &self.given else { return Ok(batch) };
        let groups = self.groups(&batch)?;
        let (mut low, mut high) = (0, batch.num_rows());
        while low < high {
            let middle = (low + high) / 2;
            if groups.row(middle) <= given.row() { low = middle + 1 } else { high = middle }
        }
        Ok(batch.slice(low, batch.num_rows() - low))
    }

    fn groups(&self, batch: &RecordBatch) -> Result<Rows, Failure> {
        let groups = &batch.columns()[..self.job.view.group_schema.fields().len()];
        self.order.convert_columns(groups).map_err(|error| ViewError::from(error).into())
    }
}
