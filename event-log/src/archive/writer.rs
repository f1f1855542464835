//! Builds the object of one segment from its records, in offset order.

use bytes::Bytes;
use views::{Offset, Segment, TopicPartition};

use super::container::{BodyCheck, FlatSchema, Layout, SegmentHeader, framed_schema, put_block, sync_marker};
use super::reader::OpenSegment;
use crate::encode::wire::{put_bytes, put_long, split_frame};
use crate::error::{LogError, Result};
use crate::log::{Content, Record};

/// A block is closed when its records have this many bytes, before compression.
const BLOCK_BYTES: usize = 1 << 20;

/// The object of a segment while it is being built. What it holds in memory is compressed, except for one block.
pub(crate) struct SegmentWriter {
    header: SegmentHeader,
    /// How the datums are checked while the layout is flat.
    flat: Option<FlatSchema>,
    sync: [u8; 16],
    body: Vec<u8>,
    block: Vec<u8>,
    block_events: u64,
    next: Offset,
}

impl SegmentWriter {
    /// An object without records yet; flat as long as every event is a datum of `flat`.
    pub(super) fn new(partition: &TopicPartition, segment: Segment, end: Offset, flat: Option<FlatSchema>) -> Self {
        let (layout, schema) = match &flat {
            Some(flat) => (Layout::Flat { schema_id: flat.id }, flat.file.clone()),
            None => (Layout::Framed, framed_schema()),
        };
        let header = SegmentHeader {
            partition: partition.clone(),
            start: segment.start,
            end,
            layout,
            events: 0,
            event_offsets: None,
            last_append_time: None,
            marker_before: segment.marker,
            marker_after: None,
            schema,
        };
        let sync = sync_marker(partition, segment.start);
        let (body, block) = (Vec::new(), Vec::new());
        Self { header, flat, sync, body, block, block_events: 0, next: segment.start }
    }

    /// The append time of the last record so far.
    pub(crate) fn last_append_time(&self) -> Option<i64> {
        self.header.last_append_time
    }

    /// Adds the next record of the segment.
    pub(crate) fn push(&mut self, record: &Record) -> Result<()> {
        let Record { offset, append_time, .. } = *record;
        if offset < self.next || offset >= self.header.end {
            let SegmentHeader { partition, start, end, .. } = &self.header;
            return Err(LogError::Damaged(format!(
                "the log gave offset {offset} after {} for segment {start}..{end} of {partition}",
                self.next
            )));
        }
        self.next = offset + 1;
        self.header.last_append_time = Some(append_time);
        let (key, value) = match &record.content {
            Content::Event { key, value } => (key, value),
            Content::Marker(number) => {
                if offset + 1 == self.header.end && *number > self.header.marker_before {
                    self.header.marker_after = Some((*number, append_time));
                }
                return Ok(());
            }
        };
        let datum = match &self.flat {
            Some(flat) => match split_frame(value) {
                Some((id, datum))
                    if id == flat.id && i32::try_from(datum.len()).is_ok() && flat.check.check(datum).is_ok() =>
                {
                    Some(datum)
                }
                _ => {
                    self.turn_framed()?;
                    None
                }
            },
            None => None,
        };
        put_long(&mut self.block, offset as i64);
        put_long(&mut self.block, append_time);
        put_long(&mut self.block, i64::from(key.is_some()));
        if let Some(key) = key {
            put_bytes(&mut self.block, key);
        }
        match datum {
            Some(datum) => {
                put_long(&mut self.block, datum.len() as i64);
                self.block.extend_from_slice(datum);
            }
            None => put_bytes(&mut self.block, value),
        }
        let first = self.header.event_offsets.map_or(offset, |(first, _)| first);
        self.header.event_offsets = Some((first, offset));
        self.header.events += 1;
        self.block_events += 1;
        if self.block.len() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> Result<()> {
        if self.block_events > 0 {
            put_block(&mut self.body, self.block_events, &self.block, &self.sync)?;
        }
        self.block.clear();
        self.block_events = 0;
        Ok(())
    }

    /// Lays everything so far out again, framed. The result is as if it had been framed from the beginning.
    fn turn_framed(&mut self) -> Result<()> {
        let SegmentHeader { partition, start, end, marker_before: marker, .. } = &self.header;
        let framed = Self::new(partition, Segment { start: *start, marker: *marker }, *end, None);
        let last_append_time = self.header.last_append_time;
        let flat = std::mem::replace(self, framed);
        for record in OpenSegment::open(flat.finish()?, "a segment being built")?.records(0)? {
            if let record @ Record { content: Content::Event { .. }, .. } = record? {
                self.push(&record)?;
            }
        }
        self.header.last_append_time = last_append_time;
        Ok(())
    }

    /// The object.
    pub(crate) fn finish(mut self) -> Result<Bytes> {
        self.close_block()?;
        let check = BodyCheck { length: self.body.len() as u64, crc32: crc32fast::hash(&self.body) };
        let mut object = self.header.encode(check);
        object.append(&mut self.body);
        Ok(object.into())
    }
}
