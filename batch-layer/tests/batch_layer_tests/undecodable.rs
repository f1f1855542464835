//! Events that cannot be decoded reach the dead letters although no speed layer ever looked at them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use batch_layer::{NoProgress, Outcome, Phase};
use bytes::Bytes;
use event_log::dead_letter::{DeadLetter, DeadLetters, Origin, Undecodable, topic_of};
use event_log::{Content, EventLog, ReadLimit};
use futures::FutureExt;
use rand::Rng;
use rand::rngs::StdRng;
use views::{Offset, TopicPartition};

use crate::killed::Killer;
use crate::system::{CLICKS, System, VIEWS, seeded, soon};

/// What there is in the dead letters, by place, and how often.
async fn letters(system: &System) -> BTreeMap<(u32, Offset), Vec<DeadLetter>> {
    let topic = TopicPartition::new(topic_of("clicks").name, 0);
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    if system.log.bounds(&topic.topic).await.is_err() {
        return found;
    }
    for record in system.log.read(&topic, 0, ReadLimit::records(100_000)).await.expect("records") {
        let Content::Event { value, .. } = record.content else { panic!("a marker") };
        let letter = DeadLetter::read(&value).expect("a dead letter");
        let Origin::Log { partition, offset } = letter.origin else { panic!("{letter:?}") };
        found.entry((partition, offset)).or_default().push(letter);
    }
    found
}

/// What somebody else may write: no Avro at all, an unknown schema, an event that breaks off.
async fn append_broken(system: &System, chance: &mut StdRng) -> ((u32, Offset), Bytes) {
    let good = system.encode(&crate::system::click(chance)).value;
    let value = match chance.random_range(0..3) {
        0 => Bytes::from_static(b"not Avro"),
        1 => Bytes::from_static(&[0, 0, 0, 0xff, 0xff, 2, 2]),
        _ => good.slice(..good.len() - chance.random_range(1..4)),
    };
    let partition = chance.random_range(0..3);
    let record = Content::Event { key: None, value: value.clone() };
    let place = system.log.append(&system.partition(partition), vec![record]).await.expect("appended").start;
    ((partition, place), value)
}

#[tokio::test]
async fn each_of_them_once() {
    let mut chance = seeded("each_of_them_once");
    let system = System::new(&format!("{CLICKS}{VIEWS}")).await;
    let speed = DeadLetters::new(system.log.clone(), system.registry.clone());
    let mut broken = BTreeMap::new();
    for round in 0..6 {
        let mut new = 0;
        for _ in 0..chance.random_range(1..30) {
            let clicks = chance.random_range(0..20);
            system.append_clicks(&mut chance, clicks).await;
            let (place, value) = append_broken(&system, &mut chance).await;
            broken.insert(place, value.clone());
            if chance.random_bool(0.3) {
                // The speed layer was here.
                let (offset, reason) = (place.1, "the speed layer says so".to_owned());
                let event = Undecodable { offset, reason, original: value };
                speed.put(&system.partition(place.0), vec![event]).await.expect("put");
            } else {
                new += 1;
            }
        }
        if round % 2 == 1 {
            // A run that dies between the dead letters and the switch.
            let killer = Killer::in_phase(Phase::Publish);
            let died = AssertUnwindSafe(soon(system.layer().run(false, &killer))).catch_unwind().await;
            assert!(died.is_err(), "it survived");
            new = 0;
        }
        let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
        assert_eq!((report.outcome, report.dead_letters), (Outcome::Published, new), "round {round}");
        let letters = letters(&system).await;
        let found: BTreeMap<_, _> = letters.iter().map(|(place, of)| (*place, of[0].original.clone())).collect();
        assert_eq!(found, broken, "round {round}");
        assert!(letters.values().all(|of| of.len() == 1 && !of[0].reason.is_empty()), "round {round}: {letters:?}");
        system.assert_exact(&format!("round {round}")).await;
    }
    let full = soon(system.layer().run(true, &NoProgress)).await.expect("a full run");
    assert_eq!(full.dead_letters, 0);
    assert!(full.records_rejected >= broken.len() as u64);
}

/// No scan went through the segment to its end: it is looked at all the same.
#[tokio::test]
async fn behind_an_event_on_which_every_view_of_the_topic_fails() {
    let mut chance = seeded("behind_an_event_on_which_every_view_of_the_topic_fails");
    let sql = "
        CREATE SOURCE clicks WITH (schema = 'click.avsc', event_time = 'ts', partitions = 3);
        CREATE SOURCE visits WITH (schema = 'click.avsc', event_time = 'ts', partitions = 1);
        CREATE MATERIALIZED VIEW ratios AS SELECT url, sum(1000 / bytes) AS ratio FROM clicks GROUP BY url;
        CREATE MATERIALIZED VIEW visited AS SELECT url, count(*) AS visits FROM visits GROUP BY url;";
    let system = System::new(sql).await;
    system.append(r#"{"ts": 0, "url": "/", "status": 200, "bytes": 0}"#).await;
    let (place, value) = append_broken(&system, &mut chance).await;
    let report = soon(system.layer().run(false, &NoProgress)).await.expect("a run");
    assert!(report.views["ratios"].error.is_some() && report.views["visited"].error.is_none(), "{report:?}");
    assert_eq!(report.dead_letters, 1);
    let letters = letters(&system).await;
    assert_eq!(
        letters.into_iter().map(|(place, of)| (place, of[0].original.clone())).collect::<Vec<_>>(),
        [(place, value)]
    );
}
