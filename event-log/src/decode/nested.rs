//! Columns that are not flat, by `arrow-avro`.
//!
//! It is only given datums that were checked, in the source's schema. Should it refuse one all the same, it is found by
//! halving, and its event is rejected.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray as _, ListArray, MapArray, RecordBatch, StructArray, UnionArray,
};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use views::avro::Record;

use crate::encode::wire::put_frame;
use crate::error::Result;

/// The schema id of every frame that `arrow-avro` is given, whatever schema the event was written with.
const FRAME_ID: u32 = 0;

/// Collects datums, and decodes some of their fields.
pub(super) struct Nested {
    schema: Record,
    wanted: Record,
    /// Datums, each in its frame, end to end.
    frames: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// Kept between calls for its buffers.
    decoder: Option<Decoder>,
}

/// What became of the datums.
pub(super) struct Outcome {
    /// The wanted columns of those that were decoded.
    pub columns: Vec<ArrayRef>,
    /// Those that `arrow-avro` refused, by their number, with its reason.
    pub refused: BTreeMap<usize, String>,
}

impl Nested {
    /// For datums of `schema`, of which `wanted` has the fields that are wanted.
    ///
    /// # Errors
    ///
    /// When `arrow-avro` does not take the schema.
    pub fn new(schema: Record, wanted: Record) -> Result<Self, ArrowError> {
        let mut nested = Self { schema, wanted, frames: Vec::new(), ends: Vec::new(), decoder: None };
        nested.decoder = Some(nested.decoder()?);
        Ok(nested)
    }

    /// Adds a datum.
    pub fn push(&mut self, datum: &[u8]) {
        put_frame(&mut self.frames, FRAME_ID);
        self.frames.extend_from_slice(datum);
        self.ends.push(self.frames.len());
    }

    /// Lets go of all datums.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.ends.clear();
    }

    /// Decodes the datums and lets go of them.
    pub fn take(&mut self) -> Result<Outcome, ArrowError> {
        let outcome = self.decode();
        self.clear();
        outcome
    }

    fn decode(&mut self) -> Result<Outcome, ArrowError> {
        let all = 0..self.ends.len();
        if let Ok(batch) = self.try_decode(all.clone()) {
            return Ok(Outcome { columns: batch.columns().to_vec(), refused: BTreeMap::new() });
        }
        let mut batches = Vec::new();
        let mut refused = BTreeMap::new();
        let mut pending = vec![all];
        while let Some(range) = pending.pop() {
            match self.try_decode(range.clone()) {
                Ok(batch) => batches.push(batch),
                Err(e) if range.len() <= 1 => _ = refused.insert(range.start, e.to_string()),
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    pending.push(middle..range.end);
                    pending.push(range.start..middle);
                }
            }
        }
        let schema = match batches.first() {
            Some(batch) => batch.schema(),
            None => self.decoder()?.schema(),
        };
        Ok(Outcome { columns: concat_batches(&schema, &batches)?.columns().to_vec(), refused })
    }

    fn try_decode(&mut self, datums: Range<usize>) -> Result<RecordBatch, ArrowError> {
        // Taken out: after an error its columns are of different lengths, and it is not put back.
        let mut decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => self.decoder()?,
        };
        let mut start = datums.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        for &end in &self.ends[datums.clone()] {
            if decoder.decode(&self.frames[start..end])? != end - start {
                return Err(unexpected());
            }
            start = end;
        }
        let schema = decoder.schema();
        let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone()));
        if batch.num_rows() != datums.len() {
            return Err(unexpected());
        }
        // arrow-avro 59 keeps counting the rows of a union's branches after a flush: such a decoder is used once.
        if !schema.fields().iter().any(|field| has_union(field.data_type())) {
            self.decoder = Some(decoder);
        }
        Ok(batch)
    }

    fn decoder(&self) -> Result<Decoder, ArrowError> {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(FRAME_ID), AvroSchema::new(self.schema.arrow_json()))?;
        let builder = ReaderBuilder::new()
            .with_writer_schema_store(store)
            .with_reader_schema(AvroSchema::new(self.wanted.arrow_json()))
            .with_batch_size(usize::MAX);
        builder.build_decoder()
    }
}

fn unexpected() -> ArrowError {
    ArrowError::ParseError("not exactly one event in a frame".to_owned())
}

fn has_union(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(..) => true,
        DataType::List(item) | DataType::Map(item, _) => has_union(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_union(field.data_type())),
        _ => false,
    }
}

/// Gives an array the type that SQL was promised: enums as text, no metadata on inner fields.
pub(super) fn normalise(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    Ok(match (array.data_type(), to) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let array = array.as_struct();
            let columns = array.columns().iter().zip(fields);
            let columns: Result<Vec<_>> = columns.map(|(column, field)| normalise(column, field.data_type())).collect();
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns?, array.nulls().cloned(), array.len())?)
        }
        (DataType::List(_), DataType::List(item)) => {
            let array = array.as_list::<i32>();
            let values = normalise(array.values(), item.data_type())?;
            Arc::new(ListArray::try_new(item.clone(), array.offsets().clone(), values, array.nulls().cloned())?)
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let array = array.as_map();
            let inner: ArrayRef = Arc::new(array.entries().clone());
            let inner = normalise(&inner, entries.data_type())?.as_struct().clone();
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            Arc::new(MapArray::try_new(entries.clone(), offsets, inner, nulls, *sorted)?)
        }
        (DataType::Union(..), DataType::Union(fields, _)) => {
            let array = array.as_any().downcast_ref::<UnionArray>().ok_or_else(unexpected)?;
            let children = fields.iter().map(|(id, field)| normalise(array.child(id), field.data_type()));
            let children: Result<Vec<_>> = children.collect();
            let offsets = array.offsets().cloned();
            Arc::new(UnionArray::try_new(fields.clone(), array.type_ids().clone(), offsets, children?)?)
        }
        _ => cast(array, to)?,
    })
}
