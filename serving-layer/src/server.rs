//! The server: its parts, its settings, its life.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use event_log::registry::SchemaRegistry;
use event_log::{EventLog, LogError};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use view_store::ViewStore;
use views::{Application, Offset, TopicPartition, ViewError};

use crate::answer::{Ages, LookupLimits, Reader};
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::ports::{ArchiveStatus, BatchRuns, SpeedStatus, Verify};
use crate::prepared::PreparedViews;
use crate::routes;

/// How often to look for partitions that were added.
const LOOK_FOR_PARTITIONS: Duration = Duration::from_secs(5);

/// What the server is plugged together from.
#[derive(Clone)]
pub struct Parts {
    /// Where events go.
    pub log: Arc<dyn EventLog>,
    /// The schemas they are written with.
    pub registry: Arc<dyn SchemaRegistry>,
    /// Where answers come from.
    pub store: Arc<dyn ViewStore>,
    /// Sources and views.
    pub application: Arc<Application>,
    /// The batch layer.
    pub batch: Arc<dyn BatchRuns>,
    /// The auditor.
    pub audit: Arc<dyn Verify>,
    /// The speed layer.
    pub speed: Arc<dyn SpeedStatus>,
    /// The archiver.
    pub archive: Arc<dyn ArchiveStatus>,
    /// Where metrics are registered: the other layers' are served along.
    pub metrics: prometheus::Registry,
    /// What runs on every worker's thread, beside its requests.
    pub beside: Beside,
}

/// Makes what runs on a worker's thread for as long as the worker does.
pub type Beside = Option<Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>>;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Where it listens: `127.0.0.1:8080`; port 0 chooses a free one.
    pub listen: String,
    /// How many threads serve requests; 0: one per core.
    pub workers: usize,
    /// How large a body of events may be.
    pub max_body_bytes: usize,
    /// How large a JSON body of questions may be.
    pub max_question_bytes: usize,
    /// How many bytes of bodies of events are worked on at once, over all requests; others wait.
    pub max_bytes_in_flight: usize,
    /// How many connections each worker holds.
    pub max_connections: usize,
    /// How long a client may take to send the headers of a request.
    pub request_timeout: Duration,
    /// How long a client may take to send a body.
    pub body_timeout: Duration,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How long a graceful stop waits for requests that are going on.
    pub shutdown_timeout: Duration,
    /// What one lookup may cost.
    pub lookup: LookupLimits,
    /// Whether it is ready only when the speed layer has folded what was in the log at the start.
    pub waits_for_deltas: bool,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            workers: 0,
            max_body_bytes: 16 << 20,
            max_question_bytes: 1 << 20,
            max_bytes_in_flight: 256 << 20,
            max_connections: 10_000,
            request_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(75),
            shutdown_timeout: Duration::from_secs(30),
            lookup: LookupLimits::default(),
            waits_for_deltas: true,
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The log or the registry refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A view cannot be prepared.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The metrics are registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// What every route sees.
pub struct Serving {
    /// The parts.
    pub parts: Parts,
    /// The settings.
    pub settings: ServeSettings,
    /// The views, prepared.
    pub views: PreparedViews,
    /// The read path.
    pub reader: Reader,
    /// The topics that take events, by name.
    pub intakes: HashMap<Arc<str>, Intake>,
    /// The counters.
    pub metrics: Metrics,
    /// When the server started.
    pub started: Instant,
    /// One permit per KiB of `max_bytes_in_flight`.
    pub in_flight: Semaphore,
    /// Where the log ended when the server started: what the speed layer must reach before the server is ready.
    ends_at_start: Vec<(TopicPartition, Offset)>,
    caught_up: AtomicBool,
}

impl Serving {
    async fn new(parts: Parts, settings: ServeSettings) -> Result<Self, StartError> {
        let metrics = Metrics::new(parts.metrics.clone())?;
        let mut intakes = HashMap::new();
        let mut ends_at_start = Vec::new();
        for source in &parts.application.sources {
            let intake = Intake::new(source, &parts.application.views, &parts.registry, &metrics).await?;
            let kept = parts.log.bounds(&source.name).await?;
            intake.grow_to(kept.len());
            intakes.insert(source.name.clone(), intake);
            for (partition, bounds) in (0u32..).zip(kept) {
                ends_at_start.push((TopicPartition::new(source.name.clone(), partition), bounds.end));
            }
        }
        Ok(Self {
            views: PreparedViews::new(&parts.application, |view| metrics.lookup(view))?,
            reader: Reader {
                store: parts.store.clone(),
                speed: parts.speed.clone(),
                log: parts.log.clone(),
                limits: settings.lookup,
                ages: Ages::default(),
            },
            intakes,
            metrics,
            started: Instant::now(),
            in_flight: Semaphore::new((settings.max_bytes_in_flight >> 10).max(1)),
            ends_at_start,
            caught_up: AtomicBool::new(false),
            parts,
            settings,
        })
    }

    /// Looks again and again for partitions that were added to a topic while it is served.
    async fn notice_partitions(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK_FOR_PARTITIONS);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            for (topic, intake) in &self.intakes {
                // A log that does not answer now is looked at the next time.
                if let Ok(kept) = self.parts.log.bounds(topic).await {
                    intake.grow_to(kept.len());
                }
            }
        }
    }

    /// What keeps the speed layer from having folded everything that was in the log when the server started.
    /// Once caught up, always caught up: lag later is lag, not a reason to take the server out.
    pub fn behind_start(&self) -> Option<String> {
        if !self.settings.waits_for_deltas || self.caught_up.load(Ordering::Relaxed) {
            return None;
        }
        for (partition, end) in &self.ends_at_start {
            if *end == 0 || !self.parts.application.views.iter().any(|view| view.source.name == partition.topic) {
                continue;
            }
            let statuses = self.parts.speed.partitions(&partition.topic);
            let position =
                statuses.iter().find(|status| status.partition == *partition).map_or(0, |status| status.position);
            if position < *end {
                return Some(format!("the speed layer is at {partition}@{position}, and was to reach {end}"));
            }
        }
        self.caught_up.store(true, Ordering::Relaxed);
        None
    }
}

/// The HTTP server.
pub struct Server;

/// A server that runs.
pub struct RunningServer {
    addr: SocketAddr,
    handle: ServerHandle,
    running: JoinHandle<std::io::Result<()>>,
    noticing: JoinHandle<()>,
}

impl Server {
    /// Starts serving. Every source's topic must exist in the log; its schema is registered here.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the address is taken, or a part refuses.
    pub async fn start(parts: Parts, settings: ServeSettings) -> Result<RunningServer, StartError> {
        let serving = web::Data::new(Serving::new(parts, settings.clone()).await?);
        let noticed = serving.clone().into_inner();
        let beside = serving.parts.beside.clone();
        let listen = |source| StartError::Listen { address: settings.listen.clone(), source };
        // Called on the thread of every worker.
        let app = move || {
            if let Some(beside) = &beside {
                actix_web::rt::spawn(beside());
            }
            App::new()
                .app_data(serving.clone())
                .configure(|app| routes::configure(app, &serving))
                .default_service(web::to(routes::no_such_route))
                .wrap(actix_web::middleware::from_fn(routes::observe))
        };
        let mut server = HttpServer::new(app)
            .client_request_timeout(settings.request_timeout)
            .client_disconnect_timeout(Duration::from_secs(1))
            .keep_alive(settings.keep_alive)
            // An answer is written at once and whole: there is nothing to wait for.
            .tcp_nodelay(true)
            .max_connections(settings.max_connections)
            .shutdown_timeout(settings.shutdown_timeout.as_secs())
            .disable_signals();
        if settings.workers > 0 {
            server = server.workers(settings.workers);
        }
        let server = server.bind(settings.listen.as_str()).map_err(listen)?;
        let addr =
            server.addrs().first().copied().ok_or_else(|| listen(std::io::ErrorKind::AddrNotAvailable.into()))?;
        let server = server.run();
        let handle = server.handle();
        let noticing = tokio::spawn(noticed.notice_partitions());
        Ok(RunningServer { addr, handle, running: tokio::spawn(server), noticing })
    }
}

impl RunningServer {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops. With `graceful`, takes no new connections and waits for the requests that are going on.
    pub async fn stop(mut self, graceful: bool) {
        self.handle.stop(graceful).await;
        self.noticing.abort();
        let _ = (&mut self.noticing).await;
        if let Ok(Err(error)) = self.running.await {
            tracing::warn!(%error, "the HTTP server ended with an error");
        }
    }
}
