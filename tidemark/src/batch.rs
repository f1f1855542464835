//! `tidemark batch run` and `tidemark backfill`: start a run and wait for its end.

use std::io::IsTerminal as _;
use std::num::NonZeroU64;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::client::{Client, ClientError};
use crate::command_line::print;
use crate::failure::{Failure, Result};
use crate::table::shown;

/// How often to look how far the run is.
const LOOK: Duration = Duration::from_millis(300);

/// Runs the batch layer once.
///
/// # Errors
///
/// When the run cannot be started, or fails.
pub async fn run(client: &Client, full: bool) -> Result {
    start(client, if full { &[("full", "true")] } else { &[] }).await
}

/// Runs it for some views, at a rate of records a second.
///
/// # Errors
///
/// As [`run`].
pub async fn backfill(client: &Client, views: &[String], rate: NonZeroU64) -> Result {
    start(client, &[("views", &views.join(",")), ("rate", &rate.to_string())]).await
}

async fn start(client: &Client, options: &[(&str, &str)]) -> Result {
    let parameters: Vec<(String, String)> = [("wait", "true")]
        .iter()
        .chain(options)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let bar = progress_bar();
    let body = json!({});
    let run = client.post::<Value>("/v1/batch/runs", &parameters, &body);
    let watched = async {
        let mut run = std::pin::pin!(run);
        loop {
            tokio::select! {
                outcome = &mut run => break outcome,
                () = tokio::time::sleep(LOOK) => show_progress(client, &bar).await,
            }
        }
    };
    let outcome = watched.await;
    bar.finish_and_clear();
    let run = outcome.map_err(|error| match error {
        ClientError::Refused(refusal) if refusal.status == 409 => {
            Failure::new(format!("a batch run is going on already ({})", refusal.detail))
        }
        other => other.into(),
    })?;
    let state = shown(&run["state"]);
    if let Some(error) = run["error"].as_str() {
        // What became visible without some view did not fail as a whole.
        let failed = if state == "failed" { "batch run failed: " } else { "" };
        return Err(Failure::new(format!("{failed}{error}")));
    }
    if state == "nothing_new" {
        print(match run["generation"].as_u64() {
            Some(0) => "there is no event yet: nothing to do\n".to_owned(),
            _ => format!("no event came since generation {}: nothing to do\n", shown(&run["generation"])),
        });
        return Ok(());
    }
    let rows = match run["rows"].as_u64() {
        Some(1) => ", 1 row".to_owned(),
        Some(rows) => format!(", {rows} rows"),
        None => String::new(),
    };
    print(format!("generation {} {state}{rows}{}\n", shown(&run["generation"]), took(&run)));
    Ok(())
}

fn took(run: &Value) -> String {
    let time = |name: &str| run[name].as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    match (time("started"), time("finished")) {
        (Some(started), Some(finished)) => format!(" in {:.1} s", (finished - started).as_seconds_f64()),
        _ => String::new(),
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("batch run {spinner} {elapsed} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Shows how far the newest run is, as far as the server tells.
async fn show_progress(client: &Client, bar: &ProgressBar) {
    if bar.is_hidden() {
        return;
    }
    let Ok(answer) = client.get::<Value>("/v1/batch/runs", &[]).await else { return };
    let runs = answer.as_array().or_else(|| answer["runs"].as_array());
    let Some(newest) = runs.and_then(|runs| runs.first()) else { return };
    let progress = &newest["progress"];
    if let (Some(done), Some(total)) = (progress["done"].as_u64(), progress["total"].as_u64()) {
        bar.set_length(total.max(1));
        bar.set_position(done);
    }
    let words = ["phase", "view"].map(|name| shown(&progress[name])).join(" ");
    bar.set_message(format!("generation {} {words}", shown(&newest["generation"])));
}
