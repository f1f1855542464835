//! Places in the log: a partition, an offset in it, and one offset for each of several partitions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// The place of a record in its partition. The first record of a partition has offset 0.
pub type Offset = u64;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// One offset per partition: "everything before these offsets". A partition that is not named counts from its start.
///
/// It is a [`Position`] when it says how far an answer reaches, and a frontier when it says where the batch layer
/// ended and the speed layer begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offsets(BTreeMap<Arc<str>, BTreeMap<u32, Offset>>);

/// How far an answer reaches, or an append went.
pub type Position = Offsets;

/// A token that is not one of ours.
#[derive(Debug, thiserror::Error)]
#[error("not a position token: {0}")]
pub struct InvalidToken(String);

impl Offsets {
    /// No partition named: before everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// The offset of a partition, if it is named.
    pub fn get(&self, partition: &TopicPartition) -> Option<Offset> {
        self.0.get(&partition.topic)?.get(&partition.partition).copied()
    }

    /// Names a partition's offset, replacing an earlier one.
    pub fn set(&mut self, partition: &TopicPartition, offset: Offset) {
        self.0.entry(partition.topic.clone()).or_default().insert(partition.partition, offset);
    }

    /// Moves a partition's offset forward to `offset`; an offset already further stays.
    pub fn advance(&mut self, partition: &TopicPartition, offset: Offset) {
        let reached = self.0.entry(partition.topic.clone()).or_default().entry(partition.partition).or_insert(0);
        *reached = (*reached).max(offset);
    }

    /// Every named partition with its offset, in order.
    pub fn iter(&self) -> impl Iterator<Item = (TopicPartition, Offset)> + '_ {
        self.0.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(|(partition, offset)| (TopicPartition::new(topic.clone(), *partition), *offset))
        })
    }

    /// Whether no partition is named.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeMap::is_empty)
    }

    /// Whether this reaches at least as far as `other` in every partition that `other` names.
    pub fn covers(&self, other: &Offsets) -> bool {
        other.iter().all(|(partition, offset)| self.get(&partition).unwrap_or(0) >= offset)
    }

    /// The part of this that speaks of `topic`.
    pub fn of_topic(&self, topic: &str) -> Offsets {
        let kept = self.0.iter().filter(|(name, _)| &***name == topic);
        Offsets(kept.map(|(name, partitions)| (name.clone(), partitions.clone())).collect())
    }

    /// The opaque form handed to clients.
    pub fn token(&self) -> String {
        // Serialising a map of strings and integers cannot fail.
        let json = serde_json::to_vec(self).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(json)
    }

    /// Reads a token made by [`Offsets::token`].
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] when it is not one.
    pub fn from_token(token: &str) -> Result<Self, InvalidToken> {
        let json = URL_SAFE_NO_PAD.decode(token).map_err(|error| InvalidToken(error.to_string()))?;
        serde_json::from_slice(&json).map_err(|error| InvalidToken(error.to_string()))
    }
}

impl FromIterator<(TopicPartition, Offset)> for Offsets {
    fn from_iter<I: IntoIterator<Item = (TopicPartition, Offset)>>(offsets: I) -> Self {
        let mut all = Self::new();
        for (partition, offset) in offsets {
            all.set(&partition, offset);
        }
        all
    }
}

impl fmt::Display for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.iter().map(|(partition, offset)| format!("{partition}@{offset}")).collect();
        f.write_str(&parts.join(" "))
    }
}
