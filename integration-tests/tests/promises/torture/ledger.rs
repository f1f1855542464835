//! What must be: the records of the log, and what plain DataFusion computes over them.
//!
//! Events are decoded by the reference implementation of Avro, and must be what was sent, number by number.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow::record_batch::RecordBatch;
use datafusion::prelude::{SessionConfig, SessionContext};
use event_log::archive::Archive;
use event_log::dead_letter::DeadLetter;
use event_log::tiered::TieredLog;
use event_log::{Content, EmbeddedLog, EmbeddedOptions, EventLog, ReadLimit, Record};
use object_store::local::LocalFileSystem;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tidemark::backends::Backends;
use tidemark::settings::Settings;
use views::{Application, Offset, Source, TopicPartition};

use super::clients::{Acknowledged, Answer};
use super::subject::{Event, SCHEMA, SUBJECTS, TOPICS, Tiles};

/// How many events one question to DataFusion is about, about.
const EVENTS_AT_ONCE: usize = 20_000;

/// An event at its place.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Placed {
    number: i64,
    offset: Offset,
    partition: u32,
    append_time: i64,
}

/// The records of the log, as far as they were read.
pub struct Ledger {
    application: Application,
    /// Whether others append to the same partitions at the same moment: the records of one append keep their order, and others
    /// may lie between them.
    is_shared: bool,
    schema: apache_avro::Schema,
    /// By offset; `None` is a marker.
    records: BTreeMap<TopicPartition, Vec<Option<Placed>>>,
    /// The events that count, under each key of each topic's views.
    counting: HashMap<(usize, &'static str, String), Vec<Placed>>,
    /// When an id came last, by partition.
    seen: HashMap<(u32, i64), i64>,
    /// Where the events of the topic without ids are: each once.
    visits: HashSet<i64>,
    letters: HashSet<(usize, String)>,
    /// How many events were in the log, and how many of them had come before.
    pub events: usize,
    pub repeated: usize,
}

impl Ledger {
    pub fn new(is_shared: bool) -> Self {
        Self {
            application: super::subject::application(),
            is_shared,
            schema: apache_avro::Schema::parse_str(SCHEMA).expect("a schema"),
            records: BTreeMap::new(),
            counting: HashMap::new(),
            seen: HashMap::new(),
            visits: HashSet::new(),
            letters: HashSet::new(),
            events: 0,
            repeated: 0,
        }
    }

    fn source(&self, topic: usize) -> &Arc<Source> {
        let found = self.application.sources.iter().find(|source| *source.name == *TOPICS[topic]);
        found.expect("the application has both sources")
    }

    /// How far the log was read.
    pub fn end(&self) -> views::Position {
        self.records.iter().map(|(partition, records)| (partition.clone(), records.len() as Offset)).collect()
    }

    /// Reads what came since. `sent`: every event there ever was, by its number; asked for after reading, as clients go on.
    pub async fn read_on(&mut self, log: &OpenLog, sent: impl Fn() -> Vec<Event>) {
        let mut came: Vec<(usize, TopicPartition, Vec<Record>)> = Vec::new();
        for (topic, name) in TOPICS.into_iter().enumerate() {
            for number in 0..self.source(topic).partitions {
                let partition = TopicPartition::new(name, number);
                let next = self.records.get(&partition).map_or(0, |known| known.len() as Offset);
                let records = log.read(&partition, next).await;
                came.push((topic, partition, records));
            }
        }
        let sent = sent();
        for (topic, partition, records) in came {
            let mut known = self.records.remove(&partition).unwrap_or_default();
            for record in records {
                // The archive does not keep markers that cut nothing. An acknowledged event that is left out shows.
                known.resize(record.offset as usize, None);
                known.push(self.place(topic, partition.partition, &record, &sent));
            }
            self.records.insert(partition, known);
        }
        self.letters.clear();
        for (number, topic) in TOPICS.into_iter().enumerate() {
            for record in log.read(&TopicPartition::new(format!("{topic}.dead-letters"), 0), 0).await {
                let Content::Event { value, .. } = record.content else { continue };
                let letter = DeadLetter::read(&value).expect("a dead letter");
                self.letters.insert((number, String::from_utf8_lossy(&letter.original).into_owned()));
            }
        }
    }

    /// An event of the log, found to be one that was sent.
    fn place(&mut self, topic: usize, partition: u32, record: &Record, sent: &[Event]) -> Option<Placed> {
        let Content::Event { value, .. } = &record.content else { return None };
        let reader = GenericDatumReader::builder(&self.schema).build().expect("a reader");
        // A zero byte and the schema's id come first.
        let decoded = reader.read_value(&mut &value[5..]).expect("an Avro datum");
        let number = number_of(&decoded);
        let event = usize::try_from(number).ok().and_then(|number| sent.get(number));
        let event = event.unwrap_or_else(|| panic!("nobody sent {decoded:?}"));
        assert_eq!(decoded, avro(event), "what is in the log is what was sent");
        let placed = Placed { number, offset: record.offset, partition, append_time: record.append_time };
        self.events += 1;
        let source = self.source(topic).clone();
        let counts = if source.event_id.is_some() {
            let window = source.dedupe_window.as_micros() as i64;
            let before = self.seen.insert((partition, number), record.append_time);
            before.is_none_or(|before| record.append_time - before > window)
        } else {
            assert!(self.visits.insert(number), "event {number} is there twice: {placed:?}");
            true
        };
        if !counts {
            self.repeated += 1;
            return Some(placed);
        }
        let mut columns: Vec<&'static str> =
            SUBJECTS.iter().filter(|subject| subject.topic == topic).map(|subject| subject.key).collect();
        columns.dedup();
        for column in columns {
            self.counting.entry((topic, column, event.key(column).to_owned())).or_default().push(placed);
        }
        Some(placed)
    }

    /// Reads everything again from its start: no record may have changed, none may be gone.
    pub async fn read_again(&self, log: &OpenLog, sent: impl Fn() -> Vec<Event>) {
        let mut again = Self::new(self.is_shared);
        again.read_on(log, sent).await;
        for (partition, records) in &self.records {
            let now = &again.records[partition];
            assert!(now.len() >= records.len(), "{partition} ended at {} and ends at {}", records.len(), now.len());
            for (offset, (before, now)) in records.iter().zip(now).enumerate() {
                assert_eq!(before, now, "{partition}@{offset} has changed");
            }
        }
    }

    /// Everything acknowledged is there, in order, right before the place that the acknowledgement names.
    pub fn check_acknowledged(&self, acknowledged: &Acknowledged) {
        let Acknowledged { topic, numbers, position } = acknowledged;
        let mut missing: HashSet<i64> = numbers.iter().copied().collect();
        for (partition, end) in position.iter() {
            assert_eq!(*partition.topic, *TOPICS[*topic], "{acknowledged:?}");
            let records = self.records.get(&partition).map_or(&[][..], Vec::as_slice);
            let before = records.get(..end as usize).unwrap_or_else(|| {
                panic!("{partition} ends at {}, and {end} was acknowledged: {acknowledged:?}", records.len())
            });
            let backwards = before.iter().rev().map(|placed| placed.map(|placed| placed.number));
            let own = |number: Option<i64>| number.filter(|number| missing.remove(number));
            let found: Vec<i64> = if self.is_shared {
                let last = before.last().copied().flatten().map(|placed| placed.number);
                assert!(last.is_some_and(|last| numbers.contains(&last)), "{partition}@{end} ends: {acknowledged:?}");
                backwards.filter_map(own).collect()
            } else {
                backwards.map_while(own).collect()
            };
            assert!(!found.is_empty(), "nothing before {partition}@{end}: {acknowledged:?}");
            let expected: Vec<i64> = numbers.iter().rev().copied().filter(|number| found.contains(number)).collect();
            assert_eq!(found, expected, "the order in {partition} before {end}: {acknowledged:?}");
        }
        assert!(missing.is_empty(), "{missing:?} of {acknowledged:?} is not there");
    }

    /// What was rejected is among the dead letters.
    pub fn check_rejected(&self, rejected: &(usize, String)) {
        assert!(self.letters.contains(rejected), "not among the dead letters: {rejected:?}");
    }

    /// The answers are what plain DataFusion computes over the events before the positions that they name.
    pub async fn check_answers(&self, answers: &[Answer], sent: &[Event]) {
        let mut alike: BTreeMap<(usize, Tiles), Vec<&Answer>> = BTreeMap::new();
        for answer in answers {
            alike.entry((answer.question.subject, answer.question.tiles)).or_default().push(answer);
        }
        for ((subject, tiles), answers) in alike {
            let sql = SUBJECTS[subject].oracle_sql(tiles);
            let mut rest = answers.as_slice();
            while !rest.is_empty() {
                let mut placed: Vec<(i64, Placed)> = Vec::new();
                let mut taken = 0;
                while taken < rest.len() && placed.len() < EVENTS_AT_ONCE {
                    placed.extend(self.before(rest[taken]).map(|event| (taken as i64, event)));
                    taken += 1;
                }
                let expected = self.compute(SUBJECTS[subject].topic, &sql, &placed, sent).await;
                for (number, answer) in rest[..taken].iter().enumerate() {
                    let expected = expected.get(&(number as i64)).map_or(&[][..], Vec::as_slice);
                    check_rows(answer, expected);
                }
                rest = &rest[taken..];
            }
        }
    }

    /// The events that an answer is about.
    fn before<'l>(&'l self, answer: &'l Answer) -> impl Iterator<Item = Placed> + 'l {
        let subject = answer.question.subject();
        let topic = TOPICS[subject.topic];
        for (partition, end) in answer.position.iter() {
            let known = self.records.get(&partition).map_or(0, |records| records.len() as Offset);
            assert!(end <= known, "{partition} ends at {known}: what was visible has vanished, {answer:?}");
        }
        let events = self.counting.get(&(subject.topic, subject.key, answer.question.key.clone()));
        events.into_iter().flatten().copied().filter(move |placed| {
            let end = answer.position.get(&TopicPartition::new(topic, placed.partition));
            placed.offset < end.unwrap_or(0)
        })
    }

    /// Asks DataFusion. Returns the rows of each answer.
    async fn compute(
        &self,
        topic: usize,
        sql: &str,
        placed: &[(i64, Placed)],
        sent: &[Event],
    ) -> HashMap<i64, Vec<Map<String, Value>>> {
        let source = self.source(topic);
        let fields = source
            .schema
            .fields()
            .iter()
            .filter(|field| !["_topic", "_append_time", "_key"].contains(&&**field.name()));
        let answer = Arc::new(Field::new("answer", DataType::Int64, false));
        let schema = Schema::new(std::iter::once(&answer).chain(fields).cloned().collect::<Vec<_>>());
        let columns = schema.fields().iter().map(|field| column(field, placed, sent)).collect();
        let events = RecordBatch::try_new(Arc::new(schema), columns).expect("the source's columns");
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        context.register_batch("events", events).expect("a table of events");
        let frame = context.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let batches = frame.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let mut json = Vec::new();
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut json);
        for batch in &batches {
            writer.write(batch).expect("rows as JSON");
        }
        writer.finish().expect("rows as JSON");
        let mut rows: HashMap<i64, Vec<Map<String, Value>>> = HashMap::new();
        for line in json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let mut row: Map<String, Value> = serde_json::from_slice(line).expect("a row");
            let answer = row.remove("answer").and_then(|answer| answer.as_i64()).expect("its answer");
            rows.entry(answer).or_default().push(row);
        }
        rows
    }
}

/// A log to read, its archived beginning included.
pub struct OpenLog {
    log: TieredLog,
    _copy: Option<TempDir>,
}

impl OpenLog {
    /// The log of a data folder that no process has open. The log itself is a copy: opening one mends what a crash has torn, which
    /// is for the process under test to do.
    pub async fn of(data: &Path) -> Self {
        let copy = tempfile::tempdir().expect("a folder");
        copy_folder(&data.join("log"), copy.path()).expect("a copy of the log");
        let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::default() };
        let log = EmbeddedLog::open(copy.path(), options).unwrap_or_else(|error| panic!("the log: {error}"));
        let objects = LocalFileSystem::new_with_prefix(data.join("archive")).expect("the archive's folder");
        let archive = Archive::new(Arc::new(objects), "");
        Self { log: TieredLog::new(Arc::new(log), Arc::new(archive)), _copy: Some(copy) }
    }

    /// The log of a cluster, which may run.
    pub async fn of_servers(settings: &Settings) -> Self {
        let parts = Backends::open(settings).await.unwrap_or_else(|failure| panic!("the servers: {}", failure.message));
        Self { log: TieredLog::new(parts.log, parts.archive), _copy: None }
    }

    async fn read(&self, partition: &TopicPartition, from: Offset) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        loop {
            let next = records.last().map_or(from, |record| record.offset + 1);
            let more = self.log.read(partition, next, ReadLimit::records(10_000)).await;
            let more = more.unwrap_or_else(|error| panic!("reading {partition} from {next}: {error}"));
            if more.is_empty() {
                return records;
            }
            records.extend(more);
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn number_of(decoded: &Avro) -> i64 {
    match decoded {
        Avro::Record(fields) => fields.iter().find_map(|(name, value)| match value {
            Avro::Long(number) if name == "n" => Some(*number),
            _ => None,
        }),
        _ => None,
    }
    .unwrap_or_else(|| panic!("no event: {decoded:?}"))
}

fn avro(event: &Event) -> Avro {
    let amount = event
        .amount
        .map_or(Avro::Union(0, Box::new(Avro::Null)), |amount| Avro::Union(1, Box::new(Avro::Long(amount))));
    let fields = [
        ("n", Avro::Long(event.n)),
        ("id", Avro::String(event.id())),
        ("ts", Avro::TimestampMicros(event.ts)),
        ("account", Avro::String(event.account.clone())),
        ("page", Avro::String(event.page.clone())),
        ("kind", Avro::String(event.kind.to_owned())),
        ("amount", amount),
        ("ratio", Avro::Double(event.ratio)),
    ];
    Avro::Record(fields.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

fn column(field: &Field, placed: &[(i64, Placed)], sent: &[Event]) -> ArrayRef {
    let events = || placed.iter().map(|(_, placed)| &sent[placed.number as usize]);
    match field.name().as_str() {
        "answer" => Arc::new(Int64Array::from_iter_values(placed.iter().map(|(answer, _)| *answer))),
        "n" => Arc::new(Int64Array::from_iter_values(events().map(|event| event.n))),
        "id" => Arc::new(StringArray::from_iter_values(events().map(Event::id))),
        "ts" => {
            let times = TimestampMicrosecondArray::from_iter_values(events().map(|event| event.ts));
            Arc::new(times.with_data_type(field.data_type().clone()))
        }
        "account" => Arc::new(StringArray::from_iter_values(events().map(|event| &event.account))),
        "page" => Arc::new(StringArray::from_iter_values(events().map(|event| &event.page))),
        "kind" => Arc::new(StringArray::from_iter_values(events().map(|event| event.kind))),
        "amount" => Arc::new(events().map(|event| event.amount).collect::<Int64Array>()),
        "ratio" => Arc::new(Float64Array::from_iter_values(events().map(|event| event.ratio))),
        "_partition" => {
            Arc::new(Int32Array::from_iter_values(placed.iter().map(|(_, placed)| placed.partition as i32)))
        }
        "_offset" => Arc::new(Int64Array::from_iter_values(placed.iter().map(|(_, placed)| placed.offset as i64))),
        other => panic!("no column {other}"),
    }
}

fn check_rows(answer: &Answer, expected: &[Map<String, Value>]) {
    let subject = answer.question.subject();
    let place = |row: &Map<String, Value>| ["kind", "slot"].map(|column| row.get(column).map(ToString::to_string));
    let mut rows: Vec<&Map<String, Value>> = answer.rows.iter().filter_map(Value::as_object).collect();
    let mut expected: Vec<&Map<String, Value>> = expected.iter().collect();
    rows.sort_by_cached_key(|row| place(row));
    expected.sort_by_cached_key(|row| place(row));
    let equal =
        rows.len() == expected.len() && rows.iter().zip(&expected).all(|(row, expected)| is_same_row(row, expected));
    assert!(
        equal,
        "{} at {}, {:?}:\n{rows:#?}\ninstead of\n{expected:#?}",
        subject.name, answer.position, answer.question
    );
}

fn is_same_row(row: &Map<String, Value>, expected: &Map<String, Value>) -> bool {
    row.len() == expected.len()
        && row.iter().all(|(name, value)| expected.get(name).is_some_and(|expected| is_same(value, expected)))
}

/// Bit-equal, but for sums of floating-point numbers.
fn is_same(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Number(value), Value::Number(expected)) if value.is_f64() || expected.is_f64() => {
            let (value, expected) = (value.as_f64().unwrap_or(f64::NAN), expected.as_f64().unwrap_or(f64::NAN));
            (value - expected).abs() <= 1e-9 * value.abs().max(expected.abs()).max(1.0)
        }
        _ => value == expected,
    }
}
