//! Checks fjall's journal before fjall reads it.
//!
//! fjall takes the first entry that it cannot read for the torn end of the file and forgets everything behind it, without a
//! word. That is right after a power cut. When a bit flipped in the middle it would leave deltas of some views as of
//! one offset and of others as of another. So the files are walked here first:
//!
//! - every value of ours carries a checksum over its key, so an entry that reads well *is* what was written;
//! - the sequence numbers of batches rise, within a file and over all of them;
//! - a journal that was sealed has been synced whole: nothing but zeros may follow its last batch;
//! - the journal that was open may be torn. It is cut there. But fjall syncs it before it writes tables out of it, so
//!   no table may hold anything newer than what is left ([`End::check_flushed`]).

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use fjall::{AbstractTree, Keyspace};

use super::bytes;
use crate::error::{Result, StoreError};

const TRAILER: &[u8] = b"FJL\x03";
/// Journals are allocated ahead: 64 MiB of zeros are compared in pieces of this.
const ZEROS: [u8; 4096] = [0; 4096];

/// Where the journals end.
#[derive(Debug)]
pub struct End {
    /// The journal that was cut, and the sequence number before which everything in it was read.
    cut: Option<(PathBuf, u64)>,
}

impl End {
    /// Refuses a keyspace whose tables hold what the cut journal lost.
    ///
    /// # Errors
    ///
    /// `Damaged`, naming the journal.
    pub fn check_flushed(&self, keyspace: &Keyspace) -> Result<()> {
        let Some((file, lost_from)) = &self.cut else { return Ok(()) };
        match keyspace.tree.get_highest_persisted_seqno() {
            Some(flushed) if flushed >= *lost_from => Err(damaged(file, "its end is lost, though it had been synced")),
            _ => Ok(()),
        }
    }
}

/// Walks every journal in `dir`, and cuts the torn end off the last.
///
/// # Errors
///
/// `Damaged`, naming the file.
pub fn check(dir: &Path) -> Result<End> {
    let context = || format!("checking the journal in {}", dir.display());
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| StoreError::unavailable(context(), error))? {
        let path = entry.map_err(|error| StoreError::unavailable(context(), error))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        if let Some(number) = number {
            journals.push((number, path));
        }
    }
    journals.sort();
    let mut last_batch = None;
    let newest = journals.len().saturating_sub(1);
    for (index, (_, path)) in journals.into_iter().enumerate() {
        let mut content = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut content));
        read.map_err(|error| StoreError::unavailable(context(), error))?;
        let (good, broken_batch) = walk(&content, &path, &mut last_batch)?;
        if content[good..].chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()]) {
            continue;
        }
        if index < newest {
            return Err(damaged(&path, &format!("it breaks off at byte {good}, though it had been synced")));
        }
        // A start that cannot be read could be any batch after the last one that can.
        let lost_from = broken_batch.unwrap_or_else(|| last_batch.map_or(0, |last| last + 1));
        tracing::warn!(journal = %path.display(), from = good, "cutting the torn end off the journal");
        let cut = OpenOptions::new().write(true).open(&path).and_then(|file| {
            file.set_len(good as u64)?;
            file.sync_all()
        });
        cut.map_err(|error| StoreError::unavailable(context(), error))?;
        return Ok(End { cut: Some((path, lost_from)) });
    }
    Ok(End { cut: None })
}

/// The length of the good batches, and the sequence number of the one that is not, when it can be read.
fn walk(content: &[u8], path: &Path, last_batch: &mut Option<u64>) -> Result<(usize, Option<u64>)> {
    let mut good = 0;
    loop {
        let mut reader = Reader(&content[good..]);
        let Some((items, number)) = reader.start() else { return Ok((good, None)) };
        if last_batch.is_some_and(|last| number <= last) {
            return Err(damaged(path, &format!("the batch at byte {good} is out of order")));
        }
        if reader.items(items).is_none() {
            return Ok((good, Some(number)));
        }
        *last_batch = Some(number);
        good = content.len() - reader.0.len();
    }
}

struct Reader<'j>(&'j [u8]);

impl<'j> Reader<'j> {
    /// `1 count:u32le sequence:u64le`
    fn start(&mut self) -> Option<(u32, u64)> {
        self.tag(1)?;
        Some((u32::from_le_bytes(self.array()?), u64::from_le_bytes(self.array()?)))
    }

    /// The items of a batch and its end.
    fn items(&mut self, count: u32) -> Option<()> {
        for _ in 0..count {
            self.item()?;
        }
        // `3 checksum:u64 trailer`; fjall checks the sum.
        self.tag(3)?;
        self.take(8)?;
        (self.take(TRAILER.len())? == TRAILER).then_some(())
    }

    /// `2 kind compression keyspace:u64le key:u16le value:u32le stored:u32le key value`; kinds: 0 a value, 1 a tombstone.
    fn item(&mut self) -> Option<()> {
        self.tag(2)?;
        let [kind, compression] = self.array()?;
        self.take(8)?;
        let key = u16::from_le_bytes(self.array()?);
        let value = u32::from_le_bytes(self.array()?);
        let stored = u32::from_le_bytes(self.array()?);
        let key = self.take(key.into())?;
        let body = self.take(usize::try_from(stored).ok()?)?;
        let is_ours = match kind {
            0 => bytes::open(key, body).is_ok(),
            _ => kind == 1 && body.is_empty(),
        };
        (compression == 0 && value == stored && is_ours).then_some(())
    }

    fn tag(&mut self, wanted: u8) -> Option<()> {
        (self.take(1)? == [wanted]).then_some(())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, count: usize) -> Option<&'j [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

fn damaged(path: &Path, what: &str) -> StoreError {
    StoreError::Damaged(format!("{}: {what}", path.display()))
}
