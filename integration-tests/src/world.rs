//! A whole Tidemark in one process, assembled from parts like `tidemark run` does it, whose layers can be stopped, crashed
//! and started again at any moment, with faults from a seed in every port.
//!
//! A [`World`] outlives its processes: [`World::start`] opens the parts and starts the layers, [`World::kill`] ends them
//! in the middle of whatever they do, [`World::stop`] gracefully. What the world knows about the log ([`Truth`]) stays.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use batch_layer::{BatchError, BatchLayer, NoProgress, RunReport};
use event_log::archive::Archive;
use event_log::archiver::{Archiver, ArchiverOptions};
use event_log::encode::{EncodedEvent, EventEncoder, Rejection, partition_for, value_subject};
use event_log::faulty_objects::{FaultyObjects, ObjectFaults};
use event_log::import::Spool;
use event_log::registry::SchemaRegistry;
use event_log::tiered::TieredLog;
use event_log::{Content, EventLog, FaultyLog, LogError, LogFaults, TopicSpec, import};
use futures::StreamExt as _;
use rand::Rng as _;
use rand::rngs::StdRng;
use speed_layer::{Owned, SpeedLayer, SpeedParts, SpeedSettings};
use tidemark::ports::DeadLetters;
use view_store::{FaultRates, FaultyStore, KeyRange, ViewStore};
use views::view::Fingerprint;
use views::{Application, ApplicationFile, Fold, Offset, Position, Published, TopicPartition, View};

use crate::events::Event;
use crate::parts::{PATIENCE, Parts, Ports, when_free};
use crate::truth::{Truth, difference};
use crate::wrappers::{FaultyRegistry, Severable};

/// How likely what goes wrong is, in every port.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// In the event log.
    pub log: LogFaults,
    /// In the archive.
    pub objects: ObjectFaults,
    /// In the view store.
    pub store: FaultRates,
    /// In the registry: the part of the calls that fail.
    pub registry: f64,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self { log: LogFaults::NONE, objects: ObjectFaults::default(), store: FaultRates::NONE, registry: 0.0 }
    }

    /// About one call in `n` goes wrong each way it can, and some take a little longer.
    pub fn one_in(n: u32) -> Self {
        let rate = 1.0 / f64::from(n);
        let (delay, longest_delay) = (0.1, Duration::from_millis(1));
        Self {
            log: LogFaults {
                error: rate,
                lost_acknowledgement: rate,
                partial_append: rate,
                short_read: 0.2,
                delay,
                longest_delay,
            },
            objects: ObjectFaults { fails: rate, lost: rate, slow: delay, slowness: longest_delay },
            store: FaultRates { delay, longest_delay, ..FaultRates::one_in(n) },
            registry: rate,
        }
    }
}

/// What one process has open and running.
pub struct Running {
    /// The ports without faults: what a test looks through.
    pub plain: Ports,
    /// The log as a test reads it: whole, and without faults.
    pub whole_log: Arc<dyn EventLog>,
    /// The log as layers see it: with faults, and what it let go of from the archive.
    pub log: Arc<dyn EventLog>,
    /// The view store as layers see it.
    pub store: Arc<dyn ViewStore>,
    /// The archiver.
    pub archiver: Arc<Archiver>,
    /// Two batch layers of one application.
    pub batch: [Arc<BatchLayer>; 2],
    archive: Arc<Archive>,
    faulty_log: Arc<FaultyLog>,
    faulty_objects: Arc<FaultyObjects>,
    faulty_store: Arc<FaultyStore>,
    faulty_registry: Arc<FaultyRegistry>,
    severable: Arc<Severable>,
    /// Owners of the same partitions, each with a number that names its folder, and the view store as he sees it.
    speed: BTreeMap<u32, (Arc<SpeedLayer>, Arc<Severable>)>,
}

/// One moment of a view.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The rows, `HAVING` applied.
    pub rows: RecordBatch,
    /// How far they reach.
    pub position: Position,
    /// The generation in them.
    pub published: Option<Published>,
}

/// A Tidemark.
pub struct World {
    /// What it is made from.
    pub parts: Arc<dyn Parts>,
    /// Its sources and views.
    pub application: Arc<Application>,
    /// What it must answer.
    pub truth: Truth,
    /// What was published last, as far as it was seen.
    pub visible: Option<Published>,
    /// How far each view reached when it was last looked at.
    reached: BTreeMap<(Arc<str>, Fingerprint), Position>,
    running: Option<Running>,
    encoders: BTreeMap<u32, EventEncoder>,
}

/// Compiles an application.
///
/// # Panics
///
/// With its problems.
pub fn compile(files: &[(&str, String)]) -> Application {
    let file = |(path, text): &(&str, String)| ApplicationFile { path: (*path).to_owned(), text: text.clone() };
    let files: Vec<ApplicationFile> = files.iter().map(file).collect();
    Application::compile(&files).unwrap_or_else(|problems| panic!("{problems:#?}\n{files:?}"))
}

impl World {
    /// Nothing runs yet.
    pub fn new(parts: Arc<dyn Parts>, application: Application) -> Self {
        Self {
            parts,
            application: Arc::new(application),
            truth: Truth::default(),
            visible: None,
            reached: BTreeMap::new(),
            running: None,
            encoders: BTreeMap::new(),
        }
    }

    /// What runs.
    ///
    /// # Panics
    ///
    /// When nothing does.
    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("the process runs")
    }

    fn running_mut(&mut self) -> &mut Running {
        self.running.as_mut().expect("the process runs")
    }

    /// Opens the parts and starts all layers, as a process does. `seed` decides the faults.
    ///
    /// # Panics
    ///
    /// When something cannot be started.
    pub async fn start(&mut self, faults: Faults, seed: u64) {
        assert!(self.running.is_none(), "one process at a time");
        let plain = self.parts.open().await;
        let mut topics = Vec::new();
        for source in &self.application.sources {
            let (name, segment_records) = (source.name.to_string(), source.segment_records);
            // Partitions that were added by hand stay.
            let there = plain.log.bounds(&name).await.map_or(0, |bounds| bounds.len() as u32);
            let topic = TopicSpec { name, partitions: source.partitions.max(there), segment_records };
            plain.log.create_topic(&topic).await.expect("the topic");
            topics.push(topic);
            let letters = TopicSpec { name: source.dead_letter_topic(), partitions: 1, segment_records: 1 << 20 };
            plain.log.create_topic(&letters).await.expect("the topic of dead letters");
            plain.registry.register(&value_subject(&source.name), &source.avro).await.expect("the schema");
        }
        let faulty_log = Arc::new(FaultyLog::new(plain.log.clone(), seed, faults.log));
        let faulty_objects = Arc::new(FaultyObjects::new(plain.objects.clone(), faults.objects, seed));
        let faulty_store = Arc::new(FaultyStore::new(plain.store.clone(), seed, faults.store));
        let faulty_registry = Arc::new(FaultyRegistry::new(plain.registry.clone(), seed, faults.registry));
        let severable = Arc::new(Severable::new(faulty_store.clone()));
        let store: Arc<dyn ViewStore> = severable.clone();
        let archive = Arc::new(Archive::new(faulty_objects.clone(), ""));
        let log: Arc<dyn EventLog> = Arc::new(TieredLog::new(faulty_log.clone(), archive.clone()));
        let whole_log: Arc<dyn EventLog> =
            Arc::new(TieredLog::new(plain.log.clone(), Arc::new(Archive::new(plain.objects.clone(), ""))));
        let clock = self.parts.clock().cloned();
        let archiver = Arc::new(Archiver::start(
            faulty_log.clone(),
            archive.clone(),
            faulty_registry.clone(),
            topics,
            ArchiverOptions {
                retention: self.application.sources.iter().map(|it| (it.name.to_string(), it.retention)).collect(),
                wait: Duration::from_millis(20),
                backoff: Duration::from_millis(1)..=Duration::from_millis(5),
                clock: Arc::new(move || {
                    clock.as_ref().map_or_else(|| chrono::Utc::now().timestamp_micros(), |clock| clock.now())
                }),
                ..ArchiverOptions::default()
            },
        ));
        let batch = ["one", "two"].map(|name| {
            let mut settings = batch_layer::Settings::new(self.parts.scratch().join("spill").join(name));
            settings.target_partitions = 2;
            settings.batch_rows = 64;
            let views = self.application.views.clone();
            let (log, registry) = (log.clone(), faulty_registry.clone());
            let layer =
                BatchLayer::new(log, archive.clone(), registry, store.clone(), views, archiver.clone(), settings);
            Arc::new(layer.expect("a batch layer"))
        });
        self.running = Some(Running {
            plain,
            whole_log,
            log,
            store,
            archiver,
            batch,
            archive,
            faulty_log,
            faulty_objects,
            faulty_store,
            faulty_registry,
            severable,
            speed: BTreeMap::new(),
        });
        // Whoever retires under another application lets go of the views that it does not have.
        let views = &self.application.views;
        self.reached
            .retain(|(name, fingerprint), _| views.iter().any(|it| it.name == *name && it.fingerprint == *fingerprint));
        self.start_speed(0).await;
    }

    /// Starts a speed layer in the folder that belongs to `owner`.
    ///
    /// # Panics
    ///
    /// When it cannot be started, or runs already.
    pub async fn start_speed(&mut self, owner: u32) {
        let views = self.application.views.clone();
        let folder = self.parts.scratch().join(format!("dedupe {owner}"));
        let running = self.running_mut();
        assert!(!running.speed.contains_key(&owner), "an owner runs once");
        let store = Arc::new(Severable::new(running.store.clone()));
        let layer = when_free("the folder of seen ids", || {
            let registry: Arc<dyn SchemaRegistry> = running.faulty_registry.clone();
            let parts = SpeedParts {
                log: running.log.clone(),
                registry: registry.clone(),
                store: store.clone(),
                rejected: Arc::new(DeadLetters { log: running.log.clone(), registry }),
                dedupe_dir: folder.clone(),
                owned: Owned::all(),
            };
            SpeedLayer::start(parts, views.clone(), quick())
        });
        let layer = layer.await;
        running.speed.insert(owner, (Arc::new(layer), store));
    }

    /// Whether this owner runs.
    pub fn has_speed(&self, owner: u32) -> bool {
        self.running.as_ref().is_some_and(|running| running.speed.contains_key(&owner))
    }

    /// Whether he sleeps from now on, before his next write: what he has decided to write he writes when he wakes.
    pub fn sleep(&self, owner: u32, asleep: bool) {
        if let Some((_, store)) = self.running().speed.get(&owner) {
            store.sleep(asleep);
        }
    }

    /// Ends a speed layer: gracefully, or without waiting for it.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub async fn end_speed(&mut self, owner: u32, gracefully: bool) {
        let Some((layer, store)) = self.running_mut().speed.remove(&owner) else { return };
        store.sleep(false);
        if gracefully && let Ok(layer) = Arc::try_unwrap(layer) {
            within("the speed layer to end", layer.shutdown(), || "").await;
        }
    }

    /// Ends the process in the middle of whatever it does: nothing it still tries reaches the parts.
    pub fn kill(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.severable.cut();
        running.speed.values().for_each(|(_, store)| store.cut());
        running.faulty_log.set_faults(LogFaults { error: 1.0, ..LogFaults::NONE });
        running.faulty_objects.set_faults(ObjectFaults { fails: 1.0, ..ObjectFaults::default() });
    }

    /// Ends the process gracefully.
    pub async fn stop(&mut self) {
        let owners: Vec<u32> = self.running().speed.keys().copied().collect();
        for owner in owners {
            self.end_speed(owner, true).await;
        }
        let archiver = self.running().archiver.clone();
        within("the archiver to stop", archiver.stop(), || archiver.progress()).await;
        self.running = None;
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        let running = self.running();
        running.faulty_log.set_faults(LogFaults::NONE);
        running.faulty_objects.set_faults(ObjectFaults::default());
        running.faulty_store.calm();
        running.faulty_registry.calm();
    }

    /// How many faults there were in the log, the view store and the registry, since the process started.
    pub fn injected(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| {
            running.faulty_log.injected() + running.faulty_store.faults() + running.faulty_registry.faults()
        })
    }

    /// Appends events, written with version `version` of the schema, through the log with its faults. Those with a key go where
    /// it says, the others to `spare`. Returns what became of each partition's part.
    ///
    /// # Panics
    ///
    /// When an event cannot be encoded.
    pub async fn append(
        &mut self,
        topic: &str,
        spare: u32,
        version: u32,
        events: &[Arc<Event>],
    ) -> Vec<(TopicPartition, Vec<Content>, Result<Range<Offset>, LogError>)> {
        let partitions = self.running().plain.log.bounds(topic).await.expect("the topic").len() as u32;
        let registry = self.running().plain.registry.clone();
        let mut parts: BTreeMap<u32, Vec<Content>> = BTreeMap::new();
        for encoded in self.encode(registry.as_ref(), topic, version, events).await {
            let partition = encoded.key.as_ref().map_or(spare % partitions, |key| partition_for(key, partitions));
            parts.entry(partition).or_default().push(Content::Event { key: encoded.key, value: encoded.value });
        }
        let mut outcomes = Vec::new();
        for (number, records) in parts {
            let partition = TopicPartition::new(topic, number);
            let outcome = self.deliver(&partition, &records).await;
            outcomes.push((partition, records, outcome));
        }
        outcomes
    }

    /// Encodes events, and tells the truth about them.
    async fn encode(
        &mut self,
        registry: &dyn SchemaRegistry,
        topic: &str,
        version: u32,
        events: &[Arc<Event>],
    ) -> Vec<EncodedEvent> {
        if !self.encoders.contains_key(&version) {
            let schema = crate::events::schema(version);
            let id = registry.register(&value_subject(topic), &schema).await.expect("the schema");
            let source = self.application.source(topic).expect("a source");
            let source = views::Source { avro: schema.into(), ..source.as_ref().clone() };
            self.encoders.insert(version, EventEncoder::new(&source, id).expect("an encoder"));
        }
        let mut all = Vec::with_capacity(events.len());
        for event in events {
            let json = event.json();
            let encoded = self.encoders[&version].json(&json);
            let encoded = encoded.unwrap_or_else(|no| panic!("{}: {}", no.reason, String::from_utf8_lossy(&json)));
            self.truth.sends(&encoded.value, event.clone());
            all.push(encoded);
        }
        all
    }

    /// Imports events, written with version `version` of the schema, before the topic's first: as the command does, from a
    /// container file. It is broken off a few times on the way.
    ///
    /// # Panics
    ///
    /// When something runs, or the events are refused.
    pub async fn import(&mut self, topic: &str, version: u32, events: &[Arc<Event>], random: &mut StdRng) {
        assert!(self.running.is_none(), "an import is on its own");
        let source = self.application.source(topic).expect("a source").clone();
        loop {
            let crate::parts::Truth { log, registry, objects } = self.parts.open_truth().await;
            let archive = Archive::new(objects, "");
            let encoded = self.encode(registry.as_ref(), topic, version, events).await;
            let datums: Vec<&[u8]> = encoded.iter().map(|event| &event.value[5..]).collect();
            let blocks: Vec<&[&[u8]]> = datums.chunks(7).collect();
            let file = crate::events::container(&crate::events::schema(version), &blocks);
            let encoder = &self.encoders[&version];
            let mut file = encoder.open_container(&file[..], registry.as_ref()).await.expect("a container");
            let mut spool = Spool::new(&self.parts.scratch().join("import"), source.partitions).expect("a spool");
            let mut keyless = 0;
            let take = |event: Result<EncodedEvent, Rejection>, keyless: u32, spool: &mut Spool| {
                let event = event.unwrap_or_else(|no| panic!("{}", no.reason));
                let key = event.key.as_ref();
                let partition = key.map_or(keyless % source.partitions, |key| partition_for(key, source.partitions));
                spool.push(partition, &event).expect("put aside");
            };
            while file.next_block(encoder, |event| take(event, keyless, &mut spool)).expect("a block").is_some() {
                keyless += 1;
            }
            let spooled = spool.finish().expect("put aside");
            let (partitions, segment_records) = (source.partitions, source.segment_records);
            let spec = TopicSpec { name: topic.to_owned(), partitions, segment_records };
            let beginning = log.begin_topic(&spec, &spooled.imported()).await.expect("a beginning");
            for number in 0..partitions {
                if random.random_bool(0.2) {
                    break;
                }
                let of = TopicPartition::new(topic, number);
                let done = Arc::default();
                let put = import::put_segments(
                    &archive,
                    registry.as_ref(),
                    &of,
                    segment_records,
                    &beginning,
                    &spooled,
                    &done,
                );
                put.await.expect("segments");
            }
            match import::check_complete(&archive, topic, &beginning).await {
                Ok(()) => return,
                Err(LogError::Hole(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Appends records that are ready. Also the way to deliver some again.
    ///
    /// # Errors
    ///
    /// The log's: nothing is known about the outcome.
    pub async fn deliver(
        &mut self,
        partition: &TopicPartition,
        records: &[Content],
    ) -> Result<Range<Offset>, LogError> {
        let range = self.running().faulty_log.append(partition, records.to_vec()).await?;
        assert_eq!(range.end - range.start, records.len() as u64, "every record has an offset of its own");
        let values = records.iter().filter_map(|record| match record {
            Content::Event { value, .. } => Some(value.clone()),
            Content::Marker(_) => None,
        });
        self.truth.acknowledged(partition, range.start, values);
        Ok(range)
    }

    /// Adds partitions to a topic.
    ///
    /// # Panics
    ///
    /// When the log refuses.
    pub async fn add_partitions(&self, topic: &str, partitions: u32) {
        let segment_records = self.application.source(topic).expect("a source").segment_records;
        let topic = TopicSpec { name: topic.to_owned(), partitions, segment_records };
        self.running().plain.log.create_topic(&topic).await.expect("more partitions");
        self.running().archiver.follow(&[topic]);
    }

    /// Lets the log let go of what is archived.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub async fn trim(&self, topic: &str) {
        let running = self.running();
        for number in 0..running.plain.log.bounds(topic).await.expect("bounds").len() {
            let partition = TopicPartition::new(topic, number as u32);
            let sealed = running.archiver.sealed(&partition);
            running.plain.log.trim(&partition, sealed).await.expect("trimmed");
        }
    }

    /// A batch run by one of the two batch layers.
    ///
    /// # Errors
    ///
    /// The run's.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub async fn batch_run(&self, layer: usize, full: bool) -> Result<RunReport, BatchError> {
        let running = self.running();
        let layer = &running.batch[layer % 2];
        let stands = || (layer.current(), running.archiver.progress());
        within("a batch run to end", layer.run(full, &NoProgress), stands).await
    }

    /// What a view answers now, by the read path of the serving layer: states of one moment, merged, finalized.
    ///
    /// # Panics
    ///
    /// When the store cannot be read.
    pub async fn see(&self, view: &Arc<View>, range: &KeyRange) -> Seen {
        let mut read = self.running().plain.store.read(view, range).await.expect("a read");
        let mut fold = Fold::new(view).expect("a fold");
        while let Some(chunk) = read.rows.next().await {
            fold.merge(&chunk.expect("rows").states).expect("states that merge");
        }
        let values = fold.take_values_of_all().expect("values");
        let rows = view.finalize(&values).expect("finalized").rows;
        Seen { rows, position: read.position, published: read.published.map(Arc::unwrap_or_clone) }
    }

    /// Looks at a view and compares what it answers with the oracle at the position that the answer names.
    ///
    /// # Errors
    ///
    /// The difference.
    ///
    /// # Panics
    ///
    /// When what was acknowledged is not there, or what is published moved back.
    pub async fn check(&mut self, view: &Arc<View>) -> Result<Seen, String> {
        let seen = self.see(view, &KeyRange::default()).await;
        self.watch_published().await;
        let log = self.running().whole_log.clone();
        self.truth.read_on(log.as_ref(), &view.source.name).await;
        if let Some(published) = &seen.published {
            let frontier = published.frontier.of_topic(&view.source.name);
            assert!(
                seen.position.covers(&frontier),
                "{}: position {} lies before frontier {frontier}",
                view.name,
                seen.position
            );
        }
        assert!(
            self.truth.end().covers(&seen.position),
            "{}: position {} lies past the log's end",
            view.name,
            seen.position
        );
        let before = self.reached.insert((view.name.clone(), view.fingerprint.clone()), seen.position.clone());
        if let Some(before) = before {
            assert!(seen.position.covers(&before), "{} moved back from {before} to {}", view.name, seen.position);
        }
        let expected = self.truth.oracle(view, &seen.position).await;
        match difference(view, &seen.rows, &expected) {
            None => Ok(seen),
            Some(difference) => Err(format!(
                "{} at {} with {:?}: {difference}\n{}",
                view.name, seen.position, seen.published, view.statement
            )),
        }
    }

    /// The states are thrown away: readers begin anew.
    ///
    /// # Panics
    ///
    /// When a process runs.
    pub async fn lose_states(&mut self) {
        assert!(self.running.is_none(), "the states belong to a process");
        self.parts.lose_states().await;
        self.visible = None;
        self.reached.clear();
    }

    /// The ids that the first owner has seen are thrown away, after the process has stopped gracefully.
    ///
    /// # Panics
    ///
    /// When a process runs.
    pub fn lose_seen_ids(&mut self) {
        assert!(self.running.is_none(), "the ids belong to a process");
        let folder = self.parts.scratch().join("dedupe 0");
        if folder.exists() {
            std::fs::remove_dir_all(folder).expect("a folder of a process that has ended");
        }
    }

    /// Looks at what is published, and checks that it has not moved back since the last look.
    ///
    /// # Panics
    ///
    /// When it has.
    pub async fn watch_published(&mut self) {
        let now = self.running().plain.store.published().await.expect("what is published");
        if let Some(before) = &self.visible {
            let Some(now) = &now else { panic!("generation {} vanished", before.generation) };
            assert!(now.generation >= before.generation, "{} became {}", before.generation, now.generation);
            assert!(now.frontier.covers(&before.frontier), "{} moved back to {}", before.frontier, now.frontier);
            // A definition that nobody has any more is forgotten; nothing else changes within a generation.
            let still = |held: &views::publish::Behind| before.behind.contains(held);
            let same = now.frontier == before.frontier
                && now.views.iter().all(|view| before.views.get(view.0) == Some(view.1))
                && now.behind.iter().all(still);
            assert!(now.generation > before.generation || same, "{before:?} changed to {now:?}");
        }
        self.visible = now;
    }

    /// Waits until the states of every view hold everything that is in the log.
    ///
    /// # Panics
    ///
    /// When that does not happen, or a view cannot be evaluated.
    pub async fn settle(&mut self) {
        let log = self.running().whole_log.clone();
        let topics: Vec<Arc<str>> = self.application.sources.iter().map(|source| source.name.clone()).collect();
        let mut end = Position::new();
        for topic in topics {
            self.truth.read_on(log.as_ref(), &topic).await;
        }
        for (partition, offset) in self.truth.end().iter() {
            end.set(&partition, offset);
        }
        let running = self.running();
        let (speed, _) = running.speed.values().next().expect("a speed layer runs");
        let mut written = speed.written();
        for view in &self.application.views {
            let end = end.of_topic(&view.source.name);
            let reached = async {
                loop {
                    written.borrow_and_update();
                    let nothing = KeyRange { after: Some(vec![255; 64]), ..KeyRange::default() };
                    let read = running.plain.store.read(view, &nothing).await.expect("a read");
                    if read.position.covers(&end) {
                        break;
                    }
                    for status in speed.status() {
                        let failed = status.views.get(&view.name).and_then(|view| view.failed.clone());
                        assert!(failed.is_none(), "{} in {}: {failed:?}", view.name, status.partition);
                    }
                    written.changed().await.expect("the speed layer runs");
                }
            };
            within(&format!("{} to reach {end}", view.name), reached, || speed.status()).await;
        }
    }

    /// The archive as layers see it.
    pub fn archive(&self) -> &Arc<Archive> {
        &self.running().archive
    }
}

/// Waits for something that must happen.
///
/// # Panics
///
/// When it does not, with what was waited for and what there is to say about it.
pub async fn within<T, S: fmt::Debug>(what: &str, work: impl Future<Output = T>, stands: impl Fn() -> S) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {} s for {what}: {:#?}", PATIENCE.as_secs(), stands()),
    }
}

/// Small reads, so that a few hundred records are many micro-batches, and no long waits after failures.
fn quick() -> SpeedSettings {
    SpeedSettings {
        flush_interval: Duration::from_micros(200),
        catch_up_interval: Duration::from_millis(2),
        read_records: 17,
        long_poll: Duration::from_millis(20),
        close: 20,
        discover_interval: Duration::from_millis(5),
        retry_first: Duration::from_micros(50),
        retry_most: Duration::from_millis(2),
        ..SpeedSettings::default()
    }
}

/// Drives `work` until it has been woken `polls` times, and drops it then: a task that dies at some await. `None` when it
/// did.
pub async fn dies_after<T>(polls: u32, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        work.as_mut().poll(context).map(Some)
    })
    .await
}

/// The seed of a test: `TIDEMARK_SEED`, or a random one.
pub fn seed() -> u64 {
    let given = std::env::var("TIDEMARK_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| rand::rng().random())
}

/// A number from the environment.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// Some random events.
pub fn random_events(random: &mut StdRng, version: u32, most: usize) -> Vec<Arc<Event>> {
    let count = random.random_range(1..=most);
    (0..count).map(|_| Arc::new(Event::random(random, version))).collect()
}
