//! The event log: topics of Avro records, the registry of their schemas, and the archive of sealed segments.
//!
//! Start with [`log`]: the port that every layer sees.

pub mod error;
pub mod log;

pub use error::LogError;
pub use log::{Content, EventLog, NewRecord, ReadLimit, Record, TopicSpec};
