//! Which parts stand behind the ports: the embedded ones, or those of a cluster, in any mix, as the settings say.

use std::path::Path;
use std::sync::Arc;

use event_log::archive::Archive;
use event_log::durable_files::DurableFiles;
use event_log::registry::{EmbeddedRegistry, SchemaRegistry};
use event_log::{EmbeddedLog, EmbeddedOptions, EventLog, LogError};
use view_store::embedded::EmbeddedStore;
use view_store::{StoreError, ViewStore};

use crate::failure::{Context as _, Failure, Result};
use crate::settings::{LogKind, Settings, StoreKind};

/// The opened parts.
pub struct Backends {
    /// The event log by itself, without its archived beginning.
    pub log: Arc<dyn EventLog>,
    /// The schemas.
    pub registry: Arc<dyn SchemaRegistry>,
    /// The sealed segments.
    pub archive: Arc<Archive>,
    /// The views.
    pub store: Arc<dyn ViewStore>,
    /// The same, when it is the embedded one.
    pub embedded_store: Option<EmbeddedStore>,
}

impl Backends {
    /// Opens or connects to everything. What fails names its setting.
    ///
    /// # Errors
    ///
    /// The first part that cannot be had.
    pub async fn open(settings: &Settings) -> Result<Self> {
        settings.supported().map_err(Failure::usage)?;
        let data = &settings.data;
        std::fs::create_dir_all(data).context(format!("data folder {} (--data)", data.display()))?;
        let log = open_log(settings)?;
        let registry: Arc<dyn SchemaRegistry> =
            Arc::new(EmbeddedRegistry::open(data.join("registry")).context("schemas")?);
        let archive = Arc::new(open_archive(&settings.archive_dir())?);
        let embedded = open_store(&data.join("views"), settings.store.cache.0)?;
        let store: Arc<dyn ViewStore> = Arc::new(embedded.clone());
        Ok(Self { log, registry, archive, store, embedded_store: Some(embedded) })
    }
}

/// Refuses parts that only one process can have open: several roles share them.
///
/// # Errors
///
/// Names the settings that must be others.
pub fn must_be_shared(settings: &Settings, role: &str) -> Result {
    let mut alone = Vec::new();
    if settings.log.kind == LogKind::Embedded {
        alone.push("log.kind = \"kafka\"");
    }
    if settings.registry.url.is_none() {
        alone.push("registry.url");
    }
    if settings.archive.url.is_none() {
        alone.push("archive.url");
    }
    if settings.store.kind == StoreKind::Embedded {
        alone.push("store.kind = \"cql\"");
    }
    if alone.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "`tidemark {role}` is one role of a cluster, whose processes share their parts: set {}; or let `tidemark run` do \
         everything in one process",
        alone.join(", ")
    )))
}

fn open_log(settings: &Settings) -> Result<Arc<dyn EventLog>> {
    let options = EmbeddedOptions {
        fsync: settings.log.fsync,
        file_bytes: settings.log.file_bytes.0,
        ..EmbeddedOptions::default()
    };
    let data = &settings.data;
    Ok(Arc::new(EmbeddedLog::open(data.join("log"), options).map_err(|error| not_opened(data, &error))?))
}

pub(crate) fn open_archive(dir: &Path) -> Result<Archive> {
    let objects = DurableFiles::open(dir).context(dir.display())?;
    Ok(Archive::new(Arc::new(objects), ""))
}

/// The log is opened first, so it is here that a second process finds the first.
fn not_opened(data: &Path, error: &LogError) -> Failure {
    let text = error.to_string();
    let data = data.display();
    if text.contains("another process has it open") {
        return Failure::new(format!(
            "data folder {data} is in use by another process: stop that one, or choose another folder with --data"
        ));
    }
    Failure::new(format!("event log: {text}"))
}

/// Opens the view store. A damaged one is removed: its states are rebuilt from the log.
fn open_store(dir: &Path, cache_bytes: u64) -> Result<EmbeddedStore> {
    let options = view_store::embedded::EmbeddedOptions { cache_bytes, ..Default::default() };
    match EmbeddedStore::open(dir, options.clone()) {
        Err(StoreError::Damaged(place)) => {
            tracing::error!(place, "the view store is damaged: removed, its views are rebuilt from the log");
            EmbeddedStore::remove(dir).context("view store")?;
            EmbeddedStore::open(dir, options).context("view store")
        }
        opened => opened.context("view store"),
    }
}

/// Makes the keyspace and the tables of the view store.
///
/// # Errors
///
/// When the store is the embedded one, which needs no such thing, or does not let us.
pub async fn init_store(settings: &Settings) -> Result {
    if settings.store.kind == StoreKind::Embedded {
        return Err(Failure::usage("store.kind is \"embedded\": it makes its files by itself; this is for \"cql\""));
    }
    settings.supported().map_err(Failure::usage)
}
