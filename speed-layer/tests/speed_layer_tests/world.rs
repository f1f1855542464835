//! A log, a store and an application to try the speed layer on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use event_log::{Content, EventLog, TopicSpec};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use speed_layer::{OnlyCounted, Owned, RejectedSink, SpeedLayer, SpeedParts, SpeedSettings};
use tempfile::TempDir;
use view_store::ViewStore;
use views::{Application, ApplicationFile, Fold, Offset, TopicPartition, View};

use crate::memory_log::{Dice, MemoryLog, OneSchema};
use crate::memory_store::MemoryStore;
use crate::oracle::{self, Event, Rows, SCHEMA, Shape};

/// How the topic of a world is made.
pub struct Topic {
    pub partitions: u32,
    pub segment_records: u64,
    /// Whether ids are recognised, and for how long.
    pub window: Option<Duration>,
}

impl Topic {
    pub fn of_segments(segment_records: u64) -> Self {
        Self { partitions: 2, segment_records, window: None }
    }
}

/// A log, a store and an application.
pub struct World {
    pub log: Arc<MemoryLog>,
    pub store: Arc<MemoryStore>,
    pub dice: Arc<Dice>,
    pub random: StdRng,
    pub application: Application,
    pub topic: Topic,
    pub folder: TempDir,
}

/// The application: one source, and the views that the oracle knows, and one that cannot stand the number 13.
pub fn application(topic: &Topic) -> Application {
    let Topic { partitions, segment_records, window } = topic;
    let dedupe =
        window.map_or(String::new(), |window| format!(", event_id = 'id', dedupe_window = '{}us'", window.as_micros()));
    let sql = format!(
        "CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'who', partitions = {partitions},
           segment_records = {segment_records}{dedupe});
         CREATE MATERIALIZED VIEW totals AS
           SELECT who, count(*) AS events, sum(n) AS total, max(n) AS most FROM clicks GROUP BY who;
         CREATE MATERIALIZED VIEW evens AS
           SELECT n % 5 AS bucket, count(*) AS events, sum(n) AS total, min(n) AS least
           FROM clicks WHERE n % 2 = 0 GROUP BY bucket;
         CREATE MATERIALIZED VIEW fragile AS
           SELECT who, sum(1000 / (n - 13)) AS parts FROM clicks GROUP BY who;"
    );
    let file = |path: &str, text: &str| ApplicationFile { path: path.into(), text: text.into() };
    match Application::compile(&[file("click.avsc", SCHEMA), file("views.sql", &sql)]) {
        Ok(application) => application,
        Err(problems) => panic!("{problems:?}"),
    }
}

impl World {
    pub async fn new(seed: u64, topic: Topic) -> Self {
        println!("seed {seed}");
        let dice = Dice::new(seed ^ 0x5eed);
        let log = MemoryLog::new(dice.clone());
        let store = MemoryStore::new(dice.clone());
        let name = "clicks".to_owned();
        let spec = TopicSpec { name, partitions: topic.partitions, segment_records: topic.segment_records };
        log.create_topic(&spec).await.expect("a topic");
        let application = application(&topic);
        let random = StdRng::seed_from_u64(seed);
        Self { log, store, dice, random, application, topic, folder: TempDir::new().expect("a folder") }
    }

    pub fn view(&self, name: &str) -> Arc<View> {
        self.application.view(name).expect("a view").clone()
    }

    /// The two views that the oracle knows.
    pub fn sound_views(&self) -> Vec<Arc<View>> {
        vec![self.view("totals"), self.view("evens")]
    }

    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + use<> {
        (0..self.topic.partitions).map(|number| TopicPartition::new("clicks", number))
    }

    pub fn start(&self, views: Vec<Arc<View>>, settings: SpeedSettings) -> SpeedLayer {
        self.start_on(self.store.clone(), views, settings, Arc::new(OnlyCounted), "one")
    }

    /// Starts a layer on another store than this world's own, or one of several layers at once: each has its own `name`.
    pub fn start_on(
        &self,
        store: Arc<dyn ViewStore>,
        views: Vec<Arc<View>>,
        settings: SpeedSettings,
        rejected: Arc<dyn RejectedSink>,
        name: &str,
    ) -> SpeedLayer {
        let parts = SpeedParts { rejected, ..self.parts(store, name) };
        SpeedLayer::start(parts, views, settings).expect("a start")
    }

    /// What a layer is made of that follows everything.
    pub fn parts(&self, store: Arc<dyn ViewStore>, name: &str) -> SpeedParts {
        SpeedParts {
            log: self.log.clone(),
            registry: Arc::new(OneSchema(SCHEMA.into())),
            store,
            rejected: Arc::new(OnlyCounted),
            dedupe_dir: self.dedupe_dir(name),
            owned: Owned::all(),
        }
    }

    pub fn dedupe_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn append(&self, partition: &TopicPartition, records: Vec<Content>) {
        self.log.append(partition, records).await.expect("memory takes it");
    }

    /// Appends some random events, and now and then a marker: higher, equal or lower than what was there.
    pub async fn append_some(&mut self, most: usize) {
        for partition in self.partitions() {
            let count = self.random.random_range(0..=most);
            let records = (0..count).map(|_| self.random_record()).collect();
            self.append(&partition, records).await;
        }
    }

    fn random_record(&mut self) -> Content {
        if self.random.random_range(0..40) == 0 {
            return Content::Marker(self.random.random_range(1..12));
        }
        let who = format!("user {}", self.random.random_range(0..7));
        let mut event = Event::new(&who, self.random.random_range(-20..100));
        if self.random.random_range(0..5) > 0 {
            event = event.with_id(&format!("id {}", self.random.random_range(0..25)));
        }
        event.record()
    }

    /// Waits until everything in the log is in the store, for these views.
    pub async fn settle(&self, views: &[Arc<View>]) {
        let mut changed = self.store.changed();
        let ends: Vec<(TopicPartition, Offset)> = self
            .partitions()
            .map(|partition| (partition.clone(), self.log.records(&partition).len() as Offset))
            .collect();
        let done = |(partition, end): &(TopicPartition, Offset)| {
            views.iter().all(|view| self.store.written_progress(view, partition).offset >= *end)
        };
        while !ends.iter().all(done) {
            changed.changed().await.expect("the store is there");
        }
    }

    /// Waits for the views that the oracle knows.
    pub async fn settle_all(&self) {
        self.settle(&self.sound_views()).await;
    }

    /// Compares every delta of the views that the oracle knows with the oracle's.
    pub fn check(&self) {
        self.check_view("totals", Shape::Totals);
        self.check_view("evens", Shape::Evens);
    }

    pub fn check_view(&self, name: &str, shape: Shape) {
        let view = self.view(name);
        let window_us = self.topic.window.map(|window| window.as_micros() as i64);
        for partition in self.partitions() {
            let records = self.log.records(&partition);
            let expected = oracle::deltas(shape, &records, self.topic.segment_records, window_us);
            let found = self.deltas(&view, &partition);
            assert_eq!(found, expected, "{name} in {partition}");
        }
    }

    /// The deltas of a view by segment start and marker, as values.
    pub fn deltas(&self, view: &Arc<View>, partition: &TopicPartition) -> BTreeMap<(Offset, u64), Rows> {
        let all = self.store.all_deltas(view, partition).into_iter();
        all.map(|(segment, states)| (segment, values(view, &states))).filter(|(_, rows)| !rows.is_empty()).collect()
    }
}

/// States as values, as text.
pub fn values(view: &Arc<View>, states: &[arrow::record_batch::RecordBatch]) -> Rows {
    let mut fold = Fold::new(view).expect("a fold");
    for states in states {
        fold.merge(states).expect("states");
    }
    let values = fold.take_values().expect("values");
    let columns = values.columns().iter().map(|column| cast(column, &DataType::Utf8).expect("text"));
    let columns: Vec<_> = columns.collect();
    let text = |column: &arrow::array::ArrayRef, row: usize| match column.is_null(row) {
        true => "null".to_owned(),
        false => column.as_string::<i32>().value(row).to_owned(),
    };
    let row = |row: usize| (text(&columns[0], row), columns[1..].iter().map(|column| text(column, row)).collect());
    (0..values.num_rows()).map(row).collect()
}

/// Settings for tests: small reads, so that a few hundred records are many micro-batches, and no long waits after failures.
pub fn quick() -> SpeedSettings {
    SpeedSettings {
        flush_interval: Duration::from_micros(200),
        catch_up_interval: Duration::from_millis(2),
        read_records: 17,
        long_poll: Duration::from_millis(20),
        discover_interval: Duration::from_millis(5),
        retry_first: Duration::from_micros(50),
        retry_most: Duration::from_millis(1),
        ..SpeedSettings::default()
    }
}
