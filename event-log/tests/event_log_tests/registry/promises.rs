//! The port's promises, by each backend.

use std::sync::Arc;

use event_log::registry::{EmbeddedRegistry, SchemaRegistry, SubjectNameStrategy, conformance};

use super::{connected, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kept_by_the_embedded_registry() {
    let directory = tempfile::tempdir().unwrap();
    let registry: Arc<dyn SchemaRegistry> = Arc::new(EmbeddedRegistry::open(directory.path()).unwrap());
    conformance::suite(async || registry.clone()).await;
    conformance::durable(async || {
        let registry: Arc<dyn SchemaRegistry> =
            Arc::new(EmbeddedRegistry::open(directory.path().join("durable")).unwrap());
        registry
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kept_by_a_real_registry() {
    let url = server().await;
    let open = async || {
        let registry: Arc<dyn SchemaRegistry> = Arc::new(connected(&url).await);
        registry
    };
    conformance::suite(open).await;
    conformance::durable(open).await;
}

#[test]
fn subjects_are_named_as_confluents_clients_name_them() {
    let named = |strategy: &str| strategy.parse::<SubjectNameStrategy>().unwrap().subject("clicks", "shop.Click");
    assert_eq!(named("topic_name"), "clicks-value");
    assert_eq!(named("record_name"), "shop.Click");
    assert_eq!(named("topic_record_name"), "clicks-shop.Click");
    assert_eq!(SubjectNameStrategy::default().to_string(), "topic_name");
    let strategy: SubjectNameStrategy = serde_json::from_str("\"record_name\"").unwrap();
    assert_eq!(strategy, SubjectNameStrategy::RecordName);
    assert!("TopicName".parse::<SubjectNameStrategy>().unwrap_err().contains("topic_record_name"));
}
