//! Readers in no hurry.

use std::num::NonZeroU64;
use std::time::Duration;

use event_log::Pace;
use tokio::time::Instant;

fn pace(records_per_second: u64) -> Pace {
    Pace::new(NonZeroU64::new(records_per_second).expect("not 0"))
}

/// Whoever reads: together they come to the rate, and none of them gets ahead by having waited.
#[tokio::test]
async fn what_is_taken_is_waited_for() {
    let pace = pace(1000);
    let started = Instant::now();
    let mut last = started;
    for _ in 0..40 {
        let before = Instant::now();
        let next = pace.took(100);
        assert!(next >= last + Duration::from_millis(100), "each adds its own");
        assert!(next >= before + Duration::from_millis(100), "what was not used before is not made up for");
        last = next;
    }
    assert!(last >= started + Duration::from_secs(4), "4000 records at 1000 a second");
}

#[tokio::test]
async fn readers_wait_until_it_is_their_turn() {
    let pace = pace(100);
    pace.ready().await;
    let next = pace.took(5);
    pace.ready().await;
    assert!(Instant::now() >= next);
}
