//! One application, served: real log, registry and store, and two small layers driven by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use event_log::decode::EventDecoder;
use event_log::registry::{EmbeddedRegistry, SchemaRegistry};
use event_log::{Content, EmbeddedLog, EventLog, ReadLimit, Record, TopicSpec};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;
use serving_layer::{
    ArchiveStatus, BatchRun, BatchRuns, PartitionStatus, Parts, PortError, Report, RunRequest, RunState, RunningServer,
    ServeSettings, Server, SpeedStatus, Verify,
};
use tempfile::TempDir;
use tokio::sync::watch;
use view_store::{
    Beside, DeltaWrite, EmbeddedStore, KeyRange, Priors, Progress, PublishOutcome, StateRows, ViewDeltas, ViewRead,
    ViewStore, WriteOutcome,
};
use views::stored::StateCodec;
use views::{Application, ApplicationFile, Fold, Offset, Offsets, Published, Segment, TopicPartition, View};

use crate::http::{Reply, send};

const SCHEMA: &str = r#"{"type": "record", "name": "Click", "fields": [
    {"name": "url", "type": "string"},
    {"name": "user_id", "type": ["null", "string"], "default": null},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "status", "type": "int", "default": 200},
    {"name": "bytes", "type": "long", "default": 0},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}, "default": "\u0000"},
    {"name": "ratio", "type": "double", "default": 0.0},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["VIEW", "BUY"]}, "default": "VIEW"},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}, "default": 0},
    {"name": "flag", "type": "boolean", "default": false},
    {"name": "blob", "type": "bytes", "default": ""}
]}"#;

const VIEWS: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'url', event_time = 'ts', partitions = 2, segment_records = 8);

CREATE MATERIALIZED VIEW page_views WITH (key = 'url') AS
SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS views, sum(bytes) AS bytes,
       sum(bytes) / count(*) AS mean_bytes
FROM clicks WHERE status < 400 GROUP BY url, minute;

CREATE MATERIALIZED VIEW by_user WITH (key = 'user_id') AS
SELECT user_id, url AS page, kind, count(*) AS views FROM clicks GROUP BY user_id, url, kind;

CREATE MATERIALIZED VIEW by_status WITH (key = 'status') AS
SELECT status, url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS views
FROM clicks GROUP BY status, url, minute;

CREATE MATERIALIZED VIEW by_bytes AS SELECT bytes, count(*) AS n FROM clicks GROUP BY bytes;
CREATE MATERIALIZED VIEW by_price AS SELECT price, count(*) AS n FROM clicks GROUP BY price;
CREATE MATERIALIZED VIEW by_ratio AS SELECT ratio, count(*) AS n FROM clicks GROUP BY ratio;
CREATE MATERIALIZED VIEW by_kind AS SELECT kind, count(*) AS n FROM clicks GROUP BY kind;
CREATE MATERIALIZED VIEW by_day AS SELECT day, count(*) AS n FROM clicks GROUP BY day;
CREATE MATERIALIZED VIEW by_flag AS SELECT flag, count(*) AS n FROM clicks GROUP BY flag;
CREATE MATERIALIZED VIEW by_blob AS SELECT blob, count(*) AS n FROM clicks GROUP BY blob;
CREATE MATERIALIZED VIEW by_ts AS SELECT ts AS at, count(*) AS n FROM clicks GROUP BY ts;

CREATE MATERIALIZED VIEW sums WITH (key = 'url') AS
SELECT url, sum(bytes) AS total, sum(price) AS revenue, max(ratio) / 0.0 AS never, array_agg(bytes) AS each,
       min(ts) AS first, max(day) AS last_day
FROM clicks GROUP BY url;

CREATE MATERIALIZED VIEW popular WITH (key = 'url') AS
SELECT url, user_id, count(*) AS views FROM clicks GROUP BY url, user_id HAVING count(*) > 1;

CREATE MATERIALIZED VIEW promised WITH (key = 'url', freshness_slo = '1us') AS
SELECT url, count(*) AS views FROM clicks GROUP BY url;

CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM clicks;
";

/// A served application.
pub struct House {
    pub server: Option<RunningServer>,
    pub addr: SocketAddr,
    pub log: Arc<dyn EventLog>,
    pub store: Arc<dyn ViewStore>,
    pub application: Arc<Application>,
    pub speed: Arc<HandSpeed>,
    pub batch: Arc<HandBatch>,
    pub parts: Parts,
    registry: Arc<dyn SchemaRegistry>,
    _dir: TempDir,
}

impl House {
    pub async fn open() -> Self {
        Self::open_with(ServeSettings::default(), |log| log).await
    }

    /// With some of the views only: each costs the store a little in every step.
    pub async fn of(views: &[&str]) -> Self {
        Self::build(ServeSettings::default(), |log| log, views).await
    }

    pub async fn open_with(settings: ServeSettings, wrap: impl FnOnce(Arc<dyn EventLog>) -> Arc<dyn EventLog>) -> Self {
        Self::build(settings, wrap, &[]).await
    }

    async fn build(
        settings: ServeSettings,
        wrap: impl FnOnce(Arc<dyn EventLog>) -> Arc<dyn EventLog>,
        views: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let files = [("click.avsc", SCHEMA), ("views.sql", VIEWS)];
        let files = files.map(|(path, text)| ApplicationFile { path: path.to_owned(), text: text.to_owned() });
        let mut application = Application::compile(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
        application.views.retain(|view| views.is_empty() || views.contains(&&*view.name));
        let application = Arc::new(application);
        // What is durable is the log's to test; here it only costs time.
        let options = event_log::EmbeddedOptions { fsync: false, ..event_log::EmbeddedOptions::default() };
        let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(dir.path().join("log"), options).expect("log"));
        for (name, partitions) in [("clicks", 2), ("clicks.dead-letters", 1)] {
            let spec = TopicSpec { name: name.to_owned(), partitions, segment_records: 8 };
            log.create_topic(&spec).await.expect("topic");
        }
        let registry: Arc<dyn SchemaRegistry> =
            Arc::new(EmbeddedRegistry::open(dir.path().join("schemas")).expect("registry"));
        let store =
            EmbeddedStore::open(&dir.path().join("store"), view_store::EmbeddedOptions::default()).expect("store");
        let store: Arc<dyn ViewStore> = Arc::new(SmallChunks(Arc::new(store)));
        let speed = Arc::new(HandSpeed::new(log.clone()));
        let batch = Arc::new(HandBatch::default());
        let parts = Parts {
            log: wrap(log.clone()),
            registry: registry.clone(),
            store: store.clone(),
            application: application.clone(),
            batch: batch.clone(),
            audit: Arc::new(HandAudit),
            speed: speed.clone(),
            archive: Arc::new(NoArchive),
            metrics: prometheus::Registry::new(),
            beside: None,
        };
        let settings = ServeSettings { listen: "127.0.0.1:0".to_owned(), workers: 1, ..settings };
        let server = Server::start(parts.clone(), settings).await.expect("server");
        Self {
            addr: server.addr(),
            server: Some(server),
            log,
            store,
            application,
            speed,
            batch,
            parts,
            registry,
            _dir: dir,
        }
    }

    pub async fn get(&self, target: &str) -> Reply {
        send(self.addr, "GET", target, &[], b"").await
    }

    pub async fn post(&self, target: &str, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
        send(self.addr, "POST", target, &[("content-type", content_type)], body.as_ref()).await
    }

    /// Sends events that must all be accepted; returns the position.
    pub async fn events(&self, events: &Value) -> String {
        let reply = self.post("/v1/topics/clicks/events", "application/json", events.to_string()).await.json();
        assert_eq!(reply["rejected"], serde_json::json!([]), "{reply}");
        reply["position"].as_str().expect("a position").to_owned()
    }

    /// Sends events and folds them.
    pub async fn events_folded(&self, events: &Value) -> String {
        let position = self.events(events).await;
        self.fold().await;
        position
    }

    /// Folds everything that is in the log into deltas: what the speed layer does.
    pub async fn fold(&self) {
        for partition in self.partitions() {
            self.fold_partition(&partition).await;
        }
        self.speed.changes.send_modify(|count| *count += 1);
    }

    pub fn partitions(&self) -> Vec<TopicPartition> {
        (0..2).map(|partition| TopicPartition::new("clicks", partition)).collect()
    }

    async fn fold_partition(&self, partition: &TopicPartition) {
        let view = &self.application.views[0];
        let from = self.store.progress(view, partition).await.expect("progress");
        let records = self.log.read(partition, from.offset, ReadLimit::records(1 << 20)).await.expect("read");
        let Some(last) = records.last().map(|record| record.offset) else {
            return;
        };
        let mut runs: Vec<(Segment, Vec<Record>)> = Vec::new();
        let mut segment = from.segment;
        for record in records {
            segment = segment.at(record.offset, view.source.segment_records);
            match record.content {
                Content::Marker(number) => segment = segment.after_marker(record.offset, number).unwrap_or(segment),
                Content::Event { .. } => match runs.last_mut() {
                    Some((open, events)) if *open == segment => events.push(record),
                    _ => runs.push((segment, vec![record])),
                },
            }
        }
        let mut views = Vec::new();
        for view in &self.application.views {
            let mut segments = Vec::new();
            for (segment, records) in &runs {
                let mut fold = self.folded(view, partition, records).await;
                let fresh = fold.take_states().expect("states");
                if fresh.num_rows() == 0 {
                    continue;
                }
                let at = Progress { offset: from.offset, segment: *segment };
                let before = self.store.deltas(view, partition, at, &fresh, &[]).await.expect("deltas");
                fold.merge(&before.states).expect("merge");
                fold.merge(&fresh).expect("merge");
                segments.push((*segment, fold.take_states().expect("states")));
            }
            views.push(ViewDeltas { view: view.clone(), segments });
        }
        let to = Progress { offset: last + 1, segment };
        let write = DeltaWrite { partition: partition.clone(), from: from.offset, to, views };
        assert_eq!(self.store.write_deltas(write).await.expect("write"), WriteOutcome::Written);
        self.speed.positions.lock().insert(partition.partition, to.offset);
    }

    async fn folded(&self, view: &Arc<View>, partition: &TopicPartition, records: &[Record]) -> Fold {
        let mut decoder = EventDecoder::new(&view.source, &view.input_columns, self.registry.clone()).expect("decoder");
        let decoded = decoder.decode(partition, records).await.expect("decode");
        assert_eq!(decoded.rejected, []);
        let mut fold = Fold::new(view).expect("fold");
        fold.update(&decoded.events).expect("update");
        fold
    }

    /// One batch run over everything in the log: what the batch layer does.
    pub async fn batch_run(&self, generation: u64) {
        let mut frontier = Offsets::new();
        for partition in self.partitions() {
            let marker = self.log.append(&partition, vec![Content::Marker(generation)]).await.expect("marker");
            frontier.set(&partition, marker.end);
        }
        self.fold().await;
        for view in &self.application.views {
            let mut fold = Fold::new(view).expect("fold");
            for partition in self.partitions() {
                let limit = ReadLimit::records(1 << 20);
                let mut records = self.log.read(&partition, 0, limit).await.expect("read");
                records.retain(|record| record.offset < frontier.get(&partition).expect("a cut"));
                let states = self.folded(view, &partition, &records).await.take_states().expect("states");
                fold.merge(&states).expect("merge");
            }
            let states = fold.take_states().expect("states");
            let groups = StateCodec::new(view).expect("codec").encode_groups(&states).expect("groups");
            let mut order: Vec<u32> = (0..states.num_rows() as u32).collect();
            order.sort_by(|a, b| groups.group(*a as usize).cmp(groups.group(*b as usize)));
            let order = arrow::array::UInt32Array::from(order);
            let states = arrow::compute::take_record_batch(&states, &order).expect("take");
            let rows = futures::stream::iter([Ok(states)]).boxed();
            self.store.write_generation(view, generation, rows).await.expect("generation");
        }
        let views = self.application.views.iter().map(|view| (view.name.clone(), view.fingerprint.clone())).collect();
        let published = Published { generation, frontier, views, behind: Vec::new() };
        assert_eq!(self.store.publish(&published).await.expect("publish"), PublishOutcome::Published);
        self.store.retire(&self.application.views).await.expect("retire");
    }
}

/// The store with chunks of three states, or one group: answers must not depend on where chunks end.
struct SmallChunks(Arc<dyn ViewStore>);

#[async_trait]
impl ViewStore for SmallChunks {
    async fn published(&self) -> view_store::error::Result<Option<Published>> {
        self.0.published().await
    }

    async fn read(&self, view: &Arc<View>, range: &KeyRange) -> view_store::error::Result<ViewRead> {
        let codec = StateCodec::new(view)?;
        let mut read = self.0.read(view, range).await?;
        let mut small = Vec::new();
        while let Some(chunk) = read.rows.next().await {
            let chunk = chunk?;
            let groups = codec.encode_groups(&chunk.states)?;
            let mut start = 0;
            for row in 1..=chunk.origins.len() {
                let ends =
                    row == chunk.origins.len() || (row - start >= 3 && groups.group(row) != groups.group(row - 1));
                if ends {
                    let origins = chunk.origins[start..row].to_vec();
                    small.push(Ok(StateRows { states: chunk.states.slice(start, row - start), origins }));
                    start = row;
                }
            }
        }
        read.rows = futures::stream::iter(small).boxed();
        Ok(read)
    }

    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> view_store::error::Result<Progress> {
        self.0.progress(view, partition).await
    }

    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &arrow::record_batch::RecordBatch,
        beside: &[Beside],
    ) -> view_store::error::Result<Priors> {
        self.0.deltas(view, partition, at, groups, beside).await
    }

    async fn write_deltas(&self, write: DeltaWrite) -> view_store::error::Result<WriteOutcome> {
        self.0.write_deltas(write).await
    }

    async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        rows: futures::stream::BoxStream<'static, view_store::error::Result<arrow::record_batch::RecordBatch>>,
    ) -> view_store::error::Result<u64> {
        self.0.write_generation(view, generation, rows).await
    }

    async fn publish(&self, next: &Published) -> view_store::error::Result<PublishOutcome> {
        self.0.publish(next).await
    }

    async fn retire(&self, views: &[Arc<View>]) -> view_store::error::Result<()> {
        self.0.retire(views).await
    }
}

/// What the speed layer says of itself, when a test drives it.
pub struct HandSpeed {
    log: Arc<dyn EventLog>,
    pub changes: watch::Sender<u64>,
    pub positions: Mutex<BTreeMap<u32, Offset>>,
    pub failures: Mutex<BTreeMap<String, String>>,
    /// What keeps it.
    pub error: Mutex<Option<String>>,
    /// Partitions it does not follow yet.
    pub unknown: Mutex<BTreeSet<u32>>,
    /// How many times somebody began to wait.
    pub waits: watch::Sender<u64>,
}

impl HandSpeed {
    fn new(log: Arc<dyn EventLog>) -> Self {
        Self {
            log,
            changes: watch::Sender::new(0),
            positions: Mutex::default(),
            failures: Mutex::default(),
            error: Mutex::default(),
            unknown: Mutex::default(),
            waits: watch::Sender::new(0),
        }
    }
}

impl SpeedStatus for HandSpeed {
    fn partitions(&self, topic: &str) -> Vec<PartitionStatus> {
        let bounds = self.log.bounds(topic).now_or_never().expect("the embedded log knows").expect("bounds");
        let positions = self.positions.lock();
        (0u32..)
            .zip(bounds)
            .filter(|(number, _)| !self.unknown.lock().contains(number))
            .map(|(number, bounds)| PartitionStatus {
                partition: TopicPartition::new(topic, number),
                log_end: bounds.end,
                position: positions.get(&number).copied().unwrap_or(0),
                waiting_since: None,
                error: self.error.lock().clone(),
            })
            .collect()
    }

    fn failure(&self, view: &str) -> Option<String> {
        self.failures.lock().get(view).cloned()
    }

    fn wait_change(&self, _topic: &str) -> BoxFuture<'static, ()> {
        let mut changes = self.changes.subscribe();
        self.waits.send_modify(|count| *count += 1);
        async move {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

/// Batch runs that do nothing.
#[derive(Default)]
pub struct HandBatch {
    pub busy: Mutex<bool>,
    pub started: Mutex<Vec<(RunRequest, bool)>>,
}

fn run() -> BatchRun {
    BatchRun {
        generation: 7,
        state: RunState::Published,
        full: false,
        started: 1_447_286_400_000_000,
        finished: Some(1_447_286_401_500_000),
        rows: 3,
        error: None,
        progress: None,
    }
}

#[async_trait]
impl BatchRuns for HandBatch {
    async fn start(&self, asked: RunRequest, wait: bool) -> Result<BatchRun, PortError> {
        if *self.busy.lock() {
            return Err(PortError::Busy("run 6 is going on".to_owned()));
        }
        let full = asked.full;
        self.started.lock().push((asked, wait));
        Ok(BatchRun { full, ..run() })
    }

    async fn runs(&self) -> Vec<BatchRun> {
        vec![run()]
    }
}

struct HandAudit;

#[async_trait]
impl Verify for HandAudit {
    async fn verify(&self, view: Option<&str>) -> Result<Vec<Report>, PortError> {
        Ok(vec![Report {
            view: view.unwrap_or("all").to_owned(),
            equal: false,
            generation: Some(7),
            position: Offsets::new(),
            groups: 2,
            different: 1,
            differences: vec!["views of /a: 1 is served, 2 is in the log".to_owned()],
        }])
    }
}

struct NoArchive;

impl ArchiveStatus for NoArchive {
    fn archived(&self, _partition: &TopicPartition) -> Option<Offset> {
        None
    }
}

/// Long enough that only a hang reaches it.
pub const SOON: Duration = Duration::from_secs(20);
