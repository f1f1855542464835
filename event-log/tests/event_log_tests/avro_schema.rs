//! Avro schemas as columns, and the reader schemas made of them.

use datafusion::arrow::datatypes::{DataType, Schema, TimeUnit};
use views::avro::{Record, reader_schema, source_schema};

use crate::events::one_field;

fn column(avro_type: &str) -> (DataType, bool) {
    let schema = source_schema(&one_field(avro_type)).unwrap_or_else(|e| panic!("{e}: {avro_type}"));
    (schema.field(0).data_type().clone(), schema.field(0).is_nullable())
}

fn carries_metadata(schema: &Schema) -> bool {
    fn of(data_type: &DataType) -> bool {
        match data_type {
            DataType::List(f) | DataType::Map(f, _) => !f.metadata().is_empty() || of(f.data_type()),
            DataType::Struct(fields) => fields.iter().any(|f| !f.metadata().is_empty() || of(f.data_type())),
            _ => false,
        }
    }
    !schema.metadata().is_empty() || schema.fields().iter().any(|f| !f.metadata().is_empty() || of(f.data_type()))
}

#[test]
fn every_type_is_a_column() {
    let utc = |unit| DataType::Timestamp(unit, Some("+00:00".into()));
    let cases = [
        (r#""boolean""#, DataType::Boolean),
        (r#""int""#, DataType::Int32),
        (r#""long""#, DataType::Int64),
        (r#""float""#, DataType::Float32),
        (r#""double""#, DataType::Float64),
        (r#""bytes""#, DataType::Binary),
        (r#""string""#, DataType::Utf8),
        (r#"{"type":"string","logicalType":"uuid"}"#, DataType::Utf8),
        (r#"{"type":"enum","name":"E","symbols":["A"]}"#, DataType::Utf8),
        (r#"{"type":"fixed","name":"F","size":3}"#, DataType::FixedSizeBinary(3)),
        (r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#, DataType::FixedSizeBinary(16)),
        (r#"{"type":"int","logicalType":"date"}"#, DataType::Date32),
        (r#"{"type":"int","logicalType":"time-millis"}"#, DataType::Time32(TimeUnit::Millisecond)),
        (r#"{"type":"long","logicalType":"time-micros"}"#, DataType::Time64(TimeUnit::Microsecond)),
        (r#"{"type":"long","logicalType":"timestamp-millis"}"#, utc(TimeUnit::Millisecond)),
        (r#"{"type":"long","logicalType":"timestamp-micros"}"#, utc(TimeUnit::Microsecond)),
        (r#"{"type":"long","logicalType":"timestamp-nanos"}"#, utc(TimeUnit::Nanosecond)),
        (r#"{"type":"long","logicalType":"local-timestamp-micros"}"#, DataType::Timestamp(TimeUnit::Microsecond, None)),
        (r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#, DataType::Decimal128(10, 2)),
        (r#"{"type":"bytes","logicalType":"decimal","precision":40,"scale":2}"#, DataType::Decimal256(40, 2)),
    ];
    for (avro_type, expected) in cases {
        assert_eq!(column(avro_type), (expected.clone(), false), "{avro_type}");
        assert_eq!(column(&format!(r#"["null",{avro_type}]"#)), (expected.clone(), true), "{avro_type}");
        assert_eq!(column(&format!(r#"[{avro_type},"null"]"#)), (expected, true), "{avro_type}");
    }
}

#[test]
fn nested_types_are_normal_all_the_way_down() {
    let avro = one_field(
        r#"{"type":"array","items":{"type":"record","name":"R","namespace":"a.b","doc":"says \"hi\"\n","fields":[
            {"name":"e","type":{"type":"enum","name":"E","symbols":["A"]}},
            {"name":"m","type":{"type":"map","values":["null","E"]}},
            {"name":"u","type":{"type":"string","logicalType":"uuid"}}]}}"#,
    );
    let schema = source_schema(&avro).expect("a schema");
    assert!(!carries_metadata(&schema));
    let shown = schema.field(0).data_type().to_string();
    assert!(!shown.contains("Dictionary") && !shown.contains("Binary"), "{shown}");
    let names: Vec<_> = schema.fields()[1..].iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["_topic", "_partition", "_offset", "_append_time", "_key"]);
    assert!(schema.fields()[1..5].iter().all(|field| !field.is_nullable()) && schema.field(5).is_nullable());
}

#[test]
fn schemas_that_cannot_be_a_source_are_refused_with_the_reason() {
    let fields = |fields: &str| format!(r#"{{"type":"record","name":"Event","fields":[{fields}]}}"#);
    let cases = [
        ("{".to_owned(), "not an Avro schema"),
        (r#""string""#.to_owned(), "must be a record"),
        (fields(""), "Event has no fields"),
        (fields(r#"{"name":"a","type":"null"}"#), "field \"a\": a null outside a union"),
        (fields(r#"{"name":"a","type":{"type":"array","items":"null"}}"#), "field \"a\": a null outside a union"),
        (fields(r#"{"name":"_offset","type":"int"}"#), "field \"_offset\" has the name of a system column"),
        (fields(r#"{"name":"_KEY","type":"int"}"#), "field \"_KEY\" has the name of a system column"),
        (
            fields(r#"{"name":"Id","type":"int"},{"name":"id","type":"int"}"#),
            "fields \"Id\" and \"id\" differ only in case",
        ),
        (fields(r#"{"name":"next","type":["null","Event"]}"#), "next: the record Event contains itself"),
        (
            fields(r#"{"name":"a","type":"int"},{"name":"b","type":{"type":"record","name":"R","fields":[]}}"#),
            "b: the record R has no fields",
        ),
        (fields(r#"{"name":"a","type":{"type":"fixed","name":"F","size":0}}"#), "a: the fixed F has no bytes"),
        (fields(r#"{"name":"a","type":["int","null"],"default":null}"#), "field \"a\""),
        (
            fields(r#"{"name":"a","type":{"type":"bytes","logicalType":"decimal","precision":80,"scale":2}}"#),
            "field \"a\": ",
        ),
    ];
    for (avro, expected) in cases {
        let reason = source_schema(&avro).expect_err(&avro);
        assert!(reason.contains(expected), "{avro}: {reason}");
    }
}

#[test]
fn a_schema_that_explodes_is_refused() {
    // Each record holds the one before it ten times: written out, that is 10^7 types.
    let mut fields = String::new();
    let mut last = r#""int""#.to_owned();
    for level in 0..7 {
        let parts: Vec<String> = (0..10)
            .map(|i| {
                let data = if i == 0 || level == 0 { last.clone() } else { format!(r#""R{}""#, level - 1) };
                format!(r#"{{"name":"f{i}","type":{data}}}"#)
            })
            .collect();
        last = format!(r#"{{"type":"record","name":"R{level}","fields":[{}]}}"#, parts.join(","));
        fields = format!(r#"{{"name":"v","type":{last}}}"#);
    }
    let avro = format!(r#"{{"type":"record","name":"Event","fields":[{fields}]}}"#);
    let reason = source_schema(&avro).expect_err("too large");
    assert!(reason.contains("too large"), "{reason}");
}

#[test]
fn a_pruned_reader_schema_stands_alone() {
    let avro = r#"{"type":"record","name":"Event","namespace":"a","fields":[
        {"name":"first","type":{"type":"record","name":"R","fields":[{"name":"x","type":"int","default":1}]}},
        {"name":"id","type":{"type":"string","logicalType":"uuid"},"aliases":["key"],"default":"550e8400-e29b-41d4-a716-446655440000"},
        {"name":"second","type":["null","R"],"default":null},
        {"name":"third","type":"R","default":{}}]}"#;
    let pruned = reader_schema(avro, &["third", "id", "second"]).expect("pruned");
    let record = Record::parse(&pruned).expect("it parses although the definition of R was in a field that is gone");
    let names: Vec<_> = record.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["id", "second", "third"], "in the order of the schema");
    assert!(!pruned.contains("uuid"));
    assert_eq!(record.name.full, "a.Event");
    assert_eq!(record.fields[0].aliases, ["key"]);
    assert_eq!(record.fields[0].default, Some("550e8400-e29b-41d4-a716-446655440000".into()));
    assert_eq!(record.fields[2].default, Some(serde_json::json!({"x": 1})), "with the defaults of its fields");
    let unknown = reader_schema(avro, &["id", "nope"]).expect_err("unknown");
    assert_eq!(unknown, "a.Event has no field \"nope\"");
    assert!(reader_schema(avro, &[]).expect("pruned").contains(r#""fields":[]"#));
}
