//! The embedded log: the port's promises, and what becomes of its files.

mod beginning;
mod crash;
mod damage;
mod files;
mod frozen;
mod full_disk;
mod histories;
mod promises;
mod torn;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

use bytes::Bytes;
use event_log::embedded::Host;
use event_log::{Content, EmbeddedLog, EmbeddedOptions, EventLog, LogError, ReadLimit, Record, TopicSpec};
use tempfile::TempDir;
use views::{Offset, TopicPartition};

const HEADER: u64 = 52;

/// Fast, and every read comes from the disk.
fn on_disk(file_bytes: u64) -> EmbeddedOptions {
    EmbeddedOptions { fsync: false, file_bytes, recent_bytes: 0, ..EmbeddedOptions::default() }
}

fn open(directory: &Path, options: &EmbeddedOptions) -> Result<EmbeddedLog, LogError> {
    EmbeddedLog::open(directory, options.clone())
}

fn topic(partitions: u32) -> TopicSpec {
    TopicSpec { name: "topic".into(), partitions, segment_records: 10 }
}

fn first() -> TopicPartition {
    TopicPartition::new("topic", 0)
}

fn event(number: u64) -> Content {
    let key = (!number.is_multiple_of(3)).then(|| Bytes::from(format!("key {}", number % 7)));
    Content::Event { key, value: format!("event {number}").into() }
}

async fn read_from(log: &dyn EventLog, of: &TopicPartition, from: Offset) -> Result<Vec<Record>, LogError> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let next = from + all.len() as Offset;
        let read = log.read(of, next, ReadLimit::records(1000)).await?;
        if read.is_empty() {
            return Ok(all);
        }
        for (offset, record) in (next..).zip(&read) {
            assert_eq!(record.offset, offset, "the embedded log leaves no gaps");
        }
        all.extend(read);
    }
}

/// What a kill -9 at this moment leaves behind.
fn crash_copy(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    copy_all(directory, copy.path());
    copy
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy");
        }
    }
}

fn log_file(directory: &Path, base: Offset) -> PathBuf {
    directory.join(format!("topic/00000/{base:020}.log"))
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").len()
}

fn cut(path: &Path, length: u64) {
    File::options().write(true).open(path).and_then(|file| file.set_len(length)).expect("cut");
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).and_then(|file| file.write_all_at(bytes, at)).expect("overwrite");
}

fn flip(path: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).expect("read");
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).expect("write");
}

/// Asserts damage that names the file.
#[track_caller]
fn assert_damaged<T>(result: Result<T, LogError>, file: &Path, what: &str) -> String {
    match result {
        Err(LogError::Damaged(message)) => {
            assert!(message.contains(&file.display().to_string()), "{what}: {message:?} does not name the file");
            message
        }
        Err(error) => panic!("{what}: {error:?}"),
        Ok(_) => panic!("{what}: the damage went unnoticed"),
    }
}

/// A machine whose clock stands still and whose disk does what a test wants.
#[derive(Default)]
struct TestHost {
    now: AtomicI64,
    salt: AtomicU32,
    /// How many more bytes fit on the disk; `limited` says whether that counts.
    room: AtomicU64,
    limited: AtomicU32,
    failing_syncs: AtomicU32,
    failing_truncates: AtomicU32,
}

impl TestHost {
    fn leave_room(&self, bytes: u64) {
        self.room.store(bytes, SeqCst);
        self.limited.store(1, SeqCst);
    }

    fn make_room(&self) {
        self.limited.store(0, SeqCst);
    }
}

fn fails(left: &AtomicU32) -> bool {
    left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Host for TestHost {
    fn now(&self) -> i64 {
        self.now.load(SeqCst)
    }

    fn salt(&self) -> u32 {
        self.salt.fetch_add(1, SeqCst)
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.limited.load(SeqCst) == 0 {
            return file.write_all_at(bytes, at);
        }
        let room = self.room.load(SeqCst);
        let written = room.min(bytes.len() as u64);
        self.room.store(room - written, SeqCst);
        file.write_all_at(&bytes[..written as usize], at)?;
        if written < bytes.len() as u64 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if fails(&self.failing_syncs) { Err(io::Error::other("the disk is dying")) } else { file.sync_data() }
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        if fails(&self.failing_truncates) { Err(io::Error::other("the disk is dead")) } else { file.set_len(length) }
    }
}

fn on_host(host: &Arc<TestHost>) -> EmbeddedOptions {
    EmbeddedOptions { recent_bytes: 0, host: host.clone(), ..EmbeddedOptions::default() }
}
