//! The number of a run, its markers, and the frontier they make.
//!
//! **The number.** A run takes a number higher than every marker and generation it knows of and appends that marker to the
//! first partition. If no other marker numbered as high stands before it there, the number is this run's alone; else the
//! run takes a higher one and tries again. So the log itself tells racing runs apart, and what a dead run left is
//! stepped over. Runs that do not agree which partition is the first (they know different views) find out where they meet: a
//! number that somebody else has in any partition is given up too. So no two runs over one partition share a number, and rows
//! written under a number belong to one frontier.
//!
//! **The frontier.** In each partition it lies right after the *first* marker numbered N or higher: that is where every
//! reader of the log cuts. It is usually our own marker; when another run's higher one came first, ours cuts nothing.

use std::sync::Arc;

use event_log::archive::Archive;
use event_log::error::{LogError, Result};
use event_log::{Content, EventLog, ReadLimit};
use views::{Offset, Segment, TopicPartition};

const READ_RECORDS: usize = 4096;

/// The partitions of some topics, in order. A topic that is not in the log has none.
pub async fn partitions(log: &dyn EventLog, topics: &[Arc<str>]) -> Result<Vec<TopicPartition>> {
    let mut all = Vec::new();
    for topic in log.topics().await? {
        if let Some(name) = topics.iter().find(|name| ***name == *topic.name) {
            all.extend((0..topic.partitions).map(|partition| TopicPartition::new(name.clone(), partition)));
        }
    }
    all.sort();
    Ok(all)
}

/// Where the archive of a partition ends: a cut, and the highest marker number before it. Whatever
/// lies before it need not be read again to find markers.
pub async fn archived(archive: &Archive, partition: &TopicPartition) -> Result<Segment> {
    let segments = archive.list(partition).await?;
    let Some(last) = segments.last() else {
        return Ok(Segment::FIRST);
    };
    let header = archive.header(last).await?;
    let marker = header.marker_after.map_or(header.marker_before, |(number, _)| number);
    Ok(Segment { start: last.end, marker })
}

/// Whether an event stands at or past `from`.
pub async fn has_events(log: &dyn EventLog, partition: &TopicPartition, mut from: Offset) -> Result<bool> {
    loop {
        let records = log.read(partition, from, ReadLimit::records(READ_RECORDS)).await?;
        let Some(last) = records.last() else {
            return Ok(false);
        };
        if records.iter().any(|record| matches!(record.content, Content::Event { .. })) {
            return Ok(true);
        }
        from = last.offset + 1;
    }
}

/// The first cut that a marker numbered `number` or higher makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The offset right after that marker.
    pub offset: Offset,
    /// The marker's number.
    pub marker: u64,
}

/// Appends marker `number` and finds the cut that a frontier of that number lies at.
///
/// `known`: a cut before which every marker is lower than `number`.
pub async fn mark(
    log: &dyn EventLog,
    partition: &TopicPartition,
    known: Segment,
    number: u64,
) -> Result<(Offset, Cut)> {
    let own = log.append(partition, vec![Content::Marker(number)]).await?.start;
    Ok((own, first_cut(log, partition, known, number, own).await?))
}

/// Finds the first marker numbered `number` or higher, which stands at or before `own`, where one surely does.
async fn first_cut(
    log: &dyn EventLog,
    partition: &TopicPartition,
    known: Segment,
    number: u64,
    own: Offset,
) -> Result<Cut> {
    let mut next = known.start;
    while next <= own {
        let records = log.read(partition, next, ReadLimit::records(READ_RECORDS)).await?;
        let Some(last) = records.last() else {
            break;
        };
        for record in &records {
            if let Content::Marker(marker) = record.content
                && marker >= number
            {
                return Ok(Cut { offset: record.offset + 1, marker });
            }
        }
        next = last.offset + 1;
    }
    Err(LogError::Damaged(format!("{partition} does not hold marker {number}, which was appended at offset {own}")))
}
