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
mod create;
mod listing;
mod location;
mod reader;
mod scan;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, ObjectStore};
use views::{Offset, Segment, SegmentId, Source, TopicPartition};

pub use container::{Layout, SegmentHeader};
pub use location::{LocationOptions, open};
pub use reader::{OpenSegment, Records};
pub use scan::SegmentScan;

use crate::encode::wire::split_frame;
use crate::error::{LogError, Result};
use crate::log::{Content, Record};
use crate::registry::SchemaRegistry;
use container::FlatSchema;
use create::{Created, create};
use writer::SegmentWriter;

/// How much of an object is fetched to see its header.
const HEADER_BYTES: u64 = 64 << 10;

/// The archive of all topics, under one prefix of an object store.
#[derive(Debug, Clone)]
pub struct Archive {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// How long a listing may be behind.
    listing_lag: Duration,
    /// Objects larger than this are put in parts.
    in_parts_above: Option<usize>,
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
        Self { objects, prefix: Path::from(prefix.as_ref()), listing_lag: Duration::ZERO, in_parts_above: None }
    }

    /// The same archive in a store whose listings may be behind by this much.
    #[must_use]
    pub fn with_listing_lag(self, listing_lag: Duration) -> Self {
        Self { listing_lag, ..self }
    }

    /// The same archive, which puts objects that are larger than this in parts. The store must be able to copy an object on the
    /// condition that there is none of the new name.
    #[must_use]
    pub fn in_parts_above(self, bytes: usize) -> Self {
        Self { in_parts_above: Some(bytes), ..self }
    }

    /// The objects under its prefix, as a store of their own.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::new(PrefixStore::new(self.objects.clone(), self.prefix.clone()))
    }

    /// The name of a segment's object.
    pub fn object_name(&self, segment: &ArchivedSegment) -> Path {
        let ArchivedSegment { partition, start, end, .. } = segment;
        self.folder(partition).join(format!("{start:020}-{end:020}.avro"))
    }

    fn folder(&self, partition: &TopicPartition) -> Path {
        self.prefix.clone().join(&*partition.topic).join(format!("{:05}", partition.partition))
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
        let context = || format!("creating {name}");
        let created = create(&*self.objects, &name, &object, self.in_parts_above).await;
        match created.map_err(|error| not_created(context(), error))? {
            Created::New => return Ok(segment),
            Created::There => {}
        }
        if self.is_there(&name, &object).await.map_err(|error| not_created(context(), error))? {
            return Ok(segment);
        }
        let there = self.fetch(&segment).await?;
        let (there, ours) = (OpenSegment::open(there, name.as_ref())?, OpenSegment::open(object, "our object")?);
        blocking(move || same_records(&there, &ours)).await?;
        tracing::info!(object = %name, "the archived object has the same records in other bytes");
        Ok(segment)
    }

    /// Whether the object of a name has these bytes. It is compared as it comes.
    async fn is_there(&self, name: &Path, object: &Bytes) -> object_store::Result<bool> {
        let found = self.objects.get_opts(name, GetOptions::default()).await?;
        if found.meta.size != object.len() as u64 {
            return Ok(false);
        }
        let mut rest = &object[..];
        let mut chunks = found.into_stream();
        while let Some(chunk) = chunks.try_next().await? {
            let Some(after) = rest.strip_prefix(&chunk[..]) else { return Ok(false) };
            rest = after;
        }
        Ok(rest.is_empty())
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

/// A failure to create an object. Whatever is not there (the bucket for now, an upload that another archiver has removed, an object
/// that S3 says is just being put) may be there when it is tried again.
fn not_created(context: String, error: object_store::Error) -> LogError {
    match error {
        error @ object_store::Error::NotFound { .. } => LogError::unavailable(context, error),
        error => failed(context, error),
    }
}

/// Runs a computation that would hold up other tasks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| LogError::unavailable("a task of the archive", error))?
}
