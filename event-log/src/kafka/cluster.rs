//! Questions to the cluster: which topics there are, and where partitions begin and end.
//!
//! librdkafka answers them by blocking, so they are asked away from the async threads. The client that asks reads no records:
//! a broker answers the requests of one connection in turn, and a question must not wait for a fetch that waits for records.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{IsError, KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset as At, TopicPartitionList};
use views::{Offset, TopicPartition};

use super::listener::Listener;
use super::options::{KafkaOptions, Role, refused};
use crate::error::{LogError, Result};

/// How long connecting may take. Long enough for a broker that is being started, short enough for a person who waits.
const CONNECT: Duration = Duration::from_secs(8);
/// What looks hopeless is believed after this: a name server or a broker may be just starting.
const HOPELESS: Duration = Duration::from_secs(2);
/// How long one question may take, repetitions included.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a number of partitions is believed.
const PARTITIONS_FRESH: Duration = Duration::from_secs(1);

/// The first kept offset of every partition and the end of what is committed, in order.
pub(super) type Ends = Arc<[Range<Offset>]>;

/// A client that only asks.
pub(super) struct Cluster {
    asker: Arc<BaseConsumer<Listener>>,
    listener: Listener,
    topics: RwLock<HashMap<Arc<str>, Known>>,
    questions: Mutex<HashMap<Arc<str>, Arc<Question>>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    partitions: u32,
    at: Instant,
}

/// The question for the ends of a topic: asked by one, answered for all who came before it was asked.
#[derive(Default)]
struct Question(tokio::sync::Mutex<Option<(Instant, Result<Ends, Failed>)>>);

/// An error for several.
#[derive(Debug, Clone)]
enum Failed {
    NotFound(String),
    Unavailable(String),
}

/// A topic as the brokers have it.
#[derive(Debug, Clone)]
pub(super) struct TopicNow {
    pub name: String,
    pub partitions: u32,
    /// The smallest number of replicas of a partition.
    pub replicas: usize,
    /// Whether every partition can be read and appended to.
    pub ready: bool,
}

impl Cluster {
    /// Connects, within seconds or not at all.
    pub async fn connect(options: &KafkaOptions, listener: &Listener) -> Result<Self> {
        let config = options.config(Role::Asker);
        let asker = BaseConsumer::from_config_and_context(&config, listener.clone()).map_err(refused)?;
        let cluster = Self {
            asker: Arc::new(asker),
            listener: listener.clone(),
            topics: RwLock::default(),
            questions: Mutex::default(),
        };
        let (listener, brokers) = (listener.clone(), options.brokers.clone());
        let connect = move |asker: &BaseConsumer<Listener>| Ok(greet(asker, &listener, &brokers));
        cluster.ask("connect to Kafka", connect).await??;
        Ok(cluster)
    }

    /// Serves what librdkafka has to say.
    pub fn serve(&self) {
        listen(&self.asker);
    }

    async fn ask<T: Send + 'static>(
        &self,
        context: &str,
        question: impl FnOnce(&BaseConsumer<Listener>) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T> {
        let asker = self.asker.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let answer = question(&asker);
            // The last to let go of a client waits for its threads: not on an async thread.
            drop(asker);
            answer
        });
        let answer = answer.await.map_err(|error| LogError::unavailable(context, error))?;
        answer.map_err(|error| self.listener.error(context, error))
    }

    /// A topic as it is now, if there is one.
    pub async fn topic(&self, name: &str) -> Result<Option<TopicNow>> {
        let asked = name.to_owned();
        let found = self.ask(&format!("look for topic {name}"), move |asker| look_up(asker, &asked)).await?;
        let mut topics = self.topics.write();
        match &found {
            Some(topic) => {
                topics.insert(name.into(), Known { partitions: topic.partitions, at: Instant::now() });
            }
            None => _ = topics.remove(name),
        }
        Ok(found)
    }

    /// Every topic, and how many brokers there are.
    pub async fn topics(&self) -> Result<(Vec<TopicNow>, usize)> {
        self.ask("list the topics", |asker| {
            let metadata = asker.fetch_metadata(None, ANSWER)?;
            let topics = metadata.topics().iter().filter_map(|topic| topic_now(topic).ok().flatten()).collect();
            Ok((topics, metadata.brokers().len()))
        })
        .await
    }

    /// Fails with `NotFound` unless there is such a partition.
    pub async fn check(&self, of: &TopicPartition) -> Result<()> {
        let exists = |known: Option<&Known>| known.is_some_and(|known| of.partition < known.partitions);
        if exists(self.topics.read().get(&of.topic)) {
            return Ok(());
        }
        match self.topic(&of.topic).await? {
            None => Err(LogError::NotFound(format!("topic {}", of.topic))),
            Some(topic) if of.partition < topic.partitions => Ok(()),
            Some(_) => Err(LogError::NotFound(format!("partition {of}"))),
        }
    }

    /// What is known of a topic is not so any more.
    pub fn forget(&self, topic: &str) {
        self.topics.write().remove(topic);
    }

    /// The topic has changed: whatever was found out before does not count.
    pub async fn changed(&self, topic: &str) {
        self.forget(topic);
        let question = self.questions.lock().get(topic).cloned();
        if let Some(question) = question {
            *question.0.lock().await = None;
        }
    }

    /// The ends of a topic as they were at `since` or later.
    pub async fn ends(&self, topic: &str, since: Instant) -> Result<Ends> {
        let question = self.questions.lock().entry(topic.into()).or_default().clone();
        let mut last = question.0.lock().await;
        if let Some((asked, answer)) = &*last
            && *asked >= since
        {
            return answer.clone().map_err(|failed| failed.error(topic));
        }
        let asked = Instant::now();
        let known = self.topics.read().get(topic).copied();
        let partitions = known.filter(|known| known.at.elapsed() < PARTITIONS_FRESH).map(|known| known.partitions);
        let answer = self.ask_for_ends(topic, partitions).await;
        let shared = match &answer {
            Ok(ends) => Ok(ends.clone()),
            Err(LogError::NotFound(what)) => Err(Failed::NotFound(what.clone())),
            Err(error) => Err(Failed::Unavailable(error.to_string())),
        };
        *last = Some((asked, shared));
        answer
    }

    async fn ask_for_ends(&self, topic: &str, partitions: Option<u32>) -> Result<Ends> {
        let partitions = match partitions {
            Some(partitions) => partitions,
            None => {
                let found = self.topic(topic).await?;
                found.ok_or_else(|| LogError::NotFound(format!("topic {topic}")))?.partitions
            }
        };
        let asked = topic.to_owned();
        let context = format!("ask where topic {topic} ends");
        self.ask(&context, move |asker| {
            let deadline = Instant::now() + ANSWER;
            let starts = offsets(asker, &asked, partitions, At::Beginning, deadline)?;
            let ends = offsets(asker, &asked, partitions, At::End, deadline)?;
            Ok(starts.into_iter().zip(ends).map(|(start, end)| start..end.max(start)).collect())
        })
        .await
    }
}

impl Failed {
    fn error(self, topic: &str) -> LogError {
        match self {
            Self::NotFound(what) => LogError::NotFound(what),
            Self::Unavailable(why) => LogError::unavailable(format!("ask where topic {topic} ends"), why),
        }
    }
}

/// Waits for the first answer of a broker; gives up early when waiting will not help.
fn greet(asker: &BaseConsumer<Listener>, listener: &Listener, brokers: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let outcome = asker.fetch_metadata(None, Duration::from_millis(500));
        listen(asker);
        let error = match outcome {
            Ok(_) => {
                listener.forget();
                return Ok(());
            }
            Err(error) => error,
        };
        let hopeless = listener.hopeless();
        let patience = if hopeless.is_some() { HOPELESS } else { CONNECT };
        if began.elapsed() < patience {
            continue;
        }
        let why = hopeless.or_else(|| listener.reason()).unwrap_or_else(|| error.to_string());
        let why = one_line(&why);
        return Err(LogError::unavailable(
            "event log",
            format!("no Kafka at log.brokers = {brokers:?} with the settings of log.kafka: {why}"),
        ));
    }
}

/// Hears everything that a client has to say: without a timeout it would say one thing at a time.
pub(super) fn listen(client: &BaseConsumer<Listener>) {
    while client.poll(Duration::from_millis(1)).is_some() {}
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn look_up(asker: &BaseConsumer<Listener>, name: &str) -> KafkaResult<Option<TopicNow>> {
    let deadline = Instant::now() + ANSWER;
    loop {
        let metadata = asker.fetch_metadata(Some(name), remaining(deadline))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else { return Ok(None) };
        match topic_now(topic) {
            // It is being created, or its leader is being chosen.
            Err(RDKafkaErrorCode::LeaderNotAvailable) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(RDKafkaErrorCode::InvalidTopic) => return Ok(None),
            outcome => return outcome.map_err(KafkaError::MetadataFetch),
        }
    }
}

fn topic_now(topic: &MetadataTopic) -> Result<Option<TopicNow>, RDKafkaErrorCode> {
    if let Some(error) = topic.error().filter(IsError::is_error) {
        return match RDKafkaErrorCode::from(error) {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(None),
            error => Err(error),
        };
    }
    let partitions = topic.partitions();
    Ok(Some(TopicNow {
        name: topic.name().to_owned(),
        partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
        replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
        ready: !partitions.is_empty() && partitions.iter().all(|partition| partition.leader() >= 0),
    }))
}

/// One offset of every partition, asked of all their leaders at once. `At::End` as a time means the end; librdkafka passes it on.
fn offsets(
    asker: &BaseConsumer<Listener>,
    topic: &str,
    partitions: u32,
    at: At,
    deadline: Instant,
) -> KafkaResult<Vec<Offset>> {
    loop {
        let error = match offsets_once(asker, topic, partitions, at, remaining(deadline)) {
            Ok(offsets) => return Ok(offsets),
            Err(error) => error,
        };
        use RDKafkaErrorCode as Code;
        let passing = matches!(
            error.rdkafka_error_code(),
            Some(
                Code::NotLeaderForPartition
                    | Code::LeaderNotAvailable
                    | Code::ReplicaNotAvailable
                    | Code::FencedLeaderEpoch
                    | Code::UnknownLeaderEpoch
                    | Code::OffsetNotAvailable
                    | Code::WaitingForCoordinator
            )
        );
        if !passing || Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn offsets_once(
    asker: &BaseConsumer<Listener>,
    topic: &str,
    partitions: u32,
    at: At,
    timeout: Duration,
) -> KafkaResult<Vec<Offset>> {
    let mut asked = TopicPartitionList::with_capacity(partitions as usize);
    for partition in 0..partitions {
        asked.add_partition_offset(topic, partition as i32, at)?;
    }
    let answer = asker.offsets_for_times(asked, timeout)?;
    let mut offsets = vec![None; partitions as usize];
    for element in answer.elements() {
        element.error()?;
        if let (At::Offset(offset), Ok(partition)) = (element.offset(), usize::try_from(element.partition()))
            && let Some(place) = offsets.get_mut(partition)
        {
            *place = u64::try_from(offset).ok();
        }
    }
    let unknown = || KafkaError::OffsetFetch(RDKafkaErrorCode::LeaderNotAvailable);
    offsets.into_iter().map(|offset| offset.ok_or_else(unknown)).collect()
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100))
}
