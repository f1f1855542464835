//! Events, schemas and a log in memory, for the tests of the archive.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use async_trait::async_trait;
use bytes::Bytes;
use event_log::error::Result;
use event_log::registry::SchemaRegistry;
use event_log::{Content, EventLog, LogError, NewRecord, ReadLimit, Record, TopicSpec};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use views::{Offset, TopicPartition};

/// What clicks look like: schema 1.
pub const CLICK: &str = r#"{"type": "record", "name": "Click", "namespace": "shop", "fields": [
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "url", "type": "string"},
    {"name": "user", "type": ["null", "string"], "default": null},
    {"name": "status", "type": "int"},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["view", "buy", "leave"]}},
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "price", "type": ["null", "double"], "default": null},
    {"name": "back", "type": ["null", "Kind"], "default": null}
]}"#;

/// What clicks were before they had tags, a price and a way back: schema 2.
pub const OLD_CLICK: &str = r#"{"type": "record", "name": "Click", "namespace": "shop", "fields": [
    {"name": "url", "type": "string"},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "status", "type": "int"},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["view", "buy", "leave"]}},
    {"name": "tags", "type": {"type": "array", "items": "string"}}
]}"#;

/// The schemas 1 and 2.
pub struct Schemas;

#[async_trait]
impl SchemaRegistry for Schemas {
    async fn register(&self, subject: &str, _schema: &str) -> Result<u32> {
        Err(LogError::Invalid(subject.to_owned()))
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>> {
        match id {
            1 => Ok(CLICK.into()),
            2 => Ok(OLD_CLICK.into()),
            _ => Err(LogError::NotFound(format!("schema {id}"))),
        }
    }
}

/// A value in Confluent framing.
pub fn framed(id: u32, datum: &[u8]) -> Bytes {
    [&[0], &id.to_be_bytes()[..], datum].concat().into()
}

/// An event under schema 1 or 2, from chance.
pub fn click(chance: &mut StdRng, id: u32) -> Content {
    let user = chance.random_bool(0.8).then(|| format!("user-{}", chance.random_range(0..50)));
    let optional = |value: Option<Value>| match value {
        Some(value) => Value::Union(1, Box::new(value)),
        None => Value::Union(0, Box::new(Value::Null)),
    };
    let kind = ["view", "buy", "leave"];
    let kind_of = |index: u32| Value::Enum(index, kind[index as usize].to_owned());
    let tags =
        (0..chance.random_range(0..3)).map(|_| Value::String(format!("täg{}", chance.random_range(0..9)))).collect();
    let mut fields = vec![
        ("ts".to_owned(), Value::TimestampMicros(1_700_000_000_000_000 + chance.random_range(0..1_000_000_000))),
        ("url".to_owned(), Value::String(format!("/page/{}", chance.random_range(0..200)))),
        ("user".to_owned(), optional(user.clone().map(Value::String))),
        ("status".to_owned(), Value::Int(chance.random_range(200..600))),
        ("kind".to_owned(), kind_of(chance.random_range(0..3))),
        ("tags".to_owned(), Value::Array(tags)),
        ("price".to_owned(), optional(chance.random_bool(0.3).then(|| Value::Double(chance.random_range(0.0..100.0))))),
        ("back".to_owned(), optional(chance.random_bool(0.3).then(|| kind_of(chance.random_range(0..3))))),
    ];
    static PARSED: LazyLock<[Schema; 2]> =
        LazyLock::new(|| [CLICK, OLD_CLICK].map(|it| Schema::parse_str(it).unwrap()));
    let schema = &PARSED[id as usize - 1];
    if id == 2 {
        fields.retain(|(name, _)| !["user", "price", "back"].contains(&name.as_str()));
        fields.swap(0, 1);
    }
    let datum = GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(Value::Record(fields)).unwrap();
    Content::Event { key: user.map(Bytes::from), value: framed(id, &datum) }
}

/// `count` clicks under schema 1 from a seed.
pub fn clicks(seed: u64, count: usize) -> Vec<Content> {
    let mut chance = StdRng::seed_from_u64(seed);
    (0..count).map(|_| click(&mut chance, 1)).collect()
}

/// The records that contents become when they are appended one after another from `start`.
pub fn records(start: Offset, contents: Vec<Content>) -> Vec<Record> {
    let record = |(offset, content)| Record { offset, append_time: append_time(offset), content };
    (start..).zip(contents).map(record).collect()
}

/// When the log in memory takes the record at an offset.
pub fn append_time(offset: Offset) -> i64 {
    1_700_000_000_000_000 + offset as i64 * 1000
}

/// A log in memory. Its time goes on a millisecond with each record.
#[derive(Default)]
pub struct MemoryLog {
    topics: Mutex<BTreeMap<String, (TopicSpec, Vec<Partition>)>>,
    appended: Notify,
    let_go: Notify,
}

#[derive(Default, Clone)]
struct Partition {
    start: Offset,
    end: Offset,
    records: Vec<Record>,
}

impl MemoryLog {
    /// A log with one topic.
    pub async fn with(topic: &str, partitions: u32, segment_records: u64) -> Arc<Self> {
        let log = Arc::new(Self::default());
        log.create_topic(&TopicSpec { name: topic.to_owned(), partitions, segment_records }).await.unwrap();
        log
    }

    fn of<T>(&self, partition: &TopicPartition, work: impl FnOnce(&mut Partition) -> T) -> Result<T> {
        let mut topics = self.topics.lock();
        let found = topics.get_mut(&*partition.topic).and_then(|(_, all)| all.get_mut(partition.partition as usize));
        found.map(work).ok_or_else(|| LogError::NotFound(partition.to_string()))
    }

    /// Leaves out `offsets` offsets, as Kafka does.
    pub fn skip(&self, partition: &TopicPartition, offsets: u64) {
        self.of(partition, |it| it.end += offsets).unwrap();
        self.appended.notify_waiters();
    }

    /// Waits until it has let go of everything before an offset.
    pub async fn wait_start(&self, partition: &TopicPartition, start: Offset) {
        loop {
            let let_go = self.let_go.notified();
            if self.of(partition, |it| it.start >= start).unwrap() {
                return;
            }
            let_go.await;
        }
    }

    /// Every record that was ever appended, whatever has been let go of.
    pub fn all(&self, partition: &TopicPartition) -> Vec<Record> {
        self.of(partition, |it| it.records.clone()).unwrap()
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        let mut topics = self.topics.lock();
        let (spec, partitions) = topics.entry(topic.name.clone()).or_insert_with(|| (topic.clone(), Vec::new()));
        *spec = topic.clone();
        partitions.resize(topic.partitions as usize, Partition::default());
        Ok(())
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        Ok(self.topics.lock().values().map(|(spec, _)| spec.clone()).collect())
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        let appended = self.of(to, |it| {
            let start = it.end;
            for content in records {
                it.records.push(Record { offset: it.end, append_time: append_time(it.end), content });
                it.end += 1;
            }
            start..it.end
        });
        self.appended.notify_waiters();
        appended
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        let deadline = tokio::time::Instant::now() + limit.wait;
        loop {
            let appended = self.appended.notified();
            let (start, read) = self.of(of, |it| {
                let first = it.records.partition_point(|record| record.offset < from);
                (it.start, it.records[first..].iter().take(limit.records).cloned().collect::<Vec<_>>())
            })?;
            if from < start {
                return Err(LogError::Invalid(format!("offset {from} lies before {start}")));
            }
            if !read.is_empty() || tokio::time::timeout_at(deadline, appended).await.is_err() {
                return Ok(read);
            }
        }
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        let topics = self.topics.lock();
        let (_, partitions) = topics.get(topic).ok_or_else(|| LogError::NotFound(topic.to_owned()))?;
        Ok(partitions.iter().map(|it| it.start..it.end).collect())
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        self.of(of, |it| it.start = it.start.max(before.min(it.end)))?;
        self.let_go.notify_waiters();
        Ok(())
    }
}
