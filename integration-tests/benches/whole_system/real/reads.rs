//! Lookups of `tidemark serve` over HTTP, against bare prepared reads of the same rows through the driver.
//!
//! Generation and deltas are made by a process with all layers, which is gone when it is measured. Both sides are asked by one
//! thread, with as many questions under way as either needs to be at its best, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use integration_tests::process::Process;
use integration_tests::servers::Servers;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlValue;
use tidemark::application::clickstream;
use tidemark::generator::{Clicks, Traffic};
use tidemark::settings::Settings;
use tokio::task::JoinSet;

use super::corner::Corner;
use super::writes::session;
use crate::http::{Connection, address, closed_loop, get, post};
use crate::lookups::{Questions, feed, merged};
use crate::measure::{Busy, machine_seconds, median, median_ratio, processor_seconds, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// How many questions are under way at once. Half as many keep Cassandra's threads going to sleep and waking up.
const AT_ONCE: usize = 64;
/// Tiles that share a CQL partition, and how long one of `page_views` is.
const BUCKET_US: i64 = 4096 * 60_000_000;

/// Measures it.
pub async fn measure(servers: &Servers, scale: &Scale, table: &mut Table) {
    let corner = Corner::new(servers, "reads");
    let settings = corner.settings();
    let events = scale.lookup_events / 4;
    eprintln!("reads: {} clicks into Kafka and CQL", short(events as f64));
    let everything = corner.start("run", &clickstream(), "");
    let mut connection = Connection::open(address(&everything.url)).await;
    let mut clicks = Clicks::with(Traffic { broken_ppm: 0, ..Traffic::default() });
    feed(&mut connection, &mut clicks, events * 3 / 4).await;
    connection.must(&post("/v1/batch/runs?wait=true&full=true", "application/json", b"")).await;
    let position = feed(&mut connection, &mut clicks, events / 4).await;
    for question in ["user_activity?user_id=user-1", "page_views?url=/products/1&last=1m"] {
        connection.must(&get(&format!("/v1/views/{question}&min_position={position}&timeout=30s"))).await;
    }
    drop(connection);
    assert_eq!(everything.terminate(), Some(0), "SIGTERM is graceful");

    let split =
        Traffic::default().start_us + Traffic::default().step_us * i64::try_from(events * 3 / 4).expect("a time");
    for cache in ["\"128MiB\"", "0"] {
        let serving = corner.start("serve", &clickstream(), &format!("[store]\ncache = {cache}"));
        let how = if cache == "0" { ", store.cache = 0" } else { "" };
        let mut connection = Connection::open(address(&serving.url)).await;

        let users = (1..).map(|rank| format!("/v1/views/user_activity?user_id=user-{rank}"));
        let users = merged(&mut connection, users).await;
        let ids = users.paths.iter().filter_map(|path| path.split_once("user_id=").map(|(_, id)| id.to_owned()));
        let keys = ids.map(|id| vec![CqlValue::Text(id), CqlValue::BigInt(0)]).collect();
        let what = format!("lookup over CQL of one merged row (user_activity){how}");
        Bare::of(&settings, "user_activity_", "user_id", keys)
            .compare(&what, &serving, &users, Target::AtLeast(0.6), scale, table)
            .await;

        // The last minute of the generation; deltas hold what came late for it. The bare read takes the page's whole day.
        let minute = (split - 1) - (split - 1).rem_euclid(60_000_000);
        let time = |us: i64| chrono::DateTime::from_timestamp_micros(us).expect("a time").format("%Y-%m-%dT%H:%M:%SZ");
        let range = format!("from={}&to={}", time(minute), time(minute + 60_000_000));
        let pages = (1..=300).map(|page| format!("/v1/views/page_views?url=/products/{page}&{range}"));
        let pages = merged(&mut connection, pages).await;
        let urls =
            pages.paths.iter().filter_map(|path| path.split_once("url=")?.1.split('&').next().map(str::to_owned));
        let bucket = minute.div_euclid(BUCKET_US);
        let keys = urls.map(|url| vec![CqlValue::Text(url), CqlValue::BigInt(bucket)]).collect();
        let what = format!("lookup over CQL of one merged tile (page_views){how}");
        Bare::of(&settings, "page_views_", "url", keys)
            .compare(&what, &serving, &pages, Target::None, scale, table)
            .await;
        assert_eq!(serving.terminate(), Some(0), "SIGTERM is graceful");
    }
    Servers::forget(&settings).await;
}

/// The driver, as it is, asked for the same rows.
#[derive(Clone)]
struct Bare {
    settings: Settings,
    /// The view's table begins with this.
    table_prefix: &'static str,
    /// Its key column.
    key: &'static str,
    keys: Arc<Vec<Vec<CqlValue>>>,
}

impl Bare {
    fn of(settings: &Settings, table_prefix: &'static str, key: &'static str, keys: Vec<Vec<CqlValue>>) -> Self {
        Self { settings: settings.clone(), table_prefix, key, keys: Arc::new(keys) }
    }

    async fn select(&self, session: &Session) -> PreparedStatement {
        let keyspace = &self.settings.store.keyspace;
        let tables = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
        let tables = session.query_unpaged(tables, (keyspace,)).await.expect("tables");
        let tables = tables.into_rows_result().expect("rows");
        let names = tables.rows::<(String,)>().expect("names").map(|name| name.expect("a name").0);
        let table = names.into_iter().find(|name| name.starts_with(self.table_prefix)).expect("the view's table");
        let key = self.key;
        let select = format!(
            "SELECT \"group\", generation, log_partition, segment, through, pieces, state FROM {keyspace}.{table} \
             WHERE {key} = ? AND bucket = ?"
        );
        session.prepare(select).await.expect("a statement")
    }

    /// Reads in turn as fast as the rows come, so many at once, for so long: reads per second.
    async fn reads(self, time: Duration) -> f64 {
        let session = Arc::new(session(&self.settings).await);
        let select = self.select(&session).await;
        let (next, started) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let mut tasks = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (session, select, keys, next) = (session.clone(), select.clone(), self.keys.clone(), next.clone());
            tasks.spawn(async move {
                let mut reads = 0_u64;
                while started.elapsed() < time {
                    let key = &keys[next.fetch_add(1, Ordering::Relaxed) % keys.len()];
                    let found = session.execute_unpaged(&select, key.as_slice()).await.expect("rows");
                    let found = found.into_rows_result().expect("rows");
                    type Row<'r> = (&'r [u8], i64, i32, i64, Option<i64>, Option<i32>, Option<&'r [u8]>);
                    let rows = found.rows::<Row<'_>>().expect("rows").filter(Result::is_ok).count();
                    assert!(rows > 1, "a key of both layers has several rows");
                    reads += 1;
                }
                reads
            });
        }
        let reads: u64 = tasks.join_all().await.into_iter().sum();
        reads as f64 / started.elapsed().as_secs_f64()
    }
}

/// What one thread with a runtime of its own comes to, as the load generators of the trade have it.
async fn on_one_thread<F: Future<Output = f64>>(ask: impl FnOnce() -> F + Send + 'static) -> f64 {
    let asking = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(ask())
    });
    asking.await.expect("figures")
}

impl Bare {
    /// Both, in turns.
    async fn compare(
        &self,
        what: &str,
        serving: &Process,
        questions: &Questions,
        target: Target,
        scale: &Scale,
        table: &mut Table,
    ) {
        let (busy, time) = (Busy::since_now(), scale.lookup_turn);
        let (at, server) = (address(&serving.url), serving.id().to_string());
        let lookups = || {
            let requests = questions.requests.clone();
            on_one_thread(move || async move { closed_loop(at, &requests, AT_ONCE, time).await })
        };
        let reads = || {
            let bare = self.clone();
            on_one_thread(move || bare.reads(time))
        };
        // Both warm.
        lookups().await;
        reads().await;
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        let (mut lookup_costs, mut read_costs) = (Costs::default(), Costs::default());
        for _ in 0..scale.turns {
            let before = Costs::until_now(&server);
            let rate = lookups().await;
            lookup_costs.add(&before, rate * time.as_secs_f64(), &server);
            ours.push(rate);
            let before = Costs::until_now(&server);
            let rate = reads().await;
            read_costs.add(&before, rate * time.as_secs_f64(), &server);
            plain.push(rate);
        }
        table.add(Measured {
            what,
            measured: format!("{}/s, {} keys, {} bytes", short(median(&ours)), self.keys.len(), questions.size),
            reference: format!("prepared reads {}/s", short(median(&plain))),
            figure: (median_ratio(&ours, &plain), ""),
            target,
        });
        let (lookup, read) = (lookup_costs.each(), read_costs.each());
        table.note(format!(
            "{what}: {AT_ONCE} questions at once, {}. Processor time of a lookup: {lookup}; of a bare read: {read}",
            busy.remark()
        ));
    }
}

/// Whose processor time questions took, in seconds.
#[derive(Default)]
struct Costs {
    questions: f64,
    serve: f64,
    asking: f64,
    machine: f64,
}

impl Costs {
    fn until_now(server: &str) -> Self {
        let (serve, asking) = (processor_seconds(server), processor_seconds("self"));
        Self { questions: 0.0, serve, asking, machine: machine_seconds() }
    }

    /// Adds what so many questions took since `before`.
    fn add(&mut self, before: &Self, questions: f64, server: &str) {
        let now = Self::until_now(server);
        self.questions += questions;
        self.serve += now.serve - before.serve;
        self.asking += now.asking - before.asking;
        self.machine += now.machine - before.machine;
    }

    /// Of each question.
    fn each(&self) -> String {
        let micros = |seconds: f64| seconds * 1e6 / self.questions.max(1.0);
        let rest = self.machine - self.serve - self.asking;
        let [serve, asking, rest] = [self.serve, self.asking, rest].map(micros);
        format!("{serve:.1} µs in `serve`, {asking:.1} in who asks, {rest:.1} in Cassandra and the rest")
    }
}
