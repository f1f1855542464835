//! CSV with a header, as JSON events: the header names the fields, the topic's Avro schema tells numbers from text.
//!
//! An empty value is null where the field may be null, the empty text where it is text, and otherwise absent. A value
//! that does not look like its field's type is sent as text, so that the server says what is wrong with it.

use std::collections::HashMap;
use std::io;

use chrono::{NaiveDate, NaiveDateTime};
use csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::Piece;

/// What a value of a field has to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Float,
    Boolean,
    Timestamp,
    /// Arrays, records, maps: JSON inside the CSV.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FieldType {
    nullable: bool,
    kind: Kind,
}

/// The fields of a topic's schema.
#[derive(Debug, Clone)]
pub struct Fields(HashMap<String, FieldType>);

impl Fields {
    /// Reads an Avro schema.
    ///
    /// # Errors
    ///
    /// When it is not a record's, in words.
    pub fn of_schema(avro: &str) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(avro).map_err(|error| format!("the schema is not JSON: {error}"))?;
        let fields = schema["fields"].as_array().ok_or("the schema is not a record's")?;
        let typed =
            fields.iter().filter_map(|field| Some((field["name"].as_str()?.to_owned(), field_type(&field["type"]))));
        Ok(Self(typed.collect()))
    }

    /// A row as an event.
    pub fn event<'a>(&self, row: impl Iterator<Item = (&'a str, &'a str)>) -> Map<String, Value> {
        // A column that is no field goes along: the server refuses it by name.
        let unknown = FieldType { nullable: false, kind: Kind::Text };
        row.filter_map(|(name, text)| {
            let field = self.0.get(name).copied().unwrap_or(unknown);
            Some((name.to_owned(), field.value(text)?))
        })
        .collect()
    }
}

fn field_type(avro: &Value) -> FieldType {
    let kind = match avro {
        Value::Array(branches) => {
            let is_null = |branch: &&Value| branch.as_str() == Some("null");
            let first = branches.iter().find(|branch| !is_null(branch));
            let kind = first.map_or(Kind::Text, |branch| field_type(branch).kind);
            return FieldType { nullable: branches.iter().any(|branch| is_null(&branch)), kind };
        }
        Value::Object(inner) => match (inner.get("logicalType").and_then(Value::as_str), inner.get("type")) {
            (Some(logical), _) if logical.contains("timestamp") => Kind::Timestamp,
            (Some(_), _) => Kind::Text,
            (None, Some(inner @ Value::String(_))) => field_type(inner).kind,
            _ => Kind::Json,
        },
        Value::String(name) => match name.as_str() {
            "int" | "long" => Kind::Integer,
            "float" | "double" => Kind::Float,
            "boolean" => Kind::Boolean,
            "array" | "map" | "record" => Kind::Json,
            _ => Kind::Text,
        },
        _ => Kind::Text,
    };
    FieldType { nullable: false, kind }
}

impl FieldType {
    fn value(self, text: &str) -> Option<Value> {
        if text.is_empty() && self.nullable {
            return Some(Value::Null);
        }
        if text.is_empty() && self.kind != Kind::Text {
            return None;
        }
        let trimmed = text.trim();
        let typed = match self.kind {
            Kind::Text => None,
            Kind::Integer => trimmed.parse::<i64>().ok().map(Value::from),
            Kind::Float => trimmed.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
            Kind::Boolean => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "1" => Some(Value::Bool(true)),
                "false" | "0" => Some(Value::Bool(false)),
                _ => None,
            },
            Kind::Timestamp => trimmed.parse::<i64>().ok().map(Value::from).or_else(|| utc(trimmed)),
            Kind::Json => serde_json::from_str(trimmed).ok(),
        };
        Some(typed.unwrap_or_else(|| Value::from(text)))
    }
}

/// A date and time without a zone is taken to be in UTC; one with a zone is RFC 3339 already.
fn utc(text: &str) -> Option<Value> {
    const FORMS: [&str; 4] = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
    let at = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let at = at.or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))?;
    Some(Value::from(at.and_utc().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)))
}

/// The rows of a CSV file.
pub struct CsvEvents<R> {
    rows: Reader<R>,
    header: Vec<String>,
    fields: Fields,
}

impl<R: io::Read> CsvEvents<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or its header is not text.
    pub fn open(input: R, delimiter: u8, fields: Fields) -> io::Result<Self> {
        let mut rows = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(input);
        let header = rows.headers().map_err(io::Error::other)?.iter();
        // A byte order mark is not a part of the first name.
        let header = header.map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
        Ok(Self { rows, header, fields })
    }

    /// The next row as an event; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read on.
    pub fn next_row(&mut self) -> io::Result<Option<Piece>> {
        let mut row = ByteRecord::new();
        if !self.rows.read_byte_record(&mut row).map_err(io::Error::other)? {
            return Ok(None);
        }
        let line = row.position().map_or(0, csv::Position::line);
        // Empty fields without a name, left by a trailing delimiter, are nothing.
        let extra = row.iter().skip(self.header.len()).any(|value| !value.is_empty());
        if row.len() < self.header.len() || extra {
            let reason = format!("{} values for {} columns", row.len(), self.header.len());
            return Ok(Some(Piece::NoEvent(line, reason)));
        }
        let mut values = Vec::with_capacity(self.header.len());
        for (name, value) in self.header.iter().zip(row.iter()) {
            match std::str::from_utf8(value) {
                Ok(value) => values.push((name.as_str(), value)),
                Err(_) => return Ok(Some(Piece::NoEvent(line, format!("`{name}` is not UTF-8")))),
            }
        }
        let event = Value::Object(self.fields.event(values.into_iter()));
        Ok(Some(Piece::Event(line, event.to_string().into_bytes())))
    }
}
