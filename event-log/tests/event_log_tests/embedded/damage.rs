//! Bytes that are not what was written are refused by name, never handed out, and nothing else is lost.

use std::fs;

use super::*;

/// Groups of two records each, in one file or several; returns the records and where each group of the first file ends.
async fn write_groups(log: &EmbeddedLog, directory: &Path, groups: u64) -> (Vec<Record>, Vec<u64>) {
    log.create_topic(&topic(1)).await.expect("create topic");
    let mut ends = vec![HEADER];
    for group in 0..groups {
        let second = if group % 2 == 0 { event(2 * group + 1) } else { Content::Marker(group) };
        log.append(&first(), vec![event(2 * group), second]).await.expect("append");
        ends.push(length(&log_file(directory, 0)));
    }
    (read_from(log, &first(), 0).await.expect("read"), ends)
}

#[tokio::test]
async fn a_flipped_bit_before_the_last_group_is_refused_when_opening() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(1 << 20)).expect("open");
    let (records, ends) = write_groups(&log, directory.path(), 4).await;
    let damaged = crash_copy(directory.path());
    let file = log_file(damaged.path(), 0);
    for bit in 0..8 * ends[3] {
        flip(&file, bit);
        let message = assert_damaged(open(damaged.path(), &on_disk(1 << 20)), &file, &format!("bit {bit}"));
        let at: u64 = message
            .split("byte ")
            .nth(1)
            .and_then(|rest| rest.split(':').next())
            .expect("a byte")
            .parse()
            .expect("a number");
        // The byte named is where the frame begins.
        assert!(at <= bit / 8 && bit / 8 - at < 80, "bit {bit}: {message}");
        flip(&file, bit);
    }
    let log = open(damaged.path(), &on_disk(1 << 20)).expect("every bit was flipped back");
    assert_eq!(read_from(&log, &first(), 0).await.expect("read"), records);
}

#[tokio::test]
async fn a_flipped_bit_in_the_last_group_never_becomes_data() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(1 << 20)).expect("open");
    let (records, ends) = write_groups(&log, directory.path(), 3).await;
    // Coprime to 8: every bit of a byte has its turn.
    for bit in (8 * ends[2]..8 * ends[3]).step_by(5) {
        let damaged = crash_copy(directory.path());
        flip(&log_file(damaged.path(), 0), bit);
        let log = open(damaged.path(), &on_disk(1 << 20)).expect("it looks like a torn group");
        let read = read_from(&log, &first(), 0).await.expect("read");
        assert!((4..6).contains(&read.len()), "bit {bit}");
        assert_eq!(read, records[..read.len()], "bit {bit}");
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_refused_after_the_log_was_closed() {
    let options = EmbeddedOptions { file_bytes: 1 << 20, ..EmbeddedOptions::default() };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &options).expect("open");
    let (records, ends) = write_groups(&log, directory.path(), 3).await;
    drop(log);
    let file = log_file(directory.path(), 0);
    for bit in (0..8 * ends[3]).step_by(11) {
        flip(&file, bit);
        assert_damaged(open(directory.path(), &options), &file, &format!("bit {bit}"));
        flip(&file, bit);
    }
    for shorter in (0..ends[3]).step_by(3) {
        let damaged = crash_copy(directory.path());
        let file = log_file(damaged.path(), 0);
        cut(&file, shorter);
        assert_damaged(open(damaged.path(), &options), &file, &format!("cut at byte {shorter}"));
    }
    let log = open(directory.path(), &options).expect("every bit was flipped back");
    assert_eq!(read_from(&log, &first(), 0).await.expect("read"), records);
}

#[tokio::test]
async fn a_flipped_bit_in_an_older_file_is_met_when_it_is_read() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(300)).expect("open");
    let (records, _) = write_groups(&log, directory.path(), 12).await;
    drop(log);
    let file = log_file(directory.path(), 0);
    let in_first = (1..24).find(|base| log_file(directory.path(), *base).exists()).expect("a second file");
    assert!(in_first > 3, "several records are in the first file");
    for bit in (8 * HEADER..8 * length(&file)).step_by(3) {
        flip(&file, bit);
        let log = open(directory.path(), &on_disk(300)).expect("only the last file is walked through");
        let mut lost = Vec::new();
        for from in 0..24 {
            match log.read(&first(), from, ReadLimit::records(1000)).await {
                Ok(read) => {
                    assert_eq!(read, records[from as usize..from as usize + read.len()], "bit {bit}, from {from}")
                }
                damaged => {
                    let message = assert_damaged(damaged, &file, &format!("bit {bit}, from {from}"));
                    assert!(message.contains("byte "), "{message}");
                    lost.push(from);
                }
            }
        }
        assert_eq!(lost.len(), 1, "bit {bit}: one record is lost, and no other: {lost:?}");
        drop(log);
        flip(&file, bit);
    }
}

#[tokio::test]
async fn a_damaged_header_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(300)).expect("open");
    write_groups(&log, directory.path(), 12).await;
    drop(log);
    for base in (0..24).filter(|base| log_file(directory.path(), *base).exists()) {
        let file = log_file(directory.path(), base);
        for bit in 0..8 * HEADER {
            flip(&file, bit);
            assert_damaged(open(directory.path(), &on_disk(300)), &file, &format!("bit {bit}"));
            flip(&file, bit);
        }
    }
    open(directory.path(), &on_disk(300)).expect("every bit was flipped back");
}

#[tokio::test]
async fn a_missing_or_shortened_file_is_refused() {
    let options = EmbeddedOptions { file_bytes: 300, ..EmbeddedOptions::default() };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &options).expect("open");
    write_groups(&log, directory.path(), 12).await;
    let crashed = crash_copy(directory.path());
    drop(log);
    let bases: Vec<_> = (0..24).filter(|base| log_file(directory.path(), *base).exists()).collect();
    assert!(bases.len() > 3, "{bases:?}");
    for state in [directory.path(), crashed.path()] {
        for base in &bases {
            let damaged = crash_copy(state);
            fs::remove_file(log_file(damaged.path(), *base)).expect("remove");
            let message = open(damaged.path(), &options).err().expect("a file is missing").to_string();
            assert!(message.contains(&format!("{base:020}.log")) && message.contains("missing"), "{message}");
        }
        for base in &bases[..bases.len() - 1] {
            let damaged = crash_copy(state);
            let file = log_file(damaged.path(), *base);
            cut(&file, length(&file) - 1);
            assert_damaged(open(damaged.path(), &options), &file, "an older file was cut");
        }
        for name in ["topic/topic.json", "topic/00000/partition.json"] {
            let damaged = crash_copy(state);
            let note = damaged.path().join(name);
            fs::remove_file(&note).expect("remove");
            assert_damaged(open(damaged.path(), &options), &note, "a note is missing");
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_note_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &on_disk(300)).expect("open");
    write_groups(&log, directory.path(), 3).await;
    drop(log);
    for name in ["topic/topic.json", "topic/00000/partition.json"] {
        let note = directory.path().join(name);
        for bit in 0..8 * length(&note) {
            flip(&note, bit);
            assert_damaged(open(directory.path(), &on_disk(300)), &note, &format!("bit {bit}"));
            flip(&note, bit);
        }
    }
    open(directory.path(), &on_disk(300)).expect("every bit was flipped back");
}

#[tokio::test]
async fn a_damaged_tail_is_still_served_from_memory_and_refused_from_disk() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::default() };
    let log = open(directory.path(), &options).expect("open");
    let (records, ends) = write_groups(&log, directory.path(), 4).await;
    overwrite(&log_file(directory.path(), 0), ends[1], &[0xff; 8]);
    assert_eq!(read_from(&log, &first(), 0).await.expect("read"), records);
    drop(log);
    assert_damaged(open(directory.path(), &options), &log_file(directory.path(), 0), "damage with later groups");
}
