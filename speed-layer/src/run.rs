//! One task: from the log to the store, top to bottom.
//!
//! ```text
//! where do the views stand? ──► read ──► decode ──► fold ──► enough? ──► write ──┐
//!        ▲                       ▲                              no │             │
//!        │                       └─────────────────────────────────┘◄────────────┤ written
//!        └── after an error, a conflict, or when views come and go ◄─────────────┘
//! ```
//!
//! There is one way to recover, whatever went wrong: forget everything in memory, and ask the store where the views
//! stand. What was read but not written is read again; what was written is not, because a write moves the deltas and the position in
//! one step, and happens only where the view is thought to stand (see [`crate::flush`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use event_log::decode::EventDecoder;
use event_log::{ReadLimit, Record};
use parking_lot::Mutex;
use views::{Offset, Source, View};

use crate::cuts::lay_out;
use crate::dedupe::{SeenIds, prepare};
use crate::error::{Result, SpeedError};
use crate::flush::{Flushed, flush};
use crate::layer::{Alive, Partition, Stop};
use crate::micro_batch::MicroBatch;
use crate::rejected::RejectedEvent;
use crate::stand::{Beginner, Standing, stand};
use crate::status::add;

/// How often to ask the log for its end.
const LOOK_AT_END_EVERY: Duration = Duration::from_millis(250);

/// Keeps some views of one partition up to date.
pub(crate) struct Task {
    pub partition: Arc<Partition>,
    views: Vec<Arc<View>>,
    /// Whether these are the views that stand furthest. The head lasts; a catch-up task ends.
    head: bool,
    /// Where the next micro-batch is to end, when a delta that somebody wrote ends there (see [`crate::flush`]).
    until: Option<Offset>,
    stop: Stop,
    failures: u32,
}

/// Why a task stopped following the log.
enum Pause {
    /// Views came, went or moved: see where they stand.
    StandAgain,
    /// The layer stops, or another task has the views now.
    End,
}

/// What one round of the loop came to.
enum Step {
    /// Records were read and folded, if there were any.
    Read(Result<()>),
    /// Something else is to be done first.
    Pause(Pause),
}

/// What one task needs to turn records into rows.
struct Reader {
    decoder: EventDecoder,
    /// The columns that events are decoded to.
    columns: Vec<usize>,
    /// Where the event id is among them, and the index that knows the seen ones.
    ids: Option<(usize, Arc<Mutex<SeenIds>>)>,
}

impl Task {
    pub fn new(partition: Arc<Partition>, views: Vec<Arc<View>>, head: bool) -> Self {
        let stop = partition.stop();
        Self { partition, views, head, until: None, stop, failures: 0 }
    }

    /// Runs until the layer stops or another task has the views.
    pub async fn run(&mut self, alive: &Alive) {
        while !self.stop.is_said() {
            match self.follow(alive).await {
                Ok(Pause::StandAgain) => {}
                Ok(Pause::End) => return,
                Err(error) => {
                    self.partition.went_wrong(&error);
                    self.back_off().await;
                }
            }
        }
    }

    /// Follows the log from where the views stand, until something asks to look again where that is.
    async fn follow(&mut self, alive: &Alive) -> Result<Pause> {
        let partition = self.partition.clone();
        let shared = &partition.shared;
        if self.head {
            partition.head.store(Offset::MAX, Ordering::Relaxed);
            self.views.append(&mut partition.handed_over.lock());
        }
        let standings = stand(&*shared.log, &*shared.store, &self.views, &partition.place).await?;
        for standing in &standings {
            partition.stands_at(&standing.view.name, standing.at.offset);
        }
        let lowest = standings.iter().map(|standing| standing.at.offset).min();
        tracing::debug!(partition = %partition.place, views = standings.len(), lowest, "following");
        // They may have moved by a write whose acknowledgement was lost, or by somebody else's.
        shared.written.send_modify(|writes| *writes += 1);
        let standings = self.leave_behind(standings, alive)?;
        let mut reader = Reader::new(&partition, &standings)?;
        let Some(mut batch) = MicroBatch::begin(&standings, &reader.columns)? else {
            return Ok(self.without_views().await);
        };
        let mut begins = Some(Beginner::new(&partition, &standings));
        let mut stop = self.stop.clone();
        self.until = self.until.filter(|until| *until > batch.position);
        tokio::select! {
            () = stop.said() => return Ok(Pause::End),
            prepared = reader.prepare(&partition, batch.position, self.head) => prepared?,
        }

        let mut last_write = Instant::now().checked_sub(shared.settings.flush_interval).unwrap_or_else(Instant::now);
        let mut looked_at_end: Option<Instant> = None;
        let mut log_end = 0;
        // How many records are still to be caught up with.
        let mut left = 0;
        loop {
            if looked_at_end.is_none_or(|looked| looked.elapsed() >= LOOK_AT_END_EVERY) {
                log_end = self.log_end().await?;
                looked_at_end = Some(Instant::now());
            }
            let step = tokio::select! {
                biased;
                () = stop.said() => Step::Pause(Pause::End),
                () = partition.came.notified(), if self.head => Step::Pause(Pause::StandAgain),
                read = self.read_and_fold(&mut reader, &mut batch, last_write) => Step::Read(read),
            };
            // After a failure, or when it is time to stop, what was folded before is written all the same: reading that fails now
            // and then must not keep a large micro-batch from ever being done.
            let ahead = log_end.saturating_sub(batch.position);
            // Who is catching up does so to the end.
            left = if left > 0 || ahead > shared.settings.read_records as u64 { ahead } else { 0 };
            let last_chance = !matches!(step, Step::Read(Ok(())));
            if !batch.is_empty() && (last_chance || self.is_enough(&batch, left, last_write)) {
                match self.write(&mut batch).await? {
                    Flushed::Written => {
                        self.until = None;
                        drop(begins.take());
                    }
                    Flushed::Conflict => return Ok(Pause::StandAgain),
                    Flushed::Ahead(end) => {
                        self.until = Some(end);
                        return Ok(Pause::StandAgain);
                    }
                }
                last_write = Instant::now();
                self.failures = 0;
            }
            match step {
                Step::Read(read) => read?,
                Step::Pause(pause) => return Ok(pause),
            }
            if batch.is_empty() {
                partition.went_well();
                if self.drop_failed(&mut batch) {
                    return Ok(Pause::StandAgain);
                }
                if let Some(pause) = self.hand_over(&batch, left > 0) {
                    return Ok(pause);
                }
            }
        }
    }

    /// Reads what there is, or waits for it, and folds it.
    async fn read_and_fold(&self, reader: &mut Reader, batch: &mut MicroBatch, last_write: Instant) -> Result<()> {
        let partition = &self.partition;
        let settings = &partition.shared.settings;
        let wait = if batch.is_empty() {
            settings.long_poll
        } else {
            settings.flush_interval.saturating_sub(last_write.elapsed())
        };
        // Nobody waits for views that are new; those that others look at are the head's.
        let pace = partition.shared.backfill.as_ref().filter(|_| !self.head);
        if let Some(pace) = pace {
            pace.ready().await;
        }
        let limit = ReadLimit { records: settings.read_records.max(1), bytes: settings.read_bytes, wait };
        let mut records = partition.shared.log.read(&partition.place, batch.position, limit).await?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(());
        };
        if self.head && batch.records == 0 {
            partition.status.lock().read_first = Some((first.offset, first.append_time));
        }
        let mut next = last.offset + 1;
        partition.log_ends_at(next);
        if let Some(until) = self.until.filter(|until| *until < next) {
            records.retain(|record| record.offset < until);
            next = until;
        }
        add(&partition.shared.counters.records, records.len());
        if let Some(pace) = pace {
            pace.took(records.len());
        }
        reader.fold(partition, batch, &records, next).await?;
        batch.records += records.len() as u64;
        Ok(())
    }

    /// Whether a micro-batch is to be written now. While caught up, events wait no longer than it takes; while `left` records are
    /// still to be caught up with, the larger the micro-batch the better, because a write costs by the touched group.
    fn is_enough(&self, batch: &MicroBatch, left: u64, last_write: Instant) -> bool {
        let shared = &self.partition.shared;
        if self.until == Some(batch.position) {
            return true;
        }
        let interval = match left {
            0 => shared.settings.flush_interval,
            // The end is nearer than the beginning: by then the same groups would be written twice.
            left if left < batch.records => shared.settings.catch_up_interval.saturating_mul(2),
            _ => shared.settings.catch_up_interval,
        };
        last_write.elapsed() >= interval
            || batch.records >= shared.settings.max_records
            || batch.size() >= shared.memory_of_a_task()
    }

    /// Hands on what was rejected, then writes deltas and progress.
    async fn write(&self, batch: &mut MicroBatch) -> Result<Flushed> {
        let partition = &self.partition;
        let rejected = std::mem::take(&mut batch.rejected);
        // The head has been where a catch-up task is now.
        if self.head {
            let before = partition.rejected_before.load(Ordering::Relaxed);
            let new: Vec<RejectedEvent> = rejected.into_iter().filter(|event| event.record.offset >= before).collect();
            if let Some(last) = new.last() {
                let taken = partition.shared.rejected.take(&partition.place, &new).await;
                taken.map_err(|source| SpeedError::Rejected { partition: partition.place.clone(), source })?;
                partition.rejected_before.store(last.record.offset + 1, Ordering::Relaxed);
                add(&partition.shared.counters.rejected, new.len());
            }
        }
        flush(partition, batch).await
    }

    async fn log_end(&self) -> Result<Offset> {
        let bounds = self.partition.shared.log.bounds(&self.partition.place.topic).await?;
        let end = bounds.get(self.partition.place.partition as usize).map_or(0, |kept| kept.end);
        self.partition.log_ends_at(end);
        Ok(end)
    }

    /// Leaves the views that stand far behind the others to a task of their own, and returns the others.
    fn leave_behind(&mut self, standings: Vec<Standing>, alive: &Alive) -> Result<Vec<Standing>> {
        let furthest = standings.iter().map(|standing| standing.at.offset).max().unwrap_or(0);
        let close = |standing: &Standing| furthest - standing.at.offset <= self.partition.shared.settings.close;
        let (kept, left): (Vec<_>, Vec<_>) = standings.into_iter().partition(close);
        if !left.is_empty() {
            let views = left.into_iter().map(|standing| standing.view).collect();
            Task::new(self.partition.clone(), views, false).spawn(alive.clone())?;
            self.views = kept.iter().map(|standing| standing.view.clone()).collect();
        }
        Ok(kept)
    }

    /// Reports and lets go of views that failed. Whether there were any.
    fn drop_failed(&mut self, batch: &mut MicroBatch) -> bool {
        let before = self.views.len();
        for view in &mut batch.views {
            if let Some(failure) = view.failed.take() {
                self.views.retain(|kept| kept.name != view.view.name);
                self.partition.failed(&view.view.name, failure);
            }
        }
        self.views.len() < before
    }

    /// The head takes views that have caught up; a catch-up task that is close to the head gives its views away.
    fn hand_over(&mut self, batch: &MicroBatch, behind: bool) -> Option<Pause> {
        let partition = &self.partition;
        if self.head {
            partition.head.store(if behind { Offset::MAX } else { batch.position }, Ordering::Relaxed);
            return (!partition.handed_over.lock().is_empty()).then_some(Pause::StandAgain);
        }
        let head = partition.head.load(Ordering::Relaxed);
        if head != Offset::MAX && head <= batch.position.saturating_add(partition.shared.settings.close) {
            partition.handed_over.lock().append(&mut self.views);
            partition.came.notify_one();
            return Some(Pause::End);
        }
        None
    }

    /// A catch-up task without views is done; the head waits for some.
    async fn without_views(&mut self) -> Pause {
        if !self.head {
            return Pause::End;
        }
        // Zero: every task is close to it.
        self.partition.head.store(0, Ordering::Relaxed);
        let mut stop = self.stop.clone();
        tokio::select! {
            () = stop.said() => Pause::End,
            () = self.partition.came.notified() => Pause::StandAgain,
        }
    }

    /// Waits after a failure: longer after each one in a row, and not at all when it is time to stop.
    async fn back_off(&mut self) {
        let settings = &self.partition.shared.settings;
        let wait = settings.retry_first.saturating_mul(1 << self.failures.min(20)).min(settings.retry_most);
        self.failures += 1;
        let mut stop = self.stop.clone();
        tokio::select! {
            () = stop.said() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Reader {
    fn new(partition: &Partition, standings: &[Standing]) -> Result<Self> {
        let source = &partition.source;
        let mut columns: BTreeSet<usize> =
            standings.iter().flat_map(|standing| standing.view.input_columns.iter().copied()).collect();
        let id_column = id_column(partition)?;
        columns.extend(id_column);
        if columns.is_empty() {
            // Rows must be counted even when nothing of them is read: any column will do.
            columns.insert(column_of(source, "_offset")?);
        }
        let columns: Vec<usize> = columns.into_iter().collect();
        let decoder = EventDecoder::new(source, &columns, partition.shared.registry.clone())?;
        let place = id_column.and_then(|id| columns.iter().position(|column| *column == id));
        let ids = place.zip(partition.seen.clone());
        Ok(Self { decoder, columns, ids })
    }

    /// Makes sure that the ids of events from `at` on can be judged.
    async fn prepare(&mut self, partition: &Partition, at: Offset, head: bool) -> Result<()> {
        let (Some((_, seen)), Some(id_column)) = (&mut self.ids, id_column(partition)?) else {
            return Ok(());
        };
        // The lasting index belongs to the head; one that began after `at` is no use to a task that lags behind.
        if !head
            && !seen.lock().reaches_back_to(at)
            && let Some(database) = &partition.shared.seen
        {
            let lane = partition.lanes.fetch_add(1, Ordering::Relaxed);
            *seen = Arc::new(Mutex::new(SeenIds::passing(database, &partition.source, &partition.place, lane)?));
        }
        let mut ids_only = EventDecoder::new(&partition.source, &[id_column], partition.shared.registry.clone())?;
        prepare(seen, &*partition.shared.log, &mut ids_only, &partition.source, at).await
    }

    /// Decodes records, leaves out duplicates, and folds the rest. On an error nothing has been folded.
    async fn fold(
        &mut self,
        partition: &Partition,
        batch: &mut MicroBatch,
        records: &[Record],
        next: Offset,
    ) -> Result<()> {
        let decoded = self.decoder.decode(&partition.place, records).await?;
        let rejected: Vec<Offset> = decoded.rejected.iter().map(|(offset, _)| *offset).collect();
        let mut layout = lay_out(batch.open, partition.source.segment_records, records, &rejected);
        let mut events = decoded.events;
        if let Some((id_column, seen)) = &self.ids {
            let mut seen = seen.lock();
            if !seen.covers(batch.position) {
                return Err(SpeedError::NotIndexed { partition: partition.place.clone(), offset: batch.position });
            }
            let ids = events.column(*id_column);
            let counts = seen.judge(batch.position..next, &layout.offsets, &layout.times, ids)?;
            if counts.contains(&false) {
                add(&partition.shared.counters.duplicates, counts.iter().filter(|counts| !**counts).count());
                layout.keep_only(&counts);
                events = filter_record_batch(&events, &BooleanArray::from(counts)).map_err(views::ViewError::from)?;
            }
        }
        add(&partition.shared.counters.events, events.num_rows());
        batch.fold(&events, &layout, next);
        let mut records = records.iter();
        for (offset, reason) in decoded.rejected {
            if let Some(record) = records.find(|record| record.offset == offset) {
                batch.rejected.push(RejectedEvent { record: record.clone(), reason });
            }
        }
        Ok(())
    }
}

/// Which column of the source holds the event id, if repeated deliveries are to be recognised.
fn id_column(partition: &Partition) -> Result<Option<usize>> {
    partition.source.event_id.as_ref().map(|field| column_of(&partition.source, field)).transpose()
}

fn column_of(source: &Source, name: &str) -> Result<usize> {
    let column = source.schema.index_of(name);
    column.map_err(|error| SpeedError::Definition(format!("source {}: {error}", source.name)))
}
