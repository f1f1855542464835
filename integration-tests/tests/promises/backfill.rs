//! A view is added to an application with a history: `tidemark backfill` makes its first generation, and nobody waits for it.

use std::path::Path;
use std::process::{Command, Output};

use integration_tests::process::{Process, binary};
use serde_json::{Value, json};
use tempfile::TempDir;

const CLICK: &str = r#"{"type": "record", "name": "click", "fields": [
  {"name": "url", "type": "string"}, {"name": "user", "type": "string"}]}"#;
const SOURCE_AND_VIEW: &str = "CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'user', partitions = 2);
CREATE MATERIALIZED VIEW pages AS SELECT url, count(*) AS clicks FROM clicks GROUP BY url;\n";
const NEW_VIEW: &str = "CREATE MATERIALIZED VIEW users AS SELECT user, count(*) AS clicks FROM clicks GROUP BY user;\n";
/// The speed layer would take days, and no batch run comes by itself.
const SETTINGS: &str = "[speed]\nbackfill_rate = 1\n[batch]\nevery = \"never\"\n";

const EVENTS: usize = 30_000;
const USERS: usize = 50;

fn start(app: &Path, data: &Path, sql: &str) -> Process {
    std::fs::create_dir_all(app).expect("a folder");
    for (name, text) in [("click.avsc", CLICK), ("views.sql", sql), ("tidemark.toml", SETTINGS)] {
        std::fs::write(app.join(name), text).expect("written");
    }
    Process::start(app, data, &[])
}

fn tidemark(process: &Process, arguments: &[&str]) -> Output {
    let output = Command::new(binary()).args(arguments).args(["--server", &process.url]).output();
    output.expect("the binary was built")
}

async fn clicks_of(process: &Process, question: &str) -> Value {
    let (status, answer) = process.get(&format!("/v1/views/{question}")).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    answer["rows"][0]["clicks"].clone()
}

async fn append(process: &Process, events: usize) {
    for first in (0..events).step_by(5000) {
        let event = |number: usize| json!({"url": format!("/{}", number % 7), "user": format!("u{}", number % USERS)});
        let batch: Vec<Value> = (first..(first + 5000).min(events)).map(event).collect();
        let (status, answer) = process.post("/v1/topics/clicks/events", &json!(batch)).await.expect("an answer");
        assert_eq!((status, &answer["accepted"]), (200, &json!(batch.len())), "{answer}");
    }
}

#[tokio::test]
async fn a_new_view_has_its_history_when_it_is_asked_for() {
    let folder = TempDir::new().expect("a folder");
    let (app, data) = (folder.path().join("app"), folder.path().join("data"));
    let process = start(&app, &data, SOURCE_AND_VIEW);
    append(&process, EVENTS).await;
    assert!(tidemark(&process, &["batch", "run"]).status.success());
    assert_eq!(process.terminate(), Some(0));

    let process = start(&app, &data, &(SOURCE_AND_VIEW.to_owned() + NEW_VIEW));
    assert_eq!(clicks_of(&process, "pages?url=/0").await, json!(EVENTS / 7 + 1), "as before");
    let output = tidemark(&process, &["backfill", "users", "--rate", "1000000"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with(&format!("generation 2 published, {USERS} rows")), "{said}");
    for user in 0..USERS {
        assert_eq!(clicks_of(&process, &format!("users?user=u{user}")).await, json!(EVENTS / USERS));
    }
    // What comes now is counted by both, the old one at its own generation.
    append(&process, 100).await;
    let output = tidemark(&process, &["verify"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let (_, views) = process.get("/v1/views").await.expect("an answer");
    let generations: Vec<_> =
        views["views"].as_array().expect("views").iter().map(|view| &view["generation"]).collect();
    assert_eq!(generations, [&json!(1), &json!(2)], "{views}");

    for (arguments, exit, word) in [
        (&["backfill", "nothing"][..], 2, "nothing"),
        (&["backfill", "users", "--rate", "0"], 2, "--rate"),
        (&["backfill"], 2, "VIEW"),
    ] {
        let output = tidemark(&process, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
    assert_eq!(process.terminate(), Some(0));
}
