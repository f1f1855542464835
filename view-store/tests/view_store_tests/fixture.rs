//! A view, a store with something in it, and what it must answer.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt, stream};
use view_store::store::{DeltaWrite, KeyRange, Progress, PublishOutcome, ViewDeltas, ViewStore, WriteOutcome};
use view_store::{EmbeddedOptions, EmbeddedStore, StoreError};
use views::{Application, ApplicationFile, Position, Published, Segment, TopicPartition, View};

pub fn view() -> Arc<View> {
    let avro = r#"{"type": "record", "name": "click", "fields": [{"name": "url", "type": "string"}]}"#;
    let sql = "CREATE SOURCE clicks WITH (schema = 'click.avsc', partitions = 4);
        CREATE MATERIALIZED VIEW urls AS SELECT url, count(*) AS n FROM clicks GROUP BY url;";
    let files = [("click.avsc", avro), ("views.sql", sql)];
    let files = files.map(|(path, text)| ApplicationFile { path: path.to_owned(), text: text.to_owned() });
    Application::compile(&files).expect("an application").view("urls").expect("a view").clone()
}

pub fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, EmbeddedOptions::default()).expect("a store")
}

pub fn states(view: &View, counts: &[(String, i64)]) -> RecordBatch {
    let urls: ArrayRef = Arc::new(counts.iter().map(|(url, _)| Some(url)).collect::<StringArray>());
    let counted: ArrayRef = Arc::new(counts.iter().map(|(_, count)| Some(*count)).collect::<Int64Array>());
    let fields = view.state_schema.fields().iter();
    let columns = fields.zip([urls, counted]).map(|(field, column)| cast(&column, field.data_type()).expect("a cast"));
    RecordBatch::try_new(view.state_schema.clone(), columns.collect()).expect("states")
}

pub fn urls(count: i64) -> Vec<(String, i64)> {
    (0..50).map(|url| (format!("u{url:02}"), count)).collect()
}

pub fn partition() -> TopicPartition {
    TopicPartition::new("clicks", 0)
}

pub async fn write(store: &impl ViewStore, view: &Arc<View>, from: u64, to: u64, open: Segment, count: i64) {
    let views = vec![ViewDeltas { view: view.clone(), segments: vec![(open, states(view, &urls(count)))] }];
    let write = DeltaWrite { partition: partition(), from, to: Progress { offset: to, segment: open }, views };
    assert_eq!(store.write_deltas(write).await.expect("a write"), WriteOutcome::Written);
}

pub async fn publish(store: &impl ViewStore, view: &Arc<View>, generation: u64, frontier: u64, count: i64) {
    let rows = stream::iter([Ok(states(view, &urls(count)))]).boxed();
    store.write_generation(view, generation, rows).await.expect("a generation");
    let next = Published {
        generation,
        frontier: [(partition(), frontier)].into_iter().collect(),
        views: [(view.name.clone(), view.fingerprint.clone())].into(),
        behind: Vec::new(),
    };
    assert_eq!(store.publish(&next).await.expect("publishing"), PublishOutcome::Published);
}

/// The count of each url, and the position it is of.
pub async fn counts(
    store: &impl ViewStore,
    view: &Arc<View>,
    range: &KeyRange,
) -> Result<(std::collections::BTreeMap<String, i64>, Position), StoreError> {
    let read = store.read(view, range).await?;
    let chunks: Vec<_> = read.rows.try_collect().await?;
    let mut counts = std::collections::BTreeMap::new();
    for chunk in chunks {
        let urls = cast(chunk.states.column(0), &DataType::Utf8).expect("text");
        let counted = chunk.states.column(1).as_primitive::<Int64Type>();
        for row in 0..chunk.states.num_rows() {
            *counts.entry(urls.as_string::<i32>().value(row).to_owned()).or_default() += counted.value(row);
        }
    }
    Ok((counts, read.position))
}

/// Every url has as many clicks as the position has records.
pub async fn answer(store: &impl ViewStore, view: &Arc<View>) -> Result<u64, StoreError> {
    let (counts, position) = counts(store, view, &KeyRange::default()).await?;
    let reached = position.get(&partition()).unwrap_or(0);
    assert!(reached == 0 || counts.len() == 50, "{} urls at {reached}", counts.len());
    for (url, count) in counts {
        assert_eq!(count as u64, reached, "{url}");
    }
    Ok(reached)
}

pub fn key(view: &View, url: &str) -> KeyRange {
    let column: ArrayRef = Arc::new(StringArray::from(vec![url]));
    let column = cast(&column, view.group_schema.field(0).data_type()).expect("a key");
    KeyRange { key: Some(vec![ScalarValue::try_from_array(&column, 0).expect("a key")]), ..KeyRange::default() }
}

pub fn copy(from: &Path, to: &Path) {
    try_copy(from, to).expect("a copy");
}

/// Copies a store that is open as one moment of its files: again, until nothing changed meanwhile.
pub fn copy_open(from: &Path) -> tempfile::TempDir {
    loop {
        let to = tempfile::TempDir::new().expect("a directory");
        let before = listing(from);
        if try_copy(from, to.path()).is_ok() && before.is_ok() && before.ok() == listing(from).ok() {
            return to;
        }
    }
}

/// Every file with its length and the time it was changed.
fn listing(dir: &Path) -> std::io::Result<Vec<(std::path::PathBuf, u64, std::time::SystemTime)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        files.push((entry.path(), about.len(), about.modified()?));
        if about.is_dir() {
            files.extend(listing(&entry.path())?);
        }
    }
    files.sort();
    Ok(files)
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy(&entry.path(), &target)?;
        } else if target.extension().is_some_and(|extension| extension == "jnl") {
            // 64 MiB of zeros, almost: left as a hole.
            let bytes = std::fs::read(entry.path())?;
            std::fs::write(&target, &bytes[..written(&bytes)])?;
            std::fs::File::options().write(true).open(&target)?.set_len(bytes.len() as u64)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// How long a file is without the zeros at its end: journals are allocated ahead.
pub fn written(bytes: &[u8]) -> usize {
    let mut length = bytes.len();
    while length >= 4096 && bytes[length - 4096..length] == [0; 4096] {
        length -= 4096;
    }
    bytes[..length].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}
