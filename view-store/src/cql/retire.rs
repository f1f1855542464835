//! Letting go of what no reader can need.
//!
//! A read relies on its boundary for no longer than `grace`; what goes on for longer looks whether the boundary is still the same
//! (`Inner::still_holds`). So what the pointer does not need may be deleted once it has been there for that long: every
//! read that needs it has ended, or will notice.
//!
//! Rows are deleted with timestamps from the log: a delta with its frontier's offset, which nothing that is still to be written has
//! below it, a batch row with its generation's number. A row that comes back all the same (a replica that was away for longer than
//! `gc_grace_seconds`) does not count: reads go by the pointer and the frontier, not by what is there.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use scylla::response::PagingState;
use scylla::value::{CqlValue, Row};
use views::view::Fingerprint;
use views::{Offset, View};

use super::deltas::{Cell, Insert, bigint};
use super::pointer::{Contest, Held, Known};
use super::view_table::ViewTable;
use super::{Inner, failed, signed, unreadable};
use crate::error::{Result, StoreError};

/// Rows per page of a scan of keys.
const PAGE: i32 = 5000;
/// Rows per batch.
const BATCH_ROWS: usize = 256;

impl Inner {
    /// See [`crate::ViewStore::retire`].
    pub async fn retire(&self, views: &[Arc<View>], kept: &HashSet<(Arc<str>, Fingerprint)>) -> Result<()> {
        let known = self.let_go(kept).await?;
        let Some(visible) = known.pointer.published.as_ref().map(|published| published.generation) else {
            return self.drop_gone(known).await;
        };
        let unneeded: Vec<(&Arc<View>, &Arc<str>)> = views
            .iter()
            .filter_map(|view| Some((view, known.table(view)?)))
            .filter(|(_, table)| self.retired.lock().get(*table) != Some(&known.version))
            .collect();
        if unneeded.is_empty() && known.pointer.gone.is_empty() {
            return Ok(());
        }
        self.wait_for_readers(&known).await;
        for (view, name) in unneeded {
            let table = self.view_table(view, name).await?;
            let hold = known.hold(name);
            let needed = Needed {
                visible: signed(visible)?,
                held: hold.map(|hold| hold.held),
                frontier: hold.map(|hold| hold.frontier.clone()).unwrap_or_default(),
            };
            self.delete_rows(&table, &needed).await?;
            self.delete_attempts(&table, &needed).await?;
            self.retired.lock().insert(name.clone(), known.version);
        }
        self.drop_gone(known).await
    }

    /// Has the pointer forget views that nobody knows any more: from now on they start from nothing.
    async fn let_go(&self, kept: &HashSet<(Arc<str>, Fingerprint)>) -> Result<Known> {
        let mut contest = Contest::new();
        loop {
            let known = self.settled_pointer().await?;
            let mut next = known.pointer.clone();
            let goes =
                |name: &Arc<str>, fingerprint: &Fingerprint| !kept.contains(&(name.clone(), fingerprint.clone()));
            for view in next.views.extract_if(.., |view| goes(&view.name, &view.fingerprint)) {
                if let Some(published) = &mut next.published {
                    published.forget(&view.name, &view.fingerprint);
                }
                next.gone.push(view.table);
            }
            if next == known.pointer {
                self.saw(known.version);
                return Ok(known);
            }
            match self.swap_pointer(&known, &next).await? {
                Ok(true) => {
                    self.saw(known.version + 1);
                    return Known::new(known.version + 1, next);
                }
                Ok(false) => contest.lost("retiring", "others change what is published all the time").await?,
                Err(error) => contest.lost("retiring", error).await?,
            }
        }
    }

    /// Waits until no read relies on an earlier pointer.
    async fn wait_for_readers(&self, known: &Known) {
        let since = self.saw(known.version);
        tokio::time::sleep((since + self.options.grace).saturating_duration_since(std::time::Instant::now())).await;
    }

    /// Drops the tables of views that were let go of, and what is said of them elsewhere.
    async fn drop_gone(&self, mut known: Known) -> Result<()> {
        if known.pointer.gone.is_empty() {
            return Ok(());
        }
        self.wait_for_readers(&known).await;
        let dropped = known.pointer.gone.clone();
        let boundary = self.fresh_boundary().await?;
        for table in &dropped {
            self.drop_table(table).await?;
            for (partition, progress) in boundary.all_progress(table) {
                let partition = super::deltas::log_partition(partition)?;
                let values = (signed(progress.offset)?, &self.options.scope, &**table, partition);
                self.execute("retiring progress", &self.base.remove_progress, values).await?;
            }
            for (generation, attempt) in self.all_attempts(table).await? {
                self.delete_attempt(table, generation, attempt).await?;
            }
            self.execute("retiring buckets", &self.base.remove_buckets, (&**table,)).await?;
        }
        let mut contest = Contest::new();
        loop {
            let mut next = known.pointer.clone();
            next.gone.retain(|table| !dropped.contains(table));
            if next == known.pointer {
                return Ok(());
            }
            match self.swap_pointer(&known, &next).await? {
                Ok(true) => return Ok(()),
                Ok(false) => contest.lost("retiring", "others change what is published all the time").await?,
                Err(error) => contest.lost("retiring", error).await?,
            }
            known = self.settled_pointer().await?;
        }
    }

    async fn all_attempts(&self, table: &str) -> Result<Vec<(i64, i64)>> {
        let context = "reading who wrote generations";
        let found = self.rows(context, &self.base.all_attempts, (table,)).await?;
        let rows = found.rows::<(i64, i64)>().map_err(|error| unreadable(context, error))?;
        rows.collect::<std::result::Result<_, _>>().map_err(|error| unreadable(context, error))
    }

    async fn delete_attempt(&self, table: &str, generation: i64, attempt: i64) -> Result<()> {
        self.execute("retiring a generation", &self.base.remove_attempt, (table, generation, attempt)).await
    }

    async fn delete_attempts(&self, table: &ViewTable, needed: &Needed) -> Result<()> {
        for (generation, attempt) in self.all_attempts(&table.name).await? {
            if !needed.has_batch_row(generation, attempt) {
                self.delete_attempt(&table.name, generation, attempt).await?;
            }
        }
        Ok(())
    }

    /// Deletes the rows that are not needed. A range of tokens after the other: this is nothing that anybody waits for.
    async fn delete_rows(&self, table: &ViewTable, needed: &Needed) -> Result<()> {
        let context: Arc<str> = format!("retiring rows of view `{}`", table.view.name).into();
        let mut statement = table.scan_keys.clone();
        statement.set_page_size(PAGE);
        let mut deletes = FuturesUnordered::new();
        for range in self.token_ranges() {
            let mut state = PagingState::start();
            loop {
                let page = self.sessions.shared().execute_single_page(&statement, range, state).await;
                let (page, next) = page.map_err(|error| failed(&*context, error))?;
                let page = page.into_rows_result().map_err(|error| unreadable(&*context, error))?;
                let mut gathered: Vec<Insert> = Vec::new();
                let mut of: Option<Vec<CqlValue>> = None;
                for row in page.rows::<Row>().map_err(|error| unreadable(&*context, error))? {
                    let row = row.map_err(|error| unreadable(&*context, error))?;
                    let Some((cql_partition, delete)) = needed.delete(table, row)? else { continue };
                    if of.as_ref() != Some(&cql_partition) || gathered.len() >= BATCH_ROWS {
                        if !gathered.is_empty() {
                            deletes.push(self.insert(context.clone(), &table.delete, std::mem::take(&mut gathered)));
                        }
                        of = Some(cql_partition);
                    }
                    gathered.push(delete);
                }
                if !gathered.is_empty() {
                    deletes.push(self.insert(context.clone(), &table.delete, gathered));
                }
                while let Some(deleted) = deletes.next().await {
                    deleted?;
                }
                match next.into_paging_control_flow() {
                    ControlFlow::Break(()) => break,
                    ControlFlow::Continue(more) => state = more,
                }
            }
        }
        Ok(())
    }
}

/// What a view needs.
struct Needed {
    visible: i64,
    held: Option<Held>,
    frontier: BTreeMap<u32, Offset>,
}

impl Needed {
    /// A generation that is newer than the visible one may be being written.
    fn has_batch_row(&self, generation: i64, attempt: i64) -> bool {
        let is_held = |held: Held| i64::try_from(held.generation) == Ok(generation) && held.attempt == attempt;
        generation > self.visible || self.held.is_some_and(is_held)
    }

    /// How to delete a row, and the CQL partition it is in; `None` for one that is needed.
    fn delete(&self, table: &ViewTable, row: Row) -> Result<Option<(Vec<CqlValue>, Insert)>> {
        let keys = table.layout.key_columns();
        let columns: Option<Vec<CqlValue>> = row.columns.into_iter().collect();
        let misshapen = || StoreError::Damaged(format!("view `{}`: a row without its key", table.view.name));
        let columns = columns.ok_or_else(misshapen)?;
        let stamp = match &columns[keys + 1..] {
            [_, CqlValue::BigInt(generation), CqlValue::Int(partition), CqlValue::BigInt(segment)] => {
                match u32::try_from(*partition) {
                    Ok(partition) => {
                        let frontier = self.frontier.get(&partition).map(|frontier| signed(*frontier)).transpose()?;
                        frontier.filter(|frontier| segment < frontier)
                    }
                    Err(_) => (!self.has_batch_row(*generation, *segment)).then_some(*generation),
                }
            }
            _ => return Err(misshapen()),
        };
        let Some(stamp) = stamp else { return Ok(None) };
        let cql_partition = columns[..=keys].to_vec();
        let mut values = vec![bigint(stamp)];
        values.extend(columns.into_iter().map(Cell::Set));
        Ok(Some((cql_partition, Insert { values, size: 0 })))
    }
}
