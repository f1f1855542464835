//! Writing the rows of a generation, under an attempt of its own: two runs that write the same number never touch each other's
//! rows, and one that dies leaves rows that nobody asks for.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::RecordBatch;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt};
use scylla::value::CqlValue;
use views::View;

use super::base::is_applied;
use super::deltas::{Cell, Insert, bigint};
use super::layout::group_columns;
use super::pointer::{Contest, Held};
use super::view_table::ViewTable;
use super::{Inner, failed, signed, typed, unreadable, unsigned};
use crate::embedded::bytes;
use crate::error::{Result, StoreError};

/// One batch has at most about this many bytes, and this many rows.
const BATCH_BYTES: usize = 128 << 10;
const BATCH_ROWS: usize = 256;
/// Batches that wait for a place among the requests under way.
const WAITING: usize = 64;
/// What stands for the partition of the log in a batch row.
const NO_PARTITION: i32 = -1;
const DAY: i64 = 24 * 3600;
/// The last moment that Cassandra's older formats can say something expires at.
const LAST_EXPIRY: i64 = i32::MAX as i64 - 1;
/// Longer than any calendar unit that tiles are of.
const WIDEST_TILE_US: i64 = 366 * DAY * 1_000_000;

/// Rows of one CQL partition that wait to be written.
#[derive(Default)]
struct Gathered {
    /// The encoded key and the bucket.
    of: (Vec<u8>, i64),
    rows: Vec<Insert>,
    size: usize,
}

impl Inner {
    /// See [`crate::ViewStore::write_generation`].
    pub async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        mut rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        let boundary = self.fresh_boundary().await?;
        if boundary.known.pointer.published.as_ref().is_some_and(|visible| visible.generation >= generation) {
            // Never to be seen.
            let mut count = 0;
            while let Some(chunk) = rows.next().await {
                count += chunk?.num_rows() as u64;
            }
            return Ok(count);
        }
        let table = self.tables_for_writing(&[view], &boundary).await?.swap_remove(0);
        let number = signed(generation)?;
        let attempt = self.begin_attempt(&table, number).await?;
        let count = self.write_rows(&table, number, attempt, rows).await?;
        let context = "completing a generation";
        let values = (signed(count)?, &*table.name, number, attempt);
        let done = self.sessions.shared().execute_unpaged(&self.base.end_attempt, values).await;
        if !is_applied(context, done.map_err(|error| failed(context, error))?)? {
            // A newer generation was published meanwhile, or the view let go of: these rows are garbage.
            tracing::info!(view = &*view.name, generation, attempt, "what was written is not needed any more");
        }
        Ok(count)
    }

    /// Takes the next number for who writes this generation.
    async fn begin_attempt(&self, table: &ViewTable, generation: i64) -> Result<i64> {
        let context = "beginning a generation";
        let mut contest = Contest::new();
        loop {
            let attempts = self.attempts(&table.name, generation).await?;
            let attempt = attempts.iter().map(|(attempt, _)| attempt + 1).max().unwrap_or(0);
            let done = self
                .sessions
                .shared()
                .execute_unpaged(&self.base.begin_attempt, (&*table.name, generation, attempt))
                .await;
            match done.map_err(|error| failed(context, error)).and_then(|done| is_applied(context, done)) {
                Ok(true) => return Ok(attempt),
                Ok(false) => contest.lost(context, "others begin it all the time").await?,
                Err(error) => contest.lost(context, error).await?,
            }
        }
    }

    /// The attempts at a generation, with their rows when they are complete.
    async fn attempts(&self, table: &str, generation: i64) -> Result<Vec<(i64, Option<i64>)>> {
        let context = "reading who wrote a generation";
        let found = self.rows(context, &self.base.attempts, (table, generation)).await?;
        let rows = found.rows::<(i64, Option<i64>)>().map_err(|error| unreadable(context, error))?;
        rows.collect::<std::result::Result<_, _>>().map_err(|error| unreadable(context, error))
    }

    /// The last complete attempt at a generation.
    pub async fn complete_attempt(&self, table: &str, generation: u64) -> Result<Option<Held>> {
        let attempts = self.attempts(table, signed(generation)?).await?;
        let complete = attempts.into_iter().filter_map(|(attempt, rows)| Some((attempt, rows?))).max();
        let held = complete.map(|(attempt, rows)| {
            Ok::<_, StoreError>(Held { generation, attempt, rows: unsigned("an attempt's rows", rows)? })
        });
        held.transpose()
    }

    async fn write_rows(
        &self,
        table: &Arc<ViewTable>,
        generation: i64,
        attempt: i64,
        mut rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        let context: Arc<str> = format!("writing generation {generation} of view `{}`", table.view.name).into();
        let mut last: Vec<u8> = Vec::new();
        let mut count = 0;
        let mut gathered = Gathered::default();
        let mut writes = FuturesUnordered::new();
        let insert = |rows| self.insert(context.clone(), &table.insert_batch, rows);
        while let Some(chunk) = rows.next().await {
            let chunk = chunk?;
            let encoded = encode(table, &chunk, generation, attempt)?;
            self.register_buckets(table, encoded.iter().map(|row| row.of.1)).await?;
            for Encoded { of, group, insert: row } in encoded {
                if group <= last && count > 0 {
                    let name = &table.view.name;
                    return Err(StoreError::Invalid(format!("view `{name}`: rows out of order or a group twice")));
                }
                last = group;
                count += 1;
                let is_full = gathered.size + row.size > BATCH_BYTES || gathered.rows.len() >= BATCH_ROWS;
                if !gathered.rows.is_empty() && (is_full || gathered.of != of) {
                    writes.push(insert(std::mem::take(&mut gathered).rows));
                }
                gathered.of = of;
                gathered.size += row.size;
                gathered.rows.push(row);
                while writes.len() >= self.options.in_flight + WAITING {
                    writes.next().await.transpose()?;
                }
            }
        }
        if !gathered.rows.is_empty() {
            writes.push(insert(gathered.rows));
        }
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(count)
    }
}

/// A row to be written, with where it belongs.
struct Encoded {
    of: (Vec<u8>, i64),
    group: Vec<u8>,
    insert: Insert,
}

fn encode(table: &ViewTable, states: &RecordBatch, generation: i64, attempt: i64) -> Result<Vec<Encoded>> {
    let count = states.num_rows();
    let encoded = table.codec.encode(states)?;
    let (keys, others) = group_columns(&table.view, states.columns());
    let encoded_keys = table.encoded_keys(keys)?;
    let typed = table.layout.keys(keys, count)?;
    let others = table.layout.others(others, count)?;
    let buckets = table.layout.buckets(states.columns(), count)?;
    let lifetimes = lifetimes(&table.view, states.columns(), count)?;
    let mut rows = Vec::with_capacity(count);
    for (row, (typed, others)) in typed.into_iter().zip(others).enumerate() {
        let group = encoded.group(row).to_vec();
        let sealed = bytes::seal(&bytes::group_key(&group)?, encoded.state(row));
        let size = 2 * group.len() + sealed.len() + 128;
        let mut values: Vec<Cell> = typed.into_iter().map(Cell::Set).collect();
        values.push(bigint(buckets[row]));
        values.push(Cell::Set(CqlValue::Blob(group.clone())));
        values.extend([bigint(generation), Cell::Set(CqlValue::Int(NO_PARTITION)), bigint(attempt)]);
        values.extend(others.into_iter().map(Cell::from_option));
        values.push(Cell::Set(CqlValue::Blob(sealed)));
        values.push(bigint(generation));
        values.push(Cell::Set(CqlValue::Int(lifetimes[row])));
        let key = encoded_keys.as_ref().map_or(Vec::new(), |keys| keys.row(row).data().to_vec());
        rows.push(Encoded { of: (key, buckets[row]), group, insert: Insert { values, size } });
    }
    Ok(rows)
}

/// How many seconds from now each row is kept by the server, 0 for ever: a day longer than its view keeps the tile. Only how
/// soon garbage goes depends on this clock, no answer does.
fn lifetimes(view: &View, groups: &[ArrayRef], rows: usize) -> Result<Vec<i32>> {
    let (Some(retention), Some(time)) = (view.retention, view.time) else { return Ok(vec![0; rows]) };
    let Some(micros) = typed::micros(&groups[time.index])? else { return Ok(vec![0; rows]) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0));
    let retention = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
    let width = time.width_us.unwrap_or(WIDEST_TILE_US) / 1_000_000 + 1;
    let lifetime = |row: usize| {
        if micros.is_null(row) {
            return 0;
        }
        let ended = (micros.value(row) / 1_000_000).saturating_add(width);
        let expires = ended.saturating_add(retention).saturating_add(DAY).max(now.saturating_add(DAY));
        if expires > LAST_EXPIRY { 0 } else { i32::try_from(expires - now).unwrap_or(0) }
    };
    Ok((0..rows).map(lifetime).collect())
}
