//! Small files that are replaced whole: what a topic is, and what is known of a partition's ends.
//!
//! A note is one JSON object: `{"version":1,"crc32":C,"note":{…}}`, C being the checksum of the inner object as
//! `serde_json` writes it. It is written to a temporary file, synced, and renamed over the old one.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::host::Host;
use crate::error::{LogError, Result};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    version: u32,
    crc32: u32,
    note: T,
}

/// What is known of a partition's ends, in `partition.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// The first offset that is kept. Files wholly before it are let go.
    pub start: u64,
    /// The file (by its base) up to whose `committed` bytes everything is known to have been committed: a lower bound,
    /// brought up to date when a file is begun and when the log is closed or opened. Less than this is damage.
    pub file: u64,
    /// See `file`.
    pub committed: u64,
}

/// Reads a note; `None` when there is no such file.
pub fn read<T: Serialize + DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogError::unavailable(format!("read {}", path.display()), error)),
    };
    let damaged = |why: String| LogError::Damaged(format!("{}: {why}", path.display()));
    let sealed: Sealed<T> = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if sealed.version != VERSION {
        return Err(damaged(format!("version {} of this file; this program reads {VERSION}", sealed.version)));
    }
    let inner = serde_json::to_vec(&sealed.note).map_err(|error| damaged(error.to_string()))?;
    if crc32fast::hash(&inner) != sealed.crc32 {
        return Err(damaged("its checksum is wrong".into()));
    }
    Ok(Some(sealed.note))
}

/// Writes a note in place of an older one: afterwards either the old or the new one is there, whole.
pub fn write<T: Serialize>(host: &dyn Host, fsync: bool, path: &Path, note: T) -> io::Result<()> {
    let inner = serde_json::to_vec(&note)?;
    let sealed = Sealed { version: VERSION, crc32: crc32fast::hash(&inner), note };
    let mut bytes = serde_json::to_vec(&sealed)?;
    bytes.push(b'\n');
    let temporary = path.with_extension("tmp");
    let file = File::create(&temporary)?;
    host.write(&file, &bytes, 0)?;
    if fsync {
        host.sync(&file)?;
    }
    fs::rename(&temporary, path)?;
    if fsync && let Some(directory) = path.parent() {
        sync_directory(directory)?;
    }
    Ok(())
}

/// Makes created, renamed and deleted names in a directory survive a power cut.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
