//! The bytes on disk do not change by accident.

use view_store::StoreError;
use view_store::embedded::bytes;
use view_store::embedded::records::{Record, ViewRecord, WrittenRecord};
use view_store::store::Progress;
use views::Segment;
use views::view::Fingerprint;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn keys_and_values_are_frozen() {
    let group = bytes::group_key(b"group").expect("a key");
    assert_eq!(hex(&group), "0167726f7570");
    let delta = bytes::delta_key(b"group", 7, 0x0102).expect("a key");
    assert_eq!(hex(&delta), "0167726f7570000000070000000000000102");
    assert_eq!(bytes::split_delta_key(&delta).expect("a key"), (b"group".as_slice(), 7, 0x0102));
    assert_eq!(hex(&bytes::seal(&group, b"state")), FROZEN_ROW);
    assert_eq!(hex(&bytes::seal_delta(&delta, 0x0203, b"state", &mut Vec::new())), FROZEN_DELTA);
    // How LZ4 packs may change; what it packed once must stay readable.
    assert_eq!(&*bytes::open(&group, &FROZEN_PACKED).expect("a body"), &[0; 300]);
    let packed = bytes::seal(&group, &[0; 300]);
    assert!(packed.len() < 50 && packed[0] == 0x11);
    assert_eq!(&*bytes::open(&group, &packed).expect("a body"), &[0; 300]);
}

#[test]
fn records_are_frozen() {
    let view =
        ViewRecord { name: "page views".into(), fingerprint: Fingerprint("00ff".into()), topic: "clicks".into() };
    let written = WrittenRecord { keyspace: "g.1.2.3".into(), rows: 4 };
    let progress = Progress { offset: 5, segment: Segment { start: 3, marker: 1 } };
    let records = [
        Record::View(1, view),
        Record::Progress(1, 2, progress),
        Record::Deltas(1, 3, 2),
        Record::Written(1, 2, written),
        Record::Start,
    ];
    for (record, (key, value)) in records.iter().zip(FROZEN_RECORDS) {
        let (found_key, found_value) = (record.key(), record.value().expect("a value"));
        assert_eq!((hex(&found_key).as_str(), hex(&found_value).as_str()), (key, value));
        assert_eq!(Record::parse(&found_key, &found_value).expect("a record"), *record);
    }
}

#[test]
fn every_flipped_bit_of_a_value_is_found() {
    let key = bytes::group_key(b"group").expect("a key");
    for body in [b"state".to_vec(), vec![7; 1000]] {
        let value = bytes::seal(&key, &body);
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(bytes::open(&key, &flipped), Err(StoreError::Damaged(_))), "bit {bit}");
        }
        assert!(bytes::open(b"\x01another", &value).is_err(), "under another key");
        assert!(bytes::open(&key, &value[..value.len() - 1]).is_err(), "cut short");
    }
}

#[test]
fn a_group_that_is_too_long_is_refused() {
    let longest = vec![0xff; bytes::MAX_GROUP];
    assert!(bytes::delta_key(&longest, 0, 0).is_ok());
    assert!(matches!(bytes::group_key(&[longest, vec![0]].concat()), Err(StoreError::Invalid(_))));
}

const FROZEN_ROW: &str = "10c97a46867374617465";
const FROZEN_DELTA: &str = "105fdcb0a000000000000002037374617465";
const FROZEN_PACKED: [u8; 22] = [
    0x11, 0x58, 0x26, 0xa8, 0x93, 0x2c, 0x01, 0x00, 0x00, 0x1f, 0x00, 0x01, 0x00, 0xff, 0x13, 0x60, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00,
];
const FROZEN_RECORDS: [(&str, &str); 5] = [
    (
        "760000000000000001",
        "104d890fdc7b226e616d65223a2270616765207669657773222c2266696e6765727072696e74223a2230306666222c22746f706963223a22636c69636b73227d",
    ),
    ("70000000000000000100000002", "10e4201eed000000000000000500000000000000030000000000000001"),
    ("640000000000000001000000000000000300000002", "10da724382"),
    ("7700000000000000010000000000000002", "104150e8d97b226b65797370616365223a22672e312e322e33222c22726f7773223a347d"),
    ("73", "10ae287c58"),
];
