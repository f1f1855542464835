//! Records to rows: which rows of decoded events lie in which segment.

use std::ops::Range;

use event_log::{Content, Record};
use views::{Offset, Segment};

/// The event rows of one read, laid out over segments.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The segments that got rows, in order, each with its rows.
    pub runs: Vec<(Segment, Range<usize>)>,
    /// The segment that is open after the last record.
    pub open: Segment,
    /// The offset of each row.
    pub offsets: Vec<Offset>,
    /// The append time of each row.
    pub times: Vec<i64>,
}

/// Lays out the events among `records` that are not `rejected` (offsets, ascending), from the segment `open` on.
pub(crate) fn lay_out(open: Segment, segment_records: u64, records: &[Record], rejected: &[Offset]) -> Layout {
    let mut layout = Layout { runs: Vec::new(), open, offsets: Vec::new(), times: Vec::new() };
    layout.offsets.reserve(records.len());
    layout.times.reserve(records.len());
    let mut rejected = rejected.iter().copied().peekable();
    let mut run_start = 0;
    for record in records {
        let segment = layout.open.at(record.offset, segment_records);
        if segment != layout.open {
            layout.end_run(&mut run_start);
            layout.open = segment;
        }
        match record.content {
            Content::Marker(number) => {
                if let Some(segment) = layout.open.after_marker(record.offset, number) {
                    layout.end_run(&mut run_start);
                    layout.open = segment;
                }
            }
            Content::Event { .. } => {
                if rejected.next_if_eq(&record.offset).is_none() {
                    layout.offsets.push(record.offset);
                    layout.times.push(record.append_time);
                }
            }
        }
    }
    layout.end_run(&mut run_start);
    layout
}

impl Layout {
    /// Lets go of the rows that are not to be kept.
    pub fn keep_only(&mut self, keep: &[bool]) {
        let mut kept = 0;
        for (segment_rows, run) in self.runs.iter_mut().map(|(_, rows)| (rows.clone(), rows)) {
            let start = kept;
            kept += keep[segment_rows].iter().filter(|keep| **keep).count();
            *run = start..kept;
        }
        self.runs.retain(|(_, rows)| !rows.is_empty());
        retain_rows(&mut self.offsets, keep);
        retain_rows(&mut self.times, keep);
    }

    fn end_run(&mut self, start: &mut usize) {
        let end = self.offsets.len();
        if end > *start {
            self.runs.push((self.open, *start..end));
            *start = end;
        }
    }
}

fn retain_rows<T>(values: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    values.retain(|_| keep.next().copied().unwrap_or(false));
}
