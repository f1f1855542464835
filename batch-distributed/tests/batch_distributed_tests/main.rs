//! Views computed on a cluster of real processes, against the same views computed here.

mod archive;
mod cluster;
mod equal;
mod killed;
mod refused;
mod registry;
mod runs;
