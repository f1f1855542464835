//! JSON and container files to Avro: what is accepted, what is refused and how that is told, and hostile bytes.

use apache_avro::types::Value;
use apache_avro::{Codec, Schema, Writer};
use base64::Engine as _;
use event_log::encode::{EventEncoder, partition_for};
use event_log::error::LogError;
use event_log::registry::{EmbeddedRegistry, SchemaRegistry as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::events::*;

/// Avro type, JSON value, what the Arrow column shows.
const ACCEPTED: &[(&str, &str, &str)] = &[
    (r#"["null","int"]"#, "null", "null"),
    (r#"["null","int"]"#, "7", "7"),
    (r#"["string","null"]"#, r#""x""#, "x"),
    (r#""boolean""#, "true", "true"),
    (r#""int""#, "-2147483648", "-2147483648"),
    (r#""long""#, "9223372036854775807", "9223372036854775807"),
    (r#""long""#, "-9223372036854775808", "-9223372036854775808"),
    (r#""float""#, "1.5", "1.5"),
    (r#""float""#, "3", "3.0"),
    (r#""double""#, "-1e300", "-1e300"),
    (r#""double""#, "0.1", "0.1"),
    (r#""bytes""#, r#""AAH/""#, "0001ff"),
    (r#""bytes""#, r#""AAE""#, "0001"),
    (r#""string""#, r#""""#, ""),
    (r#""string""#, r#""zero \u0000, smile \ud83d\ude00, \"quoted\" \/ \n""#, "zero \0, smile 😀, \"quoted\" / \n"),
    (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, r#""B""#, "B"),
    (r#"{"type":"fixed","name":"F","size":3}"#, r#""AAH/""#, "0001ff"),
    (r#"{"type":"array","items":"int"}"#, "[1,2,3]", "[1, 2, 3]"),
    (r#"{"type":"array","items":"int"}"#, "[]", "[]"),
    (r#"{"type":"array","items":{"type":"enum","name":"E","symbols":["A","B"]}}"#, r#"["B","A"]"#, "[B, A]"),
    (r#"{"type":"map","values":["null","long"]}"#, r#"{"a":1,"b":null}"#, "{a: 1, b: null}"),
    (
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":["null","string"]}]}"#,
        r#"{"b":"x","a":1}"#,
        "{a: 1, b: x}",
    ),
    (r#"["null",{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}]"#, "null", "null"),
    (r#"["int","string","boolean"]"#, r#""x""#, "{string=x}"),
    (r#"["int","string","boolean"]"#, "true", "{boolean=true}"),
    (r#"["int","double"]"#, "1.5", "{double=1.5}"),
    (r#"["int","double"]"#, "1", "{int=1}"),
    (r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#, "-1.5", "-1.50"),
    (r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#, r#""123.45""#, "123.45"),
    (r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#, "1e2", "100.00"),
    (r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#, "1.10000", "1.10"),
    (r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#, "0", "0.00"),
    (
        r#"{"type":"bytes","logicalType":"decimal","precision":38,"scale":0}"#,
        "99999999999999999999999999999999999999",
        "99999999999999999999999999999999999999",
    ),
    (
        r#"{"type":"bytes","logicalType":"decimal","precision":76,"scale":10}"#,
        r#""-123456789012345678901234567890123456789012345678901234567890123456.0123456789""#,
        "-123456789012345678901234567890123456789012345678901234567890123456.0123456789",
    ),
    (r#"{"type":"fixed","name":"D","size":6,"logicalType":"decimal","precision":10,"scale":3}"#, "-0.001", "-0.001"),
    (
        r#"{"type":"string","logicalType":"uuid"}"#,
        r#""550E8400-e29b-41d4-a716-446655440000""#,
        "550e8400-e29b-41d4-a716-446655440000",
    ),
    (
        r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#,
        r#""550e8400-e29b-41d4-a716-446655440000""#,
        "550e8400e29b41d4a716446655440000",
    ),
    (r#"{"type":"int","logicalType":"date"}"#, r#""2026-11-20""#, "2026-11-20"),
    (r#"{"type":"int","logicalType":"date"}"#, "-1", "1969-12-31"),
    (r#"{"type":"int","logicalType":"time-millis"}"#, r#""23:59:59.999""#, "23:59:59.999"),
    (r#"{"type":"int","logicalType":"time-millis"}"#, "1000", "00:00:01"),
    (r#"{"type":"long","logicalType":"time-micros"}"#, r#""01:02:03.000004""#, "01:02:03.000004"),
    (
        r#"{"type":"long","logicalType":"timestamp-millis"}"#,
        r#""2026-11-20T10:00:00.1239Z""#,
        "2026-11-20T10:00:00.123Z",
    ),
    (r#"{"type":"long","logicalType":"timestamp-millis"}"#, "1763632800000", "2025-11-20T10:00:00Z"),
    (
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        r#""2026-11-20T12:00:00.123456+02:00""#,
        "2026-11-20T10:00:00.123456Z",
    ),
    (
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        r#""1969-12-31T23:59:59.999999Z""#,
        "1969-12-31T23:59:59.999999Z",
    ),
    (
        r#"{"type":"long","logicalType":"timestamp-nanos"}"#,
        r#""2026-11-20T10:00:00.000000001Z""#,
        "2026-11-20T10:00:00.000000001Z",
    ),
    (
        r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
        r#""2026-11-20T10:00:00.5""#,
        "2026-11-20T10:00:00.500",
    ),
    (r#"{"type":"long","logicalType":"local-timestamp-micros"}"#, "1", "1970-01-01T00:00:00.000001"),
    (r#"{"type":"long","logicalType":"local-timestamp-nanos"}"#, "1", "1970-01-01T00:00:00.000000001"),
    (
        r#"{"type":"fixed","name":"Span","size":12,"logicalType":"duration"}"#,
        r#""AQAAAAIAAAADAAAA""#,
        "1 mons 2 days 0.003000000 secs",
    ),
];

#[tokio::test]
async fn every_type_goes_from_json_to_arrow() {
    for (avro_type, json, expected) in ACCEPTED {
        let avro = one_field(avro_type);
        let event = frame(&avro, OWN_ID, &format!(r#"{{"v":{json}}}"#));
        let decoded = decode(&avro, &[&avro], vec![event]).await;
        assert_eq!(decoded.rejected, [], "{avro_type} {json}");
        assert_eq!(rows(&decoded.events), [*expected], "{avro_type} {json}");
        assert_eq!(decoded.events.schema().field(0).data_type(), source(&avro).schema.field(0).data_type());
    }
}

#[tokio::test]
async fn every_type_can_be_null() {
    for (avro_type, json, expected) in ACCEPTED.iter().filter(|(avro_type, ..)| !avro_type.starts_with('[')) {
        for avro_type in [format!(r#"["null",{avro_type}]"#), format!(r#"[{avro_type},"null"]"#)] {
            let avro = one_field(&avro_type);
            let frames = ["null", json, "null"].map(|json| frame(&avro, OWN_ID, &format!(r#"{{"v":{json}}}"#)));
            let decoded = decode(&avro, &[&avro], frames.to_vec()).await;
            assert_eq!(decoded.rejected, [], "{avro_type} {json}");
            assert_eq!(rows(&decoded.events), ["null", *expected, "null"], "{avro_type} {json}");
        }
    }
}

/// Avro type, JSON value, the reason without the path.
const REFUSED: &[(&str, &str, &str)] = &[
    (r#""boolean""#, "1", "expected a boolean, found 1"),
    (r#""int""#, "2147483648", "2147483648 is out of range for an int"),
    (r#""int""#, "1.0", "expected an int, found 1.0"),
    (r#""int""#, "1e3", "expected an int, found 1e3"),
    (r#""int""#, r#""1""#, r#"expected an int, found "1""#),
    (r#""int""#, "null", "expected an int, found null"),
    (r#""long""#, "9223372036854775808", "9223372036854775808 is out of range for a long"),
    (
        r#""long""#,
        "123456789012345678901234567890123456789012345678901234567890",
        "1234567890123456789012345678901234567890… is out of range for a long",
    ),
    (r#""float""#, "1e39", "1e39 is out of range for a float"),
    (r#""double""#, "-1e400", "-1e400 is out of range for a double"),
    (r#""double""#, r#""NaN""#, r#"expected a double, found "NaN""#),
    (r#""bytes""#, r#""no base64!""#, r#"expected bytes in base64, found "no base64!""#),
    (r#""string""#, "12", "expected a string, found 12"),
    (r#""string""#, "[]", "expected a string, found an array"),
    (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, r#""C""#, r#"expected one of A, B, found "C""#),
    (r#"{"type":"fixed","name":"F","size":4}"#, r#""AAH/""#, "expected 4 bytes in base64, found 3"),
    (r#"{"type":"array","items":"int"}"#, r#"{"a":1}"#, "expected an array, found an object"),
    (r#"{"type":"map","values":"int"}"#, "[]", "expected an object, found an array"),
    (r#"["null","int"]"#, r#""x""#, r#"expected an int, found "x""#),
    (r#"["int","string"]"#, "null", "expected an int or a string, found null"),
    (r#"["int","string"]"#, "1.5", "expected an int or a string, found 1.5"),
    (
        r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#,
        "1.234",
        "1.234 has more than 2 digits after the point",
    ),
    (
        r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#,
        "1000",
        "1000 has more than 3 digits before the point",
    ),
    (
        r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#,
        "1e2000000000",
        "1e2000000000 has more than 3 digits before the point",
    ),
    (
        r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#,
        r#""1.""#,
        r#"expected a decimal, found "1.""#,
    ),
    (
        r#"{"type":"string","logicalType":"uuid"}"#,
        r#""550e8400e29b41d4a716446655440000""#,
        r#"expected a UUID, found "550e8400e29b41d4a716446655440000""#,
    ),
    (
        r#"{"type":"int","logicalType":"date"}"#,
        r#""2026-02-30""#,
        r#"expected a date (2026-11-20, or days since 1970-01-01), found "2026-02-30""#,
    ),
    (
        r#"{"type":"int","logicalType":"date"}"#,
        r#""2026-1-2""#,
        r#"expected a date (2026-11-20, or days since 1970-01-01), found "2026-1-2""#,
    ),
    (
        r#"{"type":"int","logicalType":"time-millis"}"#,
        "86400000",
        "86400000 is out of range for a time of day (10:00:00.000, or milliseconds since midnight)",
    ),
    (
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        r#""2026-11-20""#,
        r#"expected a timestamp (RFC 3339, or microseconds since 1970), found "2026-11-20""#,
    ),
    (
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        "1.5",
        "expected a timestamp (RFC 3339, or microseconds since 1970), found 1.5",
    ),
    (
        r#"{"type":"long","logicalType":"timestamp-nanos"}"#,
        r#""2526-11-20T10:00:00Z""#,
        r#""2526-11-20T10:00:00Z" is not within the years 1678 to 2261"#,
    ),
    (
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        r#""9999-01-01T00:00:00Z""#,
        r#""9999-01-01T00:00:00Z" is not within the years 1678 to 2261"#,
    ),
    (
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        "9223372036854775807",
        "9223372036854775807 is not within the years 1678 to 2261",
    ),
    (
        r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
        r#""2026-11-20T10:00:00Z""#,
        r#"expected a local timestamp (2026-11-20T10:00:00, or milliseconds since 1970), found "2026-11-20T10:00:00Z""#,
    ),
];

#[test]
fn wrong_values_are_refused_with_the_reason() {
    for (avro_type, json, expected) in REFUSED {
        let refused = encode(&one_field(avro_type), OWN_ID, &format!(r#"{{"v":{json}}}"#));
        assert_eq!(refused.expect_err(avro_type).reason, format!("v: {expected}"), "{avro_type} {json}");
    }
}

const NESTED: &str = r#"{"type":"record","name":"Event","fields":[
    {"name":"user","type":{"type":"record","name":"User","fields":[
        {"name":"name","type":"string"},
        {"name":"address","type":{"type":"array","items":{"type":"record","name":"Address","fields":[
            {"name":"zip","type":"string"},
            {"name":"country","type":"string","default":"CH"}]}}},
        {"name":"tags","type":{"type":"map","values":"int"},"default":{}}]}},
    {"name":"home","type":["null","Address"],"default":null},
    {"name":"level","type":{"type":"enum","name":"Level","symbols":["LOW","HIGH"],"default":"LOW"},"default":"HIGH"},
    {"name":"raw","type":"bytes","default":"\u00ff\u0000"}]}"#;

#[tokio::test]
async fn absent_fields_take_the_schemas_default() {
    let event = frame(NESTED, OWN_ID, r#"{"user":{"address":[{"zip":"8000"}],"name":"Ada"}}"#);
    let decoded = decode(NESTED, &[NESTED], vec![event]).await;
    let expected = "{name: Ada, address: [{zip: 8000, country: CH}], tags: {}}|null|HIGH|ff00";
    assert_eq!(rows(&decoded.events), [expected]);
}

#[test]
fn refusals_name_the_path() {
    let cases = [
        (
            r#"{"user":{"name":"Ada","address":[{"zip":"1"},{"zip":"2"},{"zip":12}]}}"#,
            "user.address[2].zip: expected a string, found 12",
        ),
        (
            r#"{"user":{"name":"Ada","address":[],"tags":{"a b":"x"}}}"#,
            r#"user.tags["a b"]: expected an int, found "x""#,
        ),
        (r#"{"user":{"name":"Ada","address":[]},"home":{"zip":5}}"#, "home.zip: expected a string, found 5"),
        (r#"{"user":{"name":"Ada"}}"#, "user.address: missing, and the schema has no default for it"),
        ("{}", "user: missing, and the schema has no default for it"),
        (r#"{"user":{"name":"Ada","address":[],"age":5}}"#, "user.age: the schema has no such field"),
        (r#"{"user":{"name":"Ada","address":[],"name":"Eve"}}"#, "user.name: given twice"),
        (r#"{"user":{"name":"Ada","address":[{"zip":"1","zip":"1"}]}}"#, "user.address[0].zip: given twice"),
        (r#"{"user":{"name":"Ada","address":[],"tags":{"a":1,"a":1}}}"#, "user.tags.a: given twice"),
        ("[]", "expected an object, found an array"),
        ("12", "expected an object, found 12"),
        ("", "not JSON: expected a value, found the end at byte 0"),
        (r#"{"user":}"#, "user: not JSON: expected a value, found '}' at byte 8"),
        (r#"{"user":{"name":"Ada","address":[]}} x"#, "not JSON: expected the end, found 'x' at byte 37"),
        (r#"{"user":NaN}"#, "user: not JSON: expected a value, found 'N' at byte 8"),
        (r#"{"user":01}"#, "not JSON: expected ',' or '}', found '1' at byte 9"),
        (r#"{"user":"\ud800"}"#, "user: not JSON: expected the second half of a surrogate pair, found '\"' at byte 15"),
    ];
    for (json, expected) in cases {
        assert_eq!(encode(NESTED, OWN_ID, json).expect_err(json).reason, expected, "{json}");
    }
}

#[test]
fn hostile_json_is_refused() {
    let encoder = EventEncoder::new(&source(NESTED), OWN_ID).expect("an encoder");
    let reason = |json: &[u8]| encoder.json(json).expect_err("refused").reason;
    assert!(reason("[".repeat(1_000_000).as_bytes()).contains("nested deeper than 128 at byte 128"));
    assert!(reason(r#"{"a":"#.repeat(1_000_000).as_bytes()).contains("nested deeper than 128"));
    assert_eq!(reason(b"{\"user\":\"\xff\"}"), "not UTF-8 at byte 9");
    assert!(reason(format!(r#"{{"user":{}}}"#, "9".repeat(1_000_000)).as_bytes()).len() < 200);
    assert!(reason(format!(r#"{{"{}":1}}"#, "x".repeat(1_000_000)).as_bytes()).len() < 200);
    assert!(reason(b"{\"user\":\"a\nb\"}").contains("no control character"));
    let many: Vec<String> = (0..100_000).map(|i| format!(r#""k{i}":{i}"#)).collect();
    let tags = |more: &str| format!(r#"{{"user":{{"name":"Ada","address":[],"tags":{{{}{more}}}}}}}"#, many.join(","));
    encoder.json(tags("").as_bytes()).expect("many keys are fine");
    assert_eq!(reason(tags(r#","k7":7"#).as_bytes()), "user.tags.k7: given twice");
}

/// The text is accepted exactly when `serde_json` says it is the object it should be.
#[tokio::test]
async fn the_json_parser_agrees_with_serde_json() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let avro = one_field(r#"{"type":"array","items":["double","string","boolean"]}"#);
    let encoder = EventEncoder::new(&source(&avro), OWN_ID).expect("an encoder");
    let seeds = [
        r#"{"v":[1.5e-3,"a\u00e9\n","",true,-0,12345678901234567890]} "#,
        r#"{ "v" : [ "é€😀\ud83d\ude00" , false ] }"#,
    ];
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut text = seeds[random.random_range(0..seeds.len())].as_bytes().to_vec();
        for _ in 0..random.random_range(0..3) {
            let at = random.random_range(0..text.len());
            match random.random_range(0..3) {
                0 => text[at] = random.random(),
                1 => _ = text.remove(at),
                _ => text.insert(at, b"\"\\{}[],:0-+.eEu \t\nax"[random.random_range(0..20)]),
            }
        }
        let value: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
        let right = value.as_ref().is_some_and(|value| {
            let items = value.get("v").and_then(|items| items.as_array());
            let scalar = |item: &serde_json::Value| {
                item.is_f64() || item.is_i64() || item.is_u64() || item.is_string() || item.is_boolean()
            };
            value.as_object().is_some_and(|o| o.len() == 1) && items.is_some_and(|items| items.iter().all(scalar))
        });
        let ours = encoder.json(&text);
        assert_eq!(ours.is_ok(), right, "{:?}: {ours:?}", String::from_utf8_lossy(&text));
        if right { accepted += 1 } else { refused += 1 }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
}

#[test]
fn keys_are_text() {
    let cases = [
        (r#""string""#, r#""ü""#, Some("ü")),
        (r#""string""#, r#""""#, Some("")),
        (r#""long""#, "-5", Some("-5")),
        (r#""boolean""#, "true", Some("true")),
        (r#""double""#, "1.5", Some("1.5")),
        (r#""bytes""#, r#""AAH/""#, Some("AAH/")),
        (r#"["null","string"]"#, "null", None),
        (r#"["null","string"]"#, r#""x""#, Some("x")),
        (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, r#""B""#, Some("B")),
        (r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#, "-0.05", Some("-0.05")),
        (r#"{"type":"long","logicalType":"timestamp-micros"}"#, r#""1970-01-01T00:00:01Z""#, Some("1000000")),
        (
            r#"{"type":"string","logicalType":"uuid"}"#,
            r#""550E8400-e29b-41d4-a716-446655440000""#,
            Some("550e8400-e29b-41d4-a716-446655440000"),
        ),
    ];
    for (avro_type, json, expected) in cases {
        let avro = format!(
            r#"{{"type":"record","name":"Event","fields":[{{"name":"a","type":"int"}},{{"name":"k","type":{avro_type}}},{{"name":"z","type":"int","default":7}}]}}"#
        );
        let encoder = EventEncoder::new(&keyed_source(&avro, Some("k")), OWN_ID).expect("an encoder");
        let event = encoder.json(format!(r#"{{"k":{json},"a":1}}"#).as_bytes()).expect("accepted");
        assert_eq!(event.key.as_deref(), expected.map(str::as_bytes), "{avro_type} {json}");
    }
    let array = one_field(r#"{"type":"array","items":"int"}"#);
    let refused = EventEncoder::new(&keyed_source(&array, Some("v")), OWN_ID).expect_err("no key");
    assert!(refused.to_string().contains("cannot be the key"), "{refused}");
}

#[test]
fn keys_choose_the_partition_that_kafka_chooses() {
    // What Kafka's clients compute (as Java's signed ints), by which every producer of a topic must agree.
    let hashes: [(&[u8], i32); 6] = [
        (b"21", -973_932_308),
        (b"foobar", -790_332_482),
        (b"a-little-bit-long-string", -985_981_536),
        (b"a-little-bit-longer-string", -1_486_304_829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        (b"abc", 479_470_107),
    ];
    for (key, hash) in hashes {
        let positive = (hash & i32::MAX) as u32;
        assert_eq!(partition_for(key, 1 << 31), positive, "{key:?}");
        assert_eq!(partition_for(key, 7), positive % 7);
    }
    assert_eq!(partition_for(b"abc", 0), 0);
}

const READER: &str = r#"{"type":"record","name":"Event","fields":[
    {"name":"id","type":"long"},{"name":"who","type":["null","string"],"default":null},{"name":"n","type":"double","default":0}]}"#;
const WRITER: &str = r#"{"type":"record","name":"Event","fields":[
    {"name":"extra","type":"string","default":""},{"name":"who","type":["null","string"],"default":null},{"name":"id","type":"long"}]}"#;
const NARROW_WRITER: &str = r#"{"type":"record","name":"Event","fields":[{"name":"id","type":"int"}]}"#;

fn container_file(schema: &str, codec: Codec, values: Vec<Value>) -> Vec<u8> {
    let schema = Schema::parse_str(schema).expect("a schema");
    let mut writer = Writer::with_codec(&schema, Vec::new(), codec).expect("a writer");
    for value in values {
        writer.append_value(value).expect("appended");
    }
    writer.into_inner().expect("finished")
}

fn written(id: i32, who: &str) -> Value {
    Value::Record(vec![
        ("extra".to_owned(), Value::String("x".to_owned())),
        ("who".to_owned(), Value::Union(1, Box::new(Value::String(who.to_owned())))),
        ("id".to_owned(), Value::Long(id.into())),
    ])
}

#[tokio::test]
async fn container_files_of_every_codec_keep_their_own_schema() {
    let source = keyed_source(READER, Some("who"));
    for codec in [Codec::Null, Codec::Deflate(Default::default()), Codec::Snappy, Codec::Zstandard(Default::default())]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let registry = EmbeddedRegistry::open(dir.path()).expect("a registry");
        let own = registry.register("clicks-value", READER).await.expect("registered");
        let encoder = EventEncoder::new(&source, own).expect("an encoder");
        let file = container_file(WRITER, codec, vec![written(1, "Ada"), written(2, "Bob")]);
        let events = encoder.container(&file, &registry).await.expect("a container");
        let events: Vec<_> = events.into_iter().map(|event| event.expect("accepted")).collect();
        let keys: Vec<_> = events.iter().map(|event| event.key.clone().expect("a key")).collect();
        assert_eq!(keys, ["Ada", "Bob"]);
        let mut frames: Vec<_> = events.into_iter().map(|event| event.value).collect();
        assert_eq!(frames[0][..5], [0, 0, 0, 0, 2], "the frame has the id of the file's schema");
        frames.push(encoder.json(br#"{"id":3,"who":"Cyd","n":1}"#).expect("accepted").value);
        let columns = [0, 1, 2];
        let mut decoder =
            event_log::decode::EventDecoder::new(&source, &columns, std::sync::Arc::new(registry)).expect("a decoder");
        let decoded = decoder.decode(&place(), &records(frames)).await.expect("decoded");
        assert_eq!(rows(&decoded.events), ["1|Ada|0.0", "2|Bob|0.0", "3|Cyd|1.0"]);
    }
}

#[tokio::test]
async fn a_container_whose_schema_cannot_be_registered_is_rewritten() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = EmbeddedRegistry::open(dir.path()).expect("a registry");
    let own = registry.register("clicks-value", READER).await.expect("registered");
    let encoder = EventEncoder::new(&keyed_source(READER, Some("id")), own).expect("an encoder");
    let event = Value::Record(vec![("id".to_owned(), Value::Int(5))]);
    let file = container_file(NARROW_WRITER, Codec::Null, vec![event]);
    // Events with a long could not be read with an int: the registry refuses this schema as the next one.
    let events = encoder.container(&file, &registry).await.expect("a container");
    let event = events[0].as_ref().expect("accepted");
    assert_eq!(event.value, frame(READER, own, r#"{"id":5}"#));
    assert_eq!(event.key.as_deref(), Some(&b"5"[..]));
}

#[tokio::test]
async fn container_files_that_do_not_fit_are_refused_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = EmbeddedRegistry::open(dir.path()).expect("a registry");
    let encoder = EventEncoder::new(&source(READER), 1).expect("an encoder");
    let wrong = r#"{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}"#;
    let file =
        container_file(wrong, Codec::Null, vec![Value::Record(vec![("id".to_owned(), Value::String("x".to_owned()))])]);
    let refused = encoder.container(&file, &registry).await.expect_err("refused");
    assert!(matches!(refused, LogError::Invalid(_)));
    assert!(refused.to_string().ends_with("id: string cannot be read as long"), "{refused}");
    assert!(matches!(registry.schema(1).await, Err(LogError::NotFound(_))), "nothing was registered");
    let not_one = encoder.container(b"{\"id\":1}", &registry).await.expect_err("refused");
    assert!(not_one.to_string().contains("not an Avro container file"), "{not_one}");
}

#[tokio::test]
async fn a_bad_datum_in_a_container_is_rejected_with_the_rest_of_its_block() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = EmbeddedRegistry::open(dir.path()).expect("a registry");
    let encoder = EventEncoder::new(&source(READER), 1).expect("an encoder");
    let mut file = container_file(WRITER, Codec::Null, vec![written(1, "Ada"), written(2, "Bob"), written(3, "Cyd")]);
    let bob = file.windows(3).position(|bytes| bytes == b"Bob").expect("Bob is in the file");
    file[bob] = 0xff;
    let events = encoder.container(&file, &registry).await.expect("a container");
    assert!(events[0].is_ok());
    let rejection = events[1].as_ref().expect_err("rejected");
    assert_eq!(rejection.reason, "who: a string that is not UTF-8; the 1 events after it in its block cannot be found");
    assert!(rejection.original.windows(3).any(|bytes| bytes == b"Cyd"), "the rest of the block is kept");
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn hostile_containers_do_no_harm() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("a directory");
    let registry = EmbeddedRegistry::open(dir.path()).expect("a registry");
    let encoder = EventEncoder::new(&source(READER), 1).expect("an encoder");
    for codec in [Codec::Null, Codec::Deflate(Default::default()), Codec::Snappy, Codec::Zstandard(Default::default())]
    {
        let file = container_file(WRITER, codec, (0..20).map(|i| written(i, "Ada")).collect());
        for end in 0..file.len() {
            // A file that ends right after its header is an empty one.
            let outcome = encoder.container(&file[..end], &registry).await;
            assert!(outcome.is_err() || outcome.is_ok_and(|events| events.is_empty()), "cut at {end}");
        }
        for _ in 0..300 {
            let mut damaged = file.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..damaged.len());
                damaged[at] ^= 1 << random.random_range(0..8);
            }
            // Whatever comes of it, it comes back.
            _ = encoder.container(&damaged, &registry).await;
        }
    }
    // A gibibyte of zeros in a few kilobytes.
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1).expect("packed");
    let packed = with_block(WRITER, "zstandard", 1, &bomb);
    let refused = encoder.container(&packed, &registry).await.expect_err("a bomb");
    assert!(matches!(refused, LogError::Invalid(_)), "{refused}");
    let liar = with_block(WRITER, "null", i64::MAX, b"abc");
    let refused = encoder.container(&liar, &registry).await.expect_err("a liar");
    assert!(refused.to_string().contains("events in 3 bytes"), "{refused}");
}

/// A container file with one block of these bytes.
fn with_block(schema: &str, codec: &str, count: i64, packed: &[u8]) -> Vec<u8> {
    fn put_long(out: &mut Vec<u8>, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    let mut out = b"Obj\x01".to_vec();
    put_long(&mut out, 2);
    for (name, value) in [("avro.schema", schema), ("avro.codec", codec)] {
        for text in [name, value] {
            put_long(&mut out, text.len() as i64);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.push(0);
    let sync = [7; 16];
    out.extend_from_slice(&sync);
    put_long(&mut out, count);
    put_long(&mut out, packed.len() as i64);
    out.extend_from_slice(packed);
    out.extend_from_slice(&sync);
    out
}

/// The bytes in the log are a format: they must be readable for ever.
#[tokio::test]
async fn frozen_bytes_of_version_1() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen/avro-v1");
    let registry = EmbeddedRegistry::open(dir.join("registry")).expect("the frozen registry opens");
    let schema = registry.schema(1).await.expect("schema 1");
    let frozen = std::fs::read_to_string(dir.join("record.base64")).expect("the frozen record");
    let frozen = base64::engine::general_purpose::STANDARD.decode(frozen.trim()).expect("base64");
    let event = std::fs::read(dir.join("event.json")).expect("the frozen event");
    let encoder = EventEncoder::new(&source(&schema), 1).expect("an encoder");
    assert_eq!(encoder.json(&event).expect("accepted").value, frozen, "the bytes of an event have changed");
    let decoded = decode(&schema, &[&schema], vec![frozen.into()]).await;
    let expected = "17|Ada|2026-11-20T10:00:00.123456Z|12.50|HIGH|[1, 2]|{a: 0.5}|null";
    assert_eq!(rows(&decoded.events), [expected]);
}

/// An event that some view could not group is not acknowledged; one that is, every view can group.
#[tokio::test]
async fn events_are_short_enough_to_be_grouped() {
    let avro = r#"{"type":"record","name":"Event","fields":[{"name":"url","type":"string"},
        {"name":"user","type":["null","string"],"default":null},{"name":"raw","type":"bytes","default":""},
        {"name":"body","type":"string","default":""}]}"#;
    let sql = "CREATE SOURCE clicks WITH (schema = 'event.avsc');
        CREATE MATERIALIZED VIEW urls AS SELECT url, max(length(body)) AS longest FROM clicks GROUP BY url;
        CREATE MATERIALIZED VIEW users AS SELECT user, raw, count(*) AS n FROM clicks GROUP BY user, raw;";
    let files = [("event.avsc", avro), ("views.sql", sql)];
    let files = files.map(|(path, text)| views::ApplicationFile { path: path.to_owned(), text: text.to_owned() });
    let application = views::Application::compile(&files).expect("an application");
    let source = &application.sources[0];
    let any = EventEncoder::new(source, OWN_ID).expect("an encoder");
    let views = || application.views.iter().map(|view| &**view);
    let encoder = EventEncoder::new(source, OWN_ID).expect("an encoder").for_views(views());
    let event = |url: usize, user: usize, raw: usize, body: usize| {
        // The base64 of zeros, three bytes each.
        let raw = "AAAA".repeat(raw / 3);
        let [url, user, body] = [url, user, body].map(|length| "x".repeat(length));
        format!(r#"{{"url":"{url}","user":"{user}","raw":"{raw}","body":"{body}"}}"#)
    };
    let most = event_log::encode::MAX_GROUP_FIELDS;
    // A length takes three bytes, the branch of the nullable field one.
    let accepted = [
        event(most - 3, 0, 0, 0),
        event(most - 3, most / 2, most / 2 - 10, 0),
        event(0, 0, 0, 1 << 20),
        event(1, most - 6, 0, 1 << 20),
    ];
    let mut frames = Vec::new();
    for event in &accepted {
        frames.push(encoder.json(event.as_bytes()).expect("accepted").value);
    }
    let refused = [
        (event(most - 2, 0, 0, 0), "url: 57345 bytes are too many"),
        (event(0, most / 2 + 100, most / 2, 0), "user: 28776 bytes are too many"),
        (event(0, most / 2, most / 2 + 100, 0), "raw: "),
        (event(1 << 20, 0, 0, 0), "url: "),
    ];
    for (event, reason) in &refused {
        let rejection = encoder.json(event.as_bytes()).expect_err("refused");
        assert!(rejection.reason.starts_with(reason), "{}", rejection.reason);
        any.json(event.as_bytes()).expect("without views, it is an event like others");
    }
    // The same in a container.
    let value = |event: &str| {
        let json: serde_json::Value = serde_json::from_str(event).expect("JSON");
        let text = |name: &str| Value::String(json[name].as_str().unwrap_or_default().to_owned());
        let raw = vec![0; json["raw"].as_str().map_or(0, str::len) / 4 * 3];
        Value::Record(vec![
            ("url".to_owned(), text("url")),
            ("user".to_owned(), Value::Union(1, Box::new(text("user")))),
            ("raw".to_owned(), Value::Bytes(raw)),
            ("body".to_owned(), text("body")),
        ])
    };
    let all = accepted.iter().chain(refused.iter().map(|(event, _)| event));
    let file = container_file(avro, Codec::Null, all.map(|event| value(event)).collect());
    let registry = Schemas(vec![avro.to_owned()]);
    let taken = encoder.container(&file, &registry).await.expect("a container");
    assert_eq!(taken.iter().filter(|event| event.is_ok()).count(), accepted.len());
    for (taken, (_, reason)) in taken.iter().skip(accepted.len()).zip(&refused) {
        let rejection = taken.as_ref().expect_err("refused");
        assert!(rejection.reason.starts_with(reason), "{}", rejection.reason);
        assert!(rejection.original.len() > most);
    }
    for view in views() {
        let view = application.view(&view.name).expect("a view");
        let registry = std::sync::Arc::new(Schemas(vec![avro.to_owned()]));
        let decoder = event_log::decode::EventDecoder::new(source, &view.input_columns, registry);
        let decoded = decoder.expect("a decoder").decode(&place(), &records(frames.clone())).await.expect("decoded");
        assert_eq!(decoded.events.num_rows(), accepted.len());
        views::Fold::new(view).expect("a fold").update(&decoded.events).expect("every view can group them");
    }
}
