use super::*;
use event_log::*;
use std::time::Instant;
use views::TopicPartition;
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn scratch() {
    let log = connect().await;
    for i in 0..6 {
        let name = format!("scratch-{}", uuid::Uuid::new_v4());
        let t = Instant::now();
        log.create_topic(&TopicSpec { name: name.clone(), partitions: 1, segment_records: 10 }).await.unwrap();
        let a = t.elapsed();
        let p = TopicPartition::new(name.as_str(), 0);
        log.append(&p, vec![Content::Marker(1)]).await.unwrap();
        let b = t.elapsed();
        log.append(&p, vec![Content::Marker(1)]).await.unwrap();
        let c = t.elapsed();
        assert!(!log.read(&p, 0, ReadLimit::records(1)).await.unwrap().is_empty());
        let d = t.elapsed();
        assert!(!log.read(&p, 0, ReadLimit::records(1)).await.unwrap().is_empty());
        let e = t.elapsed();
        println!("{i}: create {a:?} append {:?} append {:?} read {:?} read {:?}", b - a, c - b, d - c, e - d);
    }
}
