//! The real servers of a cluster, as `./dev up` starts them, for tests: a corner of their own in each, and taking one away
//! for a while.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scylla::client::session_builder::SessionBuilder;
use scylla::statement::unprepared::Statement;
use tidemark::settings::{Effective, Places, Settings};

/// The servers that run now.
#[derive(Debug, Clone)]
pub struct Servers {
    root: PathBuf,
    settings: String,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// The event log.
    Kafka,
    /// The schemas.
    Registry,
    /// The archive.
    S3,
    /// The view store.
    Cassandra,
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Registry => "registry",
            Self::S3 => "s3",
            Self::Cassandra => "cassandra",
        }
    }
}

impl Servers {
    /// Those that `./dev up` started.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn running() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let file = root.join("target/servers.toml");
        let settings = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("no servers ({}: {error}): ./dev up starts them", file.display()));
        Self { root, settings }
    }

    /// Settings, as TOML, that no other test has: topics, keyspace, archive and consumer group are of this name. Batch runs
    /// only by command.
    ///
    /// # Panics
    ///
    /// When the settings of the servers are not what they are.
    pub fn corner(&self, name: &str) -> String {
        // A keyspace has at most 48 letters.
        let unique = format!("{:.24}_{:08x}", name, rand::random::<u32>());
        let mut settings: toml::Table = self.settings.parse().expect("the servers' settings");
        set(&mut settings, "log", "topic_prefix", format!("{unique}."));
        set(&mut settings, "log", "group", unique.clone());
        set(&mut settings, "archive", "url", format!("s3://tidemark/{unique}"));
        set(&mut settings, "store", "keyspace", unique);
        set(&mut settings, "batch", "every", "never");
        settings.to_string()
    }

    /// Where Kafka keeps its logs.
    pub fn kafka_data(&self) -> PathBuf {
        self.root.join("target/servers/kafka/data")
    }

    /// Lets go of a corner's tables: a server has room for so many. The rest is small, and goes with the servers.
    ///
    /// # Panics
    ///
    /// When the store does not let us.
    pub async fn forget(settings: &Settings) {
        let store = &settings.store;
        let login = |name: &Option<String>| name.clone().unwrap_or_default();
        let session = SessionBuilder::new().known_nodes(&store.nodes).user(login(&store.user), login(&store.password));
        let session = session.build().await.expect("a session with the CQL server");
        let mut statement = Statement::new(format!("DROP KEYSPACE IF EXISTS {}", store.keyspace));
        statement.set_request_timeout(Some(std::time::Duration::from_secs(60)));
        session.query_unpaged(statement, ()).await.expect("the keyspace is dropped");
    }

    /// A corner as the product reads it.
    ///
    /// # Panics
    ///
    /// When it does not take them.
    pub fn settings(corner: &str, data: &Path) -> Settings {
        let places = Places {
            application: Some(("the servers".to_owned(), corner.to_owned())),
            flags: vec![("data", "--data", data.display().to_string())],
            ..Places::default()
        };
        Effective::read(&places).expect("settings").settings
    }

    /// Takes a server away: asks it to stop, or kills it. Returns when it is gone.
    pub fn stop(&self, server: Server, kill: bool) {
        let how: &[&str] = if kill { &["-9"] } else { &[] };
        self.command(&[&["stop", server.name()], how].concat());
    }

    /// Brings it back, with what it has stored. Returns when it answers.
    pub fn start(&self, server: Server) {
        self.command(&["start", server.name()]);
    }

    /// Holds it still, or lets it go on: a server that does not answer and is not gone.
    pub fn hold(&self, server: Server, still: bool) {
        self.command(&[if still { "hold" } else { "release" }, server.name()]);
    }

    fn command(&self, arguments: &[&str]) {
        let mut command = Command::new(self.root.join("infra/servers/servers"));
        command.args(arguments).stdin(Stdio::null());
        println!("servers: {}", arguments.join(" "));
        let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(status.success(), "servers {arguments:?}: {status}");
    }
}

fn set(settings: &mut toml::Table, table: &str, key: &str, value: impl Into<toml::Value>) {
    let table = settings.entry(table).or_insert_with(|| toml::Table::new().into());
    table.as_table_mut().expect("a table").insert(key.to_owned(), value.into());
}
