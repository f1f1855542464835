//! What a run came to.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use views::Offsets;

use crate::progress::Phase;

/// What became of the generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Readers see it.
    Published,
    /// A newer one became visible meanwhile; this one is garbage.
    Superseded {
        /// The visible one.
        by: u64,
    },
    /// No event was appended since the visible generation, which holds every view that can be recomputed: nothing was done.
    NothingNew,
    /// It was visible already: the acknowledgement of an earlier publish was lost.
    AlreadyVisible,
}

/// What became of one view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ViewReport {
    /// How many states the generation holds.
    pub rows: u64,
    /// Why the generation does not hold this view.
    pub error: Option<String>,
}

/// A run that ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    /// The generation's number. With [`Outcome::NothingNew`]: the visible one's, 0 when there is none.
    pub generation: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Its frontier.
    pub frontier: Offsets,
    /// Every view, by name. With [`Outcome::NothingNew`]: those that the visible generation had to be made without.
    pub views: BTreeMap<String, ViewReport>,
    /// How many events were decoded, over all views.
    pub records_read: u64,
    /// How many records could not be decoded, over all views.
    pub records_rejected: u64,
    /// How many of them the run put into the dead letters: those that were not there yet and that it covers first.
    pub dead_letters: u64,
    /// How many bytes of the archive were read, over all views.
    pub bytes_read: u64,
    /// How many bytes went to the spill directory for want of memory.
    pub bytes_spilled: u64,
    /// How long each phase took, in milliseconds.
    pub phases: BTreeMap<Phase, u64>,
}

impl RunReport {
    /// Which views the generation does not hold, each with the reason: they stay at their last one. `None` when it holds all.
    pub fn failed_views(&self) -> Option<String> {
        let failed =
            self.views.iter().filter_map(|(view, report)| Some(format!("view {view}: {}", report.error.as_ref()?)));
        let failed: Vec<String> = failed.collect();
        let generation = self.generation;
        (!failed.is_empty()).then(|| format!("generation {generation} was made without {}", failed.join("; ")))
    }
}

/// A run in the history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FinishedRun {
    /// When it began.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Whether it was asked to recompute although nothing is new.
    pub full: bool,
    /// What it came to, unless it failed.
    #[serde(flatten)]
    pub report: Option<RunReport>,
    /// Why it failed.
    pub error: Option<String>,
}

fn rfc3339<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
