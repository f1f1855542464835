//! Batch runs against plain DataFusion running the same SQL over the same archive files, and how large those are.
//!
//! The files are on the local disk and have just been read, so both read from memory. Both use one stream per core.
//! A run is a whole one: marking, sealing, recomputing, writing the generation, publishing, retiring; with the memory
//! that `tidemark run` gives it by default, so it may spill. Plain DataFusion has its own Avro reader and all memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use batch_layer::{BatchLayer, NoProgress, Phase, Settings};
use datafusion::prelude::{AvroReadOptions, SessionConfig, SessionContext};
use event_log::archive::Archive;
use event_log::archiver::{Archiver, ArchiverOptions};
use event_log::durable_files::DurableFiles;
use tempfile::TempDir;
use view_store::{EmbeddedOptions, EmbeddedStore};
use views::View;

use crate::clicks::Clickstream;
use crate::measure::{Busy, Seconds, Stopwatch, median, median_ratio, short};
use crate::scale::Scale;
use crate::table::{Measured, Table, Target};

/// Measures one or both.
pub fn measure(scale: &Scale, runs: bool, sizes: bool, table: &mut Table) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let folder = TempDir::new().expect("a temporary folder");
        eprintln!("batch, archive: {} generated clicks into a log", short(scale.batch_events as f64));
        let clickstream = Clickstream::open(folder.path()).await;
        let filled = clickstream.fill(scale.batch_events).await;
        let archived = Archived::new(clickstream, folder.path());
        let page_views = vec![archived.clickstream.view("page_views")];
        // The first run lays the archive down; it is not measured.
        archived.run(&page_views).await;
        archived.keep_for_plain();
        if sizes {
            let bytes = archived.bytes();
            let per_event = |bytes: u64| bytes as f64 / filled.events as f64;
            table.add(Measured {
                what: "archive, generated clicks",
                measured: format!("{:.1} bytes/event", per_event(bytes)),
                reference: format!("JSON lines {:.0} bytes/event", per_event(filled.json_bytes)),
                figure: (bytes as f64 / filled.json_bytes as f64, ""),
                target: Target::AtMost(0.15),
            });
        }
        if runs {
            archived.compare("page_views", &page_views, scale.turns, table).await;
            let all = archived.clickstream.application.views.clone();
            archived.compare("all five views", &all, scale.turns.div_ceil(2), table).await;
        }
        archived.archiver.stop().await;
    });
}

/// A log with its archive.
struct Archived {
    clickstream: Clickstream,
    archive: Arc<Archive>,
    archiver: Arc<Archiver>,
    folder: PathBuf,
}

impl Archived {
    fn new(clickstream: Clickstream, folder: &Path) -> Self {
        let files = DurableFiles::open(folder.join("archive")).expect("a folder for the archive");
        let archive = Arc::new(Archive::new(Arc::new(files), ""));
        let archiver = Archiver::start(
            clickstream.log.clone(),
            archive.clone(),
            clickstream.registry.clone(),
            vec![clickstream.topic()],
            ArchiverOptions::default(),
        );
        Self { clickstream, archive, archiver: Arc::new(archiver), folder: folder.to_owned() }
    }

    /// A whole run into a new store: its seconds, and those of recomputing.
    async fn run(&self, views: &[Arc<View>]) -> (Seconds, f64) {
        let folder = TempDir::new().expect("a temporary folder");
        let options = EmbeddedOptions { cache_bytes: 128 << 20, ..EmbeddedOptions::default() };
        let store = EmbeddedStore::open(&folder.path().join("views"), options).expect("a view store");
        let settings = Settings { memory_bytes: 192 << 20, ..Settings::new(self.folder.join("spill")) };
        let layer = BatchLayer::new(
            self.clickstream.log.clone(),
            self.archive.clone(),
            self.clickstream.registry.clone(),
            Arc::new(store),
            views.to_vec(),
            self.archiver.clone(),
            settings,
        );
        let layer = layer.expect("a batch layer");
        let watch = Stopwatch::start();
        let report = layer.run(true, &NoProgress).await.expect("a run");
        let failed: Vec<_> = report.views.iter().filter(|(_, view)| view.error.is_some()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        (watch.stop(), report.phases[&Phase::Recompute] as f64 / 1e3)
    }

    /// Puts the files aside that hold events: later runs, whose markers cut nothing off, leave files behind that hold none, in
    /// which plain DataFusion misses the columns.
    fn keep_for_plain(&self) {
        let kept = self.folder.join("plain");
        std::fs::create_dir(&kept).expect("a folder");
        for (number, file) in files(&self.folder.join("archive")).iter().enumerate() {
            std::fs::hard_link(file, kept.join(format!("{number}.avro"))).expect("a link");
        }
    }

    /// The same SQL by plain DataFusion.
    async fn plain(&self, views: &[Arc<View>]) -> Seconds {
        let config = SessionConfig::new().with_target_partitions(Settings::new("").target_partitions);
        let session = SessionContext::new_with_config(config);
        let folder = format!("{}/", self.folder.join("plain").display());
        let watch = Stopwatch::start();
        session.register_avro("clicks", folder, AvroReadOptions::default()).await.expect("a table");
        for view in views {
            session.sql(&view.sql).await.expect("a query").collect().await.expect("an answer");
        }
        watch.stop()
    }

    async fn compare(&self, name: &str, views: &[Arc<View>], turns: usize, table: &mut Table) {
        let busy = Busy::since_now();
        let (mut ours, mut recomputing, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        let (mut our_processor, mut plain_processor) = (Vec::new(), Vec::new());
        for _ in 0..turns {
            let (run, recompute) = self.run(views).await;
            ours.push(run.clock);
            our_processor.push(run.processor);
            recomputing.push(recompute);
            let sql = self.plain(views).await;
            plain.push(sql.clock);
            plain_processor.push(sql.processor);
            eprintln!("  {name}: run {run:.2?}, recomputing {recompute:.2} s, plain {sql:.2?}");
        }
        table.add(Measured {
            what: &format!("batch run, {name}"),
            measured: format!("{:.2} s (recomputing {:.2} s)", median(&ours), median(&recomputing)),
            reference: format!("plain DataFusion {:.2} s", median(&plain)),
            figure: (median_ratio(&ours, &plain), ""),
            target: Target::AtMost(1.3),
        });
        table.note(format!(
            "batch run, {name}: {:.2} of the processor time of plain DataFusion; {}",
            median_ratio(&our_processor, &plain_processor),
            busy.remark()
        ));
    }

    /// The size of everything in the archive.
    fn bytes(&self) -> u64 {
        let size = |file: &PathBuf| std::fs::metadata(file).expect("a file").len();
        files(&self.folder.join("archive")).iter().map(size).sum()
    }
}

/// Every file in a folder and its folders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map_while(Result::ok);
    let of = |entry: std::fs::DirEntry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] };
    entries.flat_map(of).collect()
}
