//! Repeated deliveries are left out: by a window over the archive here, by a map over the log in the oracle.

use batch_layer::NoProgress;
use rand::Rng;

use crate::system::{System, seeded, soon};

const SQL: &str = "
CREATE SOURCE clicks WITH (schema = 'click.avsc', key = 'user', event_time = 'ts', event_id = 'id',
    dedupe_window = '10 seconds', partitions = 3, segment_records = 32);
CREATE MATERIALIZED VIEW users AS
SELECT user, count(*) AS clicks, sum(bytes) AS bytes, array_agg(id) AS ids FROM clicks GROUP BY user;
CREATE MATERIALIZED VIEW places AS
SELECT url, max(_offset) AS last, count(DISTINCT _partition) AS partitions FROM clicks WHERE status < 400 GROUP BY url;
";

#[tokio::test]
async fn by_id_partition_and_window() {
    let system = System::new(SQL).await;
    let mut time = 0;
    let append = async |time: i64, id: &str, user: &str| {
        system.log.set_time(time * 1_000_000);
        let event = format!(r#"{{"ts": 0, "id": {id}, "url": "/", "user": "{user}", "status": 200, "bytes": 1}}"#);
        system.append(&event).await;
    };
    // Counts; repeated; exactly as late as the window: repeated; later than that: counts.
    for late in [0, 3, 10, 11] {
        time += late;
        append(time, "\"a\"", "ann").await;
    }
    // Without an id, everything counts.
    append(time, "null", "ann").await;
    append(time, "null", "ann").await;
    soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    let (answer, _) = system.answer(&system.application.views[0]).await;
    let clicks = datafusion::scalar::ScalarValue::try_from_array(answer.column(1), 0).expect("a value");
    assert_eq!(clicks, datafusion::scalar::ScalarValue::Int64(Some(4)));
    system.assert_exact("by hand").await;
}

#[tokio::test]
async fn as_the_oracle_does() {
    let mut chance = seeded("as_the_oracle_does");
    let system = System::new(SQL).await;
    let mut time = 0_i64;
    for round in 0..4 {
        for _ in 0..250 {
            time += chance.random_range(0..2_000_000);
            system.log.set_time(time);
            let id = match chance.random_range(0..10) {
                0 => "null".to_owned(),
                _ => format!("\"{}\"", chance.random_range(0..20)),
            };
            let event = format!(
                r#"{{"ts": {time}, "id": {id}, "url": "/{}", "user": "{}", "status": {}, "bytes": {}}}"#,
                chance.random_range(0..3),
                chance.random_range(0..4),
                [200, 404][chance.random_range(0..2)],
                chance.random_range(0..100)
            );
            system.append(&event).await;
        }
        soon(system.layer().run(false, &NoProgress)).await.expect("a run");
        system.assert_exact(&format!("round {round}")).await;
    }
}
