//! Generated clicks in an embedded log, with everything beside it that the layers need.

use std::path::Path;
use std::sync::Arc;

use event_log::encode::{EventEncoder, partition_for, value_subject};
use event_log::registry::{EmbeddedRegistry, SchemaRegistry};
use event_log::{Content, EmbeddedLog, EmbeddedOptions, EventLog, TopicSpec};
use tidemark::generator::{Clicks, Traffic};
use views::{Application, Source, TopicPartition, View};

/// How many events go into a partition at once.
const CHUNK: usize = 2000;

/// The clickstream application over a log of its own.
pub struct Clickstream {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The schemas.
    pub registry: Arc<dyn SchemaRegistry>,
    /// The application, as it is shipped.
    pub application: Application,
}

/// What was put into the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filled {
    /// Accepted events.
    pub events: u64,
    /// Their bytes as JSON lines.
    pub json_bytes: u64,
}

impl Clickstream {
    /// Opens it in a folder, where it may have been before.
    pub async fn open(folder: &Path) -> Self {
        let application = tidemark::application::clickstream().compile().expect("the shipped application");
        let log = EmbeddedLog::open(folder.join("log"), EmbeddedOptions { fsync: false, ..Default::default() });
        let registry = EmbeddedRegistry::open(folder.join("registry")).expect("a registry");
        Self::on(Arc::new(log.expect("a log")), Arc::new(registry), application).await
    }

    /// An application whose first source is the clicks, over other parts.
    pub async fn on(log: Arc<dyn EventLog>, registry: Arc<dyn SchemaRegistry>, application: Application) -> Self {
        let this = Self { log, registry, application };
        this.log.create_topic(&this.topic()).await.expect("a topic");
        this
    }

    /// The source of the clicks.
    pub fn source(&self) -> &Arc<Source> {
        &self.application.sources[0]
    }

    /// A view by name.
    pub fn view(&self, name: &str) -> Arc<View> {
        let view = self.application.views.iter().find(|view| &*view.name == name);
        view.expect("a view of clickstream").clone()
    }

    /// The topic of the clicks.
    pub fn topic(&self) -> TopicSpec {
        let source = self.source();
        TopicSpec {
            name: source.name.to_string(),
            partitions: source.partitions,
            segment_records: source.segment_records,
        }
    }

    /// Every partition of the clicks.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> {
        let source = self.source().clone();
        (0..source.partitions).map(move |number| TopicPartition::new(source.name.clone(), number))
    }

    /// Appends so many generated events.
    pub async fn fill(&self, events: u64) -> Filled {
        let source = self.source();
        let id = self.registry.register(&value_subject(&source.name), &source.avro).await.expect("a schema id");
        let encoder = EventEncoder::new(source, id).expect("an encoder");
        let partitions: Vec<TopicPartition> = self.partitions().collect();
        let mut waiting = vec![Vec::with_capacity(CHUNK); partitions.len()];
        let mut clicks = Clicks::with(Traffic { broken_ppm: 0, ..Traffic::default() });
        let mut filled = Filled::default();
        let mut line = Vec::new();
        while filled.events < events {
            line.clear();
            clicks.write(&mut line);
            filled.events += 1;
            filled.json_bytes += line.len() as u64 + 1;
            let event = encoder.json(&line).expect("a good event");
            let number = event.key.as_ref().map_or(0, |key| partition_for(key, source.partitions)) as usize;
            waiting[number].push(Content::Event { key: event.key, value: event.value });
            if waiting[number].len() == CHUNK {
                let chunk = std::mem::replace(&mut waiting[number], Vec::with_capacity(CHUNK));
                self.log.append(&partitions[number], chunk).await.expect("appended");
            }
        }
        for (partition, rest) in partitions.iter().zip(waiting) {
            self.log.append(partition, rest).await.expect("appended");
        }
        filled
    }
}
