//! A real `tidemark run` process on a folder of its own: started, asked over HTTP, stopped by its id or killed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

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

/// A running process. Dropping it kills it, so that no test leaves one behind.
pub struct Process {
    child: Child,
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
        let mut command = Command::new(binary());
        command.arg("run").arg("--app").arg(app).arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        let (lines, written) = mpsc::channel();
        for stream in [
            child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
            child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        ] {
            let (lines, stream) = (lines.clone(), stream.expect("both are piped"));
            // Goes on reading after the ready line: a full pipe would stop the process.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if lines.send(line.clone()).is_err() && std::env::var_os("TIDEMARK_SHOW").is_some() {
                        eprintln!("tidemark: {line}");
                    }
                }
            });
        }
        drop(lines);
        let mut seen = String::new();
        loop {
            match written.recv_timeout(Duration::from_secs(120)) {
                Ok(line) => {
                    if let Some(url) = line.strip_prefix("tidemark ready on ").and_then(|rest| rest.split(' ').next()) {
                        let http = reqwest::Client::new();
                        return Ok(Process { child, url: url.to_owned(), http });
                    }
                    seen.push_str(&line);
                    seen.push('\n');
                }
                Err(_) => {
                    let _ = child.kill();
                    let status = child.wait().map(|status| status.to_string()).unwrap_or_default();
                    return Err(format!("{seen}{status}"));
                }
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for it to finish. Returns its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        self.child.wait().ok().and_then(|status| status.code())
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

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
