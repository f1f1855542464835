//! Sharing partitions among processes, by Kafka's consumer groups.
//!
//! A member reads nothing: it is told which partitions are its own, and they stay paused. To own a partition is a hint that saves
//! doing work twice. Two may own one for a moment, or nobody; whoever acts on it must be right either way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset as At, TopicPartitionList};
use tokio::sync::watch;
use views::{Offset, TopicPartition};

use super::KafkaLog;
use super::lanes::position;
use super::listener::Listener;
use super::options::{Role, refused};
use super::shift::Shifts;
use crate::error::{LogError, Result};

/// How long a member may take to notice that it is to leave.
const POLL: Duration = Duration::from_millis(100);

/// What a group has told a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// How often: 0 until it is told for the first time, which takes as long as the group waits for a member that died.
    pub times: u64,
    /// The partitions that are its own.
    pub partitions: BTreeSet<TopicPartition>,
}

/// A membership in a consumer group. Dropping it leaves the group too, a moment later.
pub struct Membership {
    consumer: Arc<BaseConsumer<Member>>,
    shifts: Shifts,
    assigned: watch::Receiver<Assigned>,
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Membership {
    /// Joins a group in the log's cluster whose members share the partitions of these topics. Returns at once: partitions come by and by,
    /// also those that are added later. Topics that do not exist yet count once they do. Call it within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// `Invalid` for settings that cannot be. Brokers that are away are no reason not to join.
    pub fn join(log: &KafkaLog, group: &str, topics: &[String]) -> Result<Self> {
        // Whoever shares partitions reads them.
        if let Some(topic) = topics.first() {
            log.parts.readers.warm(topic);
        }
        let (assigned, receiver) = watch::channel(Assigned::default());
        let member = Member { listener: Listener::default(), assigned };
        let config = log.parts.options.config(Role::Member(group));
        let consumer: BaseConsumer<Member> = BaseConsumer::from_config_and_context(&config, member).map_err(refused)?;
        let consumer = Arc::new(consumer);
        let failed = |error: KafkaError| LogError::unavailable(format!("join group {group}"), error);
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(failed)?;
        let leave = Arc::new(AtomicBool::new(false));
        let (polled, told) = (consumer.clone(), leave.clone());
        let thread = std::thread::Builder::new().name(format!("kafka group {group}")).spawn(move || {
            while !told.load(Ordering::Relaxed) {
                if let Some(Ok(record)) = polled.poll(POLL) {
                    // Fetched before the partition was paused: somebody else's business.
                    drop(record);
                }
            }
            // Leaves the group, if it is the last to let go.
            drop(polled);
        });
        let thread = thread.map_err(|error| LogError::unavailable(format!("join group {group}"), error))?;
        Ok(Self { consumer, shifts: log.parts.shifts.clone(), assigned: receiver, leave, thread: Some(thread) })
    }

    /// The partitions that are this member's own now.
    pub fn assigned(&self) -> watch::Receiver<Assigned> {
        self.assigned.clone()
    }

    /// Tells Kafka how far the group is, for its own tools. Returns at once; nothing relies on its success.
    pub fn commit(&self, of: &TopicPartition, next: Offset) {
        let mut place = TopicPartitionList::with_capacity(1);
        // Kafka's tools count as Kafka does; who is still in what was imported has all of it ahead.
        let shift = self.shifts.get(of).unwrap_or_default();
        let next = shift.to_kafka(next).unwrap_or(shift.kafka);
        let Ok(next) = position(of, next) else { return };
        let added = place.add_partition_offset(&of.topic, of.partition as i32, At::Offset(next));
        if let Err(error) = added.and_then(|()| self.consumer.commit(&place, CommitMode::Async)) {
            tracing::debug!(partition = %of, %error, "committing to the group");
        }
    }

    /// Leaves the group, so that the others have its partitions at once.
    pub async fn leave(mut self) {
        self.leave.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        let left = tokio::task::spawn_blocking(move || {
            if let Some(thread) = thread {
                // A thread that panicked polls no more either.
                let _ = thread.join();
            }
            drop(self);
        });
        if let Err(error) = left.await {
            tracing::warn!(%error, "leaving a group");
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
    }
}

/// Hears what is assigned and what is revoked.
struct Member {
    listener: Listener,
    assigned: watch::Sender<Assigned>,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.listener.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        ClientContext::error(&self.listener, error, reason);
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        // Given up before others can have it.
        if let Rebalance::Revoke(places) = rebalance {
            let gone = partitions(places);
            self.assigned.send_modify(|assigned| assigned.partitions.retain(|partition| !gone.contains(partition)));
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(places) = rebalance else { return };
        if let Err(error) = consumer.pause(places) {
            tracing::debug!(%error, "pausing assigned partitions");
        }
        self.assigned.send_modify(|assigned| {
            assigned.times += 1;
            assigned.partitions.append(&mut partitions(places));
        });
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "committing to the group");
        }
    }
}

fn partitions(places: &TopicPartitionList) -> BTreeSet<TopicPartition> {
    let place = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        let partition = u32::try_from(element.partition()).ok()?;
        Some(TopicPartition::new(element.topic(), partition))
    };
    places.elements().iter().filter_map(place).collect()
}
