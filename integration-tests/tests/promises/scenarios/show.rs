//! Answers as the text of a scenario: what is the same in every run, and nothing else.

use serde_json::Value;
use tidemark::table::Row;

/// A lookup's answer as it is read here: rows with their columns in order.
#[derive(Debug, serde::Deserialize)]
pub struct Page {
    rows: Vec<Row>,
    /// Where the next page begins.
    pub cursor: Option<String>,
}

impl Page {
    /// The rows as a table.
    pub fn table(&self) -> String {
        let Some(first) = self.rows.first() else { return "no rows".to_owned() };
        let mut lines = vec![first.0.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()];
        lines.extend(self.rows.iter().map(|row| row.0.iter().map(|(_, value)| cell(value)).collect()));
        let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for line in &lines {
            let padded: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
                .collect();
            text.push_str(padded.join("  ").trim_end());
            text.push('\n');
        }
        if self.cursor.is_some() {
            text.push_str("more\n");
        }
        text
    }

    /// The rows, each with what every layer contributed.
    pub fn layers(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let columns = row.0.iter().filter(|(name, _)| name != "layers");
            text.push_str(&members(columns.map(|(name, value)| (name, value))));
            text.push('\n');
            let layers = row.0.iter().find(|(name, _)| name == "layers").map_or(&Value::Null, |(_, layers)| layers);
            if !layers["batch"].is_null() {
                let values = values(&layers["batch"]["values"]);
                text.push_str(&format!("  generation {}: {values}\n", layers["batch"]["generation"]));
            }
            for delta in layers["speed"].as_array().into_iter().flatten() {
                text.push_str(&format!(
                    "  {}/{} segment {} through {}: {}\n",
                    cell(&delta["topic"]),
                    delta["partition"],
                    delta["segment"],
                    delta["through_offset"],
                    values(&delta["values"])
                ));
            }
        }
        if text.is_empty() { "no rows".to_owned() } else { text }
    }
}

fn values(values: &Value) -> String {
    match values.as_object() {
        Some(columns) => members(columns),
        None => "null".to_owned(),
    }
}

fn members<'a>(members: impl IntoIterator<Item = (&'a String, &'a Value)>) -> String {
    members.into_iter().map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(" ")
}

/// A value: text without quotes where nothing can be mistaken.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let is_plain = !text.is_empty()
                && text.trim() == text
                && !text.contains("  ")
                && !text.starts_with(['"', '[', '{'])
                && !text.chars().any(char::is_control)
                && serde_json::from_str::<Value>(text).is_err();
            if is_plain { text.clone() } else { value.to_string() }
        }
        other => other.to_string(),
    }
}

/// What became of appended events.
pub fn accepted(answer: &Value) -> String {
    let mut text = format!("accepted {}\n", answer["accepted"]);
    for event in answer["rejected"].as_array().into_iter().flatten() {
        text.push_str(&format!("rejected {}: {}\n", event["index"], event["error"].as_str().unwrap_or_default()));
    }
    text
}

/// A problem. What a server in trouble says is not the same in every run.
pub fn problem(status: u16, problem: &Value) -> String {
    let kind = problem["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or("?");
    match problem["detail"].as_str() {
        Some(detail) if status < 500 => format!("error {status} {kind}: {detail}"),
        _ => format!("error {status} {kind}"),
    }
}

/// Dead letters, the oldest first.
pub fn dead_letters(answer: &Value) -> String {
    let letters = answer["dead_letters"].as_array().into_iter().flatten().rev();
    let text: String = letters
        .map(|letter| {
            let original = letter.get("original").or_else(|| letter.get("original_base64")).map(cell);
            format!("{}\n  {}\n", letter["reason"].as_str().unwrap_or("?"), original.unwrap_or_default())
        })
        .collect();
    if text.is_empty() { "none".to_owned() } else { text }
}
