//! Whatever the view, however the log was chopped up and whatever ran when: at every moment an answer is what plain DataFusion
//! computes in one pass over the events before the position that the answer names.
//!
//! No faults are injected here (`simulation.rs` does that): here it is the definitions that vary.

use std::sync::Arc;
use std::time::Duration;

use arrow::compute::concat_batches;
use batch_layer::Outcome;
use datafusion::scalar::ScalarValue;
use futures::FutureExt as _;
use integration_tests::events::schema;
use integration_tests::parts::{EmbeddedParts, Parts, ServerParts};
use integration_tests::servers::Servers;
use integration_tests::truth::difference;
use integration_tests::world::{Faults, World, number, random_events, seed};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use view_store::KeyRange;
use views::{Application, ApplicationFile, View};

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
    "covar_samp(bytes, status)",
    "corr(ratio, status)",
    "bool_and(ok)",
    "bool_or(ok)",
    "bit_and(status)",
    "bit_or(bytes)",
    "bit_xor(status)",
    "first_value(user ORDER BY ts)",
    "last_value(user ORDER BY ts)",
    "first_value(bytes ORDER BY status DESC, ts)",
    "last_value(price ORDER BY bytes NULLS FIRST)",
    "first_value(user) IGNORE NULLS",
    "last_value(status)",
    "approx_distinct(user)",
    "approx_distinct(status)",
    "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY bytes)",
    "approx_median(bytes)",
    "median(bytes)",
    "array_agg(status ORDER BY ts)",
    "array_agg(user)",
    "array_agg(DISTINCT kind)",
    "string_agg(user, ',' ORDER BY ts)",
    "string_agg(kind, '-')",
    "count(*) FILTER (WHERE ok)",
    "sum(bytes) FILTER (WHERE status < 300)",
    "array_agg(bytes ORDER BY ts) FILTER (WHERE bytes > 3)",
    "approx_distinct(user) FILTER (WHERE status > 200)",
    "first_value(user ORDER BY ts DESC) FILTER (WHERE ok)",
    "sum(bytes) / count(*)",
    "round(avg(ratio), 3) + count(*)",
    "CASE WHEN count(*) > 2 THEN max(user) END",
    "max(_offset)",
    "count(DISTINCT _partition)",
    "min(_key)",
];

/// Aggregates over what only the second version of the schema has.
const AGGREGATES_OF_TWO: &[&str] = &["max(region)", "count(DISTINCT region)", "last_value(region ORDER BY ts)"];

const KEYS: &[&str] = &[
    "url",
    "user",
    "status % 7",
    "bytes",
    "price",
    "ok",
    "day",
    "kind",
    "raw",
    "url, kind",
    "user, ok, day",
    "date_bin(INTERVAL '10 seconds', ts)",
    "url, date_bin(INTERVAL '1 minute', ts)",
    "date_trunc('minute', ts), kind",
    "upper(url), status % 3",
    "tags",
    "_partition",
];

const FILTERS: &[&str] = &["", "", "WHERE status < 400", "WHERE ok IS NOT NULL AND bytes > 0", "WHERE false"];
const HAVINGS: &[&str] = &["", "", "HAVING count(*) > 1", "HAVING max(bytes) > 10 OR min(user) < 'b'"];

/// How the source of a case is made.
#[derive(Debug, Clone)]
struct Shape {
    partitions: u32,
    segment_records: u64,
    key: Option<&'static str>,
    dedupe: bool,
}

impl Shape {
    fn random(random: &mut StdRng) -> Self {
        Self {
            partitions: random.random_range(1..=5),
            segment_records: random.random_range(3..=50),
            key: [None, Some("url"), Some("user"), Some("status")].choose(random).copied().flatten(),
            dedupe: random.random_bool(0.5),
        }
    }

    fn source(&self) -> String {
        let Self { partitions, segment_records, .. } = self;
        let key = self.key.map(|key| format!(", key = '{key}'")).unwrap_or_default();
        let dedupe = if self.dedupe { ", event_id = 'id', dedupe_window = '20 seconds'" } else { "" };
        format!(
            "CREATE SOURCE events WITH (schema = 'event.avsc', event_time = 'ts', partitions = {partitions},
               segment_records = {segment_records}, retention = '30 seconds'{key}{dedupe});\n"
        )
    }
}

/// One or two random views; drawn again while the compiler refuses them (two orders that cannot be planned together).
fn application(random: &mut StdRng, shape: &Shape, version: u32) -> Application {
    loop {
        let mut sql = shape.source();
        for name in 0..random.random_range(1..=2) {
            let count = random.random_range(1..5);
            let mut aggregates: Vec<&str> = AGGREGATES.choose_multiple(random, count).copied().collect();
            if version > 1 {
                aggregates.extend(AGGREGATES_OF_TWO.choose(random));
            }
            let aggregates: Vec<String> =
                aggregates.iter().enumerate().map(|(index, aggregate)| format!("{aggregate} AS c{index}")).collect();
            let aggregates = aggregates.join(", ");
            let pick = |from: &[&'static str], random: &mut StdRng| from.choose(random).copied().unwrap_or("");
            let (filter, having) = (pick(FILTERS, random), pick(HAVINGS, random));
            let select = if random.random_bool(0.1) {
                format!("SELECT {aggregates} FROM events {filter} {having}")
            } else {
                let key = pick(KEYS, random);
                format!("SELECT {key}, {aggregates} FROM events {filter} GROUP BY {key} {having}")
            };
            sql.push_str(&format!("CREATE MATERIALIZED VIEW v{name} AS {select};\n"));
        }
        let file = |path: &str, text: String| ApplicationFile { path: path.to_owned(), text };
        match Application::compile(&[file("event.avsc", schema(version)), file("views.sql", sql.clone())]) {
            Ok(application) => return application,
            Err(problems) => {
                let is_known =
                    problems.iter().all(|problem| problem.message.contains("Conflicting ordering requirements"));
                assert!(is_known, "{sql}\n{problems:#?}");
            }
        }
    }
}

/// Runs one case; `did` gets what was done.
async fn case(seed: u64, parts: Arc<dyn Parts>, did: &parking_lot::Mutex<Vec<String>>) {
    let mut random = StdRng::seed_from_u64(seed);
    let note = |what: String| did.lock().push(what);
    let mut shape = Shape::random(&mut random);
    let mut version = 1;
    let first = application(&mut random, &shape, version);
    note(format!(
        "{shape:?}\n{}",
        first.views.iter().map(|view| view.statement.clone()).collect::<Vec<_>>().join("\n")
    ));
    let mut world = World::new(parts, first);
    if random.random_bool(0.5) {
        let events = random_events(&mut random, version, 120);
        note(format!("import {} events", events.len()));
        world.import("events", version, &events, &mut random).await;
    }
    world.start(Faults::none(), seed).await;
    for _ in 0..random.random_range(6..=14) {
        match random.random_range(0..20) {
            0..=8 => {
                let spare = random.random_range(0..8);
                // Producers of the first version go on beside those of the second.
                let written = random.random_range(1..=version);
                let events = random_events(&mut random, written, 40);
                note(format!("append {} events of version {written}", events.len()));
                let delivered = world.append("events", spare, written, &events).await;
                if let Some(clock) = world.parts.clock() {
                    clock.advance(Duration::from_millis(random.random_range(0..8_000)));
                }
                for (partition, records, outcome) in delivered {
                    outcome.expect("no faults here");
                    if random.random_bool(0.2) {
                        note(format!("deliver {} records to {partition} again", records.len()));
                        world.deliver(&partition, &records).await.expect("no faults here");
                    }
                }
            }
            9..=11 => {
                let report = world.batch_run(0, random.random_bool(0.3)).await.expect("a batch run");
                note(format!("batch run: {} {:?}", report.generation, report.outcome));
                let failed: Vec<_> = report.views.values().filter_map(|view| view.error.clone()).collect();
                assert!(failed.is_empty(), "{failed:?}");
            }
            12 => {
                note("restart".to_owned());
                world.stop().await;
                world.start(Faults::none(), seed).await;
            }
            13 => {
                note("kill".to_owned());
                world.kill();
                world.start(Faults::none(), seed).await;
            }
            14 => {
                shape.partitions += 1;
                note(format!("{} partitions", shape.partitions));
                world.add_partitions("events", shape.partitions).await;
            }
            15 => {
                note("trim".to_owned());
                world.trim("events").await;
            }
            16 => {
                version = 2;
                let changed = application(&mut random, &shape, version);
                let views = changed.views.iter().map(|view| view.statement.clone()).collect::<Vec<_>>();
                note(format!("restart with another application\n{}", views.join("\n")));
                world.stop().await;
                world.application = Arc::new(changed);
                world.start(Faults::none(), seed).await;
            }
            _ => {
                let view = world.application.views.iter().choose(&mut random).expect("a view").clone();
                note(format!("check {}", view.name));
                world.check(&view).await.unwrap_or_else(|difference| panic!("{difference}"));
            }
        }
    }
    note("settle, check".to_owned());
    world.settle().await;
    finish(&mut world, &mut random).await;
    note("batch run, check".to_owned());
    world.batch_run(0, true).await.expect("a batch run");
    finish(&mut world, &mut random).await;
    let report = world.batch_run(1, false).await.expect("a batch run");
    assert_eq!(report.outcome, Outcome::NothingNew);
    let log = world.running().whole_log.clone();
    world.truth.read_again(log.as_ref()).await;
    world.stop().await;
}

/// Every view, as a whole and by some of its keys, once everything is in it.
async fn finish(world: &mut World, random: &mut StdRng) {
    for view in world.application.views.clone() {
        let seen = world.check(&view).await.unwrap_or_else(|difference| panic!("{difference}"));
        let end = world.truth.end().of_topic(&view.source.name);
        assert!(seen.position.covers(&end), "{} at {} of {end}", view.name, seen.position);
        check_keys(world, random, &view).await;
    }
}

/// The rows under each key, looked up one key at a time, are together the rows of the view.
async fn check_keys(world: &World, random: &mut StdRng, view: &Arc<View>) {
    let all = world.see(view, &KeyRange::default()).await;
    let shown: Option<Vec<usize>> = view.group_outputs[..view.key_columns].iter().copied().collect();
    let Some(shown) = shown else { return };
    let mut rows: Vec<usize> = (0..all.rows.num_rows()).collect();
    rows.shuffle(random);
    for row in rows.into_iter().take(3) {
        let value = |column: usize| ScalarValue::try_from_array(all.rows.column(column), row).expect("a value");
        let key: Vec<ScalarValue> = shown.iter().map(|column| value(*column)).collect();
        let under = world.see(view, &KeyRange { key: Some(key.clone()), ..KeyRange::default() }).await;
        let same = |row: &usize| {
            let value = |column: usize| ScalarValue::try_from_array(all.rows.column(column), *row).expect("a value");
            shown.iter().zip(&key).all(|(column, expected)| value(*column) == *expected)
        };
        let expected: Vec<_> = (0..all.rows.num_rows()).filter(same).map(|row| all.rows.slice(row, 1)).collect();
        let expected = concat_batches(all.rows.schema_ref(), &expected).expect("rows of one view");
        let found = difference(view, &under.rows, &expected);
        assert!(found.is_none(), "{} under {key:?}: {}", view.name, found.unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_what_plain_datafusion_says_over_the_events_before_its_position() {
    cases(number("TIDEMARK_CASES", 30), || Arc::new(EmbeddedParts::new()), async |_| {}).await;
}

/// The same on the real servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_from_the_servers_is_what_plain_datafusion_says() {
    let servers = Servers::running();
    let new = || Arc::new(ServerParts::new(&servers, "oracle"));
    cases(number("TIDEMARK_CASES_ON_SERVERS", 5), new, async |parts| parts.forget().await).await;
}

async fn cases<P: Parts + 'static>(cases: u64, new: impl Fn() -> Arc<P>, forget: impl AsyncFn(&P)) {
    let seed = seed();
    println!("oracle: {cases} cases from seed {seed} (TIDEMARK_SEED={seed} repeats them)");
    for case_seed in (0..cases).map(|number| seed.wrapping_add(number)) {
        let did = parking_lot::Mutex::default();
        let parts = new();
        let outcome = std::panic::AssertUnwindSafe(case(case_seed, parts.clone(), &did)).catch_unwind().await;
        forget(&parts).await;
        if let Err(panic) = outcome {
            println!("TIDEMARK_SEED={case_seed} TIDEMARK_CASES=1 repeats this:\n{}", did.lock().join("\n"));
            std::panic::resume_unwind(panic);
        }
    }
}
