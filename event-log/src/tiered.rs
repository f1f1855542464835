//! A log whose beginning is in the archive: what the log has let go of is read from there, and the reader does not notice.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use views::{Offset, TopicPartition};

use crate::archive::{Archive, ArchivedSegment, Records, blocking};
use crate::error::{LogError, Result};
use crate::log::{Content, EventLog, NewRecord, ReadLimit, Record, TopicSpec};

/// How many readings are remembered: each holds one segment's object.
const REMEMBERED: usize = 8;

/// The log and the archive as one log.
pub struct TieredLog {
    log: Arc<dyn EventLog>,
    archive: Arc<Archive>,
    /// What is archived, as far as it has been looked at. It only grows.
    archived: Mutex<BTreeMap<TopicPartition, Arc<[ArchivedSegment]>>>,
    /// Where the last readers of archived segments are, the latest last: the next read goes on from there.
    readings: Mutex<VecDeque<Reading>>,
}

/// A reader's place in an archived segment.
struct Reading {
    segment: ArchivedSegment,
    /// The next record to hand out is the first at or past this offset.
    next: Offset,
    records: Records,
}

impl TieredLog {
    /// `log` with the records that it has let go of read from `archive`.
    pub fn new(log: Arc<dyn EventLog>, archive: Arc<Archive>) -> Self {
        Self { log, archive, archived: Mutex::default(), readings: Mutex::default() }
    }

    /// The archived segments of a partition; listed again when those known do not reach `until`.
    async fn archived(&self, partition: &TopicPartition, until: Offset) -> Result<Arc<[ArchivedSegment]>> {
        let known = self.archived.lock().get(partition).cloned();
        if let Some(known) = known
            && known.last().is_some_and(|last| last.end >= until)
        {
            return Ok(known);
        }
        let listed: Arc<[ArchivedSegment]> = self.archive.list(partition).await?.into();
        self.archived.lock().insert(partition.clone(), listed.clone());
        Ok(listed)
    }

    /// Reads archived records from `from` on, of one segment or several, before `start`, where the log begins.
    async fn read_archived(
        &self,
        of: &TopicPartition,
        from: Offset,
        start: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<Record>> {
        let mut segments = self.archived(of, start).await?;
        if segments.last().is_none_or(|last| last.end < start) {
            // What the log has let go of is archived: the listing is behind, or there is a hole.
            segments = self.archive.list_through(of, start).await.map_err(|error| lost(of, start, error))?.into();
            self.archived.lock().insert(of.clone(), segments.clone());
        }
        let first = segments.partition_point(|segment| segment.end <= from);
        for segment in &segments[first..] {
            let mut reading = self.reading(segment, from.max(segment.start)).await?;
            let (read, reading) = blocking(move || Ok((take(&mut reading, limit)?, reading))).await?;
            // A segment may hold no record that is asked for.
            if !read.is_empty() {
                self.remember(reading);
                return Ok(read);
            }
        }
        Ok(Vec::new())
    }

    async fn reading(&self, segment: &ArchivedSegment, from: Offset) -> Result<Reading> {
        let found = {
            let mut readings = self.readings.lock();
            let at = readings.iter().position(|it| it.next == from && it.segment == *segment);
            // A reader elsewhere in the segment has its object in memory already.
            let near = readings.iter().find(|it| it.segment == *segment).map(|it| it.records.segment().clone());
            at.and_then(|at| readings.remove(at)).ok_or(near)
        };
        let near = match found {
            Ok(reading) => return Ok(reading),
            Err(near) => near,
        };
        let open = match near {
            Some(open) => open,
            None => self.archive.open(segment).await?,
        };
        let records = blocking(move || open.records(from)).await?;
        Ok(Reading { segment: segment.clone(), next: from, records })
    }

    fn remember(&self, reading: Reading) {
        let mut readings = self.readings.lock();
        readings.push_back(reading);
        while readings.len() > REMEMBERED {
            readings.pop_front();
        }
    }
}

/// What a hole in the archive means to one who reads the log.
fn lost(of: &TopicPartition, start: Offset, error: LogError) -> LogError {
    match error {
        LogError::Hole(hole) => LogError::Hole(format!("the log of {of} begins at offset {start}: {hole}")),
        error => error,
    }
}

/// The next records of a reading, within the limit.
fn take(reading: &mut Reading, limit: ReadLimit) -> Result<Vec<Record>> {
    let mut read = Vec::new();
    let mut bytes = 0;
    while read.len() < limit.records.max(1) && (read.is_empty() || bytes < limit.bytes) {
        let Some(record) = reading.records.next().transpose()? else { break };
        reading.next = record.offset + 1;
        if let Content::Event { key, value } = &record.content {
            bytes += key.as_ref().map_or(0, |key| key.len()) + value.len();
        }
        read.push(record);
    }
    Ok(read)
}

#[async_trait]
impl EventLog for TieredLog {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.log.create_topic(topic).await
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        self.log.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        self.log.append(to, records).await
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        let mut from = from;
        loop {
            let refused = match self.log.read(of, from, limit).await {
                Err(LogError::Invalid(refused)) => refused,
                outcome => return outcome,
            };
            let bounds = self.log.bounds(&of.topic).await?;
            let kept = bounds.get(of.partition as usize);
            let start = kept.ok_or_else(|| LogError::NotFound(format!("partition {of}")))?.start;
            if from >= start {
                return Err(LogError::Invalid(refused));
            }
            let read = self.read_archived(of, from, start, limit).await?;
            if !read.is_empty() {
                return Ok(read);
            }
            // The archive has no record from here up to the log's start: the log goes on.
            from = start.max(self.archived(of, start).await?.last().map_or(0, |segment| segment.end));
        }
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        let mut bounds = self.log.bounds(topic).await?;
        for (partition, kept) in bounds.iter_mut().enumerate().filter(|(_, kept)| kept.start > 0) {
            let partition = TopicPartition::new(topic, partition as u32);
            if let Some(first) = self.archived(&partition, kept.start).await?.first() {
                kept.start = first.start;
            }
        }
        Ok(bounds)
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        self.log.trim(of, before).await
    }
}
