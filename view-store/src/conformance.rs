//! What every backend of the port must do, check by check. A backend's tests call [`suite`].
//!
//! A check panics when a promise is broken. It gets a store of its own, and names the promise it is about.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, stream};
use views::segment::Segment;
use views::{Application, ApplicationFile, Offset, Offsets, Position, Published, SegmentId, TopicPartition, View};

use crate::error::StoreError;
use crate::store::{
    DeltaWrite, KeyRange, Origin, Progress, PublishOutcome, StateRows, ViewDeltas, ViewStore, WriteOutcome,
};

type Store = Arc<dyn ViewStore>;

/// A minute in microseconds.
const MINUTE: i64 = 60_000_000;

/// Runs every check, each on a store that `make` gives: an empty one, every time.
pub async fn suite<Made: Future<Output = Store>>(make: impl Fn() -> Made) {
    macro_rules! run {
        ($($check:ident),* $(,)?) => {
            $(
                println!("view store: {}", stringify!($check).replace('_', " "));
                $check(make().await).await;
            )*
        };
    }
    run!(
        nothing_is_there_at_first,
        deltas_and_progress_appear_together,
        only_the_owner_of_the_place_writes,
        a_replay_changes_nothing,
        one_view_out_of_place_stops_the_whole_write,
        a_malformed_write_is_refused,
        deltas_are_found_by_segment_and_group,
        a_generation_is_invisible_before_it_is_published,
        publishing_is_decided_once,
        publishing_what_was_not_written_is_refused,
        the_frontier_covers_deltas_before_it,
        a_view_stands_at_the_frontier_when_its_deltas_are_behind,
        an_added_partition_counts_from_its_start,
        a_view_outside_the_generation_counts_from_the_start,
        a_view_left_out_stays_at_its_last_generation,
        a_changed_definition_stays_until_it_is_retired,
        writing_a_generation_again_replaces_it,
        a_published_generation_is_never_overwritten,
        an_empty_generation_is_one_all_the_same,
        a_generation_out_of_order_is_refused,
        a_generation_that_breaks_off_is_none,
        retiring_keeps_what_is_needed,
        a_running_read_survives_retiring,
        another_definition_sees_nothing,
        a_retired_definition_comes_back_empty,
        keys_select_their_groups,
        times_select_tiles,
        pages_continue_after_a_group,
        null_empty_and_unicode_keys_are_kept_apart,
        long_keys_and_states_are_kept,
        keys_longer_than_any_group_are_not_there,
        chunks_are_bounded_and_split_no_group,
        readers_see_one_moment,
    );
}

/// One row of `page_views` or of `urls` (which has only the url).
type Row = (Option<String>, i64, Option<String>, i64);

fn row(url: &str, count: i64) -> Row {
    (Some(url.to_owned()), 0, None, count)
}

fn tile(url: &str, minute: i64, country: &str, count: i64) -> Row {
    (Some(url.to_owned()), minute * MINUTE, Some(country.to_owned()), count)
}

fn application(urls: &str) -> Application {
    let avro = r#"{"type": "record", "name": "click", "fields": [
        {"name": "url", "type": ["null", "string"], "default": null},
        {"name": "country", "type": ["null", "string"], "default": null},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;
    let sql = format!(
        "CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 4);
        CREATE MATERIALIZED VIEW urls WITH (key = 'url') AS {urls};
        CREATE MATERIALIZED VIEW page_views WITH (key = 'url') AS
          SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, country, count(*) AS n
          FROM clicks GROUP BY url, minute, country;
        CREATE MATERIALIZED VIEW texts WITH (key = 'url') AS SELECT url, max(country) AS text FROM clicks GROUP BY url;"
    );
    let files = [("click.avsc", avro.to_owned()), ("views.sql", sql)];
    let files = files.map(|(path, text)| ApplicationFile { path: path.to_owned(), text });
    Application::compile(&files).expect("the application of this suite compiles")
}

fn view(name: &str) -> Arc<View> {
    named(&application("SELECT url, count(*) AS n FROM clicks GROUP BY url"), name)
}

/// `urls` after its user changed it.
fn changed_urls() -> Arc<View> {
    named(&application("SELECT url, count(*) AS n FROM clicks WHERE country = 'no' GROUP BY url"), "urls")
}

fn named(application: &Application, name: &str) -> Arc<View> {
    application.view(name).expect("a view of this suite").clone()
}

fn partition(number: u32) -> TopicPartition {
    TopicPartition::new("clicks", number)
}

fn segment(start: Offset, marker: u64) -> Segment {
    Segment { start, marker }
}

/// Rows as states, in the order of their groups.
fn states(view: &View, rows: &[Row]) -> RecordBatch {
    let mut rows = rows.to_vec();
    rows.sort();
    let mut columns: Vec<ArrayRef> = vec![Arc::new(rows.iter().map(|row| row.0.as_deref()).collect::<StringArray>())];
    if view.group_schema.fields().len() == 3 {
        columns.push(Arc::new(rows.iter().map(|row| Some(row.1)).collect::<TimestampMicrosecondArray>()));
        columns.push(Arc::new(rows.iter().map(|row| row.2.as_deref()).collect::<StringArray>()));
    }
    if &*view.name == "texts" {
        columns.push(Arc::new(rows.iter().map(|row| row.2.as_deref()).collect::<StringArray>()));
    } else {
        columns.push(Arc::new(rows.iter().map(|row| Some(row.3)).collect::<Int64Array>()));
    }
    batch(view, &columns)
}

fn batch(view: &View, columns: &[ArrayRef]) -> RecordBatch {
    let types = view.state_schema.fields().iter().map(|field| field.data_type());
    let columns = columns.iter().zip(types).map(|(column, wanted)| cast(column, wanted).expect("a cast"));
    RecordBatch::try_new(view.state_schema.clone(), columns.collect()).expect("states of this view")
}

/// States back to rows; the text of `texts` in the place of the country.
fn rows(view: &View, states: &RecordBatch) -> Vec<Row> {
    let text = |column: usize| cast(states.column(column), &DataType::Utf8).expect("text");
    let at = |column: &ArrayRef, row: usize| {
        let column = column.as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let last = states.num_columns() - 1;
    let urls = text(0);
    (0..states.num_rows())
        .map(|row| {
            let url = at(&urls, row);
            if &*view.name == "texts" {
                return (url, 0, at(&text(last), row), 0);
            }
            let count = states.column(last).as_primitive::<Int64Type>().value(row);
            if last == 1 {
                return (url, 0, None, count);
            }
            let minutes = cast(states.column(1), &DataType::Timestamp(TimeUnit::Microsecond, None)).expect("times");
            (url, minutes.as_primitive::<TimestampMicrosecondType>().value(row), at(&text(2), row), count)
        })
        .collect()
}

fn write(view: &Arc<View>, from: Offset, to: Offset, open: Segment, segments: &[(Segment, &[Row])]) -> DeltaWrite {
    write_to(0, view, from, to, open, segments)
}

fn write_to(
    number: u32,
    view: &Arc<View>,
    from: Offset,
    to: Offset,
    open: Segment,
    segments: &[(Segment, &[Row])],
) -> DeltaWrite {
    let segments = segments.iter().map(|(segment, rows)| (*segment, states(view, rows))).collect();
    let views = vec![ViewDeltas { view: view.clone(), segments }];
    DeltaWrite { partition: partition(number), from, to: Progress { offset: to, segment: open }, views }
}

async fn written(store: &Store, write: DeltaWrite) {
    assert_eq!(store.write_deltas(write).await.expect("a write"), WriteOutcome::Written);
}

async fn generation(store: &Store, view: &Arc<View>, number: u64, rows: &[Row]) -> u64 {
    let chunks = stream::iter([Ok(states(view, rows))]).boxed();
    store.write_generation(view, number, chunks).await.expect("a generation")
}

fn next(number: u64, frontier: &[(u32, Offset)], views: &[&Arc<View>]) -> Published {
    Published {
        generation: number,
        frontier: frontier.iter().map(|(number, offset)| (partition(*number), *offset)).collect(),
        views: views.iter().map(|view| (view.name.clone(), view.fingerprint.clone())).collect(),
        behind: Vec::new(),
    }
}

async fn publish(store: &Store, next: &Published) {
    assert_eq!(store.publish(next).await.expect("publishing"), PublishOutcome::Published);
}

/// A read to its end.
struct Seen {
    published: Option<Published>,
    position: Position,
    rows: Vec<Row>,
    origins: Vec<Origin>,
    chunks: Vec<usize>,
}

async fn read(store: &Store, view: &Arc<View>, range: &KeyRange) -> Seen {
    let read = store.read(view, range).await.expect("a read");
    let chunks: Vec<StateRows> = read.rows.map(|chunk| chunk.expect("a chunk")).collect().await;
    let mut seen = Seen {
        published: read.published.map(Arc::unwrap_or_clone),
        position: read.position,
        rows: vec![],
        origins: vec![],
        chunks: vec![],
    };
    for chunk in chunks {
        assert_eq!(chunk.states.schema(), view.state_schema);
        assert_eq!(chunk.states.num_rows(), chunk.origins.len(), "an origin per row");
        assert!(chunk.states.num_rows() > 0, "no chunk is empty");
        let rows = rows(view, &chunk.states);
        if let (Some(before), Some(after)) = (seen.rows.last(), rows.first()) {
            assert!(
                (&before.0, before.1, &before.2) < (&after.0, after.1, &after.2),
                "a group is split between chunks"
            );
        }
        seen.chunks.push(rows.len());
        seen.rows.extend(rows);
        seen.origins.extend(chunk.origins);
    }
    let groups: Vec<_> = seen.rows.iter().map(|row| (&row.0, row.1, &row.2)).collect();
    if &*view.name != "texts" {
        assert!(groups.is_sorted(), "rows are in the order of their groups");
    }
    seen
}

async fn all(store: &Store, view: &Arc<View>) -> Seen {
    read(store, view, &KeyRange::default()).await
}

/// The counts of each url over all rows read.
async fn counts(store: &Store, view: &Arc<View>) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for (url, _, _, count) in all(store, view).await.rows {
        *counts.entry(url.unwrap_or_default()).or_default() += count;
    }
    counts
}

fn expected(counts: &[(&str, i64)]) -> BTreeMap<String, i64> {
    counts.iter().map(|(url, count)| ((*url).to_owned(), *count)).collect()
}

fn key_of(view: &View, url: Option<&str>) -> Vec<ScalarValue> {
    let column: ArrayRef = Arc::new(StringArray::from(vec![url]));
    let column = cast(&column, view.group_schema.field(0).data_type()).expect("a key");
    vec![ScalarValue::try_from_array(&column, 0).expect("a key")]
}

fn under(view: &View, url: &str) -> KeyRange {
    KeyRange { key: Some(key_of(view, Some(url))), ..KeyRange::default() }
}

fn minute_of(view: &View, minute: i64) -> Option<ScalarValue> {
    let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![minute * MINUTE]));
    let column = cast(&column, view.group_schema.field(1).data_type()).expect("a time");
    Some(ScalarValue::try_from_array(&column, 0).expect("a time"))
}

fn is_invalid<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    assert!(matches!(outcome, Err(StoreError::Invalid(_))), "{outcome:?} is not refused");
}

async fn nothing_is_there_at_first(store: Store) {
    let urls = view("urls");
    assert_eq!(store.published().await.expect("published"), None);
    assert_eq!(store.progress(&urls, &partition(0)).await.expect("progress"), Progress::START);
    let seen = all(&store, &urls).await;
    assert!(seen.rows.is_empty() && seen.published.is_none() && seen.position.is_empty());
    store.retire(std::slice::from_ref(&urls)).await.expect("retiring nothing");
}

async fn deltas_and_progress_appear_together(store: Store) {
    let (urls, pages) = (view("urls"), view("page_views"));
    let mut both = write(&urls, 0, 10, Segment::FIRST, &[(Segment::FIRST, &[row("a", 7), row("b", 3)])]);
    let page_states = states(&pages, &[tile("a", 1, "no", 10)]);
    both.views.push(ViewDeltas { view: pages.clone(), segments: vec![(Segment::FIRST, page_states)] });
    written(&store, both).await;
    let reached = Progress { offset: 10, segment: Segment::FIRST };
    for view in [&urls, &pages] {
        assert_eq!(store.progress(view, &partition(0)).await.expect("progress"), reached);
        assert_eq!(store.progress(view, &partition(1)).await.expect("progress"), Progress::START);
        assert_eq!(all(&store, view).await.position, [(partition(0), 10)].into_iter().collect::<Offsets>());
    }
    let seen = all(&store, &urls).await;
    assert_eq!(seen.rows, [row("a", 7), row("b", 3)]);
    let origin = Origin::Speed { segment: SegmentId { partition: partition(0), start: 0 }, through: 10 };
    assert_eq!(seen.origins, [origin.clone(), origin]);

    // A delta is the state as of an offset: the next one takes its place. A cut ends the segment before it.
    let cut = segment(15, 0);
    written(&store, write(&urls, 10, 20, cut, &[(Segment::FIRST, &[row("a", 9)]), (cut, &[row("a", 5)])])).await;
    let seen = all(&store, &urls).await;
    assert_eq!(seen.rows, [row("a", 9), row("a", 5), row("b", 3)]);
    let through = |origin: &Origin| match origin {
        Origin::Speed { segment, through } => (segment.start, *through),
        Origin::Batch => (0, 0),
    };
    assert_eq!(seen.origins.iter().map(through).collect::<Vec<_>>(), [(0, 15), (15, 20), (0, 10)]);
    assert_eq!(seen.position.get(&partition(0)), Some(20));
    // No touched groups: the progress moves.
    written(&store, write(&urls, 20, 30, cut, &[])).await;
    assert_eq!(all(&store, &urls).await.position.get(&partition(0)), Some(30));
}

async fn only_the_owner_of_the_place_writes(store: Store) {
    let urls = view("urls");
    for from in [1, 5] {
        let early = write(&urls, from, 10, Segment::FIRST, &[(Segment::FIRST, &[row("a", 1)])]);
        assert_eq!(store.write_deltas(early).await.expect("a write"), WriteOutcome::Conflict);
    }
    assert!(all(&store, &urls).await.rows.is_empty());
    written(&store, write(&urls, 0, 10, Segment::FIRST, &[(Segment::FIRST, &[row("a", 1)])])).await;
    // A stale owner, which knows less and would write something else.
    let stale = write(&urls, 0, 4, Segment::FIRST, &[(Segment::FIRST, &[row("a", 100), row("z", 1)])]);
    assert_eq!(store.write_deltas(stale).await.expect("a write"), WriteOutcome::Conflict);
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 1)]));
    assert_eq!(store.progress(&urls, &partition(0)).await.expect("progress").offset, 10);
}

async fn a_replay_changes_nothing(store: Store) {
    let urls = view("urls");
    let first = write(&urls, 0, 10, Segment::FIRST, &[(Segment::FIRST, &[row("a", 1)])]);
    written(&store, first.clone()).await;
    written(&store, write(&urls, 10, 20, Segment::FIRST, &[(Segment::FIRST, &[row("a", 2)])])).await;
    assert_eq!(store.write_deltas(first).await.expect("a write"), WriteOutcome::Conflict);
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 2)]));
    assert_eq!(store.progress(&urls, &partition(0)).await.expect("progress").offset, 20);
}

async fn one_view_out_of_place_stops_the_whole_write(store: Store) {
    let (urls, pages) = (view("urls"), view("page_views"));
    written(&store, write(&pages, 0, 10, Segment::FIRST, &[])).await;
    let mut both = write(&urls, 0, 10, Segment::FIRST, &[(Segment::FIRST, &[row("a", 1)])]);
    both.views.push(ViewDeltas { view: pages, segments: vec![] });
    assert_eq!(store.write_deltas(both).await.expect("a write"), WriteOutcome::Conflict);
    assert!(all(&store, &urls).await.rows.is_empty());
    assert_eq!(store.progress(&urls, &partition(0)).await.expect("progress"), Progress::START);
}

async fn a_malformed_write_is_refused(store: Store) {
    let urls = view("urls");
    let rows: &[Row] = &[row("a", 1)];
    is_invalid(store.write_deltas(write(&urls, 0, 10, Segment::FIRST, &[(segment(10, 0), rows)])).await);
    is_invalid(store.write_deltas(write(&urls, 0, 10, segment(5, 1), &[(segment(0, 2), rows)])).await);
    is_invalid(store.write_deltas(write(&urls, 0, 10, segment(11, 0), &[])).await);
    is_invalid(store.write_deltas(write(&urls, 10, 5, Segment::FIRST, &[])).await);
    let twice = [(Segment::FIRST, rows), (Segment::FIRST, rows)];
    is_invalid(store.write_deltas(write(&urls, 0, 10, Segment::FIRST, &twice)).await);
    let mut elsewhere = write(&urls, 0, 10, Segment::FIRST, &[(Segment::FIRST, rows)]);
    elsewhere.partition = TopicPartition::new("another", 0);
    is_invalid(store.write_deltas(elsewhere).await);
    assert!(all(&store, &urls).await.rows.is_empty());
}

async fn deltas_are_found_by_segment_and_group(store: Store) {
    let urls = view("urls");
    let cut = segment(11, 1);
    let segments: [(Segment, &[Row]); 2] = [(Segment::FIRST, &[row("a", 1), row("b", 2)]), (cut, &[row("b", 3)])];
    written(&store, write(&urls, 0, 20, cut, &segments)).await;
    let groups = states(&urls, &[row("a", 0), row("b", 0), row("c", 0)]);
    let found = async |number, start, marker| {
        let at = Progress { offset: 20, segment: segment(start, marker) };
        let found = store.deltas(&urls, &partition(number), at, &groups, &[]).await.expect("deltas");
        (rows(&urls, &found.states), found.through)
    };
    // A cut ends what a segment's states can hold.
    assert_eq!(found(0, 0, 0).await, (vec![row("a", 1), row("b", 2)], vec![11, 11]));
    assert_eq!(found(0, 11, 1).await, (vec![row("b", 3)], vec![20]));
    for (number, start, marker) in [(0, 5, 0), (1, 0, 0), (0, 0, 7)] {
        assert_eq!(found(number, start, marker).await, (vec![], vec![]));
    }
    let many: Vec<Row> = (0..500).map(|number| row(&format!("u{number:03}"), number)).collect();
    written(&store, write(&urls, 20, 900, cut, &[(cut, &many)])).await;
    let at = Progress { offset: 900, segment: cut };
    let found = store.deltas(&urls, &partition(0), at, &states(&urls, &many), &[]).await.expect("deltas");
    assert_eq!(rows(&urls, &found.states), many);
    assert!(found.through.iter().all(|through| *through == 900));
}

async fn a_generation_is_invisible_before_it_is_published(store: Store) {
    let (urls, pages) = (view("urls"), view("page_views"));
    written(&store, write(&urls, 0, 10, Segment::FIRST, &[(Segment::FIRST, &[row("a", 4)])])).await;
    assert_eq!(generation(&store, &urls, 1, &[row("a", 3), row("b", 1)]).await, 2);
    assert_eq!(generation(&store, &pages, 1, &[tile("a", 1, "no", 3)]).await, 1);
    assert_eq!(store.published().await.expect("published"), None);
    let seen = all(&store, &urls).await;
    assert_eq!((seen.rows, seen.published), (vec![row("a", 4)], None));
    let published = next(1, &[(0, 9)], &[&urls, &pages]);
    publish(&store, &published).await;
    assert_eq!(store.published().await.expect("published"), Some(published.clone()));
    let seen = all(&store, &urls).await;
    // The delta's segment starts before the frontier: the generation has it.
    assert_eq!(seen.rows, [row("a", 3), row("b", 1)]);
    assert_eq!(seen.origins, [Origin::Batch, Origin::Batch]);
    assert_eq!(seen.published, Some(published));
    assert_eq!(all(&store, &pages).await.rows, [tile("a", 1, "no", 3)]);
}

async fn publishing_is_decided_once(store: Store) {
    let urls = view("urls");
    for number in [1, 2, 3, 4] {
        generation(&store, &urls, number, &[row("a", number as i64)]).await;
    }
    let second = next(2, &[(0, 20)], &[&urls]);
    publish(&store, &second).await;
    assert_eq!(store.publish(&second).await.expect("publishing"), PublishOutcome::AlreadyVisible);
    let first = store.publish(&next(1, &[(0, 10)], &[&urls])).await.expect("publishing");
    assert_eq!(first, PublishOutcome::Superseded { by: 2 });
    is_invalid(store.publish(&next(3, &[(0, 19)], &[&urls])).await);
    is_invalid(store.publish(&next(3, &[(1, 30)], &[&urls])).await);
    assert_eq!(store.published().await.expect("published"), Some(second));
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 2)]));
    publish(&store, &next(4, &[(0, 20), (1, 5)], &[&urls])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 4)]));
}

async fn publishing_what_was_not_written_is_refused(store: Store) {
    let (urls, pages) = (view("urls"), view("page_views"));
    generation(&store, &urls, 1, &[row("a", 1)]).await;
    is_invalid(store.publish(&next(1, &[(0, 5)], &[&urls, &pages])).await);
    is_invalid(store.publish(&next(2, &[(0, 5)], &[&urls])).await);
    assert_eq!(store.published().await.expect("published"), None);
}

async fn the_frontier_covers_deltas_before_it(store: Store) {
    let urls = view("urls");
    let past = segment(11, 1);
    let segments: [(Segment, &[Row]); 2] = [(Segment::FIRST, &[row("a", 10)]), (past, &[row("a", 4), row("b", 5)])];
    written(&store, write(&urls, 0, 20, past, &segments)).await;
    written(&store, write_to(1, &urls, 0, 7, Segment::FIRST, &[(Segment::FIRST, &[row("a", 7)])])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 21), ("b", 5)]));
    generation(&store, &urls, 1, &[row("a", 17)]).await;
    publish(&store, &next(1, &[(0, 11), (1, 8)], &[&urls])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 21), ("b", 5)]));
    let seen = all(&store, &urls).await;
    assert_eq!(seen.rows, [row("a", 17), row("a", 4), row("b", 5)]);
    let position: Offsets = [(partition(0), 20), (partition(1), 8)].into_iter().collect();
    assert_eq!(seen.position, position, "the further of deltas and frontier");
    assert_eq!(read(&store, &urls, &under(&urls, "a")).await.rows, [row("a", 17), row("a", 4)]);
}

async fn a_view_stands_at_the_frontier_when_its_deltas_are_behind(store: Store) {
    let urls = view("urls");
    written(&store, write(&urls, 0, 5, Segment::FIRST, &[(Segment::FIRST, &[row("a", 5)])])).await;
    generation(&store, &urls, 1, &[row("a", 10)]).await;
    publish(&store, &next(1, &[(0, 11)], &[&urls])).await;
    assert_eq!(store.progress(&urls, &partition(0)).await.expect("progress").offset, 5);
    let behind = write(&urls, 5, 12, segment(11, 1), &[(segment(11, 1), &[row("a", 1)])]);
    assert_eq!(store.write_deltas(behind).await.expect("a write"), WriteOutcome::Conflict);
    written(&store, write(&urls, 11, 12, segment(11, 1), &[(segment(11, 1), &[row("a", 1)])])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 11)]));
}

async fn an_added_partition_counts_from_its_start(store: Store) {
    let urls = view("urls");
    written(&store, write(&urls, 0, 10, Segment::FIRST, &[(Segment::FIRST, &[row("a", 10)])])).await;
    generation(&store, &urls, 3, &[row("a", 10)]).await;
    publish(&store, &next(3, &[(0, 11)], &[&urls])).await;
    // The new partition has no marker yet.
    written(&store, write_to(2, &urls, 0, 4, Segment::FIRST, &[(Segment::FIRST, &[row("a", 4)])])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 14)]));
    store.retire(std::slice::from_ref(&urls)).await.expect("retiring");
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 14)]), "retiring must not touch it");
    generation(&store, &urls, 4, &[row("a", 14)]).await;
    publish(&store, &next(4, &[(0, 12), (2, 5)], &[&urls])).await;
    store.retire(std::slice::from_ref(&urls)).await.expect("retiring");
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 14)]));
}

async fn a_view_outside_the_generation_counts_from_the_start(store: Store) {
    let (urls, pages) = (view("urls"), view("page_views"));
    let cut = segment(6, 1);
    let segments: [(Segment, &[Row]); 2] = [(Segment::FIRST, &[row("a", 5)]), (cut, &[row("a", 4)])];
    written(&store, write(&urls, 0, 10, cut, &segments)).await;
    generation(&store, &pages, 1, &[tile("a", 0, "no", 5)]).await;
    publish(&store, &next(1, &[(0, 6)], &[&pages])).await;
    store.retire(&[urls.clone(), pages.clone()]).await.expect("retiring");
    let seen = all(&store, &urls).await;
    assert_eq!((seen.rows, seen.published), (vec![row("a", 5), row("a", 4)], None));
    assert_eq!(seen.position.get(&partition(0)), Some(10));
    assert_eq!(all(&store, &pages).await.position.get(&partition(0)), Some(6));
}

/// Whoever publishes may know less of the views than the one before him; what a view has is not his to take.
async fn a_view_left_out_stays_at_its_last_generation(store: Store) {
    let (urls, pages) = (view("urls"), view("page_views"));
    let both = [urls.clone(), pages.clone()];
    let (first, second) = (segment(6, 1), segment(11, 2));
    let segments: [(Segment, &[Row]); 3] =
        [(Segment::FIRST, &[row("a", 5)]), (first, &[row("a", 4)]), (second, &[row("b", 2)])];
    written(&store, write(&urls, 0, 13, second, &segments)).await;
    generation(&store, &urls, 1, &[row("a", 5)]).await;
    generation(&store, &pages, 1, &[tile("a", 0, "no", 5)]).await;
    publish(&store, &next(1, &[(0, 6)], &[&urls, &pages])).await;
    store.retire(&both).await.expect("retiring");
    for number in [2, 3] {
        generation(&store, &pages, number, &[tile("a", 0, "no", 9)]).await;
        publish(&store, &next(number, &[(0, 11)], &[&pages])).await;
        for _ in 0..2 {
            let seen = all(&store, &urls).await;
            assert_eq!(seen.rows, [row("a", 5), row("a", 4), row("b", 2)]);
            let own = seen.published.expect("its last generation");
            assert_eq!(own, next(1, &[(0, 6)], &[&urls]), "the boundary travels with the rows");
            assert_eq!(seen.position.get(&partition(0)), Some(13));
            assert_eq!(all(&store, &pages).await.published.map(|published| published.generation), Some(number));
            let visible = store.published().await.expect("published").expect("a generation");
            assert_eq!(
                visible.of(&urls).map(|(number, frontier)| (number, frontier.get(&partition(0)))),
                Some((1, Some(6)))
            );
            store.retire(&both).await.expect("retiring");
        }
    }
    // It goes on from where it stands, and the next generation that holds it takes it along.
    written(&store, write(&urls, 13, 14, second, &[(second, &[row("b", 3)])])).await;
    generation(&store, &urls, 4, &[row("a", 9), row("b", 3)]).await;
    publish(&store, &next(4, &[(0, 15)], &[&urls])).await;
    store.retire(&both).await.expect("retiring");
    let seen = all(&store, &urls).await;
    assert_eq!((seen.rows, seen.published.map(|own| own.generation)), (vec![row("a", 9), row("b", 3)], Some(4)));
    assert_eq!(all(&store, &pages).await.published.map(|own| own.generation), Some(3));
}

/// Readers of the old definition have it whole until somebody lets go of it, the run that replaced it being dead or not.
async fn a_changed_definition_stays_until_it_is_retired(store: Store) {
    let (urls, changed) = (view("urls"), changed_urls());
    generation(&store, &urls, 1, &[row("a", 5)]).await;
    publish(&store, &next(1, &[(0, 6)], &[&urls])).await;
    store.retire(std::slice::from_ref(&urls)).await.expect("retiring");
    generation(&store, &changed, 2, &[row("a", 1)]).await;
    publish(&store, &next(2, &[(0, 9)], &[&changed])).await;
    let seen = all(&store, &urls).await;
    assert_eq!((seen.rows, seen.position.get(&partition(0))), (vec![row("a", 5)], Some(6)));
    assert_eq!(counts(&store, &changed).await, expected(&[("a", 1)]));
    store.retire(std::slice::from_ref(&changed)).await.expect("retiring");
    let seen = all(&store, &urls).await;
    assert!(seen.rows.is_empty() && seen.published.is_none() && seen.position.is_empty());
    assert_eq!(counts(&store, &changed).await, expected(&[("a", 1)]));
    assert_eq!(store.published().await.expect("published"), Some(next(2, &[(0, 9)], &[&changed])));
}

async fn writing_a_generation_again_replaces_it(store: Store) {
    let urls = view("urls");
    generation(&store, &urls, 1, &[row("a", 1), row("left over", 1)]).await;
    generation(&store, &urls, 1, &[row("a", 2), row("b", 2)]).await;
    publish(&store, &next(1, &[(0, 5)], &[&urls])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 2), ("b", 2)]));
}

async fn a_published_generation_is_never_overwritten(store: Store) {
    let urls = view("urls");
    generation(&store, &urls, 2, &[row("a", 1)]).await;
    publish(&store, &next(2, &[(0, 5)], &[&urls])).await;
    assert_eq!(generation(&store, &urls, 2, &[row("x", 9), row("y", 9)]).await, 2);
    assert_eq!(generation(&store, &urls, 1, &[row("x", 9)]).await, 1);
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 1)]));
    store.retire(std::slice::from_ref(&urls)).await.expect("retiring");
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 1)]));
}

async fn an_empty_generation_is_one_all_the_same(store: Store) {
    let urls = view("urls");
    written(&store, write(&urls, 0, 5, Segment::FIRST, &[])).await;
    assert_eq!(store.write_generation(&urls, 1, stream::empty().boxed()).await.expect("a generation"), 0);
    publish(&store, &next(1, &[(0, 6)], &[&urls])).await;
    let seen = all(&store, &urls).await;
    assert!(seen.rows.is_empty());
    assert_eq!(seen.published.map(|published| published.generation), Some(1));
    assert_eq!(seen.position.get(&partition(0)), Some(6));
}

async fn a_generation_out_of_order_is_refused(store: Store) {
    let urls = view("urls");
    for second in ["a", "b"] {
        let chunks = [Ok(states(&urls, &[row("b", 1)])), Ok(states(&urls, &[row(second, 1)]))];
        is_invalid(store.write_generation(&urls, 1, stream::iter(chunks).boxed()).await);
    }
    is_invalid(store.publish(&next(1, &[(0, 5)], &[&urls])).await);
}

async fn a_generation_that_breaks_off_is_none(store: Store) {
    let urls = view("urls");
    let broken = StoreError::unavailable("reading the archive", "it is away");
    let chunks = [Ok(states(&urls, &[row("a", 1)])), Err(broken)];
    assert!(store.write_generation(&urls, 1, stream::iter(chunks).boxed()).await.is_err());
    is_invalid(store.publish(&next(1, &[(0, 5)], &[&urls])).await);
    generation(&store, &urls, 1, &[row("b", 2)]).await;
    publish(&store, &next(1, &[(0, 5)], &[&urls])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("b", 2)]));
}

async fn retiring_keeps_what_is_needed(store: Store) {
    let urls = view("urls");
    let kept = std::slice::from_ref(&urls);
    let (first, second) = (segment(11, 1), segment(21, 2));
    let segments: [(Segment, &[Row]); 3] =
        [(Segment::FIRST, &[row("a", 1)]), (first, &[row("a", 2)]), (second, &[row("a", 4)])];
    written(&store, write(&urls, 0, 30, second, &segments)).await;
    store.retire(kept).await.expect("retiring");
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 7)]), "nothing is published: everything is needed");
    generation(&store, &urls, 1, &[row("a", 1)]).await;
    generation(&store, &urls, 2, &[row("a", 3)]).await;
    publish(&store, &next(1, &[(0, 11)], kept.iter().collect::<Vec<_>>().as_slice())).await;
    store.retire(kept).await.expect("retiring");
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 7)]));
    // The newer one was being written by another run.
    publish(&store, &next(2, &[(0, 21)], &[&urls])).await;
    store.retire(kept).await.expect("retiring");
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 7)]));
    assert_eq!(all(&store, &urls).await.rows, [row("a", 3), row("a", 4)]);
    written(&store, write(&urls, 30, 31, second, &[(second, &[row("a", 5)])])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 8)]));
}

async fn a_running_read_survives_retiring(store: Store) {
    let urls = view("urls");
    let many: Vec<Row> = (0..20_000).map(|number| row(&format!("u{number:05}"), 1)).collect();
    generation(&store, &urls, 1, &many).await;
    written(&store, write(&urls, 0, 50_000, Segment::FIRST, &[(Segment::FIRST, &many)])).await;
    publish(&store, &next(1, &[(1, 1)], &[&urls])).await;
    let mut running = store.read(&urls, &KeyRange::default()).await.expect("a read");
    let first = running.rows.next().await.expect("a chunk").expect("a chunk");
    generation(&store, &urls, 2, &[row("a", 1)]).await;
    publish(&store, &next(2, &[(0, 50_001), (1, 1)], &[&urls])).await;
    store.retire(std::slice::from_ref(&urls)).await.expect("retiring");
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 1)]));
    let mut read: i64 = rows(&urls, &first.states).iter().map(|row| row.3).sum();
    while let Some(chunk) = running.rows.next().await {
        read += rows(&urls, &chunk.expect("a chunk").states).iter().map(|row| row.3).sum::<i64>();
    }
    assert_eq!(read, 40_000, "the read sees the moment it began at, whole");
}

async fn another_definition_sees_nothing(store: Store) {
    let (urls, changed) = (view("urls"), changed_urls());
    assert_ne!(urls.fingerprint, changed.fingerprint);
    written(&store, write(&urls, 0, 5, Segment::FIRST, &[(Segment::FIRST, &[row("a", 5)])])).await;
    generation(&store, &urls, 1, &[row("a", 5)]).await;
    publish(&store, &next(1, &[(0, 6)], &[&urls])).await;
    let seen = all(&store, &changed).await;
    assert!(seen.rows.is_empty() && seen.published.is_none() && seen.position.is_empty());
    assert_eq!(store.progress(&changed, &partition(0)).await.expect("progress"), Progress::START);
    // It starts over, and the old one is still answered until it is retired.
    written(&store, write(&changed, 0, 9, Segment::FIRST, &[(Segment::FIRST, &[row("a", 2)])])).await;
    assert_eq!(counts(&store, &changed).await, expected(&[("a", 2)]));
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 5)]));
}

async fn a_retired_definition_comes_back_empty(store: Store) {
    let (urls, changed) = (view("urls"), changed_urls());
    written(&store, write(&urls, 0, 5, Segment::FIRST, &[(Segment::FIRST, &[row("a", 5)])])).await;
    generation(&store, &urls, 1, &[row("a", 5)]).await;
    publish(&store, &next(1, &[(0, 6)], &[&urls])).await;
    store.retire(std::slice::from_ref(&changed)).await.expect("retiring");
    let seen = all(&store, &urls).await;
    assert!(seen.rows.is_empty() && seen.published.is_none());
    let published = store.published().await.expect("published").expect("generation 1 is still the visible one");
    assert_eq!((published.generation, published.frontier.get(&partition(0))), (1, Some(6)));
    assert!(published.views.is_empty(), "and holds nothing of a view that was let go of");
    written(&store, write(&urls, 0, 3, Segment::FIRST, &[(Segment::FIRST, &[row("a", 3)])])).await;
    assert_eq!(counts(&store, &urls).await, expected(&[("a", 3)]));
}

async fn keys_select_their_groups(store: Store) {
    let (urls, pages) = (view("urls"), view("page_views"));
    generation(&store, &urls, 1, &[row("a", 1), row("ab", 2), row("b", 3)]).await;
    let tiles = [tile("a", 1, "no", 1), tile("a", 1, "se", 2), tile("a", 2, "no", 3), tile("ab", 1, "no", 4)];
    generation(&store, &pages, 1, &tiles).await;
    publish(&store, &next(1, &[(0, 1)], &[&urls, &pages])).await;
    let open = segment(1, 1);
    written(&store, write(&urls, 1, 9, open, &[(open, &[row("a", 5), row("c", 5)])])).await;
    written(&store, write(&pages, 1, 9, open, &[(open, &[tile("a", 1, "se", 7), tile("b", 1, "no", 7)])])).await;
    assert_eq!(read(&store, &urls, &under(&urls, "a")).await.rows, [row("a", 1), row("a", 5)]);
    assert_eq!(read(&store, &urls, &under(&urls, "ab")).await.rows, [row("ab", 2)]);
    assert_eq!(read(&store, &urls, &under(&urls, "c")).await.rows, [row("c", 5)]);
    assert!(read(&store, &urls, &under(&urls, "nobody")).await.rows.is_empty());
    let seen = read(&store, &pages, &under(&pages, "a")).await.rows;
    let wanted = [tile("a", 1, "no", 1), tile("a", 1, "se", 2), tile("a", 1, "se", 7), tile("a", 2, "no", 3)];
    assert_eq!(seen, wanted);
    let wrong = KeyRange { key: Some(vec![ScalarValue::Int64(Some(1))]), ..KeyRange::default() };
    assert!(store.read(&urls, &wrong).await.is_err(), "a key of another type");
}

async fn times_select_tiles(store: Store) {
    let pages = view("page_views");
    let tiles: Vec<Row> = (0..10).map(|minute| tile("a", minute, "no", minute)).collect();
    let others = [tile("A", 5, "no", 1), tile("b", 5, "no", 1), tile("b", 7, "no", 1)];
    generation(&store, &pages, 1, &[tiles.as_slice(), &others].concat()).await;
    publish(&store, &next(1, &[(0, 1)], &[&pages])).await;
    let minutes = async |key: Option<&str>, from: Option<i64>, to: Option<i64>| {
        let range = KeyRange {
            key: key.map(|url| key_of(&pages, Some(url))),
            from: from.and_then(|minute| minute_of(&pages, minute)),
            to: to.and_then(|minute| minute_of(&pages, minute)),
            after: None,
        };
        let rows = read(&store, &pages, &range).await.rows;
        rows.into_iter().map(|row| (row.0.unwrap_or_default(), row.1 / MINUTE)).collect::<Vec<_>>()
    };
    let of = |url: &str, minutes: std::ops::Range<i64>| minutes.map(|m| (url.to_owned(), m)).collect::<Vec<_>>();
    assert_eq!(minutes(Some("a"), Some(3), Some(6)).await, of("a", 3..6));
    assert_eq!(minutes(Some("a"), Some(8), None).await, of("a", 8..10));
    assert_eq!(minutes(Some("a"), None, Some(2)).await, of("a", 0..2));
    assert_eq!(minutes(Some("a"), Some(6), Some(3)).await, []);
    assert_eq!(minutes(Some("b"), Some(6), None).await, of("b", 7..8));
    let everywhere = [of("A", 5..6), of("a", 5..7), of("b", 5..6)].concat();
    assert_eq!(minutes(None, Some(5), Some(7)).await, everywhere);
    let urls = view("urls");
    let untimed = KeyRange { from: minute_of(&pages, 1), ..KeyRange::default() };
    assert!(store.read(&urls, &untimed).await.is_err(), "a view without tiles");
}

async fn pages_continue_after_a_group(store: Store) {
    let pages = view("page_views");
    let codec = views::stored::StateCodec::new(&pages).expect("a codec");
    let tiles: Vec<Row> = (0..6).map(|minute| tile("a", minute, "no", 1)).collect();
    generation(&store, &pages, 1, &[tiles.as_slice(), &[tile("b", 0, "no", 1)]].concat()).await;
    publish(&store, &next(1, &[(0, 1)], &[&pages])).await;
    let open = segment(1, 1);
    written(&store, write(&pages, 1, 9, open, &[(open, &tiles)])).await;
    for page in 0..6 {
        let last = codec.encode(&states(&pages, &tiles[page..=page])).expect("a group");
        let after = Some(last.group(0).to_vec());
        let seen = read(&store, &pages, &KeyRange { after: after.clone(), ..under(&pages, "a") }).await.rows;
        assert_eq!(seen.len(), 2 * (5 - page), "after minute {page}");
        assert!(seen.iter().all(|row| row.1 > tiles[page].1));
        let beyond = read(&store, &pages, &KeyRange { after, ..KeyRange::default() }).await.rows;
        assert_eq!(beyond.len(), 2 * (5 - page) + 1);
    }
    let urls = view("urls");
    let codec = views::stored::StateCodec::new(&urls).expect("a codec");
    generation(&store, &urls, 2, &[row("a", 1), row("b", 1)]).await;
    publish(&store, &next(2, &[(0, 2)], &[&urls])).await;
    let last = codec.encode(&states(&urls, &[row("a", 0)])).expect("a group").group(0).to_vec();
    for (key, wanted) in [("a", 0), ("b", 1)] {
        let range = KeyRange { after: Some(last.clone()), ..under(&urls, key) };
        assert_eq!(read(&store, &urls, &range).await.rows.len(), wanted, "{key} after a");
    }
}

async fn null_empty_and_unicode_keys_are_kept_apart(store: Store) {
    let urls = view("urls");
    let keys = [None, Some(""), Some("\0"), Some("\0\0"), Some("a\0b"), Some("ÿ"), Some("日本語"), Some("\u{10ffff}")];
    let all_rows: Vec<Row> = keys.iter().zip(1..).map(|(key, n)| (key.map(str::to_owned), 0, None, n)).collect();
    generation(&store, &urls, 1, &all_rows).await;
    publish(&store, &next(1, &[(0, 1)], &[&urls])).await;
    let open = segment(1, 1);
    written(&store, write(&urls, 1, 9, open, &[(open, &all_rows)])).await;
    for (key, n) in keys.iter().zip(1..) {
        let range = KeyRange { key: Some(key_of(&urls, *key)), ..KeyRange::default() };
        let wanted: Row = (key.map(str::to_owned), 0, None, n);
        assert_eq!(read(&store, &urls, &range).await.rows, [wanted.clone(), wanted], "{key:?}");
    }
    assert_eq!(all(&store, &urls).await.rows.len(), 2 * keys.len());
}

async fn long_keys_and_states_are_kept(store: Store) {
    let texts = view("texts");
    let long: Vec<Row> = [0, 1, 8, 9, 32, 33, 255, 256, 5_000, 50_000]
        .iter()
        .map(|length| (Some("k".repeat(*length)), 0, Some("t".repeat(length * 10)), 0))
        .collect();
    generation(&store, &texts, 1, &long).await;
    publish(&store, &next(1, &[(0, 1)], &[&texts])).await;
    let open = segment(1, 1);
    let deltas: Vec<Row> = long
        .iter()
        .map(|row| (row.0.clone(), 0, Some(format!("{}!", row.0.as_deref().unwrap_or_default())), 0))
        .collect();
    written(&store, write(&texts, 1, 9, open, &[(open, &deltas)])).await;
    for (of_batch, of_speed) in long.iter().zip(&deltas) {
        let range = KeyRange { key: Some(key_of(&texts, of_batch.0.as_deref())), ..KeyRange::default() };
        assert!(read(&store, &texts, &range).await.rows == [of_batch.clone(), of_speed.clone()]);
    }
}

/// Questions are anybody's, and their keys of any length.
async fn keys_longer_than_any_group_are_not_there(store: Store) {
    let (urls, pages) = (view("urls"), view("page_views"));
    generation(&store, &urls, 1, &[row("a", 1)]).await;
    generation(&store, &pages, 1, &[tile("a", 1, "no", 1)]).await;
    publish(&store, &next(1, &[(0, 1)], &[&urls, &pages])).await;
    for length in [60_000, 63_000, 64_000, 65_000, 65_535, 65_536, 70_000, 200_000] {
        let long = "a".repeat(length);
        let after = Some(long.clone().into_bytes());
        for view in [&urls, &pages] {
            assert!(read(&store, view, &under(view, &long)).await.rows.is_empty());
            read(&store, view, &KeyRange { after: after.clone(), ..KeyRange::default() }).await;
            read(&store, view, &KeyRange { after: after.clone(), ..under(view, "a") }).await;
        }
        for (from, to) in
            [(minute_of(&pages, 0), None), (None, minute_of(&pages, 9)), (minute_of(&pages, 1), minute_of(&pages, 2))]
        {
            assert!(read(&store, &pages, &KeyRange { from, to, ..under(&pages, &long) }).await.rows.is_empty());
        }
    }
}

async fn chunks_are_bounded_and_split_no_group(store: Store) {
    let urls = view("urls");
    let many: Vec<Row> = (0..10_000).map(|number| row(&format!("u{number:05}"), 1)).collect();
    generation(&store, &urls, 1, &many).await;
    publish(&store, &next(1, &[(3, 1)], &[&urls])).await;
    for number in 0..3 {
        written(&store, write_to(number, &urls, 0, 50_000, Segment::FIRST, &[(Segment::FIRST, &many)])).await;
    }
    // `read` checks that no group is split.
    let seen = all(&store, &urls).await;
    assert_eq!(seen.rows.len(), 40_000);
    assert!(seen.chunks.iter().all(|rows| *rows <= 8192), "chunks of {:?} rows", seen.chunks);

    let texts = view("texts");
    let large: Vec<Row> = (0..12)
        .map(|number| (Some(format!("{number:02}")), 0, Some(format!("{number:02}").repeat(1 << 20)), 0))
        .collect();
    generation(&store, &texts, 2, &large).await;
    publish(&store, &next(2, &[(3, 1)], &[&texts])).await;
    let seen = all(&store, &texts).await;
    assert_eq!(seen.rows.len(), 12);
    assert!(seen.chunks.len() > 1, "24 MB in one chunk");
}

/// Writers add one to every url of a partition in each write, and publish; so at every moment the counts of all urls are
/// equal, and say what the position says.
async fn readers_see_one_moment(store: Store) {
    const URLS: i64 = 40;
    const STEPS: u64 = 60;
    let urls = view("urls");
    let row_of = |url: i64, count: u64| row(&format!("u{url:02}"), count as i64);
    let (done, is_done) = tokio::sync::watch::channel(false);
    let writing = async {
        let mut open = [Segment::FIRST; 2];
        let mut counted = [0_u64; 2];
        for step in 1..=STEPS {
            for number in 0..2_u32 {
                let place = number as usize;
                counted[place] += 1;
                let (from, to) = (step - 1, step);
                // The deltas of a segment count from its start.
                let in_segment: Vec<Row> = (0..URLS).map(|url| row_of(url, to - open[place].start)).collect();
                let write = write_to(number, &urls, from, to, open[place], &[(open[place], &in_segment)]);
                written(&store, write).await;
            }
            if step % 15 == 0 {
                let marker = step / 15;
                let rows: Vec<Row> = (0..URLS).map(|url| row_of(url, 2 * step)).collect();
                generation(&store, &urls, marker, &rows).await;
                publish(&store, &next(marker, &[(0, step), (1, step)], &[&urls])).await;
                open = [segment(step, marker); 2];
                store.retire(std::slice::from_ref(&urls)).await.expect("retiring");
            }
        }
        done.send_replace(true);
    };
    let reading = |ranges: Vec<KeyRange>| {
        let (store, urls, is_done) = (store.clone(), urls.clone(), is_done.clone());
        tokio::spawn(async move {
            // Of each range: different keys may be seen at different moments.
            let mut reached = vec![0; ranges.len()];
            let mut reads = 0_u64;
            while !*is_done.borrow() || reads == 0 {
                for (range, reached) in ranges.iter().zip(&mut reached) {
                    let seen = read(&store, &urls, range).await;
                    let position: Offset = seen.position.iter().map(|(_, offset)| offset).sum();
                    assert!(position >= *reached, "the position went back from {reached} to {position}");
                    *reached = position;
                    let mut sums: BTreeMap<Option<String>, i64> = BTreeMap::new();
                    for (url, _, _, count) in seen.rows {
                        *sums.entry(url).or_default() += count;
                    }
                    assert!(position == 0 || !sums.is_empty());
                    for (url, sum) in sums {
                        assert_eq!(sum, position as i64, "{url:?} at {}", seen.position);
                    }
                    reads += 1;
                }
                tokio::task::yield_now().await;
            }
            reads
        })
    };
    let everything = reading(vec![KeyRange::default()]);
    let one = reading(vec![under(&urls, "u00"), under(&urls, "u39")]);
    writing.await;
    assert!(everything.await.expect("the reader of everything") > 0);
    assert!(one.await.expect("the reader of one") > 0);
    assert_eq!(counts(&store, &urls).await.get("u00"), Some(&(2 * STEPS as i64)));
}
