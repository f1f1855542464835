//! Whether a schema may join the history of its subject: promises 2 and 4 of the registry, the same for every backend.

use std::fmt::Display;

use views::avro::Record;

use crate::decode::resolve::Resolution;
use crate::error::{LogError, Result};

/// Parses a schema that somebody wants to register.
///
/// # Errors
///
/// `Invalid` when it is not the schema of a record.
pub(super) fn parse(subject: &str, schema: &str) -> Result<Record> {
    Record::parse(schema).map_err(|problem| LogError::Invalid(format!("schema for {subject}: {problem}")))
}

/// Refuses a schema with which not all events of an earlier one could be read.
///
/// # Errors
///
/// `Invalid` naming the subject, the earlier schema and the field.
pub(super) fn reads(subject: &str, record: &Record, earlier: &Record, named: impl Display) -> Result<()> {
    let refused = |problem: &dyn Display| {
        LogError::Invalid(format!("schema for {subject} cannot read events of its {named}: {problem}"))
    };
    let resolution = Resolution::new(earlier, record).map_err(|problem| refused(&problem))?;
    resolution.gaps().first().map_or(Ok(()), |gap| Err(refused(gap)))
}
