//! Two runs at once, as of two processes: the frontier never moves back, and answers stay exact.

use batch_layer::{NoProgress, Outcome};
use rand::Rng;
use view_store::ViewStore;

use crate::system::{CLICKS, System, VIEWS, seeded, soon};

#[tokio::test]
async fn two_runs_race() {
    let mut chance = seeded("two_runs_race");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let mut before = views::Offsets::new();
    let mut overtaken = 0;
    for round in 0..12 {
        let clicks = chance.random_range(1..80);
        system.append_clicks(&mut chance, clicks).await;
        let (one, other) = (system.layer(), system.layer());
        let head_start = chance.random_range(0..40);
        let later = async {
            for _ in 0..head_start {
                tokio::task::yield_now().await;
            }
            other.run(true, &NoProgress).await
        };
        let (one, other) = tokio::join!(soon(one.run(true, &NoProgress)), soon(later));
        let (one, other) = (one.expect("a run"), other.expect("a run"));
        let context = format!("round {round}: {one:?} {other:?}");
        assert_ne!(one.generation, other.generation, "{context}");
        overtaken += usize::from([&one, &other].iter().any(|run| matches!(run.outcome, Outcome::Superseded { .. })));
        let published = system.store.published().await.expect("read").expect("published");
        assert_eq!(published.generation, one.generation.max(other.generation), "{context}");
        assert!(published.frontier.covers(&before), "{context}");
        before = published.frontier;
        system.assert_exact(&context).await;
    }
    println!("overtaken in {overtaken} of 12 rounds");
}

/// A run that was held up between its markers and its archive, while others went by.
#[tokio::test]
async fn a_run_that_is_overtaken_steps_aside() {
    let mut chance = seeded("a_run_that_is_overtaken_steps_aside");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 60).await;
    let gate = crate::system::Gate::new(&system);
    let layer = system.layer_sealed_by(gate.clone());
    let slow = tokio::spawn(async move { layer.run(false, &NoProgress).await });
    soon(gate.reached.notified()).await;
    system.append_clicks(&mut chance, 60).await;
    let fast = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!((fast.generation, &fast.outcome), (2, &Outcome::Published));
    gate.open.send_replace(true);
    let slow = soon(slow).await.expect("no panic").expect("a run");
    assert_eq!((slow.generation, slow.outcome), (1, Outcome::Superseded { by: 2 }));
    let published = system.store.published().await.expect("read").expect("published");
    assert_eq!(published.frontier, fast.frontier);
    system.assert_exact("after being overtaken").await;
}
