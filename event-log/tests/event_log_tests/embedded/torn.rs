//! A crash tore the last group: what was acknowledged is kept, the rest is cut off.

use std::fs;

use event_log::{EventLog, Record};
use tempfile::TempDir;

use super::*;

/// A log with groups of 3, 1, 2 and 3 records, as a crash leaves it.
struct Sample {
    copy: TempDir,
    records: Vec<Record>,
    /// Where each frame of the last group begins, and the end.
    places: Vec<u64>,
}

async fn sample() -> Sample {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(1 << 20)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    log.append(&first(), vec![event(0), event(1), event(2)]).await.expect("append");
    log.append(&first(), vec![Content::Marker(1)]).await.expect("append");
    log.append(&first(), vec![event(3), event(4)]).await.expect("append");
    let mut places = vec![length(&log_file(directory.path(), 0))];
    let last = [event(5), Content::Marker(2), event(6)];
    log.append(&first(), last.to_vec()).await.expect("append");
    for content in last {
        let content_length = match content {
            Content::Event { key, value } => key.map_or(0, |key| key.len()) + value.len(),
            Content::Marker(_) => 8,
        };
        places.push(places[places.len() - 1] + 33 + content_length as u64);
    }
    assert_eq!(places[3], length(&log_file(directory.path(), 0)), "the format's lengths");
    let records = read_from(&log, &first(), 0).await.expect("read");
    assert_eq!(records.len(), 9);
    Sample { copy: crash_copy(directory.path()), records, places }
}

/// Opens a torn log, and expects the first `kept` records, and a log that goes on from there.
async fn assert_kept(torn: &TempDir, sample: &Sample, kept: usize, what: &str) {
    let log = open(torn.path(), &on_disk(1 << 20)).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(read_from(&log, &first(), 0).await.expect(what), sample.records[..kept], "{what}");
    let range = log.append(&first(), vec![event(70), event(71)]).await.expect(what);
    assert_eq!(range, kept as u64..kept as u64 + 2, "{what}");
    let new = read_from(&log, &first(), range.start).await.expect(what);
    drop(log);

    let log = open(torn.path(), &on_disk(1 << 20)).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!(read_from(&log, &first(), 0).await.expect(what), [&sample.records[..kept], &new].concat(), "{what}");
}

#[tokio::test]
async fn a_group_cut_anywhere_loses_no_other() {
    let sample = sample().await;
    for cut_at in sample.places[0]..=sample.places[3] {
        let torn = crash_copy(sample.copy.path());
        cut(&log_file(torn.path(), 0), cut_at);
        let whole = sample.places[1..].iter().filter(|end| **end <= cut_at).count();
        assert_kept(&torn, &sample, 6 + whole, &format!("cut at byte {cut_at}")).await;
    }
}

#[tokio::test]
async fn a_group_whose_blocks_never_arrived_is_cut_off() {
    let sample = sample().await;
    for torn_at in sample.places[0]..sample.places[3] {
        // The file has its length, but from here on it holds zeros.
        let torn = crash_copy(sample.copy.path());
        let zeros = vec![0; (sample.places[3] - torn_at) as usize];
        overwrite(&log_file(torn.path(), 0), torn_at, &zeros);
        // The last bytes of a frame may have been zeros anyway.
        let whole = (1..4).filter(|frame| sample.places[*frame] <= torn_at).count();
        let log = open(torn.path(), &on_disk(1 << 20)).expect("open");
        let read = read_from(&log, &first(), 0).await.expect("read");
        assert!(read.len() >= 6 + whole, "zeros from byte {torn_at}");
        assert_eq!(read, sample.records[..read.len()]);
        drop(log);
        assert_kept(&torn, &sample, read.len(), &format!("zeros from byte {torn_at}")).await;
    }
}

#[tokio::test]
async fn a_group_whose_blocks_arrived_out_of_order_is_cut_off() {
    let sample = sample().await;
    for lost in 0..3 {
        // One frame is garbage, those after it are good: they are of the same group.
        let torn = crash_copy(sample.copy.path());
        let garbage = vec![0xa5; (sample.places[lost + 1] - sample.places[lost]) as usize];
        overwrite(&log_file(torn.path(), 0), sample.places[lost], &garbage);
        assert_kept(&torn, &sample, 6 + lost, &format!("frame {lost} lost")).await;
    }
}

#[tokio::test]
async fn a_value_that_looks_like_a_later_group_does_not_keep_the_log_from_opening() {
    // The bytes of real groups, as the value of an event in the torn group: the salt tells them apart.
    let sample = sample().await;
    let other = tempfile::tempdir().expect("a temporary directory");
    let log = open(other.path(), &on_disk(1 << 20)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    log.append(&first(), vec![event(1)]).await.expect("append");
    let before = length(&log_file(other.path(), 0));
    let frames = fs::read(log_file(sample.copy.path(), 0)).expect("read");
    let hostile = Content::Event { key: None, value: frames.into() };
    log.append(&first(), vec![hostile.clone(), hostile]).await.expect("append");
    let torn = crash_copy(other.path());
    overwrite(&log_file(torn.path(), 0), before, &[0xff; 40]);
    let log = open(torn.path(), &on_disk(1 << 20)).expect("open");
    assert_eq!(read_from(&log, &first(), 0).await.expect("read").len(), 1);
}

#[tokio::test]
async fn a_file_that_was_being_begun_is_begun_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(200)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    for number in 0..4 {
        log.append(&first(), vec![event(number), event(number), event(number)]).await.expect("append");
    }
    let records = read_from(&log, &first(), 0).await.expect("read");
    assert!(log_file(directory.path(), 9).exists(), "there are several files");
    for header_length in 0..=HEADER {
        for garbage in [false, true] {
            let torn = crash_copy(directory.path());
            let begun = log_file(torn.path(), 12);
            let header = fs::read(log_file(torn.path(), 9)).expect("read");
            let bytes =
                if garbage { vec![0; header_length as usize] } else { header[..header_length as usize].to_vec() };
            fs::write(&begun, bytes).expect("write");
            if header_length == HEADER && !garbage {
                // A whole header, but that of another file, is not what a crash leaves.
                assert_damaged(open(torn.path(), &on_disk(200)), &begun, "another file's header");
                continue;
            }
            let log = open(torn.path(), &on_disk(200)).expect("open");
            assert_eq!(read_from(&log, &first(), 0).await.expect("read"), records);
            let range = log.append(&first(), vec![event(100)]).await.expect("append");
            assert_eq!(range, 12..13);
            drop(log);
            let log = open(torn.path(), &on_disk(200)).expect("open again");
            assert_eq!(read_from(&log, &first(), 0).await.expect("read").len(), 13);
        }
    }
}

#[tokio::test]
async fn a_topic_that_was_being_created_can_be_created() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(200)).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    log.create_topic(&topic(2)).await.expect("grow");
    drop(log);
    let note = directory.path().join("topic/topic.json");
    fs::remove_file(&note).expect("remove");
    let log = open(directory.path(), &on_disk(200)).expect("open");
    assert!(log.topics().await.expect("topics").is_empty());
    log.create_topic(&topic(2)).await.expect("create again");
    log.append(&first(), vec![event(0)]).await.expect("append");
    drop(log);
    // With records in it, it was not just being created.
    fs::remove_file(&note).expect("remove");
    assert_damaged(open(directory.path(), &on_disk(200)), &note, "a lost topic.json");
}
