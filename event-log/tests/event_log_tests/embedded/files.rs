//! Files are begun, let go of, and locked.

use std::fs;

use super::*;

fn count_files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory.join("topic/00000")).expect("list");
    entries
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "log")))
        .count()
}

#[tokio::test]
async fn many_files_read_as_one_log() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(500)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    for number in 0..100 {
        let records = (0..number % 5 + 1).map(|part| event(number * 10 + part)).collect();
        log.append(&first(), records).await.expect("append");
    }
    assert!(count_files(directory.path()) > 10);
    let all = read_from(&log, &first(), 0).await.expect("read");
    assert_eq!(all.len(), 300);
    drop(log);
    for options in [on_disk(500), on_disk(1 << 20)] {
        let log = open(directory.path(), &options).expect("open");
        // Backwards: the indexes are built from the middle of files too.
        for from in (0..=300).rev() {
            let read = log.read(&first(), from, ReadLimit::records(3)).await.expect("read");
            assert_eq!(read.is_empty(), from == 300);
            assert_eq!(read, all[from as usize..from as usize + read.len()]);
        }
        assert_eq!(log.bounds("topic").await.expect("bounds"), vec![0..300]);
    }
}

#[tokio::test]
async fn a_long_file_is_read_from_anywhere() {
    // Longer than the index's steps and the first chunks, with records longer than a chunk.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(1 << 30)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    let long = |number: u64| {
        let length = if number == 25 { 9 << 20 } else { 30_000 + 1000 * number as usize };
        Content::Event { key: None, value: vec![number as u8; length].into() }
    };
    for number in 0..50 {
        log.append(&first(), vec![long(number)]).await.expect("append");
    }
    drop(log);
    let log = open(directory.path(), &on_disk(1 << 30)).expect("open");
    for from in [49, 24, 25, 26, 0, 10, 48, 1] {
        let limit = ReadLimit { records: 1000, bytes: 200_000, wait: std::time::Duration::ZERO };
        let read = log.read(&first(), from, limit).await.expect("read");
        assert!(!read.is_empty());
        for (number, record) in (from..).zip(read) {
            assert_eq!((record.offset, record.content == long(number)), (number, true));
        }
    }
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_and_harms_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(1 << 30)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    let too_long = Content::Event { key: None, value: vec![0; (64 << 20) + 1].into() };
    let refused = log.append(&first(), vec![event(0), too_long]).await;
    assert!(matches!(refused, Err(LogError::Invalid(_))), "{refused:?}");
    let much = Content::Event { key: None, value: vec![0; 50 << 20].into() };
    let refused = log.append(&first(), vec![much.clone(), much.clone(), much]).await;
    assert!(matches!(refused, Err(LogError::Invalid(_))), "{refused:?}");
    assert_eq!(log.append(&first(), vec![event(1)]).await.expect("append"), 0..1);
}

#[tokio::test]
async fn trim_deletes_whole_files_and_stays_trimmed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(300)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    for number in 0..60 {
        log.append(&first(), vec![event(number)]).await.expect("append");
    }
    let all = read_from(&log, &first(), 0).await.expect("read");
    let bases: Vec<_> = (0..60).filter(|base| log_file(directory.path(), *base).exists()).collect();
    let before_trim = crash_copy(directory.path());

    log.trim(&first(), bases[2] - 1).await.expect("trim");
    assert_eq!(log.bounds("topic").await.expect("bounds")[0].start, bases[1]);
    log.trim(&first(), bases[2]).await.expect("trim");
    assert_eq!(log.bounds("topic").await.expect("bounds")[0].start, bases[2]);
    assert_eq!(count_files(directory.path()), bases.len() - 2);
    let refused = log.read(&first(), bases[2] - 1, ReadLimit::records(1)).await.expect_err("it is gone").to_string();
    assert!(refused.contains(&format!("the log starts at {}", bases[2])), "{refused}");
    assert_eq!(read_from(&log, &first(), bases[2]).await.expect("read"), all[bases[2] as usize..]);
    drop(log);

    // A crash after the note and before the files were deleted.
    for base in &bases[..2] {
        fs::copy(log_file(before_trim.path(), *base), log_file(directory.path(), *base)).expect("copy");
    }
    let log = open(directory.path(), &on_disk(300)).expect("open");
    assert_eq!(log.bounds("topic").await.expect("bounds"), vec![bases[2]..60]);
    assert_eq!(count_files(directory.path()), bases.len() - 2);

    log.trim(&first(), 1_000_000).await.expect("trim");
    let last = bases[bases.len() - 1];
    assert_eq!(log.bounds("topic").await.expect("bounds"), vec![last..60], "the last file stays");
    assert_eq!(log.append(&first(), vec![event(60)]).await.expect("append"), 60..61);
    drop(log);
    let log = open(directory.path(), &on_disk(300)).expect("open");
    assert_eq!(log.bounds("topic").await.expect("bounds"), vec![last..61]);
}

#[tokio::test]
async fn only_one_can_have_it_open() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(300)).expect("open");
    for _ in 0..2 {
        let refused = open(directory.path(), &on_disk(300)).err().expect("it is open already");
        let message = refused.to_string();
        assert!(refused.is_transient(), "{message}");
        assert!(message.contains(&directory.path().display().to_string()) && message.contains("in use"), "{message}");
    }
    drop(log);
    open(directory.path(), &on_disk(300)).expect("it was closed");
}

#[tokio::test]
async fn append_times_come_from_the_log_and_never_go_back() {
    let host = Arc::new(TestHost::default());
    let options = EmbeddedOptions { file_bytes: 150, ..on_host(&host) };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut expected = Vec::new();
    for (now, time) in [(1000, 1000), (2000, 2000), (500, 2000), (-7, 2000), (2001, 2001), (0, 2001)] {
        // Opening again in between, mostly right after a file was begun.
        let log = open(directory.path(), &options).expect("open");
        log.create_topic(&topic(1)).await.expect("create topic");
        host.now.store(now, SeqCst);
        for _ in 0..3 {
            log.append(&first(), vec![event(0), event(1)]).await.expect("append");
            expected.extend([time, time]);
        }
        let times = read_from(&log, &first(), 0).await.expect("read").into_iter().map(|record| record.append_time);
        assert_eq!(times.collect::<Vec<_>>(), expected);
    }
    assert!(count_files(directory.path()) > 5);
}

#[tokio::test]
async fn what_is_not_ours_in_the_directory_is_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(directory.path().join("lost+found")).expect("create");
    fs::create_dir_all(directory.path().join("empty")).expect("create");
    fs::write(directory.path().join("README"), "hello").expect("write");
    let log = open(directory.path(), &on_disk(300)).expect("open");
    assert!(log.topics().await.expect("topics").is_empty());
    assert!(directory.path().join("README").exists());
}
