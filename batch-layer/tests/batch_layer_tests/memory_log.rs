//! A log in memory whose clock, partitions and failures the test decides.

use std::collections::BTreeMap;
use std::ops::Range;

use async_trait::async_trait;
use event_log::error::Result;
use event_log::{Content, EventLog, LogError, NewRecord, ReadLimit, Record, TopicSpec};
use parking_lot::Mutex;
use tokio::sync::watch;
use views::{Offset, TopicPartition};

pub struct MemoryLog {
    topics: Mutex<BTreeMap<String, (TopicSpec, Vec<Vec<Record>>)>>,
    now: Mutex<i64>,
    /// The append of a marker to this partition fails once; if true, after it was appended.
    fails: Mutex<Option<(TopicPartition, bool)>>,
    grown: watch::Sender<u64>,
}

impl MemoryLog {
    pub fn new() -> Self {
        Self { topics: Mutex::default(), now: Mutex::new(0), fails: Mutex::default(), grown: watch::Sender::new(0) }
    }

    /// The append time from now on, in microseconds.
    pub fn set_time(&self, now: i64) {
        *self.now.lock() = now;
    }

    pub fn fail_next_marker(&self, partition: TopicPartition, lost_acknowledgement: bool) {
        *self.fails.lock() = Some((partition, lost_acknowledgement));
    }

    /// The numbers of all markers of a partition.
    pub fn markers(&self, partition: &TopicPartition) -> Vec<u64> {
        let topics = self.topics.lock();
        let records = &topics[&*partition.topic].1[partition.partition as usize];
        let number = |record: &Record| match record.content {
            Content::Marker(number) => Some(number),
            Content::Event { .. } => None,
        };
        records.iter().filter_map(number).collect()
    }
}

fn missing(partition: &TopicPartition) -> LogError {
    LogError::NotFound(partition.to_string())
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        let mut topics = self.topics.lock();
        let (spec, partitions) = topics.entry(topic.name.clone()).or_insert_with(|| (topic.clone(), Vec::new()));
        *spec = topic.clone();
        partitions.resize(topic.partitions as usize, Vec::new());
        Ok(())
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        Ok(self.topics.lock().values().map(|(spec, _)| spec.clone()).collect())
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        // Others may run between two appends.
        tokio::task::yield_now().await;
        let marker = matches!(records[..], [Content::Marker(_)]);
        let fails = {
            let mut fails = self.fails.lock();
            if marker && fails.as_ref().is_some_and(|(partition, _)| partition == to) { fails.take() } else { None }
        };
        let failure = || LogError::unavailable(format!("appending to {to}"), "injected");
        if matches!(fails, Some((_, false))) {
            return Err(failure());
        }
        let range = {
            let mut topics = self.topics.lock();
            let (_, partitions) = topics.get_mut(&*to.topic).ok_or_else(|| missing(to))?;
            let partition = partitions.get_mut(to.partition as usize).ok_or_else(|| missing(to))?;
            let start = partition.len() as u64;
            let append_time = *self.now.lock();
            for content in records {
                partition.push(Record { offset: partition.len() as u64, append_time, content });
            }
            start..partition.len() as u64
        };
        self.grown.send_modify(|grown| *grown += 1);
        if fails.is_some() { Err(failure()) } else { Ok(range) }
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        let mut grown = self.grown.subscribe();
        let deadline = tokio::time::Instant::now() + limit.wait;
        loop {
            grown.mark_unchanged();
            let records: Vec<Record> = {
                let topics = self.topics.lock();
                let (_, partitions) = topics.get(&*of.topic).ok_or_else(|| missing(of))?;
                let partition = partitions.get(of.partition as usize).ok_or_else(|| missing(of))?;
                partition.iter().skip(from as usize).take(limit.records).cloned().collect()
            };
            let waited = tokio::time::timeout_at(deadline, grown.changed());
            if !records.is_empty() || limit.wait.is_zero() || waited.await.is_err() {
                return Ok(records);
            }
        }
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        let topics = self.topics.lock();
        let (_, partitions) = topics.get(topic).ok_or_else(|| LogError::NotFound(topic.to_owned()))?;
        Ok(partitions.iter().map(|records| 0..records.len() as u64).collect())
    }

    async fn trim(&self, _: &TopicPartition, _: Offset) -> Result<()> {
        Ok(())
    }
}
