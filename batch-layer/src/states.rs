//! The port to whoever computes the states of a view: this process, or a cluster.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use event_log::archive::ArchivedSegment;
use event_log::{LogError, Pace};
use futures::stream::BoxStream;
use parking_lot::Mutex;
use views::{SegmentId, View, ViewError};

/// What is to be computed.
#[derive(Debug, Clone)]
pub struct ViewJob {
    /// The view.
    pub view: Arc<View>,
    /// All segments of its source that count: of each partition from offset 0 on without a hole, or none.
    pub segments: Arc<Vec<ArchivedSegment>>,
    /// Tiles at or before this are left out (see [`crate::retention::horizon`]).
    pub horizon: Option<i64>,
}

/// The states of a view (its `state_schema`).
pub type StateStream = BoxStream<'static, Result<RecordBatch, Failure>>;

/// Computes the states of views over archived segments.
///
/// What an engine promises:
///
/// 1. **Every group once**, with its state over all events of the segments, in ascending order of the group columns, nulls first; or
///    an error.
/// 2. **The same states as anybody's.** Exact columns are bit-equal whoever computes them.
/// 3. **Bounded memory**, whatever the number of groups.
/// 4. **Pure.** It writes nowhere, so asking again is harmless; a stream that is dropped ends the work.
/// 5. **What it read is counted** by the time the stream has ended, each record once.
#[async_trait]
pub trait BatchEngine: Send + Sync + 'static {
    /// Begins to compute the states of a view.
    async fn states(&self, job: &ViewJob, read: &Arc<ReadCounters>) -> Result<StateStream, Failure>;

    /// Whether it reads no faster than [`ReadCounters::pace`] says.
    fn keeps_pace(&self) -> bool {
        false
    }
}

/// How much has been read so far.
#[derive(Debug, Default)]
pub struct ReadCounters {
    /// Events that were decoded.
    pub records: AtomicU64,
    /// Bytes of the archive.
    pub bytes: AtomicU64,
    /// Records that could not be decoded: they count nowhere, and are looked for again before the generation is published.
    pub rejected: AtomicU64,
    /// Bytes that went to disk for want of memory.
    pub spilled: AtomicU64,
    /// Segments that were read to their end without any rejected record.
    pub clean: Mutex<BTreeSet<SegmentId>>,
    /// How fast to read; `None`: as fast as can be.
    pub pace: Option<Pace>,
}

/// Why there are no states, by whose fault it is.
#[derive(Debug)]
pub enum Failure {
    /// The view cannot be computed over these events. Others can.
    View {
        /// What went wrong.
        reason: String,
        /// Whether a single event may be to blame.
        of_one_event: bool,
    },
    /// The engine failed, or what it reads from: nothing is known about the view.
    Engine(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::View { reason, .. } => f.write_str(reason),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<ViewError> for Failure {
    fn from(error: ViewError) -> Self {
        let ViewError::Evaluate(source) = error else {
            return Self::View { reason: error.to_string(), of_one_event: false };
        };
        let of_one_event = match source.find_root() {
            DataFusionError::External(error) if error.is::<LogError>() => None,
            DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => None,
            DataFusionError::ResourcesExhausted(_) => Some(false),
            _ => Some(true),
        };
        match of_one_event {
            None => Self::Engine(Box::new(source)),
            Some(of_one_event) => Self::View { reason: source.strip_backtrace(), of_one_event },
        }
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        ViewError::Evaluate(error).into()
    }
}
