//! Under which subject the schema of a topic's events is registered.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a subject is named, as Confluent's clients do it. Producers and Tidemark must agree on it for each topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectNameStrategy {
    /// `{topic}-value`: all events of a topic share one history.
    #[default]
    TopicName,
    /// The full name of the record: its history is shared by all topics.
    RecordName,
    /// `{topic}-{full name of the record}`.
    TopicRecordName,
}

impl SubjectNameStrategy {
    /// The subject of a topic's events whose record has this full name.
    pub fn subject(self, topic: &str, record: &str) -> String {
        match self {
            Self::TopicName => format!("{topic}-value"),
            Self::RecordName => record.to_owned(),
            Self::TopicRecordName => format!("{topic}-{record}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::TopicName => "topic_name",
            Self::RecordName => "record_name",
            Self::TopicRecordName => "topic_record_name",
        }
    }
}

impl fmt::Display for SubjectNameStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SubjectNameStrategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::TopicName, Self::RecordName, Self::TopicRecordName];
        let found = all.into_iter().find(|strategy| strategy.name() == text);
        found.ok_or_else(|| format!("{text:?} is none of {}", all.map(Self::name).join(", ")))
    }
}
