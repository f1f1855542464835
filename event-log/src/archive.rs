//! The archive: every sealed segment as one immutable Avro object container file in object storage.
//!
//! **Names.** `{prefix}/{topic}/{partition:05}/{start:020}-{end:020}.avro`; `end` is the next segment's start. Both are pure
//! functions of the log, so archivers that race write the same object. It is created with "put if absent", and an object
//! that is there already is compared, never replaced. The names alone say which offsets are archived and whether any are missing.
//!
//! **Layouts.** *Flat*, the normal case: every event of the segment has the same writer schema. The file's record is
//! the writer's with the fields `_offset`, `_append_time`, `_key` and `_size` put in front, and a datum is those four followed
//! by the writer's bytes as they are: nothing is decoded or encoded again, `_size` lets the exact bytes be sliced out, and any
//! Avro reader can read the file. *Framed*: several writer schemas, or a value that is not a whole datum of its schema; the
//! file's record is `_offset`, `_append_time`, `_key` and `event`, the value's bytes as they are in the log.
//!
//! **Same bytes from everybody.** The sync marker is a hash of the segment's place, blocks are closed at 1 MiB, and zstd runs at
//! level 6 with a content checksum. (Another version of zstd may compress differently; then the records decide whether two
//! objects are equal.)
//!
//! **Verified.** The header holds the segment's place, its count, first and last offset, the markers around it, the length and
//! checksum of the body, and last its own checksum. Every read verifies all of it: an object that is not what was written is
//! `Damaged`, by name. Markers that cut nothing are not kept; the one that ends a segment is kept in the header.

mod container;
mod reader;
mod scan;
mod writer;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};
use views::{Offset, Segment, SegmentId, Source, TopicPartition};

pub use container::{Layout, SegmentHeader};
pub use reader::{OpenSegment, Records};
pub use scan::SegmentScan;

use crate::encode::wire::split_frame;
use crate::error::{LogError, Result};
use crate::log::{Content, Record};
use crate::registry::SchemaRegistry;
use container::FlatSchema;
use writer::SegmentWriter;

/// How much of an object is fetched to see its header.
const HEADER_BYTES: u64 = 64 << 10;

/// The archive of all topics, under one prefix of an object store.
#[derive(Debug, Clone)]
pub struct Archive {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// An archived segment, as its object's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedSegment {
    /// The partition.
    pub partition: TopicPartition,
    /// The first offset.
    pub start: Offset,
    /// The next segment's first offset.
    pub end: Offset,
    /// The object's size in bytes; 0 when it is not known.
    pub bytes: u64,
}

impl ArchivedSegment {
    /// The segment's name.
    pub fn id(&self) -> SegmentId {
        SegmentId { partition: self.partition.clone(), start: self.start }
    }
}

impl fmt::Display for ArchivedSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}..{}", self.partition, self.start, self.end)
    }
}

impl Archive {
    /// The archive under `prefix` (which may be empty) of an object store.
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: impl AsRef<str>) -> Self {
        Self { objects, prefix: Path::from(prefix.as_ref()) }
    }

    /// The name of a segment's object.
    pub fn object_name(&self, segment: &ArchivedSegment) -> Path {
        let ArchivedSegment { partition, start, end, .. } = segment;
        self.folder(partition).join(format!("{start:020}-{end:020}.avro"))
    }

    fn folder(&self, partition: &TopicPartition) -> Path {
        self.prefix.clone().join(&*partition.topic).join(format!("{:05}", partition.partition))
    }

    /// The archived segments of a partition, in order, from offset 0 without a hole.
    ///
    /// It looks at names only: a damaged object hides no other.
    ///
    /// # Errors
    ///
    /// `Hole` naming the missing offsets; `Damaged` when two objects hold the same offsets.
    pub async fn list(&self, partition: &TopicPartition) -> Result<Vec<ArchivedSegment>> {
        // A listing is not a snapshot: it may miss an object and see a later one, both put while it ran. The next
        // listing sees the first. Only an offset that two listings miss is missing.
        let mut missing = None;
        loop {
            let segments = self.list_once(partition).await?;
            let ends = std::iter::once(0).chain(segments.iter().map(|segment| segment.end));
            let Some((before, next)) = ends.zip(&segments).find(|(end, segment)| *end != segment.start) else {
                return Ok(segments);
            };
            if before > next.start {
                return Err(LogError::Damaged(format!(
                    "{} begins before offset {before}, where the segment before it ends",
                    self.object_name(next)
                )));
            }
            if missing.replace(before) == Some(before) {
                return Err(LogError::Hole(format!(
                    "offsets {before} to {} of {partition} are not in the archive; the next object is {}",
                    next.start - 1,
                    self.object_name(next)
                )));
            }
        }
    }

    /// The objects of a partition that have a segment's name, by start.
    async fn list_once(&self, partition: &TopicPartition) -> Result<Vec<ArchivedSegment>> {
        let folder = self.folder(partition);
        let objects: Vec<_> = self
            .objects
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(|error| failed(format!("listing {folder}"), error))?;
        let segment = |object: &object_store::ObjectMeta| {
            let (start, end) = object.location.filename()?.strip_suffix(".avro")?.split_once('-')?;
            let (start, end) = (start.parse().ok()?, end.parse().ok()?);
            let segment = ArchivedSegment { partition: partition.clone(), start, end, bytes: object.size };
            (start < end && self.object_name(&segment) == object.location).then_some(segment)
        };
        let mut segments: Vec<ArchivedSegment> = objects.iter().filter_map(segment).collect();
        segments.sort_by_key(|segment| (segment.start, segment.end));
        Ok(segments)
    }

    /// Archives a segment, given all of its records. An object that is there already is compared.
    ///
    /// # Errors
    ///
    /// `Damaged` when the object is there with other records, or is not whole; `Unavailable` when the store or the registry is.
    pub async fn put(
        &self,
        partition: &TopicPartition,
        segment: Segment,
        end: Offset,
        records: &[Record],
        registry: &dyn SchemaRegistry,
    ) -> Result<ArchivedSegment> {
        let first = records.iter().find(|record| matches!(record.content, Content::Event { .. }));
        let mut writer = self.writer(partition, segment, end, first, registry).await?;
        for record in records {
            writer.push(record)?;
        }
        self.put_object(partition, segment.start, end, writer.finish()?).await
    }

    /// Begins the object of a segment whose first event is `first`.
    pub(crate) async fn writer(
        &self,
        partition: &TopicPartition,
        segment: Segment,
        end: Offset,
        first: Option<&Record>,
        registry: &dyn SchemaRegistry,
    ) -> Result<SegmentWriter> {
        let mut flat = None;
        if let Some(Record { content: Content::Event { value, .. }, .. }) = first
            && let Some((id, _)) = split_frame(value)
        {
            flat = match registry.schema(id).await {
                Ok(schema) => FlatSchema::of(id, &schema),
                // A foreign producer's made-up id: such a value is kept as it is.
                Err(LogError::NotFound(_) | LogError::Invalid(_)) => None,
                Err(error) => return Err(error),
            };
        }
        Ok(SegmentWriter::new(partition, segment, end, flat))
    }

    /// Creates a segment's object, or compares it with the one that is there.
    pub(crate) async fn put_object(
        &self,
        partition: &TopicPartition,
        start: Offset,
        end: Offset,
        object: Bytes,
    ) -> Result<ArchivedSegment> {
        let segment = ArchivedSegment { partition: partition.clone(), start, end, bytes: object.len() as u64 };
        let name = self.object_name(&segment);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(&name, PutPayload::from_bytes(object.clone()), options).await {
            Ok(_) => Ok(segment),
            Err(object_store::Error::AlreadyExists { .. }) => {
                let there = self.fetch(&segment).await?;
                if there == object {
                    return Ok(segment);
                }
                let (there, ours) =
                    (OpenSegment::open(there, name.as_ref())?, OpenSegment::open(object, "our object")?);
                blocking(move || same_records(&there, &ours)).await?;
                tracing::info!(object = %name, "the archived object has the same records in other bytes");
                Ok(segment)
            }
            Err(error) => Err(failed(format!("creating {name}"), error)),
        }
    }

    async fn fetch(&self, segment: &ArchivedSegment) -> Result<Bytes> {
        let name = self.object_name(segment);
        let context = || format!("reading {name}");
        let found =
            self.objects.get_opts(&name, GetOptions::default()).await.map_err(|error| failed(context(), error))?;
        found.bytes().await.map_err(|error| failed(context(), error))
    }

    /// Fetches a segment and verifies all of its bytes.
    ///
    /// # Errors
    ///
    /// `Damaged` naming the object and what differs; `Hole` when the object is gone.
    pub async fn open(&self, segment: &ArchivedSegment) -> Result<OpenSegment> {
        let object = self.fetch(segment).await?;
        let name = self.object_name(segment).to_string();
        let open = blocking(move || OpenSegment::open(object, &name)).await?;
        check_place(segment, open.header(), open.name())?;
        Ok(open)
    }

    /// What the object of a segment says of it. Of a large object, only the header is read and verified.
    ///
    /// # Errors
    ///
    /// As [`Archive::open`].
    pub async fn header(&self, segment: &ArchivedSegment) -> Result<SegmentHeader> {
        if segment.bytes <= HEADER_BYTES {
            return Ok(self.open(segment).await?.header().clone());
        }
        let name = self.object_name(segment);
        let options = GetOptions::new().with_range(Some(0..HEADER_BYTES));
        let context = || format!("reading the header of {name}");
        let found = self.objects.get_opts(&name, options).await.map_err(|error| failed(context(), error))?;
        let front = found.bytes().await.map_err(|error| failed(context(), error))?;
        match SegmentHeader::decode(&front) {
            Ok((header, ..)) => check_place(segment, &header, name.as_ref()).map(|()| header),
            // The header may be longer than that.
            Err(_) => Ok(self.open(segment).await?.header().clone()),
        }
    }

    /// The exact records of a segment, the marker that ends it included.
    ///
    /// # Errors
    ///
    /// As [`Archive::open`].
    pub async fn read(&self, segment: &ArchivedSegment) -> Result<Vec<Record>> {
        let open = self.open(segment).await?;
        blocking(move || open.records(0)?.collect()).await
    }

    /// The events of a segment as Arrow batches: the columns `columns` of `source.schema`, ascending.
    ///
    /// The object is fetched and verified here; decoding happens as the scan is iterated, on the caller's thread.
    ///
    /// # Errors
    ///
    /// As [`Archive::open`]; `Unavailable` when a schema of a framed segment cannot be had.
    pub async fn scan(
        &self,
        segment: &ArchivedSegment,
        source: &Arc<Source>,
        columns: &[usize],
        registry: &dyn SchemaRegistry,
    ) -> Result<SegmentScan> {
        SegmentScan::new(self.open(segment).await?, source, columns, registry).await
    }
}

/// Whether an object is the one its name says.
fn check_place(segment: &ArchivedSegment, header: &SegmentHeader, name: &str) -> Result<()> {
    if (&header.partition, header.start, header.end) == (&segment.partition, segment.start, segment.end) {
        return Ok(());
    }
    let SegmentHeader { partition, start, end, .. } = header;
    Err(LogError::Damaged(format!(
        "{name}: it holds segment {partition}@{start}..{end}, not the one it is named after"
    )))
}

/// Whether two objects hold the same records.
fn same_records(there: &OpenSegment, ours: &OpenSegment) -> Result<()> {
    let place = |header: &SegmentHeader| (header.start, header.end, header.marker_before, header.last_append_time);
    let differ = |what: String| Err(LogError::Damaged(format!("{} exists with other content: {what}", there.name())));
    if place(there.header()) != place(ours.header()) {
        return differ(format!("{:?}, expected {:?}", place(there.header()), place(ours.header())));
    }
    let (mut theirs, mut expected) = (there.records(0)?, ours.records(0)?);
    loop {
        match (theirs.next().transpose()?, expected.next().transpose()?) {
            (None, None) => return Ok(()),
            (one, other) if one == other => {}
            (one, other) => {
                let place =
                    |record: Option<Record>| record.map_or("nothing".to_owned(), |it| format!("offset {}", it.offset));
                return differ(format!("it has {} where the log has {}", place(one), place(other)));
            }
        }
    }
}

/// A failure of the object store, by what the caller should do.
fn failed(context: String, error: object_store::Error) -> LogError {
    match error {
        object_store::Error::NotFound { path, .. } => LogError::Hole(format!("{context}: {path} is gone")),
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            LogError::Invalid(format!("{context}: {error}"))
        }
        error => LogError::unavailable(context, error),
    }
}

/// Runs a computation that would hold up other tasks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| LogError::unavailable("a task of the archive", error))?
}
