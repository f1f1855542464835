//! What librdkafka says by itself: kept, so that an error can tell why.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::LogError;

/// A reason is told as long as it is not older than this.
const FRESH: Duration = Duration::from_secs(60);

/// Listens to the clients of one log. Clones listen together.
#[derive(Debug, Clone, Default)]
pub(super) struct Listener {
    said: Arc<Mutex<Option<Said>>>,
}

#[derive(Debug, Clone)]
struct Said {
    code: Option<RDKafkaErrorCode>,
    reason: String,
    at: Instant,
}

impl Listener {
    /// What was said last, if it was said lately.
    pub fn reason(&self) -> Option<String> {
        let said = self.said.lock();
        said.as_ref().filter(|said| said.at.elapsed() < FRESH).map(|said| said.reason.clone())
    }

    /// The reason when it is one that waiting does not mend: credentials, TLS, a name that does not resolve.
    pub fn hopeless(&self) -> Option<String> {
        use RDKafkaErrorCode::{Authentication, Resolve, SSL, SaslAuthenticationFailed, UnsupportedSASLMechanism};
        let said = self.said.lock();
        let hopeless = |said: &&Said| {
            matches!(
                said.code,
                Some(Authentication | Resolve | SSL | SaslAuthenticationFailed | UnsupportedSASLMechanism)
            )
        };
        said.as_ref().filter(hopeless).map(|said| said.reason.clone())
    }

    /// Everything is well again.
    pub fn forget(&self) {
        *self.said.lock() = None;
    }

    /// The error of something that was being done, with the reason that is behind it.
    pub fn error(&self, context: impl Into<String>, error: KafkaError) -> LogError {
        use RDKafkaErrorCode as Code;
        let context = context.into();
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                LogError::NotFound(format!("{context}: the topic or partition"))
            }
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => LogError::Invalid(format!(
                "{context}: a record is larger than Kafka takes; raise the topic's max.message.bytes"
            )),
            Some(
                Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::GroupAuthorizationFailed,
            ) => LogError::unavailable(context, format!("{error}: the user of log.kafka may not do this")),
            Some(
                Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::OperationTimedOut
                | Code::MessageTimedOut
                | Code::RequestTimedOut
                | Code::Resolve
                | Code::Authentication,
            ) => match self.reason() {
                Some(reason) => LogError::unavailable(context, format!("{error} ({reason})")),
                None => LogError::unavailable(context, error),
            },
            _ => LogError::unavailable(context, error),
        }
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Every client is given every property of `log.kafka`, and complains of those it has no use for.
        if facility == "CONFWARN" {
            return;
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", facility, "{message}");
            }
            _ => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange, PartitionEOF};
        // Told of partitions that were let go of meanwhile, or to whoever reads there: no trouble of the connection's.
        if matches!(code, Some(PartitionEOF | OffsetOutOfRange | AutoOffsetReset)) {
            return;
        }
        // That all brokers are down follows from what was said of each, and says less.
        let summary = code == Some(RDKafkaErrorCode::AllBrokersDown);
        tracing::debug!(%error, reason, "Kafka");
        let mut said = self.said.lock();
        if summary && said.as_ref().is_some_and(|said| said.at.elapsed() < FRESH) {
            return;
        }
        if said.as_ref().is_none_or(|said| said.reason != reason || said.at.elapsed() >= FRESH) && !summary {
            tracing::warn!(reason, "Kafka");
        }
        *said = Some(Said { code, reason: reason.to_owned(), at: Instant::now() });
    }
}

impl ConsumerContext for Listener {}
