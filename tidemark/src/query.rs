//! `tidemark query`: a lookup, as a table.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use views::Position;

use crate::client::{Client, segment};
use crate::command_line::print;
use crate::failure::{Context as _, Failure, Result};
use crate::table::{Row, Table};

/// A lookup.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub struct Query {
    /// The view
    pub view: String,
    /// Key columns and filters
    #[arg(value_name = "COLUMN=VALUE")]
    pub columns: Vec<String>,
    /// Only tiles from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Only tiles before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Only the tiles of the last 10m, 1h, 7d …
    #[arg(long, value_name = "DURATION", conflicts_with_all = ["from", "to"])]
    pub last: Option<String>,
    /// Merge tiles: all of them into one row, or into larger ones (1h)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "true")]
    pub rollup: Option<String>,
    /// Order rows by this column; -COLUMN: downwards
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub order: Option<String>,
    /// At most so many rows
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Go on where the last page ended
    #[arg(long)]
    pub cursor: Option<String>,
    /// Wait until the answer has reached this position (an upload's answer has it)
    #[arg(long, value_name = "POSITION")]
    pub min_position: Option<String>,
    /// How long to wait for it
    #[arg(long, value_name = "DURATION", requires = "min_position")]
    pub timeout: Option<String>,
    /// Fail rather than answer with what is older
    #[arg(long, value_name = "DURATION")]
    pub max_staleness: Option<String>,
    /// Show which part came from which layer, and from which records of the log
    #[arg(long)]
    pub explain: bool,
    /// The answer as the server gives it
    #[arg(long)]
    pub json: bool,
}

/// An answer, its rows as they were written.
#[derive(Debug, Deserialize)]
struct Answer {
    rows: Vec<Row>,
    #[serde(default)]
    generation: Value,
    #[serde(default)]
    freshness_ms: Value,
    #[serde(default)]
    position: String,
    #[serde(default)]
    degraded: Value,
    #[serde(default)]
    cursor: Option<String>,
}

impl Query {
    /// The query of the URL.
    ///
    /// # Errors
    ///
    /// When an argument is not `COLUMN=VALUE`.
    pub fn parameters(&self) -> Result<Vec<(String, String)>> {
        let mut parameters = Vec::new();
        let mut columns = self.columns.clone();
        let mut rollup = self.rollup.clone();
        // `--rollup url=/a`: the flag has no value, the next argument is a column.
        if let Some(column) = rollup.as_ref().filter(|value| value.contains('=')).cloned() {
            columns.push(column);
            rollup = Some("true".to_owned());
        }
        for column in &columns {
            let Some((name, value)) = column.split_once('=') else {
                return Err(Failure::usage(format!("`{column}` is not COLUMN=VALUE")));
            };
            parameters.push((name.to_owned(), value.to_owned()));
        }
        let options = [
            ("from", self.from.clone()),
            ("to", self.to.clone()),
            ("last", self.last.clone()),
            ("rollup", rollup),
            ("order", self.order.clone()),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("cursor", self.cursor.clone()),
            ("min_position", self.min_position.clone()),
            ("timeout", self.timeout.clone()),
            ("max_staleness", self.max_staleness.clone()),
            ("explain", self.explain.then(|| "true".to_owned())),
        ];
        parameters.extend(options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(parameters)
    }

    /// Asks, and prints the answer.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn run(&self, client: &Client) -> Result {
        let body = client.bytes(&format!("/v1/views/{}", segment(&self.view)), &self.parameters()?).await?;
        if self.json {
            print(String::from_utf8_lossy(&body));
            print("\n");
            return Ok(());
        }
        let answer: Answer = serde_json::from_slice(&body).context("the answer is not what was expected")?;
        print(shown(answer));
        Ok(())
    }
}

fn shown(answer: Answer) -> String {
    let count = match answer.rows.len() {
        0 => "no rows".to_owned(),
        1 => "1 row".to_owned(),
        more => format!("{more} rows"),
    };
    let mut text = String::new();
    if let Some(first) = answer.rows.first() {
        let explained = first.0.iter().any(|(name, _)| name == "layers");
        let names: Vec<String> = first.0.iter().map(|(name, _)| name.clone()).filter(|name| name != "layers").collect();
        let mut table = Table::new(names.iter().cloned().chain(explained.then(|| "from".to_owned())));
        for row in answer.rows {
            let (layers, cells): (Vec<_>, Vec<_>) = row.0.into_iter().partition(|(name, _)| name == "layers");
            let whole = explained.then(|| Value::from("all of:"));
            table.row(cells.into_iter().map(|(_, value)| value).chain(whole));
            for (_, layers) in layers {
                explain(&mut table, &names, &layers);
            }
        }
        text = table.to_string();
    }
    let generation = match &answer.generation {
        Value::Null => "no generation yet".to_owned(),
        number => format!("generation {number}"),
    };
    let freshness = match &answer.freshness_ms {
        Value::Null => "how far behind the log is not known".to_owned(),
        ms => format!("{ms} ms behind the log"),
    };
    text.push_str(&format!("{count}; {generation}, {freshness}{}\n", position(&answer.position)));
    if let Value::Object(degraded) = &answer.degraded {
        let part = |name: &str| degraded.get(name).map(crate::table::shown).unwrap_or_default();
        text.push_str(&format!("{}: {}\n", part("as"), part("reason")));
    }
    if let Some(cursor) = answer.cursor {
        text.push_str(&format!("more: --cursor {cursor}\n"));
    }
    text
}

/// How far the answer reaches: every record before these offsets is in it. As a token where there are too many.
fn position(token: &str) -> String {
    const FEW: usize = 8;
    match Position::from_token(token) {
        Ok(position) if position.is_empty() => String::new(),
        Ok(position) if position.iter().count() <= FEW => format!(", up to {position}"),
        _ => format!(", up to position {token}"),
    }
}

/// What each layer gave, as rows under the row, column under column.
fn explain(table: &mut Table, names: &[String], layers: &Value) {
    let mut part = |layer: &Value, from: String| {
        let values = names.iter().map(|name| layer["values"].get(name).cloned());
        table.part(values.chain([Some(Value::from(from))]));
    };
    let batch = &layers["batch"];
    if let Value::Object(_) = batch {
        part(batch, format!("batch, generation {}", batch["generation"]));
    }
    for delta in layers["speed"].as_array().into_iter().flatten() {
        let partition = format!("{}/{}", crate::table::shown(&delta["topic"]), delta["partition"]);
        part(delta, format!("speed, {partition} offsets {} to {}", delta["segment"], delta["through_offset"]));
    }
}
