//! The speed layer: follows the tail of the log and keeps the deltas of every view fresh.
//!
//! Read [`SpeedLayer`] for what runs, `run` for what one task does from top to bottom, and `flush` for why a write is
//! exact whatever else happens. `cuts` lays records out over segments, `micro_batch` holds what is not written yet, `stand`
//! finds where a view goes on, `dedupe` recognises repeated deliveries.

mod cuts;
mod dedupe;
mod error;
mod flush;
mod layer;
mod micro_batch;
mod rejected;
mod run;
mod settings;
mod stand;
mod status;

pub use error::SpeedError;
pub use layer::{Owned, SpeedLayer, SpeedParts};
pub use rejected::{OnlyCounted, RejectedEvent, RejectedSink};
pub use settings::SpeedSettings;
pub use status::{Counters, Failure, PartitionStatus, ViewStatus};
