//! Memory is bounded by configuration, not by the number of groups.

use batch_layer::{NoProgress, Settings};
use bytes::Bytes;
use event_log::{Content, EventLog};
use rand::Rng;

use crate::system::{System, seeded, soon};

const SQL: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 3, segment_records = 4096);
CREATE MATERIALIZED VIEW visits AS
SELECT user, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS visits, sum(bytes) AS bytes, min(url) AS first,
       array_agg(status ORDER BY ts) AS statuses
FROM clicks GROUP BY user, minute;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_groups_than_memory() {
    let mut chance = seeded("more_groups_than_memory");
    let system = System::new(SQL).await;
    let events = 60_000;
    for _ in 0..events / 1000 {
        let events: Vec<Content> = (0..1000).map(|_| event(&system, &mut chance)).collect();
        let partition = system.partition(chance.random_range(0..3));
        system.log.append(&partition, events).await.expect("appended");
    }
    let settings = Settings { memory_bytes: 4 << 20, batch_rows: 1024, ..system.settings() };
    let report = soon(system.layer_with(settings).run(false, &NoProgress)).await.expect("a run");
    let view = &report.views["visits"];
    assert_eq!(view.error, None);
    assert_eq!(report.records_read, events);
    assert!(view.rows > events / 2, "{view:?}");
    assert!(report.bytes_spilled > 1 << 20, "{report:?}");
    system.assert_exact("spilled").await;
}

/// Finding repeated deliveries sorts all events by id, which spills as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_ids_than_memory() {
    let mut chance = seeded("more_ids_than_memory");
    let sql = SQL.replace("event_time = 'ts',", "event_time = 'ts', event_id = 'id', dedupe_window = '1 hour',");
    let system = System::new(&sql).await;
    for _ in 0..30 {
        let events: Vec<Content> = (0..1000).map(|_| event(&system, &mut chance)).collect();
        let partition = system.partition(chance.random_range(0..3));
        system.log.append(&partition, events.clone()).await.expect("appended");
        // The whole delivery again.
        system.log.append(&partition, events).await.expect("appended");
    }
    let settings = Settings { memory_bytes: 16 << 20, batch_rows: 1024, ..system.settings() };
    let report = soon(system.layer_with(settings).run(false, &NoProgress)).await.expect("a run");
    assert_eq!(report.views["visits"].error, None);
    assert_eq!(report.records_read, 60_000);
    assert!(report.bytes_spilled > 1 << 20, "{report:?}");
    system.assert_exact("spilled").await;
}

fn event(system: &System, chance: &mut impl Rng) -> Content {
    let user = chance.random_range(0..30_000);
    let minute = chance.random_range(0..10_i64);
    let event = format!(
        r#"{{"ts": {}, "id": "{:x}", "url": "/{}", "user": "a user with the long name {user}", "status": {}, "bytes": 7}}"#,
        1_700_000_000_000_000 + minute * 60_000_000,
        chance.random::<u128>(),
        chance.random_range(0..100),
        chance.random_range(0..600),
    );
    let value: Bytes = system.encode(&event).value;
    Content::Event { key: None, value }
}
