//! `explain=true`: what each layer contributed to a row.
//!
//! The states of each origin are folded apart and finalized alone: the same mechanism as the row itself, so that what is
//! shown is what was merged. Where `HAVING` refuses a layer's part alone, or the part alone cannot be evaluated, its values
//! are `null`; the row holds the whole.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use view_store::Origin;
use views::{Fold, Offset, SegmentId};

use crate::assembly::group;
use crate::error::Result;
use crate::json::{Big, write_string};
use crate::prepared::PreparedView;

/// The folds of each origin.
pub struct Layers {
    view: Arc<PreparedView>,
    generation: Option<u64>,
    /// `None` for the generation.
    origins: Vec<(Option<SegmentId>, Layer)>,
}

struct Layer {
    fold: Fold,
    /// For each encoded group, the next offset after the last record.
    through: HashMap<Vec<u8>, Offset>,
}

/// What each layer contributed to one row, as JSON.
#[derive(Debug, Default)]
pub struct LayersOfRow {
    batch: Option<String>,
    speed: Vec<(SegmentId, String)>,
}

impl Layers {
    /// Nothing folded yet.
    pub fn new(view: &Arc<PreparedView>, generation: Option<u64>) -> Self {
        Self { view: view.clone(), generation, origins: Vec::new() }
    }

    /// Folds states in, each into its origin.
    ///
    /// `groups`: the group values to merge under, row for row.
    pub fn take(&mut self, groups: &RecordBatch, states: &RecordBatch, origins: &[Origin]) -> Result<()> {
        let encoded = self.view.codec.encode_groups(groups)?;
        let mut rows_of: HashMap<usize, Vec<u32>> = HashMap::new();
        for (row, origin) in origins.iter().enumerate() {
            let (segment, through) = match origin {
                Origin::Batch => (None, 0),
                Origin::Speed { segment, through } => (Some(segment), *through),
            };
            let known = self.origins.iter().position(|(known, _)| known.as_ref() == segment);
            let index = match known {
                Some(index) => index,
                None => {
                    let layer = Layer { fold: self.view.fold()?, through: HashMap::new() };
                    self.origins.push((segment.cloned(), layer));
                    self.origins.len() - 1
                }
            };
            rows_of.entry(index).or_default().push(u32::try_from(row).unwrap_or(u32::MAX));
            let reached = self.origins[index].1.through.entry(group(&encoded, row).to_vec()).or_insert(0);
            *reached = (*reached).max(through);
        }
        for (index, rows) in rows_of {
            let rows = UInt32Array::from(rows);
            let groups = take_record_batch(groups, &rows)?;
            self.origins[index].1.fold.merge_as(groups.columns(), &take_record_batch(states, &rows)?)?;
        }
        Ok(())
    }

    /// What each layer gives for each group folded so far, by encoded group.
    pub fn settle(&mut self) -> Result<HashMap<Vec<u8>, LayersOfRow>> {
        let mut of_rows: HashMap<Vec<u8>, LayersOfRow> = HashMap::new();
        for (segment, mut layer) in std::mem::take(&mut self.origins) {
            let values = layer.fold.take_values()?;
            self.view.give_back(layer.fold);
            let mut shown = match self.view.view.finalize(&values) {
                Ok(answer) => self.shown(&answer)?,
                Err(_) => HashMap::new(),
            };
            for (group, through) in layer.through {
                let values = shown.remove(&group).unwrap_or_else(|| "null".to_owned());
                let row = of_rows.entry(group).or_default();
                match &segment {
                    None => row.batch = Some(self.batch(&values)),
                    Some(segment) => row.speed.push((segment.clone(), speed(segment, through, &values))),
                }
            }
        }
        for row in of_rows.values_mut() {
            row.speed.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        Ok(of_rows)
    }

    /// The columns that are not group columns, by encoded group.
    fn shown(&self, answer: &views::Answer) -> Result<HashMap<Vec<u8>, String>> {
        let groups = self.view.codec.encode_groups(&answer.groups)?;
        let mut shown = HashMap::new();
        for row in 0..answer.rows.num_rows() {
            let mut json = String::from("{");
            self.view
                .writer
                .write_members(&mut json, &answer.rows, row, Big::Number, |column| self.view.shows_group[column]);
            json.push('}');
            shown.insert(group(&groups, row).to_vec(), json);
        }
        Ok(shown)
    }

    fn batch(&self, values: &str) -> String {
        match self.generation {
            Some(generation) => format!("{{\"generation\":{generation},\"values\":{values}}}"),
            None => format!("{{\"generation\":null,\"values\":{values}}}"),
        }
    }
}

/// A delta. `through_offset` is the last offset it may hold: everything up to and including it is in.
fn speed(segment: &SegmentId, through: Offset, values: &str) -> String {
    let mut json = String::from("{\"topic\":");
    write_string(&mut json, &segment.partition.topic);
    let _ = write!(
        json,
        ",\"partition\":{},\"segment\":{},\"through_offset\":{},\"values\":{values}}}",
        segment.partition.partition,
        segment.start,
        through.saturating_sub(1)
    );
    json
}

impl LayersOfRow {
    /// Writes a row's layers.
    pub fn write(layers: Option<&Self>, out: &mut String) {
        out.push_str("{\"batch\":");
        out.push_str(layers.and_then(|layers| layers.batch.as_deref()).unwrap_or("null"));
        out.push_str(",\"speed\":[");
        for (index, (_, json)) in layers.iter().flat_map(|layers| &layers.speed).enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(json);
        }
        out.push_str("]}");
    }
}
