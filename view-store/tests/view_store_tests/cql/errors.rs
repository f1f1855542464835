//! What an operator gets wrong is said in one line that names the setting, within seconds.

use std::time::{Duration, Instant};

use view_store::CqlStore;
use view_store::cql::{Consistency, CqlOptions, consistency};

use super::server::{Keyspace, reachable};

/// How connecting fails, in one line and in time.
async fn refused(options: CqlOptions) -> String {
    println!("waiting for the refusal of {} {}", options.nodes.join(","), options.keyspace);
    let began = Instant::now();
    let error = CqlStore::connect(options).await.err().expect("an error");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    println!("{text}");
    text
}

fn here() -> CqlOptions {
    reachable()
}

#[tokio::test]
async fn nobody_answers() {
    let text = refused(CqlOptions { nodes: vec!["127.0.0.1:1".to_owned()], ..here() }).await;
    assert!(text.contains("store.nodes") && text.contains("127.0.0.1:1"), "{text}");
    let text = refused(CqlOptions { nodes: vec!["no.such.host.invalid:9042".to_owned()], ..here() }).await;
    assert!(text.contains("store.nodes") && text.contains("no.such.host.invalid"), "{text}");
    // Somebody who takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = silent.local_addr().expect("its address").to_string();
    let text = refused(CqlOptions { nodes: vec![at.clone()], ..here() }).await;
    assert!(text.contains("store.nodes") && text.contains(&at), "{text}");
}

#[tokio::test]
async fn the_keyspace_is_not_there() {
    let keyspace = Keyspace::new("errors").await;
    let text = refused(CqlOptions { keyspace: "tm_never_made".to_owned(), ..here() }).await;
    assert!(text.contains("store.keyspace") && text.contains("`tidemark store init`"), "{text}");
    keyspace.run("UPDATE KS.tidemark_schema SET version = 7 WHERE component = 'store'").await;
    let text = refused(keyspace.options()).await;
    assert!(text.contains("version 7") && text.contains("store.keyspace"), "{text}");
    keyspace.drop().await;
}

#[tokio::test]
async fn a_keyspace_is_made_once_and_again() {
    let keyspace = Keyspace::new("init").await;
    for _ in 0..2 {
        CqlStore::init(&keyspace.options()).await.expect("the same again");
    }
    keyspace.run("DROP TABLE KS.attempts").await;
    CqlStore::connect(CqlOptions { create: true, ..keyspace.options() }).await.err().expect("half of a layout");
    keyspace.run("DROP KEYSPACE KS").await;
    println!("waiting for {} to be made while connecting", keyspace.name);
    CqlStore::connect(CqlOptions { create: true, ..keyspace.options() }).await.expect("a store");
    keyspace.drop().await;
}

#[tokio::test]
async fn a_wrong_password() {
    let text = refused(CqlOptions { password: Some("another".to_owned()), ..here() }).await;
    assert!(text.contains("store.user") && text.contains("store.password"), "{text}");
    assert!(!text.contains("another"), "{text}");
}

#[tokio::test]
async fn settings_that_cannot_work() {
    let one = Consistency::One;
    let text = refused(CqlOptions { read_consistency: one, write_consistency: one, ..here() }).await;
    assert!(text.contains("store.read_consistency ONE and store.write_consistency ONE do not overlap"), "{text}");
    let text = refused(CqlOptions { user: Some("tidemark".to_owned()), password: None, ..here() }).await;
    assert!(text.contains("store.user") && text.contains("store.password"), "{text}");
    let text = refused(CqlOptions { grace: Duration::ZERO, ..here() }).await;
    assert!(text.contains("store.grace"), "{text}");
    let text = refused(CqlOptions { keyspace: "a; DROP".to_owned(), ..here() }).await;
    assert!(text.contains("store.keyspace"), "{text}");
    let text = refused(CqlOptions { tls_ca: Some("/no/such/file".into()), ..here() }).await;
    assert!(text.contains("store.tls_ca"), "{text}");
    let fits = |read, write| CqlOptions { read_consistency: read, write_consistency: write, ..here() }.check().is_ok();
    use Consistency::{All, LocalOne, LocalQuorum, Quorum};
    assert!(fits(LocalQuorum, LocalQuorum) && fits(Quorum, Quorum) && fits(one, All) && fits(All, one));
    assert!(!fits(one, Quorum) && !fits(Quorum, LocalQuorum) && !fits(LocalOne, one) && !fits(LocalQuorum, one));
    assert_eq!((consistency("local_quorum"), consistency("ANY")), (Some(LocalQuorum), None));
}
