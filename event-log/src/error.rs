//! What can go wrong with the log, grouped by what the caller should do.

/// An error of the event log, the archive or the registry.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no such topic, partition or schema. Do not retry.
    #[error("{0} not found")]
    NotFound(String),
    /// The request cannot be served as it is: change it.
    #[error("{0}")]
    Invalid(String),
    /// Nothing is known about the outcome, or the part is down for now: try again.
    #[error("{context}: {source}")]
    Unavailable {
        /// What was being done.
        context: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Stored bytes are not what was written: stop and tell a person. The message names the file and the place.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Records that must be there are not (a hole in the archive): stop and tell a person.
    #[error("hole: {0}")]
    Hole(String),
}

impl LogError {
    /// An I/O failure while doing `context`.
    pub fn unavailable(
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { context: context.into(), source: source.into() }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// The result of a log operation.
pub type Result<T, E = LogError> = std::result::Result<T, E>;
