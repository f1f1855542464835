//! Reads the events of one segment as Arrow batches, decoding only the columns that are asked for.
//!
//! A flat segment whose writer schema is the source's goes straight through `arrow-avro`'s file reader: all its events were
//! checked when they were archived. Everything else (framed segments, older schemas, values that `arrow-avro` refuses all the
//! same) goes through [`EventDecoder`], so that an event is good or rejected here exactly when it is in the speed layer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Chain, Cursor, Read as _};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow_avro::reader::{Reader, ReaderBuilder};
use arrow_avro::schema::AvroSchema;
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use views::avro::{Field, Record as AvroRecord, Type, Unit};
use views::source::SYSTEM_COLUMNS;
use views::{Offset, Source};

use super::blocking;
use super::container::{Layout, SYSTEM_FIELDS, SegmentHeader, sync_marker, writer_schema};
use super::reader::{OpenSegment, Records};
use crate::decode::resolve::Resolution;
use crate::decode::{EventDecoder, has_union, normalise, text};
use crate::encode::wire::{put_bytes, put_long, split_frame};
use crate::error::{LogError, Result};
use crate::log::{Content, Record};
use crate::registry::SchemaRegistry;

/// How many events a batch has at most.
const BATCH_EVENTS: usize = 8192;
/// How many bytes of events are decoded at once, one event aside.
const BATCH_BYTES: usize = 32 << 20;

/// The events of one segment, as batches of the columns that were asked for, in offset order.
///
/// It does no I/O: iterate it on a thread that may be busy.
pub struct SegmentScan {
    segment: OpenSegment,
    source: Arc<Source>,
    columns: Vec<usize>,
    schema: SchemaRef,
    decoder: EventDecoder,
    way: Way,
    /// Everything before this offset has been handed out.
    next: Offset,
    events: u64,
    rejected: Vec<(Offset, String)>,
}

/// How the next batch is made.
enum Way {
    Flat(Box<Reader<Chain<Cursor<Vec<u8>>, Cursor<Bytes>>>>),
    Decoded(Records),
    Done,
}

impl SegmentScan {
    pub(super) async fn new(
        segment: OpenSegment,
        source: &Arc<Source>,
        columns: &[usize],
        registry: &dyn SchemaRegistry,
    ) -> Result<Self> {
        let projected = source.schema.project(columns);
        let schema = Arc::new(projected.map_err(|error| LogError::Invalid(format!("columns {columns:?}: {error}")))?);
        let schemas = known_schemas(&segment, registry).await?;
        let decoder = EventDecoder::new(source, columns, Arc::new(schemas))?;
        let way = match segment.header().layout {
            Layout::Flat { .. } => flat_reader(&segment, source, columns),
            Layout::Framed => None,
        };
        let next = segment.header().start;
        let way = match way {
            Some(reader) => Way::Flat(Box::new(reader)),
            None => Way::Decoded(segment.records(next)?),
        };
        let (source, columns) = (source.clone(), columns.to_vec());
        Ok(Self { segment, source, columns, schema, decoder, way, next, events: 0, rejected: Vec::new() })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What the segment's object says of it.
    pub fn header(&self) -> &SegmentHeader {
        self.segment.header()
    }

    /// Whether the file reader takes the events from the file as they are, without the decoder's help.
    pub fn is_direct(&self) -> bool {
        matches!(self.way, Way::Flat(_))
    }

    /// The events so far that are no events of the source, with the reasons: no batch has them.
    pub fn rejected(&self) -> &[(Offset, String)] {
        &self.rejected
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            match &mut self.way {
                Way::Done => return Ok(None),
                Way::Flat(reader) => match reader.next() {
                    Some(Ok(events)) => {
                        let batch = self.project(&events)?;
                        return Ok(Some(batch));
                    }
                    Some(Err(error)) => {
                        tracing::debug!(segment = %self.segment.name(), %error, "events are decoded one batch at a time");
                        self.way = Way::Decoded(self.segment.records(self.next)?);
                    }
                    None => {
                        self.way = Way::Done;
                        self.check_end()?;
                    }
                },
                Way::Decoded(records) => {
                    let records = next_records(records)?;
                    let Some(last) = records.last() else {
                        self.way = Way::Done;
                        self.check_end()?;
                        continue;
                    };
                    self.next = last.offset + 1;
                    let events = records.iter().filter(|record| matches!(record.content, Content::Event { .. }));
                    self.events += events.count() as u64;
                    let decoded = self.decoder.decode(&self.segment.header().partition, &records).now_or_never();
                    let mut decoded =
                        decoded.ok_or_else(|| self.segment.damaged("its decoder waits for a schema"))??;
                    self.rejected.append(&mut decoded.rejected);
                    if decoded.events.num_rows() > 0 {
                        return Ok(Some(decoded.events));
                    }
                }
            }
        }
    }

    /// The columns that were asked for, from what the file reader gave.
    fn project(&mut self, events: &RecordBatch) -> Result<RecordBatch> {
        let partition = &self.segment.header().partition;
        let lacking = |name: &str| self.segment.damaged(format!("the reader gave no column {name}"));
        let rows = events.num_rows();
        let offsets = events.column_by_name("_offset").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let offsets: &Int64Array = offsets.ok_or_else(|| lacking("_offset"))?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (field, index) in self.schema.fields().iter().zip(&self.columns) {
            let given = || events.column_by_name(field.name()).ok_or_else(|| lacking(field.name()));
            columns.push(match index.checked_sub(self.source.event_columns()).map(|system| SYSTEM_COLUMNS[system]) {
                Some("_topic") => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&*partition.topic, rows))),
                Some("_partition") => Arc::new(Int32Array::from_value(partition.partition as i32, rows)),
                Some("_key") => text(given()?)?,
                _ => normalise(given()?, field.data_type())?,
            });
        }
        let (Some(first), Some(last)) = (offsets.values().first(), offsets.values().last()) else {
            return Err(self.segment.damaged("the reader gave a batch without rows"));
        };
        let expected = match self.segment.header().event_offsets {
            Some((first, _)) if self.events == 0 => Some(first),
            _ => None,
        };
        if expected.is_some_and(|expected| expected != *first as Offset) || (*first as Offset) < self.next {
            return Err(self.segment.damaged(format!("it has an event at offset {first} out of place")));
        }
        self.events += rows as u64;
        self.next = *last as Offset + 1;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| self.segment.damaged(format!("its columns do not fit the source: {error}")))
    }

    fn check_end(&self) -> Result<()> {
        let SegmentHeader { events, event_offsets, .. } = self.segment.header();
        let reaches = event_offsets.is_none_or(|(_, last)| self.next > last);
        if self.events == *events && reaches {
            return Ok(());
        }
        let read = format!("{} events before offset {} were read", self.events, self.next);
        Err(self.segment.damaged(format!("{read}, its header says {events} at {event_offsets:?}")))
    }
}

impl Iterator for SegmentScan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_batch();
        if batch.is_err() {
            self.way = Way::Done;
        }
        batch.transpose()
    }
}

/// As many records as are decoded at once; none at the end.
fn next_records(records: &mut Records) -> Result<Vec<Record>> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    while taken.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
        let Some(record) = records.next().transpose()? else { break };
        if let Content::Event { value, .. } = &record.content {
            bytes += value.len();
        }
        taken.push(record);
    }
    Ok(taken)
}

/// The file reader for a flat segment; `None` when it cannot read this writer's events as the source's.
fn flat_reader(
    segment: &OpenSegment,
    source: &Source,
    columns: &[usize],
) -> Option<Reader<Chain<Cursor<Vec<u8>>, Cursor<Bytes>>>> {
    let header = segment.header();
    let mut writer = AvroRecord::parse(&header.schema).ok()?;
    let system_fields: Vec<Field> = writer.fields.drain(..SYSTEM_FIELDS.len()).collect();
    let own = AvroRecord::parse(&source.avro).ok()?;
    // The same fields of the same types, so that what was checked against the one is a datum of the other.
    let same = |(one, other): (&Field, &Field)| one.name == other.name && one.data == other.data;
    if writer.fields.len() != own.fields.len() || !writer.fields.iter().zip(&own.fields).all(same) {
        return None;
    }
    let resolution = Resolution::new(&writer, &own).ok()?;
    // arrow-avro 59 miscounts the branches of unions after the first batch.
    let unions = columns.iter().any(|column| has_union(source.schema.field(*column).data_type()));
    if !resolution.is_identical() || unions {
        return None;
    }
    let asked = |name: &str| columns.iter().any(|column| source.schema.field(*column).name() == name);
    let mut reader = own.pruned(|field| asked(&field.name));
    let mut written = own;
    written.fields.splice(0..0, system_fields);
    // The offset is always read: it says where to go on should the reader refuse a value.
    let mut system = vec![("_offset", Type::Long)];
    if asked("_append_time") {
        system.push(("_append_time", Type::Timestamp { unit: Unit::Micros, local: false }));
    }
    if asked("_key") {
        system.push(("_key", Type::Union(vec![Type::Null, Type::Bytes])));
    }
    let field = |(name, data): (&str, Type)| Field { name: name.to_owned(), aliases: Vec::new(), data, default: None };
    reader.fields.splice(0..0, system.into_iter().map(field));
    // The same file with its schema in the form that the reader understands best.
    let mut front = b"Obj\x01".to_vec();
    put_long(&mut front, 2);
    for (name, value) in [("avro.schema", written.arrow_json()), ("avro.codec", "zstandard".to_owned())] {
        put_bytes(&mut front, name.as_bytes());
        put_bytes(&mut front, value.as_bytes());
    }
    put_long(&mut front, 0);
    front.extend_from_slice(&sync_marker(&header.partition, header.start));
    ReaderBuilder::new()
        .with_batch_size(BATCH_EVENTS)
        .with_reader_schema(AvroSchema::new(reader.arrow_json()))
        .build(Cursor::new(front).chain(Cursor::new(segment.body().clone())))
        .ok()
}

/// Every writer schema that a segment's events name.
async fn known_schemas(segment: &OpenSegment, registry: &dyn SchemaRegistry) -> Result<KnownSchemas> {
    let mut known = BTreeMap::new();
    if let Layout::Flat { schema_id } = segment.header().layout {
        let writer = writer_schema(&segment.header().schema);
        known.insert(schema_id, writer.ok_or_else(|| segment.damaged("its schema is not a record"))?.into());
        return Ok(KnownSchemas(known));
    }
    let framed = segment.clone();
    let ids = blocking(move || {
        let mut ids = BTreeSet::new();
        for record in framed.records(framed.header().start)? {
            if let Content::Event { value, .. } = &record?.content {
                ids.extend(split_frame(value).map(|(id, _)| id));
            }
        }
        Ok(ids)
    });
    for id in ids.await? {
        match registry.schema(id).await {
            Ok(schema) => drop(known.insert(id, schema)),
            Err(LogError::NotFound(_) | LogError::Invalid(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(KnownSchemas(known))
}

/// The schemas of one segment, at hand without waiting.
struct KnownSchemas(BTreeMap<u32, Arc<str>>);

#[async_trait]
impl SchemaRegistry for KnownSchemas {
    async fn register(&self, subject: &str, _schema: &str) -> Result<u32> {
        Err(LogError::Invalid(format!("a scan registers no schema for {subject}")))
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>> {
        self.0.get(&id).cloned().ok_or_else(|| LogError::NotFound(format!("schema {id}")))
    }
}
