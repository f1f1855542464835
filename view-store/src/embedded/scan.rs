//! Reading: a generation and the deltas past its frontier, merged in the order of their groups.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use fjall::{Iter, Keyspace, Readable, UserKey, UserValue};
use views::stored::StateCodec;
use views::{Offset, SegmentId, TopicPartition, View, ViewError};

use super::bytes;
use super::failed;
use super::moment::{DeltaSpace, Moment, ViewMoment};
use super::newest::Newest;
use crate::error::{Result, StoreError};
use crate::store::{KeyRange, Origin, StateRows};
use crate::tiles::Tiles;

/// A chunk ends with the group that reaches one of these.
const CHUNK_ROWS: usize = 4096;
const CHUNK_BYTES: usize = 8 << 20;

/// A read under way. It holds its moment, and with it the snapshot and the keyspaces it reads.
pub struct Scan {
    view: Arc<View>,
    codec: Arc<StateCodec>,
    state: Arc<ViewMoment>,
    cursors: Vec<Cursor>,
    tiles: Option<Tiles>,
    _moment: Arc<Moment>,
}

/// Where one keyspace's rows are read.
struct Cursor {
    /// `None`: the head is all there is.
    rest: Option<Rest>,
    head: Option<(UserKey, UserValue)>,
    keyspace: Keyspace,
    /// `None`: the generation.
    deltas: Option<Arc<DeltaSpace>>,
}

/// The rows after the head.
enum Rest {
    /// One after the other, all of their versions passed over.
    All(Iter),
    /// Each sought.
    Newest(Box<Newest>),
}

/// A row that was read and waits for its chunk to be full.
struct Kept {
    key: UserKey,
    group: Range<usize>,
    value: UserValue,
    /// The body, when it was packed.
    unpacked: Option<Vec<u8>>,
    state: Range<usize>,
}

impl Kept {
    fn row(&self) -> (&[u8], &[u8]) {
        let bytes = self.unpacked.as_deref().unwrap_or(&self.value);
        (&self.key[self.group.clone()], &bytes[self.state.clone()])
    }
}

impl Scan {
    /// Begins a read of `range` at `moment`.
    pub fn new(
        view: &Arc<View>,
        codec: Arc<StateCodec>,
        moment: Arc<Moment>,
        state: Arc<ViewMoment>,
        range: &KeyRange,
    ) -> Result<Self> {
        let wanted = wanted(view, &codec, range)?;
        let mut cursors = Vec::with_capacity(1 + state.deltas.len());
        if wanted.start < wanted.end {
            if let Some(generation) = &state.generation {
                let keyspace = generation.keyspace.clone();
                cursors.push(if wanted.one_group {
                    let key = wanted.start.as_slice();
                    let value = moment.snapshot.get(&keyspace, key).map_err(|error| reading(&keyspace, error))?;
                    let head = value.map(|value| (UserKey::from(key), value));
                    Cursor { rest: None, head, keyspace, deltas: None }
                } else {
                    let rows = moment.snapshot.range(&keyspace, wanted.start.as_slice()..&wanted.end);
                    Cursor::over(Rest::All(rows), keyspace, None)?
                });
            }
            for deltas in state.deltas.iter().filter(|deltas| !state.covers(deltas)) {
                // Of everything, most rows were written once: then one after the other is cheaper than seeking each.
                let newest = range
                    .key
                    .as_ref()
                    .and_then(|_| Newest::within(&moment.snapshot, &deltas.keyspace, &wanted.start, &wanted.end));
                let rows = match newest {
                    Some(newest) => Rest::Newest(Box::new(newest)),
                    None => Rest::All(moment.snapshot.range(&deltas.keyspace, wanted.start.as_slice()..&wanted.end)),
                };
                cursors.push(Cursor::over(rows, deltas.keyspace.clone(), Some(deltas.clone()))?);
            }
        }
        cursors.retain(|cursor| cursor.head.is_some());
        Ok(Self { view: view.clone(), codec, state, cursors, tiles: wanted.tiles, _moment: moment })
    }

    /// Whether everything was read.
    pub fn is_done(&self) -> bool {
        self.cursors.is_empty()
    }

    /// The next rows, or `None` after the last.
    pub fn next_chunk(&mut self) -> Result<Option<StateRows>> {
        while !self.is_done() {
            let (kept, origins) = self.gather()?;
            if kept.is_empty() {
                continue;
            }
            let states = self.codec.decode(kept.iter().map(Kept::row))?;
            let rows = match &self.tiles {
                Some(tiles) => tiles.keep(StateRows { states, origins })?,
                None => StateRows { states, origins },
            };
            if !rows.origins.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    /// Reads until a chunk is full and its last group is complete.
    fn gather(&mut self) -> Result<(Vec<Kept>, Vec<Origin>)> {
        let mut kept: Vec<Kept> = Vec::new();
        let mut origins = Vec::new();
        let mut size = 0;
        while let Some(next) = self.least()? {
            if let Some(last) = kept.last()
                && (kept.len() >= CHUNK_ROWS || size >= CHUNK_BYTES)
                && self.cursors[next].group()? != Some(&last.key[last.group.clone()])
            {
                break;
            }
            let cursor = &mut self.cursors[next];
            let deltas = cursor.deltas.is_some();
            let Some((key, value)) = cursor.take()? else { break };
            if cursor.head.is_none() {
                self.cursors.remove(next);
            }
            if let Some((row, origin)) = self.keep(key, value, deltas)? {
                size += row.key.len() + row.unpacked.as_ref().map_or(row.value.len(), Vec::len);
                kept.push(row);
                origins.push(origin);
            }
        }
        Ok((kept, origins))
    }

    /// The cursor whose next group is the least; of several, the one that comes first: the generation, then by marker.
    fn least(&self) -> Result<Option<usize>> {
        let mut least: Option<(usize, &[u8])> = None;
        for (index, cursor) in self.cursors.iter().enumerate() {
            if let Some(group) = cursor.group()?
                && least.is_none_or(|(_, other)| group < other)
            {
                least = Some((index, group));
            }
        }
        Ok(least.map(|(index, _)| index))
    }

    /// Checks a row; `None` when the frontier covers it.
    fn keep(&self, key: UserKey, value: UserValue, delta: bool) -> Result<Option<(Kept, Origin)>> {
        if !delta {
            let group = 1..key.len();
            let unpacked = self.open(&key, &value)?;
            let state = body_of(&value, &unpacked);
            return Ok(Some((Kept { key, group, value, unpacked, state }, Origin::Batch)));
        }
        let (group, partition, start) = bytes::split_delta_key(&key)?;
        let group = 1..1 + group.len();
        if self.is_covered(partition, start) {
            return Ok(None);
        }
        let unpacked = self.open(&key, &value)?;
        let body = body_of(&value, &unpacked);
        let stored = unpacked.as_deref().unwrap_or(&value);
        let (through, state) = bytes::split_delta(&stored[body.clone()])?;
        let state = body.start + state.start..body.start + state.end;
        let segment = SegmentId { partition: TopicPartition::new(self.state.record.topic.clone(), partition), start };
        let reached = self.state.progress.get(&partition).map_or(0, |progress| progress.offset);
        if through > reached {
            return Err(StoreError::Damaged(format!(
                "view `{}`: the delta over {segment} holds records up to {through}, the progress only up to {reached}",
                self.view.name
            )));
        }
        Ok(Some((Kept { key, group, value, unpacked, state }, Origin::Speed { segment, through })))
    }

    fn is_covered(&self, partition: u32, start: Offset) -> bool {
        let frontier = self.state.generation.as_ref().and_then(|generation| generation.frontier.get(&partition));
        frontier.is_some_and(|frontier| start < *frontier)
    }

    fn open(&self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        match bytes::open(key, value) {
            Ok(Cow::Borrowed(_)) => Ok(None),
            Ok(Cow::Owned(body)) => Ok(Some(body)),
            Err(error) => Err(StoreError::Damaged(format!("view `{}`: {error}", self.view.name))),
        }
    }
}

fn body_of(value: &[u8], unpacked: &Option<Vec<u8>>) -> Range<usize> {
    match unpacked {
        Some(body) => 0..body.len(),
        None => bytes::HEADER..value.len(),
    }
}

impl Cursor {
    fn over(mut rows: Rest, keyspace: Keyspace, deltas: Option<Arc<DeltaSpace>>) -> Result<Self> {
        let head = advance(&mut rows, &keyspace)?;
        Ok(Self { rest: Some(rows), head, keyspace, deltas })
    }

    fn group(&self) -> Result<Option<&[u8]>> {
        let Some((key, _)) = &self.head else { return Ok(None) };
        if self.deltas.is_none() {
            return Ok(Some(bytes::group_of(key)));
        }
        let (group, _, _) = bytes::split_delta_key(key)?;
        Ok(Some(group))
    }

    fn take(&mut self) -> Result<Option<(UserKey, UserValue)>> {
        let next = match &mut self.rest {
            Some(rows) => advance(rows, &self.keyspace)?,
            None => None,
        };
        Ok(std::mem::replace(&mut self.head, next))
    }
}

fn advance(rows: &mut Rest, keyspace: &Keyspace) -> Result<Option<(UserKey, UserValue)>> {
    let next = match rows {
        Rest::All(rows) => rows.next().map(fjall::Guard::into_inner),
        Rest::Newest(rows) => rows.next(),
    };
    next.transpose().map_err(|error| reading(keyspace, error))
}

fn reading(keyspace: &Keyspace, error: fjall::Error) -> StoreError {
    failed(format!("reading `{}` in {}", keyspace.name(), keyspace.path().display()), error)
}

/// A [`KeyRange`] in stored keys.
struct Wanted {
    start: Vec<u8>,
    end: Vec<u8>,
    /// The range is one group: its key is `start`.
    one_group: bool,
    tiles: Option<Tiles>,
}

fn wanted(view: &View, codec: &StateCodec, range: &KeyRange) -> Result<Wanted> {
    let prefix = match &range.key {
        Some(key) => codec.key_prefix(key)?,
        None => Vec::new(),
    };
    let (mut start, mut end) = bytes::prefix_range(&prefix);
    if prefix.len() > bytes::MAX_GROUP {
        // There is no such group, and the store below cannot even be asked.
        end = start.clone();
    }
    let mut one_group = range.key.is_some() && view.key_columns == view.group_schema.fields().len();
    let mut tiles = None;
    if range.from.is_some() || range.to.is_some() {
        let time = view.time.ok_or_else(|| ViewError::Invalid(format!("view `{}` has no time column", view.name)))?;
        let key = if view.key_columns == 0 { Some([].as_slice()) } else { range.key.as_deref() };
        let bound = |tile: &Option<datafusion::scalar::ScalarValue>| match (key, tile) {
            (Some(key), Some(tile)) => codec.time_bound(key, tile),
            _ => Ok(None),
        };
        let (from, to) = (bound(&range.from)?, bound(&range.to)?);
        let nulls_only = from.is_some() == range.from.is_some() && to.is_some() == range.to.is_some();
        if let Some(from) = from {
            start = start.max(bytes::prefix_range(&from).0);
        }
        if let Some(to) = to {
            end = end.min(bytes::prefix_range(&to).0);
        }
        one_group = false;
        tiles = Some(Tiles { column: time.index, from: range.from.clone(), to: range.to.clone(), nulls_only });
    }
    if let Some(after) = &range.after {
        let (_, past) = bytes::prefix_range(&after[..after.len().min(bytes::MAX_GROUP)]);
        one_group &= past <= start;
        start = start.max(past);
    }
    Ok(Wanted { start, end, one_group, tiles })
}
