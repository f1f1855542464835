//! The port to the view store, and what a backend promises.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::scalar::ScalarValue;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use views::{Offset, Position, Published, Segment, SegmentId, TopicPartition, View};

use crate::error::Result;

/// How far the speed layer has come in one partition, for one view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The next offset to fold: every record before it is in a delta.
    pub offset: Offset,
    /// The segment that was open there.
    pub segment: Segment,
}

impl Progress {
    /// Nothing folded yet.
    pub const START: Progress = Progress { offset: 0, segment: Segment::FIRST };
}

/// What one micro-batch of one partition changes, for all views of one task: written whole or not at all.
#[derive(Debug, Clone)]
pub struct DeltaWrite {
    /// The partition the records came from.
    pub partition: TopicPartition,
    /// Where every view of this write must stand now.
    pub from: Offset,
    /// Where it will stand afterwards.
    pub to: Progress,
    /// The deltas, per view. A view without touched groups is listed all the same: its progress moves.
    pub views: Vec<ViewDeltas>,
}

/// The touched deltas of one view.
#[derive(Debug, Clone)]
pub struct ViewDeltas {
    /// The view.
    pub view: Arc<View>,
    /// Per segment: the states of the touched groups over that segment up to `DeltaWrite::to`, absolute values.
    /// Shape: the view's `state_schema`, one row per group.
    pub segments: Vec<(Segment, RecordBatch)>,
}

/// The states written so far for some groups of one segment.
#[derive(Debug, Clone)]
pub struct Priors {
    /// Shape: the view's `state_schema`. Groups without a state are left out.
    pub states: RecordBatch,
    /// One per row of `states`: it holds exactly the group's records of the segment before this offset.
    pub through: Vec<Offset>,
}

/// Where a view stands in some other partition of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beside {
    /// The partition's number.
    pub partition: u32,
    /// Where the view stands there.
    pub at: Progress,
}

/// What writing deltas comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Deltas and progress are written.
    Written,
    /// Nothing was written: some view does not stand at `from`. Another owner was there, or an earlier write whose
    /// acknowledgement was lost did succeed. Read the progress and start again from it.
    Conflict,
}

/// Which rows a read wants.
#[derive(Debug, Clone, Default)]
pub struct KeyRange {
    /// Values of the view's key columns, in their order and exact types. `None`: every key.
    pub key: Option<Vec<ScalarValue>>,
    /// Only tiles at or after this value (of the time column's type).
    pub from: Option<ScalarValue>,
    /// Only tiles before this value.
    pub to: Option<ScalarValue>,
    /// Only groups after this encoded group (see `views::stored`), exclusive: where the last page ended.
    pub after: Option<Vec<u8>>,
}

/// Where a state came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The published generation.
    Batch,
    /// A delta of the speed layer.
    Speed {
        /// The segment it covers.
        segment: SegmentId,
        /// The next offset after the last record it holds.
        through: Offset,
    },
}

/// Some states, with where each came from.
#[derive(Debug, Clone)]
pub struct StateRows {
    /// Shape: the view's `state_schema`. Ordered by group; all rows of one group stand together.
    pub states: RecordBatch,
    /// One per row of `states`.
    pub origins: Vec<Origin>,
}

/// One moment of a view.
pub struct ViewRead {
    /// The generation the rows belong to, the last one that holds this view (the visible one may be newer); `None` when none
    /// does under this fingerprint.
    pub published: Option<Arc<Published>>,
    /// How far the deltas reach: the rows hold exactly the records before it.
    pub position: Position,
    /// The rows, in order of their groups, in chunks of bounded size; a group is never split between two chunks.
    pub rows: BoxStream<'static, Result<StateRows>>,
}

/// What publishing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Readers see it from now on.
    Published,
    /// It was visible already.
    AlreadyVisible,
    /// A newer generation is visible; nothing changed.
    Superseded {
        /// The visible one.
        by: u64,
    },
}

/// Where states live.
///
/// What a backend promises:
///
/// 1. **One moment.** `read` returns rows, generation and position of one moment: never a generation with another's
///    frontier, never a delta that reaches past the position, never a delta that the frontier covers.
/// 2. **Deltas never go back.** A delta that reaches less far never takes the place of one that reaches further, and progress
///    never goes back; so a replay or a stale owner changes nothing. `write_deltas` writes nothing (`Conflict`) when it sees that some
///    view does not stand exactly at `from`. A backend that looks and writes in one step always sees it. One that cannot (CQL) may
///    write beside another owner: its deltas reach as far as they say all the same, the progress moves only after
///    them, and [`ViewStore::deltas`] tells how far each state reaches, so that nobody adds records to a state that has them.
/// 3. **A generation is visible whole or not at all**, and only by `publish`; its frontier never moves back. A view that a
///    new generation leaves out stays at the last one that holds it, with that one's rows and frontier, until `retire` lets go
///    of the view altogether.
/// 4. **Nothing needed is lost.** A delta that no published frontier of its view covers stays until one does. What a
///    running `read` needs stays until it is dropped.
/// 5. **Bound to the definition.** Rows belong to the view's fingerprint; states made under another one are never returned.
///
/// States are derived data: a backend need not flush deltas to disk before it acknowledges them, as long as
/// what it forgets after a power cut is a suffix of the writes, progress included. A published generation is durable.
#[async_trait]
pub trait ViewStore: Send + Sync + 'static {
    /// What readers see, or `None` before the first generation.
    async fn published(&self) -> Result<Option<Published>>;

    /// The rows in `range` at one moment.
    async fn read(&self, view: &Arc<View>, range: &KeyRange) -> Result<ViewRead>;

    /// How far a view's deltas reach in a partition ([`Progress::START`] when there are none).
    ///
    /// The frontier of the view's generation ([`Published::of`]) may lie further (the deltas were lost, or never needed): a
    /// view *stands at* the further of the two, and may be continued from there.
    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> Result<Progress>;

    /// The states written so far for some groups of the segment that is open `at` where the caller takes the view to stand.
    ///
    /// `groups`: a batch whose first columns are the view's group columns. A state whose `through` is at or before `at` is the group's
    /// as of `at`; one that reaches past it holds records that the caller has not folded yet, and was written by an owner that
    /// got further.
    ///
    /// `beside`: where the view stands in other partitions whose states of much the same groups are wanted soon. A backend that has
    /// them side by side may read them along.
    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &RecordBatch,
        beside: &[Beside],
    ) -> Result<Priors>;

    /// Writes deltas and moves the progress, in one step.
    async fn write_deltas(&self, write: DeltaWrite) -> Result<WriteOutcome>;

    /// Writes the rows of a generation, invisible until it is published. Replaces what an earlier attempt with the same
    /// number left. Returns the number of rows.
    ///
    /// `rows` come ordered by group, each group once, in the shape of the view's `state_schema`.
    async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64>;

    /// Makes a written generation the visible one: a single durable switch, decided by [`views::publish::decide`] over
    /// what is visible in the same step. Views that `next` leaves out stay as they are.
    ///
    /// # Errors
    ///
    /// `Invalid` when its frontier would move back.
    async fn publish(&self, next: &Published) -> Result<PublishOutcome>;

    /// Lets go of what no reader can need: generations that no view stays at (never one newer than the visible one: another
    /// run may be writing it), deltas that the frontier of their view's generation covers, and everything of fingerprints that
    /// `views` does not have, all of it in one step: should such a view come back, it starts from nothing.
    async fn retire(&self, views: &[Arc<View>]) -> Result<()>;
}
