//! Rows as they were stored, handed out as states, a chunk at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::Stream;
use futures::stream;
use views::{SegmentId, TopicPartition};

use super::deltas::damaged;
use super::read::Stored;
use super::view_table::ViewTable;
use crate::embedded::bytes;
use crate::error::Result;
use crate::store::{Origin, StateRows};
use crate::tiles::Tiles;

/// A chunk ends with the group that reaches one of these.
const CHUNK_ROWS: usize = 4096;
const CHUNK_BYTES: usize = 8 << 20;

/// The chunks of rows that are in order.
pub fn chunks(
    table: Arc<ViewTable>,
    tiles: Option<Arc<Tiles>>,
    rows: Vec<Stored>,
) -> impl Stream<Item = Result<StateRows>> + Send + 'static {
    stream::unfold(Some(VecDeque::from(rows)), move |rows| {
        let (table, tiles) = (table.clone(), tiles.clone());
        async move {
            let mut rows = rows?;
            while !rows.is_empty() {
                match chunk(&table, tiles.as_deref(), &mut rows) {
                    Ok(chunk) if chunk.origins.is_empty() => {}
                    Ok(chunk) => return Some((Ok(chunk), Some(rows))),
                    Err(error) => return Some((Err(error), None)),
                }
            }
            None
        }
    })
}

fn chunk(table: &ViewTable, tiles: Option<&Tiles>, rows: &mut VecDeque<Stored>) -> Result<StateRows> {
    let mut opened: Vec<(Stored, Vec<u8>)> = Vec::new();
    let mut origins = Vec::new();
    let mut size = 0;
    while let Some(row) = rows.front() {
        let is_full = opened.len() >= CHUNK_ROWS || size >= CHUNK_BYTES;
        if is_full && opened.last().is_some_and(|(last, _)| last.group != row.group) {
            break;
        }
        let Some(row) = rows.pop_front() else { break };
        let (state, origin) = open(table, &row)?;
        size += row.group.len() + state.len();
        opened.push((row, state));
        origins.push(origin);
    }
    let states = table.codec.decode(opened.iter().map(|(row, state)| (&*row.group, state.as_slice())))?;
    let rows = StateRows { states, origins };
    match tiles {
        Some(tiles) => tiles.keep(rows),
        None => Ok(rows),
    }
}

/// A row's state, checked, and where it came from.
fn open(table: &ViewTable, row: &Stored) -> Result<(Vec<u8>, Origin)> {
    let of_row = |error| damaged(&table.view, &row.group, &error);
    let Some(delta) = &row.delta else {
        let key = bytes::group_key(&row.group)?;
        return Ok((bytes::open(&key, &row.state).map_err(of_row)?.into_owned(), Origin::Batch));
    };
    let key = bytes::delta_key(&row.group, delta.partition, delta.start)?;
    let body = bytes::open(&key, &row.state).map_err(of_row)?;
    let (reaches, state) = bytes::split_delta(&body).map_err(of_row)?;
    if reaches != delta.through {
        return Err(damaged(&table.view, &row.group, "its state reaches elsewhere than it says"));
    }
    let partition = TopicPartition::new(table.view.source.name.clone(), delta.partition);
    let origin = Origin::Speed { segment: SegmentId { partition, start: delta.start }, through: delta.through };
    Ok((body[state].to_vec(), origin))
}
