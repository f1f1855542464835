//! The raw files as rows, read without any code of ours that loads events: a mistake of the loader must show.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Decimal128Builder, Int32Builder, Int64Array, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder, TimestampMillisecondBuilder,
};
use chrono::{DateTime, NaiveDateTime};
use flate2::read::GzDecoder;
use serde_json::Value;

/// The rows of a file, and how many of its lines are none.
pub struct Raw {
    /// Under the names and types that the application's schema gives them, with `_offset`: the number of the line.
    pub rows: RecordBatch,
    /// Lines that are not in the format.
    pub rejected: usize,
}

/// A packed file.
pub fn open(path: &Path) -> BufReader<GzDecoder<File>> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    BufReader::new(GzDecoder::new(file))
}

/// Columns under construction: plain vectors of what a line says.
#[derive(Default)]
struct Columns {
    text: Vec<(&'static str, StringBuilder)>,
    other: Vec<(&'static str, ArrayRef)>,
}

impl Columns {
    fn of_text(names: &[&'static str]) -> Self {
        Self { text: names.iter().map(|name| (*name, StringBuilder::new())).collect(), other: Vec::new() }
    }

    fn put(&mut self, name: &str, value: Option<&str>) {
        let (_, column) = self.text.iter_mut().find(|(known, _)| *known == name).expect("a column of text");
        column.append_option(value);
    }

    fn with(mut self, name: &'static str, column: ArrayRef) -> Self {
        self.other.push((name, column));
        self
    }

    fn finish(mut self) -> RecordBatch {
        let text = self.text.iter_mut().map(|(name, column)| (*name, Arc::new(column.finish()) as ArrayRef));
        let columns: Vec<(&str, ArrayRef)> = text.chain(self.other).collect();
        let rows = columns.first().map_or(0, |(_, column)| column.len());
        let offsets = Arc::new((0..rows as i64).collect::<Int64Array>()) as ArrayRef;
        RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().chain([("_offset", offsets)]).map(|(name, column)| (name, column, true)),
        )
        .expect("columns of one length")
    }
}

/// A line of an access log, taken apart by its quotes and brackets.
struct Request<'l> {
    ip: &'l str,
    micros: i64,
    method: &'l str,
    url: &'l str,
    status: i32,
    bytes: i64,
    referrer: &'l str,
    agent: &'l str,
}

fn request(line: &str) -> Option<Request<'_>> {
    let (before, rest) = line.split_once(" [")?;
    let (time, rest) = rest.split_once("] \"")?;
    let (asked, rest) = rest.split_once("\" ")?;
    let (numbers, rest) = rest.split_once(" \"")?;
    let (referrer, rest) = rest.split_once("\" \"")?;
    let agent = rest.strip_suffix('"')?;
    let (status, bytes) = numbers.split_once(' ')?;
    let mut asked = asked.split(' ');
    Some(Request {
        ip: before.split(' ').next()?,
        micros: DateTime::parse_from_str(time, "%d/%b/%Y:%T %z").ok()?.timestamp_micros(),
        method: asked.next()?,
        url: asked.next()?,
        status: status.parse().ok()?,
        bytes: if bytes == "-" { 0 } else { bytes.parse().ok()? },
        referrer,
        agent,
    })
}

/// The web server's log. A session is what one address and one browser did with at most half an hour between two requests.
pub fn access_log(path: &Path) -> Raw {
    let mut columns = Columns::of_text(&["ip", "method", "url", "user_agent", "referrer", "session_id"]);
    let mut times = TimestampMicrosecondBuilder::new().with_timezone("+00:00");
    let (mut statuses, mut bytes) = (Int32Builder::new(), Int64Builder::new());
    let mut sessions: HashMap<(String, String), (u32, i64)> = HashMap::new();
    let mut rejected = 0;
    for line in open(path).lines() {
        let line = line.expect("text");
        let Some(request) = request(&line) else {
            rejected += 1;
            continue;
        };
        let visitor = (request.ip.to_owned(), request.agent.to_owned());
        let (session, latest) = sessions.entry(visitor).or_insert((0, request.micros));
        if request.micros - *latest > 30 * 60 * 1_000_000 {
            *session += 1;
        }
        *latest = request.micros.max(*latest);
        columns.put("session_id", Some(&format!("{} {} {session}", request.ip, request.agent)));
        columns.put("ip", Some(request.ip));
        columns.put("method", Some(request.method));
        columns.put("url", Some(request.url));
        columns.put("user_agent", Some(if request.agent == "-" { "" } else { request.agent }));
        columns.put("referrer", Some(request.referrer).filter(|referrer| *referrer != "-"));
        times.append_value(request.micros);
        statuses.append_value(request.status);
        bytes.append_value(request.bytes);
    }
    let columns = columns.with("ts", Arc::new(times.finish())).with("status", Arc::new(statuses.finish()));
    Raw { rows: columns.with("bytes", Arc::new(bytes.finish())).finish(), rejected }
}

/// Edits of Wikipedia, one JSON object a line.
pub fn wikipedia(path: &Path) -> Raw {
    const TEXT: [&str; 10] = [
        "channel",
        "page",
        "user",
        "comment",
        "namespace",
        "countryIsoCode",
        "countryName",
        "regionIsoCode",
        "regionName",
        "cityName",
    ];
    const FLAGS: [&str; 5] = ["isAnonymous", "isMinor", "isNew", "isRobot", "isUnpatrolled"];
    const NUMBERS: [&str; 3] = ["delta", "added", "deleted"];
    let mut columns = Columns::of_text(&TEXT);
    let mut times = TimestampMillisecondBuilder::new().with_timezone("+00:00");
    let mut flags = FLAGS.map(|_| BooleanBuilder::new());
    let mut numbers = NUMBERS.map(|_| Int64Builder::new());
    let mut metro_codes = Int32Builder::new();
    let mut rejected = 0;
    for line in open(path).lines() {
        let Ok(edit) = serde_json::from_str::<Value>(&line.expect("text")) else {
            rejected += 1;
            continue;
        };
        for name in TEXT {
            columns.put(name, edit[name].as_str());
        }
        let time = edit["time"].as_str().and_then(|time| DateTime::parse_from_rfc3339(time).ok());
        times.append_option(time.map(|time| time.timestamp_millis()));
        for (name, column) in FLAGS.iter().zip(&mut flags) {
            column.append_option(edit[name].as_bool());
        }
        for (name, column) in NUMBERS.iter().zip(&mut numbers) {
            column.append_option(edit[name].as_i64());
        }
        metro_codes.append_option(edit["metroCode"].as_i64().and_then(|code| i32::try_from(code).ok()));
    }
    columns = columns.with("time", Arc::new(times.finish())).with("metroCode", Arc::new(metro_codes.finish()));
    for (name, mut column) in FLAGS.into_iter().zip(flags) {
        columns = columns.with(name, Arc::new(column.finish()));
    }
    for (name, mut column) in NUMBERS.into_iter().zip(numbers) {
        columns = columns.with(name, Arc::new(column.finish()));
    }
    Raw { rows: columns.finish(), rejected }
}

/// Lines of invoices. Prices become thousandths by moving their digits: no float comes near them.
pub fn retail(path: &Path) -> Raw {
    const TEXT: [&str; 5] = ["InvoiceNo", "StockCode", "Description", "CustomerID", "Country"];
    let mut columns = Columns::of_text(&TEXT);
    let mut times = TimestampMillisecondBuilder::new().with_timezone("+00:00");
    let mut prices = Decimal128Builder::new().with_precision_and_scale(12, 3).expect("a decimal type");
    let mut quantities = Int32Builder::new();
    let mut rejected = 0;
    let mut lines = csv::Reader::from_reader(open(path));
    let header = lines.headers().expect("a header").clone();
    let place = |name: &str| header.iter().position(|known| known == name).expect("a column of the file");
    let text = TEXT.map(|name| (name, place(name)));
    let (date, price, quantity) = (place("InvoiceDate"), place("UnitPrice"), place("Quantity"));
    for line in lines.records() {
        let Ok(line) = line else {
            rejected += 1;
            continue;
        };
        for (name, place) in text {
            let value = &line[place];
            let is_null = value.is_empty() && (name == "Description" || name == "CustomerID");
            columns.put(name, Some(value).filter(|_| !is_null));
        }
        let time = NaiveDateTime::parse_from_str(&line[date], "%Y-%m-%d %H:%M:%S").expect("a time");
        times.append_value(time.and_utc().timestamp_millis());
        let (whole, fraction) = line[price].split_once('.').expect("a price with a point");
        prices.append_value(format!("{whole}{fraction:0<3}").parse().expect("digits"));
        quantities.append_value(line[quantity].parse().expect("a number"));
    }
    let columns = columns.with("InvoiceDate", Arc::new(times.finish())).with("UnitPrice", Arc::new(prices.finish()));
    Raw { rows: columns.with("Quantity", Arc::new(quantities.finish())).finish(), rejected }
}
