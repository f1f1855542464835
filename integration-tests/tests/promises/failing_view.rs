//! An event that one view cannot take: that view stops before it, in both layers, and says so everywhere; the others do not
//! notice.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use integration_tests::process::{Process, binary};
use serde_json::{Value, json};

const CLICK: &str = r#"{"type": "record", "name": "Click", "fields": [
    {"name": "url", "type": "string"}, {"name": "bytes", "type": "long"}]}"#;
const SQL: &str = "
    CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'url', partitions = 1);
    CREATE MATERIALIZED VIEW views AS SELECT url, count(*) AS n FROM clicks GROUP BY url;
    CREATE MATERIALIZED VIEW ratios AS SELECT url, sum(1000 / bytes) AS ratio FROM clicks GROUP BY url;";

fn batch_run(process: &Process) -> Output {
    Command::new(binary()).args(["batch", "run", "--server", &process.url]).output().expect("the binary was built")
}

async fn get(process: &Process, path: &str) -> Value {
    let (status, body) = process.get(path).await.expect("an answer");
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn append(process: &Process, url: &str, bytes: i64) -> Value {
    let event = json!({"url": url, "bytes": bytes});
    let (status, body) = process.post("/v1/topics/clicks/events", &event).await.expect("an answer");
    assert_eq!(status, 200, "{body}");
    body
}

/// Asks until the answer is there: the speed layer needs a moment.
async fn until(process: &Process, path: &str, done: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..600 {
        last = get(process, path).await;
        if done(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} never becomes what it should: {last}");
}

fn generation_of(views: &Value, name: &str) -> Value {
    let views = views["views"].as_array().expect("views");
    views.iter().find(|view| view["name"] == name).expect("the view")["generation"].clone()
}

fn write_application(app: &Path, sql: &str) {
    let files = [("click.avsc", CLICK), ("views.sql", sql), ("tidemark.toml", "[batch]\nevery = \"never\"\n")];
    for (name, text) in files {
        std::fs::write(app.join(name), text).expect("written");
    }
}

fn start(app: &Path, data: &Path) -> Process {
    Process::start(app, data, &[])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_and_says_so_and_the_others_go_on() {
    let (app, data) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    write_application(app.path(), SQL);
    let mut process = start(app.path(), data.path());
    append(&process, "/a", 10).await;
    let made = batch_run(&process);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    append(&process, "/a", 20).await;
    append(&process, "/a", 0).await;
    append(&process, "/a", 40).await;

    // The first two events are at 0 and 2: a marker stands between them.
    let failed = |view: &Value| view["failed"].as_str().is_some_and(|why| why.contains("clicks/0 at offset 3: "));
    for restarted in [false, true] {
        if restarted {
            assert_eq!(process.terminate(), Some(0));
            process = start(app.path(), data.path());
        }
        let any_failed = |views: &Value| views["views"].as_array().is_some_and(|views| views.iter().any(failed));
        until(&process, "/v1/views", any_failed).await;
        let made = batch_run(&process);
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert_eq!(made.status.code(), Some(1), "{said}");
        assert!(said.contains("without view ratios: clicks/0 at offset 3: "), "{restarted}: {said}");
        let views = get(&process, "/v1/views").await;
        assert_eq!(generation_of(&views, "ratios"), 1);
        assert!(generation_of(&views, "views").as_u64() > Some(1), "{views}");
        let run = &get(&process, "/v1/batch/runs").await["runs"][0];
        assert_eq!(run["state"], "published");
        assert!(run["error"].as_str().is_some_and(|error| error.contains("view ratios")), "{run}");
        let answer = until(&process, "/v1/views/views?url=/a", |answer| answer["rows"][0]["n"] == 4).await;
        assert!(answer["generation"].as_u64() > Some(1), "{answer}");
        // Up to the event, and not past it: nothing of it is half there.
        let answer = get(&process, "/v1/views/ratios?url=/a").await;
        assert_eq!((&answer["generation"], answer["degraded"].is_null()), (&json!(1), false), "{answer}");
        let ratio = answer["rows"][0]["ratio"].as_i64();
        assert!(ratio == Some(100) || ratio == Some(150), "{answer}");
    }
    let verified = Command::new(binary()).args(["verify", "--server", &process.url]).output().expect("it runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    assert_eq!(process.terminate(), Some(0));

    // Mended, it is another view, and has everything.
    write_application(app.path(), &SQL.replace("1000 / bytes", "1000 / nullif(bytes, 0)"));
    let process = start(app.path(), data.path());
    until(&process, "/v1/views/ratios?url=/a", |answer| answer["rows"][0]["ratio"] == 175).await;
    let made = batch_run(&process);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(get(&process, "/v1/views/ratios?url=/a").await["rows"][0]["ratio"], 175);
    assert_eq!(process.terminate(), Some(0));
}

/// A group that no store could keep is no event to acknowledge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_not_acknowledged_when_its_group_is_too_long() {
    let (app, data) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    write_application(app.path(), SQL);
    let process = start(app.path(), data.path());
    let answer = append(&process, &"x".repeat(100_000), 1).await;
    assert_eq!(answer["accepted"], 0, "{answer}");
    let why = answer["rejected"][0]["error"].as_str().expect("a reason");
    assert!(why.starts_with("url: 100003 bytes are too many"), "{why}");
    assert_eq!(append(&process, &"x".repeat(57_000), 1).await["accepted"], 1);
    let lookup = json!({"keys": [{"url": "x".repeat(57_000)}, {"url": "x".repeat(100_000)}]});
    for _ in 0..600 {
        let (status, answer) = process.post("/v1/views/views/lookup", &lookup).await.expect("an answer");
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["results"][1]["rows"], json!([]), "nobody has this one");
        if answer["results"][0]["rows"][0]["n"] == 1 {
            assert!(batch_run(&process).status.success());
            assert_eq!(process.terminate(), Some(0));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the long key is never found");
}
