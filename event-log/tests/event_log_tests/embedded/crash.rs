//! A process of its own writes to the log, and is killed, or meets the system's limits.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;

const DIRECTORY: &str = "TIDEMARK_TEST_LOG_DIRECTORY";
const ROLE: &str = "TIDEMARK_TEST_LOG_ROLE";

/// This test in a process of its own, in a role.
fn command(role: &str, directory: &Path, shell: Option<&str>) -> Command {
    let test = std::env::current_exe().expect("the test's path");
    let mut command = match shell {
        None => Command::new(&test),
        Some(script) => {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("{script}; exec \"$0\" \"$@\"")).arg(&test);
            command
        }
    };
    command.args(["embedded::crash::a_process_of_its_own", "--exact", "--nocapture"]);
    command.env(ROLE, role).env(DIRECTORY, directory).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// Does nothing but when started by the tests below.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_its_own() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = PathBuf::from(directory);
    match std::env::var(ROLE).as_deref() {
        Ok("append") => append_until_killed(&directory).await,
        Ok("limit") => meet_the_file_size_limit(&directory).await,
        role => panic!("{role:?}"),
    }
}

async fn append_until_killed(directory: &Path) {
    let options = EmbeddedOptions { file_bytes: 4000, ..EmbeddedOptions::default() };
    let log = Arc::new(open(directory, &options).expect("open"));
    log.create_topic(&topic(2)).await.expect("create topic");
    let writers: Vec<_> = (0..4u64)
        .map(|writer| {
            let log = log.clone();
            tokio::spawn(async move {
                let to = TopicPartition::new("topic", (writer % 2) as u32);
                for number in 0.. {
                    let number = writer * 1_000_000_000 + number;
                    let range = log.append(&to, vec![event(number), event(number)]).await.expect("append");
                    // One write per line: a line that the parent sees whole was acknowledged.
                    let line = format!("acknowledged {} {} {number}\n", to.partition, range.start);
                    std::io::stdout().write_all(line.as_bytes()).expect("tell");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut acknowledged: Vec<(u32, u64, u64)> = Vec::new();
    for round in 1..=5 {
        let mut child = Killed(command("append", directory.path(), None).spawn().expect("start"));
        let mut lines = BufReader::new(child.0.stdout.take().expect("its output")).lines();
        let mut parse = |line: String| {
            let mut words = line.strip_prefix("acknowledged ")?.split(' ');
            let place = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            acknowledged.push(place);
            Some(())
        };
        let mut seen = 0;
        while seen < 97 * round {
            let line = lines.next().expect("it goes on").expect("its output");
            seen += parse(line).map_or(0, |()| 1);
        }
        let refused = open(directory.path(), &on_disk(4000)).err().expect("it is in use").to_string();
        assert!(refused.contains("in use"), "{refused}");
        child.0.kill().expect("kill -9");
        child.0.wait().expect("it ends");
        // What it told before it was killed; the last line may be cut.
        lines.map_while(Result::ok).for_each(|line| {
            let _ = parse(line);
        });

        let log = open(directory.path(), &on_disk(4000)).expect("the lock went with the process");
        let all = [0, 1].map(|partition| TopicPartition::new("topic", partition));
        let all = [read_from(&log, &all[0], 0).await.expect("read"), read_from(&log, &all[1], 0).await.expect("read")];
        for (partition, offset, number) in &acknowledged {
            for record in &all[*partition as usize][*offset as usize..*offset as usize + 2] {
                assert_eq!(record.content, event(*number), "partition {partition}, offset {offset}");
            }
        }
    }
    assert!(acknowledged.len() >= 97 * 15);
}

async fn meet_the_file_size_limit(directory: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let log = open(directory, &EmbeddedOptions { recent_bytes: 0, ..EmbeddedOptions::default() }).expect("open");
    log.create_topic(&topic(1)).await.expect("create topic");
    let mut acknowledged = 0;
    let full = loop {
        match log.append(&first(), vec![Content::Event { key: None, value: vec![1; 1000].into() }]).await {
            Ok(_) => acknowledged += 1,
            Err(full) => break full,
        }
    };
    assert!(full.is_transient() && full.to_string().contains("File too large"), "{full}");
    assert!((20..32).contains(&acknowledged), "{acknowledged} appends fit into 32 KiB");
    assert_eq!(read_from(&log, &first(), 0).await.expect("read").len(), acknowledged);
    let hard = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: hard, maximum: hard }).expect("make room");
    log.append(&first(), vec![event(1)]).await.expect("append when there is room again");
    let read = read_from(&log, &first(), 0).await.expect("read");
    assert_eq!((read.len(), &read[acknowledged].content), (acknowledged + 1, &event(1)));
    println!("met the limit");
}

#[tokio::test]
async fn a_write_that_the_system_cuts_short_is_undone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // 64 blocks of 512 bytes. The signal is ignored, so that the write fails instead.
    let mut child = command("limit", directory.path(), Some("trap '' XFSZ; ulimit -S -f 64"));
    let output = child.output().expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("met the limit"), "the test's name changed");
    let log = open(directory.path(), &on_disk(1 << 20)).expect("open");
    assert!(read_from(&log, &first(), 0).await.expect("read").len() > 20);
}
