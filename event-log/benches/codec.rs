//! What an event costs on its way in (JSON → Avro) and out (Avro → Arrow).

#![allow(missing_docs)] // criterion_group! makes a function that cannot be documented

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use event_log::decode::EventDecoder;
use event_log::encode::{EventEncoder, value_subject};
use event_log::registry::{EmbeddedRegistry, SchemaRegistry};
use event_log::{Content, Record};
use views::{Application, ApplicationFile, TopicPartition};

const EVENTS: u64 = 8192;

const SCHEMA: &str = r#"{"type": "record", "name": "Click", "fields": [
    {"name": "id", "type": "string"},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "user_id", "type": ["null", "string"], "default": null},
    {"name": "url", "type": "string"},
    {"name": "status", "type": "int", "default": 200},
    {"name": "bytes", "type": "long", "default": 0},
    {"name": "user_agent", "type": "string", "default": ""}]}"#;

const SQL: &str = "CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'user_id', event_time = 'ts');";

fn click(n: u64) -> String {
    let user = if n % 5 < 2 { "null".to_owned() } else { format!("\"user-{}\"", n * 7 % 5000) };
    format!(
        r#"{{"id":"{:032x}","ts":{},"user_id":{user},"url":"/products/{}","status":200,"bytes":{},"user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0"}}"#,
        u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
        1_767_225_600_000_000 + n * 2000,
        n * n * 31 % 400,
        n * 37 % 9000,
    )
}

fn codec(criterion: &mut Criterion) {
    let files = [("click.avsc", SCHEMA), ("views.sql", SQL)]
        .map(|(path, text)| ApplicationFile { path: path.to_owned(), text: text.to_owned() });
    let source = Application::compile(&files).expect("an application").sources[0].clone();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let registry = Arc::new(EmbeddedRegistry::open(folder.path()).expect("a registry"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let id = runtime.block_on(registry.register(&value_subject(&source.name), &source.avro)).expect("a schema id");
    let encoder = EventEncoder::new(&source, id).expect("an encoder");
    let lines: Vec<String> = (0..EVENTS).map(click).collect();

    let mut group = criterion.benchmark_group("event");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("JSON to Avro", |bench| {
        bench.iter(|| lines.iter().map(|line| encoder.json(line.as_bytes()).expect("good").value.len()).sum::<usize>());
    });

    let record = |(offset, line): (u64, &String)| {
        let event = encoder.json(line.as_bytes()).expect("good");
        Record { offset, append_time: 0, content: Content::Event { key: event.key, value: event.value } }
    };
    let records: Vec<Record> = (0..).zip(&lines).map(record).collect();
    let partition = TopicPartition::new("clicks", 0);
    for (name, columns) in
        [("Avro to Arrow, every field", vec![0, 1, 2, 3, 4, 5, 6]), ("Avro to Arrow, two fields", vec![1, 3])]
    {
        let mut decoder = EventDecoder::new(&source, &columns, registry.clone()).expect("a decoder");
        group.bench_function(name, |bench| {
            bench.iter(|| runtime.block_on(decoder.decode(&partition, &records)).expect("decoded").events.num_rows());
        });
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
