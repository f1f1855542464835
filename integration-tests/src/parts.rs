//! The parts a Tidemark is plugged together from, as a test needs them: opened, cut off at any moment, opened again.
//!
//! [`Parts`] is a factory: what it opens is there again when it is opened again. [`EmbeddedParts`] keeps everything in a
//! temporary folder, [`ServerParts`] on the real servers of a cluster; the same tests run on both.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use event_log::embedded::{Host, Machine};
use event_log::registry::{EmbeddedRegistry, SchemaRegistry};
use event_log::{Beginnings, EmbeddedLog, EmbeddedOptions, EventLog};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;
use tempfile::TempDir;
use tidemark::backends::{self, Backends};
use tidemark::settings::Settings;
use view_store::{EmbeddedStore, ViewStore};

use crate::servers::Servers;

/// No test waits longer than this for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The opened parts of one process.
pub struct Ports {
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// The schemas.
    pub registry: Arc<dyn SchemaRegistry>,
    /// Where the archive is.
    pub objects: Arc<dyn ObjectStore>,
    /// The view store.
    pub store: Arc<dyn ViewStore>,
}

/// The ports of an import.
pub struct Truth {
    /// The event log.
    pub log: Arc<dyn Beginnings>,
    /// The schemas.
    pub registry: Arc<dyn SchemaRegistry>,
    /// Where the archive is.
    pub objects: Arc<dyn ObjectStore>,
}

/// A kind of parts.
#[async_trait]
pub trait Parts: Send + Sync {
    /// Opens everything, as a process does that starts. What was there before is there again. Waits until what an earlier
    /// process of the same parts held is free.
    async fn open(&self) -> Ports;

    /// Opens what an import works on, while nothing else of these parts is open.
    async fn open_truth(&self) -> Truth;

    /// Removes the states while nothing is open: they are derived data.
    async fn lose_states(&self);

    /// A folder for what one process alone needs: spilled rows, seen ids.
    fn scratch(&self) -> &Path;

    /// The clock of whatever sets append times; `None` when it is not ours to set.
    fn clock(&self) -> Option<&Arc<Clock>>;
}

/// A clock that a test moves. It never stands still, and never goes back.
#[derive(Debug)]
pub struct Clock(AtomicI64);

impl Clock {
    /// Microseconds since the epoch: a microsecond later at each look.
    pub fn now(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }
}

/// The machine, with a clock of the test's.
struct Clocked(Arc<Clock>);

impl Host for Clocked {
    fn now(&self) -> i64 {
        self.0.now()
    }

    fn salt(&self) -> u32 {
        Machine.salt()
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        Machine.write(file, bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        Machine.sync(file)
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        Machine.truncate(file, length)
    }
}

/// The embedded parts, in a temporary folder.
pub struct EmbeddedParts {
    folder: TempDir,
    clock: Arc<Clock>,
    /// How long a file of the log may become: small ones, so that the log can let go of some.
    file_bytes: u64,
}

impl EmbeddedParts {
    /// New, empty parts.
    ///
    /// # Panics
    ///
    /// When there is no place for temporary files.
    pub fn new() -> Self {
        let folder = temporary_folder();
        // 2026-11-20T10:00:00Z: the append time of the first record.
        let clock = Arc::new(Clock(AtomicI64::new(1_795_168_800_000_000)));
        Self { folder, clock, file_bytes: 2048 }
    }

    /// The folder of the view store.
    pub fn views(&self) -> PathBuf {
        self.folder.path().join("views")
    }
}

impl Default for EmbeddedParts {
    fn default() -> Self {
        Self::new()
    }
}

/// A temporary folder, in memory where the system has a place for that: nothing here is about power cuts, and hundreds of
/// histories would wait for the disk most of the time.
///
/// # Panics
///
/// When there is no place for temporary files.
pub fn temporary_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.or_else(|_| TempDir::new()).expect("a temporary folder")
}

#[async_trait]
impl Parts for EmbeddedParts {
    async fn open(&self) -> Ports {
        let Truth { log, registry, objects } = self.open_truth().await;
        let small = view_store::EmbeddedOptions {
            cache_bytes: 4 << 20,
            write_buffer_bytes: 8 << 20,
            memtable_bytes: 4 << 20,
            workers: 1,
            ..Default::default()
        };
        let store = when_free("the view store", || EmbeddedStore::open(&self.views(), small.clone())).await;
        Ports { log, registry, objects, store: Arc::new(store) }
    }

    async fn open_truth(&self) -> Truth {
        let folder = self.folder.path();
        let options = EmbeddedOptions {
            fsync: false,
            file_bytes: self.file_bytes,
            recent_bytes: 64 << 10,
            host: Arc::new(Clocked(self.clock.clone())),
        };
        let log = when_free("the log", || EmbeddedLog::open(folder.join("log"), options.clone())).await;
        let registry = when_free("the registry", || EmbeddedRegistry::open(folder.join("registry"))).await;
        let archive = folder.join("archive");
        std::fs::create_dir_all(&archive).expect("a folder for the archive");
        let objects = LocalFileSystem::new_with_prefix(&archive).expect("the archive's folder");
        Truth { log: Arc::new(log), registry: Arc::new(registry), objects: Arc::new(objects) }
    }

    async fn lose_states(&self) {
        // Opened once, so that whoever had it is surely gone.
        drop(when_free("the view store", || EmbeddedStore::open(&self.views(), Default::default())).await);
        std::fs::remove_dir_all(self.views()).expect("a folder that nobody has open");
    }

    fn scratch(&self) -> &Path {
        self.folder.path()
    }

    fn clock(&self) -> Option<&Arc<Clock>> {
        Some(&self.clock)
    }
}

/// A corner of the real servers.
pub struct ServerParts {
    folder: TempDir,
    settings: Mutex<Settings>,
}

impl ServerParts {
    /// New, empty parts.
    ///
    /// # Panics
    ///
    /// When there is no place for temporary files.
    pub fn new(servers: &Servers, name: &str) -> Self {
        let folder = temporary_folder();
        let settings = Mutex::new(Servers::settings(&servers.corner(name), folder.path()));
        Self { folder, settings }
    }

    /// Lets go of what it has on the servers.
    pub async fn forget(&self) {
        let settings = self.settings.lock().clone();
        Servers::forget(&settings).await;
    }
}

#[async_trait]
impl Parts for ServerParts {
    async fn open(&self) -> Ports {
        let settings = self.settings.lock().clone();
        let opened = Backends::open(&settings).await.unwrap_or_else(|failure| panic!("{}", failure.message));
        Ports { log: opened.log, registry: opened.registry, objects: opened.objects, store: opened.store }
    }

    async fn open_truth(&self) -> Truth {
        let settings = self.settings.lock().clone();
        let opened = backends::Truth::open(&settings).await.unwrap_or_else(|failure| panic!("{}", failure.message));
        Truth { log: opened.log, registry: opened.registry, objects: opened.archive.objects() }
    }

    async fn lose_states(&self) {
        let mut settings = self.settings.lock();
        settings.store.keyspace = format!("{:.40}_{:04x}", settings.store.keyspace, rand::random::<u16>());
    }

    fn scratch(&self) -> &Path {
        self.folder.path()
    }

    fn clock(&self) -> Option<&Arc<Clock>> {
        None
    }
}

/// Opens something that an earlier owner, already told to go, may still hold for a moment. The lock of a file can only be
/// tried again and again.
///
/// # Panics
///
/// When that does not work out in time.
pub async fn when_free<T, E: std::fmt::Display>(what: &str, open: impl Fn() -> std::result::Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(error) if started.elapsed() > PATIENCE => panic!("{what}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}
