//! `GET /v1/topics`: what events go into, with all that a producer needs to know.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::{Shared, json, parameters};
use crate::error::{Kind, Problem, Result};

/// Every topic that takes events.
pub async fn list(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let [] = parameters(request.query_string(), [])?;
    let mut topics = Vec::new();
    for source in &serving.parts.application.sources {
        let kept = serving.parts.log.bounds(&source.name).await?;
        let letters = serving.parts.log.bounds(&source.dead_letter_topic()).await?;
        let schema: Value = serde_json::from_str(&source.avro)
            .map_err(|error| Problem::new(Kind::Internal, format!("the schema of {}: {error}", source.name)))?;
        let offsets: Vec<Value> = (0..)
            .zip(&kept)
            .map(|(partition, kept): (u32, _)| json!({ "partition": partition, "start": kept.start, "end": kept.end }))
            .collect();
        topics.push(json!({
            "name": &*source.name,
            "partitions": kept.len(),
            "key": source.key,
            "event_time": source.event_time,
            "event_id": source.event_id,
            "dedupe_window_seconds": source.event_id.as_ref().map(|_| source.dedupe_window.as_secs()),
            "segment_records": source.segment_records,
            "records": kept.iter().map(|kept| kept.end).sum::<u64>(),
            "offsets": offsets,
            "dead_letters": super::status::kept(&letters),
            "schema": schema,
        }));
    }
    json(&json!({ "topics": topics }))
}
