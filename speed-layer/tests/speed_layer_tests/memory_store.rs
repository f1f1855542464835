//! A view store in memory: the part of the port that the speed layer uses, written in the most obvious way.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use async_trait::async_trait;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::watch;
use view_store::{DeltaWrite, KeyRange, Progress, PublishOutcome, StoreError, ViewRead, ViewStore, WriteOutcome};
use views::{Offset, Published, SegmentId, TopicPartition, View};

use crate::memory_log::Dice;

/// Where a view's deltas of a segment are.
type Place = (Arc<str>, TopicPartition, Offset, u64);

#[derive(Default)]
struct Inside {
    published: Option<Published>,
    progress: BTreeMap<(Arc<str>, TopicPartition), Progress>,
    deltas: BTreeMap<Place, BTreeMap<OwnedRow, RecordBatch>>,
    /// How many states each write held.
    writes: Vec<usize>,
}

/// A view store in memory.
pub struct MemoryStore {
    inside: Mutex<Inside>,
    changed: watch::Sender<u64>,
    dice: Arc<Dice>,
}

impl MemoryStore {
    pub fn new(dice: Arc<Dice>) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), changed: watch::channel(0).0, dice })
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

    /// A view's progress, as written.
    pub fn written_progress(&self, view: &View, partition: &TopicPartition) -> Progress {
        *self.inside.lock().progress.get(&(view.name.clone(), partition.clone())).unwrap_or(&Progress::START)
    }

    /// Every delta of a view in a partition, by segment start and marker.
    pub fn all_deltas(&self, view: &View, partition: &TopicPartition) -> BTreeMap<(Offset, u64), Vec<RecordBatch>> {
        let inside = self.inside.lock();
        let own = inside.deltas.iter().filter(|((name, place, ..), _)| *name == view.name && place == partition);
        own.map(|((_, _, start, marker), rows)| ((*start, *marker), rows.values().cloned().collect())).collect()
    }

    fn stands_at(inside: &Inside, view: &View, partition: &TopicPartition) -> Offset {
        let written = inside.progress.get(&(view.name.clone(), partition.clone())).map_or(0, |at| at.offset);
        let own = inside.published.as_ref().and_then(|published| published.of(view));
        written.max(own.and_then(|(_, frontier)| frontier.get(partition)).unwrap_or(0))
    }

    fn failing(&self, what: &str) -> Result<(), StoreError> {
        if self.dice.fails() { Err(StoreError::unavailable(what, "the dice say so")) } else { Ok(()) }
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
        segment: &SegmentId,
        marker: u64,
        of: &RecordBatch,
    ) -> Result<RecordBatch, StoreError> {
        self.failing("deltas")?;
        let inside = self.inside.lock();
        let place = (view.name.clone(), segment.partition.clone(), segment.start, marker);
        let rows = inside.deltas.get(&place);
        let found = groups(view, of).into_iter().filter_map(|group| rows?.get(&group).cloned());
        let found: Vec<RecordBatch> = found.collect();
        arrow::compute::concat_batches(&view.state_schema, &found).map_err(|error| StoreError::View(error.into()))
    }

    async fn write_deltas(&self, write: DeltaWrite) -> Result<WriteOutcome, StoreError> {
        self.failing("writing")?;
        {
            let mut inside = self.inside.lock();
            assert!(write.to.offset > write.from, "a write moves on");
            for view in &write.views {
                if Self::stands_at(&inside, &view.view, &write.partition) != write.from {
                    return Ok(WriteOutcome::Conflict);
                }
            }
            let mut states = 0;
            for view in write.views {
                for (segment, rows) in view.segments {
                    let place = (view.view.name.clone(), write.partition.clone(), segment.start, segment.marker);
                    let known = inside.deltas.entry(place).or_default();
                    for (row, group) in groups(&view.view, &rows).into_iter().enumerate() {
                        known.insert(group, rows.slice(row, 1));
                        states += 1;
                    }
                }
                inside.progress.insert((view.view.name.clone(), write.partition.clone()), write.to);
            }
            inside.writes.push(states);
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
