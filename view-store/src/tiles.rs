//! Rows of the tiles that a read wants, where the order of the keys does not say which they are.

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp;
use arrow::compute::{and, filter_record_batch, is_not_null};
use datafusion::scalar::ScalarValue;
use views::ViewError;

use crate::error::Result;
use crate::store::StateRows;

/// Which tiles are wanted, where the order of the keys does not say it.
pub(crate) struct Tiles {
    pub column: usize,
    pub from: Option<ScalarValue>,
    pub to: Option<ScalarValue>,
    /// The keys in range are the tiles in range, but for null tiles.
    pub nulls_only: bool,
}

impl Tiles {
    /// Drops the rows outside; a null tile is neither before nor after anything.
    pub fn keep(&self, rows: StateRows) -> Result<StateRows> {
        let column = rows.states.column(self.column);
        if self.nulls_only && column.null_count() == 0 {
            return Ok(rows);
        }
        let mut kept = is_not_null(column).map_err(ViewError::from)?;
        if let Some(from) = &self.from {
            let from = from.to_scalar().map_err(ViewError::from)?;
            kept = and(&kept, &cmp::gt_eq(column, &from).map_err(ViewError::from)?).map_err(ViewError::from)?;
        }
        if let Some(to) = &self.to {
            let to = to.to_scalar().map_err(ViewError::from)?;
            kept = and(&kept, &cmp::lt(column, &to).map_err(ViewError::from)?).map_err(ViewError::from)?;
        }
        filter(rows, &kept)
    }
}

fn filter(rows: StateRows, kept: &BooleanArray) -> Result<StateRows> {
    let states: RecordBatch = filter_record_batch(&rows.states, kept).map_err(ViewError::from)?;
    let wanted = kept.iter().map(|kept| kept.unwrap_or(false));
    let origins = rows.origins.into_iter().zip(wanted).filter_map(|(origin, kept)| kept.then_some(origin)).collect();
    Ok(StateRows { states, origins })
}
