//! The S3 server is killed in the middle, and comes back.

use event_log::{Content, EventLog, TopicSpec};
use views::TopicPartition;

use super::race::archiver;
use super::weed::Weed;
use super::{fresh_prefix, opened};
use crate::archiver::assert_equals_log;
use crate::clicks::{MemoryLog, clicks};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_killed_delays_the_archive_and_loses_nothing() {
    let mut weed = Weed::start().await;
    let (endpoint, prefix) = (weed.endpoint(), fresh_prefix());
    let topic = TopicSpec { name: "clicks".to_owned(), partitions: 1, segment_records: 20 };
    let log = MemoryLog::with("clicks", 1, 20).await;
    let partition = TopicPartition::new("clicks", 0);
    let archivers = [
        archiver(&log, opened(&endpoint, &prefix, usize::MAX).await, topic.clone()),
        archiver(&log, opened(&endpoint, &prefix, 0).await, topic),
    ];
    for round in 0..2 {
        let mut contents = clicks(round, 400);
        contents.push(Content::Marker(round + 1));
        let range = log.append(&partition, contents).await.unwrap();
        println!("round {round}: waiting until some of {range:?} is archived");
        archivers[0].wait_sealed(&partition, range.start + 60).await.unwrap();
        weed.kill();
        println!("killed");
        let waiting = |archiver: &event_log::archiver::Archiver| archiver.progress()[0].1.retrying.is_some();
        while !archivers.iter().any(waiting) && archivers[0].sealed(&partition) < range.end {
            tokio::task::yield_now().await;
        }
        let sealed = archivers[0].sealed(&partition);
        weed.restart().await;
        println!("waiting until the archive goes on from {sealed} to {}", range.end);
        for archiver in &archivers {
            archiver.wait_sealed(&partition, range.end).await.unwrap();
        }
        assert_equals_log(&opened(&endpoint, &prefix, 0).await, &log, &partition).await;
    }
    for archiver in archivers {
        archiver.stop().await;
    }
}
