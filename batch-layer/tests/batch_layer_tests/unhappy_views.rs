//! A view that cannot be recomputed does not keep others from it, and loses nothing.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use batch_layer::{BatchError, NoProgress, Outcome};
use event_log::decode::EventDecoder;
use event_log::{EventLog, ReadLimit};
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

/// The deltas that the visible generation covers are gone. A generation without the view would lose them.
#[tokio::test]
async fn a_generation_that_holds_it_is_not_replaced_by_one_without_it() {
    let mut system = System::new(SQL).await;
    append(&system, 10).await;
    let first = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert!(first.views.values().all(|view| view.error.is_none()));
    append(&system, 0).await;
    let error = soon(system.layer().run(false, &NoProgress)).await.expect_err("it would lose events");
    let BatchError::Views(failed) = &error else { panic!("{error:?}") };
    assert_eq!(failed.keys().collect::<Vec<_>>(), ["ratios"]);
    let published = system.store.published().await.expect("read").expect("published");
    assert_eq!((published.generation, published.frontier), (first.generation, first.frontier));
    system.assert_exact("the first generation stays").await;

    // Mended, it is another view, which no generation holds yet.
    let mended = SQL.replace("1000 / bytes", "1000 / nullif(bytes, 0)");
    system.application = crate::system::application(&mended);
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert!(report.views.values().all(|view| view.error.is_none()), "{report:?}");
    system.assert_exact("mended").await;
}
