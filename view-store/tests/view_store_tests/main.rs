//! Tests of this crate.

mod cql;
mod embedded;
mod faults;
mod fixture;
mod overwritten;
mod restarts;
mod stored_bytes;
