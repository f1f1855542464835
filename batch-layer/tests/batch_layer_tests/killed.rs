//! A run that dies anywhere is simply run again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use batch_layer::{NoProgress, Phase, Progress, RunProgress};
use futures::FutureExt;
use parking_lot::Mutex;
use view_store::ViewStore;

use crate::system::{CLICKS, System, VIEWS, seeded, soon};

/// Dies at the n-th boundary of a run. Boundaries are where a step begins or ends, not the ticks in between.
pub struct Killer {
    left: Mutex<usize>,
    /// Boundaries of other phases do not count.
    phase: Option<Phase>,
    died_at: Mutex<Option<Progress>>,
}

impl Killer {
    fn at(boundary: usize) -> Self {
        Self { left: Mutex::new(boundary), phase: None, died_at: Mutex::default() }
    }

    /// Dies as soon as a phase begins.
    pub fn in_phase(phase: Phase) -> Self {
        Self { phase: Some(phase), ..Self::at(0) }
    }
}

impl RunProgress for Killer {
    fn update(&self, progress: &Progress) {
        let boundary = progress.view.is_none() || progress.done == 0 || progress.done == progress.total;
        let mut left = self.left.lock();
        if !boundary || self.phase.is_some_and(|phase| phase != progress.phase) || self.died_at.lock().is_some() {
            return;
        }
        if *left == 0 {
            *self.died_at.lock() = Some(progress.clone());
            drop(left);
            // Without the noise of a panic.
            std::panic::resume_unwind(Box::new("killed"));
        }
        *left -= 1;
    }
}

#[tokio::test]
async fn at_every_boundary() {
    let mut chance = seeded("at_every_boundary");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let mut survived = false;
    let mut generation = 0;
    for boundary in 0.. {
        system.append_clicks(&mut chance, 40).await;
        let killer = Killer::at(boundary);
        // A new object each time: what a dead process remembers is gone.
        let layer = system.layer();
        let outcome = AssertUnwindSafe(soon(layer.run(false, &killer))).catch_unwind().await;
        drop(layer);
        // Whatever is visible now is whole.
        system.assert_exact(&format!("after dying at boundary {boundary}, {:?}", killer.died_at.lock())).await;
        let report = match outcome {
            Ok(report) => {
                survived = true;
                report.expect("a run")
            }
            Err(_) => soon(system.layer().run(false, &NoProgress)).await.expect("the run after"),
        };
        assert!(report.generation > generation, "boundary {boundary}");
        generation = report.generation;
        let published = system.store.published().await.expect("read").expect("published");
        assert_eq!(published.generation, generation);
        system.assert_exact(&format!("after the run after boundary {boundary}")).await;
        if survived {
            println!("{boundary} boundaries");
            assert!(boundary > 10, "only {boundary} boundaries");
            break;
        }
    }
}

/// The future is dropped wherever it happens to wait, as when the process is told to end.
#[tokio::test]
async fn dropped_at_any_await() {
    let mut chance = seeded("dropped_at_any_await");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    for polls in [1, 2, 3, 5, 8, 13, 21, 34, 55] {
        system.append_clicks(&mut chance, 40).await;
        let layer = Arc::new(system.layer());
        {
            let mut run = std::pin::pin!(layer.run(false, &NoProgress));
            let mut left = polls;
            let polled = std::future::poll_fn(|context| {
                left -= 1;
                match run.as_mut().poll(context) {
                    std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
                    std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
                    std::task::Poll::Pending => std::task::Poll::Pending,
                }
            });
            soon(polled).await;
        }
        system.assert_exact(&format!("dropped after {polls} polls")).await;
        // The same object goes on working.
        soon(layer.run(true, &NoProgress)).await.expect("the run after");
        system.assert_exact(&format!("after the run after {polls} polls")).await;
    }
}

#[test]
fn the_killer_kills() {
    let killer = Killer::at(0);
    let progress = Progress { generation: 1, phase: batch_layer::Phase::Mark, view: None, done: 0, total: 1 };
    assert!(catch_unwind(AssertUnwindSafe(|| killer.update(&progress))).is_err());
}
