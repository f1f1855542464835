//! Planning how one schema is read by another: the rules of Avro's schema resolution.
//!
//! Stricter than the letter of Avro in one thing: a logical type may be added or taken away, but not exchanged for another
//! (milliseconds read as microseconds are wrong by a thousand, and nobody would notice).

use datafusion::arrow::datatypes::i256;
use views::avro::{Enum, Fixed, Record, Type, TypeName, Unit};

use super::resolve::{Branch, Op, RecordStep, Step};
use crate::encode::path::Problem;
use crate::encode::value::default_bytes;

/// Makes steps, and notes on the way what they come to.
pub(super) struct Planner {
    /// Values the writer can write and the reader cannot read.
    pub gaps: Vec<Problem>,
    /// Datums of the writer's are datums of the reader's, byte for byte.
    pub identical: bool,
}

impl Planner {
    pub fn new() -> Self {
        Self { gaps: Vec::new(), identical: true }
    }

    pub fn record(&mut self, writer: &Record, reader: &Record) -> Result<RecordStep, Problem> {
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

    pub fn step(&mut self, writer: &Type, reader: &Type) -> Result<Step, Problem> {
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
            let mut planner = Self::new();
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
