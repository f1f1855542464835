//! Files of events, read piece by piece: what [`crate::load`] posts.
//!
//! Each format gives events with the line they stand in, or the reason why a line is none. Memory is bounded by the
//! largest event, not by the file.

pub mod combined;
pub mod container;
pub mod csv;
pub mod elements;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use flate2::read::MultiGzDecoder;

use combined::CombinedLog;
use container::Container;
use csv::CsvEvents;
use elements::Elements;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line, or one JSON array.
    Json,
    /// Comma-separated values with a header line that names the fields.
    Csv,
    /// An Avro object container file.
    Avro,
    /// A web server's access log in the combined format, as events of the clickstream application.
    Combined,
}

impl Format {
    /// The format that a file's name tells, `.gz` apart; JSON when it tells none.
    pub fn of(path: &Path) -> Self {
        let name = path.to_string_lossy().to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv" | "tsv") => Self::Csv,
            Some("avro") => Self::Avro,
            _ => Self::Json,
        }
    }
}

/// A file or standard input, unpacked, that says how much of it has been read.
pub struct Input {
    /// What to call it.
    pub name: String,
    /// Its size as it lies on disk, if it is a file.
    pub size: Option<u64>,
    /// How many bytes of it, as it lies on disk, have been read.
    pub read: Arc<AtomicU64>,
    /// Its contents.
    pub reader: Box<dyn BufRead + Send>,
}

struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Input {
    /// Opens a file; `-` is standard input. What is packed by gzip is unpacked, whatever its name.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (name, size, raw): (_, _, Box<dyn Read + Send>) = if path == Path::new("-") {
            ("standard input".to_owned(), None, Box::new(io::stdin()))
        } else {
            let file = File::open(path)?;
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            (name, Some(file.metadata()?.len()), Box::new(file))
        };
        let read = Arc::new(AtomicU64::new(0));
        let mut reader = BufReader::with_capacity(256 << 10, Counted(raw, read.clone()));
        let packed = reader.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead + Send> = if packed {
            Box::new(BufReader::with_capacity(256 << 10, MultiGzDecoder::new(reader)))
        } else {
            Box::new(reader)
        };
        Ok(Self { name, size, read, reader })
    }
}

/// What comes next in a file.
pub enum Piece {
    /// An event as JSON without a line break, and its line.
    Event(u64, Vec<u8>),
    /// A line that is no event, and why.
    NoEvent(u64, String),
    /// Several events as a container file of their own.
    Container(container::Piece),
}

/// A file's events, one after the other.
pub enum Pieces {
    /// One JSON object a line.
    Lines(Box<dyn BufRead + Send>, u64),
    /// One JSON array.
    Elements(Elements<Box<dyn BufRead + Send>>),
    /// CSV.
    Csv(Box<CsvEvents<Box<dyn BufRead + Send>>>),
    /// An access log.
    Combined(Box<dyn BufRead + Send>, u64, CombinedLog),
    /// An Avro container, cut into pieces of about so many bytes.
    Container(Container<Box<dyn BufRead + Send>>, usize),
}

impl Pieces {
    /// JSON lines, or a JSON array when the first character is `[`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn json(mut reader: Box<dyn BufRead + Send>) -> io::Result<Self> {
        let is_array = reader.fill_buf()?.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
        Ok(if is_array { Self::Elements(Elements::new(reader)) } else { Self::Lines(reader, 0) })
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read on.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        match self {
            Self::Lines(reader, line) => loop {
                let mut event = Vec::new();
                if reader.read_until(b'\n', &mut event)? == 0 {
                    return Ok(None);
                }
                *line += 1;
                event.truncate(event.trim_ascii_end().len());
                // An empty line is no event, and no mistake either.
                if !event.is_empty() {
                    return Ok(Some(Piece::Event(*line, event)));
                }
            },
            Self::Elements(elements) => Ok(elements.next_element()?.map(|(line, event)| Piece::Event(line, event))),
            Self::Csv(events) => events.next_row(),
            Self::Combined(reader, line, log) => {
                let mut text = Vec::new();
                if reader.read_until(b'\n', &mut text)? == 0 {
                    return Ok(None);
                }
                *line += 1;
                Ok(Some(match log.event(&text) {
                    Ok(event) => Piece::Event(*line, event.to_string().into_bytes()),
                    Err(reason) => Piece::NoEvent(*line, reason),
                }))
            }
            Self::Container(container, bytes) => Ok(container.next(*bytes)?.map(Piece::Container)),
        }
    }
}
