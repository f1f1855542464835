//! Random events of one schema, in two versions: as JSON for the encoder, and as Arrow columns for the oracle. What lies
//! between the two (Avro, the log, the archive, the decoder) is what is tested, so none of it is used here.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    ListBuilder, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use views::Offset;

const FIELDS: &str = r#"
  {"name": "id", "type": ["null", "string"], "default": null},
  {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "url", "type": "string"},
  {"name": "user", "type": ["null", "string"], "default": null},
  {"name": "status", "type": "int"},
  {"name": "bytes", "type": ["null", "long"], "default": null},
  {"name": "ratio", "type": ["null", "double"], "default": null},
  {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}},
  {"name": "ok", "type": ["null", "boolean"], "default": null},
  {"name": "day", "type": {"type": "int", "logicalType": "date"}},
  {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["a", "b", "c"]}},
  {"name": "raw", "type": "bytes"},
  {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []}"#;

/// What `region` is in events that do not have it.
const REGION: &str = "nowhere";

/// The schema; the second version has a field more.
pub fn schema(version: u32) -> String {
    let added = match version {
        1 => String::new(),
        _ => format!(r#", {{"name": "region", "type": "string", "default": "{REGION}"}}"#),
    };
    format!(r#"{{"type": "record", "name": "Event", "fields": [{FIELDS}{added}]}}"#)
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    id: Option<String>,
    ts: i64,
    url: &'static str,
    user: Option<&'static str>,
    status: i32,
    bytes: Option<i64>,
    ratio: Option<f64>,
    price: i64,
    ok: Option<bool>,
    day: i32,
    kind: &'static str,
    raw: usize,
    tags: Vec<&'static str>,
    region: Option<&'static str>,
}

const TEXTS: [&str; 9] = ["a", "b", "Zürich", "日本", "", "a\u{0}b", "🏖", "é", "e\u{301}"];

impl Event {
    /// Few keys, nulls, odd strings, ties and disorder in time; ids that come again now and then.
    pub fn random(random: &mut StdRng, version: u32) -> Self {
        let text = |random: &mut StdRng| TEXTS.choose(random).copied().unwrap_or("");
        let maybe = |random: &mut StdRng| random.random_bool(0.8);
        Self {
            id: maybe(random).then(|| format!("id {}", random.random_range(0..120))),
            ts: 1_700_000_000_000_000 + random.random_range(0..300) * 1_000_000,
            url: text(random),
            user: maybe(random).then(|| text(random)),
            status: random.random_range(100..600),
            bytes: maybe(random).then(|| random.random_range(-5..20)),
            ratio: maybe(random).then(|| f64::from(random.random_range(-1000..1000)) / 7.0),
            price: random.random_range(-1_000_000..1_000_000),
            ok: maybe(random).then(|| random.random_bool(0.7)),
            day: random.random_range(19_000..19_004),
            kind: ["a", "b", "c"].choose(random).copied().unwrap_or("a"),
            raw: random.random_range(0..3),
            tags: (0..random.random_range(0..2)).map(|_| text(random)).collect(),
            region: (version > 1 && maybe(random)).then(|| text(random)),
        }
    }

    /// What says whether two deliveries are one event.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The event as producers send it.
    pub fn json(&self) -> Vec<u8> {
        let price = format!(
            "{}{}.{:04}",
            if self.price < 0 { "-" } else { "" },
            self.price.abs() / 10_000,
            self.price.abs() % 10_000
        );
        let mut json = json!({
            "id": self.id, "ts": self.ts, "url": self.url, "user": self.user, "status": self.status, "bytes": self.bytes,
            "ratio": self.ratio, "price": price, "ok": self.ok, "day": self.day, "kind": self.kind,
            "raw": (["", "AA==", "AAA="][self.raw]), "tags": self.tags,
        });
        if let (Some(region), Value::Object(fields)) = (self.region, &mut json) {
            fields.insert("region".to_owned(), region.into());
        }
        json.to_string().into_bytes()
    }
}

/// An event at its place in the log.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The event.
    pub event: Arc<Event>,
    /// The partition it is in.
    pub partition: u32,
    /// Where.
    pub offset: Offset,
    /// When it came.
    pub append_time: i64,
    /// The key it was appended with.
    pub key: Option<String>,
}

/// A column of the source `events` over some events.
///
/// # Panics
///
/// For a column that the schema does not have.
pub fn column(field: &Field, events: &[Placed]) -> ArrayRef {
    let rows = || events.iter().map(|placed| placed.event.as_ref());
    match field.name().as_str() {
        "id" => Arc::new(rows().map(|event| event.id.as_deref()).collect::<StringArray>()),
        "ts" => timestamps(rows().map(|event| event.ts)),
        "url" => Arc::new(StringArray::from_iter_values(rows().map(|event| event.url))),
        "user" => Arc::new(rows().map(|event| event.user).collect::<StringArray>()),
        "status" => Arc::new(Int32Array::from_iter_values(rows().map(|event| event.status))),
        "bytes" => Arc::new(rows().map(|event| event.bytes).collect::<Int64Array>()),
        "ratio" => Arc::new(rows().map(|event| event.ratio).collect::<Float64Array>()),
        "price" => {
            let prices = Decimal128Array::from_iter_values(rows().map(|event| i128::from(event.price)));
            Arc::new(prices.with_precision_and_scale(20, 4).expect("the schema's precision"))
        }
        "ok" => Arc::new(rows().map(|event| event.ok).collect::<BooleanArray>()),
        "day" => Arc::new(Date32Array::from_iter_values(rows().map(|event| event.day))),
        "kind" => Arc::new(StringArray::from_iter_values(rows().map(|event| event.kind))),
        "raw" => Arc::new(BinaryArray::from_iter_values(rows().map(|event| vec![0_u8; event.raw]))),
        "tags" => {
            let mut tags = ListBuilder::new(StringBuilder::new());
            if let DataType::List(item) = field.data_type() {
                tags = tags.with_field(item.clone());
            }
            for event in rows() {
                event.tags.iter().for_each(|tag| tags.values().append_value(tag));
                tags.append(true);
            }
            Arc::new(tags.finish())
        }
        "region" => Arc::new(StringArray::from_iter_values(rows().map(|event| event.region.unwrap_or(REGION)))),
        "_topic" => Arc::new(StringArray::from_iter_values(rows().map(|_| "events"))),
        "_partition" => Arc::new(Int32Array::from_iter_values(events.iter().map(|placed| placed.partition as i32))),
        "_offset" => Arc::new(Int64Array::from_iter_values(events.iter().map(|placed| placed.offset as i64))),
        "_append_time" => timestamps(events.iter().map(|placed| placed.append_time)),
        "_key" => Arc::new(events.iter().map(|placed| placed.key.as_deref()).collect::<StringArray>()),
        other => panic!("no column {other}"),
    }
}

fn timestamps(times: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00"))
}

/// A container file with these datums in these blocks.
pub fn container(schema: &str, blocks: &[&[&[u8]]]) -> Vec<u8> {
    const SYNC: &[u8; 16] = b"tidemark's tests";
    let mut file = b"Obj\x01".to_vec();
    put_long(&mut file, 1);
    put_bytes(&mut file, b"avro.schema");
    put_bytes(&mut file, schema.as_bytes());
    put_long(&mut file, 0);
    file.extend_from_slice(SYNC);
    for block in blocks {
        put_long(&mut file, block.len());
        put_bytes(&mut file, &block.concat());
        file.extend_from_slice(SYNC);
    }
    file
}

fn put_bytes(file: &mut Vec<u8>, bytes: &[u8]) {
    put_long(file, bytes.len());
    file.extend_from_slice(bytes);
}

fn put_long(file: &mut Vec<u8>, number: usize) {
    let mut rest = number * 2;
    while rest >= 0x80 {
        file.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    file.push(rest as u8);
}
