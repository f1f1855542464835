//! Records to Arrow: the one decoder of the speed layer, the batch layer and `verify`.
//!
//! Each datum is checked, whole, against its writer's schema, and rewritten first when that is not the source's (see
//! `resolve`). The flat columns that are wanted are built in the same pass (see `columns`); for others, what passes goes to
//! `arrow-avro` with a reader schema that has only those (see `nested`). An event that does not pass is reported with its
//! offset and the reason; its neighbours decode as if it were not there.

mod columns;
pub(crate) mod datums;
mod leaf;
mod nested;
mod plan;
pub(crate) mod resolve;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use views::{Offset, Source, TopicPartition};

use crate::encode::wire::split_frame;
use crate::error::{LogError, Result};
use crate::log::{Content, Record};
use crate::registry::{self, SchemaRegistry};
use datums::{DatumDecoder, Event};

/// Arrow's offsets are 32 bits wide: no column may become larger than this in one go.
const MAX_BYTES: usize = 1 << 30;

/// Decodes the events of one source to the columns of one reader.
///
/// Keep it between calls: it remembers schemas, and how much room columns take.
pub struct EventDecoder {
    datums: DatumDecoder,
    registry: Arc<dyn SchemaRegistry>,
}

/// The outcome of decoding records.
#[derive(Debug)]
pub struct Decoded {
    /// One row per good event, in the order of their offsets; the columns that were asked for.
    pub events: RecordBatch,
    /// Events that are not what their schema says, or whose schema cannot be read as the source's, with the reason.
    /// Markers are neither good nor rejected.
    pub rejected: Vec<(Offset, String)>,
}

impl EventDecoder {
    /// A decoder for these columns of `source.schema`, ascending; system columns may be among them.
    ///
    /// # Errors
    ///
    /// `Invalid` when the source's schema cannot be decoded or a column does not exist.
    pub fn new(source: &Arc<Source>, columns: &[usize], registry: Arc<dyn SchemaRegistry>) -> Result<Self> {
        Ok(Self { datums: DatumDecoder::new(source, columns)?, registry })
    }

    /// The schema of [`Decoded::events`].
    pub fn schema(&self) -> &SchemaRef {
        self.datums.schema()
    }

    /// Decodes records of one partition, in the order of their offsets.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the registry is, and an id is new. An id that nobody registered, or whose schema is of no use, rejects the
    /// event. `Invalid` when the records are too large to decode in one go (a gibibyte).
    pub async fn decode(&mut self, partition: &TopicPartition, records: &[Record]) -> Result<Decoded> {
        let mut last = None;
        let ids = records.iter().filter_map(|record| event(record)?.datum).map(|(id, _)| id);
        let unknown: BTreeSet<u32> =
            ids.filter(|id| last.replace(*id) != Some(*id) && !self.datums.knows(*id)).collect();
        for (id, schema) in registry::schemas(&*self.registry, unknown).await? {
            match schema {
                Ok(schema) => self.datums.learn(id, &schema),
                Err(LogError::Invalid(reason)) => self.datums.learn_useless(id, reason),
                // Not remembered: it may be registered later.
                Err(_) => {}
            }
        }
        self.datums.decode(partition, records.iter().filter_map(event))
    }
}

/// A record as an event; `None` for a marker.
pub(crate) fn event(record: &Record) -> Option<Event<'_>> {
    let Content::Event { key, value } = &record.content else { return None };
    Some(Event {
        offset: record.offset,
        append_time: record.append_time,
        key: key.as_deref(),
        datum: split_frame(value),
    })
}

impl From<ArrowError> for LogError {
    /// Checked events that Arrow cannot hold: a schema that should have been refused.
    fn from(error: ArrowError) -> Self {
        Self::Invalid(format!("decoding events: {error}"))
    }
}
