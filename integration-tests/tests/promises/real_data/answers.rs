//! Answers from three sides, made comparable: what is served, what plain DataFusion says, what DuckDB says.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use chrono::DateTime;
use datafusion::prelude::{SessionConfig, SessionContext};
use serde_json::Value;

/// A value, without the ways there are to write it.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Null; for floats, also what is no number.
    Null,
    /// Any integer.
    Int(i64),
    /// Any float.
    Float(f64),
    /// Microseconds since the epoch.
    Time(i64),
    /// Text, decimals (with all digits of their scale), booleans.
    Text(String),
}

/// How the values of a column are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Float,
    Time,
    Text,
}

impl Kind {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            integer if integer.is_integer() => Self::Int,
            DataType::Float32 | DataType::Float64 => Self::Float,
            DataType::Timestamp(..) => Self::Time,
            _ => Self::Text,
        }
    }

    fn of_json(self, value: &Value) -> Cell {
        let read = match (self, value) {
            (_, Value::Null) => Some(Cell::Null),
            (Self::Int, Value::Number(number)) => number.as_i64().map(Cell::Int),
            (Self::Int, Value::String(text)) => text.parse().ok().map(Cell::Int),
            (Self::Float, Value::Number(number)) => number.as_f64().map(Cell::Float),
            (Self::Time, Value::String(text)) => {
                DateTime::parse_from_rfc3339(text).ok().map(|time| Cell::Time(time.timestamp_micros()))
            }
            (Self::Text, Value::String(text)) => Some(Cell::Text(text.clone())),
            (Self::Text, Value::Bool(value)) => Some(Cell::Text(value.to_string())),
            _ => None,
        };
        read.unwrap_or_else(|| panic!("{value} is not what a column of {self:?} should show"))
    }
}

/// A whole answer: rows by name of column.
#[derive(Debug, Clone)]
pub struct Answer {
    columns: Vec<(String, Kind)>,
    /// The rows, in the order they came in.
    pub rows: Vec<Vec<Cell>>,
}

impl Answer {
    /// What plain DataFusion answers to `sql` in one pass over `rows`.
    pub async fn of_datafusion(topic: &str, rows: &RecordBatch, sql: &str) -> Self {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        context.register_batch(topic, rows.clone()).expect("a table of all rows");
        let frame = context.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let schema = batches.first().map_or(schema, RecordBatch::schema);
        let batch = concat_batches(&schema, &batches).expect("one batch");
        let fields = schema.fields().iter();
        let columns: Vec<_> = fields.map(|field| (field.name().clone(), Kind::of(field.data_type()))).collect();
        let cells: Vec<Vec<Cell>> =
            columns.iter().zip(batch.columns()).map(|((_, kind), column)| cells(*kind, column)).collect();
        let rows = (0..batch.num_rows()).map(|row| cells.iter().map(|column| column[row].clone()).collect());
        Self { rows: rows.collect(), columns }
    }

    /// An answer of the same columns without rows.
    pub fn empty(&self) -> Self {
        Self { columns: self.columns.clone(), rows: Vec::new() }
    }

    /// Adds a row as it is served.
    pub fn push_json(&mut self, row: &Value) {
        let members = row.as_object().unwrap_or_else(|| panic!("{row} is not a row"));
        assert_eq!(members.len(), self.columns.len(), "{row} should have {:?}", self.columns);
        self.rows.push(self.columns.iter().map(|(name, kind)| kind.of_json(&row[name])).collect());
    }

    /// What DuckDB answered: it may know fewer columns.
    pub fn of_duckdb(&self, answer: &Value) -> Self {
        let names = answer["columns"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let columns: Vec<_> = names
            .map(|name| self.columns.iter().find(|(known, _)| known == name).expect("a column of the view").clone())
            .collect();
        let rows = answer["rows"].as_array().into_iter().flatten().map(|row| {
            let values = row.as_array().into_iter().flatten();
            columns.iter().zip(values).map(|((_, kind), value)| kind.of_json(value)).collect()
        });
        Self { rows: rows.collect(), columns }
    }

    /// The values of some columns, row by row.
    pub fn of_columns(&self, names: &[String]) -> Vec<Vec<Cell>> {
        let places: Vec<usize> = names.iter().map(|name| self.place(name)).collect();
        self.rows.iter().map(|row| places.iter().map(|place| row[*place].clone()).collect()).collect()
    }

    fn place(&self, name: &str) -> usize {
        self.columns.iter().position(|(known, _)| known == name).expect("a column of the answer")
    }

    /// Where another answer is not equal to this one, in the columns that both have. Rows belong together when their group
    /// columns are equal.
    pub fn difference(&self, other: &Self, group: &[String]) -> Option<String> {
        let (ours, theirs) = (self.by(group), other.by(group));
        if self.rows.len() != ours.len() || other.rows.len() != theirs.len() {
            return Some("the same group has two rows".to_owned());
        }
        if let Some(group) = ours.keys().find(|group| !theirs.contains_key(*group)) {
            return Some(format!("{group} is only in the first of {} and {}", ours.len(), theirs.len()));
        }
        if let Some(group) = theirs.keys().find(|group| !ours.contains_key(*group)) {
            return Some(format!("{group} is only in the second of {} and {}", ours.len(), theirs.len()));
        }
        let shared = other.columns.iter().enumerate().map(|(place, (name, _))| (self.place(name), place, name));
        let shared: Vec<_> = shared.collect();
        ours.iter().find_map(|(group, ours)| {
            let theirs = &theirs[group];
            let (_, _, name) = shared.iter().find(|(left, right, _)| !agree(&ours[*left], &theirs[*right]))?;
            Some(format!("{name} of {ours:?}\n  and {theirs:?}"))
        })
    }

    /// The same, row by row in order.
    pub fn difference_in_order(&self, other: &Self) -> Option<String> {
        if self.rows.len() != other.rows.len() {
            return Some(format!(
                "{} rows and {}: {:?} and {:?}",
                self.rows.len(),
                other.rows.len(),
                self.rows,
                other.rows
            ));
        }
        let pairs = self.rows.iter().zip(&other.rows);
        let apart = pairs.filter(|(ours, theirs)| !ours.iter().zip(*theirs).all(|(ours, theirs)| agree(ours, theirs)));
        apart.map(|(ours, theirs)| format!("{ours:?}\n  and {theirs:?}")).next()
    }

    fn by(&self, group: &[String]) -> BTreeMap<String, &Vec<Cell>> {
        let groups = self.of_columns(group).into_iter().map(|group| format!("{group:?}"));
        groups.zip(&self.rows).collect()
    }
}

fn cells(kind: Kind, column: &dyn Array) -> Vec<Cell> {
    let as_type = |data_type: &DataType| cast(column, data_type).expect("a type that can be compared");
    match kind {
        Kind::Int => {
            let column = as_type(&DataType::Int64);
            column.as_primitive::<Int64Type>().iter().map(|value| value.map_or(Cell::Null, Cell::Int)).collect()
        }
        Kind::Float => {
            let column = as_type(&DataType::Float64);
            let values = column.as_primitive::<Float64Type>().iter();
            values.map(|value| value.filter(|value| value.is_finite()).map_or(Cell::Null, Cell::Float)).collect()
        }
        Kind::Time => {
            let column = as_type(&DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())));
            let values = column.as_primitive::<TimestampMicrosecondType>().iter();
            values.map(|value| value.map_or(Cell::Null, Cell::Time)).collect()
        }
        Kind::Text => {
            let column = as_type(&DataType::Utf8);
            let values = column.as_string::<i32>().iter();
            values.map(|value| value.map_or(Cell::Null, |text| Cell::Text(text.to_owned()))).collect()
        }
    }
}

/// Everything but floats is equal or it is not.
fn agree(ours: &Cell, theirs: &Cell) -> bool {
    match (ours, theirs) {
        // Absolute below one: what is left of sums that cancel.
        (Cell::Float(ours), Cell::Float(theirs)) => {
            (ours - theirs).abs() <= 1e-9 * ours.abs().max(theirs.abs()).max(1.0)
        }
        _ => ours == theirs,
    }
}
