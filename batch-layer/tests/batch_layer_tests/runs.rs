//! What a run makes of a log.

use std::sync::Arc;

use batch_layer::{BatchError, NoProgress, Outcome, Phase, Progress, RunProgress};
use event_log::{EventLog, TopicSpec};
use parking_lot::Mutex;
use view_store::ViewStore;

use crate::system::{CLICKS, Gate, System, VIEWS, seeded, soon};

#[tokio::test]
async fn a_run_equals_plain_sql() {
    let mut chance = seeded("a_run_equals_plain_sql");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let layer = system.layer();
    for round in 1..=4 {
        system.append_clicks(&mut chance, 300).await;
        let report = soon(layer.run(false, &NoProgress)).await.expect("a run");
        assert_eq!((report.generation, &report.outcome), (round, &Outcome::Published));
        let published = system.store.published().await.expect("read").expect("published");
        assert_eq!((published.generation, &published.frontier), (round, &report.frontier));
        for view in &system.application.views {
            let (answer, position) = system.answer(view).await;
            assert_eq!(position, report.frontier, "{}", view.name);
            assert!(answer.num_rows() > 0, "{}", view.name);
        }
        assert_eq!(report.records_read, round * 300 * system.application.views.len() as u64);
        assert!(report.bytes_read > 0);
        system.assert_exact(&format!("round {round}")).await;
    }
    assert_eq!(layer.history().iter().filter(|run| run.error.is_none()).count(), 4);
}

#[tokio::test]
async fn an_empty_log_gives_an_empty_generation() {
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!((report.generation, report.outcome), (1, Outcome::Published));
    assert!(report.views.values().all(|view| view.rows == 0 && view.error.is_none()));
    system.assert_exact("empty").await;
}

#[tokio::test]
async fn an_idle_system_grows_no_markers() {
    let mut chance = seeded("an_idle_system_grows_no_markers");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let layer = system.layer();
    system.append_clicks(&mut chance, 50).await;
    let first = soon(layer.run(false, &NoProgress)).await.expect("a run");
    for _ in 0..3 {
        let report = soon(layer.run(false, &NoProgress)).await.expect("a run");
        assert_eq!((report.generation, report.outcome, &report.frontier), (1, Outcome::NothingNew, &first.frontier));
    }
    assert_eq!(system.log.markers(&system.partition(0)), [1]);

    let full = soon(layer.run(true, &NoProgress)).await.expect("a full run");
    assert_eq!((full.generation, full.outcome), (2, Outcome::Published));
    assert_eq!(system.log.markers(&system.partition(0)), [1, 2]);

    system.append_clicks(&mut chance, 1).await;
    let report = soon(layer.run(false, &NoProgress)).await.expect("a run");
    assert_eq!((report.generation, report.outcome), (3, Outcome::Published));
    system.assert_exact("after an idle time").await;
}

#[tokio::test]
async fn a_changed_view_is_rebuilt_though_nothing_is_new() {
    let mut chance = seeded("a_changed_view_is_rebuilt_though_nothing_is_new");
    let mut system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 100).await;
    soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    let changed = VIEWS.replace("status < 400", "status < 300");
    system.application = crate::system::application(&format!("{CLICKS}{changed}"));
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!((report.generation, report.outcome), (2, Outcome::Published));
    system.assert_exact("after the change").await;
}

#[tokio::test]
async fn an_added_partition_is_in_the_next_frontier() {
    let mut chance = seeded("an_added_partition_is_in_the_next_frontier");
    let mut system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 100).await;
    soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    system.add_partitions(5).await;
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!(report.outcome, Outcome::NothingNew, "an added partition holds no events yet");
    system.append_clicks(&mut chance, 200).await;
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!(report.frontier.iter().count(), 5);
    system.assert_exact("with the added partitions").await;
}

/// The frontier goes on naming a topic that no view reads any more: it must not move back.
#[tokio::test]
async fn a_topic_without_views_stays_where_it_was() {
    let mut chance = seeded("a_topic_without_views_stays_where_it_was");
    let other = "CREATE SOURCE others WITH (schema = 'click.avsc', partitions = 2);
        CREATE MATERIALIZED VIEW others_by_url AS SELECT url, count(*) AS views FROM others GROUP BY url;";
    let mut system = System::new(&format!("{CLICKS}{VIEWS}{other}")).await;
    let topic = TopicSpec { name: "others".to_owned(), partitions: 2, segment_records: 64 };
    system.log.create_topic(&topic).await.expect("a topic");
    system.archiver.follow(&[topic]);
    system.append_clicks(&mut chance, 50).await;
    let first = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!(first.frontier.iter().count(), 5);

    system.application = crate::system::application(&format!("{CLICKS}{VIEWS}"));
    system.append_clicks(&mut chance, 50).await;
    let second = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!(second.outcome, Outcome::Published);
    assert_eq!(second.frontier.of_topic("others"), first.frontier.of_topic("others"));
    system.assert_exact("without the other topic").await;

    system.application = crate::system::application(&format!("{CLICKS}{VIEWS}{other}"));
    let third = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!((third.generation, third.outcome), (3, Outcome::Published));
    system.assert_exact("with the other topic again").await;
}

/// Adds partitions in the middle of a run, and writes to them.
#[tokio::test]
async fn a_partition_added_during_a_run_is_not_in_its_frontier() {
    let mut chance = seeded("a_partition_added_during_a_run_is_not_in_its_frontier");
    let mut system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 100).await;
    let gate = Gate::new(&system);
    let layer = Arc::new(system.layer_sealed_by(gate.clone()));
    let run = tokio::spawn({
        let layer = layer.clone();
        async move { layer.run(false, &NoProgress).await }
    });
    soon(gate.reached.notified()).await;
    system.add_partitions(4).await;
    system.append_clicks(&mut chance, 100).await;
    gate.open.send_replace(true);
    let report = soon(run).await.expect("no panic").expect("a run");
    assert_eq!(report.frontier.iter().count(), 3);
    system.assert_exact("without the added partition").await;
    let next = soon(layer.run(false, &NoProgress)).await.expect("a run");
    assert_eq!((next.outcome, next.frontier.iter().count()), (Outcome::Published, 4));
    system.assert_exact("with the added partition").await;
}

#[tokio::test]
async fn one_run_at_a_time() {
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let gate = Gate::new(&system);
    let layer = Arc::new(system.layer_sealed_by(gate.clone()));
    let first = tokio::spawn({
        let layer = layer.clone();
        async move { layer.run(false, &NoProgress).await }
    });
    soon(gate.reached.notified()).await;
    assert!(matches!(layer.run(false, &NoProgress).await, Err(BatchError::Busy)));
    assert_eq!(layer.current().map(|progress| progress.phase), Some(Phase::Seal));
    gate.open.send_replace(true);
    soon(first).await.expect("no panic").expect("a run");
    assert_eq!(layer.current(), None);
    assert_eq!(layer.history().len(), 1);
    soon(layer.run(true, &NoProgress)).await.expect("another run");
}

#[tokio::test]
async fn progress_goes_through_the_phases_in_order() {
    struct Seen(Mutex<Vec<Progress>>);
    impl RunProgress for Seen {
        fn update(&self, progress: &Progress) {
            self.0.lock().push(progress.clone());
        }
    }
    let mut chance = seeded("progress_goes_through_the_phases_in_order");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 100).await;
    let seen = Seen(Mutex::default());
    soon(system.layer().run(false, &seen)).await.expect("a run");
    let seen = seen.0.into_inner();
    assert!(seen.is_sorted_by_key(|progress| progress.phase));
    for phase in [Phase::Mark, Phase::Seal, Phase::Recompute, Phase::Publish, Phase::Retire] {
        let last = seen.iter().rfind(|progress| progress.phase == phase).expect("every phase");
        assert_eq!(last.done, last.total, "{last:?}");
    }
    let views: Vec<_> = seen.iter().filter_map(|progress| progress.view.clone()).collect();
    assert!(system.application.views.iter().all(|view| views.contains(&view.name.to_string())));
}
