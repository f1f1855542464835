//! Records to Arrow: evolution, several writers at once, system columns, and events that are not what they say.

use std::sync::Arc;

use bytes::Bytes;
use event_log::dead_letter::{self, DeadLetter, Origin};
use event_log::decode::EventDecoder;
use event_log::error::LogError;
use event_log::{Content, Record};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::events::*;

fn event(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"Event","fields":[{fields}]}}"#)
}

/// The writer's fields, the event, the reader's fields, what the reader sees (or the reason).
const EVOLUTIONS: &[(&str, &str, &str, Result<&str, &str>)] = &[
    (
        r#"{"name":"a","type":"int"}"#,
        r#"{"a":1}"#,
        r#"{"name":"new","type":"string","default":"d"},{"name":"a","type":"int"},{"name":"n","type":["null","int"],"default":null}"#,
        Ok("d|1|null"),
    ),
    (
        r#"{"name":"a","type":"int"},{"name":"gone","type":"string"},{"name":"b","type":"int"}"#,
        r#"{"a":1,"gone":"x","b":2}"#,
        r#"{"name":"a","type":"int"},{"name":"b","type":"int"}"#,
        Ok("1|2"),
    ),
    (
        r#"{"name":"a","type":"int"},{"name":"b","type":"string"}"#,
        r#"{"a":1,"b":"x"}"#,
        r#"{"name":"b","type":"string"},{"name":"a","type":"int"}"#,
        Ok("x|1"),
    ),
    (r#"{"name":"a","type":"int"}"#, r#"{"a":-7}"#, r#"{"name":"a","type":"long"}"#, Ok("-7")),
    (r#"{"name":"a","type":"int"}"#, r#"{"a":-7}"#, r#"{"name":"a","type":"float"}"#, Ok("-7.0")),
    (r#"{"name":"a","type":"int"}"#, r#"{"a":-7}"#, r#"{"name":"a","type":"double"}"#, Ok("-7.0")),
    (r#"{"name":"a","type":"long"}"#, r#"{"a":7}"#, r#"{"name":"a","type":"float"}"#, Ok("7.0")),
    (r#"{"name":"a","type":"long"}"#, r#"{"a":7}"#, r#"{"name":"a","type":"double"}"#, Ok("7.0")),
    (r#"{"name":"a","type":"float"}"#, r#"{"a":1.5}"#, r#"{"name":"a","type":"double"}"#, Ok("1.5")),
    (r#"{"name":"a","type":"string"}"#, r#"{"a":"é"}"#, r#"{"name":"a","type":"bytes"}"#, Ok("c3a9")),
    (r#"{"name":"a","type":"bytes"}"#, r#"{"a":"w6k="}"#, r#"{"name":"a","type":"string"}"#, Ok("é")),
    (
        r#"{"name":"a","type":"bytes"}"#,
        r#"{"a":"/w=="}"#,
        r#"{"name":"a","type":"string"}"#,
        Err("schema 1: a: a string that is not UTF-8"),
    ),
    (r#"{"name":"a","type":"int"}"#, r#"{"a":1}"#, r#"{"name":"b","type":"int","aliases":["x","a"]}"#, Ok("1")),
    (r#"{"name":"a","type":"int"}"#, r#"{"a":1}"#, r#"{"name":"a","type":["null","long"]}"#, Ok("1")),
    (r#"{"name":"a","type":["null","int"]}"#, r#"{"a":1}"#, r#"{"name":"a","type":["long","null"]}"#, Ok("1")),
    (r#"{"name":"a","type":["null","int"]}"#, r#"{"a":null}"#, r#"{"name":"a","type":["long","null"]}"#, Ok("null")),
    (r#"{"name":"a","type":["null","int"]}"#, r#"{"a":1}"#, r#"{"name":"a","type":"long"}"#, Ok("1")),
    (
        r#"{"name":"a","type":["null","int"]}"#,
        r#"{"a":null}"#,
        r#"{"name":"a","type":"long"}"#,
        Err("schema 1: a: null cannot be read as long"),
    ),
    (
        r#"{"name":"a","type":["null",{"type":"array","items":"int"}]}"#,
        r#"{"a":[1,2]}"#,
        r#"{"name":"a","type":{"type":"array","items":"double"}}"#,
        Ok("[1.0, 2.0]"),
    ),
    (
        r#"{"name":"a","type":["int","string"]}"#,
        r#"{"a":"x"}"#,
        r#"{"name":"a","type":["boolean","string","long"]}"#,
        Ok("{string=x}"),
    ),
    (
        r#"{"name":"a","type":["int","string"]}"#,
        r#"{"a":5}"#,
        r#"{"name":"a","type":["boolean","string","long"]}"#,
        Ok("{long=5}"),
    ),
    (
        r#"{"name":"a","type":{"type":"enum","name":"E","symbols":["A","B","C"]}}"#,
        r#"{"a":"C"}"#,
        r#"{"name":"a","type":{"type":"enum","name":"E","symbols":["OTHER","B","A"],"default":"OTHER"}}"#,
        Ok("OTHER"),
    ),
    (
        r#"{"name":"a","type":{"type":"enum","name":"E","symbols":["A","B","C"]}}"#,
        r#"{"a":"A"}"#,
        r#"{"name":"a","type":{"type":"enum","name":"E","symbols":["B","A"]}}"#,
        Ok("A"),
    ),
    (
        r#"{"name":"a","type":{"type":"enum","name":"E","symbols":["A","B","C"]}}"#,
        r#"{"a":"C"}"#,
        r#"{"name":"a","type":{"type":"enum","name":"E","symbols":["B","A"]}}"#,
        Err("schema 1: a: a symbol that the reader's schema does not have"),
    ),
    (
        r#"{"name":"a","type":{"type":"record","name":"R","fields":[{"name":"x","type":"int"},{"name":"y","type":"string"}]}}"#,
        r#"{"a":{"x":1,"y":"y"}}"#,
        r#"{"name":"a","type":{"type":"record","name":"S","aliases":["R"],"fields":[{"name":"z","type":"int","default":9},{"name":"x","type":"double"}]}}"#,
        Ok("{z: 9, x: 1.0}"),
    ),
    (
        r#"{"name":"a","type":{"type":"map","values":{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}}},{"name":"b","type":"R"}"#,
        r#"{"a":{"k":{"x":1}},"b":{"x":2}}"#,
        r#"{"name":"b","type":{"type":"record","name":"R","fields":[{"name":"x","type":"long"},{"name":"y","type":"int","default":3}]}},{"name":"a","type":{"type":"map","values":"R"}}"#,
        Ok("{x: 2, y: 3}|{k: {x: 1, y: 3}}"),
    ),
    (
        r#"{"name":"a","type":"long"}"#,
        r#"{"a":1}"#,
        r#"{"name":"a","type":{"type":"long","logicalType":"timestamp-millis"}}"#,
        Ok("1970-01-01T00:00:00.001Z"),
    ),
    (
        r#"{"name":"a","type":{"type":"long","logicalType":"timestamp-millis"}}"#,
        r#"{"a":1}"#,
        r#"{"name":"a","type":{"type":"long","logicalType":"timestamp-micros"}}"#,
        Err("schema 1: a: timestamp-millis cannot be read as timestamp-micros"),
    ),
    (
        r#"{"name":"a","type":"string"}"#,
        r#"{"a":"1"}"#,
        r#"{"name":"a","type":"int"}"#,
        Err("schema 1: a: string cannot be read as int"),
    ),
    (
        r#"{"name":"a","type":"int"}"#,
        r#"{"a":1}"#,
        r#"{"name":"b","type":"int"}"#,
        Err("schema 1: b: the writer has no such field, and there is no default for it"),
    ),
];

#[tokio::test]
async fn events_of_other_schemas_are_read_as_the_sources() {
    for (writer, json, reader, expected) in EVOLUTIONS {
        let (writer, reader) = (event(writer), event(reader));
        let decoded = decode(&reader, &[&writer], vec![frame(&writer, 1, json)]).await;
        match expected {
            Ok(row) => {
                assert_eq!(decoded.rejected, [], "{writer} -> {reader}");
                assert_eq!(rows(&decoded.events), [*row], "{writer} -> {reader}");
            }
            Err(reason) => {
                assert_eq!(decoded.rejected, [(100, (*reason).to_owned())], "{writer} -> {reader}");
                assert_eq!(decoded.events.num_rows(), 0);
            }
        }
    }
}

const OLD: &str =
    r#"{"type":"record","name":"Event","fields":[{"name":"id","type":"int"},{"name":"who","type":"string"}]}"#;
const NEW: &str = r#"{"type":"record","name":"Event","fields":[
    {"name":"who","type":["null","string"],"default":null},
    {"name":"id","type":"long"},
    {"name":"level","type":{"type":"enum","name":"Level","symbols":["LOW","HIGH"]},"default":"LOW"}]}"#;

#[tokio::test]
async fn two_writer_schemas_in_one_topic_decode_in_the_order_of_their_offsets() {
    let mut decoder = decoder(NEW, &[OLD, NEW, NEW]);
    for round in 0..3 {
        let frames: Vec<Bytes> = (0..100)
            .map(|i| match (i + round) % 4 {
                0 | 1 => frame(OLD, 1, &format!(r#"{{"id":{i},"who":"old"}}"#)),
                id => frame(NEW, id, &format!(r#"{{"id":{i},"level":"HIGH"}}"#)),
            })
            .collect();
        let decoded = decoder.decode(&place(), &records(frames)).await.expect("decoded");
        assert_eq!(decoded.rejected, []);
        let expected: Vec<String> = (0..100)
            .map(|i| if (i + round) % 4 < 2 { format!("old|{i}|LOW") } else { format!("null|{i}|HIGH") })
            .collect();
        assert_eq!(rows(&decoded.events), expected, "round {round}");
    }
}

#[tokio::test]
async fn only_the_columns_asked_for_in_their_order_and_system_columns_with_them() {
    let source = source(NEW);
    let schemas = || Arc::new(Schemas(vec![OLD.to_owned(), NEW.to_owned()]));
    let mut log = records([frame(OLD, 1, r#"{"id":5,"who":"Ada"}"#), frame(NEW, 2, r#"{"id":6}"#)]);
    log.insert(1, Record { offset: 100, append_time: 1_000_000, content: Content::Marker(7) });
    log[2].offset = 110;
    for (record, key) in [(0, Some(&b"k"[..])), (2, Some(&b"\xff"[..]))] {
        if let Content::Event { key: place, .. } = &mut log[record].content {
            *place = key.map(Bytes::from_static);
        }
    }
    let cases: [(&[usize], [&str; 2]); 6] = [
        (&[1], ["5", "6"]),
        (&[0, 2], ["Ada|LOW", "null|LOW"]),
        (
            &[1, 3, 4, 5, 6, 7],
            ["5|clicks|3|100|1970-01-01T00:00:01Z|k", "6|clicks|3|110|1970-01-01T00:00:01.000001Z|\u{fffd}"],
        ),
        (&[5], ["100", "110"]),
        (&[7], ["k", "\u{fffd}"]),
        (&[], ["", ""]),
    ];
    for (columns, expected) in cases {
        let mut decoder = EventDecoder::new(&source, columns, schemas()).expect("a decoder");
        let decoded = decoder.decode(&place(), &log).await.expect("decoded");
        assert_eq!(rows(&decoded.events), expected, "{columns:?}");
        assert_eq!(decoded.events.schema(), Arc::new(source.schema.project(columns).expect("columns")));
        assert_eq!(decoded.rejected, []);
    }
    let refused = EventDecoder::new(&source, &[8], schemas()).err().expect("no such column");
    assert!(matches!(refused, LogError::Invalid(_)));
}

#[tokio::test]
async fn nothing_decodes_to_no_rows_of_the_right_schema() {
    for avro in [OLD, NEW, &one_field(r#"["int","string"]"#), &one_field(r#"{"type":"array","items":"int"}"#)] {
        let decoded = decode(avro, &[avro], vec![]).await;
        assert_eq!((decoded.events.num_rows(), decoded.rejected.len()), (0, 0));
        let decoded = decode(avro, &[avro], vec![Bytes::from_static(b"nonsense")]).await;
        assert_eq!((decoded.events.num_rows(), decoded.rejected.len()), (0, 1));
    }
}

const RICH: &str = r#"{"type":"record","name":"Event","fields":[
    {"name":"id","type":"int"},
    {"name":"on","type":"boolean"},
    {"name":"name","type":"string"},
    {"name":"level","type":["null",{"type":"enum","name":"Level","symbols":["LOW","HIGH"]}]},
    {"name":"ts","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"sizes","type":{"type":"map","values":["null","double"]}},
    {"name":"raw","type":{"type":"fixed","name":"F","size":2}},
    {"name":"any","type":["null","int","string",{"type":"record","name":"R","fields":[{"name":"x","type":"long"}]}]}]}"#;

fn rich(i: usize) -> String {
    let any = ["null", "7", r#""s""#, r#"{"x":3}"#][i % 4];
    let level = ["null", r#""LOW""#, r#""HIGH""#][i % 3];
    format!(
        r#"{{"id":{i},"on":{},"name":"näme{i}","level":{level},"ts":{},"price":"-{i}.25","tags":["a","b{i}"],
            "sizes":{{"k":{i}.5,"n":null}},"raw":"AAE=","any":{any}}}"#,
        i.is_multiple_of(2),
        i * 1_000_000
    )
}

#[tokio::test]
async fn a_decoder_gives_the_same_again_and_again() {
    let mut decoder = decoder(RICH, &[RICH]);
    let frames: Vec<Bytes> = (0..50).map(|i| frame(RICH, 1, &rich(i))).collect();
    let first = decoder.decode(&place(), &records(frames.clone())).await.expect("decoded");
    assert_eq!((first.events.num_rows(), first.rejected.len()), (50, 0));
    for _ in 0..3 {
        let again = decoder.decode(&place(), &records(frames.clone())).await.expect("decoded");
        assert_eq!(rows(&again.events), rows(&first.events));
    }
    assert!(
        rows(&first.events)[5]
            .starts_with("5|false|näme5|HIGH|1970-01-01T00:00:05Z|-5.25|[a, b5]|{k: 5.5, n: null}|0001|")
    );
}

/// Puts a bad frame between good ones and checks that these decode as if it were not there.
async fn with_neighbours(decoder: &mut EventDecoder, good: &Bytes, bad: Bytes, what: &str) -> Option<String> {
    let decoded = decoder.decode(&place(), &records([good.clone(), bad, good.clone()])).await.expect("decoding");
    let rows = rows(&decoded.events);
    assert_eq!(rows.len() + decoded.rejected.len(), 3, "{what}");
    assert_eq!(rows.first(), rows.last(), "{what}");
    assert!(rows[0].starts_with("4|true|näme4|LOW|"), "{what}: {rows:?}");
    assert!(decoded.rejected.iter().all(|(offset, _)| *offset == 101), "{what}");
    decoded.rejected.into_iter().next().map(|(_, reason)| reason)
}

#[tokio::test]
async fn truncated_frames_are_rejected_and_move_no_other_row() {
    let mut decoder = decoder(RICH, &[RICH]);
    let good = frame(RICH, 1, &rich(4));
    for end in 0..good.len() {
        let what = format!("cut at {end} of {}", good.len());
        let reason = with_neighbours(&mut decoder, &good, good.slice(..end), &what).await.expect(&what);
        let expected = if end < 5 { "not in Confluent framing: a zero byte and a schema id" } else { "schema 1: " };
        assert!(reason.starts_with(expected), "{what}: {reason}");
    }
    let long = [&good[..], &[0]].concat();
    let reason = with_neighbours(&mut decoder, &good, long.into(), "a byte more").await.expect("rejected");
    assert_eq!(reason, "schema 1: 1 bytes too many at the end");
    let unknown = [&[0, 0, 0, 0, 99], &good[5..]].concat();
    let reason = with_neighbours(&mut decoder, &good, unknown.into(), "unknown id").await.expect("rejected");
    assert_eq!(reason, "schema 99 is not registered");
    let magic = [&[1], &good[1..]].concat();
    let reason = with_neighbours(&mut decoder, &good, magic.into(), "magic").await.expect("rejected");
    assert!(reason.starts_with("not in Confluent framing"), "{reason}");
}

#[tokio::test]
async fn flipped_bits_never_panic_and_move_no_other_row() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut decoder = decoder(RICH, &[RICH]);
    let good = frame(RICH, 1, &rich(4));
    for at in 5..good.len() {
        for bit in 0..8 {
            let mut flipped = good.to_vec();
            flipped[at] ^= 1 << bit;
            with_neighbours(&mut decoder, &good, flipped.into(), &format!("bit {bit} of byte {at}")).await;
        }
    }
    for _ in 0..1000 {
        let mut garbage = good.to_vec();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(5..garbage.len());
            garbage[at] = random.random();
        }
        with_neighbours(&mut decoder, &good, garbage.into(), "random bytes").await;
    }
}

/// The same for events that are rewritten on their way: `RICH` in another order, with more and less.
#[tokio::test]
async fn damaged_events_of_an_older_schema_move_no_other_row() {
    let reader = r#"{"type":"record","name":"Event","fields":[
        {"name":"name","type":"string"},
        {"name":"id","type":"double"},
        {"name":"new","type":{"type":"array","items":"string"},"default":["d"]},
        {"name":"tags","type":{"type":"array","items":["null","bytes"]}},
        {"name":"any","type":["string","long","null",{"type":"record","name":"R","fields":[
            {"name":"y","type":"int","default":1},{"name":"x","type":"long"}]}]},
        {"name":"level","type":["null",{"type":"enum","name":"Level","symbols":["HIGH","LOW"]}]}]}"#;
    let mut decoder = decoder(reader, &[RICH]);
    let good = frame(RICH, 1, &rich(7));
    let mut bad: Vec<Bytes> = (0..good.len()).map(|end| good.slice(..end)).collect();
    let cut = bad.len();
    for at in 5..good.len() {
        for bit in 0..8 {
            let mut flipped = good.to_vec();
            flipped[at] ^= 1 << bit;
            bad.push(flipped.into());
        }
    }
    for (number, bad) in bad.into_iter().enumerate() {
        let decoded = decoder.decode(&place(), &records([good.clone(), bad, good.clone()])).await.expect("decoding");
        let rows = rows(&decoded.events);
        assert_eq!(rows.len() + decoded.rejected.len(), 3, "bad frame {number}");
        assert!(number >= cut || rows.len() == 2, "bad frame {number} is cut short");
        for row in [rows.first(), rows.last()] {
            assert_eq!(row.map(String::as_str), Some("näme7|7.0|[d]|[61, 6237]|{R={y: 1, x: 3}}|LOW"));
        }
    }
}

/// Whether an event is rejected is a property of the event, not of the columns somebody reads.
#[tokio::test]
async fn what_is_rejected_does_not_depend_on_the_columns() {
    let source = source(RICH);
    let good = frame(RICH, 1, &rich(4));
    let mut frames = vec![good.clone()];
    for at in 5..good.len() {
        let mut flipped = good.to_vec();
        flipped[at] ^= 0x80;
        frames.push(flipped.into());
    }
    let log = records(frames);
    let mut verdicts = Vec::new();
    for columns in [&[][..], &[0], &[3, 9], &[2, 11], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] {
        let schemas = Arc::new(Schemas(vec![RICH.to_owned()]));
        let mut decoder = EventDecoder::new(&source, columns, schemas).expect("a decoder");
        verdicts.push(decoder.decode(&place(), &log).await.expect("decoded").rejected);
    }
    assert!(!verdicts[0].is_empty());
    assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn lengths_that_lie_are_rejected_without_allocating_for_them() {
    let huge: &[u8] = &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let lowest: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let too_long: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for avro_type in [
        r#""string""#,
        r#""bytes""#,
        r#"{"type":"array","items":"null"}"#,
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"map","values":"null"}"#,
        r#"["null","int","string"]"#,
    ] {
        for length in [huge, lowest, too_long] {
            // The field is skipped by this reader; it is checked all the same.
            let reader = event(r#"{"name":"w","type":"int","default":0}"#);
            let bad = [&[0, 0, 0, 0, 1], length, &[0, 0, 0]].concat();
            let decoded = decode(&reader, &[&one_field(avro_type)], vec![bad.into()]).await;
            assert_eq!((decoded.events.num_rows(), decoded.rejected.len()), (0, 1), "{avro_type} {length:?}");
        }
    }
}

#[tokio::test]
async fn a_schema_that_is_registered_later_is_found_then() {
    struct Late(parking_lot::Mutex<bool>);
    #[async_trait::async_trait]
    impl event_log::registry::SchemaRegistry for Late {
        async fn register(&self, _: &str, _: &str) -> event_log::error::Result<u32> {
            *self.0.lock() = true;
            Ok(1)
        }
        async fn schema(&self, id: u32) -> event_log::error::Result<Arc<str>> {
            if *self.0.lock() { Ok(OLD.into()) } else { Err(LogError::NotFound(format!("schema {id}"))) }
        }
    }
    let registry = Arc::new(Late(parking_lot::Mutex::new(false)));
    let mut decoder = EventDecoder::new(&source(OLD), &[0], registry.clone()).expect("a decoder");
    let log = records([frame(OLD, 1, r#"{"id":5,"who":"Ada"}"#)]);
    assert_eq!(decoder.decode(&place(), &log).await.expect("decoded").rejected.len(), 1);
    event_log::registry::SchemaRegistry::register(&*registry, "", "").await.expect("registered");
    assert_eq!(decoder.decode(&place(), &log).await.expect("decoded").rejected, []);
}

#[tokio::test]
async fn a_registry_that_is_down_is_an_error_not_a_rejection() {
    struct Down;
    #[async_trait::async_trait]
    impl event_log::registry::SchemaRegistry for Down {
        async fn register(&self, _: &str, _: &str) -> event_log::error::Result<u32> {
            self.schema(1).await.map(|_| 1)
        }
        async fn schema(&self, _: u32) -> event_log::error::Result<Arc<str>> {
            Err(LogError::unavailable("asking the registry", "connection refused"))
        }
    }
    let mut decoder = EventDecoder::new(&source(OLD), &[0], Arc::new(Down)).expect("a decoder");
    let error = decoder.decode(&place(), &records([frame(OLD, 1, r#"{"id":5,"who":"Ada"}"#)])).await.expect_err("down");
    assert!(error.is_transient());
}

#[tokio::test]
async fn dead_letters_come_back_and_are_events_themselves() {
    let from_http = DeadLetter {
        reason: "user.name: expected a string, found 12".to_owned(),
        topic: "clicks".to_owned(),
        origin: Origin::Http { index: Some(3) },
        content_type: Some("application/json".to_owned()),
        original: Bytes::from_static(b"{\"user\":\xff}"),
        received_at: 1_763_632_800_000_000,
    };
    let from_log = DeadLetter {
        origin: Origin::Log { partition: 2, offset: u64::from(u32::MAX) + 7 },
        content_type: None,
        ..from_http.clone()
    };
    let mut frames = Vec::new();
    for letter in [&from_http, &from_log] {
        let Content::Event { key, value } = letter.to_record(1) else { panic!("an event") };
        assert_eq!(key.is_some(), matches!(letter.origin, Origin::Log { .. }));
        assert_eq!(DeadLetter::read(&value).expect("read"), *letter);
        for end in 0..value.len() {
            assert!(matches!(DeadLetter::read(&value.slice(..end)), Err(LogError::Damaged(_))), "cut at {end}");
        }
        frames.push(value);
    }
    let decoded = decode(dead_letter::SCHEMA, &[dead_letter::SCHEMA], frames).await;
    assert_eq!(decoded.rejected, []);
    let shown = rows(&decoded.events);
    assert!(
        shown[0].contains("|clicks|http|3|null|null|application/json|7b2275736572223aff7d|2025-11-20T10:00:00Z"),
        "{shown:?}"
    );
    assert!(shown[1].contains("|clicks|log|null|2|4294967302|null|"), "{shown:?}");
}
