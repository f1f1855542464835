//! The tables beside those of the views, and the statements over them.
//!
//! ```text
//! tidemark_schema   which version of this layout it is
//! published         one row: the pointer (`pointer`)
//! progress          how far each view's deltas reach; one CQL partition, so that one read gets all
//! attempts          who wrote, or is writing, a generation of a view
//! buckets           over which stretches of time a view's keys are split
//! ```

use std::time::Duration;

use futures::future::try_join_all;
use scylla::client::session::Session;
use scylla::response::query_result::QueryResult;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;
use scylla::value::{CqlValue, Row};

use super::connect;
use super::options::CqlOptions;
use crate::error::{Result, StoreError};

/// The version of this layout, and of the layout of the views' tables.
const VERSION: i32 = 1;
/// How long making or dropping a table may take.
const CHANGE_SCHEMA: Duration = Duration::from_secs(60);

/// The tables, in the order in which they are made: the version last, so that who sees it sees all.
pub const TABLES: [&str; 5] = [
    "CREATE TABLE IF NOT EXISTS \"{}\".published (scope text PRIMARY KEY, version bigint, pointer text)",
    "CREATE TABLE IF NOT EXISTS \"{}\".progress (\n  scope text,\n  view_table text,\n  log_partition int,\n  \"offset\" bigint,\n  \
     segment_start bigint,\n  marker bigint,\n  PRIMARY KEY ((scope), view_table, log_partition)\n)",
    "CREATE TABLE IF NOT EXISTS \"{}\".attempts (\n  view_table text,\n  generation bigint,\n  attempt bigint,\n  rows bigint,\n  \
     PRIMARY KEY ((view_table), generation, attempt)\n)",
    "CREATE TABLE IF NOT EXISTS \"{}\".buckets (view_table text, bucket bigint, PRIMARY KEY ((view_table), bucket))",
    "CREATE TABLE IF NOT EXISTS \"{}\".tidemark_schema (component text PRIMARY KEY, version int)",
];

/// Statements, prepared once.
pub struct Base {
    pub pointer: PreparedStatement,
    pub settled_pointer: PreparedStatement,
    pub first_pointer: PreparedStatement,
    pub swap_pointer: PreparedStatement,
    pub progress: PreparedStatement,
    pub set_progress: PreparedStatement,
    pub remove_progress: PreparedStatement,
    pub buckets: PreparedStatement,
    pub add_bucket: PreparedStatement,
    pub remove_buckets: PreparedStatement,
    pub attempts: PreparedStatement,
    pub begin_attempt: PreparedStatement,
    pub end_attempt: PreparedStatement,
    pub remove_attempt: PreparedStatement,
    pub all_attempts: PreparedStatement,
}

/// Makes what is missing, and refuses another version's tables.
pub async fn create(session: &Session, options: &CqlOptions) -> Result<()> {
    if is_ready(session, options).await {
        return Ok(());
    }
    if !connect::has_keyspace(session, options).await? {
        connect::create_keyspace(session, options).await?;
    }
    if version(session, options).await? == Some(VERSION) {
        return Ok(());
    }
    let context = "creating the tables of the view store";
    for table in TABLES {
        change_schema(session, context, table.replace("{}", &options.keyspace)).await?;
    }
    let keyspace = &options.keyspace;
    let first =
        format!("INSERT INTO \"{keyspace}\".tidemark_schema (component, version) VALUES ('store', ?) IF NOT EXISTS");
    session.query_unpaged(first, (VERSION,)).await.map_err(|error| super::failed(context, error))?;
    check(session, options).await
}

/// Refuses a keyspace that is not there or not ours.
pub async fn check(session: &Session, options: &CqlOptions) -> Result<()> {
    if is_ready(session, options).await {
        return Ok(());
    }
    let keyspace = &options.keyspace;
    let found = if connect::has_keyspace(session, options).await? { version(session, options).await? } else { None };
    match found {
        Some(VERSION) => Ok(()),
        Some(other) => Err(StoreError::Invalid(format!(
            "store.keyspace `{keyspace}` has version {other} of the tables, and this program needs {VERSION}: use another keyspace, \
             or drop it; its views are rebuilt from the log"
        ))),
        None => Err(StoreError::Invalid(format!(
            "store.keyspace `{keyspace}` is not there or has no tables: make them with `tidemark store init`"
        ))),
    }
}

/// Whether the tables are there, as this program needs them. One question, because that is so at almost every start.
async fn is_ready(session: &Session, options: &CqlOptions) -> bool {
    matches!(recorded_version(session, options).await, Ok(Some(VERSION)))
}

async fn version(session: &Session, options: &CqlOptions) -> Result<Option<i32>> {
    let keyspace = &options.keyspace;
    let failed = |error| super::failed("reading the version of the tables", error);
    let table =
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'tidemark_schema'";
    let found = session.query_unpaged(table, (keyspace,)).await.map_err(failed)?;
    if found.into_rows_result().map_err(|error| super::unreadable("reading the tables' names", error))?.rows_num() == 0
    {
        return Ok(None);
    }
    recorded_version(session, options).await
}

/// The version that the table of versions has; fails when there is none.
async fn recorded_version(session: &Session, options: &CqlOptions) -> Result<Option<i32>> {
    let keyspace = &options.keyspace;
    let failed = |error| super::failed("reading the version of the tables", error);
    let select = format!("SELECT version FROM \"{keyspace}\".tidemark_schema WHERE component = 'store'");
    let found = session.query_unpaged(select, ()).await.map_err(failed)?;
    let found = found.into_rows_result().map_err(|error| super::unreadable("reading the version", error))?;
    let row = found.maybe_first_row::<(i32,)>().map_err(|error| super::unreadable("reading the version", error))?;
    Ok(row.map(|(version,)| version))
}

impl Base {
    pub async fn prepare(session: &Session, options: &CqlOptions) -> Result<Self> {
        let texts = [
            "SELECT version, pointer FROM {}.published WHERE scope = ?",
            "SELECT version, pointer FROM {}.published WHERE scope = ?",
            "INSERT INTO {}.published (scope, version, pointer) VALUES (?, ?, ?) IF NOT EXISTS",
            "UPDATE {}.published SET version = ?, pointer = ? WHERE scope = ? IF version = ?",
            "SELECT view_table, log_partition, \"offset\", segment_start, marker FROM {}.progress WHERE scope = ?",
            "INSERT INTO {}.progress (scope, view_table, log_partition, \"offset\", segment_start, marker) \
             VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
            "DELETE FROM {}.progress USING TIMESTAMP ? WHERE scope = ? AND view_table = ? AND log_partition = ?",
            "SELECT bucket FROM {}.buckets WHERE view_table = ?",
            "INSERT INTO {}.buckets (view_table, bucket) VALUES (?, ?)",
            "DELETE FROM {}.buckets WHERE view_table = ?",
            "SELECT attempt, rows FROM {}.attempts WHERE view_table = ? AND generation = ?",
            "INSERT INTO {}.attempts (view_table, generation, attempt) VALUES (?, ?, ?) IF NOT EXISTS",
            "UPDATE {}.attempts SET rows = ? WHERE view_table = ? AND generation = ? AND attempt = ? IF EXISTS",
            "DELETE FROM {}.attempts WHERE view_table = ? AND generation = ? AND attempt = ? IF EXISTS",
            "SELECT generation, attempt FROM {}.attempts WHERE view_table = ?",
        ];
        let keyspace = format!("\"{}\"", options.keyspace);
        let prepared = try_join_all(texts.map(|text| prepare(session, options, text.replace("{}", &keyspace)))).await?;
        let Ok(prepared) = <[PreparedStatement; 15]>::try_from(prepared) else {
            return Err(StoreError::Invalid("a statement was not prepared".to_owned()));
        };
        let [
            pointer,
            mut settled_pointer,
            first_pointer,
            swap_pointer,
            progress,
            set_progress,
            remove_progress,
            buckets,
            add_bucket,
            remove_buckets,
            mut attempts,
            begin_attempt,
            end_attempt,
            remove_attempt,
            mut all_attempts,
        ] = prepared;
        for settled in [&mut settled_pointer, &mut attempts, &mut all_attempts] {
            settled.set_consistency(connect::settled(options));
        }
        Ok(Self {
            pointer,
            settled_pointer,
            first_pointer,
            swap_pointer,
            progress,
            set_progress,
            remove_progress,
            buckets,
            add_bucket,
            remove_buckets,
            attempts,
            begin_attempt,
            end_attempt,
            remove_attempt,
            all_attempts,
        })
    }
}

/// Makes or drops something. The whole cluster has to agree, which takes longer than any request for data may.
pub async fn change_schema(session: &Session, context: impl Into<String>, text: String) -> Result<()> {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(CHANGE_SCHEMA));
    session.query_unpaged(statement, ()).await.map(drop).map_err(|error| super::failed(context, error))
}

/// Prepares a statement at the level of its kind. Everything but a conditional write may be sent twice: rows are stamped, and what is
/// stamped comes to the same however often it is written.
pub async fn prepare(session: &Session, options: &CqlOptions, text: String) -> Result<PreparedStatement> {
    let is_read = text.starts_with("SELECT");
    let is_conditional = text.contains(" IF ");
    let mut prepared =
        session.prepare(text).await.map_err(|error| super::failed("preparing a statement", error.into()))?;
    prepared.set_consistency(if is_read { options.read_consistency } else { options.write_consistency });
    prepared.set_is_idempotent(!is_conditional);
    // No table changes its columns: the answers need not repeat them.
    prepared.set_use_cached_result_metadata(is_read);
    Ok(prepared)
}

/// Whether a conditional write was made. Cassandra answers with one column when it was, ScyllaDB always with all of them.
pub fn is_applied(context: &str, done: QueryResult) -> Result<bool> {
    let rows = done.into_rows_result().map_err(|error| super::unreadable(context, error))?;
    let row = rows.first_row::<Row>().map_err(|error| super::unreadable(context, error))?;
    match row.columns.first() {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        _ => Err(StoreError::unavailable(context, "the server did not say whether it was applied")),
    }
}
