//! What is missing from the archive is an error, never a zero.

use batch_layer::{BatchError, NoProgress, Settings};
use event_log::LogError;
use object_store::{ObjectStore, ObjectStoreExt};
use view_store::ViewStore;

use crate::system::{CLICKS, System, VIEWS, seeded, soon};

#[tokio::test]
async fn a_hole_stops_the_run() {
    let mut chance = seeded("a_hole_stops_the_run");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 900).await;
    let first = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    let segments = system.archive.list(&system.partition(1)).await.expect("segments");
    assert!(segments.len() > 2, "{segments:?}");
    for (place, segment) in segments.iter().enumerate() {
        let name = system.archive.object_name(segment);
        let object = system.objects.get_opts(&name, Default::default()).await.expect("there");
        let object = object.bytes().await.expect("bytes");
        system.objects.delete(&name).await.expect("deleted");
        let error = soon(system.layer().run(true, &NoProgress)).await.expect_err("a hole");
        assert!(matches!(error, BatchError::Log(LogError::Hole(_))), "segment {place}: {error:?}");
        let published = system.store.published().await.expect("read").expect("published");
        assert_eq!(published.generation, first.generation, "segment {place}");
        system.objects.put_opts(&name, object.into(), Default::default()).await.expect("put back");
    }
    soon(system.layer().run(true, &NoProgress)).await.expect("mended");
    system.assert_exact("after the holes").await;
}

#[tokio::test]
async fn a_damaged_object_stops_the_run() {
    let mut chance = seeded("a_damaged_object_stops_the_run");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    system.append_clicks(&mut chance, 400).await;
    soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    let segments = system.archive.list(&system.partition(0)).await.expect("segments");
    let name = system.archive.object_name(&segments[0]);
    let object = system.objects.get_opts(&name, Default::default()).await.expect("there");
    let mut object = object.bytes().await.expect("bytes").to_vec();
    let middle = object.len() * 3 / 4;
    object[middle] ^= 1;
    system.objects.put_opts(&name, object.into(), Default::default()).await.expect("put");
    let error = soon(system.layer().run(true, &NoProgress)).await.expect_err("damage");
    assert!(error.to_string().contains(name.as_ref()), "{error}");
    assert!(matches!(error, BatchError::Engine { .. }), "{error:?}");
}

/// The archiver stands still: the run gives up, having published nothing.
#[tokio::test]
async fn an_archive_that_falls_behind_is_waited_for_but_not_for_ever() {
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let settings = Settings { seal_timeout: std::time::Duration::from_millis(20), ..system.settings() };
    let gate = crate::system::Gate::new(&system);
    let layer = system.layer_of(gate, system.store.clone(), settings);
    let error = soon(layer.run(false, &NoProgress)).await.expect_err("it takes too long");
    assert!(matches!(error, BatchError::Log(LogError::Unavailable { .. })), "{error:?}");
    assert_eq!(system.store.published().await.expect("read"), None);
}
