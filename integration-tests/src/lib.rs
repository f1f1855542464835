//! What tests of the whole are built from: real processes ([`process`]) and answers to compare.

pub mod process;
