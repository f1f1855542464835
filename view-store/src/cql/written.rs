//! The states that this handle wrote last, so that continuing them needs no read.
//!
//! What is kept of a view's partition is of the segment that is open there, as of one offset: where this handle's last write ended. It
//! is of use only to whoever goes on exactly there, and forgotten at any jump, conflict or error. What another owner writes
//! meanwhile does not matter: a state is a pure function of its segment and the offset it reaches.
//!
//! Where the cache has followed a segment from its start without leaving anything out, a group that is missing has no state yet: that
//! needs no read either. Of a segment that was open before, it learns what a read for another partition brought along
//! ([`super::priors`]).

use std::collections::HashMap;
use std::sync::Arc;

use views::{Offset, Segment};

use crate::store::Progress;

/// A table and a partition.
type Place = (Arc<str>, u32);

/// The cache of one handle.
pub struct Written {
    limit: usize,
    size: usize,
    followed: HashMap<Place, Followed>,
}

/// A segment as of an offset.
pub struct Followed {
    /// Where the view stands when these are the states.
    at: Offset,
    segment: Segment,
    /// Whether a group that is not here has no state.
    complete: bool,
    /// `None`: the group has none yet.
    states: HashMap<Box<[u8]>, Option<(Offset, Box<[u8]>)>>,
    size: usize,
}

/// What is known of a group's state.
#[derive(Debug, PartialEq, Eq)]
pub enum Prior {
    /// This, reaching so far.
    State(Offset, Box<[u8]>),
    /// There is none.
    None,
    /// It must be read.
    Unknown,
}

/// What a group takes beside its bytes, about.
const OVERHEAD: usize = 64;

fn size_of(group: &[u8], state: Option<&(Offset, Box<[u8]>)>) -> usize {
    group.len() + state.map_or(0, |(_, state)| state.len()) + OVERHEAD
}

impl Followed {
    /// A segment of which nothing is known, or that began after `from`, where the view stands.
    pub fn new(segment: Segment, from: Offset) -> Self {
        Self { at: from, segment, complete: segment.start >= from, states: HashMap::new(), size: 0 }
    }

    /// Puts a state in that was written.
    pub fn put(&mut self, group: &[u8], through: Offset, state: &[u8]) {
        self.know(group, Some((through, state.into())));
    }

    fn know(&mut self, group: &[u8], state: Option<(Offset, Box<[u8]>)>) {
        self.size += size_of(group, state.as_ref());
        if let Some(before) = self.states.insert(group.into(), state) {
            self.size -= size_of(group, before.as_ref());
        }
    }

    /// As of where the write ended.
    pub fn reached(mut self, at: Offset) -> Self {
        self.at = at;
        self
    }

    /// Forgets about half.
    fn halve(&mut self) {
        let mut keep = false;
        let mut size = 0;
        self.states.retain(|group, state| {
            keep = !keep;
            if keep {
                size += size_of(group, state.as_ref());
            }
            keep
        });
        self.size = size;
        self.complete = false;
    }
}

impl Written {
    /// A cache of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, size: 0, followed: HashMap::new() }
    }

    /// What is known of groups' states over the segment that is open `at` where the view stands.
    pub fn priors<'g>(
        &self,
        table: &Arc<str>,
        partition: u32,
        at: Progress,
        groups: impl Iterator<Item = &'g [u8]>,
    ) -> Vec<Prior> {
        let followed = self.followed(table, partition, at);
        let prior = |group: &[u8]| match followed {
            None => Prior::Unknown,
            Some(followed) => match followed.states.get(group) {
                Some(Some((through, state))) => Prior::State(*through, state.clone()),
                Some(None) => Prior::None,
                None if followed.complete => Prior::None,
                None => Prior::Unknown,
            },
        };
        groups.map(prior).collect()
    }

    /// Whether nothing is known of a group's state there.
    pub fn lacks(&self, table: &Arc<str>, partition: u32, at: Progress, group: &[u8]) -> bool {
        self.followed(table, partition, at)
            .is_none_or(|followed| !followed.complete && !followed.states.contains_key(group))
    }

    /// Puts in what a read found of groups' states over the segment that is open `at` where the view stands, none reaching past it.
    /// Nothing is learnt of a place before one that is known.
    pub fn learn<'g>(
        &mut self,
        table: &Arc<str>,
        partition: u32,
        at: Progress,
        states: impl Iterator<Item = (&'g [u8], Option<&'g (Offset, Vec<u8>)>)>,
    ) {
        let known = self.followed.get(&(table.clone(), partition));
        if known.is_some_and(|known| known.at > at.offset) {
            return;
        }
        let mut followed = self.take(table, partition, at.segment, at.offset);
        for (group, state) in states {
            followed.know(group, state.map(|(through, state)| (*through, state.as_slice().into())));
        }
        self.put_back(table, partition, followed);
    }

    fn followed(&self, table: &Arc<str>, partition: u32, at: Progress) -> Option<&Followed> {
        let followed = self.followed.get(&(table.clone(), partition))?;
        (followed.at == at.offset && followed.segment == at.segment).then_some(followed)
    }

    /// Takes out what is there of a partition, for a write from `from` that ends in `segment`. What is not put back is forgotten: a
    /// write that fails or is dropped leaves nothing.
    pub fn take(&mut self, table: &Arc<str>, partition: u32, segment: Segment, from: Offset) -> Followed {
        let followed = self.followed.remove(&(table.clone(), partition));
        self.size -= followed.as_ref().map_or(0, |followed| followed.size);
        match followed {
            Some(followed) if followed.at == from && followed.segment == segment => followed,
            _ => Followed::new(segment, from),
        }
    }

    /// Puts back what a write left.
    pub fn put_back(&mut self, table: &Arc<str>, partition: u32, followed: Followed) {
        self.size += followed.size;
        if let Some(other) = self.followed.insert((table.clone(), partition), followed) {
            self.size -= other.size;
        }
        while self.size > self.limit {
            let Some(largest) = self.followed.values_mut().max_by_key(|followed| followed.size) else { break };
            self.size -= largest.size;
            largest.halve();
            self.size += largest.size;
        }
    }

    /// Forgets what is there of a partition.
    pub fn forget(&mut self, table: &Arc<str>, partition: u32) {
        if let Some(followed) = self.followed.remove(&(table.clone(), partition)) {
            self.size -= followed.size;
        }
    }
}
