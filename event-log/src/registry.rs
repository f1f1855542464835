//! The registry of schemas: which schema an id in a frame stands for.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};

use crate::error::{LogError, Result};

mod confluent;
pub mod conformance;
mod embedded;
mod history;
mod inline;
mod subject;

pub use confluent::{ConfluentOptions, ConfluentRegistry};
pub use embedded::EmbeddedRegistry;
pub use subject::SubjectNameStrategy;

/// The registry of schemas, shaped like Confluent's.
///
/// What a backend promises:
///
/// 1. **Ids never change meaning.** What `schema` once returned for an id it returns for ever.
/// 2. **Equal schemas share an id.** Registering a schema that equals a registered one of the same subject (names, types,
///    defaults, aliases, logical types; not documentation) returns that one's id.
/// 3. **Durable.** When `register` returns `Ok`, the schema survives kill -9 and a power cut: an event that
///    carries its id will be decodable.
/// 4. **History stays readable.** A schema is refused when events that were written with an earlier schema of its
///    subject could not all be read with it.
///
/// Schemas that are handed out are whole: a schema that refers to others in the registry comes with those written into it.
#[async_trait]
pub trait SchemaRegistry: Send + Sync + 'static {
    /// Registers a schema under a subject and returns its id.
    ///
    /// # Errors
    ///
    /// `Invalid` for what is not a record schema or not compatible with an earlier one, naming the field;
    /// `Unavailable` when nothing is known about the outcome.
    async fn register(&self, subject: &str, schema: &str) -> Result<u32>;

    /// The schema with this id, as JSON.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none; `Invalid` when there is one that no event of ours can have. Then no event with this id can be
    /// decoded. `Unavailable` when it is not known.
    async fn schema(&self, id: u32) -> Result<Arc<str>>;

    /// The schema that was registered last under a subject, with its id.
    ///
    /// # Errors
    ///
    /// `NotFound` when the subject has none. A stand-in of a test need not have it.
    async fn latest(&self, subject: &str) -> Result<(u32, Arc<str>)> {
        Err(LogError::Invalid(format!("this registry cannot tell the latest schema of {subject}")))
    }

    /// Says what [`Self::register`] would refuse, and registers nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::register`]. A stand-in of a test need not have it.
    async fn check(&self, subject: &str, _schema: &str) -> Result<()> {
        Err(LogError::Invalid(format!("this registry cannot check a schema of {subject}")))
    }
}

/// How many schemas are asked for at once.
const ASKED_AT_ONCE: usize = 16;

/// Asks for several schemas at once, so that ids nobody registered are waited for together and not one after another.
/// An id without a usable schema comes with the reason.
pub(crate) async fn schemas(
    registry: &dyn SchemaRegistry,
    ids: BTreeSet<u32>,
) -> Result<Vec<(u32, Result<Arc<str>, LogError>)>> {
    let mut asked = stream::iter(ids.into_iter().map(|id| async move { (id, registry.schema(id).await) }))
        .buffer_unordered(ASKED_AT_ONCE);
    let mut schemas = Vec::new();
    while let Some((id, answer)) = asked.next().await {
        match answer {
            Ok(_) | Err(LogError::NotFound(_) | LogError::Invalid(_)) => schemas.push((id, answer)),
            Err(error) => return Err(error),
        }
    }
    Ok(schemas)
}
