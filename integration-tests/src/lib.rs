//! What tests of the whole are built from: real processes ([`process`]), and a whole Tidemark in one process ([`world`]) with
//! [`parts`] that can be cut off at any moment ([`wrappers`]) or break promises ([`sabotage`]), random [`events`], and the
//! [`truth`] to compare answers with; and the real [`servers`] of a cluster.

pub mod events;
pub mod parts;
pub mod process;
pub mod sabotage;
pub mod servers;
pub mod truth;
pub mod world;
pub mod wrappers;
