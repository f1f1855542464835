//! A run of some views only, at a rate.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use batch_layer::{BatchError, NoProgress, Outcome};
use view_store::ViewStore;

use crate::system::{CLICKS, System, VIEWS, seeded, soon};

#[tokio::test]
async fn others_stay_where_they_are() {
    let mut chance = seeded("others_stay_where_they_are");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 300).await;
    let first = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    system.append_clicks(&mut chance, 300).await;

    let layer = system.layer();
    let names = ["totals", "page_views", "totals"].map(str::to_owned);
    let report = soon(layer.backfill(&names, None, &NoProgress)).await.expect("a run");
    assert_eq!(report.outcome, Outcome::Published);
    assert_eq!(report.views.keys().collect::<Vec<_>>(), ["page_views", "totals"]);
    let published = system.store.published().await.expect("read").expect("published");
    for view in &system.application.views {
        let (generation, frontier) = published.of(view).expect("every view has a generation");
        let is_new = names.contains(&view.name.to_string());
        assert_eq!(generation, if is_new { report.generation } else { first.generation }, "{}", view.name);
        assert_eq!(frontier == &report.frontier, is_new, "{}", view.name);
    }
    system.assert_exact("after a run of two views").await;

    // The others are not forgotten.
    let next = soon(layer.run(false, &NoProgress)).await.expect("a run");
    assert_eq!((next.outcome, next.views.len()), (Outcome::Published, 4));
    system.assert_exact("after the next run").await;
    let again = soon(layer.run(false, &NoProgress)).await.expect("a run");
    assert_eq!(again.outcome, Outcome::NothingNew);
}

#[tokio::test]
async fn it_is_no_faster_than_it_is_told() {
    let mut chance = seeded("it_is_no_faster_than_it_is_told");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 500).await;
    let started = Instant::now();
    let report = soon(system.layer().backfill(&["users".to_owned()], NonZeroU64::new(1000), &NoProgress)).await;
    let report = report.expect("a run");
    assert_eq!(report.records_read, 500);
    // Whoever reads last need not wait for having read.
    let batch = 64;
    let least = Duration::from_millis(500 - batch);
    assert!(started.elapsed() >= least, "500 records at 1000 a second took {:?}", started.elapsed());
    assert_eq!(system.check(system.application.view("users").expect("a view")).await.different, 0);
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let error = system.layer().backfill(&["pages".to_owned(), "nothing".to_owned()], None, &NoProgress).await;
    assert!(matches!(error, Err(BatchError::Unknown(name)) if name == "nothing"));
    assert_eq!(system.store.published().await.expect("read"), None);
}
