//! Tests of this crate, on embedded parts.

mod backfill;
mod comparing;
mod killed;
mod markers;
mod memory_log;
mod missing;
mod racing;
mod repeats;
mod runs;
mod spilling;
mod system;
mod tiles;
mod timer;
mod undecodable;
mod unhappy_views;
