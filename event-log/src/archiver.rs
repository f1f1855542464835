//! The archiver: one task per partition that follows the log, finds where segments end, and archives each that has ended.
//!
//! Where a segment ends is decided by [`Segment`] alone, so any number of archivers may run at once. Each segment is read twice:
//! once, record by record as they come, to find its end, and once to build its object, when memory for that is granted. Both
//! readings must agree. The archive is the archiver's only memory: it resumes where the last object ends.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use views::{Offset, Segment, TopicPartition};

use crate::archive::{Archive, ArchivedSegment, blocking};
use crate::error::{LogError, Result};
use crate::log::{Content, EventLog, ReadLimit, Record, TopicSpec};
use crate::registry::SchemaRegistry;

/// The time of day, in microseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How an archiver works.
#[derive(Clone)]
pub struct ArchiverOptions {
    /// How many segments may be built at once: each takes the memory of its object.
    pub building: usize,
    /// How long the log keeps records after they are archived, by topic. Topics not named here are never trimmed.
    pub retention: BTreeMap<String, Duration>,
    /// How long one read waits for records, and how often a quiet partition is looked at for records to let go of.
    pub wait: Duration,
    /// How long it waits before it tries again: at first, and at most.
    pub backoff: RangeInclusive<Duration>,
    /// What the age of records is measured against.
    pub clock: Clock,
}

impl Default for ArchiverOptions {
    fn default() -> Self {
        Self {
            building: 2,
            retention: BTreeMap::new(),
            wait: Duration::from_secs(30),
            backoff: Duration::from_millis(50)..=Duration::from_secs(10),
            clock: Arc::new(|| chrono::Utc::now().timestamp_micros()),
        }
    }
}

impl fmt::Debug for ArchiverOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ArchiverOptions");
        debug.field("building", &self.building).field("retention", &self.retention).field("wait", &self.wait);
        debug.finish_non_exhaustive()
    }
}

/// How far the archiver is with a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything before this offset is archived.
    pub sealed: Offset,
    /// What keeps it from going on for now; it tries again.
    pub retrying: Option<String>,
    /// Why it has stopped with this partition for good.
    pub ended: Option<Ended>,
}

/// Why an archiver no longer works on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// Records are missing: a person must look.
    Hole(String),
    /// Stored bytes are not what was written, or an object has other content than it should: a person must look.
    Damaged(String),
    /// Anything else that trying again cannot help.
    Refused(String),
}

impl Ended {
    fn because(error: LogError) -> Self {
        match error {
            LogError::Hole(message) => Self::Hole(message),
            LogError::Damaged(message) => Self::Damaged(message),
            other => Self::Refused(other.to_string()),
        }
    }

    fn error(&self) -> LogError {
        match self {
            Self::Stopped => LogError::unavailable("waiting for the archive", "the archiver has stopped"),
            Self::Hole(message) => LogError::Hole(message.clone()),
            Self::Damaged(message) => LogError::Damaged(message.clone()),
            Self::Refused(message) => LogError::Invalid(message.clone()),
        }
    }
}

/// A running archiver. Dropping it stops it without waiting.
pub struct Archiver {
    parts: Arc<Parts>,
    stop: watch::Sender<bool>,
    partitions: Mutex<BTreeMap<TopicPartition, watch::Receiver<Progress>>>,
    tasks: Mutex<JoinSet<()>>,
}

struct Parts {
    log: Arc<dyn EventLog>,
    archive: Arc<Archive>,
    registry: Arc<dyn SchemaRegistry>,
    options: ArchiverOptions,
    building: Semaphore,
}

impl Archiver {
    /// Starts archiving every partition of `topics`. Call it within a Tokio runtime.
    pub fn start(
        log: Arc<dyn EventLog>,
        archive: Arc<Archive>,
        registry: Arc<dyn SchemaRegistry>,
        topics: Vec<TopicSpec>,
        options: ArchiverOptions,
    ) -> Self {
        let building = Semaphore::new(options.building.max(1));
        let parts = Arc::new(Parts { log, archive, registry, options, building });
        let archiver =
            Self { parts, stop: watch::Sender::new(false), partitions: Mutex::default(), tasks: Mutex::default() };
        archiver.follow(&topics);
        archiver
    }

    /// Archives these topics' partitions too; those it already works on stay as they are.
    pub fn follow(&self, topics: &[TopicSpec]) {
        let mut partitions = self.partitions.lock();
        for topic in topics {
            let name: Arc<str> = topic.name.as_str().into();
            for partition in (0..topic.partitions).map(|number| TopicPartition::new(name.clone(), number)) {
                if partitions.contains_key(&partition) {
                    continue;
                }
                let (progress, receiver) = watch::channel(Progress::default());
                partitions.insert(partition.clone(), receiver);
                let task = PartitionTask {
                    parts: self.parts.clone(),
                    retention: self.parts.options.retention.get(&topic.name).copied(),
                    partition,
                    segment_records: topic.segment_records.max(1),
                    progress: progress.clone(),
                    stop: self.stop.subscribe(),
                    kept: VecDeque::new(),
                    overtaken: AtomicBool::new(false),
                };
                self.tasks.lock().spawn(async move {
                    // A panic must not leave those who wait for the partition waiting.
                    if let Err(panic) = tokio::spawn(task.run()).await {
                        progress
                            .send_modify(|it| it.ended = Some(Ended::Refused(format!("the archiver failed: {panic}"))));
                    }
                });
            }
        }
    }

    /// Everything before this offset of the partition is archived.
    pub fn sealed(&self, partition: &TopicPartition) -> Offset {
        self.partitions.lock().get(partition).map_or(0, |progress| progress.borrow().sealed)
    }

    /// How far it is with every partition.
    pub fn progress(&self) -> Vec<(TopicPartition, Progress)> {
        let partitions = self.partitions.lock();
        partitions.iter().map(|(partition, progress)| (partition.clone(), progress.borrow().clone())).collect()
    }

    /// Waits until everything before `offset` of the partition is archived.
    ///
    /// # Errors
    ///
    /// `NotFound` for a partition it does not work on; whatever ended its work on the partition, as soon as that happens.
    pub async fn wait_sealed(&self, partition: &TopicPartition, offset: Offset) -> Result<()> {
        let progress = self.partitions.lock().get(partition).cloned();
        let mut progress =
            progress.ok_or_else(|| LogError::NotFound(format!("partition {partition} in the archiver")))?;
        let reached = progress.wait_for(|progress| progress.sealed >= offset || progress.ended.is_some()).await;
        let reached = reached.map_err(|_| Ended::Stopped.error())?;
        match &reached.ended {
            Some(ended) if reached.sealed < offset => Err(ended.error()),
            _ => Ok(()),
        }
    }

    /// Stops: what is being put is finished, nothing else is begun.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }
}

impl fmt::Debug for Archiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archiver").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

/// What went by in the open segment: both readings of a segment must find the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    records: u64,
    events: u64,
    last: Option<Offset>,
}

impl Seen {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        self.events += u64::from(matches!(record.content, Content::Event { .. }));
        self.last = Some(record.offset);
    }
}

/// The work on one partition.
struct PartitionTask {
    parts: Arc<Parts>,
    partition: TopicPartition,
    segment_records: u64,
    retention: Option<Duration>,
    progress: watch::Sender<Progress>,
    stop: watch::Receiver<bool>,
    /// Archived segments that the log may still have, with the append time of their last record once it is known.
    kept: VecDeque<(ArchivedSegment, Option<i64>)>,
    /// Another archiver has sealed what this one was reading, and the log has let go of it.
    overtaken: AtomicBool,
}

/// It was told to stop.
struct Stopped;

impl PartitionTask {
    async fn run(mut self) {
        let (first_backoff, longest_backoff) = self.parts.options.backoff.clone().into_inner();
        let mut backoff = first_backoff;
        loop {
            let sealed = self.progress.borrow().sealed;
            let error = match self.archive_on().await {
                Ok(Stopped) => return self.end(Ended::Stopped),
                Err(error) if !error.is_transient() => {
                    tracing::error!(partition = %self.partition, %error, "the archiver has stopped with a partition");
                    return self.end(Ended::because(error));
                }
                // No trouble: it goes on where the archive ends now.
                Err(_) if self.overtaken.swap(false, Ordering::Relaxed) => {
                    tracing::debug!(partition = %self.partition, "another archiver has gone ahead");
                    continue;
                }
                Err(error) => error,
            };
            if self.progress.borrow().sealed > sealed {
                backoff = first_backoff;
            }
            tracing::warn!(partition = %self.partition, %error, "the archiver tries again");
            self.progress.send_modify(|progress| progress.retrying = Some(error.to_string()));
            if let Err(Stopped) = self.unless_stopped(tokio::time::sleep(backoff)).await {
                return self.end(Ended::Stopped);
            }
            backoff = (backoff * 2).min(longest_backoff);
        }
    }

    fn end(&self, ended: Ended) {
        self.progress.send_modify(|progress| progress.ended = Some(ended));
    }

    /// Waits for something that may be given up at any moment.
    async fn unless_stopped<T>(&self, waiting: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(Stopped),
            outcome = waiting => Ok(outcome),
        }
    }

    /// Resumes from the archive and goes on until told to stop.
    async fn archive_on(&mut self) -> Result<Stopped> {
        let mut open = self.resume().await?;
        let mut seen = Seen::default();
        let mut next = open.start;
        let mut let_go_at = Instant::now();
        loop {
            if let_go_at.elapsed() >= self.parts.options.wait {
                self.let_go().await;
                let_go_at = Instant::now();
            }
            let limit = ReadLimit { records: 8192, bytes: 8 << 20, wait: self.parts.options.wait };
            let Ok(records) = self.unless_stopped(self.read(next, limit)).await else { return Ok(Stopped) };
            let records = records?;
            if records.is_empty() && !self.gap_to(next, open.limit(self.segment_records)).await? {
                continue;
            }
            let mut ended = Vec::new();
            if records.is_empty() {
                let end = open.limit(self.segment_records);
                ended.push((open, end, std::mem::take(&mut seen)));
                (open, next) = (open.at(end, self.segment_records), end);
            }
            for record in &records {
                // Offsets may have gaps: segments without records end here too.
                while record.offset >= open.limit(self.segment_records) {
                    let end = open.limit(self.segment_records);
                    ended.push((open, end, std::mem::take(&mut seen)));
                    open = open.at(end, self.segment_records);
                }
                seen.add(record);
                next = record.offset + 1;
                let mut after = open.at(next, self.segment_records);
                if let Content::Marker(number) = record.content {
                    after = open.after_marker(record.offset, number).unwrap_or(after);
                }
                if after != open {
                    ended.push((open, next, std::mem::take(&mut seen)));
                    open = after;
                }
            }
            drop(records);
            for (segment, end, seen) in ended {
                if let Err(Stopped) = self.seal(segment, end, seen).await? {
                    return Ok(Stopped);
                }
            }
        }
    }

    /// The open segment: the one after the last that is archived.
    async fn resume(&mut self) -> Result<Segment> {
        let segments = self.parts.archive.list(&self.partition).await?;
        let mut open = Segment::FIRST;
        if let Some(last) = segments.last() {
            let header = self.parts.archive.header(last).await?;
            open = Segment {
                start: last.end,
                marker: header.marker_after.map_or(header.marker_before, |(number, _)| number),
            };
        }
        let kept_from = self.bounds().await?.start;
        self.kept = segments.into_iter().filter(|segment| segment.end > kept_from).map(|it| (it, None)).collect();
        self.progress.send_modify(|progress| (progress.sealed, progress.retrying) = (open.start, None));
        self.let_go().await;
        Ok(open)
    }

    async fn bounds(&self) -> Result<std::ops::Range<Offset>> {
        let bounds = self.parts.log.bounds(&self.partition.topic).await?;
        let bounds = bounds.get(self.partition.partition as usize).cloned();
        bounds.ok_or_else(|| LogError::NotFound(format!("partition {}", self.partition)))
    }

    /// Reads the log; what it no longer keeps must be in the archive.
    async fn read(&self, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        let refused = match self.parts.log.read(&self.partition, from, limit).await {
            Err(LogError::Invalid(refused)) => refused,
            outcome => return outcome,
        };
        let start = self.bounds().await?.start;
        if start <= from {
            return Err(LogError::Invalid(refused));
        }
        // What the log has let go of is archived: a listing that does not show it is behind, or there is a hole.
        match self.parts.archive.list_through(&self.partition, start).await {
            Ok(_) => {
                self.overtaken.store(true, Ordering::Relaxed);
                Err(LogError::unavailable("following the log", "another archiver has gone ahead"))
            }
            Err(LogError::Hole(hole)) => {
                Err(LogError::Hole(format!("the log of {} begins at offset {start}: {hole}", self.partition)))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether there will never be a record from `next` up to `limit`: the log goes on past it.
    async fn gap_to(&self, next: Offset, limit: Offset) -> Result<bool> {
        // In this order: the records before that end must all be readable by the read that finds none.
        let end = self.bounds().await?.end;
        Ok(end >= limit && self.read(next, ReadLimit::records(1)).await?.is_empty())
    }

    /// Archives a segment that has ended.
    async fn seal(&mut self, segment: Segment, end: Offset, seen: Seen) -> Result<Result<(), Stopped>> {
        let parts = self.parts.clone();
        let permit = match self.unless_stopped(parts.building.acquire()).await {
            Ok(permit) => permit.map_err(|error| LogError::unavailable("building a segment", error))?,
            Err(Stopped) => return Ok(Err(Stopped)),
        };
        let Ok((object, last_append_time)) = self.build(segment, end, seen).await? else { return Ok(Err(Stopped)) };
        let archived = parts.archive.put_object(&self.partition, segment.start, end, object).await?;
        drop(permit);
        tracing::debug!(segment = %archived, bytes = archived.bytes, events = seen.events, "archived");
        self.progress.send_modify(|progress| (progress.sealed, progress.retrying) = (end, None));
        self.kept.push_back((archived, last_append_time));
        self.let_go().await;
        Ok(Ok(()))
    }

    /// Reads a segment again and builds its object.
    async fn build(
        &self,
        segment: Segment,
        end: Offset,
        expected: Seen,
    ) -> Result<Result<(bytes::Bytes, Option<i64>), Stopped>> {
        let Parts { archive, registry, .. } = &*self.parts;
        let mut writer = None;
        // Records before the first event, whose schema decides the layout: markers.
        let mut waiting = Vec::new();
        let mut seen = Seen::default();
        let mut next = segment.start;
        while next < end {
            if *self.stop.borrow() {
                return Ok(Err(Stopped));
            }
            let mut records = self.read(next, ReadLimit::records(8192)).await?;
            let Some(last) = records.last() else { break };
            next = last.offset + 1;
            records.retain(|record| record.offset < end);
            records.iter().for_each(|record| seen.add(record));
            waiting.append(&mut records);
            let first = waiting.iter().find(|record| matches!(record.content, Content::Event { .. }));
            let mut into = match writer.take() {
                Some(writer) => writer,
                None if first.is_none() => continue,
                None => archive.writer(&self.partition, segment, end, first, &**registry).await?,
            };
            let records = std::mem::take(&mut waiting);
            writer = Some(
                blocking(move || {
                    records.iter().try_for_each(|record| into.push(record))?;
                    Ok(into)
                })
                .await?,
            );
        }
        if seen != expected {
            let told = format!("{seen:?} in segment {}..{end}, {expected:?} before", segment.start);
            return Err(LogError::unavailable("reading a segment again", told));
        }
        let mut writer = match writer {
            Some(writer) => writer,
            None => archive.writer(&self.partition, segment, end, None, &**registry).await?,
        };
        waiting.iter().try_for_each(|record| writer.push(record))?;
        let last_append_time = writer.last_append_time();
        Ok(Ok((blocking(move || writer.finish()).await?, last_append_time)))
    }

    /// Lets the log go of archived segments that are older than the retention. A failure is no more than a delay.
    async fn let_go(&mut self) {
        let Some(retention) = self.retention else {
            self.kept.clear();
            return;
        };
        if let Err(error) = self.try_let_go(retention).await {
            tracing::warn!(partition = %self.partition, %error, "archived records stay in the log for now");
        }
    }

    async fn try_let_go(&mut self, retention: Duration) -> Result<()> {
        let oldest =
            (self.parts.options.clock)().saturating_sub(i64::try_from(retention.as_micros()).unwrap_or(i64::MAX));
        let mut before = None;
        let mut old = 0;
        for (segment, last_append_time) in &mut self.kept {
            if last_append_time.is_none() {
                *last_append_time = self.parts.archive.header(segment).await?.last_append_time;
            }
            // A segment without records is as old as the one before it.
            if last_append_time.is_some_and(|time| time > oldest) {
                break;
            }
            before = Some(segment.end);
            old += 1;
        }
        if let Some(before) = before {
            self.parts.log.trim(&self.partition, before).await?;
            self.kept.drain(..old);
        }
        Ok(())
    }
}
