//! Many keys at once: one result each, in order; one that is wrong fails alone.

use serde_json::{Value, json};

use crate::house::House;

#[tokio::test]
async fn results_come_in_order_and_fail_alone() {
    let house = House::of(&["page_views"]).await;
    house
        .events_folded(&json!([{"url": "/a", "ts": 1}, {"url": "/b", "ts": 1}, {"url": "/b", "ts": 60_000_000}]))
        .await;
    let body = json!({"keys": [
        {"url": "/b"}, {"url": "/nowhere"}, {"url": 5}, {}, {"url": "/a", "colour": 1}, {"url": "/a"}, 7, {"url": "/b"}
    ], "limit": 1});
    let reply = house.post("/v1/views/page_views/lookup", "application/json", body.to_string()).await.json();
    assert_eq!(reply["view"], "page_views");
    let results = reply["results"].as_array().expect("results");
    let rows = |index: usize| results[index]["rows"].as_array().map(Vec::len);
    assert_eq!([rows(0), rows(1), rows(5), rows(7)], [Some(1), Some(0), Some(1), Some(1)]);
    assert_eq!(results[0], results[7]);
    assert!(results[0]["cursor"].is_string() && results[5]["cursor"].is_null());
    for (index, parameter) in [(2, "url"), (3, "url"), (4, "colour"), (6, "keys")] {
        let error = &results[index]["error"];
        assert_eq!((&error["status"], &error["parameter"]), (&json!(400), &json!(parameter)), "{index}: {error}");
    }
}

#[tokio::test]
async fn options_are_those_of_single_lookups() {
    let house = House::of(&["page_views"]).await;
    let events: Vec<Value> = (0..4).map(|n| json!({"url": "/a", "ts": n * 60_000_000, "bytes": 1_i64 << 60})).collect();
    let position = house.events_folded(&json!(events)).await;
    let ask = async |body: Value| house.post("/v1/views/page_views/lookup", "application/json", body.to_string()).await;
    let all = json!({
        "keys": [{"url": "/a"}], "from": "1970-01-01T00:01:00Z", "to": "1970-01-02", "rollup": true, "big": "string",
        "explain": true, "min_position": position, "timeout": "1s", "max_staleness": "1h", "order": "-views", "last": null
    });
    let reply = ask(all).await.json();
    let row = &reply["results"][0]["rows"][0];
    assert_eq!((&row["views"], &row["bytes"]), (&json!(3), &json!((3_i64 << 60).to_string())));
    assert!(row["layers"].is_object());
    for (member, value) in [
        ("from", json!("soon")),
        ("rollup", json!(7)),
        ("limit", json!([1])),
        ("colour", json!(1)),
        ("cursor", json!("x")),
    ] {
        let problem = ask(json!({"keys": [], member: value})).await.problem(400);
        assert_eq!(problem["parameter"], member);
    }
    for body in [json!({}), json!({"keys": 1}), json!({"keys": vec![json!({"url": "/a"}); 1001]})] {
        assert_eq!(ask(body).await.problem(400)["parameter"], "keys");
    }
    assert_eq!(ask(json!({"keys": []})).await.json()["results"], json!([]));
    ask(json!([])).await.problem(400);
    house.post("/v1/views/page_views/lookup", "text/plain", "{}").await.problem(415);
    for twice in ["{\"keys\": [], \"keys\": []}", "{\"keys\": [], \"limit\": 1, \"limit\": 2}"] {
        house.post("/v1/views/page_views/lookup", "application/json", twice).await.problem(400);
    }
    let twice = house.post(
        "/v1/views/page_views/lookup",
        "application/json",
        "{\"keys\": [{\"url\": \"/a\", \"url\": \"/b\"}]}",
    );
    assert_eq!(twice.await.json()["results"][0]["error"]["parameter"], "url");
}

#[tokio::test]
async fn json_values_have_the_types_of_their_columns() {
    let house = House::open().await;
    house
        .events_folded(&json!({
            "url": "/a", "ts": 5, "bytes": 9_007_199_254_740_993_i64, "price": "1.50", "ratio": 0.5, "kind": "BUY",
            "flag": true, "blob": "AA==", "day": "2026-11-20"
        }))
        .await;
    for (view, column, good, bad) in [
        (
            "by_bytes",
            "bytes",
            vec![json!(9_007_199_254_740_993_i64), json!("9007199254740993")],
            vec![json!(0.5), json!(true)],
        ),
        ("by_price", "price", vec![json!("1.50"), json!(1.5)], vec![json!("x"), json!([1])]),
        ("by_ratio", "ratio", vec![json!(0.5)], vec![json!({})]),
        ("by_kind", "kind", vec![json!("BUY")], vec![json!(1)]),
        ("by_flag", "flag", vec![json!(true), json!("true")], vec![json!(1)]),
        ("by_blob", "blob", vec![json!("AA==")], vec![json!(0)]),
        ("by_day", "day", vec![json!("2026-11-20")], vec![json!(20_000)]),
        ("by_ts", "at", vec![json!(5), json!("1970-01-01T00:00:00.000005Z")], vec![json!(false)]),
        ("by_user", "user_id", vec![Value::Null], vec![json!(1)]),
    ] {
        let keys: Vec<Value> = good.iter().chain(&bad).map(|value| json!({column: value})).collect();
        let body = json!({"keys": keys}).to_string();
        let reply = house.post(&format!("/v1/views/{view}/lookup"), "application/json", body).await.json();
        for (index, result) in reply["results"].as_array().expect("results").iter().enumerate() {
            if index < good.len() {
                assert_eq!(result["rows"].as_array().map(Vec::len), Some(1), "{view}: {result}");
            } else {
                assert_eq!(result["error"]["parameter"], column, "{view}: {result}");
            }
        }
    }
}
