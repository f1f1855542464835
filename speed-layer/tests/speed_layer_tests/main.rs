//! Tests of the speed layer, on a log and a store in memory that fail when told to.
//!
//! The oracle computes every delta by hand from the records of the log; it shares no code with the layer.

mod catch_up;
mod dedupe;
mod embedded;
mod exact;
mod failures;
mod memory_log;
mod memory_store;
mod oracle;
mod world;
