//! How much is measured: enough for the table, or as little as shows that everything runs.

use std::time::Duration;

use integration_tests::world::number;

/// How much.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Events in the log that the speed layer folds.
    pub speed_events: u64,
    /// Events in the archive that batch runs read.
    pub batch_events: u64,
    /// Events behind the lookups: three quarters in the generation, the rest in deltas.
    pub lookup_events: u64,
    /// Events that go in while memory is watched.
    pub memory_events: u64,
    /// Events of a key each that go from Kafka to CQL.
    pub write_rows: u64,
    /// Events whose bytes in Kafka are counted.
    pub disk_events: u64,
    /// Events that other systems count too: enough that what starts slowly is fast most of the time.
    pub others_events: u64,
    /// Events that a process is behind when it starts.
    pub behind_events: u64,
    /// How often each side has its turn.
    pub turns: usize,
    /// How long a turn of lookups takes.
    pub lookup_turn: Duration,
    /// How long freshness is watched at each rate.
    pub freshness: Duration,
}

impl Scale {
    /// What `./dev bench` measures.
    pub fn full() -> Self {
        Self {
            speed_events: 2_000_000,
            batch_events: 4_000_000,
            lookup_events: 400_000,
            memory_events: number("TIDEMARK_BENCH_EVENTS", 10_000_000),
            write_rows: 100_000,
            disk_events: 1_000_000,
            others_events: 8_000_000,
            behind_events: 1_000_000,
            turns: 5,
            lookup_turn: Duration::from_secs(3),
            freshness: Duration::from_secs(30),
        }
    }

    /// `./dev bench quick`.
    pub fn quick() -> Self {
        Self {
            speed_events: 500_000,
            batch_events: 800_000,
            lookup_events: 80_000,
            memory_events: number("TIDEMARK_BENCH_EVENTS", 300_000),
            write_rows: 30_000,
            disk_events: 200_000,
            others_events: 1_000_000,
            behind_events: 200_000,
            turns: 3,
            lookup_turn: Duration::from_secs(1),
            freshness: Duration::from_secs(6),
        }
    }
}
