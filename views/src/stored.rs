//! The bytes states are kept as, by stores that keep bytes.
//!
//! A group and a state are each one Arrow row (`arrow::row`): self-delimiting per column, and for groups ordered:
//! `memcmp` of two encoded groups is their order (ascending, nulls first), and the encoding of a key is a prefix of
//! the encodings of its groups. Arrow does not promise that this encoding never changes; neither does DataFusion of its
//! states. That is safe because states are derived data and the view's fingerprint names the versions of both: a
//! state written by other versions is rebuilt, never read ([`FORMAT`]).

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::DataFusionError;
use datafusion::scalar::ScalarValue;

use crate::error::{Result, ViewError};
use crate::fold::batch;
use crate::view::View;

/// The version of everything stored: ours, DataFusion's and Arrow's. Part of every view's fingerprint.
pub const FORMAT: &str = "tidemark-states-1 datafusion-55 arrow-59";

/// How many bytes an encoded group may have: stores keep it as a part of a key, and none takes keys of any length.
pub const MAX_GROUP: usize = 65_000;

/// Refuses groups that are longer than [`MAX_GROUP`] once they are encoded. Costs next to nothing when none can be.
///
/// # Errors
///
/// [`ViewError::Evaluate`], as when an expression fails.
pub(crate) fn check_lengths(groups: &[ArrayRef]) -> Result<()> {
    let at_most: usize = groups.iter().map(encoded_at_most).fold(0, usize::saturating_add);
    if at_most <= MAX_GROUP {
        return Ok(());
    }
    let fields = groups.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let encoded = RowConverter::new(fields)?.convert_columns(groups)?;
    match encoded.iter().map(|group| group.data().len()).find(|length| *length > MAX_GROUP) {
        None => Ok(()),
        Some(length) => Err(ViewError::Evaluate(DataFusionError::Execution(format!(
            "an event's group takes {length} bytes, and at most {MAX_GROUP} can be kept: let the view group by something \
             shorter, like left(url, 1000)"
        )))),
    }
}

/// No value of a column takes more bytes than this in an encoded group.
fn encoded_at_most(column: &ArrayRef) -> usize {
    // Arrow pads what has no fixed length to blocks, each with a byte after it.
    let padded = |longest: usize| longest + longest / 8 + 64;
    let longest = |lengths: &mut dyn Iterator<Item = usize>| padded(lengths.max().unwrap_or(0));
    let of_view = |view: &u128| (*view as u32) as usize;
    match column.data_type() {
        DataType::Utf8 => longest(&mut column.as_string::<i32>().offsets().lengths()),
        DataType::LargeUtf8 => longest(&mut column.as_string::<i64>().offsets().lengths()),
        DataType::Binary => longest(&mut column.as_binary::<i32>().offsets().lengths()),
        DataType::LargeBinary => longest(&mut column.as_binary::<i64>().offsets().lengths()),
        DataType::Utf8View => longest(&mut column.as_string_view().views().iter().map(of_view)),
        DataType::BinaryView => longest(&mut column.as_binary_view().views().iter().map(of_view)),
        DataType::FixedSizeBinary(size) => padded(usize::try_from(*size).unwrap_or(0)),
        DataType::Null | DataType::Boolean => 8,
        fixed if fixed.primitive_width().is_some() => 64,
        _ => usize::MAX,
    }
}

/// Encodes and decodes the groups and states of one view.
#[derive(Debug)]
pub struct StateCodec {
    groups: RowConverter,
    /// The key columns, and the key columns with the time column; `None` for a view without a key, or whose tiles do not
    /// directly follow it.
    key: Option<RowConverter>,
    key_and_time: Option<RowConverter>,
    /// `None` for a view without aggregates.
    states: Option<RowConverter>,
    key_fields: Vec<FieldRef>,
    key_and_time_fields: Vec<FieldRef>,
    state_schema: SchemaRef,
    group_columns: usize,
}

/// Encoded rows.
#[derive(Debug)]
pub struct EncodedStates {
    groups: Rows,
    states: Option<Rows>,
}

impl EncodedStates {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.groups.num_rows()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The encoded group of a row.
    pub fn group(&self, row: usize) -> &[u8] {
        self.groups.row(row).data()
    }

    /// The encoded state of a row.
    pub fn state(&self, row: usize) -> &[u8] {
        self.states.as_ref().map_or(&[], |states| states.row(row).data())
    }
}

impl StateCodec {
    /// The codec of a view.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when Arrow cannot order a group column's type; `check` refuses such a view before.
    pub fn new(view: &View) -> Result<Self> {
        let group_columns = view.group_schema.fields().len();
        let (groups, states) = view.state_schema.fields().split_at(group_columns);
        let key = &groups[..view.key_columns];
        let key_and_time = match view.time {
            Some(time) if time.index == view.key_columns => &groups[..=view.key_columns],
            _ => &[],
        };
        Ok(Self {
            groups: converter(groups)?,
            key: some_converter(key)?,
            key_and_time: some_converter(key_and_time)?,
            states: some_converter(states)?,
            key_fields: key.to_vec(),
            key_and_time_fields: key_and_time.to_vec(),
            state_schema: view.state_schema.clone(),
            group_columns,
        })
    }

    /// Encodes states.
    ///
    /// `states`: the view's `state_schema`.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when the columns are not of the view's types.
    pub fn encode(&self, states: &RecordBatch) -> Result<EncodedStates> {
        let (groups, states) = states.columns().split_at(self.group_columns);
        let states = match &self.states {
            Some(converter) => Some(converter.convert_columns(states)?),
            None => None,
        };
        Ok(EncodedStates { groups: self.groups.convert_columns(groups)?, states })
    }

    /// Encodes the groups of a batch whose first columns are the view's group columns.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when the columns are not of the view's types.
    pub fn encode_groups(&self, groups: &RecordBatch) -> Result<EncodedStates> {
        let groups = self.groups.convert_columns(&groups.columns()[..self.group_columns])?;
        Ok(EncodedStates { groups, states: None })
    }

    /// The bytes with which every encoded group of a key begins.
    ///
    /// # Errors
    ///
    /// [`ViewError::Invalid`] for values that are not of the key columns' types.
    pub fn key_prefix(&self, key: &[ScalarValue]) -> Result<Vec<u8>> {
        encode_scalars(self.key.as_ref(), &self.key_fields, key)
    }

    /// The least bytes of a group of this key whose tile is `time` or later; `None` when tiles do not directly
    /// follow the key.
    ///
    /// # Errors
    ///
    /// [`ViewError::Invalid`] for values that are not of the columns' types.
    pub fn time_bound(&self, key: &[ScalarValue], time: &ScalarValue) -> Result<Option<Vec<u8>>> {
        if self.key_and_time.is_none() {
            return Ok(None);
        }
        let values: Vec<ScalarValue> = key.iter().chain([time]).cloned().collect();
        encode_scalars(self.key_and_time.as_ref(), &self.key_and_time_fields, &values).map(Some)
    }

    /// Decodes rows (group, state) into a batch of the view's `state_schema`.
    ///
    /// The bytes must be what [`StateCodec::encode`] gave: a store keeps a checksum with them and refuses others.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when they do not decode to the view's columns.
    pub fn decode<'r>(&self, rows: impl IntoIterator<Item = (&'r [u8], &'r [u8])>) -> Result<RecordBatch> {
        let (groups, states): (Vec<&[u8]>, Vec<&[u8]>) = rows.into_iter().unzip();
        let count = groups.len();
        let mut columns = decode_rows(&self.groups, &groups)?;
        if let Some(converter) = &self.states {
            columns.extend(decode_rows(converter, &states)?);
        }
        batch(self.state_schema.clone(), columns, count)
    }
}

fn decode_rows(converter: &RowConverter, rows: &[&[u8]]) -> Result<Vec<ArrayRef>> {
    let parser = converter.parser();
    Ok(converter.convert_rows(rows.iter().map(|row| parser.parse(row)))?)
}

fn some_converter(fields: &[FieldRef]) -> Result<Option<RowConverter>> {
    if fields.is_empty() { Ok(None) } else { converter(fields).map(Some) }
}

fn converter(fields: &[FieldRef]) -> Result<RowConverter> {
    let sort_field = |field: &FieldRef| SortField::new(field.data_type().clone());
    Ok(RowConverter::new(fields.iter().map(sort_field).collect())?)
}

/// Whether a column of this type can be a group column: Arrow can order and encode it.
pub(crate) fn can_be_group(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::Map(..) | DataType::Union(..))
        && RowConverter::supports_fields(&[SortField::new(data_type.clone())])
}

fn encode_scalars(converter: Option<&RowConverter>, fields: &[FieldRef], values: &[ScalarValue]) -> Result<Vec<u8>> {
    if fields.len() != values.len() {
        return Err(ViewError::Invalid(format!("{} values for {} columns", values.len(), fields.len())));
    }
    let Some(converter) = converter else {
        return Ok(Vec::new());
    };
    let mut columns = Vec::with_capacity(values.len());
    for (field, value) in fields.iter().zip(values) {
        let column = value.to_array()?;
        if column.data_type() != field.data_type() {
            let (got, wanted) = (column.data_type(), field.data_type());
            return Err(ViewError::Invalid(format!("`{}` is {wanted}, not {got}", field.name())));
        }
        columns.push(column);
    }
    Ok(converter.convert_columns(&columns)?.row(0).data().to_vec())
}
