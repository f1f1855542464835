//! Group columns as CQL columns that an operator can read. Never read back: the encoded group is what counts. So a type that CQL
//! lacks becomes the nearest one or text, and long text is cut.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use scylla::value::{CqlDate, CqlTimestamp, CqlValue};
use views::ViewError;

use crate::error::Result;

/// The CQL type of a group column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bigint,
    Boolean,
    Double,
    Date,
    Timestamp,
    Blob,
}

impl Kind {
    /// The nearest type to an Arrow type.
    pub fn of(data_type: &DataType) -> Self {
        use DataType::{
            Binary, BinaryView, Boolean, Date32, Date64, FixedSizeBinary, Float16, Float32, Float64, Int8, Int16,
            Int32, Int64, LargeBinary, Timestamp, UInt8, UInt16, UInt32,
        };
        match data_type {
            Boolean => Self::Boolean,
            Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => Self::Bigint,
            Float16 | Float32 | Float64 => Self::Double,
            Date32 | Date64 => Self::Date,
            Timestamp(..) => Self::Timestamp,
            Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Self::Blob,
            _ => Self::Text,
        }
    }

    /// Its name in CQL.
    pub fn cql(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bigint => "bigint",
            Self::Boolean => "boolean",
            Self::Double => "double",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Blob => "blob",
        }
    }

    /// What stands for null where null cannot be: in a key.
    pub fn nothing(self) -> CqlValue {
        match self {
            Self::Text => CqlValue::Text(String::new()),
            Self::Bigint => CqlValue::BigInt(0),
            Self::Boolean => CqlValue::Boolean(false),
            Self::Double => CqlValue::Double(0.0),
            Self::Date => CqlValue::Date(CqlDate(1 << 31)),
            Self::Timestamp => CqlValue::Timestamp(CqlTimestamp(0)),
            Self::Blob => CqlValue::Blob(Vec::new()),
        }
    }

    /// The values of a column, text and bytes cut to `longest` bytes.
    pub fn values(self, column: &ArrayRef, longest: usize) -> Result<Vec<Option<CqlValue>>> {
        let of = |wanted: &DataType| cast(column, wanted).map_err(ViewError::from);
        let rows = 0..column.len();
        Ok(match self {
            Self::Boolean => {
                let values = column.as_boolean();
                rows.map(|row| values.is_valid(row).then(|| CqlValue::Boolean(values.value(row)))).collect()
            }
            Self::Bigint => {
                of(&DataType::Int64)?.as_primitive::<Int64Type>().iter().map(|n| n.map(CqlValue::BigInt)).collect()
            }
            Self::Double => {
                of(&DataType::Float64)?.as_primitive::<Float64Type>().iter().map(|n| n.map(CqlValue::Double)).collect()
            }
            Self::Date => {
                // CQL counts days from 2^31 days before the epoch.
                let day = |days: i32| CqlValue::Date(CqlDate((days as u32).wrapping_add(1 << 31)));
                of(&DataType::Date32)?.as_primitive::<Date32Type>().iter().map(|days| days.map(day)).collect()
            }
            Self::Timestamp => {
                let millis = |micros: i64| CqlValue::Timestamp(CqlTimestamp(micros.div_euclid(1000)));
                let micros = micros(column)?;
                micros.map(|micros| micros.iter().map(|micros| micros.map(millis)).collect()).unwrap_or_default()
            }
            Self::Blob => {
                let values = of(&DataType::Binary)?;
                let values = values.as_binary::<i32>();
                let cut = |bytes: &[u8]| CqlValue::Blob(bytes[..bytes.len().min(longest)].to_vec());
                values.iter().map(|bytes| bytes.map(cut)).collect()
            }
            Self::Text => {
                let options = FormatOptions::new();
                let shown = ArrayFormatter::try_new(column, &options).map_err(ViewError::from)?;
                rows.map(|row| {
                    column.is_valid(row).then(|| {
                        let mut text = shown.value(row).to_string();
                        text.truncate(text.floor_char_boundary(longest));
                        CqlValue::Text(text)
                    })
                })
                .collect()
            }
        })
    }
}

/// A time column in microseconds since the epoch; `None` when it is of another type.
pub fn micros(column: &ArrayRef) -> Result<Option<Int64Array>> {
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        DataType::Date32 | DataType::Date64 => None,
        _ => return Ok(None),
    };
    // The zone stays as it is: only the unit changes.
    let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone)).map_err(ViewError::from)?;
    let micros: Arc<dyn Array> = cast(&micros, &DataType::Int64).map_err(ViewError::from)?;
    Ok(Some(micros.as_primitive::<Int64Type>().clone()))
}
