//! What users type.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::application::{self, Folder};
use crate::client::{Client, DEFAULT_SERVER};
use crate::demo::Demo;
use crate::failure::{Context as _, Failure, Result};
use crate::import::{self, Import};
use crate::input::Format;
use crate::load::Load;
use crate::query::Query;
use crate::role::Role;
use crate::settings::{Effective, Places};
use crate::{backends, batch, check, run, verify};

/// Live views of an event log, kept by two layers and answered as one.
#[derive(Debug, Parser)]
#[command(
    name = "tidemark",
    version,
    max_term_width = 110,
    after_help = "\
Examples:
  tidemark demo                                        made-up traffic, live views
  tidemark run --app schemas/clickstream               the same with your own events
  tidemark load clicks events.jsonl more.csv.gz        load files
  tidemark import clicks 2025.avro --app DIR           older events, before a new topic's first
  tidemark query page_views url=/cart --last 1h        ask
  tidemark verify                                      recompute from the log and compare

`tidemark COMMAND --help` says more."
)]
pub struct CommandLine {
    /// What to log on stderr: error, warn, info, debug, trace, or per module as `info,batch_layer=debug`
    #[arg(long, global = true, env = "TIDEMARK_LOG", value_name = "LEVEL", default_value = "info")]
    log_level: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process
    #[command(after_help = "\
Prints one line when it is ready. SIGTERM or ^C: stop taking work, finish, exit 0; a second one: exit at once.

Examples:
  tidemark run --app schemas/clickstream
  tidemark run --app schemas/photos --data /var/lib/tidemark --listen 0.0.0.0:8080
  TIDEMARK__BATCH__EVERY=never tidemark run --app schemas/photos")]
    Run {
        #[command(flatten)]
        places: SettingsArgs,
        /// The application folder: *.avsc, *.sql, tidemark.toml
        #[arg(long, value_name = "DIR")]
        app: PathBuf,
    },
    /// Run the clickstream application on made-up traffic, with a batch run every 20 seconds
    #[command(after_help = "\
Examples:
  tidemark demo
  tidemark demo --rate 5000 --seed 7
  tidemark demo --log access.log.gz                    load a real access log first")]
    Demo {
        #[command(flatten)]
        places: SettingsArgs,
        /// Another application with a source `clicks` of the same fields
        #[arg(long, value_name = "DIR")]
        app: Option<PathBuf>,
        /// A web server's access log (combined format, .gz too) to load first
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// Events a second; 0: none
        #[arg(long, value_name = "N", default_value_t = 500)]
        rate: u32,
        /// The same seed makes the same traffic; without it, each start makes its own
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Load files of events into a topic
    #[command(after_help = "\
JSON lines or a JSON array, CSV with a header (by the topic's schema), Avro container files, or with --format combined a
web server's access log (as events of schemas/clickstream; its README has the mapping). Packed by gzip or not. `-`: standard input.

Ends with the numbers of accepted and rejected events, and shows the first rejected ones; exit 1 if there are any.
An event whose fate is unknown (the connection broke) is never sent again by itself: loading stops and says how to go on.

Examples:
  tidemark load clicks events.jsonl
  tidemark load clicks access.log.gz --format combined
  tidemark load sales sales.csv --delimiter ';' --server http://db1:8080
  zcat events.gz | tidemark load clicks -")]
    Load {
        /// The topic: the name of a source
        topic: String,
        /// Files; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// What the files hold [default: by their names, else JSON]
        #[arg(long, value_enum)]
        format: Option<Format>,
        /// CSV: what stands between values [default: a comma; a tab in *.tsv]
        #[arg(long, value_name = "CHAR")]
        delimiter: Option<char>,
        /// Pass over the first N events of the first file
        #[arg(long, value_name = "N", default_value_t = 0)]
        skip: u64,
        /// At most N events a request
        #[arg(long, value_name = "N", default_value_t = 4000)]
        batch: usize,
        /// Requests under way at once; with more than 1, events may change places, and a broken connection leaves more in doubt
        #[arg(long, value_name = "N", default_value_t = 1)]
        in_flight: usize,
        /// CSV: take the topic's schema from this application folder instead of the server
        #[arg(long, value_name = "DIR")]
        app: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArg,
    },
    /// Put a topic's older events, from Avro files, before everything that its log will ever hold
    #[command(after_help = "\
For a topic that is new to Tidemark and has a history: an export, say, of what Kafka has let go of. Its events become the first segments \
of the archive, with the offsets from 0 on, and the log goes on after them: the first event that is appended, or the first one that the \
Kafka topic still has, comes right after the last imported one. `_offset` and every other offset count so; Kafka's own tools show \
Kafka's offsets. The imported records have one append time, that of the import or of the first record after them, so the \
source should name its event_time.

Works on the log and the archive themselves, as the settings name them: with the embedded log, stop `tidemark run` first. The topic must \
not have been used by Tidemark before; append to one that was with `tidemark load`.

Every file is read and checked before anything is changed. Files are Avro containers, packed by gzip or not, the oldest events first; the \
key chooses an event's partition. What is no event of the source goes to the topic's dead letters, as with `load`; exit 1 if there was \
any. If it is broken off, run the same command again: it goes on, and nothing counts twice. Until it is done, `tidemark run` does not \
start.

Examples:
  tidemark import clicks 2024.avro 2025.avro --app schemas/clickstream
  tidemark import clicks /backup/clicks/*.avro --app schemas/clickstream --data /var/lib/tidemark
  tidemark import clicks /backup/clicks/*.avro --app schemas/clickstream --config cluster.toml --json")]
    Import {
        /// The topic: the name of a source
        topic: String,
        /// Avro container files, the oldest events first
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The application folder: *.avsc, *.sql, tidemark.toml
        #[arg(long, value_name = "DIR")]
        app: PathBuf,
        /// Settings on top of the application's own
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where all state is kept [default: ./data]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// The outcome as JSON
        #[arg(long)]
        json: bool,
    },
    /// Look up rows of a view
    #[command(after_help = "\
The key columns must be given; other columns filter the rows under the key.

Examples:
  tidemark query page_views url=/cart --last 1h
  tidemark query page_views url=/cart --from 2026-11-20T00:00:00Z --to 2026-11-21T00:00:00Z --rollup 1h
  tidemark query page_views url=/cart --rollup          all tiles merged into one row
  tidemark query user_photo_views user_id=ada --order -views --limit 10
  tidemark query user_activity user_id=ada --explain    which part came from which layer
  tidemark query user_activity user_id=ada --json")]
    Query {
        #[command(flatten)]
        query: Query,
        #[command(flatten)]
        server: ServerArg,
    },
    /// Ad-hoc SQL over views and topics
    #[command(hide = true)]
    Sql(Later),
    /// Start a batch run; or, without `run`, be the batch layer of a cluster
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "\
Without `run` it makes a generation every `batch.every`, and whenever it is asked to over HTTP.

Examples:
  tidemark batch run
  tidemark batch run --full       recompute every view from the first event, even if nothing is new
  tidemark batch --app schemas/clickstream --config cluster.toml --listen 0.0.0.0:8083"
    )]
    Batch {
        #[command(subcommand)]
        command: Option<BatchCommand>,
        #[command(flatten)]
        role: RoleArgs,
    },
    /// Make the first generation of new views at a rate that nobody notices
    #[command(after_help = "\
A view that is new is caught up with by itself: by the speed layer (speed.backfill_rate) and by the next batch run. This is a batch \
run of it alone, now, which reads the archive and writes the view store no faster than it is told, so that lookups of other views are not \
slowed down. They stay at their generation until the next run.

Examples:
  tidemark backfill visitors
  tidemark backfill visitors countries --rate 20000")]
    Backfill {
        /// The views
        #[arg(required = true, value_name = "VIEW")]
        views: Vec<String>,
        /// Records read, and rows written, per second
        #[arg(long, default_value = "100000")]
        rate: std::num::NonZeroU64,
        #[command(flatten)]
        server: ServerArg,
    },
    /// Recompute views from the log and compare with what is served; exit 1 on any difference
    #[command(after_help = "\
Examples:
  tidemark verify
  tidemark verify page_views")]
    Verify {
        /// The view [default: all]
        view: Option<String>,
        /// The answer as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArg,
    },
    /// Check an application folder; exit 1 with every problem found
    #[command(after_help = "\
Where the settings name a schema registry, it is asked whether it takes the schemas, and which views a change would break is told.

Examples:
  tidemark check --app schemas/clickstream
  tidemark check --app schemas/clickstream --config cluster.toml")]
    Check {
        /// The application folder
        #[arg(long, value_name = "DIR")]
        app: PathBuf,
        /// Settings on top of the application's own
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the effective settings, secrets masked
    #[command(after_help = "\
Defaults < the application's tidemark.toml < --config FILE < environment (TIDEMARK__SPEED__FLUSH_INTERVAL) < flags.

Examples:
  tidemark config
  tidemark config --app schemas/clickstream --data /var/lib/tidemark
  tidemark config --default > tidemark.toml            every setting, with comments")]
    Config {
        #[command(flatten)]
        places: SettingsArgs,
        /// The application folder whose tidemark.toml is to be read
        #[arg(long, value_name = "DIR")]
        app: Option<PathBuf>,
        /// The defaults, commented
        #[arg(long)]
        default: bool,
    },
    /// Be the speed layer of a cluster: follow some partitions, shared with others of the same role
    #[command(after_help = ROLES)]
    Speed(RoleArgs),
    /// Be the serving layer of a cluster: take events, answer questions
    #[command(after_help = ROLES)]
    Serve(RoleArgs),
    /// Be the archiver of a cluster: lay sealed segments down in object storage
    #[command(after_help = ROLES)]
    Archive(RoleArgs),
    /// Hand the work of batch runs out to executors (`batch.engine = "ballista"`)
    #[cfg(feature = "distributed")]
    #[command(after_help = crate::distributed::CLUSTER)]
    BatchScheduler(crate::distributed::SchedulerArgs),
    /// Do some of the work of batch runs, together with others (`batch.engine = "ballista"`)
    #[cfg(feature = "distributed")]
    #[command(after_help = crate::distributed::CLUSTER)]
    BatchExecutor {
        #[command(flatten)]
        args: crate::distributed::ExecutorArgs,
        /// Settings: `archive`, `registry`, `batch.scheduler`, `batch.memory`
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where it keeps what it can lose [default: ./data]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// The tables of the view store
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
}

/// What goes on inside the parts we stand on is for those who ask for it.
const QUIET: &str = "info,actix_server=warn,fjall=warn,lsm_tree=warn,scylla=warn,ballista_core=error,\
                     ballista_executor=error,ballista_scheduler=warn,ballista_scheduler::state=off";

/// What is the same for every role.
const ROLES: &str = "\
The processes of a cluster share their parts: Kafka (log.kind), a schema registry (registry.url), object storage (archive.url) \
and a CQL store (store.kind). Any number of each role may run, and any of them may die at any time. Each answers /healthz, \
/readyz, /metrics and /v1/status where it listens, and keeps what it can lose in a data folder of its own.

Examples:
  tidemark serve --app schemas/clickstream --config cluster.toml
  tidemark speed --app schemas/clickstream --config cluster.toml --listen 127.0.0.1:8081 --data ./speed
  tidemark archive --app schemas/clickstream --config cluster.toml --listen 127.0.0.1:8082 --data ./archiver
  tidemark batch --app schemas/clickstream --config cluster.toml --listen 127.0.0.1:8083 --data ./batch";

/// Arguments of a role.
#[derive(Debug, Args)]
struct RoleArgs {
    #[command(flatten)]
    places: SettingsArgs,
    /// The application folder: *.avsc, *.sql, tidemark.toml
    #[arg(long, value_name = "DIR")]
    app: Option<PathBuf>,
}

impl RoleArgs {
    async fn run(self, role: Role) -> Result {
        let app = self.app.ok_or_else(|| Failure::usage(format!("tidemark {}: --app DIR is missing", role.name())))?;
        let folder = Folder::read(&app)?;
        let effective = self.places.effective(Some(&folder))?;
        run::until_signal(&folder, effective.settings, role).await
    }
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Make the keyspace and the tables; harmless when they are there
    #[command(after_help = "\
Examples:
  tidemark store init --app schemas/clickstream --config cluster.toml")]
    Init {
        #[command(flatten)]
        places: SettingsArgs,
        /// The application folder whose tidemark.toml is to be read
        #[arg(long, value_name = "DIR")]
        app: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum BatchCommand {
    /// One batch run, to its end
    Run {
        /// Recompute every view from the first event, even if nothing is new
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        server: ServerArg,
    },
}

/// Arguments of a command that comes later.
#[derive(Debug, Args)]
struct Later {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<String>,
}

#[derive(Debug, Args)]
struct ServerArg {
    /// Where `tidemark run` answers
    #[arg(long, value_name = "URL", default_value = DEFAULT_SERVER)]
    server: String,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// Settings on top of the application's own
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where all state is kept [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where HTTP is answered [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

impl SettingsArgs {
    /// Reads the settings of an application, all flags on top.
    fn effective(self, folder: Option<&Folder>) -> Result<Effective> {
        let mut flags = Vec::new();
        if let Some(data) = self.data {
            flags.push(("data", "--data", data.to_string_lossy().into_owned()));
        }
        flags.extend(self.listen.map(|listen| ("serve.listen", "--listen", listen)));
        let places = Places {
            application: folder.and_then(|folder| folder.settings.clone()),
            file: self.config,
            environment: std::env::vars().collect(),
            flags,
        };
        Effective::read(&places).map_err(Failure::usage)
    }
}

/// Reads the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let level = match command_line.log_level.as_str() {
        "info" => QUIET,
        level => level,
    };
    let filter = match EnvFilter::try_new(level) {
        Ok(filter) => filter,
        Err(error) => return ended(Err(Failure::usage(format!("--log-level {}: {error}", command_line.log_level)))),
    };
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(Failure::new(error))),
    };
    ended(runtime.block_on(command_line.command.execute()))
}

fn ended(result: Result) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                let _ = writeln!(std::io::stderr(), "tidemark: {}", failure.message);
            }
            ExitCode::from(failure.exit)
        }
    }
}

/// Writes to stdout. That nobody reads on (`| head`) is no failure.
pub fn print(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_ref().as_bytes()).and_then(|()| out.flush());
}

impl Command {
    async fn execute(self) -> Result {
        match self {
            Self::Run { places, app } => {
                let folder = Folder::read(&app)?;
                let effective = places.effective(Some(&folder))?;
                run::until_signal(&folder, effective.settings, Role::Everything).await
            }
            Self::Demo { places, app, log, rate, seed } => {
                let folder = match &app {
                    Some(dir) => Folder::read(dir)?,
                    None => application::clickstream(),
                };
                let has_data = places.data.is_some();
                let mut settings = places.effective(Some(&folder))?.settings;
                if !has_data {
                    settings.data = settings.data.join("demo");
                }
                Demo { log, rate, seed }.run(&folder, settings).await
            }
            Self::Load { topic, files, format, delimiter, skip, batch, in_flight, app, server } => {
                let delimiter = delimiter.map(u8::try_from).transpose();
                let delimiter = delimiter.map_err(|_| Failure::usage("--delimiter: one ASCII character"))?;
                let load = Load { topic, files, format, delimiter, skip, batch, in_flight, app };
                let loaded = load.run(&Client::new(&server.server)).await?;
                print(format!("accepted {}, rejected {}\n", loaded.accepted, loaded.rejected));
                if loaded.rejected == 0 {
                    return Ok(());
                }
                let more = loaded.rejected - loaded.shown.len() as u64;
                let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
                Err(Failure::new(format!("rejected:\n{}{more}", loaded.shown.join("\n"))))
            }
            Self::Import { topic, files, app, config, data, json } => {
                let folder = Folder::read(&app)?;
                let places = SettingsArgs { config, data, listen: None };
                let settings = places.effective(Some(&folder))?.settings;
                import::run(&Import { topic, files }, &folder, &settings, json).await
            }
            Self::Query { query, server } => query.run(&Client::new(&server.server)).await,
            Self::Batch { command: Some(BatchCommand::Run { full, server }), .. } => {
                batch::run(&Client::new(&server.server), full).await
            }
            Self::Backfill { views, rate, server } => batch::backfill(&Client::new(&server.server), &views, rate).await,
            Self::Verify { view, json, server } => {
                verify::run(&Client::new(&server.server), view.as_deref(), json).await
            }
            Self::Check { app, config } => check::run(&app, config).await,
            Self::Config { default: true, .. } => {
                print(crate::settings::DEFAULTS);
                Ok(())
            }
            Self::Config { places, app, .. } => {
                let folder = app.as_deref().map(Folder::read).transpose().context("config")?;
                print(places.effective(folder.as_ref())?.to_toml());
                Ok(())
            }
            Self::Sql(_) => later("sql"),
            Self::Batch { command: None, role } => role.run(Role::Batch).await,
            Self::Speed(role) => role.run(Role::Speed).await,
            Self::Serve(role) => role.run(Role::Serve).await,
            Self::Archive(role) => role.run(Role::Archive).await,
            #[cfg(feature = "distributed")]
            Self::BatchScheduler(args) => args.run().await,
            #[cfg(feature = "distributed")]
            Self::BatchExecutor { args, config, data } => {
                let places = SettingsArgs { config, data, listen: None };
                args.run(places.effective(None)?.settings).await
            }
            Self::Store { command: StoreCommand::Init { places, app } } => {
                let folder = app.as_deref().map(Folder::read).transpose()?;
                backends::init_store(&places.effective(folder.as_ref())?.settings).await
            }
        }
    }
}

fn later(command: &str) -> Result {
    Err(Failure::usage(format!("`{command}` is not in this version; `tidemark run` runs everything in one process")))
}
