//! The CQL server of these tests, and keyspaces on it.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::unprepared::Statement;
use view_store::{CqlOptions, CqlStore};

/// Where the server is.
pub fn address() -> String {
    std::env::var("TIDEMARK_TEST_CQL").unwrap_or_else(|_| "127.0.0.1:19042".to_owned())
}

/// Who we are there, where it asks: `TIDEMARK_TEST_CQL_USER` and `TIDEMARK_TEST_CQL_PASSWORD`.
fn login() -> (Option<String>, Option<String>) {
    let named = |name: &str| Some(std::env::var(name).unwrap_or_else(|_| "cassandra".to_owned()));
    (named("TIDEMARK_TEST_CQL_USER"), named("TIDEMARK_TEST_CQL_PASSWORD"))
}

/// Options that reach the server.
pub fn reachable() -> CqlOptions {
    let (user, password) = login();
    CqlOptions { nodes: vec![address()], user, password, ..CqlOptions::default() }
}

/// A keyspace of one test, dropped when the test says so.
pub struct Keyspace {
    pub name: String,
    session: Session,
}

impl Keyspace {
    /// A new one, with tables.
    pub async fn new(test: &str) -> Self {
        let address = address();
        let answers = address.to_socket_addrs().ok().and_then(|mut all| all.next());
        let answers = answers.is_some_and(|at| TcpStream::connect_timeout(&at, Duration::from_secs(3)).is_ok());
        assert!(answers, "no CQL server at {address}: ./dev up starts it");
        println!("waiting for a session with {address}");
        let mut session = SessionBuilder::new().known_node(&address);
        if let (Some(user), Some(password)) = login() {
            session = session.user(user, password);
        }
        let session = session.build().await.expect("a session");
        let name = format!("tm_{test}_{}", std::process::id());
        let keyspace = Self { name, session };
        keyspace.clean_up(test).await;
        println!("waiting for the keyspace {}", keyspace.name);
        CqlStore::init(&keyspace.options()).await.expect("a keyspace");
        keyspace
    }

    /// Drops what earlier processes left that were killed on this machine: a server has room for so many tables.
    async fn clean_up(&self, test: &str) {
        if !address().starts_with("127.0.0.1:") {
            return;
        }
        let found =
            self.run("SELECT keyspace_name FROM system_schema.keyspaces").await.into_rows_result().expect("rows");
        for row in found.rows::<(String,)>().expect("names") {
            let (name,) = row.expect("a name");
            let process = name.strip_prefix(&format!("tm_{test}_")).and_then(|process| process.parse::<u32>().ok());
            if process.is_some_and(|process| !std::path::Path::new(&format!("/proc/{process}")).exists()) {
                println!("waiting for {name} to be gone, which was left over");
                self.run(&format!("DROP KEYSPACE IF EXISTS {name}")).await;
            }
        }
    }

    /// The options of a store in it: patient, so that a position does not go back because the machine is slow.
    pub fn options(&self) -> CqlOptions {
        CqlOptions {
            keyspace: self.name.clone(),
            replication: 1,
            patience: Duration::from_secs(20),
            request_timeout: Duration::from_secs(30),
            ..reachable()
        }
    }

    /// A store in it.
    pub async fn store(&self) -> CqlStore {
        CqlStore::connect(self.options()).await.expect("a store")
    }

    /// Runs a statement; `KS` stands for the keyspace.
    pub async fn run(&self, statement: &str) -> scylla::response::query_result::QueryResult {
        let mut statement = Statement::new(statement.replace("KS", &self.name));
        statement.set_request_timeout(Some(Duration::from_secs(60)));
        self.session.query_unpaged(statement, ()).await.expect("a statement")
    }

    /// The tables of views.
    pub async fn tables(&self) -> Vec<String> {
        let found = self.run("SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'KS'").await;
        let rows = found.into_rows_result().expect("rows");
        let names = rows.rows::<(String,)>().expect("names").map(|row| row.expect("a name").0);
        let own = ["published", "progress", "attempts", "buckets", "tidemark_schema"];
        names.filter(|name| !own.contains(&name.as_str())).collect()
    }

    /// Drops it.
    pub async fn drop(self) {
        println!("waiting for the keyspace {} to be gone", self.name);
        self.run("DROP KEYSPACE IF EXISTS KS").await;
    }
}
