//! Batch runs on a cluster of their own: its processes, and the engine that gives it work.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use batch_distributed::{
    BallistaEngine, ExecutorSettings, SchedulerSettings, Settings as ClusterSettings, Worker, run_executor,
    run_scheduler,
};
use batch_layer::BatchEngine;
use clap::Args;
use event_log::LogError;
use event_log::archive::Archive;
use event_log::registry::SchemaRegistry;

use crate::application::Folder;
use crate::backends;
use crate::command_line::print;
use crate::failure::{Context as _, Failure, Result};
use crate::role::Role;
use crate::run::Signals;
use crate::settings::{Engine, Settings};

/// How the processes of a cluster belong together.
pub const CLUSTER: &str = "\
One scheduler and any number of executors recompute views for a `tidemark batch` (or `run`) with batch.engine = \"ballista\". All of them \
are of one version and read one archive (archive.url). Executors may come and go: what a dead one had to do, others do again. Each \
prints one line when it is ready. SIGTERM or ^C: stop taking work, finish, exit 0.

Examples:
  tidemark batch-scheduler --listen 0.0.0.0:50050
  tidemark batch-executor --config cluster.toml --data ./executor
  tidemark batch-executor --config cluster.toml --data ./executor2 --port 50052
  TIDEMARK__BATCH__ENGINE=ballista tidemark batch --app schemas/clickstream --config cluster.toml";

/// Arguments of a scheduler.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    /// Where it listens; executors and batch layers have it as `batch.scheduler`
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50050")]
    listen: String,
    /// An executor that says nothing for so long is lost: others do its tasks again; at least 10s
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    executor_timeout: Duration,
}

/// Arguments of an executor.
#[derive(Debug, Args)]
pub struct ExecutorArgs {
    /// The IP address it listens at
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    host: String,
    /// What others call that address, when it is another name
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Where others fetch what it computed; 0: any free one
    #[arg(long, value_name = "PORT", default_value_t = 50051)]
    port: u16,
    /// Tasks at once, which share `batch.memory` [default: one a core]
    #[arg(long, value_name = "N")]
    cores: Option<usize>,
}

impl SchedulerArgs {
    /// Runs a scheduler until a signal.
    ///
    /// # Errors
    ///
    /// When it cannot listen.
    pub async fn run(self) -> Result {
        let signals = Signals::listen()?;
        let settings = SchedulerSettings { listen: self.listen, executor_timeout: self.executor_timeout };
        let ready = |address| print(format!("tidemark batch-scheduler ready on {address}\n"));
        tokio::select! {
            () = signals.first() => Ok(()),
            ended = run_scheduler(&settings, ready) => ended.context("--listen"),
        }
    }
}

impl ExecutorArgs {
    /// Runs an executor until a signal.
    ///
    /// # Errors
    ///
    /// When its parts or the scheduler cannot be had.
    pub async fn run(self, settings: Settings) -> Result {
        let archive_url = shared_archive(&settings)?;
        let archive = Arc::new(backends::open_archive(&settings).await?);
        let cores = self.cores.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        let memory = settings.batch.memory.bytes();
        let cluster = ExecutorSettings {
            scheduler: settings.batch.scheduler.clone(),
            host: self.host,
            advertise: self.advertise,
            port: self.port,
            cores,
            memory_bytes: memory / 4,
            work_dir: settings.data.join("stages"),
        };
        let cluster = cluster.with_free_port().context(format!("--port {}", self.port))?;
        let name = format!("{}:{}", cluster.advertise.as_ref().unwrap_or(&cluster.host), cluster.port);
        let spill = settings.data.join("spill");
        clear(&spill).context(spill.display())?;
        let local = batch_layer::Settings {
            memory_bytes: memory / 4 * 3,
            target_partitions: cores,
            ..batch_layer::Settings::new(spill)
        };
        let worker = Worker::new(name.clone(), archive, archive_url, open_registry(&settings).await?, &local);
        let ready = || print(format!("tidemark batch-executor ready on {name} ({cores} tasks at once)\n"));
        run_executor(cluster, worker, ready).await.map_err(Failure::new)
    }
}

/// The engine of the settings, when it is not this process. A process that makes generations wants it to be there.
///
/// # Errors
///
/// When the cluster cannot be reached, or cannot read what this process archives.
pub async fn engine(
    folder: &Folder,
    settings: &Settings,
    role: Role,
    (archive, registry): (&Arc<Archive>, &Arc<dyn SchemaRegistry>),
    local: &batch_layer::Settings,
) -> Result<Option<Arc<dyn BatchEngine>>> {
    if settings.batch.engine == Engine::Local {
        return Ok(None);
    }
    let cluster = ClusterSettings {
        scheduler: settings.batch.scheduler.clone(),
        tasks: settings.batch.tasks,
        archive_url: shared_archive(settings)?,
        application: folder.files.clone(),
    };
    let engine = BallistaEngine::new(cluster, archive.clone(), registry.clone(), local).context("batch layer")?;
    if role.makes_generations() {
        engine.check().await.map_err(Failure::new)?;
    }
    Ok(Some(Arc::new(engine)))
}

fn shared_archive(settings: &Settings) -> Result<String> {
    settings.archive.url.clone().ok_or_else(|| {
        Failure::usage("batch.engine = \"ballista\" needs archive.url: executors read the archive by themselves")
    })
}

/// Not the embedded one, which another process has open.
async fn open_registry(settings: &Settings) -> Result<Arc<dyn SchemaRegistry>> {
    match settings.registry.url {
        Some(_) => backends::open_registry(settings).await,
        None => Ok(Arc::new(NoRegistry)),
    }
}

/// The registry of an executor that has none: most segments hold their schema, others cannot be read.
struct NoRegistry;

#[async_trait]
impl SchemaRegistry for NoRegistry {
    async fn register(&self, _: &str, _: &str) -> Result<u32, LogError> {
        Err(LogError::Invalid("an executor registers no schemas".to_owned()))
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, LogError> {
        let needs = "an archived segment with events of several schemas needs registry.url";
        Err(LogError::unavailable(format!("schema {id}"), needs))
    }
}

fn clear(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(dir),
    }
}
