//! The event log, with somebody at the door who writes down when each append came through.
//!
//! How fresh an answer is depends on how long the oldest record that it lacks has been waiting. The log knows, but asking it
//! takes a read; here every append of this process passes, so the answer is in memory. What is kept is bounded: with
//! too many appends waiting, some are taken to be as old as the one before them.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::Utc;
use event_log::error::Result;
use event_log::{EventLog, NewRecord, ReadLimit, Record, TopicSpec};
use parking_lot::Mutex;
use tokio::sync::watch;
use views::{Offset, TopicPartition};

/// Appends that come closer together than this are taken as one, as old as its first.
const NEAR_US: i64 = 1000;

/// How many appends of a partition are remembered.
const REMEMBERED: usize = 4096;

/// How often the log's clock is compared with this process's.
const COMPARE_CLOCKS: Duration = Duration::from_secs(30);

/// How far they may be apart.
const SKEW_US: i64 = 1_000_000;

/// An [`EventLog`] that knows when its last records were appended.
pub struct WatchedLog {
    log: Arc<dyn EventLog>,
    tails: Mutex<HashMap<TopicPartition, Tail>>,
    /// When the clocks were compared last.
    compared: Mutex<Option<Instant>>,
    skew: watch::Sender<Option<Skew>>,
}

/// How far the log's clock is from this process's, as far as it is more than the time that an append takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew {
    /// Microseconds; positive when the log's clock is ahead.
    pub us: i64,
}

impl Skew {
    /// `time` was set by the log between `before` and `after` of this process's clock.
    fn of(time: i64, before: i64, after: i64) -> Self {
        Self { us: if time > after { time - after } else { (time - before).min(0) } }
    }

    fn tell(self) {
        let (seconds, side) = (self.us.abs() / 1_000_000, if self.us > 0 { "ahead of" } else { "behind" });
        tracing::warn!(
            "clock skew: the event log's clock is {seconds} s {side} this machine's, so `freshness_ms` is off by as much; answers are \
             exact all the same. Let NTP set the clocks of this machine and of the brokers (log.brokers)"
        );
    }
}

#[derive(Debug, Default)]
struct Tail {
    end: Offset,
    /// First offsets with the time before which they were not there; both grow.
    appends: VecDeque<(Offset, i64)>,
}

impl WatchedLog {
    /// Watches a log. What others append to it is not noticed.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log, tails: Mutex::default(), compared: Mutex::default(), skew: watch::channel(None).0 }
    }

    /// How far the clocks were apart when they were compared last; `None` before the first append of this process.
    pub fn skew(&self) -> watch::Receiver<Option<Skew>> {
        self.skew.subscribe()
    }

    /// Now and then, reads a record that was just appended, to see the log's clock. Answers are exact whatever the clocks say;
    /// how fresh they are is the difference of two of them.
    fn compare_clocks(&self, partition: &TopicPartition, appended: &Range<Offset>, before: i64) {
        {
            let mut compared = self.compared.lock();
            if appended.is_empty() || compared.is_some_and(|last| last.elapsed() < COMPARE_CLOCKS) {
                return;
            }
            *compared = Some(Instant::now());
        }
        let after = Utc::now().timestamp_micros();
        let (log, skew) = (self.log.clone(), self.skew.clone());
        let (partition, offset) = (partition.clone(), appended.start);
        tokio::spawn(async move {
            let Ok(records) = log.read(&partition, offset, ReadLimit::records(1)).await else { return };
            let Some(time) = records.first().map(|record| record.append_time) else { return };
            let found = Skew::of(time, before, after);
            skew.send_replace(Some(found));
            if found.us.abs() > SKEW_US {
                found.tell();
            }
        });
    }

    /// The offset after the last record that this process appended (0: it has not appended any), and when the record at `offset`
    /// was appended (microseconds since the epoch), or somewhat earlier; `None` when it is not there yet, or was there before
    /// this process. Records before `offset` are forgotten: their readers have passed.
    pub fn past(&self, partition: &TopicPartition, offset: Offset) -> (Offset, Option<i64>) {
        let mut tails = self.tails.lock();
        let Some(tail) = tails.get_mut(partition) else { return (0, None) };
        (tail.end, if offset < tail.end { tail.appended_at(offset) } else { None })
    }
}

impl Tail {
    fn appended_at(&mut self, offset: Offset) -> Option<i64> {
        while self.appends.get(1).is_some_and(|(start, _)| *start <= offset) {
            self.appends.pop_front();
        }
        self.appends.front().filter(|(start, _)| *start <= offset).map(|(_, time)| *time)
    }

    fn note(&mut self, appended: &Range<Offset>, time: i64) {
        self.end = self.end.max(appended.end);
        let is_new = self.appends.back().is_none_or(|(start, last)| appended.start > *start && time - last >= NEAR_US);
        if !is_new {
            return;
        }
        if self.appends.len() >= REMEMBERED {
            let mut keep = false;
            self.appends.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.appends.push_back((appended.start, time));
    }
}

#[async_trait]
impl EventLog for WatchedLog {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.log.create_topic(topic).await
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        self.log.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        let time = Utc::now().timestamp_micros();
        let appended = self.log.append(to, records).await?;
        self.tails.lock().entry(to.clone()).or_default().note(&appended, time);
        self.compare_clocks(to, &appended, time);
        Ok(appended)
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        self.log.read(of, from, limit).await
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        self.log.bounds(topic).await
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        self.log.trim(of, before).await
    }
}
