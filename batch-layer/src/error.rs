//! What can go wrong with a batch run, grouped by what the caller should do.

use std::collections::BTreeMap;

use event_log::LogError;
use view_store::StoreError;

/// An error of the batch layer. Whatever it is, nothing was published, and running again is safe.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A run is under way in this process: wait for it.
    #[error("a batch run is under way")]
    Busy,
    /// There is no such view.
    #[error("view `{0}` not found")]
    Unknown(String),
    /// The engine cannot be told how fast to go.
    #[error("this batch engine reads as fast as it can: leave the rate out, or run with batch.engine = \"local\"")]
    NoPace,
    /// The log or the archive failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The view store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine could not read the archive, or had no room to spill.
    #[error("recomputing {view}: {source}")]
    Engine {
        /// The view that was being recomputed.
        view: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No view can be recomputed: there is nothing to publish. Each stays at its last generation until its definition is
    /// mended.
    #[error("not published: {}", list(.0))]
    Views(BTreeMap<String, String>),
}

impl BatchError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Log(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
            Self::Unknown(_) | Self::NoPace | Self::Engine { .. } | Self::Views(_) => false,
        }
    }
}

fn list(failed: &BTreeMap<String, String>) -> String {
    let failed: Vec<String> = failed.iter().map(|(view, reason)| format!("view {view}: {reason}")).collect();
    failed.join("; ")
}

/// The result of a batch operation.
pub type Result<T, E = BatchError> = std::result::Result<T, E>;
