//! Questions nobody can answer: refused with the name of what is wrong.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::house::{CLICKS, House, JSON};

#[tokio::test]
async fn a_wrong_question_is_refused_by_its_parameter() {
    let mut house = House::open();
    house.good_click().await;
    house.good_click().await;
    let long = "9".repeat(400);
    let huge_limit = format!("pages?url=/a&limit={long}");
    for (question, status, names) in [
        ("nothing?url=/a", 404, "nothing"),
        ("PAGES?url=/a", 404, "PAGES"),
        ("%70ages%00?url=/a", 404, ""),
        ("pages", 400, "url"),
        ("pages?", 400, "url"),
        ("pages?url=/a&url=/b", 400, "url"),
        ("pages?url=/a&minute=2026-11-20T10:00:00Z", 400, "minute"),
        ("pages?url=/a&views=1", 400, "views"),
        ("pages?url=/a&Limit=1", 400, "Limit"),
        ("pages?url=/a&=1", 400, ""),
        ("pages?url=/a&%F0%9F%98%80=1", 400, "😀"),
        ("pages?url=%ff", 400, "url"),
        ("pages?%ff=1", 400, "percent"),
        ("pages?url=/a&limit=0", 400, "limit"),
        ("pages?url=/a&limit=-1", 400, "limit"),
        ("pages?url=/a&limit=10001", 400, "limit"),
        ("pages?url=/a&limit=1.5", 400, "limit"),
        ("pages?url=/a&limit=", 400, "limit"),
        (&huge_limit, 400, "limit"),
        ("pages?url=/a&limit=1&limit=2", 400, "limit"),
        ("pages?url=/a&from=2026-11-20T10:00:00Z", 400, "from"),
        ("minutes?url=/a&from=yesterday", 400, "from"),
        ("minutes?url=/a&to=2026-13-01T00:00:00Z", 400, "to"),
        ("minutes?url=/a&from=", 400, "from"),
        ("minutes?url=/a&from=9223372036854775807", 400, "from"),
        ("minutes?url=/a&last=-1h", 400, "last"),
        ("minutes?url=/a&last=1+light-year", 400, "last"),
        ("minutes?url=/a&last=99999999999999y", 400, "last"),
        ("minutes?url=/a&last=1h&from=2026-11-20T10:00:00Z", 400, "last"),
        ("minutes?url=/a&minute=noon", 400, "minute"),
        ("minutes?url=/a&rollup=maybe", 400, "rollup"),
        ("minutes?url=/a&rollup=0s", 400, "rollup"),
        ("minutes?url=/a&rollup=99999999999999999999h", 400, "rollup"),
        ("minutes?url=/a&rollup=true&order=minute", 400, "order"),
        ("minutes?url=/a&order=nothing", 400, "nothing"),
        ("minutes?url=/a&order=", 400, "order"),
        ("minutes?url=/a&order=--views", 400, "order"),
        ("minutes?url=/a&order=views;drop", 400, "order"),
        ("pages?url=/a&explain=yes", 400, "explain"),
        ("pages?url=/a&big=true", 400, "big"),
        ("pages?url=/a&timeout=forever", 400, "timeout"),
        ("pages?url=/a&timeout=1h", 400, "timeout"),
        ("pages?url=/a&max_staleness=-1s", 400, "max_staleness"),
        ("pages?url=/a&min_position=%00", 400, "min_position"),
        ("pages?url=/a&min_position=e30%3D", 400, "min_position"),
        ("pages?url=/a&cursor=", 400, "cursor"),
        ("pages?url=/a&cursor=AAAA", 400, "cursor"),
        ("pages?url=/a&cursor=AAAAAAAAAAAAAAAA", 400, "cursor"),
        ("pages?url.null=1", 400, "url.null"),
        ("pages?url=/a&url.null=true", 400, "url"),
        ("digits?digit=one", 400, "digit"),
        ("digits?digit=9223372036854775808", 400, "digit"),
        ("kinds?an_enum=RED", 400, "a_string"),
    ] {
        house.get(&format!("/v1/views/{question}")).await.refuses(status, names);
    }
    // Nobody's keys are no mistakes: an empty answer.
    for question in [
        "pages?url=%00",
        "pages?url=",
        "pages?url=%F0%9F%98%80",
        "pages?url=..%2F..%2Fetc%2Fpasswd",
        "pages?url=a%26b%3Dc",
        "pages?url='%20OR%201=1%20--",
        "minutes?url=/good/1&from=2026-11-20T10:00:00Z&to=2025-11-20T10:00:00Z",
        "minutes?url=/good/1&from=9999-12-31T23:59:59Z",
        "minutes?url=/good/1&to=0001-01-01T00:00:00Z",
        "minutes?url=/good/1&minute=9223372036854775807",
        "minutes?url=/good/1&minute=-9223372036854775808",
        "minutes?url=/good/1&minute=1970-01-01T00:00:00Z",
        "minutes?url=/nobody&rollup=300000000000ms",
    ] {
        let answer = house.get(&format!("/v1/views/{question}")).await;
        assert_eq!(answer.status, 200, "{question}: {}", answer.body);
        assert_eq!(answer.json()["rows"], json!([]), "{question}");
    }
    // A position that will not be reached, in partitions there are and there are not.
    for position in [r#"{"clicks":{"0":18446744073709551615}}"#, r#"{"clicks":{"4294967295":1}}"#] {
        let token = in_url_base64(position.as_bytes());
        let path = format!("{}/v1/views/pages?url=/a&timeout=1ms&min_position={token}", house.process.url);
        let answer = house.process.http.get(path).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 504, "{position}");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["parameter"], "min_position", "{problem}");
    }
    for position in
        ["{", "[]", r#"{"clicks":1}"#, r#"{"clicks":{"x":1}}"#, r#"{"clicks":{"0":-1}}"#, r#"{"a":{"0":1e99}}"#]
    {
        let token = in_url_base64(position.as_bytes());
        house.get(&format!("/v1/views/pages?url=/a&min_position={token}")).await.refuses(400, "min_position");
    }
    house.close().await;
}

#[tokio::test]
async fn wrong_questions_in_bodies_are_refused() {
    let mut house = House::open();
    let one = json!({"url": "/a"});
    let many = json!({ "keys": vec![one.clone(); 1001] });
    for (body, names) in [
        ("[]".to_owned(), "keys"),
        ("{}".to_owned(), "keys"),
        ("null".to_owned(), "keys"),
        ("{\"keys\": 1}".to_owned(), "keys"),
        ("{\"keys\": [], \"keys\": []}".to_owned(), "keys"),
        ("{\"keys\": [], \"colour\": 1}".to_owned(), "colour"),
        ("{\"keys\": [], \"limit\": 0}".to_owned(), "limit"),
        ("{\"keys\": [], \"limit\": [1]}".to_owned(), "limit"),
        ("{\"keys\": [], \"cursor\": \"AAAA\"}".to_owned(), "cursor"),
        ("{\"keys\": [], \"from\": \"2026-11-20\"}".to_owned(), "from"),
        (many.to_string(), "1000"),
        ("{\"keys\": [{\"url\": \"\\ud800\"}]}".to_owned(), "JSON"),
        ("{\"keys\": [{\"url\": 1e999}]}".to_owned(), "JSON"),
        (format!("{{\"keys\": {}}}", "[".repeat(100_000)), "JSON"),
        ("\u{feff}{\"keys\": []}".to_owned(), "JSON"),
        ("{\"keys\": []} {}".to_owned(), "JSON"),
        (String::new(), "JSON"),
    ] {
        house.ask("/v1/views/pages/lookup", body).await.refuses(400, names);
    }
    house.ask("/v1/views/nothing/lookup", "{\"keys\": []}").await.refuses(404, "nothing");
    // A key that cannot be fails alone.
    let keys = json!({"keys": [one, {}, {"url": 1}, {"url": null}, {"url": "/a", "x": 1}, [], 7, {"url": ["/a"]}, {"url": "/a"}]});
    let answer = house.ask("/v1/views/pages/lookup", keys.to_string()).await.json();
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 9, "{answer}");
    for (number, names) in [(1, "url"), (2, "url"), (4, "x"), (5, "keys"), (6, "keys"), (7, "url")] {
        let error = &results[number]["error"];
        assert!(error["status"] == 400 && error["detail"].to_string().contains(names), "{number}: {error}");
    }
    for number in [0, 8] {
        assert_eq!(results[number]["rows"], json!([]), "{answer}");
    }
    for (path, body, status, names) in [
        ("/v1/verify", "{\"view\": \"nothing\"}", 404, "nothing"),
        ("/v1/verify", "{\"view\": 1}", 400, "view"),
        ("/v1/verify", "{\"views\": \"pages\"}", 400, "view"),
        ("/v1/verify", "[", 400, "JSON"),
        ("/v1/batch/runs?wait=perhaps", "{}", 400, "wait"),
        ("/v1/batch/runs?full=1", "{}", 400, "full"),
        ("/v1/batch/runs?when=now", "{}", 400, "when"),
    ] {
        house.ask(path, body).await.refuses(status, names);
    }
    for (path, status, names) in [
        ("/v1/topics/nothing/dead-letters", 404, "nothing"),
        ("/v1/topics/clicks/dead-letters?limit=0", 400, "limit"),
        ("/v1/topics/clicks/dead-letters?limit=1001", 400, "limit"),
        ("/v1/topics/clicks/dead-letters?partition=7", 400, "partition"),
        ("/v1/topics/clicks/dead-letters?partition=-1", 400, "partition"),
        ("/v1/topics/clicks/dead-letters?from=3", 400, "partition"),
        ("/v1/topics/clicks/dead-letters?order=x", 400, "order"),
        ("/v1/status?verbose=true", 400, "verbose"),
        ("/v1/views?limit=1", 400, "limit"),
        ("/nothing/at/all", 404, "/nothing/at/all"),
        ("/v1/views/pages/changes/x", 404, ""),
        ("/v1/../v2", 404, ""),
        ("//", 404, ""),
        ("/%2e%2e/%2e%2e/etc/passwd", 404, ""),
        ("/v1/views/%ff%fe", 404, ""),
    ] {
        house.get(path).await.refuses(status, names);
    }
    let far = house.get("/v1/topics/clicks/dead-letters?partition=0&from=18446744073709551615").await;
    assert!(far.status == 200 && far.json()["dead_letters"] == json!([]), "{}", far.body);
    for (method, path) in
        [("DELETE", "/v1/views/pages?url=/a"), ("PUT", "/metrics"), ("PATCH", "/v1/status"), ("BREW", "/healthz")]
    {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = house.process.http.request(method, format!("{}{path}", house.process.url));
        house.send(request).await.refuses(405, "");
    }
    house.good_click().await;
    house.close().await;
}

/// Cursors and positions of random bytes, and those of other questions: refused or harmless, never misread.
#[tokio::test]
async fn cursors_and_positions_of_strangers_do_no_harm() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x7469_6465);
    println!("SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut house = House::open();
    let events: Vec<Value> = (0..30)
        .map(|minute| json!({"url": "/c", "ts": 1_763_632_800_000_000_i64 + minute * 60_000_000, "bytes": 1}))
        .collect();
    house.mixed(CLICKS, JSON, json!(events).to_string(), 30, &[]).await;
    house.clicked("/c", 30, 30);
    let settled = house.post(CLICKS, JSON, super::house::click("/c", 1)).await.json();
    house.accepted(CLICKS, 1);
    house.clicked("/c", 1, 1);
    let position = settled["position"].as_str().expect("a position");
    let page = format!("/v1/views/minutes?url=/c&limit=10&timeout=30s&min_position={position}");
    let first = house.get(&page).await.json();
    let cursor = first["cursor"].as_str().expect("there is more").to_owned();
    let second = house.get(&format!("{page}&cursor={cursor}")).await.json();
    assert_eq!(second["rows"].as_array().map(Vec::len), Some(10), "{second}");

    // It is this question's, and no other's.
    for other in ["minutes?url=/other", "minutes?url=/c&order=-views", "minutes?url=/c&rollup=1h", "pages?url=/c"] {
        house.get(&format!("/v1/views/{other}&cursor={cursor}")).await.refuses(400, "cursor");
    }
    for _ in 0..300 {
        let mut bytes = cursor.clone().into_bytes();
        match chance.random_range(0..4) {
            0 => bytes = (0..chance.random_range(0..60)).map(|_| chance.random_range(b'0'..=b'z')).collect(),
            1 => bytes.truncate(chance.random_range(0..bytes.len())),
            2 => bytes.extend_from_within(..),
            _ => {
                let at = chance.random_range(0..bytes.len());
                bytes[at] = b"ABCDEFGHabcdefgh01234567-_"[chance.random_range(0..26)];
            }
        }
        let token: String = bytes
            .into_iter()
            .filter(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            .map(char::from)
            .collect();
        let answer = house.get(&format!("{page}&cursor={token}")).await;
        if answer.status == 200 {
            // The place in it was changed: rows of this question all the same, in their order.
            let rows = answer.json()["rows"].as_array().cloned().unwrap_or_default();
            let minutes: Vec<String> = rows.iter().map(|row| row["minute"].to_string()).collect();
            assert!(minutes.is_sorted() && rows.iter().all(|row| row["url"] == "/c"), "{token}: {}", answer.body);
        } else {
            answer.refuses(400, "cursor");
        }
        let answer = house.get(&format!("/v1/views/pages?url=/c&timeout=1ms&min_position={token}")).await;
        answer.refuses(400, "min_position");
    }
    house.close().await;
}

/// Base64 as tokens have it.
fn in_url_base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        let digits = (0..=chunk.len()).map(|at| DIGITS[(bits >> (18 - 6 * at)) as usize & 63]);
        text.extend(digits.map(char::from));
    }
    text
}
