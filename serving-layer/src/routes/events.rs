//! `POST /v1/topics/{topic}/events`: events in.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use event_log::encode::EventEncoder;
use event_log::registry::SchemaRegistry;
use serde_json::{Value, json};

use super::{Shared, json, parameters, segment};
use crate::answer::elsewhere;
use crate::body;
use crate::error::{Kind, Problem, Result};
use crate::intake::{Encoded, Intake, Rejected, encode_json};
use crate::server::Serving;
use crate::split;

/// Bodies up to this size are encoded on the HTTP worker.
const INLINE_BYTES: usize = 64 << 10;

/// The forms events come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Lines,
    Avro,
}

/// Appends the events of the body; durable when it answers.
pub async fn append(request: HttpRequest, payload: web::Payload, serving: Shared) -> Result<HttpResponse> {
    let [] = parameters(request.query_string(), [])?;
    let intake = intake(&serving, segment(&request, "topic"))?;
    let content_type = body::media_type(&request)?;
    let form = match content_type.as_deref() {
        Some("application/json") => Form::Json,
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => Form::Lines,
        Some("application/avro") => Form::Avro,
        other => {
            let got = other.map_or("no content type".to_owned(), |media_type| format!("`{media_type}`"));
            let detail = format!("got {got}; send application/json, application/x-ndjson or application/avro");
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
    };
    let _room = room(&serving, &request).await?;
    let body = body::read(payload, &request, serving.settings.max_body_bytes, &serving.settings).await?;
    let log = serving.parts.log.as_ref();
    let mut encoded = match encode(form, intake.encoder(), serving.parts.registry.clone(), body.clone()).await {
        Ok(encoded) => encoded,
        Err(problem) => {
            // Not one event could be told from the next: the whole body is the dead letter.
            if problem.kind() == Kind::InvalidBody && !body.is_empty() {
                let rejected = vec![Rejected { index: None, reason: problem.detail().to_owned(), original: body }];
                intake.append(log, Encoded { events: Vec::new(), rejected, content_type }).await?;
            }
            return Err(problem);
        }
    };
    encoded.content_type = content_type;
    let accepted = encoded.events.len();
    let rejected: Vec<Value> =
        encoded.rejected.iter().map(|rejected| json!({ "index": rejected.index, "error": rejected.reason })).collect();
    let position = intake.append(log, encoded).await?;
    json(&json!({ "accepted": accepted, "rejected": rejected, "position": position.token() }))
}

/// A topic of the application.
pub fn intake<'s>(serving: &'s Serving, topic: &str) -> Result<&'s Intake> {
    serving.intakes.get(topic).ok_or_else(|| {
        let hint = crate::nearest::hint(topic, serving.intakes.keys().map(|name| &**name));
        let topic = crate::parse::shorten(topic);
        Problem::new(Kind::NoSuchTopic, format!("there is no topic `{topic}`{hint}")).with("topic", topic)
    })
}

/// Waits until the bodies being worked on leave room for this one: memory is bounded however many clients send at once.
async fn room<'s>(serving: &'s Serving, request: &HttpRequest) -> Result<tokio::sync::SemaphorePermit<'s>> {
    let declared = request.headers().get(actix_web::http::header::CONTENT_LENGTH);
    let declared: Option<usize> = declared.and_then(|length| length.to_str().ok()?.parse().ok());
    let bytes = declared.unwrap_or(serving.settings.max_body_bytes).min(serving.settings.max_body_bytes);
    let all = (serving.settings.max_bytes_in_flight >> 10).max(1);
    let permits = u32::try_from((bytes >> 10).clamp(1, all)).unwrap_or(u32::MAX);
    let waiting = tokio::time::timeout(serving.settings.body_timeout, serving.in_flight.acquire_many(permits));
    match waiting.await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Problem::new(Kind::Unavailable, "too many events are being taken at once: try again")),
    }
}

async fn encode(
    form: Form,
    encoder: Arc<EventEncoder>,
    registry: Arc<dyn SchemaRegistry>,
    body: Bytes,
) -> Result<Encoded> {
    if body.is_empty() {
        return Err(Problem::new(Kind::InvalidBody, "the body is empty"));
    }
    if form == Form::Avro {
        return crate::intake::encode_container(&encoder, &registry, &body).await;
    }
    let small = body.len() <= INLINE_BYTES;
    let work = move || {
        let events = match form {
            Form::Lines => split::lines(&body),
            _ => split::json(&body).map_err(|error| body::not_json(&error))?,
        };
        if events.len() > split::MAX_EVENTS {
            let detail = format!("the body has more than {} events: send it in parts", split::MAX_EVENTS);
            return Err(Problem::new(Kind::BodyTooLarge, detail));
        }
        Ok(encode_json(&encoder, &body, events))
    };
    if small { work() } else { elsewhere(work).await }
}
