//! A system under test that holds one of the applications of `schemas/`: loaded with the real command, read over HTTP.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use integration_tests::process::{Process, binary};
use serde_json::{Map, Value, json};
use views::{Position, TopicPartition, View};

use super::answers::{Answer, Cell};

/// With up to so many keys, the rows of each are read page by page; with more, many keys are asked for at once.
const PAGED_KEYS: usize = 100;
/// How many rows a page has: no round number, and less than some keys have rows.
const PAGE: &str = "777";

/// A running system.
pub struct Served {
    /// The process.
    pub process: Process,
    topic: String,
}

impl Served {
    /// Starts one on an application.
    pub fn start(app: &Path, data: &Path, topic: &str) -> Self {
        Self { process: Process::start(app, data, &[]), topic: topic.to_owned() }
    }

    /// `tidemark ARGUMENTS --server …`, not waited for.
    pub fn spawn(&self, arguments: &[&str]) -> std::process::Child {
        let mut command = Command::new(binary());
        command.args(arguments).args(["--server", &self.process.url]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary was built")
    }

    /// `tidemark ARGUMENTS --server …`.
    pub fn command(&self, arguments: &[&str]) -> Output {
        self.spawn(arguments).wait_with_output().expect("it ends")
    }

    /// GET, as JSON.
    pub async fn get(&self, path: &str, query: &[(String, String)]) -> Value {
        let base = format!("{}{path}", self.process.url);
        let url = reqwest::Url::parse_with_params(&base, query).expect("a URL");
        let answer = self.process.http.get(url).send().await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a whole answer"));
        assert_eq!(status.as_u16(), 200, "{path} {query:?}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// A batch run, to its end: its generation.
    pub async fn batch_run(&self) -> u64 {
        let (status, run) = self.process.post("/v1/batch/runs?wait=true", &json!({})).await.expect("an answer");
        assert_eq!((status, &run["state"]), (200, &json!("published")), "{run}");
        run["generation"].as_u64().expect("a number")
    }

    /// The end of the log: what an answer must reach to hold everything.
    pub async fn end(&self) -> String {
        let status = self.get("/v1/status", &[]).await;
        let partitions = status["topics"][&self.topic]["partitions"].as_array().expect("partitions");
        let ends = partitions.iter().map(|partition| {
            let number = partition["partition"].as_u64().and_then(|number| u32::try_from(number).ok());
            let end = partition["end"].as_u64().expect("an offset");
            (TopicPartition::new(self.topic.as_str(), number.expect("a number")), end)
        });
        ends.collect::<Position>().token()
    }

    /// All rows of a view under the keys that `expected` has.
    pub async fn rows(&self, view: &View, expected: &Answer, position: &str) -> Answer {
        let names: Vec<String> = group_columns(view).into_iter().take(view.key_columns).collect();
        let mut keys: Vec<Vec<Cell>> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for key in expected.of_columns(&names) {
            if seen.insert(format!("{key:?}")) {
                keys.push(key);
            }
        }
        let mut answer = expected.empty();
        if keys.len() <= PAGED_KEYS {
            for key in keys {
                self.pages(view, &names, &key, position, &mut answer).await;
            }
        } else {
            for keys in keys.chunks(500) {
                self.many(view, &names, keys, position, &mut answer).await;
            }
        }
        answer
    }

    async fn pages(&self, view: &View, names: &[String], key: &[Cell], position: &str, answer: &mut Answer) {
        let mut query = waiting(position);
        query.push(("limit".to_owned(), PAGE.to_owned()));
        for (name, value) in names.iter().zip(key) {
            query.push(match value {
                Cell::Null => (format!("{name}.null"), "true".to_owned()),
                value => (name.clone(), text(value)),
            });
        }
        loop {
            let page = self.get(&format!("/v1/views/{}", view.name), &query).await;
            for row in page["rows"].as_array().expect("rows") {
                answer.push_json(row);
            }
            query.retain(|(name, _)| name != "cursor");
            match page["cursor"].as_str() {
                Some(cursor) => query.push(("cursor".to_owned(), cursor.to_owned())),
                None => return,
            }
        }
    }

    async fn many(&self, view: &View, names: &[String], keys: &[Vec<Cell>], position: &str, answer: &mut Answer) {
        let key = |key: &Vec<Cell>| {
            let member = |(name, value): (&String, &Cell)| match value {
                Cell::Null => (name.clone(), Value::Null),
                Cell::Int(number) => (name.clone(), json!(number)),
                value => (name.clone(), json!(text(value))),
            };
            Value::Object(names.iter().zip(key).map(member).collect())
        };
        let keys: Vec<Value> = keys.iter().map(key).collect();
        let mut body = Map::from_iter([("keys".to_owned(), json!(keys)), ("limit".to_owned(), json!(10_000))]);
        body.extend(waiting(position).into_iter().map(|(name, value)| (name, json!(value))));
        let path = format!("/v1/views/{}/lookup", view.name);
        let (status, found) = self.process.post(&path, &Value::Object(body)).await.expect("an answer");
        assert_eq!(status, 200, "{found}");
        let results = found["results"].as_array().expect("results");
        assert_eq!(results.len(), keys.len(), "one result for each key");
        for (result, key) in results.iter().zip(&keys) {
            assert!(result["cursor"].is_null() && result["error"].is_null(), "{key}: {result}");
            for row in result["rows"].as_array().expect("rows") {
                let named = key.as_object().into_iter().flatten().all(|(name, value)| row[name] == *value);
                assert!(named, "a row of {key}, and not {row}");
                answer.push_json(row);
            }
        }
    }
}

/// The group columns of a view, the key columns first. The views of these tests show all of them.
pub fn group_columns(view: &View) -> Vec<String> {
    view.group_schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// The parameters that make an answer reach a position, and keep its numbers exact.
pub fn waiting(position: &str) -> Vec<(String, String)> {
    let parameters = [("min_position", position), ("timeout", "30s"), ("big", "string")];
    parameters.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Int(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
        other => panic!("{other:?} is no key of these tests"),
    }
}
