//! How a datum of one schema is read by another, and the check that a datum is what its schema says. The steps were
//! planned by `plan`.
//!
//! Every datum is walked, whole, whatever is wanted of it. So what is rejected depends on the event alone, not on the columns
//! somebody reads; and an event of an older schema is rewritten to the reader's, so that any mix of schemas decodes into one
//! batch. An event that was written with the source's own schema is only checked, not copied.

use datafusion::arrow::datatypes::i256;
use views::avro::Record;

use super::leaf::{self, cut_short, fail};
use super::plan::Planner;
use crate::encode::path::Problem;
use crate::encode::wire::{get_long, put_long};

/// Items that take no bytes (nulls) an array may have: their number is not bounded by the size of the datum.
pub(super) const MAX_EMPTY_ITEMS: i64 = 4096;
/// How large one event may become when it is rewritten. Defaults could multiply it.
const MAX_REWRITTEN_BYTES: usize = 64 << 20;

/// How one writer schema is read by one reader schema.
#[derive(Debug)]
pub(crate) struct Resolution {
    record: RecordStep,
    /// Datums of the writer's are datums of the reader's, byte for byte.
    identical: bool,
    /// Values the writer can write and the reader cannot read.
    gaps: Vec<Problem>,
}

impl Resolution {
    /// Plans how to read what `writer` wrote as `reader`.
    ///
    /// # Errors
    ///
    /// The path and the reason when no event of the writer's can be read. Where only some cannot, see [`Self::gaps`].
    pub(crate) fn new(writer: &Record, reader: &Record) -> Result<Self, Problem> {
        let mut planner = Planner::new();
        let record = planner.record(writer, reader)?;
        Ok(Self { record, identical: planner.identical, gaps: planner.gaps })
    }

    /// Whether a datum can be left as it is.
    pub(crate) fn is_identical(&self) -> bool {
        self.identical
    }

    /// Why some events of the writer's cannot be read, if so.
    pub(crate) fn gaps(&self) -> &[Problem] {
        &self.gaps
    }

    /// Checks a datum: it is one, all of it, and the reader can read it.
    pub(crate) fn check(&self, datum: &[u8]) -> Result<(), Box<Problem>> {
        self.walk(datum, &mut Nothing)
    }

    /// Checks a datum and appends it as the reader's schema has it.
    pub(crate) fn rewrite(&self, datum: &[u8], out: &mut Vec<u8>) -> Result<(), Box<Problem>> {
        let start = out.len();
        let end = start + MAX_REWRITTEN_BYTES;
        let outcome = self.walk(datum, &mut Output { out, end });
        if outcome.is_err() {
            out.truncate(start);
        }
        outcome
    }

    /// The bytes of one of the reader's fields in a datum that was already checked, when the schemas are identical.
    pub(crate) fn field<'a>(&self, datum: &'a [u8], index: usize) -> Result<&'a [u8], Box<Problem>> {
        let mut input = datum;
        let mut empty_items = MAX_EMPTY_ITEMS;
        for (at, op) in self.record.ops.iter().enumerate() {
            let before = input;
            if let Op::Keep(_, step) | Op::Skip(_, step) = op {
                step.walk(&mut input, &mut Nothing, &mut empty_items)?;
            }
            if at == index {
                return Ok(&before[..before.len() - input.len()]);
            }
        }
        fail("no such field")
    }

    /// Cuts the first datum off bytes that hold several, and checks it.
    pub(crate) fn split_off<'a>(&self, datums: &mut &'a [u8]) -> Result<&'a [u8], Box<Problem>> {
        let before = *datums;
        let mut empty_items = MAX_EMPTY_ITEMS;
        self.record.walk(datums, &mut Nothing, &mut empty_items)?;
        Ok(&before[..before.len() - datums.len()])
    }

    fn walk<S: Sink>(&self, datum: &[u8], sink: &mut S) -> Result<(), Box<Problem>> {
        let mut input = datum;
        let mut empty_items = MAX_EMPTY_ITEMS;
        self.record.walk(&mut input, sink, &mut empty_items)?;
        if input.is_empty() { Ok(()) } else { fail(format!("{} bytes too many at the end", input.len())) }
    }
}

/// The checks of each field of a schema, in order.
///
/// # Errors
///
/// The path and the reason when a type cannot be read at all.
pub(super) fn field_checks(schema: &Record) -> Result<Vec<Step>, Problem> {
    let mut planner = Planner::new();
    let check = |field: &views::avro::Field| planner.step(&field.data, &field.data);
    schema.fields.iter().map(check).collect()
}

/// Where the rewritten datum goes.
trait Sink {
    const WRITES: bool;
    fn put(&mut self, bytes: &[u8]);
    fn put_long(&mut self, value: i64);
    fn is_full(&self) -> bool;
}

struct Nothing;

impl Sink for Nothing {
    const WRITES: bool = false;
    #[inline]
    fn put(&mut self, _: &[u8]) {}
    #[inline]
    fn put_long(&mut self, _: i64) {}
    #[inline]
    fn is_full(&self) -> bool {
        false
    }
}

struct Output<'a> {
    out: &'a mut Vec<u8>,
    end: usize,
}

impl Sink for Output<'_> {
    const WRITES: bool = true;
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
    #[inline]
    fn put_long(&mut self, value: i64) {
        put_long(self.out, value);
    }
    #[inline]
    fn is_full(&self) -> bool {
        self.out.len() > self.end
    }
}

/// How one value is read.
#[derive(Debug)]
pub(super) enum Step {
    Null,
    Boolean,
    Int,
    Long,
    /// A long between these, both included.
    Timestamp(i64, i64),
    Float,
    Double,
    Bytes,
    /// `string`, or `bytes` that are read as one.
    Text,
    Fixed(usize),
    Decimal {
        size: Option<usize>,
        /// The first unscaled value with too many digits.
        limit: i256,
    },
    /// For each symbol of the writer's, the reader's index.
    Enum(Box<[Option<i64>]>),
    IntToFloat,
    IntToDouble,
    LongToFloat,
    LongToDouble,
    FloatToDouble,
    Array {
        items: Box<Step>,
        /// Items may take no bytes at all.
        empty_items: bool,
    },
    Map(Box<Step>),
    Union(Box<[Branch]>),
    /// The writer has no union here, the reader does.
    Wrap(i64, Box<Step>),
    Record(RecordStep),
}

#[derive(Debug)]
pub(super) enum Branch {
    /// Goes to the reader's branch of that index, or to its only type.
    To(Option<i64>, Step),
    /// The reader has no place for it.
    Nowhere(String),
}

#[derive(Debug)]
pub(super) struct RecordStep {
    /// In the order of the writer's fields, with defaults where the reader's order wants them.
    pub ops: Box<[Op]>,
    /// When the reader's order is another: for each of its fields, the op that makes it.
    pub order: Option<Box<[usize]>>,
}

#[derive(Debug)]
pub(super) enum Op {
    Keep(String, Step),
    Skip(String, Step),
    Default(Box<[u8]>),
}

impl RecordStep {
    fn walk<S: Sink>(&self, input: &mut &[u8], sink: &mut S, empty_items: &mut i64) -> Result<(), Box<Problem>> {
        if S::WRITES && self.order.is_some() {
            return self.reorder(input, sink, empty_items);
        }
        for op in &self.ops {
            match op {
                Op::Keep(name, step) => {
                    step.walk(input, sink, empty_items).map_err(within(name))?;
                }
                Op::Skip(name, step) => {
                    step.walk(input, &mut Nothing, empty_items).map_err(within(name))?;
                }
                Op::Default(bytes) => sink.put(bytes),
            }
        }
        Ok(())
    }

    fn reorder<S: Sink>(&self, input: &mut &[u8], sink: &mut S, empty_items: &mut i64) -> Result<(), Box<Problem>> {
        let mut scratch = Vec::new();
        let mut spans = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            let start = scratch.len();
            let mut output = Output { out: &mut scratch, end: MAX_REWRITTEN_BYTES };
            match op {
                Op::Keep(name, step) => {
                    step.walk(input, &mut output, empty_items).map_err(within(name))?;
                }
                Op::Skip(name, step) => {
                    step.walk(input, &mut Nothing, empty_items).map_err(within(name))?;
                }
                Op::Default(bytes) => output.put(bytes),
            }
            spans.push(start..scratch.len());
        }
        for &op in self.order.iter().flatten() {
            sink.put(&scratch[spans[op].clone()]);
        }
        Ok(())
    }
}

#[cold]
pub(super) fn within(name: &str) -> impl Fn(Box<Problem>) -> Box<Problem> {
    move |problem| Box::new(problem.within_field(name))
}

impl Step {
    /// Checks a value. The commonest types of fields go without the call that others need.
    #[inline(always)]
    pub(super) fn check(&self, input: &mut &[u8], empty_items: &mut i64) -> Result<(), Box<Problem>> {
        let step = match self {
            Self::Union(branches) => match leaf::index(input, branches.len())?.map(|index| &branches[index]) {
                Ok(Branch::To(_, step)) => step,
                Ok(Branch::Nowhere(reason)) => return fail(reason.clone()),
                Err(index) => return leaf::no_branch(index, branches.len()),
            },
            step => step,
        };
        match step {
            Self::Null => Ok(()),
            Self::Int => leaf::int(input).map(drop),
            Self::Long => leaf::long(input).map(drop),
            Self::Text => leaf::text(input).map(drop),
            step => {
                // Of a copy, so that `input` itself can stay in registers.
                let mut rest = *input;
                let outcome = step.walk(&mut rest, &mut Nothing, empty_items);
                *input = rest;
                outcome
            }
        }
    }

    fn walk<S: Sink>(&self, input: &mut &[u8], sink: &mut S, empty_items: &mut i64) -> Result<(), Box<Problem>> {
        let before = *input;
        match self {
            Self::Null => return Ok(()),
            Self::Boolean => _ = leaf::boolean(input)?,
            Self::Int => _ = leaf::int(input)?,
            Self::Long => _ = leaf::long(input)?,
            Self::Timestamp(least, most) => _ = leaf::timestamp(input, *least, *most)?,
            Self::Float => _ = leaf::float(input)?,
            Self::Double => _ = leaf::double(input)?,
            Self::Fixed(size) => _ = leaf::exact(input, *size)?,
            Self::Bytes => _ = leaf::bytes(input)?,
            Self::Text => _ = leaf::text(input)?,
            Self::Decimal { size, limit } => {
                let bytes = match size {
                    Some(size) => leaf::exact(input, *size),
                    None => leaf::bytes(input),
                };
                check_decimal(bytes?, *limit)?;
            }
            Self::Enum(mapping) => {
                match leaf::index(input, mapping.len())?.map(|index| mapping[index]) {
                    Ok(Some(to)) => sink.put_long(to),
                    Ok(None) => return fail("a symbol that the reader's schema does not have"),
                    Err(index) => return leaf::no_symbol(index, mapping.len()),
                }
                return Ok(());
            }
            Self::IntToFloat => {
                let value = leaf::int(input)?;
                sink.put(&(value as f32).to_le_bytes());
                return Ok(());
            }
            Self::IntToDouble => {
                let value = leaf::int(input)?;
                sink.put(&f64::from(value).to_le_bytes());
                return Ok(());
            }
            Self::LongToFloat => {
                let value = leaf::long(input)?;
                sink.put(&(value as f32).to_le_bytes());
                return Ok(());
            }
            Self::LongToDouble => {
                let value = leaf::long(input)?;
                sink.put(&(value as f64).to_le_bytes());
                return Ok(());
            }
            Self::FloatToDouble => {
                let value = leaf::float(input)?;
                sink.put(&f64::from(value).to_le_bytes());
                return Ok(());
            }
            Self::Array { items, empty_items: may_be_empty } => {
                return blocks(input, sink, |input, sink, index, count| {
                    if *may_be_empty && index == 0 {
                        *empty_items -= count;
                        if *empty_items < 0 {
                            return fail(format!("more than {MAX_EMPTY_ITEMS} items that take no bytes"));
                        }
                    }
                    items.walk(input, sink, empty_items)
                });
            }
            Self::Map(values) => {
                return blocks(input, sink, |input, sink, _, _| {
                    let before = *input;
                    leaf::text(input)?;
                    sink.put(&before[..before.len() - input.len()]);
                    values.walk(input, sink, empty_items)
                });
            }
            Self::Union(branches) => match leaf::index(input, branches.len())?.map(|index| &branches[index]) {
                Ok(Branch::To(to, step)) => {
                    if let Some(to) = to {
                        sink.put_long(*to);
                    }
                    return step.walk(input, sink, empty_items);
                }
                Ok(Branch::Nowhere(reason)) => return fail(reason.clone()),
                Err(index) => return leaf::no_branch(index, branches.len()),
            },
            Self::Wrap(to, step) => {
                sink.put_long(*to);
                return step.walk(input, sink, empty_items);
            }
            Self::Record(record) => return record.walk(input, sink, empty_items),
        }
        // What came to here has the same bytes in the reader's schema.
        sink.put(&before[..before.len() - input.len()]);
        Ok(())
    }
}

/// Walks the blocks of an array or a map. `item` is told its index in its block, and the block's count.
fn blocks<S: Sink>(
    input: &mut &[u8],
    sink: &mut S,
    mut item: impl FnMut(&mut &[u8], &mut S, i64, i64) -> Result<(), Box<Problem>>,
) -> Result<(), Box<Problem>> {
    let mut number = 0;
    loop {
        let mut count = get_long(input).ok_or_else(cut_short)?;
        let mut end = None;
        if count < 0 {
            count = count.checked_neg().ok_or_else(cut_short)?;
            let size = get_long(input).and_then(|size| usize::try_from(size).ok()).ok_or_else(cut_short)?;
            end = Some(input.len().checked_sub(size).ok_or_else(cut_short)?);
        }
        sink.put_long(count);
        if count == 0 {
            return if end.is_none_or(|end| end == input.len()) { Ok(()) } else { Err(cut_short()) };
        }
        for index in 0..count {
            item(input, sink, index, count).map_err(|problem| Box::new(problem.within_item(number)))?;
            if sink.is_full() {
                return fail(format!("larger than {MAX_REWRITTEN_BYTES} bytes in the reader's schema"));
            }
            number += 1;
        }
        if end.is_some_and(|end| end != input.len()) {
            return fail("a block whose size is not what it says");
        }
    }
}

fn check_decimal(bytes: &[u8], limit: i256) -> Result<(), Box<Problem>> {
    let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [sign; 32];
    if bytes.len() <= wide.len() {
        wide[32 - bytes.len()..].copy_from_slice(bytes);
    } else {
        let (extra, kept) = bytes.split_at(bytes.len() - wide.len());
        if extra.iter().any(|byte| *byte != sign) || (kept[0] ^ sign) & 0x80 != 0 {
            return fail("a decimal with too many digits");
        }
        wide.copy_from_slice(kept);
    }
    let value = i256::from_be_bytes(wide);
    if value >= limit || value <= limit.wrapping_neg() {
        return fail("a decimal with too many digits");
    }
    Ok(())
}
