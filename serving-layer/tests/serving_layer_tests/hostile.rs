//! Input meant to hurt. The server answers, with a problem, and goes on.

use serde_json::json;
use serving_layer::ServeSettings;

use crate::house::House;
use crate::http::raw;

#[tokio::test]
async fn deep_and_huge_json_is_refused() {
    let house = House::of(&["page_views"]).await;
    let deep = |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
    for body in [deep("[", "]", 100_000), deep("{\"a\":", "}", 100_000).replace(":}", ":1}"), "[".repeat(1_000_000)] {
        let reply = house.post("/v1/topics/clicks/events", "application/json", &body).await;
        if reply.status == 200 {
            assert_eq!(reply.json()["accepted"], 0);
        } else {
            reply.problem(400);
        }
        house.post("/v1/views/page_views/lookup", "application/json", &body).await.problem(400);
        house.post("/v1/verify", "application/json", &body).await.problem(400);
    }
    let nested = format!("{{\"keys\": [{{\"url\": {}}}]}}", deep("[", "]", 60));
    let reply = house.post("/v1/views/page_views/lookup", "application/json", nested).await.json();
    assert_eq!(reply["results"][0]["error"]["status"], 400);
    let long = "x".repeat(2 << 20);
    house.post("/v1/views/page_views/lookup", "application/json", long).await.problem(413);
    let number = format!("{{\"keys\": [{{\"url\": {}}}]}}", "9".repeat(100_000));
    let reply = house.post("/v1/views/page_views/lookup", "application/json", number).await;
    assert!(reply.status == 200 || reply.status == 400, "{}", reply.text());
    house.get("/healthz").await.json();
}

#[tokio::test]
async fn repeated_names_broken_text_and_odd_escapes_are_refused() {
    let house = House::of(&["page_views"]).await;
    let reply = house
        .post("/v1/topics/clicks/events", "application/json", "{\"url\": \"/a\", \"url\": \"/b\", \"ts\": 1}")
        .await;
    assert_eq!(reply.json()["accepted"], 0);
    let reply =
        house.post("/v1/topics/clicks/events", "application/json", b"[{\"url\": \"\xc3\x28\", \"ts\": 1}]").await;
    if reply.status == 200 {
        assert_eq!(reply.json()["accepted"], 0);
    } else {
        reply.problem(400);
    }
    house
        .post("/v1/views/page_views/lookup", "application/json", b"{\"keys\": [{\"url\": \"\xff\"}]}")
        .await
        .problem(400);
    house
        .post("/v1/views/page_views/lookup", "application/json", "{\"keys\": [{\"url\": \"\\ud800\"}]}")
        .await
        .problem(400);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let house = House::of(&["page_views"]).await;
    for path in [
        "/nothing",
        "/v1",
        "/v1/views/a/b/c",
        "/v1/views/",
        "/v1/topics//events",
        "/%00",
        "/v1/views/%ff",
        "/../../etc/passwd",
    ] {
        let reply = house.get(path).await;
        assert!(reply.status == 404 || reply.status == 405, "{path}: {}", reply.status);
        reply.problem(reply.status);
    }
    for (method, path, allow) in [
        ("DELETE", "/v1/views/page_views", "GET, HEAD"),
        ("PUT", "/v1/batch/runs", "GET, HEAD, POST"),
        ("POST", "/metrics", "GET, HEAD"),
        ("BREW", "/", "GET, HEAD"),
    ] {
        let reply = crate::http::send(house.addr, method, path, &[], b"").await;
        assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
        reply.problem(405);
    }
}

#[tokio::test]
async fn long_lines_and_broken_requests_do_not_stop_the_server() {
    let house = House::of(&["page_views"]).await;
    let url = "a".repeat(20_000);
    assert_eq!(house.get(&format!("/v1/views/page_views?url={url}")).await.json()["rows"], json!([]));
    let many: String = (0..2000).map(|n| format!("&c{n}=1")).collect();
    house.get(&format!("/v1/views/page_views?url=/a{many}")).await.problem(400);
    let order = vec!["views"; 1000].join(",");
    house.get(&format!("/v1/views/page_views?url=/a&order={order}")).await.problem(400);
    let reply = raw(house.addr, b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n".to_vec()).await;
    assert_eq!(reply.status, 400);
    house.get("/healthz").await.json();
}

#[tokio::test]
async fn rows_of_a_long_group_survive() {
    let house = House::of(&["page_views"]).await;
    let url = "é\u{0}".repeat(3000);
    house.events_folded(&json!({"url": url, "ts": 1})).await;
    let body = json!({"keys": [{"url": url}]}).to_string();
    let reply = house.post("/v1/views/page_views/lookup", "application/json", body).await.json();
    assert_eq!(reply["results"][0]["rows"][0]["url"], url);
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let settings = ServeSettings { body_timeout: std::time::Duration::from_millis(50), ..ServeSettings::default() };
    let house = House::open_with(settings, |log| log).await;
    let request = "POST /v1/topics/clicks/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                   content-length: 100\r\n\r\n[";
    raw(house.addr, request.into()).await.problem(408);
    house.get("/healthz").await.json();
}
