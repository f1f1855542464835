//! Topics: created with the settings that the guarantees need, and refused when they have others.
//!
//! Kafka has no place for a topic's `segment_records`, and every process must see the same number for ever. So it is a record of
//! the internal topic `_tidemark_topics`, under the topic's name. The first record of a name counts: whoever
//! appends one reads to the end afterwards and takes what came first. The same record holds a topic's beginning, and where each
//! partition was in Kafka when it was noted (see [`super::shift`]).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as At, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use views::{Offset, TopicPartition};

use super::cluster::TopicNow;
use super::lanes::position;
use super::listener::Listener;
use super::options::{LARGEST_BATCH, Role, refused};
use super::shift::Shift;
use super::{KafkaOptions, Parts};
use crate::beginning::{self, Beginning, Imported};
use crate::error::{LogError, Result};
use crate::log::{Content, ReadLimit, TopicSpec};

/// The internal topic.
const SPECS: &str = "_tidemark_topics";
/// A topic whose records are gone sooner is refused: they would be gone before they are archived.
const SHORTEST_RETENTION_MS: i64 = 3_600_000;
/// How long Kafka may take to create and to delete.
const ADMIN: Duration = Duration::from_secs(15);

/// The value of a record in the internal topic. One with a beginning looks other than those without: a version that knows only these
/// must not take it for one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum SpecRecord {
    Begun { begun: Begun },
    Plain { segment_records: u64 },
}

/// A topic with a beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begun {
    segment_records: u64,
    append_time: i64,
    partitions: Vec<BegunPartition>,
}

/// What stands before one partition of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BegunPartition {
    events: u64,
    crc32: u32,
    /// The first offset that Kafka had then: the log begins with it.
    kafka: Offset,
}

impl SpecRecord {
    fn segment_records(&self) -> u64 {
        match self {
            Self::Begun { begun } => begun.segment_records,
            Self::Plain { segment_records } => *segment_records,
        }
    }

    fn beginning(&self) -> Option<Beginning> {
        let Self::Begun { begun } = self else { return None };
        let imported = |it: &BegunPartition| Imported { events: it.events, crc32: it.crc32 };
        Some(Beginning { append_time: begun.append_time, partitions: begun.partitions.iter().map(imported).collect() })
    }

    fn shifts(&self) -> Vec<Shift> {
        let Self::Begun { begun } = self else { return Vec::new() };
        let shift = |it: &BegunPartition| {
            let first = Imported { events: it.events, crc32: it.crc32 }.end();
            let not_before = if first > 0 { begun.append_time } else { 0 };
            Shift { first, kafka: it.kafka, not_before }
        };
        begun.partitions.iter().map(shift).collect()
    }
}

/// What has been read of the internal topic.
#[derive(Debug, Default)]
pub(super) struct Specs {
    topics: BTreeMap<String, SpecRecord>,
    next: Offset,
}

/// The client that changes things, made when it is first needed.
#[derive(Default)]
pub(super) struct Admin(OnceCell<AdminClient<Listener>>);

impl Admin {
    async fn client(&self, options: &KafkaOptions, listener: &Listener) -> Result<&AdminClient<Listener>> {
        let new = || async { AdminClient::from_config_and_context(&options.config(Role::Asker), listener.clone()) };
        self.0.get_or_try_init(new).await.map_err(refused)
    }
}

impl Parts {
    /// See [`crate::EventLog::create_topic`].
    pub async fn create_topic(&self, wanted: &TopicSpec) -> Result<()> {
        wanted.check()?;
        if wanted.name == SPECS || wanted.name.starts_with("__") {
            return Err(LogError::Invalid(format!("topic name {:?}: it is kept for Kafka and Tidemark", wanted.name)));
        }
        let found = self.cluster.topic(&wanted.name).await?;
        // First what may be refused, so that a refused change changes nothing.
        let allowed = async {
            match &found {
                Some(now) => self.check_settings(now).await,
                None => Ok(()),
            }
        };
        let ((), specs) = tokio::try_join!(allowed, self.read_specs())?;
        let known = specs.get(&wanted.name).map(SpecRecord::segment_records);
        if let Some(now) = &found {
            let segment_records = known.unwrap_or(wanted.segment_records);
            now.spec(segment_records).check_growth(wanted)?;
        }
        let segment_records = match known {
            Some(known) => known,
            None => {
                let plain = SpecRecord::Plain { segment_records: wanted.segment_records };
                self.note_spec(&wanted.name, &plain).await?.segment_records()
            }
        };
        if segment_records != wanted.segment_records {
            TopicSpec { segment_records, ..wanted.clone() }.check_growth(wanted)?;
        }
        self.make(found, wanted).await
    }

    /// Makes a topic whose record counts be there, with its partitions.
    async fn make(&self, found: Option<TopicNow>, wanted: &TopicSpec) -> Result<()> {
        match found {
            None => self.create(&wanted.name, wanted.partitions).await?,
            Some(now) if now.partitions < wanted.partitions => self.add_partitions(wanted).await?,
            Some(_) => return Ok(()),
        }
        self.wait_until_ready(wanted).await?;
        // Whoever looks for the new partitions now must find them.
        self.cluster.changed(&wanted.name).await;
        Ok(())
    }

    /// See [`crate::Beginnings::begin_topic`].
    pub async fn begin_topic(&self, wanted: &TopicSpec, imported: &[Imported]) -> Result<Beginning> {
        beginning::check(wanted, imported)?;
        if wanted.name == SPECS || wanted.name.starts_with("__") {
            return Err(LogError::Invalid(format!("topic name {:?}: it is kept for Kafka and Tidemark", wanted.name)));
        }
        let found = self.cluster.topic(&wanted.name).await?;
        if let Some(now) = &found {
            self.check_settings(now).await?;
        }
        let name = &wanted.name;
        let known = match self.read_specs().await?.get(name) {
            Some(known) => known.clone(),
            None => {
                if let Some(now) = &found {
                    now.spec(wanted.segment_records).check_growth(wanted)?;
                }
                let begun = self.begun(found.as_ref(), wanted, imported).await?;
                self.note_spec(name, &SpecRecord::Begun { begun }).await?
            }
        };
        let noted = known.beginning().ok_or_else(|| beginning::in_use(name))?;
        TopicSpec { segment_records: known.segment_records(), ..wanted.clone() }.check_growth(wanted)?;
        noted.check_same(name, imported)?;
        self.make(found, wanted).await?;
        Ok(noted)
    }

    /// What a topic begins with: where it is in Kafka now, and an append time that none of its records is before.
    async fn begun(&self, found: Option<&TopicNow>, wanted: &TopicSpec, imported: &[Imported]) -> Result<Begun> {
        let mut append_time = chrono::Utc::now().timestamp_micros();
        let mut partitions = Vec::with_capacity(imported.len());
        for (number, Imported { events, crc32 }) in (0..).zip(imported) {
            let mut kafka = 0;
            if found.is_some_and(|now| number < now.partitions) {
                let of = TopicPartition::new(wanted.name.as_str(), number);
                kafka = self.ends.kafka(&self.cluster, &of, Instant::now()).await?.start;
                let limit = ReadLimit::records(1);
                let first = self.readers.read(&self.cluster, &self.ends, &of, kafka, limit).await?;
                append_time = first.iter().map(|record| record.append_time).fold(append_time, i64::min);
            }
            partitions.push(BegunPartition { events: *events, crc32: *crc32, kafka });
        }
        Ok(Begun { segment_records: wanted.segment_records, append_time, partitions })
    }

    /// See [`crate::Beginnings::beginning`].
    pub async fn beginning(&self, topic: &str) -> Result<Option<Beginning>> {
        Ok(self.read_specs().await?.get(topic).and_then(SpecRecord::beginning))
    }

    /// See [`crate::EventLog::topics`].
    pub async fn topics(&self) -> Result<Vec<TopicSpec>> {
        let specs = self.read_specs().await?;
        let (there, _) = self.cluster.topics().await?;
        let spec = |now: &TopicNow| specs.get(&now.name).map(|spec| now.spec(spec.segment_records()));
        let mut topics: Vec<TopicSpec> = there.iter().filter_map(spec).collect();
        topics.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(topics)
    }

    /// See [`crate::EventLog::trim`]. The partition exists.
    pub async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        let kept = self.ends.kafka(&self.cluster, of, Instant::now()).await?;
        let before = before.min(kept.end);
        if before <= kept.start {
            return Ok(());
        }
        let context = || format!("trim {of}");
        let failed = |error: KafkaError| self.listener.error(context(), error);
        let mut asked = TopicPartitionList::with_capacity(1);
        asked
            .add_partition_offset(&of.topic, of.partition as i32, At::Offset(position(of, before)?))
            .map_err(failed)?;
        let admin = self.admin.client(&self.options, &self.listener).await?;
        let answer = admin.delete_records(&asked, &admin_options()).await.map_err(failed)?;
        for element in answer.elements() {
            if let Err(error) = element.error() {
                return match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::PolicyViolation) => Err(LogError::Invalid(format!(
                        "{}: Kafka does not let go of records because cleanup.policy is without `delete`: set \
                         cleanup.policy=delete on topic {}",
                        context(),
                        of.topic
                    ))),
                    _ => Err(failed(error)),
                };
            }
            if let At::Offset(start) = element.offset() {
                self.ends.starts(of, start.unsigned_abs());
            }
        }
        Ok(())
    }

    /// What the internal topic says, read to its end.
    pub(super) async fn read_specs(&self) -> Result<BTreeMap<String, SpecRecord>> {
        let place = TopicPartition::new(SPECS, 0);
        let mut specs = self.specs.lock().await;
        match self.cluster.check(&place).await {
            // Nobody has created a topic yet.
            Err(LogError::NotFound(_)) => return Ok(BTreeMap::new()),
            outcome => outcome?,
        }
        loop {
            let limit = ReadLimit::records(10_000);
            let records = self.specs_readers.read(&self.cluster, &self.ends, &place, specs.next, limit).await?;
            let Some(last) = records.last() else { return Ok(specs.topics.clone()) };
            specs.next = last.offset + 1;
            for record in records {
                let Content::Event { key: Some(key), value } = record.content else { continue };
                let spec = std::str::from_utf8(&key).ok().zip(serde_json::from_slice::<SpecRecord>(&value).ok());
                let Some((name, spec)) = spec.filter(|(_, spec)| spec.segment_records() > 0) else {
                    return Err(LogError::Damaged(format!(
                        "{place}: the record at offset {} says nothing",
                        record.offset
                    )));
                };
                let counts = specs.topics.entry(name.to_owned()).or_insert(spec);
                self.shifts.learn(name, counts.shifts());
            }
        }
    }

    /// Notes what a topic is, and returns what counts.
    async fn note_spec(&self, topic: &str, spec: &SpecRecord) -> Result<SpecRecord> {
        if self.cluster.topic(SPECS).await?.is_none() {
            self.create(SPECS, 1).await?;
            let specs = TopicSpec { name: SPECS.to_owned(), partitions: 1, segment_records: 1 };
            self.wait_until_ready(&specs).await?;
        }
        let value = serde_json::to_vec(spec).map_err(|error| LogError::Invalid(error.to_string()))?;
        let record = Content::Event { key: Some(Bytes::from(topic.to_owned())), value: value.into() };
        self.appender.append(&self.cluster, &TopicPartition::new(SPECS, 0), vec![record]).await?;
        let noted = self.read_specs().await?.get(topic).cloned();
        noted.ok_or_else(|| LogError::unavailable(format!("create topic {topic}"), "its record is not there yet"))
    }

    async fn create(&self, name: &str, partitions: u32) -> Result<()> {
        let context = format!("create topic {name}");
        let (_, brokers) = self.cluster.topics().await?;
        let most = i32::try_from(brokers.clamp(1, 3)).unwrap_or(1);
        let replication = self.options.replication.unwrap_or(most);
        let in_sync = if replication >= 3 { "2" } else { "1" };
        let largest = LARGEST_BATCH.to_string();
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(replication))
            .set("message.timestamp.type", "LogAppendTime")
            .set("cleanup.policy", "delete")
            // Records are let go of by `trim`, once they are archived, and by nothing else.
            .set("retention.ms", "-1")
            .set("retention.bytes", "-1")
            .set("compression.type", "producer")
            .set("min.insync.replicas", in_sync)
            .set("unclean.leader.election.enable", "false")
            .set("max.message.bytes", &largest);
        let admin = self.admin.client(&self.options, &self.listener).await?;
        let outcome = admin.create_topics([&new], &admin_options()).await;
        let outcome = outcome.map_err(|error| self.listener.error(context.as_str(), error))?;
        use RDKafkaErrorCode as Code;
        match outcome.into_iter().find_map(std::result::Result::err) {
            // Somebody was quicker, and it is ours all the same: whoever it was began with the settings above, or is met by
            // the next call.
            None | Some((_, Code::TopicAlreadyExists)) => Ok(()),
            Some((_, code @ Code::InvalidTopic)) => Err(LogError::Invalid(format!(
                "{context}: {code}: Kafka does not tell `.` from `_`, perhaps a topic of almost that name exists"
            ))),
            Some((_, code @ (Code::InvalidReplicationFactor | Code::PolicyViolation | Code::InvalidConfig))) => {
                Err(LogError::Invalid(format!("{context} with {replication} replicas: {code}")))
            }
            Some((_, code)) => Err(self.listener.error(context, KafkaError::Global(code))),
        }
    }

    async fn add_partitions(&self, wanted: &TopicSpec) -> Result<()> {
        let context = format!("add partitions to topic {}", wanted.name);
        let admin = self.admin.client(&self.options, &self.listener).await?;
        let new = NewPartitions::new(&wanted.name, wanted.partitions as usize);
        let outcome = admin.create_partitions([&new], &admin_options()).await;
        let outcome = outcome.map_err(|error| self.listener.error(context.as_str(), error))?;
        match outcome.into_iter().find_map(std::result::Result::err) {
            None => Ok(()),
            // Somebody may have added them meanwhile.
            Some((_, code)) => match self.cluster.topic(&wanted.name).await? {
                Some(now) if now.partitions >= wanted.partitions => Ok(()),
                _ => Err(self.listener.error(context, KafkaError::Global(code))),
            },
        }
    }

    /// Waits until the brokers know the topic and every partition has a leader.
    async fn wait_until_ready(&self, wanted: &TopicSpec) -> Result<()> {
        let deadline = Instant::now() + ADMIN;
        loop {
            let now = self.cluster.topic(&wanted.name).await?;
            if now.is_some_and(|now| now.ready && now.partitions >= wanted.partitions) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why = "its partitions have no leaders yet";
                return Err(LogError::unavailable(format!("create topic {}", wanted.name), why));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Refuses a topic whose settings would break a guarantee, and warns of those that may.
    async fn check_settings(&self, topic: &TopicNow) -> Result<()> {
        let name = topic.name.as_str();
        let context = || format!("read the settings of topic {name}");
        let failed = |error: KafkaError| self.listener.error(context(), error);
        let admin = self.admin.client(&self.options, &self.listener).await?;
        let asked = [ResourceSpecifier::Topic(name)];
        let answers = admin.describe_configs(&asked, &admin_options()).await.map_err(failed)?;
        for answer in answers {
            check(topic, &Settings(answer.map_err(|code| failed(KafkaError::Global(code)))?))?;
        }
        Ok(())
    }
}

impl TopicNow {
    fn spec(&self, segment_records: u64) -> TopicSpec {
        TopicSpec { name: self.name.clone(), partitions: self.partitions, segment_records }
    }
}

struct Settings(ConfigResource);

impl Settings {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.value.as_deref()
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }
}

fn check(topic: &TopicNow, settings: &Settings) -> Result<()> {
    let name = topic.name.as_str();
    let refuse = |setting: &str, value: &str, why: &str, remedy: &str| {
        Err(LogError::Invalid(format!(
            "topic {name}: {setting} is {value}, {why}: set {setting}={remedy} on the topic"
        )))
    };
    let warn = |setting: &str, value: &str, why: &str| tracing::warn!(topic = name, setting, value, "{why}");

    if let Some(value) = settings.get("message.timestamp.type").filter(|value| *value != "LogAppendTime") {
        let why = "so that records carry the producers' clocks and not the log's";
        return refuse("message.timestamp.type", value, why, "LogAppendTime");
    }
    if let Some(value) = settings.get("cleanup.policy").filter(|value| value.contains("compact")) {
        return refuse("cleanup.policy", value, "so that Kafka deletes events that have a successor", "delete");
    }
    let deletes = settings.get("cleanup.policy").is_none_or(|value| value.contains("delete"));
    if let Some(retention) = settings.number("retention.ms").filter(|retention| deletes && *retention >= 0) {
        let value = retention.to_string();
        if retention < SHORTEST_RETENTION_MS {
            return refuse("retention.ms", &value, "so that events are gone before they are archived", "-1");
        }
        warn("retention.ms", &value, "events are lost if the archiver is down longer than the topic keeps them");
    }
    if let Some(retention) = settings.number("retention.bytes").filter(|retention| deletes && *retention >= 0) {
        let value = retention.to_string();
        warn("retention.bytes", &value, "events are lost if the archiver is behind by more than the topic keeps");
    }
    if let Some(in_sync) = settings.number("min.insync.replicas").filter(|it| *it < 2 && topic.replicas >= 3) {
        let value = in_sync.to_string();
        warn("min.insync.replicas", &value, "an acknowledged event may be on one broker only; 2 is safe");
    }
    if let Some(value) = settings.get("unclean.leader.election.enable").filter(|value| *value == "true") {
        warn("unclean.leader.election.enable", value, "acknowledged events may be lost when brokers fail");
    }
    Ok(())
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ADMIN)).request_timeout(Some(ADMIN))
}
