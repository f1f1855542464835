//! How a datum of one schema is read by another: the rules of Avro's schema resolution, and the check that a datum is
//! what its schema says.
//!
//! Every datum is walked once, whole, before `arrow-avro` sees it. So what is rejected depends on the event alone, not
//! on the columns somebody reads; `arrow-avro` only meets sound bytes; and an event of an older schema is rewritten
//! to the reader's, so that any mix of schemas decodes into one batch. An event that was written with the source's
//! own schema is only checked, not copied.
//!
//! Stricter than the letter of Avro in one thing: a logical type may be added or taken away, but not exchanged for another
//! (milliseconds read as microseconds are wrong by a thousand, and nobody would notice).

use datafusion::arrow::datatypes::i256;
use views::avro::{Enum, Fixed, Record, Type, TypeName, Unit};

use crate::encode::path::Problem;
use crate::encode::value::default_bytes;
use crate::encode::wire::{get_bytes, get_exact, get_int, get_long, put_long};

/// Items that take no bytes (nulls) an array may have: their number is not bounded by the size of the datum.
const MAX_EMPTY_ITEMS: i64 = 4096;
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
        let mut planner = Planner { gaps: Vec::new(), identical: true };
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

#[derive(Debug)]
enum Step {
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
enum Branch {
    /// Goes to the reader's branch of that index, or to its only type.
    To(Option<i64>, Step),
    /// The reader has no place for it.
    Nowhere(String),
}

#[derive(Debug)]
struct RecordStep {
    /// In the order of the writer's fields, with defaults where the reader's order wants them.
    ops: Box<[Op]>,
    /// When the reader's order is another: for each of its fields, the op that makes it.
    order: Option<Box<[usize]>>,
}

#[derive(Debug)]
enum Op {
    Keep(String, Step),
    Skip(String, Step),
    Default(Box<[u8]>),
}

fn fail<T>(reason: impl Into<String>) -> Result<T, Box<Problem>> {
    Err(Box::new(Problem::new(reason)))
}

#[cold]
fn cut_short() -> Box<Problem> {
    Box::new(Problem::new("cut short, or not a value of its type"))
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
fn within(name: &str) -> impl Fn(Box<Problem>) -> Box<Problem> {
    move |problem| Box::new(problem.within_field(name))
}

impl Step {
    fn walk<S: Sink>(&self, input: &mut &[u8], sink: &mut S, empty_items: &mut i64) -> Result<(), Box<Problem>> {
        let before = *input;
        match self {
            Self::Null => return Ok(()),
            Self::Boolean => match get_exact(input, 1).ok_or_else(cut_short)? {
                [0 | 1] => {}
                other => return fail(format!("a boolean of {}", other[0])),
            },
            Self::Int => _ = get_int(input).ok_or_else(cut_short)?,
            Self::Long => _ = get_long(input).ok_or_else(cut_short)?,
            Self::Timestamp(least, most) => {
                let value = get_long(input).ok_or_else(cut_short)?;
                if value < *least || value > *most {
                    return fail(format!("the timestamp {value} is not within the years 1678 to 2261"));
                }
            }
            Self::Float => _ = get_exact(input, 4).ok_or_else(cut_short)?,
            Self::Double => _ = get_exact(input, 8).ok_or_else(cut_short)?,
            Self::Fixed(size) => _ = get_exact(input, *size).ok_or_else(cut_short)?,
            Self::Bytes => _ = get_bytes(input).ok_or_else(cut_short)?,
            Self::Text => text(input)?,
            Self::Decimal { size, limit } => {
                let bytes = match size {
                    Some(size) => get_exact(input, *size),
                    None => get_bytes(input),
                };
                check_decimal(bytes.ok_or_else(cut_short)?, *limit)?;
            }
            Self::Enum(mapping) => {
                let index = get_int(input).ok_or_else(cut_short)?;
                match usize::try_from(index).ok().and_then(|index| mapping.get(index)) {
                    Some(Some(to)) => sink.put_long(*to),
                    Some(None) => return fail("a symbol that the reader's schema does not have"),
                    None => return fail(format!("symbol {index} of {}", mapping.len())),
                }
                return Ok(());
            }
            Self::IntToFloat => {
                let value = get_int(input).ok_or_else(cut_short)?;
                sink.put(&(value as f32).to_le_bytes());
                return Ok(());
            }
            Self::IntToDouble => {
                let value = get_int(input).ok_or_else(cut_short)?;
                sink.put(&f64::from(value).to_le_bytes());
                return Ok(());
            }
            Self::LongToFloat => {
                let value = get_long(input).ok_or_else(cut_short)?;
                sink.put(&(value as f32).to_le_bytes());
                return Ok(());
            }
            Self::LongToDouble => {
                let value = get_long(input).ok_or_else(cut_short)?;
                sink.put(&(value as f64).to_le_bytes());
                return Ok(());
            }
            Self::FloatToDouble => {
                let bytes = input.first_chunk::<4>().copied().ok_or_else(cut_short)?;
                *input = &input[4..];
                sink.put(&f64::from(f32::from_le_bytes(bytes)).to_le_bytes());
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
                    text(input)?;
                    sink.put(&before[..before.len() - input.len()]);
                    values.walk(input, sink, empty_items)
                });
            }
            Self::Union(branches) => {
                let index = get_int(input).ok_or_else(cut_short)?;
                match usize::try_from(index).ok().and_then(|index| branches.get(index)) {
                    Some(Branch::To(to, step)) => {
                        if let Some(to) = to {
                            sink.put_long(*to);
                        }
                        return step.walk(input, sink, empty_items);
                    }
                    Some(Branch::Nowhere(reason)) => return fail(reason.clone()),
                    None => return fail(format!("branch {index} of {}", branches.len())),
                }
            }
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

/// Sixteen bytes at a time, the last sixteen again where that is simpler than counting the rest.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    let any = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) & 0x80;
    match bytes.last_chunk::<16>() {
        None => any(bytes) == 0,
        Some(last) => bytes.chunks_exact(16).fold(any(last), |all, chunk| all | any(chunk)) == 0,
    }
}

#[inline]
fn text(input: &mut &[u8]) -> Result<(), Box<Problem>> {
    let bytes = get_bytes(input).ok_or_else(cut_short)?;
    // Most text is short and ASCII.
    if !is_ascii(bytes) && std::str::from_utf8(bytes).is_err() {
        return fail("a string that is not UTF-8");
    }
    Ok(())
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

struct Planner {
    gaps: Vec<Problem>,
    identical: bool,
}

impl Planner {
    fn record(&mut self, writer: &Record, reader: &Record) -> Result<RecordStep, Problem> {
        same_name("record", &writer.name, &reader.name)?;
        // For each reader field, the writer field that it is read from.
        let mut sources: Vec<Option<usize>> = Vec::with_capacity(reader.fields.len());
        for field in &reader.fields {
            let named = |name: &str| writer.fields.iter().position(|w| w.name == name);
            let source = named(&field.name).or_else(|| field.aliases.iter().find_map(|alias| named(alias)));
            sources.push(source.filter(|source| !sources.contains(&Some(*source))));
        }
        let mut steps: Vec<Option<Op>> = Vec::with_capacity(writer.fields.len());
        for (index, field) in writer.fields.iter().enumerate() {
            let target = sources.iter().position(|source| *source == Some(index));
            let at = |problem: Problem| problem.within_field(&field.name);
            let known_gaps = self.gaps.len();
            steps.push(Some(match target {
                Some(target) => {
                    Op::Keep(field.name.clone(), self.step(&field.data, &reader.fields[target].data).map_err(at)?)
                }
                None => {
                    self.identical = false;
                    Op::Skip(field.name.clone(), self.step(&field.data, &field.data).map_err(at)?)
                }
            }));
            let new_gaps: Vec<Problem> = self.gaps.drain(known_gaps..).map(at).collect();
            self.gaps.extend(new_gaps);
        }
        let mut ops = Vec::with_capacity(writer.fields.len() + reader.fields.len());
        let mut order = Vec::with_capacity(reader.fields.len());
        let mut in_order = true;
        let mut next = 0;
        for (field, source) in reader.fields.iter().zip(&sources) {
            match source {
                Some(source) => {
                    in_order &= *source >= next;
                    // Writer fields up to this one come first; they are skipped, or wanted later.
                    while next <= *source {
                        ops.extend(steps[next].take());
                        next += 1;
                    }
                    let name = &writer.fields[*source].name;
                    let made = ops.iter().position(|op| matches!(op, Op::Keep(kept, _) if kept == name));
                    order.extend(made);
                }
                None => {
                    self.identical = false;
                    let Some(default) = &field.default else {
                        return Err(Problem::new("the writer has no such field, and there is no default for it")
                            .within_field(&field.name));
                    };
                    let bytes =
                        default_bytes(&field.data, default).map_err(|problem| problem.within_field(&field.name))?;
                    order.push(ops.len());
                    ops.push(Op::Default(bytes.into()));
                }
            }
        }
        ops.extend(steps.into_iter().flatten());
        self.identical &= in_order;
        Ok(RecordStep { ops: ops.into(), order: (!in_order).then(|| order.into()) })
    }

    fn step(&mut self, writer: &Type, reader: &Type) -> Result<Step, Problem> {
        match (writer, reader) {
            (Type::Union(from), Type::Union(to)) => self.union(from, |planner, branch| planner.choose(branch, to)),
            (Type::Union(from), reader) => {
                self.identical = false;
                self.union(from, |planner, branch| Ok((None, planner.step(branch, reader)?)))
            }
            (writer, Type::Union(to)) => {
                self.identical = false;
                let (index, step) = self.choose(writer, to)?;
                Ok(Step::Wrap(index.unwrap_or_default(), Box::new(step)))
            }
            (Type::Record(from), Type::Record(to)) => Ok(Step::Record(self.record(from, to)?)),
            (Type::Array(from), Type::Array(to)) => {
                Ok(Step::Array { items: Box::new(self.step(from, to)?), empty_items: may_be_empty(from) })
            }
            (Type::Map(from), Type::Map(to)) => Ok(Step::Map(Box::new(self.step(from, to)?))),
            (Type::Enum(from), Type::Enum(to)) => self.symbols(from, to),
            (writer, reader) => self.leaf(writer, reader),
        }
    }

    fn union(
        &mut self,
        from: &[Type],
        mut place: impl FnMut(&mut Self, &Type) -> Result<(Option<i64>, Step), Problem>,
    ) -> Result<Step, Problem> {
        let mut branches = Vec::with_capacity(from.len());
        let mut problems = Vec::new();
        for (index, branch) in from.iter().enumerate() {
            match place(self, branch) {
                Ok((to, step)) => {
                    self.identical &= to == Some(index as i64);
                    branches.push(Branch::To(to, step));
                }
                Err(problem) => {
                    branches.push(Branch::Nowhere(problem.to_string()));
                    problems.push(problem);
                }
            }
        }
        self.identical &= problems.is_empty();
        if problems.len() == from.len() {
            // Not one branch can be read: neither can any event.
            return Err(problems.swap_remove(0));
        }
        self.gaps.append(&mut problems);
        Ok(Step::Union(branches.into()))
    }

    /// The reader's branch for a writer's type: the first that is the same, or else the first that can read it.
    fn choose(&mut self, writer: &Type, to: &[Type]) -> Result<(Option<i64>, Step), Problem> {
        let mut readable = None;
        for (index, branch) in to.iter().enumerate() {
            let mut planner = Planner { gaps: Vec::new(), identical: true };
            if let Ok(step) = planner.step(writer, branch) {
                // Records of the same name are the same branch even when their fields have changed.
                let same = planner.identical || matches!((writer, branch), (Type::Record(_), Type::Record(_)));
                if same || readable.is_none() {
                    readable = Some((index as i64, step, planner));
                }
                if same {
                    break;
                }
            }
        }
        let Some((index, step, planner)) = readable else {
            return Err(Problem::new(format!("{} has no place in the reader's union", name(writer))));
        };
        self.identical &= planner.identical;
        self.gaps.extend(planner.gaps);
        Ok((Some(index), step))
    }

    fn symbols(&mut self, from: &Enum, to: &Enum) -> Result<Step, Problem> {
        same_name("enum", &from.name, &to.name)?;
        let index = |symbol: &String| to.symbols.iter().position(|s| s == symbol).map(|index| index as i64);
        let default = to.default.as_ref().and_then(index);
        let mapping: Box<[Option<i64>]> = from.symbols.iter().map(|symbol| index(symbol).or(default)).collect();
        for (symbol, to) in from.symbols.iter().zip(&mapping) {
            if to.is_none() {
                self.gaps.push(Problem::new(format!("the reader's enum has no symbol {symbol} and no default")));
            }
        }
        // A symbol that only the reader has changes nothing in what the writer wrote.
        self.identical &= mapping.iter().enumerate().all(|(from, to)| *to == Some(from as i64));
        Ok(Step::Enum(mapping))
    }

    fn leaf(&mut self, writer: &Type, reader: &Type) -> Result<Step, Problem> {
        let kept = match (writer, reader) {
            (Type::Null, Type::Null) => Some(Step::Null),
            (Type::Boolean, Type::Boolean) => Some(Step::Boolean),
            (Type::Int | Type::Date | Type::TimeMillis, Type::Int)
            | (Type::Int, Type::Date | Type::TimeMillis)
            | (Type::Date, Type::Date)
            | (Type::TimeMillis, Type::TimeMillis)
            // An int is written as a long is.
            | (Type::Int, Type::Long) => Some(Step::Int),
            (Type::Long | Type::TimeMicros | Type::Timestamp { .. }, Type::Long)
            | (Type::Long, Type::TimeMicros)
            | (Type::TimeMicros, Type::TimeMicros) => Some(Step::Long),
            (Type::Long, Type::Timestamp { unit, .. }) => Some(timestamp(*unit)),
            (Type::Timestamp { .. }, Type::Timestamp { unit, .. }) if writer == reader => Some(timestamp(*unit)),
            (Type::Float, Type::Float) => Some(Step::Float),
            (Type::Double, Type::Double) => Some(Step::Double),
            (Type::Bytes | Type::Decimal { fixed: None, .. }, Type::Bytes) => Some(Step::Bytes),
            (Type::String | Type::Uuid, Type::String | Type::Uuid | Type::Bytes)
            | (Type::Bytes, Type::String | Type::Uuid) => Some(Step::Text),
            (Type::Fixed(from) | Type::FixedUuid(from), Type::Fixed(to) | Type::FixedUuid(to))
            | (Type::Duration(from), Type::Fixed(to) | Type::Duration(to))
            | (Type::Fixed(from), Type::Duration(to))
            | (Type::Decimal { fixed: Some(from), .. }, Type::Fixed(to)) => {
                same_fixed(from, to)?;
                Some(Step::Fixed(from.size))
            }
            (Type::Bytes, Type::Decimal { precision, fixed: None, .. }) => Some(decimal(*precision, None)?),
            (Type::Fixed(from), Type::Decimal { precision, fixed: Some(to), .. }) => {
                same_fixed(from, to)?;
                Some(decimal(*precision, Some(from.size))?)
            }
            (
                Type::Decimal { scale: from_scale, fixed: from, .. },
                Type::Decimal { precision, scale, fixed: to },
            ) if from.is_some() == to.is_some() => {
                if from_scale != scale {
                    return Err(Problem::new(format!("the decimal's scale was {from_scale} and is {scale}")));
                }
                if let (Some(from), Some(to)) = (from, to) {
                    same_fixed(from, to)?;
                }
                Some(decimal(*precision, from.as_ref().map(|fixed| fixed.size))?)
            }
            _ => None,
        };
        if let Some(step) = kept {
            if let (Type::Decimal { precision: from, .. }, Type::Decimal { precision: to, .. }) = (writer, reader)
                && from > to
            {
                self.gaps.push(Problem::new(format!("the decimal's precision was {from} and is {to}")));
            }
            return Ok(step);
        }
        self.identical = false;
        match (writer, reader) {
            (Type::Int, Type::Float) => Ok(Step::IntToFloat),
            (Type::Int, Type::Double) => Ok(Step::IntToDouble),
            (Type::Long, Type::Float) => Ok(Step::LongToFloat),
            (Type::Long, Type::Double) => Ok(Step::LongToDouble),
            (Type::Float, Type::Double) => Ok(Step::FloatToDouble),
            _ => Err(Problem::new(format!("{} cannot be read as {}", name(writer), name(reader)))),
        }
    }
}

fn timestamp(unit: Unit) -> Step {
    let allowed = unit.accepted();
    Step::Timestamp(*allowed.start(), *allowed.end())
}

fn decimal(precision: usize, size: Option<usize>) -> Result<Step, Problem> {
    // 10^76 is the largest power of ten below 2^255.
    match u32::try_from(precision).ok().filter(|p| *p <= 76).and_then(|p| i256::from_i128(10).checked_pow(p)) {
        Some(limit) => Ok(Step::Decimal { size, limit }),
        None => Err(Problem::new(format!("a decimal of {precision} digits: at most 76"))),
    }
}

/// Whether a value may take no bytes.
fn may_be_empty(data: &Type) -> bool {
    match data {
        Type::Null => true,
        Type::Record(record) => record.fields.iter().all(|field| may_be_empty(&field.data)),
        Type::Fixed(fixed) => fixed.size == 0,
        _ => false,
    }
}

fn same_name(kind: &str, writer: &TypeName, reader: &TypeName) -> Result<(), Problem> {
    let short = |full: &str| full.rsplit('.').next().unwrap_or(full).to_owned();
    if short(&writer.full) == short(&reader.full) || reader.aliases.contains(&writer.full) {
        return Ok(());
    }
    Err(Problem::new(format!("the {kind} was named {} and is named {}: give it an alias", writer.full, reader.full)))
}

fn same_fixed(writer: &Fixed, reader: &Fixed) -> Result<(), Problem> {
    same_name("fixed", &writer.name, &reader.name)?;
    if writer.size == reader.size {
        return Ok(());
    }
    Err(Problem::new(format!("the fixed had {} bytes and has {}", writer.size, reader.size)))
}

fn name(data: &Type) -> String {
    match data {
        Type::Null => "null".to_owned(),
        Type::Boolean => "boolean".to_owned(),
        Type::Int => "int".to_owned(),
        Type::Long => "long".to_owned(),
        Type::Float => "float".to_owned(),
        Type::Double => "double".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::String => "string".to_owned(),
        Type::Uuid => "uuid".to_owned(),
        Type::Date => "date".to_owned(),
        Type::TimeMillis => "time-millis".to_owned(),
        Type::TimeMicros => "time-micros".to_owned(),
        Type::Timestamp { unit, local } => {
            format!("{}timestamp-{}", if *local { "local-" } else { "" }, format!("{unit:?}").to_lowercase())
        }
        Type::Decimal { precision, scale, .. } => format!("decimal({precision}, {scale})"),
        Type::Fixed(fixed) | Type::FixedUuid(fixed) | Type::Duration(fixed) => format!("fixed {}", fixed.name.full),
        Type::Enum(e) => format!("enum {}", e.name.full),
        Type::Array(_) => "array".to_owned(),
        Type::Map(_) => "map".to_owned(),
        Type::Union(_) => "union".to_owned(),
        Type::Record(record) => format!("record {}", record.name.full),
    }
}
