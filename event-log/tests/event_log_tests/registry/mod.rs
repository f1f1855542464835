//! The registries: the port's promises by each backend, and what is special to one.

mod confluent;
mod embedded;
mod gate;
mod promises;
mod references;
mod unknown_ids;

use std::time::Duration;

use event_log::registry::{ConfluentOptions, ConfluentRegistry};
use serde_json::{Value, json};

/// Where the schema registry is that the tests use.
pub async fn server() -> String {
    let url = std::env::var("TIDEMARK_TEST_REGISTRY");
    let url = url.unwrap_or_else(|_| "http://127.0.0.1:18081/apis/ccompat/v7".to_owned());
    let answer = http().get(format!("{url}/schemas/types")).send().await;
    let there = answer.is_ok_and(|answer| answer.status().is_success());
    assert!(there, "no schema registry at {url}: ./dev up starts it");
    url
}

/// A client of the tests' own.
pub fn http() -> reqwest::Client {
    // Whoever comes first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap()
}

/// Options with which a test does not wait long for what will not come.
pub fn options(url: &str) -> ConfluentOptions {
    ConfluentOptions { unknown_wait: Duration::from_millis(400), ..ConfluentOptions::new(url) }
}

pub async fn connected(url: &str) -> ConfluentRegistry {
    ConfluentRegistry::connect(options(url)).await.unwrap()
}

/// A name nobody else uses.
pub fn fresh(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4())
}

/// Posts a schema past our client, as another producer would. Returns its id.
pub async fn post(url: &str, subject: &str, body: Value) -> u32 {
    let answer = http().post(format!("{url}/subjects/{subject}/versions")).json(&body).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{subject}: {status} {text}");
    serde_json::from_str::<Value>(&text).unwrap()["id"].as_u64().unwrap() as u32
}

/// Sets the registry's own rule for a subject.
pub async fn set_mode(url: &str, subject: &str, mode: &str) {
    let request = http().put(format!("{url}/config/{subject}")).json(&json!({"compatibility": mode}));
    assert!(request.send().await.unwrap().status().is_success());
}

pub fn event(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"Event","fields":[{fields}]}}"#)
}
