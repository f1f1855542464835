//! Parts that break a promise: what a simulation must notice, or it proves nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use event_log::{Content, EventLog, NewRecord, ReadLimit, Record, TopicSpec};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use parking_lot::Mutex;
use view_store::store::{Origin, StateRows};
use view_store::{Beside, DeltaWrite, KeyRange, Priors, Progress, PublishOutcome, ViewRead, ViewStore, WriteOutcome};
use views::{Offset, Published, SegmentId, TopicPartition, View};

use crate::parts::{Clock, EmbeddedParts, Parts, Ports, Truth};

/// A promise to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The log acknowledges records now and then that it does not take.
    LostAppend,
    /// The archive loses an object.
    LostObject,
    /// A delta that reaches less far takes the place of one that reaches further: an owner who is late writes over what came after.
    StaleWrites,
    /// A write moves the progress and forgets its deltas now and then.
    LostDeltas,
    /// A delta whose segment begins right at the frontier is taken for covered.
    FrontierTooFar,
    /// A generation is visible with half of its rows.
    HalfGeneration,
    /// An answer names the position of a moment later than its rows.
    LaterPosition,
    /// What is published is sometimes what was published before.
    FrontierBack,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::LostAppend,
        Self::LostObject,
        Self::StaleWrites,
        Self::LostDeltas,
        Self::FrontierTooFar,
        Self::HalfGeneration,
        Self::LaterPosition,
        Self::FrontierBack,
    ];
}

/// Embedded parts that break a promise.
pub struct SabotagedParts {
    parts: EmbeddedParts,
    how: Sabotage,
}

impl SabotagedParts {
    /// New, empty parts.
    pub fn new(how: Sabotage) -> Self {
        Self { parts: EmbeddedParts::new(), how }
    }
}

#[async_trait]
impl Parts for SabotagedParts {
    async fn open(&self) -> Ports {
        let mut ports = self.parts.open().await;
        match self.how {
            Sabotage::LostAppend => ports.log = Arc::new(ForgetfulLog { log: ports.log, appends: AtomicU64::new(0) }),
            Sabotage::LostObject => ports.objects = Arc::new(ForgetfulObjects(ports.objects)),
            how => {
                ports.store = Arc::new(BrokenStore {
                    store: ports.store,
                    how,
                    calls: AtomicU64::new(0),
                    before: Mutex::default(),
                });
            }
        }
        ports
    }

    async fn open_truth(&self) -> Truth {
        self.parts.open_truth().await
    }

    async fn lose_states(&self) {
        self.parts.lose_states().await;
    }

    fn scratch(&self) -> &Path {
        self.parts.scratch()
    }

    fn clock(&self) -> Option<&Arc<Clock>> {
        self.parts.clock()
    }
}

struct ForgetfulLog {
    log: Arc<dyn EventLog>,
    appends: AtomicU64,
}

#[async_trait]
impl EventLog for ForgetfulLog {
    async fn create_topic(&self, topic: &TopicSpec) -> event_log::error::Result<()> {
        self.log.create_topic(topic).await
    }

    async fn topics(&self) -> event_log::error::Result<Vec<TopicSpec>> {
        self.log.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> event_log::error::Result<Range<Offset>> {
        let is_event = records.iter().any(|record| matches!(record, Content::Event { .. }));
        if !is_event || !self.appends.fetch_add(1, Ordering::Relaxed).is_multiple_of(4) {
            return self.log.append(to, records).await;
        }
        let bounds = self.log.bounds(&to.topic).await?;
        let end = bounds.get(to.partition as usize).map_or(0, |kept| kept.end);
        Ok(end..end + records.len() as u64)
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> event_log::error::Result<Vec<Record>> {
        self.log.read(of, from, limit).await
    }

    async fn bounds(&self, topic: &str) -> event_log::error::Result<Vec<Range<Offset>>> {
        self.log.bounds(topic).await
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> event_log::error::Result<()> {
        self.log.trim(of, before).await
    }
}

/// Every third object of a listing is not there any more, if another one follows it.
#[derive(Debug)]
struct ForgetfulObjects(Arc<dyn ObjectStore>);

impl fmt::Display for ForgetfulObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forgetful {}", self.0)
    }
}

type ObjectResult<T> = object_store::Result<T>;

impl ForgetfulObjects {
    fn without_a_third(
        listed: BoxStream<'static, ObjectResult<ObjectMeta>>,
    ) -> BoxStream<'static, ObjectResult<ObjectMeta>> {
        let left = listed.collect::<Vec<_>>().map(|mut all| {
            all.sort_by_key(|meta| meta.as_ref().map(|meta| meta.location.to_string()).unwrap_or_default());
            let last = all.len().saturating_sub(1);
            let kept = all.into_iter().enumerate().filter(move |(place, _)| place % 3 != 2 || *place == last);
            stream::iter(kept.map(|(_, meta)| meta).collect::<Vec<_>>())
        });
        left.flatten_stream().boxed()
    }
}

#[async_trait]
impl ObjectStore for ForgetfulObjects {
    async fn put_opts(&self, to: &ObjectPath, payload: PutPayload, opts: PutOptions) -> ObjectResult<PutResult> {
        self.0.put_opts(to, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        to: &ObjectPath,
        opts: PutMultipartOptions,
    ) -> ObjectResult<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> ObjectResult<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, ObjectResult<ObjectPath>>,
    ) -> BoxStream<'static, ObjectResult<ObjectPath>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, ObjectResult<ObjectMeta>> {
        Self::without_a_third(self.0.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&ObjectPath>,
        offset: &ObjectPath,
    ) -> BoxStream<'static, ObjectResult<ObjectMeta>> {
        Self::without_a_third(self.0.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> ObjectResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> ObjectResult<()> {
        self.0.copy_opts(from, to, options).await
    }
}

struct BrokenStore {
    store: Arc<dyn ViewStore>,
    how: Sabotage,
    calls: AtomicU64,
    /// What was published, the latest last.
    before: Mutex<BTreeMap<u64, Published>>,
}

impl BrokenStore {
    /// Whether it is time to break something again.
    fn one_in(&self, many: u64) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) % many == many - 1
    }
}

#[async_trait]
impl ViewStore for BrokenStore {
    async fn published(&self) -> view_store::error::Result<Option<Published>> {
        let published = self.store.published().await?;
        if let (Sabotage::FrontierBack, Some(published)) = (self.how, &published) {
            let mut before = self.before.lock();
            before.insert(published.generation, published.clone());
            if self.one_in(3) {
                return Ok(before.values().next().cloned());
            }
        }
        Ok(published)
    }

    async fn read(&self, view: &Arc<View>, range: &KeyRange) -> view_store::error::Result<ViewRead> {
        let mut read = self.store.read(view, range).await?;
        match (self.how, read.published.clone()) {
            (Sabotage::LaterPosition, _) => {
                let rows: Vec<_> = read.rows.collect().await;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                read = ViewRead { rows: stream::iter(rows).boxed(), ..self.store.read(view, range).await? };
            }
            (Sabotage::FrontierTooFar, Some(published)) => {
                let rows = read.rows.map(move |rows| {
                    let rows = rows?;
                    let at_frontier =
                        |segment: &SegmentId| published.frontier.get(&segment.partition) == Some(segment.start);
                    let keep =
                        |origin: &Origin| !matches!(origin, Origin::Speed { segment, .. } if at_frontier(segment));
                    let kept: BooleanArray = rows.origins.iter().map(|origin| Some(keep(origin))).collect();
                    let states = filter_record_batch(&rows.states, &kept).map_err(views::ViewError::from)?;
                    Ok(StateRows { states, origins: rows.origins.into_iter().filter(keep).collect() })
                });
                read.rows = rows.boxed();
            }
            _ => {}
        }
        Ok(read)
    }

    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> view_store::error::Result<Progress> {
        self.store.progress(view, partition).await
    }

    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &RecordBatch,
        beside: &[Beside],
    ) -> view_store::error::Result<Priors> {
        self.store.deltas(view, partition, at, groups, beside).await
    }

    async fn write_deltas(&self, mut write: DeltaWrite) -> view_store::error::Result<WriteOutcome> {
        if self.how == Sabotage::LostDeltas && self.one_in(10) {
            write.views.iter_mut().for_each(|view| view.segments.clear());
        }
        let outcome = self.store.write_deltas(write.clone()).await?;
        if self.how != Sabotage::StaleWrites || outcome == WriteOutcome::Written {
            return Ok(outcome);
        }
        for deltas in write.views {
            let stands = self.store.progress(&deltas.view, &write.partition).await?;
            if stands.offset > write.to.offset {
                let (partition, from) = (write.partition.clone(), stands.offset);
                self.store.write_deltas(DeltaWrite { partition, from, to: stands, views: vec![deltas] }).await?;
            }
        }
        Ok(outcome)
    }

    async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        rows: BoxStream<'static, view_store::error::Result<RecordBatch>>,
    ) -> view_store::error::Result<u64> {
        let rows = match self.how {
            Sabotage::HalfGeneration => {
                rows.map(|rows| rows.map(|rows| rows.slice(0, rows.num_rows().div_ceil(2)))).boxed()
            }
            _ => rows,
        };
        self.store.write_generation(view, generation, rows).await
    }

    async fn publish(&self, next: &Published) -> view_store::error::Result<PublishOutcome> {
        self.store.publish(next).await
    }

    async fn retire(&self, views: &[Arc<View>]) -> view_store::error::Result<()> {
        self.store.retire(views).await
    }
}
