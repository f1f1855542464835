//! A schema registry, as its users meet it: a source whose schema is a subject there, and a change that is found to break views
//! before anything runs.

use std::path::Path;
use std::process::{Command, Output};

use integration_tests::process::{Process, binary};
use integration_tests::servers::Servers;
use serde_json::json;
use tidemark::backends::Backends;

const VISIT: &str = r#"{"type": "record", "name": "Visit", "fields": [
    {"name": "page", "type": "string"}, {"name": "bytes", "type": "long", "default": 0}]}"#;

const VISIT_WITH_MORE: &str = r#"{"type": "record", "name": "Visit", "fields": [
    {"name": "page", "type": "string"}, {"name": "bytes", "type": "long", "default": 0},
    {"name": "country", "type": "string"}]}"#;

fn views(schema: &str) -> String {
    format!(
        "CREATE SOURCE visits WITH (schema = '{schema}', key = 'page', partitions = 1);
         CREATE MATERIALIZED VIEW pages WITH (key = 'page') AS SELECT page, count(*) AS visits FROM visits GROUP BY page;
         CREATE MATERIALIZED VIEW sizes WITH (key = 'page') AS SELECT page, sum(bytes) AS bytes FROM visits GROUP BY page;"
    )
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(folder.join(name), text)).expect("written");
}

fn check(app: &Path, config: &Path) -> Output {
    let mut command = Command::new(binary());
    command.arg("check").arg("--app").arg(app).arg("--config").arg(config).output().expect("the binary was built")
}

#[tokio::test]
async fn a_subject_is_a_schema_and_a_change_that_breaks_views_is_found_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let corner = Servers::running().corner("registry");
    let (app, config) = (folder.path().join("app"), folder.path().join("corner.toml"));
    std::fs::write(&config, &corner).expect("written");
    let settings = Servers::settings(&corner, &folder.path().join("beside"));
    let subject = format!("{}by-hand", settings.log.topic_prefix);

    // Nobody has registered it yet.
    write(&app, "views.sql", &views(&subject));
    let output = check(&app, &config);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&subject), "{said}");

    // What a topic is called there gets the prefix: a subject that is named outright does not.
    let parts = Backends::open(&settings).await.unwrap_or_else(|failure| panic!("{}", failure.message));
    parts.registry.register("by-hand", VISIT).await.expect("registered");
    let registered = format!("{subject}-value");
    write(&app, "views.sql", &views(&registered));
    let output = check(&app, &config);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("bytes"), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let process = Process::start(&app, &folder.path().join("data"), &["--config", &config.display().to_string()]);
    let (status, answer) = process.post("/v1/topics/visits/events", &json!({"page": "/a"})).await.expect("an answer");
    assert_eq!((status, answer["accepted"].as_i64()), (200, Some(1)), "{answer}");
    let position = answer["position"].as_str().expect("a position").to_owned();
    let (status, answer) =
        process.get(&format!("/v1/views/pages?page=/a&min_position={position}&timeout=30s")).await.expect("an answer");
    assert_eq!((status, answer["rows"][0]["visits"].as_i64()), (200, Some(1)), "{answer}");
    assert_eq!(process.terminate(), Some(0));

    // A field that old events do not have, and no default for it.
    write(&app, "visit.avsc", VISIT_WITH_MORE);
    write(&app, "views.sql", &views("visit.avsc"));
    let output = check(&app, &config);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["views.sql:1", "visits", "country", "pages", "sizes"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    // Checking registers nothing: what was right is right again.
    write(&app, "visit.avsc", VISIT);
    assert!(check(&app, &config).status.success());
    Servers::forget(&settings).await;
}
