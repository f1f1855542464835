//! From chunks of states to a page of rows: merge, finalize, order, write.
//!
//! Three ways through, by what the question asks:
//! - in the order of groups: each chunk becomes rows at once, and the page is full after `limit` of them;
//! - with a rollup: chunks are merged under larger tiles, and become rows at the end;
//! - with `order=`: rows pass through a heap that keeps the best `limit` and one more.
//!
//! `explain` runs the same merge once more per origin, and shows what each gives alone.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, Scalar, UInt32Array};
use arrow::compute::{filter_record_batch, kernels, take_record_batch};
use arrow::datatypes::{
    ArrowTimestampType, DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::row::RowConverter;
use view_store::{Origin, StateRows};
use views::stored::EncodedStates;
use views::{Answer, Fold};

use crate::answer::LookupLimits;
use crate::error::{Kind, Problem, Result};
use crate::layers::{Layers, LayersOfRow};
use crate::prepared::PreparedView;
use crate::question::{Question, Rollup};

/// Rows as JSON text.
#[derive(Debug)]
pub struct Page {
    /// What the assembly was given to begin with, then the rows, separated by commas.
    pub text: String,
    /// How many rows.
    pub rows: usize,
    /// Where the next page begins, if there is one.
    pub cursor: Option<String>,
}

/// A page in the making.
pub struct Assembly {
    view: Arc<PreparedView>,
    question: Arc<Question>,
    limits: LookupLimits,
    fold: Fold,
    layers: Option<Layers>,
    ordered: Option<Ordered>,
    scanned: usize,
    page: Page,
    /// The group of the page's last row.
    last: Option<RecordBatch>,
    full: bool,
}

/// The best rows so far, when the question orders them.
struct Ordered {
    converter: RowConverter,
    best: BinaryHeap<Place>,
    bytes: usize,
}

/// A row and its place in the order.
struct Place {
    place: Vec<u8>,
    json: String,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

impl Assembly {
    /// An empty page whose text begins with `out`.
    pub fn new(
        view: &Arc<PreparedView>,
        question: Arc<Question>,
        generation: Option<u64>,
        limits: LookupLimits,
        out: String,
    ) -> Result<Self> {
        let ordered = if question.in_group_order() {
            None
        } else {
            let converter = view.order_converter(&question.options.order)?;
            Some(Ordered { converter, best: BinaryHeap::new(), bytes: 0 })
        };
        Ok(Self {
            fold: view.fold()?,
            layers: question.options.explain.then(|| Layers::new(view, generation)),
            ordered,
            limits,
            scanned: 0,
            page: Page { text: out, rows: 0, cursor: None },
            last: None,
            full: false,
            view: view.clone(),
            question,
        })
    }

    /// Whether further chunks cannot change the page.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// How many groups wait for the end.
    pub fn held(&self) -> usize {
        self.fold.len()
    }

    /// Merges a chunk in.
    pub fn take(&mut self, chunk: &StateRows) -> Result<()> {
        self.scanned += chunk.states.num_rows();
        if self.scanned > self.limits.scanned_states {
            return Err(self.too_much(&format!("more than {} states", self.limits.scanned_states)));
        }
        let (states, origins) = self.filtered(chunk)?;
        let group_columns = self.view.view.group_schema.fields().len();
        let mut groups = states.columns()[..group_columns].to_vec();
        if let (Some(rollup), Some(time)) = (self.question.options.rollup, self.view.view.time) {
            groups[time.index] = retiled(&groups[time.index], rollup)?;
        }
        self.fold.merge_as(&groups, &states)?;
        if let Some(layers) = &mut self.layers {
            let options = RecordBatchOptions::new().with_row_count(Some(states.num_rows()));
            let groups = RecordBatch::try_new_with_options(self.view.view.group_schema.clone(), groups, &options)?;
            layers.take(&groups, &states, &origins)?;
        }
        if self.question.options.rollup.is_some() {
            if self.fold.size() > self.limits.held_bytes {
                return Err(self.too_much("more memory than one lookup may hold"));
            }
            return Ok(());
        }
        self.settle()
    }

    /// The states that pass the filters, with their origins.
    fn filtered<'c>(&self, chunk: &'c StateRows) -> Result<(RecordBatch, std::borrow::Cow<'c, [Origin]>)> {
        if chunk.origins.len() != chunk.states.num_rows() {
            return Err(Problem::new(Kind::Internal, "the store gave states without origins"));
        }
        let mut kept: Option<BooleanArray> = None;
        for (column, value) in &self.question.filters {
            let value = value.to_array().map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
            let equal = kernels::cmp::not_distinct(chunk.states.column(*column), &Scalar::new(value))?;
            kept = Some(match kept {
                None => equal,
                Some(kept) => kernels::boolean::and(&kept, &equal)?,
            });
        }
        let Some(kept) = kept else {
            return Ok((chunk.states.clone(), chunk.origins.as_slice().into()));
        };
        let origins =
            chunk.origins.iter().zip(kept.values()).filter(|(_, kept)| *kept).map(|(origin, _)| origin.clone());
        Ok((filter_record_batch(&chunk.states, &kept)?, origins.collect::<Vec<_>>().into()))
    }

    /// Turns what is merged into rows.
    fn settle(&mut self) -> Result<()> {
        if self.fold.is_empty() {
            return Ok(());
        }
        let values = self.fold.take_values()?;
        self.present(&values)
    }

    /// Turns merged values into rows.
    fn present(&mut self, values: &RecordBatch) -> Result<()> {
        let mut layers = match &mut self.layers {
            Some(layers) => Some(layers.settle()?),
            None => None,
        };
        let mut answer = self.view.view.finalize(values)?;
        let rolled_up = self.question.options.rollup.is_some();
        let needs_groups = rolled_up || layers.is_some() || self.ordered.is_some();
        let mut encoded = None;
        if needs_groups {
            let mut groups = self.view.codec.encode_groups(&answer.groups)?;
            if rolled_up && self.ordered.is_none() {
                // Larger tiles appear in the order of their first group, which need not be their own.
                answer = in_group_order(&answer, &groups)?;
                groups = self.view.codec.encode_groups(&answer.groups)?;
            }
            encoded = Some(groups);
        }
        if self.ordered.is_some() {
            return self.rank(&answer, encoded.as_ref(), layers.as_mut());
        }
        for row in 0..answer.rows.num_rows() {
            if rolled_up
                && let (Some(after), Some(groups)) = (&self.question.options.cursor, &encoded)
                && group(groups, row) <= after.as_slice()
            {
                continue;
            }
            if self.page.rows == self.question.limit() {
                self.full = true;
                break;
            }
            if self.page.rows > 0 {
                self.page.text.push(',');
            }
            let layers = encoded.as_ref().and_then(|groups| layers.as_mut()?.remove(group(groups, row)));
            self.write_row(&answer.rows, row, layers.as_ref());
            self.page.rows += 1;
            if self.page.text.len() > self.limits.answer_bytes {
                return Err(self.too_much(&format!("more than {} bytes", self.limits.answer_bytes)));
            }
            if self.page.rows == self.question.limit() {
                self.last = Some(answer.groups.slice(row, 1));
            }
        }
        Ok(())
    }

    /// Lets rows compete for the page.
    fn rank(
        &mut self,
        answer: &Answer,
        groups: Option<&EncodedStates>,
        mut layers: Option<&mut HashMap<Vec<u8>, LayersOfRow>>,
    ) -> Result<()> {
        let (Some(mut ordered), Some(groups)) = (self.ordered.take(), groups) else {
            return Err(Problem::new(Kind::Internal, "rows without an order were to be ordered"));
        };
        let columns: Vec<ArrayRef> =
            self.question.options.order.iter().map(|(column, _)| answer.rows.column(*column).clone()).collect();
        let keys = ordered.converter.convert_columns(&columns)?;
        let kept = self.question.limit() + 1;
        for row in 0..answer.rows.num_rows() {
            let mut place = keys.row(row).data().to_vec();
            place.extend_from_slice(group(groups, row));
            if self.question.options.cursor.as_ref().is_some_and(|after| place <= *after) {
                continue;
            }
            if ordered.best.len() == kept && ordered.best.peek().is_some_and(|worst| worst.place <= place) {
                continue;
            }
            let layers = layers.as_mut().and_then(|layers| layers.remove(group(groups, row)));
            let before = std::mem::take(&mut self.page.text);
            self.write_row(&answer.rows, row, layers.as_ref());
            let json = std::mem::replace(&mut self.page.text, before);
            ordered.bytes += json.len() + place.len();
            ordered.best.push(Place { place, json });
            if ordered.best.len() > kept
                && let Some(worst) = ordered.best.pop()
            {
                ordered.bytes -= worst.json.len() + worst.place.len();
            }
            if ordered.bytes > self.limits.answer_bytes {
                return Err(self.too_much(&format!("more than {} bytes", self.limits.answer_bytes)));
            }
        }
        self.ordered = Some(ordered);
        Ok(())
    }

    fn write_row(&mut self, rows: &RecordBatch, row: usize, layers: Option<&LayersOfRow>) {
        let options = &self.question.options;
        let hidden = if options.rollup == Some(Rollup::All) { self.view.tile_output } else { None };
        let out = &mut self.page.text;
        out.push('{');
        let before = out.len();
        self.view.writer.write_members(out, rows, row, options.big, |column| Some(column) == hidden);
        if options.explain {
            if out.len() > before {
                out.push(',');
            }
            out.push_str("\"layers\":");
            LayersOfRow::write(layers, out);
        }
        out.push('}');
    }

    /// The page.
    pub fn finish(mut self) -> Result<Page> {
        if self.question.options.rollup.is_some() {
            self.settle()?;
        }
        if self.scanned == 0 && self.question.options.cursor.is_none() {
            let values = self.fold.take_values_of_all()?;
            if values.num_rows() > 0 {
                self.present(&values)?;
            }
        }
        if let Some(ordered) = self.ordered.take() {
            let best = ordered.best.into_sorted_vec();
            let limit = self.question.limit();
            for (index, row) in best.iter().take(limit).enumerate() {
                if index > 0 {
                    self.page.text.push(',');
                }
                self.page.text.push_str(&row.json);
                self.page.rows += 1;
            }
            if best.len() > limit
                && let Some(last) = best.get(limit - 1)
            {
                self.page.cursor = Some(self.question.cursor(&self.view, &last.place));
            }
        } else if self.full
            && let Some(last) = &self.last
        {
            let groups = self.view.codec.encode_groups(last)?;
            self.page.cursor = Some(self.question.cursor(&self.view, group(&groups, 0)));
        }
        self.view.give_back(self.fold);
        Ok(self.page)
    }

    fn too_much(&self, what: &str) -> Problem {
        Problem::new(Kind::TooMuch, format!("the question takes {what}: narrow the range or ask for fewer rows"))
    }
}

/// An encoded group; empty for the one group of a view without group columns.
pub fn group(groups: &EncodedStates, row: usize) -> &[u8] {
    if row < groups.len() { groups.group(row) } else { &[] }
}

fn in_group_order(answer: &Answer, groups: &EncodedStates) -> Result<Answer> {
    if groups.is_empty() {
        return Ok(answer.clone());
    }
    let mut order: Vec<u32> = (0..u32::try_from(groups.len()).unwrap_or(u32::MAX)).collect();
    order.sort_unstable_by(|a, b| group(groups, *a as usize).cmp(group(groups, *b as usize)));
    let order = UInt32Array::from(order);
    Ok(Answer { rows: take_record_batch(&answer.rows, &order)?, groups: take_record_batch(&answer.groups, &order)? })
}

/// The larger tile each tile falls into; null where there is only one.
fn retiled(tiles: &ArrayRef, rollup: Rollup) -> Result<ArrayRef> {
    let Rollup::Width(width_us) = rollup else {
        return Ok(arrow::array::new_null_array(tiles.data_type(), tiles.len()));
    };
    fn floor<T: ArrowTimestampType>(tiles: &ArrayRef, width: i64) -> ArrayRef {
        let zone = match tiles.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let floored = tiles.as_primitive::<T>().unary::<_, T>(|tile| tile.div_euclid(width).wrapping_mul(width));
        Arc::new(floored.with_timezone_opt(zone))
    }
    let width = width_us.max(1);
    Ok(match tiles.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => floor::<TimestampSecondType>(tiles, (width / 1_000_000).max(1)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            floor::<TimestampMillisecondType>(tiles, (width / 1000).max(1))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => floor::<TimestampMicrosecondType>(tiles, width),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            floor::<TimestampNanosecondType>(tiles, width.saturating_mul(1000))
        }
        other => return Err(Problem::parameter("rollup", format!("the view's time column is {other}"))),
    })
}
