//! What is in the archive, by the names of its objects.

use std::time::Duration;

use futures::TryStreamExt;
use tokio::time::Instant;
use views::{Offset, TopicPartition};

use super::{Archive, ArchivedSegment, failed};
use crate::error::{LogError, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(50);

impl Archive {
    /// The archived segments of a partition, in order, from offset 0 without a hole.
    ///
    /// It looks at names only: a damaged object hides no other.
    ///
    /// # Errors
    ///
    /// `Hole` naming the missing offsets; `Damaged` when two objects hold the same offsets.
    pub async fn list(&self, partition: &TopicPartition) -> Result<Vec<ArchivedSegment>> {
        self.list_through(partition, 0).await
    }

    /// As [`Self::list`], for one who knows that everything before `end` is archived.
    ///
    /// # Errors
    ///
    /// As [`Self::list`]; `Hole` too when the archive ends before `end`.
    pub async fn list_through(&self, partition: &TopicPartition, end: Offset) -> Result<Vec<ArchivedSegment>> {
        // A listing is not a snapshot: it may miss an object and see a later one, both put while it ran, and a store may show what
        // was put only after a while. So one listing proves no hole; the last of several does.
        let patient_until = Instant::now() + self.listing_lag;
        let mut pause = FIRST_PAUSE;
        let mut listed_before = false;
        loop {
            let segments = self.list_once(partition).await?;
            let Some(hole) = self.hole(partition, &segments, end)? else { return Ok(segments) };
            let now = Instant::now();
            if listed_before && now >= patient_until {
                return Err(LogError::Hole(hole));
            }
            listed_before = true;
            tokio::time::sleep(pause.min(patient_until.saturating_duration_since(now))).await;
            pause *= 2;
        }
    }

    /// What is missing before the last of `segments` or before `end`.
    fn hole(&self, partition: &TopicPartition, segments: &[ArchivedSegment], end: Offset) -> Result<Option<String>> {
        let ends = std::iter::once(0).chain(segments.iter().map(|segment| segment.end));
        if let Some((before, next)) = ends.zip(segments).find(|(end, segment)| *end != segment.start) {
            if before > next.start {
                return Err(LogError::Damaged(format!(
                    "{} begins before offset {before}, where the segment before it ends",
                    self.object_name(next)
                )));
            }
            return Ok(Some(format!(
                "offsets {before} to {} of {partition} are not in the archive; the next object is {}",
                next.start - 1,
                self.object_name(next)
            )));
        }
        let reached = segments.last().map_or(0, |segment| segment.end);
        let missing = || format!("offsets {reached} to {} of {partition} are not in the archive", end - 1);
        Ok((reached < end).then(missing))
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
}
