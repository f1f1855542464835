//! A real process that is treated badly, and the books of what it must have taken.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use integration_tests::process::{Launched, Process, binary, run_arguments};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The topic of clicks.
pub const CLICKS: &str = "clicks";
/// The topic whose schema has every Avro type.
pub const EVERY: &str = "every";
/// The topic of the smallest events there are.
pub const NUMBERS: &str = "numbers";

pub const JSON: &str = "application/json";
pub const LINES: &str = "application/x-ndjson";
pub const AVRO: &str = "application/avro";

pub const CLICK_SCHEMA: &str = r#"{"type": "record", "name": "Click", "fields": [
  {"name": "url", "type": "string"},
  {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "bytes", "type": "long", "default": 0}
]}"#;

const EVERY_SCHEMA: &str = r#"{"type": "record", "name": "Every", "fields": [
  {"name": "a_string", "type": "string"},
  {"name": "a_boolean", "type": "boolean"},
  {"name": "an_int", "type": "int"},
  {"name": "a_long", "type": "long"},
  {"name": "a_float", "type": "float"},
  {"name": "a_double", "type": "double"},
  {"name": "some_bytes", "type": "bytes"},
  {"name": "a_uuid", "type": {"type": "string", "logicalType": "uuid"}},
  {"name": "a_date", "type": {"type": "int", "logicalType": "date"}},
  {"name": "time_millis", "type": {"type": "int", "logicalType": "time-millis"}},
  {"name": "time_micros", "type": {"type": "long", "logicalType": "time-micros"}},
  {"name": "ts_millis", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "ts_micros", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "ts_nanos", "type": {"type": "long", "logicalType": "timestamp-nanos"}},
  {"name": "local_micros", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
  {"name": "a_decimal", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
  {"name": "four_bytes", "type": {"type": "fixed", "name": "Four", "size": 4}},
  {"name": "an_enum", "type": {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}},
  {"name": "an_array", "type": {"type": "array", "items": "int"}},
  {"name": "a_map", "type": {"type": "map", "values": "long"}},
  {"name": "a_record", "type": {"type": "record", "name": "Inner", "fields": [{"name": "deep", "type": "int"}]}},
  {"name": "maybe", "type": ["null", "int"]},
  {"name": "either", "type": ["null", "int", "string"]}
]}"#;

pub const NUMBER_SCHEMA: &str =
    r#"{"type": "record", "name": "Number", "fields": [{"name": "n", "type": "long", "default": 0}]}"#;

const VIEWS: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'url', event_time = 'ts', partitions = 2, segment_records = 64);
CREATE MATERIALIZED VIEW pages AS SELECT url, count(*) AS views, sum(bytes) AS bytes FROM clicks GROUP BY url;
CREATE MATERIALIZED VIEW minutes WITH (key = 'url') AS
  SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS views, min(ts) AS first FROM clicks GROUP BY url, minute;
CREATE SOURCE every WITH (schema = 'every.avsc', event_time = 'ts_micros', partitions = 1);
CREATE MATERIALIZED VIEW kinds AS
  SELECT a_string, an_enum, count(*) AS events, sum(a_long) AS longs, max(a_double) AS double, sum(a_decimal) AS decimals,
         max(some_bytes) AS bytes, min(a_date) AS date, max(time_micros) AS time, count(DISTINCT maybe) AS maybes
  FROM every GROUP BY a_string, an_enum;
CREATE MATERIALIZED VIEW hours AS
  SELECT a_boolean, date_bin(INTERVAL '1 hour', ts_micros) AS hour, count(*) AS events, max(ts_millis) AS millis, min(ts_nanos) AS nanos
  FROM every GROUP BY a_boolean, hour;
CREATE SOURCE numbers WITH (schema = 'number.avsc', partitions = 1);
CREATE MATERIALIZED VIEW digits AS SELECT n % 10 AS digit, count(*) AS events FROM numbers GROUP BY digit;
";

/// An event that must be among the dead letters.
#[derive(Debug)]
struct Letter {
    original: Vec<u8>,
    /// What its reason must say: words with `|` between them.
    names: String,
}

/// What a topic must hold.
#[derive(Debug, Default)]
struct Book {
    accepted: u64,
    letters: Vec<Letter>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{}: {error}: {}", self.status, self.body))
    }

    /// Checks that this is a refusal as RFC 9457 has it, and that it names what is wrong.
    pub fn refuses(&self, status: u16, names: &str) {
        let body = &self.body;
        assert_eq!(self.status, status, "{body}");
        assert_eq!(self.content_type, "application/problem+json", "{body}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{body}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "no `{member}`: {body}");
        }
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(says(detail, names), "expected a word about {names:?}: {body}");
    }
}

/// The process, and the books.
pub struct House {
    pub process: Process,
    _folder: TempDir,
    books: BTreeMap<&'static str, Book>,
    /// Accepted clicks by URL, and the sum of their bytes.
    pages: BTreeMap<String, (u64, i64)>,
    good: u64,
}

/// Writes the application.
pub fn application(folder: &TempDir) -> PathBuf {
    let app = folder.path().join("app");
    std::fs::create_dir(&app).expect("a folder");
    let files = [
        ("click.avsc", CLICK_SCHEMA),
        ("every.avsc", EVERY_SCHEMA),
        ("number.avsc", NUMBER_SCHEMA),
        ("views.sql", VIEWS),
    ];
    for (name, text) in files {
        std::fs::write(app.join(name), text).expect("written");
    }
    std::fs::write(app.join("tidemark.toml"), "[batch]\nevery = \"never\"\n").expect("written");
    app
}

impl House {
    /// Starts the process. It may not have more than 12 GiB of addresses, so that no failing test takes the machine with it.
    pub fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let app = application(&folder);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 12582912; exec \"$0\" \"$@\""]).arg(binary());
        command.args(run_arguments(&app, &folder.path().join("data"), &[]));
        let process = Launched::by(command).ready().unwrap_or_else(|written| panic!("{written}"));
        Self { process, _folder: folder, books: BTreeMap::new(), pages: BTreeMap::new(), good: 0 }
    }

    /// Where events of a topic are posted.
    pub fn events_url(&self, topic: &str) -> String {
        format!("{}/v1/topics/{topic}/events", self.process.url)
    }

    /// Where it listens, without the scheme.
    pub fn address(&self) -> &str {
        self.process.url.trim_start_matches("http://")
    }

    /// Sends a request and reads the answer. Whatever it is, it is no 5xx.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap_or_else(|error| panic!("no answer: {error:?}\n{}", self.written()));
        let status = answer.status().as_u16();
        let content_type =
            answer.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = content_type.to_owned();
        let body = answer.text().await.expect("a whole body");
        assert!(status < 500, "{status}: {body}\n{}", self.written());
        self.assert_calm();
        Answer { status, content_type, body }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.process.http.get(format!("{}{path}", self.process.url))).await
    }

    /// POST of JSON text.
    pub async fn ask(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.process.http.post(format!("{}{path}", self.process.url));
        self.send(request.header("content-type", JSON).body(body)).await
    }

    /// POST of events.
    pub async fn post(&self, topic: &str, form: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.process.http.post(self.events_url(topic)).header("content-type", form);
        self.send(request.body(body)).await
    }

    fn written(&self) -> String {
        self.process.output().last()
    }

    /// No thread of the process has panicked.
    pub fn assert_calm(&self) {
        let written = self.written();
        assert!(!written.contains("panicked") && !written.contains("a request failed"), "{written}");
    }

    /// Posts a body in which the events `bad` (their index, what the reason must say, their bytes) are to be rejected, and `good`
    /// others accepted.
    pub async fn mixed(
        &mut self,
        topic: &'static str,
        form: &str,
        body: impl Into<reqwest::Body>,
        good: u64,
        bad: &[(usize, &str, &[u8])],
    ) {
        let answer = self.post(topic, form, body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let answer = answer.json();
        let rejected = answer["rejected"].as_array().expect("a list");
        let expected: Vec<u64> = bad.iter().map(|(index, ..)| *index as u64).collect();
        let found: Vec<u64> = rejected.iter().filter_map(|event| event["index"].as_u64()).collect();
        assert_eq!((&answer["accepted"], found), (&json!(good), expected), "{topic}: {answer}");
        let book = self.books.entry(topic).or_default();
        for (event, (_, names, original)) in rejected.iter().zip(bad) {
            let reason = event["error"].as_str().unwrap_or_default();
            let shown = String::from_utf8_lossy(&original[..original.len().min(200)]);
            assert!(says(reason, names), "expected a word about {names:?}: {reason}\n{shown}");
            book.letters.push(Letter { original: original.to_vec(), names: (*names).to_owned() });
        }
        book.accepted += good;
    }

    /// Posts a body of which nothing can be told from the next: refused, and a dead letter as a whole.
    pub async fn no_events(&mut self, topic: &'static str, form: &str, body: impl Into<Vec<u8>>, names: &str) {
        let body = body.into();
        self.post(topic, form, body.clone()).await.refuses(400, names);
        self.letter(topic, body, names);
    }

    /// Notes a dead letter that came about otherwise.
    pub fn letter(&mut self, topic: &'static str, original: Vec<u8>, names: &str) {
        self.books.entry(topic).or_default().letters.push(Letter { original, names: names.to_owned() });
    }

    /// Notes clicks that were accepted.
    pub fn clicked(&mut self, url: &str, views: u64, bytes: i64) {
        let page = self.pages.entry(url.to_owned()).or_default();
        *page = (page.0 + views, page.1 + bytes);
    }

    /// Notes events that were accepted otherwise than by [`House::mixed`].
    pub fn accepted(&mut self, topic: &'static str, events: u64) {
        self.books.entry(topic).or_default().accepted += events;
    }

    /// A good click, posted as the only event of a request.
    pub async fn good_click(&mut self) {
        self.good += 1;
        let url = format!("/good/{}", self.good % 5);
        let body = click(&url, self.good);
        self.clicked(&url, 1, self.good as i64);
        self.mixed(CLICKS, JSON, body, 1, &[]).await;
    }

    /// Ends after events nobody kept books of: what is served must be what the log says.
    pub async fn mutated(self) {
        self.settle().await;
        self.verify();
        self.assert_calm();
        assert_eq!(self.process.terminate(), Some(0));
    }

    /// Compares the books with everything the process says, twice: before and after a batch run. Then ends it.
    pub async fn close(mut self) {
        self.good_click().await;
        self.compare().await;
        let (status, run) = self.process.post("/v1/batch/runs?wait=true", &json!({})).await.expect("an answer");
        assert_eq!((status, &run["state"]), (200, &json!("published")), "{run}\n{}", self.written());
        self.good_click().await;
        self.compare().await;
        self.assert_calm();
        assert_eq!(self.process.terminate(), Some(0));
    }

    async fn compare(&self) {
        self.settle().await;
        self.compare_pages().await;
        let metrics = self.get("/metrics").await.body;
        let status = self.get("/v1/status").await.json();
        for (topic, book) in &self.books {
            let letters = self.dead_letters(topic).await;
            assert_eq!(letters.len(), book.letters.len(), "dead letters of {topic}");
            for (number, ((reason, original), expected)) in letters.iter().zip(&book.letters).enumerate() {
                let shown = String::from_utf8_lossy(&expected.original[..expected.original.len().min(200)]);
                assert!(*original == expected.original, "letter {number} of {topic} is not {shown}: {reason}");
                assert!(says(reason, &expected.names), "letter {number} of {topic}: {reason}: {shown}");
            }
            let (accepted, rejected) = (book.accepted, book.letters.len());
            for (name, count) in [("accepted", accepted), ("rejected", rejected as u64)] {
                let line = format!("tidemark_events_{name}_total{{topic=\"{topic}\"}} {count}");
                assert!(metrics.lines().any(|other| other == line), "{line} is not in\n{metrics}");
                assert_eq!(status["topics"][topic][name], count, "{status}");
            }
            assert_eq!(status["topics"][topic]["dead_letters"], rejected, "{status}");
        }
        for (view, status) in status["views"].as_object().expect("views") {
            assert_eq!(status["failed"], Value::Null, "{view}");
        }
        self.verify();
    }

    fn verify(&self) {
        let verified = self.command(&["verify"]);
        let written = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "{written}{}", String::from_utf8_lossy(&verified.stderr));
        assert!(written.contains("pages") && !written.contains("DIFFERENT"), "{written}");
    }

    async fn compare_pages(&self) {
        let pages: Vec<_> = self.pages.iter().collect();
        for some in pages.chunks(200) {
            let keys: Vec<Value> = some.iter().map(|(url, _)| json!({ "url": url })).collect();
            let answer = self.ask("/v1/views/pages/lookup", json!({ "keys": keys }).to_string()).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            let answer = answer.json();
            for ((url, (views, bytes)), result) in some.iter().zip(answer["results"].as_array().into_iter().flatten()) {
                let row = &result["rows"][0];
                let url: String = url.chars().take(80).collect();
                assert_eq!((&row["views"], &row["bytes"]), (&json!(views), &json!(bytes)), "{url:?}: {row}");
            }
        }
    }

    /// Waits until the views have folded everything in the log.
    async fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.get("/v1/status").await.json();
            let topics = status["topics"].as_object().expect("topics");
            let mut partitions = topics.values().flat_map(|topic| topic["partitions"].as_array().into_iter().flatten());
            if partitions.all(|partition| partition["lag_records"] == 0) {
                return;
            }
            assert!(Instant::now() < deadline, "the views do not follow: {status}\n{}", self.written());
            // Nobody tells from outside when all views stand at the end.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every dead letter of a topic: the reason and the original bytes.
    async fn dead_letters(&self, topic: &str) -> Vec<(String, Vec<u8>)> {
        let (mut letters, mut from) = (Vec::new(), 0);
        loop {
            let path = format!("/v1/topics/{topic}/dead-letters?partition=0&limit=1000&from={from}");
            let page = self.get(&path).await.json();
            for letter in page["dead_letters"].as_array().expect("letters") {
                let reason = letter["reason"].as_str().expect("a reason").to_owned();
                let original = match (letter["original"].as_str(), letter["original_base64"].as_str()) {
                    (Some(text), _) => text.as_bytes().to_vec(),
                    (None, Some(text)) => from_base64(text),
                    (None, None) => panic!("no original: {letter}"),
                };
                letters.push((reason, original));
            }
            match page["next"].as_u64() {
                Some(next) => from = next,
                None => return letters,
            }
        }
    }

    /// Runs a command against the process.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).args(["--server", &self.process.url]).output().expect("the binary was built")
    }

    /// How much memory the process has taken at most, in MiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }
}

/// Whether a text has every one of the words, between which are `|`.
fn says(text: &str, words: &str) -> bool {
    words.split('|').all(|word| text.contains(word))
}

/// A good click as JSON.
pub fn click(url: &str, bytes: u64) -> String {
    json!({"url": url, "ts": 1_763_632_800_000_000_u64 + bytes, "bytes": bytes}).to_string()
}

/// The bytes of a base64 text.
fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for digit in text.bytes().filter(|byte| *byte != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit).expect("a digit of base64");
        (bits, held) = (bits << 6 | value as u32, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
