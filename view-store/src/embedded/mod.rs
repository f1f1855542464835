//! The view store on one machine: an embedded LSM tree (fjall) in a directory.
//!
//! ```text
//! DIR/format            which version of this layout it is
//! DIR/lock              held while the store is open
//! DIR/db/               fjall's own
//!   records             the small records (`records`)
//!   published           one value: what is published, and where its rows are
//!   d.VIEW.MARKER       the deltas of a view over the segments with this marker
//!   g.VIEW.N.ATTEMPT    a view's rows of generation N, as one attempt wrote them
//! ```
//!
//! **One moment.** Readers take a [`moment::Moment`], made by the writer once a change is complete.
//!
//! **Deltas** of all views of a write and their progress are one fjall batch under one mutex. A segment is at or past
//! frontier N exactly when its marker is at least N: so what a frontier covers are whole keyspaces, and retiring
//! them is dropping those, without tombstones or scans. A partition that the frontier does not know keeps its keyspace.
//!
//! **Generations** are bulk-loaded by ingestion, which is fsync'd and bypasses the journal, into a keyspace of their own per
//! attempt: two runs that write the same number never touch each other's rows, and the last complete attempt before
//! `publish` is the one that is published.
//!
//! **After kill -9** nothing that was acknowledged is missing: the journal is handed to the operating system with
//! every write. **After a power cut** a published generation is there, and deltas and progress are a prefix of what was
//! written: the journal is one sequence of checksummed batches, cut at the first that is not whole, and fjall syncs it before it
//! moves anything out of it. [`journal`] checks exactly that before fjall sees the files, and
//! [`manifest`] what fjall takes on trust.

pub mod bytes;
mod journal;
pub mod manifest;
mod moment;
mod newest;
pub mod records;
mod scan;
pub mod sequence;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use fjall::config::CompressionPolicy;
use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode, Readable,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::{Mutex, RwLock};
use views::stored::StateCodec;
use views::view::Fingerprint;
use views::{Published, Segment, TopicPartition, View};

use crate::error::{Result, StoreError};
use crate::store::{
    Beside, DeltaWrite, KeyRange, Priors, Progress, PublishOutcome, StateRows, ViewRead, ViewStore, WriteOutcome,
};
use moment::{DeltaSpace, GenerationSpace, Moment, ViewMoment};
use records::{Pointer, Record, ViewId, WrittenRecord};
use scan::Scan;

/// What `DIR/format` says. Everything here is derived data: a store that says anything else is removed and rebuilt.
const FORMAT: &str = "tidemark view store 1\n";
/// Up to this many groups are looked up without leaving the async thread.
const INLINE_GROUPS: usize = 64;

/// How much memory and disk the store may take for its own work.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The cache of blocks read from disk.
    pub cache_bytes: u64,
    /// All deltas that are in memory, not yet in tables.
    pub write_buffer_bytes: u64,
    /// One keyspace's share of them.
    pub memtable_bytes: u64,
    /// The journal; at least 64 MiB.
    pub journal_bytes: u64,
    /// Threads that flush and compact.
    pub workers: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 96 << 20,
            write_buffer_bytes: 64 << 20,
            memtable_bytes: 16 << 20,
            journal_bytes: 128 << 20,
            workers: 2,
        }
    }
}

/// Numbers for `/metrics` and `/v1/status`; cheap to take.
#[derive(Debug, Clone, Default)]
pub struct StoreNumbers {
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Keyspaces.
    pub keyspaces: usize,
    /// Bytes of deltas in memory.
    pub write_buffer_bytes: u64,
    /// Per view that has anything here.
    pub views: Vec<ViewNumbers>,
}

/// A view's share.
#[derive(Debug, Clone)]
pub struct ViewNumbers {
    /// Its name.
    pub name: Arc<str>,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Rows of the published generation.
    pub generation_rows: u64,
    /// Deltas, about: an overwritten one may count more than once.
    pub delta_rows: u64,
}

/// The embedded [`ViewStore`].
#[derive(Clone)]
pub struct EmbeddedStore(Arc<Inner>);

struct Inner {
    db: Database,
    dir: PathBuf,
    records: Keyspace,
    published: Keyspace,
    options: EmbeddedOptions,
    /// What readers see now.
    moment: RwLock<Arc<Moment>>,
    /// Held by whoever changes anything.
    writer: Mutex<Writer>,
    /// By the view's name: the definition that was asked for last.
    codecs: RwLock<HashMap<Arc<str>, (Fingerprint, Arc<StateCodec>)>>,
    _lock: File,
}

/// What only writers know.
struct Writer {
    next_view: ViewId,
    next_attempt: u64,
    /// Complete attempts, by view and generation.
    written: HashMap<(ViewId, u64), Written>,
    /// Written since the memtables were last measured.
    unmeasured: u64,
}

struct Written {
    record: WrittenRecord,
    keyspace: Keyspace,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, creating it when it is not there. Blocks.
    ///
    /// A store of another format is removed: its states will be rebuilt from the log.
    ///
    /// # Errors
    ///
    /// `Unavailable` when somebody else has it open or the disk fails; `Damaged`, naming the file, when stored bytes are
    /// not what was written: then [`EmbeddedStore::remove`] it and open again, and the views are rebuilt.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self> {
        let io = |what: &str, error: std::io::Error| {
            StoreError::unavailable(format!("{what} the view store in {}", dir.display()), error)
        };
        std::fs::create_dir_all(dir).map_err(|error| io("creating", error))?;
        let lock = lock(dir)?;
        let db_dir = dir.join("db");
        let format_file = dir.join("format");
        let format = match std::fs::read(&format_file) {
            Ok(format) => Some(format),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(io("opening", error)),
        };
        let is_new = format.as_deref() != Some(FORMAT.as_bytes());
        if is_new {
            if db_dir.exists() {
                let found = String::from_utf8_lossy(format.as_deref().unwrap_or_default()).into_owned();
                tracing::warn!(dir = %dir.display(), found = found.trim(), wanted = FORMAT.trim(),
                    "the view store has another format: removed, its views are rebuilt from the log");
                std::fs::remove_dir_all(&db_dir).map_err(|error| io("removing", error))?;
            }
            std::fs::create_dir_all(&db_dir).map_err(|error| io("creating", error))?;
        }
        manifest::check(&db_dir)?;
        let end = journal::check(&db_dir)?;
        let db = open_database(&db_dir, &options)?;
        let small = || KeyspaceCreateOptions::default().max_memtable_size(4 << 20);
        let open = |name: &str| {
            if !is_new && !db.keyspace_exists(name) {
                return Err(StoreError::Damaged(format!("{}: the keyspace `{name}` is missing", db_dir.display())));
            }
            db.keyspace(name, small).map_err(|error| failed(format!("opening `{name}` in {}", db_dir.display()), error))
        };
        let (records, published) = (open("records")?, open("published")?);
        if is_new {
            write_format(dir, &format_file).map_err(|error| io("creating", error))?;
        }
        let (writer, moment) = load(&db, &records, &published, &end, &db_dir)?;
        Ok(Self(Arc::new(Inner {
            db,
            dir: dir.to_path_buf(),
            records,
            published,
            options,
            moment: RwLock::new(Arc::new(moment)),
            writer: Mutex::new(writer),
            codecs: RwLock::default(),
            _lock: lock,
        })))
    }

    /// Removes the store in `dir`: what to do with a damaged one. Its states are rebuilt from the log.
    ///
    /// # Errors
    ///
    /// `Unavailable` when somebody has it open or the disk fails.
    pub fn remove(dir: &Path) -> Result<()> {
        let _lock = lock(dir)?;
        for gone in [std::fs::remove_file(dir.join("format")), std::fs::remove_dir_all(dir.join("db"))] {
            match gone {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::unavailable(format!("removing {}", dir.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// How much there is.
    pub fn numbers(&self) -> StoreNumbers {
        let moment = self.0.moment();
        let mut views: Vec<ViewNumbers> = moment.all().map(|view| view_numbers(view)).collect();
        views.sort_by(|a, b| (&a.name, &a.fingerprint).cmp(&(&b.name, &b.fingerprint)));
        StoreNumbers {
            disk_bytes: self.0.db.disk_space().unwrap_or(0),
            keyspaces: self.0.db.keyspace_count(),
            write_buffer_bytes: moment.all().flat_map(|view| &view.deltas).map(|deltas| in_memory(deltas)).sum(),
            views,
        }
    }

    /// Whether it takes no more writes until it is opened again: fjall gives up after a write that failed half way, as on a full
    /// disk. It can be read all the same.
    pub fn is_broken(&self) -> bool {
        matches!(self.0.db.persist(PersistMode::Buffer), Err(fjall::Error::Poisoned))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|panicked| Err(StoreError::unavailable("working on the view store", panicked)))
    }
}

#[async_trait]
impl ViewStore for EmbeddedStore {
    async fn published(&self) -> Result<Option<Published>> {
        Ok(self.0.moment().pointer.as_ref().map(|pointer| pointer.published.clone()))
    }

    /// The first chunk under a key is read at once, on the caller's thread (a few microseconds when it is cached); every
    /// other chunk when it is asked for, on a blocking thread.
    async fn read(&self, view: &Arc<View>, range: &KeyRange) -> Result<ViewRead> {
        let moment = self.0.moment();
        let codec = self.0.codec(view)?;
        let Some(state) = moment.view(view).cloned() else {
            // Checks the range all the same.
            let unknown = Arc::new(ViewMoment::new(0, record_of(view)));
            Scan::new(view, codec, moment, unknown, range)?;
            return Ok(ViewRead { published: None, position: Default::default(), rows: stream::empty().boxed() });
        };
        let published = state.generation.as_ref().map(|generation| generation.published.clone());
        let position = state.position();
        if range.key.is_none() {
            let (view, range) = (view.clone(), range.clone());
            let scan = self.blocking(move |_| Scan::new(&view, codec, moment, state, &range)).await?;
            return Ok(ViewRead { published, position, rows: chunks(scan).boxed() });
        }
        let mut scan = Scan::new(view, codec, moment, state, range)?;
        let first = stream::iter(scan.next_chunk()?.map(Ok));
        let rows = if scan.is_done() { first.boxed() } else { first.chain(chunks(scan)).boxed() };
        Ok(ViewRead { published, position, rows })
    }

    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> Result<Progress> {
        let moment = self.0.moment();
        let of_topic = moment.view(view).filter(|state| state.record.topic == partition.topic);
        let progress = of_topic.and_then(|state| state.progress.get(&partition.partition));
        Ok(progress.copied().unwrap_or(Progress::START))
    }

    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &RecordBatch,
        _beside: &[Beside],
    ) -> Result<Priors> {
        if groups.num_rows() <= INLINE_GROUPS {
            return self.0.deltas(view, partition, at.segment, groups);
        }
        let (view, partition, groups) = (view.clone(), partition.clone(), groups.clone());
        self.blocking(move |inner| inner.deltas(&view, &partition, at.segment, &groups)).await
    }

    async fn write_deltas(&self, write: DeltaWrite) -> Result<WriteOutcome> {
        self.blocking(move |inner| inner.write_deltas(&write)).await
    }

    async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        mut rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        let (to_writer, from_run) = tokio::sync::mpsc::channel(2);
        let view = view.clone();
        let writing = self.blocking(move |inner| inner.write_generation(&view, generation, from_run));
        let sending = async move {
            while let Some(chunk) = rows.next().await {
                // A closed channel means that the writer gave up: it says why.
                if to_writer.send(Some(chunk)).await.is_err() {
                    return;
                }
            }
            // Said, not implied by closing: a run that is dropped half way must not look like one that ended.
            let _ = to_writer.send(None).await;
        };
        let (written, ()) = tokio::join!(writing, sending);
        written
    }

    async fn publish(&self, next: &Published) -> Result<PublishOutcome> {
        let next = next.clone();
        self.blocking(move |inner| inner.publish(&next)).await
    }

    async fn retire(&self, views: &[Arc<View>]) -> Result<()> {
        let kept: HashSet<_> = views.iter().map(|view| (view.name.clone(), view.fingerprint.clone())).collect();
        self.blocking(move |inner| inner.retire(&kept)).await
    }
}

fn chunks(scan: Scan) -> impl futures::Stream<Item = Result<StateRows>> + Send + 'static {
    stream::unfold(Some(scan), |scan| async move {
        let mut scan = scan?;
        let read = tokio::task::spawn_blocking(move || {
            let chunk = scan.next_chunk();
            (scan, chunk)
        });
        match read.await {
            Ok((scan, Ok(Some(chunk)))) => Some((Ok(chunk), (!scan.is_done()).then_some(scan))),
            Ok((_, Ok(None))) => None,
            Ok((_, Err(error))) => Some((Err(error), None)),
            Err(panicked) => Some((Err(StoreError::unavailable("reading the view store", panicked)), None)),
        }
    })
}

impl Inner {
    fn moment(&self) -> Arc<Moment> {
        self.moment.read().clone()
    }

    fn codec(&self, view: &View) -> Result<Arc<StateCodec>> {
        if let Some((fingerprint, codec)) = self.codecs.read().get(&view.name)
            && *fingerprint == view.fingerprint
        {
            return Ok(codec.clone());
        }
        let codec = Arc::new(StateCodec::new(view)?);
        self.codecs.write().insert(view.name.clone(), (view.fingerprint.clone(), codec.clone()));
        Ok(codec)
    }

    fn deltas(&self, view: &View, of: &TopicPartition, segment: Segment, groups: &RecordBatch) -> Result<Priors> {
        let codec = self.codec(view)?;
        let moment = self.moment();
        let state = moment.view(view).filter(|state| state.record.topic == of.topic);
        let Some(deltas) = state.and_then(|state| state.deltas(segment.marker)) else {
            return Ok(Priors { states: codec.decode(std::iter::empty())?, through: Vec::new() });
        };
        let wanted = codec.encode_groups(groups)?;
        let mut found: Vec<(usize, Vec<u8>)> = Vec::with_capacity(wanted.len());
        let mut through = Vec::with_capacity(wanted.len());
        for row in 0..wanted.len() {
            let key = bytes::delta_key(wanted.group(row), of.partition, segment.start)?;
            let value = moment.snapshot.get(&deltas.keyspace, &key);
            if let Some(value) = value.map_err(|error| failed("reading deltas", error))? {
                let mut body = bytes::open(&key, &value)?.into_owned();
                let (reaches, state) = bytes::split_delta(&body)?;
                body.drain(..state.start);
                through.push(reaches);
                found.push((row, body));
            }
        }
        let states = codec.decode(found.iter().map(|(row, state)| (wanted.group(*row), state.as_slice())))?;
        Ok(Priors { states, through })
    }
}

fn record_of(view: &View) -> records::ViewRecord {
    records::ViewRecord {
        name: view.name.clone(),
        fingerprint: view.fingerprint.clone(),
        topic: view.source.name.clone(),
    }
}

fn view_numbers(view: &ViewMoment) -> ViewNumbers {
    let delta_rows = view.deltas.iter().map(|deltas| deltas.keyspace.approximate_len() as u64).sum();
    ViewNumbers {
        name: view.record.name.clone(),
        fingerprint: view.record.fingerprint.clone(),
        generation_rows: view.generation.as_ref().map_or(0, |generation| generation.written.rows),
        delta_rows,
    }
}

/// Bytes of deltas that are not in tables yet.
fn in_memory(deltas: &DeltaSpace) -> u64 {
    deltas.keyspace.tree.active_memtable().size()
}

fn delta_space_name(view: ViewId, marker: u64) -> String {
    format!("d.{view}.{marker}")
}

fn delta_space_options(options: &EmbeddedOptions) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes)
}

fn generation_space_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(1 << 20)
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
}

fn lock(dir: &Path) -> Result<File> {
    let context = || format!("locking the view store in {}", dir.display());
    let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock"));
    let file = file.map_err(|error| StoreError::unavailable(context(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::unavailable(context(), "another process has it open")),
        Err(TryLockError::Error(error)) => Err(StoreError::unavailable(context(), error)),
    }
}

fn write_format(dir: &Path, file: &Path) -> std::io::Result<()> {
    let unfinished = dir.join("format.new");
    std::fs::write(&unfinished, FORMAT)?;
    File::open(&unfinished)?.sync_all()?;
    std::fs::rename(&unfinished, file)?;
    File::open(dir)?.sync_all()
}

fn open_database(dir: &Path, options: &EmbeddedOptions) -> Result<Database> {
    let builder = Database::builder(dir)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes.max(64 << 20))
        .worker_threads(options.workers.max(1))
        // Values are packed already, and `journal` reads the entries as they are.
        .journal_compression(CompressionType::None);
    let context = || format!("opening {}", dir.display());
    // fjall panics on some kinds of damage.
    match std::panic::catch_unwind(AssertUnwindSafe(|| builder.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(fjall::Error::Locked)) => Err(StoreError::unavailable(context(), "another process has it open")),
        Ok(Err(error)) => Err(failed(context(), error)),
        Err(_panic) => Err(StoreError::Damaged(format!("{}: it cannot be recovered", context()))),
    }
}

/// Reads what is there into the first moment, and drops what no record speaks of: attempts that were cut off.
fn load(
    db: &Database,
    records: &Keyspace,
    published: &Keyspace,
    end: &journal::End,
    dir: &Path,
) -> Result<(Writer, Moment)> {
    let damaged = |what: String| StoreError::Damaged(format!("{}: {what}", dir.display()));
    let reading = |error| failed(format!("reading the records in {}", dir.display()), error);
    let snapshot = db.snapshot();
    let pointer = match snapshot.get(published, records::POINTER).map_err(reading)? {
        Some(value) => Some(Arc::new(Pointer::parse(&value)?)),
        None => None,
    };
    let mut views: BTreeMap<ViewId, ViewMoment> = BTreeMap::new();
    let mut progress = Vec::new();
    let mut spaces: BTreeMap<(ViewId, u64), BTreeSet<u32>> = BTreeMap::new();
    let mut written = HashMap::new();
    let mut known: HashSet<String> = ["records", "published"].map(String::from).into();
    for row in snapshot.iter(records) {
        let (key, value) = row.into_inner().map_err(reading)?;
        match Record::parse(&key, &value)? {
            Record::View(id, record) => drop(views.insert(id, ViewMoment::new(id, record))),
            Record::Progress(id, partition, reached) => progress.push((id, partition, reached)),
            Record::Deltas(id, marker, partition) => drop(spaces.entry((id, marker)).or_default().insert(partition)),
            Record::Written(id, generation, record) => drop(written.insert((id, generation), record)),
            Record::Start => {}
        }
    }
    let space = |name: &str| {
        if !db.keyspace_exists(name) {
            return Err(damaged(format!("the keyspace `{name}` is missing")));
        }
        db.keyspace(name, KeyspaceCreateOptions::default).map_err(reading)
    };
    for (id, partition, reached) in progress {
        if let Some(view) = views.get_mut(&id) {
            view.progress.insert(partition, reached);
        }
    }
    for ((id, marker), partitions) in spaces {
        let Some(view) = views.get_mut(&id) else { continue };
        let name = delta_space_name(id, marker);
        let keyspace = space(&name)?;
        end.check_flushed(&keyspace)?;
        known.insert(name);
        view.deltas.push(Arc::new(DeltaSpace { marker, keyspace, partitions }));
    }
    end.check_flushed(records)?;
    // What is published was synced together with every record before it.
    end.check_flushed(published)?;
    for held in pointer.iter().flat_map(|pointer| &pointer.views) {
        let Some(view) = views.get_mut(&held.id) else {
            return Err(damaged(format!("the record of the published view `{}` is missing", held.view.name)));
        };
        let keyspace = space(&held.written.keyspace)?;
        let rows: u64 = keyspace.tree.current_version().iter_tables().map(|table| table.metadata.item_count).sum();
        if rows != held.written.rows {
            let (name, wanted) = (&held.written.keyspace, held.written.rows);
            return Err(damaged(format!("the keyspace `{name}` has {rows} rows where {wanted} were written")));
        }
        known.insert(held.written.keyspace.clone());
        if let Some(pointer) = &pointer {
            view.generation = Some(Arc::new(generation_space(pointer, held, keyspace)?));
        }
    }
    let mut complete = HashMap::new();
    for ((id, generation), record) in written {
        // A keyspace is dropped after its record is; only a power cut can bring the record back alone.
        if views.contains_key(&id) && db.keyspace_exists(&record.keyspace) {
            known.insert(record.keyspace.clone());
            complete.insert((id, generation), Written { keyspace: space(&record.keyspace)?, record });
        }
    }
    sequence::advance(db, records, Record::Start.key(), Record::Start.value()?)
        .map_err(|error| failed("moving the sequence number on".to_owned(), error))?;
    let mut next_attempt = 0;
    for name in db.list_keyspace_names() {
        if let Some(attempt) = name.strip_prefix("g.").and_then(|name| name.rsplit('.').next()?.parse::<u64>().ok()) {
            next_attempt = next_attempt.max(attempt + 1);
        }
        if !known.contains(&*name) {
            tracing::info!(keyspace = &*name, "dropping what an unfinished write left");
            let keyspace = space(&name)?;
            db.delete_keyspace(keyspace).map_err(reading)?;
        }
    }
    let next_view = views.keys().next_back().map_or(1, |last| last + 1);
    let mut moment = Moment { snapshot: db.snapshot(), pointer, views: HashMap::new() };
    for view in views.into_values() {
        moment.set(view);
    }
    Ok((Writer { next_view, next_attempt, written: complete, unmeasured: 0 }, moment))
}

/// A view's rows with the boundary that is theirs: of the generation that they are, which may be an earlier one.
fn generation_space(pointer: &Pointer, held: &records::PointerView, keyspace: Keyspace) -> Result<GenerationSpace> {
    let records::ViewRecord { name, fingerprint, topic } = &held.view;
    let Some(published) = pointer.published.as_of(name, fingerprint) else {
        return Err(StoreError::Damaged(format!(
            "what is published does not speak of view `{name}`, whose rows it has"
        )));
    };
    let frontier = published.frontier.of_topic(topic);
    Ok(GenerationSpace {
        written: held.written.clone(),
        keyspace,
        frontier: frontier.iter().map(|(partition, offset)| (partition.partition, offset)).collect(),
        published: Arc::new(published),
    })
}

/// A failure of fjall: damage when the bytes are wrong, otherwise worth another try.
fn failed(context: impl Into<String>, error: fjall::Error) -> StoreError {
    use std::io::ErrorKind::{AlreadyExists, InvalidData, NotFound, UnexpectedEof};
    let is_damage = match &error {
        fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io)) => {
            // It exists already where a file of it is missing and fjall takes it for new.
            matches!(io.kind(), AlreadyExists | InvalidData | NotFound | UnexpectedEof)
        }
        fjall::Error::Storage(_)
        | fjall::Error::JournalRecovery(_)
        | fjall::Error::InvalidVersion(_)
        | fjall::Error::Decompress(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Unrecoverable => true,
        _ => false,
    };
    if is_damage {
        StoreError::Damaged(format!("{}: {error}", context.into()))
    } else {
        StoreError::unavailable(context, error)
    }
}
