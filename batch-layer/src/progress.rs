//! How far a run has come, for a progress bar and for `GET /v1/batch/runs`.

use serde::Serialize;

/// A part of a run. They follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Appending markers; counted in partitions.
    Mark,
    /// Waiting for the archive; counted in partitions.
    Seal,
    /// Recomputing a view; counted in records.
    Recompute,
    /// Switching readers over.
    Publish,
    /// Letting go of what no reader can need.
    Retire,
}

impl Phase {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mark => "mark",
            Self::Seal => "seal",
            Self::Recompute => "recompute",
            Self::Publish => "publish",
            Self::Retire => "retire",
        }
    }
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The number of the generation; 0 until it is chosen.
    pub generation: u64,
    /// What the run does now.
    pub phase: Phase,
    /// The view at hand, in [`Phase::Recompute`].
    pub view: Option<String>,
    /// How much of the phase (of the view) is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

/// Who wants to know. Called at the beginning and the end of every step, and a few times a second in between.
pub trait RunProgress: Send + Sync {
    /// The run has come this far.
    fn update(&self, progress: &Progress);
}

/// Nobody wants to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl RunProgress for NoProgress {
    fn update(&self, _: &Progress) {}
}
