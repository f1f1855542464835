//! The registry in a local directory.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use views::avro::Record;

use super::SchemaRegistry;
use super::history;
use crate::error::{LogError, Result};

/// The registry in a local directory: one file per schema, `00000001.json` and so on, never changed once written; and `highest`, the
/// id of the last one: without it, a last file that is missing could not be missed, and its id would be given to another schema.
///
/// One process opens it at a time.
#[derive(Debug)]
pub struct EmbeddedRegistry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// In the order of their ids, which begin with 1.
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    subject: String,
    schema: Arc<str>,
    record: Record,
}

/// The file that names the last schema.
const HIGHEST: &str = "highest";

/// What a file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    subject: String,
    schema: String,
    /// Of the id, the subject and the schema: see [`checksum`].
    crc32: u32,
}

impl EmbeddedRegistry {
    /// Opens the registry in `dir`, which is created when it is not there.
    ///
    /// # Errors
    ///
    /// `Damaged`, naming the file, when one is missing or not what was written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        fs::create_dir_all(&dir).map_err(|e| LogError::unavailable(format!("creating {}", dir.display()), e))?;
        let mut ids = Vec::new();
        let listing = || format!("listing {}", dir.display());
        for file in fs::read_dir(&dir).map_err(|e| LogError::unavailable(listing(), e))? {
            let name = file.map_err(|e| LogError::unavailable(listing(), e))?.file_name();
            let name = name.to_string_lossy();
            // A file that is still being written when the process dies keeps its `.new` name and counts as nothing.
            let Some(digits) = name.strip_suffix(".json") else { continue };
            match digits.parse::<u32>() {
                Ok(id) if file_name(id) == *name => ids.push(id),
                _ => return Err(LogError::Damaged(format!("{}: not a schema's name", dir.join(&*name).display()))),
            }
        }
        ids.sort_unstable();
        let mut entries = Vec::with_capacity(ids.len());
        for (expected, id) in (1..).zip(ids) {
            if id != expected {
                let missing = dir.join(file_name(expected));
                return Err(LogError::Damaged(format!(
                    "{} is missing, but later schemas are there",
                    missing.display()
                )));
            }
            entries.push(read_entry(&dir, id)?);
        }
        let there = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let highest = read_highest(&dir)?;
        if highest > there {
            let missing = dir.join(file_name(there + 1));
            return Err(LogError::Damaged(format!("{} is missing, but it was registered", missing.display())));
        }
        // A crash came in between.
        if highest < there {
            write_highest(&dir, there)?;
        }
        Ok(Self { shared: Arc::new(Shared { dir, entries: Mutex::new(entries) }) })
    }
}

#[async_trait]
impl SchemaRegistry for EmbeddedRegistry {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let shared = self.shared.clone();
        let (subject, schema) = (subject.to_owned(), schema.to_owned());
        tokio::task::spawn_blocking(move || shared.register(subject, schema))
            .await
            .map_err(|e| LogError::unavailable("registering a schema", e))?
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>> {
        let entries = self.shared.entries.lock();
        let entry = (id as usize).checked_sub(1).and_then(|index| entries.get(index));
        entry.map(|entry| entry.schema.clone()).ok_or_else(|| LogError::NotFound(format!("schema {id}")))
    }

    async fn latest(&self, subject: &str) -> Result<(u32, Arc<str>)> {
        let entries = self.shared.entries.lock();
        let last = (1u32..).zip(entries.iter()).filter(|(_, entry)| entry.subject == subject).last();
        let last = last.map(|(id, entry)| (id, entry.schema.clone()));
        last.ok_or_else(|| LogError::NotFound(format!("a schema of {subject}")))
    }

    async fn check(&self, subject: &str, schema: &str) -> Result<()> {
        let record = history::parse(subject, schema)?;
        registered(&self.shared.entries.lock(), subject, &record).map(|_| ())
    }
}

impl Shared {
    fn register(&self, subject: String, schema: String) -> Result<u32> {
        let record = history::parse(&subject, &schema)?;
        // Held while the file is written: two registrations never get one id.
        let mut entries = self.entries.lock();
        if let Some(id) = registered(&entries, &subject, &record)? {
            return Ok(id);
        }
        let id = u32::try_from(entries.len() + 1).map_err(|_| LogError::Invalid("too many schemas".to_owned()))?;
        write_entry(&self.dir, id, &subject, &schema)?;
        write_highest(&self.dir, id)?;
        entries.push(Entry { subject, schema: schema.into(), record });
        Ok(id)
    }
}

/// The id of a schema that the subject has already; refuses one that it must not get.
fn registered(entries: &[Entry], subject: &str, record: &Record) -> Result<Option<u32>> {
    let of_subject = || (1u32..).zip(entries).filter(|(_, entry)| entry.subject == subject);
    if let Some((id, _)) = of_subject().find(|(_, entry)| entry.record == *record) {
        return Ok(Some(id));
    }
    for (id, earlier) in of_subject() {
        history::reads(subject, record, &earlier.record, format_args!("earlier schema {id}"))?;
    }
    Ok(None)
}

/// The id of the last schema, as far as it was noted: `{id} {crc32 of that}`.
fn read_highest(dir: &Path) -> Result<u32> {
    let path = dir.join(HIGHEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        Err(e) if e.kind() == ErrorKind::InvalidData => String::new(),
        Err(e) => return Err(LogError::unavailable(format!("reading {}", path.display()), e)),
    };
    let id = text.split(' ').next().and_then(|id| id.parse().ok());
    let id = id.filter(|id| highest_text(*id) == text);
    id.ok_or_else(|| LogError::Damaged(format!("{}: the checksum does not match", path.display())))
}

fn write_highest(dir: &Path, id: u32) -> Result<()> {
    let new = dir.join("highest.new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(highest_text(id).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, dir.join(HIGHEST))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e: std::io::Error| LogError::unavailable(format!("writing {}", new.display()), e))
}

fn highest_text(id: u32) -> String {
    format!("{id} {:08x}\n", crc32fast::hash(&id.to_be_bytes()))
}

fn file_name(id: u32) -> String {
    format!("{id:08}.json")
}

/// Covers the id too: a file that was renamed is not the schema of its new name.
fn checksum(id: u32, subject: &str, schema: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_be_bytes());
    for text in [subject, schema] {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize()
}

fn read_entry(dir: &Path, id: u32) -> Result<Entry> {
    let path = dir.join(file_name(id));
    let damaged = |reason: String| LogError::Damaged(format!("{}: {reason}", path.display()));
    let bytes = fs::read(&path).map_err(|e| LogError::unavailable(format!("reading {}", path.display()), e))?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if checksum(id, &stored.subject, &stored.schema) != stored.crc32 {
        return Err(damaged("the checksum does not match".to_owned()));
    }
    let record = Record::parse(&stored.schema).map_err(damaged)?;
    Ok(Entry { subject: stored.subject, schema: stored.schema.into(), record })
}

fn write_entry(dir: &Path, id: u32, subject: &str, schema: &str) -> Result<()> {
    let path = dir.join(file_name(id));
    let stored =
        Stored { subject: subject.to_owned(), schema: schema.to_owned(), crc32: checksum(id, subject, schema) };
    let text = serde_json::to_vec(&stored).map_err(|e| LogError::Invalid(e.to_string()))?;
    let new = path.with_extension("new");
    let write = || {
        // Not overwritten: an earlier attempt may have left it as a second name of the file itself.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        // A link fails when the name is taken, a rename would replace what is there.
        match fs::hard_link(&new, &path) {
            // An attempt that failed after this point is being repeated.
            Err(e) if e.kind() == ErrorKind::AlreadyExists && fs::read(&path)? == text => {}
            linked => linked?,
        }
        fs::remove_file(&new)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e: std::io::Error| LogError::unavailable(format!("writing {}", path.display()), e))
}
