//! A view that cannot be recomputed does not keep others from it, and loses nothing.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use batch_layer::{BatchError, NoProgress, Outcome};
use event_log::decode::EventDecoder;
use event_log::{EventLog, ReadLimit};
use futures::FutureExt;
use view_store::{DeltaWrite, Progress, ViewDeltas, ViewStore, WriteOutcome};
use views::{Fold, Segment, View};

use crate::system::{System, soon};

const SQL: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 1);
CREATE MATERIALIZED VIEW views AS SELECT url, count(*) AS views FROM clicks GROUP BY url;
CREATE MATERIALIZED VIEW ratios AS SELECT url, sum(1000 / bytes) AS ratio FROM clicks GROUP BY url;
";

async fn append(system: &System, bytes: i64) {
    system.append(&format!(r#"{{"ts": 0, "url": "/", "status": 200, "bytes": {bytes}}}"#)).await;
}

/// What the speed layer would write of the first `records` records.
async fn write_delta(system: &System, view: &Arc<View>, records: usize) {
    let partition = system.partition(0);
    let decoder = EventDecoder::new(&view.source, &view.input_columns, system.registry.clone());
    let records = system.log.read(&partition, 0, ReadLimit::records(records)).await.expect("records");
    let decoded = decoder.expect("a decoder").decode(&partition, &records).await.expect("events");
    let mut fold = Fold::new(view).expect("a fold");
    fold.update(&decoded.events).expect("folded");
    let states: RecordBatch = fold.take_states().expect("states");
    let write = DeltaWrite {
        partition,
        from: 0,
        to: Progress { offset: records.len() as u64, segment: Segment::FIRST },
        views: vec![ViewDeltas { view: view.clone(), segments: vec![(Segment::FIRST, states)] }],
    };
    assert_eq!(system.store.write_deltas(write).await.expect("written"), WriteOutcome::Written);
}

#[tokio::test]
async fn it_is_left_out_and_its_deltas_stay() {
    let system = System::new(SQL).await;
    let [views, ratios] = &system.application.views[..] else { panic!("two views") };
    append(&system, 10).await;
    append(&system, 50).await;
    write_delta(&system, views, 2).await;
    write_delta(&system, ratios, 2).await;
    append(&system, 0).await;
    let (before, position) = system.answer(ratios).await;
    assert_eq!(before.num_rows(), 1);

    for generation in 1..=2 {
        let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
        assert_eq!((report.generation, report.outcome), (generation, Outcome::Published));
        assert_eq!(report.views["views"].error, None);
        let error = report.views["ratios"].error.as_ref().expect("it fails");
        assert!(error.contains("Divide by zero") || error.contains("zero"), "{error}");
        let published = system.store.published().await.expect("read").expect("published");
        assert_eq!(published.views.keys().map(|name| &**name).collect::<Vec<_>>(), ["views"]);
        assert_eq!(system.check(views).await.different, 0);
        // Retiring has gone by, and the deltas before the frontier are the only thing there is.
        let (after, reached) = system.answer(ratios).await;
        assert_eq!((after, reached), (before.clone(), position.clone()));
        assert_eq!(system.check(ratios).await.different, 0);
    }
}

/// The deltas that the visible generation covers are gone: it stays there, and others go on without it.
#[tokio::test]
async fn it_stays_at_the_last_generation_that_holds_it() {
    let mut system = System::new(SQL).await;
    append(&system, 10).await;
    let first = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert!(first.views.values().all(|view| view.error.is_none()));
    append(&system, 20).await;
    append(&system, 0).await;
    append(&system, 30).await;
    for _ in 0..2 {
        let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
        assert_eq!(report.outcome, Outcome::Published);
        let error = report.views["ratios"].error.as_deref().expect("it fails");
        // A marker follows the first event.
        assert!(error.starts_with("clicks/0 at offset 3: ") && error.contains("zero"), "{error}");
        let [views, ratios] = &system.application.views[..] else { panic!("two views") };
        let published = system.store.published().await.expect("read").expect("published");
        assert_eq!(published.of(views), Some((report.generation, &report.frontier)));
        assert_eq!(published.of(ratios), Some((first.generation, &first.frontier)));
        let (_, position) = system.answer(ratios).await;
        assert_eq!(position, first.frontier);
        system.assert_exact("the one at its first generation, the other at its last").await;
    }

    // Mended, it is another view, which no generation holds yet.
    let mended = SQL.replace("1000 / bytes", "1000 / nullif(bytes, 0)");
    system.application = crate::system::application(&mended);
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert!(report.views.values().all(|view| view.error.is_none()), "{report:?}");
    let published = system.store.published().await.expect("read").expect("published");
    assert!(published.behind.is_empty(), "{published:?}");
    system.assert_exact("mended").await;
}

/// Over the same events it would fail again: a timer must not recompute everything each time because of it.
#[tokio::test]
async fn an_idle_system_does_not_try_it_again() {
    let system = System::new(SQL).await;
    let layer = system.layer();
    append(&system, 10).await;
    append(&system, 0).await;
    let first = soon(layer.run(false, &NoProgress)).await.expect("a run");
    assert_eq!((first.generation, &first.outcome), (1, &Outcome::Published));
    for _ in 0..2 {
        let again = soon(layer.run(false, &NoProgress)).await.expect("a run");
        assert_eq!((again.generation, &again.outcome), (1, &Outcome::NothingNew));
        assert_eq!(again.failed_views(), first.failed_views(), "and it is said again");
        assert!(again.failed_views().is_some_and(|failed| failed.contains("view ratios: clicks/0 at offset 1: ")));
    }
    append(&system, 10).await;
    let next = soon(layer.run(false, &NoProgress)).await.expect("a run");
    assert_eq!((next.generation, &next.outcome), (2, &Outcome::Published));
    let full = soon(layer.run(true, &NoProgress)).await.expect("a full run");
    assert_eq!((full.generation, &full.outcome), (3, &Outcome::Published));
}

#[tokio::test]
async fn nothing_is_published_when_no_view_can_be_recomputed() {
    let sql = SQL.lines().filter(|line| !line.contains("VIEW views")).collect::<Vec<_>>().join("\n");
    let system = System::new(&sql).await;
    append(&system, 10).await;
    let first = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    append(&system, 0).await;
    let error = soon(system.layer().run(false, &NoProgress)).await.expect_err("there is nothing to publish");
    let BatchError::Views(failed) = &error else { panic!("{error:?}") };
    assert_eq!(failed.keys().collect::<Vec<_>>(), ["ratios"]);
    let published = system.store.published().await.expect("read").expect("published");
    assert_eq!((published.generation, published.frontier), (first.generation, first.frontier));
    system.assert_exact("the first generation stays").await;
}

/// As while a new version of the application is rolled out: a run of the old one ends after one of the new, and dies before
/// it retires. What the new one's view has must not be lost, although its deltas are gone.
#[tokio::test]
async fn a_run_that_does_not_know_a_view_takes_nothing_from_it() {
    let mut system = System::new(SQL).await;
    append(&system, 10).await;
    append(&system, 20).await;
    let new = system.application.clone();
    let [views, ratios] = &new.views[..] else { panic!("two views") };
    write_delta(&system, ratios, 2).await;
    let first = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    append(&system, 30).await;
    let old: Vec<&str> = SQL.lines().filter(|line| !line.contains("VIEW ratios")).collect();
    system.application = crate::system::application(&old.join("\n"));
    let killer = crate::killed::Killer::in_phase(batch_layer::Phase::Retire);
    let died = AssertUnwindSafe(soon(system.layer().run(false, &killer))).catch_unwind().await;
    assert!(died.is_err(), "it survived");
    let published = system.store.published().await.expect("read").expect("published");
    assert!(published.generation > first.generation);
    assert_eq!(published.of(views).map(|(generation, _)| generation), Some(published.generation));
    system.application = new.clone();
    let (_, position) = system.answer(ratios).await;
    assert_eq!(position, first.frontier, "it stands where it stood");
    system.assert_exact("after the old one").await;
    // Where it stands it is continued.
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!(report.outcome, Outcome::Published);
    system.assert_exact("after the new one").await;
}

/// What others write into the log may have groups of any length. A view that cannot keep one stops there, and it alone.
#[tokio::test]
async fn a_group_that_is_too_long_stops_its_view() {
    let sql = "
        CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 1);
        CREATE MATERIALIZED VIEW urls AS SELECT url, count(*) AS views FROM clicks GROUP BY url;
        CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS views, max(length(url)) AS longest FROM clicks;";
    let system = System::new(sql).await;
    append(&system, 10).await;
    let first = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    let long = "x".repeat(100_000);
    system.append(&format!(r#"{{"ts": 0, "url": "{long}", "status": 200, "bytes": 1}}"#)).await;
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!(report.outcome, Outcome::Published);
    let error = report.views["urls"].error.as_deref().expect("it fails");
    assert!(error.starts_with("clicks/0 at offset 2: ") && error.contains("takes 10"), "{error}");
    let published = system.store.published().await.expect("read").expect("published");
    let generations = system.application.views.iter().map(|view| published.of(view).map(|(generation, _)| generation));
    assert_eq!(generations.collect::<Vec<_>>(), [Some(first.generation), Some(report.generation)]);
    system.assert_exact("each at its own").await;
}
