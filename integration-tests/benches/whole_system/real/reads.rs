//! Lookups of `tidemark serve` over HTTP, against bare prepared reads of the same rows through the driver.
//!
//! Generation and deltas are made by a process with all layers, which is gone when it is measured. Both sides are asked with as
//! many questions under way, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use integration_tests::servers::Servers;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlValue;
use tidemark::application::clickstream;
use tidemark::generator::{Clicks, Traffic};
use tokio::task::JoinSet;

use super::corner::Corner;
use super::writes::session;
use crate::http::{Connection, address, closed_loop, get, post};
use crate::lookups::{CONNECTIONS, Questions, feed, merged};
use crate::measure::{Busy, median, median_ratio, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

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

    let serving = corner.start("serve", &clickstream(), "");
    let at = address(&serving.url);
    let mut connection = Connection::open(at).await;
    let bare = Bare { session: Arc::new(session(&settings).await), keyspace: settings.store.keyspace.clone() };

    let user = |rank: usize| format!("user-{rank}");
    let users =
        merged(&mut connection, (1..).map(|rank| format!("/v1/views/user_activity?user_id={}", user(rank)))).await;
    let ids = users.paths.iter().filter_map(|path| path.split_once("user_id=").map(|(_, id)| id.to_owned()));
    let keys: Vec<_> = ids.map(|id| vec![CqlValue::Text(id), CqlValue::BigInt(0)]).collect();
    let (prefix, column) = ("user_activity_", "user_id");
    let select = bare.select(prefix, column).await;
    let what = "lookup over CQL of one merged row (user_activity)";
    compare(what, at, &users, &bare, &select, Arc::new(keys), Target::AtLeast(0.6), scale, table).await;

    // The last minute of the generation; deltas hold what came late for it. The bare read takes the page's whole day.
    let split =
        Traffic::default().start_us + Traffic::default().step_us * i64::try_from(events * 3 / 4).expect("a time");
    let minute = (split - 1) - (split - 1).rem_euclid(60_000_000);
    let time = |us: i64| chrono::DateTime::from_timestamp_micros(us).expect("a time").format("%Y-%m-%dT%H:%M:%SZ");
    let range = format!("from={}&to={}", time(minute), time(minute + 60_000_000));
    let pages = (1..=300).map(|page| format!("/v1/views/page_views?url=/products/{page}&{range}"));
    let pages = merged(&mut connection, pages).await;
    let urls = pages.paths.iter().filter_map(|path| path.split_once("url=")?.1.split('&').next().map(str::to_owned));
    let bucket = minute.div_euclid(BUCKET_US);
    let keys: Vec<_> = urls.map(|url| vec![CqlValue::Text(url), CqlValue::BigInt(bucket)]).collect();
    let select = bare.select("page_views_", "url").await;
    let what = "lookup over CQL of one merged tile (page_views)";
    compare(what, at, &pages, &bare, &select, Arc::new(keys), Target::None, scale, table).await;

    assert_eq!(serving.terminate(), Some(0), "SIGTERM is graceful");
    Servers::forget(&settings).await;
}

/// The driver, as it is.
struct Bare {
    session: Arc<Session>,
    keyspace: String,
}

impl Bare {
    /// Reads the rows of a key from the table of a view.
    async fn select(&self, table_prefix: &str, key: &str) -> PreparedStatement {
        let tables = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
        let tables = self.session.query_unpaged(tables, (&self.keyspace,)).await.expect("tables");
        let tables = tables.into_rows_result().expect("rows");
        let names = tables.rows::<(String,)>().expect("names").map(|name| name.expect("a name").0);
        let table = names.into_iter().find(|name| name.starts_with(table_prefix)).expect("the view's table");
        let select = format!(
            "SELECT \"group\", generation, log_partition, segment, through, pieces, state FROM {}.{table} \
             WHERE {key} = ? AND bucket = ?",
            self.keyspace
        );
        self.session.prepare(select).await.expect("a statement")
    }

    /// Reads in turn as fast as the rows come, so many at once, for so long: reads per second.
    async fn reads(&self, select: &PreparedStatement, keys: &Arc<Vec<Vec<CqlValue>>>, time: Duration) -> f64 {
        let (next, started) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (session, select, keys, next) = (self.session.clone(), select.clone(), keys.clone(), next.clone());
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

#[expect(clippy::too_many_arguments, reason = "both sides, and where it goes")]
async fn compare(
    what: &str,
    at: std::net::SocketAddr,
    questions: &Questions,
    bare: &Bare,
    select: &PreparedStatement,
    keys: Arc<Vec<Vec<CqlValue>>>,
    target: Target,
    scale: &Scale,
    table: &mut Table,
) {
    let (busy, time) = (Busy::since_now(), scale.lookup_turn);
    // Both warm.
    closed_loop(at, &questions.requests, CONNECTIONS, time).await;
    bare.reads(select, &keys, time).await;
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..scale.turns {
        ours.push(closed_loop(at, &questions.requests, CONNECTIONS, time).await);
        plain.push(bare.reads(select, &keys, time).await);
    }
    table.add(Measured {
        what,
        measured: format!("{}/s, {} keys, {} bytes", short(median(&ours)), keys.len(), questions.size),
        reference: format!("prepared reads {}/s", short(median(&plain))),
        figure: (median_ratio(&ours, &plain), ""),
        target,
    });
    table.note(format!("{what}: {CONNECTIONS} questions at once, {}", busy.remark()));
}
