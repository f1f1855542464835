//! Events that cannot be decoded, in segments that no generation covered before: into the dead letters, before the generation
//! is published that covers them.
//!
//! A published frontier lets the speed layer jump over what lies before it, so nobody else may ever look at these (see
//! `event_log::dead_letter`). Most of them are there already, put there by the speed layer: those are not put there again.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_log::archive::{Archive, ArchivedSegment};
use event_log::dead_letter::{DeadLetters, Undecodable};
use event_log::decode::EventDecoder;
use event_log::error::{LogError, Result};
use event_log::registry::SchemaRegistry;
use event_log::{Content, Record};
use views::{Offset, Source};

/// How many records are decoded at once.
const RECORDS: usize = 4096;

/// What is needed to look at segments.
pub(crate) struct Undecoded<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) registry: &'a Arc<dyn SchemaRegistry>,
    pub(crate) letters: DeadLetters,
}

impl Undecoded<'_> {
    /// Puts what cannot be decoded in these segments of a source there. Returns how many were not there yet.
    pub(crate) async fn report(&self, source: &Arc<Source>, segments: &[ArchivedSegment]) -> Result<u64> {
        if segments.is_empty() {
            return Ok(0);
        }
        let mut known = Known::of(segments);
        self.letters.places(&source.name, |partition, offset| known.set(partition, offset)).await?;
        let offset = source.schema.index_of("_offset");
        let offset = offset.map_err(|error| LogError::Invalid(format!("source {}: {error}", source.name)))?;
        let mut decoder = EventDecoder::new(source, &[offset], self.registry.clone())?;
        let mut put = 0;
        for segment in segments {
            let mut records = self.archive.open(segment).await?.records(segment.start)?;
            loop {
                let chunk = records.by_ref().take(RECORDS).collect::<Result<Vec<Record>>>()?;
                if chunk.is_empty() {
                    break;
                }
                let rejected = decoder.decode(&segment.partition, &chunk).await?.rejected;
                let new = rejected.into_iter().filter(|(offset, _)| !known.has(segment.partition.partition, *offset));
                let letters: Vec<Undecodable> =
                    new.filter_map(|(offset, reason)| letter(&chunk, offset, reason)).collect();
                put += letters.len() as u64;
                self.letters.put(&segment.partition, letters).await?;
                tokio::task::yield_now().await;
            }
        }
        Ok(put)
    }
}

fn letter(records: &[Record], offset: Offset, reason: String) -> Option<Undecodable> {
    let at = records.binary_search_by_key(&offset, |record| record.offset).ok()?;
    match &records[at].content {
        Content::Event { value, .. } => Some(Undecodable { offset, reason, original: value.clone() }),
        Content::Marker(_) => None,
    }
}

/// Which records of some segments are in the dead letters: a bit for each record, by partition and the segment's start.
struct Known(BTreeMap<(u32, Offset), Vec<u64>>);

impl Known {
    fn of(segments: &[ArchivedSegment]) -> Self {
        let bits = |segment: &ArchivedSegment| {
            let words = (segment.end - segment.start).div_ceil(64);
            ((segment.partition.partition, segment.start), vec![0; usize::try_from(words).unwrap_or(usize::MAX)])
        };
        Self(segments.iter().map(bits).collect())
    }

    fn set(&mut self, partition: u32, offset: Offset) {
        if let Some(((_, start), bits)) = self.0.range_mut((partition, 0)..=(partition, offset)).next_back()
            && let Some(word) = bits.get_mut(((offset - start) / 64) as usize)
        {
            *word |= 1 << ((offset - start) % 64);
        }
    }

    fn has(&self, partition: u32, offset: Offset) -> bool {
        let segment = self.0.range((partition, 0)..=(partition, offset)).next_back();
        segment.is_some_and(|((_, start), bits)| {
            let place = offset - start;
            bits.get((place / 64) as usize).is_some_and(|word| word >> (place % 64) & 1 == 1)
        })
    }
}
