//! The one row that says which views there are, in which tables, and what is published of them.
//!
//! It is one value and changes by one conditional write. That a view was let go of and came back, and in which table it is now, is
//! therefore never known apart from what is published of it: a reader that knew the old table and the new boundary would mix
//! two lives of the view.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use serde::{Deserialize, Serialize};
use views::view::Fingerprint;
use views::{Offset, Published, View};

use super::Inner;
use super::base::is_applied;
use crate::error::{Result, StoreError};

const READING: &str = "reading what is published";

/// How long somebody who keeps losing the race for the row goes on.
const CONTEND: Duration = Duration::from_secs(15);

/// The value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// What readers see.
    pub published: Option<Published>,
    /// The views that have a table.
    pub views: Vec<PointerView>,
    /// Tables of views that were let go of, to be dropped.
    #[serde(default)]
    pub gone: Vec<Arc<str>>,
}

/// A view and its table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointerView {
    /// Its name.
    pub name: Arc<str>,
    /// Its definition and format.
    pub fingerprint: Fingerprint,
    /// Its source's topic.
    pub topic: Arc<str>,
    /// Where its rows are.
    pub table: Arc<str>,
    /// Its generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// The rows of a view's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its number.
    pub generation: u64,
    /// The attempt that wrote them.
    pub attempt: i64,
    /// How many there are.
    pub rows: u64,
}

/// A view's generation as readers need it.
#[derive(Debug, PartialEq, Eq)]
pub struct Hold {
    /// What is published, as of this view's own generation.
    pub published: Arc<Published>,
    /// Its rows.
    pub held: Held,
    /// Its frontier in the view's topic.
    pub frontier: BTreeMap<u32, Offset>,
}

/// A pointer that was read.
#[derive(Debug, Default)]
pub struct Known {
    /// 0: there is none yet.
    pub version: i64,
    pub pointer: Pointer,
    /// As it was stored; empty where it was not read. A store that has lost writes may give a version to two pointers.
    text: Box<str>,
    /// By table.
    holds: HashMap<Arc<str>, Arc<Hold>>,
}

impl Known {
    pub fn new(version: i64, pointer: Pointer) -> Result<Self> {
        let mut holds = HashMap::new();
        for view in &pointer.views {
            let Some(held) = view.held else { continue };
            let published = pointer.published.as_ref().and_then(|all| all.as_of(&view.name, &view.fingerprint));
            let Some(published) = published else {
                return Err(StoreError::Damaged(format!("what is published does not speak of view `{}`", view.name)));
            };
            let frontier = published.frontier.of_topic(&view.topic);
            let frontier = frontier.iter().map(|(partition, offset)| (partition.partition, offset)).collect();
            let hold = Hold { published: Arc::new(published), held, frontier };
            holds.insert(view.table.clone(), Arc::new(hold));
        }
        Ok(Self { version, pointer, text: Box::default(), holds })
    }

    /// A view's table, if it has one.
    pub fn table(&self, view: &View) -> Option<&Arc<str>> {
        self.pointer.find(&view.name, &view.fingerprint).map(|found| &found.table)
    }

    /// The generation whose rows are in a table.
    pub fn hold(&self, table: &str) -> Option<&Arc<Hold>> {
        self.holds.get(table)
    }

    /// Whether readers may still be sent to this table.
    pub fn has(&self, table: &str) -> bool {
        self.pointer.views.iter().any(|view| *view.table == *table)
    }
}

impl Pointer {
    /// A view by name and fingerprint.
    pub fn find(&self, name: &str, fingerprint: &Fingerprint) -> Option<&PointerView> {
        self.views.iter().find(|view| *view.name == *name && view.fingerprint == *fingerprint)
    }
}

/// Tries again for as long as it is worth, further and further apart.
pub struct Contest {
    until: Instant,
    pause: Duration,
}

impl Contest {
    pub fn new() -> Self {
        Self { until: Instant::now() + CONTEND, pause: Duration::from_millis(5) }
    }

    /// Waits a little.
    ///
    /// # Errors
    ///
    /// `Unavailable`, because of `why`, when there is no time left.
    pub async fn lost(&mut self, doing: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Result<()> {
        if Instant::now() >= self.until {
            return Err(StoreError::unavailable(doing, why));
        }
        let pause = self.pause.mul_f64(rand::rng().random_range(0.5..1.5));
        self.pause = (self.pause * 2).min(Duration::from_millis(500));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Inner {
    /// The pointer after every conditional write that has begun is settled.
    pub async fn settled_pointer(&self) -> Result<Known> {
        self.read_pointer(&self.base.settled_pointer).await
    }

    /// The pointer as it is, which is most often what it was `before`: then it is not made anew.
    pub async fn read_known(&self, before: Option<&Arc<Known>>) -> Result<Arc<Known>> {
        let rows = self.rows(READING, &self.base.pointer, (&self.options.scope,)).await?;
        let row = rows.maybe_first_row::<(i64, &str)>().map_err(|error| super::unreadable(READING, error))?;
        let (version, text) = row.unwrap_or_default();
        match before.filter(|before| before.version == version && *before.text == *text) {
            Some(before) => Ok(before.clone()),
            None => Self::known(row).map(Arc::new),
        }
    }

    async fn read_pointer(&self, select: &scylla::statement::prepared::PreparedStatement) -> Result<Known> {
        let rows = self.rows(READING, select, (&self.options.scope,)).await?;
        Self::known(rows.maybe_first_row::<(i64, &str)>().map_err(|error| super::unreadable(READING, error))?)
    }

    fn known(row: Option<(i64, &str)>) -> Result<Known> {
        let Some((version, json)) = row else { return Ok(Known::default()) };
        let pointer = serde_json::from_str(json)
            .map_err(|error| StoreError::Damaged(format!("what is published cannot be read: {error}")))?;
        Ok(Known { text: json.into(), ..Known::new(version, pointer)? })
    }

    /// Puts `next` in the place of what was read, if that is still there. `Err` of the inner result: nobody knows whether it
    /// was written.
    pub async fn swap_pointer(&self, expected: &Known, next: &Pointer) -> Result<Result<bool, StoreError>> {
        let json = serde_json::to_string(next)
            .map_err(|error| StoreError::Invalid(format!("what is published cannot be written: {error}")))?;
        let version = expected.version + 1;
        let scope = &self.options.scope;
        let context = "changing what is published";
        let done = if expected.version == 0 {
            self.sessions.shared().execute_unpaged(&self.base.first_pointer, (scope, version, json)).await
        } else {
            self.sessions
                .shared()
                .execute_unpaged(&self.base.swap_pointer, (version, json, scope, expected.version))
                .await
        };
        let swapped = match done {
            Ok(done) => is_applied(context, done),
            Err(error) => Err(super::failed(context, error)),
        };
        self.boundaries.outdate();
        Ok(swapped)
    }
}
