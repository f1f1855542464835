//! Avro container files, as they are uploaded: bytes of strangers.
//!
//! The file is taken apart here rather than by `apache-avro`'s reader, because each datum goes into the log as it
//! is: checked, framed with the id of the file's own schema, never decoded into values. No length in the
//! file is trusted, and what it unpacks to is limited.

use std::str::FromStr as _;

use apache_avro::Codec;
use bytes::Bytes;
use views::avro::Record;

use super::path::Problem;
use super::wire::{FRAME_BYTES, get_bytes, get_exact, get_long, put_frame};
use super::{EncodedEvent, EventEncoder, Rejection};
use crate::decode::resolve::Resolution;
use crate::error::{LogError, Result};
use crate::registry::SchemaRegistry;

const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// How large one block may be, unpacked.
const MAX_BLOCK_BYTES: usize = 64 << 20;
/// How large all blocks of a file may be together, unpacked: what one append to the log takes.
const MAX_FILE_BYTES: usize = 128 << 20;
/// How many events and blocks a file may have. Each costs memory of its own, and a few bytes unpack to very many.
const MAX_EVENTS: usize = 1 << 20;
const MAX_BLOCKS: usize = 1 << 18;

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
        let invalid = |reason: String| LogError::Invalid(format!("not an Avro container file: {reason}"));
        let container = Container::open(file).map_err(invalid)?;
        let writer = Record::parse(&container.schema).map_err(invalid)?;
        let refused = |problem: &Problem| {
            LogError::Invalid(format!("the file's schema cannot be read as the schema of {}: {problem}", self.subject))
        };
        let resolution = Resolution::new(&writer, &self.record).map_err(|problem| refused(&problem))?;
        if let Some(gap) = resolution.gaps().first() {
            return Err(refused(gap));
        }
        let blocks = container.blocks().map_err(invalid)?;
        let schema_id = match registry.register(&self.subject, &container.schema).await {
            Ok(id) => Some(id),
            Err(LogError::Invalid(_)) => None,
            Err(e) => return Err(e),
        };
        let mut events = Vec::new();
        for block in blocks {
            self.take_block(&block, &resolution, schema_id, &mut events);
        }
        Ok(events)
    }

    fn take_block(
        &self,
        block: &Block,
        resolution: &Resolution,
        schema_id: Option<u32>,
        events: &mut Vec<Result<EncodedEvent, Rejection>>,
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
                Err(problem) => return events.push(Err(refuse(&problem))),
            };
            // The key is found in the event as the source's schema has it.
            let own = if resolution.is_identical() {
                datum
            } else {
                scratch.clear();
                if let Err(problem) = resolution.rewrite(datum, &mut scratch) {
                    return events.push(Err(refuse(&problem)));
                }
                scratch.as_slice()
            };
            if let Err(problem) = self.check_groups(own) {
                let original = Bytes::copy_from_slice(datum);
                events.push(Err(Rejection { reason: problem.to_string(), original }));
                continue;
            }
            let key = self.key_of(own);
            let (id, datum) = schema_id.map_or((self.schema_id, own), |id| (id, datum));
            let mut value = Vec::with_capacity(FRAME_BYTES + datum.len());
            put_frame(&mut value, id);
            value.extend_from_slice(datum);
            events.push(Ok(EncodedEvent { key, value: value.into() }));
        }
        if !rest.is_empty() {
            let reason = format!("{} bytes too many at the end of a block", rest.len());
            events.push(Err(Rejection { reason, original: Bytes::copy_from_slice(rest) }));
        }
    }
}

/// A container whose header has been read.
struct Container<'a> {
    schema: String,
    codec: Codec,
    sync: &'a [u8],
    blocks: &'a [u8],
}

struct Block {
    count: usize,
    datums: Vec<u8>,
}

impl<'a> Container<'a> {
    fn open(file: &'a [u8]) -> Result<Self, String> {
        let input = &mut file.strip_prefix(MAGIC).ok_or("it does not begin with \"Obj\" and 1")?;
        let (mut schema, mut codec) = (None, Codec::Null);
        let short = "the header is cut short";
        loop {
            let mut count = get_long(input).ok_or(short)?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // The block's size, which we have no use for.
                get_long(input).ok_or(short)?;
                count = count.checked_neg().ok_or(short)?;
            }
            // Each entry takes bytes, so a count that lies runs into the end.
            for _ in 0..count {
                let (key, value) = (get_bytes(input).ok_or(short)?, get_bytes(input).ok_or(short)?);
                let text = || std::str::from_utf8(value).map_err(|_| "the header is not UTF-8");
                match key {
                    b"avro.schema" => schema = Some(text()?.to_owned()),
                    b"avro.codec" => {
                        codec = Codec::from_str(text()?).map_err(|_| format!("unknown codec {:?}", text()))?;
                    }
                    _ => {}
                }
            }
        }
        let sync = get_exact(input, SYNC_BYTES).ok_or(short)?;
        Ok(Self { schema: schema.ok_or("the header has no schema")?, codec, sync, blocks: input })
    }

    /// Unpacks every block. A file that is damaged anywhere is refused whole, before anything of it is appended.
    fn blocks(&self) -> Result<Vec<Block>, String> {
        // The limit of `apache-avro` is one for the whole process and can be set once; this only makes it smaller.
        let limit = apache_avro::util::max_allocation_bytes(MAX_BLOCK_BYTES);
        let mut input = self.blocks;
        let mut blocks = Vec::new();
        let (mut total, mut events) = (0usize, 0usize);
        while !input.is_empty() {
            let number = blocks.len();
            let short = || format!("block {number} is cut short");
            let count = get_long(&mut input).and_then(|count| usize::try_from(count).ok()).ok_or_else(short)?;
            let packed = get_bytes(&mut input).ok_or_else(short)?;
            if get_exact(&mut input, SYNC_BYTES).ok_or_else(short)? != self.sync {
                return Err(format!("block {number} does not end with the sync marker"));
            }
            let mut datums = packed.to_vec();
            self.codec.decompress(&mut datums).map_err(|e| format!("block {number}: {e}"))?;
            total += datums.len();
            if datums.len() > limit.min(MAX_BLOCK_BYTES) || total > MAX_FILE_BYTES {
                return Err(format!(
                    "it unpacks to more than {MAX_BLOCK_BYTES} bytes a block or {MAX_FILE_BYTES} in all"
                ));
            }
            if count > datums.len() {
                return Err(format!("block {number} says it has {count} events in {} bytes", datums.len()));
            }
            events += count;
            if events > MAX_EVENTS || number >= MAX_BLOCKS {
                return Err(format!("it has more than {MAX_EVENTS} events or {MAX_BLOCKS} blocks"));
            }
            blocks.push(Block { count, datums });
        }
        Ok(blocks)
    }
}
