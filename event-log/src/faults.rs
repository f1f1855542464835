//! A log that fails the way real ones do: a wrapper for simulations.
//!
//! Every fault is one that the port allows, so whoever uses the log must come through it: an error before anything
//! happened, an acknowledgement that got lost, an append of which only a prefix arrived, a read that returns less than it
//! could, a delay. What comes when is a function of the seed and the order of the calls.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use views::{Offset, TopicPartition};

use crate::error::{LogError, Result};
use crate::log::{EventLog, NewRecord, ReadLimit, Record, TopicSpec};

/// How likely each fault is, from 0 to 1, drawn anew for every call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogFaults {
    /// Nothing is done, and an error is returned.
    pub error: f64,
    /// It is done, and an error is returned.
    pub lost_acknowledgement: f64,
    /// Only the first records of an append are appended (perhaps none), and an error is returned.
    pub partial_append: f64,
    /// A read returns fewer records than it could, but at least one.
    pub short_read: f64,
    /// The call takes up to `longest_delay` longer.
    pub delay: f64,
    /// See `delay`.
    pub longest_delay: Duration,
}

impl LogFaults {
    /// No faults at all.
    pub const NONE: Self = Self {
        error: 0.0,
        lost_acknowledgement: 0.0,
        partial_append: 0.0,
        short_read: 0.0,
        delay: 0.0,
        longest_delay: Duration::ZERO,
    };

    /// Every fault now and then; no delays.
    pub const SOME: Self =
        Self { error: 0.05, lost_acknowledgement: 0.05, partial_append: 0.05, short_read: 0.2, ..Self::NONE };
}

/// An [`EventLog`] with faults.
pub struct FaultyLog {
    log: Arc<dyn EventLog>,
    chance: Mutex<Chance>,
}

struct Chance {
    faults: LogFaults,
    state: u64,
    injected: u64,
}

impl FaultyLog {
    /// Puts faults before `log`; the same seed and the same calls give the same faults.
    pub fn new(log: Arc<dyn EventLog>, seed: u64, faults: LogFaults) -> Self {
        Self { log, chance: Mutex::new(Chance { faults, state: seed, injected: 0 }) }
    }

    /// Changes how likely faults are from now on: [`LogFaults::NONE`] heals the log.
    pub fn set_faults(&self, faults: LogFaults) {
        self.chance.lock().faults = faults;
    }

    /// How many errors and short reads there were: a simulation without any proves nothing.
    pub fn injected(&self) -> u64 {
        self.chance.lock().injected
    }

    /// The fate of a call that changes the log or, without `changes`, of one that only looks.
    async fn fate(&self, changes: bool) -> Fate {
        let (fate, delay) = self.chance.lock().fate(changes);
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        fate
    }

    /// Lets `call` have its fate; it is done or not done as a whole.
    async fn meet<T>(&self, what: &str, changes: bool, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fate(changes).await {
            Fate::Error => Err(injected(what, "nothing was done")),
            Fate::LostAcknowledgement => {
                call.await?;
                Err(injected(what, "it was done, but the acknowledgement got lost"))
            }
            Fate::Good | Fate::Partial => call.await,
        }
    }
}

enum Fate {
    Good,
    Error,
    LostAcknowledgement,
    Partial,
}

impl Chance {
    fn fate(&mut self, changes: bool) -> (Fate, Option<Duration>) {
        let LogFaults { error, lost_acknowledgement, partial_append, delay, longest_delay, .. } = self.faults;
        // Always the same number of draws per call, so that changing one likelihood does not change all other faults.
        let (fate_draw, delayed, length) = (self.draw(), self.draw(), self.draw());
        let fate = if fate_draw < error {
            Fate::Error
        } else if changes && fate_draw < error + lost_acknowledgement {
            Fate::LostAcknowledgement
        } else if changes && fate_draw < error + lost_acknowledgement + partial_append {
            Fate::Partial
        } else {
            Fate::Good
        };
        self.injected += u64::from(!matches!(fate, Fate::Good));
        (fate, (delayed < delay).then(|| longest_delay.mul_f64(length)))
    }

    /// A number from 0 up to 1.
    fn draw(&mut self) -> f64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        ((self.draw() * end as f64) as usize).min(end - 1)
    }
}

fn injected(what: &str, outcome: &str) -> LogError {
    LogError::unavailable(what, format!("injected fault: {outcome}"))
}

#[async_trait]
impl EventLog for FaultyLog {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.meet("create topic", true, self.log.create_topic(topic)).await
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        self.meet("list topics", false, self.log.topics()).await
    }

    async fn append(&self, to: &TopicPartition, mut records: Vec<NewRecord>) -> Result<Range<Offset>> {
        match self.fate(true).await {
            Fate::Good => self.log.append(to, records).await,
            Fate::Error => Err(injected("append", "nothing was appended")),
            Fate::LostAcknowledgement => {
                self.log.append(to, records).await?;
                Err(injected("append", "all was appended, but the acknowledgement got lost"))
            }
            Fate::Partial => {
                let kept = if records.is_empty() { 0 } else { self.chance.lock().below(records.len()) };
                records.truncate(kept);
                self.log.append(to, records).await?;
                Err(injected("append", "only a prefix was appended"))
            }
        }
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        let mut records = self.meet("read", false, self.log.read(of, from, limit)).await?;
        let mut chance = self.chance.lock();
        if chance.draw() < chance.faults.short_read && records.len() > 1 {
            let kept = 1 + chance.below(records.len() - 1);
            chance.injected += 1;
            records.truncate(kept);
        }
        Ok(records)
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        self.meet("ask for bounds", false, self.log.bounds(topic)).await
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        self.meet("trim", true, self.log.trim(of, before)).await
    }
}
