//! An application with an archive of made-up segments in a directory, and engines over it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float64Type};
use arrow::record_batch::RecordBatch;
use batch_distributed::BallistaEngine;
use batch_layer::{BatchEngine, LocalEngine, ReadCounters, ViewJob, compare};
use datafusion::scalar::ScalarValue;
use event_log::archive::{Archive, ArchivedSegment};
use event_log::durable_files::DurableFiles;
use event_log::encode::{EventEncoder, value_subject};
use event_log::registry::{EmbeddedRegistry, SchemaRegistry};
use event_log::{Content, Record};
use futures::TryStreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use views::{Application, ApplicationFile, Fold, Segment, TopicPartition, View};

use crate::registry;

const CLICK: &str = r#"{"type": "record", "name": "Click", "fields": [
    {"name": "id", "type": ["null", "string"], "default": null},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "url", "type": "string"},
    {"name": "user", "type": ["null", "string"], "default": null},
    {"name": "status", "type": "int"},
    {"name": "bytes", "type": "long"},
    {"name": "latency", "type": ["null", "double"], "default": null}
]}"#;

/// The append time of the first record.
const BEGIN: i64 = 1_700_000_000_000_000;

pub struct World {
    pub files: Vec<ApplicationFile>,
    pub application: Application,
    pub archive: Arc<Archive>,
    pub registry: Arc<dyn SchemaRegistry>,
    /// Where executors ask for the schemas of framed segments.
    pub registry_url: String,
    pub directory: TempDir,
    encoder: EventEncoder,
    schema_id: u32,
}

pub fn files(sql: &str) -> Vec<ApplicationFile> {
    let files = [("click.avsc", CLICK), ("views.sql", sql)];
    files.map(|(path, text)| ApplicationFile { path: path.to_owned(), text: text.to_owned() }).to_vec()
}

impl World {
    pub async fn new(sql: &str) -> Self {
        let files = files(sql);
        let application = Application::compile(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
        let directory = TempDir::new().expect("a directory");
        let source = application.sources[0].clone();
        let registry = EmbeddedRegistry::open(directory.path().join("schemas")).expect("a registry");
        let schema_id = registry.register(&value_subject(&source.name), &source.avro).await.expect("a schema");
        let objects = DurableFiles::open(directory.path().join("archive")).expect("an archive");
        Self {
            encoder: EventEncoder::new(&source, schema_id).expect("an encoder"),
            archive: Arc::new(Archive::new(Arc::new(objects), "")),
            registry: Arc::new(registry),
            registry_url: registry::serve(&source.avro).await,
            files,
            application,
            directory,
            schema_id,
        }
    }

    pub fn archive_url(&self) -> String {
        format!("file://{}", self.directory.path().join("archive").display())
    }

    pub fn settings(&self) -> batch_layer::Settings {
        batch_layer::Settings {
            target_partitions: 2,
            ..batch_layer::Settings::new(self.directory.path().join("spill"))
        }
    }

    pub fn local(&self) -> LocalEngine {
        LocalEngine::new(self.archive.clone(), self.registry.clone(), &self.settings()).expect("an engine")
    }

    pub fn cluster_settings(&self, scheduler: &str, tasks: usize) -> batch_distributed::Settings {
        batch_distributed::Settings {
            scheduler: scheduler.to_owned(),
            tasks,
            archive_url: self.archive_url(),
            application: self.files.clone(),
        }
    }

    pub fn ballista(&self, settings: batch_distributed::Settings) -> BallistaEngine {
        let (archive, registry) = (self.archive.clone(), self.registry.clone());
        BallistaEngine::new(settings, archive, registry, &self.settings()).expect("an engine")
    }

    pub fn view(&self, name: &str) -> &Arc<View> {
        self.application.view(name).expect("a view")
    }

    pub async fn job(&self, view: &Arc<View>) -> ViewJob {
        let mut segments = Vec::new();
        for partition in 0..view.source.partitions {
            let partition = TopicPartition::new(view.source.name.clone(), partition);
            segments.extend(self.archive.list(&partition).await.expect("a listing"));
        }
        ViewJob { view: view.clone(), segments: Arc::new(segments), horizon: None }
    }

    /// Archives a segment of `records` made-up events behind those of the partition that are there.
    pub async fn seal(&self, partition: u32, records: u64, event: &mut impl FnMut(u64) -> String) -> ArchivedSegment {
        let partition = TopicPartition::new(self.application.sources[0].name.clone(), partition);
        let start = self.archive.list(&partition).await.expect("a listing").last().map_or(0, |last| last.end);
        let record = |offset: u64| {
            let event = self.encoder.json(event(offset).as_bytes()).expect("a good event");
            let append_time = BEGIN + i64::try_from(offset).expect("small") * 1_000_000;
            Record { offset, append_time, content: Content::Event { key: event.key, value: event.value } }
        };
        let mut records: Vec<Record> = (start..start + records).map(record).collect();
        // One that nobody can decode, in every other segment.
        if start % 2 == 1
            && let Some(Record { content: Content::Event { value, .. }, .. }) = records.last_mut()
        {
            let mut broken = vec![0];
            broken.extend(self.schema_id.to_be_bytes());
            *value = broken.into();
        }
        let end = records.last().expect("records").offset + 1;
        let (segment, registry) = (Segment { start, marker: 0 }, self.registry.as_ref());
        self.archive.put(&partition, segment, end, &records, registry).await.expect("archived")
    }
}

/// All states that an engine gives, with what it read.
pub async fn states(engine: &dyn BatchEngine, job: &ViewJob) -> (RecordBatch, Arc<ReadCounters>) {
    let read = Arc::<ReadCounters>::default();
    let stream = engine.states(job, &read).await.unwrap_or_else(|failure| panic!("{}: {failure}", job.view.name));
    let batches: Vec<RecordBatch> =
        stream.try_collect().await.unwrap_or_else(|failure| panic!("{}: {failure}", job.view.name));
    (concat_batches(&job.view.state_schema, &batches).expect("states"), read)
}

/// Each group has the same state on both sides, in the same order: bit by bit but for floating-point sums. And so has each answer.
pub fn assert_equal(view: &Arc<View>, ours: &RecordBatch, theirs: &RecordBatch) {
    assert_eq!(ours.num_rows(), theirs.num_rows(), "{}", view.name);
    for (field, (ours, theirs)) in view.state_schema.fields().iter().zip(ours.columns().iter().zip(theirs.columns())) {
        if ours.data_type() == &DataType::Float64 {
            assert_near(&format!("{} of {}", field.name(), view.name), ours, theirs);
        } else if ours != theirs {
            // The members of a set come in any order.
            assert_eq!(sorted_members(ours), sorted_members(theirs), "{} of {}", field.name(), view.name);
        }
    }
    let answer = |states: &RecordBatch| {
        let mut fold = Fold::new(view).expect("a fold");
        fold.merge(states).expect("merged");
        view.finalize(&fold.take_values_of_all().expect("values")).expect("finalized").rows
    };
    let found = compare(view, &[answer(ours)], &[answer(theirs)], None, 10).expect("compared");
    assert_eq!(found.different, 0, "{}: {:#?}", view.name, found.differences);
}

fn assert_near(column: &str, ours: &ArrayRef, theirs: &ArrayRef) {
    let (ours, theirs) = (ours.as_primitive::<Float64Type>(), theirs.as_primitive::<Float64Type>());
    for row in 0..ours.len() {
        assert_eq!(ours.is_null(row), theirs.is_null(row), "{column}");
        let (ours, theirs) = (ours.value(row), theirs.value(row));
        assert!((ours - theirs).abs() <= 1e-9 * ours.abs().max(1.0), "{column}, row {row}: {ours}, {theirs}");
    }
}

fn sorted_members(column: &ArrayRef) -> Vec<Vec<String>> {
    let members = |row: usize| {
        let value = ScalarValue::try_from_array(column, row).expect("a value");
        let mut members = match &value {
            ScalarValue::List(list) if !list.is_null(0) => {
                let values = list.value(0);
                (0..values.len()).map(|at| format!("{:?}", ScalarValue::try_from_array(&values, at))).collect()
            }
            other => vec![format!("{other:?}")],
        };
        members.sort();
        members
    };
    (0..column.len()).map(members).collect()
}

/// A random generator whose seed is printed; `SEED` in the environment decides it.
pub fn seeded(test: &str) -> StdRng {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!("{test}: SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// An event by chance.
pub fn click(chance: &mut StdRng) -> String {
    let or_null = |value: String, chance: &mut StdRng| if chance.random_bool(0.1) { "null".to_owned() } else { value };
    let user = format!("\"user {}\"", chance.random_range(0..40));
    let id = format!("\"{}\"", chance.random_range(0..300));
    let latency = format!("{}", f64::from(chance.random_range(-1000..1000)) / 7.0);
    let (user, id, latency) = (or_null(user, chance), or_null(id, chance), or_null(latency, chance));
    let ts = BEGIN + chance.random_range(0..600) * 1_000_000;
    let (url, status) = (chance.random_range(0..12), [200, 304, 404, 500][chance.random_range(0..4)]);
    let bytes = chance.random_range(0..5000);
    format!(
        r#"{{"id": {id}, "ts": {ts}, "url": "/{url}", "user": {user}, "status": {status}, "bytes": {bytes}, "latency": {latency}}}"#
    )
}
