//! Reading the rows of a view at one moment.
//!
//! The boundary first, then the rows, then the question whether they are of one moment ([`moment`]). What is not is read again, once the
//! progress has caught up with the furthest row seen. Should it not move (its writer died, and nobody has gone on yet), the answer
//! is of an earlier moment: without the deltas of the segments that are open, as of the cuts where these begin. Deltas of a segment that the
//! progress has left behind do not change any more.
//!
//! Reads of every key are of one moment when nothing lies past the progress that was read before; that has to be tried a few
//! times while somebody writes, and otherwise they are of the last cuts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt};
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlValue;
use views::{Offset, Position, TopicPartition, View};

use super::boundary::Boundary;
use super::chunks::chunks;
use super::kept::PartName;
use super::moment::{self, Reach, Reached, covers};
use super::pointer::Hold;
use super::range::Wanted;
use super::view_table::ViewTable;
use super::{Inner, failed, unreadable, unsigned};
use crate::error::{Result, StoreError};
use crate::store::{KeyRange, ViewRead};

/// How often a read of everything is tried before it is of the last cuts.
const WHOLE_TRIES: usize = 3;
/// For how many times its patience a read goes on while the progress moves.
const BUSY: u32 = 5;
/// How long to wait before asking again how far the progress is.
const POLL: Duration = Duration::from_millis(2);

/// A row that counts, as it was stored.
#[derive(Debug, Clone)]
pub struct Stored {
    pub group: Bytes,
    /// `None`: a row of the generation.
    pub delta: Option<Delta>,
    /// Sealed.
    pub state: Bytes,
}

/// What is said of a delta beside its state.
#[derive(Debug, Clone, Copy)]
pub struct Delta {
    pub partition: u32,
    pub start: Offset,
    pub through: Offset,
    /// Whether it appeared together with everything else of its CQL partition that its write changed.
    pub at_once: bool,
}

/// A read under way.
struct Read<'a> {
    inner: &'a Inner,
    table: Arc<ViewTable>,
    wanted: Wanted,
    hold: Option<Arc<Hold>>,
    /// How often the store had gone back when this began.
    lives: u64,
    /// What was collected, in bytes.
    size: AtomicUsize,
}

/// The rows of one CQL partition.
struct Part {
    bucket: i64,
    reach: Reach,
    rows: Vec<Stored>,
}

/// What a read came to.
struct Outcome {
    rows: Vec<Stored>,
    reached: Reached,
}

type RawRow = (Bytes, i64, i32, i64, Option<i64>, Option<i32>, Option<Bytes>);

/// See [`crate::ViewStore::read`].
pub async fn read(inner: &Arc<Inner>, view: &Arc<View>, range: &KeyRange) -> Result<ViewRead> {
    let mut lives = inner.kept.lives();
    let mut boundary = inner.recent_boundary().await?;
    inner.read_ahead(&boundary);
    let mut starts = 0;
    loop {
        let Some(name) = boundary.known.table(view).cloned() else {
            check(view, range)?;
            return Ok(ViewRead { published: None, position: Position::new(), rows: stream::empty().boxed() });
        };
        match at(inner, view, range, &name, &boundary, lives).await {
            Ok((read, outcome)) if inner.still_holds(&boundary, &name).await? && inner.kept.lives() == lives => {
                let Read { table, wanted, hold, .. } = read;
                let mut position = Position::new();
                for (partition, offset) in outcome.reached {
                    position.set(&TopicPartition::new(view.source.name.clone(), partition), offset);
                }
                let published = hold.map(|hold| hold.published.clone());
                let rows = chunks(table, wanted.tiles, outcome.rows).boxed();
                return Ok(ViewRead { published, position, rows });
            }
            // What the boundary speaks of may be gone: from the start.
            Ok(_) => {}
            Err(error) => {
                boundary = inner.fresh_boundary().await?;
                if boundary.known.table(view) == Some(&name) {
                    return Err(error);
                }
            }
        }
        starts += 1;
        if starts > 100 {
            return Err(busy(view, "it is published over and over again while it is read"));
        }
        lives = inner.kept.lives();
        boundary = inner.fresh_boundary().await?;
    }
}

/// Reads under one boundary.
async fn at<'a>(
    inner: &'a Inner,
    view: &Arc<View>,
    range: &KeyRange,
    name: &Arc<str>,
    boundary: &Arc<Boundary>,
    lives: u64,
) -> Result<(Read<'a>, Outcome)> {
    let table = inner.view_table(view, name).await?;
    let wanted = Wanted::new(&table, range)?;
    let hold = boundary.known.hold(name).cloned();
    let read = Read { inner, table, wanted, hold, lives, size: AtomicUsize::new(0) };
    let mut outcome = if read.wanted.is_empty() {
        Outcome { rows: Vec::new(), reached: read.stands(boundary) }
    } else if let Some(key) = &read.wanted.key {
        read.key(key, boundary).await?
    } else {
        read.everything(boundary).await?
    };
    outcome.rows.sort_unstable_by(|a, b| (&a.group, a.place()).cmp(&(&b.group, b.place())));
    Ok((read, outcome))
}

impl Stored {
    /// Rows of one group: the generation's first, then by partition and segment.
    fn place(&self) -> Option<(u32, Offset)> {
        self.delta.map(|delta| (delta.partition, delta.start))
    }
}

impl Read<'_> {
    /// Where the view stands in every partition.
    fn stands(&self, boundary: &Boundary) -> Reached {
        boundary.stands(&self.table.name, self.hold.as_deref())
    }

    /// The rows of one key.
    async fn key(&self, key: &[CqlValue], boundary: &Arc<Boundary>) -> Result<Outcome> {
        let patience = self.inner.options.patience;
        let began = Instant::now();
        // When the progress was last seen to move.
        let mut moved = began;
        let first = Arc::new(self.stands(boundary));
        let mut latest = first.clone();
        let mut asked = boundary.ended;
        let mut parts: BTreeMap<i64, Part> = BTreeMap::new();
        loop {
            let buckets = self.inner.buckets(&self.table, self.wanted.buckets, asked).await?;
            let target = moment::moment(&first, parts.values().map(|part| &part.reach));
            let fits = |bucket: &i64| parts.get(bucket).is_some_and(|part| part.reach.is_of(&target));
            let again: Vec<i64> = buckets.into_iter().filter(|bucket| !fits(bucket)).collect();
            if again.is_empty() {
                if target != *first {
                    self.inner.kept.saw(&self.table.name, &target);
                }
                let rows = parts.into_values().flat_map(|part| part.rows).collect();
                return Ok(Outcome { rows, reached: target });
            }
            // What was read reaches further than was known: wait until that is known, so that the others can be brought there.
            while !covers(&latest, &target) {
                if moved.elapsed() >= patience {
                    return self.of_the_last_cuts(parts, key).await;
                }
                tokio::time::sleep(POLL).await;
                let next = self.stands(&*self.inner.fresh_boundary().await?);
                if next != *latest {
                    moved = Instant::now();
                    latest = Arc::new(next);
                }
            }
            if began.elapsed() >= patience * BUSY {
                return Err(busy(&self.table.view, "it is written all the time: ask for a shorter range"));
            }
            for bucket in &again {
                if let Some(part) = parts.remove(bucket) {
                    self.release(&part.rows);
                }
            }
            for part in self.parts(key, again, &latest).await? {
                parts.insert(part.bucket, part);
            }
            if moment::moment(&first, parts.values().map(|part| &part.reach)) != *first {
                // A write that this read has seen may have begun a bucket that it has not.
                asked = Instant::now();
            }
        }
    }

    /// The answer where nobody can say more: what the progress has left behind.
    async fn of_the_last_cuts(&self, parts: BTreeMap<i64, Part>, key: &[CqlValue]) -> Result<Outcome> {
        parts.values().for_each(|part| self.release(&part.rows));
        let boundary = self.inner.fresh_boundary().await?;
        let buckets = self.inner.buckets(&self.table, self.wanted.buckets, boundary.ended).await?;
        let known = Arc::new(self.stands(&boundary));
        let parts = self.parts(key, buckets.into_iter().collect(), &known).await?;
        Ok(self.sealed(parts.into_iter().flat_map(|part| part.rows), &boundary))
    }

    /// Rows without the deltas of open segments.
    fn sealed(&self, rows: impl IntoIterator<Item = Stored>, boundary: &Boundary) -> Outcome {
        let mut reached = self.hold.as_ref().map(|hold| hold.frontier.clone()).unwrap_or_default();
        for (partition, progress) in boundary.all_progress(&self.table.name) {
            let cut = reached.entry(partition).or_insert(0);
            *cut = progress.segment.start.max(*cut);
        }
        let is_left = |row: &Stored| {
            row.delta.is_none_or(|delta| reached.get(&delta.partition).is_some_and(|cut| delta.start < *cut))
        };
        let rows = rows.into_iter().filter(is_left).collect();
        Outcome { rows, reached }
    }

    /// The rows of every key.
    async fn everything(&self, boundary: &Arc<Boundary>) -> Result<Outcome> {
        let patience = Instant::now() + self.inner.options.patience * BUSY;
        let mut boundary = boundary.clone();
        let mut tries = 0;
        loop {
            let known = Arc::new(self.stands(&boundary));
            let rows = self.scan().await?;
            tries += 1;
            let outcome = if Reach::of(known.clone(), &rows, false).is_within() {
                Outcome { rows, reached: Arc::unwrap_or_clone(known) }
            } else if tries < WHOLE_TRIES {
                self.release(&rows);
                boundary = self.inner.fresh_boundary().await?;
                continue;
            } else {
                self.sealed(rows, &boundary)
            };
            if self.goes_on(&outcome.reached) {
                return Ok(outcome);
            }
            if Instant::now() >= patience {
                return Err(busy(&self.table.view, "it is written all the time: ask for one key, or a shorter range"));
            }
            self.size.store(0, Ordering::Relaxed);
            boundary = self.inner.fresh_boundary().await?;
        }
    }

    /// Whether no read of everything has returned more; remembers this one when none has.
    fn goes_on(&self, reached: &Reached) -> bool {
        let topic = &self.table.view.source.name;
        let position =
            reached.iter().map(|(partition, offset)| (TopicPartition::new(topic.clone(), *partition), *offset));
        let position: Position = position.collect();
        let mut whole = self.inner.whole.lock();
        if whole.get(&self.table.name).is_some_and(|before| !position.covers(before)) {
            return false;
        }
        whole.insert(self.table.name.clone(), position);
        true
    }

    /// Some of a key's CQL partitions, side by side.
    async fn parts(&self, key: &[CqlValue], buckets: Vec<i64>, known: &Arc<Reached>) -> Result<Vec<Part>> {
        if let [bucket] = *buckets {
            return Ok(vec![self.part(key, bucket, known.clone()).await?]);
        }
        try_join_all(buckets.into_iter().map(|bucket| self.part(key, bucket, known.clone()))).await
    }

    /// One CQL partition, unless what was read of it before is of that very moment.
    async fn part(&self, key: &[CqlValue], bucket: i64, known: Arc<Reached>) -> Result<Part> {
        let kept = &self.inner.kept;
        let (start, end) = (self.wanted.start.clone(), self.wanted.end.clone());
        let name = PartName { table: self.table.name.clone(), bucket, start, end };
        if let Some(rows) = kept.rows(&name, &known, self.hold.as_ref()) {
            let rows = rows.to_vec();
            self.hold_rows(&rows)?;
            return Ok(Part { bucket, reach: Reach::of(known, &rows, true), rows });
        }
        let mut values = Vec::with_capacity(key.len() + 3);
        values.extend_from_slice(key);
        values.push(CqlValue::BigInt(bucket));
        values.push(CqlValue::Blob(self.wanted.start.to_vec()));
        values.push(CqlValue::Blob(self.wanted.end.to_vec()));
        let (rows, pages) = self.pages(&self.table.select, values).await?;
        let reach = Reach::of(known.clone(), &rows, pages == 1);
        if reach.is_within() {
            kept.keep(name, self.lives, known, self.hold.clone(), &rows);
        }
        Ok(Part { bucket, reach, rows })
    }

    /// The whole table, by ranges of tokens.
    async fn scan(&self) -> Result<Vec<Stored>> {
        let scans = self.inner.token_ranges().into_iter().map(|(first, last)| async move {
            let _permit = self.inner.permit().await?;
            let values = vec![CqlValue::BigInt(first), CqlValue::BigInt(last)];
            Ok::<_, StoreError>(self.pages(&self.table.scan, values).await?.0)
        });
        Ok(try_join_all(scans).await?.into_iter().flatten().collect())
    }

    /// The rows that are wanted and count of all pages, and how many pages those were.
    async fn pages(&self, statement: &PreparedStatement, values: Vec<CqlValue>) -> Result<(Vec<Stored>, usize)> {
        let context = || format!("reading view `{}`", self.table.view.name);
        let session = self.inner.sessions.here();
        let mut stored = Vec::new();
        let mut pages = 0;
        let mut state = PagingState::start();
        loop {
            let page = session.execute_single_page(statement, &values, state).await;
            let (page, next) = page.map_err(|error| failed(context(), error))?;
            pages += 1;
            let page = page.into_rows_result().map_err(|error| unreadable(context(), error))?;
            for row in page.rows::<RawRow>().map_err(|error| unreadable(context(), error))? {
                let row = row.map_err(|error| unreadable(context(), error))?;
                if !self.wanted.has(&row.0) {
                    continue;
                }
                if let Some(row) = self.counts(row)? {
                    self.hold_bytes(row.group.len() + row.state.len())?;
                    stored.push(row);
                }
            }
            match next.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok((stored, pages)),
                ControlFlow::Continue(more) => state = more,
            }
        }
    }

    /// A row, if it is the generation's or a delta at or past its frontier.
    fn counts(&self, row: RawRow) -> Result<Option<Stored>> {
        let (group, generation, partition, segment, through, pieces, state) = row;
        let context = || format!("view `{}`", self.table.view.name);
        let hold = self.hold.as_deref();
        let Ok(partition) = u32::try_from(partition) else {
            let held = hold.map(|hold| hold.held);
            let is_held =
                held.is_some_and(|held| held.attempt == segment && i64::try_from(held.generation) == Ok(generation));
            let state = state.filter(|_| is_held);
            return Ok(state.map(|state| Stored { group, delta: None, state }));
        };
        let start = unsigned(&context(), segment)?;
        if hold.and_then(|hold| hold.frontier.get(&partition)).is_some_and(|frontier| start < *frontier) {
            return Ok(None);
        }
        let (Some(through), Some(state)) = (through, state) else { return Ok(None) };
        let through = unsigned(&context(), through)?;
        let delta = Delta { partition, start, through, at_once: pieces == Some(1) };
        Ok(Some(Stored { group, delta: Some(delta), state }))
    }

    fn hold_rows(&self, rows: &[Stored]) -> Result<()> {
        rows.iter().try_for_each(|row| self.hold_bytes(row.group.len() + row.state.len()))
    }

    fn hold_bytes(&self, more: usize) -> Result<()> {
        let limit = self.inner.options.read_bytes;
        if self.size.fetch_add(more, Ordering::Relaxed) + more > limit {
            return Err(StoreError::Invalid(format!(
                "a read of view `{}` has more than {} MiB (store.read_bytes): narrow it with `from` and `to`",
                self.table.view.name,
                limit >> 20
            )));
        }
        Ok(())
    }

    fn release(&self, rows: &[Stored]) {
        let size: usize = rows.iter().map(|row| row.group.len() + row.state.len()).sum();
        self.size.fetch_sub(size, Ordering::Relaxed);
    }
}

impl Inner {
    /// All tokens, in ranges to be read side by side.
    pub fn token_ranges(&self) -> Vec<(i64, i64)> {
        let nodes = self.sessions.shared().get_cluster_state().get_nodes_info().len();
        let count = i128::try_from((2 * nodes).clamp(4, 256)).unwrap_or(4);
        let edge = |index: i128| i128::from(i64::MIN) + (1_i128 << 64) * index / count;
        let token = |token: i128| i64::try_from(token).unwrap_or(i64::MAX);
        (0..count).map(|index| (token(edge(index)), token(edge(index + 1) - 1))).collect()
    }
}

/// Refuses a range that no table is needed to refuse.
fn check(view: &Arc<View>, range: &KeyRange) -> Result<()> {
    let codec = views::stored::StateCodec::new(view)?;
    if let Some(key) = &range.key {
        codec.key_prefix(key)?;
    }
    if (range.from.is_some() || range.to.is_some()) && view.time.is_none() {
        return Err(views::ViewError::Invalid(format!("view `{}` has no time column", view.name)).into());
    }
    Ok(())
}

fn busy(view: &View, why: &str) -> StoreError {
    StoreError::unavailable(format!("reading view `{}` at one moment", view.name), why.to_owned())
}
