//! What is worked out once per view, so that a lookup does not: names, writers, codecs and spare folds.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Field;
use arrow::row::{RowConverter, SortField};
use parking_lot::Mutex;
use views::stored::StateCodec;
use views::{Application, Fold, TopicPartition, View, ViewError};

use crate::error::{Kind, Problem, Result};
use crate::json::{RowWriter, write_string};
use crate::metrics::LookupMetrics;

/// How many idle folds a view keeps; more than this many lookups at once make new ones.
const SPARE_FOLDS: usize = 64;

/// One view, ready to answer.
pub struct PreparedView {
    /// The view.
    pub view: Arc<View>,
    /// Encodes groups, for cursors and for order.
    pub codec: StateCodec,
    /// Writes answer rows.
    pub writer: RowWriter,
    /// For each answer column, whether it shows a group column unchanged.
    pub shows_group: Vec<bool>,
    /// The answer column that shows the tile, if one does.
    pub tile_output: Option<usize>,
    /// `{"view":"…","rows":[`
    pub opening: String,
    /// What is counted about it.
    pub metrics: LookupMetrics,
    columns: HashMap<String, usize>,
    partitions: Vec<TopicPartition>,
    folds: Mutex<Vec<Fold>>,
}

impl PreparedView {
    /// Prepares a view.
    pub fn new(view: &Arc<View>, metrics: LookupMetrics) -> Result<Self, ViewError> {
        let mut columns = HashMap::new();
        for (index, output) in view.group_outputs.iter().enumerate() {
            if let Some(output) = output {
                columns.insert(view.output_schema.field(*output).name().clone(), index);
            }
        }
        // A group column's own name wins over an answer column that happens to have it.
        for (index, field) in view.group_schema.fields().iter().enumerate() {
            columns.insert(field.name().clone(), index);
        }
        let shows_group = (0..view.columns.len()).map(|column| view.group_outputs.contains(&Some(column))).collect();
        let mut opening = String::from("{\"view\":");
        write_string(&mut opening, &view.name);
        opening.push_str(",\"rows\":[");
        Ok(Self {
            codec: StateCodec::new(view)?,
            writer: RowWriter::new(&view.output_schema),
            shows_group,
            tile_output: view.time.and_then(|time| view.group_outputs[time.index]),
            opening,
            metrics,
            columns,
            partitions: (0..view.source.partitions)
                .map(|partition| TopicPartition::new(view.source.name.clone(), partition))
                .collect(),
            folds: Mutex::new(vec![Fold::new(view)?]),
            view: view.clone(),
        })
    }

    /// The group column a parameter names.
    pub fn group_column(&self, name: &str) -> Option<usize> {
        self.columns.get(name).copied()
    }

    /// A group column.
    pub fn group_field(&self, index: usize) -> &Field {
        self.view.group_schema.field(index)
    }

    /// Every partition this view's events come from.
    pub fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// An empty fold: a spare one, or a new one.
    pub fn fold(&self) -> Result<Fold, ViewError> {
        let spare = self.folds.lock().pop();
        spare.map_or_else(|| Fold::new(&self.view), Ok)
    }

    /// Gives a fold back. One that failed must be dropped instead.
    pub fn give_back(&self, fold: Fold) {
        let mut folds = self.folds.lock();
        if fold.is_empty() && folds.len() < SPARE_FOLDS {
            folds.push(fold);
        }
    }

    /// Encodes the columns of an order so that comparing bytes compares rows. Nulls come last.
    pub fn order_converter(&self, order: &[(usize, bool)]) -> Result<RowConverter> {
        let sort_field = |&(column, descending): &(usize, bool)| {
            let options = arrow::compute::SortOptions { descending, nulls_first: false };
            SortField::new_with_options(self.view.output_schema.field(column).data_type().clone(), options)
        };
        RowConverter::new(order.iter().map(sort_field).collect())
            .map_err(|error| Problem::parameter("order", format!("cannot order by these columns: {error}")))
    }
}

/// Every view of the application, by name.
pub struct PreparedViews(HashMap<Arc<str>, Arc<PreparedView>>);

impl PreparedViews {
    /// Prepares the views of an application.
    pub fn new(application: &Application, metrics: impl Fn(&str) -> LookupMetrics) -> Result<Self, ViewError> {
        let mut views = HashMap::new();
        for view in &application.views {
            views.insert(view.name.clone(), Arc::new(PreparedView::new(view, metrics(&view.name))?));
        }
        Ok(Self(views))
    }

    /// Every view.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PreparedView>> {
        self.0.values()
    }

    /// A view.
    pub fn get(&self, name: &str) -> Result<&Arc<PreparedView>> {
        self.0.get(name).ok_or_else(|| {
            let shown = crate::parse::shorten(name);
            let hint = crate::nearest::hint(name, self.0.keys().map(|name| &**name));
            Problem::new(Kind::NoSuchView, format!("there is no view `{shown}`{hint}")).of_view(&shown)
        })
    }
}
