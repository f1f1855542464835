//! A process of the speed layer dies, and its partitions are gone on with long before Kafka's group notices.

use std::process::Command;

use integration_tests::process::{Launched, Process, binary};
use integration_tests::servers::Servers;
use serde_json::json;
use tempfile::TempDir;

/// Far longer than this test waits: whoever waited for the group would be too late.
const SESSION: &str = "[log.kafka]\n\"session.timeout.ms\" = 45000\n";

const APPLICATION: [(&str, &str); 2] = [
    ("click.avsc", r#"{"type": "record", "name": "click", "fields": [{"name": "url", "type": "string"}]}"#),
    (
        "views.sql",
        "CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'url', partitions = 2);
         CREATE MATERIALIZED VIEW pages AS SELECT url, count(*) AS clicks FROM clicks GROUP BY url;",
    ),
];

#[tokio::test]
async fn partitions_of_a_dead_process_do_not_wait_for_the_group() {
    let folder = TempDir::new().expect("a folder");
    let corner = Servers::running().corner("takeover");
    std::fs::create_dir(folder.path().join("app")).expect("a folder");
    for (name, text) in APPLICATION {
        std::fs::write(folder.path().join("app").join(name), text).expect("written");
    }
    std::fs::write(folder.path().join("settings.toml"), format!("{corner}\n{SESSION}")).expect("written");
    let start = |role: &str, number: u32| -> Process {
        let mut command = Command::new(binary());
        command.arg(role).arg("--app").arg(folder.path().join("app"));
        command.arg("--config").arg(folder.path().join("settings.toml"));
        command.arg("--data").arg(folder.path().join(format!("{role}-{number}"))).args(["--listen", "127.0.0.1:0"]);
        Launched::by(command).ready().unwrap_or_else(|written| panic!("{role} does not start:\n{written}"))
    };
    let serving = start("serve", 0);
    let click = async |number: i64| {
        let urls = ["/a", "/b", "/c", "/d"];
        let events: Vec<_> = urls.iter().map(|url| json!({"url": url})).collect();
        let (status, answer) = serving.post("/v1/topics/clicks/events", &json!(events)).await.expect("an answer");
        assert_eq!((status, &answer["accepted"]), (200, &json!(4)), "{answer}");
        let position = answer["position"].as_str().expect("a position");
        for url in urls {
            let question = format!("/v1/views/pages?url={url}&min_position={position}&timeout=30s");
            println!("waiting for click {number} of {url}");
            let (status, answer) = serving.get(&question).await.expect("an answer");
            assert_eq!((status, &answer["rows"][0]["clicks"]), (200, &json!(number)), "{answer}");
        }
    };
    // One that has been told its partitions, so that the group waits for it.
    let first = start("speed", 1);
    click(1).await;
    first.kill();
    // One that joins instead of it, and is not told anything as long as the group waits.
    let second = start("speed", 2);
    click(2).await;
    drop(second);
    Servers::forget(&Servers::settings(&corner, folder.path())).await;
}
