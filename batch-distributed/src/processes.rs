//! The processes of a cluster: a scheduler, and any number of executors, which ask it for work.
//!
//! They ask, because a scheduler that hands tasks out by itself loses count: when an executor dies while others work on what it had
//! computed, their tasks are called off, and Ballista 55 never takes the cores of these to be free again. All executors are idle then,
//! and the job waits for ever.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::health::ExecutorHealth;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tokio::net::TcpListener;

use crate::assignment::Worker;
use crate::cluster::{MESSAGE_BYTES, Scheduler, host_and_port};
use crate::codec::Codec;

const POLICY: TaskSchedulingPolicy = TaskSchedulingPolicy::PullStaged;
/// How long results are kept when nobody fetches them: their job's owner removes them, unless it dies.
const KEEP_RESULTS: Duration = Duration::from_secs(24 * 3600);
/// How often to look for older ones.
const LOOK_FOR_OLD: Duration = Duration::from_secs(600);
/// See [`SchedulerSettings::executor_timeout`].
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look whether an executor is ready.
const LOOK_READY: Duration = Duration::from_millis(20);
/// How often to look whether it still is.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// A scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerSettings {
    /// Where it listens, as `host:port`. Port 0: any that is free.
    pub listen: String,
    /// An executor that says nothing for so long is lost: its tasks are run again on others. Taken for ten seconds when it is shorter: an
    /// executor that has no core free speaks every five.
    pub executor_timeout: Duration,
}

/// Runs a scheduler until it fails, or this is dropped. `ready` is told where it listens.
///
/// # Errors
///
/// For a person.
pub async fn run_scheduler(settings: &SchedulerSettings, ready: impl FnOnce(SocketAddr)) -> Result<(), String> {
    let listen = &settings.listen;
    let not_there = |error: std::io::Error| format!("{listen}: {error}");
    let listener = TcpListener::bind(listen).await.map_err(not_there)?;
    let address = listener.local_addr().map_err(not_there)?;
    let timeout = settings.executor_timeout.max(SHORTEST_TIMEOUT).as_secs();
    let message_bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let config = SchedulerConfig {
        external_host: address.ip().to_string(),
        bind_port: address.port(),
        scheduling_policy: POLICY,
        executor_timeout_seconds: timeout,
        expire_dead_executor_interval_seconds: 1,
        no_executors_grace_period_seconds: timeout + 20,
        finished_job_data_clean_up_interval_seconds: KEEP_RESULTS.as_secs(),
        finished_job_state_clean_up_interval_seconds: KEEP_RESULTS.as_secs(),
        grpc_server_max_decoding_message_size: message_bytes,
        grpc_server_max_encoding_message_size: message_bytes,
        grpc_client_max_message_size: message_bytes,
        override_physical_codec: Some(Arc::new(Codec::default())),
        ..SchedulerConfig::default()
    };
    let fails = |error: ballista_core::error::BallistaError| error.to_string();
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(fails)?;
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config)).await;
    ready(address);
    start_grpc_service_with_listener(listener, scheduler.map_err(fails)?).await.map_err(fails)
}

/// An executor.
#[derive(Debug, Clone)]
pub struct ExecutorSettings {
    /// The scheduler, as `host:port`: the setting `batch.scheduler`.
    pub scheduler: String,
    /// The IP address it listens at.
    pub host: String,
    /// What others call that, when it is another name.
    pub advertise: Option<String>,
    /// Where others fetch what it has. 0: any port that is free.
    pub port: u16,
    /// How many tasks run at once.
    pub cores: usize,
    /// The memory that Ballista may use to write what tasks give; the worker's own comes on top.
    pub memory_bytes: usize,
    /// Where states are kept between the stages of a job. Its content is removed.
    pub work_dir: PathBuf,
}

impl ExecutorSettings {
    /// The same with a port that is free.
    ///
    /// # Errors
    ///
    /// When there is none, or the one it has is taken.
    pub fn with_free_port(mut self) -> std::io::Result<Self> {
        self.port = std::net::TcpListener::bind((self.host.as_str(), self.port))?.local_addr()?.port();
        Ok(self)
    }
}

/// Runs an executor until SIGTERM or ^C. `ready` is called once the scheduler knows it.
///
/// # Errors
///
/// For a person.
pub async fn run_executor(settings: ExecutorSettings, worker: Worker, ready: impl FnOnce()) -> Result<(), String> {
    let scheduler = settings.scheduler.clone();
    let Some((host, port)) = host_and_port(&scheduler) else {
        return Err(format!("batch.scheduler = \"{scheduler}\": not host:port"));
    };
    let work_dir = settings.work_dir.display().to_string();
    let made = match std::fs::remove_dir_all(&settings.work_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(&settings.work_dir),
    };
    made.map_err(|error| format!("{work_dir}: {error}"))?;
    let health = ExecutorHealth::new();
    let message_bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let config = ExecutorProcessConfig {
        bind_host: settings.host.clone(),
        external_host: Some(settings.advertise.unwrap_or(settings.host)),
        port: settings.port,
        scheduler_host: host.to_owned(),
        scheduler_port: port,
        // Not Ballista's own waiting, which has no end: it measures the age of a clock that it has just made.
        scheduler_connect_timeout_seconds: 0,
        vcores: settings.cores.max(1),
        task_scheduling_policy: POLICY,
        work_dir: Some(work_dir),
        job_data_ttl_seconds: KEEP_RESULTS.as_secs(),
        job_data_clean_up_interval_seconds: LOOK_FOR_OLD.as_secs(),
        grpc_max_decoding_message_size: message_bytes,
        grpc_max_encoding_message_size: message_bytes,
        memory_pool_size: Some(settings.memory_bytes as u64),
        override_physical_codec: Some(Arc::new(Codec::of_executor(Arc::new(worker)))),
        health: health.clone(),
        ..ExecutorProcessConfig::default()
    };
    Scheduler::connect_soon(&scheduler).await.map_err(|error| error.to_string())?;
    let mut running = std::pin::pin!(start_executor_process(Arc::new(config)));
    let watch = async {
        while !health.is_ready() {
            tokio::time::sleep(LOOK_READY).await;
        }
        ready();
        let mut answers = true;
        loop {
            tokio::time::sleep(LOOK_AFTER).await;
            // Ballista says so at each of its twenty attempts a second.
            match (answers, health.is_ready()) {
                (true, false) => tracing::warn!(scheduler, "the scheduler does not answer; asking on"),
                (false, true) => tracing::info!(scheduler, "the scheduler answers again"),
                _ => {}
            }
            answers = health.is_ready();
        }
    };
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = watch => Ok(()),
    };
    ended.map_err(|error| format!("batch.scheduler = \"{scheduler}\": {error}"))
}
