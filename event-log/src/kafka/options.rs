//! What an operator sets, what Tidemark sets, and what must stay as it is.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use crate::error::{LogError, Result};

/// How to reach Kafka.
///
/// `properties` are passed to librdkafka as they are, for TLS, SASL and tuning. To a cluster that wants both:
///
/// ```toml
/// [log]
/// kind = "kafka"
/// brokers = "kafka-1:9093,kafka-2:9093"
/// [log.kafka]
/// "security.protocol" = "SASL_SSL"
/// "ssl.ca.location" = "/etc/tidemark/ca.pem"
/// "sasl.mechanism" = "SCRAM-SHA-512"
/// "sasl.username" = "tidemark"
/// "sasl.password" = "…"
/// ```
///
/// Client certificates are `ssl.certificate.location` and `ssl.key.location`. Properties that would take away a guarantee
/// (say `acks=1`) are refused.
#[derive(Clone, Default)]
pub struct KafkaOptions {
    /// `log.brokers`: where to begin, `host:port` with commas between.
    pub brokers: String,
    /// `log.kafka`: properties of librdkafka.
    pub properties: BTreeMap<String, String>,
    /// How many replicas a topic gets that is created here; absent: as many as there are brokers, at most three.
    pub replication: Option<i32>,
}

/// Shows names but no values: there are passwords among them.
impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("brokers", &self.brokers)
            .field("properties", &self.properties.keys())
            .field("replication", &self.replication)
            .finish()
    }
}

/// The longest record that is taken, key and value together. It is the embedded log's, so that both take the same events.
pub(super) const LONGEST_RECORD: usize = 64 << 20;
/// The largest batch that a topic takes: one record of that length with what Kafka puts around it.
pub(super) const LARGEST_BATCH: usize = LONGEST_RECORD + (1 << 20);
/// After this long an append that was not acknowledged has failed. `message.timeout.ms` replaces it.
const MESSAGE_TIMEOUT_MS: &str = "30000";

/// Properties that guarantees rest on: name, the values it may have, and why.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("bootstrap.servers", &[], "brokers are set by log.brokers"),
    ("metadata.broker.list", &[], "brokers are set by log.brokers"),
    ("enable.idempotence", &["true"], "without it a retry could append a record twice"),
    ("acks", &["all", "-1"], "acknowledged means that every replica in sync has it"),
    ("request.required.acks", &["all", "-1"], "acknowledged means that every replica in sync has it"),
    ("transactional.id", &[], "appends are not transactions"),
    ("delivery.report.only.error", &["false"], "an append returns the offsets it got"),
    ("isolation.level", &["read_committed"], "a record that is read must never vanish"),
    ("check.crcs", &["true"], "damaged batches must be noticed"),
    ("enable.auto.commit", &["false"], "Tidemark's own positions are in the view store"),
    ("enable.auto.offset.store", &["false"], "Tidemark's own positions are in the view store"),
    ("auto.offset.reset", &["error"], "no record may be skipped silently"),
    ("auto.commit.enable", &["false"], "Tidemark's own positions are in the view store"),
    ("enable.partition.eof", &["true"], "readers must know when they are at the end"),
    ("allow.auto.create.topics", &["false"], "topics are created with the settings that the guarantees need"),
    ("partition.assignment.strategy", &["cooperative-sticky"], "processes hand partitions over one by one"),
];

/// What a client is for. Each has settings of its own; `log.kafka` overrides them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role<'a> {
    /// Asks about topics and ends, creates and trims.
    Asker,
    /// Appends.
    Producer,
    /// Reads records.
    Lane(Buffers),
    /// Shares partitions with the other members of a group.
    Member(&'a str),
}

/// How much a reader fetches ahead, for each partition it reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers {
    /// It fetches no more while it has this much.
    pub kilobytes: usize,
    /// It fetches no more while it has this many records.
    pub records: usize,
    /// The bytes of one fetch, compressed as they are in the log.
    pub fetch_bytes: usize,
}

impl KafkaOptions {
    /// Whether nothing in them would take away a guarantee.
    pub(super) fn check(&self) -> Result<()> {
        if self.brokers.trim().is_empty() {
            return Err(LogError::Invalid(
                "log.brokers is empty: it must name at least one broker, host:port".to_owned(),
            ));
        }
        if let Some(replication) = self.replication
            && !(1..=i32::from(i16::MAX)).contains(&replication)
        {
            return Err(LogError::Invalid(format!("the replication of topics is {replication}: it must be 1 or more")));
        }
        for (name, value) in &self.properties {
            let fixed = FIXED.iter().find(|(fixed, ..)| name.eq_ignore_ascii_case(fixed));
            if let Some((_, allowed, why)) = fixed
                && !allowed.iter().any(|allowed| value.trim().eq_ignore_ascii_case(allowed))
            {
                return Err(LogError::Invalid(format!("log.kafka: {name} cannot be set to {value:?}: {why}")));
            }
        }
        Ok(())
    }

    /// The settings of a client.
    pub(super) fn config(&self, role: Role<'_>) -> ClientConfig {
        let mut config = ClientConfig::new();
        let mut set = |name: &str, value: &dyn fmt::Display| _ = config.set(name, value.to_string());
        set("bootstrap.servers", &self.brokers);
        set("client.id", &"tidemark");
        // Back soon after a broker was restarted. Half of it is also how long a new client waits when the address that it was given turns
        // out to be a broker's own: it begins again with that broker.
        set("reconnect.backoff.ms", &20);
        set("reconnect.backoff.max.ms", &1000);
        set("socket.keepalive.enable", &true);
        set("socket.nagle.disable", &true);
        match role {
            Role::Asker => {
                // Ends are those of committed records.
                set("isolation.level", &"read_committed");
                set("allow.auto.create.topics", &false);
            }
            Role::Producer => {
                set("enable.idempotence", &true);
                set("acks", &"all");
                set("message.timeout.ms", &MESSAGE_TIMEOUT_MS);
                set("message.max.bytes", &LARGEST_BATCH);
                set("compression.codec", &"zstd");
                set("compression.level", &3);
                // Somebody waits for the acknowledgement. Under load batches grow by themselves: what arrives while the requests
                // allowed are under way goes into the next batch. At a low rate this is what makes batches of several events,
                // which compress; as long as Kafka's own producers wait since 4.0.
                set("linger.ms", &5);
                set("max.in.flight.requests.per.connection", &2);
                set("batch.size", &(1 << 20));
                set("batch.num.messages", &100_000);
                // What waits is bounded by the appends that are let in, see `append`.
                set("queue.buffering.max.messages", &0);
                set("queue.buffering.max.kbytes", &(1 << 20));
            }
            Role::Lane(buffers) => {
                // librdkafka wants a name of a group, although nothing is committed and nobody joins.
                set("group.id", &"tidemark-readers");
                set("isolation.level", &"read_committed");
                set("check.crcs", &true);
                set("enable.auto.commit", &false);
                set("enable.auto.offset.store", &false);
                set("auto.offset.reset", &"error");
                set("enable.partition.eof", &true);
                set("allow.auto.create.topics", &false);
                // A reader that jumps waits for the fetch that is under way: that is how long the broker may hold it.
                set("fetch.wait.max.ms", &100);
                set("fetch.error.backoff.ms", &50);
                // Fetch on as soon as there is room.
                set("fetch.queue.backoff.ms", &2);
                set("queued.max.messages.kbytes", &buffers.kilobytes);
                set("queued.min.messages", &buffers.records);
                set("fetch.message.max.bytes", &buffers.fetch_bytes);
                set("fetch.max.bytes", &(16 << 20));
                set("receive.message.max.bytes", &(LARGEST_BATCH + (16 << 20) + 512));
            }
            Role::Member(group) => {
                set("group.id", &group);
                set("partition.assignment.strategy", &"cooperative-sticky");
                set("enable.auto.commit", &false);
                set("enable.auto.offset.store", &false);
                set("allow.auto.create.topics", &false);
                // A member reads nothing, so it does not matter where.
                set("auto.offset.reset", &"latest");
                set("session.timeout.ms", &10_000);
                set("heartbeat.interval.ms", &1000);
                // How soon added partitions are shared.
                set("topic.metadata.refresh.interval.ms", &5000);
                // It is told to fetch nothing; what slips through must be little.
                set("queued.min.messages", &1);
                set("queued.max.messages.kbytes", &1);
                set("fetch.message.max.bytes", &1024);
            }
        }
        for (name, value) in &self.properties {
            let own = matches!(role, Role::Member(_)) && matches!(name.as_str(), "group.id" | "auto.offset.reset");
            if !own {
                config.set(name, value);
            }
        }
        config
    }
}

/// The error of a client that cannot be made: always a setting.
pub(super) fn refused(error: KafkaError) -> LogError {
    LogError::Invalid(match error {
        KafkaError::ClientConfig(_, description, name, _) => format!("log.kafka: {name}: {description}"),
        KafkaError::ClientCreation(description) => format!("log.kafka: {description}"),
        other => format!("log.kafka: {other}"),
    })
}
