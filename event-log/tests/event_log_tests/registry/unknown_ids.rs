//! Ids the registry does not know: waited for, but not for ever, and not one after another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::decode::EventDecoder;
use event_log::registry::{ConfluentOptions, ConfluentRegistry, SchemaRegistry};
use event_log::{Content, LogError, Record};
use serde_json::json;
use views::TopicPartition;

use super::gate::{Gate, Mode};
use super::{event, fresh, options, post, server};
use crate::clicks::framed;
use crate::events::source;

const WAIT: Duration = Duration::from_millis(1500);

fn patient(url: &str) -> ConfluentOptions {
    ConfluentOptions { unknown_wait: WAIT, ..options(url) }
}

/// Ids nobody has registered.
fn made_up(count: u32) -> impl Iterator<Item = u32> {
    let first = i32::MAX as u32 - 1_000_000 + rand::random_range(0..900_000);
    first..first + count
}

async fn unknown(registry: &ConfluentRegistry, id: u32) -> Duration {
    let begun = Instant::now();
    let answer = registry.schema(id).await;
    assert!(matches!(answer, Err(LogError::NotFound(_))), "{answer:?}");
    begun.elapsed()
}

#[tokio::test]
async fn a_registry_that_is_behind_is_waited_for() {
    let url = server().await;
    let gate = Gate::before(&url).await;
    let registry = ConfluentRegistry::connect(patient(&gate.url)).await.unwrap();
    // A wait that brings what was waited for uses nothing up: so it goes three times.
    for round in 0..3 {
        println!("round {round}: waiting for an id the registry hides three times");
        let id =
            post(&url, &fresh("behind"), json!({"schema": event(&format!(r#"{{"name":"f{round}","type":"int"}}"#))}))
                .await;
        let path = format!("/schemas/ids/{id}");
        gate.hide(&path, 3);
        registry.schema(id).await.unwrap();
        assert_eq!(gate.asked(&path), 4);
    }
}

#[tokio::test]
async fn ids_that_are_made_up_are_waited_for_together_once_and_remembered() {
    let url = server().await;
    let gate = Gate::before(&url).await;
    let registry = Arc::new(ConfluentRegistry::connect(patient(&gate.url)).await.unwrap());
    println!("waiting for ids that will not come");
    let begun = Instant::now();
    let ids: Vec<u32> = made_up(200).collect();
    let tasks: Vec<_> = ids[..20]
        .iter()
        .map(|id| {
            let (registry, id) = (registry.clone(), *id);
            tokio::spawn(async move { unknown(&registry, id).await })
        })
        .collect();
    for task in tasks {
        let waited = task.await.unwrap();
        assert!(waited >= WAIT && waited < WAIT * 3, "{waited:?}");
    }
    for id in &ids[20..] {
        unknown(&registry, *id).await;
    }
    assert!(begun.elapsed() < WAIT * 4, "{:?}: waiting is rationed for all together", begun.elapsed());
    for id in &ids[20..] {
        assert_eq!(gate.asked(&format!("/schemas/ids/{id}")), 1, "asked for all the same");
    }
    let asked = gate.requests();
    for id in &ids {
        unknown(&registry, *id).await;
    }
    assert_eq!(gate.requests(), asked, "remembered");
}

#[tokio::test]
async fn an_id_that_was_unknown_is_found_once_it_is_registered() {
    let url = server().await;
    let gate = Gate::before(&url).await;
    let options = ConfluentOptions {
        unknown_wait: Duration::ZERO,
        unknown_kept: Duration::from_millis(200),
        ..options(&gate.url)
    };
    let registry = ConfluentRegistry::connect(options).await.unwrap();
    let id = post(&url, &fresh("later"), json!({"schema": event(r#"{"name":"later","type":"int"}"#)})).await;
    gate.hide(&format!("/schemas/ids/{id}"), 1);
    unknown(&registry, id).await;
    println!("waiting until schema {id} is asked for again");
    while let Err(error) = registry.schema(id).await {
        assert!(matches!(error, LogError::NotFound(_)), "{error:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_decoder_waits_then_rejects_and_goes_on_through_an_outage() {
    let url = server().await;
    let gate = Gate::before(&url).await;
    let registry = Arc::new(ConfluentRegistry::connect(patient(&gate.url)).await.unwrap());
    let schema = event(r#"{"name":"n","type":"int"}"#);
    let subject = fresh("decoder");
    let known = registry.register(&subject, &schema).await.unwrap();
    let source = source(&schema);
    let columns: Vec<usize> = (0..source.schema.fields().len()).collect();
    let decoder = || EventDecoder::new(&source, &columns, registry.clone()).unwrap();
    let partition = TopicPartition::new("decoder", 0);
    let record = |offset: u64, id: u32| Record {
        offset,
        append_time: 0,
        content: Content::Event { key: None, value: framed(id, &[2]) },
    };
    let mut old = decoder();
    assert_eq!(old.decode(&partition, &[record(0, known)]).await.unwrap().events.num_rows(), 1);

    println!("decoding events of a schema that the registry does not show yet");
    let wider = event(r#"{"name":"n","type":"int"},{"name":"m","type":"int","default":0}"#);
    let late = registry.register(&subject, &wider).await.unwrap();
    gate.hide(&format!("/schemas/ids/{late}"), 2);
    let wide = Record { content: Content::Event { key: None, value: framed(late, &[2, 4]) }, ..record(1, late) };
    let decoded = old.decode(&partition, &[record(0, known), wide.clone()]).await.unwrap();
    assert_eq!((decoded.events.num_rows(), decoded.rejected.len()), (2, 0), "{:?}", decoded.rejected);

    println!("decoding a hundred events with ids nobody registered");
    let begun = Instant::now();
    let mut records: Vec<Record> = made_up(100).enumerate().map(|(i, id)| record(i as u64, id)).collect();
    records.push(record(100, known));
    for _ in 0..2 {
        let decoded = old.decode(&partition, &records).await.unwrap();
        assert_eq!((decoded.events.num_rows(), decoded.rejected.len()), (1, 100));
        assert!(decoded.rejected.iter().all(|(_, reason)| reason.ends_with("is not registered")));
    }
    assert!(begun.elapsed() >= WAIT && begun.elapsed() < WAIT * 3, "{:?}", begun.elapsed());

    let proto = json!({"schema": "syntax = \"proto3\"; message A { string id = 1; }", "schemaType": "PROTOBUF"});
    let proto = post(&url, &fresh("proto"), proto).await;
    let decoded = old.decode(&partition, &[record(0, proto), record(1, known)]).await.unwrap();
    assert_eq!(decoded.events.num_rows(), 1);
    assert!(decoded.rejected[0].1.contains("PROTOBUF"), "{:?}", decoded.rejected);

    println!("decoding while the registry is down");
    gate.set(Mode::Shut);
    let mut new = decoder();
    for decoder in [&mut old, &mut new] {
        let decoded = decoder.decode(&partition, &[record(0, known), wide.clone()]).await.unwrap();
        assert_eq!(decoded.events.num_rows(), 2);
        // What is not known may be anybody's: nothing is rejected for it.
        let stranger = made_up(1).next().unwrap();
        let outcome = decoder.decode(&partition, &[record(0, known), record(1, stranger)]).await;
        assert!(outcome.unwrap_err().is_transient());
    }
}
