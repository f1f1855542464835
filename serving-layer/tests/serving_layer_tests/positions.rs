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
