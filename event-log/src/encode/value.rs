//! JSON values to Avro binary, schema in hand; and the defaults of a schema to Avro binary.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, Timelike as _};
use datafusion::arrow::datatypes::i256;
use serde_json::Value;
use uuid::Uuid;
use views::avro::{Record, Type, Unit};

use super::json::Json;
use super::path::Problem;
use super::wire::{put_bytes, put_long};

/// Arrow's widest decimal.
const MAX_PRECISION: usize = 76;
const MILLIS_PER_DAY: i64 = 86_400_000;
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A type, ready to encode: what [`Type`] says, with defaults as Avro binary.
#[derive(Debug)]
pub(crate) enum Node {
    Leaf(Type),
    Array(Box<Node>),
    Map(Box<Node>),
    Union(Vec<Node>),
    Record(Vec<FieldNode>),
}

#[derive(Debug)]
pub(crate) struct FieldNode {
    pub(crate) name: String,
    pub(crate) node: Node,
    pub(crate) default: Option<Vec<u8>>,
}

impl Node {
    /// Prepares a record.
    ///
    /// # Errors
    ///
    /// The path and the reason when a default does not fit its field.
    pub(crate) fn record(record: &Record) -> Result<Vec<FieldNode>, Problem> {
        let mut fields = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let at = |problem: Problem| problem.within_field(&field.name);
            let default = field.default.as_ref().map(|value| default_bytes(&field.data, value)).transpose();
            fields.push(FieldNode {
                name: field.name.clone(),
                node: Self::new(&field.data).map_err(at)?,
                default: default.map_err(at)?,
            });
        }
        Ok(fields)
    }

    fn new(data: &Type) -> Result<Self, Problem> {
        Ok(match data {
            Type::Array(items) => Self::Array(Box::new(Self::new(items)?)),
            Type::Map(values) => Self::Map(Box::new(Self::new(values)?)),
            Type::Union(branches) => Self::Union(branches.iter().map(Self::new).collect::<Result<_, _>>()?),
            Type::Record(record) => Self::Record(Self::record(record)?),
            Type::Decimal { precision, .. } if *precision > MAX_PRECISION => {
                return Err(Problem::new(format!("a decimal of {precision} digits: at most {MAX_PRECISION}")));
            }
            leaf => Self::Leaf(leaf.clone()),
        })
    }

    /// Appends `json` as Avro binary. What was appended before an error must be cut off by the caller.
    pub(crate) fn encode(&self, json: &Json<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
        match self {
            Self::Leaf(data) => leaf(data, json, out),
            Self::Array(items) => {
                let Json::Array(given) = json else { return Err(expected("an array", json)) };
                if !given.is_empty() {
                    put_long(out, given.len() as i64);
                    for (i, item) in given.iter().enumerate() {
                        items.encode(item, out).map_err(|problem| problem.within_item(i))?;
                    }
                }
                out.push(0);
                Ok(())
            }
            Self::Map(values) => {
                let Json::Object(given) = json else { return Err(expected("an object", json)) };
                if !given.is_empty() {
                    put_long(out, given.len() as i64);
                    for (key, value) in given {
                        put_bytes(out, key.as_bytes());
                        values.encode(value, out).map_err(|problem| problem.within_key(key))?;
                    }
                }
                out.push(0);
                Ok(())
            }
            Self::Union(branches) => union(branches, json, out),
            Self::Record(fields) => encode_record(fields, json, out, |_, _| ()),
        }
    }
}

/// Appends a record, and tells where each field begins in `out`, before it is written.
pub(crate) fn encode_record(
    fields: &[FieldNode],
    json: &Json<'_>,
    out: &mut Vec<u8>,
    mut begins: impl FnMut(usize, usize),
) -> Result<(), Problem> {
    let Json::Object(members) = json else { return Err(expected("an object", json)) };
    let mut used = 0;
    // Producers mostly write fields in the order of the schema, so the next member is tried first.
    let mut next = 0;
    for (index, field) in fields.iter().enumerate() {
        begins(index, out.len());
        let found = match members.get(next) {
            Some((name, _)) if *name == field.name => Some(next),
            _ => members.iter().position(|(name, _)| *name == field.name),
        };
        match found {
            Some(i) => {
                used += 1;
                next = i + 1;
                field.node.encode(&members[i].1, out).map_err(|problem| problem.within_field(&field.name))?;
            }
            None => match &field.default {
                Some(default) => out.extend_from_slice(default),
                None => {
                    return Err(Problem::new("missing, and the schema has no default for it").within_field(&field.name));
                }
            },
        }
    }
    // Names in an object differ, so every member was used exactly when the counts agree.
    if used < members.len() {
        let unknown = members.iter().find(|(name, _)| !fields.iter().any(|field| field.name == *name));
        if let Some((name, _)) = unknown {
            return Err(Problem::new("the schema has no such field").within_field(name));
        }
    }
    Ok(())
}

/// The first branch that takes the value. `null` is taken by the null branch only.
fn union(branches: &[Node], json: &Json<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    let start = out.len();
    // The branch that got deepest into the value is the one the producer most likely meant.
    let mut closest: Option<Problem> = None;
    let mut tried = 0;
    for (index, branch) in branches.iter().enumerate() {
        let is_null = matches!(branch, Node::Leaf(Type::Null));
        if is_null != (*json == Json::Null) {
            continue;
        }
        tried += 1;
        put_long(out, index as i64);
        match branch.encode(json, out) {
            Ok(()) => return Ok(()),
            Err(problem) => {
                out.truncate(start);
                if closest.as_ref().is_none_or(|c| problem.depth() > c.depth()) {
                    closest = Some(problem);
                }
            }
        }
    }
    match closest {
        Some(problem) if tried == 1 || problem.depth() > 0 => Err(problem),
        _ => Err(Problem::new(format!(
            "expected {}, found {}",
            branches.iter().map(Node::name).collect::<Vec<_>>().join(" or "),
            json.shown()
        ))),
    }
}

impl Node {
    fn name(&self) -> &'static str {
        match self {
            Self::Array(_) => "an array",
            Self::Map(_) | Self::Record(_) => "an object",
            Self::Union(_) => "a union",
            Self::Leaf(data) => expectation(data),
        }
    }
}

/// What JSON a type takes.
fn expectation(data: &Type) -> &'static str {
    match data {
        Type::Null => "null",
        Type::Boolean => "a boolean",
        Type::Int => "an int",
        Type::Long => "a long",
        Type::Float => "a float",
        Type::Double => "a double",
        Type::Bytes => "bytes in base64",
        Type::String => "a string",
        Type::Uuid | Type::FixedUuid(_) => "a UUID",
        Type::Date => "a date (2026-11-20, or days since 1970-01-01)",
        Type::TimeMillis => "a time of day (10:00:00.000, or milliseconds since midnight)",
        Type::TimeMicros => "a time of day (10:00:00.000000, or microseconds since midnight)",
        Type::Timestamp { unit, local } => match (unit, local) {
            (Unit::Millis, false) => "a timestamp (RFC 3339, or milliseconds since 1970)",
            (Unit::Micros, false) => "a timestamp (RFC 3339, or microseconds since 1970)",
            (Unit::Nanos, false) => "a timestamp (RFC 3339, or nanoseconds since 1970)",
            (Unit::Millis, true) => "a local timestamp (2026-11-20T10:00:00, or milliseconds since 1970)",
            (Unit::Micros, true) => "a local timestamp (2026-11-20T10:00:00, or microseconds since 1970)",
            (Unit::Nanos, true) => "a local timestamp (2026-11-20T10:00:00, or nanoseconds since 1970)",
        },
        Type::Decimal { .. } => "a decimal",
        Type::Fixed(_) => "bytes in base64",
        Type::Duration(_) => "a duration (12 bytes in base64)",
        Type::Enum(_) => "a symbol",
        Type::Array(_) => "an array",
        Type::Map(_) | Type::Record(_) => "an object",
        Type::Union(_) => "a union",
    }
}

fn expected(what: &str, found: &Json<'_>) -> Problem {
    Problem::new(format!("expected {what}, found {}", found.shown()))
}

fn leaf(data: &Type, json: &Json<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    let wrong = || expected(expectation(data), json);
    let out_of_range = || Problem::new(format!("{} is out of range for {}", json.shown(), expectation(data)));
    match (data, json) {
        (Type::Null, Json::Null) => {}
        (Type::Boolean, Json::Bool(value)) => out.push(u8::from(*value)),
        (Type::Int | Type::Date, Json::Number(text)) if is_integer(text) => {
            put_long(out, text.parse::<i32>().map_err(|_| out_of_range())?.into());
        }
        (Type::Long, Json::Number(text)) if is_integer(text) => {
            put_long(out, text.parse().map_err(|_| out_of_range())?);
        }
        (Type::Timestamp { unit, .. }, Json::Number(text)) if is_integer(text) => {
            put_timestamp(out, text.parse().ok(), *unit, json)?;
        }
        (Type::Float, Json::Number(text)) => {
            let value: f32 = text.parse().map_err(|_| wrong())?;
            if !value.is_finite() {
                return Err(out_of_range());
            }
            out.extend_from_slice(&value.to_le_bytes());
        }
        (Type::Double, Json::Number(text)) => {
            let value: f64 = text.parse().map_err(|_| wrong())?;
            if !value.is_finite() {
                return Err(out_of_range());
            }
            out.extend_from_slice(&value.to_le_bytes());
        }
        (Type::String, Json::String(text)) => put_bytes(out, text.as_bytes()),
        (Type::Bytes, Json::String(text)) => put_bytes(out, &BASE64.decode(text.as_bytes()).map_err(|_| wrong())?),
        (Type::Fixed(fixed) | Type::Duration(fixed), Json::String(text)) => {
            let bytes = BASE64.decode(text.as_bytes()).map_err(|_| wrong())?;
            if bytes.len() != fixed.size {
                return Err(Problem::new(format!("expected {} bytes in base64, found {}", fixed.size, bytes.len())));
            }
            out.extend_from_slice(&bytes);
        }
        (Type::Uuid, Json::String(text)) => {
            let uuid = uuid(text).ok_or_else(wrong)?;
            let mut buffer = Uuid::encode_buffer();
            put_bytes(out, uuid.hyphenated().encode_lower(&mut buffer).as_bytes());
        }
        (Type::FixedUuid(_), Json::String(text)) => out.extend_from_slice(uuid(text).ok_or_else(wrong)?.as_bytes()),
        (Type::Enum(e), Json::String(text)) => {
            let Some(index) = e.symbols.iter().position(|symbol| symbol == text) else {
                return Err(expected(&format!("one of {}", e.symbols.join(", ")), json));
            };
            put_long(out, index as i64);
        }
        (Type::Date, Json::String(text)) => put_long(out, days(text).ok_or_else(wrong)?.into()),
        (Type::TimeMillis, Json::Number(text)) if is_integer(text) => {
            put_long(out, time_of_day(text, MILLIS_PER_DAY).ok_or_else(out_of_range)?);
        }
        (Type::TimeMicros, Json::Number(text)) if is_integer(text) => {
            put_long(out, time_of_day(text, MILLIS_PER_DAY * 1000).ok_or_else(out_of_range)?);
        }
        (Type::TimeMillis, Json::String(text)) => put_long(out, clock_nanos(text).ok_or_else(wrong)? / 1_000_000),
        (Type::TimeMicros, Json::String(text)) => put_long(out, clock_nanos(text).ok_or_else(wrong)? / 1_000),
        (Type::Timestamp { unit, local }, Json::String(text)) => {
            let time = if *local { local_time(text) } else { rfc3339(text) }.ok_or_else(wrong)?;
            put_timestamp(out, since_epoch(time, *unit), *unit, json)?;
        }
        (Type::Decimal { precision, scale, fixed }, Json::Number(_) | Json::String(_)) => {
            let text = match json {
                Json::String(text) => text.as_ref(),
                Json::Number(text) => text,
                _ => return Err(wrong()),
            };
            let unscaled = decimal(text, *precision, *scale).map_err(|reason| match reason {
                Some(reason) => Problem::new(format!("{} {reason}", json.shown())),
                None => wrong(),
            })?;
            put_decimal(out, unscaled, fixed.as_ref().map(|fixed| fixed.size));
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// JSON does not tell 1 from 1.0, people who write 1.5 for an int do: only plain digits are integers.
fn is_integer(text: &str) -> bool {
    text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit())
}

fn uuid(text: &str) -> Option<Uuid> {
    // The hyphenated form only: one value, one text.
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

fn days(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    let epoch = NaiveDate::default();
    // chrono also takes 2026-1-2; one date has one text here.
    (text.len() == 10 || date.year() > 9999).then(|| (date - epoch).num_days()).and_then(|days| days.try_into().ok())
}

fn time_of_day(text: &str, end: i64) -> Option<i64> {
    text.parse().ok().filter(|value| (0..end).contains(value))
}

fn clock_nanos(text: &str) -> Option<i64> {
    let time = NaiveTime::parse_from_str(text, "%H:%M:%S%.f").ok()?;
    // A leap second has no place in a day of 86,400.
    (time.nanosecond() < 1_000_000_000)
        .then(|| i64::from(time.num_seconds_from_midnight()) * 1_000_000_000 + i64::from(time.nanosecond()))
}

fn rfc3339(text: &str) -> Option<NaiveDateTime> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.naive_utc())
}

fn local_time(text: &str) -> Option<NaiveDateTime> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()
}

fn put_timestamp(out: &mut Vec<u8>, time: Option<i64>, unit: Unit, json: &Json<'_>) -> Result<(), Problem> {
    let Some(time) = time.filter(|time| unit.accepted().contains(time)) else {
        return Err(Problem::new(format!("{} is not within the years 1678 to 2261", json.shown())));
    };
    put_long(out, time);
    Ok(())
}

/// Digits finer than the unit are cut off, towards the past.
fn since_epoch(time: NaiveDateTime, unit: Unit) -> Option<i64> {
    let time = time.and_utc();
    match unit {
        Unit::Millis => Some(time.timestamp_millis()),
        Unit::Micros => Some(time.timestamp_micros()),
        Unit::Nanos => time.timestamp_nanos_opt(),
    }
}

/// The unscaled value of a decimal text. `Err(None)`: not a number at all.
fn decimal(text: &str, precision: usize, scale: usize) -> Result<i256, Option<String>> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| None)?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || (mantissa.contains('.') && fraction.is_empty())
    {
        return Err(None);
    }
    let digits: Cow<'_, str> =
        if fraction.is_empty() { Cow::Borrowed(whole) } else { Cow::Owned(format!("{whole}{fraction}")) };
    let significant = digits.trim_start_matches('0');
    let kept = significant.trim_end_matches('0');
    if kept.is_empty() {
        return Ok(i256::ZERO);
    }
    // value = kept * 10^power; its unscaled form has power + scale zeros more.
    let power = i64::from(exponent) - fraction.len() as i64 + (significant.len() - kept.len()) as i64;
    let zeros = power + scale as i64;
    if zeros < 0 {
        return Err(Some(format!("has more than {scale} digits after the point")));
    }
    if kept.len() as i64 + zeros > precision as i64 {
        return Err(Some(format!("has more than {} digits before the point", precision.saturating_sub(scale))));
    }
    let unscaled = format!("{}{kept}{}", if negative { "-" } else { "" }, "0".repeat(zeros as usize));
    i256::from_string(&unscaled).ok_or(None)
}

/// Appends the shortest two's complement, or as many bytes as the `fixed` has.
fn put_decimal(out: &mut Vec<u8>, unscaled: i256, size: Option<usize>) {
    let bytes = unscaled.to_be_bytes();
    let sign = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
    match size {
        Some(size) if size > bytes.len() => {
            out.extend(std::iter::repeat_n(sign, size - bytes.len()));
            out.extend_from_slice(&bytes);
        }
        // The schema's precision fits its size, so only copies of the sign are cut off.
        Some(size) => out.extend_from_slice(&bytes[bytes.len() - size..]),
        None => {
            let redundant = bytes.windows(2).take_while(|w| w[0] == sign && (w[1] ^ sign) & 0x80 == 0).count();
            put_bytes(out, &bytes[redundant..]);
        }
    }
}

/// The Avro binary of a default, which a schema writes in JSON of its own kind: bytes as characters up to U+00FF,
/// a union's default as one of its first branch.
pub(crate) fn default_bytes(data: &Type, default: &Value) -> Result<Vec<u8>, Problem> {
    let mut out = Vec::new();
    put_default(data, default, &mut out)?;
    Ok(out)
}

fn put_default(data: &Type, default: &Value, out: &mut Vec<u8>) -> Result<(), Problem> {
    let wrong = || Problem::new(format!("the default {default} is not {}", expectation(data)));
    match (data, default) {
        (Type::Null, Value::Null) => {}
        (Type::Boolean, Value::Bool(value)) => out.push(u8::from(*value)),
        (Type::Int | Type::Date | Type::TimeMillis, Value::Number(number)) => {
            let value = number.as_i64().and_then(|value| i32::try_from(value).ok()).ok_or_else(wrong)?;
            put_long(out, value.into());
        }
        (Type::Long | Type::TimeMicros | Type::Timestamp { .. }, Value::Number(number)) => {
            put_long(out, number.as_i64().ok_or_else(wrong)?);
        }
        (Type::Float, Value::Number(number)) => {
            let value = number.as_f64().ok_or_else(wrong)? as f32;
            if !value.is_finite() {
                return Err(wrong());
            }
            out.extend_from_slice(&value.to_le_bytes());
        }
        (Type::Double, Value::Number(number)) => {
            out.extend_from_slice(&number.as_f64().ok_or_else(wrong)?.to_le_bytes());
        }
        (Type::String | Type::Uuid, Value::String(text)) => put_bytes(out, text.as_bytes()),
        (Type::Bytes | Type::Decimal { fixed: None, .. }, Value::String(text)) => {
            put_bytes(out, &characters(text).ok_or_else(wrong)?);
        }
        (
            Type::Fixed(fixed)
            | Type::FixedUuid(fixed)
            | Type::Duration(fixed)
            | Type::Decimal { fixed: Some(fixed), .. },
            Value::String(text),
        ) => {
            let bytes = characters(text).filter(|bytes| bytes.len() == fixed.size).ok_or_else(wrong)?;
            out.extend_from_slice(&bytes);
        }
        (Type::Enum(e), Value::String(text)) => {
            let index = e.symbols.iter().position(|symbol| symbol == text).ok_or_else(wrong)?;
            put_long(out, index as i64);
        }
        (Type::Array(items), Value::Array(given)) => {
            if !given.is_empty() {
                put_long(out, given.len() as i64);
                for (i, item) in given.iter().enumerate() {
                    put_default(items, item, out).map_err(|problem| problem.within_item(i))?;
                }
            }
            out.push(0);
        }
        (Type::Map(values), Value::Object(given)) => {
            if !given.is_empty() {
                put_long(out, given.len() as i64);
                for (key, value) in given {
                    put_bytes(out, key.as_bytes());
                    put_default(values, value, out).map_err(|problem| problem.within_key(key))?;
                }
            }
            out.push(0);
        }
        (Type::Record(record), Value::Object(given)) => {
            for field in &record.fields {
                let value = given
                    .get(&field.name)
                    .or(field.default.as_ref())
                    .ok_or_else(|| Problem::new("missing in the default").within_field(&field.name))?;
                put_default(&field.data, value, out).map_err(|problem| problem.within_field(&field.name))?;
            }
        }
        (Type::Union(branches), value) => {
            let start = out.len();
            for (index, branch) in branches.iter().enumerate() {
                put_long(out, index as i64);
                if put_default(branch, value, out).is_ok() {
                    return Ok(());
                }
                out.truncate(start);
            }
            return Err(wrong());
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

fn characters(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}
