//! Reading: from any offset, by as many readers as there are, each going on where it was.
//!
//! ```text
//! a cursor at `from`? ──► take what was fetched ──► something? ──► return it
//!    else open one,                 ▲                  │ nothing
//!    or jump with an idle one       └── wait ◄─────────┤ time is left
//!                                                      └► ask Kafka for the end ──► at `from`: nothing more to come
//!                                                                               └► past it: jump, and see what comes
//! ```
//!
//! A read returns nothing only if there was nothing at a moment after it began. The last jump is for ends that lie past records nobody
//! can read (see [`super::ends`]): what comes first after a jump was fetched after the end was asked for, so if it is the
//! end, then there is nothing before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use views::{Offset, TopicPartition};

use super::cluster::Cluster;
use super::cursor::{Cursor, Stop};
use super::ends::KnownEnds;
use super::lanes::Lanes;
use crate::error::{LogError, Result};
use crate::log::{ReadLimit, Record};

/// The most places at which a partition is read at once; more readers take turns.
const MOST_CURSORS: usize = 4;
/// How long a reader that waits for records may keep others from a cursor.
const TURN: Duration = Duration::from_millis(200);
/// An idle cursor is let go of after this.
const IDLE: Duration = Duration::from_secs(30);
/// How long a record that must be there may take to come before something is done about it.
const PATIENCE: Duration = Duration::from_millis(20);
/// After this long without an answer the read fails.
const NO_ANSWER: Duration = Duration::from_secs(20);
/// How long after a broker refused an offset that it has it is asked again.
const OUT_OF_RANGE_PAUSE: Duration = Duration::from_millis(20);
/// A reader that waits asks for the end after half of its wait, at the latest after this. Most reads are over by then, and others of
/// the topic may have asked meanwhile.
const ASK_AFTER: Duration = Duration::from_millis(200);

/// The readers of a log.
pub(super) struct Readers {
    lanes: Arc<Lanes>,
    shelves: Mutex<HashMap<TopicPartition, Arc<Shelf>>>,
}

/// The cursors of a partition that nobody is using.
struct Shelf {
    idle: Mutex<Vec<Cursor>>,
    turns: Arc<Semaphore>,
    /// Readers that wait for their turn, and what tells those who have it.
    wanting: AtomicUsize,
    wanted: Notify,
    /// One more than there are cursors.
    count: Arc<()>,
}

/// A cursor in use. It goes back when it is dropped.
struct Held {
    cursor: Option<Cursor>,
    shelf: Arc<Shelf>,
    since: Instant,
    _turn: OwnedSemaphorePermit,
}

impl Readers {
    pub fn new(lanes: Lanes) -> Self {
        Self { lanes: Arc::new(lanes), shelves: Mutex::default() }
    }

    /// Connects before there is something to read. Returns at once.
    pub fn warm(&self, topic: &str) {
        let (lanes, topic) = (self.lanes.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || lanes.warm(&topic));
    }

    /// Serves what librdkafka has to say.
    pub fn serve(&self) {
        self.lanes.serve();
    }

    /// Lets go of cursors that nobody used for a while.
    pub fn let_go(&self) {
        let shelves: Vec<_> = self.shelves.lock().values().cloned().collect();
        for shelf in shelves {
            let (kept, old) =
                std::mem::take(&mut *shelf.idle.lock()).into_iter().partition(|it| it.used.elapsed() < IDLE);
            let old: Vec<Cursor> = old;
            shelf.idle.lock().extend::<Vec<Cursor>>(kept);
            drop(old);
        }
    }

    /// See [`crate::EventLog::read`]. The partition exists.
    pub async fn read(
        &self,
        cluster: &Cluster,
        ends: &KnownEnds,
        of: &TopicPartition,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<Record>> {
        let read = Read { readers: self, cluster, ends, of, from, limit, began: Instant::now() };
        loop {
            if let Some(records) = read.with_a_cursor().await? {
                return Ok(records);
            }
        }
    }

    fn shelf(&self, of: &TopicPartition) -> Arc<Shelf> {
        let mut shelves = self.shelves.lock();
        match shelves.get(of) {
            Some(shelf) => shelf.clone(),
            None => shelves.entry(of.clone()).or_default().clone(),
        }
    }
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            turns: Arc::new(Semaphore::new(MOST_CURSORS)),
            wanting: AtomicUsize::new(0),
            wanted: Notify::new(),
            count: Arc::new(()),
        }
    }
}

impl Shelf {
    /// Waits for a turn, in order.
    async fn turn(&self, of: &TopicPartition) -> Result<OwnedSemaphorePermit> {
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let _wanting = Wanting::new(&self.wanting);
        self.wanted.notify_one();
        let turn = self.turns.clone().acquire_owned().await;
        turn.map_err(|error| LogError::unavailable(format!("read {of}"), error))
    }

    /// The idle cursor at `from`; else, unless another one may be opened, the one that was idle longest.
    fn idle(&self, from: Offset) -> Option<Cursor> {
        let mut idle = self.idle.lock();
        let at_from = idle.iter().rposition(|cursor| cursor.next == from);
        let full = Arc::strong_count(&self.count) > MOST_CURSORS;
        let found = at_from.or_else(|| (full && !idle.is_empty()).then_some(0))?;
        Some(idle.remove(found))
    }
}

/// Counts those who wait.
struct Wanting<'a>(&'a AtomicUsize);

impl<'a> Wanting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut cursor) = self.cursor.take()
            && !cursor.failed
        {
            cursor.used = Instant::now();
            self.shelf.idle.lock().push(cursor);
        }
    }
}

/// One read.
struct Read<'a> {
    readers: &'a Readers,
    cluster: &'a Cluster,
    ends: &'a KnownEnds,
    of: &'a TopicPartition,
    from: Offset,
    limit: ReadLimit,
    began: Instant,
}

/// What a reader that found nothing yet is about to do.
enum Next {
    /// Wait for records until then; after that, if it is so, there is nothing.
    Wait(Instant, bool),
    /// Ask Kafka for the end, and wait for records all the while.
    Ask,
    /// Jump, to know for sure.
    Jump(Offset),
    GiveUp,
}

impl Read<'_> {
    /// Reads with a cursor; `None` when it had to be given to somebody else meanwhile.
    async fn with_a_cursor(&self) -> Result<Option<Vec<Record>>> {
        let (mut held, mut end) = self.hold().await?;
        if self.from < self.ends.start(self.of) {
            self.refuse_before_start().await?;
        }
        let mut patient_until = self.began;
        loop {
            let Some(cursor) = &mut held.cursor else { return Ok(None) };
            let found = match cursor.take(self.from, &self.limit) {
                Ok(found) => found,
                Err(Stop::OutOfRange) if self.is_out_of_range_for_a_moment().await? => {
                    held.cursor = None;
                    tokio::time::sleep(OUT_OF_RANGE_PAUSE).await;
                    return Ok(None);
                }
                Err(stop) => return Err(self.explain(stop).await),
            };
            if !found.records.is_empty() {
                return Ok(Some(found.records));
            }
            if let Some(end) = found.nothing_before {
                self.ends.nothing(self.of, cursor.next, end);
            }
            match self.next(end, patient_until, cursor.will_tell()) {
                Next::GiveUp => {
                    held.cursor = None;
                    let why = format!("Kafka sent neither records nor the end within {} s", NO_ANSWER.as_secs());
                    return Err(LogError::unavailable(format!("read {}", self.of), why));
                }
                Next::Wait(until, and_then_nothing) => {
                    let filled = cursor.filled.clone();
                    let give_way = held.since + TURN;
                    tokio::select! {
                        biased;
                        () = filled.notified() => {}
                        () = held.shelf.wanted.notified() => {}
                        () = tokio::time::sleep_until(until.into()) => {
                            if and_then_nothing {
                                return Ok(Some(Vec::new()));
                            }
                        }
                        () = tokio::time::sleep_until(give_way.into()), if held.shelf.is_wanted() => return Ok(None),
                    }
                }
                Next::Ask => {
                    let filled = cursor.filled.clone();
                    tokio::select! {
                        biased;
                        () = filled.notified() => {}
                        kept = self.ends.kafka(self.cluster, self.of, self.began) => {
                            end = Some(kept?.end);
                            patient_until = Instant::now() + PATIENCE;
                        }
                    }
                }
                Next::Jump(end) => self.jump(&mut held, self.from.min(end), end).await?,
            }
        }
    }

    fn next(&self, end: Option<Offset>, patient_until: Instant, will_tell: bool) -> Next {
        let now = Instant::now();
        let deadline = self.began.checked_add(self.limit.wait);
        let long = now + Duration::from_secs(3600);
        let Some(end) = end else {
            let ask_at = self.began + ASK_AFTER.min(self.limit.wait / 2);
            return if now < ask_at { Next::Wait(ask_at, false) } else { Next::Ask };
        };
        if self.ends.is_nothing(self.of, self.from, end) {
            return Next::Wait(deadline.unwrap_or(long), true);
        }
        let give_up_at = deadline.unwrap_or(long) + NO_ANSWER;
        if now >= give_up_at {
            Next::GiveUp
        } else if will_tell {
            Next::Wait(give_up_at, false)
        } else if now < patient_until {
            Next::Wait(patient_until, false)
        } else {
            Next::Jump(end)
        }
    }

    /// A cursor at `from`, and where the partition ends if that had to be asked.
    async fn hold(&self) -> Result<(Held, Option<Offset>)> {
        let shelf = self.readers.shelf(self.of);
        let turn = shelf.turn(self.of).await?;
        let idle = shelf.idle(self.from);
        let mut held = Held { cursor: idle, shelf, since: Instant::now(), _turn: turn };
        if held.cursor.as_ref().is_some_and(|cursor| cursor.next == self.from) {
            return Ok((held, None));
        }
        let kept = self.ends.kafka(self.cluster, self.of, self.began).await?;
        if self.from < kept.start {
            return Err(self.before_start(kept.start));
        }
        // Past the end there is nowhere to go to yet: what comes before `from` will be passed over.
        let at = self.from.min(kept.end);
        if held.cursor.is_some() {
            self.jump(&mut held, at, kept.end).await?;
        } else {
            let (lanes, of, one_of) = (self.readers.lanes.clone(), self.of.clone(), held.shelf.count.clone());
            held.cursor = Some(self.blocking(move || lanes.open(&of, at, kept.end, one_of)).await?);
        }
        Ok((held, Some(kept.end)))
    }

    async fn jump(&self, held: &mut Held, to: Offset, end: Offset) -> Result<()> {
        // Whoever drops this future meanwhile drops the cursor too.
        let Some(mut cursor) = held.cursor.take() else { return Ok(()) };
        let jumped = move || cursor.jump(to, end).map(|()| cursor);
        held.cursor = Some(self.blocking(jumped).await?);
        Ok(())
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| LogError::unavailable(format!("read {}", self.of), error))?
    }

    /// A broker that lets go of records, or has just come back, may refuse an offset that it has.
    async fn is_out_of_range_for_a_moment(&self) -> Result<bool> {
        let kept = self.ends.kafka(self.cluster, self.of, Instant::now()).await?;
        Ok((kept.start..=kept.end).contains(&self.from) && self.began.elapsed() < NO_ANSWER)
    }

    async fn refuse_before_start(&self) -> Result<()> {
        let start = self.ends.kafka(self.cluster, self.of, self.began).await?.start;
        if self.from < start { Err(self.before_start(start)) } else { Ok(()) }
    }

    fn before_start(&self, start: Offset) -> LogError {
        let Self { of, from, .. } = self;
        LogError::Invalid(format!("{of}: offset {from} is not kept any more: the log starts at {start}"))
    }

    /// Why a cursor stopped.
    async fn explain(&self, stop: Stop) -> LogError {
        let error = match stop {
            Stop::Error(error) => error,
            Stop::OutOfRange => match self.ends.kafka(self.cluster, self.of, Instant::now()).await {
                Ok(kept) if self.from < kept.start => self.before_start(kept.start),
                Ok(kept) if self.from > kept.end => LogError::Damaged(format!(
                    "{}: offset {} was there, and Kafka now ends at {}: acknowledged records are lost",
                    self.of, self.from, kept.end
                )),
                Ok(_) => LogError::unavailable(format!("read {}", self.of), "the offset was out of range for a moment"),
                Err(error) => error,
            },
        };
        if matches!(error, LogError::NotFound(_)) {
            self.cluster.forget(&self.of.topic);
        }
        error
    }
}

impl Shelf {
    fn is_wanted(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) > 0
    }
}
