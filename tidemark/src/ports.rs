//! Where layers meet: what the serving layer and the batch layer need of others, filled with the parts of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use batch_layer::{
    BatchError, BatchLayer, FinishedRun, Outcome, Progress, RunProgress, RunReport, SealedUpTo, compare, recompute,
    retention,
};
use chrono::Utc;
use event_log::archiver::Archiver;
use event_log::dead_letter::{self, Undecodable};
use event_log::registry::SchemaRegistry;
use event_log::{Content, EventLog};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serving_layer::{
    ArchiveStatus, BatchRun, BatchRuns, PartitionStatus, PortError, Report, RunRequest, RunState, SpeedStatus, Verify,
};
use speed_layer::{RejectedEvent, RejectedSink, SpeedLayer};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use view_store::ViewStore;
use view_store::store::KeyRange;
use views::{Application, Fold, Offset, TopicPartition, View};

use crate::watched_log::WatchedLog;

/// How many differences of a view are told.
const DIFFERENCES: usize = 20;

/// The batch layer, for the serving layer.
pub struct Runs {
    layer: Arc<BatchLayer>,
    watch: Arc<RunWatch>,
    /// Runs that were asked for over HTTP and go on.
    running: Mutex<JoinSet<()>>,
}

/// Watches the run that goes on, whoever started it.
pub struct RunWatch {
    started: Mutex<Option<(u64, i64)>>,
    number: watch::Sender<u64>,
    full: AtomicU64,
}

impl Default for RunWatch {
    fn default() -> Self {
        Self { started: Mutex::default(), number: watch::Sender::new(0), full: AtomicU64::new(0) }
    }
}

impl RunProgress for RunWatch {
    fn update(&self, progress: &Progress) {
        let generation = progress.generation;
        let mut started = self.started.lock();
        if started.is_none_or(|(known, _)| known != generation) {
            *started = Some((generation, Utc::now().timestamp_micros()));
        }
        drop(started);
        self.number.send_replace(generation);
        tracing::debug!(generation, phase = ?progress.phase, view = progress.view, done = progress.done, total = progress.total,
            "batch run");
    }
}

impl Runs {
    /// The runs of a batch layer.
    pub fn new(layer: Arc<BatchLayer>, watch: Arc<RunWatch>) -> Self {
        Self { layer, watch, running: Mutex::default() }
    }

    /// Runs something that goes on beside everything else until [`Runs::stop`].
    pub fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock();
        while running.try_join_next().is_some() {}
        running.spawn(run);
    }

    /// Drops the runs that go on: they are simply run again later.
    pub async fn stop(&self) {
        let mut running = std::mem::take(&mut *self.running.lock());
        running.shutdown().await;
    }

    fn current(&self) -> Option<BatchRun> {
        let progress = self.layer.current()?;
        let started = self.watch.started.lock().map_or(0, |(_, started)| started);
        Some(BatchRun {
            generation: progress.generation,
            state: RunState::Running,
            full: self.watch.full.load(Ordering::Relaxed) == progress.generation && progress.generation > 0,
            started,
            finished: None,
            rows: 0,
            error: None,
            progress: Some(serving_layer::ports::RunProgress {
                phase: progress.phase.name().to_owned(),
                view: progress.view,
                done: progress.done,
                total: progress.total,
            }),
        })
    }
}

#[async_trait]
impl BatchRuns for Runs {
    async fn start(&self, asked: RunRequest, wait: bool) -> Result<BatchRun, PortError> {
        let RunRequest { full, views, rate } = asked;
        let full = full || !views.is_empty();
        let mut number = self.watch.number.subscribe();
        let (done, outcome) = oneshot::channel();
        let (layer, watch) = (self.layer.clone(), self.watch.clone());
        self.spawn(async move {
            let result = match views.is_empty() {
                true => layer.run(full, watch.as_ref()).await,
                false => layer.backfill(&views, rate, watch.as_ref()).await,
            };
            let result = result.map(|_| ());
            // When nobody waits any more, the history has it.
            let _ = done.send(result);
        });
        let has_number = async {
            while number.changed().await.is_ok() {
                let generation = *number.borrow_and_update();
                if generation > 0 {
                    return generation;
                }
            }
            0
        };
        let mut outcome = std::pin::pin!(outcome);
        let result = if wait {
            outcome.await
        } else {
            tokio::select! {
                result = &mut outcome => result,
                generation = has_number => {
                    if full {
                        self.watch.full.store(generation, Ordering::Relaxed);
                    }
                    if let Some(run) = self.current() {
                        return Ok(run);
                    }
                    outcome.await
                }
            }
        };
        let stopped = |_| PortError::Failed("the batch run was stopped before its end; the log says why".to_owned());
        match result.map_err(stopped)? {
            Ok(()) => {}
            Err(BatchError::Busy) => return Err(PortError::Busy(BatchError::Busy.to_string())),
            Err(BatchError::Unknown(view)) => return Err(PortError::NotFound(format!("view `{view}`"))),
            Err(error @ BatchError::NoPace) => return Err(PortError::Invalid(error.to_string())),
            Err(error) if error.is_transient() => return Err(PortError::Unavailable(error.to_string())),
            Err(error) => return Err(PortError::Failed(error.to_string())),
        }
        let finished = self.layer.history().first().map(batch_run);
        finished.ok_or_else(|| PortError::Failed("the run left no trace".to_owned()))
    }

    async fn runs(&self) -> Vec<BatchRun> {
        self.current().into_iter().chain(self.layer.history().iter().map(batch_run)).collect()
    }
}

fn batch_run(run: &FinishedRun) -> BatchRun {
    let state = match &run.report {
        Some(RunReport { outcome: Outcome::Superseded { .. }, .. }) => RunState::Superseded,
        Some(RunReport { outcome: Outcome::NothingNew, .. }) => RunState::NothingNew,
        Some(RunReport { outcome: Outcome::Published | Outcome::AlreadyVisible, .. }) => RunState::Published,
        None => RunState::Failed,
    };
    let started = run.started_at.timestamp_micros();
    let took = i64::try_from(run.duration_ms).unwrap_or(i64::MAX).saturating_mul(1000);
    BatchRun {
        generation: run.report.as_ref().map_or(0, |report| report.generation),
        state,
        full: run.full,
        started,
        finished: Some(started.saturating_add(took)),
        rows: run.report.as_ref().map_or(0, |report| report.views.values().map(|view| view.rows).sum()),
        error: run.error.clone().or_else(|| run.report.as_ref().and_then(RunReport::failed_views)),
        progress: None,
    }
}

/// The archiver, for the layers that wait for it.
pub struct Sealing(pub Arc<Archiver>);

#[async_trait]
impl SealedUpTo for Sealing {
    async fn wait_sealed(&self, partition: &TopicPartition, offset: Offset) -> event_log::error::Result<()> {
        self.0.wait_sealed(partition, offset).await
    }
}

impl ArchiveStatus for Sealing {
    fn archived(&self, partition: &TopicPartition) -> Option<Offset> {
        Some(self.0.sealed(partition))
    }
}

/// The speed layer, for the serving layer.
pub struct Speed {
    /// Where it stands.
    pub layer: Arc<SpeedLayer>,
    /// What it has before it.
    pub log: Arc<WatchedLog>,
}

impl SpeedStatus for Speed {
    fn partitions(&self, topic: &str) -> Vec<PartitionStatus> {
        let mut partitions = Vec::new();
        self.layer.look(|status| {
            if &*status.partition.topic != topic {
                return;
            }
            // A task that has not found out where its views stand yet knows of no record that is folded.
            let position = if status.views.is_empty() { 0 } else { status.furthest() };
            // The layer knows the log's end as of its last read; a record that came since is waiting all the same.
            let (appended_end, waiting_since) = self.log.past(&status.partition, position);
            partitions.push(PartitionStatus {
                partition: status.partition.clone(),
                log_end: status.log_end.max(appended_end),
                position,
                waiting_since: waiting_since.or_else(|| status.waiting_since(position)),
                error: status.last_error.clone(),
            });
        });
        partitions
    }

    fn failure(&self, view: &str) -> Option<String> {
        let mut failure = None;
        self.layer.look(|status| {
            let failed = status.views.get(view).and_then(|view| view.failed.as_ref());
            if let (None, Some(failed)) = (&failure, failed) {
                let (from, to) = (failed.from, failed.to);
                let place =
                    if to == from + 1 { format!("at offset {from}") } else { format!("from offset {from} to {to}") };
                failure = Some(format!("{} {place}: {}", status.partition, failed.reason));
            }
        });
        failure
    }

    fn wait_change(&self, _topic: &str) -> BoxFuture<'static, ()> {
        let mut written = self.layer.written();
        Box::pin(async move {
            // An error means that the speed layer has ended: nothing will change any more.
            if written.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Takes events that are in the log but cannot be decoded to the dead letters of their topic.
pub struct DeadLetters {
    /// Where they go.
    pub log: Arc<dyn EventLog>,
    /// What they are written with.
    pub registry: Arc<dyn SchemaRegistry>,
}

#[async_trait]
impl RejectedSink for DeadLetters {
    async fn take(
        &self,
        partition: &TopicPartition,
        events: &[RejectedEvent],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let undecodable = |event: &RejectedEvent| {
            let Content::Event { value, .. } = &event.record.content else { return None };
            let (offset, reason) = (event.record.offset, event.reason.clone());
            Some(Undecodable { offset, reason, original: value.clone() })
        };
        let letters = dead_letter::DeadLetters::new(self.log.clone(), self.registry.clone());
        letters.put(partition, events.iter().filter_map(undecodable).collect()).await?;
        Ok(())
    }
}

/// Recomputes views from the log and compares them with what is served.
pub struct Auditor {
    /// The views.
    pub application: Arc<Application>,
    /// What is served.
    pub store: Arc<dyn ViewStore>,
    /// What is true.
    pub log: Arc<dyn EventLog>,
    /// How to read it.
    pub registry: Arc<dyn SchemaRegistry>,
    /// How much of the machine to take.
    pub settings: batch_layer::Settings,
}

impl Auditor {
    async fn audit(&self, view: &Arc<View>) -> Result<Report, PortError> {
        let failed = |error: &dyn std::fmt::Display| PortError::Failed(format!("{}: {error}", view.name));
        // One moment of the store; it names the records it holds, and exactly these are recomputed.
        let mut read = self.store.read(view, &KeyRange::default()).await.map_err(|error| failed(&error))?;
        let mut served = Vec::new();
        let mut fold = Fold::new(view).map_err(|error| failed(&error))?;
        while let Some(chunk) = read.rows.next().await {
            let chunk = chunk.map_err(|error| failed(&error))?;
            let values = fold.merge(&chunk.states).and_then(|()| fold.take_values()).map_err(|error| failed(&error))?;
            served.push(view.finalize(&values).map_err(|error| failed(&error))?.rows);
        }
        if served.is_empty() {
            let values = fold.take_values_of_all().map_err(|error| failed(&error))?;
            served.push(view.finalize(&values).map_err(|error| failed(&error))?.rows);
        }
        let (log, registry) = (self.log.clone(), self.registry.clone());
        let recomputed = recompute(view, &read.position, log, registry, &self.settings);
        let recomputed = recomputed.await.map_err(|error| failed(&error))?;
        let horizon = retention::horizon(view, Utc::now());
        let found = compare(view, &recomputed.rows, &served, horizon, DIFFERENCES).map_err(|error| failed(&error))?;
        let differences = found.differences.iter().map(|difference| {
            let key: Vec<String> = difference.key.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let column = difference.column.as_deref().map(|column| format!(" {column}")).unwrap_or_default();
            let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
            let (log, here) = (side(&difference.recomputed), side(&difference.served));
            format!("{}{column}: the log says {log}, served is {here}", key.join(" "))
        });
        Ok(Report {
            view: view.name.to_string(),
            equal: found.different == 0,
            generation: read.published.map(|published| published.generation),
            position: read.position,
            groups: found.groups,
            different: found.different,
            differences: differences.collect(),
        })
    }
}

#[async_trait]
impl Verify for Auditor {
    async fn verify(&self, view: Option<&str>) -> Result<Vec<Report>, PortError> {
        let mut views = self.application.views.clone();
        if let Some(name) = view {
            views.retain(|view| &*view.name == name);
            if views.is_empty() {
                return Err(PortError::NotFound(format!("view {name}")));
            }
        }
        let mut reports = Vec::new();
        for view in &views {
            reports.push(self.audit(view).await?);
        }
        Ok(reports)
    }
}
