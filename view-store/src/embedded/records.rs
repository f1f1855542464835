//! The small records beside the states: which views there are, how far their deltas reach, which generations are
//! written, and what is published.
//!
//! They live in two keyspaces. `records` is written through the journal together with the deltas, so that deltas and
//! progress appear in one step. `published` holds one value, written by ingestion: a table of its own, on disk and
//! fsync'd before readers can see it, which no torn end of a journal can take back.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use views::Published;
use views::segment::Segment;
use views::view::Fingerprint;

use super::bytes;
use crate::error::{Result, StoreError};
use crate::store::Progress;

/// The number a view (name and fingerprint) goes by in the store: names are the user's, keyspaces' names are ours.
pub type ViewId = u64;

/// The key of the one value in `published`.
pub const POINTER: &[u8] = b"pointer";

/// A view that has, or had, something in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ViewRecord {
    /// Its name.
    pub name: Arc<str>,
    /// Its definition and format.
    pub fingerprint: Fingerprint,
    /// Its source's topic.
    pub topic: Arc<str>,
}

/// A generation of a view that is written whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenRecord {
    /// The keyspace its rows are in.
    pub keyspace: String,
    /// How many there are.
    pub rows: u64,
}

/// What is published, and where its rows are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// What readers see.
    pub published: Published,
    /// Where each of its views' rows are.
    pub views: Vec<PointerView>,
}

/// A view in a published generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointerView {
    /// Its number.
    pub id: ViewId,
    /// Its name and fingerprint.
    pub view: ViewRecord,
    /// Its rows.
    pub written: WrittenRecord,
}

/// A record of the `records` keyspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// `v id`
    View(ViewId, ViewRecord),
    /// `p id partition`
    Progress(ViewId, u32, Progress),
    /// `d id marker partition`: that keyspace holds deltas of that partition.
    Deltas(ViewId, u64, u32),
    /// `w id generation`
    Written(ViewId, u64, WrittenRecord),
    /// `s`: written at every start, see `sequence`.
    Start,
}

impl Record {
    /// Its key.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Self::View(id, _) => numbered(b'v', &[&id.to_be_bytes()]),
            Self::Progress(id, partition, _) => numbered(b'p', &[&id.to_be_bytes(), &partition.to_be_bytes()]),
            Self::Deltas(id, marker, partition) => {
                numbered(b'd', &[&id.to_be_bytes(), &marker.to_be_bytes(), &partition.to_be_bytes()])
            }
            Self::Written(id, generation, _) => numbered(b'w', &[&id.to_be_bytes(), &generation.to_be_bytes()]),
            Self::Start => numbered(b's', &[]),
        }
    }

    /// Its value.
    pub fn value(&self) -> Result<Vec<u8>> {
        let body = match self {
            Self::View(_, record) => to_json(record)?,
            Self::Progress(_, _, progress) => {
                let Progress { offset, segment } = progress;
                [*offset, segment.start, segment.marker].iter().flat_map(|number| number.to_be_bytes()).collect()
            }
            Self::Deltas(..) | Self::Start => Vec::new(),
            Self::Written(_, _, record) => to_json(record)?,
        };
        Ok(bytes::seal(&self.key(), &body))
    }

    /// Reads a record back.
    pub fn parse(key: &[u8], value: &[u8]) -> Result<Self> {
        let damaged = || StoreError::Damaged(format!("a record with the key {key:02x?}"));
        let body = bytes::open(key, value)?;
        let (kind, rest) = key.split_first().ok_or_else(damaged)?;
        if key == b"s" {
            return Ok(Self::Start);
        }
        let (id, rest) = take_u64(rest).ok_or_else(damaged)?;
        match kind {
            b'v' => Ok(Self::View(id, from_json(&body)?)),
            b'p' => {
                let partition = u32::from_be_bytes(rest.try_into().map_err(|_| damaged())?);
                let (offset, body) = take_u64(&body).ok_or_else(damaged)?;
                let (start, body) = take_u64(body).ok_or_else(damaged)?;
                let (marker, _) = take_u64(body).ok_or_else(damaged)?;
                Ok(Self::Progress(id, partition, Progress { offset, segment: Segment { start, marker } }))
            }
            b'd' => {
                let (marker, rest) = take_u64(rest).ok_or_else(damaged)?;
                let partition = u32::from_be_bytes(rest.try_into().map_err(|_| damaged())?);
                Ok(Self::Deltas(id, marker, partition))
            }
            b'w' => {
                let (generation, _) = take_u64(rest).ok_or_else(damaged)?;
                Ok(Self::Written(id, generation, from_json(&body)?))
            }
            _ => Err(damaged()),
        }
    }
}

impl Pointer {
    /// The value under [`POINTER`].
    pub fn value(&self) -> Result<Vec<u8>> {
        Ok(bytes::seal(POINTER, &to_json(self)?))
    }

    /// Reads it back.
    pub fn parse(value: &[u8]) -> Result<Self> {
        from_json(&bytes::open(POINTER, value)?)
    }
}

fn numbered(kind: u8, numbers: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    for number in numbers {
        key.extend_from_slice(number);
    }
    key
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

fn to_json<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|error| StoreError::Invalid(format!("a record cannot be written: {error}")))
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| StoreError::Damaged(format!("a record cannot be read: {error}")))
}
