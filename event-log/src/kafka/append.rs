//! Appending: one idempotent producer for everything, acknowledged by every replica in sync.
//!
//! What waits for an acknowledgement is bounded: an append is let in when there is room for its bytes. The records of one append are
//! handed to librdkafka in order, and it keeps their order in the partition; the last acknowledgement ends the append.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::{Notify, Semaphore, oneshot};
use views::{Offset, TopicPartition};

use super::MARKER;
use super::listener::Listener;
use super::options::{KafkaOptions, LONGEST_RECORD, Role, refused};
use crate::error::{LogError, Result};
use crate::log::{Content, NewRecord};

/// What may wait for its acknowledgement before appends have to wait themselves.
const ROOM: usize = 64 << 20;
/// What a waiting record takes besides its key and value.
const RECORD: usize = 256;
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
    pub async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        let bytes = check(to, &records)?;
        let context = || format!("append to {to}");
        let room = self.room.clone().acquire_many_owned(bytes.min(ROOM) as u32).await;
        let room = room.map_err(|error| LogError::unavailable(context(), error))?;
        let producer = self.producer.read().clone();
        let (done, outcome) = oneshot::channel();
        let append = Arc::new(Append {
            waiting: AtomicUsize::new(records.len()),
            offsets: Mutex::new(Ok(Offset::MAX..0)),
            done: Mutex::new(Some((done, room))),
        });
        for (number, record) in records.iter().enumerate() {
            if let Err(error) = send(&producer, to, record, &append).await {
                // The rest is not sent: the append ends when those before it are settled.
                append.failed(error, records.len() - number);
                break;
            }
        }
        let outcome = outcome.await.map_err(|error| LogError::unavailable(context(), error))?;
        match outcome {
            Ok(offsets) if offsets.end == 0 => {
                // The broker had the records before, by a repetition whose first answer was lost, and no longer knows where.
                Err(LogError::unavailable(context(), "acknowledged without an offset"))
            }
            Ok(offsets) => Ok(offsets),
            Err(error) => {
                self.renew_if_dead(&producer);
                Err(self.listener.error(context(), error))
            }
        }
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
    loop {
        match send_now(producer, to, record, append) {
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                // Settled records make room, and within its time limit every record is settled.
                made_room.notified().await;
            }
            outcome => {
                // There may be room for another one who waits.
                if outcome.is_ok() {
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
    /// What the settled ones got.
    offsets: Mutex<Result<Range<Offset>, KafkaError>>,
    /// Who waits for it, and the room it takes.
    done: Mutex<Option<(oneshot::Sender<Result<Range<Offset>, KafkaError>>, tokio::sync::OwnedSemaphorePermit)>>,
}

impl Append {
    fn delivered(&self, offset: i64) {
        if let (Ok(offsets), Ok(offset)) = (&mut *self.offsets.lock(), u64::try_from(offset)) {
            *offsets = offsets.start.min(offset)..offsets.end.max(offset + 1);
        }
        self.settled(1);
    }

    fn failed(&self, error: KafkaError, records: usize) {
        let mut offsets = self.offsets.lock();
        if offsets.is_ok() {
            *offsets = Err(error);
        }
        drop(offsets);
        self.settled(records);
    }

    fn settled(&self, records: usize) {
        if self.waiting.fetch_sub(records, Ordering::AcqRel) != records {
            return;
        }
        let outcome = std::mem::replace(&mut *self.offsets.lock(), Ok(0..0));
        if let Some((done, _room)) = self.done.lock().take() {
            // Nobody may be waiting any more.
            let _ = done.send(outcome);
        }
    }
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
