//! Records to Arrow: the one decoder of the speed layer, the batch layer and `verify`.
//!
//! Each datum is first checked, whole, against its writer's schema (see `resolve`), and rewritten when that is not the
//! source's. What passes goes to `arrow-avro` with a reader schema that has only the columns asked for. An event
//! that does not pass is reported with its offset and the reason; its neighbours decode as if it were not there.

pub(crate) mod resolve;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray as _, Int32Array, Int64Array, ListArray, MapArray, RecordBatch, RecordBatchOptions,
    StringArray, StringBuilder, StructArray, TimestampMicrosecondArray, UnionArray, new_empty_array,
};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use views::avro::Record as AvroRecord;
use views::{Offset, Source, TopicPartition};

use crate::encode::path::Problem;
use crate::encode::wire::{put_frame, split_frame};
use crate::error::{LogError, Result};
use crate::log::{Content, Record};
use crate::registry::SchemaRegistry;
use resolve::Resolution;

/// Arrow's offsets are 32 bits wide: no column may become larger than this in one go.
const MAX_BYTES: usize = 1 << 30;

/// Decodes the events of one source to the columns of one reader.
///
/// Keep it between calls: it remembers schemas, and `arrow-avro` its buffers.
pub struct EventDecoder {
    columns: Vec<Column>,
    schema: SchemaRef,
    reader: AvroRecord,
    /// What `arrow-avro` is told to decode; `None` when no column of the event's own is asked for.
    pruned: Option<AvroRecord>,
    /// Every datum handed to `arrow-avro` bears this id, whatever schema it was written with: it is in the
    /// source's schema by then.
    frame_id: Option<u32>,
    arrow: Option<Decoder>,
    writers: HashMap<u32, Writer>,
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

/// A column of the result.
#[derive(Debug, Clone, Copy)]
enum Column {
    /// The column of that index in what `arrow-avro` makes.
    Event(usize),
    Topic,
    Partition,
    Offset,
    AppendTime,
    Key,
}

/// A schema events were written with.
enum Writer {
    Readable(Resolution),
    Unreadable(String),
}

/// Where the frame of a good event is.
enum Frame<'a> {
    AsItCame(&'a [u8]),
    Rewritten(Range<usize>),
}

impl EventDecoder {
    /// A decoder for these columns of `source.schema`, ascending; system columns may be among them.
    ///
    /// # Errors
    ///
    /// `Invalid` when the source's schema cannot be decoded or a column does not exist.
    pub fn new(source: &Arc<Source>, columns: &[usize], registry: Arc<dyn SchemaRegistry>) -> Result<Self> {
        let reader = AvroRecord::parse(&source.avro)
            .map_err(|e| LogError::Invalid(format!("schema of {}: {e}", source.name)))?;
        let own = source.event_columns();
        let mut kinds = Vec::with_capacity(columns.len());
        let mut wanted = Vec::new();
        for &index in columns {
            kinds.push(match index.checked_sub(own) {
                None => {
                    wanted.push(source.schema.field(index).name().as_str());
                    Column::Event(wanted.len() - 1)
                }
                Some(0) => Column::Topic,
                Some(1) => Column::Partition,
                Some(2) => Column::Offset,
                Some(3) => Column::AppendTime,
                Some(4) => Column::Key,
                Some(_) => return Err(LogError::Invalid(format!("{} has no column {index}", source.name))),
            });
        }
        let schema = source.schema.project(columns).map_err(|e| LogError::Invalid(e.to_string()))?;
        let pruned = reader.pruned(|field| wanted.contains(&field.name.as_str()));
        let decoder = Self {
            columns: kinds,
            schema: Arc::new(schema),
            pruned: (!pruned.fields.is_empty()).then_some(pruned),
            reader,
            frame_id: None,
            arrow: None,
            writers: HashMap::new(),
            registry,
        };
        decoder.arrow_decoder(0)?;
        Ok(decoder)
    }

    /// The schema of [`Decoded::events`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes records of one partition, in the order of their offsets.
    ///
    /// # Errors
    ///
    /// Those of the registry but `NotFound`: an id that nobody registered rejects the event. `Invalid` when the
    /// records are too large to decode in one go (a gibibyte).
    pub async fn decode(&mut self, partition: &TopicPartition, records: &[Record]) -> Result<Decoded> {
        self.learn_schemas(records).await?;

        let mut rejected = Vec::new();
        let mut good: Vec<&Record> = Vec::with_capacity(records.len());
        let mut frames: Vec<Frame<'_>> = Vec::with_capacity(if self.pruned.is_some() { records.len() } else { 0 });
        let mut rewritten = Vec::new();
        let mut bytes = 0;
        for record in records {
            let Content::Event { value, .. } = &record.content else { continue };
            match self.admit(value, &mut rewritten) {
                Ok(frame) => {
                    good.push(record);
                    if self.pruned.is_some() {
                        bytes += match &frame {
                            Frame::AsItCame(bytes) => bytes.len(),
                            Frame::Rewritten(range) => range.len(),
                        };
                        frames.push(frame);
                    }
                }
                Err(reason) => rejected.push((record.offset, reason)),
            }
        }
        if bytes > MAX_BYTES {
            return Err(LogError::Invalid(format!("{bytes} bytes of events are too many to decode in one go")));
        }

        let decoded = match self.pruned {
            Some(_) => Some(self.decode_frames(&frames, &rewritten, &mut good, &mut rejected)?),
            None => None,
        };
        let events = self.assemble(partition, &good, decoded.as_ref())?;
        Ok(Decoded { events, rejected })
    }

    /// Fetches the schemas of ids not met before.
    async fn learn_schemas(&mut self, records: &[Record]) -> Result<()> {
        let mut asked = HashSet::new();
        let mut last = None;
        for record in records {
            let Content::Event { value, .. } = &record.content else { continue };
            let Some((id, _)) = split_frame(value) else { continue };
            if last.replace(id) == Some(id) || self.writers.contains_key(&id) || !asked.insert(id) {
                continue;
            }
            match self.registry.schema(id).await {
                Ok(schema) => _ = self.writers.insert(id, Writer::new(id, &schema, &self.reader)),
                // Not remembered: it may be registered later.
                Err(LogError::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Checks an event and makes it one of the source's schema.
    fn admit<'a>(&mut self, value: &'a [u8], rewritten: &mut Vec<u8>) -> Result<Frame<'a>, String> {
        let Some((id, datum)) = split_frame(value) else {
            return Err("not in Confluent framing: a zero byte and a schema id".to_owned());
        };
        let told = |problem: Box<Problem>| format!("schema {id}: {problem}");
        let resolution = match self.writers.get(&id) {
            Some(Writer::Readable(resolution)) => resolution,
            Some(Writer::Unreadable(reason)) => return Err(reason.clone()),
            None => return Err(format!("schema {id} is not registered")),
        };
        let frame_id = *self.frame_id.get_or_insert(id);
        let start = rewritten.len();
        if resolution.is_identical() {
            resolution.check(datum).map_err(told)?;
            if id == frame_id {
                return Ok(Frame::AsItCame(value));
            }
            put_frame(rewritten, frame_id);
            rewritten.extend_from_slice(datum);
        } else {
            put_frame(rewritten, frame_id);
            if let Err(problem) = resolution.rewrite(datum, rewritten) {
                rewritten.truncate(start);
                return Err(told(problem));
            }
        }
        Ok(Frame::Rewritten(start..rewritten.len()))
    }

    /// Decodes checked frames. Should `arrow-avro` refuse one all the same, it is found by halving, and rejected.
    fn decode_frames(
        &mut self,
        frames: &[Frame<'_>],
        rewritten: &[u8],
        good: &mut Vec<&Record>,
        rejected: &mut Vec<(Offset, String)>,
    ) -> Result<RecordBatch> {
        if let Ok(batch) = self.try_frames(frames, rewritten) {
            return Ok(batch);
        }
        let mut batches = Vec::new();
        let mut refused: HashMap<usize, String> = HashMap::new();
        let mut pending = vec![0..frames.len()];
        while let Some(range) = pending.pop() {
            match self.try_frames(&frames[range.clone()], rewritten) {
                Ok(batch) => batches.push(batch),
                Err(e) if range.len() <= 1 => _ = refused.insert(range.start, e.to_string()),
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    pending.push(middle..range.end);
                    pending.push(range.start..middle);
                }
            }
        }
        rejected.extend(good.iter().enumerate().filter_map(|(i, record)| Some((record.offset, refused.remove(&i)?))));
        rejected.sort_by_key(|(offset, _)| *offset);
        let offsets: HashSet<Offset> = rejected.iter().map(|(offset, _)| *offset).collect();
        good.retain(|record| !offsets.contains(&record.offset));
        let schema = match batches.first() {
            Some(batch) => batch.schema(),
            None => self.arrow_decoder(0)?.map_or_else(|| Arc::new(Schema::empty()), |decoder| decoder.schema()),
        };
        concat_batches(&schema, &batches).map_err(|e| LogError::Invalid(e.to_string()))
    }

    fn try_frames(&mut self, frames: &[Frame<'_>], rewritten: &[u8]) -> Result<RecordBatch, ArrowError> {
        // Taken out: after an error its columns are of different lengths, and it is not put back.
        let mut decoder = match self.arrow.take() {
            Some(decoder) => decoder,
            None => self.arrow_decoder(self.frame_id.unwrap_or(0))?.ok_or_else(unexpected)?,
        };
        for frame in frames {
            let bytes = match frame {
                Frame::AsItCame(bytes) => bytes,
                Frame::Rewritten(range) => &rewritten[range.clone()],
            };
            if decoder.decode(bytes)? != bytes.len() {
                return Err(unexpected());
            }
        }
        let schema = decoder.schema();
        let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone()));
        if batch.num_rows() != frames.len() {
            return Err(unexpected());
        }
        // arrow-avro 59 keeps counting the rows of a union's branches after a flush: such a decoder is used once.
        if !schema.fields().iter().any(|field| has_union(field.data_type())) {
            self.arrow = Some(decoder);
        }
        Ok(batch)
    }

    fn arrow_decoder(&self, frame_id: u32) -> Result<Option<Decoder>, ArrowError> {
        let Some(pruned) = &self.pruned else { return Ok(None) };
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(frame_id), AvroSchema::new(self.reader.arrow_json()))?;
        let builder = ReaderBuilder::new()
            .with_writer_schema_store(store)
            .with_reader_schema(AvroSchema::new(pruned.arrow_json()))
            .with_batch_size(usize::MAX);
        builder.build_decoder().map(Some)
    }

    /// Puts the columns together in the order they were asked for.
    fn assemble(
        &self,
        partition: &TopicPartition,
        good: &[&Record],
        decoded: Option<&RecordBatch>,
    ) -> Result<RecordBatch> {
        let rows = good.len();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.iter().zip(self.schema.fields()) {
            arrays.push(match column {
                Column::Event(index) => {
                    let array = decoded.map(|batch| batch.column(*index).clone());
                    let array = array.unwrap_or_else(|| new_empty_array(field.data_type()));
                    normalise(&array, field.data_type())?
                }
                Column::Topic => {
                    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(partition.topic.as_ref(), rows)))
                }
                Column::Partition => {
                    let number = i32::try_from(partition.partition)
                        .map_err(|_| LogError::Invalid(format!("partition {}", partition.partition)))?;
                    Arc::new(Int32Array::from_value(number, rows))
                }
                Column::Offset => {
                    Arc::new(Int64Array::from_iter_values(good.iter().map(|record| record.offset as i64)))
                }
                Column::AppendTime => {
                    let times = good.iter().map(|record| record.append_time);
                    Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00"))
                }
                Column::Key => {
                    let mut keys = StringBuilder::with_capacity(rows, rows * 16);
                    for record in good {
                        match &record.content {
                            // As in `text`.
                            Content::Event { key: Some(key), .. } => keys.append_value(String::from_utf8_lossy(key)),
                            _ => keys.append_null(),
                        }
                    }
                    Arc::new(keys.finish())
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?)
    }
}

impl Writer {
    fn new(id: u32, schema: &str, reader: &AvroRecord) -> Self {
        let resolution = AvroRecord::parse(schema)
            .and_then(|writer| Resolution::new(&writer, reader).map_err(|problem| problem.to_string()));
        match resolution {
            Ok(resolution) => Self::Readable(resolution),
            Err(reason) => Self::Unreadable(format!("schema {id}: {reason}")),
        }
    }
}

impl From<ArrowError> for LogError {
    /// Checked events that Arrow cannot hold: a schema that should have been refused.
    fn from(error: ArrowError) -> Self {
        Self::Invalid(format!("decoding events: {error}"))
    }
}

fn unexpected() -> ArrowError {
    ArrowError::ParseError("not exactly one event in a frame".to_owned())
}

pub(crate) fn has_union(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(..) => true,
        DataType::List(item) | DataType::Map(item, _) => has_union(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_union(field.data_type())),
        _ => false,
    }
}

/// Gives an array the type that SQL was promised: enums as text, no metadata on inner fields.
pub(crate) fn normalise(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    Ok(match (array.data_type(), to) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let array = array.as_struct();
            let columns = array.columns().iter().zip(fields);
            let columns: Result<Vec<_>> = columns.map(|(column, field)| normalise(column, field.data_type())).collect();
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns?, array.nulls().cloned(), array.len())?)
        }
        (DataType::List(_), DataType::List(item)) => {
            let array = array.as_list::<i32>();
            let values = normalise(array.values(), item.data_type())?;
            Arc::new(ListArray::try_new(item.clone(), array.offsets().clone(), values, array.nulls().cloned())?)
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let array = array.as_map();
            let inner: ArrayRef = Arc::new(array.entries().clone());
            let inner = normalise(&inner, entries.data_type())?.as_struct().clone();
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            Arc::new(MapArray::try_new(entries.clone(), offsets, inner, nulls, *sorted)?)
        }
        (DataType::Union(..), DataType::Union(fields, _)) => {
            let array = array.as_any().downcast_ref::<UnionArray>().ok_or_else(unexpected)?;
            let children = fields.iter().map(|(id, field)| normalise(array.child(id), field.data_type()));
            let children: Result<Vec<_>> = children.collect();
            let offsets = array.offsets().cloned();
            Arc::new(UnionArray::try_new(fields.clone(), array.type_ids().clone(), offsets, children?)?)
        }
        _ => cast(array, to)?,
    })
}

/// Bytes as the text of the `_key` column. A foreign producer's key may be any bytes; what is not UTF-8 shows as U+FFFD.
pub(crate) fn text(bytes: &ArrayRef) -> Result<ArrayRef> {
    let bytes = bytes.as_binary_opt::<i32>().ok_or_else(unexpected)?;
    let texts: StringArray = bytes.iter().map(|key| key.map(String::from_utf8_lossy)).collect();
    Ok(Arc::new(texts))
}
