//! Values of key columns, times and durations, from the text of a URL or the members of a JSON body.
//!
//! Every error says what was expected, so that it can be shown next to the parameter's name.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::Array as _;
use arrow::datatypes::{DataType, Field, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, NaiveDate};
use datafusion::scalar::ScalarValue;

use crate::body::Json;
use crate::json::per_second;

/// What is wrong with a value.
type Expected = String;

/// A value of a column from text.
pub fn scalar(text: &str, field: &Field) -> Result<ScalarValue, Expected> {
    of_type(text, field.data_type())
}

/// A null of a column's type.
pub fn null(field: &Field) -> Result<ScalarValue, Expected> {
    ScalarValue::try_from(field.data_type()).map_err(|_| format!("{} cannot be looked up", field.data_type()))
}

/// A value of a column from a JSON value: numbers for numbers, strings for the rest (and for numbers that are too
/// big for a JSON number), `null` for null.
pub fn from_json(value: &Json, field: &Field) -> Result<ScalarValue, Expected> {
    let wrong = |got: &str| Err(format!("expected {}, got {got}", describe(field.data_type())));
    match value {
        Json::Null => null(field),
        Json::String(text) => scalar(text, field),
        Json::Number(number) if is_number(field.data_type()) => scalar(&number.to_string(), field),
        Json::Bool(value) if *field.data_type() == DataType::Boolean => Ok(ScalarValue::Boolean(Some(*value))),
        Json::Number(_) => wrong("a number"),
        Json::Bool(_) => wrong("a boolean"),
        Json::Array(_) => wrong("an array"),
        Json::Object(_) => wrong("an object"),
    }
}

/// Whether a JSON number may stand for a value of this type.
fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_number(value),
        other => other.is_numeric() || matches!(other, DataType::Timestamp(..)),
    }
}

/// What a value of this type looks like.
fn describe(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "true or false",
        DataType::Timestamp(..) => "a time (RFC 3339, or an integer in the column's unit)",
        DataType::Date32 | DataType::Date64 => "a date (YYYY-MM-DD)",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "base64",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "a string",
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "a number",
        DataType::Dictionary(_, value) => describe(value),
        other if other.is_integer() => "an integer",
        other if other.is_decimal() => "a decimal number",
        _ => "a value",
    }
}

fn of_type(text: &str, data_type: &DataType) -> Result<ScalarValue, Expected> {
    let expected = || format!("expected {}, got `{}`", describe(data_type), shorten(text));
    fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
        text.parse().ok()
    }
    let value = match data_type {
        DataType::Utf8 => ScalarValue::Utf8(Some(text.to_owned())),
        DataType::LargeUtf8 => ScalarValue::LargeUtf8(Some(text.to_owned())),
        DataType::Utf8View => ScalarValue::Utf8View(Some(text.to_owned())),
        DataType::Boolean => ScalarValue::Boolean(Some(match text {
            "true" => true,
            "false" => false,
            _ => return Err(expected()),
        })),
        DataType::Int8 => ScalarValue::Int8(Some(number(text).ok_or_else(expected)?)),
        DataType::Int16 => ScalarValue::Int16(Some(number(text).ok_or_else(expected)?)),
        DataType::Int32 => ScalarValue::Int32(Some(number(text).ok_or_else(expected)?)),
        DataType::Int64 => ScalarValue::Int64(Some(number(text).ok_or_else(expected)?)),
        DataType::UInt8 => ScalarValue::UInt8(Some(number(text).ok_or_else(expected)?)),
        DataType::UInt16 => ScalarValue::UInt16(Some(number(text).ok_or_else(expected)?)),
        DataType::UInt32 => ScalarValue::UInt32(Some(number(text).ok_or_else(expected)?)),
        DataType::UInt64 => ScalarValue::UInt64(Some(number(text).ok_or_else(expected)?)),
        // Groups know one zero: adding it turns -0.0 into 0.0, and nothing else into anything.
        DataType::Float32 => ScalarValue::Float32(Some(number::<f32>(text).ok_or_else(expected)? + 0.0)),
        DataType::Float64 => ScalarValue::Float64(Some(number::<f64>(text).ok_or_else(expected)? + 0.0)),
        DataType::Timestamp(unit, zone) => {
            let value = instant(text, *unit).ok_or_else(expected)?;
            timestamp(*unit, zone.clone(), value)
        }
        DataType::Date32 => {
            let days = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| expected())?.to_epoch_days();
            ScalarValue::Date32(Some(days))
        }
        DataType::Binary => ScalarValue::Binary(Some(bytes(text).ok_or_else(expected)?)),
        DataType::LargeBinary => ScalarValue::LargeBinary(Some(bytes(text).ok_or_else(expected)?)),
        DataType::BinaryView => ScalarValue::BinaryView(Some(bytes(text).ok_or_else(expected)?)),
        DataType::FixedSizeBinary(width) => {
            let value = match uuid::Uuid::try_parse(text) {
                Ok(id) if *width == 16 && text.len() == 36 => id.as_bytes().to_vec(),
                _ => bytes(text).ok_or_else(expected)?,
            };
            if i32::try_from(value.len()).ok() != Some(*width) {
                return Err(format!("expected {width} bytes in base64, got {}", value.len()));
            }
            ScalarValue::FixedSizeBinary(*width, Some(value))
        }
        DataType::Dictionary(key, value) => ScalarValue::Dictionary(key.clone(), Box::new(of_type(text, value)?)),
        // Rare types: Arrow's own cast from text, refused where it gives null.
        other => {
            let text_array = arrow::array::StringArray::from(vec![text]);
            let array = arrow::compute::cast(&text_array, other).map_err(|_| expected())?;
            if array.is_null(0) {
                return Err(expected());
            }
            ScalarValue::try_from_array(&array, 0).map_err(|_| expected())?
        }
    };
    Ok(value)
}

/// A timestamp of a unit and zone.
fn timestamp(unit: TimeUnit, zone: Option<Arc<str>>, value: i64) -> ScalarValue {
    match unit {
        TimeUnit::Second => ScalarValue::TimestampSecond(Some(value), zone),
        TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(Some(value), zone),
        TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(value), zone),
        TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(Some(value), zone),
    }
}

/// An instant, RFC 3339 or an integer in `unit`.
fn instant(text: &str, unit: TimeUnit) -> Option<i64> {
    if let Ok(value) = text.parse::<i64>() {
        return Some(value);
    }
    in_unit(time_us(text)?, unit)
}

fn in_unit(us: i64, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Nanosecond => us.checked_mul(1000),
        _ => Some(us.div_euclid(1_000_000 / per_second(unit))),
    }
}

/// A value of a time column at or after which everything is at or after `us`: rounded up where the column is coarser.
pub fn time_bound(us: i64, data_type: &DataType) -> Result<ScalarValue, Expected> {
    match data_type {
        DataType::Timestamp(unit, zone) => {
            let value = match unit {
                TimeUnit::Nanosecond => us.saturating_mul(1000),
                _ => -((-us).div_euclid(1_000_000 / per_second(*unit))),
            };
            Ok(timestamp(*unit, zone.clone(), value))
        }
        DataType::Date32 => {
            let days = -((-us).div_euclid(86_400_000_000));
            Ok(ScalarValue::Date32(Some(i32::try_from(days).map_err(|_| "out of range".to_owned())?)))
        }
        other => Err(format!("the view's time column is {other}")),
    }
}

/// RFC 3339, or a date (its first instant in UTC), in microseconds since the epoch.
pub fn time_us(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}

/// A duration as people write it: `500ms`, `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, Expected> {
    humantime::parse_duration(text)
        .map_err(|_| format!("expected a duration such as `500ms` or `1h`, got `{}`", shorten(text)))
}

/// A duration in microseconds.
pub fn duration_us(text: &str) -> Result<i64, Expected> {
    i64::try_from(duration(text)?.as_micros()).map_err(|_| "the duration is too long".to_owned())
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text.trim_end_matches('='))).ok()
}

/// The beginning of a value, for messages.
pub fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
