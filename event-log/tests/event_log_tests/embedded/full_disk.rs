//! The disk fills up or fails: the error is clear, nothing unacknowledged stays, what was acknowledged does.

use super::*;

#[tokio::test]
async fn a_full_disk_refuses_appends_until_there_is_room() {
    let host = Arc::new(TestHost::default());
    // Every way an append can end: with a group cut anywhere, and with a file that cannot be begun.
    for file_bytes in [1 << 20, 200] {
        let options = EmbeddedOptions { file_bytes, ..on_host(&host) };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = open(directory.path(), &options).expect("open");
        log.create_topic(&topic(1)).await.expect("create topic");
        let mut expected = 0;
        for room in (0..150).step_by(4) {
            log.append(&first(), vec![event(expected)]).await.expect("append");
            expected += 1;
            let acknowledged = read_from(&log, &first(), 0).await.expect("read");
            host.leave_room(room);
            let records = vec![event(expected), event(expected + 1), event(expected + 2), event(expected + 3)];
            match log.append(&first(), records).await {
                Ok(range) => {
                    assert_eq!(range, expected..expected + 4);
                    expected += 4;
                }
                Err(full) => {
                    assert!(full.is_transient(), "{full}");
                    let reason = format!("{full}");
                    assert!(reason.contains("topic/0") && reason.contains("no storage space"), "{reason}");
                    assert_eq!(read_from(&log, &first(), 0).await.expect("read"), acknowledged);
                    let crashed = crash_copy(directory.path());
                    let after = open(crashed.path(), &on_disk(file_bytes)).expect("a crash while the disk is full");
                    assert_eq!(read_from(&after, &first(), 0).await.expect("read"), acknowledged);
                }
            }
            host.make_room();
        }
        let acknowledged = read_from(&log, &first(), 0).await.expect("read");
        let contents: Vec<_> = acknowledged.iter().map(|record| record.content.clone()).collect();
        assert_eq!(contents, (0..expected).map(event).collect::<Vec<_>>());
        drop(log);
        let log = open(directory.path(), &options).expect("open");
        assert_eq!(read_from(&log, &first(), 0).await.expect("read"), acknowledged);
    }
}

#[tokio::test]
async fn a_failed_sync_is_no_acknowledgement() {
    let host = Arc::new(TestHost::default());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_host(&host)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    log.append(&first(), vec![event(0)]).await.expect("append");
    for _ in 0..3 {
        host.failing_syncs.store(1, SeqCst);
        let failed = log.append(&first(), vec![event(66)]).await.expect_err("it is not durable");
        assert!(failed.is_transient() && failed.to_string().contains("the disk is dying"), "{failed}");
        assert_eq!(read_from(&log, &first(), 0).await.expect("read").len(), 1);
    }
    assert_eq!(log.append(&first(), vec![event(1)]).await.expect("append"), 1..2);
    drop(log);
    let log = open(directory.path(), &on_host(&host)).expect("open");
    let contents: Vec<_> =
        read_from(&log, &first(), 0).await.expect("read").into_iter().map(|record| record.content).collect();
    assert_eq!(contents, [event(0), event(1)]);
}

#[tokio::test]
async fn a_file_nobody_knows_takes_no_more_appends() {
    let host = Arc::new(TestHost::default());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_host(&host)).expect("open");
    log.create_topic(&topic(2)).await.expect("create topic");
    log.append(&first(), vec![event(0)]).await.expect("append");
    host.failing_syncs.store(1, SeqCst);
    host.failing_truncates.store(1, SeqCst);
    for _ in 0..3 {
        let failed = log.append(&first(), vec![event(1)]).await.expect_err("nothing is known of the file");
        assert!(failed.is_transient(), "{failed}");
        let reason = failed.to_string();
        assert!(reason.contains("the disk is dying") && reason.contains("the disk is dead"), "{reason}");
        assert_eq!(read_from(&log, &first(), 0).await.expect("read").len(), 1);
    }
    let other = TopicPartition::new("topic", 1);
    log.append(&other, vec![event(0)]).await.expect("the other partition goes on");
    drop(log);
    let log = open(directory.path(), &on_host(&host)).expect("opening recovers it");
    let kept = read_from(&log, &first(), 0).await.expect("read").len() as u64;
    assert!((1..=2).contains(&kept), "the append that failed may be there or not");
    assert_eq!(log.append(&first(), vec![event(1)]).await.expect("append"), kept..kept + 1);
}

#[tokio::test]
async fn a_file_that_was_begun_without_a_record_still_knows_the_time() {
    let host = Arc::new(TestHost::default());
    let options = EmbeddedOptions { file_bytes: 100, ..on_host(&host) };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &options).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    host.now.store(5000, SeqCst);
    log.append(&first(), vec![event(0), event(1)]).await.expect("append");
    // Room for the header of the next file, not for what was to go into it.
    host.leave_room(HEADER);
    log.append(&first(), vec![event(2)]).await.expect_err("the disk is full");
    host.make_room();
    drop(log);
    assert_eq!(length(&log_file(directory.path(), 2)), HEADER, "the next file was begun");
    host.now.store(10, SeqCst);
    let log = open(directory.path(), &options).expect("open");
    log.append(&first(), vec![event(2)]).await.expect("append");
    let times: Vec<_> =
        read_from(&log, &first(), 0).await.expect("read").iter().map(|record| record.append_time).collect();
    assert_eq!(times, [5000, 5000, 5000]);
}
