//! What definitions mean, what is refused, and that folding obeys its laws.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests say what they expect by panicking")]

mod definitions;
mod groups;
mod laws;
mod places;

use views::{Application, ApplicationFile, Problem};

pub const EVENT_SCHEMA: &str = r#"{"type": "record", "name": "Event", "fields": [
  {"name": "id", "type": "string"},
  {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "url", "type": "string"},
  {"name": "user", "type": ["null", "string"], "default": null},
  {"name": "status", "type": "int"},
  {"name": "bytes", "type": ["null", "long"], "default": null},
  {"name": "ratio", "type": ["null", "double"], "default": null},
  {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}},
  {"name": "ok", "type": ["null", "boolean"], "default": null},
  {"name": "day", "type": {"type": "int", "logicalType": "date"}},
  {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["a", "b", "c"]}},
  {"name": "raw", "type": "bytes"},
  {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []}
]}"#;

/// Compiles SQL over a source `events` of [`EVENT_SCHEMA`]; the first statement is on line 2.
pub fn compile(sql: &str) -> Result<Application, Vec<Problem>> {
    let source = "CREATE SOURCE events WITH (schema = 'event.avsc', key = 'url', event_time = 'ts', partitions = 3);\n";
    let files = [
        ApplicationFile { path: "event.avsc".into(), text: EVENT_SCHEMA.into() },
        ApplicationFile { path: "views.sql".into(), text: format!("{source}{sql}") },
    ];
    Application::compile(&files)
}
