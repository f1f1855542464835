//! Checks fjall's manifests and the directories of its tables before fjall reads them.
//!
//! fjall verifies every block it reads from a table, and a manifest's directory, but not what a manifest says: a flipped bit in
//! a count can make it forget tables, or ask for more memory than there is, which ends the process. It writes a checksum of
//! the manifest all the same; that is verified here. The shape is checked as well: counts must fill their sections exactly,
//! every table named must be there once, and a sequence number be one that a store can have reached.
//!
//! ```text
//! keyspaces/ID/current    number:u64le checksum:u128le checksum_kind, of the manifest vNUMBER (xxh3, kind 0)
//! keyspaces/ID/vNUMBER    sections, directory, trailer: the tables, as level · runs · tables
//! keyspaces/ID/tables/ID  sections, directory, trailer
//! directory               "TOC!" count:u32le (position:u64le length:u64le name_length:u16le name)*
//! trailer                 "SFA!" version checksum_kind checksum:u128le directory_position:u64le directory_length:u64le
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Result, StoreError};

const TRAILER: u64 = 38;
/// No directory of ours is longer: a manifest has eight sections and a table about as many.
const LONGEST_DIRECTORY: u64 = 64 << 10;
const LEVELS: u8 = 7;
/// Far past anything that can be reached.
const HIGHEST_SEQUENCE: u64 = 1 << 56;

/// Checks every keyspace in `dir`.
///
/// # Errors
///
/// `Damaged`, naming the file.
pub fn check(dir: &Path) -> Result<()> {
    for keyspace in entries(&dir.join("keyspaces"))? {
        let current = keyspace.join("current");
        let Some(content) = read(&current)? else {
            // Cut off while it was made; fjall removes it.
            continue;
        };
        let (number, checksum) = pointer(&content).ok_or_else(|| damaged(&current, "it is misshapen"))?;
        let manifest = keyspace.join(format!("v{number}"));
        let content = read(&manifest)?.ok_or_else(|| damaged(&current, "it names a manifest that is not there"))?;
        if xxh3_128(&content) != checksum {
            return Err(damaged(&manifest, "it does not have the checksum that `current` gives"));
        }
        for table in tables(&content, &manifest)? {
            let path = keyspace.join("tables").join(table.to_string());
            let file = File::open(&path).map_err(|error| failed(&path, error))?;
            directory(&file, &path)?;
        }
    }
    Ok(())
}

/// The number of the manifest that counts, and its checksum.
fn pointer(current: &[u8]) -> Option<(u64, u128)> {
    let mut bytes = Bytes(current);
    let (number, checksum) = (bytes.u64()?, u128::from_le_bytes(bytes.array()?));
    (bytes.0 == [0]).then_some((number, checksum))
}

/// The tables that a manifest names.
fn tables(content: &[u8], path: &Path) -> Result<Vec<u64>> {
    let file = File::open(path).map_err(|error| failed(path, error))?;
    let sections = directory(&file, path)?;
    let section = |name: &[u8]| {
        let range = sections.iter().find(|(found, _)| found == name).map(|(_, range)| range.clone());
        let bytes = range.and_then(|range| content.get(range.start as usize..range.end as usize));
        bytes.ok_or_else(|| damaged(path, "a section is missing"))
    };
    for name in [b"tree_type".as_slice(), b"blob_files", b"blob_gc_stats"] {
        if section(name)?.iter().any(|byte| *byte != 0) {
            return Err(damaged(path, "it speaks of blobs, which this store does not have"));
        }
    }
    let mut bytes = Bytes(section(b"tables")?);
    let tables = bytes.tables().filter(|_| bytes.0.is_empty());
    let tables = tables.ok_or_else(|| damaged(path, "its tables do not add up"))?;
    let distinct: HashSet<_> = tables.iter().collect();
    if distinct.len() < tables.len() {
        return Err(damaged(path, "it names a table twice"));
    }
    Ok(tables)
}

/// The sections of a file, as its directory says.
fn directory(mut file: &File, path: &Path) -> Result<Vec<(Vec<u8>, Range<u64>)>> {
    let length = file.metadata().map_err(|error| failed(path, error))?.len();
    let tail = length.min(LONGEST_DIRECTORY + TRAILER);
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(length - tail)).and_then(|_| file.read_to_end(&mut bytes));
    read.map_err(|error| failed(path, error))?;
    sections(&bytes, length).ok_or_else(|| damaged(path, "its directory does not add up"))
}

fn sections(tail: &[u8], length: u64) -> Option<Vec<(Vec<u8>, Range<u64>)>> {
    let (before, trailer) = tail.split_at_checked(tail.len().checked_sub(TRAILER as usize)?)?;
    let mut trailer = Bytes(trailer);
    trailer.take(22)?;
    let place = trailer.u64()?.checked_sub(length - tail.len() as u64)?;
    let mut bytes = Bytes(before.get(usize::try_from(place).ok()?..)?);
    bytes.take(4)?;
    let count = bytes.u32()?;
    let mut sections = Vec::new();
    for _ in 0..count {
        let (position, size) = (bytes.u64()?, bytes.u64()?);
        let name = u16::from_le_bytes(bytes.array()?);
        let end = position.checked_add(size).filter(|end| *end <= length)?;
        sections.push((bytes.take(name.into())?.to_vec(), position..end));
    }
    bytes.0.is_empty().then_some(sections)
}

struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn tables(&mut self) -> Option<Vec<u64>> {
        let mut tables = Vec::new();
        let [levels] = self.array()?;
        for _ in 0..levels {
            let [runs] = self.array()?;
            for _ in 0..runs {
                let count = self.u32()?;
                if count == 0 {
                    return None;
                }
                for _ in 0..count {
                    let id = self.u64()?;
                    let [checksum_kind] = self.array()?;
                    self.take(16)?;
                    if checksum_kind != 0 || self.u64()? >= HIGHEST_SEQUENCE {
                        return None;
                    }
                    tables.push(id);
                }
            }
        }
        (levels == LEVELS).then_some(tables)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(dir, error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(|error| failed(dir, error))).collect()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

fn failed(path: &Path, error: std::io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => StoreError::unavailable(format!("checking {}", path.display()), error),
    }
}

fn damaged(path: &Path, what: &str) -> StoreError {
    StoreError::Damaged(format!("{}: {what}", path.display()))
}
