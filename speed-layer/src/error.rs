//! What can keep a task from going on. All of it is answered in the same way: forget what is in memory, wait, and start
//! again from the store.

use event_log::LogError;
use view_store::StoreError;
use views::{Offset, TopicPartition};

/// An error of the speed layer.
#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// The log, the archive or the registry failed.
    #[error("log: {0}")]
    Log(#[from] LogError),
    /// The view store failed.
    #[error("view store: {0}")]
    Store(#[from] StoreError),
    /// The index of seen event ids failed.
    #[error("index of event ids: {0}")]
    SeenIds(#[from] fjall::Error),
    /// The index of seen event ids is not what this release writes.
    #[error("index of event ids: {0}")]
    SeenIdsDamaged(String),
    /// The index of seen event ids does not know the records before an offset: another task rebuilt it meanwhile.
    #[error("index of event ids of {partition} does not reach {offset}")]
    NotIndexed {
        /// The partition.
        partition: TopicPartition,
        /// The offset that was to be looked up.
        offset: Offset,
    },
    /// The published frontier says that a marker is somewhere, and it is not.
    #[error("no marker before the published frontier {frontier} of {partition}")]
    NoMarker {
        /// The partition.
        partition: TopicPartition,
        /// The frontier's offset in it.
        frontier: Offset,
    },
    /// A column that a view or a source names is not in its schema: a definition that compiled always has it.
    #[error("{0}")]
    Definition(String),
    /// Decoded events could not be sorted out.
    #[error(transparent)]
    View(#[from] views::ViewError),
    /// Rejected events could not be handed on.
    #[error("rejected events of {partition}: {source}")]
    Rejected {
        /// The partition they came from.
        partition: TopicPartition,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system gave no thread.
    #[error("starting a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The result of a step of the speed layer.
pub type Result<T, E = SpeedError> = std::result::Result<T, E>;
