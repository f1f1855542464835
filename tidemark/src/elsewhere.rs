//! What other processes do, seen from one that does not: how far the speed layer is, as the view store says, and how far the
//! archive is, as its listing says. Both are looked at again and again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_log::archive::Archive;
use event_log::error::Result as LogResult;
use event_log::{EventLog, ReadLimit};
use futures::future::{BoxFuture, try_join, try_join_all};
use parking_lot::Mutex;
use serving_layer::{ArchiveStatus, PartitionStatus, SpeedStatus};
use speed_layer::SpeedLayer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use view_store::ViewStore;
use view_store::error::Result as StoreResult;
use views::{Application, Offset, TopicPartition, View};

use crate::watched_log::WatchedLog;

/// How often to ask where the views stand, while somebody waits for that or events are on their way.
const LOOK_AT_STORE: Duration = Duration::from_millis(25);

/// How often otherwise, and how often to ask where the log ends: what other processes appended is found out then. A cluster with
/// nothing to do spends twelve milliseconds of a core on each question, because its threads look for more work before they sleep.
const LOOK_SELDOM: Duration = Duration::from_millis(250);

/// How often to list the archive.
const LOOK_AT_ARCHIVE: Duration = Duration::from_secs(10);

/// The speed layer of other processes, and of this one as one of them.
pub struct SpeedElsewhere {
    seen: Arc<Mutex<BTreeMap<TopicPartition, Seen>>>,
    moved: watch::Sender<u64>,
    log: Arc<WatchedLog>,
    own: Weak<SpeedLayer>,
    looking: JoinHandle<()>,
}

/// What is known of a partition.
#[derive(Debug, Clone, Default)]
struct Seen {
    log_end: Offset,
    /// `None`: not found out yet.
    position: Option<Offset>,
    /// The append time of a record, by its offset.
    waiting: Option<(Offset, i64)>,
    error: Option<String>,
}

impl SpeedElsewhere {
    /// Begins to look, often or seldom while there is only lag to be seen. `own`: the speed layer of this process, if it has one. Call
    /// it within a Tokio runtime.
    pub fn watch(
        application: &Application,
        store: Arc<dyn ViewStore>,
        log: Arc<WatchedLog>,
        own: Weak<SpeedLayer>,
        follows_lag: bool,
    ) -> Self {
        let seen = Arc::<Mutex<BTreeMap<TopicPartition, Seen>>>::default();
        let moved = watch::channel(0).0;
        let looking = Looking {
            views: application.views.clone(),
            store,
            log: log.clone(),
            seen: seen.clone(),
            moved: moved.clone(),
            own: own.clone(),
            follows_lag,
        };
        Self { seen, moved, log, own, looking: tokio::spawn(looking.on()) }
    }
}

impl Drop for SpeedElsewhere {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl SpeedStatus for SpeedElsewhere {
    fn partitions(&self, topic: &str) -> Vec<PartitionStatus> {
        let seen = self.seen.lock();
        let mut own = HashMap::new();
        if let Some(layer) = self.own.upgrade() {
            layer.look(|status| {
                let position = seen.get(&status.partition).and_then(|seen| seen.position).unwrap_or(0);
                own.extend(Some(status.partition.clone()).zip(status.waiting_since(position)));
            });
        }
        let of_topic = seen.iter().filter(|(partition, _)| &*partition.topic == topic);
        let status = |(partition, seen): (&TopicPartition, &Seen)| {
            let position = seen.position.unwrap_or(0);
            let (appended_end, appended_at) = self.log.past(partition, position);
            let asked = seen.waiting.filter(|(offset, _)| *offset == position).map(|(_, time)| time);
            PartitionStatus {
                partition: partition.clone(),
                log_end: seen.log_end.max(appended_end),
                position,
                waiting_since: appended_at.or(own.get(partition).copied()).or(asked),
                error: seen.error.clone(),
            }
        };
        of_topic.map(status).collect()
    }

    /// Which views another process gave up on is not in the store: they lag, and that is told.
    fn failure(&self, _view: &str) -> Option<String> {
        None
    }

    fn wait_change(&self, _topic: &str) -> BoxFuture<'static, ()> {
        let mut moved = self.moved.subscribe();
        Box::pin(async move {
            if moved.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

struct Looking {
    views: Vec<Arc<View>>,
    store: Arc<dyn ViewStore>,
    log: Arc<WatchedLog>,
    seen: Arc<Mutex<BTreeMap<TopicPartition, Seen>>>,
    moved: watch::Sender<u64>,
    own: Weak<SpeedLayer>,
    follows_lag: bool,
}

impl Looking {
    async fn on(self) {
        let mut looks = tokio::time::interval(LOOK_AT_STORE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked: Option<tokio::time::Instant> = None;
        loop {
            looks.tick().await;
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_SELDOM) {
                looked = Some(tokio::time::Instant::now());
                if let Err(error) = self.look_at_log().await {
                    self.went_wrong(&error);
                    continue;
                }
            } else if !self.is_awaited() {
                continue;
            }
            if let Err(error) = self.look_at_store().await {
                self.went_wrong(&error);
            }
        }
    }

    /// Whether somebody waits for the views to move, or events are known that they lack.
    fn is_awaited(&self) -> bool {
        let is_behind = |(partition, seen): (&TopicPartition, &Seen)| {
            let position = seen.position.unwrap_or(0);
            position < seen.log_end.max(self.log.past(partition, position).0)
        };
        self.moved.receiver_count() > 0 || (self.follows_lag && self.seen.lock().iter().any(is_behind))
    }

    fn went_wrong(&self, error: &dyn std::fmt::Display) {
        for seen in self.seen.lock().values_mut() {
            seen.error = Some(error.to_string());
        }
    }

    async fn look_at_log(&self) -> LogResult<()> {
        let mut topics: Vec<_> = self.views.iter().map(|view| view.source.name.clone()).collect();
        topics.sort();
        topics.dedup();
        for topic in topics {
            for (number, kept) in (0..).zip(self.log.bounds(&topic).await?) {
                let mut seen = self.seen.lock();
                let seen = seen.entry(TopicPartition::new(topic.clone(), number)).or_default();
                seen.log_end = seen.log_end.max(kept.end);
            }
        }
        for (partition, position) in self.unknown_ages() {
            let records = self.log.read(&partition, position, ReadLimit::records(1)).await?;
            if let (Some(record), Some(seen)) = (records.first(), self.seen.lock().get_mut(&partition)) {
                seen.waiting = Some((position, record.append_time));
            }
        }
        Ok(())
    }

    /// Partitions in which a record waits that this process did not append and does not fold: only the log knows since when.
    fn unknown_ages(&self) -> Vec<(TopicPartition, Offset)> {
        let mut own = HashSet::new();
        if let Some(layer) = self.own.upgrade() {
            layer.look(|status| _ = own.insert(status.partition.clone()));
        }
        let seen = self.seen.lock();
        let unknown = seen.iter().filter_map(|(partition, seen)| {
            let position = seen.position.filter(|position| *position < seen.log_end && !own.contains(partition))?;
            let is_asked = seen.waiting.is_some_and(|(offset, _)| offset == position);
            let is_known = is_asked || self.log.past(partition, position).1.is_some();
            (!is_known).then(|| (partition.clone(), position))
        });
        unknown.collect()
    }

    async fn look_at_store(&self) -> StoreResult<()> {
        let partitions: Vec<TopicPartition> = self.seen.lock().keys().cloned().collect();
        let positions = furthest(&self.views, self.store.as_ref(), &partitions).await?;
        let mut has_moved = false;
        for (partition, position) in partitions.iter().zip(positions) {
            if let (Some(position), Some(seen)) = (position, self.seen.lock().get_mut(partition)) {
                has_moved |= seen.position != Some(position);
                (seen.position, seen.error) = (Some(position), None);
            }
        }
        if has_moved {
            self.moved.send_modify(|times| *times += 1);
        }
        Ok(())
    }
}

/// How far partitions are, in their order. The position of one is where the view stands that got furthest: one that another process
/// gave up on must not make the others look old. How far a view trails it is asked when somebody asks for that view. `None`: no view
/// reads it.
pub(crate) async fn furthest(
    views: &[Arc<View>],
    store: &dyn ViewStore,
    partitions: &[TopicPartition],
) -> StoreResult<Vec<Option<Offset>>> {
    let progress = partitions
        .iter()
        .map(|partition| try_join_all(of_its_topic(views, partition).map(|view| store.progress(view, partition))));
    // Side by side: a store over a network answers all of it with one read or two.
    let (published, progress) = try_join(store.published(), try_join_all(progress)).await?;
    let frontier = |view: &View, partition| published.as_ref()?.of(view)?.1.get(partition);
    let stands = partitions.iter().zip(progress).map(|(partition, progress)| {
        let frontiers = of_its_topic(views, partition).map(|view| frontier(view, partition).unwrap_or(0));
        progress.iter().zip(frontiers).map(|(progress, frontier)| progress.offset.max(frontier)).max()
    });
    Ok(stands.collect())
}

fn of_its_topic<'a>(views: &'a [Arc<View>], partition: &'a TopicPartition) -> impl Iterator<Item = &'a Arc<View>> {
    views.iter().filter(|view| view.source.name == partition.topic)
}

/// The archive, when the archiver is another process.
pub struct ArchiveElsewhere {
    archived: Arc<Mutex<BTreeMap<TopicPartition, Offset>>>,
    looking: JoinHandle<()>,
}

impl ArchiveElsewhere {
    /// Begins to look. Call it within a Tokio runtime.
    pub fn watch(application: &Application, archive: Arc<Archive>, log: Arc<dyn EventLog>) -> Self {
        let archived = Arc::<Mutex<BTreeMap<TopicPartition, Offset>>>::default();
        let topics: Vec<Arc<str>> = application.sources.iter().map(|source| source.name.clone()).collect();
        let seen = archived.clone();
        let looking = tokio::spawn(async move {
            loop {
                for topic in &topics {
                    // What cannot be listed now stays as it was.
                    let partitions = log.bounds(topic).await.map_or(0, |bounds| bounds.len());
                    for number in 0..u32::try_from(partitions).unwrap_or(0) {
                        let partition = TopicPartition::new(topic.clone(), number);
                        match archive.list(&partition).await {
                            Ok(segments) => {
                                let end = segments.last().map_or(0, |segment| segment.end);
                                seen.lock().insert(partition, end);
                            }
                            Err(error) => tracing::debug!(%partition, %error, "listing the archive"),
                        }
                    }
                }
                tokio::time::sleep(LOOK_AT_ARCHIVE).await;
            }
        });
        Self { archived, looking }
    }
}

impl Drop for ArchiveElsewhere {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl ArchiveStatus for ArchiveElsewhere {
    fn archived(&self, partition: &TopicPartition) -> Option<Offset> {
        self.archived.lock().get(partition).copied()
    }
}
