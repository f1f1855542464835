//! Tests of this crate: the server over real HTTP, on the embedded log, registry and store. A small speed layer and a small
//! batch layer, driven by hand, stand in for the real ones, so that every answer's position is known.

mod events;
mod hostile;
mod house;
mod http;
mod lookups;
mod many_keys;
mod operations;
mod paging;
mod positions;
mod values;
