//! Avro container files, as they are uploaded: bytes of strangers.
//!
//! The file is taken apart here rather than by `apache-avro`'s reader, because each datum goes into the log as it
//! is: checked, framed with the id of the file's own schema, never decoded into values. No length in the
//! file is trusted, and what it unpacks to is limited: a block of any file, and all of a file that is uploaded.

use std::io::{self, BufRead, Read as _};
use std::str::FromStr as _;

use apache_avro::Codec;
use bytes::Bytes;
use views::avro::Record;

use super::path::Problem;
use super::wire::{FRAME_BYTES, get_long, put_frame};
use super::{EncodedEvent, EventEncoder, Rejection};
use crate::decode::resolve::Resolution;
use crate::error::{LogError, Result};
use crate::registry::SchemaRegistry;

const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// How large one block may be, unpacked.
const MAX_BLOCK_BYTES: usize = 64 << 20;
/// How large all blocks of an uploaded file may be together, unpacked: what one append to the log takes.
const MAX_FILE_BYTES: usize = 128 << 20;
/// How many events and blocks an uploaded file may have. Each costs memory of its own, and a few bytes unpack to very many.
const MAX_EVENTS: usize = 1 << 20;
const MAX_BLOCKS: usize = 1 << 18;
/// How large one block may be as it is in the file: no codec makes much more of it than it was.
const MAX_PACKED_BYTES: usize = MAX_BLOCK_BYTES + MAX_BLOCK_BYTES / 8;
/// How long a name or a value of the header may be.
const MAX_HEADER_BYTES: usize = 16 << 20;

/// The events of a container file, a block at a time.
pub struct ContainerEvents<R> {
    container: Container<R>,
    reading: Reading,
    schema_id: Option<u32>,
}

/// How the events of a file are read.
struct Reading {
    schema: String,
    resolution: Resolution,
}

impl EventEncoder {
    /// Takes the events of an Avro container file, in order.
    ///
    /// The file's schema is registered, and its events are framed with its id, as they are. Where the registry
    /// refuses a schema that the source's could follow but not precede (the file has an `int` where the source has a `long`),
    /// the events are rewritten to the source's schema instead.
    ///
    /// An event that is not a datum of the file's schema is rejected together with the rest of its block: where the next
    /// one begins is not known.
    ///
    /// # Errors
    ///
    /// `Invalid` when the file is not a container, or when its schema cannot be read as the source's: then none of its
    /// events is taken. Errors of the registry.
    pub async fn container(
        &self,
        file: &[u8],
        registry: &dyn SchemaRegistry,
    ) -> Result<Vec<Result<EncodedEvent, Rejection>>> {
        let mut container = Container::open(file).map_err(no_container)?;
        let reading = self.reading(&container)?;
        // A file that is damaged anywhere is refused whole, before anything of it is appended.
        let blocks = container.every_block().map_err(no_container)?;
        let schema_id = self.register(&reading, registry).await?;
        let mut events = Vec::new();
        for block in blocks {
            self.take_block(&block, &reading.resolution, schema_id, &mut |event| events.push(event));
        }
        Ok(events)
    }

    /// The same for a file of any size, which is read block by block. Nothing of it is kept but the block at hand.
    ///
    /// # Errors
    ///
    /// As [`Self::container`], as far as the file's header tells.
    pub async fn open_container<R: BufRead>(
        &self,
        file: R,
        registry: &dyn SchemaRegistry,
    ) -> Result<ContainerEvents<R>> {
        let container = Container::open(file).map_err(no_container)?;
        let reading = self.reading(&container)?;
        let schema_id = self.register(&reading, registry).await?;
        Ok(ContainerEvents { container, reading, schema_id })
    }

    fn reading<R>(&self, container: &Container<R>) -> Result<Reading> {
        let writer = Record::parse(&container.schema).map_err(no_container)?;
        let refused = |problem: &Problem| {
            LogError::Invalid(format!("the file's schema cannot be read as the schema of {}: {problem}", self.subject))
        };
        let resolution = Resolution::new(&writer, &self.record).map_err(|problem| refused(&problem))?;
        if let Some(gap) = resolution.gaps().first() {
            return Err(refused(gap));
        }
        Ok(Reading { schema: container.schema.clone(), resolution })
    }

    /// The id of a file's schema; `None` when the events are to be rewritten to the source's.
    async fn register(&self, reading: &Reading, registry: &dyn SchemaRegistry) -> Result<Option<u32>> {
        match registry.register(&self.subject, &reading.schema).await {
            Ok(id) => Ok(Some(id)),
            Err(LogError::Invalid(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn take_block(
        &self,
        block: &Block,
        resolution: &Resolution,
        schema_id: Option<u32>,
        events: &mut impl FnMut(Result<EncodedEvent, Rejection>),
    ) {
        let mut rest = block.datums.as_slice();
        let mut scratch = Vec::new();
        for taken in 0..block.count {
            let before = rest;
            let refuse = |problem: &Problem| {
                let lost = block.count - taken - 1;
                let reason = match lost {
                    0 => problem.to_string(),
                    _ => format!("{problem}; the {lost} events after it in its block cannot be found"),
                };
                Rejection { reason, original: Bytes::copy_from_slice(before) }
            };
            let datum = match resolution.split_off(&mut rest) {
                Ok(datum) => datum,
                Err(problem) => return events(Err(refuse(&problem))),
            };
            // The key is found in the event as the source's schema has it.
            let own = if resolution.is_identical() {
                datum
            } else {
                scratch.clear();
                if let Err(problem) = resolution.rewrite(datum, &mut scratch) {
                    return events(Err(refuse(&problem)));
                }
                scratch.as_slice()
            };
            if let Err(problem) = self.check_groups(own) {
                let original = Bytes::copy_from_slice(datum);
                events(Err(Rejection { reason: problem.to_string(), original }));
                continue;
            }
            let key = self.key_of(own);
            let (id, datum) = schema_id.map_or((self.schema_id, own), |id| (id, datum));
            let mut value = Vec::with_capacity(FRAME_BYTES + datum.len());
            put_frame(&mut value, id);
            value.extend_from_slice(datum);
            events(Ok(EncodedEvent { key, value: value.into() }));
        }
        if !rest.is_empty() {
            let reason = format!("{} bytes too many at the end of a block", rest.len());
            events(Err(Rejection { reason, original: Bytes::copy_from_slice(rest) }));
        }
    }
}

impl<R: BufRead> ContainerEvents<R> {
    /// Hands the events of the next block to `take`, in order, and says how many the block has; `None` at the end of the file. `encoder` is
    /// the one that opened it.
    ///
    /// # Errors
    ///
    /// `Invalid` when the file is damaged here: what was handed on before is good.
    pub fn next_block(
        &mut self,
        encoder: &EventEncoder,
        mut take: impl FnMut(Result<EncodedEvent, Rejection>),
    ) -> Result<Option<usize>> {
        let Some(block) = self.container.next_block().map_err(no_container)? else { return Ok(None) };
        encoder.take_block(&block, &self.reading.resolution, self.schema_id, &mut take);
        Ok(Some(block.count))
    }
}

fn no_container(reason: String) -> LogError {
    LogError::Invalid(format!("not an Avro container file: {reason}"))
}

/// A container whose header has been read.
struct Container<R> {
    schema: String,
    codec: Codec,
    sync: [u8; SYNC_BYTES],
    blocks: R,
    /// Of the next block, from 0.
    number: usize,
}

struct Block {
    count: usize,
    datums: Vec<u8>,
}

impl<R: BufRead> Container<R> {
    fn open(mut file: R) -> Result<Self, String> {
        let input = &mut file;
        let magic = bytes(input, MAGIC.len()).map_err(|error| error.to_string())?;
        if magic.as_deref() != Some(MAGIC) {
            return Err("it does not begin with \"Obj\" and 1".to_owned());
        }
        let (mut schema, mut codec) = (None, Codec::Null);
        let short = || "the header is cut short".to_owned();
        loop {
            let mut count = long(input)?.ok_or_else(short)?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // The block's size, which we have no use for.
                long(input)?.ok_or_else(short)?;
                count = count.checked_neg().ok_or_else(short)?;
            }
            // Each entry takes bytes, so a count that lies runs into the end.
            for _ in 0..count {
                let key = prefixed(input, MAX_HEADER_BYTES)?.ok_or_else(short)?;
                let value = prefixed(input, MAX_HEADER_BYTES)?.ok_or_else(short)?;
                let text = || std::str::from_utf8(&value).map_err(|_| "the header is not UTF-8");
                match &key[..] {
                    b"avro.schema" => schema = Some(text()?.to_owned()),
                    b"avro.codec" => {
                        codec = Codec::from_str(text()?).map_err(|_| format!("unknown codec {:?}", text()))?;
                    }
                    _ => {}
                }
            }
        }
        let mut sync = [0; SYNC_BYTES];
        sync.copy_from_slice(&bytes(input, SYNC_BYTES).map_err(|error| error.to_string())?.ok_or_else(short)?);
        Ok(Self { schema: schema.ok_or("the header has no schema")?, codec, sync, blocks: file, number: 0 })
    }

    /// Unpacks the next block; `None` at the end.
    fn next_block(&mut self) -> Result<Option<Block>, String> {
        let number = self.number;
        let input = &mut self.blocks;
        let failed = |error: io::Error| format!("block {number}: {error}");
        if input.fill_buf().map_err(failed)?.is_empty() {
            return Ok(None);
        }
        // The limit of `apache-avro` is one for the whole process and can be set once; this only makes it smaller.
        let limit = apache_avro::util::max_allocation_bytes(MAX_BLOCK_BYTES).min(MAX_BLOCK_BYTES);
        let short = || format!("block {number} is cut short");
        let count = long(input)?.and_then(|count| usize::try_from(count).ok()).ok_or_else(short)?;
        let mut datums = prefixed(input, MAX_PACKED_BYTES)?.ok_or_else(short)?;
        if bytes(input, SYNC_BYTES).map_err(failed)?.ok_or_else(short)? != self.sync {
            return Err(format!("block {number} does not end with the sync marker"));
        }
        self.codec.decompress(&mut datums).map_err(|e| format!("block {number}: {e}"))?;
        if datums.len() > limit {
            return Err(format!("block {number} unpacks to more than {limit} bytes"));
        }
        if count > datums.len() {
            return Err(format!("block {number} says it has {count} events in {} bytes", datums.len()));
        }
        self.number += 1;
        Ok(Some(Block { count, datums }))
    }

    /// Unpacks every block, within the limits of an upload.
    fn every_block(&mut self) -> Result<Vec<Block>, String> {
        let mut blocks = Vec::new();
        let (mut total, mut events) = (0, 0);
        while let Some(block) = self.next_block()? {
            total += block.datums.len();
            if total > MAX_FILE_BYTES {
                return Err(format!("it unpacks to more than {MAX_FILE_BYTES} bytes"));
            }
            events += block.count;
            if events > MAX_EVENTS || blocks.len() >= MAX_BLOCKS {
                return Err(format!("it has more than {MAX_EVENTS} events or {MAX_BLOCKS} blocks"));
            }
            blocks.push(block);
        }
        Ok(blocks)
    }
}

/// Reads so many bytes; `None` when there are fewer. A length is never believed before the bytes are there.
fn bytes(input: &mut impl BufRead, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut read = Vec::with_capacity(length.min(1 << 20));
    input.take(length as u64).read_to_end(&mut read)?;
    Ok((read.len() == length).then_some(read))
}

/// Reads bytes with their length before them; `None` when there are fewer.
fn prefixed(input: &mut impl BufRead, most: usize) -> Result<Option<Vec<u8>>, String> {
    let Some(length) = long(input)?.and_then(|length| usize::try_from(length).ok()) else { return Ok(None) };
    if length > most {
        // Only bytes that are there are too many.
        let there = io::copy(&mut input.take(length as u64), &mut io::sink()).map_err(|error| error.to_string())?;
        return if there < length as u64 { Ok(None) } else { Err(format!("{length} bytes in one piece are too many")) };
    }
    bytes(input, length).map_err(|error| error.to_string())
}

/// Reads a number; `None` when the input ends before it does, or it is none.
fn long(input: &mut impl BufRead) -> Result<Option<i64>, String> {
    let mut number = Vec::with_capacity(10);
    for byte in input.take(10).bytes() {
        let byte = byte.map_err(|error| error.to_string())?;
        number.push(byte);
        if byte < 0x80 {
            break;
        }
    }
    Ok(get_long(&mut number.as_slice()))
}
