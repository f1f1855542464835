//! Bodies that are too large, and small bodies that would become large: refused, and memory stays bounded.

use std::io::Write as _;

use super::house::{AVRO, CLICKS, House, JSON, LINES, NUMBER_SCHEMA, NUMBERS, click};

/// What the process may take at most, in MiB. The whole promise is a GiB under load.
const MOST_MEMORY: u64 = 1024;

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let mut house = House::open();
    let limit = 16 << 20;
    for form in [JSON, LINES, AVRO] {
        house.post(CLICKS, form, vec![b' '; limit + 1]).await.refuses(413, "16777216 bytes");
        house.good_click().await;
    }
    // A body whose length is not said.
    let pieces = || futures::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20])));
    house.post(CLICKS, JSON, reqwest::Body::wrap_stream(pieces())).await.refuses(413, "16777216 bytes");
    // Questions have a smaller limit.
    for path in ["/v1/views/pages/lookup", "/v1/verify"] {
        house.ask(path, vec![b' '; (1 << 20) + 1]).await.refuses(413, "1048576 bytes");
        house.ask(path, reqwest::Body::wrap_stream(pieces())).await.refuses(413, "1048576 bytes");
    }
    // As large as it may be.
    let mut body = click("/large", 1).into_bytes();
    body.resize(limit, b' ');
    house.mixed(CLICKS, LINES, body, 1, &[]).await;
    house.clicked("/large", 1, 1);
    house.close().await;
}

/// A container of `blocks` times the same block: so it says, of `count` events.
pub fn container(schema: &str, codec: &str, blocks: usize, count: usize, packed: &[u8]) -> Vec<u8> {
    let mut file = b"Obj\x01".to_vec();
    put_long(&mut file, 2);
    for (name, value) in [("avro.schema", schema), ("avro.codec", codec)] {
        for text in [name, value] {
            put_long(&mut file, text.len() as i64);
            file.extend_from_slice(text.as_bytes());
        }
    }
    file.push(0);
    file.extend_from_slice(&[7; 16]);
    for _ in 0..blocks {
        put_long(&mut file, count as i64);
        put_long(&mut file, packed.len() as i64);
        file.extend_from_slice(packed);
        file.extend_from_slice(&[7; 16]);
    }
    file
}

fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn deflated(bytes: usize) -> Vec<u8> {
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    deflate.write_all(&vec![0; bytes]).expect("packed");
    deflate.finish().expect("packed")
}

fn zstandard(bytes: usize) -> Vec<u8> {
    let codec = apache_avro::Codec::Zstandard(apache_avro::ZstandardSettings::default());
    let mut packed = vec![0; bytes];
    codec.compress(&mut packed).expect("packed");
    packed
}

#[tokio::test]
async fn small_containers_that_unpack_to_much_are_refused() {
    let mut house = House::open();
    let (over, block) = (65 << 20, 64 << 20);
    let codecs = [("deflate", deflated(over), deflated(block)), ("zstandard", zstandard(over), zstandard(block))];
    for (codec, bomb, full) in codecs {
        // One block that is too large; blocks that are too large together; too many events in one; blocks that lie about their number.
        let bodies = [
            container(NUMBER_SCHEMA, codec, 1, over, &bomb),
            container(NUMBER_SCHEMA, codec, 16, 1, &full),
            container(NUMBER_SCHEMA, codec, 1, block, &full),
            container(NUMBER_SCHEMA, codec, 1, usize::MAX / 2, &full),
            container(NOTHING, codec, 1, block, &full),
        ];
        for body in bodies {
            let answer = house.post(NUMBERS, AVRO, body.clone()).await;
            assert!(answer.status == 400 || answer.status == 413, "{}: {}", answer.status, answer.body);
            answer.refuses(answer.status, "");
            if answer.status == 400 {
                house.letter(NUMBERS, body, "");
            }
            house.good_click().await;
            let peak = house.peak_memory();
            assert!(peak < MOST_MEMORY, "{codec}: {peak} MiB");
        }
    }
    house.close().await;
}

#[tokio::test]
async fn as_many_events_as_a_container_may_have_fit_in_memory() {
    let mut house = House::open();
    let most = 1 << 20;
    let body = container(NUMBER_SCHEMA, "zstandard", 1, most, &zstandard(most));
    house.mixed(NUMBERS, AVRO, body, most as u64, &[]).await;
    let peak = house.peak_memory();
    assert!(peak < MOST_MEMORY, "{peak} MiB");
    // Counting so many takes a while, and is for other tests.
    house.process.kill();
}

/// Nothing that a reader could want: every event takes its defaults, and no byte.
const NOTHING: &str = r#"{"type": "record", "name": "Number", "fields": []}"#;

#[tokio::test]
async fn very_many_very_small_events_are_refused_or_taken_within_bounds() {
    let mut house = House::open();
    let zeros = "0,".repeat(8 << 20);
    let bodies = [
        (JSON, format!("[{}0]", &zeros[..(16 << 20) - 8])),
        (LINES, "0\n".repeat(8 << 20)),
        (LINES, "{}\n".repeat(5 << 20)),
        (LINES, "\n".repeat(16 << 20)),
        (JSON, format!("{{{}\"n\": 1}}", "\"n\":1,".repeat(2 << 20))),
        (JSON, format!("{{\"n\": [{}0]}}", &zeros[..(16 << 20) - 16])),
        (JSON, format!("{{\"n\": \"{}\"}}", "\\u0000".repeat(2 << 20))),
    ];
    for (number, (form, body)) in bodies.into_iter().enumerate() {
        let answer = house.post(NUMBERS, form, body.clone()).await;
        match answer.status {
            413 => answer.refuses(413, "events"),
            200 => {
                let answer = answer.json();
                house.accepted(NUMBERS, answer["accepted"].as_u64().expect("a number"));
                let rejected = answer["rejected"].as_array().expect("a list");
                assert!(rejected.len() <= 1, "{number}: {} rejected", rejected.len());
                if !rejected.is_empty() {
                    house.letter(NUMBERS, body.into_bytes(), "n");
                }
            }
            other => panic!("{number}: {other}: {}", answer.body),
        }
        let peak = house.peak_memory();
        println!("body {number}: the peak is {peak} MiB");
        assert!(peak < MOST_MEMORY, "body {number}: {peak} MiB");
        house.good_click().await;
    }
    house.close().await;
}
