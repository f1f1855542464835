//! Sequence numbers that never go back.
//!
//! fjall notes in a tree of its own which keyspaces there are, and a note counts by its sequence number. When it opens a
//! database it resumes after the highest number found in the keyspaces, without looking at the notes, and gives the
//! folder numbers of dropped keyspaces away again. So what a new keyspace's note says could be older than the note that its
//! namesake was dropped: the keyspace is then gone, or half there, the next time the database is opened.
//!
//! Therefore at every start, before any keyspace is made or dropped, the counter jumps past all numbers that can have
//! been taken since it was last held in place, and a record holds it there.

use fjall::{Database, Keyspace, PersistMode};

/// More than one process ever takes, and small enough for millions of starts.
const STRIDE: u64 = 1 << 32;

/// Moves the counter past everything that was taken before, durably: a record in `keyspace` holds it there.
///
/// # Errors
///
/// When the disk fails.
pub fn advance(db: &Database, keyspace: &Keyspace, key: Vec<u8>, value: Vec<u8>) -> fjall::Result<()> {
    db.supervisor.seqno.fetch_max(db.seqno().saturating_add(STRIDE));
    keyspace.insert(key, value)?;
    db.persist(PersistMode::SyncAll)
}
