//! `/healthz` and `/readyz`.

use actix_web::HttpResponse;
use serde_json::json;

use super::{Shared, json};
use crate::error::{Kind, Problem, Result};

/// The process answers.
pub async fn live() -> Result<HttpResponse> {
    json(&json!({ "status": "alive" }))
}

/// The log and the view store answer, events are taken and folded (a full disk keeps both from it), and the speed layer has
/// folded what was in the log at the start.
pub async fn ready(serving: Shared) -> Result<HttpResponse> {
    let not_ready = |reason: String| Problem::new(Kind::Unavailable, reason);
    serving.parts.log.topics().await.map_err(|error| not_ready(format!("the log does not answer: {error}")))?;
    serving
        .parts
        .store
        .published()
        .await
        .map_err(|error| not_ready(format!("the view store does not answer: {error}")))?;
    for (topic, intake) in &serving.intakes {
        if let Some(reason) = intake.refusal() {
            return Err(not_ready(format!("the log does not take events: {reason}")));
        }
        if let Some(reason) = serving.parts.speed.partitions(topic).into_iter().find_map(|status| status.error) {
            return Err(not_ready(format!("the speed layer cannot go on: {reason}")));
        }
    }
    match serving.behind_start() {
        Some(reason) => Err(not_ready(reason)),
        None => json(&json!({ "status": "ready" })),
    }
}
