//! Connections that misbehave: requests that never end, break off, or come by the dozen at once. Nothing of a request that did not
//! arrive whole counts, and everybody else is served meanwhile.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::house::{CLICKS, House, JSON, LINES, click};

/// Longer than any of the server's own limits that is met here (the head of a request: 10 s).
const PATIENCE: Duration = Duration::from_secs(100);

async fn connect(house: &House) -> TcpStream {
    TcpStream::connect(house.address()).await.expect("a connection")
}

/// Everything the server says until it closes. It closes in time, or this fails.
async fn to_the_end(connection: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut said)).await;
    // A reset is an end as well.
    let _ = read.expect("the server lets go of the connection");
    String::from_utf8_lossy(&said).into_owned()
}

fn post(body: &str, length: usize) -> String {
    format!(
        "POST /v1/topics/{CLICKS}/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {LINES}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn requests_that_break_off_count_nothing() {
    let mut house = House::open();
    let lines = format!("{}\n{}\n{}\n", click("/half", 1), click("/half", 2), click("/half", 3));
    let (length, address) = (lines.len(), house.address().to_owned());
    // Whole lines, and more was announced; by length and in chunks; cut at many places, head included.
    let whole = post(&lines, length);
    let chunked = format!(
        "POST /v1/topics/{CLICKS}/events HTTP/1.1\r\nhost: x\r\ncontent-type: {LINES}\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{lines}\r\n"
    );
    let mut cut: Vec<String> = (1..whole.len()).step_by(23).map(|at| whole[..at].to_owned()).collect();
    cut.extend([post(&lines, length + 1), post(&lines, usize::MAX), chunked.clone(), format!("{chunked}5\r\nab")]);
    cut.push(format!("{chunked}zz\r\n"));
    for (number, request) in cut.iter().enumerate() {
        let mut connection = TcpStream::connect(&address).await.expect("a connection");
        connection.write_all(request.as_bytes()).await.expect("sent");
        if number % 2 == 0 {
            // Says that nothing more will come, and waits for what the server makes of it.
            connection.shutdown().await.expect("shut down");
            let said = to_the_end(&mut connection).await;
            assert!(!said.contains(" 200 ") && !said.contains(" 50"), "{request}: {said}");
        }
        drop(connection);
        house.assert_calm();
    }
    // The last event of a line that the length cuts off is no event.
    let short = click("/half", 4);
    let answer = house_says(&house, &post(&lines, length - short.len() / 2 - 1)).await;
    assert!(answer.contains("\"accepted\":2") && answer.contains("\"index\":2"), "{answer}");
    house.accepted(CLICKS, 2);
    house.clicked("/half", 2, 3);
    let third = click("/half", 3);
    house.letter(CLICKS, third.as_bytes()[..length - short.len() / 2 - 1 - 2 * (third.len() + 1)].to_vec(), "not JSON");
    // And whole, it counts.
    let answer = house_says(&house, &whole).await;
    assert!(answer.contains("\"accepted\":3"), "{answer}");
    house.accepted(CLICKS, 3);
    house.clicked("/half", 3, 6);
    house.close().await;
}

async fn house_says(house: &House, request: &str) -> String {
    let mut connection = connect(house).await;
    connection.write_all(request.as_bytes()).await.expect("sent");
    to_the_end(&mut connection).await
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let mut house = House::open();
    let headers: String = (0..10_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = "a".repeat(1 << 20);
    let body = click("/smuggled", 1);
    let length = body.len();
    for request in [
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{headers}\r\n"),
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"),
        format!("GET /v1/views/pages?url={long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("{long} / HTTP/1.1\r\nhost: x\r\n\r\n"),
        "GET / HTTP/1.1\r\nhost: x\r\nno colon here\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\nhost: x\r\n\r\n".to_owned(),
        "GET  HTTP/1.1\r\n\r\n".to_owned(),
        "\0\0\0\0\0\0\0\0\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        // One request in another: the length and the chunks disagree.
        format!(
            "POST /v1/topics/{CLICKS}/events HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {length}\r\ncontent-length: 3\r\n\r\n{body}"
        ),
        format!(
            "POST /v1/topics/{CLICKS}/events HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: -{length}\r\n\r\n{body}"
        ),
        format!(
            "POST /v1/topics/{CLICKS}/events HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: 1e3\r\n\r\n{body}"
        ),
        format!(
            "POST /v1/topics/{CLICKS}/events HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n{body}"
        ),
        format!(
            "POST /v1/topics/{CLICKS}/events HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{body}"
        ),
        format!(
            "POST /v1/topics/{CLICKS}/events HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\nexpect: 200-maybe\r\ntransfer-encoding: gzip\r\n\r\n{body}"
        ),
    ] {
        let mut connection = connect(&house).await;
        // It may be refused before all of it is sent.
        let _ = connection.write_all(request.as_bytes()).await;
        let _ = connection.shutdown().await;
        let said = to_the_end(&mut connection).await;
        let shown: String = request.chars().take(120).collect();
        let status = said.split(' ').nth(1).unwrap_or("closed");
        assert!(status == "closed" || status.starts_with('4'), "{shown:?}: {said}");
        house.assert_calm();
        house.good_click().await;
    }
    // A key of a URL as long as a line may be is looked up.
    let url = "a".repeat(20_000);
    assert_eq!(house.get(&format!("/v1/views/pages?url={url}")).await.json()["rows"], serde_json::json!([]));
    house.close().await;
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_their_order() {
    let mut house = House::open();
    let mut requests = String::new();
    for number in 0..50 {
        let body = click("/row", number);
        requests.push_str(&post(&body, body.len()).replace("connection: close\r\n", ""));
        requests.push_str(&format!("GET /v1/views/nothing{number} HTTP/1.1\r\nhost: x\r\n\r\n"));
    }
    requests.push_str("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let said = house_says(&house, &requests).await;
    let statuses: Vec<&str> = said.match_indices("HTTP/1.1 ").map(|(at, _)| &said[at + 9..at + 12]).collect();
    let expected: Vec<&str> = (0..50).flat_map(|_| ["200", "404"]).chain(["200"]).collect();
    assert_eq!(statuses, expected, "{said}");
    let order: Vec<usize> = (0..50).map(|number| said.find(&format!("nothing{number}`")).expect("named")).collect();
    assert!(order.is_sorted(), "{order:?}");
    house.accepted(CLICKS, 50);
    house.clicked("/row", 50, (0..50).sum());
    house.close().await;
}

/// Half a head, and then nothing: let go of after a while, and nobody else waits for it. Many idle connections cost nothing.
#[tokio::test]
async fn slow_and_idle_connections_keep_nobody_waiting() {
    let mut house = House::open();
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut connection = connect(&house).await;
        match number % 4 {
            // Nothing at all.
            0 => {}
            1 => connection.write_all(b"G").await.expect("sent"),
            2 => connection.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ").await.expect("sent"),
            // A body that does not come: it has a minute, which this test does not wait for.
            _ => connection.write_all(post("", 100).as_bytes()).await.expect("sent"),
        }
        slow.push((number % 4, connection));
    }
    for _ in 0..20 {
        house.good_click().await;
    }
    for (kind, mut connection) in slow {
        if kind == 1 || kind == 2 {
            let said = to_the_end(&mut connection).await;
            assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
        }
    }
    house.close().await;
}
