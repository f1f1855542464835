//! The Avro object container file of one segment: its header with what the archive knows of the segment, and its blocks.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use views::avro::Record as AvroRecord;
use views::{Offset, TopicPartition};

use crate::decode::resolve::Resolution;
use crate::encode::wire::{get_bytes, get_exact, get_long, put_bytes, put_long};
use crate::error::{LogError, Result};

/// The fields that a flat record has before the writer's own.
pub(super) const SYSTEM_FIELDS: [&str; 4] = ["_offset", "_append_time", "_key", "_size"];
/// The format that this code writes.
const VERSION: &str = "1";
const MAGIC: &[u8; 4] = b"Obj\x01";
/// How hard zstd tries: 8 % smaller than its usual 3, for a microsecond an event, once.
const LEVEL: i32 = 6;
const HEADER_CRC: &str = "tidemark.header_crc32";

/// How the events of a segment are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The writer's fields follow the system fields: any Avro reader can read the file.
    Flat {
        /// The schema id of every event.
        schema_id: u32,
    },
    /// Each event is the value as it was in the log, in one field of bytes.
    Framed,
}

/// What an object says of its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The partition.
    pub partition: TopicPartition,
    /// The segment's first offset: a cut.
    pub start: Offset,
    /// The next segment's first offset.
    pub end: Offset,
    /// How the events are laid out.
    pub layout: Layout,
    /// How many events there are.
    pub events: u64,
    /// The first and the last event's offset; `None` when there are no events.
    pub event_offsets: Option<(Offset, Offset)>,
    /// The append time of the last record of the segment; `None` when it has no records.
    pub last_append_time: Option<i64>,
    /// The highest marker number before the segment; 0 when there is none.
    pub marker_before: u64,
    /// The number and the append time of the marker that ends the segment, if one does. Its offset is `end - 1`.
    pub marker_after: Option<(u64, i64)>,
    /// The Avro schema of the file's records.
    pub schema: String,
}

/// The checksum and the length of everything after the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyCheck {
    pub(super) length: u64,
    pub(super) crc32: u32,
}

impl SegmentHeader {
    /// The bytes of the header.
    pub(super) fn encode(&self, body: BodyCheck) -> Vec<u8> {
        let (layout, schema_id) = match self.layout {
            Layout::Flat { schema_id } => ("flat", Some(schema_id.to_string())),
            Layout::Framed => ("framed", None),
        };
        let entries = [
            ("avro.schema", Some(self.schema.clone())),
            ("avro.codec", Some("zstandard".to_owned())),
            ("tidemark.version", Some(VERSION.to_owned())),
            ("tidemark.layout", Some(layout.to_owned())),
            ("tidemark.topic", Some(self.partition.topic.to_string())),
            ("tidemark.partition", Some(self.partition.partition.to_string())),
            ("tidemark.start", Some(self.start.to_string())),
            ("tidemark.end", Some(self.end.to_string())),
            ("tidemark.events", Some(self.events.to_string())),
            ("tidemark.first_offset", self.event_offsets.map(|(first, _)| first.to_string())),
            ("tidemark.last_offset", self.event_offsets.map(|(_, last)| last.to_string())),
            ("tidemark.last_append_time", self.last_append_time.map(|time| time.to_string())),
            ("tidemark.schema_id", schema_id),
            ("tidemark.marker_before", Some(self.marker_before.to_string())),
            ("tidemark.marker_after", self.marker_after.map(|(number, _)| number.to_string())),
            ("tidemark.marker_after_time", self.marker_after.map(|(_, time)| time.to_string())),
            ("tidemark.body_length", Some(body.length.to_string())),
            ("tidemark.body_crc32", Some(format!("{:08x}", body.crc32))),
        ];
        let present: Vec<(&str, String)> =
            entries.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let mut header = MAGIC.to_vec();
        put_long(&mut header, present.len() as i64 + 1);
        for (name, value) in present {
            put_bytes(&mut header, name.as_bytes());
            put_bytes(&mut header, value.as_bytes());
        }
        let crc = crc32fast::hash(&header);
        put_bytes(&mut header, HEADER_CRC.as_bytes());
        put_bytes(&mut header, format!("{crc:08x}").as_bytes());
        put_long(&mut header, 0);
        header.extend_from_slice(&sync_marker(&self.partition, self.start));
        header
    }

    /// Reads and verifies the header at the front of `object`, and says where the body begins.
    ///
    /// # Errors
    ///
    /// What differs from a header as it was written, in words.
    pub(super) fn decode(object: &[u8]) -> Result<(SegmentHeader, BodyCheck, usize), String> {
        let mut rest = object;
        if get_exact(&mut rest, MAGIC.len()) != Some(MAGIC) {
            return Err("it does not begin like an Avro object container file".to_owned());
        }
        let cut = || "its header is cut off or misshapen".to_owned();
        let mut fields = BTreeMap::new();
        for _ in 0..get_long(&mut rest).ok_or_else(cut)? {
            let crc = crc32fast::hash(&object[..object.len() - rest.len()]);
            let name = get_bytes(&mut rest).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(cut)?;
            let value = get_bytes(&mut rest).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(cut)?;
            if name == HEADER_CRC {
                if value != format!("{crc:08x}") {
                    return Err(format!("its header has checksum {crc:08x} and says {value}"));
                }
                fields.insert(name, value);
                break;
            }
            fields.insert(name, value);
        }
        if !fields.contains_key(HEADER_CRC) {
            return Err(format!("its header lacks {HEADER_CRC}"));
        }
        if get_exact(&mut rest, 1) != Some(&[0]) {
            return Err("its header does not end after its checksum".to_owned());
        }
        if fields.get("tidemark.version") != Some(&VERSION) {
            return Err(format!(
                "it has format version {:?}, this program reads {VERSION}",
                fields.get("tidemark.version")
            ));
        }
        let layout = match fields.get("tidemark.layout") {
            Some(&"flat") => Layout::Flat { schema_id: number(&fields, "tidemark.schema_id")? },
            Some(&"framed") => Layout::Framed,
            other => return Err(format!("its layout is {other:?}")),
        };
        let events = number(&fields, "tidemark.events")?;
        let header = SegmentHeader {
            partition: TopicPartition::new(
                *fields.get("tidemark.topic").ok_or("its header lacks tidemark.topic")?,
                number(&fields, "tidemark.partition")?,
            ),
            start: number(&fields, "tidemark.start")?,
            end: number(&fields, "tidemark.end")?,
            layout,
            events,
            event_offsets: match events {
                0 => None,
                _ => Some((number(&fields, "tidemark.first_offset")?, number(&fields, "tidemark.last_offset")?)),
            },
            last_append_time: match fields.contains_key("tidemark.last_append_time") {
                true => Some(number(&fields, "tidemark.last_append_time")?),
                false => None,
            },
            marker_before: number(&fields, "tidemark.marker_before")?,
            marker_after: match fields.contains_key("tidemark.marker_after") {
                true => {
                    Some((number(&fields, "tidemark.marker_after")?, number(&fields, "tidemark.marker_after_time")?))
                }
                false => None,
            },
            schema: (*fields.get("avro.schema").ok_or("its header lacks avro.schema")?).to_owned(),
        };
        let crc32 = fields.get("tidemark.body_crc32").and_then(|text| u32::from_str_radix(text, 16).ok());
        let body = BodyCheck {
            length: number(&fields, "tidemark.body_length")?,
            crc32: crc32.ok_or("its header lacks tidemark.body_crc32")?,
        };
        if get_exact(&mut rest, 16) != Some(&sync_marker(&header.partition, header.start)) {
            return Err("its sync marker is not that of its topic, partition and start".to_owned());
        }
        Ok((header, body, object.len() - rest.len()))
    }
}

fn number<T: std::str::FromStr>(fields: &BTreeMap<&str, &str>, name: &str) -> Result<T, String> {
    let text = fields.get(name).ok_or_else(|| format!("its header lacks {name}"))?;
    text.parse().map_err(|_| format!("its header says {name} is {text:?}"))
}

/// The bytes between blocks: a hash of the segment's place (FNV-1a), so that everybody who writes the segment writes the same.
pub(super) fn sync_marker(partition: &TopicPartition, start: Offset) -> [u8; 16] {
    let place = format!("tidemark segment {partition}@{start}");
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    for byte in place.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    hash.to_be_bytes()
}

/// Appends a block: how many records, how many bytes, the compressed records, the sync marker.
pub(super) fn put_block(body: &mut Vec<u8>, events: u64, records: &[u8], sync: &[u8; 16]) -> Result<()> {
    let failed = |error| LogError::unavailable("compressing a block of a segment", error);
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
    compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true)).map_err(failed)?;
    let compressed = compressor.compress(records).map_err(failed)?;
    put_long(body, events as i64);
    put_bytes(body, &compressed);
    body.extend_from_slice(sync);
    Ok(())
}

/// A block of a verified body: how many events, and the compressed records.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) events: usize,
    pub(super) compressed: std::ops::Range<usize>,
}

/// Where the blocks of a body are.
///
/// # Errors
///
/// What is wrong with them, in words.
pub(super) fn blocks(body: &[u8], sync: &[u8; 16]) -> Result<Vec<Block>, String> {
    let mut rest = body;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let at = body.len() - rest.len();
        let wrong = || format!("its block at byte {at} of the body is misshapen");
        let events = get_long(&mut rest).and_then(|count| usize::try_from(count).ok()).ok_or_else(wrong)?;
        let size = get_bytes(&mut rest).ok_or_else(wrong)?.len();
        let end = body.len() - rest.len();
        if get_exact(&mut rest, 16) != Some(sync) {
            return Err(wrong());
        }
        found.push(Block { events, compressed: end - size..end });
    }
    Ok(found)
}

/// The schema of a file in which each event is its bytes.
pub(super) fn framed_schema() -> String {
    let mut fields = system_fields();
    fields.truncate(3);
    fields.push(json!({"name": "event", "type": "bytes"}));
    sorted(&json!({"type": "record", "name": "FramedEvent", "namespace": "tidemark", "fields": fields}))
}

/// The fields before the writer's own, in the order of [`SYSTEM_FIELDS`].
fn system_fields() -> Vec<Value> {
    vec![
        json!({"name": "_offset", "type": "long"}),
        json!({"name": "_append_time", "type": {"type": "long", "logicalType": "timestamp-micros"}}),
        json!({"name": "_key", "type": ["null", "bytes"], "default": null}),
        json!({"name": "_size", "type": "int"}),
    ]
}

/// A writer schema whose events can be laid flat.
pub(super) struct FlatSchema {
    /// Its id.
    pub(super) id: u32,
    /// The schema of the file.
    pub(super) file: String,
    /// Checks that bytes are one whole datum of the writer's, as the decoder does: one wrong datum would shift every
    /// datum after it in its block, for every reader of the file.
    pub(super) check: Resolution,
}

impl FlatSchema {
    /// How events of the writer schema are laid flat; `None` when they cannot be: it is not a record, or it has fields
    /// with the system fields' names, or it is not a valid schema.
    pub(super) fn of(id: u32, writer: &str) -> Option<FlatSchema> {
        let own = AvroRecord::parse(writer).ok()?;
        let check = Resolution::new(&own, &own).ok()?;
        let mut schema: Value = serde_json::from_str(writer).ok()?;
        let record = schema.as_object_mut().filter(|record| record.get("type") == Some(&json!("record")))?;
        let own_fields = record.get_mut("fields")?.as_array_mut()?;
        let taken = |field: &Value| field["name"].as_str().is_none_or(|name| SYSTEM_FIELDS.contains(&name));
        if own_fields.iter().any(taken) {
            return None;
        }
        let mut fields = system_fields();
        fields.append(own_fields);
        *own_fields = fields;
        let file = sorted(&schema);
        AvroRecord::parse(&file).ok()?;
        Some(FlatSchema { id, file, check })
    }
}

/// The writer schema of a flat file: its schema without the system fields.
pub(super) fn writer_schema(file: &str) -> Option<String> {
    let mut schema: Value = serde_json::from_str(file).ok()?;
    let fields = schema.get_mut("fields")?.as_array_mut()?;
    fields.drain(..SYSTEM_FIELDS.len().min(fields.len()));
    Some(sorted(&schema))
}

/// JSON text with the keys of every object in order, so that the same schema is always the same bytes.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let fields: BTreeMap<&String, &Value> = object.iter().collect();
            let fields = fields.into_iter().map(|(name, value)| format!("{}:{}", json!(name), sorted(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}
