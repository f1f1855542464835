//! Whether what several reads returned is of one moment, and of which. No I/O.
//!
//! A *part* is what one read of one CQL partition returned. Before it was read the progress was known, so it holds at least
//! everything before that. It may hold more: rows of a write whose progress was not there yet. A moment is an offset per partition of
//! the log, and a part is exactly of a moment S when, for every partition,
//!
//! - the progress before it had reached S, and it has nothing past S; or
//! - its furthest rows reach exactly S and were written in one piece, read in one page: then everything of this key
//!   before S was there, because whoever wrote them stood on progress himself.

use std::collections::BTreeMap;
use std::sync::Arc;

use views::Offset;

use super::read::Stored;

/// An offset per partition.
pub type Reached = BTreeMap<u32, Offset>;

/// How far a part reaches.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// What was known to be there before it was read.
    known: Arc<Reached>,
    /// How far its furthest deltas reach, and whether these appeared at once.
    furthest: BTreeMap<u32, (Offset, bool)>,
}

impl Reach {
    /// Of rows read in one page, or in several.
    pub fn of<'r>(known: Arc<Reached>, rows: impl IntoIterator<Item = &'r Stored>, one_page: bool) -> Self {
        let mut furthest: BTreeMap<u32, (Offset, bool)> = BTreeMap::new();
        for delta in rows.into_iter().filter_map(|row| row.delta.as_ref()) {
            let at_once = one_page && delta.at_once;
            match furthest.get_mut(&delta.partition) {
                Some((reaches, _)) if *reaches > delta.through => {}
                Some((reaches, all)) if *reaches == delta.through => *all &= at_once,
                _ => drop(furthest.insert(delta.partition, (delta.through, at_once))),
            }
        }
        Self { known, furthest }
    }

    /// Whether it has nothing past what was known.
    pub fn is_within(&self) -> bool {
        self.furthest.iter().all(|(partition, (reaches, _))| *reaches <= self.known_of(*partition))
    }

    /// Whether it is exactly of a moment that lies nowhere before what it has.
    pub fn is_of(&self, moment: &Reached) -> bool {
        moment.iter().all(|(partition, at)| {
            self.known_of(*partition) >= *at
                || self.furthest.get(partition).is_some_and(|furthest| *furthest == (*at, true))
        })
    }

    fn known_of(&self, partition: u32) -> Offset {
        self.known.get(&partition).copied().unwrap_or(0)
    }
}

/// Whether a moment is nowhere before another.
pub fn covers(reached: &Reached, wanted: &Reached) -> bool {
    wanted.iter().all(|(partition, at)| reached.get(partition).copied().unwrap_or(0) >= *at)
}

/// The earliest moment that all parts can be of: none has anything past it.
pub fn moment<'r>(first: &Reached, parts: impl IntoIterator<Item = &'r Reach>) -> Reached {
    let mut moment = first.clone();
    for (partition, (reaches, _)) in parts.into_iter().flat_map(|part| &part.furthest) {
        let at = moment.entry(*partition).or_insert(0);
        *at = (*at).max(*reaches);
    }
    moment
}
