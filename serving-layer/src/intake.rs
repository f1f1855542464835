//! Events in: encode each, group by partition, append to all partitions at once, answer when everything is durable.
//!
//! What cannot be accepted goes to the dead letters before the answer: nothing is dropped silently, whatever happens to the
//! client. The order of events of one request is kept within each partition.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::dead_letter::{self, DeadLetter, Origin};
use event_log::encode::{EncodedEvent, EventEncoder, partition_for, value_subject};
use event_log::registry::SchemaRegistry;
use event_log::{EventLog, LogError, NewRecord};
use futures::future::join_all;
use parking_lot::Mutex;
use prometheus::IntCounter;
use views::{Position, Source, TopicPartition, View};

use crate::clock::now_us;
use crate::error::{Kind, Problem, Result};
use crate::metrics::Metrics;

/// A topic that takes events.
pub struct Intake {
    source: Arc<Source>,
    encoder: Arc<EventEncoder>,
    dead_letters: TopicPartition,
    dead_letter_schema_id: u32,
    /// How many partitions the topic has.
    partitions: AtomicU32,
    /// Where the keyless events of the next request go.
    next: AtomicU32,
    accepted: IntCounter,
    rejected: IntCounter,
    /// When the log last refused events, and why; `None` once it has taken some again.
    refused: Mutex<Option<(Instant, String)>>,
}

/// Who asks whether the log takes events is told of a refusal for so long. Then it is to be tried again.
const REFUSAL_COUNTS: Duration = Duration::from_secs(10);

/// An event that was not accepted.
#[derive(Debug)]
pub struct Rejected {
    /// Which event of the request, from 0; `None` when they could not be told apart.
    pub index: Option<usize>,
    /// Why, naming the field's path.
    pub reason: String,
    /// The event as it came.
    pub original: Bytes,
}

/// The events of a request, encoded.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Those that go to the log.
    pub events: Vec<EncodedEvent>,
    /// Those that go to the dead letters.
    pub rejected: Vec<Rejected>,
    /// What the request said its body is.
    pub content_type: Option<String>,
}

impl Intake {
    /// Registers the schema and makes the encoder.
    pub async fn new(
        source: &Arc<Source>,
        views: &[Arc<View>],
        registry: &Arc<dyn SchemaRegistry>,
        metrics: &Metrics,
    ) -> Result<Self, LogError> {
        let schema_id = registry.register(&value_subject(&source.name), &source.avro).await?;
        let own = views.iter().filter(|view| view.source.name == source.name).map(|view| &**view);
        let dead_letters = source.dead_letter_topic();
        let dead_letter_schema_id = registry.register(&value_subject(&dead_letters), dead_letter::SCHEMA).await?;
        Ok(Self {
            dead_letters: TopicPartition::new(dead_letters, 0),
            dead_letter_schema_id,
            encoder: Arc::new(EventEncoder::new(source, schema_id)?.for_views(own)),
            source: source.clone(),
            partitions: AtomicU32::new(source.partitions),
            next: AtomicU32::new(0),
            accepted: metrics.events_accepted.with_label_values(&[&source.name]),
            rejected: metrics.events_rejected.with_label_values(&[&source.name]),
            refused: Mutex::default(),
        })
    }

    /// Spreads events over so many partitions from now on, should there have been fewer before.
    pub fn grow_to(&self, partitions: usize) {
        self.partitions.fetch_max(u32::try_from(partitions).unwrap_or(0), Ordering::Relaxed);
    }

    /// How many events this process accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// How many it rejected.
    pub fn rejected(&self) -> u64 {
        self.rejected.get()
    }

    /// Why the log does not take events, if it refused some a moment ago and has taken none since.
    pub fn refusal(&self) -> Option<String> {
        let refused = self.refused.lock();
        refused.as_ref().filter(|(at, _)| at.elapsed() < REFUSAL_COUNTS).map(|(_, reason)| reason.clone())
    }

    /// What encodes this topic's events.
    pub fn encoder(&self) -> Arc<EventEncoder> {
        self.encoder.clone()
    }

    /// Appends the events of one request, and its dead letters. Returns how far the append went.
    pub async fn append(&self, log: &dyn EventLog, encoded: Encoded) -> Result<Position> {
        let mut appends: Vec<(TopicPartition, Vec<NewRecord>)> =
            self.by_partition(encoded.events).into_iter().collect();
        let letters = self.dead_letters(encoded.rejected, encoded.content_type);
        let events_in = appends.len();
        appends.extend(letters);
        let results = join_all(appends.into_iter().map(|(partition, records)| async move {
            let count = records.len() as u64;
            let result = log.append(&partition, records).await;
            (partition, count, result)
        }))
        .await;
        let mut position = Position::new();
        let mut failures = Vec::new();
        for (index, (partition, count, result)) in results.into_iter().enumerate() {
            // What is durable counts, whatever became of the rest of the request.
            match result {
                Ok(offsets) if index < events_in => {
                    self.accepted.inc_by(count);
                    position.set(&partition, offsets.end);
                }
                Ok(_) => self.rejected.inc_by(count),
                Err(error) => failures.push((partition, error)),
            }
        }
        *self.refused.lock() = failures.first().map(|(_, error)| (Instant::now(), error.to_string()));
        if failures.is_empty() { Ok(position) } else { Err(not_appended(&position, failures)) }
    }

    fn by_partition(&self, events: Vec<EncodedEvent>) -> BTreeMap<TopicPartition, Vec<NewRecord>> {
        let partitions = self.partitions.load(Ordering::Relaxed).max(1);
        // All keyless events of a request go to one partition: one append, and they stay together.
        let keyless = self.next.fetch_add(1, Ordering::Relaxed) % partitions;
        let mut appends: BTreeMap<TopicPartition, Vec<NewRecord>> = BTreeMap::new();
        for event in events {
            let partition = event.key.as_ref().map_or(keyless, |key| partition_for(key, partitions));
            let partition = TopicPartition::new(self.source.name.clone(), partition);
            appends.entry(partition).or_default().push(NewRecord::Event { key: event.key, value: event.value });
        }
        appends
    }

    fn dead_letters(
        &self,
        rejected: Vec<Rejected>,
        content_type: Option<String>,
    ) -> Option<(TopicPartition, Vec<NewRecord>)> {
        if rejected.is_empty() {
            return None;
        }
        let received_at = now_us();
        let letters = rejected.into_iter().map(|rejected| {
            let letter = DeadLetter {
                reason: rejected.reason,
                topic: self.source.name.to_string(),
                origin: Origin::Http { index: rejected.index.map(|index| index as u64) },
                content_type: content_type.clone(),
                original: rejected.original,
                received_at,
            };
            letter.to_record(self.dead_letter_schema_id)
        });
        Some((self.dead_letters.clone(), letters.collect()))
    }
}

/// What to say when some append failed. What the log did with a failed append is unknown: all, some or none of it may be there.
fn not_appended(position: &Position, failures: Vec<(TopicPartition, LogError)>) -> Problem {
    let reasons: Vec<String> = failures.iter().map(|(partition, error)| format!("{partition}: {error}")).collect();
    let certain = if position.is_empty() {
        "nothing is known to be durable".to_owned()
    } else {
        format!("durable: everything before {position}")
    };
    let detail = format!(
        "which events were accepted is unknown; send them all again (an `event_id` keeps repeats from counting twice); {certain}; failed: {}",
        reasons.join("; ")
    );
    let unknown = failures.iter().map(|(partition, _)| partition.to_string()).collect::<Vec<_>>();
    let kind = if failures.iter().all(|(_, error)| error.is_transient()) {
        Kind::OutcomeUnknown
    } else if failures.iter().all(|(_, error)| matches!(error, LogError::Invalid(_))) {
        Kind::BodyTooLarge
    } else {
        Kind::Internal
    };
    Problem::new(kind, detail).with("partitions", unknown)
}

/// Encodes JSON events that stand at `events` in `body`.
pub fn encode_json(encoder: &EventEncoder, body: &Bytes, events: Vec<Range<usize>>) -> Encoded {
    let mut encoded = Encoded { events: Vec::with_capacity(events.len()), ..Encoded::default() };
    for (index, range) in events.into_iter().enumerate() {
        let original = body.slice(range);
        match encoder.json(&original) {
            Ok(event) => encoded.events.push(event),
            Err(rejection) => {
                encoded.rejected.push(Rejected { index: Some(index), reason: rejection.reason, original })
            }
        }
    }
    encoded
}

/// Encodes the events of an Avro container file.
pub async fn encode_container(
    encoder: &EventEncoder,
    registry: &Arc<dyn SchemaRegistry>,
    file: &[u8],
) -> Result<Encoded> {
    let events = encoder.container(file, registry.as_ref()).await.map_err(|error| match error {
        LogError::Invalid(reason) => Problem::new(Kind::InvalidBody, reason),
        other => other.into(),
    })?;
    let mut encoded = Encoded::default();
    for (index, event) in events.into_iter().enumerate() {
        match event {
            Ok(event) => encoded.events.push(event),
            Err(rejection) => {
                let (reason, original) = (rejection.reason, rejection.original);
                encoded.rejected.push(Rejected { index: Some(index), reason, original });
            }
        }
    }
    Ok(encoded)
}
