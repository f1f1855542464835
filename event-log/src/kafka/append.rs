//! Appending: one idempotent producer for everything, acknowledged by every replica in sync.
//!
//! What waits for an acknowledgement is bounded: an append is let in when there is room for its bytes. The records of one append are
//! handed to librdkafka in order, and it keeps their order in the partition; the last acknowledgement ends the append.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use views::{Offset, TopicPartition};

use super::MARKER;
use super::cluster::Cluster;
use super::listener::Listener;
use super::options::{KafkaOptions, LONGEST_RECORD, Role, refused};
use crate::error::{LogError, Result};
use crate::log::{Content, NewRecord};

/// What may wait for its acknowledgement before appends have to wait themselves.
const ROOM: usize = 64 << 20;
/// What a waiting record takes besides its key and value.
const RECORD: usize = 256;
/// How often a producer that does not know a partition looks for it, and how long it may look.
const UNKNOWN_TRIES: usize = 5;
const LOOK: Duration = Duration::from_secs(5);
/// The most one append may take.
const APPEND_BYTES: usize = 128 << 20;

/// The producer, made anew when it has come to the end of its life.
pub(super) struct Appender {
    options: KafkaOptions,
    listener: Listener,
    producer: RwLock<Arc<ThreadedProducer<Deliveries>>>,
    room: Arc<Semaphore>,
}

impl Appender {
    pub fn new(options: &KafkaOptions, listener: &Listener) -> Result<Self> {
        let producer = RwLock::new(Arc::new(new_producer(options, listener)?));
        let room = Arc::new(Semaphore::new(ROOM));
        Ok(Self { options: options.clone(), listener: listener.clone(), producer, room })
    }

    /// Appends records, at least one, to a partition that there is.
    pub async fn append(
        &self,
        cluster: &Cluster,
        to: &TopicPartition,
        records: Vec<NewRecord>,
    ) -> Result<Range<Offset>> {
        let bytes = check(to, &records)?;
        let context = || format!("append to {to}");
        let mut tries = 0;
        loop {
            let producer = self.producer.read().clone();
            let outcome = self.append_once(&producer, to, &records, bytes).await?;
            let Some(error) = outcome.error else {
                if outcome.offsets.is_empty() {
                    // The broker has them from before, by a repetition whose first answer was lost, and forgot where.
                    return Err(LogError::unavailable(context(), "acknowledged without offsets"));
                }
                return Ok(outcome.offsets);
            };
            self.renew_if_dead(&producer);
            let unknown = is_unknown(&error) && outcome.offsets.is_empty();
            if !unknown || tries == UNKNOWN_TRIES {
                return Err(self.listener.error(context(), error));
            }
            // The producer looks at partitions now and then, and has not heard of this one yet.
            tries += 1;
            cluster.forget(&to.topic);
            cluster.check(to).await?;
            let topic = to.topic.clone();
            let look = move || producer.client().fetch_metadata(Some(&topic), LOOK).map(drop);
            let looked = tokio::task::spawn_blocking(look).await;
            looked
                .map_err(|error| LogError::unavailable(context(), error))?
                .map_err(|error| self.listener.error(context(), error))?;
        }
    }

    async fn append_once(
        &self,
        producer: &ThreadedProducer<Deliveries>,
        to: &TopicPartition,
        records: &[NewRecord],
        bytes: usize,
    ) -> Result<Outcome> {
        let failed = |error| LogError::unavailable(format!("append to {to}"), error);
        let room = self.room.clone().acquire_many_owned(bytes.min(ROOM) as u32).await;
        let room = room.map_err(|error| failed(error.to_string()))?;
        let (done, outcome) = oneshot::channel();
        let append = Arc::new(Append {
            waiting: AtomicUsize::new(records.len()),
            outcome: Mutex::default(),
            done: Mutex::new(Some((done, room))),
        });
        for (number, record) in records.iter().enumerate() {
            if let Err(error) = send(producer, to, record, &append).await {
                // The rest is not sent: the append ends when those before it are settled.
                append.failed(error, records.len() - number);
                break;
            }
        }
        outcome.await.map_err(|error| failed(error.to_string()))
    }

    /// A producer that met a fatal error takes nothing any more: idempotence could not be kept. The next one begins afresh.
    fn renew_if_dead(&self, producer: &Arc<ThreadedProducer<Deliveries>>) {
        let Some((code, reason)) = producer.client().fatal_error() else { return };
        let mut current = self.producer.write();
        if !Arc::ptr_eq(&current, producer) {
            return;
        }
        tracing::warn!(%code, reason, "the Kafka producer is made anew");
        match new_producer(&self.options, &self.listener) {
            Ok(new) => *current = Arc::new(new),
            Err(error) => tracing::error!(%error, "the Kafka producer cannot be made anew"),
        }
    }
}

fn new_producer(options: &KafkaOptions, listener: &Listener) -> Result<ThreadedProducer<Deliveries>> {
    let deliveries = Deliveries { listener: listener.clone(), made_room: Arc::default() };
    ThreadedProducer::from_config_and_context(&options.config(Role::Producer), deliveries).map_err(refused)
}

/// How many bytes an append holds while it waits.
fn check(to: &TopicPartition, records: &[NewRecord]) -> Result<usize> {
    let length = |content: &Content| match content {
        Content::Event { key, value } => key.as_ref().map_or(0, bytes::Bytes::len) + value.len(),
        Content::Marker(_) => 0,
    };
    if let Some(longest) = records.iter().map(length).max().filter(|longest| *longest > LONGEST_RECORD) {
        return Err(LogError::Invalid(format!(
            "append to {to}: a record of {longest} bytes; at most {LONGEST_RECORD} are taken"
        )));
    }
    let bytes = records.iter().map(|record| length(record) + RECORD).sum();
    if bytes > APPEND_BYTES {
        return Err(LogError::Invalid(format!(
            "append to {to}: {bytes} bytes in one append; at most {APPEND_BYTES} are taken"
        )));
    }
    Ok(bytes)
}

/// Hands one record to librdkafka, waiting while its queue is full.
async fn send(
    producer: &ThreadedProducer<Deliveries>,
    to: &TopicPartition,
    record: &NewRecord,
    append: &Arc<Append>,
) -> Result<(), KafkaError> {
    let made_room = &producer.context().made_room;
    let mut waited = false;
    loop {
        match send_now(producer, to, record, append) {
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                // Settled records make room, and within its time limit every record is settled.
                made_room.notified().await;
                waited = true;
            }
            outcome => {
                if waited {
                    // There may be room for another one who waits.
                    made_room.notify_one();
                }
                return outcome;
            }
        }
    }
}

fn send_now(
    producer: &ThreadedProducer<Deliveries>,
    to: &TopicPartition,
    record: &NewRecord,
    append: &Arc<Append>,
) -> Result<(), KafkaError> {
    let base = BaseRecord::<[u8], [u8], _>::with_opaque_to(&to.topic, append.clone()).partition(to.partition as i32);
    let base = match record {
        Content::Event { key, value } => {
            let base = base.payload(value);
            match key {
                Some(key) => base.key(key),
                None => base,
            }
        }
        Content::Marker(number) => {
            let number = number.to_string();
            base.headers(OwnedHeaders::new().insert(Header { key: MARKER, value: Some(number.as_bytes()) }))
        }
    };
    producer.send(base).map_err(|(error, _)| error)
}

/// An append under way.
struct Append {
    /// How many of its records are not settled.
    waiting: AtomicUsize,
    /// What became of those that are.
    outcome: Mutex<Outcome>,
    /// Who waits for it, and the room it takes.
    done: Mutex<Option<(oneshot::Sender<Outcome>, OwnedSemaphorePermit)>>,
}

/// What became of an append.
#[derive(Default)]
struct Outcome {
    /// From the first offset it got to past the last; empty when it got none.
    offsets: Range<Offset>,
    /// The first error.
    error: Option<KafkaError>,
}

impl Append {
    fn delivered(&self, offset: i64) {
        if let Ok(offset) = u64::try_from(offset) {
            let offsets = &mut self.outcome.lock().offsets;
            let start = if offsets.is_empty() { offset } else { offsets.start.min(offset) };
            *offsets = start..offsets.end.max(offset + 1);
        }
        self.settled(1);
    }

    fn failed(&self, error: KafkaError, records: usize) {
        self.outcome.lock().error.get_or_insert(error);
        self.settled(records);
    }

    fn settled(&self, records: usize) {
        if self.waiting.fetch_sub(records, Ordering::AcqRel) != records {
            return;
        }
        let outcome = std::mem::take(&mut *self.outcome.lock());
        if let Some((done, _room)) = self.done.lock().take() {
            // Nobody may be waiting any more.
            let _ = done.send(outcome);
        }
    }
}

fn is_unknown(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    matches!(error.rdkafka_error_code(), Some(UnknownPartition | UnknownTopic | UnknownTopicOrPartition))
}

/// Takes acknowledgements.
struct Deliveries {
    listener: Listener,
    made_room: Arc<Notify>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.listener.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        ClientContext::error(&self.listener, error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Append>;

    fn delivery(&self, result: &DeliveryResult<'_>, append: Arc<Append>) {
        match result {
            Ok(message) => append.delivered(message.offset()),
            Err((error, _)) => append.failed(error.clone(), 1),
        }
        self.made_room.notify_one();
    }
}
