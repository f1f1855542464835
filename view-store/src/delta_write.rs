//! What every backend asks of a [`DeltaWrite`] before it looks at what is stored, and how far its deltas reach.

use std::collections::HashSet;

use views::Segment;

use crate::error::{Result, StoreError};
use crate::store::{DeltaWrite, Progress, ViewDeltas};

/// The offset a segment's deltas reach: the write's own, or the cut that ended the segment before it.
pub(crate) fn through(write: &DeltaWrite, deltas: &ViewDeltas, segment: Segment) -> u64 {
    let cuts = deltas.segments.iter().map(|(other, _)| other.start).chain([write.to.segment.start]);
    cuts.filter(|cut| *cut > segment.start).fold(write.to.offset, u64::min)
}

/// What the port forbids whatever the store holds.
pub(crate) fn check(write: &DeltaWrite) -> Result<()> {
    let Progress { offset, segment: open } = write.to;
    let invalid = |what: String| Err(StoreError::Invalid(format!("a write for {}: {what}", write.partition)));
    if offset < write.from {
        return invalid(format!("from {} back to {offset}", write.from));
    }
    if open.start > offset {
        return invalid(format!("the open segment starts at {}, past {offset}", open.start));
    }
    let mut views = HashSet::new();
    for deltas in &write.views {
        let name = &deltas.view.name;
        if *deltas.view.source.name != *write.partition.topic {
            return invalid(format!("view `{name}` is over `{}`", deltas.view.source.name));
        }
        if !views.insert((name, &deltas.view.fingerprint)) {
            return invalid(format!("view `{name}` twice"));
        }
        let mut starts = HashSet::new();
        for (segment, states) in &deltas.segments {
            let start = segment.start;
            if start > open.start || segment.marker > open.marker {
                return invalid(format!("view `{name}` has a segment at {start} past the open one at {}", open.start));
            }
            if start >= offset && states.num_rows() > 0 {
                return invalid(format!("view `{name}` has deltas from {start} on, and they end at {offset}"));
            }
            if !starts.insert(start) {
                return invalid(format!("view `{name}` has the segment at {start} twice"));
            }
        }
    }
    Ok(())
}
