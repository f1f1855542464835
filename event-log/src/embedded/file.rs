//! One file of a partition: its name, its index, and reading frames from it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use views::Offset;

use super::frame::{self, Decoded, FRAME, Frame, HEADER, Header};
use crate::error::{LogError, Result};

/// The index has an entry about every this many bytes.
pub const INDEX_BYTES: u64 = 64 << 10;
/// The first chunk of a scan; each further one is twice as long, up to [`LONGEST_CHUNK`].
const FIRST_CHUNK: u64 = 64 << 10;
/// Longer ones leave the processor's cache between being read, checked and decoded, and the allocator gives them back each time.
const LONGEST_CHUNK: u64 = 512 << 10;

/// A file of a partition.
#[derive(Debug)]
pub struct LogFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its header.
    pub header: Header,
    /// Known places of frames, ascending; always begins with the first. It grows as scans walk over the file, without leaving
    /// gaps: nobody can come to a place but by walking from an entry.
    index: Mutex<Vec<(Offset, u64)>>,
}

impl LogFile {
    /// The file with this header in a partition's directory.
    pub fn new(directory: &Path, header: Header) -> Self {
        Self { path: path(directory, header.base), header, index: Mutex::new(vec![(header.base, HEADER as u64)]) }
    }

    /// The offset of its first record.
    pub fn base(&self) -> Offset {
        self.header.base
    }

    /// The last known place at or before an offset.
    pub fn place(&self, offset: Offset) -> (Offset, u64) {
        let index = self.index.lock();
        let after = index.partition_point(|(known, _)| *known <= offset);
        index.get(after.saturating_sub(1)).copied().unwrap_or((self.base(), HEADER as u64))
    }

    /// Remembers the place of a frame, if it is far enough from the last one remembered. Returns from which place on there is
    /// something to remember again: whoever reads many frames need not ask before.
    pub fn remember(&self, offset: Offset, at: u64) -> u64 {
        let mut index = self.index.lock();
        match index.last() {
            Some((_, last)) if at >= last + INDEX_BYTES => {
                index.push((offset, at));
                at + INDEX_BYTES
            }
            Some((_, last)) => last + INDEX_BYTES,
            None => u64::MAX,
        }
    }

    /// The error for bytes at a place in this file that are not what was written.
    pub fn damaged(&self, at: u64, why: impl std::fmt::Display) -> LogError {
        LogError::Damaged(format!("{}: byte {at}: {why}", self.path.display()))
    }

    /// The error for a failed operation on this file.
    pub fn unavailable(&self, what: &str, error: io::Error) -> LogError {
        LogError::unavailable(format!("{what} {}", self.path.display()), error)
    }

    /// Reads the header of a file that is at least that long.
    pub fn read_header(file: &File, path: &Path) -> Result<Header> {
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|error| LogError::unavailable(format!("read {}", path.display()), error))?;
        Header::decode(&bytes).map_err(|why| LogError::Damaged(format!("{}: byte 0: {why}", path.display())))
    }
}

/// The path of the file with this base.
pub fn path(directory: &Path, base: Offset) -> PathBuf {
    directory.join(format!("{base:020}.log"))
}

/// The base in a file's name, if it is the name of a log file.
pub fn base_in_name(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".log")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// A walk over the frames of a file, each of them checked.
pub struct Scan<'a> {
    file: &'a File,
    salt: u32,
    end: u64,
    next: u64,
    due: Offset,
    chunk: Bytes,
    chunk_length: u64,
    /// How many bytes, about, the caller still wants: a chunk is not longer.
    wanted: u64,
}

/// One step of a [`Scan`].
pub enum Step {
    /// The frame at a place.
    Frame(u64, Frame),
    /// The end was reached, right after a frame; the offset is the next one.
    End(Offset),
    /// What stands at a place is not the frame with the offset that is due there, and why.
    Bad(u64, Offset, &'static str),
}

impl<'a> Scan<'a> {
    /// Walks from a place where the frame with the offset `due` begins, to `end`.
    pub fn new(file: &'a File, salt: u32, (due, place): (Offset, u64), end: u64) -> Self {
        let chunk = Bytes::new();
        Self { file, salt, end, next: place, due, chunk, chunk_length: FIRST_CHUNK, wanted: u64::MAX }
    }

    /// The same for a caller who wants about so many bytes of frames: they are read in one go.
    pub fn wanting(self, bytes: u64) -> Self {
        let wanted = bytes.min(LONGEST_CHUNK);
        Self { chunk_length: wanted.max(FIRST_CHUNK), wanted, ..self }
    }

    /// The next frame.
    pub fn step(&mut self) -> io::Result<Step> {
        if self.next >= self.end {
            return Ok(Step::End(self.due));
        }
        let mut decoded = frame::decode(&self.chunk, self.salt);
        if let Decoded::Incomplete(length) = decoded {
            let Some(length) = self.load(length)? else {
                return Ok(Step::Bad(self.next, self.due, "the frame runs past the end of the file"));
            };
            decoded = frame::decode(&self.chunk, self.salt);
            // The head is there now, and may ask for more than the chunk holds.
            if let Decoded::Incomplete(more) = decoded
                && more > length
            {
                if self.load(more)?.is_none() {
                    return Ok(Step::Bad(self.next, self.due, "the frame runs past the end of the file"));
                }
                decoded = frame::decode(&self.chunk, self.salt);
            }
        }
        match decoded {
            Decoded::Frame(frame) if frame.record.offset == self.due => {
                let at = self.next;
                self.chunk.advance(frame.length);
                self.next += frame.length as u64;
                self.due += 1;
                Ok(Step::Frame(at, frame))
            }
            Decoded::Frame(_) => Ok(Step::Bad(self.next, self.due, "the frame has another offset than the one due")),
            Decoded::Bad(why) => Ok(Step::Bad(self.next, self.due, why)),
            Decoded::Incomplete(_) => Ok(Step::Bad(self.next, self.due, "the frame runs past the end of the file")),
        }
    }

    /// Reads a chunk of at least `length` bytes from the next frame on; `None` when the file has fewer.
    fn load(&mut self, length: usize) -> io::Result<Option<usize>> {
        let left = self.end - self.next;
        if left < length as u64 {
            return Ok(None);
        }
        let chunk_length = self.chunk_length.min(self.wanted.max(FIRST_CHUNK)).max(length as u64).min(left) as usize;
        self.chunk = Bytes::from(read_at(self.file, self.next, chunk_length)?);
        self.wanted = self.wanted.saturating_sub(chunk_length as u64);
        self.chunk_length = (self.chunk_length * 2).min(LONGEST_CHUNK);
        Ok(Some(chunk_length))
    }
}

/// The first frame at or after `from` with an offset in `offsets`, and its offset. With `group`, only frames that begin a group count.
pub fn find(
    file: &File,
    salt: u32,
    group: bool,
    offsets: &Range<Offset>,
    from: u64,
    end: u64,
) -> io::Result<Option<(Offset, u64)>> {
    let mut at = from;
    while at + (FRAME as u64) <= end {
        let window = read_at(file, at, LONGEST_CHUNK.min(end - at) as usize)?;
        for (candidate, head) in (at..).zip(window.windows(FRAME)) {
            if !frame::is_head_within(head, salt, group, offsets) {
                continue;
            }
            let length = match frame::decode(&Bytes::copy_from_slice(head), salt) {
                Decoded::Incomplete(length) if candidate + length as u64 <= end => length,
                // Neither key nor value.
                Decoded::Frame(frame) => frame.length,
                _ => continue,
            };
            let whole = Bytes::from(read_at(file, candidate, length)?);
            if let Decoded::Frame(frame) = frame::decode(&whole, salt) {
                return Ok(Some((frame.record.offset, candidate)));
            }
        }
        at += (window.len() - (FRAME - 1)) as u64;
    }
    Ok(None)
}

fn read_at(mut file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    // Into memory that nobody has to clear first. Each scan has a file handle of its own, so its position is nobody else's.
    let mut bytes = Vec::with_capacity(length);
    file.seek(SeekFrom::Start(at))?;
    file.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
