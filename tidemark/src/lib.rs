//! The one binary: settings, wiring, subcommands.
//!
//! [`command_line`] is what users type; [`run`] plugs the layers of a process together. The other commands talk to that
//! process over HTTP, by [`client`]. [`generator`] makes up traffic for the demo, tests and benches.

pub mod application;
pub mod backends;
pub mod batch;
pub mod check;
pub mod client;
pub mod command_line;
pub mod demo;
#[cfg(feature = "distributed")]
pub mod distributed;
pub mod elsewhere;
pub mod failure;
mod following;
pub mod generator;
pub mod import;
pub mod input;
pub mod load;
pub mod metrics;
pub mod ports;
pub mod query;
pub mod role;
pub mod run;
pub mod settings;
pub mod table;
pub mod units;
pub mod verify;
pub mod watched_log;
