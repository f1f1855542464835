//! Writing deltas, and the progress after them.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, MaybeUnset};
use views::{Offset, View};

use super::gather::CqlPartition;
use super::layout::group_columns;
use super::view_table::ViewTable;
use super::written::Followed;
use super::{Inner, failed, signed};
use crate::delta_write;
use crate::embedded::bytes;
use crate::error::{Result, StoreError};
use crate::store::{DeltaWrite, ViewDeltas, WriteOutcome};

/// One batch has at most about this many bytes, and this many rows.
pub const BATCH_BYTES: usize = 1 << 20;
pub const BATCH_ROWS: usize = 4096;

/// A bound value; not every column of every row has one.
pub type Cell = MaybeUnset<CqlValue>;

/// A row to be written.
pub struct Insert {
    pub values: Vec<Cell>,
    pub size: usize,
}

pub fn bigint(number: i64) -> Cell {
    Cell::Set(CqlValue::BigInt(number))
}

/// The rows of one write of one view, by CQL partition.
#[derive(Default)]
struct Rows {
    partitions: HashMap<CqlPartition, Vec<Insert>>,
}

/// What a view's write leaves in the cache.
struct Touched {
    group: Vec<u8>,
    state: Vec<u8>,
    through: Offset,
}

impl Inner {
    /// See [`crate::ViewStore::write_deltas`].
    pub async fn write_deltas(&self, write: &DeltaWrite) -> Result<WriteOutcome> {
        delta_write::check(write)?;
        let partition = write.partition.partition;
        let boundary = self.fresh_boundary().await?;
        for deltas in &write.views {
            let table = boundary.known.table(&deltas.view);
            let stands = table.map_or(0, |table| {
                let progress = boundary.progress(table, partition).map_or(0, |progress| progress.offset);
                let hold = boundary.known.hold(table).and_then(|hold| hold.frontier.get(&partition));
                progress.max(hold.copied().unwrap_or(0))
            });
            if stands != write.from {
                self.forget(write);
                return Ok(WriteOutcome::Conflict);
            }
        }
        let views: Vec<&Arc<View>> = write.views.iter().map(|deltas| &deltas.view).collect();
        let tables = self.tables_for_writing(&views, &boundary).await?;
        let outcome = self.write_to(write, &tables).await;
        if outcome.is_err() {
            // The server may have gone away, and come back without what was registered just before.
            tables.iter().for_each(|table| table.buckets.forget_registered());
        }
        outcome
    }

    async fn write_to(&self, write: &DeltaWrite, tables: &[Arc<ViewTable>]) -> Result<WriteOutcome> {
        let partition = write.partition.partition;
        // From here on nothing is known of these states until all is written.
        let mut followed: Vec<Followed> = {
            let mut written = self.written.lock();
            tables.iter().map(|table| written.take(&table.name, partition, write.to.segment, write.from)).collect()
        };
        let mut touched = Vec::with_capacity(tables.len());
        let mut writes = FuturesUnordered::new();
        for (deltas, table) in write.views.iter().zip(tables) {
            let (rows, of_open) = encode(write, deltas, table)?;
            touched.push(of_open);
            self.register_buckets(table, rows.partitions.keys().map(|(_, bucket)| *bucket)).await?;
            let context: Arc<str> = format!("writing deltas of view `{}`", deltas.view.name).into();
            for (of, rows) in rows.partitions {
                for (piece, pieces) in pieces(rows) {
                    let rows = with_pieces(piece, pieces, table);
                    writes.push(self.insert_deltas(context.clone(), table, of.clone(), rows));
                }
            }
        }
        while let Some(written) = writes.next().await {
            written?;
        }
        drop(writes);
        self.write_progress(write, tables).await?;
        let mut written = self.written.lock();
        for ((table, followed), touched) in tables.iter().zip(&mut followed).zip(touched) {
            let mut followed = std::mem::replace(followed, Followed::new(write.to.segment, write.from));
            for Touched { group, state, through } in touched {
                followed.put(&group, through, &state);
            }
            written.put_back(&table.name, partition, followed.reached(write.to.offset));
        }
        drop(written);
        self.boundaries.outdate();
        Ok(WriteOutcome::Written)
    }

    fn forget(&self, write: &DeltaWrite) {
        let Some(boundary) = self.boundaries.last() else { return };
        let mut written = self.written.lock();
        for deltas in &write.views {
            if let Some(table) = boundary.known.table(&deltas.view) {
                written.forget(table, write.partition.partition);
            }
        }
    }

    /// Moves the progress of all views of a write, in one CQL partition and so at once.
    async fn write_progress(&self, write: &DeltaWrite, tables: &[Arc<ViewTable>]) -> Result<()> {
        let context = format!("writing the progress of {}", write.partition);
        let partition = log_partition(write.partition.partition)?;
        let (offset, segment) = (signed(write.to.offset)?, write.to.segment);
        let (start, marker) = (signed(segment.start)?, signed(segment.marker)?);
        let scope = &self.options.scope;
        let values: Vec<_> =
            tables.iter().map(|table| (scope, &*table.name, partition, offset, start, marker, offset)).collect();
        if values.is_empty() {
            return Ok(());
        }
        let statements = vec![BatchStatement::from(self.base.set_progress.clone()); values.len()];
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_is_idempotent(true);
        batch.set_consistency(self.options.write_consistency);
        let done = self.sessions.shared().batch(&batch, values).await;
        done.map(drop).map_err(|error| failed(context, error))
    }

    /// Writes rows of one CQL partition, at once.
    pub async fn insert(&self, context: Arc<str>, statement: &PreparedStatement, rows: Vec<Insert>) -> Result<()> {
        let _permit = self.permit().await?;
        self.send(&context, statement, rows).await
    }

    /// The same, when it may be done now.
    pub async fn send(&self, context: &str, statement: &PreparedStatement, mut rows: Vec<Insert>) -> Result<()> {
        if rows.len() == 1
            && let Some(row) = rows.pop()
        {
            return self.execute(context, statement, row.values).await;
        }
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![statement.clone().into(); rows.len()]);
        batch.set_is_idempotent(true);
        batch.set_consistency(self.options.write_consistency);
        let values: Vec<Vec<Cell>> = rows.into_iter().map(|row| row.values).collect();
        let done = self.sessions.shared().batch(&batch, values).await;
        done.map(drop).map_err(|error| failed(context, error))
    }

    pub async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.permits.acquire().await.map_err(|error| StoreError::unavailable("waiting for requests under way", error))
    }
}

/// The rows of one view's deltas, and the states that belong to the segment that stays open.
fn encode(write: &DeltaWrite, deltas: &ViewDeltas, table: &ViewTable) -> Result<(Rows, Vec<Touched>)> {
    let partition = write.partition.partition;
    let mut rows = Rows::default();
    let mut touched = Vec::new();
    let mut scratch = Vec::new();
    for (segment, states) in &deltas.segments {
        let through = delta_write::through(write, deltas, *segment);
        let encoded = table.codec.encode(states)?;
        let count = states.num_rows();
        let (keys, others) = group_columns(&table.view, states.columns());
        let encoded_keys = table.encoded_keys(keys)?;
        let typed = table.layout.keys(keys, count)?;
        let others = table.layout.others(others, count)?;
        let buckets = table.layout.buckets(states.columns(), count)?;
        let (log_partition, start, marker) =
            (log_partition(partition)?, signed(segment.start)?, signed(segment.marker)?);
        for (row, (typed, others)) in typed.into_iter().zip(others).enumerate() {
            let (group, state) = (encoded.group(row), encoded.state(row));
            let key = bytes::delta_key(group, partition, segment.start)?;
            let sealed = bytes::seal_delta(&key, through, state, &mut scratch);
            let size = 2 * group.len() + sealed.len() + 128;
            let mut values: Vec<Cell> = typed.into_iter().map(Cell::Set).collect();
            values.push(bigint(buckets[row]));
            values.push(Cell::Set(CqlValue::Blob(group.to_vec())));
            values.extend([bigint(0), Cell::Set(CqlValue::Int(log_partition)), bigint(start)]);
            values.extend(others.into_iter().map(Cell::from_option));
            values.extend([bigint(marker), bigint(signed(through)?), Cell::Set(CqlValue::Int(1))]);
            values.push(Cell::Set(CqlValue::Blob(sealed)));
            values.push(bigint(signed(through)?));
            let cql_partition =
                (encoded_keys.as_ref().map_or(Vec::new(), |keys| keys.row(row).data().to_vec()), buckets[row]);
            rows.partitions.entry(cql_partition).or_default().push(Insert { values, size });
            if *segment == write.to.segment {
                touched.push(Touched { group: group.to_vec(), state: state.to_vec(), through });
            }
        }
    }
    Ok((rows, touched))
}

/// A CQL partition's rows in as few batches as they fit in, with how many those are.
fn pieces(rows: Vec<Insert>) -> Vec<(Vec<Insert>, i32)> {
    let mut pieces: Vec<Vec<Insert>> = Vec::new();
    let mut size = 0;
    for row in rows {
        match pieces.last_mut() {
            Some(piece) if size + row.size <= BATCH_BYTES && piece.len() < BATCH_ROWS => {
                size += row.size;
                piece.push(row);
            }
            _ => {
                size = row.size;
                pieces.push(vec![row]);
            }
        }
    }
    let count = i32::try_from(pieces.len()).unwrap_or(i32::MAX);
    pieces.into_iter().map(|piece| (piece, count)).collect()
}

/// Rows that say in how many pieces their CQL partition was written: only those written in one appear at once.
fn with_pieces(mut rows: Vec<Insert>, pieces: i32, table: &ViewTable) -> Vec<Insert> {
    if pieces > 1 {
        let place = table.insert_delta.get_variable_col_specs().len() - 3;
        for row in &mut rows {
            row.values[place] = Cell::Set(CqlValue::Int(pieces));
        }
    }
    rows
}

pub fn log_partition(partition: u32) -> Result<i32> {
    i32::try_from(partition).map_err(|_| StoreError::Invalid(format!("partition {partition} does not fit an int")))
}

/// A stored state that does not check out.
pub fn damaged(view: &View, group: &[u8], error: &(impl std::fmt::Display + ?Sized)) -> StoreError {
    let shown: String = group.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
    StoreError::Damaged(format!("view `{}`, group 0x{shown}: {error}", view.name))
}
