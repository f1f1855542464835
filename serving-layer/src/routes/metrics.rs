//! `/metrics`: for Prometheus.

use actix_web::HttpResponse;

use super::Shared;
use super::status::Snapshot;
use crate::error::Result;
use crate::ports::RunState;

/// Takes the gauges, then writes everything.
pub async fn text(serving: Shared) -> Result<HttpResponse> {
    let metrics = &serving.metrics;
    metrics.uptime.set(serving.started.elapsed().as_secs_f64());
    // What cannot be asked just now leaves its gauges as they were: the counters must stay readable.
    if let Ok(snapshot) = Snapshot::take(&serving).await {
        metrics.generation.set(gauge(snapshot.generation.unwrap_or(0)));
        for partition in &snapshot.partitions {
            let number = partition.partition.partition.to_string();
            let labels = [&*partition.partition.topic, number.as_str()];
            metrics.log_end.with_label_values(&labels).set(gauge(partition.end));
            if let Some(position) = partition.position {
                metrics.speed_position.with_label_values(&labels).set(gauge(position));
                metrics.speed_lag.with_label_values(&labels).set(gauge(partition.end.saturating_sub(position)));
            }
        }
        for view in &snapshot.views {
            if let Some(freshness) = view.freshness {
                metrics.freshness.with_label_values(&[&view.name]).set(freshness.as_secs_f64());
            }
            metrics.view_failed.with_label_values(&[&view.name]).set(i64::from(view.failed.is_some()));
        }
    }
    let runs = serving.parts.batch.runs().await;
    let states = [
        (RunState::Running, "running"),
        (RunState::Published, "published"),
        (RunState::Superseded, "superseded"),
        (RunState::NothingNew, "nothing_new"),
        (RunState::Failed, "failed"),
    ];
    for (state, label) in states {
        let count = runs.iter().filter(|run| run.state == state).count() as u64;
        metrics.batch_runs.with_label_values(&[label]).set(gauge(count));
    }
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(metrics.text()?))
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
