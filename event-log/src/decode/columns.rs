//! Flat columns, built while the datum is checked: what `arrow-avro` would make of them, in the pass that is made anyway.
//!
//! A column is *flat* when its type is a primitive, a date or a time, text, bytes or an enum, or one of these or null.
//! All others are only checked here, and decoded by [`super::nested`].

use datafusion::arrow::array::{
    ArrayData, ArrayRef, BooleanBufferBuilder, Int32Array, NullBufferBuilder, StringArray, make_array,
};
use datafusion::arrow::buffer::{Buffer, NullBuffer};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use views::avro::{Record, Type};

use super::MAX_BYTES;
use super::leaf;
use super::resolve::{MAX_EMPTY_ITEMS, Step, field_checks, within};
use crate::encode::path::Problem;

/// Checks datums of one schema, and collects the columns that are wanted of them.
pub(super) struct Columns {
    fields: Box<[Field]>,
    rows: usize,
}

struct Field {
    name: String,
    read: Read,
}

/// What is done with a field of the datum.
enum Read {
    Check(Step),
    Collect(Column),
}

struct Column {
    /// When it is a union with null.
    nulls: Option<Nulls>,
    values: Values,
    data_type: DataType,
}

struct Nulls {
    /// Which of the two branches is null.
    branch: usize,
    valid: NullBufferBuilder,
}

enum Values {
    Boolean(BooleanBufferBuilder),
    Int(Vec<i32>),
    Long(Vec<i64>),
    /// Longs between these, both included.
    Timestamp(i64, i64, Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Slices),
    Text(Slices),
    /// Indices of these symbols.
    Enum(StringArray, Vec<i32>),
}

/// Byte strings end to end.
struct Slices {
    /// Where each begins, and where the last ends.
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Columns {
    /// For datums of `schema`; `wanted` says for each of its fields, by index, as what type it is wanted, if so. Fields that
    /// are wanted but not flat are left out: see [`Self::collects`].
    ///
    /// # Errors
    ///
    /// When a type of the schema cannot be checked.
    pub fn new<'a>(schema: &Record, wanted: impl Fn(usize) -> Option<&'a DataType>) -> Result<Self, Problem> {
        let checks = field_checks(schema)?;
        let fields = schema.fields.iter().zip(checks).enumerate().map(|(index, (field, check))| {
            let column = wanted(index).and_then(|data_type| Column::new(&field.data, data_type));
            Field { name: field.name.clone(), read: column.map_or(Read::Check(check), Read::Collect) }
        });
        Ok(Self { fields: fields.collect(), rows: 0 })
    }

    /// Whether the field of that index is among the columns.
    pub fn collects(&self, index: usize) -> bool {
        matches!(self.fields.get(index), Some(Field { read: Read::Collect(_), .. }))
    }

    /// Checks a datum and adds it as a row, or says what is wrong with it and adds nothing. The datums of all rows together must
    /// be shorter than 2 GiB.
    pub fn push(&mut self, datum: &[u8]) -> Result<(), Box<Problem>> {
        let outcome = self.read(datum);
        match outcome {
            Ok(()) => self.rows += 1,
            Err(_) => self.truncate(self.rows),
        }
        outcome
    }

    fn read(&mut self, datum: &[u8]) -> Result<(), Box<Problem>> {
        let mut input = datum;
        let mut empty_items = MAX_EMPTY_ITEMS;
        for field in &mut self.fields {
            let outcome = match &mut field.read {
                Read::Check(step) => step.check(&mut input, &mut empty_items),
                Read::Collect(column) => column.read(&mut input),
            };
            outcome.map_err(within(&field.name))?;
        }
        if input.is_empty() { Ok(()) } else { leaf::fail(format!("{} bytes too many at the end", input.len())) }
    }

    /// Lets go of all rows after the first so many.
    pub fn truncate(&mut self, rows: usize) {
        self.rows = rows;
        for column in self.collected() {
            if let Some(nulls) = &mut column.nulls {
                nulls.valid.truncate(rows);
            }
            column.values.truncate(rows);
        }
    }

    /// Takes the columns, in the order of the schema.
    ///
    /// # Errors
    ///
    /// When a column is too large for Arrow.
    pub fn take(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        self.collected().map(|column| column.take(rows)).collect()
    }

    fn collected(&mut self) -> impl Iterator<Item = &mut Column> {
        self.fields.iter_mut().filter_map(|field| match &mut field.read {
            Read::Collect(column) => Some(column),
            Read::Check(_) => None,
        })
    }
}

impl Column {
    /// `None` when the type is not flat.
    fn new(avro: &Type, data_type: &DataType) -> Option<Self> {
        let (null, avro) = match avro {
            Type::Union(branches) => match &branches[..] {
                [Type::Null, avro] => (Some(0), avro),
                [avro, Type::Null] => (Some(1), avro),
                _ => return None,
            },
            avro => (None, avro),
        };
        let nulls = null.map(|branch| Nulls { branch, valid: NullBufferBuilder::new(0) });
        Some(Self { nulls, values: Values::new(avro, data_type)?, data_type: data_type.clone() })
    }

    #[inline(always)]
    fn read(&mut self, input: &mut &[u8]) -> Result<(), Box<Problem>> {
        if let Some(nulls) = &mut self.nulls {
            match leaf::index(input, 2)? {
                Ok(branch) if branch == nulls.branch => {
                    nulls.valid.append_null();
                    self.values.push_nothing();
                    return Ok(());
                }
                Ok(_) => nulls.valid.append_non_null(),
                Err(branch) => return leaf::no_branch(branch, 2),
            }
        }
        self.values.read(input)
    }

    fn take(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.as_mut().and_then(|nulls| nulls.valid.finish());
        let buffers = match &mut self.values {
            Values::Boolean(values) => vec![values.finish().into_inner()],
            Values::Int(values) => vec![taken(values)],
            Values::Long(values) | Values::Timestamp(_, _, values) => vec![taken(values)],
            Values::Float(values) => vec![taken(values)],
            Values::Double(values) => vec![taken(values)],
            Values::Bytes(slices) | Values::Text(slices) => {
                let buffers = vec![taken(&mut slices.offsets), taken(&mut slices.bytes)];
                slices.offsets.push(0);
                buffers
            }
            Values::Enum(symbols, indices) => return spell(symbols, taken(indices), rows, nulls),
        };
        let data = ArrayData::builder(self.data_type.clone()).len(rows).nulls(nulls).buffers(buffers);
        Ok(make_array(data.build()?))
    }
}

impl Values {
    fn new(avro: &Type, data_type: &DataType) -> Option<Self> {
        let values = match avro {
            Type::Boolean => Self::Boolean(BooleanBufferBuilder::new(0)),
            Type::Int | Type::Date | Type::TimeMillis => Self::Int(Vec::new()),
            Type::Long | Type::TimeMicros => Self::Long(Vec::new()),
            Type::Timestamp { unit, .. } => {
                let accepted = unit.accepted();
                Self::Timestamp(*accepted.start(), *accepted.end(), Vec::new())
            }
            Type::Float => Self::Float(Vec::new()),
            Type::Double => Self::Double(Vec::new()),
            Type::Bytes => Self::Bytes(Slices::new()),
            Type::String | Type::Uuid => Self::Text(Slices::new()),
            Type::Enum(e) => Self::Enum(StringArray::from_iter_values(&e.symbols), Vec::new()),
            Type::Null
            | Type::Decimal { .. }
            | Type::Fixed(_)
            | Type::FixedUuid(_)
            | Type::Duration(_)
            | Type::Array(_)
            | Type::Map(_)
            | Type::Union(_)
            | Type::Record(_) => return None,
        };
        let same_layout = match &values {
            Self::Boolean(_) => matches!(data_type, DataType::Boolean),
            Self::Int(_) => matches!(data_type, DataType::Int32 | DataType::Date32 | DataType::Time32(_)),
            Self::Long(_) => matches!(data_type, DataType::Int64 | DataType::Time64(_)),
            Self::Timestamp(..) => matches!(data_type, DataType::Timestamp(..)),
            Self::Float(_) => matches!(data_type, DataType::Float32),
            Self::Double(_) => matches!(data_type, DataType::Float64),
            Self::Bytes(_) => matches!(data_type, DataType::Binary),
            Self::Text(_) | Self::Enum(..) => matches!(data_type, DataType::Utf8),
        };
        same_layout.then_some(values)
    }

    #[inline(always)]
    fn read(&mut self, input: &mut &[u8]) -> Result<(), Box<Problem>> {
        match self {
            Self::Boolean(values) => values.append(leaf::boolean(input)?),
            Self::Int(values) => values.push(leaf::int(input)?),
            Self::Long(values) => values.push(leaf::long(input)?),
            Self::Timestamp(least, most, values) => values.push(leaf::timestamp(input, *least, *most)?),
            Self::Float(values) => values.push(leaf::float(input)?),
            Self::Double(values) => values.push(leaf::double(input)?),
            Self::Bytes(slices) => slices.push(leaf::bytes(input)?),
            Self::Text(slices) => slices.push(leaf::text(input)?),
            Self::Enum(symbols, indices) => match leaf::index(input, symbols_in(symbols))? {
                // As many symbols as fit an int.
                Ok(index) => indices.push(index as i32),
                Err(index) => return leaf::no_symbol(index, symbols_in(symbols)),
            },
        }
        Ok(())
    }

    /// The place of a null.
    #[inline]
    fn push_nothing(&mut self) {
        match self {
            Self::Boolean(values) => values.append(false),
            Self::Int(values) | Self::Enum(_, values) => values.push(0),
            Self::Long(values) | Self::Timestamp(_, _, values) => values.push(0),
            Self::Float(values) => values.push(0.0),
            Self::Double(values) => values.push(0.0),
            Self::Bytes(slices) | Self::Text(slices) => slices.push(&[]),
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Self::Boolean(values) => values.truncate(rows),
            Self::Int(values) | Self::Enum(_, values) => values.truncate(rows),
            Self::Long(values) | Self::Timestamp(_, _, values) => values.truncate(rows),
            Self::Float(values) => values.truncate(rows),
            Self::Double(values) => values.truncate(rows),
            Self::Bytes(slices) | Self::Text(slices) => slices.truncate(rows),
        }
    }
}

impl Slices {
    fn new() -> Self {
        Self { offsets: vec![0], bytes: Vec::new() }
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // It fits: all datums together are shorter.
        self.offsets.push(self.bytes.len() as i32);
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.bytes.truncate(self.offsets.last().map_or(0, |end| *end as usize));
    }
}

#[inline]
fn symbols_in(symbols: &StringArray) -> usize {
    symbols.value_offsets().len() - 1
}

/// Takes the values; as much room is kept for those that come next.
fn taken<T: datafusion::arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> Buffer {
    let room = Vec::with_capacity(values.len());
    Buffer::from_vec(std::mem::replace(values, room))
}

/// Symbols by their indices, as text.
fn spell(
    symbols: &StringArray,
    indices: Buffer,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let longest = symbols.iter().flatten().map(str::len).max().unwrap_or(0);
    if rows.saturating_mul(longest) > MAX_BYTES {
        return Err(ArrowError::InvalidArgumentError(format!("the text of {rows} symbols is too long")));
    }
    take(symbols, &Int32Array::try_new(indices.into(), nulls)?, None)
}
