//! Sources, registries and frames for the tests of encoding and decoding.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use event_log::decode::{Decoded, EventDecoder};
use event_log::encode::{EncodedEvent, EventEncoder, Rejection};
use event_log::error::{LogError, Result};
use event_log::registry::SchemaRegistry;
use event_log::{Content, Record};
use views::avro::source_schema;
use views::{Source, TopicPartition};

/// The id of the source's own schema in [`Schemas`].
pub const OWN_ID: u32 = 1;

/// A source named `clicks` with this schema.
pub fn source(avro: &str) -> Arc<Source> {
    keyed_source(avro, None)
}

pub fn keyed_source(avro: &str, key: Option<&str>) -> Arc<Source> {
    let schema = source_schema(avro).unwrap_or_else(|e| panic!("{e}: {avro}"));
    Arc::new(Source {
        name: "clicks".into(),
        avro: avro.into(),
        schema,
        key: key.map(str::to_owned),
        event_time: None,
        event_id: None,
        dedupe_window: Duration::from_secs(60),
        partitions: 4,
        segment_records: 1000,
        retention: Duration::from_secs(60),
        statement: String::new(),
        defined_at: "views.sql:1".to_owned(),
    })
}

/// A record schema with one field `v` of this type.
pub fn one_field(avro_type: &str) -> String {
    format!(r#"{{"type":"record","name":"Event","fields":[{{"name":"v","type":{avro_type}}}]}}"#)
}

/// A registry of anything: what a foreign producer may have registered. The first schema has id 1.
pub struct Schemas(pub Vec<String>);

#[async_trait]
impl SchemaRegistry for Schemas {
    async fn register(&self, _: &str, schema: &str) -> Result<u32> {
        let known = self.0.iter().position(|known| known == schema);
        known.map(|i| i as u32 + 1).ok_or_else(|| LogError::Invalid("nothing new here".to_owned()))
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>> {
        let schema = (id as usize).checked_sub(1).and_then(|i| self.0.get(i));
        schema.map(|schema| schema.as_str().into()).ok_or_else(|| LogError::NotFound(format!("schema {id}")))
    }
}

pub fn encode(avro: &str, schema_id: u32, json: &str) -> std::result::Result<EncodedEvent, Rejection> {
    EventEncoder::new(&source(avro), schema_id).expect("an encoder").json(json.as_bytes())
}

/// The frame of a JSON event that must be accepted.
pub fn frame(avro: &str, schema_id: u32, json: &str) -> Bytes {
    encode(avro, schema_id, json).unwrap_or_else(|e| panic!("{}: {json} for {avro}", e.reason)).value
}

pub fn place() -> TopicPartition {
    TopicPartition::new("clicks", 3)
}

/// Records from offset 100 on.
pub fn records(frames: impl IntoIterator<Item = Bytes>) -> Vec<Record> {
    let record = |(i, value)| Record {
        offset: 100 + i as u64,
        append_time: 1_000_000 + i as i64,
        content: Content::Event { key: None, value },
    };
    frames.into_iter().enumerate().map(record).collect()
}

/// A decoder of every event column; `schemas` are those of the registry, the first with id 1.
pub fn decoder(avro: &str, schemas: &[&str]) -> EventDecoder {
    let source = source(avro);
    let columns: Vec<usize> = (0..source.event_columns()).collect();
    let schemas = Schemas(schemas.iter().map(|schema| (*schema).to_owned()).collect());
    EventDecoder::new(&source, &columns, Arc::new(schemas)).expect("a decoder")
}

pub async fn decode(avro: &str, schemas: &[&str], frames: Vec<Bytes>) -> Decoded {
    decoder(avro, schemas).decode(&place(), &records(frames)).await.expect("decoding")
}

/// A value as text.
pub fn shown(array: &dyn Array, row: usize) -> String {
    let options = FormatOptions::default().with_null("null");
    ArrayFormatter::try_new(array, &options).expect("a formatter").value(row).to_string()
}

/// Every row as text, columns separated by `|`.
pub fn rows(batch: &RecordBatch) -> Vec<String> {
    (0..batch.num_rows())
        .map(|row| batch.columns().iter().map(|column| shown(column, row)).collect::<Vec<_>>().join("|"))
        .collect()
}
