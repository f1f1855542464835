//! A log and a registry in memory, and the dice that make them fail.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use async_trait::async_trait;
use event_log::registry::SchemaRegistry;
use event_log::{Content, EventLog, LogError, NewRecord, ReadLimit, Record, TopicSpec};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use views::{Offset, TopicPartition};

/// Decides from a seed which calls fail.
pub struct Dice {
    random: Mutex<StdRng>,
    permille: AtomicU32,
}

impl Dice {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { random: Mutex::new(StdRng::seed_from_u64(seed)), permille: AtomicU32::new(0) })
    }

    /// From now on about this many of a thousand calls fail.
    pub fn set(&self, permille: u32) {
        self.permille.store(permille, Ordering::Relaxed);
    }

    pub fn fails(&self) -> bool {
        self.random.lock().random_range(0..1000) < self.permille.load(Ordering::Relaxed)
    }
}

struct Topic {
    spec: TopicSpec,
    partitions: Vec<Vec<Record>>,
}

/// A log in memory. Append times are set by hand.
pub struct MemoryLog {
    topics: Mutex<BTreeMap<String, Topic>>,
    clock: Mutex<i64>,
    grown: watch::Sender<u64>,
    handed_out: AtomicUsize,
    dice: Arc<Dice>,
}

impl MemoryLog {
    pub fn new(dice: Arc<Dice>) -> Arc<Self> {
        let topics = Mutex::default();
        let (clock, grown) = (Mutex::new(1_000_000), watch::channel(0).0);
        Arc::new(Self { topics, clock, grown, handed_out: AtomicUsize::new(0), dice })
    }

    /// Moves the clock of append times on.
    pub fn pass(&self, microseconds: i64) {
        *self.clock.lock() += microseconds;
    }

    /// How many records were read so far.
    pub fn handed_out(&self) -> usize {
        self.handed_out.load(Ordering::Relaxed)
    }

    /// Every record of a partition.
    pub fn records(&self, of: &TopicPartition) -> Vec<Record> {
        self.topics.lock()[&*of.topic].partitions[of.partition as usize].clone()
    }

    fn failing(&self, what: &str) -> Result<(), LogError> {
        if self.dice.fails() { Err(LogError::unavailable(what, "the dice say so")) } else { Ok(()) }
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<(), LogError> {
        let mut topics = self.topics.lock();
        let entry =
            topics.entry(topic.name.clone()).or_insert_with(|| Topic { spec: topic.clone(), partitions: Vec::new() });
        entry.partitions.resize_with(topic.partitions as usize, Vec::new);
        Ok(())
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>, LogError> {
        Ok(self.topics.lock().values().map(|topic| topic.spec.clone()).collect())
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>, LogError> {
        let mut topics = self.topics.lock();
        let topic = topics.get_mut(&*to.topic).ok_or_else(|| LogError::NotFound(to.to_string()))?;
        let partition = &mut topic.partitions[to.partition as usize];
        let start = partition.len() as Offset;
        let append_time = *self.clock.lock();
        for (offset, content) in (start..).zip(records) {
            partition.push(Record { offset, append_time, content });
        }
        let end = partition.len() as Offset;
        self.grown.send_modify(|times| *times += 1);
        Ok(start..end)
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>, LogError> {
        self.failing("reading")?;
        let mut grown = self.grown.subscribe();
        let deadline = tokio::time::Instant::now() + limit.wait;
        loop {
            {
                let topics = self.topics.lock();
                let topic = topics.get(&*of.topic).ok_or_else(|| LogError::NotFound(of.to_string()))?;
                let partition = &topic.partitions[of.partition as usize];
                let (mut found, mut bytes) = (Vec::new(), 0);
                for record in partition.iter().skip(from as usize).take(limit.records) {
                    found.push(record.clone());
                    if let Content::Event { value, .. } = &record.content {
                        bytes += value.len();
                    }
                    if bytes >= limit.bytes {
                        break;
                    }
                }
                if !found.is_empty() {
                    self.handed_out.fetch_add(found.len(), Ordering::Relaxed);
                    return Ok(found);
                }
            }
            if limit.wait.is_zero() || tokio::time::timeout_at(deadline, grown.changed()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>, LogError> {
        self.failing("bounds")?;
        let topics = self.topics.lock();
        let topic = topics.get(topic).ok_or_else(|| LogError::NotFound(topic.to_owned()))?;
        Ok(topic.partitions.iter().map(|records| 0..records.len() as Offset).collect())
    }

    async fn trim(&self, _of: &TopicPartition, _before: Offset) -> Result<(), LogError> {
        Ok(())
    }
}

/// A registry that knows one schema, under the id 1.
pub struct OneSchema(pub Arc<str>);

#[async_trait]
impl SchemaRegistry for OneSchema {
    async fn register(&self, _subject: &str, _schema_json: &str) -> Result<u32, LogError> {
        Ok(1)
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, LogError> {
        if id == 1 { Ok(self.0.clone()) } else { Err(LogError::NotFound(format!("schema {id}"))) }
    }
}
