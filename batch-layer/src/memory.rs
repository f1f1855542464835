//! How the memory of a run is shared out.
//!
//! Operators that can spill (or hand on what they have) take as much as they are given. Merging what was spilled cannot give
//! way, needs memory only later, and then takes as much as it is given, too. In DataFusion's own pools whoever comes late
//! finds nothing left and the query fails. Here each kind has its part, and within a part each operator has its share,
//! from the beginning: operators register before the first of them runs.

use std::collections::HashMap;
use std::fmt;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

/// Two fifths for operators that can give way, three fifths for merging; each in equal shares.
///
/// A sort that has filled its share sorts what it holds and merges that into a spill file. DataFusion counts the
/// chunks again while it does so, and their keys in another form, as memory for merging: that share must be the larger one.
#[derive(Debug)]
pub(crate) struct RunMemory {
    bytes: usize,
    yielding: Part,
    merging: Part,
}

#[derive(Debug)]
struct Part {
    bytes: usize,
    /// What each operator holds.
    held: Mutex<HashMap<usize, usize>>,
}

impl RunMemory {
    pub(crate) fn new(bytes: usize) -> Self {
        let part = |bytes| Part { bytes, held: Mutex::default() };
        Self { bytes, yielding: part(bytes / 5 * 2), merging: part(bytes / 5 * 3) }
    }

    fn part(&self, consumer: &MemoryConsumer) -> &Part {
        if consumer.can_spill() { &self.yielding } else { &self.merging }
    }
}

/// How much a sort sets aside for merging from the start. Small beside its share: the rest comes when it merges.
pub(crate) fn set_aside(bytes: usize, partitions: usize) -> usize {
    bytes / (32 * partitions.max(1))
}

impl fmt::Display for RunMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run(used: {} B, pool_size: {} B)", self.reserved(), self.bytes)
    }
}

impl MemoryPool for RunMemory {
    fn name(&self) -> &str {
        "run"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.part(consumer).held.lock().insert(consumer.id(), 0);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.part(consumer).held.lock().remove(&consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let consumer = reservation.consumer();
        *self.part(consumer).held.lock().entry(consumer.id()).or_default() += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let consumer = reservation.consumer();
        if let Some(held) = self.part(consumer).held.lock().get_mut(&consumer.id()) {
            *held = held.saturating_sub(shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        let part = self.part(consumer);
        let mut held = part.held.lock();
        let share = part.bytes / held.len().max(1);
        let own = held.entry(consumer.id()).or_default();
        if *own + additional > share {
            let name = consumer.name();
            let message = format!("{name} holds {own} bytes, needs {additional} more, and its share is {share}");
            return Err(DataFusionError::ResourcesExhausted(message));
        }
        *own += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        let held = |part: &Part| part.held.lock().values().sum::<usize>();
        held(&self.yielding) + held(&self.merging)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}
