//! The meaning of Tidemark, without I/O: what a source and a view are, how events fold into states, how states
//! merge and become answers, where a log is cut, and when a generation may be published.
//!
//! Read in this order: [`place`] and [`segment`] (the log's geography), [`definition`] (SQL files to
//! [`Source`]s and [`View`]s), [`fold`] (the one mechanism by which every layer aggregates), [`answer`] (states to the
//! columns the user asked for), [`stored`] (the bytes states are kept as), [`publish`] (what readers see).

pub mod answer;
pub mod avro;
pub mod definition;
pub mod error;
pub mod fold;
pub mod place;
pub mod plan;
pub mod publish;
pub mod segment;
pub mod source;
pub mod stored;
pub mod view;

pub use answer::Answer;
pub use definition::{Application, ApplicationFile};
pub use error::{Problem, ViewError};
pub use fold::Fold;
pub use place::{Offset, Offsets, Position, TopicPartition};
pub use publish::Published;
pub use segment::{Segment, SegmentId};
pub use source::Source;
pub use view::View;
