//! `/v1/batch/runs`: start a batch run, list the latest.

use std::num::NonZeroU64;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::{Shared, flag, json, number, parameters};
use crate::error::{Problem, Result};
use crate::ports::RunRequest;

/// Starts a run; with `wait=true`, answers when it is over. `full=true` recomputes from the first record. `views=a,b` recomputes
/// only these, and `rate=` no more than so many records of them a second.
pub async fn start(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let [wait, full, views, rate] = parameters(request.query_string(), ["wait", "full", "views", "rate"])?;
    let wait = flag("wait", wait.as_deref())?;
    let full = flag("full", full.as_deref())?;
    let views: Vec<String> = views.iter().flat_map(|views| views.split(',')).map(str::to_owned).collect();
    for view in &views {
        serving.views.get(view)?;
    }
    let rate: Option<NonZeroU64> = number("rate", rate.as_deref())?;
    if rate.is_some() && views.is_empty() {
        return Err(Problem::parameter("rate", "it is for a run of some views: give `views` too"));
    }
    let run = serving.parts.batch.start(RunRequest { full, views, rate }, wait).await?;
    let mut response = json(&run)?;
    if !wait {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(response)
}

/// The latest runs, the newest first.
pub async fn list(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let [] = parameters(request.query_string(), [])?;
    json(&json!({ "runs": serving.parts.batch.runs().await }))
}
