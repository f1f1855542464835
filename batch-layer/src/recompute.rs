//! The second opinion: a view's SQL, run once by plain DataFusion over the events of the log.
//!
//! It shares nothing with the layers but the log and the decoder of its records: no states, no merging, no archive scan
//! (records that the log has let go of come from the archive as records), and its own, simplest, way to leave out repeats.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::TableReference;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::scalar::ScalarValue;
use event_log::decode::EventDecoder;
use event_log::registry::SchemaRegistry;
use event_log::{EventLog, ReadLimit};
use futures::{TryStreamExt, stream};
use views::{Offset, Position, Source, TopicPartition, View};

use crate::engine::{Engine, Settings};
use crate::scan::external;

const READ_RECORDS: usize = 8192;

/// A view computed from scratch.
#[derive(Debug, Clone)]
pub struct Recomputed {
    /// The answer, in the shape of the view's `output_schema` (nullability may differ). In no order.
    pub rows: Vec<RecordBatch>,
    /// How many events it was computed over.
    pub events: u64,
    /// How many records could not be decoded.
    pub rejected: u64,
}

/// Computes a view over every event before `upto` in the partitions that it names.
///
/// `log` must read what it no longer keeps from the archive. Memory and spilling are as `settings` say; ids of
/// repeated deliveries are remembered beyond that.
///
/// # Errors
///
/// DataFusion's, the log's among them (as `External`).
pub async fn recompute(
    view: &View,
    upto: &Position,
    log: Arc<dyn EventLog>,
    registry: Arc<dyn SchemaRegistry>,
    settings: &Settings,
) -> Result<Recomputed> {
    let session = Engine::plain(settings)?.session(view);
    let counted = Arc::new(Counted::default());
    let table = EventTable { source: view.source.clone(), upto: upto.clone(), log, registry, counted: counted.clone() };
    session.register_table(TableReference::bare(&*view.source.name), Arc::new(table))?;
    let rows = session.sql(&view.oracle_sql).await?.collect().await?;
    let (events, rejected) = (&counted.events, &counted.rejected);
    Ok(Recomputed { rows, events: events.load(Ordering::Relaxed), rejected: rejected.load(Ordering::Relaxed) })
}

#[derive(Debug, Default)]
struct Counted {
    events: AtomicU64,
    rejected: AtomicU64,
}

/// The events of a source before a position, as a table.
#[derive(Clone)]
struct EventTable {
    source: Arc<Source>,
    upto: Position,
    log: Arc<dyn EventLog>,
    registry: Arc<dyn SchemaRegistry>,
    counted: Arc<Counted>,
}

impl fmt::Debug for EventTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "events of {} before {}", self.source.name, self.upto)
    }
}

#[async_trait]
impl TableProvider for EventTable {
    fn schema(&self) -> SchemaRef {
        self.source.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let every = || (0..self.source.schema.fields().len()).collect();
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(every);
        let schema = Arc::new(self.source.schema.project(&columns)?);
        let stream = |(partition, end): (TopicPartition, Offset)| {
            let (table, columns, schema) = (self.clone(), columns.clone(), schema.clone());
            Arc::new(EventStream { table, partition, end, columns, schema }) as Arc<dyn PartitionStream>
        };
        let streams: Vec<_> = self.upto.of_topic(&self.source.name).iter().map(stream).collect();
        if streams.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        Ok(Arc::new(StreamingTableExec::try_new(schema, streams, None, [], false, None)?))
    }
}

/// The events of one partition.
#[derive(Debug)]
struct EventStream {
    table: EventTable,
    partition: TopicPartition,
    end: Offset,
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl PartitionStream for EventStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let EventStream { table, partition, end, columns, .. } = self;
        let reader = Reader::new(table, partition, *end, columns);
        let events = stream::once(async move { reader }).map_ok(|reader| {
            stream::try_unfold(reader, |mut reader| async move {
                let events = reader.next().await?;
                Ok::<_, DataFusionError>(events.map(|events| (events, reader)))
            })
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), events.try_flatten()))
    }
}

/// Where the reading of a partition stands.
struct Reader {
    table: EventTable,
    partition: TopicPartition,
    next: Offset,
    end: Offset,
    decoder: EventDecoder,
    /// Of the decoded columns, those asked for.
    asked: Vec<usize>,
    repeats: Option<Repeats>,
}

impl Reader {
    fn new(table: &EventTable, partition: &TopicPartition, end: Offset, columns: &[usize]) -> Result<Self> {
        let source = &table.source;
        let mut decoded = columns.to_vec();
        let append_time = source.schema.index_of("_append_time")?;
        decoded.push(append_time);
        let event_id = source.event_id.as_ref().map(|id| source.schema.index_of(id)).transpose()?;
        decoded.extend(event_id);
        decoded.sort_unstable();
        decoded.dedup();
        let place = |column: usize| decoded.binary_search(&column).unwrap_or_default();
        let repeats = event_id.map(|id| Repeats {
            id: place(id),
            append_time: place(append_time),
            window: i64::try_from(source.dedupe_window.as_micros()).unwrap_or(i64::MAX),
            last: HashMap::new(),
        });
        Ok(Self {
            decoder: EventDecoder::new(source, &decoded, table.registry.clone()).map_err(external)?,
            asked: columns.iter().map(|column| place(*column)).collect(),
            repeats,
            table: table.clone(),
            partition: partition.clone(),
            next: 0,
            end,
        })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if self.next >= self.end {
            return Ok(None);
        }
        let limit = ReadLimit::records(READ_RECORDS);
        let mut records = self.table.log.read(&self.partition, self.next, limit).await.map_err(external)?;
        let Some(last) = records.last() else {
            return Ok(None);
        };
        self.next = last.offset + 1;
        records.retain(|record| record.offset < self.end);
        let decoded = self.decoder.decode(&self.partition, &records).await.map_err(external)?;
        let counted = &self.table.counted;
        counted.events.fetch_add(decoded.events.num_rows() as u64, Ordering::Relaxed);
        counted.rejected.fetch_add(decoded.rejected.len() as u64, Ordering::Relaxed);
        let events = match &mut self.repeats {
            Some(repeats) => repeats.leave_out(&decoded.events)?,
            None => decoded.events,
        };
        Ok(Some(events.project(&self.asked)?))
    }
}

/// When each id was last seen.
struct Repeats {
    id: usize,
    append_time: usize,
    window: i64,
    last: HashMap<ScalarValue, i64>,
}

impl Repeats {
    fn leave_out(&mut self, events: &RecordBatch) -> Result<RecordBatch> {
        let ids = events.column(self.id);
        let times = cast(events.column(self.append_time), &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>();
        let mut counts = Vec::with_capacity(events.num_rows());
        for row in 0..events.num_rows() {
            let id = ScalarValue::try_from_array(ids, row)?;
            if id.is_null() {
                counts.push(true);
                continue;
            }
            let time = times.value(row);
            let earlier = self.last.insert(id, time);
            counts.push(earlier.is_none_or(|earlier| time - earlier > self.window));
        }
        Ok(filter_record_batch(events, &BooleanArray::from(counts))?)
    }
}
