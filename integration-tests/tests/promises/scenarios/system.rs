//! What scenarios run on: a system of their own, started for them, or one that runs already. It is spoken to by HTTP and by the
//! command line, and by nothing else, so it does not matter what its parts are.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use integration_tests::process::{Process, binary};

/// The URL of a system to use instead of starting one. It must serve the scenario's application and have no events yet.
pub const RUNNING: &str = "TIDEMARK_SCENARIO_URL";
/// The settings of embedded parts. Generations are made when a scenario says so, and at no other time.
pub const EMBEDDED: &str = "[batch]\nevery = \"never\"\n";

/// A system.
pub struct System {
    process: Option<Process>,
    /// Whether it was started here. One that was not is not stopped: a restart must not show in any answer, so a scenario is the
    /// same without one.
    is_ours: bool,
    http: reqwest::Client,
    /// Where it answers.
    pub url: String,
    /// Its application folder.
    pub app: PathBuf,
    data: PathBuf,
    /// Which parts it has: a settings file.
    config: PathBuf,
}

impl System {
    /// The running one, when there is one; else one is started on this application.
    pub fn new(app: &Path, data: &Path, settings: &str) -> Self {
        let config = data.with_extension("toml");
        std::fs::write(&config, settings).expect("written");
        let mut system = Self {
            process: None,
            is_ours: std::env::var_os(RUNNING).is_none(),
            http: reqwest::Client::new(),
            url: std::env::var(RUNNING).unwrap_or_default(),
            app: app.to_owned(),
            data: data.to_owned(),
            config,
        };
        if system.is_ours {
            system.start();
        }
        system
    }

    fn start(&mut self) {
        if let Err(written) = self.try_start() {
            panic!("tidemark did not become ready:\n{written}");
        }
    }

    fn try_start(&mut self) -> Result<(), String> {
        let process = Process::try_start(&self.app, &self.data, &["--config", &self.config.display().to_string()])?;
        self.url = process.url.clone();
        self.process = Some(process);
        Ok(())
    }

    /// Stops it gracefully and tries to start it again, with the application as it is now: what it says when it refuses.
    pub fn refused(&mut self) -> String {
        self.stop();
        match self.try_start() {
            Ok(()) => "started".to_owned(),
            Err(written) => {
                let told = written.lines().filter(|line| line.starts_with("tidemark: "));
                let told: String = told.map(|line| format!("{line}\n")).collect();
                // What the topics of a scenario are called on a server is nobody's business, nor which version it counts.
                let ids = regex::Regex::new(r"earlier schema \d+|version \d+ \(schema \d+\)").expect("a pattern");
                ids.replace_all(&without_prefix(&told), "earlier schema N").into_owned()
            }
        }
    }

    /// Stops it gracefully and starts it again, with the application as it is now.
    pub fn restart(&mut self) {
        if self.is_ours {
            self.stop();
            self.start();
        }
    }

    /// kill -9, and starts it again.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
            self.start();
        }
    }

    /// Stops it gracefully, if it was started here.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful");
        }
    }

    /// `tidemark ARGUMENTS --server …`.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).args(["--server", &self.url]).output().expect("the binary was built")
    }

    /// GET: the status and the body, as it was written.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a whole answer"))
    }

    /// POST of text: the status and the body.
    pub async fn post(&self, path: &str, media_type: &str, body: String) -> (u16, String) {
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", media_type).body(body);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a whole answer"))
    }
}

/// Text without what the names of a scenario's topics begin with on a server.
pub fn without_prefix(text: &str) -> String {
    let names = regex::Regex::new(r"\w+_[0-9a-f]{8}\.").expect("a pattern");
    names.replace_all(text, "").into_owned()
}
