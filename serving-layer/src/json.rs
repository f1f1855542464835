//! Writes Arrow values as JSON, straight into a string: no tree of values in between.
//!
//! The mapping of `contract.md`: times are RFC 3339 in UTC, bytes are base64, NaN and infinities are `null`, lists and structs
//! nest. Integers beyond 2^53 and decimals are numbers, or strings where the question says `big=string`.

use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, AsArray, GenericListArray, MapArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{
    ArrowDictionaryKeyType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DecimalType, Field, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalUnit, Schema, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::clock;

/// The largest integer up to which a JSON number is exact everywhere.
const EXACT_INTEGERS: u64 = 1 << 53;

/// How numbers that JSON readers may round are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Big {
    /// As numbers.
    #[default]
    Number,
    /// As strings.
    String,
}

/// The names of a view's answer columns, escaped once.
#[derive(Debug)]
pub struct RowWriter {
    /// `"name":` of each column, and whether its bytes are UUIDs.
    columns: Vec<(String, bool)>,
}

impl RowWriter {
    /// The writer of rows of `schema`.
    pub fn new(schema: &Schema) -> Self {
        let column = |field: &arrow::datatypes::FieldRef| {
            let mut name = String::new();
            write_string(&mut name, field.name());
            name.push(':');
            (name, is_uuid(field))
        };
        Self { columns: schema.fields().iter().map(column).collect() }
    }

    /// Writes the members of one row, without braces; columns that `skip` names are left out.
    pub fn write_members(
        &self,
        out: &mut String,
        rows: &RecordBatch,
        row: usize,
        big: Big,
        skip: impl Fn(usize) -> bool,
    ) {
        let mut first = true;
        for (index, ((name, uuid), column)) in self.columns.iter().zip(rows.columns()).enumerate() {
            if skip(index) {
                continue;
            }
            if !first {
                out.push(',');
            }
            first = false;
            out.push_str(name);
            write_cell(out, column, row, big, *uuid);
        }
    }
}

/// Whether a field's 16 bytes are to be read as a UUID.
pub fn is_uuid(field: &Field) -> bool {
    *field.data_type() == DataType::FixedSizeBinary(16)
        && field.metadata().iter().any(|(name, value)| {
            (name == "ARROW:extension:name" && value == "arrow.uuid") || (name == "logicalType" && value == "uuid")
        })
}

/// Writes a JSON string.
pub fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut written = 0;
    for (place, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[written..place]);
        written = place + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.push_str(&text[written..]);
    out.push('"');
}

macro_rules! primitive {
    ($column:expr, $type:ty, $row:expr) => {
        $column.as_primitive::<$type>().value($row)
    };
}

/// Writes one value. Writing to a `String` cannot fail, which is why results of `write!` are dropped.
pub fn write_cell(out: &mut String, column: &ArrayRef, row: usize, big: Big, uuid: bool) {
    if column.is_null(row) {
        out.push_str("null");
        return;
    }
    match column.data_type() {
        DataType::Null => out.push_str("null"),
        DataType::Boolean => out.push_str(if column.as_boolean().value(row) { "true" } else { "false" }),
        DataType::Int8 => write_signed(out, primitive!(column, Int8Type, row).into(), big),
        DataType::Int16 => write_signed(out, primitive!(column, Int16Type, row).into(), big),
        DataType::Int32 => write_signed(out, primitive!(column, Int32Type, row).into(), big),
        DataType::Int64 => write_signed(out, primitive!(column, Int64Type, row), big),
        DataType::UInt8 => write_unsigned(out, primitive!(column, UInt8Type, row).into(), big),
        DataType::UInt16 => write_unsigned(out, primitive!(column, UInt16Type, row).into(), big),
        DataType::UInt32 => write_unsigned(out, primitive!(column, UInt32Type, row).into(), big),
        DataType::UInt64 => write_unsigned(out, primitive!(column, UInt64Type, row), big),
        DataType::Float16 => write_float(out, f64::from(primitive!(column, Float16Type, row).to_f32())),
        DataType::Float32 => {
            let value = primitive!(column, Float32Type, row);
            if value.is_finite() {
                let _ = write!(out, "{value:?}");
            } else {
                out.push_str("null");
            }
        }
        DataType::Float64 => write_float(out, primitive!(column, Float64Type, row)),
        DataType::Decimal32(precision, scale) => {
            let text = Decimal32Type::format_decimal(primitive!(column, Decimal32Type, row), *precision, *scale);
            write_decimal(out, &text, big);
        }
        DataType::Decimal64(precision, scale) => {
            let text = Decimal64Type::format_decimal(primitive!(column, Decimal64Type, row), *precision, *scale);
            write_decimal(out, &text, big);
        }
        DataType::Decimal128(precision, scale) => {
            let text = Decimal128Type::format_decimal(primitive!(column, Decimal128Type, row), *precision, *scale);
            write_decimal(out, &text, big);
        }
        DataType::Decimal256(precision, scale) => {
            let text = Decimal256Type::format_decimal(primitive!(column, Decimal256Type, row), *precision, *scale);
            write_decimal(out, &text, big);
        }
        DataType::Utf8 => write_string(out, column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => write_string(out, column.as_string::<i64>().value(row)),
        DataType::Utf8View => write_string(out, column.as_string_view().value(row)),
        DataType::Binary => write_bytes(out, column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => write_bytes(out, column.as_binary::<i64>().value(row)),
        DataType::BinaryView => write_bytes(out, column.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => {
            let bytes = column.as_fixed_size_binary().value(row);
            match uuid::Uuid::from_slice(bytes) {
                Ok(id) if uuid => {
                    let _ = write!(out, "\"{id}\"");
                }
                _ => write_bytes(out, bytes),
            }
        }
        DataType::Timestamp(unit, _) => {
            let value = match unit {
                TimeUnit::Second => primitive!(column, TimestampSecondType, row),
                TimeUnit::Millisecond => primitive!(column, TimestampMillisecondType, row),
                TimeUnit::Microsecond => primitive!(column, TimestampMicrosecondType, row),
                TimeUnit::Nanosecond => primitive!(column, TimestampNanosecondType, row),
            };
            let (seconds, nanoseconds) = split(value, per_second(*unit));
            out.push('"');
            clock::write_timestamp(out, seconds, nanoseconds);
            out.push('"');
        }
        DataType::Date32 => write_date(out, primitive!(column, Date32Type, row).into()),
        DataType::Date64 => write_date(out, primitive!(column, Date64Type, row).div_euclid(86_400_000)),
        DataType::Time32(TimeUnit::Second) => write_time(out, primitive!(column, Time32SecondType, row).into(), 1),
        DataType::Time32(_) => write_time(out, primitive!(column, Time32MillisecondType, row).into(), 1000),
        DataType::Time64(TimeUnit::Microsecond) => {
            write_time(out, primitive!(column, Time64MicrosecondType, row), 1_000_000);
        }
        DataType::Time64(_) => write_time(out, primitive!(column, Time64NanosecondType, row), 1_000_000_000),
        DataType::List(_) => write_list(out, column.as_list::<i32>(), row, big),
        DataType::LargeList(_) => write_list(out, column.as_list::<i64>(), row, big),
        DataType::FixedSizeList(..) => write_items(out, &column.as_fixed_size_list().value(row), big),
        DataType::ListView(_) => write_items(out, &column.as_list_view::<i32>().value(row), big),
        DataType::LargeListView(_) => write_items(out, &column.as_list_view::<i64>().value(row), big),
        DataType::Struct(fields) => {
            out.push('{');
            for (index, (field, member)) in fields.iter().zip(column.as_struct().columns()).enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(out, field.name());
                out.push(':');
                write_cell(out, member, row, big, is_uuid(field));
            }
            out.push('}');
        }
        DataType::Map(..) => write_map(out, column.as_map(), row, big),
        DataType::Dictionary(key, _) => write_dictionary(out, column, key, row, big),
        DataType::Interval(IntervalUnit::YearMonth | IntervalUnit::DayTime | IntervalUnit::MonthDayNano)
        | DataType::Duration(_)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..) => write_displayed(out, column, row),
    }
}

fn write_signed(out: &mut String, value: i64, big: Big) {
    let quoted = big == Big::String && value.unsigned_abs() > EXACT_INTEGERS;
    let _ = if quoted { write!(out, "\"{value}\"") } else { write!(out, "{value}") };
}

fn write_unsigned(out: &mut String, value: u64, big: Big) {
    let quoted = big == Big::String && value > EXACT_INTEGERS;
    let _ = if quoted { write!(out, "\"{value}\"") } else { write!(out, "{value}") };
}

fn write_float(out: &mut String, value: f64) {
    if value.is_finite() {
        // The shortest digits that read back as the same number; with an exponent when it is far from 1.
        let _ = write!(out, "{value:?}");
    } else {
        out.push_str("null");
    }
}

fn write_decimal(out: &mut String, text: &str, big: Big) {
    match big {
        Big::Number => out.push_str(text),
        Big::String => write_string(out, text),
    }
}

fn write_bytes(out: &mut String, bytes: &[u8]) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

fn write_date(out: &mut String, days: i64) {
    out.push('"');
    clock::write_date(out, days);
    out.push('"');
}

fn write_time(out: &mut String, value: i64, per_second: i64) {
    let (seconds, nanoseconds) = split(value, per_second);
    out.push('"');
    clock::write_time(out, u32::try_from(seconds).unwrap_or(0), nanoseconds);
    out.push('"');
}

/// Units in a second.
pub fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn split(value: i64, per_second: i64) -> (i64, u32) {
    let nanoseconds = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
    (value.div_euclid(per_second), u32::try_from(nanoseconds).unwrap_or(0))
}

fn write_list<O: OffsetSizeTrait>(out: &mut String, list: &GenericListArray<O>, row: usize, big: Big) {
    write_items(out, &list.value(row), big);
}

fn write_items(out: &mut String, items: &ArrayRef, big: Big) {
    out.push('[');
    for item in 0..items.len() {
        if item > 0 {
            out.push(',');
        }
        write_cell(out, items, item, big, false);
    }
    out.push(']');
}

fn write_map(out: &mut String, map: &MapArray, row: usize, big: Big) {
    let entries = map.value(row);
    let (names, values) = (entries.column(0), entries.column(1));
    out.push('{');
    for entry in 0..entries.len() {
        if entry > 0 {
            out.push(',');
        }
        let mut name = String::new();
        write_cell(&mut name, names, entry, big, false);
        if name.starts_with('"') {
            out.push_str(&name);
        } else {
            write_string(out, &name);
        }
        out.push(':');
        write_cell(out, values, entry, big, false);
    }
    out.push('}');
}

fn write_dictionary(out: &mut String, column: &ArrayRef, key: &DataType, row: usize, big: Big) {
    fn value<K: ArrowDictionaryKeyType>(out: &mut String, column: &ArrayRef, row: usize, big: Big) {
        let dictionary = column.as_dictionary::<K>();
        match dictionary.key(row) {
            Some(key) => write_cell(out, dictionary.values(), key, big, false),
            None => out.push_str("null"),
        }
    }
    match key {
        DataType::Int8 => value::<Int8Type>(out, column, row, big),
        DataType::Int16 => value::<Int16Type>(out, column, row, big),
        DataType::Int32 => value::<Int32Type>(out, column, row, big),
        DataType::Int64 => value::<Int64Type>(out, column, row, big),
        DataType::UInt8 => value::<UInt8Type>(out, column, row, big),
        DataType::UInt16 => value::<UInt16Type>(out, column, row, big),
        DataType::UInt32 => value::<UInt32Type>(out, column, row, big),
        DataType::UInt64 => value::<UInt64Type>(out, column, row, big),
        _ => write_displayed(out, column, row),
    }
}

/// Types without a JSON form of their own are written as Arrow displays them.
fn write_displayed(out: &mut String, column: &ArrayRef, row: usize) {
    match ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default()) {
        Ok(formatter) => write_string(out, &formatter.value(row).try_to_string().unwrap_or_default()),
        Err(_) => out.push_str("null"),
    }
}
