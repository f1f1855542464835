//! The serving layer: questions to answers, over HTTP.
//!
//! [`server`] plugs the parts together ([`ports`] says what is needed of the other layers); `routes` has the route table and
//! one file per resource. A lookup goes `question` → [`answer`] → `assembly` → JSON text (`json`); an event goes `split` →
//! `intake` → the log. [`error`] is the one table of what has which status.

pub mod answer;
mod assembly;
mod body;
mod clock;
pub mod error;
mod intake;
mod json;
mod layers;
mod metrics;
mod nearest;
mod parse;
pub mod ports;
mod prepared;
mod question;
mod routes;
pub mod server;
mod split;

pub use answer::LookupLimits;
pub use ports::{
    ArchiveStatus, BatchRun, BatchRuns, PartitionStatus, PortError, Report, RunRequest, RunState, SpeedStatus, Verify,
};
pub use server::{Parts, RunningServer, ServeSettings, Server, StartError};
