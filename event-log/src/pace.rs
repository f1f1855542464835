//! How fast the log may be read by somebody who is in no hurry, so that others notice nothing of it.

use std::num::NonZeroU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// So many records a second, for everybody who shares it. What was not used is not made up for: no bursts.
#[derive(Debug)]
pub struct Pace {
    records_per_second: NonZeroU64,
    /// When the next ones may be read.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// So many records a second.
    pub fn new(records_per_second: NonZeroU64) -> Self {
        Self { records_per_second, next: Mutex::default() }
    }

    /// Waits until more may be read. May be dropped.
    pub async fn ready(&self) {
        loop {
            let next = *self.next.lock();
            match next {
                Some(next) if next > Instant::now() => tokio::time::sleep_until(next).await,
                _ => return,
            }
        }
    }

    /// So many were read just now. Returns when more may be.
    pub fn took(&self, records: usize) -> Instant {
        let takes = Duration::from_secs_f64(records as f64 / self.records_per_second.get() as f64);
        let mut next = self.next.lock();
        let now = Instant::now();
        let after = next.map_or(now, |next| next.max(now)) + takes;
        *next = Some(after);
        after
    }
}
