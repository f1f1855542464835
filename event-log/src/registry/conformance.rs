//! The promises of [`SchemaRegistry`], as tests that every backend has to pass.
//!
//! [`suite`] checks what one registry promises, [`durable`] what must be there after it was closed and opened again. Both make subjects
//! of their own, so they can run against servers that hold others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use uuid::Uuid;
use views::avro::Record;

use super::SchemaRegistry;
use crate::error::LogError;

/// A registry that does not answer within this time hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Checks the promises of the registry that `make` makes; panics at the first that is broken. `make` is called twice, and may return
/// the same registry, or another client of the same one.
pub async fn suite(make: impl AsyncFn() -> Arc<dyn SchemaRegistry>) {
    let (one, other) = (make().await, make().await);
    macro_rules! check {
        ($($name:ident)*) => {$(
            println!("schema registry: {}", stringify!($name).replace('_', " "));
            tokio::time::timeout(HANGS, $name(one.clone(), other.clone())).await.expect(concat!(stringify!($name), " hangs"));
        )*};
    }
    check! {
        a_schema_comes_back_under_its_id
        equal_schemas_share_an_id
        different_schemas_have_different_ids
        what_is_unknown_is_not_found
        a_schema_that_cannot_read_history_is_refused_naming_subject_and_field
        every_earlier_schema_counts_not_only_the_last
        what_was_refused_has_changed_nothing
        a_check_says_what_registering_would_and_registers_nothing
        the_latest_schema_is_the_last_new_one
        what_is_not_a_record_schema_is_refused
        subjects_do_not_mix
        registrations_at_once_agree
        of_schemas_at_once_that_cannot_read_each_other_one_stays
    }
}

/// Checks what must survive closing: `open` is called several times, each time after the registry before was dropped, and opens
/// the same registry.
pub async fn durable(open: impl AsyncFn() -> Arc<dyn SchemaRegistry>) {
    println!("schema registry: what was registered is there after opening it again");
    let subject = new_subject();
    let mut expected: Vec<(u32, String)> = Vec::new();
    for round in 0..4 {
        let registry = open().await;
        for (id, schema) in &expected {
            assert_eq!(registry.register(&subject, schema).await.expect("registered before"), *id, "round {round}");
            assert_same(&registry.schema(*id).await.expect("a schema"), schema);
        }
        let added: String =
            (0..round).map(|i| format!(r#", {{"name": "f{i}", "type": "int", "default": {i}}}"#)).collect();
        let schema = event(&format!(r#"{{"name": "id", "type": "int"}}{added}"#));
        expected.push((registry.register(&subject, &schema).await.expect("registered"), schema));
    }
}

async fn a_schema_comes_back_under_its_id(one: Arc<dyn SchemaRegistry>, other: Arc<dyn SchemaRegistry>) {
    let schema = r#"{"type": "record", "name": "Order", "namespace": "shop.v1", "doc": "an order", "aliases": ["Purchase"],
        "fields": [
            {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
            {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"], "default": "A"}},
            {"name": "old", "type": ["null", "Kind"], "default": null},
            {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "namespace": "shop.lines",
                "fields": [{"name": "sum", "type": "double", "default": 0.5, "aliases": ["total"]}]}}},
            {"name": "extra", "type": {"type": "map", "values": "shop.lines.Line"}, "default": {}}
        ]}"#;
    let subject = new_subject();
    let id = one.register(&subject, schema).await.expect("registered");
    for _ in 0..2 {
        assert_same(&one.schema(id).await.expect("a schema"), schema);
        assert_same(&other.schema(id).await.expect("a schema"), schema);
    }
    let id = one.register(&subject, &event(r#"{"name": "id", "type": "int"}"#)).await.expect_err("not compatible");
    assert!(matches!(id, LogError::Invalid(_)), "{id}");
}

async fn equal_schemas_share_an_id(one: Arc<dyn SchemaRegistry>, other: Arc<dyn SchemaRegistry>) {
    let subject = new_subject();
    let schema = event(r#"{"name": "id", "type": "int"}"#);
    let id = one.register(&subject, &schema).await.expect("registered");
    let same = r#"{"fields": [{"type": {"type": "int"}, "name": "id", "doc": "said otherwise"}],
        "name": "Event", "doc": "one more", "type": "record"}"#;
    for equal in [&schema, same] {
        assert_eq!(one.register(&subject, equal).await.expect("registered"), id, "{equal}");
        assert_eq!(other.register(&subject, equal).await.expect("registered"), id, "{equal}");
    }
    let newer = event(r#"{"name": "id", "type": "int"}, {"name": "n", "type": "int", "default": 0}"#);
    other.register(&subject, &newer).await.expect("registered");
    assert_eq!(one.register(&subject, same).await.expect("registered"), id, "an old one keeps its id");
}

async fn different_schemas_have_different_ids(one: Arc<dyn SchemaRegistry>, _: Arc<dyn SchemaRegistry>) {
    let subject = new_subject();
    let schemas = [
        event(r#"{"name": "id", "type": "int"}"#),
        // Parsing canonical form calls all of these equal.
        event(r#"{"name": "id", "type": "int", "default": 5}"#),
        event(r#"{"name": "id", "type": "int", "aliases": ["key"]}"#),
        event(r#"{"name": "id", "type": {"type": "int", "logicalType": "date"}}"#),
    ];
    let mut ids = BTreeSet::new();
    for schema in &schemas {
        let id = one.register(&subject, schema).await.expect("registered");
        assert!(ids.insert(id), "{id} is given twice");
        assert_same(&one.schema(id).await.expect("a schema"), schema);
    }
}

async fn what_is_unknown_is_not_found(one: Arc<dyn SchemaRegistry>, _: Arc<dyn SchemaRegistry>) {
    for id in [0, i32::MAX as u32, i32::MAX as u32 - 1, u32::MAX] {
        let answer = one.schema(id).await;
        assert!(matches!(answer, Err(LogError::NotFound(_))), "schema {id}: {answer:?}");
    }
    let answer = one.latest(&new_subject()).await;
    assert!(matches!(answer, Err(LogError::NotFound(_))), "{answer:?}");
}

async fn a_schema_that_cannot_read_history_is_refused_naming_subject_and_field(
    one: Arc<dyn SchemaRegistry>,
    other: Arc<dyn SchemaRegistry>,
) {
    let id = r#"{"name": "id", "type": "int"}"#;
    let cases = [
        (id, r#"{"name": "id", "type": "string"}"#, "id: int cannot be read as string"),
        (
            id,
            r#"{"name": "id", "type": "int"}, {"name": "who", "type": "string"}"#,
            "who: the writer has no such field",
        ),
        (id, r#"{"name": "key", "type": "int"}"#, "key: the writer has no such field"),
        (r#"{"name": "id", "type": ["null", "int"]}"#, id, "id: null cannot be read as int"),
        (
            r#"{"name": "id", "type": {"type": "enum", "name": "L", "symbols": ["A", "B"]}}"#,
            r#"{"name": "id", "type": {"type": "enum", "name": "L", "symbols": ["A"]}}"#,
            "id: the reader's enum has no symbol B",
        ),
        (
            r#"{"name": "id", "type": {"type": "long", "logicalType": "timestamp-millis"}}"#,
            r#"{"name": "id", "type": {"type": "long", "logicalType": "timestamp-micros"}}"#,
            "id: timestamp-millis cannot be read as timestamp-micros",
        ),
    ];
    for (before, after, problem) in cases {
        let subject = new_subject();
        one.register(&subject, &event(before)).await.expect("registered");
        for registry in [&one, &other] {
            refused(registry.register(&subject, &event(after)).await, &[&subject, problem]);
        }
    }
    for (before, after) in [
        (id, r#"{"name": "id", "type": "double"}"#),
        (id, r#"{"name": "id", "type": ["null", "int"]}"#),
        (id, r#"{"name": "key", "aliases": ["id"], "type": "int"}"#),
    ] {
        let subject = new_subject();
        one.register(&subject, &event(before)).await.expect("registered");
        other.register(&subject, &event(after)).await.expect(after);
    }
}

async fn every_earlier_schema_counts_not_only_the_last(one: Arc<dyn SchemaRegistry>, _: Arc<dyn SchemaRegistry>) {
    let subject = new_subject();
    one.register(&subject, &event(r#"{"name": "id", "type": "int"}"#)).await.expect("the first");
    let second = event(r#"{"name": "id", "type": "int"}, {"name": "n", "type": "int", "default": 0}"#);
    one.register(&subject, &second).await.expect("the second");
    // The second schema's events have `n`, the first one's do not.
    let third = event(r#"{"name": "id", "type": "int"}, {"name": "n", "type": "int"}"#);
    refused(one.register(&subject, &third).await, &[&subject, "n: the writer has no such field"]);
}

async fn what_was_refused_has_changed_nothing(one: Arc<dyn SchemaRegistry>, other: Arc<dyn SchemaRegistry>) {
    let subject = new_subject();
    let schema = event(r#"{"name": "id", "type": "int"}"#);
    let id = one.register(&subject, &schema).await.expect("registered");
    let wrong = event(r#"{"name": "id", "type": "string"}"#);
    for registry in [&one, &one, &other] {
        refused(registry.register(&subject, &wrong).await, &[&subject]);
    }
    let (latest, there) = other.latest(&subject).await.expect("a latest");
    assert_eq!(latest, id);
    assert_same(&there, &schema);
    assert_eq!(one.register(&subject, &schema).await.expect("registered"), id);
}

async fn a_check_says_what_registering_would_and_registers_nothing(
    one: Arc<dyn SchemaRegistry>,
    other: Arc<dyn SchemaRegistry>,
) {
    let subject = new_subject();
    let schema = event(r#"{"name": "id", "type": "int"}"#);
    one.check(&subject, &schema).await.expect("a new subject takes it");
    let latest = other.latest(&subject).await;
    assert!(matches!(latest, Err(LogError::NotFound(_))), "{latest:?}");
    let id = one.register(&subject, &schema).await.expect("registered");
    for registry in [&one, &other] {
        registry.check(&subject, &schema).await.expect("it is there");
        let newer = event(r#"{"name": "id", "type": "int"}, {"name": "n", "type": "int", "default": 0}"#);
        registry.check(&subject, &newer).await.expect("compatible");
        let wrong = event(r#"{"name": "id", "type": "string"}"#);
        refused(registry.check(&subject, &wrong).await, &[&subject, "id: int cannot be read as string"]);
        refused(registry.check(&subject, "{").await, &[&subject]);
        assert_eq!(registry.latest(&subject).await.expect("a latest").0, id);
    }
}

async fn the_latest_schema_is_the_last_new_one(one: Arc<dyn SchemaRegistry>, other: Arc<dyn SchemaRegistry>) {
    let subject = new_subject();
    let first = event(r#"{"name": "id", "type": "int"}"#);
    let second = event(r#"{"name": "id", "type": "int"}, {"name": "n", "type": "int", "default": 0}"#);
    let mut last = 0;
    for schema in [&first, &second, &first] {
        last = one.register(&subject, schema).await.expect("registered").max(last);
    }
    let (latest, schema) = other.latest(&subject).await.expect("a latest");
    assert_eq!(latest, last, "registering an old one again does not make it the latest");
    assert_same(&schema, &second);
}

async fn what_is_not_a_record_schema_is_refused(one: Arc<dyn SchemaRegistry>, _: Arc<dyn SchemaRegistry>) {
    let subject = new_subject();
    let tree = r#"{"type": "record", "name": "Tree", "fields": [{"name": "next", "type": ["null", "Tree"]}]}"#;
    for schema in ["", "{", "null", r#""string""#, r#"{"type": "record", "name": "Event"}"#, tree] {
        refused(one.register(&subject, schema).await, &[&subject]);
    }
    let latest = one.latest(&subject).await;
    assert!(matches!(latest, Err(LogError::NotFound(_))), "{latest:?}");
}

async fn subjects_do_not_mix(one: Arc<dyn SchemaRegistry>, other: Arc<dyn SchemaRegistry>) {
    // Names that an address would take for something else.
    let base = new_subject();
    let names = ["-value", "/value", " a b", "?x=1", "#f", "%2F", ".ä", "-Value"].map(|end| format!("{base}{end}"));
    let kinds = ["int", "string", "boolean", "double", "bytes", "long", "float", r#"{"type":"map","values":"int"}"#];
    let plain = |kind: &str| if kind.starts_with('{') { kind.to_owned() } else { format!("\"{kind}\"") };
    let schemas = kinds.map(|kind| event(&format!(r#"{{"name": "v", "type": {}}}"#, plain(kind))));
    for (subject, schema) in names.iter().zip(&schemas) {
        one.register(subject, schema).await.expect(subject);
    }
    for (subject, schema) in names.iter().zip(&schemas) {
        assert_same(&other.latest(subject).await.expect(subject).1, schema);
    }
}

async fn registrations_at_once_agree(one: Arc<dyn SchemaRegistry>, other: Arc<dyn SchemaRegistry>) {
    for _ in 0..5 {
        let subject = new_subject();
        let schemas: Vec<String> =
            (0..8).map(|i| event(&format!(r#"{{"name": "id", "type": "int", "doc": "writer {}"}}"#, i / 2))).collect();
        let both = [&one, &other];
        let calls =
            schemas.iter().zip(both.iter().cycle()).map(|(schema, registry)| registry.register(&subject, schema));
        let ids: BTreeSet<u32> = join_all(calls).await.into_iter().map(|id| id.expect("registered")).collect();
        assert_eq!(ids.len(), 1, "one subject, one schema, one id: {ids:?}");
        let id = ids.first().copied().unwrap_or(0);
        assert_eq!(one.register(&subject, &schemas[5]).await.expect("registered"), id);
    }
}

async fn of_schemas_at_once_that_cannot_read_each_other_one_stays(
    one: Arc<dyn SchemaRegistry>,
    other: Arc<dyn SchemaRegistry>,
) {
    for _ in 0..5 {
        let subject = new_subject();
        let schemas = ["boolean", "string", "int"].map(|kind| event(&format!(r#"{{"name": "v", "type": "{kind}"}}"#)));
        let both = [&one, &other];
        let calls =
            schemas.iter().zip(both.iter().cycle()).map(|(schema, registry)| registry.register(&subject, schema));
        let outcomes = join_all(calls).await;
        let stayed: Vec<_> = outcomes.iter().zip(&schemas).filter(|(outcome, _)| outcome.is_ok()).collect();
        let [(Ok(id), schema)] = stayed[..] else { panic!("{} stayed: {outcomes:?}", stayed.len()) };
        for outcome in &outcomes {
            assert!(matches!(outcome, Ok(_) | Err(LogError::Invalid(_))), "{outcome:?}");
        }
        let (latest, there) = one.latest(&subject).await.expect("a latest");
        assert_eq!(latest, *id);
        assert_same(&there, schema);
    }
}

fn new_subject() -> String {
    format!("conformance-{}", Uuid::new_v4())
}

fn event(fields: &str) -> String {
    format!(r#"{{"type": "record", "name": "Event", "fields": [{fields}]}}"#)
}

/// Documentation and the order of what is written are no difference.
fn assert_same(there: &str, expected: &str) {
    assert_eq!(Record::parse(there), Record::parse(expected));
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, LogError>, naming: &[&str]) {
    let Err(LogError::Invalid(message)) = outcome else { panic!("not refused: {outcome:?}") };
    for name in naming {
        assert!(message.contains(name), "{name:?} is not named: {message}");
    }
}
