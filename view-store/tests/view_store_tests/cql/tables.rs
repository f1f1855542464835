//! What is in the tables: an operator reads them, and another version of this program must notice when they change.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;
use futures::{StreamExt, stream};
use scylla::value::{CqlValue, Row};
use view_store::cql::layout::{Layout, table_name};
use view_store::store::{DeltaWrite, KeyRange, Progress, ViewDeltas, ViewStore, WriteOutcome};
use view_store::{CqlOptions, CqlStore};
use views::{Position, Segment};

use super::server::Keyspace;
use super::world::{self, partition};

/// The statements that make the tables of the fixture's views, as they were when they were last changed on purpose.
#[test]
fn the_layout_is_frozen() {
    let layout = |name: &str| Layout::new(&world::view(name), "tidemark", "table_of_the_view").statements();
    let without_fingerprint = |create: String| create.split(" AND comment").next().map(str::to_owned);
    let found: Vec<String> =
        ["minutes", "texts", "many-Types"].iter().filter_map(|name| without_fingerprint(layout(name).create)).collect();
    let found = found.join(";\n\n") + ";\n";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/view_store_tests/cql/tables.cql");
    let frozen = std::fs::read_to_string(&file).expect("the frozen layout");
    assert!(found == frozen, "the layout is now\n\n{found}\nIf that is meant, write it to {}", file.display());
    let name = table_name(&world::view("many-Types"), 7);
    assert!(name.starts_with("many_types_") && name.ends_with("_00000007") && name.len() <= 48, "{name}");
}

async fn only_row(keyspace: &Keyspace, columns: &str) -> Vec<Option<CqlValue>> {
    let table = keyspace.tables().await.remove(0);
    let found = keyspace.run(&format!("SELECT {columns} FROM KS.\"{table}\"")).await;
    found.into_rows_result().expect("rows").single_row::<Row>().expect("one row").columns
}

#[tokio::test]
async fn group_columns_can_be_read() {
    let keyspace = Keyspace::new("typed").await;
    let store = keyspace.store().await;
    let view = world::view("many-Types");
    let day = 20_000;
    let columns: Vec<ArrayRef> = view
        .state_schema
        .fields()
        .iter()
        .map(|field| match (field.name().as_str(), field.data_type()) {
            ("url", _) => Arc::new(StringArray::from(vec!["/å"])) as ArrayRef,
            ("bytes" | "n", _) => Arc::new(Int64Array::from(vec![-12])),
            ("state", _) => Arc::new(StringArray::from(vec![None::<&str>])),
            ("large", _) => Arc::new(BooleanArray::from(vec![true])),
            ("day", _) => Arc::new(Date32Array::from(vec![day])),
            (_, DataType::Timestamp(..)) => {
                Arc::new(TimestampMicrosecondArray::from(vec![i64::from(day) * 86_400_000_000]))
            }
            ("half", DataType::Decimal128(..)) => Arc::new(Decimal128Array::from(vec![15])),
            _ => Arc::new(Int64Array::from(vec![1])),
        })
        .collect();
    let states = world::batch(&view, &columns);
    let views = vec![ViewDeltas { view: view.clone(), segments: vec![(Segment::FIRST, states)] }];
    let to = Progress { offset: 10, segment: Segment::FIRST };
    let write = DeltaWrite { partition: partition(0), from: 0, to, views };
    assert_eq!(store.write_deltas(write).await.expect("a write"), WriteOutcome::Written);
    let found = only_row(
        &keyspace,
        "url, bytes, minute, state_, large, day, log_partition, segment, through, marker, writetime(state)",
    );
    let found = found.await;
    let (text, number) = (|text: &str| Some(CqlValue::Text(text.to_owned())), |n| Some(CqlValue::BigInt(n)));
    let millis = i64::from(day) * 86_400_000;
    assert_eq!(found[..2], [text("/å"), number(-12)]);
    assert_eq!(found[2], Some(CqlValue::Timestamp(scylla::value::CqlTimestamp(millis))));
    assert_eq!(found[3..5], [None, Some(CqlValue::Boolean(true))]);
    assert_eq!(found[5], Some(CqlValue::Date(scylla::value::CqlDate((1 << 31) + day as u32))));
    assert_eq!(found[6..], [Some(CqlValue::Int(0)), number(0), number(10), number(0), number(10)]);
    keyspace.drop().await;
}

#[tokio::test]
async fn the_longest_groups_are_kept() {
    let keyspace = Keyspace::new("longest").await;
    let store = keyspace.store().await;
    let view = world::view("minutes");
    let codec = views::stored::StateCodec::new(&view).expect("a codec");
    // Encoded, text takes a byte more for every 32.
    let length = (1..views::stored::MAX_GROUP)
        .rev()
        .find(|length| {
            let counts = [(("k".repeat(*length), 0), 1)].into();
            codec.encode(&world::states(&view, &counts)).expect("a group").group(0).len() <= views::stored::MAX_GROUP
        })
        .expect("a length");
    let counts: world::Counts = [((format!("{}y", "k".repeat(length - 1)), 0), 1), (("k".repeat(length), 0), 2)].into();
    println!("keys of {length} bytes");
    let views =
        vec![ViewDeltas { view: view.clone(), segments: vec![(Segment::FIRST, world::states(&view, &counts))] }];
    let to = Progress { offset: 10, segment: Segment::FIRST };
    let write = DeltaWrite { partition: partition(0), from: 0, to, views };
    assert_eq!(store.write_deltas(write).await.expect("a write"), WriteOutcome::Written);
    let rows = stream::iter([Ok(world::states(&view, &counts))]).boxed();
    store.write_generation(&view, 1, rows).await.expect("a generation");
    for ((url, minute), count) in &counts {
        let range = KeyRange { key: Some(world::key(&view, url)), ..KeyRange::default() };
        let found = world::counts(&store, &view, &range).await.expect("a read").0;
        assert!(found == [((url.clone(), *minute), *count)].into());
    }
    keyspace.drop().await;
}

#[tokio::test]
async fn rows_of_a_generation_expire_with_their_tile() {
    let keyspace = Keyspace::new("expire").await;
    let store = keyspace.store().await;
    let view = world::view("kept");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs() as i64;
    let day = 24 * 3600;
    let counts: world::Counts = [(("u".to_owned(), (now - 100 * day) / 60), 1)].into();
    world_generation(&store, &view, &counts, 1).await;
    let found = only_row(&keyspace, "ttl(state)").await;
    let Some(CqlValue::Int(left)) = found[0] else { panic!("{found:?}") };
    assert!((i64::from(left) - 301 * day).abs() < 600, "{left} s left");
    keyspace.drop().await;
}

async fn world_generation(store: &CqlStore, view: &Arc<views::View>, counts: &world::Counts, number: u64) {
    let rows = stream::iter([Ok(world::states(view, counts))]).boxed();
    store.write_generation(view, number, rows).await.expect("a generation");
}

#[tokio::test]
async fn retired_rows_and_tables_are_gone() {
    let keyspace = Keyspace::new("gone").await;
    let options = CqlOptions { grace: Duration::from_millis(10), ..keyspace.options() };
    let store = CqlStore::connect(options).await.expect("a store");
    let (view, texts) = (world::view("minutes"), world::view("texts"));
    for turn in 0..4 {
        let written = world::turn(&store, &view, 0, turn * 20, turn * 20 + 20).await.expect("a turn");
        assert_eq!(written, world::Turn::Written(turn * 20 + 20));
    }
    let frontier: Position = [(partition(0), 40)].into_iter().collect();
    for number in 1..=2 {
        world::generation(&store, &view, number, &frontier).await.expect("a generation");
    }
    // An attempt that nobody publishes.
    world_generation(&store, &view, &world::truth(&frontier), 3).await;
    let views = vec![ViewDeltas { view: texts.clone(), segments: vec![] }];
    let to = Progress { offset: 5, segment: Segment::FIRST };
    store.write_deltas(DeltaWrite { partition: partition(0), from: 0, to, views }).await.expect("a write");
    assert_eq!(keyspace.tables().await.len(), 2);
    println!("waiting for rows to be retired");
    store.retire(std::slice::from_ref(&view)).await.expect("retiring");
    let tables = keyspace.tables().await;
    assert_eq!(tables.len(), 1, "{tables:?}");
    let found = keyspace.run(&format!("SELECT generation, log_partition, segment FROM KS.\"{}\"", tables[0])).await;
    let mut left: BTreeMap<(i64, bool), usize> = BTreeMap::new();
    for row in found.into_rows_result().expect("rows").rows::<(i64, i32, i64)>().expect("rows") {
        let (generation, partition, segment) = row.expect("a row");
        assert!(partition < 0 || segment >= 40, "{generation} {partition} {segment}");
        *left.entry((generation, partition < 0)).or_default() += 1;
    }
    let groups = world::truth(&frontier).len();
    assert_eq!(left.get(&(2, true)), Some(&groups));
    assert_eq!(left.get(&(3, true)), Some(&groups), "newer than the visible one");
    assert_eq!(left.keys().copied().collect::<Vec<_>>(), [(0, false), (2, true), (3, true)]);
    let progress =
        keyspace.run("SELECT view_table FROM KS.progress").await.into_rows_result().expect("rows").rows_num();
    assert_eq!(progress, 1);
    world::check(&store, &view, None, &mut Position::new()).await.expect("a read");
    keyspace.drop().await;
}
