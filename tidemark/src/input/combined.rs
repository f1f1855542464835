//! Access logs in the combined format of Apache and nginx, as events of the clickstream application.
//!
//! ```text
//! 83.149.9.216 - ada [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 203023 "http://example.org/" "Mozilla/5.0 …"
//! ```
//!
//! What the log does not say is made up, and always in the same way: an `id` from file name, line number and line; a
//! `session_id` from address and user agent, a new one after 30 minutes without a request.

use std::collections::HashMap;
use std::sync::LazyLock;

use chrono::DateTime;
use regex::bytes::{Captures, Regex};
use serde_json::{Value, json};

/// A pause longer than this ends a session.
const SESSION_GAP_US: i64 = 30 * 60 * 1_000_000;

/// Every so many lines, sessions that are over are forgotten.
const SWEEP_LINES: u64 = 100_000;

static LINE: LazyLock<Regex> = LazyLock::new(|| {
    // Inside quotes, a backslash escapes the next character.
    let pattern = r#"(?-u)^(\S+) \S+ (.+?) \[([^\]]+)\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-)(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)")?\s*$"#;
    Regex::new(pattern).expect("the pattern is a constant")
});

/// Reads one file, line by line.
#[derive(Debug)]
pub struct CombinedLog {
    file: String,
    lines: u64,
    sessions: HashMap<u64, OpenSession>,
}

#[derive(Debug, Clone, Copy)]
struct OpenSession {
    started_us: i64,
    last_us: i64,
}

impl CombinedLog {
    /// A log called `file`: the name goes into the ids.
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), lines: 0, sessions: HashMap::new() }
    }

    /// The event of the next line.
    ///
    /// # Errors
    ///
    /// Why the line is not in this format, in words.
    pub fn event(&mut self, line: &[u8]) -> Result<Value, String> {
        self.lines += 1;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let parts = LINE.captures(line).ok_or("not a line in the combined log format")?;
        let text = |group: usize| unescaped(part(&parts, group));

        let ts = DateTime::parse_from_str(&text(3), "%d/%b/%Y:%H:%M:%S %z")
            .map_err(|error| format!("time `{}`: {error}", text(3)))?
            .timestamp_micros();
        let request = text(4);
        let mut words = request.split(' ');
        let (Some(method), Some(url)) = (words.next(), words.next()) else {
            return Err(format!("request `{request}` is not a method and a path"));
        };
        let dash_is = |text: String, other: Value| if text == "-" || text.is_empty() { other } else { json!(text) };
        let status: u32 = text(5).parse().map_err(|_| "status is not a number".to_owned())?;
        let bytes = text(6);
        let bytes: i64 = if bytes == "-" { 0 } else { bytes.parse().map_err(|_| "size is out of range".to_owned())? };

        Ok(json!({
            "id": self.id(line),
            "ts": ts,
            "session_id": self.session(part(&parts, 1), part(&parts, 8), ts),
            "user_id": dash_is(text(2), Value::Null),
            "method": method,
            "url": url,
            "status": status,
            "bytes": bytes,
            "ip": text(1),
            "user_agent": dash_is(text(8), json!("")),
            "referrer": dash_is(text(7), Value::Null),
        }))
    }

    fn id(&self, line: &[u8]) -> String {
        let hash = fnv1a_128(&[self.file.as_bytes(), &self.lines.to_be_bytes(), line]);
        let (high, low) = ((hash >> 64) as u64, hash as u64);
        // Version 8: a UUID of one's own making.
        format!(
            "{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            0x8000 | low >> 48 & 0x3fff,
            low & 0xffff_ffff_ffff
        )
    }

    fn session(&mut self, ip: &[u8], agent: &[u8], ts: i64) -> String {
        if self.lines.is_multiple_of(SWEEP_LINES) {
            self.sessions.retain(|_, open| ts - open.last_us <= SESSION_GAP_US);
        }
        let visitor = fnv1a_128(&[ip, b" ", agent]) as u64;
        let new = OpenSession { started_us: ts, last_us: ts };
        let open = self.sessions.entry(visitor).or_insert(new);
        if (ts - open.last_us).abs() > SESSION_GAP_US {
            *open = new;
        }
        open.last_us = open.last_us.max(ts);
        format!("{visitor:016x}-{:x}", open.started_us / 1_000_000)
    }
}

fn part<'a>(parts: &Captures<'a>, group: usize) -> &'a [u8] {
    parts.get(group).map_or(b"", |found| found.as_bytes())
}

/// The text of a quoted part: `\"` and `\\` undone, `\xhh` left as the server wrote it. Bytes that are not UTF-8 become
/// the replacement character, as a browser would show them.
fn unescaped(part: &[u8]) -> String {
    let text = String::from_utf8_lossy(part);
    if text.contains('\\') { text.replace("\\\"", "\"").replace("\\\\", "\\") } else { text.into_owned() }
}

/// FNV-1a: the same on every machine and in every version, which the standard library's hash does not promise.
fn fnv1a_128(parts: &[&[u8]]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    parts.iter().flat_map(|part| part.iter()).fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}
