//! Chunks that own no more memory than they show.
//!
//! A fold gives its states as one batch, which is handed on in slices. A sort counts the memory that a chunk keeps
//! alive, and so would count the whole batch once for every slice, and spill after each. Copying the slices costs less. The same
//! goes for a batch that came over a network: all its columns share one buffer.

use std::fmt;
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

/// The same rows as `input`, in chunks of their own.
pub(crate) fn owned(input: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let stream = |partition| {
        let (input, schema) = (input.clone(), input.schema());
        Arc::new(OwnedChunks { input, partition, schema }) as Arc<dyn PartitionStream>
    };
    let streams = (0..input.output_partitioning().partition_count()).map(stream).collect();
    Ok(Arc::new(StreamingTableExec::try_new(input.schema(), streams, None, [], false, None)?))
}

struct OwnedChunks {
    input: Arc<dyn ExecutionPlan>,
    partition: usize,
    schema: SchemaRef,
}

impl fmt::Debug for OwnedChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} of {}", self.partition, self.input.name())
    }
}

impl PartitionStream for OwnedChunks {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let chunks = match self.input.execute(self.partition, context) {
            Ok(chunks) => chunks.map(|chunk| copied(&chunk?)).boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        };
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), chunks))
    }
}

/// The same rows in batches of up to `rows`. Operators account for whole batches.
pub(crate) fn small(batches: SendableRecordBatchStream, rows: usize) -> SendableRecordBatchStream {
    let schema = batches.schema();
    let pieces = batches.map_ok(move |batch| {
        let all = batch.num_rows();
        let starts = (0..all).step_by(rows.max(1));
        stream::iter(starts.map(move |start| Ok(batch.slice(start, rows.min(all - start)))))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, pieces.try_flatten()))
}

/// Streams that are there already, as the leaf of a plan that runs once.
pub(crate) fn given(schema: &SchemaRef, streams: Vec<SendableRecordBatchStream>) -> Result<Arc<dyn ExecutionPlan>> {
    let stream = |stream| {
        Arc::new(Given { schema: schema.clone(), stream: Mutex::new(Some(stream)) }) as Arc<dyn PartitionStream>
    };
    let streams = streams.into_iter().map(stream).collect();
    Ok(Arc::new(StreamingTableExec::try_new(schema.clone(), streams, None, [], false, None)?))
}

struct Given {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stream that is there")
    }
}

impl PartitionStream for Given {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        self.stream.lock().take().unwrap_or_else(|| {
            let again = DataFusionError::Internal("a stream that was given is run again".to_owned());
            Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream::once(async { Err(again) })))
        })
    }
}

fn copied(chunk: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let rows = u32::try_from(chunk.num_rows()).map_err(|error| DataFusionError::Execution(error.to_string()))?;
    Ok(take_record_batch(chunk, &UInt32Array::from_iter_values(0..rows))?)
}
