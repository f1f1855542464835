//! However events are chopped up, folded, merged and stored, the answer is what plain DataFusion gives over all of
//! them at once.

use std::sync::Arc;

use datafusion::arrow::array::*;
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;
use rand::prelude::*;
use rand::rngs::StdRng;
use views::stored::StateCodec;
use views::view::Exactness;
use views::{Fold, Source, View};

use crate::compile;

/// Aggregates of every kind; each becomes a view of its own, and all together one.
const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(bytes)",
    "count(DISTINCT user)",
    "count(DISTINCT bytes)",
    "sum(bytes)",
    "sum(DISTINCT bytes)",
    "sum(price)",
    "sum(ratio)",
    "avg(bytes)",
    "avg(ratio)",
    "avg(price)",
    "min(bytes)",
    "max(ratio)",
    "min(user)",
    "max(ts)",
    "min(price)",
    "max(day)",
    "min(ok)",
    "var(bytes)",
    "var_pop(ratio)",
    "stddev(bytes)",
    "stddev_pop(ratio)",
    "covar_samp(bytes, status)",
    "covar_pop(ratio, status)",
    "corr(ratio, status)",
    "bool_and(ok)",
    "bool_or(ok)",
    "bit_and(status)",
    "bit_or(bytes)",
    "bit_xor(status)",
    "regr_slope(ratio, status)",
    "first_value(user ORDER BY ts)",
    "last_value(user ORDER BY ts)",
    "first_value(bytes ORDER BY status DESC, ts)",
    "last_value(price ORDER BY bytes NULLS FIRST)",
    "first_value(user) IGNORE NULLS",
    "last_value(status)",
    "approx_distinct(user)",
    "approx_distinct(bytes)",
    "approx_distinct(status)",
    "median(bytes)",
    "median(ratio)",
    "array_agg(status ORDER BY ts)",
    "first_value(status ORDER BY ts, _offset)",
    "last_value(status ORDER BY _offset DESC)",
    "array_agg(user)",
    "array_agg(DISTINCT kind)",
    "string_agg(user, ',' ORDER BY ts)",
    "string_agg(kind, '-')",
    "string_agg(DISTINCT kind, '+')",
    "percentile_cont(0.25) WITHIN GROUP (ORDER BY bytes)",
    "count(*) FILTER (WHERE ok)",
    "sum(bytes) FILTER (WHERE status < 300)",
    "array_agg(bytes ORDER BY ts) FILTER (WHERE bytes > 3)",
    "approx_distinct(user) FILTER (WHERE status > 200)",
    "first_value(user ORDER BY ts DESC) FILTER (WHERE ok)",
    "sum(bytes) / count(*)",
    "round(avg(ratio), 3) + count(*)",
    "CASE WHEN count(*) > 2 THEN max(user) END",
    "count(DISTINCT length(user) % 2)",
    "array_length(array_agg(bytes))",
];

const KEYS: &[&str] = &[
    "url",
    "user",
    "status",
    "bytes",
    "price",
    "ok",
    "day",
    "kind",
    "raw",
    "ts",
    "url, kind",
    "user, ok, day",
    "date_bin(INTERVAL '10 seconds', ts)",
    "url, date_trunc('minute', ts)",
    "upper(url), status % 3",
    "tags",
];

struct Generated {
    events: RecordBatch,
}

/// Random events in the source's schema: few keys, nulls, odd strings, ties in time.
fn generate(random: &mut StdRng, source: &Source, rows: usize) -> Generated {
    let odd = ["a", "b", "Zürich", "日本", "", "a\u{0}b", "🏖", "é", "e\u{301}"];
    let maybe = |random: &mut StdRng| random.random_bool(0.8);
    let columns = source.schema.fields().iter().map(|field| -> ArrayRef {
        let r = &mut *random;
        match field.name().as_str() {
            "id" => Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("id{row}")))),
            "ts" => {
                let times = (0..rows).map(|_| 1_700_000_000_000_000 + r.random_range(0..60) * 1_000_000_i64);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00"))
            }
            "url" => Arc::new(StringArray::from_iter_values((0..rows).map(|_| *odd.choose(r).unwrap()))),
            "user" => Arc::new(StringArray::from_iter((0..rows).map(|_| maybe(r).then(|| *odd.choose(r).unwrap())))),
            "status" => Arc::new(Int32Array::from_iter_values((0..rows).map(|_| r.random_range(100..600)))),
            "bytes" => Arc::new(Int64Array::from_iter((0..rows).map(|_| maybe(r).then(|| r.random_range(-5..20))))),
            "ratio" => {
                Arc::new(Float64Array::from_iter((0..rows).map(|_| maybe(r).then(|| r.random_range(-1e6..1e6)))))
            }
            "price" => {
                let prices = (0..rows).map(|_| r.random_range(-1_000_000..1_000_000_i128));
                let array = Decimal128Array::from_iter_values(prices);
                Arc::new(array.with_precision_and_scale(20, 4).unwrap())
            }
            "ok" => Arc::new(BooleanArray::from_iter((0..rows).map(|_| maybe(r).then(|| r.random_bool(0.7))))),
            "day" => Arc::new(Date32Array::from_iter_values((0..rows).map(|_| r.random_range(19_000..19_004)))),
            "kind" => Arc::new(StringArray::from_iter_values((0..rows).map(|_| *["a", "b", "c"].choose(r).unwrap()))),
            "raw" => Arc::new(BinaryArray::from_iter_values((0..rows).map(|_| vec![0_u8; r.random_range(0..3)]))),
            "tags" => {
                let mut tags = ListBuilder::new(StringBuilder::new());
                if let DataType::List(item) = field.data_type() {
                    tags = tags.with_field(item.clone());
                }
                for _ in 0..rows {
                    for _ in 0..r.random_range(0..2) {
                        tags.values().append_value(odd.choose(r).unwrap());
                    }
                    tags.append(true);
                }
                Arc::new(tags.finish())
            }
            "_topic" => Arc::new(StringArray::from_iter_values((0..rows).map(|_| "events"))),
            "_partition" => Arc::new(Int32Array::from_iter_values((0..rows).map(|row| (row % 3) as i32))),
            "_offset" => Arc::new(Int64Array::from_iter_values((0..rows).map(|row| (row / 3) as i64))),
            "_append_time" => {
                Arc::new(TimestampMicrosecondArray::from_iter_values(0..rows as i64).with_timezone("+00:00"))
            }
            "_key" => Arc::new(StringArray::from_iter((0..rows).map(|_| None::<&str>))),
            other => panic!("no generator for {other}"),
        }
    });
    let columns = columns.collect();
    Generated { events: RecordBatch::try_new(source.schema.clone(), columns).unwrap() }
}

/// Chops the events into random pieces, folds some, stores and decodes some, and merges in random order.
fn folded(random: &mut StdRng, view: &Arc<View>, events: &RecordBatch) -> RecordBatch {
    let input = events.project(&view.input_columns).unwrap();
    let codec = StateCodec::new(view).unwrap();
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < input.num_rows() {
        let rows = random.random_range(1..=20).min(input.num_rows() - at);
        let mut fold = Fold::new(view).unwrap();
        for row in 0..rows {
            // Some folds see their events one by one, some at once.
            if rows % 2 == 0 {
                fold.update(&input.slice(at + row, 1)).unwrap();
            }
        }
        if rows % 2 == 1 {
            fold.update(&input.slice(at, rows)).unwrap();
        }
        let mut states = fold.take_states().unwrap();
        assert!(fold.is_empty());
        if random.random_bool(0.5) {
            let encoded = codec.encode(&states).unwrap();
            let rows = (0..encoded.len()).map(|row| (encoded.group(row), encoded.state(row)));
            let decoded = codec.decode(rows).unwrap();
            assert_eq!(decoded.num_rows(), states.num_rows());
            states = decoded;
        }
        pieces.push(states);
        at += rows;
    }
    pieces.shuffle(random);
    // A piece may be merged on its own first: merging is associative.
    let mut fold = Fold::new(view).unwrap();
    for pair in pieces.chunks(2) {
        if random.random_bool(0.5) {
            let mut inner = Fold::new(view).unwrap();
            for states in pair {
                inner.merge(states).unwrap();
            }
            fold.merge(&inner.take_states().unwrap()).unwrap();
        } else {
            let all = concat_batches(&view.state_schema, pair).unwrap();
            let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
            order.shuffle(random);
            fold.merge(&take_record_batch(&all, &UInt32Array::from(order)).unwrap()).unwrap();
        }
    }
    view.finalize(&fold.take_values_of_all().unwrap()).unwrap().rows
}

async fn oracle(view: &View, events: &RecordBatch) -> RecordBatch {
    let context = SessionContext::new();
    context.register_batch("events", events.clone()).unwrap();
    let frame = context.sql(&view.oracle_sql).await.unwrap_or_else(|error| panic!("{}: {error}", view.oracle_sql));
    let batches = frame.collect().await.unwrap();
    match batches.first() {
        Some(first) => concat_batches(&first.schema(), &batches).unwrap(),
        None => RecordBatch::new_empty(view.output_schema.clone()),
    }
}

fn cells(batch: &RecordBatch, view: &View) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("∅");
    let formatters: Vec<ArrayFormatter<'_>> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    let cell = |row: usize, column: usize| {
        let text = formatters[column].value(row).to_string();
        match (view.columns[column].exactness, text.parse::<f64>()) {
            (Exactness::Exact, _) | (_, Err(_)) => text,
            // Twelve digits: the class promises nine.
            (_, Ok(number)) if number.abs() < 1e-6 => "~0".to_owned(),
            (_, Ok(number)) => format!("{number:.8e}"),
        }
    };
    let mut rows: Vec<Vec<String>> =
        (0..batch.num_rows()).map(|row| (0..batch.num_columns()).map(|column| cell(row, column)).collect()).collect();
    rows.sort();
    rows
}

async fn check(random: &mut StdRng, sql: &str) {
    let application = compile(sql).unwrap_or_else(|problems| panic!("{sql}: {problems:?}"));
    let view = &application.views[0];
    for rows in [0, 1, 7, 150] {
        let generated = generate(random, &view.source, rows);
        let folded = folded(random, view, &generated.events);
        let expected = oracle(view, &generated.events).await;
        assert_eq!(cells(&folded, view), cells(&expected, view), "{sql} over {rows} events");
    }
}

fn seeded() -> StdRng {
    let seed =
        std::env::var("TIDEMARK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("seed {seed} (TIDEMARK_SEED={seed} repeats it)");
    StdRng::seed_from_u64(seed)
}

#[tokio::test]
async fn every_aggregate_is_what_plain_datafusion_gives() {
    let mut random = seeded();
    for aggregate in AGGREGATES {
        let sql = format!("CREATE MATERIALIZED VIEW v AS SELECT url, {aggregate} AS answer FROM events GROUP BY url");
        check(&mut random, &sql).await;
    }
}

#[tokio::test]
async fn every_key_type_groups_as_plain_datafusion_does() {
    let mut random = seeded();
    for key in KEYS {
        let sql = format!(
            "CREATE MATERIALIZED VIEW v AS SELECT {key}, count(*) AS n, sum(price) AS p, max(ts) AS t FROM events GROUP BY {key}"
        );
        check(&mut random, &sql).await;
    }
}

#[tokio::test]
async fn random_views_are_what_plain_datafusion_gives() {
    let mut random = seeded();
    let mut checked = 0;
    while checked < 40 {
        let count = random.random_range(1..6);
        let aggregates: Vec<String> = AGGREGATES
            .choose_multiple(&mut random, count)
            .enumerate()
            .map(|(index, aggregate)| format!("{aggregate} AS c{index}"))
            .collect();
        let key = KEYS.choose(&mut random).unwrap();
        let filter = ["", "WHERE status < 400", "WHERE ok IS NOT NULL AND bytes > 0", "WHERE false"]
            .choose(&mut random)
            .unwrap();
        let having =
            ["", "HAVING count(*) > 1", "HAVING max(bytes) > 10 OR min(user) < 'b'"].choose(&mut random).unwrap();
        let aggregates = aggregates.join(", ");
        let sql = format!(
            "CREATE MATERIALIZED VIEW v AS SELECT {key}, {aggregates} FROM events {filter} GROUP BY {key} {having}"
        );
        // Two orders that plain DataFusion cannot plan together: refused, and so there is nothing to compare.
        if let Err(problems) = compile(&sql) {
            assert!(problems[0].message.contains("Conflicting ordering requirements"), "{sql}: {problems:?}");
            continue;
        }
        checked += 1;
        check(&mut random, &sql).await;
    }
}

#[tokio::test]
async fn a_view_without_group_by_is_one_group() {
    let mut random = seeded();
    check(&mut random, "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(bytes) AS b FROM events").await;
}

#[tokio::test]
async fn every_aggregate_over_no_events_at_all_is_plain_datafusions() {
    let mut random = seeded();
    for aggregate in AGGREGATES {
        let sql =
            format!("CREATE MATERIALIZED VIEW v AS SELECT {aggregate} AS answer FROM events WHERE bytes IS NOT NULL");
        let view = compile(&sql).unwrap().views[0].clone();
        let none = generate(&mut random, &view.source, 1).events.slice(0, 0);
        let values = Fold::new(&view).unwrap().take_values_of_all().unwrap();
        let found = cells(&view.finalize(&values).unwrap().rows, &view);
        assert_eq!(found, cells(&oracle(&view, &none).await, &view), "{aggregate}");
        assert_eq!(found.len(), 1, "{aggregate}");
    }
}

#[tokio::test]
async fn sketches_are_within_their_error() {
    let mut random = seeded();
    let application = compile(
        "CREATE MATERIALIZED VIEW v AS SELECT kind, approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY bytes) AS p,
         approx_median(status) AS m FROM events GROUP BY kind",
    );
    let view = &application.unwrap().views[0];
    let generated = generate(&mut random, &view.source, 3000);
    let folded = cells(&folded(&mut random, view, &generated.events), view);
    let expected = cells(&oracle(view, &generated.events).await, view);
    for (folded, expected) in folded.iter().zip(&expected) {
        assert_eq!(folded[0], expected[0]);
        for column in 1..3 {
            let (one, other): (f64, f64) = (folded[column].parse().unwrap(), expected[column].parse().unwrap());
            assert!((one - other).abs() <= 0.05 * other.abs().max(20.0), "{folded:?} against {expected:?}");
        }
    }
}

#[test]
fn encoded_groups_sort_as_their_values_and_begin_with_their_key() {
    let mut random = seeded();
    for key in KEYS {
        let sql = format!("CREATE MATERIALIZED VIEW v AS SELECT {key}, count(*) AS n FROM events GROUP BY {key}");
        let view = compile(&sql).unwrap().views[0].clone();
        let generated = generate(&mut random, &view.source, 200);
        let mut fold = Fold::new(&view).unwrap();
        fold.update(&generated.events.project(&view.input_columns).unwrap()).unwrap();
        let states = fold.take_states().unwrap();
        let codec = StateCodec::new(&view).unwrap();
        let encoded = codec.encode(&states).unwrap();
        for row in 0..encoded.len() {
            let value =
                |column: usize| datafusion::scalar::ScalarValue::try_from_array(states.column(column), row).unwrap();
            let key: Vec<_> = (0..view.key_columns).map(value).collect();
            assert!(encoded.group(row).starts_with(&codec.key_prefix(&key).unwrap()), "{sql}");
            if view.time.is_some_and(|time| time.index == view.key_columns) {
                let bound = codec.time_bound(&key, &value(view.key_columns)).unwrap().unwrap();
                assert!(encoded.group(row) >= bound.as_slice(), "{sql}");
            }
            let other = random.random_range(0..encoded.len());
            let compare = |column: usize| {
                let comparator = datafusion::arrow::array::make_comparator(
                    states.column(column),
                    states.column(column),
                    datafusion::arrow::compute::SortOptions::default(),
                );
                comparator.unwrap()(row, other)
            };
            let order = (0..view.group_schema.fields().len()).map(compare).find(|order| order.is_ne());
            assert_eq!(
                encoded.group(row).cmp(encoded.group(other)),
                order.unwrap_or(std::cmp::Ordering::Equal),
                "{sql}"
            );
        }
    }
}
