//! Commands with input that is wrong: everything wrong is named, the exit code says so, and nothing panics.

use std::path::Path;
use std::process::{Command, Output};

use integration_tests::process::binary;

use super::house::{CLICK_SCHEMA, CLICKS, House, LINES, click};

fn tidemark(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the binary was built")
}

/// What a command wrote, after checking that it ended with this code and did not panic.
fn written(output: &Output, code: i32) -> String {
    let written = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{written}");
    assert!(!written.contains("panicked"), "{written}");
    written
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

/// Every problem of many broken files at once, each with its file and line.
#[test]
fn check_names_what_is_wrong_in_many_broken_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let deep = format!("{}1{}", "(".repeat(2_000), ")".repeat(2_000));
    let sql = [
        "CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'url');".to_owned(),
        "CREATE SOURCE no_file WITH (schema = 'nowhere.avsc');".to_owned(),
        "CREATE SOURCE not_json WITH (schema = 'not_json.avsc');".to_owned(),
        "CREATE SOURCE no_record WITH (schema = 'no_record.avsc');".to_owned(),
        "CREATE SOURCE wrong_default WITH (schema = 'wrong_default.avsc');".to_owned(),
        "CREATE SOURCE endless WITH (schema = 'endless.avsc');".to_owned(),
        "CREATE SOURCE no_schema WITH (key = 'url');".to_owned(),
        "CREATE SOURCE no_key WITH (schema = 'click.avsc', key = 'nothing');".to_owned(),
        "CREATE SOURCE no_time WITH (schema = 'click.avsc', event_time = 'url');".to_owned(),
        "CREATE SOURCE no_parts WITH (schema = 'click.avsc', partitions = 0);".to_owned(),
        "CREATE SOURCE odd_option WITH (schema = 'click.avsc', colour = 'red');".to_owned(),
        "CREATE SOURCE clicks WITH (schema = 'click.avsc');".to_owned(),
        "CREATE MATERIALIZED VIEW no_source AS SELECT a, count(*) AS n FROM nowhere GROUP BY a;".to_owned(),
        "CREATE MATERIALIZED VIEW no_column AS SELECT colour, count(*) AS n FROM clicks GROUP BY colour;".to_owned(),
        "CREATE MATERIALIZED VIEW no_function AS SELECT url, no_such(bytes) AS n FROM clicks GROUP BY url;".to_owned(),
        "CREATE MATERIALIZED VIEW no_key WITH (key = 'colour') AS SELECT url, count(*) AS n FROM clicks GROUP BY url;".to_owned(),
        "CREATE MATERIALIZED VIEW joins AS SELECT a.url, count(*) AS n FROM clicks a JOIN clicks b ON a.url = b.url GROUP BY a.url;".to_owned(),
        "CREATE MATERIALIZED VIEW windows AS SELECT url, row_number() OVER () AS n FROM clicks GROUP BY url;".to_owned(),
        "CREATE MATERIALIZED VIEW subquery AS SELECT url, count(*) AS n FROM (SELECT url FROM clicks) GROUP BY url;".to_owned(),
        "CREATE MATERIALIZED VIEW types AS SELECT url, sum(url) AS n FROM clicks GROUP BY url;".to_owned(),
        "CREATE MATERIALIZED VIEW options WITH (retention = 'long') AS SELECT url, count(*) AS n FROM clicks GROUP BY url;".to_owned(),
        "CREATE TABLE plain (a int);".to_owned(),
        "DROP VIEW pages;".to_owned(),
        "SELECT 1;".to_owned(),
    ];
    write(path, "broken.sql", sql.join("\n"));
    write(path, "click.avsc", CLICK_SCHEMA);
    write(path, "not_json.avsc", "{\"type\": \"record\",");
    write(path, "no_record.avsc", "{\"type\": \"array\", \"items\": \"int\"}");
    let of_field = |field: &str| format!("{{\"type\": \"record\", \"name\": \"R\", \"fields\": [{field}]}}");
    write(path, "wrong_default.avsc", of_field("{\"name\": \"n\", \"type\": \"long\", \"default\": \"one\"}"));
    write(path, "endless.avsc", of_field("{\"name\": \"self\", \"type\": [\"null\", \"R\"]}"));
    write(path, "syntax.sql", "\n\nCREATE SOURCE WITH ( = ;\n");
    write(path, "quote.sql", "\nCREATE SOURCE a WITH (schema = 'click.avsc\n");
    write(
        path,
        "deep.sql",
        format!("CREATE MATERIALIZED VIEW deep AS SELECT url, count({deep}) AS n FROM clicks GROUP BY url;"),
    );
    write(path, "nul.sql", "CREATE SOURCE \0 WITH (schema = 'click.avsc');");
    write(path, "empty.sql", "");
    write(path, "tidemark.toml", "[speed]\nfast = true\n");
    let app = path.display().to_string();
    let problems = written(&tidemark(&["check", "--app", &app]), 1);
    // The first is good; those whose schema is wrong are named by the schema's file; `no_key` is a source's name as well.
    for line in (2..=sql.len()).filter(|line| !(3..=6).contains(line)) {
        let place = format!("broken.sql:{line}: ");
        assert!(problems.contains(&place), "nothing about {}\n{problems}", sql[line - 1]);
    }
    assert!(!problems.contains("broken.sql:1: "), "{problems}");
    for file in [
        "not_json.avsc:1: ",
        "no_record.avsc:1: ",
        "wrong_default.avsc:1: ",
        "endless.avsc:1: ",
        "syntax.sql:3: ",
        "quote.sql:2: ",
        "deep.sql:1: ",
        "nul.sql:1: ",
        "tidemark.toml",
    ] {
        assert!(problems.contains(file), "nothing about {file}\n{problems}");
    }
    for name in ["nowhere.avsc", "not_json.avsc", "no_such", "colour", "retention", "JOIN", "speed.fast"] {
        assert!(problems.to_lowercase().contains(&name.to_lowercase()), "nothing about {name}\n{problems}");
    }

    for (name, bytes) in
        [("binary.sql", b"\xff\xfe\0".as_slice()), ("binary.avsc", b"\xff"), ("tidemark.toml", b"\xff")]
    {
        let other = tempfile::tempdir().expect("a folder");
        write(other.path(), "views.sql", &sql[0]);
        write(other.path(), "click.avsc", CLICK_SCHEMA);
        write(other.path(), name, bytes);
        let app = other.path().display().to_string();
        assert!(written(&tidemark(&["check", "--app", &app]), 1).contains(name));
    }
    for missing in ["nowhere", "broken.sql"] {
        let app = path.join(missing).display().to_string();
        assert!(written(&tidemark(&["check", "--app", &app]), 1).contains(missing));
    }
    let empty = tempfile::tempdir().expect("a folder");
    assert!(written(&tidemark(&["check", "--app", &empty.path().display().to_string()]), 1).contains("no *.sql file"));
}

#[test]
fn wrong_settings_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    for (text, names) in [
        ("[log]\nfsync = \"perhaps\"", "log.fsync"),
        ("[log]\nfile_bytes = -1", "log.file_bytes"),
        ("[log]\nkind = \"paper\"", "log.kind"),
        ("[speed]\nflush_interval = 10", "speed.flush_interval"),
        ("[speed]\nflush_interval = \"-1s\"", "speed.flush_interval"),
        ("[store]\ncache = \"much\"", "store.cache"),
        ("[store]\nnodes = \"one\"", "store.nodes"),
        ("[batch]\nevery = \"0s\"", "batch.every"),
        ("[batch]\nevery = true", "batch.every"),
        ("[serve]\nworkers = -1", "serve.workers"),
        ("[serve]\nbody_limit = \"99999999TiB\"", "serve.body_limit"),
        ("[served]\nlisten = \"x\"", "served"),
        ("data = [1]", "data"),
        ("[log\n", "line 1"),
        ("log = 1\n", "log"),
        ("a = 1\na = 2\n", "duplicate"),
    ] {
        let file = write(folder.path(), "wrong.toml", text);
        let said = written(&tidemark(&["config", "--config", &file]), 2);
        assert!(said.contains("wrong.toml") && said.contains(names), "{text}: {said}");
    }
    let binary = write(folder.path(), "binary.toml", b"\xff\xfe");
    assert!(written(&tidemark(&["config", "--config", &binary]), 2).contains("binary.toml"));
    assert!(written(&tidemark(&["config", "--config", "/nowhere/at.all"]), 2).contains("/nowhere/at.all"));
}

#[tokio::test]
async fn load_and_query_name_what_they_cannot_do() {
    let mut house = House::open();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let garbage: Vec<u8> = (0..100_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let container = super::containers::clicks("/loaded", 30, apache_avro::Codec::Null);
    let garbage_csv = write(path, "garbage.csv", &garbage);
    let garbage_avro = write(path, "garbage.avro", &garbage);
    let cut_avro = write(path, "cut.avro", &container[..container.len() - 7]);
    let not_gzip = write(path, "cut.gz", [&[0x1f, 0x8b, 8, 0][..], &garbage[..100]].concat());
    let array = write(path, "array.json", "[{\"url\": \"/a\"");
    let nowhere = path.join("nowhere.jsonl").display().to_string();
    let directory = path.display().to_string();
    let app = path.join("nothing").display().to_string();
    for (arguments, names) in [
        (vec![&*nowhere], "nowhere.jsonl"),
        (vec![&*directory], &*directory),
        (vec![&*garbage_csv], "garbage.csv"),
        (vec![&*garbage_csv, "--app", &app], "nothing"),
        (vec![&*garbage_avro], "garbage.avro"),
        (vec![&*not_gzip], "cut.gz"),
        (vec![&*array], "array.json"),
    ] {
        let said = house.command(&[&["load", CLICKS][..], &arguments].concat());
        let code = said.status.code().unwrap_or(-1);
        assert!(code == 1 || code == 2, "{arguments:?}: {code}");
        assert!(written(&said, code).contains(names), "{arguments:?}: {}", written(&said, code));
        house.assert_calm();
    }
    // The whole blocks of a container that is cut short are loaded, and the command says that it did not get to the end.
    let said = written(&house.command(&["load", CLICKS, &cut_avro]), 1);
    assert!(said.contains("cut.avro"), "{said}");
    let loaded = house.get("/v1/status").await.json()["topics"][CLICKS]["accepted"].as_u64().unwrap_or(0);
    assert!(loaded <= 20, "{loaded}: {said}");
    house.accepted(CLICKS, loaded);
    if loaded > 0 {
        house.clicked("/loaded", loaded, (0..loaded as i64).sum());
    }
    // Garbage in lines: every line that is not blank is rejected, with its number, and kept.
    let garbage: Vec<Vec<u8>> = garbage[..5000].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let good = click("/lines", 1);
    let mut lines = garbage.join(&b'\n');
    lines.extend_from_slice(format!("\n{good}").as_bytes());
    let file = write(path, "garbage.jsonl", &lines);
    let said = written(&house.command(&["load", CLICKS, &file]), 1);
    assert!(said.contains("accepted 1, ") && said.contains("garbage.jsonl:1: "), "{said}");
    house.accepted(CLICKS, 1);
    house.clicked("/lines", 1, 1);
    for line in garbage.iter().map(|line| line.trim_ascii_end()).filter(|line| !line.is_empty()) {
        house.letter(CLICKS, line.to_vec(), "");
    }
    let wrong = house.command(&["load", CLICKS, &file, "--format", "paper"]);
    assert!(written(&wrong, 2).contains("paper"));

    for (arguments, names) in [
        (["nothing", "url=/a"].as_slice(), "nothing"),
        (&["pages"], "url"),
        (&["pages", "colour=red"], "colour"),
        (&["pages", "url"], "url"),
        (&["pages", "url=/a", "url=/b"], "url"),
        (&["digits", "digit=one"], "digit"),
        (&["pages", "url=/a", "--limit", "0"], "limit"),
        (&["pages", "url=/a", "--from", "noon"], "from"),
        (&["minutes", "url=/a", "--last", "soon"], "last"),
        (&["pages", "url=/a", "--order", "colour"], "colour"),
    ] {
        let said = house.command(&[&["query"][..], arguments].concat());
        let code = said.status.code().unwrap_or(-1);
        assert!(code == 1 || code == 2, "{arguments:?}: {code}");
        assert!(written(&said, code).contains(names), "{arguments:?}: {}", written(&said, code));
    }
    let verified = house.command(&["verify", "nothing"]);
    assert!(written(&verified, verified.status.code().unwrap_or(-1)).contains("nothing") && !verified.status.success());
    house.mixed(CLICKS, LINES, click("/after", 1), 1, &[]).await;
    house.clicked("/after", 1, 1);
    house.close().await;
}
