//! A real `tidemark run` process on a folder of its own: started, asked over HTTP, stopped by its id or killed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a process may take to become ready, or to finish after SIGTERM. Far more than it needs: whoever waits longer
/// waits for something that will not happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many of its last lines a process is remembered by.
const KEPT_LINES: usize = 200;

/// The binary under test: `TIDEMARK_BIN`, or the one that was built beside the running test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEMARK_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_default();
    // target/PROFILE/deps/test-HASH → target/PROFILE/tidemark
    let profile = test.ancestors().nth(2).unwrap_or(Path::new("target/debug"));
    profile.join("tidemark")
}

/// The arguments of `tidemark run` on a free port.
pub fn run_arguments(app: &Path, data: &Path, more: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        vec!["run".into(), "--app".into(), app.into(), "--data".into(), data.into(), "--listen".into()];
    arguments.push("127.0.0.1:0".into());
    arguments.extend(more.iter().map(OsString::from));
    arguments
}

/// What a process writes, line by line: the last ones of it.
#[derive(Clone, Default)]
pub struct Output(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    last: VecDeque<(Instant, String)>,
    /// How many lines there were before those.
    before: usize,
    /// How many streams are still open.
    open: usize,
}

impl Output {
    /// Follows a stream to its end on a thread of its own: a full pipe would stop the process.
    fn follow(&self, stream: impl Read + Send + 'static) {
        self.0.0.lock().open += 1;
        let output = self.clone();
        std::thread::spawn(move || {
            let show = std::env::var_os("TIDEMARK_SHOW").is_some();
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if show {
                    eprintln!("tidemark: {line}");
                }
                let mut lines = output.0.0.lock();
                lines.last.push_back((Instant::now(), line));
                if lines.last.len() > KEPT_LINES {
                    lines.last.pop_front();
                    lines.before += 1;
                }
                drop(lines);
                output.0.1.notify_all();
            }
            output.0.0.lock().open -= 1;
            output.0.1.notify_all();
        });
    }

    /// How many lines there were so far.
    pub fn count(&self) -> usize {
        let lines = self.0.0.lock();
        lines.before + lines.last.len()
    }

    /// Waits for the first line from the `from`th on in which `find` finds something. `None` when the process has written its last, or
    /// nothing of the kind for too long.
    pub fn wait_for<T>(&self, from: usize, patience: Duration, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (lines, changed) = &*self.0;
        let deadline = Instant::now() + patience;
        let mut next = from;
        let mut lines = lines.lock();
        loop {
            let unseen = lines.last.iter().skip(next.saturating_sub(lines.before));
            if let Some(found) = unseen.map(|(_, line)| line).find_map(|line| find(line)) {
                return Some(found);
            }
            next = lines.before + lines.last.len();
            if lines.open == 0 || changed.wait_until(&mut lines, deadline).timed_out() {
                return None;
            }
        }
    }

    /// The last lines, once there will be no more: with when each of them came.
    pub fn to_its_end(&self) -> Vec<(Instant, String)> {
        let (lines, changed) = &*self.0;
        let mut lines = lines.lock();
        while lines.open > 0 {
            if changed.wait_for(&mut lines, PATIENCE).timed_out() {
                break;
            }
        }
        lines.last.iter().cloned().collect()
    }

    /// The last lines so far, for whoever must find out what went wrong.
    pub fn last(&self) -> String {
        let lines = self.0.0.lock();
        lines.last.iter().map(|(_, line)| format!("{line}\n")).collect()
    }
}

/// A process that was started and may not be ready yet. Dropping it kills it.
pub struct Launched {
    child: Child,
    /// What it writes.
    pub output: Output,
}

impl Launched {
    /// Starts `tidemark run --app APP --data DATA` on a free port with further arguments.
    ///
    /// # Panics
    ///
    /// When there is no such binary.
    pub fn new(app: &Path, data: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(run_arguments(app, data, arguments));
        Self::by(command)
    }

    /// Starts what comes to the same: another program that becomes it.
    ///
    /// # Panics
    ///
    /// When there is no such program.
    pub fn by(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Output::default();
        output.follow(child.stdout.take().expect("it is piped"));
        output.follow(child.stderr.take().expect("it is piped"));
        Self { child, output }
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    ///
    /// What it wrote before it ended.
    pub fn ready(mut self) -> Result<Process, String> {
        // `tidemark ready on URL (…`, or `tidemark ROLE ready on URL (…`.
        let address = |line: &str| {
            let (name, url) = line.split_once(" ready on ")?;
            name.starts_with("tidemark").then(|| url.split(' ').next().map(str::to_owned))?
        };
        match self.output.wait_for(0, PATIENCE, address) {
            Some(url) => Ok(Process { launched: self, url, http: reqwest::Client::new() }),
            None => {
                let _ = self.child.kill();
                let status = self.child.wait().map(|status| status.to_string()).unwrap_or_default();
                Err(format!("{}{status}", self.output.last()))
            }
        }
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, signal);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end; `None` when that takes too long.
    fn wait(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        // A process that ends closes what it writes to: waiting for that is waiting for its end, up to a moment.
        self.output.to_its_end();
        loop {
            match self.ended() {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                ended => return ended,
            }
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whoever looks into the failed test will want to know.
            eprintln!("the last that tidemark (process {}) wrote:\n{}", self.child.id(), self.output.last());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running process. Dropping it kills it, so that no test leaves one behind.
pub struct Process {
    launched: Launched,
    /// Where it answers: `http://127.0.0.1:PORT`.
    pub url: String,
    /// Asks it.
    pub http: reqwest::Client,
}

impl Process {
    /// Starts `tidemark run --app APP --data DATA` on a free port with further arguments, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready within two minutes; with what it wrote.
    pub fn start(app: &Path, data: &Path, arguments: &[&str]) -> Process {
        Self::try_start(app, data, arguments)
            .unwrap_or_else(|written| panic!("tidemark did not become ready:\n{written}"))
    }

    /// The same, for starts that are expected to fail.
    ///
    /// # Errors
    ///
    /// What it wrote before it ended.
    pub fn try_start(app: &Path, data: &Path, arguments: &[&str]) -> Result<Process, String> {
        Launched::new(app, data, arguments).ready()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.launched.child.id()
    }

    /// What it writes.
    pub fn output(&self) -> &Output {
        &self.launched.output
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.launched.ended()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(self) {
        self.launched.kill();
    }

    /// Stops it where it is (SIGSTOP), or lets it go on (SIGCONT).
    pub fn hold(&self, still: bool) {
        self.launched.signal(if still { Signal::STOP } else { Signal::CONT });
    }

    /// SIGTERM, without waiting for what comes of it.
    pub fn ask_to_stop(&self) {
        self.launched.ask_to_stop();
    }

    /// SIGTERM, and waits for it to finish. Returns its exit code.
    ///
    /// # Panics
    ///
    /// When it does not finish; with the last that it wrote.
    pub fn terminate(mut self) -> Option<i32> {
        self.ask_to_stop();
        let Some(status) = self.launched.wait() else {
            panic!(
                "two minutes after SIGTERM the process still runs; the last that it wrote:\n{}",
                self.output().last()
            );
        };
        if !status.success() {
            eprintln!("the process ended with {status}; the last that it wrote:\n{}", self.output().last());
        }
        status.code()
    }

    /// GET, as JSON, with the status.
    ///
    /// # Errors
    ///
    /// When there is no answer: the process is gone.
    pub async fn get(&self, path: &str) -> Result<(u16, Value), reqwest::Error> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await?))
    }

    /// POST of a JSON value.
    ///
    /// # Errors
    ///
    /// When there is no answer: the process is gone.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value), reqwest::Error> {
        let answer = self.http.post(format!("{}{path}", self.url)).json(body).send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await?))
    }
}
