//! Columns that are built while events are checked: the same that `arrow-avro` makes of the same bytes, and the same
//! verdict on every event whether a field is collected or only checked.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use bytes::Bytes;
use event_log::decode::{Decoded, EventDecoder};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::events::*;

/// Every flat type, with the name of one field put for `NAME`, and values that are written in different numbers of bytes.
const TYPES: &[(&str, &[&str])] = &[
    (r#""boolean""#, &["true", "false"]),
    (r#""int""#, &["0", "-1", "64", "-8193", "1048576", "2147483647", "-2147483648"]),
    (
        r#""long""#,
        &[
            "0",
            "-64",
            "8191",
            "-1048577",
            "268435456",
            "34359738368",
            "-4398046511105",
            "562949953421312",
            "72057594037927936",
            "9223372036854775807",
            "-9223372036854775808",
        ],
    ),
    (r#""float""#, &["0.5", "-1e30"]),
    (r#""double""#, &["0.1", "-1e300"]),
    (r#""bytes""#, &[r#""""#, r#""/w==""#, r#""AAECAwQFBgcICQoLDA0ODw==""#]),
    (
        r#""string""#,
        &[
            r#""""#,
            r#""abc""#,
            r#""abcd""#,
            r#""abcdefg""#,
            r#""abcdefgh""#,
            r#""fifteen of them""#,
            r#""sixteen of them!""#,
            r#""the last is not é""#,
            r#""ключ""#,
            r#""a text of more than sixty-four bytes, whose length does not fit one byte: 𝄞""#,
        ],
    ),
    (r#"{"type":"string","logicalType":"uuid"}"#, &[r#""550e8400-e29b-41d4-a716-446655440000""#]),
    (r#"{"type":"enum","name":"NAME","symbols":["LOW","HIGH","MOST"]}"#, &[r#""LOW""#, r#""HIGH""#]),
    (r#"{"type":"int","logicalType":"date"}"#, &["0", "20412", "-1"]),
    (r#"{"type":"int","logicalType":"time-millis"}"#, &["0", "86399999"]),
    (r#"{"type":"long","logicalType":"time-micros"}"#, &["1", "86399999999"]),
    (r#"{"type":"long","logicalType":"timestamp-millis"}"#, &["0", "1763632800000", "-9214560000000"]),
    (r#"{"type":"long","logicalType":"timestamp-micros"}"#, &["1", "1763632800000000", "9214646399999999"]),
    (r#"{"type":"long","logicalType":"timestamp-nanos"}"#, &["2", "1763632800000000000"]),
    (r#"{"type":"long","logicalType":"local-timestamp-millis"}"#, &["3"]),
    (r#"{"type":"long","logicalType":"local-timestamp-micros"}"#, &["-4"]),
    (r#"{"type":"long","logicalType":"local-timestamp-nanos"}"#, &["5"]),
];

/// A type as a field's type: alone, after null, before null.
const PLACES: [fn(&str) -> String; 3] =
    [str::to_owned, |own| format!(r#"["null",{own}]"#), |own| format!(r#"[{own},"null"]"#)];

/// Every type in every place, a field each, and between them one that is not flat.
fn schema() -> String {
    let mut fields = Vec::new();
    for (number, (own, _)) in TYPES.iter().enumerate() {
        for (place, put) in PLACES.iter().enumerate() {
            let own = own.replace("NAME", &format!("E{number}_{place}"));
            fields.push(format!(r#"{{"name":"f{number}_{place}","type":{}}}"#, put(&own)));
        }
    }
    fields.insert(20, r#"{"name":"tags","type":{"type":"array","items":["null","string"]}}"#.to_owned());
    format!(r#"{{"type":"record","name":"Event","fields":[{}]}}"#, fields.join(","))
}

fn event(random: &mut StdRng) -> String {
    let mut fields = vec![r#""tags":["a",null,"ü"]"#.to_owned()];
    for (number, (_, values)) in TYPES.iter().enumerate() {
        for place in 0..PLACES.len() {
            let null = place > 0 && random.random_bool(0.3);
            let value = if null { "null" } else { values[random.random_range(0..values.len())] };
            fields.push(format!(r#""f{number}_{place}":{value}"#));
        }
    }
    format!("{{{}}}", fields.join(","))
}

/// What `arrow-avro` alone makes of whole frames; `None` when it refuses one.
fn arrow_avro(avro: &str, frames: &[Bytes]) -> Option<Vec<ArrayRef>> {
    let json = views::avro::Record::parse(avro).expect("a schema").arrow_json();
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(1), AvroSchema::new(json)).expect("a schema");
    let builder = ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(usize::MAX);
    let mut decoder = builder.build_decoder().expect("a decoder");
    for frame in frames {
        if decoder.decode(frame).ok()? != frame.len() {
            return None;
        }
    }
    Some(decoder.flush().ok()??.columns().to_vec())
}

async fn decode_columns(avro: &str, columns: &[usize], frames: &[Bytes]) -> Decoded {
    let schemas = Arc::new(Schemas(vec![avro.to_owned()]));
    let mut decoder = EventDecoder::new(&source(avro), columns, schemas).expect("a decoder");
    decoder.decode(&place(), &records(frames.iter().cloned())).await.expect("decoding")
}

fn seeded() -> StdRng {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    StdRng::seed_from_u64(seed)
}

#[tokio::test]
async fn every_column_is_what_arrow_avro_makes_of_it() {
    let mut random = seeded();
    let avro = schema();
    let frames: Vec<Bytes> = (0..400).map(|_| frame(&avro, 1, &event(&mut random))).collect();
    let expected = arrow_avro(&avro, &frames).expect("good events");
    let all: Vec<usize> = (0..expected.len()).collect();
    let whole = decode_columns(&avro, &all, &frames).await;
    assert_eq!(whole.rejected, []);
    for (column, expected) in expected.iter().enumerate() {
        let alone = decode_columns(&avro, &[column], &frames).await;
        for found in [whole.events.column(column), alone.events.column(0)] {
            let expected = cast(expected, found.data_type()).expect("the same type, but for enums");
            assert_eq!(found, &expected, "{}", whole.events.schema().field(column));
        }
    }
}

#[tokio::test]
async fn a_damaged_event_meets_the_same_verdict_whatever_is_wanted_of_it() {
    let mut random = seeded();
    let avro = schema();
    let columns = TYPES.len() * PLACES.len() + 1;
    let good: Vec<Bytes> = (0..20).map(|_| frame(&avro, 1, &event(&mut random))).collect();
    let mut frames = Vec::new();
    for number in 0..2000 {
        let mut bytes = good[number % good.len()].to_vec();
        for _ in 0..random.random_range(0..3) {
            let at = random.random_range(5..bytes.len());
            bytes[at] =
                if random.random_bool(0.5) { bytes[at] ^ 1 << random.random_range(0..8) } else { random.random() };
        }
        if random.random_bool(0.1) {
            bytes.truncate(random.random_range(5..bytes.len()));
        }
        frames.push(Bytes::from(bytes));
    }
    let checked = decode_columns(&avro, &[], &frames).await;
    let all: Vec<usize> = (0..columns).collect();
    let whole = decode_columns(&avro, &all, &frames).await;
    assert!(checked.rejected.len() > 200 && whole.events.num_rows() > 200, "{} rejected", checked.rejected.len());
    assert_eq!(whole.rejected, checked.rejected);
    for column in 0..columns {
        let alone = decode_columns(&avro, &[column], &frames).await;
        assert_eq!(alone.rejected, checked.rejected, "column {column}");
        assert_eq!(alone.events.column(0), whole.events.column(column), "column {column}");
    }

    // What passes, `arrow-avro` takes, and reads alike.
    let rejected: Vec<u64> = checked.rejected.iter().map(|(offset, _)| *offset).collect();
    let passed: Vec<Bytes> =
        (100..).zip(frames).filter(|(offset, _)| !rejected.contains(offset)).map(|(_, frame)| frame).collect();
    let expected = arrow_avro(&avro, &passed).expect("it takes what passes");
    for (found, expected) in whole.events.columns().iter().zip(&expected) {
        assert_eq!(found, &cast(expected, found.data_type()).expect("the same type, but for enums"));
    }
}
