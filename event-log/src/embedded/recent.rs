//! The records appended last, kept in memory: whoever follows the tail never touches the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use views::Offset;

use super::frame;
use crate::log::{ReadLimit, Record};

/// A group as it was written.
#[derive(Debug)]
pub struct Group {
    first: Offset,
    records: Vec<Record>,
    bytes: usize,
}

impl Group {
    /// A group of records whose keys and values are slices of `encoded`. There is at least one record.
    pub fn new(first: Offset, records: Vec<Record>, encoded: &Bytes) -> Self {
        let bytes = encoded.len() + records.len() * size_of::<Record>();
        Self { first, records, bytes }
    }

    fn end(&self) -> Offset {
        self.first + self.records.len() as Offset
    }
}

/// The last groups, bounded by bytes.
#[derive(Debug)]
pub struct Recent {
    groups: VecDeque<Arc<Group>>,
    bytes: usize,
    most_bytes: usize,
}

impl Recent {
    /// Holds nothing, and never more than `most_bytes`.
    pub fn new(most_bytes: usize) -> Self {
        Self { groups: VecDeque::new(), bytes: 0, most_bytes }
    }

    /// Adds the group that was just committed, and lets go of the oldest that are too much.
    pub fn push(&mut self, group: Group) {
        self.bytes += group.bytes;
        self.groups.push_back(Arc::new(group));
        while self.bytes > self.most_bytes
            && let Some(oldest) = self.groups.pop_front()
        {
            self.bytes -= oldest.bytes;
        }
    }

    /// The groups that hold the records from `from` on, as many as a read of `limit` may need; `None` when the first of them
    /// is not here any more.
    pub fn from(&self, from: Offset, limit: &ReadLimit) -> Option<Vec<Arc<Group>>> {
        if self.groups.front().is_none_or(|oldest| from < oldest.first) {
            return None;
        }
        let start = self.groups.partition_point(|group| group.end() <= from);
        let (mut found, mut records, mut bytes) = (Vec::new(), 0, 0);
        for group in self.groups.iter().skip(start) {
            if !found.is_empty() && (records >= limit.records || bytes >= limit.bytes) {
                break;
            }
            let skipped = from.saturating_sub(group.first) as usize;
            let taken = &group.records[skipped.min(group.records.len())..];
            records += taken.len();
            if start + found.len() + 1 < self.groups.len() {
                // Only to know whether the next group is needed.
                bytes += taken.iter().map(|record| frame::content_length(&record.content)).sum::<usize>();
            }
            found.push(group.clone());
        }
        Some(found)
    }
}

/// The records of `groups` from `from` on, within the limit.
pub fn take(groups: &[Arc<Group>], from: Offset, limit: &ReadLimit) -> Vec<Record> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    for record in groups.iter().flat_map(|group| &group.records).skip_while(|record| record.offset < from) {
        bytes += frame::content_length(&record.content);
        records.push(record.clone());
        if records.len() >= limit.records || bytes >= limit.bytes {
            break;
        }
    }
    records
}
