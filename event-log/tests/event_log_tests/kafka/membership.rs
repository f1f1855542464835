//! Members of a group share partitions.

use std::collections::BTreeSet;
use std::time::Duration;

use event_log::KafkaLog;
use event_log::kafka::{Assigned, Membership};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::watch;
use views::TopicPartition;

use super::{connect, foreign, new_name, options, spec};

type Owned = watch::Receiver<Assigned>;

async fn wait_for(what: &str, owned: &[&Owned], is_so: impl Fn(&[BTreeSet<TopicPartition>]) -> bool) {
    println!("waiting until {what}");
    let mut owned: Vec<Owned> = owned.iter().map(|owned| (*owned).clone()).collect();
    let reached = async {
        loop {
            let now: Vec<_> = owned.iter_mut().map(|owned| owned.borrow_and_update().partitions.clone()).collect();
            if is_so(&now) {
                return;
            }
            let changed = owned.iter_mut().map(|owned| Box::pin(owned.changed()));
            futures::future::select_all(changed).await.0.expect("a member");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached)
        .await
        .unwrap_or_else(|_| panic!("it never came that {what}"));
}

#[tokio::test]
async fn members_share_partitions_and_take_over_from_those_who_go() {
    let log = connect().await;
    let topics = [new_name("shared"), new_name("shared")];
    for topic in &topics {
        log.create_topic(&spec(topic, 3)).await.expect("create topic");
    }
    let all: BTreeSet<TopicPartition> =
        topics.iter().flat_map(|topic| (0..3).map(|number| TopicPartition::new(topic.as_str(), number))).collect();
    let group = new_name("group");
    let kafka = KafkaLog::connect(options()).await.expect("connect");
    let join = || Membership::join(&kafka, &group, &topics).expect("join");
    let shared = |owned: &[BTreeSet<TopicPartition>]| {
        let held: Vec<_> = owned.iter().flatten().collect();
        held.len() == all.len() && owned.iter().all(|owned| owned.len() * owned.len().max(1) > 0)
    };

    let one = join();
    wait_for("one has all", &[&one.assigned()], |owned| owned[0] == all).await;
    let two = join();
    wait_for("two share", &[&one.assigned(), &two.assigned()], |owned| {
        shared(owned) && owned[0].is_disjoint(&owned[1])
    })
    .await;

    let first = TopicPartition::new(topics[0].as_str(), 0);
    let committer = if one.assigned().borrow().partitions.contains(&first) { &one } else { &two };
    committer.commit(&first, 17);
    println!("waiting for the commit to be seen by others");
    let (seen_by, asked) =
        (foreign(&[("group.id", &group)]).create::<BaseConsumer>().expect("a consumer"), first.clone());
    let committed = tokio::task::spawn_blocking(move || {
        loop {
            let mut place = TopicPartitionList::new();
            place.add_partition(&asked.topic, 0);
            let offsets = seen_by.committed_offsets(place, Duration::from_secs(10)).expect("committed offsets");
            if let rdkafka::Offset::Offset(offset) = offsets.elements()[0].offset() {
                return offset;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), committed).await.expect("a commit").expect("ask"), 17);

    two.leave().await;
    wait_for("one has all again", &[&one.assigned()], |owned| owned[0] == all).await;
    let three = join();
    wait_for("two share again", &[&one.assigned(), &three.assigned()], shared).await;
    drop(one);
    wait_for("the last one has all", &[&three.assigned()], |owned| owned[0] == all).await;
    three.leave().await;
}
