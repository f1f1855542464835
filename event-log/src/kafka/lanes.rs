//! The consumers that fetch records, each holding many partitions but every partition at most once.
//!
//! A consumer of librdkafka has threads and connections of its own, so there are few. It asks a broker for more only when it has
//! unpacked what came before, so lanes go in pairs: one unpacks while the other waits. A partition that is read at several places at
//! once is in several lanes. Every further pair takes twice as many partitions with buffers half as large, so what is fetched ahead
//! grows with the logarithm of what is read, not with it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset as At, TopicPartitionList};
use tokio::sync::Notify;
use views::{Offset, TopicPartition};

use super::cluster::listen;
use super::cursor::Cursor;
use super::listener::Listener;
use super::options::{Buffers, KafkaOptions, Role, refused};
use super::queue::Queue;
use crate::error::{LogError, Result};

/// How many partitions the first lanes take, and what is fetched ahead for each.
const FIRST: usize = 4;
const FIRST_BUFFERS: Buffers = Buffers { kilobytes: 4096, records: 16_384, fetch_bytes: 512 << 10 };
/// How long a lane may look for a partition it has not heard of.
const LOOK: Duration = Duration::from_secs(5);
/// How often the buffers are made smaller.
const MOST_HALVINGS: usize = 5;

/// All lanes of a log.
pub(super) struct Lanes {
    options: KafkaOptions,
    listener: Listener,
    lanes: Mutex<Vec<Arc<Lane>>>,
}

/// One consumer.
pub(super) struct Lane {
    pub consumer: Arc<BaseConsumer<Listener>>,
    most: usize,
    partitions: Mutex<HashSet<TopicPartition>>,
}

impl Lanes {
    pub fn new(options: &KafkaOptions, listener: &Listener) -> Self {
        Self { options: options.clone(), listener: listener.clone(), lanes: Mutex::default() }
    }

    /// Begins to fetch a partition at an offset. `end` is where Kafka said that it ends, and `one_of` counts the cursors of the
    /// partition. Blocks.
    pub fn open(&self, of: &TopicPartition, at: Offset, end: Offset, one_of: Arc<()>) -> Result<Cursor> {
        let lane = self.lane_for(of)?;
        let taken = Taken { lane, of: of.clone() };
        let failed = |error| self.listener.error(format!("read {of}"), error);
        let consumer = &taken.lane.consumer;
        // librdkafka looks for partitions it has not heard of once a second: too late for somebody who waits.
        consumer.fetch_metadata(Some(&of.topic), LOOK).map_err(failed)?;
        // Before it is assigned: what is fetched goes into a queue of its own from the first record on.
        let filled = Arc::new(Notify::new());
        let queue = Queue::of(consumer, of, filled.clone());
        let queue = queue.ok_or_else(|| LogError::NotFound(format!("partition {of}")))?;
        let mut place = TopicPartitionList::with_capacity(1);
        place.add_partition_offset(&of.topic, of.partition as i32, At::Offset(position(of, at)?)).map_err(failed)?;
        consumer.incremental_assign(&place).map_err(failed)?;
        Ok(Cursor::new(taken, queue, filled, at, end, one_of))
    }

    /// Connects the first lanes before there is something to read: somebody will, and then need not wait for it. Blocks.
    pub fn warm(&self, topic: &str) {
        let first = {
            let mut lanes = self.lanes.lock();
            while lanes.len() < 2 {
                match Lane::new(&self.options, &self.listener, 0) {
                    Ok(lane) => lanes.push(Arc::new(lane)),
                    // Whoever reads is told.
                    Err(_) => return,
                }
            }
            lanes.clone()
        };
        for lane in first {
            if let Err(error) = lane.consumer.fetch_metadata(Some(topic), LOOK) {
                tracing::debug!(topic, %error, "connecting before there is something to read");
            }
        }
    }

    /// A lane with room that does not have the partition yet: the emptier one of the first pair that has such a lane.
    fn lane_for(&self, of: &TopicPartition) -> Result<Arc<Lane>> {
        let mut lanes = self.lanes.lock();
        for pair in lanes.chunks(2) {
            let emptier = pair.iter().filter(|lane| lane.has_room(of)).min_by_key(|lane| lane.partitions());
            // Beside a single one that holds something comes its second first.
            if let Some(lane) = emptier.filter(|lane| pair.len() == 2 || lane.partitions() == 0) {
                return Ok(lane.taken_by(of));
            }
        }
        let lane = Arc::new(Lane::new(&self.options, &self.listener, lanes.len() / 2)?);
        lanes.push(lane.clone());
        Ok(lane.taken_by(of))
    }

    /// Serves what librdkafka has to say.
    pub fn serve(&self) {
        let lanes = self.lanes.lock().clone();
        for lane in lanes {
            listen(&lane.consumer);
        }
    }
}

impl Lane {
    /// One of the pair with that number.
    fn new(options: &KafkaOptions, listener: &Listener, pair: usize) -> Result<Self> {
        let halvings = pair.min(MOST_HALVINGS);
        let buffers = Buffers {
            kilobytes: FIRST_BUFFERS.kilobytes >> halvings,
            records: FIRST_BUFFERS.records >> halvings,
            fetch_bytes: FIRST_BUFFERS.fetch_bytes >> halvings,
        };
        let config = options.config(Role::Lane(buffers));
        let consumer = BaseConsumer::from_config_and_context(&config, listener.clone()).map_err(refused)?;
        Ok(Self { consumer: Arc::new(consumer), most: FIRST << halvings, partitions: Mutex::default() })
    }

    fn partitions(&self) -> usize {
        self.partitions.lock().len()
    }

    fn has_room(&self, of: &TopicPartition) -> bool {
        let partitions = self.partitions.lock();
        partitions.len() < self.most && !partitions.contains(of)
    }

    fn taken_by(self: &Arc<Self>, of: &TopicPartition) -> Arc<Self> {
        self.partitions.lock().insert(of.clone());
        self.clone()
    }
}

/// A partition's place in a lane, given back when it is dropped.
pub(super) struct Taken {
    pub lane: Arc<Lane>,
    pub of: TopicPartition,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut place = TopicPartitionList::with_capacity(1);
        place.add_partition(&self.of.topic, self.of.partition as i32);
        // It fails when it was never assigned.
        if let Err(error) = self.lane.consumer.incremental_unassign(&place) {
            tracing::debug!(partition = %self.of, %error, "letting go of a partition");
        }
        self.lane.partitions.lock().remove(&self.of);
    }
}

/// An offset as Kafka counts.
pub(super) fn position(of: &TopicPartition, at: Offset) -> Result<i64> {
    i64::try_from(at).map_err(|_| LogError::Invalid(format!("{of}: offset {at} is larger than any offset in Kafka")))
}
