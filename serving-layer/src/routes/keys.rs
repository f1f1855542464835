//! `GET /v1/views/{view}/keys`: some keys there are, for people who do not know any. Not a listing: it ends where it would cost.

use actix_web::{HttpRequest, HttpResponse};
use futures::StreamExt as _;
use view_store::KeyRange;

use super::{Shared, json_text, number, parameters, segment};
use crate::error::{Problem, Result};
use crate::json::{Big, is_uuid, write_cell, write_string};

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 1000;
/// How many states may be read to find so many keys: a key may have very many rows.
const MAX_STATES: usize = 20_000;

/// The first keys in order, each as an object of column and value.
pub async fn list(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let view = serving.views.get(segment(&request, "view"))?;
    let [limit] = parameters(request.query_string(), ["limit"])?;
    let limit = number("limit", limit.as_deref())?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::parameter("limit", format!("expected a number from 1 to {MAX_LIMIT}")));
    }
    let key_columns = &view.view.group_schema.fields()[..view.view.key_columns];
    let mut keys: Vec<String> = Vec::new();
    let mut states = 0;
    let mut rows = serving.parts.store.read(&view.view, &KeyRange::default()).await?.rows;
    while keys.len() < limit && states < MAX_STATES {
        let Some(chunk) = rows.next().await else { break };
        let chunk = chunk?.states;
        states += chunk.num_rows();
        for row in 0..chunk.num_rows() {
            let mut key = String::from("{");
            for (index, field) in key_columns.iter().enumerate() {
                if index > 0 {
                    key.push(',');
                }
                write_string(&mut key, field.name());
                key.push(':');
                write_cell(&mut key, chunk.column(index), row, Big::String, is_uuid(field));
            }
            key.push('}');
            // Rows come in order of their keys.
            if keys.last() != Some(&key) {
                keys.push(key);
            }
        }
    }
    keys.truncate(limit);
    let mut out = String::from("{\"view\":");
    write_string(&mut out, &view.view.name);
    out.push_str(",\"keys\":[");
    out.push_str(&keys.join(","));
    out.push_str("]}");
    Ok(json_text(out))
}
