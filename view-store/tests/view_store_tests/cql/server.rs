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
        let session = SessionBuilder::new().known_node(&address).build().await.expect("a session");
        let name = format!("tm_{test}_{}", std::process::id());
        println!("waiting for the keyspace {name}");
        let keyspace = Self { name, session };
        CqlStore::init(&keyspace.options()).await.expect("a keyspace");
        keyspace
    }

    /// The options of a store in it.
    pub fn options(&self) -> CqlOptions {
        CqlOptions { nodes: vec![address()], keyspace: self.name.clone(), replication: 1, ..CqlOptions::default() }
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
