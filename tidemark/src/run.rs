//! The layers of a process, plugged together: all of them, or those of its role.
//!
//! ```text
//! DATA/log       the event log             DATA/views    the view store
//! DATA/registry  the schemas               DATA/spill    what batch runs and audits put aside
//! DATA/archive   sealed segments           DATA/dedupe   ids of seen events
//! ```
//!
//! The log, the registry and the archive are the truth. Everything else can be removed while the process is down: it is
//! rebuilt from them.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use batch_layer::{BatchLayer, BatchTimer, PolledArchive, SealedUpTo};
use event_log::archive::Archive;
use event_log::archiver::{Archiver, ArchiverOptions};
use event_log::dead_letter;
use event_log::registry::SchemaRegistry;
use event_log::tiered::TieredLog;
use event_log::{Beginnings, EventLog, LogError, TopicSpec, import};
use futures::FutureExt as _;
use futures::future::try_join_all;
use serving_layer::{ArchiveStatus, Parts, RunningServer, ServeSettings, Server, SpeedStatus, StartError};
use speed_layer::{Owned, SpeedLayer, SpeedParts, SpeedSettings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use view_store::ViewStore;
use view_store::embedded::EmbeddedStore;
use views::{Application, Offset, TopicPartition, View};

use crate::application::Folder;
use crate::backends::{Backends, Share, must_be_shared};
use crate::command_line::print;
use crate::elsewhere::{ArchiveElsewhere, SpeedElsewhere, furthest};
use crate::failure::{Context as _, Failure, Result};
use crate::following::Following;
use crate::metrics;
use crate::ports::{Auditor, DeadLetters, RunWatch, Runs, Sealing, Speed};
use crate::role::Role;
use crate::settings::{LogKind, Settings, StoreKind};
use crate::units::Schedule;
use crate::watched_log::WatchedLog;

/// How long a batch run under way may go on when the process is to stop.
const BATCH_GRACE: Duration = Duration::from_secs(2);

/// How often to look whether the archiver of another process has sealed what a batch run waits for.
const LOOK_AT_ARCHIVE: Duration = Duration::from_millis(200);

/// How often to tell the group how far this process is.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// How often to look for partitions that were added to a topic.
const LOOK_FOR_PARTITIONS: Duration = Duration::from_secs(5);

/// How often to look whether everything must be opened again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many bytes the disk must take before everything is opened again.
const ROOM: usize = 4 << 20;

/// How long what an earlier opening held may take to be given back.
const HELD_BACK: Duration = Duration::from_secs(60);

/// A running process: every layer, plugged together.
pub struct Running {
    server: RunningServer,
    batch: Arc<BatchLayer>,
    watch: Arc<RunWatch>,
    runs: Arc<Runs>,
    timer: Option<BatchTimer>,
    speed: Option<Arc<SpeedLayer>>,
    sharing: Option<Sharing>,
    archiving: Option<Archiving>,
    application: Arc<Application>,
    log: Arc<dyn EventLog>,
    store: Arc<dyn ViewStore>,
    embedded: Option<EmbeddedStore>,
    role: Role,
    data: std::path::PathBuf,
}

impl Running {
    /// Starts everything.
    ///
    /// # Errors
    ///
    /// Whatever keeps a part from starting: a definition, the disk, another process with the same data.
    pub async fn start(folder: &Folder, settings: Settings, role: Role) -> Result<Self> {
        let folder = folder.clone().with_subjects(&settings).await?;
        let application = Arc::new(folder.compile()?);
        // Found out before anything is opened; the server itself comes last.
        drop(
            std::net::TcpListener::bind(&settings.serve.listen)
                .map_err(|source| not_served(StartError::Listen { address: settings.serve.listen.clone(), source }))?,
        );
        if role != Role::Everything {
            must_be_shared(&settings, role.name())?;
        }
        #[cfg(not(feature = "distributed"))]
        if settings.batch.engine == crate::settings::Engine::Ballista {
            let missing = "batch.engine = \"ballista\": this binary was built without the feature `distributed`";
            return Err(crate::failure::Failure::usage(missing));
        }
        let (backends, topics) = Backends::open_and(&settings, async |parts| {
            refuse_broken_import(parts.log.as_ref(), &parts.archive, &application).await?;
            create_topics(parts.log.as_ref(), parts.registry.as_ref(), &application, &settings).await
        })
        .await?;
        tracing::debug!("topics and schemas are there");
        let Backends { log: local, kafka, registry, archive, store, embedded_store: embedded, cql_store, .. } =
            backends;
        let watched = Arc::new(WatchedLog::new(Arc::new(TieredLog::new(local.clone(), archive.clone()))));
        let log: Arc<dyn EventLog> = watched.clone();
        refuse_lost_end(local.as_ref(), store.as_ref(), &application, &settings).await?;

        let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
        let share = match &kafka {
            Some(kafka) if role == Role::Speed => Some(Arc::new(Share::join(&settings, kafka, &names)?)),
            _ => None,
        };
        let following = share.as_ref().map(|share| Following::start(share, &application, store.clone(), log.clone()));
        let archiving = role.archives().then(|| start_archiver(&application, topics, local, &archive, &registry));
        let speed = match role.keeps_deltas() {
            true => {
                let owned = following.as_ref().map_or_else(Owned::all, |it| Owned::named(it.partitions()));
                let parts = SpeedParts {
                    log: log.clone(),
                    registry: registry.clone(),
                    store: store.clone(),
                    rejected: Arc::new(DeadLetters { log: log.clone(), registry: registry.clone() }),
                    dedupe_dir: settings.data.join("dedupe"),
                    owned,
                };
                Some(start_speed(parts, &application, &settings)?)
            }
            false => None,
        };

        let sharing = share
            .zip(following)
            .zip(speed.as_ref())
            .map(|((share, following), speed)| Sharing::new(share, following, speed));

        let spill = settings.data.join("spill");
        clear(&spill).context(spill.display())?;
        let mut engine = batch_layer::Settings::new(spill.join("batch"));
        engine.memory_bytes = settings.batch.memory.bytes();
        let audit = batch_layer::Settings { spill_dir: spill.join("verify"), ..engine.clone() };
        let archiver = archiving.as_ref().map(|archiving| &archiving.archiver);
        let sealed: Arc<dyn SealedUpTo> = match archiver {
            Some(archiver) => archiver.clone(),
            None => Arc::new(PolledArchive::new(archive.clone(), LOOK_AT_ARCHIVE)),
        };
        let archived: Arc<dyn ArchiveStatus> = match archiver {
            Some(archiver) => Arc::new(Sealing(archiver.clone())),
            None => Arc::new(ArchiveElsewhere::watch(&application, archive.clone(), log.clone())),
        };
        let views = application.views.clone();
        #[cfg(feature = "distributed")]
        let cluster = crate::distributed::engine(&folder, &settings, role, (&archive, &registry), &engine).await?;
        let batch = BatchLayer::new(log.clone(), archive, registry.clone(), store.clone(), views, sealed, engine);
        let batch = batch.context("batch layer")?;
        #[cfg(feature = "distributed")]
        let batch = match cluster {
            Some(engine) => batch.with_engine(engine),
            None => batch,
        };
        let batch = Arc::new(batch);
        let watch = Arc::new(RunWatch::default());
        let runs = Arc::new(Runs::new(batch.clone(), watch.clone()));

        let metrics = prometheus::Registry::new();
        metrics::register(&metrics, speed.as_ref(), archiver, embedded.clone())?;
        let deltas: Arc<dyn SpeedStatus> = match (&speed, role) {
            (Some(layer), Role::Everything) => Arc::new(Speed { layer: layer.clone(), log: watched }),
            (own, _) => {
                let own = own.as_ref().map_or_else(Weak::new, Arc::downgrade);
                Arc::new(SpeedElsewhere::watch(&application, store.clone(), watched, own, role.waits_for_deltas()))
            }
        };
        // Only where questions are the business: each worker's connections are logins and a share of the server's.
        let beside = cql_store.filter(|_| role.waits_for_deltas()).map(|store| {
            let own: Arc<dyn Fn() -> _ + Send + Sync> = Arc::new(move || store.clone().own_connections().boxed());
            own
        });
        let parts = Parts {
            log: log.clone(),
            registry: registry.clone(),
            store: store.clone(),
            application: application.clone(),
            batch: runs.clone(),
            audit: Arc::new(Auditor {
                application: application.clone(),
                store: store.clone(),
                log: log.clone(),
                registry,
                settings: audit,
            }),
            speed: deltas,
            archive: archived,
            metrics,
            beside,
        };
        let serve = ServeSettings {
            listen: settings.serve.listen.clone(),
            workers: settings.serve.workers,
            max_body_bytes: settings.serve.body_limit.bytes(),
            waits_for_deltas: role.waits_for_deltas(),
            ..ServeSettings::default()
        };
        let server = Server::start(parts, serve).await.map_err(not_served)?;
        let timer = match settings.batch.every {
            Schedule::Every(every) if role.makes_generations() => {
                Some(BatchTimer::start(batch.clone(), every, watch.clone()))
            }
            _ => None,
        };
        let data = settings.data;
        let running = Self {
            server,
            batch,
            watch,
            runs,
            timer,
            speed,
            sharing,
            archiving,
            application,
            log,
            store,
            embedded,
            role,
            data,
        };
        // A cluster's executors cannot be told how fast to go.
        let paced = settings.batch.engine == crate::settings::Engine::Local;
        let rate = NonZeroU64::new(settings.speed.backfill_rate).filter(|_| paced);
        running.rebuild_changed_views(rate).await?;
        Ok(running)
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }

    /// The one line that says so.
    pub fn ready_line(&self) -> String {
        let defined = crate::check::counts(&self.application);
        let role = match self.role {
            Role::Everything => String::new(),
            role => format!(" {}", role.name()),
        };
        format!("tidemark{role} ready on {} ({defined}, data in {})\n", self.url(), self.data.display())
    }

    /// The speed layer folds a new or changed view from the start of the log. A generation gets it there sooner, and lets go of
    /// the many deltas: so one is made at once, unless generations are made only by command. Where there are others to be looked up, it
    /// is in no hurry.
    async fn rebuild_changed_views(&self, rate: Option<NonZeroU64>) -> Result {
        if self.timer.is_none() {
            return Ok(());
        }
        let Some(published) = self.store.published().await.context("view store")? else { return Ok(()) };
        let views = &self.application.views;
        let is_changed = |view: &&Arc<views::View>| published.of(view).is_none();
        let changed: Vec<String> = views.iter().filter(is_changed).map(|view| view.name.to_string()).collect();
        let mut has_events = false;
        for source in &self.application.sources {
            has_events |= self.log.bounds(&source.name).await.context("event log")?.iter().any(|kept| kept.end > 0);
        }
        if changed.is_empty() || !has_events {
            return Ok(());
        }
        tracing::info!(views = changed.join(", "), "new or changed views: making a generation that has them");
        let rate = rate.filter(|_| changed.len() < views.len());
        let (batch, watch) = (self.batch.clone(), self.watch.clone());
        self.runs.spawn(async move {
            if let Err(error) = batch.backfill(&changed, rate, watch.as_ref()).await {
                tracing::error!(%error, "the batch run failed; the timer will try again");
            }
        });
        Ok(())
    }

    /// Returns when everything must be opened again to go on: a write of derived data failed half way, because the disk was full, and
    /// now it takes writes again. Until then the process answers from what it has.
    async fn must_open_again(&self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            look.tick().await;
            let is_broken = self.embedded.as_ref().is_some_and(EmbeddedStore::is_broken)
                || self.speed.as_ref().is_some_and(|speed| speed.is_broken());
            if is_broken && has_room(&self.data).await {
                return;
            }
        }
    }

    /// Stops taking work, finishes what is at hand, closes everything.
    pub async fn stop(self) {
        // A request may be waiting for a batch run: both are stopped together.
        let batch = async {
            if let Some(timer) = self.timer {
                timer.stop(BATCH_GRACE).await;
            }
            self.runs.stop().await;
        };
        tokio::join!(self.server.stop(true), batch);
        drop(self.runs);
        if let Some(speed) = self.speed {
            speed.stop().await;
        }
        if let Some(sharing) = self.sharing {
            sharing.stop().await;
        }
        if let Some(archiving) = self.archiving {
            archiving.stop().await;
        }
    }
}

/// This process's share of the partitions.
struct Sharing {
    share: Arc<Share>,
    /// Goes on with those that nobody moves.
    following: Following,
    /// Tells how far it is.
    committing: JoinHandle<()>,
}

impl Sharing {
    fn new(share: Arc<Share>, following: Following, speed: &Arc<SpeedLayer>) -> Self {
        let (committed, speed) = (share.clone(), Arc::downgrade(speed));
        let committing = tokio::spawn(async move {
            let mut times = tokio::time::interval(COMMIT_EVERY);
            while let Some(speed) = speed.upgrade() {
                speed.look(|status| {
                    if !status.views.is_empty() {
                        committed.commit(&status.partition, status.position());
                    }
                });
                drop(speed);
                times.tick().await;
            }
        });
        Self { share, following, committing }
    }

    /// Leaves the group, so that the others have its partitions at once.
    async fn stop(mut self) {
        self.committing.abort();
        let _ = (&mut self.committing).await;
        self.following.stop().await;
        if let Ok(share) = Arc::try_unwrap(self.share) {
            share.leave().await;
        }
    }
}

/// The archiver of this process.
struct Archiving {
    archiver: Arc<Archiver>,
    /// Looks for partitions that are added.
    growing: JoinHandle<()>,
}

impl Archiving {
    async fn stop(mut self) {
        self.growing.abort();
        let _ = (&mut self.growing).await;
        self.archiver.stop().await;
    }
}

impl Drop for Archiving {
    fn drop(&mut self) {
        self.growing.abort();
    }
}

/// Archives partitions that are added to a topic while the process runs, too.
async fn archive_added(archiver: Arc<Archiver>, log: Arc<dyn EventLog>, mut topics: Vec<TopicSpec>) {
    let mut looks = tokio::time::interval(LOOK_FOR_PARTITIONS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        for topic in &mut topics {
            // A log that does not answer now is looked at the next time.
            let Ok(kept) = log.bounds(&topic.name).await else { continue };
            topic.partitions = topic.partitions.max(u32::try_from(kept.len()).unwrap_or(0));
        }
        archiver.follow(&topics);
    }
}

fn start_archiver(
    application: &Application,
    topics: Vec<TopicSpec>,
    log: Arc<dyn EventLog>,
    archive: &Arc<Archive>,
    registry: &Arc<dyn SchemaRegistry>,
) -> Archiving {
    let sources = application.sources.iter();
    let options = ArchiverOptions {
        retention: sources.map(|source| (source.name.to_string(), source.retention)).collect(),
        ..ArchiverOptions::default()
    };
    let archiver = Archiver::start(log.clone(), archive.clone(), registry.clone(), topics.clone(), options);
    let archiver = Arc::new(archiver);
    let growing = tokio::spawn(archive_added(archiver.clone(), log, topics));
    Archiving { archiver, growing }
}

fn start_speed(parts: SpeedParts, application: &Application, settings: &Settings) -> Result<Arc<SpeedLayer>> {
    let speed = SpeedSettings {
        flush_interval: settings.speed.flush_interval.0,
        memory: settings.speed.memory.bytes(),
        backfill_rate: NonZeroU64::new(settings.speed.backfill_rate),
        ..SpeedSettings::default()
    };
    Ok(Arc::new(SpeedLayer::start(parts, application.views.clone(), speed).context("speed layer")?))
}

/// Runs a role of an application until SIGTERM or ^C.
///
/// # Errors
///
/// See [`Running::start`].
pub async fn until_signal(folder: &Folder, settings: Settings, role: Role) -> Result {
    let signals = Signals::listen()?;
    let mut signal = std::pin::pin!(signals.first());
    let mut running = Running::start(folder, settings.clone(), role).await?;
    print(running.ready_line());
    loop {
        tokio::select! {
            () = &mut signal => break,
            () = running.must_open_again() => {}
        }
        tracing::warn!("writes of derived data failed, and the disk takes writes again: opening everything anew");
        let mut settings = settings.clone();
        // A port that the system chose stays the same.
        if settings.serve.listen.ends_with(":0") {
            settings.serve.listen = running.server.addr().to_string();
        }
        running.stop().await;
        running = tokio::select! {
            () = &mut signal => return Ok(()),
            started = start_again(folder, &settings, role) => started?,
        };
        tracing::info!("goes on");
    }
    running.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Starts everything again. What was opened before may be held for a moment yet, by a reader that is not done.
async fn start_again(folder: &Folder, settings: &Settings, role: Role) -> Result<Running> {
    let started = tokio::time::Instant::now();
    loop {
        match Running::start(folder, settings.clone(), role).await {
            Err(failure) if started.elapsed() < HELD_BACK => {
                tracing::info!(why = failure.message, "opening everything anew: not yet");
                tokio::time::sleep(LOOK_EVERY / 10).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether the disk takes as much as opening everything needs.
async fn has_room(data: &Path) -> bool {
    let file = data.join("~room");
    let room = tokio::task::spawn_blocking(move || {
        let written = std::fs::write(&file, vec![1; ROOM]).and_then(|()| std::fs::File::open(&file)?.sync_all());
        let removed = std::fs::remove_file(&file);
        written.and(removed).is_ok()
    });
    room.await.unwrap_or(false)
}

/// The signals that end the process.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    ///
    /// When the system does not let us.
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Returns on the first one. The second one ends the process at once.
    pub async fn first(mut self) {
        self.next().await;
        tracing::info!("stopping; a second signal ends the process at once");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(130);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Creates the topics of all sources with those of their dead letters, and registers the schemas.
async fn create_topics(
    log: &dyn EventLog,
    registry: &dyn SchemaRegistry,
    application: &Application,
    settings: &Settings,
) -> Result<Vec<TopicSpec>> {
    let mut topics = Vec::new();
    for source in &application.sources {
        let place = &source.defined_at;
        // Kafka's partitions are its operators': they may have added some.
        let there = match settings.log.kind {
            LogKind::Kafka => log.bounds(&source.name).await.map_or(0, |kept| kept.len()),
            LogKind::Embedded => 0,
        };
        let topic = TopicSpec {
            name: source.name.to_string(),
            partitions: source.partitions.max(u32::try_from(there).unwrap_or(0)),
            segment_records: source.segment_records,
        };
        let dead_letters = dead_letter::topic_of(&source.name);
        let subject = format!("{}-value", source.name);
        let create =
            async |topic: &TopicSpec| log.create_topic(topic).await.context(format!("{place}: topic {}", topic.name));
        let register = async {
            let registered = registry.register(&subject, &source.avro).await;
            registered.map(drop).context(format!("{place}: schema of {}", source.name))
        };
        if there > 0 {
            // All of it is there most likely, and somebody may be waiting for a process that was started again.
            tokio::try_join!(create(&topic), create(&dead_letters), register)?;
        } else {
            create(&topic).await?;
            create(&dead_letters).await?;
            register.await?;
        }
        topics.push(topic);
    }
    Ok(topics)
}

/// Refuses to start on a topic whose import was broken off: its first events are not there, and nobody could get past that.
async fn refuse_broken_import(log: &dyn Beginnings, archive: &Archive, application: &Application) -> Result {
    for source in &application.sources {
        let Some(beginning) = log.beginning(&source.name).await.context("event log")? else { continue };
        match import::check_complete(archive, &source.name, &beginning).await {
            Ok(()) => {}
            // Whoever needs the archive asks again, and says so.
            Err(error @ LogError::Unavailable { .. }) => tracing::warn!(topic = %source.name, %error, "the archive"),
            Err(error) => return Err(Failure::new(format!("archive: {error}"))),
        }
    }
    Ok(())
}

/// Refuses to start when views have folded records that the log does not have any more. To the log, damage at its very end looks
/// like a group that a crash tore before it was acknowledged, and it cuts that off; records that a view has folded were
/// acknowledged, though. Going on would give their offsets to new records, which those views would then pass over.
async fn refuse_lost_end(
    log: &dyn EventLog,
    store: &dyn ViewStore,
    application: &Application,
    settings: &Settings,
) -> Result<()> {
    // Side by side: a store over a network answers all of it with one read or two.
    let check = |view: Arc<View>| async move {
        let topic = &view.source.name;
        let partitions = log.bounds(topic).await.context("event log")?.len();
        let places =
            (0..u32::try_from(partitions).unwrap_or(u32::MAX)).map(|it| TopicPartition::new(topic.clone(), it));
        let places: Vec<TopicPartition> = places.collect();
        let folded = furthest(std::slice::from_ref(&view), store, &places).await.context("view store")?;
        // Asked for afterwards: other processes append and fold all the while.
        let ends = log.bounds(topic).await.context("event log")?;
        for ((place, folded), kept) in places.iter().zip(folded).zip(ends) {
            if let Some(folded) = folded.filter(|folded| *folded > kept.end) {
                return Err(lost_end(settings, place, kept.end, &view.name, folded));
            }
        }
        Ok(())
    };
    try_join_all(application.views.iter().cloned().map(check)).await?;
    Ok(())
}

fn lost_end(settings: &Settings, partition: &TopicPartition, end: Offset, view: &str, folded: Offset) -> Failure {
    let TopicPartition { topic, partition: number } = partition;
    let data = settings.data.display();
    let views = match settings.store.kind {
        StoreKind::Embedded => format!("remove {data}/views and {data}/dedupe"),
        StoreKind::Cql => format!("name another store.keyspace and remove {data}/dedupe"),
    };
    let (place, why) = match settings.log.kind {
        LogKind::Embedded => (format!("{data}/log/{topic}/{number:05}"), "the end of the log is damaged"),
        LogKind::Kafka => {
            let prefix = &settings.log.topic_prefix;
            (format!("topic {prefix}{topic}, partition {number},"), "the topic was made anew, or has lost its end")
        }
    };
    Failure::new(format!(
        "event log: {place} ends at offset {end}, but view `{view}` has folded it up to {folded}: {why}, and acknowledged events are \
         lost. Restore the log from a copy; to go on without these events, {views}"
    ))
}

fn not_served(error: StartError) -> Failure {
    match error {
        StartError::Listen { address, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
            Failure::new(format!("{address} is taken by another process: choose another address with --listen"))
        }
        other => Failure::new(other),
    }
}

/// Makes an empty directory of `dir`: what a run that died put aside is of no use.
fn clear(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(dir)
}
