//! What the deltas must be, computed by hand from the records of a partition.

use std::collections::{BTreeMap, HashSet};

use event_log::{Content, Record};
use views::Offset;

/// An event of the test topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub who: String,
    pub n: i64,
    pub id: Option<String>,
}

/// The schema of the test topic.
pub const SCHEMA: &str = r#"{"type": "record", "name": "click", "fields": [
    {"name": "who", "type": "string"}, {"name": "n", "type": "long"}, {"name": "id", "type": ["null", "string"]}]}"#;

impl Event {
    pub fn new(who: &str, n: i64) -> Self {
        Self { who: who.to_owned(), n, id: None }
    }

    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// The record that holds it.
    pub fn record(&self) -> Content {
        let mut value = vec![0, 0, 0, 0, 1];
        text(&mut value, &self.who);
        long(&mut value, self.n);
        match &self.id {
            None => long(&mut value, 0),
            Some(id) => {
                long(&mut value, 1);
                text(&mut value, id);
            }
        }
        Content::Event { key: Some(self.who.clone().into()), value: value.into() }
    }

    /// The event that a value holds, if it holds one whole.
    fn read(value: &[u8]) -> Option<Self> {
        let mut rest = value.strip_prefix(&[0, 0, 0, 0, 1])?;
        let who = read_text(&mut rest)?;
        let n = read_long(&mut rest)?;
        let id = match read_long(&mut rest)? {
            0 => None,
            _ => Some(read_text(&mut rest)?),
        };
        Some(Self { who, n, id })
    }
}

/// A record that no decoder can make an event of.
pub fn broken() -> Content {
    Content::Event { key: None, value: vec![0, 0, 0, 0, 1, 200, 1, b'x'].into() }
}

fn long(to: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left > 127 {
        to.push(left as u8 | 128);
        left >>= 7;
    }
    to.push(left as u8);
}

fn text(to: &mut Vec<u8>, value: &str) {
    long(to, value.len() as i64);
    to.extend_from_slice(value.as_bytes());
}

fn read_long(from: &mut &[u8]) -> Option<i64> {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let (first, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(first & 127) << shift;
        shift += 7;
        if first & 128 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
}

fn read_text(from: &mut &[u8]) -> Option<String> {
    let length = read_long(from)?;
    let (text, rest) = from.split_at_checked(length as usize)?;
    *from = rest;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Group to values, everything as text.
pub type Rows = BTreeMap<String, Vec<String>>;

/// How a view of the test application groups an event, and which number it takes.
#[derive(Clone, Copy)]
pub enum Shape {
    /// Per `who`: count, sum, max.
    Totals,
    /// Even `n` per `n % 5`: count, sum, min.
    Evens,
}

/// The deltas of a view by segment start and marker. `window_us`: how long ids are remembered.
pub fn deltas(
    shape: Shape,
    records: &[Record],
    segment_records: u64,
    window_us: Option<i64>,
) -> BTreeMap<(Offset, u64), Rows> {
    let duplicates = window_us.map_or_else(HashSet::new, |window| duplicates(records, window));
    let mut numbers: BTreeMap<(Offset, u64), BTreeMap<String, Vec<i64>>> = BTreeMap::new();
    let (mut start, mut highest) = (0, 0);
    for record in records {
        if record.offset % segment_records == 0 {
            start = record.offset;
        }
        match &record.content {
            Content::Marker(number) if *number > highest => (start, highest) = (record.offset + 1, *number),
            Content::Marker(_) => {}
            Content::Event { value, .. } => {
                let Some(event) = Event::read(value) else { continue };
                if duplicates.contains(&record.offset) {
                    continue;
                }
                let group = match shape {
                    Shape::Totals => event.who,
                    Shape::Evens if event.n % 2 != 0 => continue,
                    Shape::Evens => (event.n % 5).to_string(),
                };
                numbers.entry((start, highest)).or_default().entry(group).or_default().push(event.n);
            }
        }
    }
    let values = |numbers: Vec<i64>| {
        let edge = match shape {
            Shape::Totals => numbers.iter().max(),
            Shape::Evens => numbers.iter().min(),
        };
        let edge = edge.copied().unwrap_or_default();
        vec![numbers.len().to_string(), numbers.iter().sum::<i64>().to_string(), edge.to_string()]
    };
    let rows = |groups: BTreeMap<String, Vec<i64>>| groups.into_iter().map(|(group, n)| (group, values(n))).collect();
    numbers.into_iter().map(|(segment, groups)| (segment, rows(groups))).collect()
}

/// The rule as it is written: every earlier record is looked at.
pub fn duplicates(records: &[Record], window_us: i64) -> HashSet<Offset> {
    let ids = records.iter().filter_map(|record| match &record.content {
        Content::Event { value, .. } => Some((record, Event::read(value)?.id?)),
        Content::Marker(_) => None,
    });
    let ids: Vec<(&Record, String)> = ids.collect();
    let is_duplicate = |(place, (record, id)): (usize, &(&Record, String))| {
        let earlier = ids[..place].iter().filter(|(_, other)| other == id);
        let repeated = earlier.into_iter().any(|(other, _)| record.append_time - other.append_time <= window_us);
        repeated.then_some(record.offset)
    };
    ids.iter().enumerate().filter_map(is_duplicate).collect()
}
