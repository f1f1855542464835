//! Events in JSON that are wrong in every way: each is rejected by its field's path, the good ones beside them count.

use super::house::{AVRO, CLICKS, EVERY, House, JSON, LINES, click};

/// A good event of the topic with every type: field and JSON text.
const GOOD: [(&str, &str); 23] = [
    ("a_string", "\"text\""),
    ("a_boolean", "true"),
    ("an_int", "7"),
    ("a_long", "9007199254740993"),
    ("a_float", "1.5"),
    ("a_double", "-0.0"),
    ("some_bytes", "\"AAEC\""),
    ("a_uuid", "\"6f1c6ad4-3f0b-4a8e-9d0e-0d6f1a1c7b11\""),
    ("a_date", "\"2026-11-20\""),
    ("time_millis", "\"10:00:00.123\""),
    ("time_micros", "36000000000"),
    ("ts_millis", "1763632800000"),
    ("ts_micros", "\"2026-11-20T10:00:00.123456Z\""),
    ("ts_nanos", "1763632800000000000"),
    ("local_micros", "\"2026-11-20T10:00:00\""),
    ("a_decimal", "\"12345678.90\""),
    ("four_bytes", "\"AAECAw==\""),
    ("an_enum", "\"RED\""),
    ("an_array", "[1, 2, 3]"),
    ("a_map", "{\"a\": 1}"),
    ("a_record", "{\"deep\": 1}"),
    ("maybe", "null"),
    ("either", "\"text\""),
];

/// What each field must refuse: the field, the JSON text, and what the reason says beside the field's name.
const WRONG: [(&str, &[(&str, &str)]); 23] = [
    (
        "a_string",
        &[("1", "a string"), ("null", "a string"), ("[]", "a string"), ("{}", "a string"), ("true", "a string")],
    ),
    ("a_boolean", &[("1", "a boolean"), ("\"true\"", "a boolean"), ("null", "a boolean")]),
    (
        "an_int",
        &[
            ("1.0", "an int"),
            ("1e3", "an int"),
            ("2147483648", "out of range"),
            ("-2147483649", "out of range"),
            ("\"1\"", "an int"),
            ("null", "an int"),
        ],
    ),
    (
        "a_long",
        &[
            ("9223372036854775808", "out of range"),
            ("-9223372036854775809", "out of range"),
            ("1.5", "a long"),
            ("1e18", "a long"),
            ("[1]", "a long"),
        ],
    ),
    ("a_float", &[("1e39", "out of range"), ("1e400", "out of range"), ("\"NaN\"", "a float"), ("null", "a float")]),
    (
        "a_double",
        &[("1e400", "out of range"), ("-1e400", "out of range"), ("\"Infinity\"", "a double"), ("{}", "a double")],
    ),
    (
        "some_bytes",
        &[("\"!!!!\"", "base64"), ("\"A\"", "base64"), ("\"A=A=\"", "base64"), ("[0, 1]", "base64"), ("7", "base64")],
    ),
    ("a_uuid", &[("\"6f1c6ad43f0b4a8e9d0e0d6f1a1c7b11\"", "a UUID"), ("\"\"", "a UUID"), ("16", "a UUID")]),
    (
        "a_date",
        &[("\"2026-02-30\"", "a date"), ("\"2026-1-1\"", "a date"), ("2147483648", "out of range"), ("1.5", "a date")],
    ),
    ("time_millis", &[("86400000", "out of range"), ("-1", "out of range"), ("\"24:00:00\"", "a time of day")]),
    (
        "time_micros",
        &[("86400000000", "out of range"), ("\"23:59:60\"", "a time of day"), ("\"10 o'clock\"", "a time of day")],
    ),
    (
        "ts_millis",
        &[
            ("9223372036854775807", "1678 to 2261"),
            ("253402300799000", "1678 to 2261"),
            ("99999999999999999999", "1678"),
        ],
    ),
    (
        "ts_micros",
        &[
            ("\"9999-12-31T23:59:59Z\"", "1678 to 2261"),
            ("9223372036854775807", "1678 to 2261"),
            ("-9223372036854775808", "1678 to 2261"),
            ("253402300799000000", "1678 to 2261"),
            ("9223372036854775808", "1678 to 2261"),
            ("\"-0001-01-01T00:00:00Z\"", "a timestamp"),
            ("\"0001-01-01T00:00:00Z\"", "1678 to 2261"),
            ("\"2026-11-20 10:00\"", "a timestamp"),
            ("\"2026-11-20T10:00:61Z\"", "a timestamp"),
            ("1763632800.5", "a timestamp"),
            ("\"yesterday\"", "a timestamp"),
        ],
    ),
    ("ts_nanos", &[("\"2262-04-12T00:00:00Z\"", "1678 to 2261"), ("\"1677-01-01T00:00:00Z\"", "1678 to 2261")]),
    ("local_micros", &[("\"2026-11-20T10:00:00Z\"", "a local timestamp"), ("\"9999-12-31T23:59:59\"", "1678 to 2261")]),
    (
        "a_decimal",
        &[
            ("\"123456789.00\"", "digits before the point"),
            ("0.001", "digits after the point"),
            ("1e400", "digits before the point"),
            ("1e-400", "digits after the point"),
            ("1e99999999999", "a decimal"),
            ("\"NaN\"", "a decimal"),
            ("\"\"", "a decimal"),
        ],
    ),
    ("four_bytes", &[("\"AAEC\"", "4 bytes"), ("\"AAECAwQ=\"", "4 bytes"), ("\"****\"", "base64")]),
    ("an_enum", &[("\"BLUE\"", "one of RED, GREEN"), ("0", "a symbol"), ("\"red\"", "one of RED, GREEN")]),
    ("an_array", &[("[1, \"2\"]", "[1]: expected an int"), ("{}", "an array"), ("[1, null]", "[1]")]),
    (
        "a_map",
        &[
            ("{\"a\": 1, \"b\": \"x\"}", "[\"b\"]: expected a long"),
            ("[]", "an object"),
            ("{\"a\": 1, \"a\": 2}", ".a: given twice"),
        ],
    ),
    (
        "a_record",
        &[
            ("{\"deep\": \"x\"}", ".deep: expected an int"),
            ("{}", ".deep: missing"),
            ("{\"deep\": 1, \"other\": 2}", ".other: the schema has no such field"),
        ],
    ),
    ("maybe", &[("\"1\"", "an int"), ("1.5", "an int")]),
    ("either", &[("true", "an int or a string"), ("[]", "an int or a string")]),
];

/// A good event in which one field has another value.
fn every(field: &str, value: &str) -> String {
    let fields = GOOD.iter().map(|(name, good)| format!("\"{name}\": {}", if *name == field { value } else { good }));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

#[tokio::test]
async fn a_wrong_value_of_any_type_is_rejected_by_its_path() {
    let mut house = House::open();
    let mut events = Vec::new();
    let mut bad = Vec::new();
    let mut good = 0;
    for (field, wrongs) in WRONG {
        events.push(every("", ""));
        good += 1;
        for (wrong, says) in wrongs {
            bad.push((events.len(), field, *says, every(field, wrong)));
            events.push(every(field, wrong));
        }
        // Left out, and given twice.
        let without = every(field, "0").replace(&format!("\"{field}\": 0"), "").replace(", ,", ",");
        let without = without.replace("{, ", "{").replace(", }", "}");
        bad.push((events.len(), field, "missing", without.clone()));
        events.push(without);
        let twice = every("", "").replacen('{', &format!("{{\"{field}\": null, "), 1);
        bad.push((events.len(), field, "given twice", twice.clone()));
        events.push(twice);
    }
    let one_by_one: Vec<(usize, String, &[u8])> =
        bad.iter().map(|(at, field, says, event)| (*at, path_and(field, says), event.as_bytes())).collect();
    let expected: Vec<(usize, &str, &[u8])> =
        one_by_one.iter().map(|(at, says, event)| (*at, says.as_str(), *event)).collect();
    house.mixed(EVERY, LINES, events.join("\n"), good, &expected).await;
    house.mixed(EVERY, JSON, format!("[{}]", events.join(",\r\n ")), good, &expected).await;

    let unknown = every("", "").replacen('{', "{\"colour\": 1, ", 1);
    house
        .mixed(EVERY, JSON, unknown.clone(), 0, &[(0, "colour: the schema has no such field", unknown.as_bytes())])
        .await;
    // What is at the edge of what a type takes is taken, and the views live with it.
    for (field, edge) in [
        ("an_int", "-2147483648"),
        ("an_int", "-0"),
        ("a_long", "9223372036854775807"),
        ("a_long", "-9223372036854775808"),
        ("a_float", "1e-400"),
        ("a_double", "1.7976931348623157e308"),
        ("a_double", "123456789012345678901234567890123456789012345678901234567890"),
        ("some_bytes", "\"\""),
        ("some_bytes", "\"/+8\""),
        ("a_date", "2147483647"),
        ("a_date", "-2147483648"),
        ("a_date", "\"0001-01-01\""),
        ("time_micros", "86399999999"),
        ("ts_millis", "-9214560000000"),
        ("ts_micros", "-1"),
        ("ts_micros", "0"),
        ("ts_micros", "\"2016-12-31T23:59:60Z\""),
        ("ts_micros", "9214646399999999"),
        ("ts_micros", "-9214560000000000"),
        ("ts_nanos", "9214646399999999999"),
        ("a_decimal", "-99999999.99"),
        ("a_decimal", "1.23e2"),
        ("an_array", "[]"),
        ("a_map", "{}"),
        ("either", "null"),
        ("a_string", "\"\\u0000\\ud83d\\ude00\\ufeff\""),
        ("a_string", "\"\""),
    ] {
        let event = every(field, edge);
        let answer = house.post(EVERY, JSON, event.clone()).await;
        assert!(answer.status == 200 && answer.json()["accepted"] == 1, "{field} = {edge}: {}", answer.body);
        house.accepted(EVERY, 1);
    }
    house.close().await;
}

/// What the reason of a wrong value must say: the path, and what is wrong there.
fn path_and(field: &str, says: &str) -> String {
    if says.starts_with(['.', '[']) { format!("{field}{says}") } else { format!("{field}: |{says}") }
}

#[tokio::test]
async fn what_is_hardly_json_is_refused_and_kept() {
    let mut house = House::open();
    let deep = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for deep in [deep("[", "]", 100_000), deep("{\"url\":", "}", 100_000), deep("[{\"url\":", "}]", 100_000)] {
        house.good_click().await;
        // What is in an array's brackets is the event.
        let event = deep.strip_prefix('[').and_then(|deep| deep.strip_suffix(']')).unwrap_or(&deep);
        house.mixed(CLICKS, JSON, deep.clone(), 0, &[(0, "nested deeper than 128", event.as_bytes())]).await;
        let lines = format!("{}\n{deep}\n{}", click("/deep", 1), click("/deep", 2));
        house.mixed(CLICKS, LINES, lines, 2, &[(1, "nested deeper than 128", deep.as_bytes())]).await;
        house.clicked("/deep", 2, 3);
    }
    for open in ["[".repeat(1_000_000), "{\"url\":".repeat(100_000)] {
        house.no_events(CLICKS, JSON, open.clone(), "not JSON").await;
        house.mixed(CLICKS, LINES, open.clone(), 0, &[(0, "nested deeper than 128", open.as_bytes())]).await;
    }
    let nested = format!("{{\"url\": {}, \"ts\": 1}}", deep("[", "]", 100));
    house
        .mixed(CLICKS, JSON, nested.clone(), 0, &[(0, "url: expected a string, found an array", nested.as_bytes())])
        .await;

    let digits = "9".repeat(400);
    for (value, says) in [
        (digits.as_str(), "bytes: "),
        ("1e400", "bytes: expected a long"),
        ("-1e-400", "bytes: expected a long"),
        ("NaN", "not JSON"),
        ("-Infinity", "not JSON"),
        ("0x10", "not JSON"),
        ("01", "not JSON"),
        ("+1", "not JSON"),
        ("1.", "not JSON"),
        (".5", "not JSON"),
        ("'1'", "not JSON"),
        ("undefined", "not JSON"),
    ] {
        let wrong = format!("{{\"url\": \"/n\", \"ts\": 1, \"bytes\": {value}}}");
        let lines = format!("{}\n{wrong}\n", click("/n", 3));
        house.mixed(CLICKS, LINES, lines, 1, &[(1, says, wrong.as_bytes())]).await;
        house.clicked("/n", 1, 3);
    }
    // Minus zero is zero, and a name that is an escape is that name.
    let odd = "{\"\\u0075rl\": \"/odd\", \"ts\": 1, \"bytes\": -0}";
    house.mixed(CLICKS, JSON, odd, 1, &[]).await;
    house.clicked("/odd", 1, 0);
    house.close().await;
}

#[tokio::test]
async fn hostile_text_is_refused_or_kept_as_it_is() {
    let mut house = House::open();
    for (text, says) in [
        (&b"{\"url\": \"\xc3\x28\", \"ts\": 1}"[..], "not UTF-8"),
        (b"{\"url\": \"\xff\xfe\", \"ts\": 1}", "not UTF-8"),
        (b"{\"url\": \"\xed\xa0\x80\", \"ts\": 1}", "not UTF-8"),
        (b"{\"url\": \"\xf4\x90\x80\x80\", \"ts\": 1}", "not UTF-8"),
        (b"{\"url\": \"\xc0\x80\", \"ts\": 1}", "not UTF-8"),
        (b"{\"url\": \"\\ud800\", \"ts\": 1}", "surrogate"),
        (b"{\"url\": \"\\udc00\", \"ts\": 1}", "not JSON"),
        (b"{\"url\": \"\\ud800\\u0041\", \"ts\": 1}", "surrogate"),
        (b"{\"url\": \"\\u00\", \"ts\": 1}", "hex digits"),
        (b"{\"url\": \"\\x41\", \"ts\": 1}", "an escape"),
        (b"{\"url\": \"a\tb\", \"ts\": 1}", "control character"),
        (b"{\"url\": \"a\0b\", \"ts\": 1}", "control character"),
        (b"\xef\xbb\xbf{\"url\": \"/bom\", \"ts\": 1}", "not JSON"),
        (b"{\"url\": \"/a\", \"ts\": 1}}", "not JSON"),
        (b"{\"url\": \"/a\", \"ts\": 1,}", "not JSON"),
        (b"{\"url\": \"/a\", \"url\": \"/b\", \"ts\": 1}", "url: given twice"),
        (b"{\"url\": \"/a\", \"\\u0075rl\": \"/b\", \"ts\": 1}", "url: given twice"),
        (b"{\"url\": \"/a\" \"ts\": 1}", "not JSON"),
        (b"{url: \"/a\", \"ts\": 1}", "not JSON"),
        (b"{\"url\": \"/a\", \"ts\": 1", "not JSON"),
        (b"{\"url\": \"/a", "not JSON"),
        (b"// comment", "not JSON"),
        (b"null", "expected an object"),
        (b"\"{}\"", "expected an object"),
        (b"[]", "expected an object"),
        (b"{}", "url: missing"),
        (b"\0\0\0\0", "not JSON"),
        (b"Obj\x01", "not JSON"),
        (b"\x1f\x8b\x08\x00", "not UTF-8"),
    ] {
        let first = click("/text", 1);
        let mut lines = first.clone().into_bytes();
        lines.extend([b"\n", text, b"\n\n \r\n", first.as_bytes()].concat());
        // The last line has no end, and empty lines are no events.
        house.mixed(CLICKS, LINES, lines, 2, &[(1, says, text)]).await;
        house.clicked("/text", 2, 2);
    }
    // What is odd and still a string is a key like any other.
    for (text, url) in [
        ("\\u0000", "\0"),
        ("a\\u0000b\\u0000", "a\0b\0"),
        ("\\ufeff/bom", "\u{feff}/bom"),
        ("\\ud83d\\ude00", "😀"),
        ("\\uffff\\u202e", "\u{ffff}\u{202e}"),
        ("", ""),
        (" ", " "),
        ("é", "é"),
        ("e\\u0301", "e\u{301}"),
        ("a&b=c%00#?/../", "a&b=c%00#?/../"),
    ] {
        let event = format!("{{\"url\": \"{text}\", \"ts\": -1, \"bytes\": 5}}");
        house.mixed(CLICKS, JSON, event, 1, &[]).await;
        house.clicked(url, 1, 5);
    }
    house.close().await;
}

#[tokio::test]
async fn a_body_that_is_none_is_refused_whole() {
    let mut house = House::open();
    for form in [JSON, LINES, AVRO] {
        house.post(CLICKS, form, "").await.refuses(400, "empty");
        house.good_click().await;
    }
    house.mixed(CLICKS, JSON, " [ \n ] ", 0, &[]).await;
    house.mixed(CLICKS, LINES, "\n \n\r\n", 0, &[]).await;
    for (body, says) in [
        ("   ", "not JSON"),
        ("[{\"url\": \"/a\", \"ts\": 1}", "not JSON"),
        ("[{\"url\": \"/a\", \"ts\": 1},]", "not JSON"),
        ("[{\"url\": \"/a\", \"ts\": 1}] []", "not JSON"),
        ("{\"url\": \"/a\", \"ts\": 1}\n{\"url\": \"/b\", \"ts\": 1}", "not JSON"),
        ("[1, 2", "not JSON"),
        ("[\u{feff}]", "not JSON"),
    ] {
        house.no_events(CLICKS, JSON, body, says).await;
        house.good_click().await;
    }
    house.no_events(CLICKS, JSON, *b"[\"\xff\"", "not JSON").await;

    let request = |house: &House| house.process.http.post(house.events_url(CLICKS)).body(click("/never", 1));
    for form in ["text/plain", "application/xml", "", "application/json2", "json", "a/b; c=\"", "*/*"] {
        house.send(request(&house).header("content-type", form)).await.refuses(415, "application/json");
    }
    house.send(request(&house)).await.refuses(415, "no content type");
    house.send(request(&house).header("content-type", "application/json; charset=latin1")).await.refuses(415, "utf-8");
    let packed = |encoding: &str| request(&house).header("content-type", JSON).header("content-encoding", encoding);
    for encoding in ["gzip", "br", "zstd", "deflate", "gzip, gzip", "x"] {
        house.send(packed(encoding)).await.refuses(415, "compressed");
    }
    let fine = request(&house).header("content-type", "Application/JSON; Charset=\"utf-8\"");
    let answer = house.send(fine).await;
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &1.into()), "{}", answer.body);
    house.accepted(CLICKS, 1);
    house.clicked("/never", 1, 1);

    // Bytes that are packed, and do not say so.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, click("/never", 1).as_bytes()).expect("packed");
    house.no_events(CLICKS, JSON, gzip.finish().expect("packed"), "not JSON").await;
    for topic in ["nothing", "clicks.dead-letters", "CLICKS", "..", "%2e%2e%2fclicks", "clicks%00", "%ff", "é"] {
        let url = format!("{}/v1/topics/{topic}/events", house.process.url);
        let answer = house.send(house.process.http.post(url).header("content-type", JSON).body("{}")).await;
        answer.refuses(404, "there is no");
    }
    let asked = format!("{}?sync=false", house.events_url(CLICKS));
    house.send(house.process.http.post(asked).header("content-type", JSON).body("{}")).await.refuses(400, "sync");
    house.close().await;
}

/// A key that the view store could not hold must not keep the view from following.
#[tokio::test]
async fn keys_of_any_length_do_not_hold_up_a_view() {
    let mut house = House::open();
    for length in [1_000, 56_000, 57_340, 60_000, 64_000, 65_000, 65_535, 65_536, 100_000, 1_000_000, 10_000_000] {
        let url = "k".repeat(length);
        let event = click(&url, 7);
        let answer = house.post(CLICKS, JSON, event.clone()).await;
        assert_eq!(answer.status, 200, "{length}: {}", answer.body);
        let answer = answer.json();
        match answer["rejected"][0]["error"].as_str() {
            None => {
                house.accepted(CLICKS, 1);
                // One of this length is taken and counted, or it is refused.
                house.clicked(&url, 1, 7);
            }
            Some(reason) => {
                assert!(length > 57_000 && reason.contains("url"), "{length}: {reason}");
                house.letter(CLICKS, event.into_bytes(), "url");
            }
        }
        house.good_click().await;
    }
    house.close().await;
}
