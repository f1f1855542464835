//! What a fold costs per event, and its states per group: the inner loops of both layers.

#![allow(missing_docs)] // criterion_group! makes a function that cannot be documented

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use views::stored::StateCodec;
use views::{Application, ApplicationFile, Fold, View};

const EVENTS: i64 = 8192;

const SCHEMA: &str = r#"{"type": "record", "name": "Click", "fields": [
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "user_id", "type": ["null", "string"], "default": null},
    {"name": "url", "type": "string"},
    {"name": "status", "type": "int"},
    {"name": "bytes", "type": "long"}]}"#;

const SQL: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts');
CREATE MATERIALIZED VIEW page_views WITH (key = 'url') AS
SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS views, approx_distinct(user_id) AS visitors,
       CAST(sum(bytes) AS DOUBLE) / count(*) AS mean_bytes
FROM clicks WHERE status < 400 GROUP BY url, minute;";

fn page_views() -> Arc<View> {
    let files = [("click.avsc", SCHEMA), ("views.sql", SQL)]
        .map(|(path, text)| ApplicationFile { path: path.to_owned(), text: text.to_owned() });
    Application::compile(&files).expect("an application").views[0].clone()
}

/// Events with some hundred pages over two minutes; the first pages are seen most.
fn events(view: &View) -> RecordBatch {
    let page = |n: i64| (n * n * 31 % 400) * (n % 7) / 7;
    let columns: Vec<Arc<dyn datafusion::arrow::array::Array>> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values((0..EVENTS).map(|n| n * 14_000)).with_timezone("+00:00")),
        Arc::new((0..EVENTS).map(|n| (n % 5 > 1).then(|| format!("user-{}", n * 7 % 5000))).collect::<StringArray>()),
        Arc::new(StringArray::from_iter_values((0..EVENTS).map(|n| format!("/products/{}", page(n))))),
        Arc::new(Int32Array::from_iter_values((0..EVENTS).map(|n| if n % 25 == 0 { 404 } else { 200 }))),
        Arc::new(Int64Array::from_iter_values((0..EVENTS).map(|n| n * 37 % 9000))),
    ];
    RecordBatch::try_new(view.input_schema.clone(), columns).expect("the view's input")
}

fn fold(criterion: &mut Criterion) {
    let view = page_views();
    let events = events(&view);
    let folded = || {
        let mut fold = Fold::new(&view).expect("a fold");
        fold.update(&events).expect("folded");
        fold
    };
    let mut group = criterion.benchmark_group("page_views");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("update, per event", |bench| bench.iter(|| black_box(folded().len())));

    let states = folded().take_states().expect("states");
    group.throughput(Throughput::Elements(states.num_rows() as u64));
    group.bench_function("merge, per group", |bench| {
        let merge = |mut fold: Fold| {
            fold.merge(&states).expect("merged");
            fold
        };
        bench.iter_batched(folded, merge, BatchSize::SmallInput);
    });
    let codec = StateCodec::new(&view).expect("a codec");
    group.bench_function("encode states, per group", |bench| {
        bench.iter(|| codec.encode(&states).expect("encoded").len())
    });
    let encoded = codec.encode(&states).expect("encoded");
    let rows = || (0..encoded.len()).map(|row| (encoded.group(row), encoded.state(row)));
    group.bench_function("decode states, per group", |bench| bench.iter(|| codec.decode(rows()).expect("decoded")));
    group.finish();
}

criterion_group!(benches, fold);
criterion_main!(benches);
