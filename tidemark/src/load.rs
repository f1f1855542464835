//! `tidemark load`: files into a topic.
//!
//! One request after the other (or a few at once, when told so), each of some thousand events; while the server works, the next
//! one is read and put together. Nothing is sent twice: when the outcome of a request is unknown, loading stops and says
//! how to go on, because a blind second try would count events twice.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::application;
use crate::client::{Client, ClientError, Delivery};
use crate::failure::{Context as _, Failure, Result};
use crate::input::combined::CombinedLog;
use crate::input::container::Container;
use crate::input::csv::{CsvEvents, Fields};
use crate::input::{Format, Input, Piece, Pieces};

/// How much of a request is events: it ends with the event that reaches one of these.
const REQUEST_BYTES: usize = 1 << 20;

/// How many rejected events are shown.
pub(crate) const SHOWN: usize = 10;

/// What to load, and how.
#[derive(Debug, Clone)]
pub struct Load {
    /// The topic.
    pub topic: String,
    /// The files; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// What they hold; `None`: as each name tells.
    pub format: Option<Format>,
    /// Between the values of CSV; `None`: a comma, or a tab in `.tsv`.
    pub delimiter: Option<u8>,
    /// Pass over so many events of the first file.
    pub skip: u64,
    /// How many events a request has at most.
    pub batch: usize,
    /// How many requests are under way at once.
    pub in_flight: usize,
    /// The application folder with the topic's schema, where the server is not to be asked.
    pub app: Option<PathBuf>,
}

/// What became of the events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// How many are in the log.
    pub accepted: u64,
    /// How many are not.
    pub rejected: u64,
    /// The first of those, in words.
    pub shown: Vec<String>,
}

/// Some events of one file, to be posted together.
struct Request {
    media_type: &'static str,
    body: Bytes,
    events: u64,
    /// The line of each event, or the number of the first one in a container.
    lines: Lines,
    /// Lines that are no events, and why.
    no_events: Vec<(u64, String)>,
}

enum Lines {
    Each(Vec<u64>),
    From(u64),
}

impl Load {
    /// Loads everything.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or the server cannot be reached or stops answering. What was accepted until then stands.
    pub async fn run(&self, client: &Client) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        for (index, path) in self.files.iter().enumerate() {
            let skip = if index == 0 { self.skip } else { 0 };
            self.load_file(client, path, skip, &mut loaded).await?;
        }
        Ok(loaded)
    }

    async fn load_file(&self, client: &Client, path: &Path, skip: u64, loaded: &mut Loaded) -> Result {
        let format = self.format.unwrap_or_else(|| Format::of(path));
        let fields = match format {
            Format::Csv => Some(self.fields(client).await?),
            _ => None,
        };
        let input = Input::open(path).context(path.display())?;
        let (name, read) = (input.name.clone(), input.read.clone());
        let bar = progress_bar(&name, input.size);
        let pieces = self.pieces(path, format, fields, input).context(path.display())?;

        let batch = self.batch.max(1);
        let (requests, mut queue) = mpsc::channel(1);
        // Reading files and unpacking them is no work for the async threads.
        let reading = tokio::task::spawn_blocking(move || put_together(pieces, skip, batch, &requests));
        let sent = stream::poll_fn(move |context| queue.poll_recv(context))
            .map(|request: Request| async {
                let outcome = if request.events == 0 {
                    Ok(Delivery::default())
                } else {
                    client.deliver(&self.topic, request.media_type, request.body.clone()).await
                };
                (request, outcome)
            })
            .buffered(self.in_flight.max(1));
        let mut sent = std::pin::pin!(sent);
        let mut done = skip;
        while let Some((request, outcome)) = sent.next().await {
            let delivery = match outcome {
                Ok(delivery) => delivery,
                Err(error) => {
                    bar.abandon();
                    return Err(self.stopped(path, &request, &error, done, loaded));
                }
            };
            done += request.events + request.no_events.len() as u64;
            loaded.take(&name, &request, &delivery);
            bar.set_position(read.load(Ordering::Relaxed));
            bar.set_message(format!("{} accepted, {} rejected", loaded.accepted, loaded.rejected));
        }
        bar.finish();
        reading.await.context("reading")?.context(path.display())
    }

    fn pieces(&self, path: &Path, format: Format, fields: Option<Fields>, input: Input) -> std::io::Result<Pieces> {
        let is_tsv = path.to_string_lossy().trim_end_matches(".gz").ends_with(".tsv");
        let delimiter = self.delimiter.unwrap_or(if is_tsv { b'\t' } else { b',' });
        Ok(match (format, fields) {
            (Format::Csv, Some(fields)) => Pieces::Csv(Box::new(CsvEvents::open(input.reader, delimiter, fields)?)),
            (Format::Json | Format::Csv, _) => Pieces::json(input.reader)?,
            (Format::Avro, _) => Pieces::Container(Container::open(input.reader)?, REQUEST_BYTES),
            (Format::Combined, _) => Pieces::Combined(input.reader, 0, CombinedLog::new(&input.name)),
        })
    }

    /// The fields of the topic: from the application folder, or from the server.
    async fn fields(&self, client: &Client) -> Result<Fields> {
        let schema = match &self.app {
            Some(dir) => {
                let (application, _) = application::read(dir)?;
                let topic = &self.topic;
                let source = application.source(topic);
                source
                    .ok_or_else(|| Failure::usage(format!("{}: no source `{topic}`", dir.display())))?
                    .avro
                    .to_string()
            }
            None => self.served_schema(client).await?,
        };
        Fields::of_schema(&schema).context(format!("topic {}", self.topic))
    }

    async fn served_schema(&self, client: &Client) -> Result<String> {
        let hint = "to load CSV, the topic's schema is needed: give --app DIR";
        let answer: Value = client.get("/v1/topics", &[]).await.map_err(|error| match error {
            ClientError::Refused(refusal) if refusal.status == 404 => Failure::usage(hint),
            other => other.into(),
        })?;
        let topics = answer.as_array().or_else(|| answer["topics"].as_array());
        let mut known = topics.into_iter().flatten();
        let topic = known.clone().find(|topic| topic["name"] == self.topic.as_str()).ok_or_else(|| {
            let names: Vec<&str> = known.by_ref().filter_map(|topic| topic["name"].as_str()).collect();
            Failure::usage(format!("the server has no topic `{}`; there are {}", self.topic, names.join(", ")))
        })?;
        match &topic["schema"] {
            Value::Null => Err(Failure::usage(hint)),
            Value::String(text) => Ok(text.clone()),
            schema => Ok(schema.to_string()),
        }
    }

    fn stopped(&self, path: &Path, request: &Request, error: &ClientError, done: u64, loaded: &Loaded) -> Failure {
        let (first, last) = request.range();
        let path = path.display();
        let so_far = format!("accepted {}, rejected {} until then", loaded.accepted, loaded.rejected);
        let again = |skip: u64| format!("tidemark load {} {path} --skip {skip}", self.topic);
        Failure::new(match error {
            _ if error.leaves_doubt() => format!(
                "{path}: {error}\n{so_far}. Whether lines {first} to {last} are in the log is unknown. If they are, go on with\n  \
                 {}\nand if they are not, with\n  {}",
                again(done + request.events + request.no_events.len() as u64),
                again(done),
            ),
            _ if done == 0 => format!("{path}: {error}"),
            _ => format!("{path}: {error}\n{so_far}; stopped before line {first}. Go on with\n  {}", again(done)),
        })
    }
}

impl Request {
    fn range(&self) -> (u64, u64) {
        match &self.lines {
            Lines::Each(lines) => (lines.first().copied().unwrap_or(0), lines.last().copied().unwrap_or(0)),
            Lines::From(first) => (*first, first + self.events.saturating_sub(1)),
        }
    }

    fn line(&self, index: u64) -> u64 {
        match &self.lines {
            Lines::Each(lines) => usize::try_from(index).ok().and_then(|index| lines.get(index)).copied().unwrap_or(0),
            Lines::From(first) => first + index,
        }
    }
}

impl Loaded {
    fn take(&mut self, name: &str, request: &Request, delivery: &Delivery) {
        self.accepted += delivery.accepted;
        let mut rejected: Vec<(u64, &str)> =
            delivery.rejected.iter().map(|event| (request.line(event.index), event.error.as_str())).collect();
        rejected.extend(request.no_events.iter().map(|(line, reason)| (*line, reason.as_str())));
        rejected.sort_by_key(|(line, _)| *line);
        self.rejected += rejected.len() as u64;
        let room = SHOWN.saturating_sub(self.shown.len());
        self.shown.extend(rejected.iter().take(room).map(|(line, reason)| format!("{name}:{line}: {reason}")));
    }
}

/// Reads a file and puts requests together, until it ends or nobody takes them any more.
fn put_together(mut pieces: Pieces, mut skip: u64, batch: usize, to: &mpsc::Sender<Request>) -> std::io::Result<()> {
    let mut body = Vec::new();
    let mut lines = Vec::new();
    let mut no_events = Vec::new();
    let send = |body: &mut Vec<u8>, lines: &mut Vec<u64>, no_events: &mut Vec<(u64, String)>| {
        let lines = std::mem::take(lines);
        to.blocking_send(Request {
            media_type: "application/x-ndjson",
            body: std::mem::take(body).into(),
            events: lines.len() as u64,
            lines: Lines::Each(lines),
            no_events: std::mem::take(no_events),
        })
        .is_ok()
    };
    while let Some(piece) = pieces.next_piece()? {
        match piece {
            Piece::Event(..) | Piece::NoEvent(..) if skip > 0 => {
                skip -= 1;
                continue;
            }
            Piece::Event(line, event) => {
                body.extend_from_slice(&event);
                body.push(b'\n');
                lines.push(line);
            }
            Piece::NoEvent(line, reason) => no_events.push((line, reason)),
            Piece::Container(piece) if piece.events <= skip => skip -= piece.events,
            Piece::Container(piece) => {
                if skip > 0 {
                    let message = format!(
                        "--skip ends inside a block of the container; {} or {} would not",
                        piece.first - 1,
                        piece.first - 1 + piece.events
                    );
                    return Err(std::io::Error::other(message));
                }
                let request = Request {
                    media_type: "application/avro",
                    body: piece.bytes.into(),
                    events: piece.events,
                    lines: Lines::From(piece.first),
                    no_events: Vec::new(),
                };
                if to.blocking_send(request).is_err() {
                    return Ok(());
                }
            }
        }
        let full = body.len() >= REQUEST_BYTES || lines.len() + no_events.len() >= batch;
        if full && !send(&mut body, &mut lines, &mut no_events) {
            return Ok(());
        }
    }
    if !lines.is_empty() || !no_events.is_empty() {
        send(&mut body, &mut lines, &mut no_events);
    }
    Ok(())
}

pub(crate) fn progress_bar(name: &str, size: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{prefix} {wide_bar} {bytes}/{total_bytes} {eta} {msg}"),
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {bytes} {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
