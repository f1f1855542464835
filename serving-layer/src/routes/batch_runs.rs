//! `/v1/batch/runs`: start a batch run, list the latest.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::{Shared, flag, json, parameters};
use crate::error::Result;

/// Starts a run; with `wait=true`, answers when it is over. `full=true` recomputes from the first record.
pub async fn start(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let [wait, full] = parameters(request.query_string(), ["wait", "full"])?;
    let wait = flag("wait", wait.as_deref())?;
    let full = flag("full", full.as_deref())?;
    let run = serving.parts.batch.start(full, wait).await?;
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
