//! The writer of a partition: one thread, which commits in groups.
//!
//! It takes all appends that are queued, writes them with one write and one sync, and only then acknowledges them and
//! lets readers see them. While it syncs, the next group gathers: the more is appended, the larger the groups.
//!
//! After a failed write or sync the file is cut back to what was committed. When even this fails nobody knows what the file holds,
//! and the partition takes no more appends until it is opened, and thereby recovered, again.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use views::Offset;

use super::file::LogFile;
use super::frame::{self, HEADER, Header};
use super::partition::Partition;
use super::recent::Group;
use super::recovery::{self, Recovered};
use crate::error::{LogError, Result};
use crate::log::{NewRecord, Record};

/// A group takes no further append once it has this many bytes.
const GROUP_BYTES: usize = 4 << 20;

/// An append that waits to be written.
pub struct Append {
    /// Its records; at least one.
    pub records: Vec<NewRecord>,
    /// Told once they are durable, or that they are not.
    pub done: oneshot::Sender<Result<Range<Offset>>>,
    /// Its share of the queue, given back when it is done.
    pub _room: OwnedSemaphorePermit,
}

/// The writer of one partition.
pub struct Writer {
    partition: Arc<Partition>,
    file: Arc<LogFile>,
    active: File,
    length: u64,
    next: Offset,
    last_time: i64,
}

impl Writer {
    /// A writer that goes on where recovery found the end.
    pub fn new(partition: Arc<Partition>, recovered: Recovered) -> Option<Self> {
        let Recovered { files, active, length, next, last_time, .. } = recovered;
        let file = files.last()?.clone();
        Some(Self { partition, file, active, length, next, last_time })
    }

    /// Writes what comes until nobody can append any more.
    pub fn run(mut self, mut queue: mpsc::Receiver<Append>) {
        while let Some(first) = queue.blocking_recv() {
            let mut bytes = encoded_length(&first);
            let mut group = vec![first];
            while bytes < GROUP_BYTES
                && let Ok(append) = queue.try_recv()
            {
                bytes += encoded_length(&append);
                group.push(append);
            }
            self.commit(group, bytes);
        }
        self.note_committed();
    }

    fn commit(&mut self, group: Vec<Append>, bytes: usize) {
        let first = self.next;
        if let Err(error) = self.write(&group, bytes) {
            let context = format!("append to {}", self.partition.name);
            for append in group {
                // Nobody may be waiting any more.
                let _ = append.done.send(Err(LogError::unavailable(context.clone(), error.clone())));
            }
            return;
        }
        let mut start = first;
        for append in group {
            let end = start + append.records.len() as Offset;
            let _ = append.done.send(Ok(start..end));
            start = end;
        }
    }

    /// Writes a group and makes it visible. On an error nothing of it is there, or the partition is broken.
    fn write(&mut self, group: &[Append], bytes: usize) -> Result<(), String> {
        if let Some(why) = self.partition.broken() {
            return Err(why);
        }
        if self.length > HEADER as u64 && self.length + bytes as u64 > self.partition.options.file_bytes {
            self.begin_next_file()?;
        }
        let now = self.partition.options.host.now().max(self.last_time);
        let mut encoded = BytesMut::with_capacity(bytes);
        let mut next = self.next;
        for content in group.iter().flat_map(|append| &append.records) {
            frame::encode(&mut encoded, self.file.header.salt, next == self.next, next, now, content);
            next += 1;
        }
        let encoded = encoded.freeze();
        self.write_durably(&encoded)?;

        let recent = (self.partition.options.recent_bytes > 0).then(|| {
            let mut rest = encoded.clone();
            let contents = group.iter().flat_map(|append| &append.records);
            let records = (self.next..).zip(contents).map(|(offset, content)| {
                let frame = rest.split_to(frame::frame_length(content));
                Record { offset, append_time: now, content: frame::content_in(&frame, content) }
            });
            Group::new(self.next, records.collect(), &encoded)
        });
        for (offset, content) in (self.next..).zip(group.iter().flat_map(|append| &append.records)) {
            self.file.remember(offset, self.length);
            self.length += frame::frame_length(content) as u64;
        }
        self.next = next;
        self.last_time = now;
        self.partition.committed(self.length, self.next, recent);
        Ok(())
    }

    fn write_durably(&self, encoded: &[u8]) -> Result<(), String> {
        let options = &self.partition.options;
        let written = options.host.write(&self.active, encoded, self.length).and_then(|()| self.sync());
        let Err(error) = written else { return Ok(()) };
        let why = format!("write {}: {error}", self.file.path.display());
        if let Err(undo) = options.host.truncate(&self.active, self.length).and_then(|()| self.sync()) {
            let broken = format!("{why}; and cutting the file back to what was committed failed: {undo}");
            self.partition.break_down(broken.clone());
            return Err(broken);
        }
        tracing::warn!(partition = %self.partition.name, %why, "an append failed");
        Err(why)
    }

    fn sync(&self) -> io::Result<()> {
        let options = &self.partition.options;
        if options.fsync { options.host.sync(&self.active) } else { Ok(()) }
    }

    fn begin_next_file(&mut self) -> Result<(), String> {
        let options = &self.partition.options;
        let directory = &self.partition.directory;
        let header = Header {
            salt: options.host.salt(),
            base: self.next,
            previous: Some((self.file.base(), self.length)),
            last_time: self.last_time,
        };
        let file = Arc::new(LogFile::new(directory, header));
        match recovery::begin_file(directory, &header, options) {
            Ok(active) => self.active = active,
            Err(error) => {
                let why = format!("begin {}: {error}", file.path.display());
                // It must not stay: the file before it may still grow.
                return match fs::remove_file(&file.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        let broken = format!("{why}; and removing it failed: {error}");
                        self.partition.break_down(broken.clone());
                        Err(broken)
                    }
                    _ => Err(why),
                };
            }
        }
        self.file = file.clone();
        self.length = HEADER as u64;
        self.partition.begun(file);
        self.note_committed();
        Ok(())
    }

    /// Notes how far the log is known to be committed, so that losing its end later on is noticed.
    fn note_committed(&self) {
        // Without fsync the note could reach the disk before what it speaks of.
        if !self.partition.options.fsync || self.partition.broken().is_some() {
            return;
        }
        let noted = self.partition.note_ends(|ends| {
            ends.file = self.file.base();
            ends.committed = self.length;
        });
        if let Err(error) = noted {
            // It is a lower bound: the older one is as true as before.
            tracing::warn!(partition = %self.partition.name, %error, "could not note how far the log is committed");
        }
    }
}

fn encoded_length(append: &Append) -> usize {
    append.records.iter().map(frame::frame_length).sum()
}
