//! The options of `WITH (…)`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::statement::Statement;
use crate::error::Problem;

/// One option as written.
#[derive(Debug, Clone)]
pub(super) struct OptionValue {
    pub(super) value: String,
    pub(super) line: usize,
}

/// Options by name.
pub(super) type Options = BTreeMap<String, OptionValue>;

/// Takes options one by one, then refuses what is left.
pub(super) struct OptionReader<'s> {
    statement: &'s Statement,
    left: Options,
    pub(super) problems: Vec<Problem>,
}

impl<'s> OptionReader<'s> {
    pub(super) fn new(statement: &'s Statement) -> Self {
        Self { statement, left: statement.options.clone(), problems: Vec::new() }
    }

    /// The option as text.
    pub(super) fn text(&mut self, name: &str) -> Option<OptionValue> {
        self.left.remove(name)
    }

    pub(super) fn refuse(&mut self, option: &OptionValue, message: impl Into<String>) {
        self.problems.push(self.statement.problem_at(option.line, message));
    }

    /// A duration such as `1 day` or `250ms`.
    pub(super) fn duration(&mut self, name: &str) -> Option<Duration> {
        let option = self.text(name)?;
        match humantime::parse_duration(&option.value) {
            Ok(duration) if !duration.is_zero() => Some(duration),
            Ok(_) => {
                self.refuse(&option, format!("option `{name}` must be longer than zero"));
                None
            }
            Err(error) => {
                let value = &option.value;
                self.refuse(&option, format!("option `{name}`: `{value}` is not a duration such as '1 day': {error}"));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, name: &str, allowed: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let option = self.text(name)?;
        match option.value.parse() {
            Ok(number) if allowed.contains(&number) => Some(number),
            _ => {
                let (least, most, value) = (allowed.start(), allowed.end(), &option.value);
                self.refuse(
                    &option,
                    format!("option `{name}` must be a whole number from {least} to {most}, not `{value}`"),
                );
                None
            }
        }
    }

    /// Refuses every option nobody took; `known` is for the message.
    pub(super) fn finish(mut self, known: &str) -> Vec<Problem> {
        for (name, option) in std::mem::take(&mut self.left) {
            self.refuse(&option, format!("unknown option `{name}`; there are {known}"));
        }
        self.problems
    }
}
