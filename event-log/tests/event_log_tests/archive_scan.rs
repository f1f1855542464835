//! Archived segments as Arrow batches: the same events and the same rejections as decoding the records.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray};
use arrow::compute::concat_batches;
use bytes::Bytes;
use event_log::archive::{Archive, Layout};
use event_log::decode::EventDecoder;
use event_log::encode::EventEncoder;
use event_log::registry::SchemaRegistry;
use event_log::{Content, LogError, Record};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use views::{Segment, Source, TopicPartition};

use crate::clicks::{CLICK, OLD_CLICK, Schemas, click, clicks, framed, records};

pub fn source(avro: &str) -> Arc<Source> {
    Arc::new(Source {
        name: "clicks".into(),
        avro: avro.into(),
        schema: views::avro::source_schema(avro).unwrap(),
        key: Some("user".to_owned()),
        event_time: None,
        event_id: None,
        dedupe_window: Duration::ZERO,
        partitions: 8,
        segment_records: 1 << 20,
        retention: Duration::ZERO,
        statement: String::new(),
        defined_at: "test:1".to_owned(),
    })
}

struct Case {
    archive: Archive,
    partition: TopicPartition,
}

fn case() -> Case {
    Case { archive: Archive::new(Arc::new(InMemory::new()), ""), partition: TopicPartition::new("clicks", 5) }
}

impl Case {
    /// Archives the records, scans them, and compares with what the decoder makes of them. Returns the layout.
    async fn compare(&self, written: &[Record], source: &Arc<Source>, columns: &[usize], what: &str) -> Layout {
        let start = written.first().map_or(0, |record| record.offset);
        let end = written.last().map_or(1, |record| record.offset + 1);
        let segment = Segment { start, marker: 0 };
        let segment = self.archive.put(&self.partition, segment, end, written, &Schemas).await.unwrap();
        let mut scan = self.archive.scan(&segment, source, columns, &Schemas).await.unwrap();
        let schema = scan.schema().clone();
        let batches: Vec<RecordBatch> = scan.by_ref().collect::<Result<_, _>>().unwrap();
        let scanned = concat_rows(&schema, &batches);

        let mut decoder = EventDecoder::new(source, columns, Arc::new(Schemas)).unwrap();
        let decoded = decoder.decode(&self.partition, written).await.unwrap();
        assert!(scanned == decoded.events, "{what}: columns {columns:?}\n{scanned:?}\n{:?}", decoded.events);
        assert_eq!(scan.rejected(), decoded.rejected, "{what}: columns {columns:?}");
        scan.header().layout
    }
}

/// Batches one after another; they may have no columns.
fn concat_rows(schema: &arrow::datatypes::SchemaRef, batches: &[RecordBatch]) -> RecordBatch {
    if schema.fields().is_empty() {
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        return RecordBatch::try_new_with_options(schema.clone(), Vec::new(), &options).unwrap();
    }
    concat_batches(schema, batches).unwrap()
}

#[tokio::test]
async fn a_scan_equals_the_decoded_records() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    for round in 0..40 {
        let source = source(if chance.random_bool(0.7) { CLICK } else { OLD_CLICK });
        let old = if chance.random_bool(0.5) { 0.0 } else { 0.2 };
        let all_old = chance.random_bool(0.2);
        let odd = if chance.random_bool(0.7) { 0.0 } else { 0.1 };
        let count = chance.random_range(1..400);
        let contents = (0..count).map(|_| {
            if chance.random_bool(odd) {
                let bytes: Vec<u8> = (0..chance.random_range(0..30)).map(|_| chance.random()).collect();
                return Content::Event { key: Some(bytes.clone().into()), value: framed(1, &bytes) };
            }
            let id = if all_old || chance.random_bool(old) { 2 } else { 1 };
            click(&mut chance, id)
        });
        let contents: Vec<Content> = contents.collect();
        let mut written = records(chance.random_range(0..1000), contents);
        written.retain(|_| !chance.random_bool(0.05));
        let columns: Vec<usize> = (0..source.schema.fields().len()).filter(|_| chance.random_bool(0.5)).collect();
        case().compare(&written, &source, &columns, &format!("seed {seed}, round {round}")).await;
    }
}

#[tokio::test]
async fn a_large_segment_is_scanned_in_batches_of_every_single_column_and_of_none() {
    let written = records(77, clicks(1, 20_000));
    let source = source(CLICK);
    let mut choices: Vec<Vec<usize>> = (0..source.schema.fields().len()).map(|column| vec![column]).collect();
    choices.extend([vec![], (0..source.schema.fields().len()).collect()]);
    for columns in choices {
        let layout = case().compare(&written, &source, &columns, "large").await;
        assert_eq!(layout, Layout::Flat { schema_id: 1 });
    }
}

#[tokio::test]
async fn events_of_another_writer_and_keys_of_any_bytes_are_read_as_the_source() {
    let mut chance = StdRng::seed_from_u64(3);
    let source = source(CLICK);
    let all: Vec<usize> = (0..source.schema.fields().len()).collect();
    let old: Vec<Content> = (0..50).map(|_| click(&mut chance, 2)).collect();
    let layout = case().compare(&records(0, old), &source, &all, "an older schema").await;
    assert_eq!(layout, Layout::Flat { schema_id: 2 });

    let mut keyed = clicks(4, 3);
    for (content, bytes) in keyed.iter_mut().zip([&b"\xff\xfe"[..], b"", "ключ".as_bytes()]) {
        let Content::Event { key, .. } = content else { panic!("not an event") };
        *key = Some(Bytes::copy_from_slice(bytes));
    }
    let case = case();
    let written = records(0, keyed);
    let layout = case.compare(&written, &source, &all, "keys").await;
    assert_eq!(layout, Layout::Flat { schema_id: 1 });
    let segment = &case.archive.list(&case.partition).await.unwrap()[0];
    assert_eq!(case.archive.read(segment).await.unwrap(), written);
    let batch = case.archive.scan(segment, &source, &[all.len() - 1], &Schemas).await.unwrap().next().unwrap().unwrap();
    let keys: &StringArray = batch.column(0).as_any().downcast_ref().unwrap();
    assert_eq!((keys.value(0), keys.value(1), keys.value(2)), ("\u{fffd}\u{fffd}", "", "ключ"));
}

#[tokio::test]
async fn a_damaged_object_is_no_scan() {
    let objects = Arc::new(InMemory::new());
    let archive = Archive::new(objects.clone(), "");
    let partition = TopicPartition::new("clicks", 0);
    let segment = archive.put(&partition, Segment::FIRST, 50, &records(0, clicks(5, 50)), &Schemas).await.unwrap();
    let name = archive.object_name(&segment);
    let mut bytes = objects.get(&name).await.unwrap().bytes().await.unwrap().to_vec();
    let at = bytes.len() - 40;
    bytes[at] ^= 2;
    objects.put(&name, bytes.into()).await.unwrap();
    match archive.scan(&segment, &source(CLICK), &[0], &Schemas).await {
        Err(LogError::Damaged(message)) => assert!(message.contains(name.as_ref()), "{message}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not detected"),
    }
}

#[tokio::test]
async fn click_events_take_less_than_a_sixth_of_their_json() {
    let mut chance = StdRng::seed_from_u64(11);
    let avro = r#"{"type": "record", "name": "PageEvent", "fields": [
        {"name": "id", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "session_id", "type": "string"},
        {"name": "user_id", "type": ["null", "string"], "default": null},
        {"name": "method", "type": "string"},
        {"name": "url", "type": "string"},
        {"name": "status", "type": "int"},
        {"name": "bytes", "type": "long"},
        {"name": "duration_ms", "type": "int"},
        {"name": "ip", "type": "string"},
        {"name": "user_agent", "type": "string"},
        {"name": "referrer", "type": ["null", "string"], "default": null},
        {"name": "country", "type": ["null", "string"], "default": null}
    ]}"#;
    let source = Arc::new(Source { key: Some("user_id".to_owned()), ..(*source(avro)).clone() });
    let encoder = EventEncoder::new(&source, 7).unwrap();
    struct OneSchema(&'static str);
    #[async_trait::async_trait]
    impl SchemaRegistry for OneSchema {
        async fn register(&self, subject: &str, _: &str) -> event_log::error::Result<u32> {
            Err(LogError::Invalid(subject.to_owned()))
        }
        async fn schema(&self, _: u32) -> event_log::error::Result<Arc<str>> {
            Ok(self.0.into())
        }
    }
    let mut json_bytes = 0;
    let mut contents = Vec::new();
    // Few visitors and pages make most of the traffic.
    let skewed = |chance: &mut StdRng, count: f64| (count * chance.random::<f64>().powi(4)) as u64;
    for event in 0..20_000_u64 {
        let user = skewed(&mut chance, 5000.0);
        let session = (user << 16 | event >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let json = serde_json::json!({
            "id": format!("{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}", chance.random::<u32>(), chance.random::<u16>(),
                chance.random::<u16>() >> 4, chance.random::<u16>() >> 4, chance.random::<u64>() >> 16),
            "ts": format!("2026-11-20T10:{:02}:{:02}.{:06}Z", event / 6000, event / 100 % 60, chance.random_range(0..1_000_000)),
            "session_id": format!("s-{session:016x}"),
            "user_id": format!("user-{user}"),
            "method": "GET",
            "url": format!("/products/category-{}/item-{}?from=search", user % 12, skewed(&mut chance, 2000.0)),
            "status": if chance.random_bool(0.97) { 200 } else { 404 },
            "bytes": chance.random_range(500..60_000),
            "duration_ms": chance.random_range(1..400),
            "ip": format!("10.{}.{}.{}", user % 7, user % 251, user % 239),
            "user_agent": format!("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36", 100 + user % 30),
            "referrer": format!("https://shop.example/products/category-{}", user % 12),
            "country": (["DE", "FR", "US", "JP"][user as usize % 4]),
        });
        let line = json.to_string();
        json_bytes += line.len() + 1;
        let encoded = encoder.json(line.as_bytes()).unwrap();
        contents.push(Content::Event { key: encoded.key, value: encoded.value });
    }
    let case = case();
    let written = records(0, contents);
    let segment = case.archive.put(&case.partition, Segment::FIRST, 20_000, &written, &OneSchema(avro)).await.unwrap();
    let ratio = segment.bytes as f64 / json_bytes as f64;
    println!("{} bytes for {json_bytes} bytes of JSON: {ratio:.3}", segment.bytes);
    assert!(ratio <= 0.15, "{ratio}");
}
