//! The event log on Apache Kafka: the backend of [`EventLog`] at scale.
//!
//! A topic here is a topic there, a partition a partition, an offset an offset (`shift` says where not). Markers are records without key and value, with the
//! header `tidemark-marker: N`. Events may come from any producer; ours is one among them.
//!
//! Follow an append: [`KafkaLog`] makes sure that the partition exists (`cluster`), and hands the records to the one idempotent
//! producer (`append`). Follow a read: `read` finds the `cursor` that is where the reader wants to go on, in one of a few
//! consumers (`lanes`), and asks for the partition's end when nothing comes (`cluster`, `ends`). `topics` creates topics
//! and refuses those whose settings would break a guarantee. [`Membership`] shares partitions among processes; nothing
//! here relies on it. What librdkafka says by itself is heard by `listener`.
//!
//! What must hold:
//! - an append returns after every replica in sync has its records (`acks=all`, idempotence);
//! - only committed records are read, and a read that returns nothing was at the end at a moment after it began;
//! - no offset is passed over because it could not be had: `auto.offset.reset=error`;
//! - the append time is Kafka's (`LogAppendTime`), never a producer's.
//!
//! Append times come from the brokers' clocks: they do not decrease within a partition unless its leadership moves to a broker whose
//! clock is behind. While somebody has a transaction open in a partition, what others append there is acknowledged and kept, but
//! can be read only when that transaction has ended.

mod append;
mod cluster;
mod cursor;
mod ends;
mod lanes;
mod listener;
mod membership;
mod options;
mod queue;
mod read;
mod shift;
mod topics;

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use views::{Offset, TopicPartition};

use self::append::Appender;
use self::cluster::Cluster;
use self::ends::KnownEnds;
use self::lanes::Lanes;
use self::listener::Listener;
pub use self::membership::{Assigned, Membership};
pub use self::options::KafkaOptions;
use self::read::Readers;
use self::shift::{Shift, Shifts};
use self::topics::{Admin, Specs};
use crate::beginning::{Beginning, Beginnings, Imported};
use crate::error::{LogError, Result};
use crate::log::{EventLog, NewRecord, ReadLimit, Record, TopicSpec};

/// The header that makes a record without key and value a marker. Its value is the number in decimal.
const MARKER: &str = "tidemark-marker";
/// How often librdkafka is asked what it has to say.
const SERVE_EVERY: Duration = Duration::from_millis(100);
/// How often idle cursors are looked at.
const LET_GO_EVERY: Duration = Duration::from_secs(5);

/// The event log on Kafka. Dropping it takes a moment: connections are closed.
pub struct KafkaLog {
    parts: Arc<Parts>,
}

/// What the log is made of.
struct Parts {
    options: KafkaOptions,
    listener: Listener,
    cluster: Cluster,
    ends: KnownEnds,
    appender: Appender,
    readers: Readers,
    /// Of the topic in which the log keeps what it knows of the others. Little comes there, so a fetch waits at the broker for as long as it
    /// may: whoever begins to read by the same connection would wait as long.
    specs_readers: Readers,
    admin: Admin,
    specs: tokio::sync::Mutex<Specs>,
    shifts: Shifts,
}

impl KafkaLog {
    /// Connects to Kafka, within seconds or not at all.
    ///
    /// # Errors
    ///
    /// `Invalid` for settings that cannot be; `Unavailable` when no broker answers, with the reason in one line.
    pub async fn connect(options: KafkaOptions) -> Result<Self> {
        options.check()?;
        let listener = Listener::default();
        let parts = Arc::new(Parts {
            cluster: Cluster::connect(&options, &listener).await?,
            ends: KnownEnds::default(),
            appender: Appender::new(&options, &listener)?,
            readers: Readers::new(Lanes::new(&options, &listener)),
            specs_readers: Readers::new(Lanes::new(&options, &listener)),
            admin: Admin::default(),
            specs: tokio::sync::Mutex::default(),
            shifts: Shifts::default(),
            options,
            listener,
        });
        let served = Arc::downgrade(&parts);
        let thread = std::thread::Builder::new().name("kafka".to_owned()).spawn(move || serve(&served));
        thread.map_err(|error| LogError::unavailable("connect to Kafka", error))?;
        Ok(Self { parts })
    }
}

/// Serves what librdkafka has to say, and lets go of what is not used, as long as there is a log.
fn serve(parts: &Weak<Parts>) {
    let mut looked = Instant::now();
    while let Some(parts) = parts.upgrade() {
        parts.cluster.serve();
        parts.readers.serve();
        parts.specs_readers.serve();
        if looked.elapsed() >= LET_GO_EVERY {
            parts.readers.let_go();
            parts.specs_readers.let_go();
            looked = Instant::now();
        }
        drop(parts);
        std::thread::sleep(SERVE_EVERY);
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.parts.create_topic(topic).await
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>> {
        self.parts.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<NewRecord>) -> Result<Range<Offset>> {
        let Parts { cluster, ends, appender, .. } = &*self.parts;
        cluster.check(to).await?;
        let shift = self.parts.shift(to).await?;
        if records.is_empty() {
            let end = ends.kafka(cluster, to, Instant::now()).await?.end;
            return shift.offsets(to, &(end..end));
        }
        let outcome = appender.append(cluster, to, records).await;
        match &outcome {
            Ok(offsets) => ends.appended(to, offsets.end),
            Err(LogError::NotFound(_)) => cluster.forget(&to.topic),
            Err(_) => {}
        }
        shift.offsets(to, &outcome?)
    }

    async fn read(&self, of: &TopicPartition, from: Offset, limit: ReadLimit) -> Result<Vec<Record>> {
        let Parts { cluster, ends, readers, .. } = &*self.parts;
        cluster.check(of).await?;
        if limit.records == 0 {
            return Ok(Vec::new());
        }
        let shift = self.parts.shift(of).await?;
        let first = shift.first;
        let from = shift.to_kafka(from).ok_or_else(|| {
            LogError::Invalid(format!(
                "{of}: offset {from} is not in the log, which begins at {first}, after imported events"
            ))
        })?;
        let records = readers.read(cluster, ends, of, from, limit).await.map_err(|error| shift.explain(error))?;
        shift.records(of, records)
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Range<Offset>>> {
        let bounds = self.parts.ends.bounds(&self.parts.cluster, topic).await?;
        let topic: Arc<str> = topic.into();
        let mut shifted = Vec::with_capacity(bounds.len());
        for (partition, kept) in (0u32..).zip(&bounds) {
            let of = TopicPartition { topic: topic.clone(), partition };
            shifted.push(self.parts.shift(&of).await?.offsets(&of, kept)?);
        }
        Ok(shifted)
    }

    async fn trim(&self, of: &TopicPartition, before: Offset) -> Result<()> {
        self.parts.cluster.check(of).await?;
        // Nothing in Kafka comes before the log.
        let Some(before) = self.parts.shift(of).await?.to_kafka(before) else { return Ok(()) };
        self.parts.trim(of, before).await
    }
}

#[async_trait]
impl Beginnings for KafkaLog {
    async fn begin_topic(&self, topic: &TopicSpec, imported: &[Imported]) -> Result<Beginning> {
        self.parts.begin_topic(topic, imported).await
    }

    async fn beginning(&self, topic: &str) -> Result<Option<Beginning>> {
        self.parts.beginning(topic).await
    }
}

impl Parts {
    /// How offsets of a partition are shifted.
    async fn shift(&self, of: &TopicPartition) -> Result<Shift> {
        if let Some(known) = self.shifts.get(of) {
            return Ok(known);
        }
        // Somebody may have created the topic since; until somebody does, it is as Kafka has it.
        self.read_specs().await?;
        Ok(self.shifts.get(of).unwrap_or_default())
    }
}
