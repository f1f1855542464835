//! Everything around the questions: batch runs, status, health, metrics, the console, stopping.

use std::num::NonZeroU64;

use serde_json::json;
use serving_layer::{Parts, RunRequest, ServeSettings, Server, StartError};

use crate::house::House;
use crate::http::send;

#[tokio::test]
async fn batch_runs_start_and_are_listed() {
    let house = House::of(&["page_views", "sums"]).await;
    let reply = house.post("/v1/batch/runs?wait=true&full=true", "", "").await;
    assert_eq!(reply.status, 200);
    let run = reply.json();
    assert_eq!((&run["generation"], &run["state"], &run["full"]), (&json!(7), &json!("published"), &json!(true)));
    assert_eq!(run["started"], "2015-11-12T00:00:00Z");
    assert_eq!(run["finished"], "2015-11-12T00:00:01.500Z");
    assert_eq!(house.post("/v1/batch/runs", "", "").await.status, 202);
    let some = "/v1/batch/runs?wait=true&views=sums,page_views&rate=500";
    assert_eq!(house.post(some, "", "").await.status, 200);
    let views = ["sums", "page_views"].map(str::to_owned).to_vec();
    let asked = [
        (RunRequest { full: true, ..RunRequest::default() }, true),
        (RunRequest::default(), false),
        (RunRequest { views, rate: NonZeroU64::new(500), ..RunRequest::default() }, true),
    ];
    assert_eq!(*house.batch.started.lock(), asked);
    assert_eq!(house.get("/v1/batch/runs").await.json()["runs"][0]["generation"], 7);
    *house.batch.busy.lock() = true;
    house.post("/v1/batch/runs?wait=true", "", "").await.problem(409);
    assert_eq!(house.post("/v1/batch/runs?wait=maybe", "", "").await.problem(400)["parameter"], "wait");
    assert_eq!(house.post("/v1/batch/runs?now=true", "", "").await.problem(400)["parameter"], "now");
    house.post("/v1/batch/runs?views=sums,nothing", "", "").await.problem(404);
    for bad in ["rate=500", "views=sums&rate=0", "views=sums&rate=fast"] {
        assert_eq!(house.post(&format!("/v1/batch/runs?{bad}"), "", "").await.problem(400)["parameter"], "rate");
    }
}

#[tokio::test]
async fn verify_reports() {
    let house = House::of(&["page_views", "sums"]).await;
    let report = house.post("/v1/verify", "application/json", "{\"view\": \"sums\"}").await.json();
    assert_eq!((&report["equal"], &report["views"][0]["view"]), (&json!(false), &json!("sums")));
    assert_eq!(report["views"][0]["different"], 1);
    assert_eq!(house.post("/v1/verify", "", "").await.json()["views"][0]["view"], "all");
    house.post("/v1/verify", "application/json", "{\"view\": \"nothing\"}").await.problem(404);
    house.post("/v1/verify", "application/json", "{\"views\": []}").await.problem(400);
    house.post("/v1/verify", "application/json", "[").await.problem(400);
}

#[tokio::test]
async fn views_say_what_a_client_needs() {
    let house = House::of(&["page_views", "sums"]).await;
    house.batch_run(1).await;
    let views = house.get("/v1/views").await.json();
    let views = views["views"].as_array().expect("views");
    assert_eq!(views.len(), house.application.views.len());
    let view = views.iter().find(|view| view["name"] == "page_views").expect("page_views");
    assert_eq!(view["key"], json!(["url"]));
    assert_eq!(view["time_column"], "minute");
    assert_eq!(view["tile_seconds"], 60.0);
    assert_eq!(view["columns"][2], json!({"name": "views", "type": "Int64", "exactness": "exact"}));
    assert_eq!((&view["generation"], &view["freshness_ms"]), (&json!(1), &json!(0)));
    assert!(view["sql"].as_str().is_some_and(|sql| sql.starts_with("SELECT url")));
}

#[tokio::test]
async fn status_and_metrics_follow_the_log() {
    let house = House::of(&["page_views", "sums"]).await;
    house.events_folded(&json!([{"url": "/a", "ts": 1}, {"url": "/b", "ts": 1}, {"url": "/c", "ts": 1}])).await;
    house.batch_run(4).await;
    house.events(&json!({"url": "/a", "ts": 1})).await;
    let status = house.get("/v1/status").await.json();
    assert_eq!((&status["generation"], &status["ready"]), (&json!(4), &json!(true)));
    let partitions = status["topics"]["clicks"]["partitions"].as_array().expect("partitions");
    let total = |member: &str| partitions.iter().map(|partition| partition[member].as_u64().unwrap_or(0)).sum::<u64>();
    assert_eq!((total("end"), total("frontier"), total("position"), total("lag_records")), (6, 5, 5, 1));
    house.get("/v1/views/page_views?url=/a").await.json();
    house.get("/v1/views/page_views").await.problem(400);
    let metrics = house.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "tidemark_events_accepted_total{topic=\"clicks\"} 4",
        "tidemark_lookups_total{outcome=\"answered\",view=\"page_views\"} 1",
        "tidemark_lookups_total{outcome=\"refused\",view=\"page_views\"} 1",
        "tidemark_lookup_duration_seconds_count{view=\"page_views\"} 2",
        "tidemark_generation 4",
        "tidemark_batch_runs{state=\"published\"} 1",
        "tidemark_http_requests_total{method=\"GET\",route=\"/v1/views/{view}\",status=\"200\"} 1",
        "tidemark_view_failed{view=\"sums\"} 0",
    ] {
        assert!(metrics.text().lines().any(|known| known == line), "{line} is not in {}", metrics.text());
    }
    let lag: f64 = metrics
        .text()
        .lines()
        .filter(|line| line.starts_with("tidemark_speed_lag_records{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(lag, 1.0);
}

#[tokio::test]
async fn readiness_waits_for_what_was_in_the_log_at_the_start() {
    let house = House::of(&["page_views", "sums"]).await;
    assert_eq!(house.get("/healthz").await.json()["status"], "alive");
    assert_eq!(house.get("/readyz").await.json()["status"], "ready");
    // A lag that comes later does not take the server out.
    house.events(&json!({"url": "/a", "ts": 1})).await;
    house.get("/readyz").await.json();
    // But one that starts behind it waits.
    let parts = Parts { metrics: prometheus::Registry::new(), ..house.parts.clone() };
    let settings = ServeSettings { listen: "127.0.0.1:0".to_owned(), workers: 1, ..ServeSettings::default() };
    let second = Server::start(parts, settings).await.expect("a second server");
    let problem = send(second.addr(), "GET", "/readyz", &[], b"").await.problem(503);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("clicks/")), "{problem}");
    house.fold().await;
    send(second.addr(), "GET", "/readyz", &[], b"").await.json();
    second.stop(true).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let house = House::of(&["page_views"]).await;
    let parts = Parts { metrics: prometheus::Registry::new(), ..house.parts.clone() };
    let settings = ServeSettings { listen: house.addr.to_string(), ..ServeSettings::default() };
    assert!(matches!(Server::start(parts, settings).await, Err(StartError::Listen { .. })));
}

#[tokio::test]
async fn later_routes_have_their_place() {
    let house = House::of(&["page_views", "sums"]).await;
    house.post("/v1/sql", "application/json", "{}").await.problem(501);
    house.post("/get-online-features", "application/json", "{}").await.problem(501);
    house.get("/openapi.json").await.problem(501);
    house.get("/v1/views/page_views/changes").await.problem(501);
    house.get("/v1/sql").await.problem(405);
}

#[tokio::test]
async fn the_console_asks_nobody_else() {
    let house = House::of(&["page_views", "sums"]).await;
    let page = house.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe") && !policy.contains("http"));
    for path in ["/console.js", "/console.css", "/chart.js"] {
        let part = house.get(path).await;
        assert_eq!((part.status, part.header("x-content-type-options")), (200, Some("nosniff")));
        assert!(!part.text().contains("https://"));
    }
    assert!(!page.text().contains("<style") && !page.text().contains(" style="), "the policy allows none");
    let head = send(house.addr, "HEAD", "/", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn request_ids_are_echoed() {
    let house = House::of(&["page_views", "sums"]).await;
    for path in ["/healthz", "/nothing", "/v1/views/page_views"] {
        let reply = send(house.addr, "GET", path, &[("x-request-id", "abc-1")], b"").await;
        assert_eq!(reply.header("x-request-id"), Some("abc-1"), "{path}");
    }
    assert_eq!(house.get("/healthz").await.header("x-request-id"), None);
}

#[tokio::test]
async fn a_graceful_stop_finishes_what_is_going_on() {
    let mut house = House::of(&["page_views", "sums"]).await;
    let position = house.events(&json!({"url": "/a", "ts": 1})).await;
    let addr = house.addr;
    let target = format!("/v1/views/page_views?url=/a&min_position={position}&timeout=30s");
    let mut waits = house.speed.waits.subscribe();
    let asking = tokio::spawn(async move { send(addr, "GET", &target, &[], b"").await });
    waits.wait_for(|count| *count > 0).await.expect("a sender");
    let server = house.server.take().expect("a server");
    let stopping = tokio::spawn(async move { server.stop(true).await });
    house.fold().await;
    assert_eq!(asking.await.expect("an answer").json()["rows"][0]["views"], 1);
    stopping.await.expect("a stop");
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn topics_say_what_a_producer_needs() {
    let house = House::of(&["page_views"]).await;
    let events = json!([{"url": "/a", "ts": 1}, {"url": "/b", "ts": 1}, {"url": "/c"}]);
    house.post("/v1/topics/clicks/events", "application/json", events.to_string()).await.json();
    let topics = house.get("/v1/topics").await.json();
    let topics = topics["topics"].as_array().expect("topics");
    assert_eq!(topics.len(), 1, "dead letters are the topic's own");
    let clicks = &topics[0];
    assert_eq!((&clicks["name"], &clicks["partitions"], &clicks["key"]), (&json!("clicks"), &json!(2), &json!("url")));
    assert_eq!((&clicks["event_time"], &clicks["event_id"]), (&json!("ts"), &json!(null)));
    assert_eq!((&clicks["records"], &clicks["dead_letters"]), (&json!(2), &json!(1)));
    let ends: u64 = clicks["offsets"].as_array().expect("offsets").iter().filter_map(|of| of["end"].as_u64()).sum();
    assert_eq!(ends, 2);
    assert_eq!(clicks["schema"]["fields"][0], json!({"name": "url", "type": "string"}));
    assert_eq!(house.get("/v1/topics?all=true").await.problem(400)["parameter"], "all");
    house.post("/v1/topics", "application/json", "{}").await.problem(405);
}

#[tokio::test]
async fn some_keys_are_told() {
    let house = House::of(&["page_views", "by_user", "total"]).await;
    assert_eq!(house.get("/v1/views/page_views/keys").await.json()["keys"], json!([]));
    let events: Vec<serde_json::Value> =
        (0..30).map(|n| json!({"url": format!("/{}", n % 3), "ts": n * 60_000_000_i64, "user_id": null})).collect();
    house.events_folded(&json!(events)).await;
    house.batch_run(1).await;
    house.events_folded(&json!([{"url": "/3", "ts": 1}, {"url": "/0", "ts": 1}])).await;
    let keys = house.get("/v1/views/page_views/keys").await.json();
    assert_eq!(
        keys,
        json!({"view": "page_views", "keys": [{"url": "/0"}, {"url": "/1"}, {"url": "/2"}, {"url": "/3"}]})
    );
    let keys = house.get("/v1/views/page_views/keys?limit=2").await.json();
    assert_eq!(keys["keys"], json!([{"url": "/0"}, {"url": "/1"}]));
    assert_eq!(house.get("/v1/views/by_user/keys").await.json()["keys"], json!([{"user_id": null}]));
    assert_eq!(house.get("/v1/views/total/keys").await.json()["keys"], json!([{}]));
    assert_eq!(house.get("/v1/views/page_views/keys?limit=0").await.problem(400)["parameter"], "limit");
    house.get("/v1/views/nothing/keys").await.problem(404);
}
