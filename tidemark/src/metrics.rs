//! What the other layers count, put beside what the serving layer says of itself on `/metrics`.
//!
//! The layers count for themselves and know nothing of Prometheus; here their numbers are read when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use event_log::archiver::Archiver;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};
use speed_layer::{Counters, SpeedLayer};
use view_store::embedded::EmbeddedStore;

use crate::failure::{Context as _, Result};

/// Registers the numbers of the layers that this process runs. They hold no layer back from stopping.
///
/// # Errors
///
/// When a name is taken.
pub fn register(
    registry: &Registry,
    speed: Option<&Arc<SpeedLayer>>,
    archiver: Option<&Arc<Archiver>>,
    store: Option<EmbeddedStore>,
) -> Result {
    let mut collectors: Vec<Box<dyn Collector>> = Vec::new();
    if let Some(speed) = speed {
        collectors.push(Box::new(SpeedNumbers::new(Arc::downgrade(speed)).context("metrics")?));
    }
    if let Some(archiver) = archiver {
        collectors.push(Box::new(ArchiverNumbers::new(Arc::downgrade(archiver)).context("metrics")?));
    }
    if let Some(store) = store {
        collectors.push(Box::new(StoreNumbers::new(store).context("metrics")?));
    }
    collectors.into_iter().try_for_each(|numbers| registry.register(numbers)).context("metrics")
}

type Field = fn(&Counters) -> &AtomicU64;

struct SpeedNumbers {
    speed: Weak<SpeedLayer>,
    counters: Vec<(Field, IntCounter)>,
}

impl SpeedNumbers {
    fn new(speed: Weak<SpeedLayer>) -> prometheus::Result<Self> {
        let fields: [(Field, &str, &str); 8] = [
            (|c| &c.records, "records", "Records the speed layer read, repeats after failures included."),
            (|c| &c.events, "events", "Events the speed layer folded."),
            (|c| &c.duplicates, "duplicates", "Events that counted nowhere because their id was there before."),
            (|c| &c.rejected, "rejected", "Events in the log that could not be decoded."),
            (|c| &c.writes, "writes", "Writes of deltas."),
            (|c| &c.states, "states", "States written."),
            (|c| &c.conflicts, "conflicts", "Writes that found a view elsewhere than expected."),
            (|c| &c.failures, "failures", "Failures after which a task started again."),
        ];
        let counter = |(field, name, help): (Field, &str, &str)| {
            Ok((field, IntCounter::new(format!("tidemark_speed_{name}_total"), help)?))
        };
        Ok(Self { speed, counters: fields.into_iter().map(counter).collect::<prometheus::Result<_>>()? })
    }
}

impl Collector for SpeedNumbers {
    fn desc(&self) -> Vec<&Desc> {
        self.counters.iter().flat_map(|(_, counter)| counter.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(speed) = self.speed.upgrade() else { return Vec::new() };
        let counters = self.counters.iter().flat_map(|(field, counter)| {
            let total = field(speed.counters()).load(Ordering::Relaxed);
            // Only ever moved forward: a scrape at the same time may have been here before.
            counter.inc_by(total.saturating_sub(counter.get()));
            counter.collect()
        });
        counters.collect()
    }
}

struct ArchiverNumbers {
    archiver: Weak<Archiver>,
    sealed: IntGaugeVec,
    stopped: IntGaugeVec,
}

impl ArchiverNumbers {
    fn new(archiver: Weak<Archiver>) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["topic", "partition"]);
        Ok(Self {
            archiver,
            sealed: gauge("tidemark_archived_offset", "Everything before this offset is archived.")?,
            stopped: gauge("tidemark_archiver_stopped", "1 when the archiver needs a person: the log says why.")?,
        })
    }
}

impl Collector for ArchiverNumbers {
    fn desc(&self) -> Vec<&Desc> {
        self.sealed.desc().into_iter().chain(self.stopped.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(archiver) = self.archiver.upgrade() else { return Vec::new() };
        for (partition, progress) in archiver.progress() {
            let labels = [&*partition.topic, &partition.partition.to_string()];
            self.sealed.with_label_values(&labels).set(i64::try_from(progress.sealed).unwrap_or(i64::MAX));
            self.stopped.with_label_values(&labels).set(progress.ended.is_some().into());
        }
        self.sealed.collect().into_iter().chain(self.stopped.collect()).collect()
    }
}

struct StoreNumbers {
    store: EmbeddedStore,
    disk: IntGauge,
    buffered: IntGauge,
    rows: IntGaugeVec,
}

impl StoreNumbers {
    fn new(store: EmbeddedStore) -> prometheus::Result<Self> {
        let rows =
            Opts::new("tidemark_store_rows", "Rows of a view: of the visible generation, and of deltas (about).");
        Ok(Self {
            store,
            disk: IntGauge::new("tidemark_store_disk_bytes", "What the view store takes on disk.")?,
            buffered: IntGauge::new("tidemark_store_buffered_bytes", "Deltas in memory.")?,
            rows: IntGaugeVec::new(rows, &["view", "layer"])?,
        })
    }
}

impl Collector for StoreNumbers {
    fn desc(&self) -> Vec<&Desc> {
        [self.disk.desc(), self.buffered.desc(), self.rows.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let numbers = self.store.numbers();
        self.disk.set(count(numbers.disk_bytes));
        self.buffered.set(count(numbers.write_buffer_bytes));
        // Views come and go with their definitions.
        self.rows.reset();
        for view in &numbers.views {
            self.rows.with_label_values(&[&*view.name, "batch"]).add(count(view.generation_rows));
            self.rows.with_label_values(&[&*view.name, "speed"]).add(count(view.delta_rows));
        }
        [self.disk.collect(), self.buffered.collect(), self.rows.collect()].concat()
    }
}
