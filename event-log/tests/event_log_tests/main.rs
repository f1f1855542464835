//! Tests of this crate.

mod archive;
mod archive_scan;
mod archiver;
mod avro_schema;
mod clicks;
mod decode;
mod embedded;
mod encode;
mod events;
mod faults;
mod oracle;
mod registry;
mod tiered;
