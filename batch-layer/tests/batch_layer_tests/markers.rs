//! Markers that reached only some partitions, and markers of others.

use batch_layer::{BatchError, NoProgress};
use event_log::{Content, EventLog, LogError};
use rand::Rng;
use view_store::ViewStore;

use crate::system::{CLICKS, System, VIEWS, seeded, soon};

#[tokio::test]
async fn a_marker_that_reached_only_some_partitions_is_stepped_over() {
    let mut chance = seeded("a_marker_that_reached_only_some_partitions_is_stepped_over");
    for lost_acknowledgement in [false, true] {
        for fails in 0..3 {
            let context = format!("partition {fails} fails, lost acknowledgement: {lost_acknowledgement}");
            let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
            system.append_clicks(&mut chance, 60).await;
            system.log.fail_next_marker(system.partition(fails), lost_acknowledgement);
            let error = soon(system.layer().run(false, &NoProgress)).await.expect_err("the append fails");
            assert!(matches!(error, BatchError::Log(LogError::Unavailable { .. })), "{context}: {error}");
            assert!(error.is_transient());
            assert_eq!(system.store.published().await.expect("read"), None, "{context}");

            system.append_clicks(&mut chance, 60).await;
            let report = soon(system.layer().run(false, &NoProgress)).await.expect("the run after");
            for (partition, offset) in report.frontier.iter() {
                let markers = system.log.markers(&partition);
                assert_eq!(markers.last(), Some(&report.generation), "{context}: {markers:?}");
                let end = system.log.bounds("clicks").await.expect("bounds")[partition.partition as usize].end;
                assert_eq!(offset, end, "{context}: everything was before its markers");
            }
            system.assert_exact(&context).await;
        }
    }
}

/// As by a run that has a source more, whose first partition is another one.
#[tokio::test]
async fn a_number_that_is_taken_in_any_partition_is_given_up() {
    let mut chance = seeded("a_number_that_is_taken_in_any_partition_is_given_up");
    for taken in 0..3 {
        let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
        system.append_clicks(&mut chance, 30).await;
        system.log.append(&system.partition(taken), vec![Content::Marker(1)]).await.expect("appended");
        let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
        assert_eq!(report.generation, 2, "partition {taken}");
        assert_eq!(system.log.markers(&system.partition(taken)), [1, 1, 2]);
        system.assert_exact(&format!("partition {taken}")).await;
    }
}

/// Markers of runs that nobody knows of, as if another process were running; some of them higher than ours will be.
#[tokio::test]
async fn markers_of_others_are_respected() {
    let mut chance = seeded("markers_of_others_are_respected");
    for round in 0..6 {
        let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
        let mut highest = 0;
        for _ in 0..4 {
            for _ in 0..chance.random_range(0..4) {
                system.append_clicks(&mut chance, 10).await;
                let (partition, number) = (chance.random_range(0..3), chance.random_range(1..12));
                highest = highest.max(number);
                let marker = vec![Content::Marker(number)];
                system.log.append(&system.partition(partition), marker).await.expect("appended");
            }
            system.append_clicks(&mut chance, 10).await;
            let before = system.store.published().await.expect("read");
            let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
            let context = format!("round {round}, generation {}", report.generation);
            for (partition, offset) in report.frontier.iter() {
                // The definition of a frontier, by the letter.
                let records = system.log.read(&partition, 0, event_log::ReadLimit::records(usize::MAX)).await;
                let cuts =
                    |content: &Content| matches!(content, Content::Marker(number) if *number >= report.generation);
                let first = records.expect("records").into_iter().find(|record| cuts(&record.content));
                assert_eq!(Some(offset), first.map(|record| record.offset + 1), "{context}");
            }
            if let Some(before) = before {
                assert!(report.frontier.covers(&before.frontier), "{context}");
            }
            system.assert_exact(&context).await;
        }
    }
}
