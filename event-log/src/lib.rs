//! The event log: topics of Avro records, the registry of their schemas, and the archive of sealed segments.
//!
//! Start with [`log`]: the port that every layer sees.

pub mod archive;
pub mod archiver;
pub mod beginning;
pub mod conformance;
pub mod dead_letter;
pub mod decode;
pub mod durable_files;
pub mod embedded;
pub mod encode;
pub mod error;
pub mod faults;
pub mod faulty_objects;
pub mod import;
pub mod kafka;
pub mod log;
pub mod pace;
pub mod prefixed;
pub mod registry;
pub mod tiered;

pub use beginning::{Beginning, Beginnings, Imported};
pub use embedded::{EmbeddedLog, EmbeddedOptions};
pub use error::LogError;
pub use faults::{FaultyLog, LogFaults};
pub use kafka::{KafkaLog, KafkaOptions};
pub use log::{Content, EventLog, NewRecord, ReadLimit, Record, TopicSpec};
pub use pace::Pace;
