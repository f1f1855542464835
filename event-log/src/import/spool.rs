//! Encoded events on their way from the files into the archive: put aside by partition, in one file that nobody else sees.
//!
//! Files give events in their order, the archive wants them by partition, and how many there are is known at the end only. So
//! each partition has a lane: a buffer in memory, and the chunks of it that were written to the file when it was full.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::beginning::Imported;
use crate::encode::EncodedEvent;
use crate::encode::wire::{get_bytes, get_long, put_bytes, put_long};
use crate::error::{LogError, Result};
use crate::log::Content;

/// What all buffers take together, and what each takes at most and at least.
const BUFFERS: usize = 64 << 20;
const LARGEST_BUFFER: usize = 1 << 20;
const SMALLEST_BUFFER: usize = 4 << 10;

/// Takes events, and dead letters, which have a lane of their own.
pub struct Spool {
    file: File,
    end: u64,
    lanes: Vec<Lane>,
    letters: Lane,
    buffer_bytes: usize,
}

/// Everything that was put aside.
pub struct Spooled {
    file: Arc<File>,
    lanes: Vec<(Imported, Arc<[Chunk]>)>,
    letters: (Imported, Arc<[Chunk]>),
}

#[derive(Default)]
struct Lane {
    buffer: Vec<u8>,
    chunks: Vec<Chunk>,
    records: u64,
    crc: crc32fast::Hasher,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    at: u64,
    length: usize,
    crc32: u32,
}

impl Spool {
    /// An empty one, in a file in `directory` that has no name any more when this returns: whatever becomes of the process, nothing
    /// stays behind.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn new(directory: &Path, partitions: u32) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(format!("import-{}", uuid::Uuid::new_v4()));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        let partitions = partitions as usize;
        let buffer_bytes = (BUFFERS / partitions.max(1)).clamp(SMALLEST_BUFFER, LARGEST_BUFFER);
        let lanes = (0..partitions).map(|_| Lane::default()).collect();
        Ok(Self { file, end: 0, lanes, letters: Lane::default(), buffer_bytes })
    }

    /// Adds the next event of a partition.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn push(&mut self, partition: u32, event: &EncodedEvent) -> io::Result<()> {
        let lane = self.lanes.get_mut(partition as usize).ok_or(io::ErrorKind::InvalidInput)?;
        lane.push(event.key.as_deref(), &event.value, &self.file, &mut self.end, self.buffer_bytes)
    }

    /// Adds the next dead letter.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn push_letter(&mut self, letter: &Content) -> io::Result<()> {
        let Content::Event { key, value } = letter else { return Err(io::ErrorKind::InvalidInput.into()) };
        self.letters.push(key.as_deref(), value, &self.file, &mut self.end, self.buffer_bytes)
    }

    /// How many dead letters there are so far.
    pub fn letters(&self) -> u64 {
        self.letters.records
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// When the disk does not take the rest.
    pub fn finish(mut self) -> io::Result<Spooled> {
        let mut sealed = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            sealed.push(lane.seal(&self.file, &mut self.end)?);
        }
        let letters = self.letters.seal(&self.file, &mut self.end)?;
        Ok(Spooled { file: Arc::new(self.file), lanes: sealed, letters })
    }
}

impl Lane {
    fn push(&mut self, key: Option<&[u8]>, value: &[u8], file: &File, end: &mut u64, most: usize) -> io::Result<()> {
        let start = self.buffer.len();
        put_long(&mut self.buffer, key.is_some().into());
        put_bytes(&mut self.buffer, key.unwrap_or_default());
        put_bytes(&mut self.buffer, value);
        self.crc.update(&self.buffer[start..]);
        self.records += 1;
        if self.buffer.len() >= most { self.write(file, end) } else { Ok(()) }
    }

    fn write(&mut self, file: &File, end: &mut u64) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        file.write_all_at(&self.buffer, *end)?;
        let chunk = Chunk { at: *end, length: self.buffer.len(), crc32: crc32fast::hash(&self.buffer) };
        *end += chunk.length as u64;
        self.chunks.push(chunk);
        self.buffer.clear();
        Ok(())
    }

    fn seal(&mut self, file: &File, end: &mut u64) -> io::Result<(Imported, Arc<[Chunk]>)> {
        self.write(file, end)?;
        // Lanes are many and mostly done with: each gives its buffer back at once.
        let Self { chunks, records, crc, .. } = std::mem::take(self);
        Ok((Imported { events: records, crc32: crc.finalize() }, chunks.into()))
    }
}

impl Spooled {
    /// What each partition has.
    pub fn imported(&self) -> Vec<Imported> {
        self.lanes.iter().map(|(imported, _)| *imported).collect()
    }

    /// How many dead letters there are.
    pub fn letter_count(&self) -> u64 {
        self.letters.0.events
    }

    /// The events of a partition, in order.
    pub(super) fn events(&self, partition: u32) -> Contents {
        let chunks = self.lanes.get(partition as usize).map(|(_, chunks)| chunks.clone());
        Contents::new(self.file.clone(), chunks.unwrap_or_default())
    }

    /// The dead letters, in order.
    pub(super) fn letters(&self) -> Contents {
        Contents::new(self.file.clone(), self.letters.1.clone())
    }
}

/// What a lane holds, read chunk by chunk.
pub(super) struct Contents {
    file: Arc<File>,
    chunks: Arc<[Chunk]>,
    next: usize,
    chunk: Bytes,
}

impl Contents {
    fn new(file: Arc<File>, chunks: Arc<[Chunk]>) -> Self {
        Self { file, chunks, next: 0, chunk: Bytes::new() }
    }

    /// The next one; it blocks on the disk.
    pub fn next_content(&mut self) -> Result<Option<Content>> {
        if self.chunk.is_empty() {
            let Some(chunk) = self.chunks.get(self.next) else { return Ok(None) };
            let mut read = vec![0; chunk.length];
            let failed = |error| LogError::unavailable("reading what was put aside", error);
            self.file.read_exact_at(&mut read, chunk.at).map_err(failed)?;
            if crc32fast::hash(&read) != chunk.crc32 {
                return Err(LogError::Damaged("what was put aside on the disk came back as something else".to_owned()));
            }
            self.next += 1;
            self.chunk = read.into();
        }
        let misshapen = || LogError::Damaged("what was put aside is misshapen".to_owned());
        let mut rest: &[u8] = &self.chunk;
        let (has_key, key, value) =
            (|| Some((get_long(&mut rest)?, get_bytes(&mut rest)?, get_bytes(&mut rest)?)))().ok_or_else(misshapen)?;
        let key = (has_key == 1).then(|| self.chunk.slice_ref(key));
        let content = Content::Event { key, value: self.chunk.slice_ref(value) };
        let taken = self.chunk.len() - rest.len();
        self.chunk = self.chunk.slice(taken..);
        Ok(Some(content))
    }
}
