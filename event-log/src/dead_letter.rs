//! Dead letters: what could not be accepted or decoded, kept with the reason and the original bytes in the topic
//! `{topic}.dead-letters`.
//!
//! What a request brought is put there before the request is answered. For events that others wrote into the log there is one rule:
//! *whoever takes a view past an event that cannot be decoded has put it into the dead letters before.* The speed layer does
//! so before it writes deltas and progress. Where a published frontier lets it jump, the batch layer has done so before it
//! published, unless they were there already. So none is missing; after a crash in between, one may be there twice, under the
//! same key: its place.

use std::sync::Arc;

use bytes::Bytes;
use views::{Offset, TopicPartition};

use crate::encode::wire::{get_bytes, get_long, put_bytes, put_frame, put_long, split_frame};
use crate::error::{LogError, Result};
use crate::log::{Content, EventLog, NewRecord, ReadLimit, TopicSpec};
use crate::registry::SchemaRegistry;

/// The Avro schema of dead letters, registered under `{topic}.dead-letters-value`.
pub const SCHEMA: &str = r#"{
  "type": "record",
  "name": "DeadLetter",
  "namespace": "tidemark",
  "fields": [
    {"name": "reason", "type": "string"},
    {"name": "topic", "type": "string"},
    {"name": "origin", "type": {"type": "enum", "name": "Origin", "symbols": ["http", "log"]}},
    {"name": "index", "type": ["null", "long"], "default": null},
    {"name": "partition", "type": ["null", "int"], "default": null},
    {"name": "offset", "type": ["null", "long"], "default": null},
    {"name": "content_type", "type": ["null", "string"], "default": null},
    {"name": "original", "type": "bytes"},
    {"name": "received_at", "type": {"type": "long", "logicalType": "timestamp-micros"}}
  ]
}"#;

/// How many records a segment of a dead-letter topic has.
const SEGMENT_RECORDS: u64 = 1 << 20;
/// How many bytes of originals one append takes.
const APPEND_BYTES: usize = 4 << 20;
const READ_RECORDS: usize = 4096;

/// The topic that takes the dead letters of `topic`.
pub fn topic_of(topic: &str) -> TopicSpec {
    TopicSpec { name: format!("{topic}.dead-letters"), partitions: 1, segment_records: SEGMENT_RECORDS }
}

/// An event of the log that cannot be decoded.
#[derive(Debug, Clone)]
pub struct Undecodable {
    /// Its place in its partition.
    pub offset: Offset,
    /// Why it cannot be decoded.
    pub reason: String,
    /// The bytes as they are in the log.
    pub original: Bytes,
}

/// Puts events that are in the log and cannot be decoded into the dead letters of their topic.
#[derive(Clone)]
pub struct DeadLetters {
    log: Arc<dyn EventLog>,
    registry: Arc<dyn SchemaRegistry>,
}

impl DeadLetters {
    /// The dead letters of a log.
    pub fn new(log: Arc<dyn EventLog>, registry: Arc<dyn SchemaRegistry>) -> Self {
        Self { log, registry }
    }

    /// Puts events of a partition there, in order. They are durable when this returns; after an error, some may be.
    ///
    /// # Errors
    ///
    /// Those of the log and the registry.
    pub async fn put(&self, of: &TopicPartition, events: Vec<Undecodable>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let topic = topic_of(&of.topic);
        let subject = crate::encode::value_subject(&topic.name);
        let schema_id = self.registry.register(&subject, SCHEMA).await?;
        if !self.log.topics().await?.iter().any(|known| known.name == topic.name) {
            self.log.create_topic(&topic).await?;
        }
        let to = TopicPartition::new(topic.name, 0);
        let received_at = chrono::Utc::now().timestamp_micros();
        let (mut letters, mut bytes) = (Vec::new(), 0);
        for Undecodable { offset, reason, original } in events {
            bytes += original.len() + reason.len();
            let origin = Origin::Log { partition: of.partition, offset };
            let topic = of.topic.to_string();
            let letter = DeadLetter { reason, topic, origin, content_type: None, original, received_at };
            letters.push(letter.to_record(schema_id));
            if bytes >= APPEND_BYTES {
                self.log.append(&to, std::mem::take(&mut letters)).await?;
                bytes = 0;
            }
        }
        if !letters.is_empty() {
            self.log.append(&to, letters).await?;
        }
        Ok(())
    }

    /// Names the place of every event of the log that is in the dead letters of `topic`.
    ///
    /// # Errors
    ///
    /// Those of the log.
    pub async fn places(&self, topic: &str, mut seen: impl FnMut(u32, Offset)) -> Result<()> {
        let topic = topic_of(topic).name;
        if !self.log.topics().await?.iter().any(|known| known.name == topic) {
            return Ok(());
        }
        let bounds = self.log.bounds(&topic).await?;
        let letters = TopicPartition::new(topic, 0);
        let mut from = bounds.first().map_or(0, |kept| kept.start);
        loop {
            let records = self.log.read(&letters, from, ReadLimit::records(READ_RECORDS)).await?;
            let Some(last) = records.last() else { return Ok(()) };
            from = last.offset + 1;
            for record in &records {
                if let Content::Event { key: Some(key), .. } = &record.content
                    && let Some((partition, offset)) = place_of(key)
                {
                    seen(partition, offset);
                }
            }
        }
    }
}

/// The key of a letter from the log: its place.
fn key_of(partition: u32, offset: Offset) -> Bytes {
    Bytes::from(format!("{partition}/{offset}"))
}

fn place_of(key: &[u8]) -> Option<(u32, Offset)> {
    let (partition, offset) = std::str::from_utf8(key).ok()?.split_once('/')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// Where a dead letter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A request: the event's index in its body, if it could be told apart.
    Http {
        /// From 0.
        index: Option<u64>,
    },
    /// A record of the topic, written by somebody else.
    Log {
        /// The record's partition.
        partition: u32,
        /// The record's offset.
        offset: Offset,
    },
}

/// Something that could not be accepted or decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why, with the path of the field.
    pub reason: String,
    /// The topic it was meant for.
    pub topic: String,
    /// Where it came from.
    pub origin: Origin,
    /// What the request said its body is.
    pub content_type: Option<String>,
    /// The bytes as they came.
    pub original: Bytes,
    /// When it was refused: microseconds since the epoch.
    pub received_at: i64,
}

impl DeadLetter {
    /// The record to append to the dead-letter topic; `schema_id` is that of [`SCHEMA`] in the registry.
    ///
    /// A letter from the log has a key, its place: whoever refuses the same record again writes the same key, so
    /// that repeats can be told.
    pub fn to_record(&self, schema_id: u32) -> NewRecord {
        let mut out = Vec::with_capacity(self.original.len() + self.reason.len() + 64);
        put_frame(&mut out, schema_id);
        put_bytes(&mut out, self.reason.as_bytes());
        put_bytes(&mut out, self.topic.as_bytes());
        let (symbol, index, partition, offset) = match self.origin {
            Origin::Http { index } => (0, index, None, None),
            Origin::Log { partition, offset } => (1, None, Some(partition), Some(offset)),
        };
        put_long(&mut out, symbol);
        put_optional(&mut out, index.map(|index| index as i64));
        put_optional(&mut out, partition.map(i64::from));
        put_optional(&mut out, offset.map(|offset| offset as i64));
        match &self.content_type {
            None => put_long(&mut out, 0),
            Some(text) => {
                put_long(&mut out, 1);
                put_bytes(&mut out, text.as_bytes());
            }
        }
        put_bytes(&mut out, &self.original);
        put_long(&mut out, self.received_at);
        let key = match self.origin {
            Origin::Http { .. } => None,
            Origin::Log { partition, offset } => Some(key_of(partition, offset)),
        };
        NewRecord::Event { key, value: out.into() }
    }

    /// Reads the value of a record of a dead-letter topic.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is not what [`Self::to_record`] writes.
    pub fn read(value: &Bytes) -> Result<Self> {
        Self::parse(value).ok_or_else(|| LogError::Damaged("a dead letter that is not one".to_owned()))
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (_, mut datum) = split_frame(value)?;
        let input = &mut datum;
        let reason = get_text(input)?;
        let topic = get_text(input)?;
        let symbol = get_long(input)?;
        let index = get_optional(input)?;
        let partition = get_optional(input)?;
        let offset = get_optional(input)?;
        let content_type = match get_long(input)? {
            0 => None,
            1 => Some(get_text(input)?),
            _ => return None,
        };
        let original = Bytes::copy_from_slice(get_bytes(input)?);
        let received_at = get_long(input)?;
        let origin = match (symbol, partition, offset) {
            (0, None, None) => Origin::Http { index: index.map(u64::try_from).transpose().ok()? },
            (1, Some(partition), Some(offset)) => {
                Origin::Log { partition: u32::try_from(partition).ok()?, offset: Offset::try_from(offset).ok()? }
            }
            _ => return None,
        };
        input.is_empty().then_some(Self { reason, topic, origin, content_type, original, received_at })
    }
}

fn put_optional(out: &mut Vec<u8>, value: Option<i64>) {
    put_long(out, value.is_some().into());
    if let Some(value) = value {
        put_long(out, value);
    }
}

fn get_optional(input: &mut &[u8]) -> Option<Option<i64>> {
    match get_long(input)? {
        0 => Some(None),
        1 => Some(Some(get_long(input)?)),
        _ => None,
    }
}

fn get_text(input: &mut &[u8]) -> Option<String> {
    String::from_utf8(get_bytes(input)?.to_vec()).ok()
}
