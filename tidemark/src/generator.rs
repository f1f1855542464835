//! Made-up clicks that look like real traffic: what the demo, the tests and the benches feed in.
//!
//! Pages and users are skewed (Zipf), users come in sessions of several clicks with the page before as referrer, 15 % of the
//! events are seconds out of order, a few are minutes late, and one in a thousand is broken in one of the ways in which
//! real producers break. The same options give the same bytes.
//!
//! Time is the caller's: events carry [`Clicks::clock`], which moves on by itself by `step_us` an event and can be set.

use std::io::Write as _;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};

/// What the traffic is like.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    /// Equal seeds give equal events.
    pub seed: u64,
    /// How many different users there are.
    pub users: u64,
    /// How many different pages there are.
    pub pages: u64,
    /// How many sessions go on at once.
    pub open_sessions: usize,
    /// The first event's time: microseconds since the epoch.
    pub start_us: i64,
    /// How much later each event is than the one before, on average and before disorder.
    pub step_us: i64,
    /// How many of a million events are out of order by up to five seconds.
    pub disordered_ppm: u32,
    /// How many of a million events are one to ten minutes late.
    pub late_ppm: u32,
    /// How many of a million events are broken.
    pub broken_ppm: u32,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            seed: 1,
            users: 5_000,
            pages: 400,
            open_sessions: 300,
            start_us: 1_767_225_600_000_000, // 2026-01-01T00:00:00Z
            step_us: 2_000,
            disordered_ppm: 150_000,
            late_ppm: 3_000,
            broken_ppm: 1_000,
        }
    }
}

/// An endless iterator of events of the clickstream application, each one line of JSON without a line break.
#[derive(Debug)]
pub struct Clicks {
    traffic: Traffic,
    random: SmallRng,
    users: Zipf<f64>,
    pages: Zipf<f64>,
    sessions: Vec<Session>,
    clock_us: i64,
    broken: u64,
}

/// One visit that goes on.
#[derive(Debug, Clone)]
struct Session {
    id: u64,
    user: Option<u64>,
    /// What does not change during a session is drawn from this number.
    browser: u64,
    /// The page seen last; `None` before the first click.
    page: Option<u64>,
}

const AGENTS: [&str; 8] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "curl/8.10.1",
];
const SITES: [&str; 6] = [
    "https://www.google.com/",
    "https://www.bing.com/search?q=shop",
    "https://news.ycombinator.com/item?id=4242",
    "https://old.reddit.com/r/rust/",
    "https://duckduckgo.com/",
    "https://newsletter.example.org/2026/week-1",
];
const COUNTRIES: [&str; 8] = ["US", "DE", "IN", "BR", "FR", "JP", "GB", "NG"];
const OWN_SITE: &str = "https://shop.example.com";

impl Clicks {
    /// Ordinary traffic.
    pub fn new(seed: u64) -> Self {
        Self::with(Traffic { seed, ..Traffic::default() })
    }

    /// Traffic of another kind. At least one user, page and session there always is.
    pub fn with(traffic: Traffic) -> Self {
        let zipf = |n: u64, exponent: f64| {
            #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 users")]
            let n = n.max(1) as f64;
            // One element and a positive exponent are all it asks for.
            Zipf::new(n, exponent).or_else(|_| Zipf::new(1.0, 1.0)).expect("a Zipf distribution of one element")
        };
        let mut random = SmallRng::seed_from_u64(traffic.seed);
        let users = zipf(traffic.users, 0.7);
        let sessions = (0..traffic.open_sessions.max(1)).map(|_| Session::begin(&mut random, &users)).collect();
        let clock_us = traffic.start_us;
        Self { pages: zipf(traffic.pages, 1.05), users, random, sessions, clock_us, broken: 0, traffic }
    }

    /// The time of the next event that is in order: microseconds since the epoch.
    pub fn clock(&self) -> i64 {
        self.clock_us
    }

    /// Sets the clock.
    pub fn set_clock(&mut self, us: i64) {
        self.clock_us = us;
    }

    /// How many of the events so far were broken: none of these will be accepted, all others will.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Appends the next event to `out`.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        let random = &mut self.random;
        let slot = random.random_range(0..self.sessions.len());
        if self.sessions[slot].page.is_some() && random.random_ratio(1, 7) {
            self.sessions[slot] = Session::begin(random, &self.users);
        }
        let session = &mut self.sessions[slot];
        let page = rank(self.pages.sample(random));
        let before = session.page.replace(page);

        self.clock_us += self.traffic.step_us;
        let chance = random.random_range(0..1_000_000_u32);
        let (disordered, late) = (self.traffic.disordered_ppm, self.traffic.late_ppm);
        let ts = match chance {
            _ if chance < late => self.clock_us - random.random_range(60_000_000..600_000_000_i64),
            _ if chance < late.saturating_add(disordered) => {
                self.clock_us - random.random_range(500_000..5_000_000_i64)
            }
            _ => self.clock_us,
        };
        let (status, method) = match random.random_range(0..1000) {
            0..8 => (500, "GET"),
            8..38 => (404, "GET"),
            38..70 => (302, "GET"),
            70..140 => (200, "POST"),
            140..190 => (304, "GET"),
            _ => (200, "GET"),
        };
        let bytes = if status == 200 { 400 + page * 37 % 9000 + random.random_range(0..4000) } else { 0 };
        // Most answers are quick, a few are slow: the square of a uniform number, scaled.
        let slowness: u32 = random.random_range(0..1000);
        let duration_ms = 2 + slowness * slowness / 4000 + u32::from(status == 500) * 900;

        let start = out.len();
        let (high, low): (u64, u64) = (random.random(), random.random());
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "{{\"id\":\"{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}\",\"ts\":{ts},\"session_id\":\"s-{:x}\",\"user_id\":",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            0x8000 | low >> 48 & 0x3fff,
            low & 0xffff_ffff_ffff,
            session.id,
        );
        let _ = match session.user {
            Some(user) => write!(out, "\"user-{user}\""),
            None => write!(out, "null"),
        };
        let _ = write!(out, ",\"method\":\"{method}\",\"url\":\"");
        write_url(out, page);
        let _ = write!(out, "\",\"status\":{status},\"bytes\":{bytes},\"duration_ms\":{duration_ms},\"ip\":\"");
        let browser = session.browser;
        let _ = write!(
            out,
            "{}.{}.{}.{}",
            11 + browser % 180,
            browser >> 8 & 255,
            browser >> 16 & 255,
            browser >> 24 & 255
        );
        let _ = write!(out, "\",\"user_agent\":\"{}\",\"referrer\":", pick(&AGENTS, browser >> 32));
        match before {
            Some(page) => {
                let _ = write!(out, "\"{OWN_SITE}");
                write_url(out, page);
                out.push(b'"');
            }
            None if browser >> 40 & 3 == 0 => out.extend_from_slice(b"null"),
            None => {
                let _ = write!(out, "\"{}\"", pick(&SITES, browser >> 42));
            }
        }
        let _ = write!(out, ",\"country\":\"{}\"}}", pick(&COUNTRIES, browser >> 50));

        if self.traffic.broken_ppm > 0 && random.random_ratio(self.traffic.broken_ppm.min(1_000_000), 1_000_000) {
            self.broken += 1;
            let kind = random.random_range(0..6);
            break_it(out, start, kind);
        }
    }
}

impl Iterator for Clicks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut event = Vec::with_capacity(512);
        self.write(&mut event);
        Some(event)
    }
}

impl Session {
    fn begin(random: &mut SmallRng, users: &Zipf<f64>) -> Self {
        let user = random.random_ratio(3, 5).then(|| rank(users.sample(random)));
        // A user keeps the same browser; a visitor who is not signed in may have any.
        let browser = match user {
            Some(user) => user.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9),
            None => random.random(),
        };
        Self { id: random.random(), user, browser, page: None }
    }
}

/// A sample of a Zipf distribution: a whole number from 1.
fn rank(sample: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number from 1 to a u64")]
    let rank = sample as u64;
    rank
}

fn pick<'a>(from: &[&'a str], number: u64) -> &'a str {
    let len = from.len() as u64;
    from[usize::try_from(number % len).unwrap_or(0)]
}

/// The path of the page of a rank: the home page is the most popular one.
fn write_url(out: &mut Vec<u8>, page: u64) {
    let _ = match page {
        1 => write!(out, "/"),
        2 => write!(out, "/search"),
        3 => write!(out, "/cart"),
        4 => write!(out, "/login"),
        5..20 => write!(out, "/category/{}", page - 4),
        _ => write!(out, "/products/{}", page - 19),
    };
}

/// Breaks the event that begins at `start`, in one of the ways in which producers break.
fn break_it(out: &mut Vec<u8>, start: usize, kind: u32) {
    match kind {
        0 => replace(out, start, b"\"country\":", b"\"utm_campaign\":\"spring\",\"country\":"),
        1 => replace(out, start, b"\"status\":", b"\"status\":99999999"),
        2 => out.truncate(start + (out.len() - start) / 2),
        3 => replace(out, start, b"\"bytes\":", b"\"bytes\":\"many\",\"was\":"),
        4 => replace(out, start, b"\"session_id\":", b"\"session\":"),
        _ => replace(out, start, b"\"ts\":", b"\"ts\":\"yesterday\",\"time\":"),
    }
}

fn replace(out: &mut Vec<u8>, start: usize, what: &[u8], with: &[u8]) {
    if let Some(at) = out[start..].windows(what.len()).position(|window| window == what) {
        out.splice(start + at..start + at + what.len(), with.iter().copied());
    }
}
