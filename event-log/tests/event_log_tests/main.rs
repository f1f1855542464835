//! Tests of this crate.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by panicking")]

mod archive;
mod archive_scan;
mod archiver;
mod avro_schema;
mod begun;
mod clicks;
mod decode;
mod embedded;
mod encode;
mod events;
mod faults;
mod flat;
mod import;
mod kafka;
mod lagging;
mod oracle;
mod pace;
mod registry;
mod s3;
mod tiered;
