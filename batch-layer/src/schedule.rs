//! The in-process timer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::error::BatchError;
use crate::progress::RunProgress;
use crate::run::BatchLayer;

/// Runs the batch layer again and again. Dropping it stops it at once, which is as harmless as any death of a run.
pub struct BatchTimer {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl BatchTimer {
    /// Starts a run every `every`, the first one after that long. A run that takes longer than that delays the next one;
    /// missed times do not pile up. What becomes of the runs is in [`BatchLayer::history`].
    pub fn start(layer: Arc<BatchLayer>, every: Duration, progress: Arc<dyn RunProgress>) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut times = interval_at(Instant::now() + every, every);
            times.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    biased;
                    _ = stopped.wait_for(|stop| *stop) => return,
                    _ = times.tick() => {}
                }
                match layer.run(false, progress.as_ref()).await {
                    Ok(report) => {
                        tracing::info!(generation = report.generation, outcome = ?report.outcome, "batch run")
                    }
                    Err(BatchError::Busy) => tracing::debug!("a batch run is under way already"),
                    Err(error) => tracing::error!(%error, "the batch run failed; the visible generation stays"),
                }
            }
        });
        Self { stop, task }
    }

    /// Starts no further run and waits up to `grace` for the one under way, which is then dropped: it is simply run again later.
    pub async fn stop(mut self, grace: Duration) {
        let _ = self.stop.send(true);
        if tokio::time::timeout(grace, &mut self.task).await.is_err() {
            tracing::info!("dropping the batch run under way");
            self.task.abort();
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for BatchTimer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
