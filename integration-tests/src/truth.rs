//! What must be: the records of the log as they were read first, the events that were sent, and the answer that plain
//! DataFusion computes over them in one pass.
//!
//! The log is the truth about which records there are (an append whose acknowledgement was lost may have happened), but not
//! about what is in them: an event is found again by its bytes and taken from the generator, not from a decoder.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use datafusion::prelude::{SessionConfig, SessionContext};
use event_log::{Content, EventLog, ReadLimit, Record};
use views::view::Exactness;
use views::{Offset, Position, Source, TopicPartition, View};

use crate::events::{Event, Placed, column};

/// A marker that cuts nothing.
const NO_CUT: Content = Content::Marker(0);

/// What is known about one topic's log.
#[derive(Default)]
pub struct Truth {
    sent: HashMap<Bytes, Arc<Event>>,
    acknowledged: Vec<(TopicPartition, Offset, Bytes)>,
    records: BTreeMap<TopicPartition, Vec<Record>>,
}

impl Truth {
    /// These bytes are this event, should they turn up in the log.
    pub fn sends(&mut self, value: &Bytes, event: Arc<Event>) {
        self.sent.insert(value.clone(), event);
    }

    /// The log has acknowledged these values, from `start` on.
    pub fn acknowledged(&mut self, partition: &TopicPartition, start: Offset, values: impl IntoIterator<Item = Bytes>) {
        let placed = (start..).zip(values).map(|(offset, value)| (partition.clone(), offset, value));
        self.acknowledged.extend(placed);
    }

    /// Reads what came since, and checks that everything acknowledged is in the log, exactly where it was said to be.
    ///
    /// # Panics
    ///
    /// When the log cannot be read, or lacks an acknowledged record.
    pub async fn read_on(&mut self, log: &dyn EventLog, topic: &str) {
        let partitions = log.bounds(topic).await.expect("the bounds of the topic").len();
        for number in 0..partitions {
            let partition = TopicPartition::new(topic, number as u32);
            let known = self.records.entry(partition.clone()).or_default();
            read_to_end(log, &partition, known).await;
        }
        for (partition, offset, value) in self.acknowledged.drain(..) {
            let record = self.records.get(&partition).and_then(|records| records.get(offset as usize));
            let holds = record.is_some_and(|record| {
                record.offset == offset
                    && matches!(&record.content, Content::Event { value: found, .. } if *found == value)
            });
            assert!(holds, "{partition}@{offset} was acknowledged, and now there is {record:?}");
        }
    }

    /// Reads the whole topic again from its start, and checks that no record has changed.
    ///
    /// # Panics
    ///
    /// When one has.
    pub async fn read_again(&self, log: &dyn EventLog) {
        for (partition, records) in &self.records {
            let mut again = Vec::new();
            read_to_end(log, partition, &mut again).await;
            assert!(again.len() >= records.len(), "{partition} ended at {} and ends at {}", records.len(), again.len());
            for (before, now) in records.iter().zip(&again) {
                let vanished = matches!(before.content, Content::Marker(_)) && now.content == NO_CUT;
                assert!(before == now || vanished, "{partition}: {before:?} became {now:?}");
            }
        }
    }

    /// How far the log goes, as far as it was read.
    pub fn end(&self) -> Position {
        self.records.iter().map(|(partition, records)| (partition.clone(), records.len() as Offset)).collect()
    }

    /// The highest marker that was read.
    pub fn highest_marker(&self) -> u64 {
        let markers = self.records.values().flatten().filter_map(|record| match record.content {
            Content::Marker(number) => Some(number),
            Content::Event { .. } => None,
        });
        markers.max().unwrap_or(0)
    }

    /// The places of the records that are no event of ours, whatever they hold.
    pub fn undecodable(&self) -> Vec<(u32, Offset)> {
        let mut places = Vec::new();
        for (partition, records) in &self.records {
            for record in records {
                if matches!(&record.content, Content::Event { value, .. } if !self.sent.contains_key(value)) {
                    places.push((partition.partition, record.offset));
                }
            }
        }
        places
    }

    /// The events before a position, without those that count nowhere.
    pub fn events(&self, source: &Source, upto: &Position) -> Vec<Placed> {
        let mut events = Vec::new();
        let window = source.dedupe_window.as_micros() as i64;
        for (partition, records) in &self.records {
            let end = upto.get(partition).unwrap_or(0);
            let mut seen: HashMap<&str, i64> = HashMap::new();
            for record in records.iter().take_while(|record| record.offset < end) {
                let Content::Event { key, value } = &record.content else { continue };
                let Some(event) = self.sent.get(value) else { continue };
                if source.event_id.is_some()
                    && let Some(id) = event.id()
                    && let Some(before) = seen.insert(id, record.append_time)
                    && record.append_time - before <= window
                {
                    continue;
                }
                events.push(Placed {
                    event: event.clone(),
                    partition: partition.partition,
                    offset: record.offset,
                    append_time: record.append_time,
                    key: key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned()),
                });
            }
        }
        events
    }

    /// The view's SQL over the events before a position, run once by plain DataFusion.
    ///
    /// # Panics
    ///
    /// When DataFusion refuses it.
    pub async fn oracle(&self, view: &View, upto: &Position) -> RecordBatch {
        let events = self.events(&view.source, upto);
        let columns = view.source.schema.fields().iter().map(|field| column(field, &events)).collect();
        let events = RecordBatch::try_new(view.source.schema.clone(), columns).expect("the source's columns");
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        context.register_batch(&*view.source.name, events).expect("a table of all events");
        let rows =
            context.sql(&view.oracle_sql).await.map(|frame| (Arc::new(frame.schema().as_arrow().clone()), frame));
        let (schema, frame) = rows.unwrap_or_else(|error| panic!("{}: {error}", view.oracle_sql));
        let rows = frame.collect().await.unwrap_or_else(|error| panic!("{}: {error}", view.oracle_sql));
        concat_batches(rows.first().map_or(&schema, |rows| rows.schema_ref()), &rows).expect("one batch")
    }
}

async fn read_to_end(log: &dyn EventLog, partition: &TopicPartition, records: &mut Vec<Record>) {
    let bounds = log.bounds(&partition.topic).await.expect("the bounds of the topic");
    let end = bounds.get(partition.partition as usize).expect("the partition").end;
    loop {
        let next = records.len() as Offset;
        let more = log.read(partition, next, ReadLimit::records(10_000)).await;
        let more = more.unwrap_or_else(|error| panic!("reading {partition} from {next}: {error}"));
        if more.is_empty() {
            return skip_to(records, end);
        }
        for record in more {
            skip_to(records, record.offset);
            assert_eq!(record.offset, records.len() as Offset, "{partition} goes back");
            records.push(record);
        }
    }
}

/// The archive does not keep markers that cut nothing (dead and racing runs leave them). An acknowledged event that is left
/// out shows: its place is then no event's.
fn skip_to(records: &mut Vec<Record>, end: Offset) {
    let append_time = records.last().map_or(0, |record| record.append_time);
    for offset in records.len() as Offset..end {
        records.push(Record { offset, append_time, content: NO_CUT });
    }
}

/// Where an answer is not what it must be; `None` when it is: as exact as each column promises.
pub fn difference(view: &View, answer: &RecordBatch, expected: &RecordBatch) -> Option<String> {
    let (ours, theirs) = (rows(view, answer), rows(view, expected));
    for at in 0..ours.len().max(theirs.len()) {
        let (Some(ours), Some(theirs)) = (ours.get(at), theirs.get(at)) else {
            let keys = |rows: &[Vec<String>]| rows.iter().map(|row| row.join(" | ")).collect::<Vec<_>>().join("\n  ");
            let (count, expected) = (ours.len(), theirs.len());
            return Some(format!(
                "{count} rows instead of {expected}:\n  {}\ninstead of\n  {}",
                keys(&ours),
                keys(&theirs)
            ));
        };
        for (place, column) in view.columns.iter().enumerate() {
            if !agree(column.exactness, &ours[place], &theirs[place]) {
                return Some(format!("column {} of {ours:?}\n       instead of {theirs:?}", column.name));
            }
        }
    }
    None
}

/// The rows as text, in the order of their exact columns.
fn rows(view: &View, batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("∅");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a type that can be shown"))
        .collect();
    let row = |row: usize| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>();
    let mut rows: Vec<Vec<String>> = (0..batch.num_rows()).map(row).collect();
    let exact = |row: &Vec<String>| -> Vec<String> {
        let cells = row.iter().zip(&view.columns).filter(|(_, column)| column.exactness == Exactness::Exact);
        cells.map(|(cell, _)| cell.clone()).collect()
    };
    rows.sort_by_cached_key(exact);
    rows
}

fn agree(exactness: Exactness, ours: &str, theirs: &str) -> bool {
    if ours == theirs {
        return true;
    }
    let (Ok(ours), Ok(theirs)) = (ours.parse::<f64>(), theirs.parse::<f64>()) else { return false };
    let scale = ours.abs().max(theirs.abs());
    match exactness {
        Exactness::Exact => false,
        // Absolute for values smaller than one: sums may cancel.
        Exactness::Float => ours.is_nan() && theirs.is_nan() || (ours - theirs).abs() <= 1e-9 * scale.max(1.0),
        // The error of a sketch is one of rank; the generated values spread over some tens.
        Exactness::Sketch => (ours - theirs).abs() <= 0.05 * scale.max(40.0),
    }
}
