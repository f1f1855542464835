//! Which partitions a speed process follows: those that the group has told it to, and those that nobody moves.
//!
//! When a process dies, its group waits until its session has ended, ten seconds, before others are told to go on; and whoever
//! joins meanwhile waits as long. Nothing else has to wait for that: two owners of a partition are exact. So a partition that has
//! records past the view store's progress, and whose progress does not move, is followed by whoever sees it, until
//! the group speaks again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::EventLog;
use event_log::kafka::Assigned;
use speed_layer::SpeedSettings;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use view_store::ViewStore;
use views::{Application, Offset, TopicPartition, View};

use crate::backends::Share;
use crate::elsewhere::furthest;
use crate::failure::{Context as _, Result};

/// How often to look, until the group speaks for the first time, and from then on.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(250);

/// How long a partition may stand still before somebody who was never told anything follows it. Whoever is there and
/// has caught up writes every ten milliseconds.
const FIRST_PATIENCE: Duration = Duration::from_millis(60);

/// How long it may stand still before others do. Whoever is far behind writes every second or two.
const PATIENCE: Duration = Duration::from_secs(3);

/// After this long a partition is let go of that was taken so: if its owner was only slow, it goes on.
const TURN: Duration = Duration::from_secs(30);

/// The partitions that this process follows.
pub struct Following {
    partitions: watch::Receiver<BTreeSet<TopicPartition>>,
    looking: JoinHandle<()>,
}

impl Following {
    /// Begins to look. Call it within a Tokio runtime.
    pub fn start(
        share: &Arc<Share>,
        application: &Application,
        store: Arc<dyn ViewStore>,
        log: Arc<dyn EventLog>,
    ) -> Self {
        let (told, partitions) = watch::channel(BTreeSet::new());
        let looking = Looking {
            share: Arc::downgrade(share),
            views: application.views.clone(),
            store,
            log,
            taken: BTreeMap::new(),
            still: BTreeMap::new(),
        };
        let assigned = share.assigned();
        Self { partitions, looking: tokio::spawn(looking.on(assigned, told)) }
    }

    /// Those it follows now.
    pub fn partitions(&self) -> watch::Receiver<BTreeSet<TopicPartition>> {
        self.partitions.clone()
    }

    /// Looks no more.
    pub async fn stop(mut self) {
        self.looking.abort();
        let _ = (&mut self.looking).await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

struct Looking {
    share: std::sync::Weak<Share>,
    views: Vec<Arc<View>>,
    store: Arc<dyn ViewStore>,
    log: Arc<dyn EventLog>,
    /// Since when it follows partitions that nobody told it to.
    taken: BTreeMap<TopicPartition, Instant>,
    /// Where partitions stand that have records to go on with, and since when.
    still: BTreeMap<TopicPartition, (Offset, Instant)>,
}

impl Looking {
    async fn on(mut self, mut assigned: watch::Receiver<Assigned>, told: watch::Sender<BTreeSet<TopicPartition>>) {
        let mut speaks = true;
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                changed = assigned.changed(), if speaks => {
                    speaks = changed.is_ok();
                    // The group knows who lives.
                    self.taken.clear();
                    self.still.clear();
                }
                () = tokio::time::sleep_until(next_look.into()) => {
                    let is_first = assigned.borrow().times == 0;
                    let own = told.borrow().clone();
                    let others = self.look(is_first, &own).await.unwrap_or_else(|error| {
                        tracing::debug!(error = error.message, "looking for partitions that nobody moves");
                        true
                    });
                    next_look = Instant::now() + if is_first && others { FIRST_LOOK } else { LOOK };
                }
            }
            let Some(share) = self.share.upgrade() else { return };
            let mut partitions: BTreeSet<_> =
                assigned.borrow().partitions.iter().filter_map(|partition| share.own_name(partition)).collect();
            partitions.extend(self.taken.keys().cloned());
            told.send_if_modified(|now| {
                let changes = *now != partitions;
                *now = partitions;
                changes
            });
        }
    }

    /// Takes partitions that stand still, and lets go of those whose turn is over. `is_first`: the group has not spoken yet.
    /// Returns whether there are any that it does not follow.
    async fn look(&mut self, is_first: bool, own: &BTreeSet<TopicPartition>) -> Result<bool> {
        self.taken.retain(|_, since| since.elapsed() < TURN);
        let topics: BTreeSet<Arc<str>> = self.views.iter().map(|view| view.source.name.clone()).collect();
        let mut others = Vec::new();
        for topic in topics {
            for (number, kept) in (0..).zip(self.log.bounds(&topic).await.context("event log")?) {
                let partition = TopicPartition::new(topic.clone(), number);
                if own.contains(&partition) {
                    self.still.remove(&partition);
                } else {
                    others.push((partition, kept.end));
                }
            }
        }
        if others.is_empty() {
            return Ok(false);
        }
        let partitions: Vec<TopicPartition> = others.iter().map(|(partition, _)| partition.clone()).collect();
        let stands = furthest(&self.views, self.store.as_ref(), &partitions).await.context("view store")?;
        for ((partition, end), stands) in others.into_iter().zip(stands) {
            let Some(stands) = stands.filter(|stands| *stands < end) else {
                self.still.remove(&partition);
                continue;
            };
            // Whoever has more ahead writes every second or two: looking twice would tell nothing.
            let is_far = end - stands > SpeedSettings::default().read_records as u64;
            let patience = match (is_first, is_far) {
                (true, true) => Duration::ZERO,
                (true, false) => FIRST_PATIENCE,
                (false, _) => PATIENCE,
            };
            let seen = self.still.entry(partition.clone()).or_insert_with(|| (stands, Instant::now()));
            if seen.0 != stands {
                *seen = (stands, Instant::now());
            }
            if seen.1.elapsed() >= patience {
                tracing::info!(%partition, "nobody moves it: this process goes on with it until the group says whose it is");
                self.still.remove(&partition);
                self.taken.insert(partition, Instant::now());
            }
        }
        Ok(true)
    }
}
