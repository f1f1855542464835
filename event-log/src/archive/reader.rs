//! Reads the object of one segment back: the exact records, from any offset, a block at a time.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use views::Offset;
use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use super::container::{Block, Layout, SegmentHeader, blocks, sync_marker};
use crate::encode::wire::{FRAME_BYTES, get_bytes, get_long, put_frame};
use crate::error::{LogError, Result};
use crate::log::{Content, Record};

/// A block holds about a mebibyte of events, or one that is larger.
const MAX_BLOCK_BYTES: u64 = 256 << 20;

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
        // Of the blocks before nothing is known but that they are before.
        let last = if low == 0 { None } else { self.first_offset(&self.inner.blocks[low])?.checked_sub(1) };
        Ok(Records {
            segment: self.clone(),
            from,
            block: low,
            decoded: Vec::new().into_iter(),
            last,
            ended: false,
            zstd: decompressor()?,
            bytes: Vec::new(),
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

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.inner.blocks.len()
    }

    /// The bytes of a block, in the place of what is in `bytes`.
    fn decompress(&self, block: &Block, zstd: &mut Decompressor<'static>, bytes: &mut Vec<u8>) -> Result<()> {
        let wrong = |error: &dyn std::fmt::Display| self.damaged(format!("a block cannot be decompressed: {error}"));
        let compressed = &self.inner.body[block.compressed.clone()];
        let size = zstd_safe::get_frame_content_size(compressed).ok().flatten();
        let size = size.ok_or_else(|| wrong(&"it does not say how large it is"))?;
        if size > MAX_BLOCK_BYTES {
            return Err(wrong(&format!("it says that it has {size} bytes, and {MAX_BLOCK_BYTES} are the most")));
        }
        bytes.clear();
        bytes.reserve(size as usize);
        zstd.decompress_to_buffer(compressed, bytes).map_err(|error| wrong(&error))?;
        Ok(())
    }

    /// The events of the block of that number, in `bytes`; `last` is the offset of the event before it, and becomes that of the
    /// block's last one.
    pub(super) fn events<'b>(
        &self,
        number: usize,
        last: &mut Option<Offset>,
        zstd: &mut Decompressor<'static>,
        bytes: &'b mut Vec<u8>,
    ) -> Result<Vec<ArchivedEvent<'b>>> {
        let block = &self.inner.blocks[number];
        self.decompress(block, zstd, bytes)?;
        let mut rest: &[u8] = bytes;
        let mut events = Vec::with_capacity(block.events.min(bytes.len()));
        for _ in 0..block.events {
            let event = read_event(&mut rest).ok_or_else(|| self.damaged("a block's events are misshapen"))?;
            self.check_place(event.offset, last)?;
            events.push(event);
        }
        if !rest.is_empty() {
            return Err(self.damaged("a block has bytes after its events"));
        }
        if number + 1 == self.blocks() {
            self.check_last(*last)?;
        }
        Ok(events)
    }

    /// Checks that an event may come after the one at `last`, which it then is.
    fn check_place(&self, offset: Offset, last: &mut Option<Offset>) -> Result<()> {
        let header = &self.inner.header;
        let follows = match *last {
            Some(last) => offset > last,
            None => header.event_offsets.is_some_and(|(first, _)| first == offset),
        };
        if !follows || offset < header.start || offset >= header.end {
            return Err(self.damaged(format!("it has an event at offset {offset} out of place")));
        }
        *last = Some(offset);
        Ok(())
    }

    fn check_last(&self, last: Option<Offset>) -> Result<()> {
        let says = self.inner.header.event_offsets.map(|(_, last)| last);
        if last == says {
            return Ok(());
        }
        Err(self.damaged(format!("its last event is at {last:?} and its header says {says:?}")))
    }

    /// The records of the block of that number.
    fn records_of(
        &self,
        number: usize,
        last: &mut Option<Offset>,
        zstd: &mut Decompressor<'static>,
        bytes: &mut Vec<u8>,
    ) -> Result<Vec<Record>> {
        let events = self.events(number, last, zstd, bytes)?;
        // Keys and values, framed, end to end: so that a record that is kept keeps no more alive than it must.
        let size = events.iter().map(|event| event.key.map_or(0, <[u8]>::len) + FRAME_BYTES + event.value.len()).sum();
        let mut contents = Vec::with_capacity(size);
        let mut places = Vec::with_capacity(events.len());
        for event in &events {
            let start = contents.len();
            contents.extend_from_slice(event.key.unwrap_or_default());
            let value = contents.len();
            if let Layout::Flat { schema_id } = self.inner.header.layout {
                put_frame(&mut contents, schema_id);
            }
            contents.extend_from_slice(event.value);
            places.push((event.key.map(|_| start..value), value..contents.len()));
        }
        let contents = Bytes::from(contents);
        let record = |(event, (key, value)): (&ArchivedEvent<'_>, (Option<Range<usize>>, Range<usize>))| Record {
            offset: event.offset,
            append_time: event.append_time,
            content: Content::Event { key: key.map(|key| contents.slice(key)), value: contents.slice(value) },
        };
        Ok(events.iter().zip(places).map(record).collect())
    }
}

/// An event in a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArchivedEvent<'b> {
    pub(super) offset: Offset,
    pub(super) append_time: i64,
    pub(super) key: Option<&'b [u8]>,
    /// The datum in a flat segment, the value as it was in the log in a framed one.
    pub(super) value: &'b [u8],
}

/// What decompresses the blocks of a segment, one after the other.
pub(super) fn decompressor() -> Result<Decompressor<'static>> {
    Decompressor::new().map_err(|error| LogError::unavailable("decompressing a block of a segment", error))
}

/// Takes one event off the front.
fn read_event<'b>(rest: &mut &'b [u8]) -> Option<ArchivedEvent<'b>> {
    let offset = u64::try_from(get_long(rest)?).ok()?;
    let append_time = get_long(rest)?;
    let key = match get_long(rest)? {
        0 => None,
        1 => Some(get_bytes(rest)?),
        _ => return None,
    };
    Some(ArchivedEvent { offset, append_time, key, value: get_bytes(rest)? })
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
    /// Kept from block to block.
    zstd: Decompressor<'static>,
    bytes: Vec<u8>,
}

impl Records {
    /// The segment they are of.
    pub fn segment(&self) -> &OpenSegment {
        &self.segment
    }

    /// The next block's records from the asked offset on; `None` after the last.
    fn next_block(&mut self) -> Result<Option<Vec<Record>>> {
        let header = self.segment.header();
        if self.block < self.segment.blocks() {
            let mut events = self.segment.records_of(self.block, &mut self.last, &mut self.zstd, &mut self.bytes)?;
            self.block += 1;
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
