//! The commands: what they read, what they print, how they end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use apache_avro::types::Record as AvroRecord;
use integration_tests::process::{Process, binary};
use serde_json::{Value, json};
use tidemark::application;
use tidemark::generator::{Clicks, Traffic};
use tidemark::input::combined::CombinedLog;
use tidemark::input::container::Container;
use tidemark::input::csv::Fields;
use tidemark::input::elements::Elements;

fn schemas(application: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas").join(application)
}

fn tidemark(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the binary was built")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn both_applications_pass_check() {
    for (name, views) in [("clickstream", ["page_views", "sessions"]), ("photos", ["photo_current", "user_photos"])] {
        let path = schemas(name);
        let output = tidemark(&["check", "--app", &path.display().to_string()]);
        assert!(output.status.success(), "{}", stdout(&output));
        for view in views {
            assert!(stdout(&output).contains(&format!("view {view} of ")), "{}", stdout(&output));
        }
    }
    assert_eq!(application::clickstream().files.len(), 2, "and the compiled-in one is the same");
    assert!(application::clickstream().compile().is_ok());
}

#[test]
fn check_names_every_problem_with_file_and_line() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(schemas("clickstream").join("page_event.avsc"), dir.path().join("page_event.avsc")).expect("copied");
    let sql = "CREATE SOURCE clicks WITH (schema = 'page_event.avsc');\n\n\
        CREATE MATERIALIZED VIEW a AS SELECT nothing, count(*) AS n FROM clicks GROUP BY nothing;\n\
        CREATE MATERIALIZED VIEW b AS SELECT url, no_such_function(bytes) AS n FROM clicks GROUP BY url;\n";
    std::fs::write(dir.path().join("views.sql"), sql).expect("written");
    std::fs::write(dir.path().join("tidemark.toml"), "[speed]\nfast = true\n").expect("written");
    let output = tidemark(&["check", "--app", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let problems = stdout(&output);
    assert!(problems.contains("views.sql:3: "), "{problems}");
    assert!(problems.contains("views.sql:4: ") && problems.contains("no_such_function"), "{problems}");
    assert!(problems.contains("tidemark.toml") && problems.contains("speed.fast"), "{problems}");
}

#[test]
fn help_teaches_and_later_commands_say_so() {
    let help = stdout(&tidemark(&["--help"]));
    assert!(help.contains("Examples:") && help.contains("tidemark demo"), "{help}");
    for command in [
        "run", "demo", "load", "import", "query", "backfill", "verify", "check", "config", "batch", "speed", "serve",
        "archive",
    ] {
        let output = tidemark(&[command, "--help"]);
        assert!(output.status.success() && stdout(&output).contains("Examples:"), "{command}: {}", stdout(&output));
    }
    let output = tidemark(&["sql", "SELECT 1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not in this version"), "{}", stderr(&output));
}

/// A role without parts that processes can share would work on a log of its own, and nobody would notice.
#[test]
fn a_role_asks_for_parts_that_processes_share() {
    for role in ["speed", "serve", "archive", "batch"] {
        let output = tidemark(&[role]);
        assert_eq!(output.status.code(), Some(2), "{role}");
        assert!(stderr(&output).contains("--app DIR is missing"), "{role}: {}", stderr(&output));
        let clickstream = schemas("clickstream").display().to_string();
        let output = tidemark(&[role, "--app", &clickstream, "--listen", "127.0.0.1:0"]);
        assert_eq!(output.status.code(), Some(2), "{role}");
        for setting in ["log.kind", "registry.url", "archive.url", "store.kind"] {
            assert!(stderr(&output).contains(setting), "{role} does not name {setting}: {}", stderr(&output));
        }
    }
    assert_eq!(tidemark(&["store", "init"]).status.code(), Some(2));
}

#[test]
fn nobody_there_is_said_with_a_hint() {
    // A port that was free a moment ago.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("bound").port();
    let server = format!("http://127.0.0.1:{port}");
    let output = tidemark(&["query", "page_views", "url=/", "--server", &server]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is `tidemark run` running"), "{}", stderr(&output));
}

#[test]
fn access_log_lines_become_page_events() {
    let mut log = CombinedLog::new("access.log");
    let first = br#"198.51.100.7 - ada [17/May/2015:10:05:03 +0200] "GET /a?x=1 HTTP/1.1" 200 1234 "http://example.org/b" "Agent \"7\" (x)""#;
    let event = log.event(first).expect("a good line");
    assert_eq!(event["ip"], "198.51.100.7");
    assert_eq!(event["user_id"], "ada");
    assert_eq!(event["ts"], 1_431_849_903_000_000_i64, "in UTC");
    assert_eq!((&event["method"], &event["url"]), (&json!("GET"), &json!("/a?x=1")));
    assert_eq!((&event["status"], &event["bytes"]), (&json!(200), &json!(1234)));
    assert_eq!(event["referrer"], "http://example.org/b");
    assert_eq!(event["user_agent"], "Agent \"7\" (x)");

    let later = |time: &str| {
        format!(r#"198.51.100.7 - - [17/May/2015:{time} +0200] "HEAD / HTTP/1.0" 304 - "-" "Agent \"7\" (x)""#)
    };
    let soon = log.event(later("10:30:00").as_bytes()).expect("a good line");
    assert_eq!((&soon["user_id"], &soon["referrer"], &soon["bytes"]), (&Value::Null, &Value::Null, &json!(0)));
    assert_eq!(soon["session_id"], event["session_id"], "25 minutes later: the same session");
    let back = log.event(later("10:29:58").as_bytes()).expect("a good line");
    assert_eq!(back["session_id"], event["session_id"], "out of order: the same session");
    let much_later = log.event(later("11:00:01").as_bytes()).expect("a good line");
    assert_ne!(much_later["session_id"], event["session_id"], "more than 30 minutes after the last");
    assert_ne!(soon["id"], back["id"]);

    let mut again = CombinedLog::new("access.log");
    assert_eq!(again.event(first).expect("a good line"), event, "loading again makes the same events");

    for wrong in [
        "".as_bytes(),
        b"198.51.100.7 - - [17/May/2015:10:05:03 +0200] \"GET / HTTP/1.1\" 200 12 \"-\" \"no end",
        b"198.51.100.7 - - [soon] \"GET / HTTP/1.1\" 200 12 \"-\" \"x\"",
        b"198.51.100.7 - - [17/May/2015:10:05:03 +0200] \"GET\" 200 12 \"-\" \"x\"",
        b"198.51.100.7 - - [17/May/2015:10:05:03 +0200] \"GET / HTTP/1.1\" 200 99999999999999999999 \"-\" \"x\"",
    ] {
        assert!(log.event(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
    }
}

#[test]
fn csv_values_follow_the_schema() {
    let schema = json!({"type": "record", "name": "R", "fields": [
        {"name": "text", "type": "string"},
        {"name": "maybe", "type": ["null", "string"]},
        {"name": "count", "type": "long"},
        {"name": "price", "type": ["null", "double"]},
        {"name": "yes", "type": "boolean"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ]});
    let fields = Fields::of_schema(&schema.to_string()).expect("a record");
    let event = |row: &[(&'static str, &'static str)]| Value::Object(fields.event(row.iter().copied()));
    let full = event(&[
        ("text", "17850"),
        ("maybe", "x"),
        ("count", "-3"),
        ("price", "2.55"),
        ("yes", "TRUE"),
        ("at", "2010-12-01 08:26:00"),
        ("day", "2010-12-01"),
        ("tags", "[\"a\"]"),
        ("other", "1"),
    ]);
    assert_eq!(
        full,
        json!({
            "text": "17850", "maybe": "x", "count": -3, "price": 2.55, "yes": true,
            "at": "2010-12-01T08:26:00Z", "day": "2010-12-01", "tags": ["a"], "other": "1",
        })
    );
    let empty = event(&[("text", ""), ("maybe", ""), ("count", ""), ("price", ""), ("at", "")]);
    assert_eq!(empty, json!({"text": "", "maybe": null, "price": null}), "absent where nothing can stand for it");
    let odd = event(&[("count", "1.5"), ("price", "NaN"), ("yes", "maybe"), ("at", "1291192000000000")]);
    assert_eq!(odd, json!({"count": "1.5", "price": "NaN", "yes": "maybe", "at": 1_291_192_000_000_000_i64}));
}

#[test]
fn arrays_are_cut_into_their_elements() {
    let cut = |text: &str| {
        let mut elements = Elements::new(text.as_bytes());
        let mut found = Vec::new();
        loop {
            match elements.next_element() {
                Ok(Some((line, element))) => found.push((line, String::from_utf8_lossy(&element).trim().to_owned())),
                Ok(None) => return Ok(found),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let text = "\n[ {\"a\": \"],[}\\\"\"},\n\n{\"b\":\n[1, 2]} , 3]\n";
    let found = cut(text).expect("an array");
    assert_eq!(found, [(2, r#"{"a": "],[}\""}"#.to_owned()), (4, r#"{"b": [1, 2]}"#.to_owned()), (5, "3".to_owned())]);
    assert_eq!(cut("[]"), Ok(Vec::new()));
    assert!(cut("[{\"a\": 1}").is_err(), "no end");
    assert!(cut("{\"a\": 1}").is_err(), "no array");
}

fn container(events: usize) -> Vec<u8> {
    let schema =
        apache_avro::Schema::parse_str(r#"{"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}"#);
    let schema = schema.expect("a schema");
    let codec = apache_avro::Codec::Zstandard(apache_avro::ZstandardSettings::default());
    let mut writer = apache_avro::Writer::with_codec(&schema, Vec::new(), codec).expect("a writer");
    for n in 0..events {
        let mut record = AvroRecord::new(&schema).expect("a record");
        record.put("n", n as i64);
        writer.append_value(record).expect("appended");
        if n % 100 == 99 {
            writer.flush().expect("a block");
        }
    }
    writer.into_inner().expect("written")
}

#[test]
fn containers_are_cut_at_their_blocks() {
    let whole = container(1050);
    let mut pieces = Container::open(whole.as_slice()).expect("a header");
    let (mut numbers, mut count) = (Vec::new(), 0);
    while let Some(piece) = pieces.next(700).expect("undamaged") {
        assert_eq!(piece.first, numbers.len() as u64 + 1);
        for value in apache_avro::Reader::new(piece.bytes.as_slice()).expect("a container of its own") {
            let apache_avro::types::Value::Record(fields) = value.expect("a value") else { panic!("not a record") };
            numbers.push(fields[0].1.clone());
        }
        assert_eq!(numbers.len() as u64 + 1, piece.first + piece.events);
        count += 1;
    }
    assert!(count > 1, "{count} pieces");
    assert_eq!(numbers, (0..1050).map(apache_avro::types::Value::Long).collect::<Vec<_>>());
    assert!(Container::open(&whole[..3]).is_err());
    assert!(Container::open(&b"Obj\x02nothing"[..]).is_err());
    let mut cut_off = Container::open(&whole[..whole.len() - 5]).expect("a header");
    let damaged = std::iter::from_fn(|| Some(cut_off.next(usize::MAX))).next();
    assert!(damaged.is_some_and(|piece| piece.is_err()), "the end is missing");
}

#[test]
fn made_up_traffic_is_seeded_and_looks_real() {
    let lines: Vec<Vec<u8>> = Clicks::new(7).take(40_000).collect();
    assert!(lines.iter().eq(Clicks::new(7).take(40_000).collect::<Vec<_>>().iter()), "the same seed");
    assert!(Clicks::new(8).take(100).ne(lines[..100].iter().cloned()), "another seed");
    let mut clicks = Clicks::with(Traffic { broken_ppm: 0, ..Traffic::default() });
    let (mut latest, mut late, mut sessions, mut home) = (0, 0, std::collections::HashMap::new(), 0);
    for _ in 0..20_000 {
        let event: Value = serde_json::from_slice(&clicks.next().expect("endless")).expect("none is broken");
        let ts = event["ts"].as_i64().expect("a time");
        late += u32::from(ts < latest);
        latest = latest.max(ts);
        home += u32::from(event["url"] == "/");
        *sessions.entry(event["session_id"].to_string()).or_insert(0_u32) += 1;
    }
    assert!((2000..5000).contains(&late), "{late} of 20000 out of order");
    assert!(home > 1000, "{home} of 20000 on the home page");
    assert!(sessions.values().any(|clicks| *clicks > 5) && sessions.len() > 1000);
    assert_eq!(clicks.broken(), 0);
}

/// Load, ask, batch run, verify, stop: the way of a first-time user, with the real binary.
#[tokio::test]
async fn a_first_session() {
    let dir = tempfile::tempdir().expect("a folder");
    let process = Process::start(&schemas("clickstream"), &dir.path().join("data"), &[]);
    let server = process.url.clone();
    let seed = 11;
    println!("seed {seed}");
    let mut clicks = Clicks::with(Traffic { seed, broken_ppm: 10_000, ..Traffic::default() });
    let path = dir.path().join("clicks.jsonl");
    let mut file = std::fs::File::create(&path).expect("created");
    for event in clicks.by_ref().take(3000) {
        file.write_all(&event).and_then(|()| file.write_all(b"\n")).expect("written");
    }
    drop(file);
    let broken = clicks.broken();
    assert!(broken > 0);
    let run = |arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        tidemark(&arguments)
    };
    let command = |arguments: &[&str]| {
        let all = arguments.iter().copied().chain(["--server", &server]).map(str::to_owned).collect();
        run(all)
    };

    let loaded = command(&["load", "clicks", &path.display().to_string()]);
    assert_eq!(stdout(&loaded), format!("accepted {}, rejected {broken}\n", 3000 - broken), "{}", stderr(&loaded));
    assert_eq!(loaded.status.code(), Some(1), "some were rejected");
    assert!(stderr(&loaded).contains("clicks.jsonl:"), "with their lines: {}", stderr(&loaded));
    let unknown = command(&["load", "nothing", &path.display().to_string()]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("nothing"), "{}", stderr(&unknown));

    let event =
        json!({"id": "e1", "ts": "2026-11-20T10:00:12Z", "session_id": "s1", "user_id": "ada", "url": "/only-here"});
    let (status, answer) = process.post("/v1/topics/clicks/events", &event).await.expect("an answer");
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    let position = answer["position"].as_str().expect("a position").to_owned();
    let wait = ["--min-position", &position, "--timeout", "30s"];
    let asked = command(&[["query", "page_views", "url=/only-here", "--json"].as_slice(), &wait].concat());
    assert!(asked.status.success(), "{}", stderr(&asked));
    let answer: Value = serde_json::from_slice(&asked.stdout).expect("JSON");
    assert_eq!(answer["rows"][0]["views"], 1, "{answer}");

    let batch = command(&["batch", "run"]);
    assert!(stdout(&batch).starts_with("generation 1 published"), "{}{}", stdout(&batch), stderr(&batch));
    let table = stdout(&command(&["query", "user_activity", "user_id=ada", "--explain"]));
    assert!(table.contains("/only-here") && table.contains("batch, generation 1"), "{table}");

    let verified = command(&["verify"]);
    assert!(verified.status.success(), "{}{}", stdout(&verified), stderr(&verified));
    for view in ["page_views", "user_activity", "sessions", "referrers", "status_codes"] {
        assert!(stdout(&verified).contains(view), "{}", stdout(&verified));
    }
    assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful");
}

#[tokio::test]
async fn a_restart_and_a_changed_view_lose_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (app, data) = (dir.path().join("app"), dir.path().join("data"));
    std::fs::create_dir(&app).expect("a folder");
    std::fs::copy(schemas("clickstream").join("page_event.avsc"), app.join("page_event.avsc")).expect("copied");
    let views = |aggregate: &str| {
        let sql = format!(
            "CREATE SOURCE clicks WITH (schema = 'page_event.avsc', key = 'session_id');\n\
             CREATE MATERIALIZED VIEW pages AS SELECT url, {aggregate} AS n FROM clicks GROUP BY url;"
        );
        std::fs::write(app.join("views.sql"), sql).expect("written");
    };
    let event = json!({"id": "e", "ts": "2026-11-20T10:00:12Z", "session_id": "s", "url": "/a", "bytes": 20});
    let lookup = |position: &str| format!("/v1/views/pages?url=/a&min_position={position}&timeout=30s");

    views("count(*)");
    let process = Process::start(&app, &data, &[]);
    let (_, answer) = process.post("/v1/topics/clicks/events", &json!([event, event])).await.expect("an answer");
    assert_eq!(answer["accepted"], 2, "{answer}");
    let (status, run) = process.post("/v1/batch/runs?wait=true", &json!({})).await.expect("an answer");
    assert_eq!((status, &run["generation"]), (200, &json!(1)), "{run}");
    let (_, answer) = process.post("/v1/topics/clicks/events", &event).await.expect("an answer");
    let position = answer["position"].as_str().expect("a position").to_owned();
    process.kill();

    let process = Process::start(&app, &data, &[]);
    let (status, answer) = process.get(&lookup(&position)).await.expect("an answer");
    assert_eq!((status, &answer["rows"][0]["n"]), (200, &json!(3)), "{answer}");
    assert_eq!(process.terminate(), Some(0));

    views("sum(bytes)");
    let process = Process::start(&app, &data, &[]);
    let (status, answer) = process.get(&lookup(&position)).await.expect("an answer");
    assert_eq!((status, &answer["rows"][0]["n"]), (200, &json!(60)), "rebuilt from the log: {answer}");
    assert_eq!(process.terminate(), Some(0));
}

#[test]
fn what_cannot_start_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let app = schemas("clickstream");
    let refused = |arguments: &[&str]| match Process::try_start(&app, &dir.path().join("data"), arguments) {
        Ok(_) => panic!("{arguments:?} started"),
        Err(written) => written,
    };
    let config = dir.path().join("kafka.toml");
    std::fs::write(&config, "[log]\nkindd = \"kafka\"\n").expect("written");
    let written = refused(&["--config", &config.display().to_string()]);
    assert!(written.contains("kafka.toml") && written.contains("log.kindd"), "{written}");

    let first = Process::start(&app, &dir.path().join("data"), &[]);
    let taken = first.url.trim_start_matches("http://").to_owned();
    let other = dir.path().join("other").display().to_string();
    let taken = tidemark(&["run", "--app", &app.display().to_string(), "--data", &other, "--listen", &taken]);
    assert_eq!(taken.status.code(), Some(1));
    let hint = "is taken by another process: choose another address with --listen\n";
    assert!(stderr(&taken).ends_with(hint) && stderr(&taken).lines().count() == 1, "{}", stderr(&taken));
    assert!(!dir.path().join("other").exists(), "nothing was opened before that was found out");
    let written = refused(&[]);
    assert!(written.contains("is in use by another process"), "one process per data folder: {written}");
}

/// The photo service: what its pages show follows from its events, right after an upload and across a batch run.
#[tokio::test]
async fn photos_by_their_events() {
    let dir = tempfile::tempdir().expect("a folder");
    let process = Process::start(&schemas("photos"), &dir.path().join("data"), &[]);
    let event = |kind: &str, photo: &str, minute: u32, more: Value| {
        let mut event =
            json!({"type": kind, "ts": format!("2026-11-20T10:{minute:02}:00Z"), "photo_id": photo, "user_id": "ada"});
        if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
            event.extend(more);
        }
        event
    };
    let upload = async |events: Value| {
        let (status, answer) = process.post("/v1/topics/photo_events/events", &events).await.expect("an answer");
        assert_eq!((status, &answer["rejected"]), (200, &json!([])), "{answer}");
        answer["position"].as_str().expect("a position").to_owned()
    };
    let rows = async |question: &str, position: &str| {
        let path = format!("/v1/views/{question}&min_position={position}&timeout=30s");
        let (status, answer) = process.get(&path).await.expect("an answer");
        assert_eq!(status, 200, "{answer}");
        answer["rows"].clone()
    };

    // The update comes before the photo it belongs to, and a view of p2 is delivered late.
    let position = upload(json!([
        event("updatePhotoData", "p1", 5, json!({"title": "Harbour at dawn"})),
        event("addPhoto", "p1", 0, json!({"title": "Harbour", "tags": ["sea", "boats"], "url": "/1.jpg", "bytes": 10})),
        event("addPhoto", "p2", 1, json!({"title": "Hill"})),
        event("addPhoto", "p3", 2, json!({"title": "Gone"})),
        event("viewPhoto", "p2", 7, json!({"viewer_id": "bob"})),
        event("viewPhoto", "p2", 6, json!({"viewer_id": "eve"})),
        event("viewPhoto", "p1", 6, json!({})),
    ]))
    .await;
    assert_eq!(rows("user_photos?user_id=ada", &position).await[0]["photos"], 3);

    let position = upload(json!([event("deletePhoto", "p3", 8, json!({}))])).await;
    let (_, run) = process.post("/v1/batch/runs?wait=true", &json!({})).await.expect("an answer");
    assert_eq!(run["state"], "published", "{run}");
    let user = &rows("user_photos?user_id=ada", &position).await[0];
    assert_eq!((&user["photos"], &user["added"], &user["deleted"]), (&json!(2), &json!(3), &json!(1)));

    let position = upload(json!([
        event("replacePhoto", "p1", 9, json!({"url": "/1b.jpg", "bytes": 11})),
        event("viewPhoto", "p1", 9, json!({"viewer_id": "bob"})),
        event("viewPhoto", "p1", 9, json!({"viewer_id": "bob"})),
    ]))
    .await;
    let photos = rows("user_photo_views?user_id=ada&order=-views", &position).await;
    let photos: Vec<_> = photos.as_array().into_iter().flatten().map(|row| (&row["photo_id"], &row["views"])).collect();
    assert_eq!(
        photos,
        [(&json!("p1"), &json!(3)), (&json!("p2"), &json!(2))],
        "most viewed first, the deleted one gone"
    );
    let current = &rows("photo_current?photo_id=p1", &position).await[0];
    assert_eq!((&current["title"], &current["url"]), (&json!("Harbour at dawn"), &json!("/1b.jpg")), "{current}");
    assert_eq!(current["tags"], json!(["sea", "boats"]), "what an update leaves out stays: {current}");
    assert_eq!(rows("photo_current?photo_id=p3", &position).await, json!([]), "deleted");
    assert_eq!(rows("photo_views?photo_id=p1", &position).await[0]["viewers"], 1);
    let minutes = rows("photo_views_per_minute?photo_id=p2", &position).await;
    assert_eq!(minutes.as_array().map(Vec::len), Some(2), "{minutes}");
    let (status, verified) = process.post("/v1/verify", &json!({})).await.expect("an answer");
    assert_eq!((status, &verified["equal"]), (200, &json!(true)), "{verified}");
}

/// CSV takes its types from the application's schema, Avro containers go as they are; what is skipped is not loaded again.
#[tokio::test]
async fn csv_and_avro_files_load() {
    let dir = tempfile::tempdir().expect("a folder");
    let app = dir.path().join("app");
    std::fs::create_dir(&app).expect("a folder");
    let schema = r#"{"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}"#;
    let sql = "CREATE SOURCE numbers WITH (schema = 'n.avsc');\n\
        CREATE MATERIALIZED VIEW odd AS SELECT n % 2 AS odd, count(*) AS c, sum(n) AS s FROM numbers GROUP BY odd;";
    std::fs::write(app.join("n.avsc"), schema).and_then(|()| std::fs::write(app.join("v.sql"), sql)).expect("written");
    let (csv, avro) = (dir.path().join("n.csv"), dir.path().join("n.avro"));
    std::fs::write(&csv, "n\n1\n2\nthree\n4,5\n5\n").expect("written");
    std::fs::write(&avro, container(1050)).expect("written");
    let process = Process::start(&app, &dir.path().join("data"), &[]);
    let (app, csv, avro) = (app.display().to_string(), csv.display().to_string(), avro.display().to_string());
    let load =
        |arguments: &[&str]| tidemark(&[["load", "numbers", "--server", &process.url].as_slice(), arguments].concat());

    let loaded = load(&[&csv]);
    assert_eq!(stdout(&loaded), "accepted 3, rejected 2\n", "{}", stderr(&loaded));
    assert!(stderr(&loaded).contains("n.csv:4: ") && stderr(&loaded).contains("n.csv:5: "), "{}", stderr(&loaded));
    let rest = load(&[&csv, "--app", &app, "--skip", "4"]);
    assert_eq!(stdout(&rest), "accepted 1, rejected 0\n", "only the last line: {}", stderr(&rest));
    let loaded = load(&[&avro]);
    assert_eq!(stdout(&loaded), "accepted 1050, rejected 0\n", "{}", stderr(&loaded));

    let verified = tidemark(&["verify", "odd", "--server", &process.url]);
    assert!(verified.status.success(), "{}{}", stdout(&verified), stderr(&verified));
    let (_, run) = process.post("/v1/batch/runs?wait=true", &json!({})).await.expect("an answer");
    assert_eq!(run["state"], "published", "{run}");
    let (_, answer) = process.get("/v1/views/odd?odd=1").await.expect("an answer");
    // 1, 5, 5 and every odd number below 1050.
    assert_eq!((&answer["rows"][0]["c"], &answer["rows"][0]["s"]), (&json!(528), &json!(11 + 525 * 525)), "{answer}");
}

/// A mistake is answered in one line that says what to do; what was asked in a wrong way ends with 2, what did not work with 1.
#[tokio::test]
async fn mistakes_are_answered_in_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let process = Process::start(&schemas("clickstream"), &dir.path().join("data"), &[]);
    let csv = dir.path().join("clicks.csv");
    std::fs::write(&csv, "id\n1\n").expect("written");
    let csv = csv.display().to_string();
    for (arguments, said) in [
        (["query", "page_view", "url=/a"].as_slice(), "there is no view `page_view`; did you mean `page_views`?"),
        (&["query", "page_views"], "`url`: this key column is missing"),
        (&["query", "page_views", "ulr=/a"], "`ulr`: unknown; `page_views` has the columns url, minute"),
        (&["query", "page_views", "url=/a", "--last", "soon"], "expected a duration such as `500ms` or `1h`"),
        (&["query", "page_views", "url"], "`url` is not COLUMN=VALUE"),
        (&["verify", "session"], "did you mean `sessions`?"),
        (&["load", "click", &csv], "the server has no topic `click`; there are clicks"),
    ] {
        let output = tidemark(&[arguments, &["--server", &process.url]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    let nowhere = tidemark(&["query", "page_views", "url=/a", "--server", "here:99999"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(stderr(&nowhere).contains("not an address such as http://"), "{}", stderr(&nowhere));
}

/// What people read: where an answer comes from, how far it reaches, and nothing that could get at their terminal.
#[tokio::test]
async fn answers_are_tables_for_people() {
    let dir = tempfile::tempdir().expect("a folder");
    let process = Process::start(&schemas("clickstream"), &dir.path().join("data"), &[]);
    let event = |user: &str, url: &str| json!({"id": "e", "ts": "2026-11-20T10:00:12Z", "session_id": "s", "url": url, "user_id": user});
    let post = async |event: Value| {
        let (_, answer) = process.post("/v1/topics/clicks/events", &event).await.expect("an answer");
        answer["position"].as_str().unwrap_or_default().to_owned()
    };
    let query = |user: &str, position: &str| {
        let user = format!("user_id={user}");
        let wait = ["--min-position", position, "--timeout", "30s", "--server", &process.url];
        stdout(&tidemark(&[["query", "user_activity", &user, "--explain"].as_slice(), &wait].concat()))
    };
    post(event("ada", "/a")).await;
    let (_, run) = process.post("/v1/batch/runs?wait=true", &json!({})).await.expect("an answer");
    assert_eq!(run["state"], "published", "{run}");
    let position = post(event("ada", "/b")).await;
    let table = query("ada", &position);
    let lines: Vec<&str> = table.lines().collect();
    // Header, rule, the row, its two parts, and where the answer stands.
    assert_eq!(lines.len(), 6, "{table}");
    let clicks = lines[0].find("clicks").expect("a column") + "clicks".len();
    for (line, (count, from)) in
        lines[2..5].iter().zip([("2", "all of:"), ("1", "batch, generation 1"), ("1", "speed, clicks/")])
    {
        assert!(line.get(..clicks).is_some_and(|line| line.ends_with(count)) && line.contains(from), "{table}");
    }
    assert!(lines[5].starts_with("1 row; generation 1, ") && lines[5].contains(", up to clicks/"), "{table}");

    let position = post(event("eve", "\u{1b}[2J\u{202e}/c\n/d")).await;
    let table = query("eve", &position);
    assert!(table.contains("\\u{1b}[2J\\u{202e}/c\\u{a}/d") && !table.contains('\u{1b}'), "{table}");
    let position = post(event("zed", &format!("/{}", "x".repeat(5000)))).await;
    let table = query("zed", &position);
    assert!(table.contains("xxx…") && table.lines().all(|line| line.chars().count() < 400), "{table}");
}
