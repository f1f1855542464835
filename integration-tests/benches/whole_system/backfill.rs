//! Lookups of a view while another one, which is new, is backfilled at the rate that is the default, against the same lookups while
//! nothing else goes on. A real `tidemark run` on its own parts; a steady rate of lookups, whether answers come or not.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use integration_tests::process::Process;
use tempfile::TempDir;
use tidemark::application::{Folder, clickstream};
use tidemark::generator::{Clicks, Traffic};

use crate::http::{Connection, address, get, open_loop, post};
use crate::lookups::{CONNECTIONS, feed};
use crate::measure::{Busy, percentile, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// Lookups a second: a load that the process carries easily.
const RATE: f64 = 2000.0;
/// Records a second of the backfill: the default of `tidemark backfill`.
const BACKFILL: u64 = 100_000;
/// No generation but the one that is asked for, and the speed layer leaves the new view alone.
const SETTINGS: &str = "[batch]\nevery = \"never\"\n[speed]\nbackfill_rate = 1\n";

/// Measures it.
pub fn measure(scale: &Scale, table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let folder = TempDir::new().expect("a temporary folder");
        let (app, data) = (folder.path().join("app"), folder.path().join("data"));
        let start = |views: &[&str]| {
            write(&app, views);
            Process::start(&app, &data, &[])
        };
        eprintln!("backfill: {} clicks into a process", short(scale.lookup_events as f64));
        let process = start(&["user_activity"]);
        let mut connection = Connection::open(address(&process.url)).await;
        let mut clicks = Clicks::with(Traffic { broken_ppm: 0, ..Traffic::default() });
        feed(&mut connection, &mut clicks, scale.lookup_events).await;
        connection.must(&post("/v1/batch/runs?wait=true", "application/json", b"")).await;
        drop(connection);
        assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful");

        let process = start(&["user_activity", "page_views"]);
        let at = address(&process.url);
        let questions = (1..=1000).map(|user| get(&format!("/v1/views/user_activity?user_id=user-{user}")));
        let questions = Arc::new(questions.collect::<Vec<_>>());
        let time = Duration::from_secs_f64(scale.lookup_events as f64 / BACKFILL as f64);
        open_loop(at, &questions, CONNECTIONS, RATE, Duration::from_secs(1)).await;
        let busy = Busy::since_now();
        let alone = open_loop(at, &questions, CONNECTIONS, RATE, time).await;
        let quiet = busy.remark();
        let busy = Busy::since_now();
        let mut connection = Connection::open(at).await;
        let backfill =
            post(&format!("/v1/batch/runs?wait=true&views=page_views&rate={BACKFILL}"), "application/json", b"");
        let (beside, _) = tokio::join!(open_loop(at, &questions, CONNECTIONS, RATE, time), connection.must(&backfill));
        let p50_and_p99 =
            |took: &[f64]| format!("p50 {:.2} ms, p99 {:.2} ms", percentile(took, 0.5), percentile(took, 0.99));
        table.add(Measured {
            what: "lookups while another view is backfilled",
            measured: p50_and_p99(&beside),
            reference: format!("without: {}", p50_and_p99(&alone)),
            figure: (percentile(&beside, 0.99), "ms"),
            target: Target::None,
        });
        table.note(format!("backfill: {RATE} lookups/s; {}; without: {quiet}", busy.remark()));
    });
}

/// The clickstream application with some of its views.
fn write(app: &Path, views: &[&str]) {
    let Folder { files, .. } = clickstream();
    std::fs::create_dir_all(app).expect("a folder");
    std::fs::write(app.join("tidemark.toml"), SETTINGS).expect("written");
    for file in files {
        let mut text = String::new();
        for statement in file.text.split_inclusive(";\n") {
            let is_other =
                statement.contains("CREATE MATERIALIZED VIEW") && !views.iter().any(|view| statement.contains(view));
            if !is_other {
                text.push_str(statement);
            }
        }
        std::fs::write(app.join(&file.path), text).expect("written");
    }
}
