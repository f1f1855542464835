//! Lookups: both layers merged, every parameter, every refusal.

use serde_json::{Value, json};
use views::Offsets;

use crate::house::House;

fn click(url: &str, minute: u32, bytes: i64) -> Value {
    json!({"url": url, "ts": format!("2026-11-20T10:{minute:02}:07.5Z"), "bytes": bytes, "user_id": "u1"})
}

fn tile(minute: u32) -> String {
    format!("2026-11-20T10:{minute:02}:00Z")
}

#[tokio::test]
async fn an_answer_has_exactly_the_members_of_the_contract() {
    let house = House::of(&["page_views"]).await;
    let position = house.events_folded(&json!([click("/a", 0, 3), click("/a", 0, 4)])).await;
    let reply = house.get("/v1/views/page_views?url=/a").await;
    assert_eq!(
        reply.text().split("\"position\"").next(),
        Some(
            "{\"view\":\"page_views\",\"rows\":[{\"url\":\"/a\",\"minute\":\"2026-11-20T10:00:00Z\",\"views\":2,\
             \"bytes\":7,\"mean_bytes\":3}],\"generation\":null,"
        )
    );
    let answer = reply.json();
    let members: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["cursor", "freshness_ms", "generation", "position", "rows", "view"]);
    let reached = Offsets::from_token(answer["position"].as_str().expect("a token")).expect("a token");
    assert!(reached.covers(&Offsets::from_token(&position).expect("a token")));
    assert_eq!((&answer["freshness_ms"], &answer["cursor"]), (&json!(0), &Value::Null));
}

#[tokio::test]
async fn generation_and_deltas_are_one_answer() {
    let house = House::of(&["page_views"]).await;
    house.events_folded(&json!([click("/a", 0, 1), click("/a", 1, 2), click("/b", 0, 9)])).await;
    house.batch_run(1).await;
    let answer = house.get("/v1/views/page_views?url=/a").await.json();
    assert_eq!((&answer["generation"], answer["rows"].as_array().map(Vec::len)), (&json!(1), Some(2)));
    house.events_folded(&json!([click("/a", 1, 4), click("/a", 2, 8)])).await;
    let answer = house.get("/v1/views/page_views?url=/a").await.json();
    let row = |minute, views, bytes| json!({"url": "/a", "minute": tile(minute), "views": views, "bytes": bytes, "mean_bytes": bytes / views});
    assert_eq!(answer["rows"], json!([row(0, 1, 1), row(1, 2, 6), row(2, 1, 8)]));
}

#[tokio::test]
async fn an_unknown_key_has_no_rows_and_an_unknown_view_is_404() {
    let house = House::of(&["page_views"]).await;
    assert_eq!(house.get("/v1/views/page_views?url=/nowhere").await.json()["rows"], json!([]));
    let problem = house.get("/v1/views/nothing?url=/a").await.problem(404);
    assert_eq!(
        (&problem["view"], &problem["detail"]),
        (&json!("nothing"), &json!("there is no view `nothing`; there are page_views"))
    );
    for (wrong, hint) in
        [("page_view", true), ("pageviews", true), ("Page_Views", true), ("%F0%9F%8C%8A", false), ("p", false)]
    {
        let problem = house.get(&format!("/v1/views/{wrong}?url=/a")).await.problem(404);
        let detail = problem["detail"].as_str().expect("a detail");
        assert_eq!(detail.ends_with("; did you mean `page_views`?"), hint, "{detail}");
    }
    let long = house.get(&format!("/v1/views/{}", "x".repeat(5000))).await.problem(404);
    assert!(long.to_string().len() < 600, "{long}");
    house.post("/v1/views/nothing/lookup", "application/json", "{\"keys\":[]}").await.problem(404);
}

#[tokio::test]
async fn every_wrong_parameter_is_named() {
    let house = House::of(&["page_views", "sums"]).await;
    for (query, parameter) in [
        ("", "url"),
        ("limit=3", "url"),
        ("url=/a&url=/b", "url"),
        ("url=/a&colour=red", "colour"),
        ("url=/a&url.null=true", "url.null"),
        ("url.null=yes", "url.null"),
        ("url=%ff", "url"),
        ("url=%zz", "url"),
        ("url=%2", "url"),
        ("url=/a&minute=noon", "minute"),
        ("url=/a&from=yesterday", "from"),
        ("url=/a&to=", "to"),
        ("url=/a&from=2026-11-20T10:00:00Z&from=2026-11-20T10:00:00Z", "from"),
        ("url=/a&last=soon", "last"),
        ("url=/a&last=99999999999999y", "last"),
        ("url=/a&last=1h&from=2026-11-20T10:00:00Z", "last"),
        ("url=/a&rollup=90s", "rollup"),
        ("url=/a&rollup=0s", "rollup"),
        ("url=/a&rollup=maybe", "rollup"),
        ("url=/a&rollup=true&order=minute", "order"),
        ("url=/a&order=height", "order"),
        ("url=/a&order=views,-views", "order"),
        ("url=/a&order=", "order"),
        ("url=/a&limit=0", "limit"),
        ("url=/a&limit=10001", "limit"),
        ("url=/a&limit=-1", "limit"),
        ("url=/a&cursor=AAAA", "cursor"),
        ("url=/a&cursor=%F0%9F%8C%8A", "cursor"),
        ("url=/a&explain=1", "explain"),
        ("url=/a&min_position=here", "min_position"),
        ("url=/a&timeout=31s", "timeout"),
        ("url=/a&timeout=soon", "timeout"),
        ("url=/a&max_staleness=old", "max_staleness"),
        ("url=/a&big=yes", "big"),
    ] {
        let problem = house.get(&format!("/v1/views/page_views?{query}")).await.problem(400);
        assert_eq!(problem["parameter"], parameter, "{query}: {problem}");
    }
    for parameter in ["from=2026-11-20", "to=2026-11-20", "last=1h", "rollup=true", "rollup=1h"] {
        let problem = house.get(&format!("/v1/views/sums?url=/a&{parameter}")).await.problem(400);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("no time column")), "{problem}");
    }
}

#[tokio::test]
async fn from_and_to_are_half_open_on_tiles() {
    let house = House::of(&["page_views"]).await;
    let clicks: Vec<Value> = (0..6).map(|minute| click("/a", minute, 1)).collect();
    house.events_folded(&json!(clicks)).await;
    let minutes = async |query: &str| -> Vec<u32> {
        let answer = house.get(&format!("/v1/views/page_views?url=/a&{query}")).await.json();
        let tiles = answer["rows"].as_array().expect("rows").iter().map(|row| row["minute"].as_str().expect("a tile"));
        tiles.map(|tile| tile[14..16].parse().expect("a minute")).collect()
    };
    assert_eq!(minutes("from=2026-11-20T10:02:00Z&to=2026-11-20T10:04:00Z").await, [2, 3]);
    assert_eq!(minutes("from=2026-11-20T10:02:00.000001Z&to=2026-11-20T10:04:00.000001Z").await, [3, 4]);
    assert_eq!(minutes("from=2026-11-20T11:04:00%2B01:00").await, [4, 5]);
    assert_eq!(minutes("to=2026-11-20T10:01:00Z").await, [0]);
    assert_eq!(minutes("from=2026-11-20").await.len(), 6);
    assert_eq!(minutes("from=2026-11-21").await.len(), 0);
    assert_eq!(minutes("from=2026-11-20T10:04:00Z&to=2026-11-20T10:02:00Z").await.len(), 0);
    assert_eq!(minutes("minute=2026-11-20T10:03:00Z").await, [3]);
    assert_eq!(minutes("last=1s").await.len(), 0);
    assert_eq!(minutes("last=100years").await.len(), 6);
}

#[tokio::test]
async fn rollups_merge_tiles() {
    let house = House::of(&["page_views"]).await;
    let mut clicks: Vec<Value> = (0..60).map(|minute| click("/a", minute, i64::from(minute))).collect();
    clicks.push(json!({"url": "/a", "ts": "2026-11-20T12:30:00Z", "bytes": 5}));
    house.events_folded(&json!(clicks[..30])).await;
    house.batch_run(1).await;
    house.events_folded(&json!(clicks[30..])).await;
    let rows =
        async |query: &str| house.get(&format!("/v1/views/page_views?url=/a&{query}")).await.json()["rows"].clone();
    let all: i64 = (0..60).sum::<i64>() + 5;
    assert_eq!(rows("rollup=true").await, json!([{"url": "/a", "views": 61, "bytes": all, "mean_bytes": all / 61}]));
    let hours = rows("rollup=1h").await;
    assert_eq!(
        hours[0],
        json!({"url": "/a", "minute": tile(0), "views": 60, "bytes": all - 5, "mean_bytes": (all - 5) / 60})
    );
    assert_eq!(hours[1]["minute"], "2026-11-20T12:00:00Z");
    assert_eq!(hours.as_array().map(Vec::len), Some(2));
    // Aligned to the epoch, not to the first tile.
    let sevens = rows("rollup=7m&from=2026-11-20T10:00:00Z&to=2026-11-20T10:14:00Z").await;
    let sum: i64 = sevens.as_array().expect("rows").iter().map(|row| row["views"].as_i64().expect("views")).sum();
    assert_eq!((sum, sevens.as_array().map(Vec::len)), (14, Some(3)));
    assert_eq!(rows("rollup=true&from=2026-11-21").await, json!([]));
    assert_eq!(rows("rollup=false&limit=1").await[0]["minute"], tile(0));
    assert_eq!(rows("rollup=1m").await.as_array().map(Vec::len), Some(61));
}

#[tokio::test]
async fn rolled_up_rows_of_other_groups_come_in_order_and_in_pages() {
    let house = House::of(&["by_status"]).await;
    // Later tiles have earlier urls: the order of first appearance is not the order of groups.
    let clicks: Vec<Value> = (0..20).map(|n| click(&format!("/{:02}", 20 - n), n, 1)).collect();
    house.events_folded(&json!(clicks)).await;
    for rollup in ["true", "1h"] {
        let mut urls = Vec::new();
        let mut cursor = String::new();
        loop {
            let target = format!("/v1/views/by_status?status=200&rollup={rollup}&limit=3{cursor}");
            let answer = house.get(&target).await.json();
            for row in answer["rows"].as_array().expect("rows") {
                urls.push(row["url"].as_str().expect("a url").to_owned());
            }
            match answer["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(urls, (1..=20).map(|n| format!("/{n:02}")).collect::<Vec<_>>(), "{rollup}");
    }
}

#[tokio::test]
async fn other_group_columns_filter_and_null_is_a_value() {
    let house = House::of(&["by_user"]).await;
    house
        .events_folded(&json!([
            {"url": "/a", "ts": 1, "user_id": "u"},
            {"url": "/b", "ts": 1, "user_id": "u", "kind": "BUY"},
            {"url": "/b", "ts": 1, "user_id": "u"},
            {"url": "/a", "ts": 1, "user_id": null},
            {"url": "/a", "ts": 1, "user_id": ""},
            {"url": "/b", "ts": 1, "user_id": ""}
        ]))
        .await;
    let count = async |query: &str| {
        house.get(&format!("/v1/views/by_user?{query}")).await.json()["rows"].as_array().map(Vec::len)
    };
    assert_eq!(count("user_id=u").await, Some(3));
    assert_eq!(count("user_id=u&page=/b").await, Some(2));
    assert_eq!(count("user_id=u&page=/b&kind=BUY").await, Some(1));
    assert_eq!(count("user_id=u&kind=VIEW&order=-views").await, Some(2));
    assert_eq!(count("user_id=u&page=/c").await, Some(0));
    assert_eq!(count("user_id.null=true").await, Some(1), "null is not the empty string");
    assert_eq!(count("user_id=").await, Some(2));
    assert_eq!(count("key.user_id=u&limit=5").await, Some(3));
}

#[tokio::test]
async fn having_drops_rows_of_the_merged_answer() {
    let house = House::of(&["popular"]).await;
    house.events_folded(&json!([{"url": "/a", "ts": 1, "user_id": "x"}, {"url": "/a", "ts": 1, "user_id": "y"}])).await;
    house.batch_run(1).await;
    assert_eq!(house.get("/v1/views/popular?url=/a").await.json()["rows"], json!([]));
    house.events_folded(&json!([{"url": "/a", "ts": 1, "user_id": "y"}])).await;
    let answer = house.get("/v1/views/popular?url=/a&explain=true").await.json();
    assert_eq!(answer["rows"][0]["user_id"], "y");
    assert_eq!(answer["rows"][0]["views"], 2);
    assert_eq!(answer["rows"].as_array().map(Vec::len), Some(1));
    // Neither layer's part passes alone, and both are shown to be there.
    assert_eq!(answer["rows"][0]["layers"]["batch"], json!({"generation": 1, "values": null}));
    assert_eq!(answer["rows"][0]["layers"]["speed"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn explain_adds_up_to_the_row() {
    let house = House::of(&["page_views"]).await;
    house.events_folded(&json!([click("/a", 0, 1), click("/a", 0, 2), click("/a", 1, 4)])).await;
    house.batch_run(3).await;
    // Many small segments: they have eight records each.
    for round in 0..5 {
        let clicks: Vec<Value> = (0..7).map(|n| click("/a", n % 3, 10 + round)).collect();
        house.events_folded(&json!(clicks)).await;
    }
    for query in ["", "&rollup=true", "&rollup=2m", "&order=-views", "&limit=2"] {
        let answer = house.get(&format!("/v1/views/page_views?url=/a&explain=true{query}")).await.json();
        let rows = answer["rows"].as_array().expect("rows");
        assert!(!rows.is_empty());
        let plain = house.get(&format!("/v1/views/page_views?url=/a{query}")).await.json();
        let mut deltas = 0;
        for (row, plain) in rows.iter().zip(plain["rows"].as_array().expect("rows")) {
            let layers = &row["layers"];
            for column in ["views", "bytes"] {
                let batch = layers["batch"]["values"][column].as_i64().unwrap_or(0);
                let speed = layers["speed"].as_array().expect("deltas").iter();
                let speed: i64 = speed.map(|delta| delta["values"][column].as_i64().expect("a value")).sum();
                assert_eq!(row[column].as_i64(), Some(batch + speed), "{column} of {row}");
            }
            for delta in layers["speed"].as_array().expect("deltas") {
                assert_eq!(delta["topic"], "clicks");
                let (segment, through) = (delta["segment"].as_u64(), delta["through_offset"].as_u64());
                assert!(segment <= through, "{delta}");
                assert!(delta["values"].get("url").is_none(), "group columns are not values: {delta}");
                deltas += 1;
            }
            let mut row = row.clone();
            row.as_object_mut().expect("a row").remove("layers");
            assert_eq!(row, *plain);
        }
        assert!(deltas > 3, "{answer}");
    }
    let answer = house.get("/v1/views/page_views?url=/a&explain=true&limit=1").await.json();
    assert_eq!(answer["rows"][0]["layers"]["batch"]["generation"], 3);
}

#[tokio::test]
async fn a_view_of_everything_answers_without_a_key() {
    let house = House::of(&["total"]).await;
    let asked = async |n: u64| {
        for query in ["", "?order=-n", "?explain=true", "?limit=1"] {
            let answer = house.get(&format!("/v1/views/total{query}")).await.json();
            assert_eq!(
                (&answer["rows"][0]["n"], answer["rows"].as_array().map(Vec::len)),
                (&json!(n), Some(1)),
                "{answer}"
            );
            assert!(answer["cursor"].is_null(), "{answer}");
        }
    };
    // As SQL has it: a count of nothing is a row.
    asked(0).await;
    house.events_folded(&json!([click("/a", 0, 1), click("/b", 0, 1)])).await;
    asked(2).await;
}

#[tokio::test]
async fn questions_that_take_too_much_are_refused() {
    let mut settings = serving_layer::ServeSettings::default();
    settings.lookup.scanned_states = 50;
    settings.lookup.answer_bytes = 2000;
    let house = House::open_with(settings, |log| log).await;
    let clicks: Vec<Value> = (0..49_i64).map(|n| json!({"url": "/a", "ts": n * 60_000_000})).collect();
    house.events_folded(&json!(clicks)).await;
    house.get("/v1/views/page_views?url=/a&limit=5").await.json();
    house.get("/v1/views/page_views?url=/a&rollup=true").await.json();
    let problem = house.get("/v1/views/page_views?url=/a").await.problem(422);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("2000 bytes")), "{problem}");
    house.get("/v1/views/page_views?url=/a&order=views").await.problem(422);
    let clicks: Vec<Value> = (0..49_i64).map(|n| json!({"url": "/a", "ts": (n + 50) * 60_000_000})).collect();
    house.events_folded(&json!(clicks)).await;
    let problem = house.get("/v1/views/page_views?url=/a&rollup=true").await.problem(422);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("narrow")), "{problem}");
    assert_eq!(problem["view"], "page_views");
    house.get("/v1/views/page_views?url=/a&limit=5").await.json();
}
