//! A broker of a test's own: the same jars as the shared one, other ports, a directory that goes away.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A broker is up after a few seconds; on a busy machine it takes a multiple of that.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

pub struct Broker {
    directory: TempDir,
    lib: PathBuf,
    /// Takes anybody.
    pub plain: u16,
    /// Asks for a name and a password: `tidemark`, `secret`.
    pub sasl: u16,
    child: Child,
}

impl Broker {
    /// Starts a broker and waits until it answers.
    pub fn start() -> Self {
        let servers = std::env::var_os("TIDEMARK_SERVERS")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers"), PathBuf::from);
        let lib = servers.join("kafka/lib");
        assert!(lib.is_dir(), "no Kafka jars in {}: ./dev up gets them", lib.display());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [plain, sasl, controller] = free_ports();
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             sasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
             required user_tidemark=\"secret\";\n\
             log.dirs=data\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=2\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             auto.create.topics.enable=false\n\
             num.network.threads=2\n\
             num.io.threads=2\n\
             background.threads=2\n\
             log.cleaner.dedupe.buffer.size=20971520\n\
             broker.session.timeout.ms=2000\n\
             broker.heartbeat.interval.ms=500\n"
        );
        fs::write(directory.path().join("server.properties"), properties).expect("write the properties");
        fs::write(directory.path().join("log4j2.properties"), "status = error\nrootLogger.level = off\n")
            .expect("write");
        let formatted = java(&lib, directory.path())
            .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", "MkU3OEVBNTcwNTJENDM2Qk"])
            .args(["-c", "server.properties"])
            .output()
            .expect("java");
        assert!(formatted.status.success(), "formatting: {}", String::from_utf8_lossy(&formatted.stderr));
        let child = spawn(&lib, directory.path());
        let mut broker = Self { directory, lib, plain, sasl, child };
        broker.wait();
        broker
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.plain)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill the broker");
        self.child.wait().expect("wait for the broker");
    }

    /// Starts it again after [`Broker::kill`]; does not wait until it answers.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.lib, self.directory.path());
    }

    fn wait(&mut self) {
        println!("waiting for a broker of our own at {}", self.address());
        let began = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            if let Some(status) = self.child.try_wait().expect("the broker") {
                panic!("the broker ended, {status}: {}", self.said());
            }
            assert!(began.elapsed() < STARTS_WITHIN, "no broker after {STARTS_WITHIN:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("kafka.log")).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn java(lib: &Path, directory: &Path) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg("-Dlog4j2.configurationFile=log4j2.properties")
        .arg("-cp")
        .arg(fs::canonicalize(lib).expect("the jars").join("*"))
        .current_dir(directory)
        .stdin(Stdio::null());
    java
}

fn spawn(lib: &Path, directory: &Path) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("kafka.log")).expect("a log");
    java(lib, directory)
        .args(["kafka.Kafka", "server.properties"])
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("java")
}

fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}
