//! Records to Arrow: the one decoder of the speed layer, the batch layer and `verify`.
//!
//! Each datum is checked, whole, against its writer's schema, and rewritten first when that is not the source's (see
//! `resolve`). The flat columns that are wanted are built in the same pass (see `columns`); for others, what passes goes to
//! `arrow-avro` with a reader schema that has only those (see `nested`). An event that does not pass is reported with its
//! offset and the reason; its neighbours decode as if it were not there.

mod columns;
mod leaf;
mod nested;
mod plan;
pub(crate) mod resolve;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray as _, BooleanArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::filter;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use views::avro::Record as AvroRecord;
use views::{Offset, Source, TopicPartition};

use crate::encode::path::Problem;
use crate::encode::wire::split_frame;
use crate::error::{LogError, Result};
use crate::log::{Content, Record};
use crate::registry::SchemaRegistry;
use columns::Columns;
use nested::Nested;
pub(crate) use nested::{has_union, normalise};
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
    flat: Columns,
    /// `None` when every wanted column is flat.
    nested: Option<Nested>,
    writers: Vec<Writer>,
    /// Where the writer with a schema id is among them.
    by_id: HashMap<u32, usize>,
    /// An event of an older schema, as the source's.
    rewritten: Vec<u8>,
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
    /// The flat column of that index.
    Flat(usize),
    /// The column of that index in what `arrow-avro` makes.
    Nested(usize),
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

impl EventDecoder {
    /// A decoder for these columns of `source.schema`, ascending; system columns may be among them.
    ///
    /// # Errors
    ///
    /// `Invalid` when the source's schema cannot be decoded or a column does not exist.
    pub fn new(source: &Arc<Source>, columns: &[usize], registry: Arc<dyn SchemaRegistry>) -> Result<Self> {
        let reader = AvroRecord::parse(&source.avro)
            .map_err(|e| LogError::Invalid(format!("schema of {}: {e}", source.name)))?;
        let invalid =
            |reason: &dyn std::fmt::Display| LogError::Invalid(format!("schema of {}: {reason}", source.name));
        let own = source.event_columns();
        let wanted = |field| columns.contains(&field).then(|| source.schema.field(field).data_type());
        let flat = Columns::new(&reader, wanted).map_err(|problem| invalid(&problem))?;
        let mut kinds = Vec::with_capacity(columns.len());
        let (mut flat_so_far, mut not_flat) = (0, Vec::new());
        for &index in columns {
            kinds.push(match index.checked_sub(own) {
                None if flat.collects(index) => {
                    flat_so_far += 1;
                    Column::Flat(flat_so_far - 1)
                }
                None => {
                    not_flat.push(source.schema.field(index).name().as_str());
                    Column::Nested(not_flat.len() - 1)
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
        let pruned = reader.pruned(|field| not_flat.contains(&field.name.as_str()));
        let nested = if pruned.fields.is_empty() { None } else { Some(Nested::new(reader.clone(), pruned)?) };
        Ok(Self {
            columns: kinds,
            schema: Arc::new(schema),
            reader,
            flat,
            nested,
            writers: Vec::new(),
            by_id: HashMap::new(),
            rewritten: Vec::new(),
            registry,
        })
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

        // What an earlier call that failed may have left.
        self.flat.truncate(0);
        if let Some(nested) = &mut self.nested {
            nested.clear();
        }
        let mut rejected = Vec::new();
        let mut good: Vec<&Record> = Vec::with_capacity(records.len());
        let mut bytes = 0_usize;
        let mut last_writer = None;
        for record in records {
            let Content::Event { value, .. } = &record.content else { continue };
            if bytes.saturating_add(value.len()) > MAX_BYTES {
                return Err(LogError::Invalid(format!("more than {MAX_BYTES} bytes of events to decode in one go")));
            }
            match self.admit(value, &mut last_writer) {
                Ok(length) => {
                    bytes += length;
                    good.push(record);
                }
                Err(reason) => rejected.push((record.offset, reason)),
            }
        }

        let mut flat = self.flat.take()?;
        let mut others = Vec::new();
        if let Some(nested) = &mut self.nested {
            let outcome = nested.take()?;
            others = outcome.columns;
            if !outcome.refused.is_empty() {
                let kept: BooleanArray = (0..good.len()).map(|row| Some(!outcome.refused.contains_key(&row))).collect();
                flat = flat.iter().map(|column| filter(column, &kept)).collect::<Result<_, _>>()?;
                rejected.extend(outcome.refused.into_iter().map(|(row, reason)| (good[row].offset, reason)));
                rejected.sort_by_key(|(offset, _)| *offset);
                let mut kept = kept.values().iter();
                good.retain(|_| kept.next().unwrap_or(false));
            }
        }
        let events = self.assemble(partition, &good, &flat, &others)?;
        Ok(Decoded { events, rejected })
    }

    /// Fetches the schemas of ids not met before.
    async fn learn_schemas(&mut self, records: &[Record]) -> Result<()> {
        let mut asked = HashSet::new();
        let mut last = None;
        for record in records {
            let Content::Event { value, .. } = &record.content else { continue };
            let Some((id, _)) = split_frame(value) else { continue };
            if last.replace(id) == Some(id) || self.by_id.contains_key(&id) || !asked.insert(id) {
                continue;
            }
            match self.registry.schema(id).await {
                Ok(schema) => {
                    self.by_id.insert(id, self.writers.len());
                    self.writers.push(Writer::new(id, &schema, &self.reader));
                }
                // Not remembered: it may be registered later.
                Err(LogError::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Checks an event and adds it to the columns, or says what is wrong with it. Returns the length of its datum.
    ///
    /// `last`: the schema id of the event before, and where its writer is.
    fn admit(&mut self, value: &[u8], last: &mut Option<(u32, usize)>) -> Result<usize, String> {
        let Some((id, datum)) = split_frame(value) else {
            return Err("not in Confluent framing: a zero byte and a schema id".to_owned());
        };
        let told = |problem: Box<Problem>| format!("schema {id}: {problem}");
        let known = last.filter(|(last, _)| *last == id).or_else(|| Some((id, *self.by_id.get(&id)?)));
        let resolution = match known.and_then(|(_, index)| self.writers.get(index)) {
            Some(Writer::Readable(resolution)) => resolution,
            Some(Writer::Unreadable(reason)) => return Err(reason.clone()),
            None => return Err(format!("schema {id} is not registered")),
        };
        *last = known;
        let datum = if resolution.is_identical() {
            datum
        } else {
            self.rewritten.clear();
            resolution.rewrite(datum, &mut self.rewritten).map_err(told)?;
            &self.rewritten
        };
        self.flat.push(datum).map_err(told)?;
        if let Some(nested) = &mut self.nested {
            nested.push(datum);
        }
        Ok(datum.len())
    }

    /// Puts the columns together in the order they were asked for.
    fn assemble(
        &self,
        partition: &TopicPartition,
        good: &[&Record],
        flat: &[ArrayRef],
        nested: &[ArrayRef],
    ) -> Result<RecordBatch> {
        let rows = good.len();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.iter().zip(self.schema.fields()) {
            arrays.push(match column {
                Column::Flat(index) => flat[*index].clone(),
                Column::Nested(index) => normalise(&nested[*index], field.data_type())?,
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

/// Bytes as the text of the `_key` column. A foreign producer's key may be any bytes; what is not UTF-8 shows as U+FFFD.
pub(crate) fn text(bytes: &ArrayRef) -> Result<ArrayRef> {
    let bytes = bytes.as_binary_opt::<i32>().ok_or_else(nested::unexpected)?;
    let texts: StringArray = bytes.iter().map(|key| key.map(String::from_utf8_lossy)).collect();
    Ok(Arc::new(texts))
}
