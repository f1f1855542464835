//! What is tortured: an application with everything made small, so that a few seconds see many segments, seals, trims,
//! generations and retirements; its events; and the questions that are asked of its views.

use std::path::Path;

use chrono::{DateTime, SecondsFormat};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use views::Application;

/// The Avro schema of both sources.
pub const SCHEMA: &str = r#"{"type": "record", "name": "Event", "fields": [
  {"name": "n", "type": "long"},
  {"name": "id", "type": "string"},
  {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "account", "type": "string"},
  {"name": "page", "type": "string"},
  {"name": "kind", "type": "string"},
  {"name": "amount", "type": ["null", "long"], "default": null},
  {"name": "ratio", "type": "double"}
]}"#;

/// Payments are recognised when they come again; visits are not, and have no key.
const SOURCES: &str = "\
CREATE SOURCE payments WITH (schema = 'event.avsc', key = 'account', event_time = 'ts', event_id = 'id',
  dedupe_window = '2 hours', partitions = 3, segment_records = 48, retention = '50ms');
CREATE SOURCE visits WITH (schema = 'event.avsc', event_time = 'ts', partitions = 2, segment_records = 40, retention = '50ms');
";

/// Small files that the log can let go of, and a timer whose runs race with those that are asked for.
const SETTINGS: &str = "[log]\nfile_bytes = \"4KiB\"\n[batch]\nevery = \"3s\"\n[speed]\nmemory = \"8MiB\"\n";

/// The sources' names.
pub const TOPICS: [&str; 2] = ["payments", "visits"];

/// A view: its `SELECT` in pieces, from which the oracle's questions are made as well.
pub struct Subject {
    pub name: &'static str,
    /// Its source, by its place in [`TOPICS`].
    pub topic: usize,
    pub key: &'static str,
    /// Further group columns.
    groups: &'static str,
    tiles: bool,
    aggregates: &'static str,
    filter: &'static str,
    having: &'static str,
}

pub const SUBJECTS: [Subject; 5] = [
    Subject {
        name: "payments_by_minute",
        topic: 0,
        key: "account",
        groups: "",
        tiles: true,
        aggregates: "count(*) AS payments, sum(amount) AS total, avg(ratio) AS mean, approx_distinct(id) AS ids",
        filter: "WHERE kind <> 'void'",
        having: "",
    },
    Subject {
        name: "payment_story",
        topic: 0,
        key: "account",
        groups: "",
        tiles: false,
        aggregates: "array_agg(n ORDER BY ts{tie}) AS numbers, first_value(kind ORDER BY ts{tie}) AS first, \
            last_value(amount ORDER BY ratio DESC, ts{tie}) AS latest, string_agg(kind, '-' ORDER BY ts DESC{tie}) AS kinds",
        filter: "",
        having: "",
    },
    Subject {
        name: "busy_accounts",
        topic: 0,
        key: "account",
        groups: ", kind",
        tiles: false,
        aggregates: "count(*) AS n, max(amount) AS most, min(ts) AS since, count(DISTINCT page) AS pages",
        filter: "",
        having: "HAVING count(*) > 4",
    },
    Subject {
        name: "visits_by_minute",
        topic: 1,
        key: "page",
        groups: "",
        tiles: true,
        aggregates: "count(*) AS visits, count(*) FILTER (WHERE amount > 0) AS paid, approx_distinct(account) AS accounts, \
            bit_xor(n) AS fingerprint",
        filter: "",
        having: "",
    },
    Subject {
        name: "visit_story",
        topic: 1,
        key: "page",
        groups: "",
        tiles: false,
        aggregates: "array_agg(n ORDER BY ts{tie}) AS numbers, median(amount) AS middle, last_value(account ORDER BY ts{tie}) AS last",
        filter: "",
        having: "",
    },
];

impl Subject {
    /// The aggregation; for the oracle with the number of the answer as a further group, over the events of that answer.
    fn select(&self, from: &str, answer: &str, tiles: Tiles, tie: &str) -> String {
        let Self { key, groups, aggregates, filter, having, .. } = self;
        let (slot, slot_group) = match tiles {
            Tiles::Minutes if self.tiles => (", date_bin(INTERVAL '1 minute', ts) AS slot", ", slot"),
            Tiles::Hours if self.tiles => (", date_bin(INTERVAL '1 hour', ts) AS slot", ", slot"),
            _ => ("", ""),
        };
        let aggregates = aggregates.replace("{tie}", tie);
        format!(
            "SELECT {answer}{key}{groups}{slot}, {aggregates} FROM {from} {filter} \
             GROUP BY {answer}{key}{groups}{slot_group} {having}"
        )
    }

    /// What plain DataFusion is to compute, for many answers at once, over `events` with a column `answer`. What SQL leaves open
    /// in a view the log settles: where `ORDER BY` has ties, the place of an event decides.
    pub fn oracle_sql(&self, tiles: Tiles) -> String {
        self.select("events", "answer, ", tiles, ", _partition, _offset")
    }
}

/// Which tiles are one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tiles {
    Minutes,
    Hours,
    Together,
}

/// A question about one key.
#[derive(Debug, Clone)]
pub struct Question {
    /// Which view, by its place in [`SUBJECTS`].
    pub subject: usize,
    pub key: String,
    pub tiles: Tiles,
    pub explain: bool,
}

impl Question {
    pub fn random(random: &mut StdRng, era: u64) -> Self {
        let subject = random.random_range(0..SUBJECTS.len());
        let tiles = match random.random_range(0..6) {
            0 if SUBJECTS[subject].tiles => Tiles::Together,
            1 if SUBJECTS[subject].tiles => Tiles::Hours,
            _ => Tiles::Minutes,
        };
        Self { subject, key: Self::random_key_of(random, subject, era), tiles, explain: random.random_bool(0.15) }
    }

    /// A key of a view: mostly one that is written now, now and then an old one, or one that nobody has seen.
    pub fn random_key_of(random: &mut StdRng, subject: usize, era: u64) -> String {
        let era = if random.random_bool(0.1) { random.random_range(0..=era) } else { era };
        key(SUBJECTS[subject].key, era, random.random_range(0..=KEYS_OF_AN_ERA))
    }

    pub fn subject(&self) -> &'static Subject {
        &SUBJECTS[self.subject]
    }

    /// The parameters besides the key.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = Vec::new();
        match self.tiles {
            Tiles::Minutes => {}
            Tiles::Hours => options.push(("rollup", "1h".to_owned())),
            Tiles::Together => options.push(("rollup", "true".to_owned())),
        }
        if self.explain {
            options.push(("explain", "true".to_owned()));
        }
        options
    }
}

/// Keys have their time, so that the events of one key stay few however long it all goes on.
pub const KEYS_OF_AN_ERA: u64 = 8;

/// A key of an era.
pub fn key(column: &str, era: u64, number: u64) -> String {
    format!("{column} {era}/{number} é")
}

/// An event, known by its number.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub n: i64,
    pub ts: i64,
    pub account: String,
    pub page: String,
    pub kind: &'static str,
    pub amount: Option<i64>,
    pub ratio: f64,
}

impl Event {
    /// Few keys, ties and disorder in time, nulls.
    pub fn random(random: &mut StdRng, n: i64, era: u64) -> Self {
        Self {
            n,
            ts: 1_700_000_000_000_000 + random.random_range(0..900) * 1_000_000,
            account: key("account", era, random.random_range(0..KEYS_OF_AN_ERA)),
            page: key("page", era, random.random_range(0..KEYS_OF_AN_ERA)),
            kind: ["sale", "void", "refund"].choose(random).copied().unwrap_or("sale"),
            amount: random.random_bool(0.8).then(|| random.random_range(-500..1000)),
            ratio: f64::from(random.random_range(-1000..1000)) / 7.0,
        }
    }

    pub fn id(&self) -> String {
        format!("event-{}", self.n)
    }

    /// The value of a column that is the key of some view.
    pub fn key(&self, column: &str) -> &str {
        if column == "page" { &self.page } else { &self.account }
    }

    /// As it is sent.
    pub fn json(&self) -> Value {
        let at = DateTime::from_timestamp_micros(self.ts).unwrap_or_default();
        json!({
            "n": self.n, "id": self.id(), "ts": at.to_rfc3339_opts(SecondsFormat::AutoSi, true), "account": self.account,
            "page": self.page, "kind": self.kind, "amount": self.amount, "ratio": self.ratio,
        })
    }
}

/// The files of the application.
fn files() -> [(&'static str, String); 3] {
    let views = SUBJECTS.iter().map(|subject| {
        let select = subject.select(TOPICS[subject.topic], "", Tiles::Minutes, "");
        format!("CREATE MATERIALIZED VIEW {} WITH (key = '{}') AS {select};\n", subject.name, subject.key)
    });
    let sql = SOURCES.to_owned() + &views.collect::<String>();
    [("event.avsc", SCHEMA.to_owned()), ("views.sql", sql), ("tidemark.toml", SETTINGS.to_owned())]
}

/// What the application compiles to.
pub fn application() -> Application {
    integration_tests::world::compile(&files())
}

/// Writes the application to a folder.
pub fn write_application(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder for the application");
    for (name, text) in files() {
        std::fs::write(folder.join(name), text).expect("a file of the application");
    }
}
