//! What executors tell besides states: what they read, and why they failed.
//!
//! States travel with one more column, which is null for every state. What a task read comes as a row of nulls with a text in that
//! column, behind the task's states, so that it has the same fate as they: the rows of a task that was run again count once, and so
//! does what it read.
//!
//! A failure travels as text inside the error that fails the task, because Ballista hands on nothing but text.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, new_null_array};
use arrow::compute::{filter_record_batch, is_null};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batch_layer::{Failure, ReadCounters};
use datafusion::error::{DataFusionError, Result};
use event_log::LogError;
use serde::{Deserialize, Serialize};
use views::{SegmentId, TopicPartition};

/// No group or state column is called this.
const COLUMN: &str = "what the task read";

/// What one task or several read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    records: u64,
    bytes: u64,
    rejected: u64,
    spilled: u64,
    /// Partition and start of segments without any rejected record.
    clean: Vec<(u32, u64)>,
}

impl Report {
    pub(crate) fn of(read: &ReadCounters) -> Self {
        let ReadCounters { records, bytes, rejected, spilled, clean, pace: _ } = read;
        Self {
            records: records.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
            rejected: rejected.load(Ordering::Relaxed),
            spilled: spilled.load(Ordering::Relaxed),
            clean: clean.lock().iter().map(|segment| (segment.partition.partition, segment.start)).collect(),
        }
    }

    pub(crate) fn add(&mut self, other: Report) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.rejected += other.rejected;
        self.spilled += other.spilled;
        self.clean.extend(other.clean);
    }

    /// Counts it, as read of a topic.
    pub(crate) fn count(self, topic: &Arc<str>, read: &ReadCounters) {
        read.records.fetch_add(self.records, Ordering::Relaxed);
        read.bytes.fetch_add(self.bytes, Ordering::Relaxed);
        read.rejected.fetch_add(self.rejected, Ordering::Relaxed);
        read.spilled.fetch_add(self.spilled, Ordering::Relaxed);
        let segment =
            |(partition, start)| SegmentId { partition: TopicPartition::new(topic.clone(), partition), start };
        read.clean.lock().extend(self.clean.into_iter().map(segment));
    }

    /// The row it travels as, behind states of this schema.
    pub(crate) fn row(&self, states: &SchemaRef) -> Result<RecordBatch> {
        let text = serde_json::to_string(self).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let mut columns: Vec<ArrayRef> =
            states.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        columns.push(Arc::new(StringArray::from(vec![text])));
        Ok(RecordBatch::try_new(travelling(states), columns)?)
    }
}

/// The schema in which states of this schema travel.
pub(crate) fn travelling(states: &SchemaRef) -> SchemaRef {
    let own = states.fields().iter().cloned();
    let fields: Vec<_> = own.chain([Arc::new(Field::new(COLUMN, DataType::Utf8, true))]).collect();
    Arc::new(Schema::new(fields))
}

/// States as they travel.
pub(crate) fn packed(states: &RecordBatch) -> Result<RecordBatch> {
    let mut columns = states.columns().to_vec();
    columns.push(new_null_array(&DataType::Utf8, states.num_rows()));
    Ok(RecordBatch::try_new(travelling(states.schema_ref()), columns)?)
}

/// The states of a batch that travelled, and what was told beside them.
pub(crate) fn unpacked(batch: &RecordBatch, states: &SchemaRef) -> Result<(RecordBatch, Vec<Report>)> {
    let Some((told, columns)) = batch.columns().split_last() else {
        return Err(DataFusionError::Internal("states without any column".to_owned()));
    };
    let own = RecordBatch::try_new(states.clone(), columns.to_vec())?;
    if told.null_count() == told.len() {
        return Ok((own, Vec::new()));
    }
    let reports = told.as_string_opt::<i32>().into_iter().flatten().flatten().map(serde_json::from_str);
    let reports = reports.collect::<Result<_, _>>().map_err(|error| ArrowError::JsonError(error.to_string()))?;
    Ok((filter_record_batch(&own, &is_null(told)?)?, reports))
}

/// What a failure begins with, and what follows the bytes of it.
const BEGIN: &str = "[tidemark:";
const END: char = ']';

#[derive(Serialize, Deserialize)]
enum Told {
    View { reason: String, of_one_event: bool },
    Engine { reason: String },
}

/// A failure as an error of a task.
pub(crate) fn failed(executor: &str, failure: Failure) -> DataFusionError {
    let may_pass = match &failure {
        Failure::View { .. } => false,
        Failure::Engine(error) => is_transient(error.as_ref()),
    };
    let told = match failure {
        Failure::View { reason, of_one_event } => Told::View { reason, of_one_event },
        Failure::Engine(error) => Told::Engine { reason: format!("executor {executor}: {error}") },
    };
    let text = told_as_text(&told);
    // Ballista runs a task again for an I/O error, and for no other of ours.
    if may_pass {
        return DataFusionError::IoError(std::io::Error::other(text));
    }
    DataFusionError::Execution(text)
}

/// That an executor refuses a task.
pub(crate) fn refused(reason: String) -> DataFusionError {
    DataFusionError::Execution(told_as_text(&Told::Engine { reason }))
}

fn told_as_text(told: &Told) -> String {
    let (Told::View { reason, .. } | Told::Engine { reason }) = told;
    // Ballista prints errors for debugging: only letters and digits come through as they are.
    let bytes = URL_SAFE_NO_PAD.encode(serde_json::to_vec(told).unwrap_or_default());
    format!("{reason} {BEGIN}{bytes}{END}")
}

fn is_transient(error: &(dyn std::error::Error + 'static)) -> bool {
    let Some(error) = error.downcast_ref::<DataFusionError>() else { return false };
    match error.find_root() {
        DataFusionError::External(error) => error.downcast_ref::<LogError>().is_some_and(LogError::is_transient),
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => true,
        _ => false,
    }
}

/// The failure that the text of a failed job holds; `None` when the job failed for reasons of Ballista's.
pub(crate) fn failure(text: &str) -> Option<Failure> {
    let (_, told) = text.split_once(BEGIN)?;
    let (told, _) = told.split_once(END)?;
    let told = URL_SAFE_NO_PAD.decode(told).ok()?;
    Some(match serde_json::from_slice(&told).ok()? {
        Told::View { reason, of_one_event } => Failure::View { reason, of_one_event },
        Told::Engine { reason } => Failure::Engine(reason.into()),
    })
}
