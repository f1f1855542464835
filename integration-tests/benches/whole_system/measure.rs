//! Medians, percentiles, and what else went on on the machine.

use std::time::{Duration, Instant};

/// The middle of some numbers; 0 when there are none.
pub fn median(numbers: &[f64]) -> f64 {
    percentile(numbers, 0.5)
}

/// A percentile (0 to 1) of some numbers; 0 when there are none.
pub fn percentile(numbers: &[f64], part: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or(0.0)
}

/// The median of the ratios of two rows of numbers that were measured in turns.
pub fn median_ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

/// Seconds, by the clock and by what this process had of the processors. The second are what a busy machine changes least.
#[derive(Debug, Clone, Copy)]
pub struct Seconds {
    /// By the clock.
    pub clock: f64,
    /// Of processor time, all threads together.
    pub processor: f64,
}

/// Measures [`Seconds`].
pub struct Stopwatch(Instant, f64);

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Self(Instant::now(), processor_seconds("self"))
    }

    /// Until now.
    pub fn stop(&self) -> Seconds {
        Seconds { clock: self.0.elapsed().as_secs_f64(), processor: processor_seconds("self") - self.1 }
    }
}

/// The processor time that a process has had, by its id or `self`.
pub fn processor_seconds(process: &str) -> f64 {
    // After the name in parentheses: user and system time are the 12th and 13th, in hundredths of a second.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// In milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A large number, readable: `1.23 M`, `45.6 k`.
pub fn short(number: f64) -> String {
    match number {
        large if large >= 1e6 => format!("{:.2} M", large / 1e6),
        some if some >= 1e3 => format!("{:.1} k", some / 1e3),
        few => format!("{few:.0}"),
    }
}

/// The share of the machine's processor time that others than the idle took from `before` on, per core.
pub struct Busy(Option<[u64; 2]>);

impl Busy {
    /// From now on.
    pub fn since_now() -> Self {
        Self(processor_time())
    }

    /// How busy the machine was, as a remark.
    pub fn remark(&self) -> String {
        let (Some([busy, all]), Some([busy_now, all_now])) = (self.0, processor_time()) else {
            return "the machine's load is not known".to_owned();
        };
        let share = (busy_now - busy) as f64 / (all_now - all).max(1) as f64;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        format!("cores busy {:.0} %, load {}", share * 100.0, load.split(' ').next().unwrap_or_default())
    }
}

/// The processor time that the whole machine has given, but for the idle.
pub fn machine_seconds() -> f64 {
    processor_time().map_or(0.0, |[busy, _]| busy as f64 / 100.0)
}

/// Busy and all, in hundredths of a second.
fn processor_time() -> Option<[u64; 2]> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let times: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|time| time.parse().ok()).collect();
    let all: u64 = times.iter().take(8).sum();
    let idle = times.get(3)? + times.get(4)?;
    Some([all - idle, all])
}
