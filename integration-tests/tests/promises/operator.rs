//! What an operator gets wrong: each mistake is told in one line that names the setting, within seconds. Never a hang, never a
//! panic.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use event_log::{Content, EmbeddedLog, EmbeddedOptions, EventLog, TopicSpec};
use integration_tests::parts::{EmbeddedParts, Parts};
use integration_tests::process::{Launched, binary};
use integration_tests::servers::Servers;
use tempfile::TempDir;
use tidemark::watched_log::WatchedLog;
use views::TopicPartition;

/// A mistake is told within this time, on a machine that does other things as well.
const SOON: Duration = Duration::from_secs(30);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Settings of a corner with something in them changed.
struct Mistake {
    folder: TempDir,
    settings: toml::Table,
}

impl Mistake {
    fn new(name: &str) -> Self {
        let corner = Servers::running().corner(name);
        Self { folder: tempfile::tempdir().expect("a folder"), settings: corner.parse().expect("settings") }
    }

    fn set(mut self, table: &str, key: &str, value: impl Into<toml::Value>) -> Self {
        let table = table.split('.').fold(&mut self.settings, |table, name| {
            let inner = table.entry(name).or_insert_with(|| toml::Table::new().into());
            inner.as_table_mut().expect("a table")
        });
        table.insert(key.to_owned(), value.into());
        self
    }

    fn command(&self) -> Command {
        let config = self.folder.path().join("cluster.toml");
        std::fs::write(&config, self.settings.to_string()).expect("written");
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0"]).arg("--config").arg(config);
        command.arg("--app").arg(root().join("schemas/photos")).arg("--data").arg(self.folder.path().join("data"));
        command
    }

    /// What it says when it does not start.
    fn told(&self) -> String {
        let began = Instant::now();
        let output = self.command().output().expect("the binary was built");
        let took = began.elapsed();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(took < SOON, "it took {took:?}: {text}");
        assert!(!output.status.success(), "it started");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("tidemark: ")).collect();
        assert_eq!(lines.len(), 1, "one line: {text}");
        assert!(!text.contains("panicked"), "{text}");
        println!("operator: {} ({:.1} s)", lines[0], took.as_secs_f32());
        lines[0].to_owned()
    }
}

fn assert_names(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.contains(word), "{word:?} is not in {told:?}");
    }
}

#[test]
fn no_broker_at_the_address() {
    let told = Mistake::new("no_broker").set("log", "brokers", "127.0.0.1:1").told();
    assert_names(&told, &["log.brokers", "127.0.0.1:1"]);
    let told = Mistake::new("no_broker").set("log", "brokers", "no.such.host.invalid:9092").told();
    assert_names(&told, &["log.brokers", "no.such.host.invalid"]);
}

#[test]
fn a_wrong_password_for_kafka() {
    let sasl = |password: &str| {
        Mistake::new("sasl")
            .set("log", "brokers", "127.0.0.1:19094")
            .set("log.kafka", "security.protocol", "SASL_PLAINTEXT")
            .set("log.kafka", "sasl.mechanism", "PLAIN")
            .set("log.kafka", "sasl.username", "tidemark")
            .set("log.kafka", "sasl.password", password)
    };
    let told = sasl("not the password").told();
    assert_names(&told, &["log.kafka", "uthentication"]);
    assert!(!told.contains("not the password"), "{told}");
    // With the right one it starts.
    let right = sasl("tidemark-secret");
    let process = Launched::by(right.command()).ready().unwrap_or_else(|written| panic!("{written}"));
    assert_eq!(process.terminate(), Some(0));
}

#[test]
fn a_setting_that_would_take_away_a_guarantee() {
    let told = Mistake::new("acks").set("log.kafka", "acks", "1").told();
    assert_names(&told, &["log.kafka", "acks"]);
}

/// The topics of somebody else, with clocks of the producers: a record's time could be anything.
#[test]
fn a_topic_with_create_time() {
    let mistake = Mistake::new("create_time");
    let prefix = mistake.settings["log"]["topic_prefix"].as_str().expect("a prefix").to_owned();
    let mut command = Command::new("java");
    command.arg("-cp").arg(format!("{}/target/servers/kafka/lib/*", root().display()));
    command.args(["org.apache.kafka.tools.TopicCommand", "--bootstrap-server", "127.0.0.1:19092", "--create"]);
    command.args(["--topic", &format!("{prefix}photo_events"), "--partitions", "4"]);
    let output = command.args(["--config", "message.timestamp.type=CreateTime"]).output().expect("java");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_names(&mistake.told(), &["photo_events", "message.timestamp.type", "CreateTime", "LogAppendTime"]);
}

#[test]
fn no_registry_at_the_address() {
    let told = Mistake::new("no_registry").set("registry", "url", "http://127.0.0.1:1").told();
    assert_names(&told, &["registry.url", "127.0.0.1:1"]);
    // A server is there, but it is none.
    let told = Mistake::new("no_registry").set("registry", "url", "http://127.0.0.1:18333").told();
    assert_names(&told, &["registry.url"]);
}

#[test]
fn a_missing_bucket_and_a_wrong_secret() {
    let told = Mistake::new("no_bucket").set("archive", "url", "s3://no-such-bucket/archive").told();
    assert_names(&told, &["archive.url", "no-such-bucket"]);
    let told = Mistake::new("secret").set("archive.s3", "secret_access_key", "not the secret").told();
    assert_names(&told, &["archive.url"]);
    assert!(!told.contains("not the secret"), "{told}");
    let told = Mistake::new("reader")
        .set("archive.s3", "access_key_id", "reader")
        .set("archive.s3", "secret_access_key", "reader-secret")
        .told();
    assert_names(&told, &["archive.url"]);
    let told = Mistake::new("endpoint").set("archive.s3", "endpoint", "http://127.0.0.1:1").told();
    assert_names(&told, &["archive.url"]);
}

#[test]
fn a_view_store_that_is_not_there_or_not_ours() {
    let told = Mistake::new("nodes").set("store", "nodes", vec!["127.0.0.1:1"]).told();
    assert_names(&told, &["store.nodes", "127.0.0.1:1"]);
    let told = Mistake::new("password").set("store", "password", "not the password").told();
    assert_names(&told, &["store.password"]);
    assert!(!told.contains("not the password"), "{told}");
    let told = Mistake::new("no_keyspace").set("store", "create", false).told();
    assert_names(&told, &["store.keyspace", "tidemark store init"]);
    let told =
        Mistake::new("levels").set("store", "read_consistency", "one").set("store", "write_consistency", "one").told();
    assert_names(&told, &["store.read_consistency", "store.write_consistency"]);
}

/// Somebody's clock is an hour wrong. Answers are exact; how fresh they are nobody can say, and that is said.
#[tokio::test]
async fn clocks_that_disagree() {
    let parts = EmbeddedParts::new();
    let clock = parts.clock().expect("a clock of the log's own").clone();
    let ports = parts.open().await;
    let topic = TopicSpec { name: "events".to_owned(), partitions: 1, segment_records: 100 };
    ports.log.create_topic(&topic).await.expect("a topic");
    let event = || vec![Content::Event { key: None, value: vec![0; 8].into() }];
    // The log's clock stands in 2026-11, a long time before or after now, as seen from this machine.
    let log_time = clock.now();
    let now = chrono::Utc::now().timestamp_micros();
    let watched = WatchedLog::new(ports.log.clone());
    let mut skew = watched.skew();
    watched.append(&TopicPartition::new("events", 0), event()).await.expect("an append");
    println!("operator: waiting for the clocks to be compared");
    let found = skew.wait_for(Option::is_some).await.expect("a comparison").expect("a skew");
    let (expected, minute) = (log_time - now, 60_000_000);
    assert!((found.us - expected).abs() < minute, "{found:?}, expected {expected}");
    // And with clocks that agree, there is none.
    let folder = tempfile::tempdir().expect("a folder");
    let log = EmbeddedLog::open(folder.path(), EmbeddedOptions::default()).expect("a log");
    let watched = WatchedLog::new(std::sync::Arc::new(log));
    watched.create_topic(&topic).await.expect("a topic");
    let mut skew = watched.skew();
    watched.append(&TopicPartition::new("events", 0), event()).await.expect("an append");
    let found = skew.wait_for(Option::is_some).await.expect("a comparison").expect("a skew");
    assert!(found.us.abs() < 1_000_000, "{found:?}");
}
