//! A bare loop of prepared writes through the driver, of rows like those of a delta.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::CqlValue;
use tidemark::settings::Settings;
use tokio::task::JoinSet;

use crate::measure::{Seconds, Stopwatch};

/// A session of the driver as it is, with the keyspace of the settings made where it is missing.
pub async fn session(settings: &Settings) -> Session {
    let store = &settings.store;
    let login = |name: &Option<String>| name.clone().unwrap_or_default();
    let builder = SessionBuilder::new().known_nodes(&store.nodes).user(login(&store.user), login(&store.password));
    let session = builder.build().await.expect("a session");
    let keyspace = format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}",
        store.keyspace
    );
    session.query_unpaged(keyspace, ()).await.expect("a keyspace");
    session
}

/// What it takes to write so many rows with a key each, so many at once, into a table with the columns of a view's.
pub async fn write(settings: &Settings, rows: usize, at_once: usize) -> Seconds {
    let session = Arc::new(session(settings).await);
    let table = format!("{}.bare", settings.store.keyspace);
    let create = format!(
        "CREATE TABLE {table} (id text, bucket bigint, \"group\" blob, generation bigint, log_partition int, segment bigint, \
         marker bigint, through bigint, pieces int, state blob, \
         PRIMARY KEY ((id, bucket), \"group\", generation, log_partition, segment))"
    );
    session.query_unpaged(create, ()).await.expect("a table");
    let insert = format!(
        "INSERT INTO {table} (id, bucket, \"group\", generation, log_partition, segment, marker, through, pieces, state) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
    );
    let insert = Arc::new(session.prepare(insert).await.expect("a statement"));
    let next = Arc::new(AtomicUsize::new(0));
    let watch = Stopwatch::start();
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let (session, insert, next) = (session.clone(), insert.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= rows {
                    return;
                }
                let id = format!("{row:08x}-0000-4000-8000-{row:012x}");
                let offset = i64::try_from(row).expect("a row");
                let values = [
                    CqlValue::Text(id.clone()),
                    CqlValue::BigInt(0),
                    CqlValue::Blob(id.into_bytes()),
                    CqlValue::BigInt(0),
                    CqlValue::Int(0),
                    CqlValue::BigInt(0),
                    CqlValue::BigInt(0),
                    CqlValue::BigInt(offset),
                    CqlValue::Int(1),
                    CqlValue::Blob(vec![7; 40]),
                    CqlValue::BigInt(offset),
                ];
                session.execute_unpaged(&insert, values.as_slice()).await.expect("written");
            }
        });
    }
    tasks.join_all().await;
    watch.stop()
}
