//! What can go wrong with the view store, grouped by what the caller should do.

/// An error of the view store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is known about the outcome, or the store is down for now: try again.
    #[error("{context}: {source}")]
    Unavailable {
        /// What was being done.
        context: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Stored bytes are not what was written: stop, and rebuild the view from the log.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The caller broke a rule of the port: a bug.
    #[error("{0}")]
    Invalid(String),
    /// States could not be encoded, decoded or merged.
    #[error(transparent)]
    View(#[from] views::ViewError),
}

impl StoreError {
    /// A failure of the store while doing `context`.
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

/// The result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
