//! `GET /v1/topics/{topic}/dead-letters`: what could not be accepted, and why.

use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use event_log::dead_letter::{DeadLetter, Origin};
use event_log::{Content, ReadLimit, Record};
use serde_json::{Value, json};
use views::{Offset, TopicPartition};

use super::{Shared, events, json, number, parameters, segment};
use crate::clock;
use crate::error::{Problem, Result};
use crate::server::Serving;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// How many bytes of originals one answer may hold; the rest is for the next page.
const MAX_BYTES: usize = 8 << 20;

/// The newest dead letters, the newest first; or with `partition=` and `from=`, those from an offset on, in order.
pub async fn list(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let topic = segment(&request, "topic");
    events::intake(&serving, topic)?;
    let [limit, partition, from] = parameters(request.query_string(), ["limit", "partition", "from"])?;
    let limit = number("limit", limit.as_deref())?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::parameter("limit", format!("expected a number from 1 to {MAX_LIMIT}")));
    }
    let partition: Option<u32> = number("partition", partition.as_deref())?;
    let from: Option<Offset> = number("from", from.as_deref())?;
    let source = serving.parts.application.source(topic);
    let letters_topic = source.map(|source| source.dead_letter_topic()).unwrap_or_default();
    let bounds = serving.parts.log.bounds(&letters_topic).await?;
    if let Some(partition) = partition
        && partition as usize >= bounds.len()
    {
        return Err(Problem::parameter("partition", format!("there are {} partitions", bounds.len())));
    }
    if from.is_some() && partition.is_none() {
        return Err(Problem::parameter("from", "an offset needs its `partition`"));
    }
    let mut letters: Vec<(u32, Record)> = Vec::new();
    for (number, bounds) in (0u32..).zip(&bounds) {
        if partition.is_some_and(|partition| partition != number) {
            continue;
        }
        let of = TopicPartition::new(letters_topic.as_str(), number);
        let records = match from {
            Some(from) => read(&serving, &of, from.max(bounds.start), limit).await?,
            None => newest(&serving, &of, bounds.start, bounds.end, limit).await?,
        };
        letters.extend(records.into_iter().map(|record| (number, record)));
    }
    if from.is_none() {
        letters.sort_by_key(|(partition, record)| std::cmp::Reverse((record.append_time, *partition, record.offset)));
    }
    letters.truncate(limit);
    let next = match from {
        Some(_) => letters.last().map(|(_, record)| record.offset + 1),
        None => None,
    };
    let letters: Vec<Value> = letters.iter().map(|(partition, record)| shown(*partition, record)).collect();
    json(&json!({ "topic": topic, "dead_letters": letters, "next": next }))
}

/// The last `limit` dead letters of a partition: reads back in growing steps, because markers may stand between them.
async fn newest(
    serving: &Serving,
    of: &TopicPartition,
    start: Offset,
    end: Offset,
    limit: usize,
) -> Result<Vec<Record>> {
    let mut step = limit as u64;
    loop {
        let from = end.saturating_sub(step).max(start);
        let mut records = read(serving, of, from, usize::try_from(end - from).unwrap_or(usize::MAX)).await?;
        if records.len() >= limit || from == start {
            return Ok(records.split_off(records.len().saturating_sub(limit)));
        }
        step = step.saturating_mul(4);
    }
}

/// Up to `limit` dead letters from an offset on.
async fn read(serving: &Serving, of: &TopicPartition, mut from: Offset, limit: usize) -> Result<Vec<Record>> {
    let mut letters = Vec::new();
    let mut bytes = 0;
    while letters.len() < limit && bytes < MAX_BYTES {
        let records = serving.parts.log.read(of, from, ReadLimit::records(limit - letters.len())).await?;
        let Some(last) = records.last() else {
            break;
        };
        from = last.offset + 1;
        for record in records {
            if let Content::Event { value, .. } = &record.content {
                bytes += value.len();
                letters.push(record);
            }
        }
    }
    Ok(letters)
}

fn shown(partition: u32, record: &Record) -> Value {
    let mut shown = json!({
        "partition": partition,
        "offset": record.offset,
        "time": clock::rfc3339(record.append_time),
    });
    let Content::Event { value, .. } = &record.content else {
        return shown;
    };
    match DeadLetter::read(value) {
        Ok(letter) => {
            shown["reason"] = letter.reason.into();
            shown["content_type"] = letter.content_type.into();
            shown["origin"] = match letter.origin {
                Origin::Http { index } => json!({ "index": index }),
                Origin::Log { partition, offset } => json!({ "partition": partition, "offset": offset }),
            };
            match std::str::from_utf8(&letter.original) {
                Ok(text) => shown["original"] = text.into(),
                Err(_) => shown["original_base64"] = STANDARD.encode(&letter.original).into(),
            }
        }
        Err(_) => shown["original_base64"] = STANDARD.encode(value).into(),
    }
    shown
}
