//! A view's table: made when the view is first written, and its statements, prepared once per handle.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::row::{RowConverter, Rows, SortField};
use futures::future::try_join_all;
use scylla::statement::prepared::PreparedStatement;
use views::stored::StateCodec;
use views::{View, ViewError};

use super::Inner;
use super::base::{change_schema, prepare};
use super::boundary::Boundary;
use super::layout::{Layout, table_name};
use super::pointer::{Contest, Known, PointerView};
use crate::error::Result;

/// Rows per page of a lookup: a page is what is read at once.
const PAGE: i32 = 5000;
/// Rows per page of a read of everything.
const SCAN_PAGE: i32 = 2000;

/// Everything about a view's table.
pub struct ViewTable {
    pub name: Arc<str>,
    pub view: Arc<View>,
    pub layout: Layout,
    pub codec: StateCodec,
    /// `None` for a view without key columns.
    keys: Option<RowConverter>,
    pub insert_delta: PreparedStatement,
    pub insert_batch: PreparedStatement,
    pub select: PreparedStatement,
    pub select_deltas: PreparedStatement,
    pub scan: PreparedStatement,
    pub scan_keys: PreparedStatement,
    pub delete: PreparedStatement,
    /// The buckets that are known to be registered, and those that reads go by.
    pub buckets: super::range::Buckets,
}

impl ViewTable {
    /// The encoded keys of rows; `None` when all rows have the same, having no key columns.
    pub fn encoded_keys(&self, key_columns: &[ArrayRef]) -> Result<Option<Rows>> {
        let Some(keys) = &self.keys else { return Ok(None) };
        Ok(Some(keys.convert_columns(key_columns).map_err(ViewError::from)?))
    }
}

impl Inner {
    /// A view's table with its statements.
    pub async fn view_table(&self, view: &Arc<View>, name: &Arc<str>) -> Result<Arc<ViewTable>> {
        if let Some(table) = self.tables.lock().get(name) {
            return Ok(table.clone());
        }
        let layout = Layout::new(view, &self.options.keyspace, name);
        let texts = layout.statements();
        let texts = [
            texts.insert_delta,
            texts.insert_batch,
            texts.select,
            texts.select_deltas,
            texts.scan,
            texts.scan_keys,
            texts.delete,
        ];
        let prepared = try_join_all(texts.map(|text| prepare(self.sessions.shared(), &self.options, text))).await?;
        let Ok([insert_delta, insert_batch, mut select, select_deltas, mut scan, scan_keys, delete]) =
            <[PreparedStatement; 7]>::try_from(prepared)
        else {
            return Err(crate::StoreError::Invalid("a statement was not prepared".to_owned()));
        };
        select.set_page_size(PAGE);
        scan.set_page_size(SCAN_PAGE);
        let key_fields = view.group_schema.fields().iter().take(view.key_columns);
        let key_fields: Vec<SortField> = key_fields.map(|field| SortField::new(field.data_type().clone())).collect();
        let keys =
            if key_fields.is_empty() { None } else { Some(RowConverter::new(key_fields).map_err(ViewError::from)?) };
        let table = Arc::new(ViewTable {
            name: name.clone(),
            view: view.clone(),
            layout,
            codec: StateCodec::new(view)?,
            keys,
            insert_delta,
            insert_batch,
            select,
            select_deltas,
            scan,
            scan_keys,
            delete,
            buckets: Default::default(),
        });
        let mut tables = self.tables.lock();
        // What was let go of is not needed again.
        if let Some(last) = self.boundaries.last() {
            tables.retain(|name, _| last.known.has(name));
        }
        tables.insert(name.clone(), table.clone());
        Ok(table)
    }

    /// The tables of views, in their order, made where they are missing.
    pub async fn tables_for_writing(&self, views: &[&Arc<View>], boundary: &Boundary) -> Result<Vec<Arc<ViewTable>>> {
        let registered;
        let mut known: &Known = &boundary.known;
        if views.iter().any(|view| known.table(view).is_none()) {
            registered = self.register(views).await?;
            known = &registered;
        }
        let mut tables = Vec::with_capacity(views.len());
        for view in views {
            let Some(name) = known.table(view) else {
                let why = "it was let go of meanwhile";
                return Err(crate::StoreError::unavailable(format!("writing view `{}`", view.name), why));
            };
            tables.push(self.view_table(view, name).await?);
        }
        Ok(tables)
    }

    /// Makes tables for the views that have none, and writes into the pointer that they have: in this order, so that a view that has
    /// a table there has one. Each handle makes tables with names of its own: making one table from two places at once is what
    /// Cassandra does not do well.
    async fn register(&self, views: &[&Arc<View>]) -> Result<Known> {
        let mut made = self.making.lock().await;
        let mut contest = Contest::new();
        loop {
            let known = self.settled_pointer().await?;
            let missing: Vec<_> = views.iter().filter(|view| known.table(view).is_none()).collect();
            if missing.is_empty() {
                self.drop_unused(&known, &std::mem::take(&mut *made)).await;
                return Ok(known);
            }
            let mut next = known.pointer.clone();
            for view in missing {
                let is_made = made.iter().find(|(of, _)| of.name == view.name && of.fingerprint == view.fingerprint);
                let table = match is_made {
                    Some((_, table)) => table.clone(),
                    None => {
                        let table: Arc<str> = table_name(view, rand::random()).into();
                        // Noted first: should this be dropped on the way, the table is not forgotten.
                        made.push(((*view).clone(), table.clone()));
                        table
                    }
                };
                let layout = Layout::new(view, &self.options.keyspace, &table);
                let context = format!("making a table for view `{}`", view.name);
                change_schema(self.sessions.shared(), context, layout.statements().create).await?;
                next.views.push(PointerView {
                    name: view.name.clone(),
                    fingerprint: view.fingerprint.clone(),
                    topic: view.source.name.clone(),
                    table,
                    held: None,
                });
            }
            match self.swap_pointer(&known, &next).await? {
                // Read again all the same: it costs little, and what is returned is what is there.
                Ok(true) => {}
                Ok(false) => {
                    contest.lost("making tables for views", "others change what is published all the time").await?
                }
                Err(error) => contest.lost("making tables for views", error).await?,
            }
        }
    }

    /// Drops tables that another's took the place of.
    async fn drop_unused(&self, known: &Known, made: &[(Arc<View>, Arc<str>)]) {
        for (_, table) in made.iter().filter(|(_, table)| !known.has(table)) {
            if let Err(error) = self.drop_table(table).await {
                tracing::warn!(table = &**table, %error, "a table that nobody needs is left");
            }
        }
    }

    pub async fn drop_table(&self, table: &str) -> Result<()> {
        let drop = format!("DROP TABLE IF EXISTS \"{}\".\"{table}\"", self.options.keyspace);
        change_schema(self.sessions.shared(), format!("dropping `{table}`"), drop).await
    }
}
