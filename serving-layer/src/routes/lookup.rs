//! `GET /v1/views/{view}?…` and `POST /v1/views/{view}/lookup`: the questions.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use futures::StreamExt as _;

use super::{Shared, json_text, segment};
use crate::answer::Answered;
use crate::body::{self, Json};
use crate::error::{Kind, Problem, Result};
use crate::json::write_string;
use crate::prepared::PreparedView;
use crate::question::{Asked, Options, Question};
use crate::server::Serving;

/// How many keys one request may ask for.
const MAX_KEYS: usize = 1000;
/// How many of them are looked up at once.
const KEYS_AT_ONCE: usize = 16;

/// The rows under one key.
pub async fn one(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let view = match request.app_data::<Arc<PreparedView>>() {
        Some(view) => view,
        None => serving.views.get(segment(&request, "view"))?,
    };
    let started = Instant::now();
    let result = answer_one(&serving, view, request.query_string()).await;
    view.metrics.count(&result, started.elapsed().as_secs_f64());
    result.map(json_text)
}

async fn answer_one(serving: &Serving, view: &Arc<PreparedView>, query: &str) -> Result<String> {
    let question = Question::from_query(view, query)?;
    let mut out = String::with_capacity(512);
    out.push_str(&view.opening);
    let answered = serving.reader.answer(view, Arc::new(question), out).await?;
    Ok(closed(answered))
}

/// The rest of an answer, after its rows.
fn closed(answered: Answered) -> String {
    let mut out = answered.page.text;
    out.push_str("],\"generation\":");
    let _ = match answered.generation {
        Some(generation) => write!(out, "{generation}"),
        None => write!(out, "null"),
    };
    out.push_str(",\"position\":\"");
    out.push_str(&answered.position.token());
    out.push_str("\",\"freshness_ms\":");
    let _ = match answered.freshness {
        Some(freshness) => write!(out, "{}", freshness.as_millis()),
        None => write!(out, "null"),
    };
    out.push_str(",\"cursor\":");
    match &answered.page.cursor {
        Some(cursor) => write_string(&mut out, cursor),
        None => out.push_str("null"),
    }
    if let Some(reason) = &answered.degraded {
        out.push_str(",\"degraded\":{\"as\":\"stale\",\"reason\":");
        write_string(&mut out, reason);
        out.push('}');
    }
    out.push('}');
    out
}

/// Many keys at once. Each result has its own moment, named in it; a key that cannot be answered fails alone.
pub async fn many(request: HttpRequest, payload: web::Payload, serving: Shared) -> Result<HttpResponse> {
    let view = serving.views.get(segment(&request, "view"))?;
    if body::media_type(&request)?.is_some_and(|media_type| media_type != "application/json") {
        return Err(Problem::new(Kind::UnsupportedMediaType, "send application/json"));
    }
    let body = body::read(payload, &request, serving.settings.max_question_bytes, &serving.settings).await?;
    let (keys, options) = questions(view, &body)?;
    let mut answers =
        futures::stream::iter(&keys).map(|key| answer_key(&serving, view, key, &options)).buffered(KEYS_AT_ONCE);
    let mut out = String::from("{\"view\":");
    write_string(&mut out, &view.view.name);
    out.push_str(",\"results\":[");
    let mut first = true;
    while let Some(result) = answers.next().await {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        match result {
            Ok(answer) if out.len() + answer.len() <= serving.settings.lookup.answer_bytes => out.push_str(&answer),
            Ok(_) => {
                write_error(&mut out, &Problem::new(Kind::TooMuch, "the answers before this one fill the response"))
            }
            Err(problem) => write_error(&mut out, &problem),
        }
    }
    out.push_str("]}");
    Ok(json_text(out))
}

fn write_error(out: &mut String, problem: &Problem) {
    let _ = write!(out, "{{\"error\":{}}}", problem.document());
}

async fn answer_key(serving: &Serving, view: &Arc<PreparedView>, key: &Json, options: &Options) -> Result<String> {
    let started = Instant::now();
    let result = async {
        let question = Question::from_json(view, key, options)?;
        let answered = serving.reader.answer(view, Arc::new(question), "{\"rows\":[".to_owned()).await?;
        Ok(closed(answered))
    }
    .await;
    view.metrics.count(&result, started.elapsed().as_secs_f64());
    result
}

fn questions(view: &PreparedView, body: &[u8]) -> Result<(Vec<Json>, Options)> {
    let Json::Object(members) = Json::parse(body)? else {
        return Err(Problem::new(Kind::InvalidBody, "the body must be an object with `keys`"));
    };
    let mut keys = None;
    let mut asked = Asked::new(view);
    for (name, value) in members {
        if name != "keys" {
            asked.json(&name, &value)?;
            continue;
        }
        let Json::Array(items) = value else {
            return Err(Problem::parameter("keys", "expected an array of objects"));
        };
        if items.len() > MAX_KEYS {
            return Err(Problem::parameter("keys", format!("at most {MAX_KEYS} at once")));
        }
        if keys.replace(items).is_some() {
            return Err(Problem::parameter("keys", "given more than once"));
        }
    }
    let keys = keys.ok_or_else(|| Problem::parameter("keys", "this member is missing"))?;
    Ok((keys, asked.finish()?))
}
