//! Retention: tiles that are too old are not kept.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use batch_layer::NoProgress;
use chrono::{Duration, TimeZone, Utc};

use crate::system::{CLICKS, System, soon};

const MINUTE: i64 = 60_000_000;

#[tokio::test]
async fn old_tiles_are_left_out() {
    let view = "CREATE MATERIALIZED VIEW views WITH (retention = '1 hour') AS
        SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS views FROM clicks GROUP BY url, minute;
        CREATE MATERIALIZED VIEW months WITH (retention = '1 hour') AS
        SELECT url, date_trunc('month', ts) AS month, count(*) AS views FROM clicks GROUP BY url, month;
        CREATE MATERIALIZED VIEW totals WITH (retention = '1 hour') AS
        SELECT url, count(*) AS views FROM clicks GROUP BY url;";
    let mut system = System::new(&format!("{CLICKS}{view}")).await;
    let start = Utc.with_ymd_and_hms(2026, 3, 1, 12, 0, 0).single().expect("a time");
    for minute in 0..180 {
        let ts = start.timestamp_micros() + minute * MINUTE + 1;
        system.append(&format!(r#"{{"ts": {ts}, "url": "/", "status": 200, "bytes": 1}}"#)).await;
    }
    let tiles = async |system: &System| -> BTreeSet<i64> {
        let (answer, _) = system.answer(&system.application.views[0]).await;
        let tiles = arrow::compute::cast(answer.column(1), &micros()).expect("a time");
        let tiles = tiles.as_primitive::<TimestampMicrosecondType>();
        tiles.values().iter().map(|tile| (tile - start.timestamp_micros()) / MINUTE).collect()
    };
    system.now = start + Duration::minutes(30);
    soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert_eq!(tiles(&system).await, (0..180).collect(), "nothing is an hour old");

    system.now = start + Duration::minutes(180);
    soon(system.layer().run(true, &NoProgress)).await.expect("a run");
    assert_eq!(tiles(&system).await, (120..180).collect(), "tile 119 ended an hour ago");
    system.assert_exact("an hour").await;

    system.now = start + Duration::days(300);
    let report = soon(system.layer().run(true, &NoProgress)).await.expect("a run");
    assert_eq!(tiles(&system).await, BTreeSet::new());
    let rows: Vec<u64> = ["views", "months", "totals"].map(|view| report.views[view].rows).into();
    assert_eq!(rows, [0, 1, 1], "a month may be part of a tile that is not over; no tiles, no retention");
    system.assert_exact("long after").await;
}

fn micros() -> arrow::datatypes::DataType {
    arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("+00:00".into()))
}
