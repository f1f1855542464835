//! `tidemark import`: older events before a topic's first, exactly once, whatever breaks it off.
//!
//! That answers over imported events and what comes after are what plain DataFusion says, over any view, is in `oracle.rs`. Here it is
//! the command: real processes, killed at any moment, and what a person may get wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use apache_avro::types::Record;
use apache_avro::{Codec, Schema, Writer};
use integration_tests::process::{Process, binary};
use integration_tests::servers::Servers;
use integration_tests::world::{number, seed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;

const SCHEMA: &str = r#"{"type": "record", "name": "Click", "fields": [
  {"name": "id", "type": "string"}, {"name": "url", "type": "string"},
  {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "bytes", "type": "long", "default": 0}]}"#;

/// What clicks were once.
const OLDER: &str = r#"{"type": "record", "name": "Click", "fields": [
  {"name": "url", "type": "string"}, {"name": "id", "type": "string"},
  {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;

const OTHER: &str = r#"{"type": "record", "name": "Click", "fields": [{"name": "url", "type": "long"}]}"#;

const VIEWS: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'url', event_time = 'ts', partitions = 3, segment_records = 32);
CREATE MATERIALIZED VIEW pages AS
  SELECT url, count(*) AS views, sum(bytes) AS bytes, count(DISTINCT id) AS ids, max(_offset) AS latest FROM clicks GROUP BY url;
CREATE MATERIALIZED VIEW minutes WITH (key = 'url') AS
  SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS views FROM clicks GROUP BY url, minute;
CREATE SOURCE visits WITH (schema = 'click.avsc', event_time = 'ts', partitions = 3, segment_records = 16);
CREATE MATERIALIZED VIEW visitors AS SELECT url, count(*) AS views, sum(bytes) AS bytes FROM visits GROUP BY url;
";

const SETTINGS: &str = "[batch]\nevery = \"never\"\n[log]\nfile_bytes = \"2KiB\"\n[store]\ncache = \"4MiB\"\n";

/// An application, its data, and what it must answer.
struct House {
    folder: TempDir,
    expected: BTreeMap<String, (u64, i64)>,
    sent: usize,
}

impl House {
    fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("app")).expect("a folder");
        for (name, text) in [("click.avsc", SCHEMA), ("views.sql", VIEWS), ("tidemark.toml", settings)] {
            std::fs::write(folder.path().join("app").join(name), text).expect("written");
        }
        Self { folder, expected: BTreeMap::new(), sent: 0 }
    }

    fn app(&self) -> PathBuf {
        self.folder.path().join("app")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A file of so many events, which count.
    fn file(&mut self, name: &str, events: usize, schema: &str, codec: Codec) -> String {
        let schema = Schema::parse_str(schema).expect("a schema");
        let mut writer = Writer::with_codec(&schema, Vec::new(), codec).expect("a writer");
        for event in 0..events {
            let (url, id, ts, bytes) = self.next(schema != Schema::parse_str(OLDER).expect("a schema"));
            let mut record = Record::new(&schema).expect("a record");
            record.put("id", id);
            record.put("url", url);
            record.put("ts", ts);
            if bytes != 0 {
                record.put("bytes", bytes);
            }
            writer.append_value(record).expect("appended");
            if event % 50 == 49 {
                writer.flush().expect("a block");
            }
        }
        let path = self.path(name);
        std::fs::write(&path, writer.into_inner().expect("written")).expect("written");
        path
    }

    /// The next event.
    fn next(&mut self, has_bytes: bool) -> (String, String, i64, i64) {
        self.sent += 1;
        let url = format!("/page/{}", self.sent * 7 % 23);
        let bytes = if has_bytes { self.sent as i64 } else { 0 };
        let counted = self.expected.entry(url.clone()).or_default();
        *counted = (counted.0 + 1, counted.1 + bytes);
        (url, format!("e-{}", self.sent), 1_763_632_800_000_000 + self.sent as i64 * 7_000_000, bytes)
    }

    fn command(&self, arguments: &[&str], more: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("import").args(arguments).arg("--app").arg(self.app()).arg("--data").arg(self.data()).args(more);
        command.stdin(Stdio::null());
        command
    }

    fn import(&self, arguments: &[&str]) -> Output {
        self.command(arguments, &[]).output().expect("the binary was built")
    }

    /// Imports, and must succeed.
    fn imported(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments, &["--json"]).output().expect("the binary was built");
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
    }

    fn start(&self) -> Process {
        Process::start(&self.app(), &self.data(), &[])
    }

    /// Posts events that count. Returns the position.
    async fn post(&mut self, process: &Process, topic: &str, events: usize) -> String {
        let events: Vec<Value> = (0..events)
            .map(|_| {
                let (url, id, ts, bytes) = self.next(true);
                json!({"id": id, "url": url, "ts": ts, "bytes": bytes})
            })
            .collect();
        let (status, answer) =
            process.post(&format!("/v1/topics/{topic}/events"), &json!(events)).await.expect("an answer");
        assert_eq!((status, &answer["accepted"]), (200, &json!(events.len())), "{answer}");
        answer["position"].as_str().expect("a position").to_owned()
    }

    /// Every page has what was sent, nothing missing and nothing twice, and `verify` agrees.
    async fn check(&self, process: &Process, view: &str, position: Option<&str>) {
        wait_until_caught_up(process).await;
        for (url, (views, bytes)) in &self.expected {
            let mut path = format!("/v1/views/{view}?url={}", url.replace('/', "%2F"));
            if let Some(position) = position {
                path.push_str(&format!("&min_position={position}&timeout=30s"));
            }
            let (status, answer) = process.get(&path).await.expect("an answer");
            assert_eq!(status, 200, "{answer}");
            let row = &answer["rows"][0];
            assert_eq!((&row["views"], &row["bytes"]), (&json!(views), &json!(bytes)), "{url}: {answer}");
        }
        let output = Command::new(binary()).args(["verify", "--json", "--server", &process.url]).output();
        let output = output.expect("the binary was built");
        assert!(output.status.success(), "{} {}", text(&output.stdout), text(&output.stderr));
    }

    /// Every object of the archive and its bytes.
    fn archive(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.data().join("archive")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.clone(), std::fs::read(path).expect("read"));
                }
            }
        }
        found
    }
}

async fn batch_run(process: &Process) {
    let (status, answer) = process.post("/v1/batch/runs?wait=true", &json!({})).await.expect("an answer");
    assert_eq!((status, &answer["state"]), (200, &json!("published")), "{answer}");
}

/// Waits until the deltas reach the end of the log in every partition: with nothing appended, they must come to what the import left.
async fn wait_until_caught_up(process: &Process) {
    let started = Instant::now();
    loop {
        let (_, status) = process.get("/v1/status").await.expect("an answer");
        let topics = status["topics"].as_object().cloned().unwrap_or_default();
        let partitions: Vec<Value> =
            topics.values().flat_map(|topic| topic["partitions"].as_array().cloned().unwrap_or_default()).collect();
        if !partitions.is_empty() && partitions.iter().all(|it| it["position"] == it["end"]) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the deltas do not come to the log's end: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is refused: the exit code and what is said, in one line.
#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "more than a line: {said}");
    for part in parts {
        assert!(said.contains(part), "{said:?} without {part:?}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn imported_events_and_later_ones_are_one_topic() {
    story(SETTINGS).await;
}

#[tokio::test]
async fn imported_events_and_later_ones_are_one_topic_on_servers() {
    let corner = Servers::running().corner("import");
    story(&corner).await;
    Servers::forget(&Servers::settings(&corner, Path::new("."))).await;
}

async fn story(settings: &str) {
    let mut house = House::new(settings);
    let one = house.file("one.avro", 400, OLDER, Codec::Deflate(Default::default()));
    let two = house.file("two.avro", 333, SCHEMA, Codec::Null);
    let answer = house.imported(&["clicks", &one, &two]);
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(733), &json!(0)), "{answer}");
    let partitions = answer["partitions"].as_array().expect("partitions").clone();
    let counts: u64 = partitions.iter().map(|it| it["events"].as_u64().expect("a number")).sum();
    assert_eq!(counts, 733, "{answer}");

    let process = house.start();
    house.check(&process, "pages", None).await;
    let position = house.post(&process, "clicks", 100).await;
    house.check(&process, "pages", Some(&position)).await;
    batch_run(&process).await;
    house.check(&process, "pages", None).await;
    let position = house.post(&process, "clicks", 70).await;
    house.check(&process, "pages", Some(&position)).await;
    assert_eq!(process.terminate(), Some(0));

    let process = house.start();
    house.check(&process, "pages", None).await;
    batch_run(&process).await;
    house.check(&process, "pages", None).await;
    // What is appended has the offsets after what was imported.
    let (_, topics) = process.get("/v1/topics").await.expect("an answer");
    let clicks =
        topics["topics"].as_array().expect("topics").iter().find(|topic| topic["name"] == "clicks").expect("clicks");
    for (there, imported) in clicks["offsets"].as_array().expect("partitions").iter().zip(&partitions) {
        assert_eq!(there["start"], 0, "{clicks}");
        assert!(there["end"].as_u64() >= imported["first_offset"].as_u64(), "{clicks}");
    }
    assert_eq!(process.terminate(), Some(0));

    // The same once more changes nothing, although the topic has been used.
    assert_eq!(house.imported(&["clicks", &one, &two]), answer);
}

/// A batch run may come first, or while the deltas are still being made.
#[tokio::test]
async fn a_batch_run_right_after_an_import_has_everything() {
    let mut house = House::new(SETTINGS);
    let file = house.file("one.avro", 500, SCHEMA, Codec::Null);
    house.imported(&["visits", &file]);
    let process = house.start();
    batch_run(&process).await;
    house.check(&process, "visitors", None).await;
    let position = house.post(&process, "visits", 33).await;
    house.check(&process, "visitors", Some(&position)).await;
    assert_eq!(process.terminate(), Some(0));
}

/// kill -9 at any moment, and the same command again: the same segments, and every event once.
#[tokio::test]
async fn an_import_that_is_killed_is_finished_by_the_same_command() {
    let seed = seed();
    println!("import: from seed {seed} (TIDEMARK_SEED={seed} repeats it)");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..number("TIDEMARK_KILLS", 4) {
        let mut house = House::new(SETTINGS);
        let one = house.file("one.avro", 700, SCHEMA, Codec::Null);
        let two = house.file("two.avro", 500, OLDER, Codec::Snappy);
        let bad = broken_tail(&mut house, "three.avro");
        let arguments = ["clicks", &one, &two, &bad];
        let whole = rehearse(&house, &arguments);
        let (mut kills, most) = (0, random.random_range(1..6));
        while kills < most {
            let mut child =
                house.command(&arguments, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run");
            if ended_before(&mut child, whole.mul_f64(random.random_range(0.3..1.0))) {
                break;
            }
            kills += 1;
        }
        let before = house.archive();
        let output = house.command(&arguments, &["--json"]).output().expect("the binary was built");
        assert_eq!(output.status.code(), Some(1), "one event was rejected: {}", text(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(1203), &json!(1)), "{answer}");
        let after = house.archive();
        for (path, bytes) in &before {
            // Of an upload that was broken off nothing but a temporary file may stay, which is nobody's segment.
            assert!(
                path.extension().is_none_or(|it| it != "avro") || after.get(path) == Some(bytes),
                "{path:?} changed"
            );
        }
        println!("import: killed {kills} times, {} of {} objects were there", before.len(), after.len());
        let process = house.start();
        house.check(&process, "pages", None).await;
        let (_, letters) = process.get("/v1/topics/clicks/dead-letters").await.expect("an answer");
        let letters = letters["dead_letters"].as_array().or_else(|| letters.as_array()).expect("dead letters").clone();
        assert_eq!(letters.len(), 1, "each once: {letters:?}");
        assert!(letters[0]["reason"].as_str().is_some_and(|it| it.starts_with("three.avro:4: ")), "{letters:?}");
        let position = house.post(&process, "clicks", 40).await;
        batch_run(&process).await;
        house.check(&process, "pages", Some(&position)).await;
        assert_eq!(process.terminate(), Some(0));
    }
}

/// How long an import takes. What it made is removed.
fn rehearse(house: &House, arguments: &[&str]) -> Duration {
    let started = Instant::now();
    house.import(arguments);
    let took = started.elapsed();
    std::fs::remove_dir_all(house.data()).expect("removed");
    took
}

/// Kills a process after a while; true when it had ended by itself.
fn ended_before(child: &mut Child, after: Duration) -> bool {
    std::thread::sleep(after);
    let ended = child.try_wait().expect("a status").is_some();
    let _ = child.kill();
    let _ = child.wait();
    ended
}

/// A file whose last event is none.
fn broken_tail(house: &mut House, name: &str) -> String {
    let path = house.file(name, 3, SCHEMA, Codec::Null);
    let mut file = std::fs::read(&path).expect("read");
    // One block more: one event, whose first text is longer than the block.
    let sync = file[file.len() - 16..].to_vec();
    file.extend_from_slice(&[2, 4, 0x7e, b'x']);
    file.extend_from_slice(&sync);
    std::fs::write(&path, file).expect("written");
    path
}

#[tokio::test]
async fn what_is_missing_after_a_broken_import_is_named_and_nothing_is_answered() {
    let mut house = House::new(SETTINGS);
    let file = house.file("one.avro", 600, SCHEMA, Codec::Null);
    house.imported(&["clicks", &file]);
    let objects: Vec<PathBuf> = house.archive().into_keys().collect();
    for missing in [&objects[0], &objects[objects.len() / 2], &objects[objects.len() - 1]] {
        let bytes = std::fs::read(missing).expect("read");
        std::fs::remove_file(missing).expect("removed");
        let written = Process::try_start(&house.app(), &house.data(), &[]).err().expect("it must not start");
        let start = missing.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('-').next());
        let start: u64 = start.and_then(|start| start.parse().ok()).expect("an offset");
        assert!(written.contains(&format!("offsets {start} to")) && written.contains("tidemark import"), "{written}");
        house.imported(&["clicks", &file]);
        assert!(std::fs::read(missing).expect("there again") == bytes, "the same bytes");
    }
    let process = house.start();
    house.check(&process, "pages", None).await;
    assert_eq!(process.terminate(), Some(0));
}

#[tokio::test]
async fn what_is_asked_for_in_a_wrong_way_is_told_in_one_line() {
    let mut house = House::new(SETTINGS);
    let good = house.file("good.avro", 100, SCHEMA, Codec::Null);
    let (text_file, empty, cut, gone) =
        (house.path("text.avro"), house.path("empty.avro"), house.path("cut.avro"), house.path("gone.avro"));
    std::fs::write(&text_file, "{\"url\": \"/a\"}\n").expect("written");
    std::fs::write(&empty, "").expect("written");
    let whole = std::fs::read(&good).expect("read");
    std::fs::write(&cut, &whole[..whole.len() - 30]).expect("written");
    let other = house.path("other.avro");
    let schema = Schema::parse_str(OTHER).expect("a schema");
    let mut writer = Writer::new(&schema, Vec::new()).expect("a writer");
    let mut record = Record::new(&schema).expect("a record");
    record.put("url", 7_i64);
    writer.append_value(record).expect("appended");
    std::fs::write(&other, writer.into_inner().expect("written")).expect("written");
    let nothing = house.path("nothing.avro");
    std::fs::write(
        &nothing,
        Writer::new(&Schema::parse_str(SCHEMA).expect("a schema"), Vec::new())
            .and_then(Writer::into_inner)
            .expect("written"),
    )
    .expect("written");

    let not_avro = "not an Avro container file";
    refused(&house.import(&["clicks", &good, &text_file]), 1, &["text.avro", not_avro]);
    refused(&house.import(&["clicks", &empty]), 1, &["empty.avro", not_avro]);
    refused(&house.import(&["clicks", &cut]), 1, &["cut.avro", "block 1 is cut short"]);
    refused(&house.import(&["clicks", &other]), 1, &["other.avro", "url"]);
    refused(&house.import(&["clicks", &gone]), 1, &["gone.avro", "No such file"]);
    refused(&house.import(&["clicks", &nothing]), 1, &["no event"]);
    refused(&house.import(&["clicks", &good, &good]), 2, &["good.avro", "twice"]);
    refused(&house.import(&["clicks", &house.path("app")]), 2, &["a folder"]);
    refused(&house.import(&["clocks", &good]), 2, &["no source `clocks`", "clicks, visits"]);
    assert!(house.archive().is_empty(), "nothing of all this was begun");

    let process = house.start();
    refused(&house.import(&["visits", &good]), 1, &["in use by another process", "--data"]);
    assert_eq!(process.terminate(), Some(0));
    refused(&house.import(&["clicks", &good]), 2, &["topic clicks is in use", "tidemark load"]);

    // Another beginning than the first one.
    std::fs::remove_dir_all(house.data()).expect("removed");
    house.imported(&["clicks", &good]);
    let more = house.file("more.avro", 50, SCHEMA, Codec::Null);
    refused(
        &house.import(&["clicks", &good, &more]),
        2,
        &["another import was begun", "partition 0", "the same files"],
    );
    // An archive that knows the topic, and a log that does not.
    std::fs::remove_dir_all(house.data().join("log")).expect("removed");
    refused(&house.import(&["clicks", &good]), 2, &["topic clicks", "the archive holds segments"]);
}
