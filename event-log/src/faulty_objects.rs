//! An object store with faults from a seed, for simulations: requests that fail before they are carried out, puts whose
//! acknowledgement is lost, and slowness.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use parking_lot::Mutex;

/// How often what goes wrong: probabilities from 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObjectFaults {
    /// A request fails and has not been carried out.
    pub fails: f64,
    /// A put, copy or delete is carried out and then fails all the same.
    pub lost: f64,
    /// A request is slow.
    pub slow: f64,
    /// How slow, at most.
    pub slowness: Duration,
}

/// An object store that does what the one inside does, except when it does not.
#[derive(Debug)]
pub struct FaultyObjects {
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<ObjectFaults>,
    chance: Mutex<u64>,
}

impl FaultyObjects {
    /// Faults in front of `inner`. The same seed and the same requests in the same order give the same faults.
    pub fn new(inner: Arc<dyn ObjectStore>, faults: ObjectFaults, seed: u64) -> Self {
        Self { inner, faults: Mutex::new(faults), chance: Mutex::new(seed) }
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: ObjectFaults) {
        *self.faults.lock() = faults;
    }

    /// A number from 0 to 1 (SplitMix64).
    fn chance(&self) -> f64 {
        let mut state = self.chance.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    async fn before(&self, request: &str) -> Result<()> {
        let faults = *self.faults.lock();
        if self.chance() < faults.slow {
            tokio::time::sleep(faults.slowness.mul_f64(self.chance())).await;
        }
        if self.chance() < faults.fails { Err(injected(format!("{request} failed"))) } else { Ok(()) }
    }

    fn after<T>(&self, request: &str, outcome: Result<T>) -> Result<T> {
        let lost = self.faults.lock().lost;
        match outcome {
            Ok(_) if self.chance() < lost => Err(injected(format!("the acknowledgement of {request} was lost"))),
            outcome => outcome,
        }
    }
}

fn injected(what: String) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

impl fmt::Display for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyObjects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.before("a put").await?;
        let outcome = self.inner.put_opts(location, payload, opts).await;
        self.after("a put", outcome)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.before("a multipart put").await?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.before("a get").await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.before("a get").await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let failed = self.chance() < self.faults.lock().fails;
        if failed {
            return stream::once(async { Err(injected("a delete failed".to_owned())) }).boxed();
        }
        let lost = self.chance() < self.faults.lock().lost;
        let deleted = self.inner.delete_stream(locations);
        deleted
            .map(move |outcome| match outcome {
                Ok(_) if lost => Err(injected("the acknowledgement of a delete was lost".to_owned())),
                outcome => outcome,
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let failed = self.chance() < self.faults.lock().fails;
        if failed {
            return stream::once(async { Err(injected("a listing failed".to_owned())) }).boxed();
        }
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let failed = self.chance() < self.faults.lock().fails;
        if failed {
            return stream::once(async { Err(injected("a listing failed".to_owned())) }).boxed();
        }
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before("a listing").await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.before("a copy").await?;
        let outcome = self.inner.copy_opts(from, to, options).await;
        self.after("a copy", outcome)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.before("a rename").await?;
        let outcome = self.inner.rename_opts(from, to, options).await;
        self.after("a rename", outcome)
    }
}
