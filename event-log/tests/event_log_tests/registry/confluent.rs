//! The real registry: what an operator may get wrong, outages, and rules of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::LogError;
use event_log::registry::{ConfluentOptions, ConfluentRegistry, SchemaRegistry as _};
use serde_json::json;

use super::gate::{Gate, Mode};
use super::{connected, event, fresh, http, options, post, server, set_mode};

const ID: &str = r#"{"name":"id","type":"int"}"#;

/// One line that names the setting, within seconds.
async fn refusal(options: ConfluentOptions) -> LogError {
    let begun = Instant::now();
    println!("waiting for a refusal of {options:?}");
    let error = ConfluentRegistry::connect(options).await.expect_err("refused");
    println!("  {error}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let message = error.to_string();
    assert!(message.contains("registry.") && !message.contains('\n'), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
    error
}

/// The error, which says all of this.
fn told(error: LogError, expected: &[&str]) -> LogError {
    for part in expected {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
    error
}

#[tokio::test]
async fn what_an_operator_gets_wrong_is_told_in_one_line_naming_the_setting() {
    let url = server().await;
    let gate = Gate::before(&url).await;
    for (wrong, reason) in [
        ("", "registry.url: no address"),
        ("127.0.0.1:8081", "registry.url: 127.0.0.1:8081: "),
        ("ftp://127.0.0.1", "not an http or https address"),
    ] {
        let error = told(refusal(options(wrong)).await, &[reason]);
        assert!(matches!(error, LogError::Invalid(_)), "{error:?}");
    }
    // Nothing listens there.
    let error = told(refusal(options("http://127.0.0.1:9")).await, &["registry.url", "http://127.0.0.1:9", "refused"]);
    assert!(error.is_transient(), "{error:?}");
    let error =
        told(refusal(options("http://no-such-host.invalid:8081")).await, &["registry.url", "no-such-host.invalid"]);
    assert!(error.is_transient(), "{error:?}");
    gate.set(Mode::Silent);
    let short = ConfluentOptions { timeout: Duration::from_secs(1), ..options(&gate.url) };
    assert!(told(refusal(short).await, &["registry.url", "no answer in time"]).is_transient());
    gate.set(Mode::Shut);
    assert!(refusal(options(&gate.url)).await.is_transient());
    gate.set(Mode::Says(503, "<html>upstream is down</html>"));
    assert!(told(refusal(options(&gate.url)).await, &["registry.url", "503"]).is_transient());
    // A server that is no registry.
    gate.set(Mode::Says(404, "<html>nothing here</html>"));
    let error =
        told(refusal(options(&gate.url)).await, &["registry.url", "no schema registry answers at this address"]);
    assert!(matches!(error, LogError::Invalid(_)), "{error:?}");
    gate.set(Mode::Says(200, "<html>hello</html>"));
    told(refusal(options(&gate.url)).await, &["registry.url", "not a schema registry's"]);
    gate.set(Mode::SendsOn("https://127.0.0.1:1/schemas/types"));
    told(refusal(options(&gate.url)).await, &["registry.url", &gate.url, "https: give that address"]);
    gate.set(Mode::Open);

    let missing = ConfluentOptions { ca_file: Some("/no/such/ca.pem".into()), ..options(&gate.url) };
    told(refusal(missing).await, &["registry.ca_file", "/no/such/ca.pem"]);
    let both = ConfluentOptions { token: Some("hunter2".into()), user: Some("me".into()), ..options(&gate.url) };
    told(refusal(both).await, &["registry.token", "registry.user"]);
}

#[tokio::test]
async fn a_registry_behind_tls_is_asked_when_its_certificate_is_trusted() {
    let url = server().await;
    let (gate, certificate) = Gate::with_tls(&url).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let trusting = ConfluentOptions { ca_file: file("ca.pem", &certificate), ..options(&gate.url) };
    let registry = ConfluentRegistry::connect(trusting.clone()).await.expect("trusted");
    registry.register(&fresh("tls"), &event(ID)).await.expect("registered");
    assert!(gate.requests() > 1, "it was asked through the gate");

    // Nobody vouches for it.
    told(refusal(options(&gate.url)).await, &["registry.url", &gate.url, "certificate"]);
    // Trusted, but it is somebody else's.
    let elsewhere = ConfluentOptions { urls: gate.url.replace("localhost", "127.0.0.1"), ..trusting };
    told(refusal(elsewhere).await, &["registry.url", "certificate", "not valid for name"]);
    let nothing = ConfluentOptions { ca_file: file("none.pem", "no certificate\n"), ..options(&gate.url) };
    told(refusal(nothing).await, &["registry.ca_file", "none.pem", "no certificate in it"]);
}

#[tokio::test]
async fn who_asks_is_told_to_the_registry_and_to_nobody_else() {
    let url = server().await;
    let gate = Gate::before(&url).await;
    gate.admit_only("Basic bWU6aHVudGVyMg==");
    let right = ConfluentOptions { user: Some("me".into()), password: Some("hunter2".into()), ..options(&gate.url) };
    let registry = ConfluentRegistry::connect(right.clone()).await.expect("let in");
    registry.register(&fresh("who"), &event(ID)).await.expect("let in");
    assert!(!format!("{right:?} {registry:?}").contains("hunter2"));
    let in_address = gate.url.replace("http://", "http://me:hunter%32@");
    let registry = ConfluentRegistry::connect(options(&in_address)).await.expect("let in by the address");
    assert!(!format!("{:?} {registry:?}", options(&in_address)).contains("hunter"));

    let wrong = ConfluentOptions { password: Some("hunter22".into()), ..right };
    for wrong in [wrong, options(&gate.url), ConfluentOptions { token: Some("hunter2".into()), ..options(&gate.url) }] {
        let error = refusal(wrong).await;
        assert!(matches!(error, LogError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains("registry.password"), "{error}");
    }
    gate.admit_only("Bearer hunter2");
    let token = ConfluentOptions { token: Some("hunter2".into()), ..options(&gate.url) };
    ConfluentRegistry::connect(token).await.expect("let in by the token");

    // Credentials that expire while it runs are an outage: no event may be taken for undecodable because of them.
    gate.admit_only("Bearer another");
    let error = registry.schema(1).await.expect_err("not let in");
    assert!(error.is_transient() && error.to_string().contains("registry.url"), "{error:?}");
}

#[tokio::test]
async fn an_outage_stops_nothing_that_is_known() {
    let url = server().await;
    let gate = Gate::before(&url).await;
    let registry = connected(&gate.url).await;
    let subject = fresh("outage");
    let id = registry.register(&subject, &event(ID)).await.unwrap();
    let schema = registry.schema(id).await.unwrap();
    for _ in 0..10 {
        registry.schema(id).await.unwrap();
    }
    assert_eq!(gate.asked(&format!("/schemas/ids/{id}")), 1, "asked once");
    let new = event(r#"{"name":"id","type":"int"},{"name":"n","type":"int","default":0}"#);
    let other = connected(&url).await.register(&subject, &new).await.unwrap();
    for mode in [Mode::Shut, Mode::Says(500, "oh"), Mode::Says(200, "<html>"), Mode::Says(429, "{}")] {
        println!("while the registry is {mode:?}");
        gate.set(mode);
        assert_eq!(registry.schema(id).await.unwrap(), schema);
        assert_eq!(registry.register(&subject, &event(ID)).await.unwrap(), id, "what we registered stays registered");
        assert!(registry.schema(other).await.unwrap_err().is_transient());
        assert!(registry.register(&subject, &new).await.unwrap_err().is_transient());
        assert!(registry.latest(&subject).await.unwrap_err().is_transient());
    }
    gate.set(Mode::Open);
    assert_eq!(*registry.schema(other).await.unwrap(), new, "an outage is not remembered");
    assert_eq!(registry.register(&subject, &new).await.unwrap(), other);
}

#[tokio::test]
async fn many_who_want_one_id_ask_once() {
    let url = server().await;
    let id = post(
        &url,
        &fresh("many"),
        json!({"schema": event(&format!("{ID},{}", ID.replace("id", &format!("f{}", uuid::Uuid::new_v4().simple()))))}),
    )
    .await;
    let gate = Gate::before(&url).await;
    let registry = Arc::new(connected(&gate.url).await);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.schema(id).await.unwrap() })
        })
        .collect();
    // One that gives up takes nothing from the others.
    tasks[0].abort();
    for task in tasks.into_iter().skip(1) {
        task.await.unwrap();
    }
    assert_eq!(gate.asked(&format!("/schemas/ids/{id}")), 1);
}

#[tokio::test]
async fn of_several_addresses_one_that_answers_is_enough() {
    let url = server().await;
    let (one, other) = (Gate::before(&url).await, Gate::before(&url).await);
    let registry = connected(&format!("http://127.0.0.1:9, {},{}", one.url, other.url)).await;
    let subject = fresh("several");
    let id = registry.register(&subject, &event(ID)).await.unwrap();
    one.set(Mode::Shut);
    registry.schema(id).await.unwrap();
    assert!(other.requests() > 0);
    other.set(Mode::Says(404, r#"{"error_code":40403,"message":"Schema not found"}"#));
    println!("waiting for an id that the only server alive does not know");
    let unknown = registry.schema(i32::MAX as u32 - 7).await;
    assert!(matches!(unknown, Err(LogError::NotFound(_))), "{unknown:?}");
    other.set(Mode::Shut);
    assert!(registry.latest(&subject).await.unwrap_err().is_transient());
    one.set(Mode::Open);
    assert_eq!(registry.latest(&subject).await.unwrap().0, id);
}

#[tokio::test]
async fn the_registrys_own_rules_count_as_well() {
    let url = server().await;
    let registry = connected(&url).await;
    let subject = fresh("rules");
    let first = event(ID);
    let id = registry.register(&subject, &first).await.unwrap();
    // With the new schema old events can be read, with the old one new events cannot.
    let wider = event(r#"{"name":"id","type":"long"}"#);
    set_mode(&url, &subject, "FULL").await;
    for outcome in [registry.check(&subject, &wider).await, registry.register(&subject, &wider).await.map(|_| ())] {
        let Err(LogError::Invalid(message)) = outcome else { panic!("{outcome:?}") };
        assert!(message.contains(&subject) && message.contains("by the registry"), "{message}");
    }
    assert_eq!(registry.register(&subject, &first).await.unwrap(), id, "what is there is not new");
    set_mode(&url, &subject, "NONE").await;
    registry.check(&subject, &wider).await.unwrap();
    registry.register(&subject, &wider).await.unwrap();
}

#[tokio::test]
async fn what_others_put_into_a_subject_counts_too() {
    let url = server().await;
    let registry = connected(&url).await;
    let subject = fresh("others");
    let first = event(ID);
    let id = registry.register(&subject, &first).await.unwrap();
    let text = event(r#"{"name":"id","type":"string"}"#);
    post(&url, &subject, json!({"schema": text})).await;
    // Ours is there, so the application goes on; a new one has to read theirs too.
    assert_eq!(connected(&url).await.register(&subject, &first).await.unwrap(), id);
    let new = event(r#"{"name":"id","type":"int"},{"name":"n","type":"int","default":0}"#);
    let Err(LogError::Invalid(message)) = registry.register(&subject, &new).await else { panic!("not refused") };
    assert!(message.contains("version 2") && message.contains("id: string cannot be read as int"), "{message}");
    // The operator withdraws it.
    let withdrawn = http().delete(format!("{url}/subjects/{subject}/versions/2")).send().await.unwrap();
    assert!(withdrawn.status().is_success());
    registry.register(&subject, &new).await.unwrap();

    // What is not Avro has no events that any record could read.
    let subject = fresh("protobuf");
    let proto = json!({"schema": "syntax = \"proto3\"; message A { string id = 1; }", "schemaType": "PROTOBUF"});
    let id = post(&url, &subject, proto).await;
    let Err(LogError::Invalid(message)) = registry.register(&subject, &first).await else { panic!("not refused") };
    assert!(message.contains("version 1") && message.contains("PROTOBUF"), "{message}");
    let Err(LogError::Invalid(message)) = registry.schema(id).await else { panic!("of use") };
    assert!(message.contains("PROTOBUF"), "{message}");
}
