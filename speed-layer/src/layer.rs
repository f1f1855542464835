//! The speed layer as a whole: which tasks there are, starting and stopping them, and what can be seen of them.
//!
//! Every partition has one *head* task, for the views that stand furthest. A task whose views stand far apart (a new view has the
//! whole log before it) leaves the slow ones to a *catch-up* task, which hands them back once it is close. So a backfill never
//! slows the others, and in the long run every event is decoded once.
//!
//! Which partitions there are to follow may be said from outside ([`Owned`]): that is how several processes share them. It only
//! saves work. Two that follow the same partition for a while are exact all the same (see [`crate::flush`]).
//!
//! A task is an operating-system thread of its own: decoding and folding are plain computation and must not keep the
//! runtime's threads from their other work.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_log::registry::SchemaRegistry;
use event_log::{EventLog, Pace};
use fjall::{Database, PersistMode};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use view_store::ViewStore;
use views::{Offset, Source, TopicPartition, View};

use crate::dedupe::{SeenIds, open_database};
use crate::error::Result;
use crate::micro_batch::panic_message;
use crate::rejected::RejectedSink;
use crate::run::Task;
use crate::settings::SpeedSettings;
use crate::stand::Beginners;
use crate::status::{Counters, Failure, PartitionStatus, add};

/// A running speed layer. Dropping it tells its tasks to stop without waiting for them.
pub struct SpeedLayer {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    ended: tokio::sync::Mutex<mpsc::Receiver<Infallible>>,
    partitions: Arc<Partitions>,
}

/// What a speed layer is plugged together from.
pub struct SpeedParts {
    /// What it follows.
    pub log: Arc<dyn EventLog>,
    /// The schemas of the events.
    pub registry: Arc<dyn SchemaRegistry>,
    /// Where deltas go.
    pub store: Arc<dyn ViewStore>,
    /// Where events go that cannot be decoded.
    pub rejected: Arc<dyn RejectedSink>,
    /// A local folder of this process alone, for the ids of seen events. What is in it can be lost.
    pub dedupe_dir: PathBuf,
    /// Which partitions it follows.
    pub owned: Owned,
}

type Partitions = Mutex<BTreeMap<TopicPartition, Arc<Partition>>>;

/// Which partitions a layer follows: all of them, or those that are named, which may change at any time.
#[derive(Debug, Clone, Default)]
pub struct Owned(Option<watch::Receiver<BTreeSet<TopicPartition>>>);

impl Owned {
    /// All there are.
    pub fn all() -> Self {
        Self(None)
    }

    /// Those that are named. When the sender is gone, the last ones stay.
    pub fn named(partitions: watch::Receiver<BTreeSet<TopicPartition>>) -> Self {
        Self(Some(partitions))
    }

    fn holds(&self, partition: &TopicPartition) -> bool {
        self.0.as_ref().is_none_or(|owned| owned.borrow().contains(partition))
    }

    async fn changed(&mut self) {
        let is_gone = match &mut self.0 {
            Some(owned) => owned.changed().await.is_err(),
            None => true,
        };
        if is_gone {
            std::future::pending::<()>().await;
        }
    }
}

/// Held by whatever runs: the layer has ended when all of them are gone.
pub(crate) type Alive = mpsc::Sender<Infallible>;

/// What all tasks share.
pub(crate) struct Shared {
    pub log: Arc<dyn EventLog>,
    pub registry: Arc<dyn SchemaRegistry>,
    pub store: Arc<dyn ViewStore>,
    pub rejected: Arc<dyn RejectedSink>,
    pub settings: SpeedSettings,
    /// Of the tasks that catch up with the others.
    pub backfill: Option<Pace>,
    pub counters: Counters,
    /// Counts the moments at which some view may have moved.
    pub written: watch::Sender<u64>,
    pub stop: watch::Receiver<bool>,
    pub runtime: Handle,
    /// Where seen event ids are kept, when some source has them.
    pub seen: Option<Database>,
    pub beginners: Beginners,
    tasks: AtomicUsize,
}

/// What the tasks of one partition share.
pub(crate) struct Partition {
    pub place: TopicPartition,
    pub source: Arc<Source>,
    pub shared: Arc<Shared>,
    /// Tells its tasks to end, when it is no longer to be followed.
    leave: watch::Sender<bool>,
    /// The lasting index of seen event ids.
    pub seen: Option<Arc<Mutex<SeenIds>>>,
    /// Tells passing indexes apart.
    pub lanes: AtomicU64,
    /// Where the head stands while it is caught up; [`Offset::MAX`] while it is not.
    pub head: AtomicU64,
    /// Views that caught up and are the head's again.
    pub handed_over: Mutex<Vec<Arc<View>>>,
    /// Tells the head that there are some.
    pub came: Notify,
    /// Rejected events before this offset were handed on by this process.
    pub rejected_before: AtomicU64,
    pub status: Mutex<PartitionStatus>,
}

impl SpeedLayer {
    /// Starts following every topic that a view reads. Must be called inside a tokio runtime, which must outlive the layer.
    ///
    /// # Errors
    ///
    /// When the folder for seen ids cannot be used. Failures of the log and the store are no reason not to start: tasks try
    /// again.
    pub fn start(parts: SpeedParts, views: Vec<Arc<View>>, settings: SpeedSettings) -> Result<Self> {
        let SpeedParts { log, registry, store, rejected, dedupe_dir, owned } = parts;
        let recognises_ids = views.iter().any(|view| view.source.event_id.is_some());
        let seen = if recognises_ids { Some(open_database(&dedupe_dir)?) } else { None };
        let (stop, stopped) = watch::channel(false);
        let (alive, ended) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            log,
            registry,
            store,
            rejected,
            backfill: settings.backfill_rate.map(Pace::new),
            settings,
            counters: Counters::default(),
            written: watch::channel(0).0,
            stop: stopped,
            runtime: Handle::current(),
            seen,
            beginners: Beginners::default(),
            tasks: AtomicUsize::new(0),
        });
        let partitions = Arc::<Partitions>::default();
        shared.runtime.spawn(discover(alive, shared.clone(), partitions.clone(), by_source(views), owned));
        Ok(Self { shared, stop, ended: ended.into(), partitions })
    }

    /// Finishes the micro-batches at hand, and returns when nothing runs any more.
    pub async fn shutdown(self) {
        self.stop().await;
    }

    /// The same, while others hold the layer to look at it.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut ended = self.ended.lock().await;
        while ended.recv().await.is_some() {}
    }

    /// Where every partition stands, in order.
    pub fn status(&self) -> Vec<PartitionStatus> {
        self.partitions.lock().values().map(|partition| partition.status.lock().clone()).collect()
    }

    /// Looks at every partition in order, without copying anything: for those who ask often.
    pub fn look(&self, mut at: impl FnMut(&PartitionStatus)) {
        for partition in self.partitions.lock().values() {
            at(&partition.status.lock());
        }
    }

    /// Whether the index of seen ids takes no more writes until the layer is started again: it gives up after a write that failed
    /// half way, as on a full disk.
    pub fn is_broken(&self) -> bool {
        let index = self.shared.seen.as_ref();
        index.is_some_and(|index| matches!(index.persist(PersistMode::Buffer), Err(fjall::Error::Poisoned)))
    }

    /// Changes after every write to the store, and whenever a task has looked where its views stand. The value only counts.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.shared.written.subscribe()
    }

    /// Totals since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl Drop for SpeedLayer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn by_source(views: Vec<Arc<View>>) -> Vec<(Arc<Source>, Vec<Arc<View>>)> {
    let mut sources: BTreeMap<Arc<str>, (Arc<Source>, Vec<Arc<View>>)> = BTreeMap::new();
    for view in views {
        let source = sources.entry(view.source.name.clone()).or_insert_with(|| (view.source.clone(), Vec::new()));
        source.1.push(view);
    }
    sources.into_values().collect()
}

/// Starts a head task for every partition there is to follow, and for those that come later; lets go of those that go.
///
/// `alive` comes first, so that it goes last: after whatever else is held here.
async fn discover(
    alive: Alive,
    shared: Arc<Shared>,
    partitions: Arc<Partitions>,
    sources: Vec<(Arc<Source>, Vec<Arc<View>>)>,
    mut owned: Owned,
) {
    let mut stop = shared.stop.clone();
    // Left, but their tasks may still be finishing a micro-batch.
    let mut leaving: BTreeMap<TopicPartition, Weak<Partition>> = BTreeMap::new();
    loop {
        leave_partitions(&partitions, &owned, &mut leaving);
        leaving.retain(|_, partition| partition.strong_count() > 0);
        let mut wait = shared.settings.discover_interval;
        let soon = shared.settings.retry_first.max(Duration::from_millis(1));
        for (source, views) in &sources {
            let is_free = |place: &TopicPartition| owned.holds(place) && !leaving.contains_key(place);
            if let Err(error) = start_partitions(&shared, &partitions, source, views, &alive, is_free).await {
                tracing::warn!(topic = %source.name, %error, "looking for partitions");
                wait = soon;
            }
        }
        if leaving.keys().any(|place| owned.holds(place)) {
            wait = soon;
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = owned.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Tells the tasks of partitions that are not to be followed any more to end, once they have written what they hold.
fn leave_partitions(partitions: &Partitions, owned: &Owned, leaving: &mut BTreeMap<TopicPartition, Weak<Partition>>) {
    for (place, partition) in partitions.lock().extract_if(.., |place, _| !owned.holds(place)) {
        tracing::info!(partition = %place, "another process follows it from now on");
        partition.leave.send_replace(true);
        leaving.insert(place, Arc::downgrade(&partition));
    }
}

async fn start_partitions(
    shared: &Arc<Shared>,
    partitions: &Partitions,
    source: &Arc<Source>,
    views: &[Arc<View>],
    alive: &Alive,
    is_free: impl Fn(&TopicPartition) -> bool,
) -> Result<()> {
    let bounds = shared.log.bounds(&source.name).await?;
    for (number, kept) in (0..).zip(&bounds) {
        let place = TopicPartition::new(source.name.clone(), number);
        if partitions.lock().contains_key(&place) || !is_free(&place) {
            continue;
        }
        let partition = Arc::new(Partition::new(shared, source, place.clone())?);
        partition.log_ends_at(kept.end);
        Task::new(partition.clone(), views.to_vec(), true).spawn(alive.clone())?;
        partitions.lock().insert(place, partition);
    }
    Ok(())
}

/// Tells a task when to end: with the whole layer, or because its partition is left.
#[derive(Clone)]
pub(crate) struct Stop {
    layer: watch::Receiver<bool>,
    partition: watch::Receiver<bool>,
}

impl Stop {
    pub fn is_said(&self) -> bool {
        *self.layer.borrow() || *self.partition.borrow()
    }

    pub async fn said(&mut self) {
        tokio::select! {
            () = stopped(&mut self.layer) => {}
            () = stopped(&mut self.partition) => {}
        }
    }
}

/// Returns when the layer is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the handle is gone, which is to stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Shared {
    /// The bytes of states at which a micro-batch ends: an equal part for every task, and half of it, because the states that
    /// are merged with their priors are there twice for a while.
    pub fn memory_of_a_task(&self) -> usize {
        self.settings.memory / 2 / self.tasks.load(Ordering::Relaxed).max(1)
    }
}

impl Partition {
    fn new(shared: &Arc<Shared>, source: &Arc<Source>, place: TopicPartition) -> Result<Self> {
        let seen = match &shared.seen {
            Some(database) if source.event_id.is_some() => {
                Some(Arc::new(Mutex::new(SeenIds::open(database, source, &place)?)))
            }
            _ => None,
        };
        Ok(Self {
            source: source.clone(),
            shared: shared.clone(),
            leave: watch::channel(false).0,
            seen,
            lanes: AtomicU64::new(0),
            head: AtomicU64::new(Offset::MAX),
            handed_over: Mutex::default(),
            came: Notify::new(),
            rejected_before: AtomicU64::new(0),
            status: Mutex::new(PartitionStatus::new(place.clone())),
            place,
        })
    }

    pub fn stop(&self) -> Stop {
        Stop { layer: self.shared.stop.clone(), partition: self.leave.subscribe() }
    }

    pub fn stands_at(&self, view: &Arc<str>, position: Offset) {
        self.status.lock().views.entry(view.clone()).or_default().position = position;
    }

    pub fn failed(&self, view: &Arc<str>, failure: Failure) {
        tracing::error!(%view, partition = %self.place, from = failure.from, to = failure.to, reason = failure.reason,
            "view stopped");
        add(&self.shared.counters.failed_views, 1);
        self.status.lock().views.entry(view.clone()).or_default().failed = Some(failure);
    }

    pub fn log_ends_at(&self, end: Offset) {
        let mut status = self.status.lock();
        status.log_end = status.log_end.max(end);
    }

    pub fn went_wrong(&self, error: &dyn std::fmt::Display) {
        tracing::warn!(partition = %self.place, %error, "trying again");
        add(&self.shared.counters.failures, 1);
        self.status.lock().last_error = Some(error.to_string());
    }

    pub fn went_well(&self) {
        self.status.lock().last_error = None;
    }
}

impl Task {
    /// Runs the task on a thread of its own until it ends or the layer stops.
    pub fn spawn(self, alive: Alive) -> Result<()> {
        let partition = self.partition.clone();
        let name = format!("speed {}", partition.place);
        partition.shared.tasks.fetch_add(1, Ordering::Relaxed);
        let tasks = TaskCounted(partition.shared.clone());
        std::thread::Builder::new().name(name).spawn(move || {
            // In this order, so that they go in the other: when `alive` is gone, nothing of the layer is held here.
            let alive = alive;
            let _tasks = tasks;
            let (partition, mut task) = (partition, self);
            let runtime = partition.shared.runtime.clone();
            // A panic is a bug of ours or of a decoder. The task starts again and says so: silence would be worse.
            while let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(task.run(&alive)))) {
                partition.went_wrong(&format!("panicked: {}", panic_message(panic.as_ref())));
                let mut stop = partition.stop();
                let wait = partition.shared.settings.retry_most;
                let stopping = runtime.block_on(async { tokio::time::timeout(wait, stop.said()).await.is_ok() });
                if stopping {
                    return;
                }
            }
        })?;
        Ok(())
    }
}

struct TaskCounted(Arc<Shared>);

impl Drop for TaskCounted {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}
