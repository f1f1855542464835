//! A real process whose disk is full: it refuses what it cannot keep and says why, goes on answering from what it has, and when there
//! is room again it goes on by itself.
//!
//! A full disk is made in two ways. A small file system of its own, in a mount namespace, is the real thing, and needs rights that
//! not every machine gives. A limit to how large the process's files may get (`RLIMIT_FSIZE`) can be had everywhere, and makes
//! the same writes fail.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::process::{Launched, Process, binary, run_arguments};
use rustix::process::{Pid, Resource, Rlimit};
use serde_json::{Value, json};
use views::{Position, TopicPartition};

/// No test waits longer than this for something that must happen.
const PATIENCE: Duration = Duration::from_secs(120);

const SCHEMA: &str = r#"{"type": "record", "name": "Event", "fields": [
  {"name": "n", "type": "long"}, {"name": "id", "type": "string"}, {"name": "text", "type": "string"}]}"#;

/// One partition, so that a position is a number of events; ids, so that their index has to be kept too.
const VIEWS: &str = "\
CREATE SOURCE events WITH (schema = 'event.avsc', event_id = 'id', segment_records = 40, retention = '1ms');
CREATE MATERIALIZED VIEW all_events WITH (freshness_slo = '200ms') AS
  SELECT 'all' AS it, array_agg(n) AS numbers, count(*) AS count FROM events GROUP BY it;
";

/// A place with little room.
trait Disk {
    /// Where the data is, for the process and for us.
    fn start(&self, app: &Path) -> Process;
    /// Takes all the room there is.
    fn fill(&mut self, process: &Process);
    /// Gives it back.
    fn free(&mut self, process: &Process);
}

/// A file system of its own, kept by a process that has nothing else to do.
struct SmallDisk {
    keeper: Child,
    /// Where it is mounted, as the keeper sees it.
    place: PathBuf,
    /// How to get where the keeper is.
    enter: Vec<String>,
}

impl SmallDisk {
    /// Mounts one, if that is allowed here.
    fn mount(place: &Path) -> Result<Self, String> {
        let mount = "mount -t tmpfs -o size=24m tmpfs \"$0\" && echo mounted && exec cat";
        let mut refused = Vec::new();
        // As root; as anybody, where users may have a namespace of their own.
        for user in [&[][..], &["--user", "--map-root-user"]] {
            let mut command = Command::new("unshare");
            command.arg("--mount").args(user).args(["sh", "-c", mount]).arg(place);
            let keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
            let mut keeper = keeper.map_err(|error| format!("unshare: {error}"))?;
            let mut line = String::new();
            let read = BufReader::new(keeper.stdout.take().expect("it is piped")).read_line(&mut line);
            if read.is_ok() && line == "mounted\n" {
                let target = format!("--target={}", keeper.id());
                let mut enter = vec!["nsenter".to_owned(), "--mount".to_owned(), target];
                if !user.is_empty() {
                    enter.extend(["--user", "--preserve-credentials"].map(str::to_owned));
                }
                return Ok(Self { keeper, place: place.to_owned(), enter });
            }
            let _ = keeper.kill();
            let ended = keeper.wait();
            refused.push(format!("unshare --mount {}: {ended:?}", user.join(" ")));
        }
        Err(refused.join("; "))
    }

    /// The ballast, as we see it.
    fn ballast(&self) -> PathBuf {
        let inside = self.place.strip_prefix("/").unwrap_or(&self.place);
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(inside).join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

impl Disk for SmallDisk {
    fn start(&self, app: &Path) -> Process {
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).arg("--").arg(binary());
        command.args(run_arguments(app, &self.place.join("data"), &[]));
        Launched::by(command).ready().unwrap_or_else(|written| panic!("tidemark did not become ready:\n{written}"))
    }

    fn fill(&mut self, _process: &Process) {
        let mut ballast = File::create(self.ballast()).expect("a file on the small disk");
        let full = loop {
            if let Err(error) = ballast.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    fn free(&mut self, _process: &Process) {
        std::fs::remove_file(self.ballast()).expect("the ballast is ours");
    }
}

/// Any disk, with a limit to how large the process's files may get.
struct SmallFiles {
    data: PathBuf,
}

impl SmallFiles {
    fn limit(process: &Process, most: Option<u64>) {
        let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let limit = Rlimit { current: most, maximum: None };
        rustix::process::prlimit(id, Resource::Fsize, limit).expect("a limit of our own process");
    }
}

impl Disk for SmallFiles {
    fn start(&self, app: &Path) -> Process {
        let mut command = Command::new("sh");
        // Who ignores the signal gets the error.
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(binary());
        command.args(run_arguments(app, &self.data, &[]));
        Launched::by(command).ready().unwrap_or_else(|written| panic!("tidemark did not become ready:\n{written}"))
    }

    fn fill(&mut self, process: &Process) {
        // The log has some more, and soon it has not.
        Self::limit(process, Some(16 << 10));
    }

    fn free(&mut self, process: &Process) {
        Self::limit(process, None);
    }
}

#[tokio::test]
async fn on_a_small_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("disk");
    std::fs::create_dir(&place).expect("a folder");
    match SmallDisk::mount(&place) {
        Ok(disk) => keeps_its_promises(disk, folder.path()).await,
        Err(refused) => {
            println!(
                "no file system of our own can be had here ({refused}): a full disk is tested by limited files only"
            );
        }
    }
}

#[tokio::test]
async fn with_limited_files() {
    let folder = tempfile::tempdir().expect("a folder");
    keeps_its_promises(SmallFiles { data: folder.path().join("data") }, folder.path()).await;
}

async fn keeps_its_promises(mut disk: impl Disk, folder: &Path) {
    let app = folder.join("app");
    std::fs::create_dir(&app).expect("a folder");
    std::fs::write(app.join("event.avsc"), SCHEMA).expect("written");
    std::fs::write(app.join("views.sql"), VIEWS).expect("written");
    std::fs::write(app.join("tidemark.toml"), "[batch]\nevery = \"never\"\n").expect("written");
    let mut process = disk.start(&app);
    let mut client = Client::default();

    // While there is room.
    for _ in 0..30 {
        assert!(client.append(&process, 100).await.is_ok());
    }
    let before = client.ask(&process, true).await;
    assert_eq!(before.numbers, client.acknowledged, "everything is there");
    assert_eq!(process.get("/readyz").await.expect("an answer").0, 200);

    // Until nothing more is taken: what is small may fit in where what is large did not.
    disk.fill(&process);
    let (mut refused, mut taken, mut shown) = (0, 0, true);
    while refused < 8 {
        match client.append(&process, 40).await {
            Ok(()) => {
                (refused, taken) = (0, taken + 1);
                // Its states are to be written too, one by one, until that fails.
                shown = shown && client.shows_all(&process, "500ms").await;
            }
            Err(problem) => {
                refused += 1;
                assert_eq!(problem["status"], 503, "{problem}");
                let detail = problem["detail"].as_str().unwrap_or_default();
                assert!(detail.contains("No space left") || detail.contains("File too large"), "{problem}");
            }
        }
        assert!(taken < 10_000, "the disk is full, and takes everything");
    }
    let (status, problem) = process.get("/readyz").await.expect("an answer");
    let reason = problem["detail"].as_str().unwrap_or_default();
    assert_eq!(status, 503, "{problem}");
    assert!(["No space left", "File too large", "Poisoned"].iter().any(|why| reason.contains(why)), "{problem}");
    // A batch run begins and waits for the archive, or says why it cannot begin.
    let (status, run) = process.post("/v1/batch/runs", &json!({})).await.expect("an answer");
    assert!(status == 202 || status == 503, "{status} {run}");

    // Answers are right as far as they reach, and say so when they lag.
    let (lines, cpu, asked_from) = (process.output().count(), cpu_time(&process), Instant::now());
    let mut during = Vec::new();
    while asked_from.elapsed() < Duration::from_secs(2) {
        let answer = client.ask(&process, false).await;
        let lags = answer.position < client.acknowledged.len() as u64;
        assert!(!lags || answer.degraded || answer.freshness_ms <= 200, "it lags, and does not say so: {answer:?}");
        during.push(answer);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(process.ended(), None, "it lives:\n{}", process.output().last());
    let (lines, cpu) = (process.output().count() - lines, cpu_time(&process) - cpu);
    println!(
        "full: {taken} more events were taken; in {:?} it wrote {lines} lines and took {cpu:?} of CPU",
        asked_from.elapsed()
    );
    assert!(lines < 400, "it says the same again and again:\n{}", process.output().last());
    assert!(cpu < asked_from.elapsed() / 2, "it loops: {cpu:?}");

    // By itself.
    disk.free(&process);
    client.recovers(&process).await;
    for _ in 0..10 {
        assert!(client.append(&process, 100).await.is_ok());
    }
    let after = client.ask(&process, true).await;
    client.check(&after);
    for answer in during.iter().chain([&before]) {
        assert!(after.numbers.starts_with(&answer.numbers), "what was there is gone: {answer:?}\n{after:?}");
    }
    assert_eq!(process.get("/readyz").await.expect("an answer").0, 200);
    client.batch_run(&process).await;
    let (_, verified) = process.post("/v1/verify", &json!({})).await.expect("an answer");
    assert_eq!(verified["equal"], true, "{verified}");
    assert_eq!(client.ask(&process, true).await.numbers, after.numbers, "out of the generation");
    assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful");

    let process = disk.start(&app);
    assert_eq!(client.ask(&process, true).await.numbers, after.numbers, "after a restart");
    assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful");
}

/// Sends events one by one, and remembers what became of them.
#[derive(Default)]
struct Client {
    sent: i64,
    acknowledged: Vec<i64>,
    position: Position,
}

#[derive(Debug)]
struct Answer {
    numbers: Vec<i64>,
    position: u64,
    freshness_ms: u64,
    degraded: bool,
}

impl Client {
    /// Appends one event with so much text.
    async fn append(&mut self, process: &Process, length: usize) -> Result<(), Value> {
        let event = json!({ "n": self.sent, "id": format!("event {}", self.sent), "text": "x".repeat(length) });
        self.sent += 1;
        let (status, answer) = process.post("/v1/topics/events/events", &event).await.expect("an answer");
        if status != 200 {
            return Err(answer);
        }
        assert_eq!(answer["accepted"], 1, "{answer}");
        self.acknowledged.push(self.sent - 1);
        self.position = Position::from_token(answer["position"].as_str().expect("a position")).expect("a position");
        Ok(())
    }

    /// Asks for all events: with what was acknowledged, or as it is.
    async fn ask(&self, process: &Process, all: bool) -> Answer {
        let reach = if all { format!("&min_position={}&timeout=30s", self.position.token()) } else { String::new() };
        let (status, answer) = process.get(&format!("/v1/views/all_events?it=all{reach}")).await.expect("an answer");
        assert_eq!(status, 200, "{answer}\n{}", process.output().last());
        let numbers = answer["rows"][0]["numbers"].as_array();
        let position = Position::from_token(answer["position"].as_str().expect("a position")).expect("a position");
        Answer {
            numbers: numbers.into_iter().flatten().filter_map(Value::as_i64).collect(),
            position: position.get(&TopicPartition::new("events", 0)).unwrap_or(0),
            freshness_ms: answer["freshness_ms"].as_u64().unwrap_or(u64::MAX),
            degraded: !answer["degraded"].is_null(),
        }
    }

    /// Whether an answer has everything acknowledged, after waiting for that.
    async fn shows_all(&self, process: &Process, timeout: &str) -> bool {
        let token = self.position.token();
        let answer = process.get(&format!("/v1/views/all_events?it=all&min_position={token}&timeout={timeout}")).await;
        matches!(answer, Ok((200, _)))
    }

    /// Waits until what was acknowledged is there. It may go away for a moment to come back.
    async fn recovers(&self, process: &Process) {
        let started = Instant::now();
        while !self.shows_all(process, "1s").await {
            assert!(started.elapsed() < PATIENCE, "it does not recover:\n{}", process.output().last());
            // Only asking again can tell whether it is back.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A batch run, to its end. The one that was asked for when the disk was full may be under way.
    async fn batch_run(&self, process: &Process) {
        let started = Instant::now();
        loop {
            let (status, run) = process.post("/v1/batch/runs?wait=true", &json!({})).await.expect("an answer");
            if status != 409 {
                assert_eq!((status, &run["state"]), (200, &json!("published")), "{run}");
                return;
            }
            assert!(started.elapsed() < PATIENCE, "it is busy for ever: {run}\n{}", process.output().last());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything acknowledged is there once and in order; of the rest each at most once.
    fn check(&self, answer: &Answer) {
        let known: Vec<i64> =
            answer.numbers.iter().copied().filter(|number| self.acknowledged.contains(number)).collect();
        assert_eq!(known, self.acknowledged);
        let mut all = answer.numbers.clone();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), answer.numbers.len(), "something is there twice: {answer:?}");
        assert!(all.iter().all(|number| (0..self.sent).contains(number)), "nobody sent that: {answer:?}");
    }
}

/// How much of a processor the process has used.
fn cpu_time(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("it runs");
    // After the name in parentheses: utime and stime are the 12th and 13th.
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .into_iter()
        .flat_map(str::split_whitespace)
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    // In hundredths of a second, whatever the kernel counts in.
    Duration::from_millis((fields[11] + fields[12]) * 10)
}
