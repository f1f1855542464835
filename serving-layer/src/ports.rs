//! What the serving layer needs of the other layers, said in its own words.
//!
//! Layers do not depend on each other: whoever wires the process plugs the batch layer, the auditor, the speed layer and the
//! archiver in here. Each port is as small as the routes that use it.

use std::num::NonZeroU64;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::Serialize;
use views::{Offset, Position, TopicPartition};

/// How a batch run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It is not over.
    Running,
    /// Its generation became visible.
    Published,
    /// A newer generation was visible by the time it ended; nothing changed.
    Superseded,
    /// No event came since the visible generation; nothing was done.
    NothingNew,
    /// It ended without a generation.
    Failed,
}

/// One batch run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchRun {
    /// The number of its marker and its generation.
    pub generation: u64,
    /// How it stands.
    pub state: RunState,
    /// Whether it recomputed every view from the first record, and not on top of the generation before it.
    pub full: bool,
    /// When it started: microseconds since the epoch.
    #[serde(serialize_with = "rfc3339")]
    pub started: i64,
    /// When it ended: microseconds since the epoch.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub finished: Option<i64>,
    /// How many rows its generation has, over all views.
    pub rows: u64,
    /// Why it failed; or, of a generation that became visible, which views it does not hold and why.
    pub error: Option<String>,
    /// How far it has come, while it is running.
    pub progress: Option<RunProgress>,
}

/// How far a batch run has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunProgress {
    /// What it does now.
    pub phase: String,
    /// The view at hand.
    pub view: Option<String>,
    /// How much of the phase, for that view, is done: records, or what else the phase is counted in.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

fn rfc3339<S: serde::Serializer>(us: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::clock::rfc3339(*us))
}

fn rfc3339_or_null<S: serde::Serializer>(us: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    us.as_ref().map(|us| crate::clock::rfc3339(*us)).serialize(serializer)
}

/// Why there is no batch run, or no report.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// One is running already: wait for it.
    #[error("{0}")]
    Busy(String),
    /// There is no such thing. Do not retry.
    #[error("{0} not found")]
    NotFound(String),
    /// What is asked for cannot be had here: ask for something else.
    #[error("{0}")]
    Invalid(String),
    /// Some part is down for now: try again.
    #[error("{0}")]
    Unavailable(String),
    /// It went wrong in a way that trying again does not mend.
    #[error("{0}")]
    Failed(String),
}

/// What a batch run is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunRequest {
    /// Recompute from the first record, even if nothing is new.
    pub full: bool,
    /// Only these views, from the first record; empty: all of them.
    pub views: Vec<String>,
    /// Read and write no more than so many records a second. Goes with `views`.
    pub rate: Option<NonZeroU64>,
}

/// Batch runs: start one, see the others.
#[async_trait]
pub trait BatchRuns: Send + Sync + 'static {
    /// Starts a run. With `wait`, returns when it is over, otherwise as soon as it has a number.
    ///
    /// The run goes on when the returned future is dropped: a client that hangs up stops nothing.
    ///
    /// # Errors
    ///
    /// `Busy` while another run is going on in this process; `NotFound` for an unknown view; `Invalid` for a rate that the engine
    /// cannot keep; `Failed` when a run that was waited for
    /// failed.
    async fn start(&self, asked: RunRequest, wait: bool) -> Result<BatchRun, PortError>;

    /// The latest runs, the newest first.
    async fn runs(&self) -> Vec<BatchRun>;
}

/// What an audit of one view found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The view.
    pub view: String,
    /// Whether everything that is served equals what the log says.
    pub equal: bool,
    /// The generation that was compared.
    pub generation: Option<u64>,
    /// How far into the log the comparison went.
    #[serde(serialize_with = "token")]
    pub position: Position,
    /// How many groups were compared.
    pub groups: u64,
    /// How many groups differ.
    pub different: u64,
    /// Some of the differences, in words.
    pub differences: Vec<String>,
}

fn token<S: serde::Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&position.token())
}

/// The auditor: recomputes from the log and compares with what is served.
#[async_trait]
pub trait Verify: Send + Sync + 'static {
    /// Audits one view, or all of them.
    ///
    /// # Errors
    ///
    /// `NotFound` for an unknown view; `Unavailable` and `Failed` when the comparison could not be made.
    async fn verify(&self, view: Option<&str>) -> Result<Vec<Report>, PortError>;
}

/// How far the speed layer is in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset to be written, as far as is known without asking the log over a network.
    pub log_end: Offset,
    /// The next offset to be folded: every record before it is in the deltas of every view of this topic that has not failed.
    pub position: Offset,
    /// When the record at `position` was appended (microseconds since the epoch); `None` when there is none, or nobody knows yet.
    pub waiting_since: Option<i64>,
    /// Why the last attempt to go on failed, until one succeeds.
    pub error: Option<String>,
}

/// What the speed layer says about itself. All of it is in memory: asking costs no I/O.
pub trait SpeedStatus: Send + Sync + 'static {
    /// Every partition of a topic.
    fn partitions(&self, topic: &str) -> Vec<PartitionStatus>;

    /// Why the speed layer no longer follows a view, if it gave up on it.
    fn failure(&self, view: &str) -> Option<String>;

    /// Resolves after the next delta write of any view of this topic (or after a write that only moved progress). Counted
    /// from this call, not from the first poll: a write between the call and the first poll resolves it.
    fn wait_change(&self, topic: &str) -> BoxFuture<'static, ()>;
}

/// How far the archive is.
pub trait ArchiveStatus: Send + Sync + 'static {
    /// The first offset of a partition that is not in the archive yet; `None` when nobody knows.
    fn archived(&self, partition: &TopicPartition) -> Option<Offset>;
}

impl PartitionStatus {
    /// How many records the speed layer has yet to fold.
    pub fn lag_records(&self) -> u64 {
        self.log_end.saturating_sub(self.position)
    }

    /// How long the oldest record that is not folded yet has been waiting; zero when there is none, `None` when nobody
    /// knows: then the log has to be asked.
    pub fn lag(&self, now_us: i64) -> Option<Duration> {
        if self.position >= self.log_end {
            return Some(Duration::ZERO);
        }
        let waited = now_us.saturating_sub(self.waiting_since?);
        Some(Duration::from_micros(u64::try_from(waited).unwrap_or(0)))
    }
}
