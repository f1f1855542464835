//! `POST /v1/verify`: recompute from the log and compare with what is served.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::{Shared, json};
use crate::body::{self, Json};
use crate::error::{Kind, Problem, Result};

/// Audits one view (`{"view": "…"}`) or all of them (an empty body).
pub async fn verify(request: HttpRequest, payload: web::Payload, serving: Shared) -> Result<HttpResponse> {
    let body = body::read(payload, &request, serving.settings.max_question_bytes, &serving.settings).await?;
    let view = if body.is_empty() { None } else { asked_view(&Json::parse(&body)?)? };
    if let Some(view) = &view {
        serving.views.get(view)?;
    }
    let reports = serving.parts.audit.verify(view.as_deref()).await?;
    let equal = reports.iter().all(|report| report.equal);
    json(&json!({ "equal": equal, "views": reports }))
}

fn asked_view(body: &Json) -> Result<Option<String>> {
    let Json::Object(members) = body else {
        return Err(Problem::new(Kind::InvalidBody, "the body must be an object"));
    };
    match members.as_slice() {
        [] => Ok(None),
        [(name, Json::String(view))] if name == "view" => Ok(Some(view.clone())),
        [(name, Json::Null)] if name == "view" => Ok(None),
        _ => Err(Problem::new(Kind::InvalidBody, "expected `{\"view\": \"name\"}` and nothing else")),
    }
}
