//! `tidemark verify`: has the server recompute views from the log and compare, and says what came out.

use serde_json::{Value, json};

use crate::client::Client;
use crate::command_line::print;
use crate::failure::{Failure, Result};
use crate::table::{Table, shown};

/// Verifies one view or all of them.
///
/// # Errors
///
/// When there is any difference, or the comparison could not be made.
pub async fn run(client: &Client, view: Option<&str>, as_json: bool) -> Result {
    let body = view.map_or_else(|| json!({}), |view| json!({ "view": view }));
    let answer: Value = client.post("/v1/verify", &[], &body).await?;
    let empty = Vec::new();
    let reports = answer.as_array().or_else(|| answer["views"].as_array()).unwrap_or(&empty);
    let different: u64 = reports.iter().filter(|report| report["equal"] != true).count() as u64;
    if as_json {
        print(format!("{answer:#}\n"));
    } else {
        let mut table = Table::new(["view", "rows", "different", "generation", "result"]);
        for report in reports {
            let verdict = if report["equal"] == true { "equal" } else { "DIFFERENT" };
            let cell = |name: &str| report[name].clone();
            table.row([cell("view"), cell("groups"), cell("different"), cell("generation"), Value::from(verdict)]);
            for difference in report["differences"].as_array().into_iter().flatten() {
                table.note(shown(difference));
            }
        }
        print(table.to_string());
    }
    match different {
        0 => Ok(()),
        1 => Err(Failure::new("what is served differs from the log in 1 view")),
        more => Err(Failure::new(format!("what is served differs from the log in {more} views"))),
    }
}
