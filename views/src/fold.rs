//! Folding: events into states, states into states, states into values. The one mechanism by which every layer
//! aggregates.
//!
//! A [`Fold`] is DataFusion's own grouped accumulators, one per aggregate of a view, over DataFusion's own group table.
//! There is no sum of ours: what an aggregate does to an event, what its state is, and how two states merge, DataFusion says,
//! so every aggregate with a mergeable state works in both layers.
//!
//! ```text
//! events ──update──►┐
//!                   ├─ accumulators ──take_states──► states (stored)
//! states ──merge───►┘               └─take_values──► values (to be finalized)
//! ```
//!
//! `update` and `merge` may be mixed freely: merging is associative and commutative, and an empty fold is neutral
//! (`tests/views_tests/laws.rs`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, Int8Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use crate::error::{Result, ViewError};
use crate::stored;
use crate::view::View;

/// A view's accumulators over some events or states.
pub struct Fold {
    view: Arc<View>,
    /// `None` once everything was taken: whoever folds on gets new ones.
    held: Option<Held>,
    /// The group of each row of the batch at hand; kept for its allocation.
    indices: Vec<usize>,
}

/// The groups and what they have come to.
struct Held {
    groups: Box<dyn GroupValues>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl Held {
    fn new(view: &View) -> Result<Self> {
        let groups = new_group_values(view.group_schema.clone(), &GroupOrdering::None)?;
        Ok(Self { groups, accumulators: accumulators(view)? })
    }
}

impl Fold {
    /// An empty fold.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when DataFusion cannot make the accumulators: a definition that compiled always can.
    pub fn new(view: &Arc<View>) -> Result<Self> {
        Ok(Self { view: view.clone(), held: Some(Held::new(view)?), indices: Vec::new() })
    }

    /// Folds events in. Applies the view's `WHERE`, group expressions, aggregate arguments and `FILTER`s.
    ///
    /// `events`: the view's `input_schema`.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when an expression fails on some event, or its group is longer than [`stored::MAX_GROUP`]; the
    /// fold is then of no use and must be dropped.
    pub fn update(&mut self, events: &RecordBatch) -> Result<()> {
        let view = self.view.clone();
        let kept;
        let events = match &view.filter {
            None => events,
            Some(filter) => {
                let mask = evaluate_filter(filter, events)?;
                if mask.null_count() == 0 && mask.true_count() == events.num_rows() {
                    events
                } else {
                    kept = filter_record_batch(events, &mask)?;
                    &kept
                }
            }
        };
        if events.num_rows() == 0 {
            return Ok(());
        }
        let groups = evaluate(&view.groups, events)?;
        stored::check_lengths(&groups)?;
        let held = held(&mut self.held, &view)?;
        held.groups.intern(&groups, &mut self.indices)?;
        for (aggregate, accumulator) in view.aggregates.iter().zip(&mut held.accumulators) {
            let arguments = evaluate(&aggregate.arguments, events)?;
            let filter = match &aggregate.filter {
                Some(filter) => Some(evaluate_filter(filter, events)?),
                None => None,
            };
            accumulator.update_batch(&arguments, &self.indices, filter.as_ref(), held.groups.len())?;
        }
        Ok(())
    }

    /// Merges states in.
    ///
    /// `states`: the view's `state_schema`.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when the states are not this view's.
    pub fn merge(&mut self, states: &RecordBatch) -> Result<()> {
        let groups = states.columns()[..self.view.group_schema.fields().len()].to_vec();
        self.merge_as(&groups, states)
    }

    /// Merges states in under other group values than their own: how tiles become larger tiles.
    ///
    /// `groups`: one array per group column, as long as `states`.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when the states are not this view's.
    pub fn merge_as(&mut self, groups: &[ArrayRef], states: &RecordBatch) -> Result<()> {
        if states.num_rows() == 0 {
            return Ok(());
        }
        if states.num_columns() != self.view.state_schema.fields().len() {
            return Err(ViewError::Damaged(format!("{} state columns", states.num_columns())));
        }
        let held = held(&mut self.held, &self.view)?;
        held.groups.intern(groups, &mut self.indices)?;
        let mut columns = &states.columns()[self.view.group_schema.fields().len()..];
        for (aggregate, accumulator) in self.view.aggregates.iter().zip(&mut held.accumulators) {
            let (own, rest) = columns.split_at(aggregate.state_columns);
            accumulator.merge_batch(own, &self.indices, held.groups.len())?;
            columns = rest;
        }
        Ok(())
    }

    /// How many groups it holds.
    pub fn len(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.groups.len())
    }

    /// Whether it holds no group.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory it holds, in bytes, as the accumulators estimate it.
    pub fn size(&self) -> usize {
        let held = self.held.as_ref().map_or(0, |held| {
            let accumulators: usize = held.accumulators.iter().map(|accumulator| accumulator.size()).sum();
            held.groups.size() + accumulators
        });
        held + self.indices.capacity() * size_of::<usize>()
    }

    /// Takes the state of every group, in the order in which the groups first appeared. The fold is empty afterwards.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when an accumulator cannot give its state.
    pub fn take_states(&mut self) -> Result<RecordBatch> {
        self.take(self.view.state_schema.clone(), |accumulator| accumulator.state(EmitTo::All))
    }

    /// Takes the group columns and the value of every aggregate. The fold is empty afterwards.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when an accumulator cannot give its value.
    pub fn take_values(&mut self) -> Result<RecordBatch> {
        self.take(self.view.value_schema.clone(), |accumulator| Ok(vec![accumulator.evaluate(EmitTo::All)?]))
    }

    /// The same when all there is of the view was folded in. Without `GROUP BY` SQL has a row even then when that is nothing: of
    /// aggregates over no event.
    ///
    /// # Errors
    ///
    /// [`ViewError::Evaluate`] when an accumulator cannot give its value.
    pub fn take_values_of_all(&mut self) -> Result<RecordBatch> {
        if !self.is_empty() || !self.view.of_everything {
            return self.take_values();
        }
        // Such a view groups by this constant.
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int8Array::from(vec![0]))];
        for aggregate in &self.view.aggregates {
            // Not the grouped accumulators: to some of them a group that is there has seen an event.
            columns.push(aggregate.function.create_accumulator()?.evaluate()?.to_array()?);
        }
        batch(self.view.value_schema.clone(), columns, 1)
    }

    fn take(
        &mut self,
        schema: SchemaRef,
        give: impl Fn(&mut dyn GroupsAccumulator) -> Result<Vec<ArrayRef>, DataFusionError>,
    ) -> Result<RecordBatch> {
        let rows = self.len();
        // Some accumulators keep a trace of what they gave (capacity, seen-bits), so none is used again. New ones are made when they
        // are needed: a lookup, which takes once, never does.
        let Some(mut held) = (if rows == 0 { None } else { self.held.take() }) else {
            return Ok(RecordBatch::new_empty(schema));
        };
        let mut columns = held.groups.emit(EmitTo::All)?;
        for accumulator in &mut held.accumulators {
            columns.extend(give(accumulator.as_mut())?);
        }
        batch(schema, columns, rows)
    }
}

/// The first of these events that a view cannot fold: a cast that fails, a division by zero, a group that is too long. `None` when no single event is
/// to blame. For telling a person which it is; folds some of the events again.
///
/// `events`: the view's `input_schema`.
pub fn first_failure(view: &Arc<View>, events: &RecordBatch) -> Option<usize> {
    let fails = |start: usize, end: usize| {
        let fold = || Fold::new(view)?.update(&events.slice(start, end - start));
        !matches!(catch_unwind(AssertUnwindSafe(fold)), Ok(Ok(())))
    };
    let (mut good, mut bad) = (0, events.num_rows());
    if !fails(good, bad) {
        return None;
    }
    while good + 1 < bad {
        let middle = good + (bad - good) / 2;
        if fails(good, middle) { bad = middle } else { good = middle }
    }
    fails(good, bad).then_some(good)
}

/// What a fold holds, new when it holds nothing.
fn held<'a>(held: &'a mut Option<Held>, view: &View) -> Result<&'a mut Held> {
    match held {
        Some(held) => Ok(held),
        none => Ok(none.insert(Held::new(view)?)),
    }
}

fn accumulators(view: &View) -> Result<Vec<Box<dyn GroupsAccumulator>>> {
    let make = |function: &Arc<datafusion::physical_expr::aggregate::AggregateFunctionExpr>| {
        if function.groups_accumulator_supported() {
            function.create_groups_accumulator()
        } else {
            let function = function.clone();
            let one_per_group = GroupsAccumulatorAdapter::new(move || function.create_accumulator());
            Ok(Box::new(one_per_group) as Box<dyn GroupsAccumulator>)
        }
    };
    Ok(view.aggregates.iter().map(|aggregate| make(&aggregate.function)).collect::<Result<_, DataFusionError>>()?)
}

/// A batch of `columns` under `schema`, whose types they must have. Fields of our schemas are nullable, so that
/// what DataFusion thinks of nullability here and there does not matter.
pub(crate) fn batch(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

pub(crate) fn evaluate(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let evaluate = |expression: &Arc<dyn PhysicalExpr>| expression.evaluate(batch)?.into_array(batch.num_rows());
    Ok(expressions.iter().map(evaluate).collect::<Result<_, DataFusionError>>()?)
}

pub(crate) fn evaluate_filter(filter: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    let mask = filter.evaluate(batch)?.into_array(batch.num_rows())?;
    Ok(as_boolean_array(&mask)?.clone())
}
