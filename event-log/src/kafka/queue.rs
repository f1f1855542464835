//! What librdkafka has fetched of a partition, taken many messages at a time.
//!
//! The binding takes one message per call, for which the clock is read three times and an event is made: a quarter of what a fast
//! reader does. librdkafka's own call for many (`rd_kafka_consume_batch_queue`) has no safe form, so it is here and nowhere else.
#![allow(unsafe_code, reason = "librdkafka's call for many messages at once")]

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use rdkafka::bindings::{self as native, rd_kafka_message_t, rd_kafka_resp_err_t, rd_kafka_timestamp_type_t};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use tokio::sync::Notify;
use views::TopicPartition;

use super::listener::Listener;

/// How many messages are taken at once. They are librdkafka's until then, and count against what it may fetch ahead.
const AT_ONCE: usize = 256;

/// The queue of one partition of a consumer. What is in it was fetched, and waits.
pub(super) struct Queue {
    /// Those that were taken and not handed out, the next one last.
    taken: Vec<Message>,
    queue: Reference,
    /// Says when there is something. Keeps the consumer, so it goes after whatever is the consumer's.
    _says: PartitionQueue<Listener>,
}

/// A reference to a queue, given back when it is dropped.
struct Reference(NonNull<native::rd_kafka_queue_t>);

/// A message of librdkafka, given back when it is dropped.
pub(super) struct Message(NonNull<rd_kafka_message_t>);

// SAFETY: any thread may use and give back what librdkafka hands out, one at a time.
unsafe impl Send for Queue {}

impl Queue {
    /// Of a partition that is yet to be assigned: from then on what is fetched of it is found here, and `filled` is told whenever
    /// there is something after there was nothing. `None`: the consumer does not know the partition.
    pub fn of(consumer: &Arc<BaseConsumer<Listener>>, of: &TopicPartition, filled: Arc<Notify>) -> Option<Self> {
        let number = i32::try_from(of.partition).ok()?;
        let mut says = consumer.split_partition_queue(&of.topic, number)?;
        says.set_nonempty_callback(move || filled.notify_one());
        let topic = CString::new(&*of.topic).ok()?;
        // SAFETY: the client is alive, the name is a C string, and a null is looked for.
        let queue =
            unsafe { native::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), number) };
        let queue = Reference(NonNull::new(queue)?);
        Some(Self { taken: Vec::with_capacity(AT_ONCE), queue, _says: says })
    }

    /// The next message, or error, if it is there.
    pub fn next(&mut self) -> Option<Result<Message, KafkaError>> {
        if self.taken.is_empty() {
            self.take();
        }
        self.taken.pop().map(|message| message.error().map_or(Ok(message), Err))
    }

    /// Throws away what was taken and not handed out.
    pub fn clear(&mut self) {
        self.taken.clear();
    }

    fn take(&mut self) {
        let mut room = [ptr::null_mut(); AT_ONCE];
        // SAFETY: there is room for that many, and the queue is alive. Zero: it does not wait.
        let count =
            unsafe { native::rd_kafka_consume_batch_queue(self.queue.0.as_ptr(), 0, room.as_mut_ptr(), AT_ONCE) };
        let taken = room.iter().take(usize::try_from(count).unwrap_or(0));
        self.taken.extend(taken.rev().filter_map(|message| NonNull::new(*message)).map(Message));
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it any more.
        unsafe { native::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

impl Message {
    /// Its offset, as Kafka counts.
    pub fn offset(&self) -> i64 {
        self.parts().offset
    }

    /// When the log took it, in milliseconds since the epoch; `None` when that is not what its time says.
    pub fn append_time(&self) -> Option<i64> {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive.
        let time = unsafe { native::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        (kind == rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME).then_some(time)
    }

    /// Its key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        let parts = self.parts();
        // SAFETY: librdkafka says so.
        unsafe { bytes(parts.key.cast(), parts.key_len) }
    }

    /// Its value, if it has one.
    pub fn value(&self) -> Option<&[u8]> {
        let parts = self.parts();
        // SAFETY: librdkafka says so.
        unsafe { bytes(parts.payload.cast(), parts.len) }
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let name = CString::new(name).ok()?;
        let (mut headers, mut value, mut length) = (ptr::null_mut(), ptr::null(), 0);
        // SAFETY: the message is alive, and so are its headers; what they are put into is ours.
        let found = unsafe {
            match native::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) {
                rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                    native::rd_kafka_header_get(headers, 0, name.as_ptr(), &raw mut value, &raw mut length)
                }
                none => none,
            }
        };
        // SAFETY: librdkafka says so.
        (found == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| unsafe { bytes(value.cast(), length) })?
    }

    fn parts(&self) -> &rd_kafka_message_t {
        // SAFETY: it lives as long as this.
        unsafe { self.0.as_ref() }
    }

    fn error(&self) -> Option<KafkaError> {
        match self.parts().err {
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => None,
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                Some(KafkaError::PartitionEOF(self.parts().partition))
            }
            other => Some(KafkaError::MessageConsumption(other.into())),
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it any more.
        unsafe { native::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// # Safety
///
/// So many bytes are there for as long as the result is used, unless the pointer is null.
unsafe fn bytes<'a>(start: *const u8, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as above.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, length) })
}
