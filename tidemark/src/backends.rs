//! Which parts stand behind the ports: the embedded ones, or those of a cluster, in any mix, as the settings say.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use event_log::archive::{self, Archive, LocationOptions};
use event_log::durable_files::DurableFiles;
use event_log::kafka::{Assigned, Membership};
use event_log::prefixed::{NamedSubjects, PrefixedTopics};
use event_log::registry::{ConfluentOptions, ConfluentRegistry, EmbeddedRegistry, SchemaRegistry, SubjectNameStrategy};
use event_log::{Beginnings, EmbeddedLog, EmbeddedOptions, KafkaLog, KafkaOptions, LogError};
use object_store::ObjectStore;
use tokio::sync::watch;
use view_store::embedded::EmbeddedStore;
use view_store::{CqlOptions, CqlStore, StoreError, ViewStore, cql};
use views::{Offset, TopicPartition};

use crate::command_line::print;
use crate::failure::{Context as _, Failure, Result};
use crate::settings::{LogKind, Registry, Settings, StoreKind, Subjects};

/// The opened parts.
pub struct Backends {
    /// The event log by itself, without its archived beginning.
    pub log: Arc<dyn Beginnings>,
    /// The same, when it is Kafka: with the names and offsets that topics have there.
    pub kafka: Option<Arc<KafkaLog>>,
    /// The schemas.
    pub registry: Arc<dyn SchemaRegistry>,
    /// The sealed segments.
    pub archive: Arc<Archive>,
    /// Where they are.
    pub objects: Arc<dyn ObjectStore>,
    /// The views.
    pub store: Arc<dyn ViewStore>,
    /// The same, when it is the embedded one.
    pub embedded_store: Option<EmbeddedStore>,
    /// The same, when it is on a CQL cluster.
    pub cql_store: Option<CqlStore>,
}

impl Backends {
    /// Opens or connects to everything. What fails names its setting.
    ///
    /// # Errors
    ///
    /// The first part that cannot be had.
    pub async fn open(settings: &Settings) -> Result<Self> {
        let (parts, ()) = Self::open_and(settings, async |_| Ok(())).await?;
        Ok(parts)
    }

    /// The same, and does something with the first parts while the store is still being connected to: each takes some round trips of its
    /// own, and others wait for a process that is started again.
    ///
    /// # Errors
    ///
    /// The first part that cannot be had, or what was to be done.
    pub async fn open_and<T>(settings: &Settings, then: impl AsyncFnOnce(&Truth) -> Result<T>) -> Result<(Self, T)> {
        // The log begins: where it is embedded, it is what finds out that another process has the folder.
        let truth = async {
            let truth = Truth::open(settings).await?;
            let done = then(&truth).await?;
            Ok((truth, done))
        };
        let ((truth, done), (store, embedded_store, cql_store)) = tokio::try_join!(truth, open_view_store(settings))?;
        let Truth { log, kafka, registry, archive } = truth;
        Ok((Self { log, kafka, registry, objects: archive.objects(), archive, store, embedded_store, cql_store }, done))
    }
}

/// The parts that nothing can be rebuilt without: all that an import needs.
pub struct Truth {
    /// The event log by itself.
    pub log: Arc<dyn Beginnings>,
    /// The same, when it is Kafka.
    pub kafka: Option<Arc<KafkaLog>>,
    /// The schemas.
    pub registry: Arc<dyn SchemaRegistry>,
    /// The sealed segments.
    pub archive: Arc<Archive>,
}

impl Truth {
    /// Opens or connects to them. What fails names its setting.
    ///
    /// # Errors
    ///
    /// The first part that cannot be had.
    pub async fn open(settings: &Settings) -> Result<Self> {
        let data = &settings.data;
        std::fs::create_dir_all(data).context(format!("data folder {} (--data)", data.display()))?;
        let opened = tokio::try_join!(open_log(settings), open_registry(settings), open_archive(settings));
        let ((log, kafka), registry, archive) = opened?;
        Ok(Self { log, kafka, registry, archive: Arc::new(archive) })
    }
}

/// A place among the processes that share the partitions of the topics.
pub struct Share {
    membership: Membership,
    prefix: String,
}

impl Share {
    /// Joins the group of the settings.
    ///
    /// # Errors
    ///
    /// When the settings cannot be. That no broker answers now is none.
    pub fn join(settings: &Settings, kafka: &KafkaLog, topics: &[String]) -> Result<Self> {
        let prefix = settings.log.topic_prefix.clone();
        let topics: Vec<String> = topics.iter().map(|topic| format!("{prefix}{topic}")).collect();
        let membership = Membership::join(kafka, &settings.log.group, &topics);
        Ok(Self { membership: membership.context("event log")?, prefix })
    }

    /// What the group has told this process, with the names that Kafka knows.
    pub fn assigned(&self) -> watch::Receiver<Assigned> {
        self.membership.assigned()
    }

    /// The name that the application knows.
    pub fn own_name(&self, partition: &TopicPartition) -> Option<TopicPartition> {
        Some(TopicPartition::new(partition.topic.strip_prefix(&*self.prefix)?, partition.partition))
    }

    /// Tells Kafka's own tools how far the group is.
    pub fn commit(&self, partition: &TopicPartition, offset: Offset) {
        let name = format!("{}{}", self.prefix, partition.topic);
        self.membership.commit(&TopicPartition::new(name, partition.partition), offset);
    }

    /// Leaves, so that the others have its partitions at once.
    pub async fn leave(self) {
        self.membership.leave().await;
    }
}

/// Refuses parts that only one process can have open: several roles share them.
///
/// # Errors
///
/// Names the settings that must be others.
pub fn must_be_shared(settings: &Settings, role: &str) -> Result {
    let mut alone = Vec::new();
    if settings.log.kind == LogKind::Embedded {
        alone.push("log.kind = \"kafka\"");
    }
    if settings.registry.url.is_none() {
        alone.push("registry.url");
    }
    if settings.archive.url.is_none() {
        alone.push("archive.url");
    }
    if settings.store.kind == StoreKind::Embedded {
        alone.push("store.kind = \"cql\"");
    }
    if alone.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "`tidemark {role}` is one role of a cluster, whose processes share their parts: set {}; or let `tidemark run` do \
         everything in one process",
        alone.join(", ")
    )))
}

async fn open_log(settings: &Settings) -> Result<(Arc<dyn Beginnings>, Option<Arc<KafkaLog>>)> {
    if settings.log.kind == LogKind::Kafka {
        // As a task: what the other parts compute while they are opened does not keep it waiting.
        let connected = tokio::spawn(KafkaLog::connect(kafka_options(settings)?)).await;
        let kafka = Arc::new(connected.context("event log")?.context("event log")?);
        tracing::debug!("connected to Kafka");
        let prefix = &settings.log.topic_prefix;
        let log: Arc<dyn Beginnings> = match prefix.as_str() {
            "" => kafka.clone(),
            prefix => Arc::new(PrefixedTopics::new(kafka.clone(), prefix)),
        };
        return Ok((log, Some(kafka)));
    }
    let options = EmbeddedOptions {
        fsync: settings.log.fsync,
        file_bytes: settings.log.file_bytes.0,
        ..EmbeddedOptions::default()
    };
    let data = &settings.data;
    let log = EmbeddedLog::open(data.join("log"), options).map_err(|error| not_opened(data, &error))?;
    Ok((Arc::new(log), None))
}

fn kafka_options(settings: &Settings) -> Result<KafkaOptions> {
    Ok(KafkaOptions {
        brokers: settings.log.brokers.clone(),
        properties: texts("log.kafka", &settings.log.kafka)?,
        replication: settings.log.replication.map(i32::from),
    })
}

/// Values that are passed on as text.
fn texts(table: &str, values: &BTreeMap<String, toml::Value>) -> Result<BTreeMap<String, String>> {
    let text = |(name, value): (&String, &toml::Value)| match value {
        toml::Value::String(text) => Ok((name.clone(), text.clone())),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
            Ok((name.clone(), value.to_string()))
        }
        _ => Err(Failure::usage(format!("{table}: `{name}`: neither a text nor a number nor true or false"))),
    };
    values.iter().map(text).collect()
}

pub(crate) async fn open_registry(settings: &Settings) -> Result<Arc<dyn SchemaRegistry>> {
    let Registry { url, user, password, token, ca, subjects, unknown_id } = &settings.registry;
    let Some(url) = url else {
        return Ok(Arc::new(EmbeddedRegistry::open(settings.data.join("registry")).context("schemas")?));
    };
    let options = ConfluentOptions {
        user: user.clone(),
        password: password.clone(),
        token: token.clone(),
        ca_file: ca.clone(),
        unknown_wait: unknown_id.0,
        ..ConfluentOptions::new(url)
    };
    let registry = Arc::new(ConfluentRegistry::connect(options).await.context("schema registry")?);
    tracing::debug!("connected to the schema registry");
    let strategy = match subjects {
        Subjects::TopicName => SubjectNameStrategy::TopicName,
        Subjects::RecordName => SubjectNameStrategy::RecordName,
        Subjects::TopicRecordName => SubjectNameStrategy::TopicRecordName,
    };
    Ok(Arc::new(NamedSubjects::new(registry, strategy, &settings.log.topic_prefix)))
}

pub(crate) async fn open_archive(settings: &Settings) -> Result<Archive> {
    let Some(url) = &settings.archive.url else {
        let dir = settings.data.join("archive");
        let objects = DurableFiles::open(&dir).context(dir.display())?;
        return Ok(Archive::new(Arc::new(objects), ""));
    };
    let mut options = LocationOptions::default();
    // Later ones go before earlier ones.
    let own = texts("archive.s3", &settings.archive.s3)?;
    options.variables.extend(own.into_iter().map(|(name, value)| (format!("AWS_{}", name.to_uppercase()), value)));
    let archive = archive::open(url, &options).await.context("archive")?;
    tracing::debug!("the archive is open");
    Ok(archive)
}

fn cql_options(settings: &Settings) -> Result<CqlOptions> {
    let store = &settings.store;
    let level = |setting: &str, name: &str| {
        let unknown = || {
            let known = "one, two, three, quorum, local_quorum, each_quorum, all";
            Failure::usage(format!("{setting}: `{name}` is none of {known}"))
        };
        cql::consistency(name).ok_or_else(unknown)
    };
    Ok(CqlOptions {
        nodes: store.nodes.clone(),
        keyspace: store.keyspace.clone(),
        replication: u16::try_from(store.replication).unwrap_or(u16::MAX),
        user: store.user.clone(),
        password: store.password.clone(),
        tls_ca: store.tls_ca.clone(),
        read_consistency: level("store.read_consistency", &store.read_consistency)?,
        write_consistency: level("store.write_consistency", &store.write_consistency)?,
        in_flight: store.in_flight,
        kept_bytes: store.cache.bytes(),
        create: store.create,
        ..CqlOptions::default()
    })
}

/// The view store: behind its port, and as the one of both that it is.
async fn open_view_store(settings: &Settings) -> Result<(Arc<dyn ViewStore>, Option<EmbeddedStore>, Option<CqlStore>)> {
    Ok(match settings.store.kind {
        StoreKind::Embedded => {
            let store = open_embedded_store(&settings.data.join("views"), settings.store.cache.0)?;
            (Arc::new(store.clone()), Some(store), None)
        }
        StoreKind::Cql => {
            let store = CqlStore::connect(cql_options(settings)?).await.context("view store")?;
            tracing::debug!("connected to the view store");
            (Arc::new(store.clone()), None, Some(store))
        }
    })
}

/// The log is opened first, so it is here that a second process finds the first.
fn not_opened(data: &Path, error: &LogError) -> Failure {
    let text = error.to_string();
    let data = data.display();
    if text.contains("another process has it open") {
        return Failure::new(format!(
            "data folder {data} is in use by another process: stop that one, or choose another folder with --data"
        ));
    }
    Failure::new(format!("event log: {text}"))
}

/// Opens the view store. A damaged one is removed: its states are rebuilt from the log.
fn open_embedded_store(dir: &Path, cache_bytes: u64) -> Result<EmbeddedStore> {
    let options = view_store::embedded::EmbeddedOptions { cache_bytes, ..Default::default() };
    match EmbeddedStore::open(dir, options.clone()) {
        Err(StoreError::Damaged(place)) => {
            tracing::error!(place, "the view store is damaged: removed, its views are rebuilt from the log");
            EmbeddedStore::remove(dir).context("view store")?;
            EmbeddedStore::open(dir, options).context("view store")
        }
        opened => opened.context("view store"),
    }
}

/// Makes the keyspace and the tables of the view store.
///
/// # Errors
///
/// When the store is the embedded one, which needs no such thing, or does not let us.
pub async fn init_store(settings: &Settings) -> Result {
    if settings.store.kind == StoreKind::Embedded {
        return Err(Failure::usage("store.kind is \"embedded\": it makes its files by itself; this is for \"cql\""));
    }
    CqlStore::init(&cql_options(settings)?).await.context("view store")?;
    print(format!("keyspace {} is ready\n", settings.store.keyspace));
    Ok(())
}
