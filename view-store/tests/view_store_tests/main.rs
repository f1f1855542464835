//! Tests of this crate.

mod embedded;
mod faults;
mod fixture;
mod stored_bytes;
