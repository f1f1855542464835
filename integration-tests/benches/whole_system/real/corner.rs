//! A corner of the servers, an application for it, and processes of any role in it.

use std::path::PathBuf;
use std::process::Command;

use integration_tests::process::{Launched, Process, binary};
use integration_tests::servers::Servers;
use tempfile::TempDir;
use tidemark::application::{Folder, clickstream};
use tidemark::backends::Backends;
use tidemark::settings::Settings;

use crate::clicks::Clickstream;

/// Few keys, as many as there are pages, and one for each event.
const VIEWS: &str = "
CREATE SOURCE clicks WITH (schema = 'page_event.avsc', key = 'session_id', event_time = 'ts', partitions = 4);
CREATE MATERIALIZED VIEW answers AS
SELECT status, count(*) AS answers, sum(bytes) AS bytes FROM clicks GROUP BY status;
CREATE MATERIALIZED VIEW pages AS
SELECT url, count(*) AS views, sum(bytes) AS bytes FROM clicks GROUP BY url;
CREATE MATERIALIZED VIEW requests AS
SELECT id, count(*) AS times, sum(bytes) AS bytes FROM clicks GROUP BY id;
";

/// A corner of the servers that nothing else uses, and its files.
pub struct Corner {
    folder: TempDir,
    text: String,
}

impl Corner {
    /// A new one.
    pub fn new(servers: &Servers, name: &str) -> Self {
        Self { folder: TempDir::new().expect("a temporary folder"), text: servers.corner(name) }
    }

    /// The same topics and archive with another keyspace, where nothing is.
    pub fn with_empty_store(&self) -> Settings {
        let mut settings = self.settings();
        settings.store.keyspace = format!("{:.38}_{:08x}", settings.store.keyspace, rand::random::<u32>());
        settings
    }

    /// Its settings.
    pub fn settings(&self) -> Settings {
        Servers::settings(&self.text, self.folder.path())
    }

    /// A process of a role on a free port, with an application and further settings as TOML.
    pub fn start(&self, role: &str, app: &Folder, more: &str) -> Process {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        std::fs::create_dir_all(path("app")).expect("a folder");
        for file in &app.files {
            std::fs::write(path("app").join(&file.path), &file.text).expect("written");
        }
        let mut settings: toml::Table = self.text.parse().expect("settings");
        for (table, values) in more.parse::<toml::Table>().expect("settings") {
            let values = values.as_table().expect("a table").clone();
            let into = settings.entry(table).or_insert_with(|| toml::Table::new().into());
            into.as_table_mut().expect("a table").extend(values);
        }
        std::fs::write(path("settings.toml"), settings.to_string()).expect("written");
        let mut command = Command::new(binary());
        command.arg(role).arg("--app").arg(path("app")).arg("--config").arg(path("settings.toml"));
        command.arg("--data").arg(path(role)).args(["--listen", "127.0.0.1:0"]);
        Launched::by(command).ready().unwrap_or_else(|written| panic!("{role} does not start:\n{written}"))
    }

    /// The clicks in this corner's Kafka.
    pub async fn clickstream(&self, app: &Folder) -> Clickstream {
        let parts = Backends::open(&self.settings()).await;
        let parts = parts.unwrap_or_else(|failure| panic!("{}", failure.message));
        Clickstream::on(parts.log, parts.registry, app.compile().expect("the application")).await
    }

    /// The topic of the clicks, as Kafka knows it.
    pub fn topic(&self) -> String {
        format!("{}clicks", self.settings().log.topic_prefix)
    }
}

/// The clicks of the demo under views with few keys, with many, and with one for each event.
pub fn application() -> Folder {
    let mut folder = clickstream();
    folder.settings = None;
    for file in &mut folder.files {
        if file.path.ends_with(".sql") {
            file.text = VIEWS.to_owned();
        }
    }
    folder
}
