//! What is wrong with a definition, and what can go wrong when it runs.

use std::fmt;

/// Something in an application folder that keeps it from running, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the application folder.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, naming the construct, and why.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// An error while states are folded, merged, stored or finalized.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// DataFusion refused the data (a cast that fails, a division by zero, an overflow).
    #[error("{0}")]
    Evaluate(#[from] datafusion::error::DataFusionError),
    /// Stored bytes are not states of this view.
    #[error("stored states are damaged: {0}")]
    Damaged(String),
    /// A value that was asked for does not fit the column.
    #[error("{0}")]
    Invalid(String),
}

impl From<datafusion::arrow::error::ArrowError> for ViewError {
    fn from(error: datafusion::arrow::error::ArrowError) -> Self {
        Self::Evaluate(error.into())
    }
}

/// The result of working with states.
pub type Result<T, E = ViewError> = std::result::Result<T, E>;
