//! What names in a `SELECT` may refer to: the sources, and DataFusion's functions.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::TableReference;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};

use crate::source::Source;

pub(super) struct Catalog {
    pub(super) state: SessionState,
    pub(super) sources: Vec<Arc<Source>>,
    tables: HashMap<String, Arc<dyn TableSource>>,
}

impl Catalog {
    pub(super) fn new(sources: &[Arc<Source>]) -> Self {
        let mut state = SessionStateBuilder::new().with_default_features().build();
        // Planner errors then say where in the text they are.
        state.config_mut().options_mut().sql_parser.collect_spans = true;
        let table = |source: &Arc<Source>| {
            let table = LogicalTableSource::new(source.schema.clone());
            (source.name.to_string(), Arc::new(table) as Arc<dyn TableSource>)
        };
        Self { state, sources: sources.to_vec(), tables: sources.iter().map(table).collect() }
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        self.tables.get(name.table()).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.sources.iter().map(|source| &*source.name).collect();
            DataFusionError::Plan(format!("there is no source `{}`; there are: {}", name.table(), known.join(", ")))
        })
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
