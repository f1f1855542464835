//! Tests of this crate.

mod embedded;
mod faults;
mod fixture;
mod overwritten;
mod restarts;
mod stored_bytes;
