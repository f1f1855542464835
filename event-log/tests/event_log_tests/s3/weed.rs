//! An S3 server of a test's own, which it may kill.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A SeaweedFS. Dropping it kills it.
pub struct Weed {
    folder: TempDir,
    ports: [u16; 8],
    process: Child,
}

impl Weed {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"identities": [{"name": "ci", "credentials": [{"accessKey": "tidemark", "secretKey": "tidemark-secret"}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}"#;
        std::fs::write(folder.path().join("s3.json"), config).unwrap();
        // All are taken before the first is given back, so that no two are the same.
        let taken = [0; 8].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = taken.map(|port| port.local_addr().unwrap().port());
        let process = spawn(&folder, ports);
        let weed = Self { folder, ports, process };
        weed.wait().await;
        weed
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[6])
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub async fn restart(&mut self) {
        self.process = spawn(&self.folder, self.ports);
        self.wait().await;
    }

    /// Until it takes requests: its parts find each other some time after its port is open.
    async fn wait(&self) {
        println!("waiting for an S3 server at {}", self.endpoint());
        let begun = Instant::now();
        while !super::make_bucket(&self.endpoint(), super::BUCKET).await {
            assert!(begun.elapsed() < Duration::from_secs(120), "it does not start: {}", self.folder.path().display());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        println!("  {:?}", begun.elapsed());
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(folder: &TempDir, ports: [u16; 8]) -> Child {
    let names = [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port",
        "s3.port.grpc",
    ];
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    Command::new(program())
        .args([
            "-logtostderr=true",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-dir=.",
            "-s3",
            "-s3.config=s3.json",
        ])
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"])
        .args(["-master.volumeSizeLimitMB=64", "-volume.max=50", "-master.volumePreallocate=false"])
        .args(names.iter().zip(ports).map(|(name, port)| format!("-{name}={port}")))
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Where the server's program is: as told, in the path, or where the server that is running was started from.
fn program() -> PathBuf {
    if let Some(told) = std::env::var_os("TIDEMARK_TEST_WEED") {
        return told.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("weed")).find(|file| file.is_file());
    let running = || {
        let processes = std::fs::read_dir("/proc").ok()?;
        let programs = processes.filter_map(|process| std::fs::read_link(process.ok()?.path().join("exe")).ok());
        programs.into_iter().find(|program| program.ends_with("weed"))
    };
    in_path.or_else(running).expect("no program `weed`: ./dev up brings it, or TIDEMARK_TEST_WEED says where it is")
}
