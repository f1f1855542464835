//! A batch run, phase by phase.
//!
//! 1. *Mark*: take a number N, append marker N to every partition of every source's topic, find the frontier.
//! 2. *Seal*: wait until the archive holds every segment before the frontier. A missing one is an error, never a zero.
//! 3. *Recompute*: each view over those segments, into generation N, which nobody sees yet. Events that nobody can decode go
//!    to the dead letters.
//! 4. *Publish*: one switch of (N, frontier, fingerprints), decided by the store.
//! 5. *Retire* what no reader can need any more.
//!
//! Nothing is remembered between runs but what the log, the archive and the store hold, so a run may die anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use event_log::archive::{Archive, ArchivedSegment};
use event_log::dead_letter::DeadLetters;
use event_log::registry::SchemaRegistry;
use event_log::{EventLog, LogError, Pace};
use futures::StreamExt;
use parking_lot::Mutex;
use view_store::{PublishOutcome, StoreError, ViewStore};
use views::{Offset, Offsets, Published, Segment, TopicPartition, View, ViewError};

use crate::engine::Settings;
use crate::error::{BatchError, Result};
use crate::first_failure;
use crate::local::LocalEngine;
use crate::marking::{self, Cut};
use crate::progress::{Phase, Progress, RunProgress};
use crate::report::{FinishedRun, Outcome, RunReport, ViewReport};
use crate::retention;
use crate::sealed::SealedUpTo;
use crate::states::{BatchEngine, Failure, ReadCounters, ViewJob};
use crate::undecodable::Undecoded;

/// How many finished runs are remembered.
const HISTORY: usize = 100;
/// How often a long step says how far it has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Tells the time of day.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The batch layer of one application.
pub struct BatchLayer {
    log: Arc<dyn EventLog>,
    archive: Arc<Archive>,
    registry: Arc<dyn SchemaRegistry>,
    store: Arc<dyn ViewStore>,
    views: Vec<Arc<View>>,
    sealed: Arc<dyn SealedUpTo>,
    settings: Settings,
    engine: Arc<dyn BatchEngine>,
    clock: Clock,
    /// Held during a run.
    running: tokio::sync::Mutex<()>,
    current: Mutex<Option<Progress>>,
    history: Mutex<VecDeque<FinishedRun>>,
    /// The last generation that this object made, and the views that could not be recomputed for it.
    left_out: Mutex<(u64, BTreeMap<String, ViewReport>)>,
}

impl BatchLayer {
    /// The batch layer of an application with these views. `log` must read what it no longer keeps from the archive.
    ///
    /// # Errors
    ///
    /// When the spill directory cannot be made.
    pub fn new(
        log: Arc<dyn EventLog>,
        archive: Arc<Archive>,
        registry: Arc<dyn SchemaRegistry>,
        store: Arc<dyn ViewStore>,
        views: Vec<Arc<View>>,
        sealed: Arc<dyn SealedUpTo>,
        settings: Settings,
    ) -> Result<Self> {
        let engine = LocalEngine::new(archive.clone(), registry.clone(), &settings)
            .map_err(|error| LogError::unavailable(format!("preparing {}", settings.spill_dir.display()), error))?;
        Ok(Self {
            log,
            archive,
            registry,
            store,
            views,
            sealed,
            settings,
            engine: Arc::new(engine),
            clock: Arc::new(Utc::now),
            running: tokio::sync::Mutex::new(()),
            current: Mutex::default(),
            history: Mutex::default(),
            left_out: Mutex::default(),
        })
    }

    /// The same layer by another clock (it decides which tiles are too old).
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The same layer with states computed by another engine than this process's own.
    pub fn with_engine(mut self, engine: Arc<dyn BatchEngine>) -> Self {
        self.engine = engine;
        self
    }

    /// Runs once. With `full`, even when nothing is new.
    ///
    /// # Errors
    ///
    /// [`BatchError::Busy`] while another run of this object is under way; otherwise nothing was published.
    pub async fn run(&self, full: bool, progress: &dyn RunProgress) -> Result<RunReport> {
        self.start(full, self.views.clone(), None, progress).await
    }

    /// A run of some views only, which reads and writes no more than so many records a second: the first generation of new ones. The
    /// others stay at their last generation until the next run.
    ///
    /// # Errors
    ///
    /// As [`BatchLayer::run`]; [`BatchError::Unknown`] for a view that there is not.
    pub async fn backfill(
        &self,
        names: &[String],
        rate: Option<NonZeroU64>,
        progress: &dyn RunProgress,
    ) -> Result<RunReport> {
        let view = |name: &String| {
            let found = self.views.iter().find(|view| *view.name == **name);
            found.cloned().ok_or_else(|| BatchError::Unknown(name.clone()))
        };
        let mut views = names.iter().map(view).collect::<Result<Vec<_>>>()?;
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views.dedup_by(|one, other| one.name == other.name);
        if rate.is_some() && !self.engine.keeps_pace() {
            return Err(BatchError::NoPace);
        }
        self.start(true, views, rate.map(Pace::new), progress).await
    }

    async fn start(
        &self,
        full: bool,
        views: Vec<Arc<View>>,
        pace: Option<Pace>,
        progress: &dyn RunProgress,
    ) -> Result<RunReport> {
        let _running = self.running.try_lock().map_err(|_| BatchError::Busy)?;
        let (started_at, started) = ((self.clock)(), Instant::now());
        let run = Run {
            layer: self,
            views,
            progress,
            read: Arc::new(ReadCounters { pace, ..ReadCounters::default() }),
            dead_letters: AtomicU64::new(0),
            phases: Mutex::default(),
        };
        let result = run.run(full).await;
        let mut history = self.history.lock();
        if history.len() == HISTORY {
            history.pop_back();
        }
        history.push_front(FinishedRun {
            started_at,
            duration_ms: millis(started.elapsed()),
            full,
            report: result.as_ref().ok().cloned(),
            error: result.as_ref().err().map(ToString::to_string),
        });
        result
    }

    /// How far the run under way has come, if one is.
    pub fn current(&self) -> Option<Progress> {
        self.current.lock().clone()
    }

    /// The last hundred runs that ended, the latest first.
    pub fn history(&self) -> Vec<FinishedRun> {
        self.history.lock().iter().cloned().collect()
    }

    fn topics(&self) -> Vec<Arc<str>> {
        let mut topics: Vec<Arc<str>> = self.views.iter().map(|view| view.source.name.clone()).collect();
        topics.sort();
        topics.dedup();
        topics
    }

    async fn partitions(&self) -> Result<Vec<TopicPartition>> {
        Ok(marking::partitions(self.log.as_ref(), &self.topics()).await?)
    }

    /// The views that this object tried in vain to have in a generation.
    fn left_out_of(&self, generation: u64) -> BTreeMap<String, ViewReport> {
        let left_out = self.left_out.lock();
        if left_out.0 == generation { left_out.1.clone() } else { BTreeMap::new() }
    }

    /// Whether the visible generation is all there is to know. A view that could not be recomputed cannot be now, over the same
    /// events.
    async fn is_up_to_date(&self, published: &Published) -> Result<bool> {
        let left_out = self.left_out_of(published.generation);
        let is_there = |view: &Arc<View>| {
            published.views.get(&view.name) == Some(&view.fingerprint) || left_out.contains_key(&*view.name)
        };
        if !self.views.iter().all(is_there) {
            return Ok(false);
        }
        for partition in self.partitions().await? {
            let from = published.frontier.get(&partition).unwrap_or(0);
            if marking::has_events(self.log.as_ref(), &partition, from).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A run that has its number.
struct Numbered {
    number: u64,
    /// What was visible when the number was taken.
    published: Option<Published>,
    frontier: Offsets,
    partitions: Vec<TopicPartition>,
}

/// What became of recomputing one view.
enum Recomputed {
    Rows(u64),
    /// The view cannot be computed over these events; others can.
    Failed(String),
}

struct Run<'a> {
    layer: &'a BatchLayer,
    /// Those that it computes.
    views: Vec<Arc<View>>,
    progress: &'a dyn RunProgress,
    read: Arc<ReadCounters>,
    dead_letters: AtomicU64,
    phases: Mutex<BTreeMap<Phase, u64>>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        *self.layer.current.lock() = None;
    }
}

impl Run<'_> {
    async fn run(&self, full: bool) -> Result<RunReport> {
        let BatchLayer { store, views, .. } = self.layer;
        let published = store.published().await?;
        if let Some(published) = published
            && !full
            && self.layer.is_up_to_date(&published).await?
        {
            // The run before may have died between publishing and retiring.
            self.timed(Phase::Retire, store.retire(views)).await?;
            let Published { generation, frontier, .. } = published;
            let left_out = self.layer.left_out_of(generation);
            return Ok(self.report(generation, Outcome::NothingNew, frontier, left_out));
        }

        let Numbered { number, published, frontier, partitions } = self.timed(Phase::Mark, self.mark()).await?;
        let segments = self.timed(Phase::Seal, self.seal(number, &frontier, &partitions)).await?;
        let recomputed = self.timed(Phase::Recompute, self.recompute(number, &segments)).await?;
        self.report_undecodable(published.as_ref(), segments).await?;

        let next = Published {
            generation: number,
            frontier: with_topics_of_old(frontier, published.as_ref(), &self.layer.topics())?,
            views: self
                .views
                .iter()
                .filter(|view| recomputed[&*view.name].error.is_none())
                .map(|view| (view.name.clone(), view.fingerprint.clone()))
                .collect(),
            // Left to the store: views that this run does not hold stay at what they have.
            behind: Vec::new(),
        };
        if next.views.is_empty() && !self.views.is_empty() {
            let failed = recomputed.into_iter().filter_map(|(view, report)| Some((view, report.error?)));
            return Err(BatchError::Views(failed.collect()));
        }
        let outcome = self.timed(Phase::Publish, self.publish(&next)).await?;
        let left_out = recomputed.iter().filter(|(_, report)| report.error.is_some());
        *self.layer.left_out.lock() = (number, left_out.map(|(view, report)| (view.clone(), report.clone())).collect());
        self.update(number, Phase::Retire, None, 0, 1);
        self.timed(Phase::Retire, store.retire(views)).await?;
        self.update(number, Phase::Retire, None, 1, 1);
        Ok(self.report(number, outcome, next.frontier, recomputed))
    }

    /// Phase 1.
    async fn mark(&self) -> Result<Numbered> {
        let BatchLayer { log, archive, store, .. } = self.layer;
        let mut highest = 0;
        'number: loop {
            let published = store.published().await?;
            highest = highest.max(published.as_ref().map_or(0, |published| published.generation));
            let mut known: BTreeMap<TopicPartition, Segment> = BTreeMap::new();
            for partition in self.layer.partitions().await? {
                let end = marking::archived(archive, &partition).await?;
                highest = highest.max(end.marker);
                known.insert(partition, end);
            }
            let number = highest + 1;
            let mut cuts: BTreeMap<TopicPartition, Cut> = BTreeMap::new();
            self.update(number, Phase::Mark, None, 0, known.len() as u64);
            if let Some((first, end)) = known.first_key_value() {
                let (own, cut) = marking::mark(log.as_ref(), first, *end, number).await?;
                if cut.offset != own + 1 {
                    // Another run's, or what a dead one left: the number is not ours.
                    highest = highest.max(cut.marker);
                    continue;
                }
                cuts.insert(first.clone(), cut);
            }
            // Looked up again now that the number is ours: a run with a higher number sees no fewer partitions.
            let partitions = self.layer.partitions().await?;
            for partition in &partitions {
                if cuts.contains_key(partition) {
                    continue;
                }
                self.update(number, Phase::Mark, None, cuts.len() as u64, partitions.len() as u64);
                let end = known.get(partition).copied().unwrap_or(Segment::FIRST);
                let (own, cut) = marking::mark(log.as_ref(), partition, end, number).await?;
                if cut.marker == number && cut.offset != own + 1 {
                    // A run that does not have our first partition took the number too.
                    highest = number;
                    continue 'number;
                }
                cuts.insert(partition.clone(), cut);
            }
            self.update(number, Phase::Mark, None, cuts.len() as u64, partitions.len() as u64);
            let frontier = cuts.into_iter().map(|(partition, cut)| (partition, cut.offset)).collect();
            return Ok(Numbered { number, published, frontier, partitions });
        }
    }

    /// Phase 2: every segment before the frontier, by topic.
    async fn seal(
        &self,
        number: u64,
        frontier: &Offsets,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<Arc<str>, Vec<ArchivedSegment>>> {
        let total = partitions.len() as u64;
        let mut segments: BTreeMap<Arc<str>, Vec<ArchivedSegment>> = BTreeMap::new();
        self.update(number, Phase::Seal, None, 0, total);
        let deadline = tokio::time::Instant::now() + self.layer.settings.seal_timeout;
        for (done, partition) in (1..).zip(partitions) {
            let end = frontier.get(partition).unwrap_or(0);
            let sealed = self.layer.sealed.wait_sealed(partition, end);
            tokio::time::timeout_at(deadline, sealed).await.map_err(|_| {
                LogError::unavailable(format!("waiting until {partition} is archived up to {end}"), "it takes too long")
            })??;
            segments.entry(partition.topic.clone()).or_default().extend(self.before(partition, end).await?);
            self.update(number, Phase::Seal, None, done, total);
        }
        Ok(segments)
    }

    /// The archived segments of a partition before a cut: all of them, or an error.
    async fn before(&self, partition: &TopicPartition, end: Offset) -> Result<Vec<ArchivedSegment>> {
        let mut segments = self.layer.archive.list_through(partition, end).await?;
        segments.retain(|segment| segment.end <= end);
        let reached = segments.last().map_or(0, |segment| segment.end);
        if reached != end {
            return Err(LogError::Hole(format!("the archive of {partition} ends at {reached}, expected {end}")).into());
        }
        Ok(segments)
    }

    /// Phase 3.
    async fn recompute(
        &self,
        number: u64,
        segments: &BTreeMap<Arc<str>, Vec<ArchivedSegment>>,
    ) -> Result<BTreeMap<String, ViewReport>> {
        let mut recomputed = BTreeMap::new();
        let now = (self.layer.clock)();
        for view in &self.views {
            let segments = Arc::new(segments.get(&view.source.name).cloned().unwrap_or_default());
            let report = match self.recompute_view(number, view, segments, now).await? {
                Recomputed::Rows(rows) => ViewReport { rows, error: None },
                Recomputed::Failed(reason) => {
                    tracing::error!(view = %view.name, reason, "the view cannot be recomputed");
                    ViewReport { rows: 0, error: Some(reason) }
                }
            };
            recomputed.insert(view.name.to_string(), report);
        }
        Ok(recomputed)
    }

    async fn recompute_view(
        &self,
        number: u64,
        view: &Arc<View>,
        segments: Arc<Vec<ArchivedSegment>>,
        now: DateTime<Utc>,
    ) -> Result<Recomputed> {
        let BatchLayer { store, engine, .. } = self.layer;
        let total = segments.iter().map(|segment| segment.end - segment.start).sum();
        let read_before = self.read.records.load(Ordering::Relaxed);
        let done = || self.read.records.load(Ordering::Relaxed) - read_before;
        self.update(number, Phase::Recompute, Some(&view.name), 0, total);

        let job = ViewJob { view: view.clone(), segments, horizon: retention::horizon(view, now) };
        let states = match engine.states(&job, &self.read).await {
            Ok(states) => states,
            Err(failure) => return self.failed(&job, failure).await,
        };
        // The store sees only that its input failed; why, and whose fault it is, is kept here.
        let cause: Arc<Mutex<Option<Failure>>> = Arc::default();
        let kept = cause.clone();
        let states = states.map(move |states| {
            states.map_err(|failure| {
                let message = failure.to_string();
                *kept.lock() = Some(failure);
                StoreError::View(ViewError::Invalid(message))
            })
        });
        let read = self.read.clone();
        let states = states.then(move |states| {
            let read = read.clone();
            async move {
                // What is written burdens the store as what is read burdens the archive.
                if let (Some(pace), Ok(rows)) = (&read.pace, &states) {
                    pace.ready().await;
                    pace.took(rows.num_rows());
                }
                states
            }
        });
        let mut write = store.write_generation(view, number, states.boxed());
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        let written = loop {
            tokio::select! {
                written = &mut write => break written,
                _ = ticks.tick() => self.update(number, Phase::Recompute, Some(&view.name), done().min(total), total),
            }
        };
        drop(write);
        let cause = cause.lock().take();
        if let Some(failure) = cause {
            return self.failed(&job, failure).await;
        }
        let rows = written?;
        self.update(number, Phase::Recompute, Some(&view.name), total, total);
        Ok(Recomputed::Rows(rows))
    }

    /// Whose fault it is that a view could not be recomputed: the view's (or its events'), or the run's.
    async fn failed(&self, job: &ViewJob, failure: Failure) -> Result<Recomputed> {
        let BatchLayer { archive, registry, .. } = self.layer;
        match failure {
            Failure::Engine(source) => Err(BatchError::Engine { view: job.view.name.to_string(), source }),
            Failure::View { reason, of_one_event: false } => Ok(Recomputed::Failed(reason)),
            Failure::View { reason, of_one_event: true } => {
                Ok(Recomputed::Failed(match first_failure::place(job, archive, registry.as_ref()).await? {
                    Some((partition, offset)) => format!("{partition} at offset {offset}: {reason}"),
                    None => reason,
                }))
            }
        }
    }

    /// What the generation covers and the visible one does not, no speed layer may ever look at: what of it cannot be decoded
    /// goes to the dead letters first.
    async fn report_undecodable(
        &self,
        published: Option<&Published>,
        segments: BTreeMap<Arc<str>, Vec<ArchivedSegment>>,
    ) -> Result<()> {
        let BatchLayer { log, archive, registry, views, .. } = self.layer;
        let letters = DeadLetters::new(log.clone(), registry.clone());
        let undecoded = Undecoded { archive, registry, letters };
        for (topic, mut segments) in segments {
            let covered =
                |partition: &TopicPartition| published.and_then(|published| published.frontier.get(partition));
            segments.retain(|segment| {
                let is_new = segment.start >= covered(&segment.partition).unwrap_or(0);
                is_new && !self.read.clean.lock().contains(&segment.id())
            });
            if let Some(view) = views.iter().find(|view| view.source.name == topic) {
                let put = undecoded.report(&view.source, &segments).await?;
                self.dead_letters.fetch_add(put, Ordering::Relaxed);
                if put > 0 {
                    tracing::warn!(topic = &*topic, events = put, "not decodable, now in the dead letters");
                }
            }
        }
        Ok(())
    }

    /// Phase 4.
    async fn publish(&self, next: &Published) -> Result<Outcome> {
        let BatchLayer { store, .. } = self.layer;
        self.update(next.generation, Phase::Publish, None, 0, 1);
        let outcome = match store.publish(next).await? {
            PublishOutcome::Published => Outcome::Published,
            PublishOutcome::AlreadyVisible => Outcome::AlreadyVisible,
            PublishOutcome::Superseded { by } => Outcome::Superseded { by },
        };
        self.update(next.generation, Phase::Publish, None, 1, 1);
        Ok(outcome)
    }

    fn update(&self, generation: u64, phase: Phase, view: Option<&str>, done: u64, total: u64) {
        let progress = Progress { generation, phase, view: view.map(str::to_owned), done, total };
        *self.layer.current.lock() = Some(progress.clone());
        self.progress.update(&progress);
    }

    async fn timed<T, E>(&self, phase: Phase, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let started = Instant::now();
        let done = work.await;
        self.phases.lock().insert(phase, millis(started.elapsed()));
        done
    }

    fn report(
        &self,
        generation: u64,
        outcome: Outcome,
        frontier: Offsets,
        views: BTreeMap<String, ViewReport>,
    ) -> RunReport {
        RunReport {
            generation,
            outcome,
            frontier,
            views,
            records_read: self.read.records.load(Ordering::Relaxed),
            records_rejected: self.read.rejected.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
            bytes_read: self.read.bytes.load(Ordering::Relaxed),
            bytes_spilled: self.read.spilled.load(Ordering::Relaxed),
            phases: self.phases.lock().clone(),
        }
    }
}

/// A frontier that also names what the visible one says of topics that no view reads any more, so that it does not move back.
fn with_topics_of_old(mut frontier: Offsets, published: Option<&Published>, topics: &[Arc<str>]) -> Result<Offsets> {
    for (partition, offset) in published.iter().flat_map(|published| published.frontier.iter()) {
        if topics.contains(&partition.topic) {
            if frontier.get(&partition).is_none() {
                let message = format!("{partition}, archived up to {offset}, is no longer in the log");
                return Err(LogError::Hole(message).into());
            }
        } else {
            frontier.set(&partition, offset);
        }
    }
    Ok(frontier)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
