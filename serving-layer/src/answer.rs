//! The read path: one question → one answer.
//!
//! ```text
//! store.read ──chunks of states──► merge ──values──► finalize ──rows──► page
//!                                (assembly.rs)                       (JSON text)
//! ```
//!
//! Everything is bounded: chunks are, a page has at most `limit` rows, and a lookup that would scan or hold more than the settings
//! allow is refused. Small chunks are worked on where they arrive, because handing them to another thread costs more than
//! the work; large ones leave the HTTP worker free.
//!
//! [`answer`] is a function of the question and of what the store holds at one moment, and the answer names that moment
//! (generation and position): a cache of answers would sit in front of it, keyed by question and position.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;
use view_store::{StateRows, ViewRead, ViewStore};
use views::{Offset, Position, TopicPartition};

use crate::assembly::{Assembly, Page};
use crate::clock::now_us;
use crate::error::{Kind, Problem, Result};
use crate::ports::{PartitionStatus, SpeedStatus};
use crate::prepared::PreparedView;
use crate::question::{DEFAULT_TIMEOUT, Question};

/// Chunks of up to this many states are merged on the HTTP worker.
const INLINE_STATES: usize = 512;

/// What one lookup may cost.
#[derive(Debug, Clone, Copy)]
pub struct LookupLimits {
    /// States read from the store.
    pub scanned_states: usize,
    /// Bytes of accumulators held at once (rollups).
    pub held_bytes: usize,
    /// Bytes of the answer.
    pub answer_bytes: usize,
}

impl Default for LookupLimits {
    fn default() -> Self {
        Self { scanned_states: 1_000_000, held_bytes: 256 << 20, answer_bytes: 64 << 20 }
    }
}

/// What answers come from.
pub struct Reader {
    /// Where the states are.
    pub store: Arc<dyn ViewStore>,
    /// What the speed layer says of itself.
    pub speed: Arc<dyn SpeedStatus>,
    /// The log, asked only how old the first record is that an answer lacks, when there is one.
    pub log: Arc<dyn event_log::EventLog>,
    /// What one lookup may cost.
    pub limits: LookupLimits,
    /// When records were appended that the log was asked about last.
    pub ages: Ages,
}

/// The append time of one record per partition. Records never change, so what is remembered is never stale.
#[derive(Debug, Default)]
pub struct Ages(Mutex<HashMap<TopicPartition, (Offset, i64)>>);

/// How far an answer lags the log.
#[derive(Debug, Clone, Default)]
pub struct Lag {
    /// The age of the oldest record it lacks, zero when it lacks none; `None` when nobody can say.
    pub time: Option<Duration>,
    /// What keeps the speed layer, where it is behind.
    pub error: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answered {
    /// The rows.
    pub page: Page,
    /// The generation that was merged in.
    pub generation: Option<u64>,
    /// How far it reaches.
    pub position: Position,
    /// How far it lags the log; `None` when nobody can say.
    pub freshness: Option<Duration>,
    /// Why it is less than it should be.
    pub degraded: Option<String>,
}

impl Reader {
    /// Answers one question. `out` is what the answer's text begins with.
    ///
    /// # Errors
    ///
    /// Problems for the client: staler than asked, position not reached, too much; or what the store says.
    pub async fn answer(&self, view: &Arc<PreparedView>, question: Arc<Question>, out: String) -> Result<Answered> {
        let name = &view.view.name;
        let (read, statuses) = self.read(view, &question).await?;
        let lag = self.lag(view, &statuses, &read.position).await;
        let freshness = lag.time;
        if let Some(limit) = question.options.max_staleness
            && freshness.is_none_or(|freshness| freshness > limit)
        {
            let lag = freshness.map_or("an unknown time".to_owned(), |lag| humantime::format_duration(lag).to_string());
            return Err(Problem::new(Kind::Stale, format!("the answer lags the log by {lag}")).of_view(name));
        }
        let failed = self.speed.failure(name);
        if let Some(reason) = &failed
            && read.published.is_none()
            && read.position.is_empty()
        {
            return Err(Problem::new(Kind::Unavailable, format!("the view cannot be kept: {reason}")).of_view(name));
        }
        let degraded = failed.or_else(|| too_stale(view, lag));
        let generation = read.published.map(|published| published.generation);
        let assembly = Assembly::new(view, question, generation, self.limits, out)?;
        let page = assemble(assembly, read.rows).await.map_err(|problem| problem.of_view(name))?;
        Ok(Answered { page, generation, position: read.position, freshness, degraded })
    }

    /// Begins a read that reaches the position asked for, waiting for it if need be.
    async fn read(&self, view: &PreparedView, question: &Question) -> Result<(ViewRead, Vec<PartitionStatus>)> {
        let topic = &view.view.source.name;
        let range = question.range(view);
        let wanted = question.options.min_position.as_ref().map(|position| position.of_topic(topic));
        let Some(wanted) = wanted else {
            let statuses = self.speed.partitions(topic);
            return Ok((self.store.read(&view.view, &range).await?, statuses));
        };
        let deadline = Instant::now() + question.options.timeout.unwrap_or(DEFAULT_TIMEOUT);
        loop {
            // Asked for before reading, so that a write right after the read is not missed.
            let change = self.speed.wait_change(topic);
            let statuses = self.speed.partitions(topic);
            let read = self.store.read(&view.view, &range).await?;
            if read.position.covers(&wanted) {
                return Ok((read, statuses));
            }
            let reached = read.position.of_topic(topic);
            drop(read);
            if tokio::time::timeout_at(deadline, change).await.is_err() {
                let detail = format!(
                    "asked for {wanted}, the view is at {}",
                    if reached.is_empty() { "the start".to_owned() } else { reached.to_string() }
                );
                let problem = Problem::new(Kind::PositionNotReached, detail).with("position", reached.token());
                return Err(problem.with("parameter", "min_position").of_view(&view.view.name));
            }
        }
    }

    /// How far an answer that reaches `position` lags the log: the age of the oldest record it lacks.
    ///
    /// `statuses` were taken before the read, so the answer reaches at least as far, and this is an upper bound.
    async fn lag(&self, view: &PreparedView, statuses: &[PartitionStatus], position: &Position) -> Lag {
        let mut lag = Lag { time: Some(Duration::ZERO), error: None };
        let added = statuses.iter().map(|status| &status.partition).filter(|it| !view.partitions().contains(it));
        for partition in view.partitions().iter().chain(added) {
            let Some(status) = statuses.iter().find(|status| status.partition == *partition) else {
                let error = Some(format!("the speed layer does not follow {partition} yet"));
                return Lag { time: None, error };
            };
            let reached = position.get(partition).unwrap_or(0);
            if reached >= status.log_end {
                continue;
            }
            let known = if reached < status.position { None } else { status.lag(now_us()) };
            let time = match known {
                Some(time) => Some(time),
                None => self.age(partition, reached).await,
            };
            lag.time = lag.time.zip(time).map(|(one, other)| one.max(other));
            if let (None, Some(error)) = (&lag.error, &status.error) {
                lag.error = Some(format!("{partition}: {error}"));
            }
        }
        lag
    }

    /// The age of a record: for a view that trails the rest of its partition (it is new, or failed), or when the speed
    /// layer does not know what waits. `None` when the log does not say.
    pub async fn age(&self, partition: &TopicPartition, offset: Offset) -> Option<Duration> {
        let known = self.ages.0.lock().get(partition).filter(|(of, _)| *of == offset).map(|(_, time)| *time);
        let time = match known {
            Some(time) => time,
            None => {
                let read = self.log.read(partition, offset, event_log::ReadLimit::records(1)).await.ok()?;
                let time = read.first()?.append_time;
                self.ages.0.lock().insert(partition.clone(), (offset, time));
                time
            }
        };
        Some(Duration::from_micros(u64::try_from(now_us().saturating_sub(time)).unwrap_or(0)))
    }

    /// How far answers of a view lag the log now, without reading any row.
    pub async fn lag_now(&self, view: &PreparedView, position: &Position) -> Lag {
        let statuses = self.speed.partitions(&view.view.source.name);
        self.lag(view, &statuses, position).await
    }
}

/// Why an answer is to be called stale: it lags by more than the view promises, or nobody can say by how much.
fn too_stale(view: &PreparedView, lag: Lag) -> Option<String> {
    let said = match (lag.time, view.view.freshness_slo) {
        (None, _) => "how far the answer lags the log is not known".to_owned(),
        (Some(time), Some(promised)) if time > promised => {
            let (lag, promised) = (humantime::format_duration(rounded(time)), humantime::format_duration(promised));
            format!("the answer lags the log by {lag}, its freshness_slo is {promised}")
        }
        (Some(_), _) => return None,
    };
    Some(lag.error.map_or_else(|| said.clone(), |error| format!("{said}: {error}")))
}

/// To milliseconds, where there are any.
fn rounded(time: Duration) -> Duration {
    let whole = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if whole == 0 { time } else { Duration::from_millis(whole) }
}

type Rows = futures::stream::BoxStream<'static, view_store::error::Result<StateRows>>;

async fn assemble(mut assembly: Assembly, mut rows: Rows) -> Result<Page> {
    while !assembly.is_full() {
        let Some(chunk) = rows.next().await else {
            break;
        };
        let chunk = chunk?;
        if chunk.states.num_rows() <= INLINE_STATES {
            assembly.take(&chunk)?;
        } else {
            assembly = elsewhere(move || assembly.take(&chunk).map(|()| assembly)).await?;
        }
    }
    if assembly.held() <= INLINE_STATES { assembly.finish() } else { elsewhere(move || assembly.finish()).await }
}

/// Runs work on a thread where it keeps no other request waiting.
pub async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Problem::new(Kind::Internal, format!("the work was given up: {error}")))?
}
