//! A scheduler and executors: real processes, stopped by their ids.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::archive::World;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// The binary, built beside this test with the feature `distributed`.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    test.ancestors().nth(2).expect("target/debug").join("tidemark")
}

/// A process that said it is ready.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: String,
    pub data: PathBuf,
}

impl Process {
    /// Starts a command and waits for its one line.
    fn start(arguments: &[&str], variables: &[(&str, String)], data: &Path) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        if std::env::var_os("TIDEMARK_SHOW").is_none() {
            command.stderr(Stdio::null());
        }
        for (name, value) in variables {
            command.env(name, value);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        let (line, is_ready) = mpsc::channel();
        let output = child.stdout.take().expect("its output");
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = line.send(text);
            }
        });
        // Killed by its drop, whatever comes.
        let mut process = Self { child, address: String::new(), data: data.to_owned() };
        let line =
            is_ready.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{arguments:?} is not ready: {error}"));
        let address = line.split(" ready on ").nth(1).and_then(|rest| rest.split(' ').next());
        process.address = address.unwrap_or_else(|| panic!("{line}")).to_owned();
        process
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How many files with the output of tasks of a stage it keeps.
    pub fn outputs(&self, stage: usize) -> usize {
        fn files(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
        }
        let jobs = std::fs::read_dir(self.data.join("stages")).into_iter().flatten().flatten();
        jobs.map(|job| files(&job.path().join(stage.to_string()))).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A scheduler with executors of one core each.
pub struct Cluster {
    pub scheduler: Process,
    pub executors: Vec<Process>,
}

impl Cluster {
    pub fn start(world: &World, executors: usize, memory: &str) -> Self {
        let scheduler = scheduler(world, "127.0.0.1:0");
        let executors = (0..executors).map(|number| executor(world, &scheduler.address, number, memory)).collect();
        Self { scheduler, executors }
    }
}

/// A scheduler that notices as soon as it can that an executor is dead.
pub fn scheduler(world: &World, address: &str) -> Process {
    let arguments = ["batch-scheduler", "--listen", address, "--executor-timeout", "10s"];
    Process::start(&arguments, &[], world.directory.path())
}

fn executor(world: &World, scheduler: &str, number: usize, memory: &str) -> Process {
    let data = world.directory.path().join(format!("executor-{number}"));
    let folder = data.display().to_string();
    let arguments = ["batch-executor", "--data", folder.as_str(), "--port", "0", "--cores", "1"];
    let variables = [
        ("TIDEMARK__ARCHIVE__URL", world.archive_url()),
        ("TIDEMARK__REGISTRY__URL", world.registry_url.clone()),
        ("TIDEMARK__BATCH__SCHEDULER", scheduler.to_owned()),
        ("TIDEMARK__BATCH__MEMORY", memory.to_owned()),
    ];
    Process::start(&arguments, &variables, &data)
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it never happens that {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// No test waits longer than this for something that should happen.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it never happens")
}
