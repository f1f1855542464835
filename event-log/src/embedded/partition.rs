//! What readers and the writer of one partition share.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use views::{Offset, TopicPartition};

use super::EmbeddedOptions;
use super::file::{self, LogFile, Scan, Step};
use super::note::{self, Ends};
use super::recent::{self, Group, Recent};
use super::recovery::{self, Recovered};
use crate::error::{LogError, Result};
use crate::log::{ReadLimit, Record};

/// One partition.
pub struct Partition {
    /// Its name.
    pub name: TopicPartition,
    /// Where its files are.
    pub directory: PathBuf,
    /// How the log was opened.
    pub options: Arc<EmbeddedOptions>,
    state: Mutex<State>,
    ends: Mutex<Ends>,
    /// The next offset to be written, for those who wait for it to grow.
    grown: watch::Sender<Offset>,
}

/// What is committed. Changed in one step after each commit, so that readers never see a part of a group.
struct State {
    files: Vec<(Arc<LogFile>, u64)>,
    next: Offset,
    recent: Recent,
    broken: Option<String>,
}

/// A part of a file that holds the records asked for.
struct Stretch {
    file: Arc<LogFile>,
    end: u64,
    end_offset: Offset,
}

enum Found {
    Nothing,
    Recent(Vec<Arc<Group>>),
    OnDisk(Stretch),
}

impl Partition {
    /// A partition as recovery found it.
    pub fn new(name: TopicPartition, directory: PathBuf, options: Arc<EmbeddedOptions>, recovered: &Recovered) -> Self {
        let mut files: Vec<_> = recovered.files.iter().map(|file| (file.clone(), 0)).collect();
        for number in 1..files.len() {
            let length = files[number].0.header.previous.map_or(0, |(_, length)| length);
            files[number - 1].1 = length;
        }
        if let Some((_, length)) = files.last_mut() {
            *length = recovered.length;
        }
        let recent = Recent::new(options.recent_bytes);
        Self {
            name,
            directory,
            options,
            state: Mutex::new(State { files, next: recovered.next, recent, broken: None }),
            ends: Mutex::new(recovered.ends),
            grown: watch::Sender::new(recovered.next),
        }
    }

    /// The first kept offset and the next one to be written.
    pub fn bounds(&self) -> Range<Offset> {
        let state = self.state.lock();
        state.start()..state.next
    }

    /// Why nothing can be appended any more, if so.
    pub fn broken(&self) -> Option<String> {
        self.state.lock().broken.clone()
    }

    /// Refuses every further append: what the file holds past the last commit is not known.
    pub fn break_down(&self, why: String) {
        tracing::error!(partition = %self.name, %why, "the partition takes no more appends until the log is opened again");
        self.state.lock().broken = Some(why);
    }

    /// Makes a committed group visible to readers, and wakes those who wait.
    pub fn committed(&self, length: u64, next: Offset, group: Option<Group>) {
        let mut state = self.state.lock();
        if let Some((_, committed)) = state.files.last_mut() {
            *committed = length;
        }
        state.next = next;
        if let Some(group) = group {
            state.recent.push(group);
        }
        drop(state);
        self.grown.send_replace(next);
    }

    /// Adds the file that is appended to from now on.
    pub fn begun(&self, file: Arc<LogFile>) {
        self.state.lock().files.push((file, super::frame::HEADER as u64));
    }

    /// Changes the note of the partition's ends.
    pub fn note_ends(&self, change: impl FnOnce(&mut Ends)) -> io::Result<()> {
        let mut ends = self.ends.lock();
        let mut changed = *ends;
        change(&mut changed);
        if changed != *ends {
            let path = self.directory.join(recovery::ENDS);
            note::write(&*self.options.host, self.options.fsync, &path, changed)?;
            *ends = changed;
        }
        Ok(())
    }

    /// See [`crate::EventLog::read`].
    pub async fn read(self: Arc<Self>, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        if limit.records == 0 {
            return Ok(Vec::new());
        }
        if !limit.wait.is_zero() {
            let mut grown = self.grown.subscribe();
            // Both outcomes are looked at below: it grew, or the time has passed.
            let _ = tokio::time::timeout(limit.wait, grown.wait_for(|next| from < *next)).await;
        }
        match self.find(from, &limit)? {
            Found::Nothing => Ok(Vec::new()),
            Found::Recent(groups) => Ok(recent::take(&groups, from, &limit)),
            Found::OnDisk(stretch) => {
                let context = format!("read {}", self.name);
                let read = move || self.read_stretch(&stretch, from, &limit);
                tokio::task::spawn_blocking(read).await.map_err(|error| LogError::unavailable(context, error))?
            }
        }
    }

    fn find(&self, from: Offset, limit: &ReadLimit) -> Result<Found> {
        let state = self.state.lock();
        let start = state.start();
        if from < start {
            return Err(self.before_start(from, start));
        }
        if from >= state.next {
            return Ok(Found::Nothing);
        }
        if let Some(groups) = state.recent.from(from, limit) {
            return Ok(Found::Recent(groups));
        }
        // The first file begins at `start`, so there is one at or before `from`.
        let number = state.files.partition_point(|(file, _)| file.base() <= from).saturating_sub(1);
        let (file, end) = &state.files[number];
        let end_offset = state.files.get(number + 1).map_or(state.next, |(next, _)| next.base());
        Ok(Found::OnDisk(Stretch { file: file.clone(), end: *end, end_offset }))
    }

    fn before_start(&self, from: Offset, start: Offset) -> LogError {
        LogError::Invalid(format!("{}: offset {from} is not kept any more: the log starts at {start}", self.name))
    }

    fn read_stretch(&self, stretch: &Stretch, from: Offset, limit: &ReadLimit) -> Result<Vec<Record>> {
        let Stretch { file, end, end_offset } = stretch;
        let open = match File::open(&file.path) {
            Ok(open) => open,
            // It may have been let go of since it was looked up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let start = self.bounds().start;
                return Err(if from < start {
                    self.before_start(from, start)
                } else {
                    LogError::Damaged(format!("{} is missing", file.path.display()))
                });
            }
            Err(error) => return Err(file.unavailable("open", error)),
        };
        let length = open.metadata().map_err(|error| file.unavailable("read", error))?.len();
        if length < *end {
            return Err(file.damaged(length, format!("the file ends, but {end} bytes of it were committed")));
        }
        let place = file.place(from);
        // About what is wanted, with the heads of its frames, from the known place on: no more is read than will be used.
        let mean = end / end_offset.saturating_sub(file.base()).max(1) + 1;
        let of_records = mean.saturating_mul(limit.records as u64).saturating_add(file::INDEX_BYTES);
        let wanted = (limit.bytes.saturating_add(limit.bytes / 4) as u64).min(of_records);
        let mut scan = Scan::new(&open, file.header.salt, place, *end).wanting(wanted);
        let expected = (wanted / mean).min(limit.records as u64).min(end_offset.saturating_sub(from)) as usize;
        let (mut records, mut bytes) = (Vec::with_capacity(expected), 0);
        let mut remember_from = 0;
        loop {
            let damage = match scan.step().map_err(|error| file.unavailable("read", error))? {
                Step::Frame(at, frame) => {
                    if at >= remember_from {
                        remember_from = file.remember(frame.record.offset, at);
                    }
                    if frame.record.offset < from {
                        continue;
                    }
                    bytes += super::frame::content_length(&frame.record.content);
                    records.push(frame.record);
                    if records.len() >= limit.records || bytes >= limit.bytes {
                        return Ok(records);
                    }
                    continue;
                }
                Step::End(offset) if offset == *end_offset => return Ok(records),
                Step::End(offset) => {
                    file.damaged(*end, format!("the file ends before offset {offset}; offset {end_offset} was due"))
                }
                Step::Bad(at, offset, why) => {
                    // On the way to `from` a bad frame is no reason to fail, if a good one past it leads there.
                    let past = offset + 1..from.saturating_add(1);
                    if !past.is_empty()
                        && let Some(place) = file::find(&open, file.header.salt, false, &past, at + 1, *end)
                            .map_err(|error| file.unavailable("read", error))?
                    {
                        scan = Scan::new(&open, file.header.salt, place, *end);
                        continue;
                    }
                    file.damaged(at, format!("{why}; the record at offset {offset} was there"))
                }
            };
            // What comes before the damage is good; whoever reads on meets it next.
            return if records.is_empty() { Err(damage) } else { Ok(records) };
        }
    }

    /// See [`crate::EventLog::trim`].
    pub fn trim(&self, before: Offset) -> Result<()> {
        let failed = |error: io::Error| LogError::unavailable(format!("trim {}", self.name), error);
        let start = {
            let state = self.state.lock();
            // A file may go when the next one begins at or before `before`; the last one has no next one.
            let bases = state.files.iter().map(|(file, _)| file.base());
            bases.take_while(|base| *base <= before).last().unwrap_or(0).max(state.start())
        };
        // First the note: from then on the files are gone, even if a crash keeps them from being deleted now.
        self.note_ends(|ends| ends.start = ends.start.max(start)).map_err(failed)?;
        let gone: Vec<_> = {
            let mut state = self.state.lock();
            let count = state.files.partition_point(|(file, _)| file.base() < start);
            state.files.drain(..count).collect()
        };
        for (file, _) in gone {
            fs::remove_file(&file.path).map_err(failed)?;
        }
        Ok(())
    }
}

impl State {
    fn start(&self) -> Offset {
        self.files.first().map_or(0, |(file, _)| file.base())
    }
}
