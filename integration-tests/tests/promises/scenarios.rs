//! Scenarios: small readable files in `integration-tests/scenarios`, each a story told to a real system step by step, with the
//! answers it must give. `TIDEMARK_COMPLETE=1` writes the answers that it gives into the files instead: then look at the diff.

#[path = "scenarios/script.rs"]
mod script;
#[path = "scenarios/show.rs"]
mod show;
#[path = "scenarios/system.rs"]
mod system;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Timelike as _, Utc};
use event_log::encode::EventEncoder;
use integration_tests::events::container;
use integration_tests::process::binary;
use script::{Script, Step};
use serde_json::Value;
use show::Page;
use system::System;
use views::{Position, TopicPartition};

/// One test for each file on embedded parts, and one on the real servers.
macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            run(stringify!($name), system::EMBEDDED).await;
        })*

        mod on_servers {
            use integration_tests::servers::Servers;

            $(#[tokio::test]
            async fn $name() {
                let corner = Servers::running().corner(stringify!($name));
                super::run(stringify!($name), &corner).await;
                Servers::forget(&Servers::settings(&corner, std::path::Path::new("."))).await;
            })*
        }

        #[test]
        fn every_file_is_a_test() {
            let mut tests = vec![$(stringify!($name)),*];
            tests.sort_unstable();
            let mut files: Vec<String> = std::fs::read_dir(folder())
                .expect("the folder of scenarios")
                .filter_map(|file| Some(file.ok()?.file_name().to_str()?.strip_suffix(".scenario")?.to_owned()))
                .collect();
            files.sort_unstable();
            assert_eq!(files, tests);
        }
    };
}

scenarios! {
    changed_view
    distinct_deliveries
    every_kind_of_key
    every_kind_of_lookup
    finalize
    first_events
    imported_events
    late_and_shuffled
    layers
    photos
    rejected_events
    two_writers
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

async fn run(name: &str, settings: &str) {
    let path = folder().join(format!("{name}.scenario"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}.scenario: {error}"));
    if let (Ok(url), Some(step)) = (std::env::var(system::RUNNING), first_change(&script.steps)) {
        println!("{name}.scenario:{}: the system at {url} would need another application; not run", step.line);
        return;
    }
    let complete = std::env::var_os("TIDEMARK_COMPLETE").is_some();
    let mut run = Run::new(settings);
    let mut answers = Vec::new();
    for step in &script.steps {
        let answer = run.step(step).await;
        if step.answer.is_none() {
            continue;
        }
        let answer = answer.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
        let expected = script.expected(step);
        assert!(
            complete || answer == expected,
            "{name}.scenario:{}: {} {}\n\nexpected:\n{expected}\n\nfound:\n{answer}\n\n\
             (TIDEMARK_COMPLETE=1 writes what was found into the file)\n",
            step.line,
            step.command,
            step.arguments,
        );
        answers.push(answer);
    }
    run.finish(name);
    if complete {
        std::fs::write(&path, script.with_answers(&answers)).expect("written");
    }
}

/// The first step that changes the application after the story has begun: a system that runs already cannot follow.
fn first_change(steps: &[Step]) -> Option<&Step> {
    let defines = |step: &&Step| ["application", "file"].contains(&step.command.as_str());
    let begun = steps.iter().skip_while(defines);
    begun.into_iter().find(|step| defines(step) || ["refused", "import"].contains(&step.command.as_str()))
}

/// A scenario under way.
struct Run {
    /// When it began, to the minute: what `{now}` stands for.
    now: DateTime<Utc>,
    /// The times that have been put in, by their text, to be taken out of answers again.
    times: BTreeMap<String, String>,
    dir: tempfile::TempDir,
    /// Which parts the system has.
    settings: String,
    system: Option<System>,
    /// How far the log goes, as far as it was told.
    end: Position,
    /// Positions with a name.
    positions: BTreeMap<String, String>,
    /// The last lookup and where its next page begins.
    page: Option<(String, String)>,
}

impl Run {
    fn new(settings: &str) -> Self {
        let now = Utc::now();
        Self {
            now: now.with_second(0).and_then(|now| now.with_nanosecond(0)).unwrap_or(now),
            times: BTreeMap::new(),
            dir: tempfile::tempdir().expect("a folder"),
            settings: settings.to_owned(),
            system: None,
            end: Position::new(),
            positions: BTreeMap::new(),
            page: None,
        }
    }

    fn app(&self) -> PathBuf {
        let app = self.dir.path().join("app");
        std::fs::create_dir_all(&app).expect("a folder");
        app
    }

    fn system(&mut self) -> &mut System {
        if self.system.is_none() {
            self.system = Some(System::new(&self.app(), &self.dir.path().join("data"), &self.settings));
        }
        self.system.as_mut().expect("it was started")
    }

    async fn step(&mut self, step: &Step) -> String {
        let (arguments, body) = (self.filled(&step.arguments), self.filled(&step.body));
        let answer = match step.command.as_str() {
            "application" => self.application(&arguments),
            "file" => {
                std::fs::write(self.app().join(&arguments), body).expect("written");
                String::new()
            }
            "restart" => {
                self.system().restart();
                String::new()
            }
            "refused" => {
                let app = format!("{}/", self.app().display());
                self.system().refused().replace(&app, "")
            }
            "kill" => {
                self.system().kill();
                String::new()
            }
            "append" => self.append(&arguments, body).await,
            "load" => self.load(&arguments, &body).await,
            "import" => self.import(&arguments, &body).await,
            "lookup" => self.lookup(&arguments).await,
            "next" => match self.page.take() {
                Some((lookup, cursor)) => self.page(&lookup, Some(&cursor)).await,
                None => panic!("line {}: there is no next page", step.line),
            },
            "many" => self.many(&arguments, &body).await,
            "explain" => self.explain(&arguments).await,
            "batch" | "verify" | "query" => self.command(&step.command, &arguments),
            "check" => self.check(),
            "dead-letters" => {
                let (status, text) = self.system().get(&format!("/v1/topics/{arguments}/dead-letters")).await;
                let answer: Value = serde_json::from_str(&text).unwrap_or_default();
                if status == 200 { show::dead_letters(&answer) } else { show::problem(status, &answer) }
            }
            other => panic!("line {}: there is no step `{other}`", step.line),
        };
        self.emptied(answer)
    }

    /// Takes the files of a folder of the repository.
    fn application(&self, folder: &str) -> String {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        for file in std::fs::read_dir(&from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
            let file = file.expect("a file");
            std::fs::copy(file.path(), self.app().join(file.file_name())).expect("copied");
        }
        String::new()
    }

    async fn append(&mut self, arguments: &str, events: String) -> String {
        let (topic, name) = arguments.split_once(" as ").unwrap_or((arguments, ""));
        let path = format!("/v1/topics/{topic}/events");
        let (status, text) = self.system().post(&path, "application/x-ndjson", events).await;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if status != 200 {
            return show::problem(status, &answer);
        }
        let token = answer["position"].as_str().unwrap_or_default();
        let reached = Position::from_token(token).unwrap_or_else(|error| panic!("{answer}: {error}"));
        for (partition, offset) in reached.iter() {
            self.end.advance(&partition, offset);
        }
        if !name.is_empty() {
            self.positions.insert(format!("{{{name}}}"), token.to_owned());
        }
        show::accepted(&answer)
    }

    /// A file with this body, through the command.
    async fn load(&mut self, arguments: &str, body: &str) -> String {
        let mut words: Vec<&str> = arguments.split_whitespace().collect();
        assert!(words.len() >= 2, "load TOPIC FILE [OPTIONS]");
        let file = self.dir.path().join(words[1]);
        std::fs::write(&file, body).expect("written");
        let file = file.display().to_string();
        words[1] = &file;
        let app = self.app().display().to_string();
        let mut all = vec!["load"];
        all.extend(words);
        all.extend(["--app", &app]);
        let output = self.system().command(&all);
        // The command says how many, not how far: whoever asks next waits for all there is.
        self.read_end().await;
        ended(&output)
    }

    /// A container file with these events, through the command. The system is stopped meanwhile.
    async fn import(&mut self, topic: &str, events: &str) -> String {
        let (application, _) = tidemark::application::read(&self.app()).unwrap_or_else(|failure| panic!("{failure}"));
        let source = application.source(topic).unwrap_or_else(|| panic!("there is no source {topic}"));
        let encoder = EventEncoder::new(source, 1).expect("an encoder");
        let datum = |event: &str| encoder.json(event.as_bytes()).expect("an event of the source").value.slice(5..);
        let datums: Vec<_> = events.lines().filter(|line| !line.is_empty()).map(datum).collect();
        let datums: Vec<&[u8]> = datums.iter().map(|datum| &datum[..]).collect();
        let file = self.dir.path().join("events.avro");
        std::fs::write(&file, container(&source.avro, &[&datums])).expect("written");
        let (app, data) = (self.app(), self.dir.path().join("data"));
        let config = data.with_extension("toml");
        std::fs::write(&config, &self.settings).expect("written");
        if let Some(system) = &mut self.system {
            system.stop();
        }
        let mut command = Command::new(binary());
        command
            .args(["import", topic])
            .arg(file)
            .arg("--app")
            .arg(app)
            .arg("--data")
            .arg(data)
            .arg("--config")
            .arg(config);
        let output = command.output().expect("the binary was built");
        if let Some(system) = &mut self.system {
            system.restart();
        }
        self.system();
        self.read_end().await;
        system::without_prefix(&ended(&output))
    }

    /// Where the log ends now.
    async fn read_end(&mut self) {
        let (_, text) = self.system().get("/v1/status").await;
        let status: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        for (topic, standing) in status["topics"].as_object().into_iter().flatten() {
            for partition in standing["partitions"].as_array().into_iter().flatten() {
                let number = partition["partition"].as_u64().and_then(|number| u32::try_from(number).ok());
                let (Some(number), Some(end)) = (number, partition["end"].as_u64()) else { panic!("{partition}") };
                self.end.advance(&TopicPartition::new(topic.as_str(), number), end);
            }
        }
    }

    async fn lookup(&mut self, lookup: &str) -> String {
        self.page(lookup, None).await
    }

    async fn page(&mut self, lookup: &str, cursor: Option<&str>) -> String {
        let path = self.waiting(lookup);
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let (status, text) = self.system().get(&format!("{path}{cursor}")).await;
        if status != 200 {
            return show::problem(status, &serde_json::from_str(&text).unwrap_or_default());
        }
        let text = self.emptied(text);
        let page: Page = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        self.page = page.cursor.clone().map(|cursor| (lookup.to_owned(), cursor));
        page.table()
    }

    async fn explain(&mut self, lookup: &str) -> String {
        let path = format!("{}&explain=true", self.waiting(lookup));
        let (status, text) = self.system().get(&path).await;
        if status != 200 {
            return show::problem(status, &serde_json::from_str(&text).unwrap_or_default());
        }
        let text = self.emptied(text);
        serde_json::from_str::<Page>(&text).unwrap_or_else(|error| panic!("{text}: {error}")).layers()
    }

    /// The path of a lookup that reaches everything appended so far, unless it says itself how far.
    fn waiting(&self, lookup: &str) -> String {
        let separator = if lookup.contains('?') { '&' } else { '?' };
        if lookup.contains("min_position=") || lookup.contains("max_staleness=") {
            return format!("/v1/views/{lookup}");
        }
        format!("/v1/views/{lookup}{separator}min_position={}&timeout=30s", self.end.token())
    }

    async fn many(&mut self, view: &str, body: &str) -> String {
        let mut request: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{body}: {error}"));
        request["min_position"] = self.end.token().into();
        request["timeout"] = "30s".into();
        let path = format!("/v1/views/{view}/lookup");
        let (status, answer) = self.system().post(&path, "application/json", request.to_string()).await;
        if status != 200 {
            return show::problem(status, &serde_json::from_str(&answer).unwrap_or_default());
        }
        let answer = self.emptied(answer);
        let answer: Results = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"));
        let keys = request["keys"].as_array().cloned().unwrap_or_default();
        assert_eq!(keys.len(), answer.results.len(), "one result for each key");
        let shown = keys.iter().zip(&answer.results).map(|(key, result)| match result {
            PageOrProblem::Page(page) => format!("{key}\n{}", indented(&page.table())),
            PageOrProblem::Problem { error } => {
                let status = error["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(0);
                format!("{key}\n{}", indented(&show::problem(status, error)))
            }
        });
        shown.collect()
    }

    /// `tidemark COMMAND ARGUMENTS`, without what it says of time.
    fn command(&mut self, command: &str, arguments: &str) -> String {
        let token = self.end.token();
        let mut words = vec![command];
        words.extend(arguments.split_whitespace());
        if command == "query" {
            words.extend(["--min-position", &token, "--timeout", "30s"]);
        }
        let text = ended(&self.system().command(&words));
        // Nor is there any use in a cursor that names no value.
        let lines = text.lines().map(|line| {
            let line = if line.starts_with("more: --cursor ") { "more" } else { line };
            let line = line.rsplit_once(" in ").filter(|(_, time)| time.ends_with(" s")).map_or(line, |(line, _)| line);
            // How far an answer reaches, and how far it is behind.
            match line.split_once("; ").and_then(|(rows, rest)| Some((rows, rest.split_once(", ")?.0))) {
                Some((rows, generation)) if generation.contains("generation") => format!("{rows}; {generation}"),
                _ => line.to_owned(),
            }
        });
        lines.map(|line| format!("{line}\n")).collect()
    }

    fn check(&self) -> String {
        let app = self.app().display().to_string();
        let output =
            std::process::Command::new(integration_tests::process::binary()).args(["check", "--app", &app]).output();
        ended(&output.expect("the binary was built")).replace(&format!("{app}/"), "")
    }

    /// Puts times and positions in: `{now-90s}`, `{beyond}`, and what was named.
    fn filled(&mut self, text: &str) -> String {
        let mut filled = text.to_owned();
        for (name, token) in &self.positions {
            filled = filled.replace(name, token);
        }
        if filled.contains("{beyond}") {
            let beyond: Position = self.end.iter().map(|(partition, offset)| (partition, offset + 1_000)).collect();
            filled = filled.replace("{beyond}", &beyond.token());
        }
        while let Some(start) = filled.find("{now") {
            let end = start + filled[start..].find('}').expect("`{now` has an end");
            let name = filled[start..=end].to_owned();
            let ago = match name[4..name.len() - 1].strip_prefix('-') {
                None => Duration::ZERO,
                Some(ago) => ago_of(ago),
            };
            let time = (self.now - ago).to_rfc3339_opts(SecondsFormat::Secs, true);
            filled = filled.replace(&name, &time);
            self.times.insert(time, name);
        }
        filled
    }

    /// Takes the times out again.
    fn emptied(&self, answer: String) -> String {
        self.times.iter().fold(answer, |answer, (time, name)| answer.replace(time, name))
    }

    /// What every scenario ends with: what is served is what the log says, and it stops in order.
    fn finish(mut self, name: &str) {
        let verified = self.system().command(&["verify"]);
        assert!(verified.status.success(), "{name}.scenario: at its end\n{}", ended(&verified));
        self.system().stop();
    }
}

/// The answer to many keys.
#[derive(serde::Deserialize)]
struct Results {
    results: Vec<PageOrProblem>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum PageOrProblem {
    Problem { error: Value },
    Page(Page),
}

/// `90s`, `5m`, `2h`.
fn ago_of(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds: u64 = number.parse().unwrap_or_else(|_| panic!("{text} is no time"));
    Duration::from_secs(match unit {
        "s" => seconds,
        "m" => seconds * 60,
        "h" => seconds * 3600,
        _ => panic!("{text} is no time"),
    })
}

/// What a command printed, and how it ended when not well.
fn ended(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        text.push_str(&format!(
            "exit {}\n",
            output.status.code().map_or("by a signal".to_owned(), |code| code.to_string())
        ));
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
