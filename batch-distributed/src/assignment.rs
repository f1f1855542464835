//! What an executor is told: which view of which application, over whose archive. Text, so that it can be read in a plan.
//!
//! The application travels as the files it is made of, and every executor compiles the view by itself. Only when that comes to the
//! fingerprint of whoever asks does it work: states of another version cannot get in.

use std::sync::Arc;

use event_log::archive::Archive;
use event_log::registry::SchemaRegistry;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use views::{Application, ApplicationFile, View};

/// A view to be computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assignment {
    /// The application's files: path and text.
    pub(crate) application: Vec<(String, String)>,
    /// The view's name.
    pub(crate) view: String,
    /// What the application must compile to.
    pub(crate) fingerprint: String,
    /// Tiles at or before this are left out.
    pub(crate) horizon: Option<i64>,
    /// Where the archive is, as the one who asks calls it.
    pub(crate) archive: String,
}

/// What an executor has of its own: credentials and places never travel in plans.
pub struct Worker {
    /// What the executor is called in errors.
    pub name: String,
    /// The archive.
    pub archive: Arc<Archive>,
    /// Where the archive is: the setting `archive.url`.
    pub archive_url: String,
    /// The schemas of framed segments.
    pub registry: Arc<dyn SchemaRegistry>,
    /// The memory and the spill directory of one task.
    pub settings: batch_layer::Settings,
    /// The application compiled last.
    compiled: Mutex<Option<(Vec<(String, String)>, Application)>>,
}

impl Worker {
    /// An executor's own parts. `settings`: of the whole executor, which runs one task per core at once.
    pub fn new(
        name: String,
        archive: Arc<Archive>,
        archive_url: String,
        registry: Arc<dyn SchemaRegistry>,
        settings: &batch_layer::Settings,
    ) -> Self {
        let tasks = settings.target_partitions.max(1);
        let settings = batch_layer::Settings {
            memory_bytes: settings.memory_bytes / tasks,
            target_partitions: 1,
            ..settings.clone()
        };
        Self { name, archive, archive_url, registry, settings, compiled: Mutex::default() }
    }

    /// The view of an assignment, compiled here.
    ///
    /// # Errors
    ///
    /// Why this executor cannot work on it, for a person.
    pub(crate) fn view(&self, assignment: &Assignment) -> Result<Arc<View>, String> {
        let Assignment { view: name, fingerprint, .. } = assignment;
        let own = &self.name;
        if self.archive_url != assignment.archive {
            let (ours, theirs) = (&self.archive_url, &assignment.archive);
            return Err(format!("executor {own} has archive.url = \"{ours}\", the batch layer has \"{theirs}\""));
        }
        let view = self.compile(assignment).ok_or_else(|| {
            format!("executor {own} cannot compile view {name}: it is of another version than the batch layer")
        })?;
        if view.fingerprint.0 != *fingerprint {
            let ours = &view.fingerprint;
            return Err(format!(
                "executor {own} is of another version than the batch layer: to it view {name} is {ours}, not {fingerprint}"
            ));
        }
        Ok(view)
    }

    fn compile(&self, assignment: &Assignment) -> Option<Arc<View>> {
        let mut compiled = self.compiled.lock();
        if compiled.as_ref().is_none_or(|(files, _)| *files != assignment.application) {
            let file = |(path, text): &(String, String)| ApplicationFile { path: path.clone(), text: text.clone() };
            let files: Vec<ApplicationFile> = assignment.application.iter().map(file).collect();
            *compiled = Some((assignment.application.clone(), Application::compile(&files).ok()?));
        }
        compiled.as_ref().and_then(|(_, application)| application.view(&assignment.view)).cloned()
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "executor {}", self.name)
    }
}
