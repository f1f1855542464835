//! `GET /v1/status`: how every part stands, at one glance.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value, json};
use views::{Offset, Position, Published, TopicPartition};

use super::{Shared, json, parameters};
use crate::error::Result;
use crate::prepared::PreparedView;
use crate::server::Serving;

/// How everything stands.
pub struct Snapshot {
    /// The visible generation.
    pub generation: Option<u64>,
    /// Every partition of every source.
    pub partitions: Vec<PartitionSnapshot>,
    /// Every view.
    pub views: Vec<ViewSnapshot>,
    /// How many dead letters of each topic can be read.
    pub dead_letters: Vec<(Arc<str>, u64)>,
}

/// How one partition stands.
pub struct PartitionSnapshot {
    /// The partition.
    pub partition: TopicPartition,
    /// The first offset the log keeps.
    pub start: Offset,
    /// The next offset to be written.
    pub end: Offset,
    /// The first offset that is not archived.
    pub archived: Option<Offset>,
    /// Where the visible generation ends.
    pub frontier: Option<Offset>,
    /// The next offset the speed layer folds.
    pub position: Option<Offset>,
    /// How long the oldest record not folded yet has waited.
    pub lag: Option<Duration>,
    /// Why the speed layer's last attempt to go on failed.
    pub error: Option<String>,
}

/// How one view stands.
pub struct ViewSnapshot {
    /// Its name.
    pub name: Arc<str>,
    /// The fingerprint of its definition and state format.
    pub fingerprint: String,
    /// The generation that holds it.
    pub generation: Option<u64>,
    /// How far its answers reach.
    pub position: Position,
    /// How far its answers lag the log.
    pub freshness: Option<Duration>,
    /// Why the speed layer gave up on it.
    pub failed: Option<String>,
}

impl Snapshot {
    /// Asks every part.
    pub async fn take(serving: &Serving) -> Result<Self> {
        let parts = &serving.parts;
        let published = parts.store.published().await?;
        let mut partitions = Vec::new();
        let mut dead_letters = Vec::new();
        for source in &parts.application.sources {
            let now = crate::clock::now_us();
            let statuses = parts.speed.partitions(&source.name);
            for (number, bounds) in (0u32..).zip(parts.log.bounds(&source.name).await?) {
                let partition = TopicPartition::new(source.name.clone(), number);
                let status = statuses.iter().find(|status| status.partition == partition);
                let lag = match status.map(|status| (status, status.lag(now))) {
                    Some((status, None)) => serving.reader.age(&partition, status.position).await,
                    known => known.and_then(|(_, lag)| lag),
                };
                partitions.push(PartitionSnapshot {
                    start: bounds.start,
                    end: bounds.end,
                    archived: parts.archive.archived(&partition),
                    frontier: published.as_ref().and_then(|published| published.frontier.get(&partition)),
                    position: status.map(|status| status.position),
                    lag,
                    error: status.and_then(|status| status.error.clone()),
                    partition,
                });
            }
            let letters = parts.log.bounds(&source.dead_letter_topic()).await.unwrap_or_default();
            dead_letters.push((source.name.clone(), kept(&letters)));
        }
        let mut views = Vec::new();
        for view in &parts.application.views {
            let prepared = serving.views.get(&view.name)?;
            views.push(ViewSnapshot::take(serving, prepared, published.as_ref()).await?);
        }
        Ok(Self { generation: published.map(|published| published.generation), partitions, views, dead_letters })
    }
}

impl ViewSnapshot {
    /// Asks the store how far a view is.
    pub async fn take(serving: &Serving, view: &PreparedView, published: Option<&Published>) -> Result<Self> {
        let definition = &view.view;
        let held = published.and_then(|published| published.of(definition));
        let mut position = held.map(|(_, frontier)| frontier.of_topic(&definition.source.name)).unwrap_or_default();
        for partition in view.partitions() {
            let progress = serving.parts.store.progress(definition, partition).await?;
            position.advance(partition, progress.offset);
        }
        Ok(Self {
            name: definition.name.clone(),
            fingerprint: definition.fingerprint.to_string(),
            generation: held.map(|(generation, _)| generation),
            freshness: serving.reader.lag_now(view, &position).await.time,
            failed: serving.parts.speed.failure(&definition.name),
            position,
        })
    }

    /// Milliseconds of freshness, as JSON.
    pub fn freshness_ms(&self) -> Value {
        self.freshness.map_or(Value::Null, milliseconds)
    }
}

fn milliseconds(duration: Duration) -> Value {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).into()
}

/// How many records there are between the first that is kept and the end. Nobody puts markers among dead letters.
pub fn kept(bounds: &[Range<Offset>]) -> u64 {
    bounds.iter().map(|kept| kept.end.saturating_sub(kept.start)).sum()
}

/// How everything stands, as JSON.
pub async fn status(request: HttpRequest, serving: Shared) -> Result<HttpResponse> {
    let [] = parameters(request.query_string(), [])?;
    let snapshot = Snapshot::take(&serving).await?;
    let mut topics = Map::new();
    for (topic, dead_letters) in &snapshot.dead_letters {
        let of_topic = snapshot.partitions.iter().filter(|partition| partition.partition.topic == *topic);
        let partitions: Vec<Value> = of_topic.map(partition).collect();
        let intake = serving.intakes.get(topic);
        topics.insert(
            topic.to_string(),
            json!({
                "accepted": intake.map_or(0, |intake| intake.accepted()),
                "rejected": intake.map_or(0, |intake| intake.rejected()),
                "dead_letters": dead_letters,
                "partitions": partitions,
            }),
        );
    }
    let mut views = Map::new();
    for view in &snapshot.views {
        views.insert(
            view.name.to_string(),
            json!({
                "fingerprint": view.fingerprint,
                "generation": view.generation,
                "position": view.position.token(),
                "freshness_ms": view.freshness_ms(),
                "failed": view.failed,
            }),
        );
    }
    json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": serving.started.elapsed().as_secs(),
        "ready": serving.behind_start().is_none(),
        "generation": snapshot.generation,
        "topics": topics,
        "views": views,
    }))
}

fn partition(partition: &PartitionSnapshot) -> Value {
    json!({
        "partition": partition.partition.partition,
        "start": partition.start,
        "end": partition.end,
        "archived": partition.archived,
        "frontier": partition.frontier,
        "position": partition.position,
        "lag_records": partition.position.map(|position| partition.end.saturating_sub(position)),
        "lag_ms": partition.lag.map(milliseconds),
        "error": partition.error,
    })
}
