//! Several archivers on one bucket, large objects, and acknowledgements that are lost.

use std::sync::Arc;
use std::time::Duration;

use event_log::archive::Archive;
use event_log::archiver::{Archiver, ArchiverOptions};
use event_log::faulty_objects::{FaultyObjects, ObjectFaults};
use event_log::{Content, EventLog, LogError, TopicSpec};
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use views::{Segment, TopicPartition};

use super::{BUCKET, client, folder, fresh_prefix, opened, server};
use crate::archiver::assert_equals_log;
use crate::clicks::{MemoryLog, Schemas, clicks, framed, records};

fn topic() -> TopicSpec {
    TopicSpec { name: "clicks".to_owned(), partitions: 2, segment_records: 50 }
}

pub fn archiver(log: &Arc<MemoryLog>, archive: Archive, topic: TopicSpec) -> Archiver {
    let options = ArchiverOptions {
        wait: Duration::from_millis(50),
        backoff: Duration::from_millis(10)..=Duration::from_millis(500),
        ..ArchiverOptions::default()
    };
    Archiver::start(log.clone(), Arc::new(archive), Arc::new(Schemas), vec![topic], options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_archivers_race_on_one_bucket() {
    let endpoint = server().await;
    let prefix = fresh_prefix();
    let log = MemoryLog::with("clicks", 2, 50).await;
    // Two of them put everything in parts.
    let mut archivers = Vec::new();
    for in_parts_above in [0, usize::MAX, 0, usize::MAX] {
        archivers.push(archiver(&log, opened(&endpoint, &prefix, in_parts_above).await, topic()));
    }
    let partitions = [0, 1].map(|number| TopicPartition::new("clicks", number));
    for round in 0..6 {
        for partition in &partitions {
            let mut contents = clicks(round, 70);
            contents.push(Content::Marker(round + 1));
            log.append(partition, contents).await.unwrap();
        }
    }
    for partition in &partitions {
        let end = log.bounds("clicks").await.unwrap()[partition.partition as usize].end;
        println!("waiting until all four have sealed {partition} up to {end}");
        join_all(archivers.iter().map(|it| it.wait_sealed(partition, end))).await.into_iter().for_each(Result::unwrap);
        assert_equals_log(&opened(&endpoint, &prefix, 0).await, &log, partition).await;
    }
    for archiver in archivers {
        archiver.stop().await;
    }
    let store = PrefixStore::new(client(&endpoint, BUCKET), prefix);
    let left: Vec<_> = store.list(Some(&"clicks".into())).map_ok(|it| it.location).try_collect().await.unwrap();
    let uploads: Vec<_> = left.iter().filter(|it| it.as_ref().ends_with(".upload")).collect();
    assert!(uploads.is_empty(), "{uploads:?}");
}

#[tokio::test]
async fn a_large_object_goes_up_in_parts_and_leaves_nothing_behind() {
    let store = folder().await;
    let archive = Archive::new(store.clone(), "").in_parts_above(1 << 20);
    let partition = TopicPartition::new("clicks", 0);
    // What cannot be compressed: 20 MiB, three parts.
    let mut chance = StdRng::seed_from_u64(1);
    let large = |chance: &mut StdRng| {
        let mut value = vec![0; 1 << 20];
        chance.fill_bytes(&mut value);
        Content::Event { key: None, value: framed(9, &value) }
    };
    let written = records(0, (0..20).map(|_| large(&mut chance)).collect());
    let segment = archive.put(&partition, Segment::FIRST, 20, &written, &Schemas).await.unwrap();
    assert!(segment.bytes > 20 << 20);
    // An upload that somebody left when it was killed goes with the next.
    let left = format!("{}.0.upload", archive.object_name(&segment));
    store.put_opts(&left.as_str().into(), "half".into(), Default::default()).await.unwrap();
    let again = [0, 1].map(|_| archive.put(&partition, Segment::FIRST, 20, &written, &Schemas));
    join_all(again).await.into_iter().for_each(|again| assert_eq!(again.unwrap(), segment));
    let there: Vec<_> = store.list(None).map_ok(|it| it.location).try_collect().await.unwrap();
    assert_eq!(there, [archive.object_name(&segment)]);
    assert!(archive.read(&segment).await.unwrap() == written);

    let other = records(0, (0..20).map(|_| large(&mut chance)).collect());
    let refused = archive.put(&partition, Segment::FIRST, 20, &other, &Schemas).await;
    assert!(matches!(refused, Err(LogError::Damaged(_))), "{refused:?}");
    assert!(archive.read(&segment).await.unwrap() == written);
    let small = records(20, clicks(1, 20));
    archive.put(&partition, Segment { start: 20, marker: 0 }, 40, &small, &Schemas).await.unwrap();
    assert_eq!(archive.list(&partition).await.unwrap().len(), 2);
}

#[tokio::test]
async fn requests_that_fail_and_acknowledgements_that_are_lost_delay_and_no_more() {
    for (seed, in_parts_above) in [(1, usize::MAX), (2, 0)] {
        let store = folder().await;
        let faults = ObjectFaults { fails: 0.2, lost: 0.2, slow: 0.0, slowness: Duration::ZERO };
        let faulty = Arc::new(FaultyObjects::new(store.clone(), faults, seed));
        let log = MemoryLog::with("clicks", 2, 50).await;
        let archiver = archiver(&log, Archive::new(faulty, "").in_parts_above(in_parts_above), topic());
        let partition = TopicPartition::new("clicks", 0);
        log.append(&partition, clicks(seed, 400)).await.unwrap();
        println!("seed {seed}: waiting for an archiver whose requests fail");
        archiver.wait_sealed(&partition, 400).await.unwrap();
        assert_equals_log(&Archive::new(store, ""), &log, &partition).await;
    }
}
