//! Archived segments as the leaf of a DataFusion plan.
//!
//! Segments of all partitions are dealt out to as many streams as there are threads, biggest first, each to the stream
//! with the least to read so far. Only the columns asked for are decoded. Decoding runs inside the stream's own
//! task, as in DataFusion's own file scans.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use event_log::LogError;
use event_log::archive::{Archive, ArchivedSegment, SegmentHeader, SegmentScan};
use event_log::registry::SchemaRegistry;
use futures::stream;
use views::{SegmentId, Source, TopicPartition};

use crate::states::ReadCounters;

/// Some segments of a source, and some of its columns.
#[derive(Clone)]
pub(crate) struct ArchiveScan {
    pub(crate) archive: Arc<Archive>,
    pub(crate) registry: Arc<dyn SchemaRegistry>,
    pub(crate) source: Arc<Source>,
    pub(crate) segments: Arc<Vec<ArchivedSegment>>,
    pub(crate) read: Arc<ReadCounters>,
}

impl ArchiveScan {
    /// A plan that reads `columns` of the source's schema (ascending) in up to `streams` streams.
    pub(crate) fn plan(&self, columns: &[usize], streams: usize) -> Result<Arc<dyn ExecutionPlan>> {
        let streams = self.streams(columns, streams)?;
        let schema = streams[0].schema().clone();
        let plan = StreamingTableExec::try_new(schema, streams, None, [], false, None)?;
        Ok(Arc::new(plan))
    }

    /// At least one stream, even when there is nothing to read.
    pub(crate) fn streams(&self, columns: &[usize], streams: usize) -> Result<Vec<Arc<dyn PartitionStream>>> {
        let schema = Arc::new(self.source.schema.project(columns)?);
        let stream = |segments| {
            Arc::new(SegmentStream { scan: self.clone(), columns: columns.to_vec(), schema: schema.clone(), segments })
                as Arc<dyn PartitionStream>
        };
        Ok(deal(&self.segments, streams).into_iter().map(stream).collect())
    }
}

/// Deals segments out to `hands` hands (fewer when there are fewer segments, but one at least) of about equal weight.
fn deal(segments: &[ArchivedSegment], hands: usize) -> Vec<Vec<ArchivedSegment>> {
    deal_groups(segments.iter().map(|segment| vec![segment.clone()]).collect(), hands)
}

/// Deals the segments of a source out to `hands` hands that may be read apart from each other: on other machines, even. Where repeated
/// deliveries are left out, a partition stays in one hand, for they are recognised within it.
pub fn deal_apart(source: &Source, segments: &[ArchivedSegment], hands: usize) -> Vec<Vec<ArchivedSegment>> {
    if source.event_id.is_none() {
        return deal(segments, hands);
    }
    let mut partitions: BTreeMap<&TopicPartition, Vec<ArchivedSegment>> = BTreeMap::new();
    for segment in segments {
        partitions.entry(&segment.partition).or_default().push(segment.clone());
    }
    deal_groups(partitions.into_values().collect(), hands)
}

fn deal_groups(mut groups: Vec<Vec<ArchivedSegment>>, hands: usize) -> Vec<Vec<ArchivedSegment>> {
    let weight = |group: &[ArchivedSegment]| group.iter().map(|segment| segment.bytes.max(1)).sum::<u64>();
    let hands = hands.min(groups.len()).max(1);
    groups.sort_by_cached_key(|group| (Reverse(weight(group)), group.first().map(ArchivedSegment::id)));
    let mut dealt = vec![(0_u64, Vec::new()); hands];
    for group in groups {
        if let Some((held, hand)) = dealt.iter_mut().min_by_key(|(held, _)| *held) {
            *held += weight(&group);
            hand.extend(group);
        }
    }
    dealt.into_iter().map(|(_, hand)| hand).collect()
}

/// One stream of segments, one after the other.
struct SegmentStream {
    scan: ArchiveScan,
    columns: Vec<usize>,
    schema: SchemaRef,
    segments: Vec<ArchivedSegment>,
}

impl fmt::Debug for SegmentStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} segments of {}", self.segments.len(), self.scan.source.name)
    }
}

impl PartitionStream for SegmentStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let reader = Reader {
            scan: self.scan.clone(),
            columns: self.columns.clone(),
            segments: self.segments.clone().into_iter(),
            open: None,
        };
        let batches = stream::try_unfold(reader, |mut reader| async move {
            let batch = reader.next().await.map_err(external)?;
            Ok::<_, DataFusionError>(batch.map(|batch| (batch, reader)))
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

/// Where a stream stands.
struct Reader {
    scan: ArchiveScan,
    columns: Vec<usize>,
    segments: std::vec::IntoIter<ArchivedSegment>,
    open: Option<SegmentScan>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<RecordBatch>, LogError> {
        let ArchiveScan { archive, registry, source, read, .. } = &self.scan;
        if let Some(pace) = &read.pace {
            pace.ready().await;
        }
        loop {
            if let Some(batch) = self.open.as_mut().and_then(Iterator::next).transpose()? {
                read.records.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                if let Some(pace) = &read.pace {
                    pace.took(batch.num_rows());
                }
                return Ok(Some(batch));
            }
            if let Some(scanned) = self.open.take() {
                read.rejected.fetch_add(scanned.rejected().len() as u64, Ordering::Relaxed);
                if scanned.rejected().is_empty() {
                    let SegmentHeader { partition, start, .. } = scanned.header();
                    read.clean.lock().insert(SegmentId { partition: partition.clone(), start: *start });
                }
            }
            let Some(segment) = self.segments.next() else {
                return Ok(None);
            };
            self.open = Some(archive.scan(&segment, source, &self.columns, registry.as_ref()).await?);
            read.bytes.fetch_add(segment.bytes, Ordering::Relaxed);
        }
    }
}

/// An error of the log as it travels through DataFusion.
pub(crate) fn external(error: LogError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
