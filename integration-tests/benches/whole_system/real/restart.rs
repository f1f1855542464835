//! From the start of `tidemark speed` after SIGKILL until nothing is behind, against a bare consumer of the same events.

use std::time::{Duration, Instant};

use integration_tests::process::Process;
use integration_tests::servers::Servers;
use tidemark::backends::Backends;
use view_store::ViewStore;
use views::{Offset, View};

use super::consumer::consume;
use super::corner::{Corner, application};
use crate::clicks::Clickstream;
use crate::measure::{Busy, median, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// How often to look how far it is.
const POLL: Duration = Duration::from_millis(20);

/// Measures it.
pub async fn measure(servers: &Servers, scale: &Scale, table: &mut Table) {
    let corner = Corner::new(servers, "restart");
    let mut folder = application();
    for file in folder.files.iter_mut().filter(|file| file.path.ends_with(".sql")) {
        // Not the one with a row for each event: that one waits for the store's writes.
        file.text.truncate(file.text.find("CREATE MATERIALIZED VIEW requests").expect("the last view"));
    }
    let clicks = corner.clickstream(&folder).await;
    let settings = corner.settings();
    let store = Backends::open(&settings).await.unwrap_or_else(|failure| panic!("{}", failure.message)).store;
    let views: Vec<_> = clicks.application.views.clone();
    let busy = Busy::since_now();
    let (mut ours, mut plain, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.turns.min(3) {
        clicks.fill(1000).await;
        let process = corner.start("speed", &folder, "");
        until_caught_up(&clicks, &views, &*store).await;
        process.kill();
        let from = ends(&clicks).await;
        eprintln!("restart: SIGKILL, and {} more clicks", short(scale.behind_events as f64));
        let filled = clicks.fill(scale.behind_events).await;
        let started = Instant::now();
        let process = corner.start("speed", &folder, "");
        let ready = started.elapsed().as_secs_f64();
        until_folded(&process, filled.events).await;
        until_caught_up(&clicks, &views, &*store).await;
        let took = started.elapsed().as_secs_f64();
        assert_eq!(process.terminate(), Some(0), "SIGTERM is graceful");
        let (brokers, topic) = (settings.log.brokers.clone(), corner.topic());
        let bare = tokio::task::spawn_blocking(move || consume(&brokers, &topic, &from, filled.events));
        let bare = bare.await.expect("consumed").clock;
        eprintln!(
            "  caught up {took:.2} s after its start (ready after {ready:.2} s); a bare consumer takes {bare:.2} s"
        );
        ours.push(took);
        plain.push(bare);
        ratios.push(took / bare);
    }
    table.add(Measured {
        what: &format!("restart after SIGKILL, {} events behind", short(scale.behind_events as f64)),
        measured: format!("caught up {:.2} s after its start", median(&ours)),
        reference: format!("rdkafka consumer {:.2} s", median(&plain)),
        figure: (median(&ratios), ""),
        target: Target::AtMost(2.0),
    });
    table.note(format!("restart: two views (few keys, a key per page), {}", busy.remark()));
    drop(store);
    Servers::forget(&settings).await;
}

async fn ends(clicks: &Clickstream) -> Vec<Offset> {
    clicks.log.bounds("clicks").await.expect("bounds").into_iter().map(|kept| kept.end).collect()
}

/// Waits until the process has folded so many events, as it says itself: questions would cost the store more than the writes.
async fn until_folded(process: &Process, events: u64) {
    loop {
        let metrics = process.http.get(format!("{}/metrics", process.url)).send().await.expect("an answer");
        let metrics = metrics.text().await.expect("text");
        let folded = metrics.lines().find_map(|line| line.strip_prefix("tidemark_speed_events_total ")?.parse().ok());
        if folded.unwrap_or(0) >= events {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn until_caught_up(clicks: &Clickstream, views: &[std::sync::Arc<View>], store: &dyn ViewStore) {
    let ends = ends(clicks).await;
    for view in views {
        for (partition, end) in clicks.partitions().zip(&ends) {
            while store.progress(view, &partition).await.expect("progress").offset < *end {
                tokio::time::sleep(POLL).await;
            }
        }
    }
}
