//! A log that anybody can count, views over it, and owners that keep them as the speed layer does.
//!
//! Record `o` is a click on one of three urls, in one of seven minutes that lie in several buckets. Segments begin at every multiple
//! of [`SEGMENT`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt, stream};
use view_store::store::{Beside, DeltaWrite, KeyRange, Progress, PublishOutcome, ViewDeltas, ViewStore, WriteOutcome};
use view_store::{CqlStore, StoreError};
use views::{Application, ApplicationFile, Offset, Position, Published, Segment, TopicPartition, View};

pub const SEGMENT: u64 = 40;
const PARTITIONS: u32 = 4;
const MINUTE: i64 = 60_000_000;

/// Url and minute of a group.
pub type Group = (String, i64);
/// What a view counts.
pub type Counts = BTreeMap<Group, i64>;

pub fn view(name: &str) -> Arc<View> {
    let avro = r#"{"type": "record", "name": "click", "fields": [
        {"name": "url", "type": ["null", "string"], "default": null},
        {"name": "country", "type": ["null", "string"], "default": null},
        {"name": "bytes", "type": "long"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;
    let sql = "CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 4);
        CREATE MATERIALIZED VIEW minutes WITH (key = 'url') AS
          SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS n FROM clicks GROUP BY url, minute;
        CREATE MATERIALIZED VIEW kept WITH (key = 'url', retention = '400 days') AS
          SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS n FROM clicks GROUP BY url, minute;
        CREATE MATERIALIZED VIEW texts WITH (key = 'url') AS
          SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, max(country) AS text FROM clicks GROUP BY url, minute;
        CREATE MATERIALIZED VIEW \"many-Types\" WITH (key = 'url, bytes') AS
          SELECT url, bytes, date_bin(INTERVAL '1 minute', ts) AS minute, country AS state, bytes > 10 AS large,
            bytes / 2.0 AS half, ts::date AS day, count(*) AS n
          FROM clicks GROUP BY url, bytes, minute, state, large, half, day;";
    let files = [("click.avsc", avro), ("views.sql", sql)];
    let files = files.map(|(path, text)| ApplicationFile { path: path.to_owned(), text: text.to_owned() });
    Application::compile(&files).expect("an application").view(name).expect("a view").clone()
}

pub fn partition(number: u32) -> TopicPartition {
    TopicPartition::new("clicks", number)
}

/// The group that a record belongs to.
pub fn group_of(partition: u32, offset: Offset) -> Group {
    let mixed = (offset ^ u64::from(partition)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (format!("u{}", mixed % 3), (mixed / 3 % 7) as i64 * 3000)
}

/// What a position comes to.
pub fn truth(position: &Position) -> Counts {
    let mut counts = Counts::new();
    for (partition, end) in position.iter() {
        for offset in 0..end {
            *counts.entry(group_of(partition.partition, offset)).or_default() += 1;
        }
    }
    counts
}

pub fn segment_at(offset: Offset) -> Segment {
    Segment { start: offset - offset % SEGMENT, marker: 0 }
}

/// Columns as a view's states.
pub fn batch(view: &View, columns: &[ArrayRef]) -> RecordBatch {
    let types = view.state_schema.fields().iter().map(|field| field.data_type());
    let columns = columns.iter().zip(types).map(|(column, wanted)| cast(column, wanted).expect("a cast"));
    RecordBatch::try_new(view.state_schema.clone(), columns.collect()).expect("states of this view")
}

pub fn states(view: &View, counts: &Counts) -> RecordBatch {
    let urls: ArrayRef = Arc::new(counts.keys().map(|(url, _)| Some(url.as_str())).collect::<StringArray>());
    let minutes: ArrayRef =
        Arc::new(counts.keys().map(|(_, minute)| Some(minute * MINUTE)).collect::<TimestampMicrosecondArray>());
    let counted: ArrayRef = Arc::new(counts.values().map(|count| Some(*count)).collect::<Int64Array>());
    batch(view, &[urls, minutes, counted])
}

/// The groups of states, in their order.
pub fn groups(states: &RecordBatch) -> Vec<Group> {
    let urls = cast(states.column(0), &DataType::Utf8).expect("text");
    let minutes = cast(states.column(1), &DataType::Timestamp(TimeUnit::Microsecond, None)).expect("times");
    let (urls, minutes) = (urls.as_string::<i32>(), minutes.as_primitive::<TimestampMicrosecondType>());
    (0..states.num_rows()).map(|row| (urls.value(row).to_owned(), minutes.value(row) / MINUTE)).collect()
}

pub fn counted(states: &RecordBatch) -> Vec<(Group, i64)> {
    let counts = states.column(2).as_primitive::<Int64Type>();
    groups(states).into_iter().enumerate().map(|(row, group)| (group, counts.value(row))).collect()
}

pub fn key(view: &View, url: &str) -> Vec<ScalarValue> {
    let column: ArrayRef = Arc::new(StringArray::from(vec![url]));
    let column = cast(&column, view.group_schema.field(0).data_type()).expect("a key");
    vec![ScalarValue::try_from_array(&column, 0).expect("a key")]
}

pub fn minute(view: &View, minute: i64) -> Option<ScalarValue> {
    let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![minute * MINUTE]));
    let column = cast(&column, view.group_schema.field(1).data_type()).expect("a time");
    Some(ScalarValue::try_from_array(&column, 0).expect("a time"))
}

/// What a read counts, and its position.
pub async fn counts(
    store: &impl ViewStore,
    view: &Arc<View>,
    range: &KeyRange,
) -> Result<(Counts, Position), StoreError> {
    let read = store.read(view, range).await?;
    let chunks: Vec<_> = read.rows.try_collect().await?;
    let mut counts = Counts::new();
    for (group, count) in chunks.iter().flat_map(|chunk| counted(&chunk.states)) {
        *counts.entry(group).or_default() += count;
    }
    Ok((counts, read.position))
}

/// Reads a range and compares it with the truth at its position, which must not lie before the last one of this range.
pub async fn check(
    store: &impl ViewStore,
    view: &Arc<View>,
    url: Option<&str>,
    last: &mut Position,
) -> Result<(), StoreError> {
    let range = KeyRange { key: url.map(|url| key(view, url)), ..KeyRange::default() };
    let (found, position) = counts(store, view, &range).await?;
    let mut wanted = truth(&position);
    wanted.retain(|(of, _), _| url.is_none_or(|url| of == url));
    assert_eq!(found, wanted, "{url:?} at {position}");
    assert!(position.covers(last), "{url:?}: the position went back from {last} to {position}");
    *last = position;
    Ok(())
}

/// What an owner's turn came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    Written(Offset),
    Conflict,
    /// It got further than the view stands, there.
    Ahead(Offset),
}

/// Folds the records from where the view stands up to `end` and writes them, as the speed layer does.
pub async fn turn(
    store: &CqlStore,
    view: &Arc<View>,
    number: u32,
    from: Offset,
    end: Offset,
) -> Result<Turn, StoreError> {
    let place = partition(number);
    let mut segments: Vec<(Segment, Counts)> = Vec::new();
    for offset in from..end {
        let segment = segment_at(offset);
        if segments.last().is_none_or(|(last, _)| *last != segment) {
            segments.push((segment, Counts::new()));
        }
        if let Some((_, counts)) = segments.last_mut() {
            *counts.entry(group_of(number, offset)).or_default() += 1;
        }
    }
    // The segment that is open at the end: a cut belongs to the one that begins there.
    let to = Progress { offset: end, segment: segment_at(end.max(1) - 1) };
    let mut written = Vec::new();
    for (segment, mut touched) in segments {
        if segment.start < from {
            let through = to.offset.min(segment.start + SEGMENT);
            let at = Progress { offset: from, segment };
            // Others stand where they stand, and may want these groups next.
            let mut beside = Vec::new();
            for other in (0..PARTITIONS).filter(|other| *other != number) {
                beside.push(Beside { partition: other, at: store.progress(view, &partition(other)).await? });
            }
            let priors = store.deltas(view, &place, at, &states(view, &touched), &beside).await?;
            for ((group, count), reached) in counted(&priors.states).into_iter().zip(priors.through) {
                if reached >= through {
                    touched.remove(&group);
                } else if reached > from {
                    return Ok(Turn::Ahead(reached));
                } else if let Some(counted) = touched.get_mut(&group) {
                    *counted += count;
                }
            }
        }
        written.push((segment, states(view, &touched)));
    }
    let views = vec![ViewDeltas { view: view.clone(), segments: written }];
    match store.write_deltas(DeltaWrite { partition: place, from, to, views }).await? {
        WriteOutcome::Written => Ok(Turn::Written(end)),
        WriteOutcome::Conflict => Ok(Turn::Conflict),
    }
}

/// Where a view stands in a partition.
pub async fn stands(store: &CqlStore, view: &Arc<View>, number: u32) -> Result<Offset, StoreError> {
    let progress = store.progress(view, &partition(number)).await?.offset;
    let published = store.published().await?;
    let frontier = published.as_ref().and_then(|published| published.of(view)?.1.get(&partition(number)));
    Ok(progress.max(frontier.unwrap_or(0)))
}

/// Writes and publishes a generation of everything before a frontier.
pub async fn generation(
    store: &CqlStore,
    view: &Arc<View>,
    number: u64,
    frontier: &Position,
) -> Result<PublishOutcome, StoreError> {
    let rows = stream::iter([Ok(states(view, &truth(frontier)))]).boxed();
    store.write_generation(view, number, rows).await?;
    let views = [(view.name.clone(), view.fingerprint.clone())].into();
    store.publish(&Published { generation: number, frontier: frontier.clone(), views, behind: Vec::new() }).await
}
