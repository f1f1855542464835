//! The view store on ScyllaDB or Apache Cassandra.
//!
//! CQL gives: rows of one CQL partition that are written in one batch appear at once; of several writes to a cell the one with the
//! highest timestamp stays, in whatever order they come; conditional writes of one row, at the price of several round trips. No
//! snapshots, and nothing atomic across CQL partitions. From this the port's promises are kept so:
//!
//! **Deltas** are stamped with the offset they reach ([`layout`]). A delta is a pure function of its segment and that offset, so
//! owners may write side by side: the one that reaches further stays, and who wrote it does not matter. The progress moves
//! after its deltas are acknowledged, and is stamped in the same way.
//!
//! **One moment.** A read begins with the [`boundary`]: what is published, and the progress. Rows read after it hold at least
//! what the progress says; those that hold more are either brought to one later moment or read again ([`moment`], [`read`]).
//!
//! **Keys that nothing happened to** are not read again ([`kept`]).
//!
//! **Generations** are written under a number of their own per attempt, and one conditional write of the [`pointer`] makes them
//! visible. The pointer also says in which table a view is.
//!
//! **Letting go** takes nothing that a read under way may need ([`retire`]).
//!
//! Conditional writes are used for the pointer and for attempts, never for deltas.

mod base;
mod boundary;
mod chunks;
mod connect;
mod deltas;
mod gather;
mod generation;
mod kept;
pub mod layout;
mod moment;
mod options;
mod pointer;
mod priors;
mod publish;
mod range;
mod read;
mod retire;
mod sessions;
mod typed;
mod view_table;
mod written;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::Semaphore;
use views::{Published, TopicPartition, View};

pub use options::{CqlOptions, consistency};
pub use scylla::statement::Consistency;

use crate::error::{Result, StoreError};
use crate::store::{Beside, DeltaWrite, KeyRange, Priors, Progress, PublishOutcome, ViewRead, ViewStore, WriteOutcome};
use base::Base;
use boundary::Boundaries;
use gather::Waiting;
use kept::KeptParts;
use sessions::Sessions;
use view_table::ViewTable;
use written::Written;

/// The [`ViewStore`] on a CQL cluster. Cheap to clone; clones share connections and caches.
#[derive(Clone)]
pub struct CqlStore(Arc<Inner>);

struct Inner {
    sessions: Sessions,
    options: CqlOptions,
    base: Base,
    boundaries: Boundaries,
    /// By table: those that this handle uses.
    tables: Mutex<HashMap<Arc<str>, Arc<ViewTable>>>,
    /// Held while tables are made, one after the other: those that are not in the pointer yet. Whoever goes on after one who was
    /// dropped uses them.
    making: tokio::sync::Mutex<Vec<(Arc<View>, Arc<str>)>>,
    /// The states written last.
    written: Mutex<Written>,
    /// Held by who reads states that others will want too.
    reading_beside: tokio::sync::Mutex<()>,
    /// What was read last.
    kept: KeptParts,
    /// The furthest position that a read of everything has returned, by table.
    whole: Mutex<HashMap<Arc<str>, views::Position>>,
    /// What was retired last, by table: the pointer's version.
    retired: Mutex<HashMap<Arc<str>, i64>>,
    /// Deltas that wait for that.
    waiting: Waiting,
    /// How many requests may be under way.
    permits: Semaphore,
}

impl CqlStore {
    /// Connects to the cluster. Keyspace and tables must be there, unless the options say to create them.
    ///
    /// # Errors
    ///
    /// `Invalid` for options that cannot work and for a keyspace that is not there, `Unavailable` when no node answers or the
    /// password is wrong; within seconds, and the message names the setting.
    pub async fn connect(options: CqlOptions) -> Result<Self> {
        let session = connect::connect(&options).await?;
        if options.create {
            base::create(&session, &options).await?;
        } else {
            base::check(&session, &options).await?;
        }
        let base = Base::prepare(&session, &options).await?;
        let written = Mutex::new(Written::new(options.cache_bytes));
        let kept = KeptParts::new(options.kept_bytes);
        let permits = Semaphore::new(options.in_flight.clamp(1, Semaphore::MAX_PERMITS));
        Ok(Self(Arc::new(Inner {
            sessions: Sessions::new(session),
            options,
            base,
            boundaries: Boundaries::default(),
            tables: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            written,
            reading_beside: tokio::sync::Mutex::default(),
            kept,
            whole: Mutex::default(),
            retired: Mutex::default(),
            waiting: Waiting::default(),
            permits,
        })))
    }

    /// Creates keyspace and tables where they are missing. May be done any number of times.
    ///
    /// # Errors
    ///
    /// As [`CqlStore::connect`].
    pub async fn init(options: &CqlOptions) -> Result<()> {
        let session = connect::connect(options).await?;
        base::create(&session, options).await
    }
}

#[async_trait]
impl ViewStore for CqlStore {
    async fn published(&self) -> Result<Option<Published>> {
        Ok(self.0.fresh_boundary().await?.known.pointer.published.clone())
    }

    async fn read(&self, view: &Arc<View>, range: &KeyRange) -> Result<ViewRead> {
        read::read(&self.0, view, range).await
    }

    async fn progress(&self, view: &Arc<View>, partition: &TopicPartition) -> Result<Progress> {
        let boundary = self.0.fresh_boundary().await?;
        let table = boundary.known.table(view).filter(|_| *view.source.name == *partition.topic);
        let progress = table.and_then(|table| boundary.progress(table, partition.partition));
        Ok(progress.unwrap_or(Progress::START))
    }

    async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &RecordBatch,
        beside: &[Beside],
    ) -> Result<Priors> {
        self.0.deltas(view, partition, at, groups, beside).await
    }

    async fn write_deltas(&self, write: DeltaWrite) -> Result<WriteOutcome> {
        self.0.write_deltas(&write).await
    }

    async fn write_generation(
        &self,
        view: &Arc<View>,
        generation: u64,
        rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        self.0.write_generation(view, generation, rows).await
    }

    async fn publish(&self, next: &Published) -> Result<PublishOutcome> {
        self.0.publish(next).await
    }

    async fn retire(&self, views: &[Arc<View>]) -> Result<()> {
        let kept: HashSet<_> = views.iter().map(|view| (view.name.clone(), view.fingerprint.clone())).collect();
        self.0.retire(views, &kept).await
    }
}

impl Inner {
    /// All rows of a small read.
    async fn rows(
        &self,
        context: &str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryRowsResult> {
        let done =
            self.sessions.here().execute_unpaged(statement, values).await.map_err(|error| failed(context, error))?;
        done.into_rows_result().map_err(|error| unreadable(context, error))
    }

    /// A write.
    async fn execute(&self, context: &str, statement: &PreparedStatement, values: impl SerializeRow) -> Result<()> {
        let done = self.sessions.here().execute_unpaged(statement, values).await;
        done.map(drop).map_err(|error| failed(context, error))
    }
}

/// A request that failed. Whatever the server says, trying again may help: a table may just have been let go of.
fn failed(context: impl Into<String>, error: ExecutionError) -> StoreError {
    StoreError::unavailable(context, error)
}

/// An answer of another shape than asked for.
fn unreadable(context: impl Into<String>, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::unavailable(context, error)
}

/// Offsets and the like are bigints in CQL.
fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| StoreError::Invalid(format!("{number} does not fit a bigint")))
}

fn unsigned(context: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| StoreError::Damaged(format!("{context}: {number} where an offset should be")))
}
