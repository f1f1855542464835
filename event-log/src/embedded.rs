//! The event log in files of its own: the embedded backend of [`EventLog`].
//!
//! ```text
//! DIR/~lock                               held by the one process that has the log open
//! DIR/{topic}/topic.json                  the topic as it was created, with its beginning if it has one
//! DIR/{topic}/{partition}/partition.json  what is known of the partition's ends
//! DIR/{topic}/{partition}/{base}.log      records from the offset `base` on
//! ```
//!
//! Follow an append: [`EmbeddedLog`] checks it and queues it, `writer` commits it with others in one group, `frame`
//! has the bytes, `partition` lets readers see it, `recent` keeps it for those who follow the tail. After a crash
//! `recovery` decides between a torn end, which is cut off, and damage, which is refused.
//!
//! What must hold:
//! - a record is acknowledged and readable only after the group it is in was written and synced;
//! - groups of a partition are written strictly one after the other, by one thread;
//! - a failed group leaves nothing behind, or the partition takes no more appends;
//! - a frame is never handed out unless its checksums and its offset are right.
//!
//! With `fsync = false` all this holds for kill -9, not for a power cut: after one, the log may have lost acknowledged
//! records or refuse to open.

mod file;
mod frame;
mod host;
mod note;
mod partition;
mod recent;
mod recovery;
mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use views::{Offset, TopicPartition};

pub use self::host::{Host, Machine};
use self::partition::Partition;
use self::recovery::First;
use self::writer::{Append, Writer};
use crate::beginning::{self, Beginning, Beginnings, Imported};
use crate::error::{LogError, Result};
use crate::log::{Content, EventLog, NewRecord, ReadLimit, Record, TopicSpec};

const TOPIC: &str = "topic.json";
/// Not a possible topic name.
const LOCK: &str = "~lock";
/// What may wait in the queue of one partition before appends have to wait themselves.
const QUEUE_BYTES: usize = 16 << 20;
const QUEUE_APPENDS: usize = 1024;
/// The most one append may take in the log: it is written in one piece.
const APPEND_BYTES: usize = 128 << 20;

/// How to open an [`EmbeddedLog`].
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Whether acknowledged records survive a power cut, and not only the end of the process.
    pub fsync: bool,
    /// A new file is begun before one would become longer than this.
    pub file_bytes: u64,
    /// How much of each partition's tail is kept in memory.
    pub recent_bytes: usize,
    /// The machine.
    pub host: Arc<dyn Host>,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { fsync: true, file_bytes: 64 << 20, recent_bytes: 8 << 20, host: Arc::new(Machine) }
    }
}

/// The event log in files of its own.
pub struct EmbeddedLog {
    directory: PathBuf,
    options: Arc<EmbeddedOptions>,
    topics: Arc<RwLock<BTreeMap<Arc<str>, Topic>>>,
    writers: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// Held while files are created or deleted; false once the log is closed.
    open: Arc<Mutex<bool>>,
    /// Locked as long as the log is open: the last thing to go.
    lock: File,
}

#[derive(Clone)]
struct Topic {
    note: TopicNote,
    partitions: Vec<Handle>,
}

/// What `topic.json` says.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct TopicNote {
    #[serde(flatten)]
    spec: TopicSpec,
    /// What stands before the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beginning: Option<Beginning>,
}

impl TopicNote {
    /// Where a partition begins.
    fn first(&self, partition: u32) -> First {
        match &self.beginning {
            Some(beginning) if beginning.end(partition) > 0 => {
                First { offset: beginning.end(partition), last_time: beginning.append_time }
            }
            _ => First::default(),
        }
    }
}

#[derive(Clone)]
struct Handle {
    partition: Arc<Partition>,
    queue: mpsc::Sender<Append>,
    room: Arc<Semaphore>,
}

impl EmbeddedLog {
    /// Opens the log in a directory, creating it if there is none. Reads the last file of every partition, so it takes a
    /// moment; needs no async runtime.
    ///
    /// # Errors
    ///
    /// `Unavailable` when another process has it open, or the disk fails; `Damaged` when something is not as it was written.
    pub fn open(directory: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Self> {
        let directory = directory.as_ref().to_path_buf();
        let failed = |error: io::Error| LogError::unavailable(format!("open {}", directory.display()), error);
        fs::create_dir_all(&directory).map_err(failed)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(directory.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = "the log is in use: another process has it open";
                return Err(LogError::unavailable(format!("open {}", directory.display()), why));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let log = Self {
            directory: directory.clone(),
            options: Arc::new(options),
            topics: Arc::default(),
            writers: Arc::default(),
            open: Arc::new(Mutex::new(true)),
            lock,
        };
        if log.options.fsync {
            note::sync_directory(&directory).map_err(failed)?;
            if let Some(parent) = directory.canonicalize().map_err(failed)?.parent() {
                note::sync_directory(parent).map_err(failed)?;
            }
        }
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| TopicSpec::check_name(name).is_ok()) else { continue };
            if entry.file_type().map_err(failed)?.is_dir() {
                log.open_topic(name)?;
            }
        }
        Ok(log)
    }

    fn open_topic(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name).join(TOPIC);
        let Some(note) = note::read::<TopicNote>(&path)? else {
            // Creating it was interrupted: then no partition holds a record.
            return self.refuse_records_of(name, &path);
        };
        let damaged = |what: String| LogError::Damaged(format!("{}: {what}", path.display()));
        note.spec.check().map_err(|error| damaged(error.to_string()))?;
        if note.spec.name != name {
            return Err(damaged(format!("it is that of topic {}", note.spec.name)));
        }
        let mut partitions: Vec<Handle> = Vec::new();
        for number in 0..note.spec.partitions {
            let handle = self.files().open(name, number)?;
            let (start, first) = (handle.partition.bounds().start, note.first(number).offset);
            if start < first {
                return Err(damaged(format!("partition {number} begins at {first}, and its files begin at {start}")));
            }
            partitions.push(handle);
        }
        self.topics.write().insert(name.into(), Topic { note, partitions });
        Ok(())
    }

    fn refuse_records_of(&self, topic: &str, missing: &Path) -> Result<()> {
        let directory = self.directory.join(topic);
        let failed = |error: io::Error| LogError::unavailable(format!("open {}", directory.display()), error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir()
                && let Some(file) = recovery::holding_records(&entry.path()).map_err(failed)?
            {
                let message = format!("{} is missing, but {} holds records", missing.display(), file.display());
                return Err(LogError::Damaged(message));
            }
        }
        Ok(())
    }

    fn files(&self) -> Files {
        Files { directory: self.directory.clone(), options: self.options.clone(), writers: self.writers.clone() }
    }

    fn handle(&self, of: &TopicPartition) -> Result<Handle> {
        let topics = self.topics.read();
        let topic = topics.get(&of.topic).ok_or_else(|| LogError::NotFound(format!("topic {}", of.topic)))?;
        let handle = topic.partitions.get(of.partition as usize);
        handle.cloned().ok_or_else(|| LogError::NotFound(format!("partition {of}")))
    }

    /// Runs what creates or deletes files, away from the async threads. It is finished, or never begins, once the log is closed.
    async fn change<T: Send + 'static>(
        &self,
        what: String,
        change: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let open = self.open.clone();
        let context = what.clone();
        let guarded = move || {
            let open = open.lock();
            if *open { change() } else { Err(LogError::unavailable(what, "the log was closed")) }
        };
        tokio::task::spawn_blocking(guarded).await.map_err(|error| LogError::unavailable(context, error))?
    }
}

/// What it takes to create and open partitions.
struct Files {
    directory: PathBuf,
    options: Arc<EmbeddedOptions>,
    writers: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Files {
    fn partition_directory(&self, topic: &str, partition: u32) -> PathBuf {
        self.directory.join(topic).join(format!("{partition:05}"))
    }

    /// Opens a partition and starts its writer.
    fn open(&self, topic: &str, partition: u32) -> Result<Handle> {
        let directory = self.partition_directory(topic, partition);
        let recovered = recovery::open(&directory, &self.options)?;
        let name = TopicPartition::new(topic, partition);
        let thread_name = format!("log {name}");
        let partition = Arc::new(Partition::new(name, directory.clone(), self.options.clone(), &recovered));
        let (queue, appends) = mpsc::channel(QUEUE_APPENDS);
        if let Some(writer) = Writer::new(partition.clone(), recovered) {
            let thread = std::thread::Builder::new().name(thread_name).spawn(move || writer.run(appends));
            let thread =
                thread.map_err(|error| LogError::unavailable(format!("open {}", directory.display()), error))?;
            self.writers.lock().push(thread);
        }
        Ok(Handle { partition, queue, room: Arc::new(Semaphore::new(QUEUE_BYTES)) })
    }

    /// Makes a topic be what `spec` says; `existing` are its partitions so far. The topic's note comes last: until then
    /// nothing has been created.
    fn create_topic(&self, note: &TopicNote, mut existing: Vec<Handle>) -> Result<Vec<Handle>> {
        let spec = &note.spec;
        let directory = self.directory.join(&spec.name);
        let failed = |error: io::Error| LogError::unavailable(format!("create topic {}", spec.name), error);
        let begin = existing.len() as u32;
        for partition in begin..spec.partitions {
            recovery::create(&self.partition_directory(&spec.name, partition), note.first(partition), &self.options)?;
        }
        if self.options.fsync {
            note::sync_directory(&directory).and_then(|()| note::sync_directory(&self.directory)).map_err(failed)?;
        }
        note::write(&*self.options.host, self.options.fsync, &directory.join(TOPIC), note).map_err(failed)?;
        for partition in begin..spec.partitions {
            existing.push(self.open(&spec.name, partition)?);
        }
        Ok(existing)
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        topic.check()?;
        let (files, topics, spec) = (self.files(), self.topics.clone(), topic.clone());
        let create = move || {
            // One change at a time: what is known now is still so when the topic is put in.
            let known = topics.read().get(spec.name.as_str()).cloned();
            let (existing, beginning) = match known {
                None => (Vec::new(), None),
                Some(known) => {
                    known.note.spec.check_growth(&spec)?;
                    if known.note.spec == spec {
                        return Ok(());
                    }
                    (known.partitions, known.note.beginning)
                }
            };
            let note = TopicNote { spec, beginning };
            let partitions = files.create_topic(&note, existing)?;
            topics.write().insert(note.spec.name.as_str().into(), Topic { note, partitions });
            Ok(())
        };
        self.change(format!("create topic {}", topic.name), create).await
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        Ok(self.topics.read().values().map(|topic| topic.note.spec.clone()).collect())
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        let Handle { partition, queue, room } = self.handle(to)?;
        let bytes = check_append(to, &records)?;
        if records.is_empty() {
            let next = partition.bounds().end;
            return Ok(next..next);
        }
        let stopped = || LogError::unavailable(format!("append to {to}"), "the partition's writer has stopped");
        let held = bytes + records.len() * size_of::<NewRecord>();
        let room = room.acquire_many_owned(held.min(QUEUE_BYTES) as u32).await.map_err(|_| stopped())?;
        let (done, outcome) = oneshot::channel();
        queue.send(Append { records, done, _room: room }).await.map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        self.handle(of)?.partition.read(from, limit).await
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        let topics = self.topics.read();
        let topic = topics.get(topic).ok_or_else(|| LogError::NotFound(format!("topic {topic}")))?;
        Ok(topic.partitions.iter().map(|handle| handle.partition.bounds()).collect())
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        let partition = self.handle(of)?.partition;
        self.change(format!("trim {of}"), move || partition.trim(before)).await
    }
}

#[async_trait]
impl Beginnings for EmbeddedLog {
    async fn begin_topic(&self, topic: &TopicSpec, imported: &[Imported]) -> Result<Beginning> {
        beginning::check(topic, imported)?;
        let (files, topics) = (self.files(), self.topics.clone());
        let beginning = Beginning { append_time: self.options.host.now(), partitions: imported.to_vec() };
        let mut note = TopicNote { spec: topic.clone(), beginning: Some(beginning.clone()) };
        let begin = move || {
            if let Some(known) = topics.read().get(note.spec.name.as_str()) {
                let name = &note.spec.name;
                let noted = known.note.beginning.as_ref().ok_or_else(|| beginning::in_use(name))?;
                // Partitions may have been added since.
                note.spec.partitions = note.spec.partitions.max(known.note.spec.partitions);
                known.note.spec.check_growth(&note.spec)?;
                noted.check_same(name, &beginning.partitions)?;
                return Ok(noted.clone());
            }
            let partitions = files.create_topic(&note, Vec::new())?;
            topics.write().insert(note.spec.name.as_str().into(), Topic { note, partitions });
            Ok(beginning)
        };
        self.change(format!("create topic {}", topic.name), begin).await
    }

    async fn beginning(&self, topic: &str) -> Result<Option<Beginning>> {
        Ok(self.topics.read().get(topic).and_then(|topic| topic.note.beginning.clone()))
    }
}

impl Drop for EmbeddedLog {
    /// Writes what is queued, notes how far the log is committed, and only then lets others open it.
    fn drop(&mut self) {
        *self.open.lock() = false;
        // Without senders the writers come to their end.
        self.topics.write().clear();
        for writer in self.writers.lock().drain(..) {
            // A writer that panicked has already failed its appends.
            let _ = writer.join();
        }
        // Not only by closing it: a child that is just being started may still have it too.
        let _ = self.lock.unlock();
    }
}

/// How many bytes an append takes in the log.
fn check_append(to: &TopicPartition, records: &[NewRecord]) -> Result<usize> {
    let longest = records.iter().map(frame::content_length).max().unwrap_or(0);
    if longest > frame::MAX_CONTENT {
        let most = frame::MAX_CONTENT;
        return Err(LogError::Invalid(format!(
            "append to {to}: a record of {longest} bytes; at most {most} are taken"
        )));
    }
    let bytes = records.iter().map(|content: &Content| frame::frame_length(content)).sum();
    if bytes > APPEND_BYTES {
        return Err(LogError::Invalid(format!(
            "append to {to}: {bytes} bytes in one append; at most {APPEND_BYTES} are taken"
        )));
    }
    Ok(bytes)
}
