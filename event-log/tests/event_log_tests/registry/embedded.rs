//! The embedded registry: ids, compatibility, damage.

use event_log::error::LogError;
use event_log::registry::{EmbeddedRegistry, SchemaRegistry as _};

fn event(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"Event","fields":[{fields}]}}"#)
}

const ID: &str = r#"{"name":"id","type":"int"}"#;

#[tokio::test]
async fn equal_schemas_share_an_id_and_ids_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = EmbeddedRegistry::open(dir.path()).expect("opened");
    let first = event(ID);
    assert_eq!(registry.register("a-value", &first).await.expect("registered"), 1);
    let same = r#"{"fields": [{"type": {"type": "int"}, "name": "id", "doc": "said otherwise"}], "name": "Event", "type": "record"}"#;
    assert_eq!(registry.register("a-value", same).await.expect("registered"), 1, "documentation is no difference");
    assert_eq!(registry.register("b-value", &first).await.expect("registered"), 2, "another subject");
    // Parsing canonical form would call these two equal to what is there.
    let default = event(r#"{"name":"id","type":"int","default":5}"#);
    assert_eq!(registry.register("a-value", &default).await.expect("registered"), 3);
    let logical = event(r#"{"name":"id","type":{"type":"int","logicalType":"date"}}"#);
    assert_eq!(registry.register("a-value", &logical).await.expect("registered"), 4);
    drop(registry);
    let registry = EmbeddedRegistry::open(dir.path()).expect("opened again");
    assert_eq!(&*registry.schema(1).await.expect("schema 1"), first);
    assert_eq!(&*registry.schema(3).await.expect("schema 3"), default);
    assert_eq!(registry.register("a-value", &default).await.expect("registered"), 3);
    assert_eq!(registry.register("c-value", &first).await.expect("registered"), 5);
    for id in [0, 6, u32::MAX] {
        assert!(matches!(registry.schema(id).await, Err(LogError::NotFound(_))), "{id}");
    }
}

#[tokio::test]
async fn a_schema_that_cannot_read_history_is_refused_naming_the_field() {
    let cases = [
        (r#"{"name":"id","type":"string"}"#, "id: int cannot be read as string"),
        (
            r#"{"name":"id","type":"int"},{"name":"who","type":"string"}"#,
            "who: the writer has no such field, and there is no default for it",
        ),
        (
            r#"{"name":"id","type":"int"},{"name":"who","type":["null","string"]}"#,
            "who: the writer has no such field, and there is no default for it",
        ),
        (r#"{"name":"key","type":"int"}"#, "key: the writer has no such field, and there is no default for it"),
    ];
    for (fields, expected) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let registry = EmbeddedRegistry::open(dir.path()).expect("opened");
        registry.register("a-value", &event(ID)).await.expect("registered");
        let refused = registry.register("a-value", &event(fields)).await.expect_err(fields);
        assert!(matches!(refused, LogError::Invalid(_)));
        let start = "schema for a-value cannot read events of its earlier schema 1: ";
        assert_eq!(refused.to_string(), format!("{start}{expected}"));
        assert_eq!(registry.register("other-value", &event(fields)).await.expect("another subject"), 2);
    }
}

#[tokio::test]
async fn more_of_what_is_compatible_and_what_is_not() {
    let ts = |logical: &str| format!(r#"{{"name":"t","type":{{"type":"long","logicalType":"{logical}"}}}}"#);
    let level = |symbols: &str| format!(r#"{{"name":"l","type":{{"type":"enum","name":"L","symbols":[{symbols}]}}}}"#);
    let decimal = |scale: u32| {
        format!(r#"{{"name":"d","type":{{"type":"bytes","logicalType":"decimal","precision":9,"scale":{scale}}}}}"#)
    };
    let plain = |data: &str| format!(r#"{{"name":"v","type":{data}}}"#);
    let cases = [
        (plain(r#""int""#), plain(r#""double""#), None),
        (plain(r#""double""#), plain(r#""int""#), Some("v: double cannot be read as int")),
        (plain(r#""string""#), plain(r#""bytes""#), None),
        (plain(r#""int""#), plain(r#"["null","int"]"#), None),
        (plain(r#"["null","int"]"#), plain(r#""int""#), Some("v: null cannot be read as int")),
        (plain(r#"["int","string"]"#), plain(r#"["int"]"#), Some("v: string has no place in the reader's union")),
        (
            ts("timestamp-millis"),
            ts("timestamp-micros"),
            Some("t: timestamp-millis cannot be read as timestamp-micros"),
        ),
        (level(r#""A","B""#), level(r#""A","B","C""#), None),
        (level(r#""A","B""#), level(r#""A""#), Some("l: the reader's enum has no symbol B and no default")),
        (decimal(2), decimal(3), Some("d: the decimal's scale was 2 and is 3")),
    ];
    for (before, after, problem) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let registry = EmbeddedRegistry::open(dir.path()).expect("opened");
        registry.register("a-value", &event(&before)).await.expect("registered");
        let outcome = registry.register("a-value", &event(&after)).await;
        match problem {
            None => assert_eq!(outcome.expect(&after), 2),
            Some(problem) => {
                let told = outcome.expect_err(&after).to_string();
                assert!(told.ends_with(problem), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn every_earlier_schema_counts_not_only_the_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = EmbeddedRegistry::open(dir.path()).expect("opened");
    registry.register("a-value", &event(ID)).await.expect("the first");
    let second = event(r#"{"name":"id","type":"int"},{"name":"n","type":"int","default":0}"#);
    registry.register("a-value", &second).await.expect("the second");
    // The second schema's events have `n`, the first one's do not.
    let third = event(r#"{"name":"id","type":"int"},{"name":"n","type":"int"}"#);
    let refused = registry.register("a-value", &third).await.expect_err("refused");
    assert!(refused.to_string().contains("its earlier schema 1: n:"), "{refused}");
}

#[tokio::test]
async fn what_is_not_a_record_schema_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = EmbeddedRegistry::open(dir.path()).expect("opened");
    let tree = r#"{"type":"record","name":"Tree","fields":[{"name":"next","type":["null","Tree"]}]}"#;
    for schema in ["", "{", r#""string""#, r#"{"type":"record","name":"Event"}"#, tree] {
        let refused = registry.register("a-value", schema).await.expect_err(schema);
        assert!(matches!(refused, LogError::Invalid(_)), "{refused}");
    }
    assert_eq!(registry.register("a-value", &event(ID)).await.expect("registered"), 1, "no id was used up");
}

#[tokio::test]
async fn damage_is_found_and_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = EmbeddedRegistry::open(dir.path()).expect("opened");
    for subject in ["a-value", "b-value", "c-value"] {
        registry.register(subject, &event(ID)).await.expect("registered");
    }
    drop(registry);
    let second = dir.path().join("00000002.json");
    let sound = std::fs::read(&second).expect("read");
    let damaged = |what: &str| {
        let error = EmbeddedRegistry::open(dir.path()).expect_err(what);
        assert!(matches!(error, LogError::Damaged(_)), "{what}: {error}");
        assert!(error.to_string().contains("00000002.json"), "{what}: {error}");
    };
    for at in 0..sound.len() {
        for bit in 0..8 {
            let mut flipped = sound.clone();
            flipped[at] ^= 1 << bit;
            std::fs::write(&second, &flipped).expect("written");
            damaged(&format!("bit {bit} of byte {at}"));
        }
    }
    for end in 0..sound.len() {
        std::fs::write(&second, &sound[..end]).expect("written");
        damaged(&format!("cut at {end}"));
    }
    std::fs::remove_file(&second).expect("removed");
    damaged("missing");
    std::fs::copy(dir.path().join("00000001.json"), &second).expect("copied");
    damaged("the file of another id");
    std::fs::write(&second, &sound).expect("written");
    std::fs::write(dir.path().join("00000004.new"), b"half a sch").expect("written");
    let registry = EmbeddedRegistry::open(dir.path()).expect("a file that was never finished does no harm");
    assert_eq!(registry.register("d-value", &event(ID)).await.expect("registered"), 4);
}

#[tokio::test]
async fn registrations_at_once_agree() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = std::sync::Arc::new(EmbeddedRegistry::open(dir.path()).expect("opened"));
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let registry = registry.clone();
            tokio::spawn(async move { (i % 5, registry.register(&format!("s{}-value", i % 5), &event(ID)).await) })
        })
        .collect();
    let mut ids = std::collections::BTreeMap::new();
    for task in tasks {
        let (subject, id) = task.await.expect("no panic");
        let id = id.expect("registered");
        assert_eq!(*ids.entry(subject).or_insert(id), id, "one subject, one schema, one id");
    }
    let different: std::collections::BTreeSet<_> = ids.values().copied().collect();
    assert_eq!(different, (1..=5).collect());
}
