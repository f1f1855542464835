//! What Prometheus sees. Counters are counted where things happen; gauges are taken from the status when somebody scrapes.

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::error::{Kind, Problem, Result};

/// From a hot lookup in memory to one that waited for a position.
const LATENCY_BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Every metric of the serving layer.
pub struct Metrics {
    registry: Registry,
    /// Events that are durable, by topic.
    pub events_accepted: IntCounterVec,
    /// Events that went to the dead letters, by topic.
    pub events_rejected: IntCounterVec,
    /// Requests, by method, route and status.
    pub http_requests: IntCounterVec,
    lookups: IntCounterVec,
    lookup_seconds: HistogramVec,
    /// The next offset to be written, by topic and partition.
    pub log_end: IntGaugeVec,
    /// The next offset to be folded, by topic and partition.
    pub speed_position: IntGaugeVec,
    /// Records not folded yet, by topic and partition.
    pub speed_lag: IntGaugeVec,
    /// How far answers of a view lag the log.
    pub freshness: GaugeVec,
    /// Whether the speed layer gave up on a view.
    pub view_failed: IntGaugeVec,
    /// The visible generation.
    pub generation: IntGauge,
    /// Batch runs this process knows of, by state.
    pub batch_runs: IntGaugeVec,
    /// Seconds since the server started.
    pub uptime: Gauge,
}

/// The counters of one view, looked up once.
#[derive(Debug, Clone)]
pub struct LookupMetrics {
    answered: IntCounter,
    refused: IntCounter,
    unavailable: IntCounter,
    failed: IntCounter,
    seconds: Histogram,
}

impl LookupMetrics {
    /// Counts one lookup.
    pub fn count<T>(&self, result: &Result<T>, seconds: f64) {
        self.seconds.observe(seconds);
        let counter = match result {
            Ok(_) => &self.answered,
            Err(problem) => match problem.kind() {
                Kind::Internal => &self.failed,
                Kind::Unavailable | Kind::Stale | Kind::PositionNotReached => &self.unavailable,
                _ => &self.refused,
            },
        };
        counter.inc();
    }
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    ///
    /// When the registry has one of that name already.
    pub fn new(registry: Registry) -> prometheus::Result<Self> {
        let r = &registry;
        Ok(Self {
            events_accepted: counters(r, "events_accepted_total", "Events that are durable in the log.", &["topic"])?,
            events_rejected: counters(r, "events_rejected_total", "Events that went to the dead letters.", &["topic"])?,
            http_requests: counters(r, "http_requests_total", "HTTP requests.", &["method", "route", "status"])?,
            lookups: counters(r, "lookups_total", "Lookups.", &["view", "outcome"])?,
            lookup_seconds: registered(
                r,
                HistogramVec::new(
                    HistogramOpts::new("tidemark_lookup_duration_seconds", "How long lookups take.")
                        .buckets(LATENCY_BUCKETS.to_vec()),
                    &["view"],
                )?,
            )?,
            log_end: gauges(r, "log_end_offset", "The next offset to be written.", &["topic", "partition"])?,
            speed_position: gauges(
                r,
                "speed_position_offset",
                "The next offset to be folded.",
                &["topic", "partition"],
            )?,
            speed_lag: gauges(r, "speed_lag_records", "Records not folded yet.", &["topic", "partition"])?,
            freshness: registered(
                r,
                GaugeVec::new(Opts::new("tidemark_view_freshness_seconds", "How far answers lag the log."), &["view"])?,
            )?,
            view_failed: gauges(r, "view_failed", "1 when the speed layer gave up on the view.", &["view"])?,
            generation: registered(r, IntGauge::new("tidemark_generation", "The visible generation.")?)?,
            batch_runs: gauges(r, "batch_runs", "Batch runs this process knows of.", &["state"])?,
            uptime: registered(r, Gauge::new("tidemark_uptime_seconds", "Seconds since the server started.")?)?,
            registry,
        })
    }

    /// The counters of one view.
    pub fn lookup(&self, view: &str) -> LookupMetrics {
        let outcome = |outcome| self.lookups.with_label_values(&[view, outcome]);
        LookupMetrics {
            answered: outcome("answered"),
            refused: outcome("refused"),
            unavailable: outcome("unavailable"),
            failed: outcome("failed"),
            seconds: self.lookup_seconds.with_label_values(&[view]),
        }
    }

    /// The text Prometheus reads.
    pub fn text(&self) -> Result<String> {
        let mut text = Vec::new();
        let broken = |error: String| Problem::new(Kind::Internal, error);
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(|error| broken(error.to_string()))?;
        String::from_utf8(text).map_err(|error| broken(error.to_string()))
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    registered(registry, IntCounterVec::new(Opts::new(format!("tidemark_{name}"), help), labels)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    registered(registry, IntGaugeVec::new(Opts::new(format!("tidemark_{name}"), help), labels)?)
}
