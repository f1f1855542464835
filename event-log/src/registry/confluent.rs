//! A registry in another process that speaks Confluent's REST API: Confluent's own, Apicurio, Karapace.
//!
//! What it once told about an id is kept for ever, so an outage stops only what is new. It may keep the rules of its own
//! ("compatibility") or none; promise 4 does not rest on them: every earlier version of a subject is read and checked here.

mod http;
mod lookup;
mod options;
mod references;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use schema_registry_converter::schema_registry_common::{RawRegisteredSchema, SrCall};
use views::avro::Record;

pub use options::ConfluentOptions;

use super::{SchemaRegistry, history};
use crate::error::{LogError, Result};
use http::{Failure, Servers, escaped};
use lookup::Lookups;

/// How many versions of a subject are fetched at once.
const FETCHED_AT_ONCE: usize = 8;
/// How long it waits before it registers again what met with a conflict: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(700);

/// A registry behind Confluent's REST API.
pub struct ConfluentRegistry {
    servers: Arc<Servers>,
    lookups: Arc<Lookups>,
    /// What this process has registered, by subject and schema. It stays registered.
    registered: Mutex<HashMap<(String, String), u32>>,
}

/// A schema that a subject has.
struct Version {
    number: u32,
    id: u32,
    /// Why nothing of ours could read its events, if so.
    record: Result<Record, String>,
}

impl ConfluentRegistry {
    /// A registry that answers, at one of the addresses at least.
    ///
    /// # Errors
    ///
    /// Within seconds, naming the setting: `Invalid` when the settings are wrong, no registry is at the address, or it does not
    /// let us in; `Unavailable` when nothing answers.
    pub async fn connect(options: ConfluentOptions) -> Result<Self> {
        let settings = options.clone();
        let made = tokio::task::spawn_blocking(move || Servers::new(&settings)).await;
        let servers = Arc::new(made.map_err(|error| LogError::unavailable("registry.url", error))??);
        servers.greet().await?;
        let lookups = Lookups::new(servers.clone(), &options);
        Ok(Self { servers, lookups, registered: Mutex::default() })
    }

    /// The id that an equal schema of the subject has. Refuses what must not be registered.
    async fn admit(&self, subject: &str, schema: &str, record: &Record) -> Result<Option<u32>> {
        let versions = self.versions(subject).await?;
        if let Some(equal) = versions.iter().find(|version| version.record.as_ref() == Ok(record)) {
            return Ok(Some(equal.id));
        }
        versions.iter().try_for_each(|earlier| earlier.is_read_by(subject, record))?;
        if versions.is_empty() {
            return Ok(None);
        }
        match self.servers.objection(subject, schema).await {
            Ok(None) => Ok(None),
            Ok(Some(objection)) => {
                Err(LogError::Invalid(format!("schema for {subject} is refused by the registry: {objection}")))
            }
            Err(failure) => Err(failure.error(&format!("checking a schema for {subject}"))),
        }
    }

    /// All versions of a subject, the oldest first.
    async fn versions(&self, subject: &str) -> Result<Vec<Version>> {
        let context = format!("reading the versions of {subject}");
        let numbers = match self.servers.versions(subject).await {
            Ok(numbers) => numbers,
            Err(Failure::Missing(_)) => return Ok(Vec::new()),
            Err(failure) => return Err(failure.error(&context)),
        };
        let fetched = stream::iter(numbers.into_iter().map(|number| self.version(subject, number)));
        let versions: Vec<Option<Version>> =
            fetched.buffered(FETCHED_AT_ONCE).try_collect().await.map_err(|failure| failure.error(&context))?;
        Ok(versions.into_iter().flatten().collect())
    }

    /// One version; `None` when an operator has just deleted it.
    async fn version(&self, subject: &str, number: u32) -> Result<Option<Version>, Failure> {
        let subject = escaped(subject);
        let answer = match self.servers.ask(SrCall::GetBySubjectAndVersion(&subject, number)).await {
            Ok(answer) => answer,
            Err(Failure::Missing(_)) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let id = id_of(&answer)?;
        let record = match references::whole(&self.servers, answer).await {
            Ok(schema) => Record::parse(&schema),
            Err(Failure::Refused(problem) | Failure::Conflict(problem) | Failure::Missing(problem)) => Err(problem),
            Err(failure) => return Err(failure),
        };
        Ok(Some(Version { number, id, record }))
    }

    /// Registers a schema that the subject does not have.
    async fn add(&self, subject: &str, schema: &str, record: &Record) -> Result<u32> {
        let body = http::schema_body(schema);
        let mut pause = FIRST_PAUSE;
        let answer = loop {
            let conflict = match self.servers.ask(SrCall::PostNew(&escaped(subject), &body)).await {
                Ok(answer) => break answer,
                Err(Failure::Conflict(reason)) => reason,
                Err(failure) => return Err(failure.error(&format!("registering a schema for {subject}"))),
            };
            // Either the registry's rules are against it, or (Apicurio) somebody registered at the same moment.
            if let Some(id) = self.admit(subject, schema, record).await? {
                return Ok(id);
            }
            if pause > LONGEST_PAUSE {
                let reason = format!("schema for {subject} is refused by the registry: {conflict}");
                return Err(LogError::Invalid(reason));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        };
        let id = id_of(&answer).map_err(|failure| failure.error(&format!("registering a schema for {subject}")))?;

        // Others may have registered at the same moment. Versions have one order, and what comes first in it holds: of equal schemas
        // the first one's id is everybody's, and of two that cannot read each other the second is withdrawn.
        let versions = self.versions(subject).await?;
        let equal = versions.iter().position(|version| version.record.as_ref() == Ok(record));
        let ours = versions.iter().position(|version| version.id == id);
        let Some(first) = equal.or(ours) else { return Ok(id) };
        let refused = versions[..first].iter().try_for_each(|earlier| earlier.is_read_by(subject, record));
        if let Err(refused) = refused {
            if let Err(failure) = self.servers.withdraw(subject, versions[first].number).await {
                let number = versions[first].number;
                tracing::warn!(subject, number, %failure, "a schema that is not compatible stays in the registry");
            }
            return Err(refused);
        }
        Ok(versions[first].id)
    }
}

fn id_of(answer: &RawRegisteredSchema) -> Result<u32, Failure> {
    answer.id.ok_or_else(|| Failure::Down("its answer has no id".to_owned()))
}

impl Version {
    fn is_read_by(&self, subject: &str, record: &Record) -> Result<()> {
        let Self { number, id, record: earlier } = self;
        match earlier {
            Ok(earlier) => history::reads(subject, record, earlier, format_args!("version {number} (schema {id})")),
            Err(problem) => Err(LogError::Invalid(format!(
                "schema for {subject} cannot read events of its earlier schema {id}, version {number}: {problem}"
            ))),
        }
    }
}

#[async_trait]
impl SchemaRegistry for ConfluentRegistry {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let known = (subject.to_owned(), schema.to_owned());
        if let Some(id) = self.registered.lock().get(&known) {
            return Ok(*id);
        }
        let record = history::parse(subject, schema)?;
        let id = match self.admit(subject, schema, &record).await? {
            Some(id) => id,
            None => self.add(subject, schema, &record).await?,
        };
        self.registered.lock().insert(known, id);
        Ok(id)
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>> {
        self.lookups.schema(id).await
    }

    async fn latest(&self, subject: &str) -> Result<(u32, Arc<str>)> {
        let failed = |failure: Failure| match failure {
            Failure::Missing(_) => LogError::NotFound(format!("a schema of {subject}")),
            failure => failure.error(&format!("reading the latest schema of {subject}")),
        };
        let answer = self.servers.ask(SrCall::GetLatest(&escaped(subject))).await.map_err(failed)?;
        let id = id_of(&answer).map_err(failed)?;
        let schema = references::whole(&self.servers, answer).await.map_err(failed)?;
        Ok((id, schema))
    }

    async fn check(&self, subject: &str, schema: &str) -> Result<()> {
        let record = history::parse(subject, schema)?;
        self.admit(subject, schema, &record).await.map(|_| ())
    }
}

impl fmt::Debug for ConfluentRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfluentRegistry").field("servers", &self.servers).finish_non_exhaustive()
    }
}
