//! The rows of one range of a keyspace that is overwritten all the time, each as it was last written before a moment.
//!
//! The delta of a group that is touched often is written a hundred times a second, and fjall keeps every version in its
//! memtable until that is written out. Its own iterator walks through all of them: asking for the most popular key would
//! take milliseconds. Here every row is sought, so that a row costs the same however often it was overwritten.
//!
//! What is read: the memtable that takes writes, and the tables. One that is on its way from the first to the second is in
//! neither; then there is nothing here, and fjall's iterator does it. The order of looking (memtable, on their way, tables) is the
//! order in which rows move, so none is missed.

use std::iter::Peekable;
use std::ops::Bound;

use fjall::{AbstractTree as _, Keyspace, LsmError, Snapshot, UserKey, UserValue};

/// A row, and the number of the write that made it.
type Version = (UserKey, u64, UserValue);

type InMemory = Box<dyn FnMut() -> Option<Version> + Send>;
type InTable = Peekable<Box<dyn Iterator<Item = Result<Version, LsmError>> + Send>>;

/// The rows, in order of their keys.
pub struct Newest {
    memtable: InMemory,
    head: Option<Version>,
    tables: Vec<InTable>,
}

impl Newest {
    /// The rows from `start` on and before `end` that `snapshot` sees; `None` when this cannot be told here.
    pub fn within(snapshot: &Snapshot, keyspace: &Keyspace, start: &[u8], end: &[u8]) -> Option<Self> {
        let before = snapshot.seqno();
        let mut memtable = in_memory(keyspace, before, start, end);
        if keyspace.tree.sealed_memtable_count() > 0 {
            return None;
        }
        let tables = in_tables(keyspace, before, start, end);
        Some(Self { head: memtable(), memtable, tables })
    }
}

/// Seeks the rows of the memtable that takes writes.
fn in_memory(keyspace: &Keyspace, before: u64, start: &[u8], end: &[u8]) -> InMemory {
    let memtable = keyspace.tree.active_memtable();
    let Some(mut seek) = memtable.items.front().map(|entry| entry.key().clone()) else {
        return Box::new(|| None);
    };
    // Versions of one key stand together, the newest first.
    seek.user_key = UserKey::from(start);
    seek.seqno = u64::MAX;
    let mut is_past = false;
    let end = end.to_vec();
    Box::new(move || {
        loop {
            let entry =
                memtable.items.lower_bound(if is_past { Bound::Excluded(&seek) } else { Bound::Included(&seek) })?;
            let key = entry.key();
            if *key.user_key >= *end {
                return None;
            }
            seek.user_key = key.user_key.clone();
            let is_seen = key.seqno < before;
            // On past all versions of this key; or, when this one was written after the moment, to the newest that was not.
            is_past = is_seen || before == 0;
            seek.seqno = if is_past { 0 } else { before - 1 };
            if is_seen && !key.is_tombstone() {
                return Some((key.user_key.clone(), key.seqno, entry.value().clone()));
            }
        }
    })
}

fn in_tables(keyspace: &Keyspace, before: u64, start: &[u8], end: &[u8]) -> Vec<InTable> {
    let version = keyspace.tree.current_version();
    let overlaps = |min: &[u8], max: &[u8]| min < end && start <= max;
    let tables = version.iter_tables().filter(|table| {
        let range = &table.metadata.key_range;
        overlaps(range.min(), range.max())
    });
    let rows = tables.map(|table| {
        let rows = table.range((Bound::Included(UserKey::from(start)), Bound::Excluded(UserKey::from(end))));
        let rows = rows.map(|row| row.map(|row| (row.key, row.value)));
        let seen = rows.filter_map(move |row| match row {
            Ok((key, value)) if key.seqno < before && !key.is_tombstone() => Some(Ok((key.user_key, key.seqno, value))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        (Box::new(seen) as Box<dyn Iterator<Item = _> + Send>).peekable()
    });
    rows.collect()
}

impl Iterator for Newest {
    type Item = Result<(UserKey, UserValue), fjall::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.tables.is_empty() {
            let (key, _, value) = self.head.take()?;
            self.head = (self.memtable)();
            return Some(Ok((key, value)));
        }
        let mut least: Option<UserKey> = self.head.as_ref().map(|(key, _, _)| key.clone());
        for table in &mut self.tables {
            match table.peek() {
                Some(Ok((key, _, _))) if least.as_ref().is_none_or(|least| key < least) => least = Some(key.clone()),
                Some(Err(_)) => return table.next().and_then(Result::err).map(|error| Err(error.into())),
                _ => {}
            }
        }
        let least = least?;
        let mut newest: Option<Version> = None;
        let mut take = |version: Version| {
            if newest.as_ref().is_none_or(|(_, number, _)| *number < version.1) {
                newest = Some(version);
            }
        };
        if let Some(version) = self.head.take_if(|(key, _, _)| *key == least) {
            self.head = (self.memtable)();
            take(version);
        }
        for table in &mut self.tables {
            while let Some(Ok(version)) = table.next_if(|row| matches!(row, Ok((key, _, _)) if *key == least)) {
                take(version);
            }
        }
        newest.map(|(key, _, value)| Ok((key, value)))
    }
}
