//! Values: keys of every type, numbers that do not fit JSON, names that do not fit a URL.

use serde_json::{Value, json};

use crate::house::House;

#[tokio::test]
async fn keys_of_every_type_are_found() {
    let house = House::open().await;
    house
        .events_folded(&json!({
            "url": "/a", "ts": "2026-11-20T10:00:00.123456Z", "bytes": -5, "price": "12.30", "ratio": 0.1,
            "kind": "BUY", "day": "2026-11-20", "flag": true, "blob": "AP8="
        }))
        .await;
    for (view, query) in [
        ("by_bytes", "bytes=-5"),
        ("by_price", "price=12.30"),
        ("by_price", "price=12.3"),
        ("by_ratio", "ratio=0.1"),
        ("by_ratio", "ratio=1e-1"),
        ("by_kind", "kind=BUY"),
        ("by_day", "day=2026-11-20"),
        ("by_flag", "flag=true"),
        ("by_blob", "blob=AP8%3D"),
        ("by_blob", "blob=AP8"),
        ("by_status", "status=200"),
    ] {
        let answer = house.get(&format!("/v1/views/{view}?{query}")).await.json();
        assert_eq!(answer["rows"].as_array().map(Vec::len), Some(1), "{view}?{query}: {answer}");
    }
    for at in ["2026-11-20T10:00:00.123456Z", "2026-11-20T11:00:00.123456%2B01:00", "1795168800123456"] {
        let found = house.get(&format!("/v1/views/by_ts?at={at}")).await.json();
        assert_eq!(found["rows"], json!([{"at": "2026-11-20T10:00:00.123456Z", "n": 1}]), "{at}");
    }
    let row = async |target: &str| house.get(target).await.json()["rows"][0].clone();
    assert_eq!(row("/v1/views/by_price?price=12.3").await, json!({"price": 12.30, "n": 1}));
    assert_eq!(row("/v1/views/by_day?day=2026-11-20").await, json!({"day": "2026-11-20", "n": 1}));
    assert_eq!(row("/v1/views/by_blob?blob=AP8=").await, json!({"blob": "AP8=", "n": 1}));
    assert_eq!(row("/v1/views/by_flag?flag=true").await, json!({"flag": true, "n": 1}));
}

#[tokio::test]
async fn values_that_are_not_of_the_type_are_refused() {
    let house = House::open().await;
    for (view, parameter, values) in [
        ("by_bytes", "bytes", &["", "x", "1.5", "9223372036854775808", "0x10"][..]),
        ("by_status", "status", &["2147483648", "200%20"]),
        ("by_price", "price", &["", "x", "1e400"]),
        ("by_ratio", "ratio", &["", "one"]),
        ("by_day", "day", &["", "2026-13-01", "20261120"]),
        ("by_flag", "flag", &["", "1", "TRUE"]),
        ("by_blob", "blob", &["*", "AAA*"]),
        ("by_ts", "at", &["", "now", "2026-11-20T25:00:00Z"]),
    ] {
        for value in values {
            let problem = house.get(&format!("/v1/views/{view}?{parameter}={value}")).await.problem(400);
            assert_eq!(problem["parameter"], parameter, "{view} {value}");
        }
    }
}

#[tokio::test]
async fn big_numbers_are_exact_where_strings_are_asked_for() {
    let house = House::of(&["sums", "by_price"]).await;
    house
        .events_folded(&json!([
            {"url": "/a", "ts": 1, "bytes": 9_007_199_254_740_992_i64, "price": "123456789012345678.91"},
            {"url": "/a", "ts": 2, "bytes": 1, "price": "0.00", "day": "1960-02-29"}
        ]))
        .await;
    let plain = house.get("/v1/views/sums?url=/a").await;
    assert!(plain.text().contains("\"total\":9007199254740993,\"revenue\":123456789012345678.91,"), "{}", plain.text());
    let row = &plain.json()["rows"][0];
    assert_eq!(row["never"], Value::Null, "infinities are null");
    let each = row["each"].as_array().expect("a list");
    assert!(each.contains(&json!(1)) && each.len() == 2);
    assert_eq!(row["first"], "1970-01-01T00:00:00.000001Z");
    assert_eq!(row["last_day"], "1970-01-01");
    let strings = house.get("/v1/views/sums?url=/a&big=string").await.json();
    let row = &strings["rows"][0];
    assert_eq!(row["total"], "9007199254740993");
    assert_eq!(row["revenue"], "123456789012345678.91");
    // 2^53 itself is exact.
    assert!(row["each"].as_array().is_some_and(|each| each.contains(&json!(9_007_199_254_740_992_i64))));
    let found = house.get("/v1/views/by_price?price=123456789012345678.91&big=string").await.json();
    assert_eq!(found["rows"][0]["price"], "123456789012345678.91");
}

#[tokio::test]
async fn names_of_any_letters_come_back_as_they_went_in() {
    let house = House::of(&["page_views"]).await;
    for (url, encoded) in [
        ("/ü?x=1&y=2#z", "/%C3%BC?x=1%26y=2%23z"),
        ("🌊 tide", "%F0%9F%8C%8A+tide"),
        ("a\"b\\c\n\u{1}\u{7f}", "a%22b%5Cc%0A%01%7F"),
        ("+%", "%2B%25"),
        ("", ""),
    ] {
        house.events_folded(&json!({"url": url, "ts": 1})).await;
        let answer = house.get(&format!("/v1/views/page_views?url={encoded}")).await.json();
        assert_eq!(answer["rows"][0]["url"], *url, "{encoded}");
    }
}
