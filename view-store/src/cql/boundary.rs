//! The boundary: what is published and how far the deltas reach, read before any row.
//!
//! The progress moves only after its deltas, so whatever progress was read *before* the rows is a lower bound of what they
//! hold. Two small reads; whoever asks while one is under way waits for the next and shares it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use views::{Offset, Segment};

use super::Inner;
use super::pointer::{Hold, Known};
use super::written::Written;
use crate::error::{Result, StoreError};
use crate::store::Progress;

/// What all reads of one moment share.
#[derive(Debug)]
pub struct Boundary {
    /// When its reads began.
    pub began: Instant,
    /// When they had ended.
    pub ended: Instant,
    pub known: Arc<Known>,
    /// By table and partition.
    progress: HashMap<Arc<str>, BTreeMap<u32, Progress>>,
}

impl Boundary {
    /// How far a view's deltas reach in a partition.
    pub fn progress(&self, table: &str, partition: u32) -> Option<Progress> {
        self.progress.get(table)?.get(&partition).copied()
    }

    /// The same for every partition.
    pub fn all_progress(&self, table: &str) -> impl Iterator<Item = (u32, Progress)> + '_ {
        self.progress.get(table).into_iter().flatten().map(|(partition, progress)| (*partition, *progress))
    }

    /// Whether something has gone back since `before`. Reads meet every acknowledged write, so that the store has lost some:
    /// all replicas of a row went down at once, and what they had not synced to disk is gone.
    fn is_behind(&self, before: &Self) -> bool {
        let went_back = |(table, partitions): (&Arc<str>, &BTreeMap<u32, Progress>)| {
            let now = |partition: &u32| self.progress(table, *partition).map_or(0, |progress| progress.offset);
            self.known.has(table) && partitions.iter().any(|(partition, before)| now(partition) < before.offset)
        };
        self.known.version < before.known.version || before.progress.iter().any(went_back)
    }

    /// Where a view stands in every partition: the further of its deltas and its frontier.
    pub fn stands(&self, table: &str, hold: Option<&Hold>) -> BTreeMap<u32, Offset> {
        let mut stands = hold.map(|hold| hold.frontier.clone()).unwrap_or_default();
        for (partition, progress) in self.all_progress(table) {
            let reached = stands.entry(partition).or_insert(0);
            *reached = progress.offset.max(*reached);
        }
        stands
    }
}

/// The last boundary.
#[derive(Default)]
pub struct Boundaries {
    /// Held while one is read.
    reading: tokio::sync::Mutex<()>,
    last: Mutex<Option<Arc<Boundary>>>,
    /// Whether one is read that nobody waits for.
    is_read_ahead: AtomicBool,
    /// None that began before this is used again: this handle changed something.
    outdated: Mutex<Option<Instant>>,
    /// Since when the pointer with this version has been seen.
    seen: Mutex<Option<(i64, Instant)>>,
}

impl Boundaries {
    /// Has the next read see what this handle changed just now.
    pub fn outdate(&self) {
        *self.outdated.lock() = Some(Instant::now());
    }

    /// The last one, however old.
    pub fn last(&self) -> Option<Arc<Boundary>> {
        self.last.lock().clone()
    }

    fn usable(&self, since: Instant) -> Option<Arc<Boundary>> {
        self.last().filter(|last| last.began >= since)
    }

    fn since(&self, age: Duration) -> Instant {
        let now = Instant::now();
        let recent = now.checked_sub(age).unwrap_or(now);
        (*self.outdated.lock()).map_or(recent, |outdated| recent.max(outdated))
    }
}

impl Inner {
    /// A boundary that may be a few milliseconds old, but has everything this handle wrote.
    pub async fn recent_boundary(&self) -> Result<Arc<Boundary>> {
        self.boundary_since(self.boundaries.since(self.options.boundary_age)).await
    }

    /// Begins to read the next one when this one is about to be too old: under load a lookup seldom waits for a boundary.
    pub fn read_ahead(self: &Arc<Self>, of: &Boundary) {
        let is_young = of.began.elapsed() < self.options.boundary_age * 2 / 3;
        if is_young || self.boundaries.is_read_ahead.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = self.clone();
        tokio::spawn(async move {
            // Whoever needs it meets the error.
            let _ = inner.fresh_boundary().await;
            inner.boundaries.is_read_ahead.store(false, Ordering::Relaxed);
        });
    }

    /// A boundary that is read now.
    pub async fn fresh_boundary(&self) -> Result<Arc<Boundary>> {
        self.boundary_since(Instant::now()).await
    }

    async fn boundary_since(&self, since: Instant) -> Result<Arc<Boundary>> {
        if let Some(usable) = self.boundaries.usable(since) {
            return Ok(usable);
        }
        let _reading = self.boundaries.reading.lock().await;
        if let Some(usable) = self.boundaries.usable(since) {
            return Ok(usable);
        }
        let began = Instant::now();
        let last = self.boundaries.last();
        let before = last.as_ref().map(|last| &last.known);
        let (known, progress) = tokio::try_join!(self.read_known(before), self.read_progress())?;
        let ended = Instant::now();
        let boundary = Arc::new(Boundary { began, ended, known, progress });
        let has_gone_back = last.is_some_and(|last| boundary.is_behind(&last));
        if has_gone_back {
            self.forget_everything();
        }
        self.saw(boundary.known.version);
        *self.boundaries.last.lock() = Some(boundary.clone());
        if has_gone_back {
            // Now that nobody begins with the boundary of before: what was read under it is not kept, and not answered.
            self.kept.forget();
        }
        Ok(boundary)
    }

    /// Lets go of whatever this handle remembers of the store: none of it is certain any more. The store's word counts. Writers
    /// meet a conflict, go back to where the progress is now, and write again what is gone.
    fn forget_everything(&self) {
        tracing::error!(
            "the view store has gone back: it has lost writes that it had acknowledged. Deltas are written again from the log; a \
             generation of that time may lack rows until the next full batch run. Have the store sync its commit log before it \
             acknowledges (commitlog_sync: batch), or keep more replicas than can fail at once (store.replication)"
        );
        self.tables.lock().clear();
        *self.written.lock() = Written::new(self.options.cache_bytes);
        self.whole.lock().clear();
        self.retired.lock().clear();
    }

    /// Since when this handle has seen the pointer with this version.
    pub fn saw(&self, version: i64) -> Instant {
        let mut seen = self.boundaries.seen.lock();
        match *seen {
            Some((last, since)) if last == version => since,
            _ => {
                let now = Instant::now();
                *seen = Some((version, now));
                now
            }
        }
    }

    async fn read_progress(&self) -> Result<HashMap<Arc<str>, BTreeMap<u32, Progress>>> {
        let context = "reading the progress";
        let found = self.rows(context, &self.base.progress, (&self.options.scope,)).await?;
        let mut progress: HashMap<Arc<str>, BTreeMap<u32, Progress>> = HashMap::new();
        let rows = found.rows::<(&str, i32, i64, i64, i64)>().map_err(|error| super::unreadable(context, error))?;
        for row in rows {
            let (table, partition, offset, start, marker) = row.map_err(|error| super::unreadable(context, error))?;
            let unsigned = |number: i64| {
                u64::try_from(number)
                    .map_err(|_| StoreError::Damaged(format!("the progress of `{table}` has {number}")))
            };
            let segment = Segment { start: unsigned(start)?, marker: unsigned(marker)? };
            let reached = Progress { offset: unsigned(offset)?, segment };
            let partition = u32::try_from(partition)
                .map_err(|_| StoreError::Damaged(format!("the progress of `{table}` has partition {partition}")))?;
            match progress.get_mut(table) {
                Some(partitions) => drop(partitions.insert(partition, reached)),
                None => drop(progress.insert(table.into(), [(partition, reached)].into())),
            }
        }
        Ok(progress)
    }

    /// Whether what a read needs that began with `boundary` is still there for certain: `retire` waits as long as `grace`, and
    /// afterwards takes only what the pointer of then does not need.
    pub async fn still_holds(&self, boundary: &Boundary, table: &str) -> Result<bool> {
        if boundary.began.elapsed() < self.options.grace {
            return Ok(true);
        }
        let now = self.fresh_boundary().await?;
        let same = now.known.hold(table) == boundary.known.hold(table);
        Ok(same && now.known.has(table))
    }
}
