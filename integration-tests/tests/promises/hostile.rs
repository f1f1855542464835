//! Input meant to hurt, against the real process: every event that is refused is named and kept, no good one is lost or counted
//! twice, and nothing makes the process panic, hang or take the machine's memory.
//!
//! Each test sends good events between the bad ones and keeps the books ([`house`]); at the end the books must agree with the
//! answers, the dead letters, the counters, and with `tidemark verify`.

mod bombs;
mod commands;
mod connections;
mod containers;
mod events;
mod house;
mod mutations;
mod questions;
