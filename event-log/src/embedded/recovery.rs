//! Opening a partition's directory: what must be there is checked, what a crash left half-written is taken away.
//!
//! Only the last file is walked through. Groups are written one after the other, each synced before the next is
//! begun, so a bad frame there means one of two things. If a later group begins after it, the bad frame's group had been
//! synced: it is damage, and the log refuses to open. If none does, it is the last group, torn by a crash before
//! anybody was told that it is durable: the file is cut back to before the bad frame.
//!
//! Files before the last one are checked against each other here (each header names base and length of the file before), and their
//! frames when they are read.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use views::Offset;

use super::EmbeddedOptions;
use super::file::{self, LogFile, Scan, Step};
use super::frame::{HEADER, Header};
use super::note::{self, Ends};
use crate::error::{LogError, Result};

/// The name of the note beside a partition's files.
pub const ENDS: &str = "partition.json";

/// A partition as it was found.
pub struct Recovered {
    /// Its files, oldest first; the last one is the one appended to.
    pub files: Vec<Arc<LogFile>>,
    /// The last file, open for writing.
    pub active: File,
    /// How long the last file is.
    pub length: u64,
    /// The next offset to be written.
    pub next: Offset,
    /// The append time of the last record.
    pub last_time: i64,
    /// What is known of its ends.
    pub ends: Ends,
}

/// Opens a partition of a topic that was created; `create` it first where that was interrupted or has yet to be.
pub fn open(directory: &Path, options: &EmbeddedOptions) -> Result<Recovered> {
    let note_path = directory.join(ENDS);
    let Some(mut ends) = note::read::<Ends>(&note_path)? else {
        return Err(LogError::Damaged(format!("{} is missing", note_path.display())));
    };
    let bases = let_go(directory, &ends)?;
    let mut files = headers(directory, &bases, &ends)?;
    if files.first().is_none_or(|(first, _)| first.base() != ends.start) {
        let first = file::path(directory, ends.start);
        return Err(LogError::Damaged(format!("{} is missing: the partition begins there", first.display())));
    }
    check_chain(&files, &ends)?;
    // Not empty: the first file was just looked at.
    let (last, length) = files.split_off(files.len() - 1).remove(0);

    let io_error = |what: &'static str| {
        let last = last.clone();
        move |error| last.unavailable(what, error)
    };
    let active = File::options().read(true).write(true).open(&last.path).map_err(io_error("open"))?;
    let committed = if ends.file == last.base() { ends.committed } else { HEADER as u64 };
    let tail = walk(&last, &active, length, committed)?;
    if tail.length < length {
        tracing::warn!(
            file = %last.path.display(), byte = tail.length, dropped_bytes = length - tail.length, next_offset = tail.next,
            "the last group of the log was torn before it was acknowledged; it is cut off"
        );
        options.host.truncate(&active, tail.length).map_err(io_error("cut back"))?;
    }
    if options.fsync {
        // A crash may have left frames that were written and not yet synced: readers are about to see them.
        options.host.sync(&active).map_err(io_error("sync"))?;
        let found = Ends { start: ends.start, file: last.base(), committed: tail.length };
        if found != ends {
            ends = found;
            note::write(&*options.host, true, &note_path, ends)
                .map_err(|error| LogError::unavailable(format!("write {}", note_path.display()), error))?;
        }
    }
    let mut files: Vec<_> = files.into_iter().map(|(file, _)| file).collect();
    files.push(last);
    Ok(Recovered { files, active, length: tail.length, next: tail.next, last_time: tail.last_time, ends })
}

/// Where a new partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// The offset of its first record.
    pub offset: Offset,
    /// The append time of the last record before that one; the lowest when there is none.
    pub last_time: i64,
}

impl Default for First {
    fn default() -> Self {
        Self { offset: 0, last_time: i64::MIN }
    }
}

/// Creates an empty partition, or finishes creating one; one that is there is left alone. One that begins elsewhere is what an attempt
/// to create the topic in another way left, when it was interrupted before there was a topic: it is created anew.
pub fn create(directory: &Path, first: First, options: &EmbeddedOptions) -> Result<()> {
    let failed = |error: io::Error| LogError::unavailable(format!("create {}", directory.display()), error);
    fs::create_dir_all(directory).map_err(failed)?;
    let note_path = directory.join(ENDS);
    let there = note::read::<Ends>(&note_path)?;
    if there.is_some_and(|ends| ends.start == first.offset && first == First::default()) {
        return Ok(());
    }
    // The note comes last, so without it there is at most a first file without a record.
    if let Some(path) = holding_records(directory).map_err(failed)? {
        let why = match there {
            None => format!("{} is missing, but {} is there", note_path.display(), path.display()),
            Some(_) => format!("{} holds records, and its topic is not there", path.display()),
        };
        return Err(LogError::Damaged(why));
    }
    if there.is_some() {
        // First the note: without it there is nothing.
        fs::remove_file(&note_path).map_err(failed)?;
    }
    for base in bases(directory).map_err(failed)? {
        fs::remove_file(file::path(directory, base)).map_err(failed)?;
    }
    let First { offset, last_time } = first;
    let header = Header { salt: options.host.salt(), base: offset, previous: None, last_time };
    begin_file(directory, &header, options).map_err(failed)?;
    let ends = Ends { start: offset, file: offset, committed: HEADER as u64 };
    note::write(&*options.host, options.fsync, &note_path, ends).map_err(failed)
}

/// Creates a file that holds its header only; durable when this returns.
pub fn begin_file(directory: &Path, header: &Header, options: &EmbeddedOptions) -> io::Result<File> {
    let path = file::path(directory, header.base);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    options.host.write(&file, &header.encode(), 0)?;
    if options.fsync {
        options.host.sync(&file)?;
        note::sync_directory(directory)?;
    }
    Ok(file)
}

/// A log file in a directory that is longer than a header.
pub fn holding_records(directory: &Path) -> io::Result<Option<std::path::PathBuf>> {
    for base in bases(directory)? {
        let path = file::path(directory, base);
        if fs::metadata(&path)?.len() > HEADER as u64 {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The bases of the files in a directory, ascending.
fn bases(directory: &Path) -> io::Result<Vec<Offset>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(directory)? {
        bases.extend(entry?.file_name().to_str().and_then(file::base_in_name));
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Deletes the files that a trim had let go of before it was interrupted; returns the bases of the others.
fn let_go(directory: &Path, ends: &Ends) -> Result<Vec<Offset>> {
    let failed = |error: io::Error| LogError::unavailable(format!("list {}", directory.display()), error);
    let (gone, kept): (Vec<_>, Vec<_>) =
        bases(directory).map_err(failed)?.into_iter().partition(|base| *base < ends.start);
    for base in gone {
        fs::remove_file(file::path(directory, base)).map_err(failed)?;
    }
    Ok(kept)
}

/// The files with their lengths. A last file whose header a crash cut short is removed: no record was ever in it.
fn headers(directory: &Path, bases: &[Offset], ends: &Ends) -> Result<Vec<(Arc<LogFile>, u64)>> {
    let mut files = Vec::with_capacity(bases.len());
    for (number, base) in bases.iter().enumerate() {
        let path = file::path(directory, *base);
        let failed = |error: io::Error| LogError::unavailable(format!("open {}", path.display()), error);
        let open = File::open(&path).map_err(failed)?;
        let length = open.metadata().map_err(failed)?.len();
        let header = if length < HEADER as u64 {
            Err(LogError::Damaged(format!("{}: byte {length}: the file ends inside its header", path.display())))
        } else {
            LogFile::read_header(&open, &path)
        };
        match header {
            Ok(header) if header.base != *base => {
                return Err(LogError::Damaged(format!(
                    "{}: byte 16: the header is that of the file with offset {}",
                    path.display(),
                    header.base
                )));
            }
            Ok(header) => files.push((Arc::new(LogFile::new(directory, header)), length)),
            // It was being begun: its header was not synced yet, so nothing was written after it.
            Err(LogError::Damaged(why))
                if number > 0 && number + 1 == bases.len() && length <= HEADER as u64 && ends.file < *base =>
            {
                tracing::warn!(%why, "the file had just been begun; it is removed");
                fs::remove_file(&path).map_err(failed)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Each file must follow the one before it, and what is known to have been committed must be there.
fn check_chain(files: &[(Arc<LogFile>, u64)], ends: &Ends) -> Result<()> {
    for pair in files.windows(2) {
        let [(before, length), (after, _)] = pair else { continue };
        if let Some((base, expected)) = after.header.previous
            && base == before.base()
        {
            if *length != expected {
                return Err(before.damaged(*length, format!("the file was {expected} bytes long when it was finished")));
            }
            continue;
        }
        let missing = after.header.previous.map_or_else(
            || "a file before the partition's first file".into(),
            |(base, _)| format!("the file {base:020}.log, which comes before it, is missing"),
        );
        return Err(after.damaged(24, missing));
    }
    let known = files.iter().find(|(file, _)| file.base() == ends.file);
    match known {
        Some((file, length)) if *length < ends.committed => {
            Err(file.damaged(*length, format!("the file ends, but {} bytes of it were committed", ends.committed)))
        }
        None if ends.file >= ends.start => {
            Err(LogError::Damaged(format!("the file {:020}.log, which held records, is missing", ends.file)))
        }
        _ => Ok(()),
    }
}

struct Tail {
    length: u64,
    next: Offset,
    last_time: i64,
}

/// Walks through the last file: returns where its good part ends, or refuses damage.
fn walk(last: &LogFile, file: &File, length: u64, committed: u64) -> Result<Tail> {
    let failed = |error| last.unavailable("read", error);
    let salt = last.header.salt;
    let mut scan = Scan::new(file, salt, (last.base(), HEADER as u64), length);
    let mut tail = Tail { length: HEADER as u64, next: last.base(), last_time: last.header.last_time };
    loop {
        match scan.step().map_err(failed)? {
            Step::Frame(at, frame) => {
                last.remember(frame.record.offset, at);
                tail = Tail {
                    length: at + frame.length as u64,
                    next: frame.record.offset + 1,
                    last_time: frame.record.append_time,
                };
            }
            Step::End(_) => return Ok(tail),
            Step::Bad(at, offset, why) if at < committed => {
                return Err(last.damaged(at, format!("{why}, and the record there, at offset {offset}, was committed")));
            }
            Step::Bad(at, offset, why) => {
                let later = offset + 1..Offset::MAX;
                return match file::find(file, salt, true, &later, at + 1, length).map_err(failed)? {
                    Some((_, group)) => Err(last.damaged(
                        at,
                        format!(
                            "{why}, and the record there, at offset {offset}, was committed: another group begins \
                             after it, at byte {group}"
                        ),
                    )),
                    None => Ok(tail),
                };
            }
        }
    }
}
