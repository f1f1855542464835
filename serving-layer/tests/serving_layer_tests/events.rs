//! Events in: forms, rejections, dead letters, failures of the log.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use event_log::{Content, EventLog, FaultyLog, LogFaults, ReadLimit, Record, TopicSpec};
use serde_json::{Value, json};
use serving_layer::ServeSettings;
use views::{Offset, TopicPartition};

use crate::house::House;
use crate::http::{raw, send};

const TARGET: &str = "/v1/topics/clicks/events";
const TS: &str = "2026-11-20T10:00:00Z";

async fn in_log(house: &House) -> usize {
    let mut count = 0;
    for partition in house.partitions() {
        count += house.log.read(&partition, 0, ReadLimit::records(10_000)).await.expect("read").len();
    }
    count
}

#[tokio::test]
async fn one_object_an_array_and_lines() {
    let house = House::of(&["page_views"]).await;
    let one = house.post(TARGET, "application/json", json!({"url": "/a", "ts": TS}).to_string()).await.json();
    assert_eq!((&one["accepted"], &one["rejected"]), (&json!(1), &json!([])));
    let body = json!([{"url": "/a", "ts": TS}, {"url": "/b", "ts": 1}]).to_string();
    let array = house.post(TARGET, "Application/JSON; charset=UTF-8", body).await.json();
    assert_eq!(array["accepted"], 2);
    let lines = format!("{}\n\r\n{}", json!({"url": "/c", "ts": TS}), json!({"url": "/d", "ts": TS}));
    let lines = house.post(TARGET, "application/x-ndjson", lines).await.json();
    assert_eq!(lines["accepted"], 2);
    let none = house.post(TARGET, "application/json", " [ ] ").await.json();
    assert_eq!(none["accepted"], 0);
    assert_eq!(in_log(&house).await, 5);
}

#[tokio::test]
async fn rejected_events_are_named_and_become_dead_letters_while_the_others_stand() {
    let house = House::of(&["page_views"]).await;
    let body = json!([
        {"url": "/a", "ts": TS},
        {"url": "/b", "ts": "yesterday"},
        {"url": "/c", "ts": TS, "colour": "red"},
        {"ts": TS},
        17,
        {"url": "/e", "ts": TS}
    ]);
    let reply = house.post(TARGET, "application/json", body.to_string()).await.json();
    assert_eq!(reply["accepted"], 2);
    let rejected = reply["rejected"].as_array().expect("rejected");
    let indices: Vec<&Value> = rejected.iter().map(|rejected| &rejected["index"]).collect();
    assert_eq!(indices, [1, 2, 3, 4]);
    for (rejected, field) in rejected.iter().zip(["ts", "colour", "url"]) {
        let error = rejected["error"].as_str().expect("an error");
        assert!(error.contains(field), "{error} does not name {field}");
    }
    let letters = house.get("/v1/topics/clicks/dead-letters").await.json();
    let letters = letters["dead_letters"].as_array().expect("letters");
    assert_eq!(letters.len(), 4);
    // The newest first.
    assert_eq!(letters[0]["original"], "17");
    assert_eq!(letters[3]["original"], body[1].to_string());
    assert_eq!(letters[3]["origin"], json!({"index": 1}));
    assert_eq!(letters[3]["content_type"], "application/json");
    assert!(letters[3]["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(in_log(&house).await, 2);
    let status = house.get("/v1/status").await.json();
    assert_eq!(status["topics"]["clicks"]["dead_letters"], 4);
    assert_eq!(status["topics"]["clicks"]["accepted"], 2);
    assert_eq!(status["topics"]["clicks"]["rejected"], 4);
}

#[tokio::test]
async fn dead_letters_are_paged() {
    let house = House::of(&["page_views"]).await;
    let bad: Vec<Value> = (0..7).map(|n| json!({"wrong": n})).collect();
    house.post(TARGET, "application/json", json!(bad).to_string()).await.json();
    let newest = house.get("/v1/topics/clicks/dead-letters?limit=2").await.json();
    let originals: Vec<&Value> =
        newest["dead_letters"].as_array().expect("letters").iter().map(|letter| &letter["original"]).collect();
    assert_eq!(originals, ["{\"wrong\":6}", "{\"wrong\":5}"]);
    let mut from = 0;
    let mut seen = Vec::new();
    while seen.len() < 7 {
        let target = format!("/v1/topics/clicks/dead-letters?partition=0&from={from}&limit=3");
        let page = house.get(&target).await.json();
        for letter in page["dead_letters"].as_array().expect("letters") {
            seen.push(letter["original"].clone());
        }
        from = page["next"].as_u64().expect("more to come");
    }
    assert_eq!(seen, (0..7).map(|n| json!({"wrong": n}).to_string()).collect::<Vec<_>>());
    let end = house.get("/v1/topics/clicks/dead-letters?partition=0&from=7").await.json();
    assert_eq!((&end["dead_letters"], &end["next"]), (&json!([]), &Value::Null));
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("partition=1", "partition"),
        ("from=1", "from"),
        ("what=1", "what"),
    ] {
        let problem = house.get(&format!("/v1/topics/clicks/dead-letters?{query}")).await.problem(400);
        assert_eq!(problem["parameter"], parameter);
    }
    house.get("/v1/topics/other/dead-letters").await.problem(404);
}

#[tokio::test]
async fn a_body_that_is_no_json_is_refused_with_its_place_and_kept() {
    let house = House::of(&["page_views"]).await;
    for (body, line, column) in
        [("[{\"url\": \"/a\",\n \"ts\": }]", 2, 8), ("[1, 2", 1, 5), ("nothing", 1, 2), ("[1] x", 1, 5)]
    {
        let problem = house.post(TARGET, "application/json", body).await.problem(400);
        assert_eq!((&problem["line"], &problem["column"]), (&json!(line), &json!(column)), "{body}: {problem}");
    }
    let empty = house.post(TARGET, "application/json", "").await.problem(400);
    assert!(empty["detail"].as_str().is_some_and(|detail| detail.contains("empty")));
    let letters = house.get("/v1/topics/clicks/dead-letters").await.json();
    let letters = letters["dead_letters"].as_array().expect("letters");
    assert_eq!(letters.len(), 4);
    assert_eq!(letters[0]["original"], "[1] x");
    assert_eq!(letters[0]["origin"], json!({"index": null}));
    assert_eq!(in_log(&house).await, 0);
}

#[tokio::test]
async fn broken_lines_are_rejected_one_by_one() {
    let house = House::of(&["page_views"]).await;
    let mut body = format!("{}\n", json!({"url": "/a", "ts": TS})).into_bytes();
    body.extend_from_slice(b"{\"url\": \"/b\xff\", \"ts\": 1}\n{\"url\": \n");
    body.extend_from_slice(format!("{}", json!({"url": "/c", "ts": TS})).as_bytes());
    let reply = house.post(TARGET, "application/x-ndjson", body).await.json();
    assert_eq!(reply["accepted"], 2);
    let rejected = reply["rejected"].as_array().expect("rejected");
    assert_eq!((&rejected[0]["index"], &rejected[1]["index"]), (&json!(1), &json!(2)));
    let letters = house.get("/v1/topics/clicks/dead-letters").await.json();
    // Not UTF-8: the original comes as base64.
    assert_eq!(letters["dead_letters"][1]["original_base64"], "eyJ1cmwiOiAiL2L/IiwgInRzIjogMX0=");
}

#[tokio::test]
async fn other_content_types_topics_and_parameters_are_refused() {
    let house = House::of(&["page_views"]).await;
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "", "json"]
    {
        house.post(TARGET, content_type, "{}").await.problem(415);
    }
    send(house.addr, "POST", TARGET, &[], b"{}").await.problem(415);
    let compressed = [("content-type", "application/json"), ("content-encoding", "gzip")];
    send(house.addr, "POST", TARGET, &compressed, b"{}").await.problem(415);
    house.post("/v1/topics/nothing/events", "application/json", "{}").await.problem(404);
    house.post("/v1/topics/clicks.dead-letters/events", "application/json", "{}").await.problem(404);
    let problem = house.post("/v1/topics/clicks/events?wait=1", "application/json", "{}").await.problem(400);
    assert_eq!(problem["parameter"], "wait");
    let wrong = house.get(TARGET).await;
    assert_eq!(wrong.header("allow"), Some("POST"));
    wrong.problem(405);
}

#[tokio::test]
async fn avro_files_are_taken_and_others_refused() {
    let house = House::of(&["page_views"]).await;
    let problem = house.post(TARGET, "application/avro", "not a container").await.problem(400);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("container")));
    let letters = house.get("/v1/topics/clicks/dead-letters").await.json();
    assert_eq!(letters["dead_letters"][0]["original"], "not a container");
    // A container by hand: one block of two events {url: string, ts: long}, uncompressed.
    let schema = r#"{"type":"record","name":"Click","fields":[{"name":"url","type":"string"},{"name":"ts","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#;
    let mut file = b"Obj\x01\x04\x16avro.schema".to_vec();
    let length = schema.len() * 2;
    file.extend_from_slice(&[(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
    file.extend_from_slice(schema.as_bytes());
    file.extend_from_slice(b"\x14avro.codec\x08null\x00");
    file.extend_from_slice(&[7; 16]);
    let events = b"\x04/a\x02\x04/b\x04";
    file.extend_from_slice(&[4, events.len() as u8 * 2]);
    file.extend_from_slice(events);
    file.extend_from_slice(&[7; 16]);
    let reply = house.post(TARGET, "application/avro", file).await.json();
    assert_eq!((&reply["accepted"], &reply["rejected"]), (&json!(2), &json!([])));
    house.fold().await;
    let answer = house.get("/v1/views/page_views?url=/b").await.json();
    assert_eq!(answer["rows"][0]["views"], 1);
}

#[tokio::test]
async fn bodies_are_bounded_whether_or_not_they_say_their_length() {
    let settings = ServeSettings { max_body_bytes: 1000, ..ServeSettings::default() };
    let house = House::open_with(settings, |log| log).await;
    let big = format!("[{}]", " ".repeat(2000));
    house.post(TARGET, "application/json", &big).await.problem(413);
    let mut chunked = format!(
        "POST {TARGET} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    for _ in 0..20 {
        chunked += &format!("64\r\n{}\r\n", " ".repeat(100));
    }
    chunked += "0\r\n\r\n";
    raw(house.addr, chunked.into_bytes()).await.problem(413);
    let fits = format!("[{}]", " ".repeat(998));
    house.post(TARGET, "application/json", &fits).await.json();
}

#[tokio::test]
async fn a_failed_append_says_that_the_outcome_is_unknown() {
    let faults = LogFaults { error: 1.0, ..LogFaults::NONE };
    let mut faulty = None;
    let house = House::open_with(ServeSettings::default(), |log| {
        let log = Arc::new(FaultyLog::new(log, 1, LogFaults::NONE));
        faulty = Some(log.clone());
        log
    })
    .await;
    let faulty = faulty.expect("a log");
    faulty.set_faults(faults);
    let reply = house.post(TARGET, "application/json", json!({"url": "/a", "ts": TS}).to_string()).await;
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.problem(503);
    assert!(problem["type"].as_str().is_some_and(|name| name.ends_with("outcome-unknown")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("unknown")));
    // A rejection that cannot be kept is not answered as if it were.
    house.post(TARGET, "application/json", "{}").await.problem(503);
    house.get("/readyz").await.problem(503);
    faulty.set_faults(LogFaults::NONE);
    assert!(!house.events(&json!({"url": "/a", "ts": TS})).await.is_empty());
}

#[tokio::test]
async fn what_is_durable_counts_when_the_rest_of_a_request_fails() {
    let house = House::open_with(ServeSettings::default(), |log| Arc::new(OnePartitionFails(log))).await;
    let counted = async || {
        let clicks = house.get("/v1/status").await.json()["topics"]["clicks"].clone();
        (clicks["accepted"].as_u64(), clicks["rejected"].as_u64())
    };
    let mut events: Vec<Value> = (0..20).map(|n| json!({"url": format!("/{n}"), "ts": TS})).collect();
    events.push(json!({"wrong": 1}));
    let problem = house.post(TARGET, "application/json", json!(events).to_string()).await.problem(503);
    assert_eq!(problem["partitions"], json!(["clicks/1"]), "{problem}");
    let durable = in_log(&house).await as u64;
    assert!((1..20).contains(&durable), "{durable} of 20 are in the partition that works");
    assert_eq!(counted().await, (Some(durable), Some(1)));
    let letters = house.get("/v1/topics/clicks/dead-letters").await.json();
    assert_eq!(letters["dead_letters"].as_array().map(Vec::len), Some(1));
}

/// A log of which partition 1 of `clicks` takes nothing.
struct OnePartitionFails(Arc<dyn EventLog>);

#[async_trait]
impl EventLog for OnePartitionFails {
    async fn create_topic(&self, topic: &TopicSpec) -> event_log::error::Result<()> {
        self.0.create_topic(topic).await
    }

    async fn topics(&self) -> event_log::error::Result<Vec<TopicSpec>> {
        self.0.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Content>) -> event_log::error::Result<Range<Offset>> {
        if &*to.topic == "clicks" && to.partition == 1 {
            return Err(event_log::LogError::unavailable("appending", "the disk is gone"));
        }
        self.0.append(to, records).await
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> event_log::error::Result<Vec<Record>> {
        self.0.read(of, from, limit).await
    }

    async fn bounds(&self, topic: &str) -> event_log::error::Result<Vec<Range<Offset>>> {
        self.0.bounds(topic).await
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> event_log::error::Result<()> {
        self.0.trim(of, before).await
    }
}

#[tokio::test]
async fn keys_choose_partitions_and_order_within_one_is_kept() {
    let house = House::of(&["page_views"]).await;
    let events: Vec<Value> = (0..60).map(|n| json!({"url": format!("/{}", n % 6), "ts": n, "bytes": n})).collect();
    house.events(&json!(events)).await;
    let mut used = 0;
    for partition in house.partitions() {
        let records = house.log.read(&partition, 0, ReadLimit::records(100)).await.expect("read");
        used += usize::from(!records.is_empty());
        for record in &records {
            let event_log::Content::Event { key: Some(key), .. } = &record.content else {
                panic!("{record:?}");
            };
            assert_eq!(event_log::encode::partition_for(key, 2), partition.partition);
        }
    }
    assert_eq!(used, 2, "six keys are in both partitions");
}
