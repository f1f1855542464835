//! Tests of this crate.

mod archive;
mod archiver;
mod clicks;
mod embedded;
mod faults;
mod tiered;
mod archive_scan;
mod decode;
mod encode;
mod events;
mod registry;
mod oracle;
mod avro_schema;
