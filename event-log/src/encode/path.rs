//! What is wrong with an event, and where in it. The path is put together on the way out, so that it costs
//! nothing when all is well.

use std::fmt;

use super::json::shortened;

/// A reason with the path of the field it is about: `user.address[2].zip: expected a string, found 12`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// From the innermost to the outermost.
    steps: Vec<Step>,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
    Key(String),
}

impl Problem {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { steps: Vec::new(), reason: reason.into() }
    }

    /// The problem is in this field of a record.
    #[must_use]
    pub(crate) fn within_field(mut self, name: &str) -> Self {
        self.steps.push(Step::Field(shortened(name)));
        self
    }

    /// The problem is in this item of an array.
    #[must_use]
    pub(crate) fn within_item(mut self, index: usize) -> Self {
        self.steps.push(Step::Item(index));
        self
    }

    /// The problem is in the value of this key of a map.
    #[must_use]
    pub(crate) fn within_key(mut self, key: &str) -> Self {
        self.steps.push(Step::Key(shortened(key)));
        self
    }

    /// How deep the problem lies.
    pub(crate) fn depth(&self) -> usize {
        self.steps.len()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().rev().enumerate() {
            match step {
                Step::Field(name) if i == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Item(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        if !self.steps.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}
