//! Finalizing: merged values → the columns the user asked for.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::filter_record_batch;

use crate::error::Result;
use crate::fold::{batch, evaluate, evaluate_filter};
use crate::view::View;

/// Finalized rows, with the groups they belong to.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The view's `output_schema`: what the `SELECT` lists, rows that `HAVING` refuses left out.
    pub rows: RecordBatch,
    /// The view's `group_schema`, row for row.
    pub groups: RecordBatch,
}

impl View {
    /// Computes the `SELECT` list over aggregates and applies `HAVING`.
    ///
    /// `values`: what [`crate::Fold::take_values`] gives.
    ///
    /// # Errors
    ///
    /// [`crate::ViewError::Evaluate`] when an expression fails (a division by zero, a cast).
    pub fn finalize(&self, values: &RecordBatch) -> Result<Answer> {
        let kept;
        let values = match &self.having {
            None => values,
            Some(having) => {
                kept = filter_record_batch(values, &evaluate_filter(having, values)?)?;
                &kept
            }
        };
        let rows = evaluate(&self.outputs, values)?;
        let group_columns = self.group_schema.fields().len();
        Ok(Answer {
            rows: batch(self.output_schema.clone(), rows, values.num_rows())?,
            groups: batch(self.group_schema.clone(), values.columns()[..group_columns].to_vec(), values.num_rows())?,
        })
    }
}
