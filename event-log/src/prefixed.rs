//! Several applications on one cluster: the names of topics, and of their subjects in the registry, with something put in
//! front. Layers know topics by the names that the application gives them.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use views::avro::Record as AvroRecord;
use views::{Offset, TopicPartition};

use crate::beginning::{Beginning, Beginnings, Imported};
use crate::error::{LogError, Result};
use crate::log::{EventLog, NewRecord, ReadLimit, Record, TopicSpec};
use crate::registry::{SchemaRegistry, SubjectNameStrategy};

/// A log in which every topic's name begins with the same.
pub struct PrefixedTopics<L: ?Sized> {
    log: Arc<L>,
    prefix: String,
}

impl<L: ?Sized> PrefixedTopics<L> {
    /// The topics of `log` whose names begin with `prefix`, without it.
    pub fn new(log: Arc<L>, prefix: impl Into<String>) -> Self {
        Self { log, prefix: prefix.into() }
    }

    fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    fn place(&self, partition: &TopicPartition) -> TopicPartition {
        TopicPartition::new(self.name(&partition.topic), partition.partition)
    }
}

#[async_trait]
impl<L: EventLog + ?Sized> EventLog for PrefixedTopics<L> {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.log.create_topic(&TopicSpec { name: self.name(&topic.name), ..topic.clone() }).await
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        let own =
            |topic: TopicSpec| Some(TopicSpec { name: topic.name.strip_prefix(&self.prefix)?.to_owned(), ..topic });
        Ok(self.log.topics().await?.into_iter().filter_map(own).collect())
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        self.log.append(&self.place(to), records).await
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        self.log.read(&self.place(of), from, limit).await
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        self.log.bounds(&self.name(topic)).await
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        self.log.trim(&self.place(of), before).await
    }
}

#[async_trait]
impl<L: Beginnings + ?Sized> Beginnings for PrefixedTopics<L> {
    async fn begin_topic(&self, topic: &TopicSpec, imported: &[Imported]) -> Result<Beginning> {
        let topic = TopicSpec { name: self.name(&topic.name), ..topic.clone() };
        self.log.begin_topic(&topic, imported).await
    }

    async fn beginning(&self, topic: &str) -> Result<Option<Beginning>> {
        self.log.beginning(&self.name(topic)).await
    }
}

/// A registry in which subjects are named after another rule than `{topic}-value`, which is how they are asked for.
pub struct NamedSubjects {
    registry: Arc<dyn SchemaRegistry>,
    strategy: SubjectNameStrategy,
    prefix: String,
}

impl NamedSubjects {
    /// Subjects of topics whose names begin with `prefix` there, named by `strategy`.
    pub fn new(registry: Arc<dyn SchemaRegistry>, strategy: SubjectNameStrategy, prefix: impl Into<String>) -> Self {
        Self { registry, strategy, prefix: prefix.into() }
    }

    /// The subject's name there.
    ///
    /// # Errors
    ///
    /// `Invalid` when the schema is no record's.
    pub fn name(&self, subject: &str, schema: &str) -> Result<String> {
        let topic = format!("{}{}", self.prefix, subject.strip_suffix("-value").unwrap_or(subject));
        let record = match self.strategy {
            SubjectNameStrategy::TopicName => String::new(),
            _ => {
                AvroRecord::parse(schema)
                    .map_err(|error| LogError::Invalid(format!("schema for {subject}: {error}")))?
                    .name
                    .full
            }
        };
        Ok(self.strategy.subject(&topic, &record))
    }
}

#[async_trait]
impl SchemaRegistry for NamedSubjects {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        self.registry.register(&self.name(subject, schema)?, schema).await
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>> {
        self.registry.schema(id).await
    }

    /// A subject that is named outright is not named by a rule.
    async fn latest(&self, subject: &str) -> Result<(u32, Arc<str>)> {
        self.registry.latest(subject).await
    }

    async fn check(&self, subject: &str, schema: &str) -> Result<()> {
        self.registry.check(&self.name(subject, schema)?, schema).await
    }
}
