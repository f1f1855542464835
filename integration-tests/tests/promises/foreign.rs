//! Programs that know nothing of Tidemark write what its views count, and read what it wrote: Confluent's Python client and kcat
//! into the log, a Python Avro reader from the archive, a Python CQL driver from the view store. They must agree.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use event_log::archive::Archive;
use futures::TryStreamExt as _;
use integration_tests::process::Process;
use integration_tests::servers::Servers;
use object_store::ObjectStoreExt as _;
use serde_json::Value;
use tidemark::backends::Backends;
use tidemark::settings::Settings;
use views::{Offset, Position, TopicPartition};

/// How long until what others wrote must be in an answer.
const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a script of `integration-tests/foreign`; what it prints, line by line.
fn python(script: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new(root().join("target/venv/bin/python"));
    command.arg(root().join("integration-tests/foreign").join(script)).args(arguments);
    println!("foreign: {script}");
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// One whole event, in Confluent's frame, as any producer would make it.
fn framed(schema_id: u32, schema: &str, number: i64) -> Vec<u8> {
    use apache_avro::types::Value as Avro;
    let schema = apache_avro::Schema::parse_str(schema).expect("a schema");
    let text = |text: &str| Avro::String(text.to_owned());
    let null = || Avro::Union(0, Box::new(Avro::Null));
    let fields = [
        ("id", text(&format!("kcat-{number}"))),
        ("ts", Avro::TimestampMicros(1_795_168_800_000_000 + number * 1_000_000)),
        ("session_id", text("session k")),
        ("user_id", null()),
        ("method", text("GET")),
        ("url", text("/kcat")),
        ("status", Avro::Int(200)),
        ("bytes", Avro::Long(number)),
        ("duration_ms", Avro::Int(1)),
        ("ip", text("")),
        ("user_agent", text("kcat")),
        ("referrer", null()),
        ("country", null()),
    ];
    let event = Avro::Record(fields.map(|(name, value)| (name.to_owned(), value)).to_vec());
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema).build().expect("a writer");
    let mut frame = [&[0], &schema_id.to_be_bytes()[..]].concat();
    writer.write_value_ref(&mut frame, &event).expect("written");
    frame
}

/// Sends messages with kcat, each a file of its own.
fn kcat(brokers: &str, topic: &str, messages: &[Vec<u8>]) {
    let folder = tempfile::tempdir().expect("a folder");
    let files: Vec<PathBuf> = (0..messages.len()).map(|number| folder.path().join(number.to_string())).collect();
    for (file, message) in files.iter().zip(messages) {
        std::fs::File::create(file).and_then(|mut file| file.write_all(message)).expect("written");
    }
    println!("foreign: kcat");
    let mut command = Command::new("kcat");
    command.args(["-P", "-b", brokers, "-t", topic, "-p", "1", "-X", "acks=all"]).args(&files).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "kcat: {}", String::from_utf8_lossy(&output.stderr));
}

/// The rows of a page once the view has reached a position.
async fn rows(process: &Process, url: &str, reach: &Position) -> Vec<Value> {
    let path = format!("/v1/views/page_views?url={url}&min_position={}&timeout=30s", reach.token());
    let (status, answer) = process.get(&path).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    answer["rows"].as_array().expect("rows").clone()
}

/// Where the log ends now.
async fn ends(settings: &Settings) -> Position {
    let parts = Backends::open(settings).await.unwrap_or_else(|failure| panic!("{}", failure.message));
    let ends = parts.log.bounds("clicks").await.expect("bounds");
    (0..).zip(ends).map(|(number, kept)| (TopicPartition::new("clicks", number), kept.end)).collect()
}

#[tokio::test]
async fn others_write_and_read_and_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let corner = Servers::running().corner("foreign");
    let config = folder.path().join("corner.toml");
    std::fs::write(&config, &corner).expect("written");
    let process = Process::start(
        &root().join("schemas/clickstream"),
        &folder.path().join("data"),
        &["--config", &config.display().to_string()],
    );
    let settings = Servers::settings(&corner, &folder.path().join("beside"));
    let registry = settings.registry.url.clone().expect("a registry");
    let topic = format!("{}clicks", settings.log.topic_prefix);

    // Written by others.
    let delivered = python("produce.py", &[&settings.log.brokers, &registry, &topic, "400"]);
    assert_eq!(delivered, ["400"]);
    let schema = std::fs::read_to_string(root().join("schemas/clickstream/page_event.avsc")).expect("a schema");
    let parts = Backends::open(&settings).await.unwrap_or_else(|failure| panic!("{}", failure.message));
    let id = parts.registry.register("clicks-value", &schema).await.expect("it is registered");
    let messages: Vec<Vec<u8>> = (0..20).map(|number| framed(id, &schema, number)).collect();
    kcat(&settings.log.brokers, &topic, &messages);
    // What is no event at all goes to the dead letters, and keeps nobody from anything.
    kcat(&settings.log.brokers, &topic, &[b"no frame".to_vec()]);
    let reach = ends(&settings).await;
    let total = |rows: &[Value]| rows.iter().filter_map(|row| row["views"].as_i64()).sum::<i64>();
    for number in 0..4 {
        assert_eq!(total(&rows(&process, &format!("/python/{number}"), &reach).await), 100);
    }
    assert_eq!(total(&rows(&process, "/kcat", &reach).await), 20);
    let started = Instant::now();
    loop {
        let (_, letters) = process.get("/v1/topics/clicks/dead-letters").await.expect("an answer");
        if letters["dead_letters"].as_array().is_some_and(|letters| letters.len() == 1) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "one dead letter was expected: {letters}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Read by others: all of it is archived by a batch run, and the generation holds all of it.
    let (status, run) = process.post("/v1/batch/runs?wait=true", &Value::Null).await.expect("an answer");
    assert_eq!((status, run["state"].as_str()), (200, Some("published")), "{run}");
    let archive = Archive::new(parts.objects.clone(), "");
    let mut groups: BTreeSet<(String, String)> = BTreeSet::new();
    let mut archived = 0;
    for number in 0..4 {
        let partition = TopicPartition::new("clicks", number);
        for segment in archive.list(&partition).await.expect("a listing") {
            let name = archive.object_name(&segment);
            let object = parts.objects.get(&name).await.expect("the object").into_stream();
            let bytes: Vec<bytes::Bytes> = object.try_collect().await.expect("its bytes");
            let file = folder.path().join("segment.avro");
            std::fs::write(&file, bytes.concat()).expect("written");
            let framed_layout = segment_is_framed(&file);
            if framed_layout {
                // The partition with the broken event keeps frames as they are: its events are read from the log below.
                continue;
            }
            for line in python("archive.py", &[&file.display().to_string()]) {
                let events: Vec<(Offset, String, String, i64)> = serde_json::from_str(&line).expect("events");
                archived += events.len();
                groups.extend(events.into_iter().map(|(_, url, minute, _)| (url, minute)));
            }
        }
    }
    assert!(archived > 0, "no flat segment");

    let store = &settings.store;
    let (host, port) = store.nodes[0].rsplit_once(':').expect("host and port");
    let login = [store.user.as_deref().unwrap_or_default(), store.password.as_deref().unwrap_or_default()];
    let lines = python("views.py", &[host, port, login[0], login[1], &store.keyspace, "page_views"]);
    let mut of_batch: BTreeSet<(String, String)> = BTreeSet::new();
    let mut of_speed: BTreeSet<(String, String)> = BTreeSet::new();
    for line in lines {
        let (url, minute, generation, _, _): (String, String, i64, i64, Option<Offset>) =
            serde_json::from_str(&line).expect("a row");
        if generation == 0 {
            of_speed.insert((url, minute))
        } else {
            of_batch.insert((url, minute))
        };
    }
    assert!(groups.is_subset(&of_batch), "in the archive, and not in the generation: {groups:?} {of_batch:?}");
    let mut answered: BTreeSet<(String, String)> = BTreeSet::new();
    for url in ["/python/0", "/python/1", "/python/2", "/python/3", "/kcat"] {
        let rows = rows(&process, url, &reach).await;
        answered.extend(rows.iter().map(|row| (url.to_owned(), row["minute"].as_str().unwrap_or_default().to_owned())));
    }
    assert_eq!(of_batch, answered, "a row in cqlsh for every row of an answer");
    assert!(of_speed.is_subset(&answered), "{of_speed:?}");
    assert_eq!(process.terminate(), Some(0));
    Servers::forget(&settings).await;
}

/// Whether a segment keeps its events as they are in the log, because they are not all whole events of one schema.
fn segment_is_framed(file: &Path) -> bool {
    let bytes = std::fs::read(file).expect("the segment");
    let reader = apache_avro::Reader::new(&bytes[..]).expect("an Avro container file");
    matches!(reader.writer_schema(), apache_avro::Schema::Record(record) if record.lookup.contains_key("event"))
}
