//! Ports of one process that a test has a hand on: a view store that is cut off, one that puts its owner to sleep, and a
//! registry that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use event_log::LogError;
use event_log::registry::SchemaRegistry;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use view_store::error::Result;
use view_store::{
    Beside, DeltaWrite, KeyRange, Priors, Progress, PublishOutcome, StoreError, ViewRead, ViewStore, WriteOutcome,
};
use views::{Published, TopicPartition, View};

/// A view store that can be cut off (from then on every call fails, as all calls of a process do that was killed), and that can
/// make who writes deltas sleep: he has decided what to write, and writes it when he wakes, however late that is.
pub struct Severable {
    store: Arc<dyn ViewStore>,
    is_cut: AtomicBool,
    asleep: watch::Sender<bool>,
}

impl Severable {
    /// The store, awake and not cut off.
    pub fn new(store: Arc<dyn ViewStore>) -> Self {
        Self { store, is_cut: AtomicBool::new(false), asleep: watch::channel(false).0 }
    }

    /// Lets no further call through, and nobody sleep.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.sleep(false);
    }

    /// From now on, who writes deltas sleeps until this is called with `false`.
    pub fn sleep(&self, asleep: bool) {
        self.asleep.send_replace(asleep);
    }

    fn through(&self) -> Result<&dyn ViewStore> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("any call", "the process is gone"));
        }
        Ok(self.store.as_ref())
    }
}

#[async_trait]
impl ViewStore for Severable {
    async fn published(&self) -> Result<Option<Published>> {
        self.through()?.published().await
    }

    async fn read(&self, view: &Arc<View>, range: &KeyRange) -> Result<ViewRead> {
        self.through()?.read(view, range).await
    }

    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> Result<Progress> {
        self.through()?.progress(view, partition).await
    }

    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &RecordBatch,
        beside: &[Beside],
    ) -> Result<Priors> {
        self.through()?.deltas(view, partition, at, groups, beside).await
    }

    async fn write_deltas(&self, write: DeltaWrite) -> Result<WriteOutcome> {
        let mut asleep = self.asleep.subscribe();
        // An error means that nobody is left to wake anybody.
        let _ = asleep.wait_for(|asleep| !asleep).await;
        self.through()?.write_deltas(write).await
    }

    async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        self.through()?.write_generation(view, generation, rows).await
    }

    async fn publish(&self, next: &Published) -> Result<PublishOutcome> {
        self.through()?.publish(next).await
    }

    async fn retire(&self, views: &[Arc<View>]) -> Result<()> {
        self.through()?.retire(views).await
    }
}

/// A registry that cannot be reached now and then, or whose acknowledgement gets lost.
pub struct FaultyRegistry {
    registry: Arc<dyn SchemaRegistry>,
    rate: f64,
    chance: Mutex<StdRng>,
    is_calm: AtomicBool,
    faults: AtomicU64,
}

impl FaultyRegistry {
    /// Wraps `registry`; about one call in `1 / rate` fails, before or after it is done.
    pub fn new(registry: Arc<dyn SchemaRegistry>, seed: u64, rate: f64) -> Self {
        let chance = Mutex::new(StdRng::seed_from_u64(seed));
        Self { registry, rate, chance, is_calm: AtomicBool::new(false), faults: AtomicU64::new(0) }
    }

    /// From now on nothing fails.
    pub fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    /// How many failures there were.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    fn chance(&self) -> event_log::error::Result<()> {
        let happens = self.chance.lock().random_bool(self.rate);
        if !happens || self.is_calm.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        Err(LogError::unavailable("asking the registry", "injected fault"))
    }
}

#[async_trait]
impl SchemaRegistry for FaultyRegistry {
    async fn register(&self, subject: &str, schema: &str) -> event_log::error::Result<u32> {
        self.chance()?;
        let id = self.registry.register(subject, schema).await?;
        self.chance().map(|()| id)
    }

    async fn schema(&self, id: u32) -> event_log::error::Result<Arc<str>> {
        self.chance()?;
        self.registry.schema(id).await
    }

    async fn latest(&self, subject: &str) -> event_log::error::Result<(u32, Arc<str>)> {
        self.chance()?;
        self.registry.latest(subject).await
    }

    async fn check(&self, subject: &str, schema: &str) -> event_log::error::Result<()> {
        self.chance()?;
        self.registry.check(subject, schema).await
    }
}
