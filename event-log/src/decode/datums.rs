//! Datums to the columns of one reader: what the log's records and the archive's blocks have in common.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use datafusion::arrow::compute::filter;
use datafusion::arrow::datatypes::SchemaRef;
use views::avro::Record as AvroRecord;
use views::{Offset, Source, TopicPartition};

use super::columns::Columns;
use super::nested::{Nested, normalise};
use super::resolve::Resolution;
use super::{Decoded, MAX_BYTES};
use crate::encode::path::Problem;
use crate::error::{LogError, Result};

/// An event, wherever its bytes are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// When the log took it: microseconds since the epoch.
    pub append_time: i64,
    /// The bytes that chose the partition.
    pub key: Option<&'a [u8]>,
    /// The schema it was written with, and the datum; `None` when it is not in Confluent framing.
    pub datum: Option<(u32, &'a [u8])>,
}

/// Decodes events to the columns that are wanted. It never waits: whoever has it tells it the schemas.
pub(crate) struct DatumDecoder {
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

impl DatumDecoder {
    /// For these columns of `source.schema`, ascending; system columns may be among them.
    ///
    /// # Errors
    ///
    /// `Invalid` when the source's schema cannot be decoded or a column does not exist.
    pub fn new(source: &Source, columns: &[usize]) -> Result<Self> {
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
        })
    }

    /// The schema of [`Decoded::events`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether it was told the schema with this id.
    pub fn knows(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Tells it what an id stands for.
    pub fn learn(&mut self, id: u32, schema: &str) {
        self.by_id.insert(id, self.writers.len());
        self.writers.push(Writer::new(id, schema, &self.reader));
    }

    /// Tells it that no event with this id can be decoded, and why.
    pub fn learn_useless(&mut self, id: u32, reason: String) {
        self.by_id.insert(id, self.writers.len());
        self.writers.push(Writer::Unreadable(reason));
    }

    /// Decodes events of one partition, in the order of their offsets.
    ///
    /// # Errors
    ///
    /// `Invalid` when the events are too large to decode in one go (a gibibyte).
    pub fn decode<'a>(
        &mut self,
        partition: &TopicPartition,
        events: impl Iterator<Item = Event<'a>>,
    ) -> Result<Decoded> {
        // What an earlier call that failed may have left.
        self.flat.truncate(0);
        if let Some(nested) = &mut self.nested {
            nested.clear();
        }
        let mut rejected = Vec::new();
        let mut good: Vec<Event<'a>> = Vec::with_capacity(events.size_hint().1.unwrap_or(0));
        let mut bytes = 0_usize;
        let mut last_writer = None;
        for event in events {
            if bytes.saturating_add(event.datum.map_or(0, |(_, datum)| datum.len())) > MAX_BYTES {
                return Err(LogError::Invalid(format!("more than {MAX_BYTES} bytes of events to decode in one go")));
            }
            match self.admit(&event, &mut last_writer) {
                Ok(length) => {
                    bytes += length;
                    good.push(event);
                }
                Err(reason) => rejected.push((event.offset, reason)),
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

    /// Checks an event and adds it to the columns, or says what is wrong with it. Returns the length of its datum.
    ///
    /// `last`: the schema id of the event before, and where its writer is.
    fn admit(&mut self, event: &Event<'_>, last: &mut Option<(u32, usize)>) -> Result<usize, String> {
        let Some((id, datum)) = event.datum else {
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
        good: &[Event<'_>],
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
                Column::Offset => Arc::new(Int64Array::from_iter_values(good.iter().map(|event| event.offset as i64))),
                Column::AppendTime => {
                    let times = good.iter().map(|event| event.append_time);
                    Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00"))
                }
                Column::Key => {
                    let mut keys = StringBuilder::with_capacity(rows, rows * 16);
                    for event in good {
                        // A foreign producer's key may be any bytes; what is not UTF-8 shows as U+FFFD.
                        keys.append_option(event.key.map(String::from_utf8_lossy));
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
