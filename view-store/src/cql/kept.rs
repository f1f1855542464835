//! What was read of a key, for as long as reading it again would return the same.
//!
//! A part that is exactly of a moment is so for ever: the events before it never change. So it may be handed out again while the view
//! stands at that moment, under the same generation, and whoever asks for a key that nothing happened to asks the store only for the
//! boundary. The boundary is never kept apart from the part: a part without the moment that it was read at is of no use.
//!
//! Answers must not go back: once a read of a table has shown rows past the boundary that it began with, nothing is taken from what is
//! kept of that table until the boundary has caught up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::moment::{Reached, covers};
use super::pointer::Hold;
use super::read::Stored;

/// Rows may have expired since.
const LONGEST: Duration = Duration::from_secs(60);
/// What a part takes beside its rows, and what a row takes beside its bytes.
const PART_BYTES: usize = 256;
const ROW_BYTES: usize = 128;
/// How large a part that is kept is thought to be, to size the table.
const USUAL_BYTES: usize = 1024;
/// Larger parts are not kept: next to reading them, asking for them is nothing.
const LARGEST_BYTES: usize = 256 << 10;

/// Which part: the table, the bucket, and the groups from one to before another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartName {
    pub table: Arc<str>,
    pub bucket: i64,
    pub start: Bytes,
    pub end: Bytes,
}

/// A part that is exactly of a moment.
#[derive(Clone)]
struct KeptPart {
    /// The moment: where the view stood in every partition, and its generation.
    known: Arc<Reached>,
    hold: Option<Arc<Hold>>,
    rows: Arc<[Stored]>,
    since: Instant,
}

/// The parts of all tables, in so many bytes; which of them, the cache says.
pub struct KeptParts {
    parts: Option<Cache<PartName, KeptPart, Weigh>>,
    seen: Mutex<Seen>,
}

/// What reads of this handle have come to.
#[derive(Default)]
struct Seen {
    /// How far they have seen, where that was further than their boundary; by table.
    further: HashMap<Arc<str>, Reached>,
    /// How often the store has gone back. What began before that may be of a moment that is not any more.
    lives: u64,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<PartName, KeptPart> for Weigh {
    fn weight(&self, name: &PartName, part: &KeptPart) -> u64 {
        let rows: usize = part.rows.iter().map(bytes_of).sum();
        (PART_BYTES + name.start.len() + name.end.len() + rows) as u64
    }
}

impl KeptParts {
    /// Nothing is kept in no bytes.
    pub fn new(bytes: usize) -> Self {
        let parts = (bytes > 0).then(|| Cache::with_weighter(bytes / USUAL_BYTES, bytes as u64, Weigh));
        Self { parts, seen: Mutex::default() }
    }

    /// The rows of a part at a moment.
    pub fn rows(&self, name: &PartName, known: &Reached, hold: Option<&Arc<Hold>>) -> Option<Arc<[Stored]>> {
        let part = self.parts.as_ref()?.get(name)?;
        let is_of = *part.known == *known && part.hold.as_ref() == hold && part.since.elapsed() < LONGEST;
        let is_seen = |seen: &Reached| covers(known, seen);
        (is_of && self.seen.lock().further.get(&name.table).is_none_or(is_seen)).then_some(part.rows)
    }

    /// How often the store had gone back when a read began.
    pub fn lives(&self) -> u64 {
        self.seen.lock().lives
    }

    /// Keeps a part that was read and has nothing past `known`, unless the store has gone back since the read began.
    pub fn keep(&self, name: PartName, lives: u64, known: Arc<Reached>, hold: Option<Arc<Hold>>, rows: &[Stored]) {
        let Some(parts) = &self.parts else { return };
        if rows.iter().map(bytes_of).sum::<usize>() > LARGEST_BYTES {
            return;
        }
        let part = KeptPart { known, hold, rows: by_themselves(rows), since: Instant::now() };
        let seen = self.seen.lock();
        if seen.lives == lives {
            parts.insert(name, part);
        }
    }

    /// A read of this table has shown a moment past its boundary.
    pub fn saw(&self, table: &Arc<str>, moment: &Reached) {
        if self.parts.is_none() {
            return;
        }
        let mut seen = self.seen.lock();
        let seen = seen.further.entry(table.clone()).or_default();
        for (partition, offset) in moment {
            let furthest = seen.entry(*partition).or_insert(0);
            *furthest = (*furthest).max(*offset);
        }
    }

    /// Nothing that was read is certain any more.
    pub fn forget(&self) {
        let mut seen = self.seen.lock();
        seen.further.clear();
        seen.lives += 1;
        if let Some(parts) = &self.parts {
            parts.clear();
        }
    }
}

fn bytes_of(row: &Stored) -> usize {
    ROW_BYTES + row.group.len() + row.state.len()
}

/// Rows that do not hold on to the whole response that they came in.
fn by_themselves(rows: &[Stored]) -> Arc<[Stored]> {
    let mut bytes = BytesMut::with_capacity(rows.iter().map(|row| row.group.len() + row.state.len()).sum());
    let copied = rows.iter().map(|row| {
        let mut copy = |of: &Bytes| {
            bytes.extend_from_slice(of);
            bytes.split().freeze()
        };
        Stored { group: copy(&row.group), delta: row.delta, state: copy(&row.state) }
    });
    copied.collect()
}
