//! Reading the states to continue from.
//!
//! The deltas of a group lie side by side, those of all partitions. When a process comes back, each of its tasks wants the states of
//! much the same groups, in a partition of its own; so the first that asks reads them for the others too. They are put with what
//! this handle wrote itself ([`super::written`]), where the others find them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::future::try_join_all;
use scylla::value::CqlValue;
use views::stored::EncodedStates;
use views::{Offset, TopicPartition, View};

use super::deltas::{damaged, log_partition};
use super::layout::group_columns;
use super::view_table::ViewTable;
use super::written::Prior;
use super::{Inner, signed, unreadable, unsigned};
use crate::embedded::bytes;
use crate::error::{Result, StoreError};
use crate::store::{Beside, Priors, Progress};

/// Of how many partitions one read brings states at most.
const MOST_PLACES: usize = 64;
/// So many groups are read first, to see whether other partitions have them at all: where the key chooses the partition they do not.
const SAMPLE: usize = 32;

/// The groups whose states are read.
struct Wanted<'a> {
    table: &'a ViewTable,
    groups: EncodedStates,
    keys: Vec<Vec<CqlValue>>,
    buckets: Vec<i64>,
}

/// What is stored of a group.
struct Found {
    row: usize,
    of: Beside,
    state: Option<(Offset, Vec<u8>)>,
}

impl Inner {
    /// See [`crate::ViewStore::deltas`].
    pub async fn deltas(
        &self,
        view: &Arc<View>,
        partition: &TopicPartition,
        at: Progress,
        groups: &RecordBatch,
        beside: &[Beside],
    ) -> Result<Priors> {
        let mut boundary = match self.boundaries.last() {
            Some(last) => last,
            None => self.fresh_boundary().await?,
        };
        if boundary.known.table(view).is_none() {
            boundary = self.fresh_boundary().await?;
        }
        let Some(table) = boundary.known.table(view) else {
            return Err(StoreError::unavailable(
                format!("reading deltas of view `{}`", view.name),
                format!("it is not at {} but at the start: it was let go of", at.offset),
            ));
        };
        let table = self.view_table(view, table).await?;
        let wanted = Wanted::new(&table, groups)?;
        let own = Beside { partition: partition.partition, at };
        // Where a segment begins there are none.
        let has_some = |of: &&Beside| of.partition != own.partition && of.at.segment.start < of.at.offset;
        let others: Vec<Beside> = beside.iter().filter(has_some).take(MOST_PLACES - 1).copied().collect();
        // Who waits here finds what the one before has read for it.
        let _turn = if others.is_empty() { None } else { Some(self.reading_beside.lock().await) };
        let rows = 0..wanted.groups.len();
        let known = rows.clone().map(|row| wanted.groups.group(row));
        let known = self.written.lock().priors(&table.name, own.partition, at, known);
        let missing: Vec<usize> = rows.filter(|row| known[*row] == Prior::Unknown).collect();
        let mut found = self.read_beside(&wanted, &missing, own, &others).await?;
        for (row, prior) in known.into_iter().enumerate() {
            if let Prior::State(through, state) = prior {
                found.push((row, through, state.into_vec()));
            }
        }
        found.sort_by_key(|(row, _, _)| *row);
        let states = found.iter().map(|(row, _, state)| (wanted.groups.group(*row), state.as_slice()));
        let states = table.codec.decode(states)?;
        Ok(Priors { states, through: found.into_iter().map(|(_, through, _)| through).collect() })
    }

    /// Reads states of some rows' groups, and keeps what it finds of others than its own.
    async fn read_beside(
        &self,
        wanted: &Wanted<'_>,
        rows: &[usize],
        own: Beside,
        others: &[Beside],
    ) -> Result<Vec<(usize, Offset, Vec<u8>)>> {
        let (sample, rest) = rows.split_at(if others.is_empty() { 0 } else { rows.len().min(SAMPLE) });
        let mut found = self.read_priors(wanted, sample, own, others).await?;
        let are_there = found.iter().any(|found| found.of != own && found.state.is_some());
        found.append(&mut self.read_priors(wanted, rest, own, if are_there { others } else { &[] }).await?);
        let mut of_own = Vec::with_capacity(rows.len());
        let mut of_others: BTreeMap<u32, (Progress, Vec<Found>)> = BTreeMap::new();
        for found in found {
            match found {
                Found { row, of, state } if of == own => {
                    of_own.extend(state.map(|(through, state)| (row, through, state)))
                }
                // Past where the task stands: it must see that for itself, when it is there.
                Found { of, state: Some((through, _)), .. } if through > of.at.offset => {}
                found => of_others.entry(found.of.partition).or_insert((found.of.at, Vec::new())).1.push(found),
            }
        }
        let mut written = self.written.lock();
        for (partition, (at, found)) in of_others {
            let states = found.iter().map(|found| (wanted.groups.group(found.row), found.state.as_ref()));
            written.learn(&wanted.table.name, partition, at, states);
        }
        Ok(of_own)
    }

    /// Reads what is stored of some rows' groups: in `own`, and in those of the others of which it is not known.
    async fn read_priors(
        &self,
        wanted: &Wanted<'_>,
        rows: &[usize],
        own: Beside,
        others: &[Beside],
    ) -> Result<Vec<Found>> {
        let places: Vec<Vec<Beside>> = {
            let written = self.written.lock();
            let lacks = |group: &[u8], of: &Beside| written.lacks(&wanted.table.name, of.partition, of.at, group);
            let of_row = |row: &usize| {
                let group = wanted.groups.group(*row);
                std::iter::once(own).chain(others.iter().copied().filter(|of| lacks(group, of))).collect()
            };
            rows.iter().map(of_row).collect()
        };
        let reads = rows.iter().zip(places).map(|(row, places)| self.read_group(wanted, *row, places));
        Ok(try_join_all(reads).await?.into_iter().flatten().collect())
    }

    async fn read_group(&self, wanted: &Wanted<'_>, row: usize, places: Vec<Beside>) -> Result<Vec<Found>> {
        let Wanted { table, groups, keys, buckets } = wanted;
        let context = format!("reading deltas of view `{}`", table.view.name);
        let group = groups.group(row);
        let mut values = keys[row].clone();
        values.push(CqlValue::BigInt(buckets[row]));
        let mut tuples = Vec::with_capacity(places.len());
        for of in &places {
            let (partition, start) = (log_partition(of.partition)?, signed(of.at.segment.start)?);
            let one = [
                CqlValue::Blob(group.to_vec()),
                CqlValue::BigInt(0),
                CqlValue::Int(partition),
                CqlValue::BigInt(start),
            ];
            tuples.push(CqlValue::Tuple(one.into_iter().map(Some).collect()));
        }
        values.push(CqlValue::List(tuples));
        let _permit = self.permit().await?;
        let stored = self.rows(&context, &table.select_deltas, values).await?;
        let mut found: Vec<Found> = places.into_iter().map(|of| Found { row, of, state: None }).collect();
        type Row<'r> = (i32, i64, Option<i64>, Option<i64>, Option<&'r [u8]>);
        for stored in stored.rows::<Row<'_>>().map_err(|error| unreadable(&context, error))? {
            let (partition, start, marker, through, sealed) = stored.map_err(|error| unreadable(&context, error))?;
            let (Some(marker), Some(through), Some(sealed)) = (marker, through, sealed) else { continue };
            let (start, marker) = (unsigned(&context, start)?, unsigned(&context, marker)?);
            let is_it = |found: &&mut Found| {
                let segment = found.of.at.segment;
                i64::from(found.of.partition) == i64::from(partition)
                    && (segment.start, segment.marker) == (start, marker)
            };
            let Some(found) = found.iter_mut().find(is_it) else { continue };
            let key = bytes::delta_key(group, found.of.partition, start)?;
            let body = bytes::open(&key, sealed).map_err(|error| damaged(&table.view, group, &error))?;
            let (reaches, state) = bytes::split_delta(&body)?;
            if reaches != unsigned(&context, through)? {
                return Err(damaged(&table.view, group, "it reaches elsewhere than it says"));
            }
            found.state = Some((reaches, body[state].to_vec()));
        }
        Ok(found)
    }
}

impl<'a> Wanted<'a> {
    fn new(table: &'a ViewTable, groups: &RecordBatch) -> Result<Self> {
        let (keys, _) = group_columns(&table.view, groups.columns());
        Ok(Self {
            table,
            keys: table.layout.keys(keys, groups.num_rows())?,
            buckets: table.layout.buckets(groups.columns(), groups.num_rows())?,
            groups: table.codec.encode_groups(groups)?,
        })
    }
}
