//! Reads the events of one segment as Arrow batches, decoding only the columns that are asked for: a block at a time, by the decoder that
//! the speed layer has, so that an event is good or rejected here exactly when it is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use views::{Offset, Source};
use zstd::bulk::Decompressor;

use super::blocking;
use super::container::{Layout, SegmentHeader, writer_schema};
use super::reader::{ArchivedEvent, OpenSegment, decompressor};
use crate::decode::datums::{DatumDecoder, Event};
use crate::encode::wire::split_frame;
use crate::error::{LogError, Result};
use crate::registry::{self, SchemaRegistry};

/// The events of one segment, as batches of the columns that were asked for, in offset order.
///
/// It does no I/O: iterate it on a thread that may be busy.
pub struct SegmentScan {
    segment: OpenSegment,
    decoder: DatumDecoder,
    /// The next block.
    block: usize,
    /// The last event of the block before.
    last: Option<Offset>,
    zstd: Decompressor<'static>,
    bytes: Vec<u8>,
    rejected: Vec<(Offset, String)>,
}

impl SegmentScan {
    pub(super) async fn new(
        segment: OpenSegment,
        source: &Arc<Source>,
        columns: &[usize],
        registry: &dyn SchemaRegistry,
    ) -> Result<Self> {
        let mut decoder = DatumDecoder::new(source, columns)?;
        match segment.header().layout {
            Layout::Flat { schema_id } => {
                let writer = writer_schema(&segment.header().schema);
                decoder.learn(schema_id, &writer.ok_or_else(|| segment.damaged("its schema is not a record"))?);
            }
            Layout::Framed => {
                for (id, schema) in registry::schemas(registry, schema_ids(&segment).await?).await? {
                    match schema {
                        Ok(schema) => decoder.learn(id, &schema),
                        Err(LogError::Invalid(reason)) => decoder.learn_useless(id, reason),
                        Err(_) => {}
                    }
                }
            }
        }
        let zstd = decompressor()?;
        Ok(Self { segment, decoder, block: 0, last: None, zstd, bytes: Vec::new(), rejected: Vec::new() })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        self.decoder.schema()
    }

    /// What the segment's object says of it.
    pub fn header(&self) -> &SegmentHeader {
        self.segment.header()
    }

    /// The events so far that are no events of the source, with the reasons: no batch has them.
    pub fn rejected(&self) -> &[(Offset, String)] {
        &self.rejected
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        while self.block < self.segment.blocks() {
            let events = self.segment.events(self.block, &mut self.last, &mut self.zstd, &mut self.bytes)?;
            self.block += 1;
            let layout = self.segment.header().layout;
            let events = events.iter().map(|event| event_of(event, layout));
            let mut decoded = self.decoder.decode(&self.segment.header().partition, events)?;
            self.rejected.append(&mut decoded.rejected);
            if decoded.events.num_rows() > 0 {
                return Ok(Some(decoded.events));
            }
        }
        Ok(None)
    }
}

impl Iterator for SegmentScan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_batch();
        if batch.is_err() {
            self.block = self.segment.blocks();
        }
        batch.transpose()
    }
}

/// An archived event as the decoder takes it.
fn event_of<'b>(event: &ArchivedEvent<'b>, layout: Layout) -> Event<'b> {
    let ArchivedEvent { offset, append_time, key, value } = *event;
    let datum = match layout {
        Layout::Flat { schema_id } => Some((schema_id, value)),
        Layout::Framed => split_frame(value),
    };
    Event { offset, append_time, key, datum }
}

/// Every schema id that the events of a framed segment name.
async fn schema_ids(segment: &OpenSegment) -> Result<BTreeSet<u32>> {
    let segment = segment.clone();
    let ids = blocking(move || {
        let (mut ids, mut last, mut zstd, mut bytes) = (BTreeSet::new(), None, decompressor()?, Vec::new());
        for block in 0..segment.blocks() {
            let events = segment.events(block, &mut last, &mut zstd, &mut bytes)?;
            ids.extend(events.iter().filter_map(|event| Some(split_frame(event.value)?.0)));
        }
        Ok(ids)
    });
    ids.await
}
