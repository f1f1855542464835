//! Positions and freshness: waiting, timing out, refusing what is stale.

use serde_json::json;
use views::{Offsets, TopicPartition};

use crate::house::{House, SOON};

#[tokio::test]
async fn min_position_waits_for_the_fold() {
    let house = House::of(&["page_views", "sums"]).await;
    let position = house.events(&json!({"url": "/a", "ts": 1})).await;
    let target = format!("/v1/views/page_views?url=/a&min_position={position}&timeout=30s");
    let mut waits = house.speed.waits.subscribe();
    let (reply, ()) = tokio::join!(house.get(&target), async {
        // The question has begun to wait: only then is there something to wait for.
        let waiting = waits.wait_for(|count| *count > 0);
        tokio::time::timeout(SOON, waiting).await.expect("nobody waits").expect("a sender");
        house.fold().await;
    });
    let answer = reply.json();
    assert_eq!(answer["rows"][0]["views"], 1);
    let reached = Offsets::from_token(answer["position"].as_str().expect("a token")).expect("a token");
    assert!(reached.covers(&Offsets::from_token(&position).expect("a token")));
    // Reached already: no wait at all.
    let target = format!("/v1/views/page_views?url=/a&min_position={position}&timeout=0s");
    assert_eq!(house.get(&target).await.json()["rows"][0]["views"], 1);
}

#[tokio::test]
async fn a_position_that_is_not_reached_is_a_timeout() {
    let house = House::of(&["page_views", "sums"]).await;
    let position = house.events(&json!({"url": "/a", "ts": 1})).await;
    for timeout in ["0s", "20ms"] {
        let target = format!("/v1/views/page_views?url=/a&min_position={position}&timeout={timeout}");
        let problem = house.get(&target).await.problem(504);
        assert_eq!((&problem["parameter"], &problem["view"]), (&json!("min_position"), &json!("page_views")));
    }
    let mut far = Offsets::new();
    far.set(&TopicPartition::new("clicks", 9), u64::MAX);
    house.fold().await;
    let target = format!("/v1/views/page_views?url=/a&min_position={}&timeout=1ms", far.token());
    house.get(&target).await.problem(504);
    // Another topic's position says nothing about this view.
    let mut other = Offsets::new();
    other.set(&TopicPartition::new("other", 0), 5);
    let target = format!("/v1/views/page_views?url=/a&min_position={}&timeout=1ms", other.token());
    house.get(&target).await.json();
}

#[tokio::test]
async fn staleness_is_measured_and_can_be_refused() {
    let house = House::of(&["page_views", "sums"]).await;
    assert_eq!(house.get("/v1/views/page_views?url=/a&max_staleness=0s").await.json()["freshness_ms"], 0);
    house.events(&json!({"url": "/a", "ts": 1})).await;
    let reply = house.get("/v1/views/page_views?url=/a&max_staleness=0s").await;
    assert_eq!(reply.header("retry-after"), Some("1"), "{}", reply.text());
    assert!(reply.problem(503)["type"].as_str().is_some_and(|name| name.ends_with(":stale")));
    house.get("/v1/views/page_views?url=/a&max_staleness=1h").await.json();
    house.fold().await;
    assert_eq!(house.get("/v1/views/page_views?url=/a&max_staleness=0s").await.json()["freshness_ms"], 0);
}

#[tokio::test]
async fn a_view_the_speed_layer_gave_up_on_says_so() {
    let house = House::of(&["page_views", "sums"]).await;
    let fail = |reason: &str| house.speed.failures.lock().insert("page_views".to_owned(), reason.to_owned());
    fail("division by zero at clicks/0@1");
    let problem = house.get("/v1/views/page_views?url=/a").await.problem(503);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("division by zero")));
    house.events_folded(&json!({"url": "/a", "ts": 1})).await;
    let answer = house.get("/v1/views/page_views?url=/a").await.json();
    assert_eq!(answer["rows"][0]["views"], 1);
    assert_eq!(answer["degraded"], json!({"as": "stale", "reason": "division by zero at clicks/0@1"}));
    assert!(house.get("/v1/views/sums?url=/a").await.json().get("degraded").is_none());
    let status = house.get("/v1/status").await.json();
    assert_eq!(status["views"]["page_views"]["failed"], "division by zero at clicks/0@1");
}

#[tokio::test]
async fn an_answer_staler_than_its_view_promises_says_so() {
    let house = House::of(&["promised", "sums"]).await;
    let of = async |view: &str| house.get(&format!("/v1/views/{view}?url=/a")).await.json();
    assert!(of("promised").await.get("degraded").is_none(), "idle: nothing is missing");
    house.events(&json!({"url": "/a", "ts": 1})).await;
    *house.speed.error.lock() = Some("the disk is full".to_owned());
    let answer = of("promised").await;
    let reason = answer["degraded"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("freshness_slo is 1us") && reason.contains("the disk is full"), "{reason}");
    assert!(of("sums").await.get("degraded").is_none(), "it promises nothing, and freshness_ms tells");
    house.fold().await;
    assert!(of("promised").await.get("degraded").is_none());
}

#[tokio::test]
async fn an_unknown_lag_is_not_zero() {
    let faults = event_log::LogFaults { error: 1.0, ..event_log::LogFaults::NONE };
    let mut faulty = None;
    let house = House::open_with(serving_layer::ServeSettings::default(), |log| {
        let log = std::sync::Arc::new(event_log::FaultyLog::new(log, 1, event_log::LogFaults::NONE));
        faulty = Some(log.clone());
        log
    })
    .await;
    let faulty = faulty.expect("a log");
    house.events(&json!({"url": "/a", "ts": 1})).await;
    // Nobody remembers when the record came, and the log does not say.
    faulty.set_faults(faults);
    let answer = house.get("/v1/views/page_views?url=/a").await.json();
    assert_eq!(answer["freshness_ms"], json!(null));
    assert!(answer["degraded"]["reason"].as_str().is_some_and(|reason| reason.contains("not known")), "{answer}");
    house.get("/v1/views/page_views?url=/a&max_staleness=1h").await.problem(503);
    // It says again: the age grows from one answer to the next, whether it is asked or remembered.
    faulty.set_faults(event_log::LogFaults::NONE);
    assert!(house.get("/v1/views/page_views?url=/a").await.json()["freshness_ms"].is_u64());
    faulty.set_faults(faults);
    let answer = house.get("/v1/views/page_views?url=/a").await.json();
    assert!(answer["freshness_ms"].is_u64(), "a record's append time never changes: {answer}");
    // A partition that nobody follows yet.
    house.speed.unknown.lock().insert(1);
    assert_eq!(house.get("/v1/views/page_views?url=/a").await.json()["freshness_ms"], json!(null));
}

#[tokio::test]
async fn the_status_says_how_long_the_oldest_record_has_waited() {
    let house = House::of(&["page_views"]).await;
    house.events(&json!([{"url": "/a", "ts": 1}, {"url": "/b", "ts": 1}, {"url": "/c", "ts": 1}])).await;
    *house.speed.error.lock() = Some("the disk is full".to_owned());
    let status = house.get("/v1/status").await.json();
    for partition in status["topics"]["clicks"]["partitions"].as_array().expect("partitions") {
        assert!(partition["lag_ms"].is_u64(), "{partition}");
        assert_eq!(partition["error"], "the disk is full");
    }
}
