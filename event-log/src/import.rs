//! Importing: a topic's older events become the first segments of its archive, and its log goes on after them.
//!
//! ```text
//! files ──► spool ──► how many per partition ──► the log notes the beginning ──► dead letters ──► segments
//!           (pass 1: read, checked, encoded, put aside)                          (pass 2: only what was put aside)
//! ```
//!
//! Nothing anywhere is changed before everything was read. What comes after it can be broken off anywhere, and is done again by the same
//! import: the beginning is what was noted first, dead letters go on after those that are there, and segments are the same
//! bytes, created only where there are none. See [`crate::beginning`] for what readers see meanwhile.

mod spool;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use views::{Offset, Segment, TopicPartition};

pub use spool::{Spool, Spooled};

use crate::archive::{Archive, blocking};
use crate::beginning::{Beginning, MARKER};
use crate::dead_letter;
use crate::error::{LogError, Result};
use crate::log::{Content, EventLog, ReadLimit, Record, TopicSpec};
use crate::registry::SchemaRegistry;
use spool::Contents;

/// What the keys of imported dead letters begin with; their number follows.
const LETTER_KEY: &str = "import/";
/// How many bytes of dead letters one append takes.
const APPEND_BYTES: usize = 4 << 20;
/// The longest original of a dead letter: a little less than the longest record that every log takes.
pub const LONGEST_ORIGINAL: usize = 60 << 20;

/// Refuses a topic of which something is in the archive already: its offsets are taken.
///
/// # Errors
///
/// `Invalid` when there is something; those of the archive.
pub async fn check_nothing_archived(archive: &Archive, topic: &TopicSpec) -> Result<()> {
    for number in 0..topic.partitions {
        let partition = TopicPartition::new(topic.name.as_str(), number);
        if let Some(first) = archive.list(&partition).await?.first() {
            return Err(LogError::Invalid(format!(
                "topic {}: the archive holds segments of it ({first}), and the log knows nothing of them: import into an archive that \
                 has none",
                topic.name
            )));
        }
    }
    Ok(())
}

/// Checks that everything that was imported into a topic is in the archive.
///
/// # Errors
///
/// `Hole` naming what is missing and what to do; those of the archive.
pub async fn check_complete(archive: &Archive, topic: &str, beginning: &Beginning) -> Result<()> {
    for number in 0..u32::try_from(beginning.partitions.len()).unwrap_or(u32::MAX) {
        let end = beginning.end(number);
        if end == 0 {
            continue;
        }
        if let Err(error) = archive.list_through(&TopicPartition::new(topic, number), end).await {
            return Err(match error {
                LogError::Hole(hole) => LogError::Hole(format!(
                    "{hole}: an import into topic {topic} was broken off; run the same `tidemark import` again, which finishes it"
                )),
                error => error,
            });
        }
    }
    Ok(())
}

/// Puts dead letters where those of a topic go; those that an import that was broken off has put there already are passed over.
/// Returns how many were put.
///
/// # Errors
///
/// Those of the log. Some may have been put then.
pub async fn put_dead_letters(log: &dyn EventLog, topic: &str, spooled: &Spooled) -> Result<u64> {
    if spooled.letter_count() == 0 {
        return Ok(0);
    }
    let topic = dead_letter::topic_of(topic);
    log.create_topic(&topic).await?;
    let to = TopicPartition::new(topic.name, 0);
    // They are appended one after the other, and appends keep their order: what is there is a first part of all.
    let already = letters_in(log, &to).await?;
    let mut letters = spooled.letters();
    let mut number = 0;
    let mut put = 0;
    loop {
        let (read, rest) = blocking(move || {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while bytes < APPEND_BYTES
                && let Some(letter) = letters.next_content()?
            {
                number += 1;
                if number > already {
                    bytes += if let Content::Event { value, .. } = &letter { value.len() } else { 0 };
                    batch.push(letter);
                }
            }
            Ok(((batch, number), letters))
        })
        .await?;
        (letters, number) = (rest, read.1);
        if read.0.is_empty() {
            return Ok(put);
        }
        put += read.0.len() as u64;
        log.append(&to, read.0).await?;
    }
}

/// The key of a dead letter of an import.
pub fn letter_key(number: u64) -> Bytes {
    Bytes::from(format!("{LETTER_KEY}{number}"))
}

/// How many letters of an import there are.
async fn letters_in(log: &dyn EventLog, letters: &TopicPartition) -> Result<u64> {
    let mut from = log.bounds(&letters.topic).await?.first().map_or(0, |kept| kept.start);
    let mut count = 0;
    loop {
        let records = log.read(letters, from, ReadLimit::records(4096)).await?;
        let Some(last) = records.last() else { return Ok(count) };
        from = last.offset + 1;
        for record in &records {
            if let Content::Event { key: Some(key), .. } = &record.content
                && let Some(number) = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(LETTER_KEY))
                && let Ok(number) = number.parse::<u64>()
            {
                count = count.max(number + 1);
            }
        }
    }
}

/// Lays down the segments of one partition. Those that are there already are compared. Returns how many there are; `done` counts the
/// records on the way.
///
/// # Errors
///
/// `Damaged` when a segment is there with other records; those of the archive and the registry.
pub async fn put_segments(
    archive: &Archive,
    registry: &dyn SchemaRegistry,
    partition: &TopicPartition,
    segment_records: u64,
    beginning: &Beginning,
    spooled: &Spooled,
    done: &Arc<AtomicU64>,
) -> Result<u64> {
    let end = beginning.end(partition.partition);
    let mut records = Records {
        contents: spooled.events(partition.partition),
        append_time: beginning.append_time,
        next: 0,
        end,
        peeked: None,
    };
    let mut open = Segment::FIRST;
    let mut segments = 0;
    while open.start < end {
        let until = open.limit(segment_records).min(end);
        let (mut read, first) = blocking(move || {
            let first = records.peek()?;
            Ok((records, first))
        })
        .await?;
        let mut writer = archive.writer(partition, open, until, first.as_ref(), registry).await?;
        let counted = done.clone();
        let built = blocking(move || {
            while read.next < until {
                let Some(record) = read.take()? else { break };
                writer.push(&record)?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok((writer.finish()?, read))
        });
        let (object, rest) = built.await?;
        records = rest;
        archive.put_object(partition, open.start, until, object).await?;
        segments += 1;
        open = Segment { start: until, ..open };
    }
    Ok(segments)
}

/// The records of a partition's beginning: its events, and the marker after them.
struct Records {
    contents: Contents,
    append_time: i64,
    next: Offset,
    end: Offset,
    peeked: Option<Record>,
}

impl Records {
    fn peek(&mut self) -> Result<Option<Record>> {
        if self.peeked.is_none() {
            self.peeked = self.read()?;
        }
        Ok(self.peeked.clone())
    }

    fn take(&mut self) -> Result<Option<Record>> {
        let record = match self.peeked.take() {
            Some(record) => Some(record),
            None => self.read()?,
        };
        self.next += u64::from(record.is_some());
        Ok(record)
    }

    /// The record at `next`.
    fn read(&mut self) -> Result<Option<Record>> {
        if self.next >= self.end {
            return Ok(None);
        }
        let content =
            if self.next + 1 == self.end { Some(Content::Marker(MARKER)) } else { self.contents.next_content()? };
        let Some(content) = content else {
            return Err(LogError::Damaged(format!("what was put aside ends before offset {}", self.end)));
        };
        Ok(Some(Record { offset: self.next, append_time: self.append_time, content }))
    }
}
