//! Avro containers that are not what they should be: cut short, damaged, of other schemas.

use apache_avro::types::Record;
use apache_avro::{Codec, Schema, Writer, ZstandardSettings};

use super::bombs::container;
use super::house::{AVRO, CLICK_SCHEMA, CLICKS, House, JSON, LINES};

/// A container of good clicks on a page, in blocks of ten.
pub fn clicks(url: &str, count: i64, codec: Codec) -> Vec<u8> {
    let schema = Schema::parse_str(CLICK_SCHEMA).expect("a schema");
    let mut writer = Writer::with_codec(&schema, Vec::new(), codec).expect("a writer");
    for number in 0..count {
        let mut record = Record::new(&schema).expect("a record");
        record.put("url", url);
        record.put("ts", number);
        record.put("bytes", number);
        writer.append_value(record).expect("appended");
        if number % 10 == 9 {
            writer.flush().expect("a block");
        }
    }
    writer.into_inner().expect("written")
}

/// A container of one event of another schema.
fn of_schema(schema: &str, fields: &[(&str, apache_avro::types::Value)]) -> Vec<u8> {
    let schema = Schema::parse_str(schema).expect("a schema");
    let mut writer = Writer::with_codec(&schema, Vec::new(), Codec::Null).expect("a writer");
    let mut record = Record::new(&schema).expect("a record");
    for (name, value) in fields {
        record.put(name, value.clone());
    }
    writer.append_value(record).expect("appended");
    writer.into_inner().expect("written")
}

#[tokio::test]
async fn a_container_that_is_cut_short_or_damaged_gives_no_half_of_itself() {
    let mut house = House::open();
    for codec in [Codec::Null, Codec::Deflate(Default::default()), Codec::Zstandard(ZstandardSettings::default())] {
        let file = clicks("/container", 35, codec);
        house.mixed(CLICKS, AVRO, file.clone(), 35, &[]).await;
        house.clicked("/container", 35, (0..35).sum());
        for length in (1..file.len()).step_by(file.len() / 40) {
            // A file that ends where a block does is a whole file.
            let ends_a_block = length > 16 && file[length - 16..length] == file[file.len() - 16..];
            if !ends_a_block && length > 4 {
                house.no_events(CLICKS, AVRO, &file[..length], "").await;
            }
        }
        // Another sync marker, another magic, another codec, no schema, bytes after the end.
        let mut wrong = vec![file.clone(), file.clone(), file.clone(), [&file[..], b"x"].concat(), file[4..].to_vec()];
        let end = file.len();
        wrong[0][end - 1] ^= 1;
        wrong[1][0] ^= 0x20;
        wrong[2][3] = 2;
        for file in wrong {
            house.no_events(CLICKS, AVRO, file, "not an Avro container file").await;
        }
        house.good_click().await;
    }
    let click = b"\x04/x\x02\x02";
    let broken = |from: &str, to: &str| container(&CLICK_SCHEMA.replace(from, to), "null", 1, 1, click);
    for (file, names) in [
        (container(CLICK_SCHEMA, "nuII", 1, 1, click), "codec"),
        (container(CLICK_SCHEMA, "zstandard", 1, 1, click), "block 0"),
        (container(CLICK_SCHEMA, "null", 1, 2, &click[..1]), "2 events in 1 bytes"),
        (container("", "null", 1, 1, click), "not an Avro container file"),
        (broken("\"record\"", "\"recorb\""), "not an Avro container file"),
        (broken("\"string\"", "\"strinx\""), "not an Avro container file"),
        (broken("{", "["), "not an Avro container file"),
        (broken("\"url\"", "\"\""), "not an Avro container file"),
    ] {
        house.no_events(CLICKS, AVRO, file, names).await;
    }
    let mut file = container(CLICK_SCHEMA, "null", 1, 1, click);
    house.mixed(CLICKS, AVRO, file.clone(), 1, &[]).await;
    house.clicked("/x", 1, 1);
    let name = file.windows(11).position(|window| window == b"avro.schema").expect("its name");
    file[name] = b'b';
    house.no_events(CLICKS, AVRO, file, "no schema").await;
    // Events that are none, in a container that is one: the rest of the block cannot be found.
    let mut file = clicks("/x", 5, Codec::Null);
    let length = file.len();
    let block = file.windows(3).position(|window| window == [4, b'/', b'x']).expect("the first event");
    let last = file.windows(3).rposition(|window| window == [4, b'/', b'x']).expect("the last event");
    file[last] = 0x7f;
    let answer = house.post(CLICKS, AVRO, file.clone()).await.json();
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["index"]), (&4.into(), &4.into()), "{answer}");
    house.accepted(CLICKS, 4);
    house.clicked("/x", 4, 6);
    house.letter(CLICKS, file[last..length - 16].to_vec(), "");
    file[block + 1] = 0xff;
    house.mixed(CLICKS, AVRO, file.clone(), 0, &[(0, "url|4 events after it", &file[block..length - 16])]).await;
    house.close().await;
}

#[tokio::test]
async fn containers_of_other_schemas_are_read_or_refused() {
    use apache_avro::types::Value::{Int, Long, String as Text};
    let mut house = House::open();
    let url = |text: &str| Text(text.to_owned());
    // A field more, one less that has a default, an int for a long.
    let more = r#"{"type": "record", "name": "Click", "fields": [{"name": "url", "type": "string"}, {"name": "colour", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}}, {"name": "bytes", "type": "int"}]}"#;
    let file = of_schema(more, &[("url", url("/more")), ("colour", url("red")), ("ts", Long(1)), ("bytes", Int(3))]);
    house.mixed(CLICKS, AVRO, file, 1, &[]).await;
    house.clicked("/more", 1, 3);
    let fewer = r#"{"type": "record", "name": "Click", "fields": [{"name": "url", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;
    house.mixed(CLICKS, AVRO, of_schema(fewer, &[("url", url("/fewer")), ("ts", Long(1))]), 1, &[]).await;
    house.clicked("/fewer", 1, 0);

    let number = r#"{"type": "record", "name": "Number", "fields": [{"name": "n", "type": "long"}]}"#;
    house.no_events(CLICKS, AVRO, of_schema(number, &[("n", Long(1))]), "the record was named Number").await;
    let number = number.replace("Number", "Click");
    house.no_events(CLICKS, AVRO, of_schema(&number, &[("n", Long(1))]), "url").await;
    let seconds = fewer.replace("timestamp-micros", "timestamp-millis");
    house.no_events(CLICKS, AVRO, of_schema(&seconds, &[("url", url("/a")), ("ts", Long(1))]), "ts").await;
    let other = fewer.replace("\"url\", \"type\": \"string\"", "\"url\", \"type\": \"long\"");
    house.no_events(CLICKS, AVRO, of_schema(&other, &[("url", Long(1)), ("ts", Long(1))]), "url").await;
    // A time that no view could hold.
    let far = of_schema(fewer, &[("url", url("/far")), ("ts", Long(i64::MAX))]);
    let answer = house.post(CLICKS, AVRO, far.clone()).await;
    let answer = answer.json();
    let reason = answer["rejected"][0]["error"].as_str().unwrap_or_default();
    assert!(reason.contains("ts") && reason.contains("1678 to 2261"), "{answer}");
    let datum = far.windows(5).position(|window| window == b"\x08/far").expect("the event");
    house.letter(CLICKS, far[datum..far.len() - 16].to_vec(), "ts|1678 to 2261");
    // One form said to be another.
    let file = clicks("/form", 3, Codec::Null);
    house.no_events(CLICKS, JSON, file, "not JSON").await;
    house.no_events(CLICKS, AVRO, "{\"url\": \"/a\", \"ts\": 1}", "not an Avro container file").await;
    house.mixed(CLICKS, LINES, "Obj\x01", 0, &[(0, "not JSON", b"Obj\x01")]).await;
    house.close().await;
}
