//! Frozen bytes: a log written by version 1 of the format is read for ever as it was written.

use std::collections::BTreeMap;
use std::fs;

use super::*;

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen").join(name)
}

/// Freezes a log, when that is asked for and there is none yet.
pub fn write_frozen(log: &Path, name: &str) {
    if std::env::var_os("TIDEMARK_FREEZE").is_some() && !folder(name).exists() {
        copy_all(log, &folder(name));
        fs::remove_file(folder(name).join("~lock")).expect("remove");
    }
}

/// Checks that a log has the files of a frozen one, with the same bytes.
pub fn assert_same_files(log: &Path, name: &str) {
    let relative = |root: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        files(root)
            .into_iter()
            .map(|(path, bytes)| (path.strip_prefix(root).expect("inside").to_path_buf(), bytes))
            .collect()
    };
    let (written, expected) = (relative(log), relative(&folder(name)));
    assert_eq!(written.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, bytes) in expected {
        assert_eq!(written[&path], bytes, "{}", path.display());
    }
}

/// Every kind of record, in several groups and files, in a log that was trimmed; the clock and the salts are fixed.
async fn write_log(directory: &Path) {
    let host = Arc::new(TestHost::default());
    host.salt.store(0x5a17_0000, SeqCst);
    let log = open(directory, &EmbeddedOptions { file_bytes: 250, ..on_host(&host) }).expect("open");
    let spec = TopicSpec { name: "clicks.v1".into(), partitions: 2, segment_records: 4 };
    log.create_topic(&spec).await.expect("create topic");
    for (partition, number) in [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3)] {
        host.now.store(1_700_000_000_000_000 + number * 1_000_000, SeqCst);
        let to = TopicPartition::new("clicks.v1", partition);
        log.append(&to, group(number as u64)).await.expect("append");
    }
    log.trim(&TopicPartition::new("clicks.v1", 0), 5).await.expect("trim");
}

fn group(number: u64) -> Vec<Content> {
    let value = Bytes::from(vec![0, 0, 0, 0, 7, number as u8, 0xff]);
    vec![
        Content::Event { key: Some(format!("schlüssel-{number}").into()), value: value.clone() },
        Content::Event { key: None, value },
        Content::Marker(number + 1),
        Content::Event { key: Some(Bytes::new()), value: Bytes::new() },
        Content::Event { key: None, value: Bytes::new() },
    ]
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "~lock") {
            found.insert(path.clone(), fs::read(&path).expect("read"));
        }
    }
    found
}

#[tokio::test]
async fn version_1_is_read_as_it_was_written() {
    let copy = crash_copy(&folder("log-v1"));
    let log = open(copy.path(), &EmbeddedOptions { recent_bytes: 0, ..EmbeddedOptions::default() }).expect("open");
    let spec = TopicSpec { name: "clicks.v1".into(), partitions: 2, segment_records: 4 };
    assert_eq!(log.topics().await.expect("topics"), [spec]);
    assert_eq!(log.bounds("clicks.v1").await.expect("bounds"), [5..20, 0..5]);
    for (partition, start, groups) in [(0, 5, &[1, 2, 3][..]), (1, 0, &[0][..])] {
        let read = read_from(&log, &TopicPartition::new("clicks.v1", partition), start).await.expect("read");
        let expected: Vec<Record> = (start..)
            .zip(groups.iter().flat_map(|number| group(*number).into_iter().map(move |content| (number, content))))
            .map(|(offset, (number, content))| {
                // The clock of the log stood still, or went on by a second per group.
                Record { offset, append_time: 1_700_000_000_000_000 + *number as i64 * 1_000_000, content }
            })
            .collect();
        assert_eq!(read, expected, "partition {partition}");
    }
    log.append(&TopicPartition::new("clicks.v1", 0), group(9)).await.expect("append");
}

/// Fails when the bytes that are written change: then the version has to change too, and a new folder beside this one gets
/// frozen with `TIDEMARK_FREEZE=1`.
#[tokio::test]
async fn version_1_is_written_as_it_was_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write_log(directory.path()).await;
    write_frozen(directory.path(), "log-v1");
    assert_same_files(directory.path(), "log-v1");
}
