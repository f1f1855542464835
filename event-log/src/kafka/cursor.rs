//! One reader's place in a partition, with what was fetched ahead from there.
//!
//! A read that goes on where the last one ended takes what is in the queue and costs nothing else. A read elsewhere jumps, which
//! throws away what was fetched and waits for the fetch that is under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as At, TopicPartitionList};
use tokio::sync::Notify;
use views::{Offset, TopicPartition};

use super::MARKER;
use super::lanes::{Taken, position};
use super::queue::{Message, Queue};
use crate::error::{LogError, Result};
use crate::log::{Content, ReadLimit, Record};

/// How long librdkafka may take to turn round: it asks nobody for that.
const JUMP: Duration = Duration::from_secs(5);

/// A place in a partition. The order of fields is the order in which they go: first it stops fetching.
pub(super) struct Cursor {
    taken: Taken,
    queue: Queue,
    /// Told whenever the queue has something after it was empty.
    pub filled: Arc<Notify>,
    /// What it hands out next is the first record at or past this.
    pub next: Offset,
    /// Where Kafka said that the partition ends, before it began to fetch at `next`: until something comes.
    end_before: Option<Offset>,
    /// It fetches no more.
    pub failed: bool,
    /// When it was used last.
    pub used: Instant,
    /// How many bytes the last read took.
    usual: usize,
    _one_of: Arc<()>,
}

/// What came out of a cursor.
#[derive(Default)]
pub(super) struct Found {
    pub records: Vec<Record>,
    /// There is nothing to read from the cursor's place up to this end of Kafka's.
    pub nothing_before: Option<Offset>,
}

/// Why a cursor cannot go on.
pub(super) enum Stop {
    /// There is no such offset.
    OutOfRange,
    Error(LogError),
}

impl Cursor {
    pub fn new(taken: Taken, queue: Queue, filled: Arc<Notify>, at: Offset, end: Offset, one_of: Arc<()>) -> Self {
        Self {
            taken,
            queue,
            filled,
            next: at,
            end_before: Some(end),
            failed: false,
            used: Instant::now(),
            usual: 0,
            _one_of: one_of,
        }
    }

    /// Goes elsewhere; whatever comes from now on was fetched from there. `end` is where Kafka said that the partition ends. Blocks.
    pub fn jump(&mut self, to: Offset, end: Offset) -> Result<()> {
        // A jump that librdkafka refuses would leave it fetching records that are thrown away: then it is of no more use.
        self.failed = true;
        let Taken { lane, of } = &self.taken;
        let refused = |error: KafkaError| LogError::unavailable(format!("read {of}"), error);
        let mut place = TopicPartitionList::with_capacity(1);
        place.add_partition_offset(&of.topic, of.partition as i32, At::Offset(position(of, to)?)).map_err(refused)?;
        let outcome = lane.consumer.seek_partitions(place, JUMP).map_err(refused)?;
        outcome.elements().iter().try_for_each(|element| element.error()).map_err(refused)?;
        self.queue.clear();
        (self.next, self.end_before, self.failed) = (to, Some(end), false);
        Ok(())
    }

    /// Whether nothing has come since it went to its place, so that the first thing to come will tell whether there is something.
    pub fn will_tell(&self) -> bool {
        self.end_before.is_some()
    }

    /// Takes records at or past `from` that are in the queue, within the limit.
    pub fn take(&mut self, from: Offset, limit: &ReadLimit) -> Result<Found, Stop> {
        let mut taken = Taking { arena: Vec::with_capacity(self.usual.min(limit.bytes)), shapes: Vec::new() };
        let mut found = Found::default();
        let mut stop = None;
        while taken.shapes.len() < limit.records && (taken.shapes.is_empty() || taken.arena.len() < limit.bytes) {
            match self.queue.next() {
                None => break,
                Some(Ok(message)) => {
                    self.end_before = None;
                    let offset = message.offset().unsigned_abs();
                    if offset >= from
                        && let Err(error) = taken.push(&self.taken.of, &message)
                    {
                        (stop, self.failed) = (Some(Stop::Error(error)), true);
                        break;
                    }
                    self.next = offset + 1;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    if let Some(end) = self.end_before.take()
                        && taken.shapes.is_empty()
                    {
                        found.nothing_before = Some(end);
                    }
                }
                Some(Err(error)) => {
                    (stop, self.failed) = (Some(self.stop(error)), true);
                    break;
                }
            }
        }
        match stop {
            // What came before is good; whoever reads on meets it again.
            Some(stop) if taken.shapes.is_empty() => Err(stop),
            _ => {
                self.usual = taken.arena.len() + taken.arena.len() / 8;
                found.records = taken.records();
                Ok(found)
            }
        }
    }

    fn stop(&self, error: KafkaError) -> Stop {
        use RDKafkaErrorCode as Code;
        let Taken { lane, of } = &self.taken;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Stop::OutOfRange,
            Some(Code::BadMessage | Code::InvalidMessage | Code::BadCompression) => {
                Stop::Error(LogError::Damaged(format!("{of}: the batch at offset {}: {error}", self.next)))
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Stop::Error(LogError::NotFound(format!("partition {of}")))
            }
            _ => Stop::Error(lane.consumer.context().error(format!("read {of}"), error)),
        }
    }
}

/// Records being taken: their keys and values one after the other, so that all of them take one allocation.
struct Taking {
    arena: Vec<u8>,
    shapes: Vec<Shape>,
}

/// A record whose bytes are in the arena.
struct Shape {
    offset: Offset,
    append_time: i64,
    content: ShapeOf,
}

enum ShapeOf {
    Event { key: Option<usize>, value: usize },
    Marker(u64),
}

impl Taking {
    fn push(&mut self, of: &TopicPartition, message: &Message) -> Result<()> {
        let Some(time) = message.append_time() else {
            return Err(LogError::Invalid(format!(
                "topic {}: the record at offset {} of partition {} has no append time: it was written before the topic had \
                 message.timestamp.type=LogAppendTime",
                of.topic,
                message.offset(),
                of.partition
            )));
        };
        let (key, value) = (message.key(), message.value());
        let marker = if key.is_none() && value.is_none() { marker(message) } else { None };
        let content = match marker {
            Some(number) => ShapeOf::Marker(number),
            None => {
                // A record without a value holds no event. It is handed on as one of no bytes, which no schema fits, so
                // that it ends among the dead letters and not in silence.
                let value = value.unwrap_or_default();
                self.arena.extend_from_slice(key.unwrap_or_default());
                self.arena.extend_from_slice(value);
                ShapeOf::Event { key: key.map(<[u8]>::len), value: value.len() }
            }
        };
        let offset = message.offset().unsigned_abs();
        self.shapes.push(Shape { offset, append_time: time.saturating_mul(1000), content });
        Ok(())
    }

    fn records(self) -> Vec<Record> {
        let arena = Bytes::from(self.arena);
        let mut at = 0;
        let mut cut = |length: usize| {
            at += length;
            arena.slice(at - length..at)
        };
        let record = |shape: Shape| {
            let content = match shape.content {
                ShapeOf::Marker(number) => Content::Marker(number),
                ShapeOf::Event { key, value } => Content::Event { key: key.map(&mut cut), value: cut(value) },
            };
            Record { offset: shape.offset, append_time: shape.append_time, content }
        };
        self.shapes.into_iter().map(record).collect()
    }
}

/// The number of a marker.
fn marker(message: &Message) -> Option<u64> {
    std::str::from_utf8(message.header(MARKER)?).ok()?.parse().ok()
}
