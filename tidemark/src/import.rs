//! `tidemark import`: a topic's older events, from Avro files, as the first segments of its archive.
//!
//! It works on the parts themselves, without a server: first every file is read, checked and put aside, then the topic is created with
//! its beginning, then the segments are laid down ([`event_log::import`]). Whatever breaks it off, the same command again finishes
//! it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use event_log::dead_letter::{self, DeadLetter, Origin};
use event_log::encode::{ContainerEvents, EventEncoder, Rejection, partition_for, value_subject};
use event_log::import::{self, Spool, Spooled};
use event_log::registry::SchemaRegistry;
use event_log::{Beginning, Beginnings, Content, LogError, TopicSpec, beginning};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use views::{Application, Offset, Source, TopicPartition};

use crate::application::Folder;
use crate::backends::Truth;
use crate::command_line::print;
use crate::failure::{Context as _, Failure, Result};
use crate::input::Input;
use crate::load::{SHOWN, progress_bar};
use crate::settings::Settings;
use crate::table::Table;

/// How often to look how far the segments are.
const LOOK: Duration = Duration::from_millis(200);

/// What to import.
#[derive(Debug, Clone)]
pub struct Import {
    /// The topic.
    pub topic: String,
    /// The files, the oldest events first.
    pub files: Vec<PathBuf>,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// The topic.
    pub topic: String,
    /// How many events are in the archive.
    pub accepted: u64,
    /// How many are among the dead letters.
    pub rejected: u64,
    /// The first of those, in words.
    pub shown: Vec<String>,
    /// What each partition has.
    pub partitions: Vec<ImportedPartition>,
}

/// What became of one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportedPartition {
    /// How many events it has.
    pub events: u64,
    /// In how many segments.
    pub segments: u64,
    /// Where its log goes on.
    pub end: Offset,
}

impl Import {
    /// Imports everything.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, the topic is in use, or a part cannot be had. Until all files were read nothing is changed but that
    /// their schemas are registered.
    pub async fn run(&self, folder: &Folder, settings: &Settings) -> Result<Imported> {
        let application = folder.clone().with_subjects(settings).await?.compile()?;
        let source = self.source(&application, &folder.name)?;
        self.check_files()?;
        let Truth { log, registry, archive, .. } = Truth::open(settings).await?;
        let (partitions, is_new) = partitions(log.as_ref(), &source).await?;
        let topic = TopicSpec { name: self.topic.clone(), partitions, segment_records: source.segment_records };
        if is_new {
            import::check_nothing_archived(&archive, &topic).await.map_err(refused)?;
        }

        let aside = self.read(&application, &source, &registry, partitions, &settings.data.join("spill")).await?;
        let Aside { spooled, accepted, rejected, shown } = aside;
        if accepted == 0 {
            return Err(nothing(rejected, &shown));
        }
        let beginning = log.begin_topic(&topic, &spooled.imported()).await.map_err(refused)?;
        let unfinished = |error: LogError| {
            Failure::new(format!(
                "{error}\nThe import is not finished, and `tidemark run` will not start on this topic: run the same command again, \
                 which goes on with it"
            ))
        };
        import::put_dead_letters(log.as_ref(), &self.topic, &spooled).await.map_err(unfinished)?;
        let laid = self.lay_down(&archive, &registry, &topic, &beginning, &spooled, accepted).await;
        let partitions = laid.map_err(unfinished)?;
        Ok(Imported { topic: self.topic.clone(), accepted, rejected, shown, partitions })
    }

    fn source(&self, application: &Application, folder: &str) -> Result<Arc<Source>> {
        let unknown = || {
            let known: Vec<&str> = application.sources.iter().map(|source| &*source.name).collect();
            Failure::usage(format!("{folder}: no source `{}`; there are {}", self.topic, known.join(", ")))
        };
        application.source(&self.topic).cloned().ok_or_else(unknown)
    }

    /// Finds out what is wrong with the names of files before hours are spent on those before them.
    fn check_files(&self) -> Result {
        let mut seen = BTreeSet::new();
        for path in &self.files {
            let file = std::fs::File::open(path).and_then(|file| Ok((file.metadata()?, path.canonicalize()?)));
            let (metadata, canonical) = file.context(path.display())?;
            if metadata.is_dir() {
                return Err(Failure::usage(format!("{}: a folder, not a file", path.display())));
            }
            if !seen.insert(canonical) {
                return Err(Failure::usage(format!("{}: given twice; its events would count twice", path.display())));
            }
        }
        Ok(())
    }

    /// Pass 1: everything that is in the files is checked, encoded and put aside.
    async fn read(
        &self,
        application: &Application,
        source: &Arc<Source>,
        registry: &Arc<dyn SchemaRegistry>,
        partitions: u32,
        spill: &Path,
    ) -> Result<Aside> {
        let schema_of = |topic: &str, error: LogError| Failure::new(format!("schema of {topic}: {error}"));
        let schema = registry.register(&value_subject(&self.topic), &source.avro).await;
        let schema = schema.map_err(|error| schema_of(&self.topic, error))?;
        let letters = dead_letter::topic_of(&self.topic).name;
        let letter_schema = registry.register(&value_subject(&letters), dead_letter::SCHEMA).await;
        let letter_schema = letter_schema.map_err(|error| schema_of(&letters, error))?;
        let views = application.views.iter().filter(|view| view.source.name == source.name).map(|view| &**view);
        let encoder = Arc::new(EventEncoder::new(source, schema).map_err(refused)?.for_views(views));
        let mut reading = Reading {
            topic: self.topic.clone(),
            encoder: encoder.clone(),
            partitions,
            letter_schema,
            spool: Spool::new(spill, partitions).context(spill.display())?,
            blocks: 0,
            accepted: 0,
            shown: Vec::new(),
        };
        for path in &self.files {
            let input = Input::open(path).context(path.display())?;
            let bar = progress_bar(&input.name, input.size);
            let (name, read) = (input.name, input.read);
            let events = encoder.open_container(input.reader, registry.as_ref()).await.context(path.display())?;
            let outcome = tokio::task::spawn_blocking(move || {
                let outcome = reading.take_file(&name, events, |reading| {
                    bar.set_position(read.load(Ordering::Relaxed));
                    let rejected = reading.spool.letters();
                    bar.set_message(format!("{} read, {rejected} rejected", reading.accepted));
                });
                if outcome.is_ok() {
                    bar.finish()
                } else {
                    bar.abandon()
                }
                outcome.map(|()| reading)
            });
            reading = outcome.await.context("reading")?.context(path.display())?;
        }
        let Reading { spool, accepted, shown, .. } = reading;
        let rejected = spool.letters();
        Ok(Aside { spooled: spool.finish().context(spill.display())?, accepted, rejected, shown })
    }

    /// Pass 2: what was put aside becomes segments.
    async fn lay_down(
        &self,
        archive: &event_log::archive::Archive,
        registry: &Arc<dyn SchemaRegistry>,
        topic: &TopicSpec,
        beginning: &Beginning,
        spooled: &Spooled,
        events: u64,
    ) -> Result<Vec<ImportedPartition>, LogError> {
        let bar = match progress_bar("segments", Some(events)) {
            hidden if hidden.is_hidden() => hidden,
            _ => events_bar(events),
        };
        let done = Arc::new(AtomicU64::new(0));
        let laying = async {
            let mut partitions = Vec::with_capacity(beginning.partitions.len());
            for (number, imported) in (0..).zip(&beginning.partitions) {
                let of = TopicPartition::new(topic.name.as_str(), number);
                let records = topic.segment_records;
                let segments =
                    import::put_segments(archive, registry.as_ref(), &of, records, beginning, spooled, &done).await?;
                partitions.push(ImportedPartition { events: imported.events, segments, end: imported.end() });
            }
            Ok(partitions)
        };
        let mut laying = std::pin::pin!(laying);
        loop {
            tokio::select! {
                outcome = &mut laying => {
                    bar.finish();
                    return outcome;
                }
                () = tokio::time::sleep(LOOK) => bar.set_position(done.load(Ordering::Relaxed)),
            }
        }
    }
}

fn events_bar(events: u64) -> ProgressBar {
    let bar = ProgressBar::new(events);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len} {eta}") {
        bar.set_style(style);
    }
    bar.set_prefix("segments");
    bar
}

/// How many partitions the events are spread over, and whether the topic is new to the log. An import that was broken off goes on
/// with what it found the first time.
async fn partitions(log: &dyn Beginnings, source: &Source) -> Result<(u32, bool)> {
    let name = &*source.name;
    if let Some(beginning) = log.beginning(name).await.context("event log")? {
        return Ok((u32::try_from(beginning.partitions.len()).unwrap_or(u32::MAX), false));
    }
    if log.topics().await.context("event log")?.iter().any(|topic| topic.name == name) {
        return Err(refused(beginning::in_use(name)));
    }
    // A topic of Kafka's that nobody has used by Tidemark.
    let there = match log.bounds(name).await {
        Ok(bounds) => u32::try_from(bounds.len()).unwrap_or(u32::MAX),
        Err(LogError::NotFound(_)) => 0,
        Err(error) => return Err(error).context("event log"),
    };
    Ok((source.partitions.max(there), true))
}

fn refused(error: LogError) -> Failure {
    match error {
        LogError::Invalid(reason) => Failure::usage(reason),
        error => Failure::new(error),
    }
}

fn nothing(rejected: u64, shown: &[String]) -> Failure {
    if rejected == 0 {
        return Failure::new("the files hold no event: nothing was imported");
    }
    let more = rejected - shown.len() as u64;
    let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
    Failure::new(format!(
        "none of the {rejected} events can be taken, and nothing was imported:\n{}{more}",
        shown.join("\n")
    ))
}

/// What was put aside.
struct Aside {
    spooled: Spooled,
    accepted: u64,
    rejected: u64,
    shown: Vec<String>,
}

/// Where reading stands.
struct Reading {
    topic: String,
    encoder: Arc<EventEncoder>,
    partitions: u32,
    letter_schema: u32,
    spool: Spool,
    /// How many blocks were read, over all files.
    blocks: u64,
    accepted: u64,
    shown: Vec<String>,
}

impl Reading {
    fn take_file<R: std::io::BufRead>(
        &mut self,
        name: &str,
        mut events: ContainerEvents<R>,
        mut look: impl FnMut(&Self),
    ) -> Result<(), String> {
        let encoder = self.encoder.clone();
        let mut before = 0;
        loop {
            let (mut number, mut failed) = (before, None);
            // All keyless events of a block go to one partition, as those of a request do.
            let keyless = u32::try_from(self.blocks % u64::from(self.partitions)).unwrap_or(0);
            let block = events.next_block(&encoder, |event| {
                number += 1;
                let taken = match event {
                    _ if failed.is_some() => return,
                    Ok(event) => {
                        let partition = event.key.as_ref().map(|key| partition_for(key, self.partitions));
                        self.accepted += 1;
                        let pushed = self.spool.push(partition.unwrap_or(keyless), &event);
                        pushed.map_err(|error| format!("putting events aside: {error}"))
                    }
                    Err(rejection) => self.reject(name, number, rejection),
                };
                failed = taken.err();
            });
            let block = block.map_err(|error| error.to_string())?;
            if let Some(failed) = failed {
                return Err(failed);
            }
            let Some(count) = block else { return Ok(()) };
            before += count as u64;
            self.blocks += 1;
            look(self);
        }
    }

    /// Makes a dead letter of an event, which is the `number`th of its file.
    fn reject(&mut self, name: &str, number: u64, rejection: Rejection) -> Result<(), String> {
        let Rejection { reason, original } = rejection;
        if original.len() > import::LONGEST_ORIGINAL {
            return Err(format!(
                "event {number}: {reason}; its {} bytes are too many for a dead letter",
                original.len()
            ));
        }
        let place = format!("{name}:{number}: {reason}");
        let letter = DeadLetter {
            reason: place.clone(),
            topic: self.topic.clone(),
            origin: Origin::Http { index: Some(number - 1) },
            content_type: Some("application/avro".to_owned()),
            original,
            received_at: chrono::Utc::now().timestamp_micros(),
        };
        let Content::Event { value, .. } = letter.to_record(self.letter_schema) else { return Ok(()) };
        let key: Bytes = import::letter_key(self.spool.letters());
        let pushed = self.spool.push_letter(&Content::Event { key: Some(key), value });
        pushed.map_err(|error| format!("putting events aside: {error}"))?;
        if self.shown.len() < SHOWN {
            self.shown.push(place);
        }
        Ok(())
    }
}

impl Imported {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        let partitions = (0..).zip(&self.partitions).map(|(number, it): (u32, _)| {
            json!({"partition": number, "events": it.events, "segments": it.segments, "first_offset": it.end})
        });
        json!({
            "topic": self.topic,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "partitions": partitions.collect::<Vec<_>>(),
        })
    }

    /// As a person reads it.
    pub fn to_text(&self) -> String {
        let mut table = Table::new(["partition", "events", "segments", "the log goes on at"]);
        for (number, it) in (0..).zip(&self.partitions) {
            let number: u32 = number;
            table.row([json!(number), json!(it.events), json!(it.segments), json!(it.end)]);
        }
        format!("{table}accepted {}, rejected {}\n", self.accepted, self.rejected)
    }
}

/// Runs the command.
///
/// # Errors
///
/// See [`Import::run`]; also when some event was rejected.
pub async fn run(import: &Import, folder: &Folder, settings: &Settings, as_json: bool) -> Result {
    let imported = import.run(folder, settings).await?;
    print(if as_json { format!("{}\n", imported.to_json()) } else { imported.to_text() });
    if imported.rejected == 0 {
        return Ok(());
    }
    let more = imported.rejected - imported.shown.len() as u64;
    let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
    Err(Failure::new(format!("rejected:\n{}{more}", imported.shown.join("\n"))))
}
