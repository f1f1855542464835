//! A [`KeyRange`] as what is asked of the store: typed keys, bounds of encoded groups, buckets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::ArrayRef;
use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use parking_lot::Mutex;
use scylla::value::CqlValue;
use views::ViewError;
use views::stored::MAX_GROUP;

use super::Inner;
use super::layout::BucketRange;
use super::view_table::ViewTable;
use crate::error::Result;
use crate::store::KeyRange;
use crate::tiles::Tiles;

/// After every encoded group: their first byte says null or not, and is small.
const PAST_ALL: [u8; 1] = [0xff];
/// Up to this many buckets are asked without looking up which there are.
const ASK_ALL: i64 = 16;

/// What a read wants.
pub struct Wanted {
    /// The typed key columns; `None`: every key.
    pub key: Option<Vec<CqlValue>>,
    /// Groups from here, included.
    pub start: Bytes,
    /// Groups before this.
    pub end: Bytes,
    pub buckets: BucketRange,
    pub tiles: Option<Arc<Tiles>>,
}

impl Wanted {
    /// Reads a range.
    ///
    /// # Errors
    ///
    /// `View` for values that are not of the view's types.
    pub fn new(table: &ViewTable, range: &KeyRange) -> Result<Self> {
        let (view, codec) = (&table.view, &table.codec);
        let prefix = match &range.key {
            Some(key) => codec.key_prefix(key)?,
            None => Vec::new(),
        };
        let key = match &range.key {
            Some(key) => Some(typed_key(table, key)?),
            None => None,
        };
        let mut end = after_prefix(&prefix);
        if prefix.len() > MAX_GROUP {
            // There is no such group, and the server cannot even be asked.
            end.clear();
        }
        let mut start = prefix;
        let mut tiles = None;
        let mut buckets = BucketRange::ALL;
        if range.from.is_some() || range.to.is_some() {
            let time =
                view.time.ok_or_else(|| ViewError::Invalid(format!("view `{}` has no time column", view.name)))?;
            let prefix = if view.key_columns == 0 { Some([].as_slice()) } else { range.key.as_deref() };
            let bound = |tile: &Option<ScalarValue>| match (prefix, tile) {
                (Some(key), Some(tile)) => codec.time_bound(key, tile),
                _ => Ok(None),
            };
            let (from, to) = (bound(&range.from)?, bound(&range.to)?);
            let nulls_only = from.is_some() == range.from.is_some() && to.is_some() == range.to.is_some();
            start = from.map_or(start.clone(), |from| start.max(from));
            end = to.map_or(end.clone(), |to| end.min(to));
            if table.layout.has_buckets() {
                let bucket = |tile: &Option<ScalarValue>| tile.as_ref().map_or(Ok(None), |tile| bucket_of(table, tile));
                // No tile is before the first that can be: null tiles, below all, are not wanted when anything bounds the time.
                buckets =
                    BucketRange { first: Some(bucket(&range.from)?.unwrap_or(i64::MIN + 1)), last: bucket(&range.to)? };
            }
            tiles = Some(Arc::new(Tiles {
                column: time.index,
                from: range.from.clone(),
                to: range.to.clone(),
                nulls_only,
            }));
        }
        if let Some(after) = &range.after {
            let mut past = after[..after.len().min(MAX_GROUP)].to_vec();
            // Encoded groups are prefix-free: this is right after the group itself.
            past.push(0);
            start = start.max(past);
        }
        Ok(Self { key, start: start.into(), end: end.into(), buckets, tiles })
    }

    /// Whether a group is in it.
    pub fn has(&self, group: &[u8]) -> bool {
        *group >= *self.start && *group < *self.end
    }

    /// Whether no group can be in it.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

fn typed_key(table: &ViewTable, key: &[ScalarValue]) -> Result<Vec<CqlValue>> {
    let columns = key.iter().map(|value| value.to_array()).collect::<std::result::Result<Vec<ArrayRef>, _>>();
    let columns = columns.map_err(ViewError::from)?;
    Ok(table.layout.keys(&columns, 1)?.swap_remove(0))
}

fn bucket_of(table: &ViewTable, tile: &ScalarValue) -> Result<Option<i64>> {
    table.layout.bucket(&tile.to_array().map_err(ViewError::from)?)
}

/// The least bytes that are greater than everything that begins with `prefix`.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    PAST_ALL.to_vec()
}

/// Which buckets a table has. A bucket is registered before its first row is written, so whoever reads the registry *after* the
/// progress knows every bucket that the progress speaks of.
#[derive(Default)]
pub struct Buckets {
    /// This handle registered them, or saw them.
    registered: Mutex<BTreeSet<i64>>,
    /// The registry as it was read last, and when that began.
    read: tokio::sync::Mutex<Option<(Instant, Arc<BTreeSet<i64>>)>>,
}

impl Buckets {
    /// What is registered is not certain any more.
    pub fn forget_registered(&self) {
        self.registered.lock().clear();
    }
}

impl Inner {
    /// Registers the buckets that are not.
    pub async fn register_buckets(&self, table: &ViewTable, buckets: impl Iterator<Item = i64>) -> Result<()> {
        if !table.layout.has_buckets() {
            return Ok(());
        }
        let new: BTreeSet<i64> = {
            let registered = table.buckets.registered.lock();
            buckets.filter(|bucket| !registered.contains(bucket)).collect()
        };
        for bucket in &new {
            self.execute("registering a bucket", &self.base.add_bucket, (&*table.name, bucket)).await?;
        }
        table.buckets.registered.lock().extend(new);
        Ok(())
    }

    /// The buckets that `wanted` may have rows in, as the registry has been since `since` or later.
    pub async fn buckets(&self, table: &ViewTable, wanted: BucketRange, since: Instant) -> Result<BTreeSet<i64>> {
        if !table.layout.has_buckets() {
            return Ok([0].into());
        }
        if let (Some(first), Some(last)) = (wanted.first, wanted.last)
            && last.saturating_sub(first) < ASK_ALL
        {
            return Ok((first..=last).collect());
        }
        let mut read = table.buckets.read.lock().await;
        let all = match &*read {
            Some((began, all)) if *began >= since => all.clone(),
            _ => {
                let began = Instant::now();
                let context = "reading which buckets there are";
                let found = self.rows(context, &self.base.buckets, (&*table.name,)).await?;
                let rows = found.rows::<(i64,)>().map_err(|error| super::unreadable(context, error))?;
                let all = rows.map(|row| row.map(|(bucket,)| bucket)).collect::<std::result::Result<BTreeSet<_>, _>>();
                let all = Arc::new(all.map_err(|error| super::unreadable(context, error))?);
                *read = Some((began, all.clone()));
                all
            }
        };
        Ok(all.iter().copied().filter(|bucket| wanted.has(*bucket)).collect())
    }
}
