//! Where a partition is cut into segments: a pure function of the log.
//!
//! A cut is the partition's start, the offset right after a marker whose number is higher than every earlier
//! one's in that partition, and every multiple of the topic's `segment_records`. Everybody who reads the log finds the
//! same segments without talking, which is what lets two layers meet at an offset.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::place::{Offset, TopicPartition};

/// The name of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    /// The partition it is a part of.
    pub partition: TopicPartition,
    /// Its first offset: a cut.
    pub start: Offset,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.start)
    }
}

/// What must be known of a partition's open segment to find where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its first offset.
    pub start: Offset,
    /// The highest marker number before `start` in this partition; 0 when there is none.
    ///
    /// A frontier N lies right after the first marker numbered N or higher, so a segment is at or past
    /// frontier N exactly when its `marker` is at least N.
    pub marker: u64,
}

impl Segment {
    /// The segment a partition begins with.
    pub const FIRST: Segment = Segment { start: 0, marker: 0 };

    /// The segment that a record at `offset` belongs to, `self` being the segment of the record before it.
    ///
    /// The offset may lie any distance ahead (offsets have gaps in Kafka): multiples in between are cuts too.
    pub fn at(self, offset: Offset, segment_records: u64) -> Segment {
        let multiple = offset - offset % segment_records;
        Segment { start: self.start.max(multiple), marker: self.marker }
    }

    /// The segment that begins right after a marker numbered `number` at `offset`, when that is a cut.
    ///
    /// A marker that is not higher than every earlier one cuts nothing: a batch run that died or lost a race left it.
    pub fn after_marker(self, offset: Offset, number: u64) -> Option<Segment> {
        (number > self.marker).then_some(Segment { start: offset + 1, marker: number })
    }

    /// The multiple at which this segment ends unless a marker ends it earlier.
    pub fn limit(self, segment_records: u64) -> Offset {
        (self.start / segment_records + 1) * segment_records
    }
}
