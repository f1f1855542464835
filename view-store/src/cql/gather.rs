//! Rows of one CQL partition that wait at the same time are written as one.
//!
//! Each partition of a topic has a task of its own, and all of them write deltas of much the same groups. While as many requests are
//! under way as may be, rows wait; those that wait for the same CQL partition, whoever wants them written, go in one batch. So the
//! busier the store is, the fewer requests it gets for the same rows. Nobody waits for company: a row that need not wait goes
//! alone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Inner;
use super::deltas::{BATCH_BYTES, BATCH_ROWS, Insert};
use super::view_table::ViewTable;
use crate::error::{Result, StoreError};

/// A CQL partition of a table: the encoded key, and the bucket.
pub type CqlPartition = (Vec<u8>, i64);
type Place = (Arc<str>, CqlPartition);

/// What waits to be written.
#[derive(Default)]
pub struct Waiting(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    /// Those that have something gathered, in the order in which they came.
    order: VecDeque<Place>,
    gathered: HashMap<Place, Gathered>,
}

/// Rows of one CQL partition.
struct Gathered {
    table: Arc<ViewTable>,
    rows: Vec<Insert>,
    size: usize,
    /// Those who want to know, each told what became of it.
    writers: Vec<oneshot::Sender<Result<(), Arc<str>>>>,
}

impl Waiting {
    /// Puts rows to those that wait for the same CQL partition. Returns others that must go first, because there is no room for these.
    fn add(
        &self,
        table: &Arc<ViewTable>,
        partition: CqlPartition,
        mut rows: Vec<Insert>,
        writer: oneshot::Sender<Result<(), Arc<str>>>,
    ) -> Option<Gathered> {
        let size = rows.iter().map(|row| row.size).sum();
        let place = (table.name.clone(), partition);
        let mut queue = self.0.lock();
        if let Some(gathered) = queue.gathered.get_mut(&place)
            && gathered.size + size <= BATCH_BYTES
            && gathered.rows.len() + rows.len() <= BATCH_ROWS
        {
            gathered.rows.append(&mut rows);
            gathered.size += size;
            gathered.writers.push(writer);
            return None;
        }
        let gathered = Gathered { table: table.clone(), rows, size, writers: vec![writer] };
        let full = queue.gathered.insert(place.clone(), gathered);
        if full.is_none() {
            queue.order.push_back(place);
        }
        full
    }

    /// Takes what has waited longest, leaving out what nobody waits for any more.
    fn next(&self) -> Option<Gathered> {
        let mut queue = self.0.lock();
        while let Some(place) = queue.order.pop_front() {
            let gathered = queue.gathered.remove(&place);
            if let Some(gathered) = gathered.filter(|it| it.writers.iter().any(|writer| !writer.is_closed())) {
                return Some(gathered);
            }
        }
        None
    }
}

impl Gathered {
    async fn send(self, inner: &Inner, context: &str) {
        let outcome = inner.send(context, &self.table.insert_delta, self.rows).await;
        // Each writer says for himself what was being done.
        let outcome = outcome.map_err(|error| match error {
            StoreError::Unavailable { source, .. } => source.to_string().into(),
            other => other.to_string().into(),
        });
        for writer in self.writers {
            // Who has gone away meanwhile does not want to know.
            let _ = writer.send(outcome.clone());
        }
    }
}

impl Inner {
    /// Writes deltas of one CQL partition at once, with whatever else waits for it.
    pub async fn insert_deltas(
        &self,
        context: Arc<str>,
        table: &Arc<ViewTable>,
        partition: CqlPartition,
        rows: Vec<Insert>,
    ) -> Result<()> {
        let (writer, mut told) = oneshot::channel();
        if let Some(full) = self.waiting.add(table, partition, rows, writer) {
            // In nobody else's hands any more: it goes whether or not his own is done meanwhile.
            let _permit = self.permit().await?;
            full.send(self, &context).await;
        }
        // Whoever waits sends: not his own, but what has waited longest. He goes on until his own is done, because another who owes a
        // turn may go away.
        let outcome = loop {
            let _permit = tokio::select! {
                biased;
                outcome = &mut told => break Some(outcome),
                permit = self.permit() => permit?,
            };
            match self.waiting.next() {
                Some(next) => next.send(self, &context).await,
                None => break None,
            }
        };
        // With nothing left to send, somebody has his own in hand; the turn is given back before he waits for that.
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => told.await,
        };
        match outcome {
            Ok(outcome) => outcome.map_err(|error| StoreError::unavailable(&*context, &*error)),
            Err(_) => Err(StoreError::unavailable(&*context, "whoever was writing it broke off")),
        }
    }
}
