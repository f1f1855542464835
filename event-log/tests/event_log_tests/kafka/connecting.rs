//! What an operator gets wrong: one clear line each, within seconds.

use std::time::{Duration, Instant};

use event_log::{EventLog, KafkaLog, KafkaOptions, LogError, ReadLimit};
use views::TopicPartition;

use super::broker::Broker;
use super::{brokers, event, invalid, new_name, options, spec, texts};

fn with(brokers: String, properties: &[(&str, &str)]) -> KafkaOptions {
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    KafkaOptions { brokers, properties, ..KafkaOptions::default() }
}

/// The line that says why there is no connection.
async fn refusal(options: KafkaOptions) -> String {
    println!("waiting for a refusal of {options:?}");
    let began = Instant::now();
    let error = KafkaLog::connect(options).await.err().expect("no connection");
    println!("after {:?}: {error}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line:?} has several lines");
    line
}

#[tokio::test]
async fn a_wrong_address_is_told() {
    let line = refusal(with("127.0.0.1:1".into(), &[])).await;
    assert!(line.contains("log.brokers") && line.contains("127.0.0.1:1"), "{line}");
    assert!(line.contains("refused"), "{line}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told() {
    let line = refusal(with("no-such-host.invalid:9092".into(), &[])).await;
    assert!(line.contains("log.brokers") && line.contains("no-such-host.invalid"), "{line}");
    assert!(line.to_lowercase().contains("resolve"), "{line}");
}

#[tokio::test]
async fn tls_to_a_plain_port_is_told() {
    let line = refusal(with(brokers(), &[("security.protocol", "SSL")])).await;
    assert!(line.contains("log.kafka") && line.contains("SSL"), "{line}");
}

#[tokio::test]
async fn a_wrong_certificate_file_is_told() {
    let line = refusal(with(brokers(), &[("security.protocol", "SSL"), ("ssl.ca.location", "/no/such/ca.pem")])).await;
    assert!(line.contains("ssl.ca.location"), "{line}");
}

#[tokio::test]
async fn a_wrong_password_is_told() {
    let broker = tokio::task::spawn_blocking(Broker::start).await.expect("a broker");
    let address = format!("127.0.0.1:{}", broker.sasl);
    let login = |password| {
        with(
            address.clone(),
            &[
                ("security.protocol", "SASL_PLAINTEXT"),
                ("sasl.mechanism", "PLAIN"),
                ("sasl.username", "tidemark"),
                ("sasl.password", password),
            ],
        )
    };
    let line = refusal(login("guessed")).await;
    assert!(line.contains("log.kafka") && line.contains("Authentication failed"), "{line}");
    assert!(!line.contains("guessed"), "{line}");
    assert!(!format!("{:?}", login("guessed")).contains("guessed"));

    let line = refusal(with(address.clone(), &[])).await;
    assert!(line.contains("log.brokers"), "{line}");

    // The right one does everything.
    let log = KafkaLog::connect(login("secret")).await.expect("connect");
    let name = new_name("sasl");
    log.create_topic(&spec(&name, 1)).await.expect("create topic");
    let partition = TopicPartition::new(name, 0);
    log.append(&partition, vec![event("one")]).await.expect("append");
    assert_eq!(texts(&log.read(&partition, 0, ReadLimit::records(10)).await.expect("read")), ["one"]);
}

#[tokio::test]
async fn settings_that_would_break_a_guarantee_are_refused() {
    let refused = [
        ("acks", "1"),
        ("acks", "0"),
        ("request.required.acks", "1"),
        ("enable.idempotence", "false"),
        ("isolation.level", "read_uncommitted"),
        ("enable.auto.commit", "true"),
        ("auto.offset.reset", "latest"),
        ("check.crcs", "false"),
        ("bootstrap.servers", "elsewhere:9092"),
        ("transactional.id", "mine"),
    ];
    for (name, value) in refused {
        let message = invalid(KafkaLog::connect(with(brokers(), &[(name, value)])).await.map(|_| ()));
        assert!(message.contains("log.kafka") && message.contains(name) && message.contains(value), "{message}");
    }
    let harmless = [("acks", "all"), ("enable.idempotence", "true"), ("linger.ms", "5"), ("compression.codec", "lz4")];
    assert!(KafkaLog::connect(with(brokers(), &harmless)).await.is_ok());
}

#[tokio::test]
async fn settings_that_do_not_exist_are_named() {
    let message = invalid(KafkaLog::connect(with(brokers(), &[("lingers.ms", "5")])).await.map(|_| ()));
    assert!(message.contains("log.kafka") && message.contains("lingers.ms"), "{message}");
    let message = invalid(KafkaLog::connect(with(brokers(), &[("linger.ms", "soon")])).await.map(|_| ()));
    assert!(message.contains("log.kafka") && message.contains("linger.ms"), "{message}");
    let message = invalid(KafkaLog::connect(with(" ".into(), &[])).await.map(|_| ()));
    assert!(message.contains("log.brokers"), "{message}");
    let none = KafkaOptions { replication: Some(0), ..options() };
    assert!(matches!(KafkaLog::connect(none).await, Err(LogError::Invalid(_))));
}
