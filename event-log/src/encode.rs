//! Events to Avro: JSON objects and Avro container files become framed records with the key that chooses their
//! partition.
//!
//! JSON maps to Avro like this. A nullable field takes the plain value or `null`; another union takes the first branch
//! that accepts the value, so a number is an `int` before it is a `double` and a string is base64 `bytes` before it is a
//! `string` when the schema lists them so. Absent fields take the schema's default; fields the schema does not know are
//! refused. Integers are plain digits (`1.0` is not an int). Bytes and fixed are base64. Dates, times and timestamps are text
//! or an integer in the schema's unit; finer digits than the unit has are cut off. Decimals are numbers or strings.

pub(crate) mod container;
pub(crate) mod json;
pub(crate) mod path;
pub(crate) mod value;
pub(crate) mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use datafusion::arrow::datatypes::i256;
use uuid::Uuid;
use views::avro::{Record, Type};
use views::{Source, View};

pub use container::ContainerEvents;

use crate::decode::resolve::Resolution;
use crate::error::{LogError, Result};
use json::Json;
use path::Problem;
use value::{FieldNode, Node, encode_record};
use wire::{get_bytes, get_long, put_frame};

/// The subject under which the registry keeps the schemas of a topic's events.
pub fn value_subject(topic: &str) -> String {
    format!("{topic}-value")
}

/// An event, ready to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedEvent {
    /// The key field's value as UTF-8 text; `None` when it is null or the source has no key.
    pub key: Option<Bytes>,
    /// The Avro datum in Confluent framing.
    pub value: Bytes,
}

/// An event that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Why, with the path of the field.
    pub reason: String,
    /// The bytes as they came.
    pub original: Bytes,
}

/// Encodes the events of one source.
#[derive(Debug)]
pub struct EventEncoder {
    subject: String,
    schema_id: u32,
    record: Record,
    fields: Vec<FieldNode>,
    /// The schema read as itself: finds the key field in a datum.
    own: Resolution,
    key: Option<(usize, Type)>,
    /// Fields that may not be long together.
    short: Vec<Vec<usize>>,
}

/// How many bytes the fields that one view groups by may have together. The view can then keep the group, unless its
/// expressions make something much longer of them.
pub const MAX_GROUP_FIELDS: usize = 56 << 10;

impl EventEncoder {
    /// An encoder for `source`, whose schema has `schema_id` in the registry.
    ///
    /// # Errors
    ///
    /// `Invalid` when the schema has a default that does not fit, or the key field cannot be a key.
    pub fn new(source: &Source, schema_id: u32) -> Result<Self> {
        let invalid = |reason: String| LogError::Invalid(format!("schema of {}: {reason}", source.name));
        let record = Record::parse(&source.avro).map_err(invalid)?;
        let fields = Node::record(&record).map_err(|problem| invalid(problem.to_string()))?;
        let own = Resolution::new(&record, &record).map_err(|problem| invalid(problem.to_string()))?;
        let key = match &source.key {
            None => None,
            Some(name) => {
                let index = record.fields.iter().position(|field| field.name == *name);
                let index = index.ok_or_else(|| invalid(format!("no field is named {name:?}, the key")))?;
                let data = record.fields[index].data.clone();
                if !can_be_key(&data) {
                    return Err(invalid(format!("the field {name:?} has parts and cannot be the key")));
                }
                Some((index, data))
            }
        };
        Ok(Self { subject: value_subject(&source.name), schema_id, record, fields, own, key, short: Vec::new() })
    }

    /// The same encoder, which also refuses events whose groups these views could not keep (see [`MAX_GROUP_FIELDS`]): a view
    /// stops at such an event, so it must not be acknowledged.
    pub fn for_views<'v>(mut self, views: impl IntoIterator<Item = &'v View>) -> Self {
        self.short = views.into_iter().map(View::group_fields).filter(|fields| !fields.is_empty()).collect();
        self
    }

    /// Encodes one JSON object.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with the event.
    pub fn json(&self, event: &[u8]) -> Result<EncodedEvent, Rejection> {
        self.json_event(event).map_err(|problem| rejection(&problem, event))
    }

    fn json_event(&self, event: &[u8]) -> Result<EncodedEvent, Problem> {
        let json = Json::parse(event)?;
        let mut out = Vec::with_capacity(event.len() + wire::FRAME_BYTES);
        put_frame(&mut out, self.schema_id);
        let mut key_span = None;
        let key_index = self.key.as_ref().map(|(index, _)| *index);
        encode_record(&self.fields, &json, &mut out, |index, at| match (key_index, key_span) {
            (Some(key), None) if index == key => key_span = Some((at, usize::MAX)),
            (_, Some((start, usize::MAX))) => key_span = Some((start, at)),
            _ => {}
        })?;
        let key = match (&self.key, key_span) {
            (Some((_, data)), Some((start, end))) => key_text(data, &out[start..end.min(out.len())]),
            _ => None,
        };
        self.check_groups(&out[wire::FRAME_BYTES..])?;
        Ok(EncodedEvent { key, value: out.into() })
    }

    /// Refuses a datum of the source's own schema that some view could not group.
    fn check_groups(&self, datum: &[u8]) -> Result<(), Problem> {
        if datum.len() <= MAX_GROUP_FIELDS {
            return Ok(());
        }
        for fields in &self.short {
            let length = |index: &usize| self.own.field(datum, *index).map_or(0, <[u8]>::len);
            let all: usize = fields.iter().map(length).sum();
            if all > MAX_GROUP_FIELDS
                && let Some(longest) = fields.iter().max_by_key(|index| length(index))
            {
                let problem = Problem::new(format!(
                    "{} bytes are too many: what a view groups by may have {MAX_GROUP_FIELDS} together",
                    length(longest)
                ));
                return Err(problem.within_field(&self.record.fields[*longest].name));
            }
        }
        Ok(())
    }

    /// The key in a datum of the source's own schema.
    fn key_of(&self, datum: &[u8]) -> Option<Bytes> {
        let (index, data) = self.key.as_ref()?;
        key_text(data, self.own.field(datum, *index).ok()?)
    }
}

fn rejection(problem: &Problem, original: &[u8]) -> Rejection {
    Rejection { reason: problem.to_string(), original: Bytes::copy_from_slice(original) }
}

fn can_be_key(data: &Type) -> bool {
    match data {
        Type::Array(_) | Type::Map(_) | Type::Record(_) => false,
        Type::Union(branches) => branches.iter().all(can_be_key),
        _ => true,
    }
}

/// A value as the text of a key: strings as they are, numbers in decimal, bytes in base64; null is no key.
fn key_text(data: &Type, mut value: &[u8]) -> Option<Bytes> {
    let input = &mut value;
    let text = match data {
        Type::Null | Type::Array(_) | Type::Map(_) | Type::Record(_) => return None,
        Type::String | Type::Uuid => return Some(Bytes::copy_from_slice(get_bytes(input)?)),
        Type::Boolean => (*input == [1]).to_string(),
        Type::Int | Type::Long | Type::Date | Type::TimeMillis | Type::TimeMicros | Type::Timestamp { .. } => {
            get_long(input)?.to_string()
        }
        Type::Float => f32::from_le_bytes((*input).try_into().ok()?).to_string(),
        Type::Double => f64::from_le_bytes((*input).try_into().ok()?).to_string(),
        Type::Bytes => STANDARD.encode(get_bytes(input)?),
        Type::Fixed(_) | Type::Duration(_) => STANDARD.encode(*input),
        Type::FixedUuid(_) => match Uuid::from_slice(input) {
            Ok(uuid) => uuid.to_string(),
            Err(_) => STANDARD.encode(*input),
        },
        Type::Decimal { scale, fixed, .. } => {
            decimal_text(if fixed.is_some() { input } else { get_bytes(input)? }, *scale)
        }
        Type::Enum(e) => e.symbols.get(usize::try_from(get_long(input)?).ok()?)?.clone(),
        Type::Union(branches) => {
            let branch = usize::try_from(get_long(input)?).ok()?;
            return key_text(branches.get(branch)?, input);
        }
    };
    Some(text.into())
}

fn decimal_text(bytes: &[u8], scale: usize) -> String {
    let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [sign; 32];
    // A longer one was refused before.
    let kept = &bytes[bytes.len().saturating_sub(32)..];
    wide[32 - kept.len()..].copy_from_slice(kept);
    let digits = i256::from_be_bytes(wide).to_string();
    let (minus, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits.as_str()),
    };
    if scale == 0 {
        return format!("{minus}{digits}");
    }
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{minus}{whole}.{fraction}")
}

/// The partition of a key, as Kafka's producers choose it. A topic without partitions has none to choose; then 0.
pub fn partition_for(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0)
}

/// Austin Appleby's MurmurHash2, with the seed Kafka uses.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ key.len() as u32;
    let (chunks, tail) = key.as_chunks::<4>();
    for chunk in chunks {
        let mut k = u32::from_le_bytes(*chunk).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}
