//! Reads the object of one segment back: the exact records, from any offset, a block at a time.

use std::sync::Arc;

use bytes::Bytes;
use views::Offset;

use super::container::{Block, Layout, SegmentHeader, blocks, sync_marker};
use crate::encode::wire::{get_bytes, get_exact, get_long};
use crate::error::{LogError, Result};
use crate::log::{Content, Record};

/// A segment's object whose checksums, lengths and places have been verified.
#[derive(Debug, Clone)]
pub struct OpenSegment {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The object's name, for messages.
    name: String,
    header: SegmentHeader,
    object: Bytes,
    body: Bytes,
    blocks: Vec<Block>,
}

impl OpenSegment {
    /// Verifies an object. It is a computation over all its bytes.
    ///
    /// # Errors
    ///
    /// `Damaged`, naming the object and what differs.
    pub fn open(object: Bytes, name: &str) -> Result<Self> {
        let damaged = |what: String| LogError::Damaged(format!("{name}: {what}"));
        let (header, check, body_at) = SegmentHeader::decode(&object).map_err(damaged)?;
        let body = object.slice(body_at..);
        if body.len() as u64 != check.length {
            return Err(damaged(format!("its body has {} bytes and its header says {}", body.len(), check.length)));
        }
        let crc32 = crc32fast::hash(&body);
        if crc32 != check.crc32 {
            return Err(damaged(format!("its body has checksum {crc32:08x} and its header says {:08x}", check.crc32)));
        }
        let blocks = blocks(&body, &sync_marker(&header.partition, header.start)).map_err(damaged)?;
        let events: usize = blocks.iter().map(|block| block.events).sum();
        if events as u64 != header.events {
            return Err(damaged(format!("its blocks have {events} events and its header says {}", header.events)));
        }
        Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), header, object, body, blocks }) })
    }

    /// What the object says of the segment.
    pub fn header(&self) -> &SegmentHeader {
        &self.inner.header
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The whole object.
    pub fn object(&self) -> &Bytes {
        &self.inner.object
    }

    /// The blocks.
    pub(super) fn body(&self) -> &Bytes {
        &self.inner.body
    }

    /// The records from an offset on, decoded a block at a time; the marker that ends the segment is the last.
    ///
    /// # Errors
    ///
    /// `Damaged` when a block on the way to that offset cannot be read.
    pub fn records(&self, from: Offset) -> Result<Records> {
        // The last block that begins at or before the offset; those before it hold nothing that is asked for.
        let (mut low, mut high) = (0, self.inner.blocks.len());
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.first_offset(&self.inner.blocks[middle])? <= from { low = middle } else { high = middle }
        }
        Ok(Records {
            segment: self.clone(),
            from,
            block: low,
            decoded: Vec::new().into_iter(),
            last: None,
            ended: false,
        })
    }

    pub(super) fn damaged(&self, what: impl std::fmt::Display) -> LogError {
        LogError::Damaged(format!("{}: {what}", self.inner.name))
    }

    fn first_offset(&self, block: &Block) -> Result<Offset> {
        let mut front = Vec::with_capacity(10);
        let read = zstd::Decoder::new(&self.inner.body[block.compressed.clone()])
            .and_then(|decoder| std::io::Read::read_to_end(&mut std::io::Read::take(decoder, 10), &mut front));
        read.map_err(|error| self.damaged(format!("a block cannot be decompressed: {error}")))?;
        let offset = get_long(&mut front.as_slice()).and_then(|offset| u64::try_from(offset).ok());
        offset.ok_or_else(|| self.damaged("a block does not begin with an offset"))
    }

    /// The events of a block.
    fn decode_block(&self, block: &Block) -> Result<Vec<Record>> {
        let mut bytes = Vec::with_capacity(2 << 20);
        zstd::stream::copy_decode(&self.inner.body[block.compressed.clone()], &mut bytes)
            .map_err(|error| self.damaged(format!("a block cannot be decompressed: {error}")))?;
        let bytes = Bytes::from(bytes);
        let prefix = match self.inner.header.layout {
            Layout::Flat { schema_id } => Some(schema_id.to_be_bytes()),
            Layout::Framed => None,
        };
        let mut values = Vec::with_capacity(bytes.len());
        let mut places = Vec::new();
        let mut rest: &[u8] = &bytes;
        for _ in 0..block.events {
            let place = decode_event(&bytes, &mut rest, prefix, &mut values);
            places.push(place.ok_or_else(|| self.damaged("a block's events are misshapen"))?);
        }
        if !rest.is_empty() {
            return Err(self.damaged("a block has bytes after its events"));
        }
        let values = Bytes::from(values);
        let record = |(offset, append_time, key, value): Place| Record {
            offset,
            append_time,
            content: Content::Event { key, value: values.slice(value) },
        };
        Ok(places.into_iter().map(record).collect())
    }
}

type Place = (Offset, i64, Option<Bytes>, std::ops::Range<usize>);

/// Takes one event off the front; its value, framed, is appended to `values`.
fn decode_event(all: &Bytes, rest: &mut &[u8], prefix: Option<[u8; 4]>, values: &mut Vec<u8>) -> Option<Place> {
    let offset = u64::try_from(get_long(rest)?).ok()?;
    let append_time = get_long(rest)?;
    let key = match get_long(rest)? {
        0 => None,
        1 => Some(all.slice_ref(get_bytes(rest)?)),
        _ => return None,
    };
    let start = values.len();
    if let Some(id) = prefix {
        values.push(0);
        values.extend_from_slice(&id);
    }
    let size = usize::try_from(get_long(rest)?).ok()?;
    values.extend_from_slice(get_exact(rest, size)?);
    Some((offset, append_time, key, start..values.len()))
}

/// The records of a segment, in offset order.
pub struct Records {
    segment: OpenSegment,
    from: Offset,
    /// The next block to decode.
    block: usize,
    decoded: std::vec::IntoIter<Record>,
    /// The last event that was decoded.
    last: Option<Offset>,
    ended: bool,
}

impl Records {
    /// The segment they are of.
    pub fn segment(&self) -> &OpenSegment {
        &self.segment
    }

    /// The next block's records from the asked offset on; `None` after the last.
    fn next_block(&mut self) -> Result<Option<Vec<Record>>> {
        let header = self.segment.header();
        let blocks = &self.segment.inner.blocks;
        if let Some(block) = blocks.get(self.block) {
            let mut events = self.segment.decode_block(block)?;
            for event in &events {
                let first = self.block == 0 && self.last.is_none();
                let rising = self.last.is_none_or(|last| event.offset > last);
                let named = !first || header.event_offsets.is_some_and(|(offset, _)| offset == event.offset);
                if !rising || !named || event.offset < header.start || event.offset >= header.end {
                    return Err(self
                        .segment
                        .damaged(format!("it has an event at offset {} out of place", event.offset)));
                }
                self.last = Some(event.offset);
            }
            self.block += 1;
            if self.block == blocks.len() && self.last != header.event_offsets.map(|(_, last)| last) {
                return Err(self.segment.damaged(format!(
                    "its last event is at {:?} and its header says {:?}",
                    self.last, header.event_offsets
                )));
            }
            events.retain(|event| event.offset >= self.from);
            return Ok(Some(events));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Ok(None);
        }
        let marker = header.marker_after.filter(|_| header.end > self.from).map(|(number, append_time)| Record {
            offset: header.end - 1,
            append_time,
            content: Content::Marker(number),
        });
        Ok(Some(marker.into_iter().collect()))
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.decoded.next() {
                return Some(Ok(record));
            }
            match self.next_block() {
                Ok(Some(records)) => self.decoded = records.into_iter(),
                Ok(None) => return None,
                Err(error) => {
                    (self.block, self.ended) = (self.segment.inner.blocks.len(), true);
                    return Some(Err(error));
                }
            }
        }
    }
}
