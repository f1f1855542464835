//! Pages: every row once, in order, while the data changes.

use serde_json::{Value, json};

use crate::house::House;

async fn page(house: &House, query: &str, cursor: Option<&str>) -> (Vec<Value>, Option<String>) {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let answer = house.get(&format!("/v1/views/page_views?url=/a&{query}{cursor}")).await.json();
    (answer["rows"].as_array().expect("rows").clone(), answer["cursor"].as_str().map(str::to_owned))
}

fn clicks(tiles: impl Iterator<Item = u64>) -> Value {
    tiles.map(|tile| json!({"url": "/a", "ts": tile * 60_000_000, "bytes": tile % 7})).collect()
}

#[tokio::test]
async fn pages_in_group_order_have_every_row_once_while_data_changes() {
    let house = House::of(&["page_views", "sums"]).await;
    house.events_folded(&clicks((0..50).map(|n| n * 10))).await;
    for limit in [1, 3, 7, 25, 49, 50, 51] {
        let mut seen: Vec<String> = Vec::new();
        let mut cursor = None;
        let mut pages = 0;
        loop {
            let (rows, next) = page(&house, &format!("limit={limit}"), cursor.as_deref()).await;
            assert!(rows.len() <= limit);
            seen.extend(rows.iter().map(|row| row["minute"].as_str().expect("a tile").to_owned()));
            pages += 1;
            let Some(next) = next else { break };
            assert_eq!(rows.len(), limit);
            cursor = Some(next);
            if pages == 1 {
                // What was seen grows, what was not gets company, and the layers change places.
                house.events_folded(&clicks([0, 490].into_iter())).await;
            }
            if pages == 2 && limit == 7 {
                house.batch_run(1).await;
            }
        }
        assert!(seen.is_sorted(), "{seen:?}");
        seen.dedup();
        assert_eq!(seen.len(), 50, "limit {limit}");
    }
}

#[tokio::test]
async fn new_rows_behind_the_cursor_are_on_a_later_page() {
    let house = House::of(&["page_views", "sums"]).await;
    house.events_folded(&clicks([10, 20, 30].into_iter())).await;
    let (_, cursor) = page(&house, "limit=2", None).await;
    house.events_folded(&clicks([5, 25].into_iter())).await;
    let (rows, cursor) = page(&house, "limit=2", cursor.as_deref()).await;
    let tiles: Vec<&Value> = rows.iter().map(|row| &row["minute"]).collect();
    assert_eq!(tiles, ["1970-01-01T00:25:00Z", "1970-01-01T00:30:00Z"]);
    assert_eq!(cursor, None);
}

#[tokio::test]
async fn ordered_pages_follow_the_order_and_ties_their_group() {
    let house = House::of(&["page_views", "sums"]).await;
    house.events_folded(&clicks(0..40)).await;
    for (query, key) in [
        ("order=-bytes", "bytes"),
        ("order=-bytes,minute", "bytes"),
        ("order=bytes,-minute", "bytes"),
        ("order=-minute", "minute"),
        ("order=mean_bytes,url,views", "mean_bytes"),
    ] {
        let (all, none) = page(&house, query, None).await;
        assert_eq!((all.len(), none), (40, None), "{query}");
        let mut paged = Vec::new();
        let mut cursor = None;
        loop {
            let (rows, next) = page(&house, &format!("{query}&limit=9"), cursor.as_deref()).await;
            paged.extend(rows);
            let Some(next) = next else { break };
            cursor = Some(next);
        }
        assert_eq!(paged, all, "{query}");
        let keys: Vec<String> = all.iter().map(|row| row[key].to_string()).collect();
        let descending = query.starts_with("order=-");
        assert!(if descending { keys.iter().rev().is_sorted() } else { keys.is_sorted() }, "{query}: {keys:?}");
    }
}

#[tokio::test]
async fn a_cursor_fits_only_its_question() {
    let house = House::of(&["page_views", "sums"]).await;
    house.events_folded(&clicks(0..10)).await;
    house.events_folded(&json!([{"url": "/b", "ts": 1}])).await;
    let (_, cursor) = page(&house, "limit=2", None).await;
    let cursor = cursor.expect("a cursor");
    page(&house, "limit=5&from=1970-01-01", Some(&cursor)).await;
    for other in [
        format!("/v1/views/page_views?url=/b&cursor={cursor}"),
        format!("/v1/views/page_views?url=/a&order=views&cursor={cursor}"),
        format!("/v1/views/page_views?url=/a&rollup=1h&cursor={cursor}"),
        format!("/v1/views/sums?url=/a&cursor={cursor}"),
        format!("/v1/views/page_views?url=/a&cursor={}", &cursor[..8]),
    ] {
        assert_eq!(house.get(&other).await.problem(400)["parameter"], "cursor");
    }
}

#[tokio::test]
async fn a_thousand_rows_are_the_default_and_ten_thousand_the_most() {
    let house = House::of(&["page_views", "sums"]).await;
    house.events_folded(&clicks(0..1100)).await;
    let (rows, cursor) = page(&house, "explain=false", None).await;
    assert_eq!(rows.len(), 1000);
    let (rest, end) = page(&house, "explain=false", cursor.as_deref()).await;
    assert_eq!((rest.len(), end), (100, None));
    let (rows, cursor) = page(&house, "limit=10000", None).await;
    assert_eq!((rows.len(), cursor), (1100, None));
}
