//! The port's promises.

use event_log::{ReadLimit, conformance};

use super::{connect, event, new_partition};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kept() {
    let log = connect().await;
    conformance::suite(async || log.clone()).await;
}

#[tokio::test]
async fn kept_on_one_thread() {
    let log = connect().await;
    conformance::suite(async || log.clone()).await;
}

#[tokio::test]
async fn kept_by_what_was_acknowledged() {
    conformance::durable(async || connect().await).await;
}

/// More places than there are cursors, so that every read but the first ones has to go elsewhere with one that has taken more than
/// it has handed out.
#[tokio::test]
async fn a_cursor_that_goes_elsewhere_forgets_where_it_was() {
    let log = connect().await;
    let partition = new_partition(&*log).await;
    log.append(&partition, (0..2000).map(|number| event(number.to_string())).collect()).await.expect("appended");
    // Up and down: what is left over from further back would be passed over, what is left over from further on would not.
    for step in 0..60_u64 {
        let from = step * 761 % 1999;
        let read = log.read(&partition, from, ReadLimit::records(2)).await.expect("read");
        let offsets: Vec<_> = read.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, [from, from + 1], "read {step}, from {from}");
    }
}
