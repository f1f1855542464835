//! The log on Kafka: the port's promises against a real broker, and what only Kafka does to a log.
//!
//! The broker is the one at `TIDEMARK_TEST_KAFKA` (`127.0.0.1:19092` when that is not set); `./dev up` starts it.

mod promises;

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use event_log::{EventLog, KafkaLog, KafkaOptions};

/// Where the broker is. Fails the test when nobody is there.
fn brokers() -> String {
    let brokers = std::env::var("TIDEMARK_TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:19092".to_owned());
    let first = brokers.split(',').next().unwrap_or_default();
    let answers = first
        .to_socket_addrs()
        .is_ok_and(|mut all| all.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()));
    assert!(answers, "no Kafka at {brokers}: ./dev up starts it");
    brokers
}

fn options() -> KafkaOptions {
    KafkaOptions { brokers: brokers(), ..KafkaOptions::default() }
}

async fn connect() -> Arc<dyn EventLog> {
    Arc::new(KafkaLog::connect(options()).await.expect("connect"))
}
