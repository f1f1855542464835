//! The batch layer: archive to generations.
//!
//! Run N appends marker N to every partition, waits until the archive is sealed up to the cuts those markers make,
//! recomputes every view over all sealed segments before them, and publishes the result in one step. A run that dies
//! anywhere is simply run again: markers, segments and rows it left are harmless.
//!
//! Read in this order: [`run`] (a run, phase by phase), [`marking`] (its number and its frontier), [`sealed`] (waiting for
//! the archive), [`states`] (the port to whoever computes), [`local`] and `generation` with `scan`, `dedupe`, `chunks` and `memory`
//! (archive to states), `undecodable` (what could not be read), [`schedule`] (the timer). [`recompute`] and [`compare`] are the second
//! opinion that `tidemark verify` asks for; they share nothing with the first but the log.

mod chunks;
pub mod compare;
mod dedupe;
pub mod engine;
pub mod error;
mod first_failure;
mod generation;
pub mod local;
pub mod marking;
mod memory;
pub mod progress;
pub mod recompute;
pub mod report;
pub mod retention;
pub mod run;
mod scan;
pub mod schedule;
pub mod sealed;
pub mod states;
mod undecodable;

pub use compare::{Comparison, Difference, compare};
pub use engine::Settings;
pub use error::BatchError;
pub use local::LocalEngine;
pub use progress::{NoProgress, Phase, Progress, RunProgress};
pub use recompute::{Recomputed, recompute};
pub use report::{FinishedRun, Outcome, RunReport, ViewReport};
pub use run::{BatchLayer, Clock};
pub use scan::deal_apart;
pub use schedule::BatchTimer;
pub use sealed::{PolledArchive, SealedUpTo};
pub use states::{BatchEngine, Failure, ReadCounters, StateStream, ViewJob};
