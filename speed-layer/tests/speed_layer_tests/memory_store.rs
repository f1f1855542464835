//! A view store in memory: the part of the port that the speed layer uses, written in the most obvious way.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use async_trait::async_trait;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::watch;
use view_store::{
    Beside, DeltaWrite, KeyRange, Priors, Progress, PublishOutcome, StoreError, ViewRead, ViewStore, WriteOutcome,
};
use views::{Offset, Published, TopicPartition, View};

use crate::memory_log::Dice;

/// Where a view's deltas of a segment are.
type Place = (Arc<str>, TopicPartition, Offset, u64);

#[derive(Default)]
struct Inside {
    published: Option<Published>,
    progress: BTreeMap<(Arc<str>, TopicPartition), Progress>,
    /// Each with how far it reaches.
    deltas: BTreeMap<Place, BTreeMap<OwnedRow, (Offset, RecordBatch)>>,
    /// How many states each write held.
    writes: Vec<usize>,
    /// How often it was told where a view stands in another partition.
    told: usize,
}

/// A view store in memory.
pub struct MemoryStore {
    inside: Mutex<Inside>,
    changed: watch::Sender<u64>,
    dice: Arc<Dice>,
    /// Whether it looks and writes in different moments, and every state in one of its own, as a store of rows apart does.
    apart: bool,
}

impl MemoryStore {
    pub fn new(dice: Arc<Dice>) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), changed: watch::channel(0).0, dice, apart: false })
    }

    /// One that promises no more than a backend must: see promise 2 of the port.
    pub fn apart(dice: Arc<Dice>) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), changed: watch::channel(0).0, dice, apart: true })
    }

    /// Changes after every write.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Publishes a generation; the rows behind it are not this store's business.
    pub fn set_published(&self, published: Published) {
        self.inside.lock().published = Some(published);
    }

    /// How many states each write held, in the order of the writes.
    pub fn writes(&self) -> Vec<usize> {
        self.inside.lock().writes.clone()
    }

    /// How often it was told where a view stands in another partition.
    pub fn told(&self) -> usize {
        self.inside.lock().told
    }

    /// A view's progress, as written.
    pub fn written_progress(&self, view: &View, partition: &TopicPartition) -> Progress {
        *self.inside.lock().progress.get(&(view.name.clone(), partition.clone())).unwrap_or(&Progress::START)
    }

    /// Every delta of a view in a partition, by segment start and marker.
    pub fn all_deltas(&self, view: &View, partition: &TopicPartition) -> BTreeMap<(Offset, u64), Vec<RecordBatch>> {
        let inside = self.inside.lock();
        let own = inside.deltas.iter().filter(|((name, place, ..), _)| *name == view.name && place == partition);
        own.map(|((_, _, start, marker), rows)| {
            ((*start, *marker), rows.values().map(|(_, row)| row.clone()).collect())
        })
        .collect()
    }

    fn stands_at(inside: &Inside, view: &View, partition: &TopicPartition) -> Offset {
        let written = inside.progress.get(&(view.name.clone(), partition.clone())).map_or(0, |at| at.offset);
        let own = inside.published.as_ref().and_then(|published| published.of(view));
        written.max(own.and_then(|(_, frontier)| frontier.get(partition)).unwrap_or(0))
    }

    fn stands_together(inside: &Inside, write: &DeltaWrite) -> bool {
        write.views.iter().all(|view| Self::stands_at(inside, &view.view, &write.partition) == write.from)
    }

    fn failing(&self, what: &str) -> Result<(), StoreError> {
        if self.dice.fails() { Err(StoreError::unavailable(what, "the dice say so")) } else { Ok(()) }
    }
}

/// One state of a write: its place, its group, how far it reaches.
type State = (Place, OwnedRow, Offset, RecordBatch);

fn states_of(write: &DeltaWrite) -> Vec<State> {
    let mut states = Vec::new();
    for view in &write.views {
        for (segment, rows) in &view.segments {
            let cuts = view.segments.iter().map(|(other, _)| other.start).chain([write.to.segment.start]);
            let through = cuts.filter(|cut| *cut > segment.start).fold(write.to.offset, Offset::min);
            let place = (view.view.name.clone(), write.partition.clone(), segment.start, segment.marker);
            let groups = groups(&view.view, rows).into_iter().enumerate();
            states.extend(groups.map(|(row, group)| (place.clone(), group, through, rows.slice(row, 1))));
        }
    }
    states
}

impl Inside {
    /// What reaches further stays.
    fn put(&mut self, (place, group, through, state): State) {
        let known = self.deltas.entry(place).or_default();
        if known.get(&group).is_none_or(|(reaches, _)| *reaches <= through) {
            known.insert(group, (through, state));
        }
    }

    fn move_on(&mut self, write: &DeltaWrite) {
        for view in &write.views {
            let progress = self.progress.entry((view.view.name.clone(), write.partition.clone())).or_insert(write.to);
            if progress.offset <= write.to.offset {
                *progress = write.to;
            }
        }
        self.writes.push(write.views.iter().flat_map(|view| &view.segments).map(|(_, rows)| rows.num_rows()).sum());
    }
}

fn groups(view: &View, rows: &RecordBatch) -> Vec<OwnedRow> {
    let columns = view.group_schema.fields().len();
    let fields = view.group_schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let converter = RowConverter::new(fields).expect("group columns have an order");
    let converted = converter.convert_columns(&rows.columns()[..columns]).expect("group columns");
    converted.iter().map(|row| row.owned()).collect()
}

#[async_trait]
impl ViewStore for MemoryStore {
    async fn published(&self) -> Result<Option<Published>, StoreError> {
        self.failing("published")?;
        Ok(self.inside.lock().published.clone())
    }

    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> Result<Progress, StoreError> {
        self.failing("progress")?;
        Ok(self.written_progress(view, partition))
    }

    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        of: &RecordBatch,
        beside: &[Beside],
    ) -> Result<Priors, StoreError> {
        self.failing("deltas")?;
        let mut inside = self.inside.lock();
        for other in beside {
            let place = TopicPartition::new(partition.topic.clone(), other.partition);
            assert_ne!(place, *partition, "a partition beside itself");
            assert!(other.at.offset <= Self::stands_at(&inside, view, &place), "{place} was never at {:?}", other.at);
        }
        inside.told += beside.len();
        let place = (view.name.clone(), partition.clone(), at.segment.start, at.segment.marker);
        let rows = inside.deltas.get(&place);
        let found = groups(view, of).into_iter().filter_map(|group| rows?.get(&group).cloned());
        let (through, found): (Vec<Offset>, Vec<RecordBatch>) = found.unzip();
        let states = arrow::compute::concat_batches(&view.state_schema, &found);
        Ok(Priors { states: states.map_err(|error| StoreError::View(error.into()))?, through })
    }

    async fn write_deltas(&self, write: DeltaWrite) -> Result<WriteOutcome, StoreError> {
        self.failing("writing")?;
        assert!(write.to.offset > write.from, "a write moves on");
        if !self.apart {
            let mut inside = self.inside.lock();
            if !Self::stands_together(&inside, &write) {
                return Ok(WriteOutcome::Conflict);
            }
            states_of(&write).into_iter().for_each(|state| inside.put(state));
            inside.move_on(&write);
        } else {
            if !Self::stands_together(&self.inside.lock(), &write) {
                return Ok(WriteOutcome::Conflict);
            }
            for state in states_of(&write) {
                tokio::task::yield_now().await;
                self.failing("writing a state")?;
                self.inside.lock().put(state);
            }
            self.inside.lock().move_on(&write);
        }
        self.changed.send_modify(|times| *times += 1);
        // A lost acknowledgement.
        self.failing("acknowledging")?;
        Ok(WriteOutcome::Written)
    }

    async fn read(&self, _view: &Arc<View>, _range: &KeyRange) -> Result<ViewRead, StoreError> {
        Err(StoreError::Invalid("the speed layer does not read answers".into()))
    }

    async fn write_generation(
        &self,
        _view: &Arc<View>,
        _generation: u64,
        _rows: BoxStream<'static, Result<RecordBatch, StoreError>>,
    ) -> Result<u64, StoreError> {
        Err(StoreError::Invalid("the speed layer does not write generations".into()))
    }

    async fn publish(&self, _next: &Published) -> Result<PublishOutcome, StoreError> {
        Err(StoreError::Invalid("the speed layer does not publish".into()))
    }

    async fn retire(&self, _views: &[Arc<View>]) -> Result<(), StoreError> {
        Err(StoreError::Invalid("the speed layer does not retire".into()))
    }
}
