//! What the CQL store must be told, and what is refused before anything is asked of a server.

use std::path::PathBuf;
use std::time::Duration;

use scylla::statement::Consistency;

use crate::error::{Result, StoreError};

/// Where the store is and how it behaves. The names in messages are those of the settings: `store.nodes` is `nodes` here.
#[derive(Debug, Clone)]
pub struct CqlOptions {
    /// `host:port` of some nodes; the others are found from them.
    pub nodes: Vec<String>,
    /// One keyspace per application.
    pub keyspace: String,
    /// Tells applications (or tests) that share a keyspace apart. Not empty.
    pub scope: String,
    /// How many replicas a keyspace made by [`super::CqlStore::init`] has in each datacenter.
    pub replication: u16,
    /// The user, where the cluster asks for one.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// The certificates to trust (PEM); without it the connection is not encrypted.
    pub tls_ca: Option<PathBuf>,
    /// How many replicas answer a read.
    pub read_consistency: Consistency,
    /// How many replicas acknowledge a write.
    pub write_consistency: Consistency,
    /// How many requests this handle has under way at most, for the rows of writes and for the parts of large reads.
    pub in_flight: usize,
    /// What is kept of the states written last, so that continuing them needs no read.
    pub cache_bytes: usize,
    /// What is kept of the rows read last, so that a key that nothing happened to is not read again; 0: nothing.
    pub kept_bytes: usize,
    /// The most one read may hold.
    pub read_bytes: usize,
    /// How long a read may rely on the boundary it began with, and `retire` lets rows be that nobody needs any more.
    pub grace: Duration,
    /// How old a boundary may be to be used by another read.
    pub boundary_age: Duration,
    /// How long a read waits for progress that does not move, before it answers as of an earlier moment.
    pub patience: Duration,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// Whether to create keyspace and tables that are missing.
    pub create: bool,
}

impl Default for CqlOptions {
    fn default() -> Self {
        Self {
            nodes: vec!["127.0.0.1:9042".to_owned()],
            keyspace: "tidemark".to_owned(),
            scope: "application".to_owned(),
            replication: 3,
            user: None,
            password: None,
            tls_ca: None,
            read_consistency: Consistency::LocalQuorum,
            write_consistency: Consistency::LocalQuorum,
            in_flight: 256,
            cache_bytes: 64 << 20,
            kept_bytes: 64 << 20,
            read_bytes: 256 << 20,
            grace: Duration::from_secs(2),
            boundary_age: Duration::from_millis(10),
            patience: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            create: false,
        }
    }
}

impl CqlOptions {
    /// Refuses what cannot work, naming the setting.
    ///
    /// # Errors
    ///
    /// `Invalid`.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(StoreError::Invalid(what));
        if self.nodes.is_empty() {
            return invalid("store.nodes names no node".to_owned());
        }
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if self.keyspace.is_empty() || self.keyspace.len() > 48 || !self.keyspace.bytes().all(is_plain) {
            let keyspace = &self.keyspace;
            return invalid(format!("store.keyspace: `{keyspace}` is not 1 to 48 of a-z, 0-9 and _"));
        }
        if self.scope.is_empty() {
            return invalid("store.scope is empty, and CQL takes no empty key".to_owned());
        }
        if self.replication == 0 {
            return invalid("store.replication must be at least 1".to_owned());
        }
        if self.user.is_some() != self.password.is_some() {
            return invalid("store.user and store.password go together".to_owned());
        }
        if self.grace.is_zero() {
            return invalid("store.grace must not be 0: reads under way would lose their rows".to_owned());
        }
        if !overlap(self.read_consistency, self.write_consistency) {
            let (read, write) = (name(self.read_consistency), name(self.write_consistency));
            return invalid(format!(
                "store.read_consistency {read} and store.write_consistency {write} do not overlap: a read could miss rows of \
                 acknowledged writes and still take them for counted. Together they must reach more replicas than there are, like \
                 LOCAL_QUORUM and LOCAL_QUORUM"
            ));
        }
        Ok(())
    }
}

/// Whether every read meets at least one replica of every acknowledged write, however many replicas there are.
fn overlap(read: Consistency, write: Consistency) -> bool {
    use Consistency::{All, EachQuorum, LocalOne, LocalQuorum, One, Quorum, Three, Two};
    match (read, write) {
        (LocalQuorum, LocalQuorum | EachQuorum | All) | (Quorum, Quorum | EachQuorum | All) => true,
        (One | LocalOne | Two | Three, All) => true,
        (All, write) => matches!(write, One | LocalOne | Two | Three | LocalQuorum | Quorum | EachQuorum | All),
        _ => false,
    }
}

/// The levels that can be asked for, by the names that CQL gives them.
const LEVELS: [(&str, Consistency); 8] = [
    ("ONE", Consistency::One),
    ("TWO", Consistency::Two),
    ("THREE", Consistency::Three),
    ("QUORUM", Consistency::Quorum),
    ("ALL", Consistency::All),
    ("LOCAL_QUORUM", Consistency::LocalQuorum),
    ("EACH_QUORUM", Consistency::EachQuorum),
    ("LOCAL_ONE", Consistency::LocalOne),
];

/// A consistency level by the name that CQL gives it, in any case: `LOCAL_QUORUM`.
pub fn consistency(name: &str) -> Option<Consistency> {
    LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
}

fn name(level: Consistency) -> &'static str {
    LEVELS.iter().find(|(_, known)| *known == level).map_or("of another kind", |(name, _)| name)
}
