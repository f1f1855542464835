//! A real process is killed with SIGKILL at random moments and started again, while clients write, read and know nothing of it.
//!
//! What must hold: whatever was acknowledged is in the log exactly once, where the acknowledgement says; every answer that
//! anybody ever got is what plain DataFusion computes over the events before the position that the answer names; generations
//! and frontiers never go back; whoever asks for what was acknowledged to him gets it.
//!
//! `TIDEMARK_TORTURE_ROUNDS`: how many kills; `TIDEMARK_SEED`: what is sent and asked and when it is killed, though not what the
//! operating system makes of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use integration_tests::process::{Launched, Output, Process, binary};
use integration_tests::world::{number, seed};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::watch;

use clients::{Clients, Shared};
use ledger::{Ledger, OpenLog};
use subject::{KEYS_OF_AN_ERA, Question, SUBJECTS, Tiles, key, write_application};

#[path = "torture/clients.rs"]
mod clients;
#[path = "torture/cluster.rs"]
mod cluster;
#[path = "torture/ledger.rs"]
mod ledger;
#[path = "torture/subject.rs"]
mod subject;

/// How long to wait for a moment to kill at. It comes long before; if it does not, the kill comes without it.
const PATIENCE: Duration = Duration::from_secs(20);

/// After so many rounds other keys are written.
const ROUNDS_OF_AN_ERA: u64 = 2;

/// What the phases of a batch run are called.
const PHASES: [&str; 5] = ["Mark", "Seal", "Recompute", "Publish", "Retire"];

/// What the process says while the test runs: enough to know what it is doing.
const LOG: &str = "info,actix_server=warn,fjall=warn,lsm_tree=warn,tidemark=debug,event_log::archiver=debug";

/// The moment that a kill is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Aim {
    /// Before it is ready: recovering what the kill before left.
    Starting,
    /// Right after it is ready: folding again what was not written.
    CatchingUp,
    /// While events come.
    Ingesting,
    /// When a segment has just been archived: the log lets go of it, the next one is being archived.
    Archiving,
    /// A while after a batch run was asked for.
    Run,
    /// When the batch run begins this phase.
    Phase(&'static str),
    /// SIGTERM, and SIGKILL before it has finished.
    Stopping,
    /// SIGTERM, and nothing else: it ends by itself.
    Terminate,
}

/// Thirteen rounds; a run goes through them again and again, each time in another order.
const AIMS: [Aim; 13] = [
    Aim::Starting,
    Aim::Starting,
    Aim::CatchingUp,
    Aim::Ingesting,
    Aim::Archiving,
    Aim::Run,
    Aim::Phase("Mark"),
    Aim::Phase("Seal"),
    Aim::Phase("Recompute"),
    Aim::Phase("Publish"),
    Aim::Phase("Retire"),
    Aim::Stopping,
    Aim::Terminate,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment() {
    let (seed, rounds) = (seed(), number("TIDEMARK_TORTURE_ROUNDS", 25));
    println!("torture: seed {seed}, {rounds} rounds");
    let folder = Kept(tempfile::tempdir().expect("a folder"));
    let (app, data) = (folder.0.path().join("app"), folder.0.path().join("data"));
    write_application(&app);
    let (address, addresses) = watch::channel(Vec::new());
    let mut clients = Clients::start(addresses, seed, false);
    let shared = clients.shared.clone();
    let mut torture = Torture {
        app: &app,
        data: &data,
        random: StdRng::seed_from_u64(seed),
        address,
        http: reqwest::Client::new(),
        to_ready: Duration::from_millis(500),
        table: BTreeMap::new(),
    };
    let mut ledger = Ledger::new(false);
    let mut checked = 0;
    let mut aims = Vec::new();
    for round in 0..rounds {
        if aims.is_empty() {
            aims = AIMS.to_vec();
            aims.shuffle(&mut torture.random);
        }
        shared.era.store(round / ROUNDS_OF_AN_ERA, Ordering::Relaxed);
        // The first one has to make the folders.
        let aim = if round == 0 { Aim::Ingesting } else { aims.pop().unwrap_or(Aim::Ingesting) };
        torture.round(aim).await;
        clients.check();
        if round % 5 == 4 {
            checked += check(&mut ledger, &OpenLog::of(&data).await, &shared).await;
        }
    }
    print!("{}", torture.table());
    // No further address: the clients end.
    drop(torture);
    drop(shared);
    let shared = clients.end().await;

    // The last process lives, and all is as if nothing had happened.
    // Its timer is off: the batch run that is asked for below must not find another one under way.
    let calm = folder.0.path().join("calm.toml");
    std::fs::write(&calm, "[batch]\nevery = \"never\"\n").expect("written");
    let process = Process::start(&app, &data, &["--config", &calm.display().to_string()]);
    let first = Question { subject: 0, key: key("account", 0, 0), tiles: Tiles::Minutes, explain: false };
    for question in [first.clone(), Question { subject: 3, key: key("page", 0, 0), ..first }] {
        shared.lookup(&process.url, &question, Some(&shared.acknowledged())).await.expect("an answer");
    }
    command(&process, &["batch", "run"]);
    command(&process, &["verify"]);
    ask_everything(&shared, &process.url, rounds / ROUNDS_OF_AN_ERA).await;
    assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful");
    checked += check(&mut ledger, &OpenLog::of(&data).await, &shared).await;
    ledger.read_again(&OpenLog::of(&data).await, || shared.events.lock().clone()).await;
    println!(
        "torture: {} events in the log, {} of them repeated; {checked} answers checked, {} of them after waiting for what was \
         acknowledged, {} degraded; {} requests without an answer; the log ends at {}",
        ledger.events,
        ledger.repeated,
        shared.waited_for.load(Ordering::Relaxed),
        shared.degraded.load(Ordering::Relaxed),
        shared.unanswered.load(Ordering::Relaxed),
        ledger.end(),
    );
}

/// A temporary folder that stays where the test failed: the moment of a kill does not come again.
struct Kept(TempDir);

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("torture: what is left of it all is in {}", self.0.path().display());
        }
    }
}

/// The rounds.
struct Torture<'t> {
    app: &'t Path,
    data: &'t Path,
    random: StdRng,
    /// Tells the clients where the process answers.
    address: watch::Sender<Vec<String>>,
    http: reqwest::Client,
    /// How long the last start took.
    to_ready: Duration,
    /// What the process was doing when it was killed, by what the kill was aimed at.
    table: BTreeMap<(Aim, &'static str), u32>,
}

impl Torture<'_> {
    /// Starts the process, and ends it.
    async fn round(&mut self, aim: Aim) {
        let started = Instant::now();
        let launched = Launched::new(self.app, self.data, &["--log-level", LOG]);
        let output = launched.output.clone();
        if aim == Aim::Starting {
            self.pass(self.to_ready.mul_f64(1.2));
            let killed = Instant::now();
            launched.kill();
            return self.hit(aim, killed, &output);
        }
        let process = launched.ready().unwrap_or_else(|written| panic!("it does not start again:\n{written}"));
        self.to_ready = started.elapsed();
        self.address.send_replace(vec![process.url.clone()]);
        if !matches!(aim, Aim::CatchingUp) {
            self.pass(Duration::from_millis(1500));
        }
        let now = output.count();
        match aim {
            Aim::Starting => {}
            Aim::CatchingUp => self.pass(Duration::from_millis(150)),
            Aim::Ingesting => self.pass(Duration::from_millis(500)),
            Aim::Archiving => {
                let nth = self.random.random_range(1..=3);
                let archived = std::cell::Cell::new(0);
                output.wait_for(now, PATIENCE, |line| {
                    archived.set(archived.get() + u32::from(line.contains(" archived ")));
                    (archived.get() == nth).then_some(())
                });
                self.pass(Duration::from_millis(8));
            }
            Aim::Run => {
                self.ask_for_run(&process);
                self.pass(Duration::from_millis(300));
            }
            Aim::Phase(phase) => {
                self.ask_for_run(&process);
                output.wait_for(now, PATIENCE, |line| (phase_in(line)? == phase).then_some(()));
                // As long as the phases take here, about.
                let most = if ["Recompute", "Retire"].contains(&phase) { 60 } else { 8 };
                self.pass(Duration::from_millis(most));
            }
            Aim::Stopping => {
                self.ask_for_run(&process);
                self.pass(Duration::from_millis(300));
                process.ask_to_stop();
                self.pass(Duration::from_millis(200));
            }
            Aim::Terminate => {
                self.pass(Duration::from_millis(300));
                self.address.send_replace(Vec::new());
                assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful:\n{}", output.last());
                return self.hit(aim, Instant::now(), &output);
            }
        }
        let killed = Instant::now();
        process.kill();
        self.address.send_replace(Vec::new());
        self.hit(aim, killed, &output);
    }

    /// Lets a random time pass: what chooses the moment of a kill.
    fn pass(&mut self, most: Duration) {
        std::thread::sleep(most.mul_f64(self.random.random()));
    }

    /// Asks for a batch run, and does not wait for it. There may be one already.
    fn ask_for_run(&self, process: &Process) {
        let request = self.http.post(format!("{}/v1/batch/runs", process.url)).send();
        tokio::spawn(async move {
            // The process is killed while it answers, as likely as not.
            let _ = request.await;
        });
    }

    /// Finds out what the process was doing, from the last that it wrote.
    fn hit(&mut self, aim: Aim, killed: Instant, output: &Output) {
        let lines = output.to_its_end();
        let says = |what: &str| lines.iter().any(|(_, line)| line.contains(what));
        let phase = lines.iter().rev().find_map(|(_, line)| Some((phase_in(line)?, line)));
        let run = phase.filter(|(phase, line)| !(*phase == "Retire" && line.contains("done=1 ")));
        let archived = lines.iter().rev().find(|(_, line)| line.contains(" archived "));
        let doing = if aim == Aim::Terminate {
            "ended by itself"
        } else if !says("tidemark ready on ") {
            "starting"
        } else if says("INFO tidemark::run: stopping;") {
            "stopping"
        } else if let Some((phase, _)) = run {
            PHASES.into_iter().find(|known| *known == phase).unwrap_or("batch run")
        } else if archived.is_some_and(|(at, _)| killed.saturating_duration_since(*at) < Duration::from_millis(10)) {
            "archiving"
        } else {
            "ingesting"
        };
        *self.table.entry((aim, doing)).or_default() += 1;
    }

    /// How many kills hit what.
    fn table(&self) -> String {
        let mut table = "aimed at             hit\n".to_owned();
        for ((aim, doing), count) in &self.table {
            table += &format!("{:<20} {doing:<16} {count}\n", format!("{aim:?}"));
        }
        table
    }
}

/// The phase of a batch run that a line speaks of.
fn phase_in(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(" batch run ")?;
    rest.split_once("phase=")?.1.split(' ').next()
}

/// Compares what clients were told since the last time with the log. Returns how many answers there were.
async fn check(ledger: &mut Ledger, log: &OpenLog, shared: &Shared) -> usize {
    let answers = std::mem::take(&mut *shared.answers.lock());
    let acknowledgements = std::mem::take(&mut *shared.acknowledgements.lock());
    let rejected = std::mem::take(&mut *shared.rejected.lock());
    ledger.read_on(log, || shared.events.lock().clone()).await;
    let events = shared.events.lock().clone();
    acknowledgements.iter().for_each(|acknowledged| ledger.check_acknowledged(acknowledged));
    rejected.iter().for_each(|rejected| ledger.check_rejected(rejected));
    ledger.check_answers(&answers, &events).await;
    answers.len()
}

/// Every key there ever was, of every view.
async fn ask_everything(shared: &Shared, url: &str, last_era: u64) {
    for (subject, view) in SUBJECTS.iter().enumerate() {
        let keys = (0..=last_era).flat_map(|era| (0..KEYS_OF_AN_ERA).map(move |number| key(view.key, era, number)));
        let questions: Vec<Question> =
            keys.map(|key| Question { subject, key, tiles: Tiles::Minutes, explain: false }).collect();
        for some in questions.chunks(500) {
            shared.lookup_many(url, some, Some(&shared.acknowledged())).await.expect("answers");
        }
    }
}

/// Runs a command that must succeed.
fn command(process: &Process, arguments: &[&str]) {
    let output = Command::new(binary()).args(arguments).args(["--server", &process.url]).output();
    let output = output.expect("the binary was built");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "tidemark {arguments:?}: {said}{errors}");
}
