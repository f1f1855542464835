//! One moment of the store: what is published, how far each view's deltas reach, where its rows are, and one snapshot
//! under which all of them are read.
//!
//! A moment never changes. Who writes makes the next one *after* its change is complete and swaps it in, so a reader that
//! takes the current moment can mix nothing: there is no second place to read the boundary from. The snapshot is
//! taken by the writer, not by the reader, because one taken while another thread's change is being applied may show
//! half of it (a flush that ends meanwhile moves the visible sequence number past the change's own).
//!
//! A moment holds handles to its keyspaces. A keyspace that is dropped stays on disk until the last handle is gone, which is
//! what lets a running read outlive `retire`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fjall::{Keyspace, Snapshot};
use views::view::Fingerprint;
use views::{Offset, Position, Published, TopicPartition, View};

use super::records::{Pointer, ViewId, ViewRecord, WrittenRecord};
use crate::store::Progress;

/// What readers of one moment see.
#[derive(Clone)]
pub struct Moment {
    pub snapshot: Snapshot,
    pub pointer: Option<Arc<Pointer>>,
    pub views: HashMap<Arc<str>, Vec<Arc<ViewMoment>>>,
}

/// A view at one moment.
#[derive(Clone)]
pub struct ViewMoment {
    pub id: ViewId,
    pub record: ViewRecord,
    /// By partition.
    pub progress: BTreeMap<u32, Progress>,
    /// By the marker of their segments, ascending.
    pub deltas: Vec<Arc<DeltaSpace>>,
    /// The published generation, when it holds this view under this fingerprint.
    pub generation: Option<Arc<GenerationSpace>>,
}

/// The deltas over all segments with one marker number.
#[derive(Clone)]
pub struct DeltaSpace {
    pub marker: u64,
    pub keyspace: Keyspace,
    /// The partitions that have deltas here.
    pub partitions: BTreeSet<u32>,
}

/// A view's rows of the published generation, and the boundary that belongs to them.
pub struct GenerationSpace {
    pub published: Arc<Published>,
    pub written: WrittenRecord,
    pub keyspace: Keyspace,
    /// The frontier in the view's topic, by partition.
    pub frontier: BTreeMap<u32, Offset>,
}

impl Moment {
    /// What is known of a view under its fingerprint.
    pub fn view(&self, view: &View) -> Option<&Arc<ViewMoment>> {
        self.find(&view.name, &view.fingerprint)
    }

    /// What is known of a view by name and fingerprint.
    pub fn find(&self, name: &str, fingerprint: &Fingerprint) -> Option<&Arc<ViewMoment>> {
        self.views.get(name)?.iter().find(|view| view.record.fingerprint == *fingerprint)
    }

    /// Puts a view's next state in.
    pub fn set(&mut self, next: ViewMoment) {
        let same_name = self.views.entry(next.record.name.clone()).or_default();
        match same_name.iter_mut().find(|view| view.id == next.id) {
            Some(view) => *view = Arc::new(next),
            None => same_name.push(Arc::new(next)),
        }
    }

    /// Takes a view out.
    pub fn remove(&mut self, id: ViewId) {
        for same_name in self.views.values_mut() {
            same_name.retain(|view| view.id != id);
        }
        self.views.retain(|_, same_name| !same_name.is_empty());
    }

    /// Every view.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ViewMoment>> {
        self.views.values().flatten()
    }
}

impl ViewMoment {
    /// A view without anything.
    pub fn new(id: ViewId, record: ViewRecord) -> Self {
        Self { id, record, progress: BTreeMap::new(), deltas: Vec::new(), generation: None }
    }

    /// Where the view stands in a partition: the further of its deltas and the published frontier.
    pub fn stands_at(&self, partition: u32) -> Offset {
        let progress = self.progress.get(&partition).map_or(0, |progress| progress.offset);
        let frontier = self.generation.as_ref().and_then(|generation| generation.frontier.get(&partition));
        progress.max(frontier.copied().unwrap_or(0))
    }

    /// How far the view reaches in every partition it knows.
    pub fn position(&self) -> Position {
        let known = |partition: u32| TopicPartition::new(self.record.topic.clone(), partition);
        let mut position = Position::new();
        for (partition, offset) in self.generation.iter().flat_map(|generation| &generation.frontier) {
            position.set(&known(*partition), *offset);
        }
        for (partition, progress) in &self.progress {
            position.advance(&known(*partition), progress.offset);
        }
        position
    }

    /// Whether the published frontier covers every delta of a keyspace: a segment is at or past frontier N exactly when
    /// its marker is at least N, in the partitions that the frontier knows.
    pub fn covers(&self, deltas: &DeltaSpace) -> bool {
        self.generation.as_ref().is_some_and(|generation| {
            deltas.marker < generation.published.generation
                && deltas.partitions.iter().all(|partition| generation.frontier.contains_key(partition))
        })
    }

    /// The deltas over segments with this marker.
    pub fn deltas(&self, marker: u64) -> Option<&Arc<DeltaSpace>> {
        self.deltas.iter().find(|deltas| deltas.marker == marker)
    }
}
