//! `GET /v1/views`: every view, with what a client needs to ask and to read it.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::status::ViewSnapshot;
use super::{Shared, json, parameters};
use crate::error::Result;

/// Every view.
pub async fn list(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let [] = parameters(request.query_string(), [])?;
    let published = serving.parts.store.published().await?;
    let mut views = Vec::new();
    for view in &serving.parts.application.views {
        let prepared = serving.views.get(&view.name)?;
        let snapshot = ViewSnapshot::take(&serving, prepared, published.as_ref()).await?;
        let groups: Vec<&String> = view.group_schema.fields().iter().map(|field| field.name()).collect();
        let columns: Vec<Value> = view
            .columns
            .iter()
            .map(|column| {
                json!({
                    "name": column.name,
                    "type": column.data_type.to_string(),
                    "exactness": column.exactness,
                })
            })
            .collect();
        views.push(json!({
            "name": &*view.name,
            "sql": view.sql,
            "source": &*view.source.name,
            "key": groups.get(..view.key_columns).unwrap_or_default(),
            "time_column": view.time.and_then(|time| groups.get(time.index)),
            "tile_seconds": view.time.and_then(|time| time.width_us).map(|width| width as f64 / 1e6),
            "group_columns": groups,
            "columns": columns,
            "retention_seconds": view.retention.map(|retention| retention.as_secs()),
            "freshness_slo_ms": view.freshness_slo.map(|slo| slo.as_millis() as u64),
            "fingerprint": snapshot.fingerprint,
            "generation": snapshot.generation,
            "freshness_ms": snapshot.freshness_ms(),
            "failed": snapshot.failed,
        }));
    }
    json(&json!({ "views": views }))
}
