//! Which tiles are too old to keep.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use views::View;

/// Longer than any calendar unit that has no fixed width (a leap year).
const WIDEST_TILE_US: i64 = 366 * 24 * 3600 * 1_000_000;

/// A tile that begins before this (microseconds since the epoch) ended before the view's retention reaches back to; `None`
/// when the view keeps everything.
pub fn horizon(view: &View, now: DateTime<Utc>) -> Option<i64> {
    let (retention, time) = (view.retention?, view.time?);
    let retention = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    let width = time.width_us.unwrap_or(WIDEST_TILE_US);
    Some(now.timestamp_micros().saturating_sub(retention).saturating_sub(width))
}

/// Which values of a time column are tiles to keep: those past the horizon, and the null tile.
pub fn kept(tiles: &ArrayRef, horizon: i64) -> Result<BooleanArray, ArrowError> {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("+00:00")));
    let micros = cast(&cast(tiles, &utc)?, &DataType::Int64)?;
    let micros = micros.as_primitive::<Int64Type>();
    Ok((0..micros.len()).map(|row| Some(micros.is_null(row) || micros.value(row) > horizon)).collect())
}
