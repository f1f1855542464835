//! Leaving out repeated deliveries, for sources that name an `event_id`.
//!
//! A record counts nowhere when a record before it in the same partition has the same id and an append time at most the
//! source's window earlier. Append times never decrease within a partition, so of all earlier records with the id the
//! one just before is the latest: looking at that one alone decides. It is a window function over (partition, id) by
//! offset, which DataFusion sorts for, spilling what does not fit in memory. Records without an id always count.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Column;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_window::expr_fn::lag;
use datafusion::logical_expr::{Expr, ExprFunctionExt, cast, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use views::Source;

use crate::scan::ArchiveScan;

/// The name of the column that holds the append time of the record before with the same id. No Avro field can have it.
const EARLIER: &str = "earlier append time";

/// A plan that reads `columns` of the source without its repeated deliveries.
pub(crate) async fn plan(
    session: &SessionContext,
    scan: &ArchiveScan,
    columns: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let Source { schema, event_id, dedupe_window, .. } = &*scan.source;
    let Some(event_id) = event_id else {
        return scan.plan(columns, session.state().config().target_partitions());
    };
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let micros = |time: Expr| cast(time, DataType::Int64);
    let earlier = lag(column("_append_time"), Some(1), None)
        .partition_by(vec![column("_partition"), column(event_id)])
        .order_by(vec![column("_offset").sort(true, false)])
        .build()?
        .alias(EARLIER);
    let window = i64::try_from(dedupe_window.as_micros()).unwrap_or(i64::MAX);
    let first_for_long = (micros(column("_append_time")) - micros(column(EARLIER))).gt(lit(window));
    let counts = column(event_id).is_null().or(column(EARLIER).is_null()).or(first_for_long);
    let columns = columns.iter().map(|index| column(schema.field(*index).name())).collect::<Vec<_>>();
    let events = session.read_table(Arc::new(ArchiveTable(scan.clone())))?;
    events.window(vec![earlier])?.filter(counts)?.select(columns)?.create_physical_plan().await
}

/// The archive of a source as a table, so that DataFusion plans over it.
#[derive(Clone)]
struct ArchiveTable(ArchiveScan);

impl std::fmt::Debug for ArchiveTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the archive of {}", self.0.source.name)
    }
}

#[async_trait]
impl TableProvider for ArchiveTable {
    fn schema(&self) -> SchemaRef {
        self.0.source.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let every = || (0..self.0.source.schema.fields().len()).collect();
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(every);
        self.0.plan(&columns, session.config().target_partitions())
    }
}
