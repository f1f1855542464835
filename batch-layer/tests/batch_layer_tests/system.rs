//! An application on embedded parts, without a speed layer: the log in memory, a real archiver, archive and view store.

use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use batch_layer::{BatchLayer, Comparison, SealedUpTo, Settings, compare, recompute, retention};
use chrono::{DateTime, Utc};
use event_log::archive::Archive;
use event_log::archiver::{Archiver, ArchiverOptions};
use event_log::encode::{EncodedEvent, EventEncoder, partition_for, value_subject};
use event_log::registry::{EmbeddedRegistry, SchemaRegistry};
use event_log::{Content, EventLog, TopicSpec};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use view_store::{EmbeddedOptions, EmbeddedStore, KeyRange, ViewStore};
use views::{Application, ApplicationFile, Fold, Offset, Position, TopicPartition, View};

use crate::memory_log::MemoryLog;

pub const CLICK: &str = r#"{"type": "record", "name": "Click", "fields": [
    {"name": "id", "type": ["null", "string"], "default": null},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "url", "type": "string"},
    {"name": "user", "type": ["null", "string"], "default": null},
    {"name": "status", "type": "int"},
    {"name": "bytes", "type": "long"},
    {"name": "latency", "type": ["null", "double"], "default": null}
]}"#;

pub const CLICKS: &str = "CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'user', event_time = 'ts',
    partitions = 3, segment_records = 64);";

/// Keys with tiles, floats, sketches, sets, and aggregates that depend on order.
pub const VIEWS: &str = "
CREATE MATERIALIZED VIEW page_views WITH (key = 'url') AS
SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS views, approx_distinct(user) AS visitors,
       sum(bytes) / count(*) AS mean_bytes
FROM clicks WHERE status < 400 GROUP BY url, minute;

CREATE MATERIALIZED VIEW users AS
SELECT user, count(*) FILTER (WHERE status >= 400) AS errors, min(ts) AS first, max(bytes) AS most, avg(latency) AS mean,
       stddev(latency) AS spread, count(DISTINCT url) AS urls
FROM clicks GROUP BY user HAVING count(*) > 1;

CREATE MATERIALIZED VIEW pages AS
SELECT url, status, array_agg(bytes ORDER BY ts) AS sizes, first_value(user ORDER BY ts) AS first_user,
       string_agg(user, ',') AS users, median(bytes) AS median_bytes
FROM clicks GROUP BY url, status;

CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS views, sum(bytes) AS bytes, max(url) AS last FROM clicks;
";

pub struct System {
    pub log: Arc<MemoryLog>,
    pub objects: Arc<InMemory>,
    pub archive: Arc<Archive>,
    pub registry: Arc<dyn SchemaRegistry>,
    pub archiver: Arc<Archiver>,
    pub store: Arc<EmbeddedStore>,
    pub application: Application,
    pub now: DateTime<Utc>,
    encoder: EventEncoder,
    directory: TempDir,
}

impl System {
    pub async fn new(sql: &str) -> Self {
        let application = application(sql);
        let source = application.sources[0].clone();
        let directory = TempDir::new().expect("a directory");
        let registry = Arc::new(EmbeddedRegistry::open(directory.path().join("schemas")).expect("a registry"));
        let schema_id = registry.register(&value_subject(&source.name), &source.avro).await.expect("a schema");
        let log = Arc::new(MemoryLog::new());
        let topic = spec(&application, source.partitions);
        log.create_topic(&topic).await.expect("a topic");
        let objects = Arc::new(InMemory::new());
        let archive = Arc::new(Archive::new(objects.clone(), "archive"));
        let options = ArchiverOptions::default();
        let archiver = Archiver::start(log.clone(), archive.clone(), registry.clone(), vec![topic], options);
        let store = EmbeddedStore::open(&directory.path().join("store"), EmbeddedOptions::default()).expect("a store");
        Self {
            log,
            objects,
            archive,
            registry,
            archiver: Arc::new(archiver),
            store: Arc::new(store),
            encoder: EventEncoder::new(&source, schema_id).expect("an encoder"),
            application,
            now: DateTime::from_timestamp(1_800_000_000, 0).expect("a time"),
            directory,
        }
    }

    pub fn settings(&self) -> Settings {
        Settings { target_partitions: 2, ..Settings::new(self.directory.path().join("spill")) }
    }

    pub fn layer(&self) -> BatchLayer {
        self.layer_with(self.settings())
    }

    pub fn layer_with(&self, settings: Settings) -> BatchLayer {
        self.layer_of(self.archiver.clone(), self.store.clone(), settings)
    }

    /// A batch layer that reaches the sealing through `sealed`.
    pub fn layer_sealed_by(&self, sealed: Arc<dyn SealedUpTo>) -> BatchLayer {
        self.layer_of(sealed, self.store.clone(), self.settings())
    }

    pub fn layer_of(&self, sealed: Arc<dyn SealedUpTo>, store: Arc<dyn ViewStore>, settings: Settings) -> BatchLayer {
        let now = self.now;
        let layer = BatchLayer::new(
            self.log.clone(),
            self.archive.clone(),
            self.registry.clone(),
            store,
            self.application.views.clone(),
            sealed,
            settings,
        );
        layer.expect("a batch layer").with_clock(Arc::new(move || now))
    }

    pub fn partition(&self, number: u32) -> TopicPartition {
        TopicPartition::new(self.application.sources[0].name.clone(), number)
    }

    pub async fn partitions(&self) -> u32 {
        self.log.topics().await.expect("topics")[0].partitions
    }

    pub async fn add_partitions(&mut self, partitions: u32) {
        let topic = spec(&self.application, partitions);
        self.log.create_topic(&topic).await.expect("a larger topic");
        self.archiver.follow(&[topic]);
    }

    pub fn encode(&self, event: &str) -> EncodedEvent {
        self.encoder.json(event.as_bytes()).expect("a good event")
    }

    /// Appends an event given as JSON.
    pub async fn append(&self, event: &str) {
        let event = self.encode(event);
        let partitions = self.partitions().await;
        let partition = event.key.as_ref().map_or(0, |key| partition_for(key, partitions));
        let content = Content::Event { key: event.key, value: event.value };
        self.log.append(&self.partition(partition), vec![content]).await.expect("appended");
    }

    pub async fn append_clicks(&self, chance: &mut StdRng, count: usize) {
        for _ in 0..count {
            self.append(&click(chance)).await;
        }
    }

    /// What the view store answers, and how far that reaches.
    pub async fn answer(&self, view: &Arc<View>) -> (RecordBatch, Position) {
        let read = self.store.read(view, &KeyRange::default()).await.expect("a read");
        let mut fold = Fold::new(view).expect("a fold");
        let chunks: Vec<_> = read.rows.try_collect().await.expect("rows");
        for chunk in chunks {
            fold.merge(&chunk.states).expect("merged");
        }
        let values = fold.take_values_of_all().expect("values");
        (view.finalize(&values).expect("finalized").rows, read.position)
    }

    /// Compares what the store answers with the oracle at the same position.
    pub async fn check(&self, view: &Arc<View>) -> Comparison {
        let (answer, position) = self.answer(view).await;
        let settings = self.settings();
        let recomputed = recompute(view, &position, self.log.clone(), self.registry.clone(), &settings);
        let recomputed = recomputed.await.expect("recomputed");
        let horizon = retention::horizon(view, self.now);
        compare(view, &recomputed.rows, &[answer], horizon, 10).expect("compared")
    }

    /// Every view's answer equals the oracle's.
    pub async fn assert_exact(&self, context: &str) {
        for view in &self.application.views {
            let found = self.check(view).await;
            assert_eq!(found.different, 0, "{context}: {}: {:#?}", view.name, found.differences);
        }
    }
}

pub fn application(sql: &str) -> Application {
    let files = [("click.avsc", CLICK), ("views.sql", sql)];
    let files = files.map(|(path, text)| ApplicationFile { path: path.to_owned(), text: text.to_owned() });
    Application::compile(&files).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn spec(application: &Application, partitions: u32) -> TopicSpec {
    let source = &application.sources[0];
    TopicSpec { name: source.name.to_string(), partitions, segment_records: source.segment_records }
}

/// A random generator whose seed is printed; `SEED` in the environment decides it.
pub fn seeded(test: &str) -> StdRng {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!("{test}: SEED={seed}");
    StdRng::seed_from_u64(seed)
}

pub fn click(chance: &mut StdRng) -> String {
    let user = match chance.random_range(0..20) {
        0 => "null".to_owned(),
        user => format!("\"user {user}\""),
    };
    let latency = match chance.random_range(0..10) {
        0 => "null".to_owned(),
        _ => format!("{}", chance.random_range(-1000..1000) as f64 / 7.0),
    };
    let ts = 1_700_000_000_000_000_i64 + chance.random_range(0..600) * 1_000_000;
    let (url, status) = (chance.random_range(0..8), [200, 304, 404, 500][chance.random_range(0..4)]);
    let bytes = chance.random_range(0..5000);
    format!(
        r#"{{"ts": {ts}, "url": "/{url}", "user": {user}, "status": {status}, "bytes": {bytes}, "latency": {latency}}}"#
    )
}

/// No test waits longer than this for something that should happen.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it never happens")
}

/// Holds a run up between marking and sealing, until it is told to go on.
pub struct Gate {
    archiver: Arc<Archiver>,
    pub reached: Notify,
    pub open: watch::Sender<bool>,
}

impl Gate {
    pub fn new(system: &System) -> Arc<Self> {
        Arc::new(Self { archiver: system.archiver.clone(), reached: Notify::new(), open: watch::Sender::new(false) })
    }
}

#[async_trait]
impl SealedUpTo for Gate {
    async fn wait_sealed(&self, partition: &TopicPartition, offset: Offset) -> event_log::error::Result<()> {
        self.reached.notify_one();
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.archiver.wait_sealed(partition, offset).await
    }
}
