//! Objects of the archive: what goes in comes out, and what is not what was written is found.

use std::path::PathBuf;
use std::sync::Arc;

use apache_avro::types::Value;
use bytes::Bytes;
use event_log::archive::{Archive, ArchivedSegment, Layout, OpenSegment};
use event_log::durable_files::DurableFiles;
use event_log::{Content, LogError, Record};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use views::{Segment, TopicPartition};

use crate::clicks::{CLICK, Schemas, append_time, click, clicks, framed, records};

struct Case {
    objects: Arc<dyn ObjectStore>,
    archive: Archive,
    partition: TopicPartition,
}

/// Where an archive is. Every test of what goes in and comes out runs on all of these.
#[derive(Debug, Clone, Copy)]
enum On {
    Memory,
    S3,
    /// Every object is put in parts.
    S3InParts,
}

macro_rules! on_every_store {
    ($($test:ident)*) => {
        mod in_memory {
            $(#[tokio::test] async fn $test() { super::$test(super::On::Memory).await })*
        }
        mod on_s3 {
            $(#[tokio::test] async fn $test() { super::$test(super::On::S3).await })*
        }
        mod on_s3_in_parts {
            $(#[tokio::test] async fn $test() { super::$test(super::On::S3InParts).await })*
        }
    };
}

on_every_store! {
    a_flat_segment_reads_back_exactly_and_is_named_by_its_offsets
    several_schemas_and_values_that_are_no_datum_are_framed
    a_late_odd_value_makes_the_same_object_as_an_early_knowledge_of_it
    records_are_read_from_any_offset_of_many_blocks
    empty_segments_and_segments_of_markers_are_whole_files
    holes_and_overlaps_are_named_and_strangers_are_passed_over
    every_flipped_byte_and_every_cut_is_detected_by_name
    a_damaged_object_hides_no_other_and_a_misplaced_one_is_noticed
    events_that_are_not_where_the_header_says_are_refused_however_they_are_read
    the_same_segment_twice_is_one_object_and_other_content_is_refused
    any_avro_reader_reads_a_flat_file
    whatever_was_written_is_read_back
    frozen_objects_are_read_and_written_as_ever
}

async fn case(on: On) -> Case {
    let objects: Arc<dyn ObjectStore> = match on {
        On::Memory => Arc::new(InMemory::new()),
        On::S3 | On::S3InParts => crate::s3::folder().await,
    };
    let mut archive = Archive::new(objects.clone(), "lake/tidemark");
    if matches!(on, On::S3InParts) {
        archive = archive.in_parts_above(0);
    }
    Case { objects, archive, partition: TopicPartition::new("clicks", 3) }
}

impl Case {
    async fn put(&self, start: u64, marker: u64, end: u64, records: &[Record]) -> ArchivedSegment {
        self.archive.put(&self.partition, Segment { start, marker }, end, records, &Schemas).await.unwrap()
    }

    async fn object(&self, segment: &ArchivedSegment) -> Bytes {
        self.objects.get(&self.archive.object_name(segment)).await.unwrap().bytes().await.unwrap()
    }

    async fn replace(&self, segment: &ArchivedSegment, object: impl Into<Bytes>) {
        self.objects.put(&self.archive.object_name(segment), object.into().into()).await.unwrap();
    }
}

fn marker(offset: u64, number: u64) -> Record {
    Record { offset, append_time: append_time(offset), content: Content::Marker(number) }
}

async fn a_flat_segment_reads_back_exactly_and_is_named_by_its_offsets(on: On) {
    let case = case(on).await;
    let mut written = records(100, clicks(1, 30));
    written.push(marker(130, 7));
    let segment = case.put(100, 6, 131, &written).await;
    let name = case.archive.object_name(&segment);
    assert_eq!(name.as_ref(), "lake/tidemark/clicks/00003/00000000000000000100-00000000000000000131.avro");
    assert_eq!(case.archive.read(&segment).await.unwrap(), written);

    let header = case.archive.header(&segment).await.unwrap();
    assert_eq!(header.layout, Layout::Flat { schema_id: 1 });
    assert_eq!((header.events, header.event_offsets), (30, Some((100, 129))));
    assert_eq!((header.marker_before, header.marker_after), (6, Some((7, append_time(130)))));
    assert_eq!(header.last_append_time, Some(append_time(130)));
}

async fn several_schemas_and_values_that_are_no_datum_are_framed(on: On) {
    let mut chance = StdRng::seed_from_u64(2);
    let good = click(&mut chance, 1);
    let Content::Event { value: whole, .. } = &good else { panic!("{good:?}") };
    let mut broken_text = whole.to_vec();
    let at = broken_text.windows(5).position(|window| window == b"/page").unwrap();
    broken_text[at] = 0xff;
    let odd: Vec<(&str, Content)> = vec![
        ("another schema", click(&mut chance, 2)),
        ("an unknown schema", Content::Event { key: None, value: framed(9, &whole[5..]) }),
        ("cut off", Content::Event { key: None, value: whole.slice(..whole.len() - 1) }),
        ("too long", Content::Event { key: None, value: [&whole[..], &[0]].concat().into() }),
        ("not UTF-8", Content::Event { key: None, value: broken_text.into() }),
        ("not framed", Content::Event { key: None, value: Bytes::from_static(b"{}") }),
        ("empty", Content::Event { key: Some(Bytes::new()), value: Bytes::new() }),
        ("a count without end", Content::Event { key: None, value: framed(1, &[0xff; 40]) }),
    ];
    for (what, odd) in odd {
        for place in [0, 1, 5] {
            let case = case(on).await;
            let mut contents = clicks(3, 5);
            contents.insert(place, odd.clone());
            let written = records(0, contents);
            let segment = case.put(0, 0, 6, &written).await;
            assert_eq!(case.archive.header(&segment).await.unwrap().layout, Layout::Framed, "{what} at {place}");
            assert_eq!(case.archive.read(&segment).await.unwrap(), written, "{what} at {place}");
        }
    }
}

async fn a_late_odd_value_makes_the_same_object_as_an_early_knowledge_of_it(on: On) {
    // Several blocks are laid flat before the odd value comes; the object must not depend on that.
    let case = case(on).await;
    let mut contents = clicks(4, 60_000);
    contents.push(Content::Event { key: None, value: Bytes::from_static(b"odd") });
    let segment = case.put(0, 0, 60_001, &records(0, contents.clone())).await;
    let late = case.object(&segment).await;

    struct NoSchemas;
    #[async_trait::async_trait]
    impl event_log::registry::SchemaRegistry for NoSchemas {
        async fn register(&self, subject: &str, _: &str) -> event_log::error::Result<u32> {
            Err(LogError::NotFound(subject.to_owned()))
        }
        async fn schema(&self, id: u32) -> event_log::error::Result<Arc<str>> {
            Err(LogError::NotFound(id.to_string()))
        }
    }
    let other = Archive::new(Arc::new(InMemory::new()), "");
    let written = records(0, contents);
    let same = other.put(&case.partition, Segment::FIRST, 60_001, &written, &NoSchemas).await.unwrap();
    assert_eq!(other.open(&same).await.unwrap().object(), &late);
    assert_eq!(case.archive.read(&segment).await.unwrap(), written);
}

async fn records_are_read_from_any_offset_of_many_blocks(on: On) {
    let case = case(on).await;
    let mut written = records(10, clicks(5, 50_000));
    written.retain(|record| record.offset % 7 != 0);
    written.push(marker(60_000, 1));
    let segment = case.put(10, 0, 60_001, &written).await;
    let open = case.archive.open(&segment).await.unwrap();
    for from in [0, 10, 11, 14, 20_000, 35_001, 49_999, 50_009, 50_010, 60_000, 60_001, 70_000] {
        let read: Vec<Record> = open.records(from).unwrap().collect::<Result<_, _>>().unwrap();
        let expected = &written[written.partition_point(|record| record.offset < from)..];
        assert!(read == expected, "from {from}: {} records, expected {}", read.len(), expected.len());
    }
}

async fn empty_segments_and_segments_of_markers_are_whole_files(on: On) {
    let case = case(on).await;
    let empty = case.put(0, 0, 10, &[]).await;
    let markers = case.put(10, 4, 13, &[marker(10, 2), marker(11, 4), marker(12, 5)]).await;
    assert_eq!(case.archive.list(&case.partition).await.unwrap(), [empty.clone(), markers.clone()]);
    assert_eq!(case.archive.read(&empty).await.unwrap(), []);
    // Markers that cut nothing are not kept.
    assert_eq!(case.archive.read(&markers).await.unwrap(), [marker(12, 5)]);
    let avro: Vec<Value> =
        apache_avro::Reader::new(&case.object(&empty).await[..]).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(avro, []);
}

async fn holes_and_overlaps_are_named_and_strangers_are_passed_over(on: On) {
    let case = case(on).await;
    case.put(0, 0, 10, &[]).await;
    let later = case.put(20, 0, 30, &[]).await;
    case.objects.put(&"lake/tidemark/clicks/00003/README".into(), "hello".into()).await.unwrap();
    let Err(LogError::Hole(hole)) = case.archive.list(&case.partition).await else { panic!("no hole") };
    assert!(hole.contains("10 to 19") && hole.contains("clicks/3"), "{hole}");
    assert!(hole.contains(case.archive.object_name(&later).as_ref()), "{hole}");

    case.put(10, 0, 20, &[]).await;
    let whole = case.archive.list(&case.partition).await.unwrap();
    assert_eq!(whole.iter().map(|it| (it.start, it.end)).collect::<Vec<_>>(), [(0, 10), (10, 20), (20, 30)]);

    let within = case.put(15, 0, 18, &[]).await;
    let Err(LogError::Damaged(overlap)) = case.archive.list(&case.partition).await else { panic!("no overlap") };
    assert!(overlap.contains(case.archive.object_name(&within).as_ref()), "{overlap}");

    // Without its beginning, a partition has a hole at offset 0.
    let other = TopicPartition::new("clicks", 4);
    case.archive.put(&other, Segment { start: 5, marker: 0 }, 9, &[], &Schemas).await.unwrap();
    let Err(LogError::Hole(hole)) = case.archive.list(&other).await else { panic!("no hole") };
    assert!(hole.contains("0 to 4"), "{hole}");
}

async fn every_flipped_byte_and_every_cut_is_detected_by_name(on: On) {
    for id in [1, 2] {
        let case = case(on).await;
        let mut chance = StdRng::seed_from_u64(6);
        let mut contents = vec![click(&mut chance, 1), click(&mut chance, id), click(&mut chance, 1)];
        contents.push(Content::Marker(3));
        let segment = case.put(0, 0, 4, &records(0, contents)).await;
        let name = case.archive.object_name(&segment).to_string();
        let whole = case.object(&segment).await;
        assert!(OpenSegment::open(whole.clone(), &name).is_ok());
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] ^= flip;
                match OpenSegment::open(bytes.into(), &name) {
                    Err(LogError::Damaged(message)) => assert!(message.contains(&name), "{message}"),
                    other => panic!("byte {at} xor {flip:#x}: {other:?}"),
                }
            }
            let cut = OpenSegment::open(whole.slice(..at), &name);
            assert!(matches!(cut, Err(LogError::Damaged(_))), "cut at {at}: {cut:?}");
        }
    }
}

async fn a_damaged_object_hides_no_other_and_a_misplaced_one_is_noticed(on: On) {
    let case = case(on).await;
    let first = case.put(0, 0, 10, &records(0, clicks(7, 10))).await;
    let second = case.put(10, 0, 20, &records(10, clicks(8, 10))).await;
    let third = case.put(20, 0, 30, &records(20, clicks(9, 10))).await;
    let mut damaged = case.object(&second).await.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    case.replace(&second, damaged).await;
    assert_eq!(case.archive.list(&case.partition).await.unwrap().len(), 3);
    assert_eq!(case.archive.read(&first).await.unwrap().len(), 10);
    assert_eq!(case.archive.read(&third).await.unwrap().len(), 10);
    let Err(LogError::Damaged(message)) = case.archive.read(&second).await else { panic!("not detected") };
    assert!(message.contains(case.archive.object_name(&second).as_ref()), "{message}");

    let other = case.object(&first).await;
    case.replace(&second, other).await;
    let Err(LogError::Damaged(message)) = case.archive.read(&second).await else { panic!("not detected") };
    assert!(message.contains("clicks/3@0..10"), "{message}");
    assert!(matches!(case.archive.header(&second).await, Err(LogError::Damaged(_))));
}

/// The header of an object with another value, of the same length, and a checksum that agrees.
fn reworded(object: &[u8], name: &str, from: &str, to: &str) -> Vec<u8> {
    let place = |text: &str| object.windows(text.len()).position(|bytes| bytes == text.as_bytes()).expect("an entry");
    let mut forged = object.to_vec();
    let value = place(name) + name.len() + 1;
    assert_eq!(&forged[value..value + from.len()], from.as_bytes());
    forged[value..value + to.len()].copy_from_slice(to.as_bytes());
    let checksum = "tidemark.header_crc32";
    let crc = crc32fast::hash(&forged[..place(checksum) - 1]);
    let value = place(checksum) + checksum.len() + 1;
    forged[value..value + 8].copy_from_slice(format!("{crc:08x}").as_bytes());
    forged
}

async fn events_that_are_not_where_the_header_says_are_refused_however_they_are_read(on: On) {
    let case = case(on).await;
    let segment = case.put(100, 0, 120, &records(100, clicks(7, 10))).await;
    let object = case.object(&segment).await;
    let source = crate::archive_scan::source(CLICK);
    for (name, from, to, expected) in [
        ("tidemark.first_offset", "100", "101", "it has an event at offset 100 out of place"),
        ("tidemark.last_offset", "109", "108", "its last event is at Some(109) and its header says Some(108)"),
    ] {
        case.replace(&segment, reworded(&object, name, from, to)).await;
        let read = case.archive.read(&segment).await.map(drop);
        let mut scan = case.archive.scan(&segment, &source, &[0], &Schemas).await.expect("checksums that agree");
        let scanned = scan.by_ref().collect::<Result<Vec<_>, _>>().map(drop);
        for outcome in [read, scanned] {
            let Err(LogError::Damaged(message)) = outcome else { panic!("{name}: {outcome:?}") };
            assert!(message.ends_with(expected), "{message}");
        }
    }
}

async fn the_same_segment_twice_is_one_object_and_other_content_is_refused(on: On) {
    let case = case(on).await;
    let written = records(0, clicks(10, 20));
    let put = || case.archive.put(&case.partition, Segment::FIRST, 20, &written, &Schemas);
    let (one, two, three) = tokio::join!(put(), put(), put());
    assert_eq!(one.unwrap(), two.unwrap());
    let segment = three.unwrap();
    let before = case.object(&segment).await;
    let stored: Vec<_> = case.objects.list(None).try_collect().await.unwrap();
    assert_eq!(stored.len(), 1);

    let other = records(0, clicks(11, 20));
    let refused = case.archive.put(&case.partition, Segment::FIRST, 20, &other, &Schemas).await;
    let Err(LogError::Damaged(message)) = refused else { panic!("{refused:?}") };
    assert!(message.contains("other content") && message.contains("offset 0"), "{message}");
    assert_eq!(case.object(&segment).await, before);

    // What is there but not whole is no success either.
    case.replace(&segment, before.slice(..before.len() - 3)).await;
    assert!(matches!(put().await, Err(LogError::Damaged(_))));
}

async fn any_avro_reader_reads_a_flat_file(on: On) {
    let case = case(on).await;
    let contents = clicks(12, 500);
    let written = records(40, contents);
    let segment = case.put(40, 0, 540, &written).await;
    let object = case.object(&segment).await;
    let schema = apache_avro::Schema::parse_str(crate::clicks::CLICK).unwrap();
    let mut rows = 0;
    for (row, record) in apache_avro::Reader::new(&object[..]).unwrap().zip(&written) {
        let Value::Record(fields) = row.unwrap() else { panic!("not a record") };
        let Content::Event { key, value } = &record.content else { panic!("not an event") };
        let datum = &value[5..];
        let expected_key = match key {
            Some(key) => Value::Union(1, Box::new(Value::Bytes(key.to_vec()))),
            None => Value::Union(0, Box::new(Value::Null)),
        };
        let system = [
            ("_offset".to_owned(), Value::Long(record.offset as i64)),
            ("_append_time".to_owned(), Value::TimestampMicros(record.append_time)),
            ("_key".to_owned(), expected_key),
            ("_size".to_owned(), Value::Int(datum.len() as i32)),
        ];
        assert_eq!(fields[..4], system);
        let mut rest = datum;
        let own = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
        assert_eq!(Value::Record(fields[4..].to_vec()), own.read_value(&mut rest).unwrap());
        rows += 1;
    }
    assert_eq!(rows, 500);
}

async fn whatever_was_written_is_read_back(on: On) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    for _ in 0..60 {
        let case = case(on).await;
        let (start, count) = (chance.random_range(0..1000), chance.random_range(0..300));
        let odd = chance.random_bool(0.3);
        let mut written = Vec::new();
        let mut offset = start;
        for _ in 0..count {
            offset += u64::from(chance.random_bool(0.1)) * chance.random_range(0..5);
            let content = match chance.random_range(0..20) {
                0 if odd => click(&mut chance, 2),
                1 if odd => {
                    let bytes: Vec<u8> = (0..chance.random_range(0..40)).map(|_| chance.random()).collect();
                    Content::Event { key: Some(bytes.clone().into()), value: bytes.into() }
                }
                _ => click(&mut chance, 1),
            };
            written.push(Record { offset, append_time: chance.random(), content });
            offset += 1;
        }
        let segment = case.put(start, 0, offset + 1, &written).await;
        assert_eq!(case.archive.read(&segment).await.unwrap(), written, "seed {seed}");
    }
}

/// The objects of this version of the format. They stay readable for ever; another format gets another folder.
async fn frozen_objects_are_read_and_written_as_ever(on: On) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/frozen/archive-v1");
    for (file, odd) in [("flat.avro", None), ("framed.avro", Some(2))] {
        let case = case(on).await;
        let fixed = |id, url: &str, user: Option<&str>| {
            let mut datum = Vec::new();
            let text = |out: &mut Vec<u8>, text: &str| {
                out.push(text.len() as u8 * 2);
                out.extend_from_slice(text.as_bytes());
            };
            if id == 2 {
                text(&mut datum, url);
            }
            datum.extend_from_slice(&[0x80, 0x89, 0x7a]);
            if id == 1 {
                text(&mut datum, url);
                datum.push(if user.is_some() { 2 } else { 0 });
                user.iter().for_each(|user| text(&mut datum, user));
            }
            datum.extend_from_slice(&[0x90, 0x03, 0x02, 0x02, 0x04, b'h', b'i', 0x00]);
            if id == 1 {
                datum.extend_from_slice(&[0x00, 0x02, 0x04]);
            }
            Content::Event { key: user.map(|user| user.to_owned().into()), value: framed(id, &datum) }
        };
        let mut contents = vec![fixed(1, "/a", Some("ann")), fixed(1, "/ü", None)];
        contents.extend(odd.map(|id| fixed(id, "/old", None)));
        contents.push(Content::Marker(8));
        let end = 1000 + contents.len() as u64;
        let written = records(1000, contents);
        let segment = case.put(1000, 5, end, &written).await;
        assert_eq!(matches!(case.archive.header(&segment).await.unwrap().layout, Layout::Framed), odd.is_some());
        let object = case.object(&segment).await;
        if std::env::var_os("TIDEMARK_FREEZE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(file), &object).unwrap();
        }
        let frozen = Bytes::from(std::fs::read(folder.join(file)).unwrap());
        case.replace(&segment, frozen.clone()).await;
        assert_eq!(case.archive.read(&segment).await.unwrap(), written, "{file}");
        assert!(frozen == object, "{file}: the archive writes other bytes than it did");
    }
}

#[tokio::test]
async fn the_archive_in_a_local_directory_puts_once_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Arc::new(DurableFiles::open(folder.path().join("not/yet/there")).unwrap());
    let archive = Archive::new(objects.clone(), "archive");
    let partition = TopicPartition::new("clicks", 0);
    assert_eq!(archive.list(&partition).await.unwrap(), []);
    let written = records(0, clicks(13, 20));
    let put = || archive.put(&partition, Segment::FIRST, 20, &written, &Schemas);
    let (one, two) = tokio::join!(put(), put());
    let segment = one.unwrap();
    assert_eq!(two.unwrap(), segment);
    // What a put that died left behind is no segment.
    let left =
        folder.path().join("not/yet/there/archive/clicks/00000/00000000000000000020-00000000000000000040.avro#1");
    std::fs::write(left, "half").unwrap();
    assert_eq!(archive.list(&partition).await.unwrap(), std::slice::from_ref(&segment));
    assert_eq!(archive.read(&segment).await.unwrap(), written);
}
