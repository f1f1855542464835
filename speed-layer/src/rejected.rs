//! Events that cannot be decoded: where they go.

use async_trait::async_trait;
use event_log::Record;
use views::TopicPartition;

/// An event that the decoder refused, as it is in the log.
#[derive(Debug, Clone)]
pub struct RejectedEvent {
    /// The record, with its offset and the original bytes.
    pub record: Record,
    /// Why it cannot be decoded.
    pub reason: String,
}

/// Takes the events that no view can count.
///
/// Each is handed over right before the deltas that pass it are written, so none is lost; after a crash or a failed write
/// in between it comes again. Its partition and offset are the same then: a sink recognises it by them.
#[async_trait]
pub trait RejectedSink: Send + Sync + 'static {
    /// Takes some rejected events of a partition, in offset order. An error makes the speed layer try again.
    async fn take(
        &self,
        partition: &TopicPartition,
        events: &[RejectedEvent],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Takes nothing: rejected events are only counted. For places without a dead-letter topic.
#[derive(Debug, Clone, Copy, Default)]
pub struct OnlyCounted;

#[async_trait]
impl RejectedSink for OnlyCounted {
    async fn take(
        &self,
        _partition: &TopicPartition,
        _events: &[RejectedEvent],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}
