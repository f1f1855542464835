//! Real data: what is served, column by column, is what plain DataFusion answers to the same SQL over the raw rows, and what
//! DuckDB answers to SQL of its own.
//!
//! The files go in by the real `tidemark load`, into a real process, in two parts with a batch run in the middle, so that answers
//! merge a generation and deltas. The raw rows are read without our loader ([`raw`]), so that its mistakes show.
//!
//! The data are found in `../shared/data` beside the repository, or in `TIDEMARK_SHARED_DATA`; DuckDB in `target/venv`, which
//! `./dev test` makes, or by the Python that `TIDEMARK_PYTHON` names. Where they are absent, these tests say so.

#[path = "real_data/answers.rs"]
mod answers;
#[path = "real_data/raw.rs"]
mod raw;
#[path = "real_data/served.rs"]
mod served;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use answers::Answer;
use arrow::array::RecordBatch;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use served::{Served, group_columns, waiting};
use views::Application;

/// One file and the application that takes it.
struct DataSet {
    /// Its folder under `schemas/`, and its name in `duckdb/answers.py`.
    application: &'static str,
    topic: &'static str,
    /// Under the shared data.
    file: &'static str,
    /// Lines that name columns.
    header: usize,
    /// How many events are loaded before the batch run.
    half: usize,
    read: fn(&Path) -> raw::Raw,
}

/// A lookup that does more than to read, and the SQL that says the same, around the view's own.
struct Question {
    view: &'static str,
    query: &'static str,
    /// What to say instead in the view's SQL: the width of tiles.
    instead: Option<(&'static str, &'static str)>,
    /// What follows `SELECT`; `VIEW` is the view's SQL.
    sql: &'static str,
}

/// Everything that one test works with.
struct Comparison {
    set: DataSet,
    file: PathBuf,
    app: PathBuf,
    definition: Application,
    raw: raw::Raw,
    served: Served,
    dir: tempfile::TempDir,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Comparison {
    /// Reads the raw rows and starts the process; `None`, having said so, when there are no data.
    fn start(set: DataSet) -> Option<Self> {
        let shared = std::env::var_os("TIDEMARK_SHARED_DATA").map(PathBuf::from);
        let shared = shared.unwrap_or_else(|| repository().join("../shared/data"));
        let file = shared.join(set.file);
        if !file.is_file() {
            println!("real data: {} is absent, so nothing was compared", file.display());
            return None;
        }
        let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(set.application);
        let (definition, _) = tidemark::application::read(&app).unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::tempdir().expect("a folder");
        let served = Served::start(&app, &dir.path().join("data"), set.topic);
        Some(Self { raw: (set.read)(&file), served, file, app, definition, dir, set })
    }

    /// The first events of the file under the file's own name.
    fn first(&self, events: usize) -> PathBuf {
        let path = self.dir.path().join(self.file.file_name().expect("a name"));
        let mut part = GzEncoder::new(std::fs::File::create(&path).expect("created"), Compression::fast());
        for line in raw::open(&self.file).split(b'\n').take(self.set.header + events) {
            let mut line = line.expect("read");
            line.push(b'\n');
            part.write_all(&line).expect("written");
        }
        part.finish().expect("written");
        path
    }

    fn load<'a>(&'a self, path: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = vec!["load", self.set.topic, path.to_str().expect("a path in UTF-8")];
        arguments.extend(more);
        arguments
    }

    fn first_rows(&self) -> RecordBatch {
        self.raw.rows.slice(0, self.set.half)
    }

    /// What plain DataFusion and DuckDB say about some of the rows, which must not contradict each other.
    async fn expected(&self, rows: &RecordBatch) -> HashMap<String, Answer> {
        let second = self.duckdb(rows.num_rows());
        let mut expected = HashMap::new();
        for view in &self.definition.views {
            let first = Answer::of_datafusion(self.set.topic, rows, &view.sql).await;
            assert!(!first.rows.is_empty(), "{}: the files have rows for every view", view.name);
            if let Some(second) = &second {
                let second = first.of_duckdb(&second[&*view.name]);
                if let Some(difference) = first.difference(&second, &group_columns(view)) {
                    panic!("{}: DataFusion and DuckDB do not agree:\n{difference}", view.name);
                }
            }
            expected.insert(view.name.to_string(), first);
        }
        let opinions = if second.is_some() { "DataFusion and DuckDB" } else { "DataFusion" };
        println!("{}: {} rows of the file, by {opinions}", self.set.application, rows.num_rows());
        expected
    }

    /// DuckDB's answers by view; `None`, having said so, where there is no DuckDB.
    fn duckdb(&self, rows: usize) -> Option<HashMap<String, Value>> {
        let (python, asked_for) = match std::env::var_os("TIDEMARK_PYTHON").filter(|python| !python.is_empty()) {
            Some(python) => (PathBuf::from(python), true),
            None => (repository().join("target/venv/bin/python"), false),
        };
        if !asked_for && !python.is_file() {
            println!("real data: there is no target/venv (./dev test makes it), so DuckDB was not asked");
            return None;
        }
        // A malformed line is a line: rows of the file are counted with it.
        let lines = if rows == self.raw.rows.num_rows() { rows + self.raw.rejected } else { rows };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("duckdb/answers.py");
        let mut command = Command::new(&python);
        command.arg(script).arg(self.set.application).arg(&self.file).arg(lines.to_string());
        let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answers = output.stdout.lines().map(|line| {
            let answer: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
            (answer["view"].as_str().expect("a name").to_owned(), answer)
        });
        Some(answers.collect())
    }

    /// Every row of every view is what it must be.
    async fn compare(&self, stage: &str, expected: &HashMap<String, Answer>) {
        let position = self.served.end().await;
        for view in &self.definition.views {
            let expected = &expected[&*view.name];
            let served = self.served.rows(view, expected, &position).await;
            if let Some(difference) = expected.difference(&served, &group_columns(view)) {
                panic!("{} {stage}: DataFusion and what is served differ:\n{difference}", view.name);
            }
        }
        println!("{}: {stage}: every row of {} views is right", self.set.application, self.definition.views.len());
    }

    /// Under keys that nobody asked for, there is nothing: the system's own count of rows is the same.
    async fn no_others(&self, expected: &HashMap<String, Answer>) {
        let (status, verified) = self.served.process.post("/v1/verify", &json!({})).await.expect("an answer");
        assert_eq!(status, 200, "{verified}");
        for view in &self.definition.views {
            let mut reports = verified["views"].as_array().into_iter().flatten();
            let report = reports.find(|report| report["view"] == *view.name).expect("a report");
            assert_eq!(report["equal"], true, "{report}");
            assert_eq!(report["groups"].as_u64(), Some(expected[&*view.name].rows.len() as u64), "{report}");
        }
    }

    /// Rollups, ranges, orders and limits, against SQL that says the same.
    async fn ask(&self, questions: &[Question]) {
        let position = self.served.end().await;
        for question in questions {
            let view = self.definition.views.iter().find(|view| &*view.name == question.view).expect("a view");
            let (said, instead) = question.instead.unwrap_or_default();
            assert!(view.sql.contains(said), "{said}");
            let sql = format!("({})", view.sql.replace(said, if said.is_empty() { said } else { instead }));
            let sql = format!("SELECT {}", question.sql.replace("VIEW", &sql));
            let expected = Answer::of_datafusion(self.set.topic, &self.raw.rows, &sql).await;
            assert!(!expected.rows.is_empty(), "{sql}");
            let mut query = waiting(&position);
            query.extend(question.query.split('&').map(|pair| {
                let (name, value) = pair.split_once('=').expect("a parameter");
                (name.to_owned(), value.to_owned())
            }));
            let answer = self.served.get(&format!("/v1/views/{}", question.view), &query).await;
            let mut found = expected.empty();
            for row in answer["rows"].as_array().expect("rows") {
                found.push_json(row);
            }
            if let Some(difference) = expected.difference_in_order(&found) {
                panic!("{}?{}: not what DataFusion says:\n{difference}", question.view, question.query);
            }
        }
    }

    /// Some row under a key is one that both layers have a part of.
    async fn is_merged(&self, view: &str, key: (&str, &str)) {
        let mut query = waiting(&self.served.end().await);
        query.extend([(key.0.to_owned(), key.1.to_owned()), ("explain".to_owned(), "true".to_owned())]);
        let answer = self.served.get(&format!("/v1/views/{view}"), &query).await;
        let is_merged = |row: &Value| {
            let layers = &row["layers"];
            layers["batch"]["generation"] == 1 && layers["speed"].as_array().is_some_and(|deltas| !deltas.is_empty())
        };
        assert!(answer["rows"].as_array().is_some_and(|rows| rows.iter().any(is_merged)), "{answer}");
    }

    /// Stops it: gracefully, as always.
    fn stop(self) {
        assert_eq!(self.served.process.terminate(), Some(0));
    }
}

#[track_caller]
fn assert_loaded(output: &Output, accepted: usize, rejected: usize) {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout, format!("accepted {accepted}, rejected {rejected}\n"), "{stderr}");
    assert_eq!(output.status.code(), Some(i32::from(rejected > 0)), "{stderr}");
}

/// A web server's log. The second load is of the whole file: what is in it a second time counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_log() {
    let set = DataSet {
        application: "access_log",
        topic: "requests",
        file: "clickstream/apache_access_2015-05.log.gz",
        header: 0,
        half: 5_000,
        read: raw::access_log,
    };
    let Some(test) = Comparison::start(set) else { return };
    assert_eq!((test.raw.rows.num_rows(), test.raw.rejected), (9_999, 1), "the file is not the one that was described");
    let combined = ["--format", "combined"];
    let part = test.first(test.set.half);
    assert_loaded(&test.served.command(&test.load(&part, &combined)), test.set.half, 0);
    let run = test.served.command(&["batch", "run"]);
    assert!(run.stdout.starts_with(b"generation 1 published"), "{}", String::from_utf8_lossy(&run.stdout));
    test.compare("half of it", &test.expected(&test.first_rows()).await).await;

    let loaded = test.served.command(&test.load(&test.file, &combined));
    assert_loaded(&loaded, test.raw.rows.num_rows(), 1);
    let stderr = String::from_utf8_lossy(&loaded.stderr).into_owned();
    assert!(stderr.contains("apache_access_2015-05.log.gz:8899: "), "the line is named: {stderr}");
    let expected = test.expected(&test.raw.rows).await;
    test.compare("a generation and deltas", &expected).await;
    test.no_others(&expected).await;
    test.is_merged("referrers", ("site", "semicomplete.com")).await;
    test.ask(&[
        Question {
            view: "pages",
            query: "url=/favicon.ico&rollup=true&order=-hits",
            instead: Some(("date_bin(INTERVAL '1 minute', ts)", "CAST(NULL AS TIMESTAMP)")),
            sql: "* EXCEPT (minute) FROM VIEW WHERE url = '/favicon.ico' ORDER BY hits DESC",
        },
        Question {
            view: "statuses",
            query: "status=200&method=GET&rollup=1d",
            instead: Some(("INTERVAL '1 hour'", "INTERVAL '1 day'")),
            sql: "* FROM VIEW WHERE status = 200 AND method = 'GET' ORDER BY hour",
        },
        Question {
            view: "hours",
            query: "from=2015-05-18T00:00:00Z&to=2015-05-19T00:00:00Z&order=-hits&limit=5",
            instead: None,
            sql: "* FROM VIEW WHERE hour >= '2015-05-18T00:00:00Z' AND hour < '2015-05-19T00:00:00Z' \
                  ORDER BY hits DESC, hour LIMIT 5",
        },
    ])
    .await;
    assert_eq!(test.served.batch_run().await, 2);
    test.compare("the whole in a generation", &expected).await;
    test.stop();
}

/// Edits of Wikipedia: times that jump by days, text in every script; and a batch run while events come in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_of_wikipedia() {
    let set = DataSet {
        application: "wikipedia",
        topic: "edits",
        file: "clickstream/wikiticker-2015-09-12-sampled.json.gz",
        header: 0,
        half: 13_000,
        read: raw::wikipedia,
    };
    let Some(test) = Comparison::start(set) else { return };
    assert_eq!(
        (test.raw.rows.num_rows(), test.raw.rejected),
        (39_244, 0),
        "the file is not the one that was described"
    );
    let part = test.first(test.set.half);
    assert_loaded(&test.served.command(&test.load(&part, &[])), test.set.half, 0);

    let (skip, most) = (test.set.half.to_string(), 36_000);
    let part = test.first(most);
    let loading = test.served.spawn(&test.load(&part, &["--skip", &skip]));
    assert_eq!(test.served.batch_run().await, 1, "while events come in");
    let loaded = loading.wait_with_output().expect("it ends");
    assert_loaded(&loaded, most - test.set.half, 0);
    let skip = most.to_string();
    let loaded = test.served.command(&test.load(&test.file, &["--skip", &skip]));
    assert_loaded(&loaded, test.raw.rows.num_rows() - most, 0);
    let expected = test.expected(&test.raw.rows).await;
    test.compare("a generation and deltas", &expected).await;
    test.no_others(&expected).await;
    test.is_merged("namespaces", ("channel", "#en.wikipedia")).await;
    test.ask(&[
        Question {
            view: "channels",
            query: "channel=#en.wikipedia&rollup=true",
            instead: Some(("date_bin(INTERVAL '1 hour', \"time\")", "CAST(NULL AS TIMESTAMP)")),
            sql: "* EXCEPT (hour) FROM VIEW WHERE channel = '#en.wikipedia'",
        },
        Question {
            view: "channels",
            query: "channel=#ru.wikipedia&rollup=6h&from=2015-09-12T00:00:00Z",
            instead: Some(("INTERVAL '1 hour'", "INTERVAL '6 hours'")),
            sql: "* FROM VIEW WHERE channel = '#ru.wikipedia' AND hour >= '2015-09-12T00:00:00Z' ORDER BY hour",
        },
        Question {
            view: "namespaces",
            query: "channel=#de.wikipedia&order=-edits&limit=3",
            instead: None,
            sql: "* FROM VIEW WHERE channel = '#de.wikipedia' ORDER BY edits DESC, namespace LIMIT 3",
        },
        Question {
            view: "pages",
            query: "channel=#ja.wikipedia&order=-edits,page&limit=30",
            instead: None,
            sql: "* FROM VIEW WHERE channel = '#ja.wikipedia' ORDER BY edits DESC, page LIMIT 30",
        },
    ])
    .await;
    assert_eq!(test.served.batch_run().await, 2);
    test.compare("the whole in a generation", &expected).await;
    test.stop();
}

/// Invoices: money in decimals, descriptions with commas and quotes, customers nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_invoices() {
    let set = DataSet {
        application: "retail",
        topic: "lines",
        file: "ecommerce/online-retail-2010-12_2011-05.csv.gz",
        header: 1,
        half: 120_000,
        read: raw::retail,
    };
    let Some(test) = Comparison::start(set) else { return };
    assert_eq!(
        (test.raw.rows.num_rows(), test.raw.rejected),
        (209_029, 0),
        "the file is not the one that was described"
    );
    let part = test.first(test.set.half);
    let app = test.app.to_str().expect("a path in UTF-8");
    assert_loaded(&test.served.command(&test.load(&part, &["--app", app])), test.set.half, 0);
    assert_eq!(test.served.batch_run().await, 1);
    let skip = test.set.half.to_string();
    let loaded = test.served.command(&test.load(&test.file, &["--app", app, "--skip", &skip]));
    assert_loaded(&loaded, test.raw.rows.num_rows() - test.set.half, 0);
    let expected = test.expected(&test.raw.rows).await;
    test.compare("a generation and deltas", &expected).await;
    test.no_others(&expected).await;
    test.is_merged("items", ("StockCode", "85123A")).await;
    test.ask(&[
        Question {
            view: "revenue",
            query: "Country=United Kingdom&rollup=7d",
            instead: Some(("INTERVAL '1 day'", "INTERVAL '7 days'")),
            sql: "* FROM VIEW WHERE \"Country\" = 'United Kingdom' ORDER BY day",
        },
        Question {
            view: "revenue",
            query: "Country=EIRE&order=-revenue&limit=10&from=2011-02-01",
            instead: None,
            sql: "* FROM VIEW WHERE \"Country\" = 'EIRE' AND day >= '2011-02-01' ORDER BY revenue DESC, day LIMIT 10",
        },
        Question {
            view: "customers",
            query: "CustomerID.null=true&rollup=true",
            instead: Some(("date_trunc('month', \"InvoiceDate\")", "CAST(NULL AS TIMESTAMP)")),
            sql: "* EXCEPT (month) FROM VIEW WHERE \"CustomerID\" IS NULL",
        },
    ])
    .await;
    assert_eq!(test.served.batch_run().await, 2);
    test.compare("the whole in a generation", &expected).await;
    test.stop();
}
