//! An object store whose listings are behind: what was put shows up in them only after a while, each object after its own.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

#[derive(Debug)]
pub struct Lagging {
    inner: Arc<dyn ObjectStore>,
    longest: Duration,
    /// When each object shows up.
    shown: Arc<Mutex<HashMap<Path, Instant>>>,
}

impl Lagging {
    pub fn new(inner: Arc<dyn ObjectStore>, longest: Duration) -> Self {
        Self { inner, longest, shown: Arc::default() }
    }

    fn put(&self, location: &Path) {
        let lag = self.longest.mul_f64(rand::random());
        self.shown.lock().entry(location.clone()).or_insert_with(|| Instant::now() + lag);
    }
}

impl fmt::Display for Lagging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lagging {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Lagging {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.put(location);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.put(location);
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let shown = self.shown.clone();
        let seen =
            move |object: &ObjectMeta| shown.lock().get(&object.location).is_none_or(|shown| *shown <= Instant::now());
        self.inner.list(prefix).try_filter(move |object| std::future::ready(seen(object))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.put(to);
        self.inner.copy_opts(from, to, options).await
    }
}
