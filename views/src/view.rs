//! A view, compiled: everything that any layer needs to fold, merge, store and finalize it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::utils::collect_columns;
use serde::{Deserialize, Serialize};

use crate::source::{SYSTEM_COLUMNS, Source};

/// Tells definitions and state formats apart: the first 16 hex digits of a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How well an answer's column agrees with a recomputation, however the log was chopped up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exactness {
    /// Bit-equal.
    Exact,
    /// A floating-point sum: within 1e-9, relative.
    Float,
    /// A sketch whose merge depends on order (t-digest): within its stated error.
    Sketch,
}

/// A column of a view's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    pub data_type: datafusion::arrow::datatypes::DataType,
    /// How exact it is.
    pub exactness: Exactness,
}

/// The group column that holds tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeColumn {
    /// Its index among the group columns.
    pub index: usize,
    /// How wide a tile is, in microseconds; `None` for calendar units (months and longer).
    pub width_us: Option<i64>,
}

/// One aggregate of a view.
#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    pub(crate) function: Arc<AggregateFunctionExpr>,
    /// The arguments, then what `ORDER BY` inside the aggregate orders by: accumulators order themselves.
    pub(crate) arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// How many columns its state has.
    pub(crate) state_columns: usize,
}

/// A compiled view.
///
/// Three shapes matter. *Input*: the source's columns that the view reads. *State*: the group columns (key columns first,
/// then the time column, then the others) followed by DataFusion's state columns of each aggregate. *Output*: what the
/// user's `SELECT` lists.
#[derive(Debug)]
pub struct View {
    /// Its name.
    pub name: Arc<str>,
    /// The `SELECT`, as written.
    pub sql: String,
    /// The `SELECT` with what is left open in it settled: aggregates that depend on order break ties by log order.
    /// Plain SQL: run by DataFusion over all events, it gives what the view's answers must be equal to.
    pub oracle_sql: String,
    /// The whole statement, as written.
    pub statement: String,
    /// Where it is defined: `file:line`.
    pub defined_at: String,
    /// Where its events come from.
    pub source: Arc<Source>,
    /// Definition and state format.
    pub fingerprint: Fingerprint,
    /// Which columns of `source.schema` it reads, ascending.
    pub input_columns: Vec<usize>,
    /// The columns it reads.
    pub input_schema: SchemaRef,
    /// The group columns: key columns, then the time column, then the others.
    pub group_schema: SchemaRef,
    /// The group columns and the state columns.
    pub state_schema: SchemaRef,
    /// How many of the group columns are the key of a lookup.
    pub key_columns: usize,
    /// The group column that holds tiles, if there is one.
    pub time: Option<TimeColumn>,
    /// The answer's columns, in the order of the `SELECT`.
    pub columns: Vec<Column>,
    /// The answer's columns as an Arrow schema.
    pub output_schema: SchemaRef,
    /// For each group column, the answer's column that shows it unchanged, if one does.
    pub group_outputs: Vec<Option<usize>>,
    /// Tiles older than this are not kept.
    pub retention: Option<Duration>,
    /// How fresh answers are meant to be.
    pub freshness_slo: Option<Duration>,
    /// Whether it has no `GROUP BY`: all events are one group then, which is there before the first of them.
    pub(crate) of_everything: bool,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) groups: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) having: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) outputs: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) value_schema: SchemaRef,
}

impl View {
    /// The source's own fields that its group columns are made of, by their index in the schema.
    pub fn group_fields(&self) -> Vec<usize> {
        let own = self.source.event_columns();
        let key = || self.source.key.as_ref().and_then(|key| self.source.schema.index_of(key).ok());
        let columns = self.groups.iter().flat_map(collect_columns).filter_map(|column| {
            match self.input_columns.get(column.index())?.checked_sub(own) {
                None => self.input_columns.get(column.index()).copied(),
                // `_key` is the text of the field that chooses the partition.
                Some(system) if SYSTEM_COLUMNS[system] == "_key" => key(),
                Some(_) => None,
            }
        });
        columns.collect::<BTreeSet<usize>>().into_iter().collect()
    }
}
