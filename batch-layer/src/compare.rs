//! Compares what is served with what was recomputed: row by row, column by column, as exactly as each column promises.
//!
//! Rows belong together when the group columns they show are equal. `Exact` columns must then be bit-equal; `Float`
//! columns may differ by 1e-9, relative (absolute, for values smaller than one: sums may cancel); `Sketch` columns by 5 %.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use datafusion::error::Result;
use datafusion::scalar::ScalarValue;
use serde::Serialize;
use views::View;
use views::view::Exactness;

use crate::retention;

const FLOAT_TOLERANCE: f64 = 1e-9;
const SKETCH_TOLERANCE: f64 = 0.05;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// How many different groups were compared.
    pub groups: u64,
    /// How many cells and rows differ.
    pub different: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// Something that should be equal and is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The shown group columns with their values.
    pub key: Vec<(String, String)>,
    /// The column; `None` when a whole row is there on one side only.
    pub column: Option<String>,
    /// What was recomputed; `None` when there is no such row.
    pub recomputed: Option<String>,
    /// What is served; `None` when there is no such row.
    pub served: Option<String>,
}

/// Compares two answers in the shape of the view's `output_schema`, naming up to `limit` differences.
///
/// Tiles at or before `horizon` (see [`retention::horizon`]) may be served or not, and are left out on both sides.
///
/// # Errors
///
/// When a batch has not the view's shape.
pub fn compare(
    view: &View,
    recomputed: &[RecordBatch],
    served: &[RecordBatch],
    horizon: Option<i64>,
    limit: usize,
) -> Result<Comparison> {
    let (recomputed, served) = (shaped(view, recomputed, horizon)?, shaped(view, served, horizon)?);
    let mut keys: Vec<usize> = view.group_outputs.iter().flatten().copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let rows_of = |batch: &RecordBatch| Rows::of(view, batch, &keys);
    let mut groups: BTreeMap<OwnedRow, [Vec<usize>; 2]> = BTreeMap::new();
    let converter = sorter(&recomputed, &keys)?;
    for (side, batch) in [&recomputed, &served].into_iter().enumerate() {
        for (row, key) in rows_of(batch)?.by_key(&converter)? {
            groups.entry(key).or_insert_with(|| [Vec::new(), Vec::new()])[side].push(row);
        }
    }
    let mut found = Comparison { groups: groups.len() as u64, different: 0, differences: Vec::new() };
    let mut note = |difference: Difference| {
        found.different += 1;
        if found.differences.len() < limit {
            found.differences.push(difference);
        }
    };
    for [left, right] in groups.values() {
        for index in 0..left.len().max(right.len()) {
            match (left.get(index), right.get(index)) {
                (Some(left), Some(right)) => {
                    for (place, column) in view.columns.iter().enumerate() {
                        let (ours, theirs) = (recomputed.column(place), served.column(place));
                        if !agree(column.exactness, ours, *left, theirs, *right)? {
                            note(Difference {
                                key: key_of(&recomputed, &keys, *left)?,
                                column: Some(column.name.clone()),
                                recomputed: Some(array_value_to_string(ours, *left)?),
                                served: Some(array_value_to_string(theirs, *right)?),
                            });
                        }
                    }
                }
                (Some(left), None) => note(Difference {
                    key: key_of(&recomputed, &keys, *left)?,
                    column: None,
                    recomputed: Some(text(&recomputed, *left)?),
                    served: None,
                }),
                (None, Some(right)) => note(Difference {
                    key: key_of(&served, &keys, *right)?,
                    column: None,
                    recomputed: None,
                    served: Some(text(&served, *right)?),
                }),
                (None, None) => {}
            }
        }
    }
    Ok(found)
}

/// One batch of the view's output types, without the tiles that are too old.
fn shaped(view: &View, batches: &[RecordBatch], horizon: Option<i64>) -> Result<RecordBatch> {
    let typed = |batch: &RecordBatch| {
        let columns = batch.columns().iter().zip(view.output_schema.fields());
        let columns =
            columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, ArrowError>>()?;
        RecordBatch::try_new(view.output_schema.clone(), columns)
    };
    let batches = batches.iter().map(typed).collect::<Result<Vec<_>, ArrowError>>()?;
    let all = concat_batches(&view.output_schema, &batches)?;
    let tiles = view.time.and_then(|time| view.group_outputs[time.index]);
    match (horizon, tiles) {
        (Some(horizon), Some(tiles)) => Ok(filter_record_batch(&all, &retention::kept(all.column(tiles), horizon)?)?),
        _ => Ok(all),
    }
}

fn sorter(batch: &RecordBatch, columns: &[usize]) -> Result<RowConverter> {
    let field = |column: &usize| SortField::new(batch.column(*column).data_type().clone());
    Ok(RowConverter::new(columns.iter().map(field).collect())?)
}

/// The rows of one side, in an order that does not depend on where they came from: when the view does not show all
/// of its group columns, several rows have the same key and are matched by their exact columns.
struct Rows {
    keys: Vec<ArrayRef>,
    order: Vec<usize>,
}

impl Rows {
    fn of(view: &View, batch: &RecordBatch, keys: &[usize]) -> Result<Self> {
        let sortable = |data_type: &DataType| RowConverter::supports_fields(&[SortField::new(data_type.clone())]);
        let exact: Vec<usize> = (0..view.columns.len())
            .filter(|place| view.columns[*place].exactness == Exactness::Exact)
            .filter(|place| sortable(batch.column(*place).data_type()))
            .collect();
        let columns: Vec<ArrayRef> = exact.iter().map(|column| batch.column(*column).clone()).collect();
        let mut order: Vec<usize> = (0..batch.num_rows()).collect();
        if !columns.is_empty() {
            let rows = sorter(batch, &exact)?.convert_columns(&columns)?;
            order.sort_by(|left, right| rows.row(*left).cmp(&rows.row(*right)));
        }
        Ok(Self { keys: keys.iter().map(|column| batch.column(*column).clone()).collect(), order })
    }

    fn by_key(self, converter: &RowConverter) -> Result<Vec<(usize, OwnedRow)>> {
        if self.keys.is_empty() {
            let nothing = RowConverter::new(vec![SortField::new(DataType::Boolean)])?;
            let same = arrow::array::new_null_array(&DataType::Boolean, self.order.len().min(1));
            let rows = nothing.convert_columns(&[same])?;
            return Ok(self.order.into_iter().map(|row| (row, rows.row(0).owned())).collect());
        }
        let keys = converter.convert_columns(&self.keys)?;
        Ok(self.order.into_iter().map(|row| (row, keys.row(row).owned())).collect())
    }
}

fn key_of(batch: &RecordBatch, keys: &[usize], row: usize) -> Result<Vec<(String, String)>> {
    let value = |column: &usize| {
        let name = batch.schema_ref().field(*column).name().clone();
        Ok((name, array_value_to_string(batch.column(*column), row)?))
    };
    keys.iter().map(value).collect()
}

fn text(batch: &RecordBatch, row: usize) -> Result<String> {
    let values = batch.columns().iter().map(|column| array_value_to_string(column, row));
    Ok(values.collect::<Result<Vec<_>, ArrowError>>()?.join(", "))
}

fn agree(exactness: Exactness, ours: &ArrayRef, left: usize, theirs: &ArrayRef, right: usize) -> Result<bool> {
    let (ours, theirs) = (ScalarValue::try_from_array(ours, left)?, ScalarValue::try_from_array(theirs, right)?);
    if ours == theirs {
        return Ok(true);
    }
    let tolerance = match exactness {
        Exactness::Exact => return Ok(false),
        Exactness::Float => FLOAT_TOLERANCE,
        Exactness::Sketch => SKETCH_TOLERANCE,
    };
    let number = |value: &ScalarValue| match value.cast_to(&DataType::Float64) {
        Ok(ScalarValue::Float64(number)) => number,
        _ => None,
    };
    let (Some(ours), Some(theirs)) = (number(&ours), number(&theirs)) else {
        return Ok(false);
    };
    let scale = ours.abs().max(theirs.abs());
    let scale = if exactness == Exactness::Float { scale.max(1.0) } else { scale };
    Ok(ours.is_nan() && theirs.is_nan() || (ours - theirs).abs() <= tolerance * scale)
}
