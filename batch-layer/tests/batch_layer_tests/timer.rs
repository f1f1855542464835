//! The timer.

use std::sync::Arc;
use std::time::Duration;

use batch_layer::{BatchTimer, NoProgress, Outcome};

use crate::system::{CLICKS, Gate, System, VIEWS, seeded, soon};

#[tokio::test]
async fn it_runs_again_and_again_until_it_is_stopped() {
    let mut chance = seeded("it_runs_again_and_again_until_it_is_stopped");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let layer = Arc::new(system.layer());
    let timer = BatchTimer::start(layer.clone(), Duration::from_millis(1), Arc::new(NoProgress));
    for generation in 1..=3 {
        system.append_clicks(&mut chance, 20).await;
        let published = async {
            loop {
                let history = layer.history();
                let reports = history.iter().filter_map(|run| run.report.as_ref());
                if reports.filter(|report| report.outcome == Outcome::Published).count() >= generation {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        soon(published).await;
    }
    soon(timer.stop(Duration::from_secs(60))).await;
    let (runs, running) = (layer.history().len(), layer.current());
    assert_eq!(running, None);
    assert!(runs >= 3);
    system.assert_exact("by the timer").await;
}

#[tokio::test]
async fn stopping_waits_no_longer_than_it_may() {
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let gate = Gate::new(&system);
    let layer = Arc::new(system.layer_sealed_by(gate.clone()));
    let timer = BatchTimer::start(layer.clone(), Duration::from_millis(1), Arc::new(NoProgress));
    soon(gate.reached.notified()).await;
    soon(timer.stop(Duration::from_millis(1))).await;
    assert!(layer.history().is_empty(), "the run was dropped");
    gate.open.send_replace(true);
    soon(layer.run(false, &NoProgress)).await.expect("nothing of it is left");
}
