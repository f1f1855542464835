//! Which event a view cannot be computed over: for the person who has to mend its definition.
//!
//! Operators say what failed, not where. So the archive is read once more, segment by segment, up to the first event that the
//! view cannot fold. That happens only after a failure.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use event_log::archive::Archive;
use event_log::error::{LogError, Result};
use event_log::registry::SchemaRegistry;
use views::{Offset, TopicPartition};

use crate::states::ViewJob;

/// The first event, by partition and offset, that the view cannot fold; `None` when no single one is to blame.
pub(crate) async fn place(
    job: &ViewJob,
    archive: &Archive,
    registry: &dyn SchemaRegistry,
) -> Result<Option<(TopicPartition, Offset)>> {
    let view = &job.view;
    let invalid = |error: arrow::error::ArrowError| LogError::Invalid(format!("columns of {}: {error}", view.name));
    let offset = view.source.schema.index_of("_offset").map_err(invalid)?;
    let mut columns = view.input_columns.clone();
    if !columns.contains(&offset) {
        columns.push(offset);
        columns.sort_unstable();
    }
    let place = |column: &usize| columns.iter().position(|other| other == column);
    let inputs: Vec<usize> = view.input_columns.iter().filter_map(place).collect();
    let offsets = place(&offset).unwrap_or_default();
    let mut segments: Vec<_> = job.segments.iter().collect();
    segments.sort_by_key(|segment| segment.id());
    for segment in segments {
        for events in archive.scan(segment, &view.source, &columns, registry).await? {
            let events = events?;
            let input = events.project(&inputs).map_err(invalid)?;
            if let Some(row) = views::fold::first_failure(view, &input) {
                let offset = events.column(offsets).as_primitive::<Int64Type>().value(row);
                return Ok(Some((segment.id().partition, offset.cast_unsigned())));
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(None)
}
