//! `CREATE SOURCE`.

use std::collections::HashMap;
use std::time::Duration;

use datafusion::arrow::datatypes::{DataType, SchemaRef};

use super::options::{OptionReader, OptionValue};
use super::statement::Statement;
use crate::error::Problem;
use crate::source::{SYSTEM_COLUMNS, Source};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const OPTIONS: &str = "schema, key, event_time, event_id, dedupe_window, partitions, segment_records, retention";

/// The schema that a source asks for.
pub(super) fn schema_of(statement: &Statement) -> Option<String> {
    let is_source = statement.query.is_none();
    is_source.then(|| OptionReader::new(statement).text("schema")).flatten().map(|schema| schema.value)
}

pub(super) fn compile(
    statement: &Statement,
    schemas: &HashMap<&str, &str>,
    problems: &mut Vec<Problem>,
) -> Option<Source> {
    let mut options = OptionReader::new(statement);
    let avro = match options.text("schema") {
        None => {
            options.problems.push(statement.problem("option `schema` is missing: the Avro schema of the events"));
            None
        }
        Some(file) => match schemas.get(file.value.as_str()) {
            Some(text) => Some((file, *text)),
            None => {
                let name = &file.value;
                options
                    .refuse(&file, format!(
                        "schema `{name}`: there is no such *.avsc file in the application folder, and no registry (registry.url) has been \
                         asked for a subject of that name"
                    ));
                None
            }
        },
    };
    let schema = avro.as_ref().and_then(|(file, text)| match crate::avro::source_schema(text) {
        Ok(schema) => Some(schema),
        Err(error) => {
            options.problems.push(Problem { file: file.value.clone(), line: 1, message: error });
            None
        }
    });
    let key = field(&mut options, "key", schema.as_ref(), |_| Ok(()));
    let event_time = field(&mut options, "event_time", schema.as_ref(), |data_type| match data_type {
        DataType::Timestamp(..) => Ok(()),
        other => Err(format!("it must be a timestamp, and is {other}")),
    });
    let event_id = field(&mut options, "event_id", schema.as_ref(), |data_type| match data_type {
        DataType::Utf8 | DataType::Binary | DataType::FixedSizeBinary(_) | DataType::Int32 | DataType::Int64 => Ok(()),
        other => Err(format!("it must be a string, bytes or an integer, and is {other}")),
    });
    let dedupe_window = options.duration("dedupe_window");
    if dedupe_window.is_some() && event_id.is_none() {
        options.problems.push(statement.problem_near("dedupe_window", "option `dedupe_window` needs `event_id`"));
    }
    let partitions = options.number("partitions", 1..=4096).unwrap_or(1);
    let segment_records = options.number("segment_records", 1..=1 << 40).unwrap_or(1 << 20);
    let retention = options.duration("retention").unwrap_or(7 * DAY);
    let found = options.finish(OPTIONS);
    let is_sound = found.is_empty();
    problems.extend(found);
    let (schema, (_, avro)) = (schema?, avro?);
    is_sound.then(|| Source {
        name: statement.name.as_str().into(),
        avro: avro.into(),
        schema,
        key,
        event_time,
        event_id,
        dedupe_window: dedupe_window.unwrap_or(DAY),
        partitions: u32::try_from(partitions).unwrap_or(4096),
        segment_records,
        retention,
        statement: statement.text.clone(),
        defined_at: statement.place(),
    })
}

/// An option that names a field of the events.
fn field(
    options: &mut OptionReader<'_>,
    name: &str,
    schema: Option<&SchemaRef>,
    accepts: impl Fn(&DataType) -> Result<(), String>,
) -> Option<String> {
    let option: OptionValue = options.text(name)?;
    let schema = schema?;
    let fields = &schema.fields()[..schema.fields().len() - SYSTEM_COLUMNS.len()];
    let Some(field) = fields.iter().find(|field| *field.name() == option.value) else {
        let known: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        let (value, known) = (&option.value, known.join(", "));
        options.refuse(&option, format!("option `{name}`: the schema has no field `{value}`; it has {known}"));
        return None;
    };
    if let Err(reason) = accepts(field.data_type()) {
        options.refuse(&option, format!("option `{name}`: field `{}` cannot be used: {reason}", option.value));
        return None;
    }
    Some(option.value)
}
