//! The table of one view: its columns and the statements over it.
//!
//! ```text
//! PRIMARY KEY ((key columns…, bucket), "group", generation, log_partition, segment)
//!
//!                    generation   log_partition   segment         stamped with
//! a delta            0            its partition   its start       the offset it reaches
//! a batch row        its number   -1              the attempt     the generation's number
//! ```
//!
//! One CQL partition holds a key's rows over a stretch of time, so one lookup is one read, and what one write changes of a key
//! appears at once. `"group"` is the encoded group: in its order time ranges and pages are slices, and rows whose typed
//! key columns are equal (null and the empty text, long keys that were cut) are told apart by it.
//!
//! A state is one cell, sealed: of two writes with the same timestamp the larger cell wins, and never a mixture of both.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use scylla::value::CqlValue;
use views::View;

use super::typed::{self, Kind};
use crate::error::Result;

/// The longest all typed key columns may be together: a CQL partition key ends at 64 KiB.
const KEY_BYTES: usize = 32 << 10;
/// How much is shown of a group column that is no key.
const SHOWN_BYTES: usize = 256;
/// How many tiles share a CQL partition.
const BUCKET_TILES: i64 = 4096;
const DAY_US: i64 = 24 * 3600 * 1_000_000;
/// The bucket of null tiles.
const NULL_BUCKET: i64 = i64::MIN;
/// No longer name is taken by a CQL server for a table.
const TABLE_NAME: usize = 48;
/// Columns that every table has.
const OWN: [&str; 9] =
    ["bucket", "group", "generation", "log_partition", "segment", "marker", "through", "pieces", "state"];

/// What a view's table looks like.
#[derive(Debug)]
pub struct Layout {
    /// Keyspace and table, quoted.
    full: String,
    about: String,
    keys: Vec<Column>,
    others: Vec<Column>,
    /// The group column with the tiles that buckets are made of, and how many microseconds a bucket has.
    buckets: Option<(usize, i64)>,
}

#[derive(Debug)]
struct Column {
    /// Quoted.
    name: String,
    kind: Kind,
}

/// The statements over a view's table.
pub struct Statements {
    /// Makes it.
    pub create: String,
    /// Writes a delta.
    pub insert_delta: String,
    /// Writes a row of a generation.
    pub insert_batch: String,
    /// A slice of one CQL partition.
    pub select: String,
    /// Deltas of one group, in some segments of some partitions.
    pub select_deltas: String,
    /// Every row in a range of tokens.
    pub scan: String,
    /// The primary key of every row in a range of tokens.
    pub scan_keys: String,
    /// Deletes a row.
    pub delete: String,
}

/// The name of a view's table. `incarnation` tells the tables of a definition apart that was let go of and came back: small
/// timestamps must not meet what is left of large ones.
pub fn table_name(view: &View, incarnation: u32) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let fingerprint: String = view.fingerprint.0.chars().take(8).map(plain).collect();
    let tail = format!("_{fingerprint}_{incarnation:08x}");
    let name: String = view.name.chars().take(TABLE_NAME - tail.len()).map(plain).collect();
    // A table's name begins with a letter.
    let name = if name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name
    } else {
        format!("v{}", name.get(1..).unwrap_or_default())
    };
    name + &tail
}

impl Layout {
    /// The layout of a view's table.
    pub fn new(view: &View, keyspace: &str, table: &str) -> Self {
        let mut taken: Vec<String> = OWN.iter().map(|own| (*own).to_owned()).collect();
        let mut columns: Vec<Column> = Vec::new();
        for field in view.group_schema.fields() {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            let mut name: String = field.name().chars().take(TABLE_NAME).map(plain).collect();
            while name.is_empty() || taken.contains(&name) {
                name.push('_');
            }
            columns.push(Column { name: format!("\"{name}\""), kind: Kind::of(field.data_type()) });
            taken.push(name);
        }
        let others = columns.split_off(view.key_columns);
        let follows = view.time.filter(|time| time.index == view.key_columns);
        let is_time =
            |index: usize| matches!(others.get(index), Some(Column { kind: Kind::Timestamp | Kind::Date, .. }));
        let buckets = follows.filter(|_| is_time(0)).map(|time| {
            let width = time.width_us.unwrap_or(31 * DAY_US).max(1);
            (time.index, width.saturating_mul(BUCKET_TILES))
        });
        let full = format!("\"{keyspace}\".\"{table}\"");
        let about = format!("view {} {}", view.name, view.fingerprint).replace('\'', "''");
        Self { full, about, keys: columns, others, buckets }
    }

    /// Whether its keys are split over time.
    pub fn has_buckets(&self) -> bool {
        self.buckets.is_some()
    }

    /// The typed key columns of rows, one list per row. `columns`: the key columns.
    pub fn keys(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<Vec<CqlValue>>> {
        let longest = KEY_BYTES / self.keys.len().max(1);
        let mut keys = vec![Vec::with_capacity(self.keys.len()); rows];
        for (column, Column { kind, .. }) in columns.iter().zip(&self.keys) {
            for (key, value) in keys.iter_mut().zip(kind.values(column, longest)?) {
                key.push(value.unwrap_or_else(|| kind.nothing()));
            }
        }
        Ok(keys)
    }

    /// The other typed group columns of rows, one list per row. `columns`: the group columns after the key.
    pub fn others(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<Vec<Option<CqlValue>>>> {
        let mut others = vec![Vec::with_capacity(self.others.len()); rows];
        for (column, Column { kind, .. }) in columns.iter().zip(&self.others) {
            for (other, value) in others.iter_mut().zip(kind.values(column, SHOWN_BYTES)?) {
                other.push(value);
            }
        }
        Ok(others)
    }

    /// The buckets of rows. `groups`: the group columns.
    pub fn buckets(&self, groups: &[ArrayRef], rows: usize) -> Result<Vec<i64>> {
        let Some((column, width)) = self.buckets else { return Ok(vec![0; rows]) };
        let Some(micros) = typed::micros(&groups[column])? else { return Ok(vec![0; rows]) };
        let bucket = |row: usize| if micros.is_null(row) { NULL_BUCKET } else { micros.value(row).div_euclid(width) };
        Ok((0..rows).map(bucket).collect())
    }

    /// The bucket of one tile; `None` for a view without buckets.
    pub fn bucket(&self, tile: &ArrayRef) -> Result<Option<i64>> {
        let Some((_, width)) = self.buckets else { return Ok(None) };
        let micros = typed::micros(tile)?.filter(|micros| micros.len() == 1 && micros.is_valid(0));
        Ok(micros.map(|micros| micros.value(0).div_euclid(width)))
    }

    /// The statements.
    pub fn statements(&self) -> Statements {
        let full = &self.full;
        let names = |columns: &[Column]| columns.iter().map(|column| format!("{}, ", column.name)).collect::<String>();
        let lines = |columns: &[Column]| {
            let line = |column: &Column| format!("  {} {},\n", column.name, column.kind.cql());
            columns.iter().map(line).collect::<String>()
        };
        let keys = names(&self.keys);
        let others = names(&self.others);
        let here: String = self.keys.iter().map(|column| format!("{} = ? AND ", column.name)).collect();
        let here = format!("{here}bucket = ?");
        let one = format!("{here} AND \"group\" = ? AND generation = ? AND log_partition = ? AND segment = ?");
        let row = "\"group\", generation, log_partition, segment";
        let values = |count: usize| vec!["?"; count].join(", ");
        let columns = self.keys.len() + self.others.len() + 5;
        let token = format!("token({keys}bucket)");
        let within = format!("{token} >= ? AND {token} <= ?");
        Statements {
            create: format!(
                "CREATE TABLE IF NOT EXISTS {full} (\n{}  bucket bigint,\n  \"group\" blob,\n  generation bigint,\n  log_partition int,\n  \
                 segment bigint,\n{}  marker bigint,\n  through bigint,\n  pieces int,\n  state blob,\n  \
                 PRIMARY KEY (({keys}bucket), {row})\n) WITH gc_grace_seconds = 3600 AND comment = '{}'",
                lines(&self.keys),
                lines(&self.others),
                self.about,
            ),
            insert_delta: format!(
                "INSERT INTO {full} ({keys}bucket, {row}, {others}marker, through, pieces, state) VALUES ({}) USING TIMESTAMP ?",
                values(columns + 4)
            ),
            insert_batch: format!(
                "INSERT INTO {full} ({keys}bucket, {row}, {others}state) VALUES ({}) USING TIMESTAMP ? AND TTL ?",
                values(columns + 1)
            ),
            select: format!(
                "SELECT {row}, through, pieces, state FROM {full} WHERE {here} AND \"group\" >= ? AND \"group\" < ?"
            ),
            // All of them in the tuple: ScyllaDB takes no other relation on clustering columns beside one.
            select_deltas: format!(
                "SELECT log_partition, segment, marker, through, state FROM {full} WHERE {here} AND ({row}) IN ?"
            ),
            scan: format!("SELECT {row}, through, pieces, state FROM {full} WHERE {within}"),
            scan_keys: format!("SELECT {keys}bucket, {row} FROM {full} WHERE {within}"),
            delete: format!("DELETE FROM {full} USING TIMESTAMP ? WHERE {one}"),
        }
    }

    /// How many typed key columns there are.
    pub fn key_columns(&self) -> usize {
        self.keys.len()
    }
}

/// The buckets from one tile's to another's, both included; `None` stands for no bound. The bucket of null tiles is in no
/// bounded range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketRange {
    /// The first.
    pub first: Option<i64>,
    /// The last.
    pub last: Option<i64>,
}

impl BucketRange {
    /// Every bucket.
    pub const ALL: BucketRange = BucketRange { first: None, last: None };

    /// Whether a bucket is in it.
    pub fn has(&self, bucket: i64) -> bool {
        if bucket == NULL_BUCKET {
            return *self == Self::ALL;
        }
        self.first.is_none_or(|first| first <= bucket) && self.last.is_none_or(|last| bucket <= last)
    }
}

/// A view's group columns from those of a batch.
pub fn group_columns<'b>(view: &Arc<View>, columns: &'b [ArrayRef]) -> (&'b [ArrayRef], &'b [ArrayRef]) {
    columns[..view.group_schema.fields().len()].split_at(view.key_columns)
}
