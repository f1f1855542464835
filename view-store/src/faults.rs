//! A store that fails as networks and disks do: for simulations, from a seed.
//!
//! Every kind of failure is one that the port allows: an error before anything happened, an acknowledgement that is lost after
//! everything did, a delay, and a stream of rows that breaks off. What is never done is breaking a promise of the port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use views::{Published, TopicPartition, View};

use crate::error::{Result, StoreError};
use crate::store::{Beside, DeltaWrite, KeyRange, Priors, Progress, PublishOutcome, ViewRead, ViewStore, WriteOutcome};

/// How often what goes wrong, each from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct FaultRates {
    /// An error before anything happened.
    pub error_before: f64,
    /// An error after everything happened: the acknowledgement is lost. Only of writes.
    pub lost_acknowledgement: f64,
    /// The rows of a read break off after a chunk.
    pub broken_rows: f64,
    /// A delay before the call and, as often, after it.
    pub delay: f64,
    /// The longest delay.
    pub longest_delay: Duration,
}

impl FaultRates {
    /// Nothing goes wrong.
    pub const NONE: FaultRates = FaultRates {
        error_before: 0.0,
        lost_acknowledgement: 0.0,
        broken_rows: 0.0,
        delay: 0.0,
        longest_delay: Duration::ZERO,
    };

    /// A bad day: one call in `n` fails each way, one in two is delayed by up to two milliseconds.
    pub fn one_in(n: u32) -> Self {
        let rate = 1.0 / f64::from(n.max(1));
        Self {
            error_before: rate,
            lost_acknowledgement: rate,
            broken_rows: rate,
            delay: 0.5,
            longest_delay: Duration::from_millis(2),
        }
    }
}

/// A [`ViewStore`] around another that makes calls fail.
pub struct FaultyStore {
    inner: Arc<dyn ViewStore>,
    rates: FaultRates,
    chance: Mutex<StdRng>,
    is_calm: AtomicBool,
    faults: AtomicU64,
}

impl FaultyStore {
    /// Wraps `inner`; the same seed and the same order of calls give the same failures.
    pub fn new(inner: Arc<dyn ViewStore>, seed: u64, rates: FaultRates) -> Self {
        let chance = Mutex::new(StdRng::seed_from_u64(seed));
        Self { inner, rates, chance, is_calm: AtomicBool::new(false), faults: AtomicU64::new(0) }
    }

    /// From now on nothing fails: the end of a simulation, where everything must come right.
    pub fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    /// How many failures there were.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    fn happens(&self, rate: f64) -> bool {
        let happens = self.chance.lock().random_bool(rate.clamp(0.0, 1.0));
        happens && !self.is_calm.load(Ordering::Relaxed)
    }

    async fn pause(&self) {
        if self.happens(self.rates.delay) {
            let delay = self.rates.longest_delay.mul_f64(self.chance.lock().random_range(0.0..1.0));
            tokio::time::sleep(delay).await;
        }
    }

    fn fault(&self, what: &'static str, call: &'static str) -> StoreError {
        self.faults.fetch_add(1, Ordering::Relaxed);
        StoreError::unavailable(call, what)
    }

    async fn before(&self, call: &'static str) -> Result<()> {
        self.pause().await;
        if self.happens(self.rates.error_before) {
            return Err(self.fault("injected: nothing was done", call));
        }
        Ok(())
    }

    async fn after<T>(&self, call: &'static str, outcome: Result<T>) -> Result<T> {
        self.pause().await;
        if outcome.is_ok() && self.happens(self.rates.lost_acknowledgement) {
            return Err(self.fault("injected: it was done, and the acknowledgement is lost", call));
        }
        outcome
    }
}

#[async_trait]
impl ViewStore for FaultyStore {
    async fn published(&self) -> Result<Option<Published>> {
        self.before("published").await?;
        self.inner.published().await
    }

    async fn read(&self, view: &Arc<View>, range: &KeyRange) -> Result<ViewRead> {
        self.before("read").await?;
        let read = self.inner.read(view, range).await?;
        if !self.happens(self.rates.broken_rows) {
            return Ok(read);
        }
        let broken = self.fault("injected: the rows broke off", "read");
        let rows = read.rows.take(1).chain(futures::stream::iter([Err(broken)])).boxed();
        Ok(ViewRead { rows, ..read })
    }

    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> Result<Progress> {
        self.before("progress").await?;
        self.inner.progress(view, partition).await
    }

    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &RecordBatch,
        beside: &[Beside],
    ) -> Result<Priors> {
        self.before("deltas").await?;
        self.inner.deltas(view, partition, at, groups, beside).await
    }

    async fn write_deltas(&self, write: DeltaWrite) -> Result<WriteOutcome> {
        self.before("write_deltas").await?;
        let outcome = self.inner.write_deltas(write).await;
        self.after("write_deltas", outcome).await
    }

    async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        self.before("write_generation").await?;
        let outcome = self.inner.write_generation(view, generation, rows).await;
        self.after("write_generation", outcome).await
    }

    async fn publish(&self, next: &Published) -> Result<PublishOutcome> {
        self.before("publish").await?;
        let outcome = self.inner.publish(next).await;
        self.after("publish", outcome).await
    }

    async fn retire(&self, views: &[Arc<View>]) -> Result<()> {
        self.before("retire").await?;
        let outcome = self.inner.retire(views).await;
        self.after("retire", outcome).await
    }
}
