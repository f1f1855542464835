//! A schema that refers to others, made whole.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use schema_registry_converter::schema_registry_common::{RawRegisteredSchema, SrCall};
use serde_json::Value;

use super::http::{Failure, Servers, escaped};
use crate::registry::inline::inline;

/// How many schemas one may refer to, directly or not.
const MAX_REFERENCES: usize = 256;
/// How large they may be together.
const MAX_BYTES: usize = 4 << 20;

/// The schema of an answer, with those it refers to written into it.
///
/// # Errors
///
/// `Refused` when it is not an Avro schema or cannot be made whole; `Missing` when one that it refers to is not there (yet).
pub(super) async fn whole(servers: &Servers, answer: RawRegisteredSchema) -> Result<Arc<str>, Failure> {
    let RawRegisteredSchema { schema_type, schema, references, .. } = answer;
    if let Some(other) = schema_type.filter(|kind| kind != "AVRO") {
        return Err(Failure::Refused(format!("it is a schema of type {other}, not an Avro schema")));
    }
    let schema = schema.ok_or_else(|| Failure::Down("the answer has no schema in it".to_owned()))?;
    let mut to_fetch: VecDeque<_> = references.unwrap_or_default().into();
    if to_fetch.is_empty() {
        return Ok(schema.into());
    }
    let parse = |text: &str| {
        serde_json::from_str::<Value>(text).map_err(|e| Failure::Refused(format!("it is not an Avro schema: {e}")))
    };
    let root = parse(&schema)?;
    let mut bytes = schema.len();
    let mut referenced = Vec::new();
    // A schema that several refer to is fetched once; so a circle of references ends here too.
    let mut seen = HashSet::new();
    while let Some(reference) = to_fetch.pop_front() {
        let (subject, version) = (reference.subject, reference.version);
        if !seen.insert((subject.clone(), version)) {
            continue;
        }
        let told = || format!("it refers to {}, version {version} of {subject}", reference.name);
        let answer = servers.ask(SrCall::GetBySubjectAndVersion(&escaped(&subject), version)).await;
        let answer = answer.map_err(|failure| match failure {
            Failure::Missing(_) => Failure::Missing(format!("{}, which is not there", told())),
            failure => failure,
        })?;
        if let Some(other) = answer.schema_type.filter(|kind| kind != "AVRO") {
            return Err(Failure::Refused(format!("{}, which is a schema of type {other}", told())));
        }
        let text = answer.schema.unwrap_or_default();
        bytes += text.len();
        if bytes > MAX_BYTES || seen.len() > MAX_REFERENCES {
            return Err(Failure::Refused(format!(
                "it and the schemas it refers to are more than {MAX_REFERENCES}, or larger than {MAX_BYTES} bytes"
            )));
        }
        referenced.push(parse(&text)?);
        to_fetch.extend(answer.references.unwrap_or_default());
    }
    let whole = inline(&root, &referenced).map_err(Failure::Refused)?;
    Ok(whole.to_string().into())
}
