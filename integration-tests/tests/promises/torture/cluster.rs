//! The same clients on a cluster: two processes of each role on real servers. Processes are killed, or stopped where they are and
//! woken up later, owners of partitions they have lost by then; Kafka and the CQL server are killed and started again, the registry
//! and the object store are gone for a while.
//!
//! `TIDEMARK_CLUSTER_ROUNDS`: how many faults; `TIDEMARK_SEED` as for one process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use integration_tests::process::{Launched, Process, binary};
use integration_tests::servers::{Server, Servers};
use integration_tests::world::{number, seed};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use super::clients::Clients;
use super::ledger::{Ledger, OpenLog};
use super::subject::{Question, Tiles, key, write_application};
use super::{Kept, ROUNDS_OF_AN_ERA, ask_everything, check, command};

/// Two of each; the batch runs of both race.
const ROLES: [&str; 8] = ["speed", "speed", "archive", "archive", "batch", "batch", "serve", "serve"];

/// What a round does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL of a process of this role, which is started again after a while.
    Kill(&'static str),
    /// SIGSTOP of a process of this role, and SIGCONT once others have its work.
    Sleep(&'static str),
    /// SIGKILL of a server, which is started again.
    Crash(Server),
    /// A server that does not answer for a while.
    Silence(Server),
    /// SIGTERM of a process of this role, which ends by itself and is started again.
    Terminate(&'static str),
}

const FAULTS: [Fault; 13] = [
    Fault::Kill("speed"),
    Fault::Sleep("speed"),
    Fault::Crash(Server::Kafka),
    Fault::Kill("archive"),
    Fault::Kill("batch"),
    Fault::Crash(Server::Cassandra),
    Fault::Sleep("batch"),
    Fault::Silence(Server::S3),
    Fault::Kill("serve"),
    Fault::Sleep("archive"),
    Fault::Silence(Server::Registry),
    Fault::Sleep("serve"),
    Fault::Terminate("speed"),
];

/// The faults go on like this again and again, each time in another order; the ones that take a server away are always among the
/// first ten.
fn faults(random: &mut StdRng) -> Vec<Fault> {
    let mut faults = FAULTS.to_vec();
    faults.shuffle(random);
    faults.sort_by_key(|fault| !matches!(fault, Fault::Crash(_) | Fault::Sleep("speed")) && random.random_bool(0.3));
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_processes_and_servers_die() {
    let (seed, rounds) = (seed(), number("TIDEMARK_CLUSTER_ROUNDS", 10));
    println!("torture of a cluster: seed {seed}, {rounds} rounds");
    let folder = Kept(tempfile::tempdir().expect("a folder"));
    let servers = Servers::running();
    let corner = servers.corner("torture");
    let mut cluster = Cluster::new(folder.0.path().to_owned(), servers, &corner);
    let (addresses, receiver) = watch::channel(Vec::new());
    let mut random = StdRng::seed_from_u64(seed);
    for number in 0..ROLES.len() {
        cluster.start(number);
    }
    addresses.send_replace(cluster.addresses());
    let mut clients = Clients::start(receiver, seed, true);
    let shared = clients.shared.clone();
    cluster.every_view_has_a_generation().await;
    let mut ledger = Ledger::new(true);
    let log = OpenLog::of_servers(&Servers::settings(&corner, &folder.0.path().join("ledger"))).await;
    let mut checked = 0;
    let mut next = Vec::new();
    for round in 0..rounds {
        if next.is_empty() {
            next = faults(&mut random);
            next.reverse();
        }
        shared.era.store(round / ROUNDS_OF_AN_ERA, Ordering::Relaxed);
        let fault = next.pop().unwrap_or(Fault::Kill("speed"));
        println!("torture of a cluster: round {}, {fault:?}", round + 1);
        cluster.suffer(fault, &mut random, &addresses).await;
        clients.check();
        if round % 5 == 4 {
            checked += check(&mut ledger, &log, &shared).await;
        }
    }
    // No further address: the clients end.
    addresses.send_replace(Vec::new());
    drop(addresses);
    drop(shared);
    let shared = clients.end().await;

    println!("torture of a cluster: everybody lives, all must be as if nothing had happened");
    let url = cluster.calm();
    let first = Question { subject: 0, key: key("account", 0, 0), tiles: Tiles::Minutes, explain: false };
    println!(
        "torture of a cluster: waiting until questions are answered up to the last event, now that every server is back"
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    for question in [first.clone(), Question { subject: 3, key: key("page", 0, 0), ..first }] {
        // A process may not have found a server again that came back a moment ago: until then it says that it cannot answer.
        while shared.lookup(&url, &question, Some(&shared.acknowledged())).await.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "no answer to {question:?} up to the last event");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let serving = cluster.processes.get(&6).expect("a process that serves");
    command(serving, &["batch", "run"]);
    command(serving, &["verify"]);
    ask_everything(&shared, &url, rounds / ROUNDS_OF_AN_ERA).await;
    checked += check(&mut ledger, &log, &shared).await;
    ledger.read_again(&log, || shared.events.lock().clone()).await;
    for (number, process) in std::mem::take(&mut cluster.processes) {
        assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful: {} {number}", ROLES[number]);
    }
    println!(
        "torture of a cluster: {} events in the log, {} of them repeated; {checked} answers checked, {} of them after waiting for \
         what was acknowledged, {} degraded; {} requests without an answer; the log ends at {}",
        ledger.events,
        ledger.repeated,
        shared.waited_for.load(Ordering::Relaxed),
        shared.degraded.load(Ordering::Relaxed),
        shared.unanswered.load(Ordering::Relaxed),
        ledger.end(),
    );
    assert!(checked > 100, "hardly anybody got an answer");
}

/// The processes, by their place in [`ROLES`].
struct Cluster {
    folder: PathBuf,
    servers: Servers,
    processes: BTreeMap<usize, Process>,
    /// The server that does not answer now.
    silent: Option<Server>,
}

impl Cluster {
    fn new(folder: PathBuf, servers: Servers, corner: &str) -> Self {
        write_application(&folder.join("app"));
        // Longer segments than one process has: each is an object that every batch run fetches for every view.
        let views = folder.join("app/views.sql");
        let sql = std::fs::read_to_string(&views).expect("the application");
        let longer = sql
            .replace("segment_records = 48", "segment_records = 480")
            .replace("segment_records = 40,", "segment_records = 400,");
        assert_ne!(sql, longer, "the sources say how long segments are");
        std::fs::write(&views, longer).expect("written");
        // Sleepers lose their partitions soon; and the timers of two processes race.
        let mut settings: toml::Table = corner.parse().expect("settings");
        let mut insert = |table: &str, key: &str, value: toml::Value| {
            settings[table].as_table_mut().expect("a table").insert(key.to_owned(), value);
        };
        insert("batch", "every", "10s".into());
        let kafka: toml::Table = [("session.timeout.ms", 6000), ("heartbeat.interval.ms", 500)]
            .map(|(name, value)| (name.to_owned(), toml::Value::from(value)))
            .into_iter()
            .collect();
        insert("log", "kafka", kafka.into());
        std::fs::write(folder.join("cluster.toml"), settings.to_string()).expect("written");
        Self { folder, servers, processes: BTreeMap::new(), silent: None }
    }

    /// Starts a process that does not run.
    fn start(&mut self, number: usize) {
        let role = ROLES[number];
        let mut command = Command::new(binary());
        command.arg(role).arg("--app").arg(self.folder.join("app"));
        command.arg("--config").arg(self.folder.join("cluster.toml"));
        command.arg("--data").arg(self.folder.join(format!("{role}-{number}"))).args(["--listen", "127.0.0.1:0"]);
        let process = Launched::by(command).ready();
        self.processes.insert(number, process.unwrap_or_else(|written| panic!("{role} does not start:\n{written}")));
    }

    /// Waits until all tables are made: Cassandra does not start again when it is killed in the middle of making one.
    async fn every_view_has_a_generation(&self) {
        println!("torture of a cluster: waiting until every view has a generation");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
        loop {
            let (_, status) = self.processes[&6].get("/v1/status").await.expect("an answer");
            let views = status["views"].as_object().map_or(0, |views| views.len());
            let made = status["views"].as_object().into_iter().flatten();
            if views > 0 && made.filter(|(_, view)| view["generation"].is_u64()).count() == views {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "some view has no generation: {status}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Where questions are answered.
    fn addresses(&self) -> Vec<String> {
        let serving = self.processes.iter().filter(|(number, _)| ROLES[**number] == "serve");
        serving.map(|(_, process)| process.url.clone()).collect()
    }

    /// The address that answers now. Whoever died on the way is started.
    fn calm(&mut self) -> String {
        for number in 0..ROLES.len() {
            if self.processes.get_mut(&number).is_none_or(|process| process.ended().is_some()) {
                self.start(number);
            }
        }
        self.addresses().pop().expect("a process that serves")
    }

    async fn suffer(&mut self, fault: Fault, random: &mut StdRng, addresses: &watch::Sender<Vec<String>>) {
        // Enough for events to come, segments to end and batch runs to begin, between two faults.
        pass(random, 1000, 3000).await;
        match fault {
            Fault::Kill(role) => {
                let number = one_of(role, random);
                self.processes.remove(&number).expect("it runs").kill();
                addresses.send_replace(self.addresses());
                pass(random, 0, 3000).await;
                self.start(number);
            }
            Fault::Terminate(role) => {
                let number = one_of(role, random);
                assert_eq!(
                    self.processes.remove(&number).expect("it runs").terminate(),
                    Some(0),
                    "SIGTERM is graceful"
                );
                self.start(number);
            }
            Fault::Sleep(role) => {
                let process = &self.processes[&one_of(role, random)];
                process.hold(true);
                // Longer than the group waits for it, now and then.
                pass(random, 500, 9000).await;
                process.hold(false);
            }
            Fault::Crash(server) => {
                self.servers.stop(server, true);
                pass(random, 0, 1000).await;
                self.servers.start(server);
            }
            Fault::Silence(server) => {
                self.silent = Some(server);
                self.servers.hold(server, true);
                pass(random, 500, 5000).await;
                self.servers.hold(server, false);
                self.silent = None;
            }
        }
        addresses.send_replace(self.addresses());
        for (number, process) in &mut self.processes {
            let ended = process.ended();
            assert!(ended.is_none(), "{} ended by itself ({ended:?}):\n{}", ROLES[*number], process.output().last());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Other tests use it too.
        if let Some(server) = self.silent {
            self.servers.hold(server, false);
        }
    }
}

fn one_of(role: &str, random: &mut StdRng) -> usize {
    let first = ROLES.iter().position(|known| *known == role).unwrap_or(0);
    first + random.random_range(0..2)
}

/// Lets a random time pass: what chooses the moment of a fault.
async fn pass(random: &mut StdRng, least_ms: u64, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(random.random_range(least_ms..=most_ms))).await;
}
