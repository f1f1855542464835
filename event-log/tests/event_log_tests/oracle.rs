//! Random schemas, random events, random evolution: what the encoder writes and the decoder reads, compared with what
//! `apache-avro` makes of the same bytes.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use base64::Engine as _;
use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, UnionArray};
use datafusion::arrow::datatypes::*;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value as Json, json};

use crate::events::*;

/// A type that the test can write a schema, a value and a default for.
#[derive(Debug, Clone)]
enum Kind {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Date,
    Time,
    Decimal,
    Fixed(String),
    Enum(String, Vec<&'static str>, Option<&'static str>),
    Array(Box<Kind>),
    Map(Box<Kind>),
    /// Null first or second.
    Nullable(bool, Box<Kind>),
    /// `["int", "string", "boolean"]`
    Several,
    Record(String, Vec<(String, Kind, bool)>),
}

struct Random {
    dice: StdRng,
    names: usize,
}

impl Random {
    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn kind(&mut self, depth: usize) -> Kind {
        match self.dice.random_range(0..if depth == 0 { 13 } else { 19 }) {
            0 => Kind::Boolean,
            1 => Kind::Int,
            2 => Kind::Long,
            3 => Kind::Float,
            4 => Kind::Double,
            5 => Kind::Bytes,
            6 | 7 => Kind::String,
            8 => Kind::Date,
            9 => Kind::Time,
            10 => Kind::Decimal,
            11 => Kind::Fixed(self.name("F")),
            12 => Kind::Enum(self.name("E"), vec!["A", "B", "C"], None),
            13 => Kind::Array(Box::new(self.kind(depth - 1))),
            14 => Kind::Map(Box::new(self.kind(depth - 1))),
            15 => Kind::Several,
            16 | 17 => match self.kind(depth - 1) {
                // A union cannot hold a union.
                inner @ (Kind::Nullable(..) | Kind::Several) => inner,
                inner => Kind::Nullable(self.dice.random(), Box::new(inner)),
            },
            _ => self.record(depth - 1),
        }
    }

    fn record(&mut self, depth: usize) -> Kind {
        let count = self.dice.random_range(1..5);
        let name = self.name("R");
        Kind::Record(name, (0..count).map(|_| (self.name("f"), self.kind(depth), false)).collect())
    }

    /// What the schema may become so that it still reads everything.
    fn evolved(&mut self, kind: &Kind) -> Kind {
        let promote = self.dice.random_bool(0.5);
        match kind {
            Kind::Int if promote => {
                [Kind::Long, Kind::Float, Kind::Double].choose(&mut self.dice).expect("three").clone()
            }
            Kind::Long if promote => [Kind::Float, Kind::Double].choose(&mut self.dice).expect("two").clone(),
            Kind::Float if promote => Kind::Double,
            Kind::String if promote => Kind::Bytes,
            Kind::Enum(name, ..) if promote => Kind::Enum(name.clone(), vec!["Z", "B", "A"], Some("Z")),
            Kind::Array(items) => Kind::Array(Box::new(self.evolved(items))),
            Kind::Map(values) => Kind::Map(Box::new(self.evolved(values))),
            Kind::Nullable(first, inner) => Kind::Nullable(*first ^ promote, Box::new(self.evolved(inner))),
            Kind::Record(name, fields) => {
                let mut fields: Vec<_> = fields
                    .iter()
                    .filter_map(|(name, kind, _)| {
                        let stays = fields.len() == 1 || self.dice.random_bool(0.85);
                        stays.then(|| (name.clone(), self.evolved(kind), false))
                    })
                    .collect();
                for _ in 0..self.dice.random_range(if fields.is_empty() { 1..2 } else { 0..3 }) {
                    let added = (self.name("n"), self.kind(1), true);
                    fields.insert(self.dice.random_range(0..=fields.len()), added);
                }
                if self.dice.random_bool(0.3) {
                    fields.shuffle(&mut self.dice);
                }
                Kind::Record(name.clone(), fields)
            }
            other => other.clone(),
        }
    }

    /// A value in the JSON that producers send.
    fn value(&mut self, kind: &Kind) -> Json {
        let count = self.dice.random_range(0..4);
        match kind {
            Kind::Boolean => json!(self.dice.random::<bool>()),
            Kind::Int => json!(self.dice.random::<i32>() >> self.dice.random_range(0..32)),
            Kind::Long => json!(self.dice.random::<i64>() >> self.dice.random_range(0..64)),
            Kind::Float => json!(self.dice.random_range(-1000..1000) as f32 / 8.0),
            Kind::Double => json!(self.dice.random::<f64>() * 1e6),
            Kind::Bytes => json!(base64::engine::general_purpose::STANDARD.encode(self.bytes(count))),
            Kind::String => {
                let letters = ["a", "é", "€", "😀", "\"", "\\", "\n", "0"];
                json!((0..count * 3).filter_map(|_| letters.choose(&mut self.dice)).copied().collect::<String>())
            }
            Kind::Date => json!(self.dice.random_range(-100_000..100_000)),
            Kind::Time => json!(self.dice.random_range(-1_000_000_000_000_000i64..2_000_000_000_000_000)),
            Kind::Decimal => {
                // `apache-avro` refuses to resolve decimals of fewer bytes than the precision may take.
                let cents = self.dice.random_range(8_388_609i64..=99_999_999) * [1, -1][count % 2];
                json!(format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100))
            }
            Kind::Fixed(_) => json!(base64::engine::general_purpose::STANDARD.encode(self.bytes(3))),
            Kind::Enum(_, symbols, _) => json!(symbols.choose(&mut self.dice)),
            Kind::Array(items) => (0..count).map(|_| self.value(items)).collect(),
            Kind::Map(values) => (0..count).map(|i| (format!("k{i}"), self.value(values))).collect(),
            Kind::Nullable(_, inner) => {
                if count == 0 {
                    Json::Null
                } else {
                    self.value(inner)
                }
            }
            Kind::Several => match count {
                0 => json!(self.dice.random::<i32>()),
                1 => json!(self.dice.random::<bool>()),
                _ => json!("text"),
            },
            Kind::Record(_, fields) => {
                let mut members: Vec<_> =
                    fields.iter().map(|(name, kind, _)| (name.clone(), self.value(kind))).collect();
                members.shuffle(&mut self.dice);
                members.into_iter().collect()
            }
        }
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.dice.random()).collect()
    }
}

impl Kind {
    fn schema(&self) -> Json {
        match self {
            Self::Boolean => json!("boolean"),
            Self::Int => json!("int"),
            Self::Long => json!("long"),
            Self::Float => json!("float"),
            Self::Double => json!("double"),
            Self::Bytes => json!("bytes"),
            Self::String => json!("string"),
            Self::Date => json!({"type": "int", "logicalType": "date"}),
            Self::Time => json!({"type": "long", "logicalType": "timestamp-micros"}),
            Self::Decimal => json!({"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}),
            Self::Fixed(name) => json!({"type": "fixed", "name": name, "size": 3}),
            Self::Enum(name, symbols, None) => json!({"type": "enum", "name": name, "symbols": symbols}),
            Self::Enum(name, symbols, default) => {
                json!({"type": "enum", "name": name, "symbols": symbols, "default": default})
            }
            Self::Array(items) => json!({"type": "array", "items": items.schema()}),
            Self::Map(values) => json!({"type": "map", "values": values.schema()}),
            Self::Nullable(true, inner) => json!(["null", inner.schema()]),
            Self::Nullable(false, inner) => json!([inner.schema(), "null"]),
            Self::Several => json!(["int", "string", "boolean"]),
            Self::Record(name, fields) => {
                let field = |(name, kind, with_default): &(String, Kind, bool)| match with_default {
                    true => json!({"name": name, "type": kind.schema(), "default": kind.default()}),
                    false => json!({"name": name, "type": kind.schema()}),
                };
                json!({"type": "record", "name": name, "fields": fields.iter().map(field).collect::<Vec<_>>()})
            }
        }
    }

    /// A default, in the JSON of schemas.
    fn default(&self) -> Json {
        match self {
            Self::Boolean => json!(true),
            Self::Int | Self::Long | Self::Date | Self::Time | Self::Several => json!(7),
            Self::Float | Self::Double => json!(1.5),
            Self::Bytes | Self::Decimal => json!("\u{1}\u{0}\u{0}\u{7f}"), // `apache-avro` takes these characters as UTF-8, so ASCII only
            Self::String => json!("dé"),
            Self::Fixed(_) => json!("\u{0}\u{7f}\u{1}"),
            Self::Enum(_, symbols, _) => json!(symbols[1]),
            Self::Array(items) => json!([items.default()]),
            Self::Map(values) => json!({"d": values.default()}),
            Self::Nullable(true, _) => Json::Null,
            Self::Nullable(false, inner) => inner.default(),
            Self::Record(_, fields) => fields.iter().map(|(name, kind, _)| (name.clone(), kind.default())).collect(),
        }
    }
}

fn hex(bytes: &[u8]) -> Json {
    Json::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What `apache-avro` read.
fn apache_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Int(value) | Value::Date(value) => json!(value),
        Value::Long(value) | Value::TimestampMicros(value) => json!(value),
        Value::Float(value) => json!(f64::from(*value)),
        Value::Double(value) => json!(value),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => hex(bytes),
        Value::String(text) | Value::Enum(_, text) => json!(text),
        Value::Union(_, inner) => apache_json(inner),
        Value::Array(items) => items.iter().map(apache_json).collect(),
        Value::Map(entries) => entries.iter().map(|(key, value)| (key.clone(), apache_json(value))).collect(),
        Value::Record(fields) => fields.iter().map(|(name, value)| (name.clone(), apache_json(value))).collect(),
        Value::Decimal(decimal) => {
            let bytes: Vec<u8> = decimal.try_into().expect("a decimal's bytes");
            let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
            json!(bytes.iter().fold(sign, |value: i64, byte| (value << 8) | i64::from(*byte)))
        }
        other => panic!("the test makes no {other:?}"),
    }
}

/// What the decoder made.
fn arrow_json(array: &ArrayRef, row: usize) -> Json {
    if array.is_null(row) {
        return Json::Null;
    }
    match array.data_type() {
        DataType::Null => Json::Null,
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::Int32 => json!(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => json!(f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => json!(array.as_primitive::<Float64Type>().value(row)),
        DataType::Binary => hex(array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(_) => hex(array.as_fixed_size_binary().value(row)),
        DataType::Utf8 => json!(array.as_string::<i32>().value(row)),
        DataType::Date32 => json!(array.as_primitive::<Date32Type>().value(row)),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            json!(array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::Decimal128(8, 2) => json!(array.as_primitive::<Decimal128Type>().value(row) as i64),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|i| arrow_json(&items, i)).collect()
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let keys = entries.column(0).as_string::<i32>();
            (0..entries.len()).map(|i| (keys.value(i).to_owned(), arrow_json(entries.column(1), i))).collect()
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            fields.iter().zip(columns).map(|(field, column)| (field.name().clone(), arrow_json(column, row))).collect()
        }
        DataType::Union(..) => {
            let union = array.as_any().downcast_ref::<UnionArray>().expect("a union");
            let value = union.value(row);
            arrow_json(&value, 0)
        }
        other => panic!("the test makes no {other}"),
    }
}

#[tokio::test]
async fn random_events_of_random_schemas_are_read_as_apache_avro_reads_them() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let mut random = Random { dice: StdRng::seed_from_u64(seed), names: 0 };
    let mut compared = 0;
    for _ in 0..250 {
        let Kind::Record(name, fields) = random.record(3) else { panic!("a record") };
        let writer = Kind::Record(name, fields);
        let reader = random.evolved(&writer);
        let (writer_json, reader_json) = (writer.schema().to_string(), reader.schema().to_string());
        let writer_schema = Schema::parse_str(&writer_json).expect("a schema");
        let reader_schema = Schema::parse_str(&reader_json).expect("a schema");
        let own = GenericDatumReader::builder(&reader_schema).build().expect("a reader");
        let resolving =
            GenericDatumReader::builder(&writer_schema).reader_schema(&reader_schema).build().expect("a reader");

        let mut frames = Vec::new();
        let mut expected = Vec::new();
        for i in 0..12 {
            let (kind, avro, id, apache) = match i % 3 {
                0 => (&reader, &reader_json, 2, &own),
                _ => (&writer, &writer_json, 1, &resolving),
            };
            let event = random.value(kind);
            let frame = frame(avro, id, &event.to_string());
            let mut datum = &frame[5..];
            let value =
                apache.read_value(&mut datum).unwrap_or_else(|e| panic!("{e}: {event} {writer_json} {reader_json}"));
            assert!(datum.is_empty(), "apache-avro left bytes of {event}");
            expected.push(apache_json(&value));
            frames.push(frame);
        }

        let decoded = decode(&reader_json, &[&writer_json, &reader_json], frames).await;
        assert_eq!(decoded.rejected, [], "{writer_json} {reader_json}");
        let fields = decoded.events.schema();
        for (row, expected) in expected.iter().enumerate() {
            let columns = fields.fields().iter().zip(decoded.events.columns());
            let found: Map<String, Json> =
                columns.map(|(field, column)| (field.name().clone(), arrow_json(column, row))).collect();
            assert_eq!(Json::Object(found), *expected, "row {row}: {writer_json} {reader_json}");
            compared += 1;
        }
    }
    assert_eq!(compared, 250 * 12);
}
