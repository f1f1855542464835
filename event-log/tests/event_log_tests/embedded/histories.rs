//! Random histories of one partition against a list: appends, reads, trims, closing, crashes, torn ends.

use std::fs;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

struct History {
    random: StdRng,
    directory: TempDir,
    options: EmbeddedOptions,
    log: Option<EmbeddedLog>,
    /// Every record ever acknowledged, by offset.
    records: Vec<Record>,
    next_event: u64,
}

impl History {
    fn log(&self) -> &EmbeddedLog {
        self.log.as_ref().expect("it is open")
    }

    fn content(&mut self) -> Content {
        self.next_event += 1;
        match self.random.random_range(0..10) {
            0 => Content::Marker(self.next_event),
            1 => Content::Event {
                key: None,
                value: vec![self.next_event as u8; self.random.random_range(0..2000)].into(),
            },
            _ => event(self.next_event),
        }
    }

    async fn append(&mut self) {
        let count = self.random.random_range(1..8);
        let contents: Vec<_> = (0..count).map(|_| self.content()).collect();
        let range = self.log().append(&first(), contents.clone()).await.expect("append");
        assert_eq!(range, self.records.len() as u64..self.records.len() as u64 + count);
        let mut new = Vec::new();
        while new.len() < contents.len() {
            let from = range.start + new.len() as u64;
            new.extend(self.log().read(&first(), from, ReadLimit::records(100)).await.expect("read"));
        }
        assert_eq!(new.iter().map(|record| record.content.clone()).collect::<Vec<_>>(), contents);
        self.records.extend(new);
        assert!(self.records.is_sorted_by_key(|record| record.append_time));
    }

    async fn read(&mut self) {
        let bounds = self.log().bounds("topic").await.expect("bounds")[0].clone();
        assert_eq!(bounds.end, self.records.len() as u64);
        let from = self.random.random_range(0..=bounds.end + 1);
        let limit = ReadLimit {
            records: self.random.random_range(1..50),
            bytes: self.random.random_range(0..5000),
            ..ReadLimit::records(1)
        };
        match self.log().read(&first(), from, limit).await {
            Ok(read) if from >= bounds.start => {
                assert_eq!(read.is_empty(), from >= bounds.end);
                let from = from.min(bounds.end) as usize;
                assert_eq!(read, self.records[from..from + read.len()]);
            }
            outcome => assert!(from < bounds.start && matches!(outcome, Err(LogError::Invalid(_))), "{outcome:?}"),
        }
    }

    async fn trim(&mut self) {
        let start = self.log().bounds("topic").await.expect("bounds")[0].start;
        let before = self.random.random_range(0..=self.records.len() as u64 + 1);
        self.log().trim(&first(), before).await.expect("trim");
        let trimmed = self.log().bounds("topic").await.expect("bounds")[0].start;
        assert!((start..=start.max(before)).contains(&trimmed), "{trimmed} after a trim of {start} to {before}");
    }

    fn close_and_open(&mut self) {
        self.log = None;
        self.log = Some(open(self.directory.path(), &self.options).expect("open"));
    }

    /// Goes on with what a kill -9 would have left, perhaps with the beginning of a group that was being written.
    async fn crash(&mut self) {
        let before = self.newest_file(self.directory.path());
        let committed = length(&before);
        let copy = crash_copy(self.directory.path());
        if self.random.random_bool(0.7) {
            // A group that was never acknowledged, cut anywhere, perhaps with a hole.
            let after = crash_copy(self.directory.path());
            {
                let log =
                    open(after.path(), &EmbeddedOptions { file_bytes: 1 << 30, ..self.options.clone() }).expect("open");
                let contents = (0..self.random.random_range(1..5)).map(|_| self.content()).collect();
                log.append(&first(), contents).await.expect("append");
            }
            let bytes = fs::read(self.newest_file(after.path())).expect("read");
            let torn = self.newest_file(copy.path());
            let end = self.random.random_range(committed..bytes.len() as u64);
            overwrite(&torn, committed, &bytes[committed as usize..end as usize]);
            if end > committed && self.random.random_bool(0.5) {
                let hole = self.random.random_range(committed..end);
                overwrite(&torn, hole, &vec![0; self.random.random_range(1..=end - hole) as usize]);
            }
        }
        self.log = None;
        self.directory = copy;
        let log = open(self.directory.path(), &self.options).expect("open after a crash");
        // Frames of the torn group that arrived whole are there now, and stay.
        let end = log.bounds("topic").await.expect("bounds")[0].end;
        assert!(end >= self.records.len() as u64, "acknowledged records are lost");
        let extra = read_from(&log, &first(), self.records.len() as u64).await.expect("read");
        self.records.extend(extra);
        self.log = Some(log);
    }

    fn newest_file(&self, directory: &Path) -> PathBuf {
        let bases = (0..=self.records.len() as u64).rev();
        bases.map(|base| log_file(directory, base)).find(|path| path.exists()).expect("there is a file")
    }
}

async fn run(seed: u64) {
    println!("embedded log, seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let options = EmbeddedOptions {
        fsync: random.random_bool(0.2),
        file_bytes: random.random_range(60..9000),
        recent_bytes: [0, 1000, 1 << 20][random.random_range(0..3)],
        ..EmbeddedOptions::default()
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = open(directory.path(), &options).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    let mut history = History { random, directory, options, log: Some(log), records: Vec::new(), next_event: 0 };
    for _ in 0..80 {
        match history.random.random_range(0..20) {
            0..9 => history.append().await,
            9..16 => history.read().await,
            16 => history.trim().await,
            17..19 => history.close_and_open(),
            _ => history.crash().await,
        }
    }
    history.close_and_open();
    let start = history.log().bounds("topic").await.expect("bounds")[0].start;
    let kept = read_from(history.log(), &first(), start).await.expect("read");
    assert_eq!(kept, history.records[start as usize..]);
}

#[tokio::test]
async fn random_histories_keep_every_record() {
    let start: u64 = rand::rng().random();
    for number in 0..24 {
        run(start.wrapping_add(number)).await;
    }
}
