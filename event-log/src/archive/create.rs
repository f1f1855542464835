//! Creates an object if there is none of its name.
//!
//! A small object is put in one request that the store refuses when the name is taken. A large one is put in parts under a name of its
//! own first, because putting parts together replaces what is there; then the store copies it, on the same condition, and the
//! first copy is deleted. An archiver that dies in between leaves it behind, and the next that has the segment removes it.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    Result,
};
use uuid::Uuid;

/// How the name of an upload ends.
const UPLOAD: &str = ".upload";
/// How large a part is; the last may be smaller. S3 takes 10,000 parts of at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// How many parts are on their way at once.
const PARTS_AT_ONCE: usize = 4;

/// Whether an object was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Created {
    /// It is ours.
    New,
    /// The name was taken. An earlier attempt of ours whose acknowledgement was lost may have taken it.
    There,
}

/// Creates an object in one request, or in parts when it is larger than `in_parts_above`.
pub(super) async fn create(
    objects: &dyn ObjectStore,
    name: &Path,
    object: &Bytes,
    in_parts_above: Option<usize>,
) -> Result<Created> {
    if in_parts_above.is_some_and(|bytes| object.len() > bytes) {
        return create_in_parts(objects, name, object).await;
    }
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    created(objects.put_opts(name, PutPayload::from_bytes(object.clone()), options).await)
}

fn created<T>(outcome: Result<T>) -> Result<Created> {
    match outcome {
        Ok(_) => Ok(Created::New),
        Err(Error::AlreadyExists { .. }) => Ok(Created::There),
        Err(error) => Err(error),
    }
}

async fn create_in_parts(objects: &dyn ObjectStore, name: &Path, object: &Bytes) -> Result<Created> {
    // Who comes second does not bring all of it for nothing.
    match objects.head(name).await {
        Ok(_) => {
            remove_uploads(objects, name).await;
            return Ok(Created::There);
        }
        Err(Error::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let upload = Path::from(format!("{name}.{}{UPLOAD}", Uuid::new_v4()));
    put_in_parts(objects, &upload, object).await?;
    let options = CopyOptions { mode: CopyMode::Create, ..CopyOptions::default() };
    let outcome = created(objects.copy_opts(&upload, name, options).await);
    remove(objects, &upload).await;
    if outcome.is_ok() {
        remove_uploads(objects, name).await;
    }
    outcome
}

async fn put_in_parts(objects: &dyn ObjectStore, name: &Path, object: &Bytes) -> Result<()> {
    let mut upload = objects.put_multipart_opts(name, PutMultipartOptions::default()).await?;
    let starts = (0..object.len()).step_by(PART_BYTES);
    let parts: Vec<_> = starts
        .map(|start| object.slice(start..object.len().min(start + PART_BYTES)))
        .map(|part| upload.put_part(PutPayload::from_bytes(part)))
        .collect();
    let put: Result<()> = stream::iter(parts).buffer_unordered(PARTS_AT_ONCE).try_collect().await;
    let outcome = match put {
        Ok(()) => upload.complete().await.map(|_| ()),
        Err(error) => Err(error),
    };
    if outcome.is_err()
        && let Err(error) = upload.abort().await
    {
        tracing::warn!(object = %name, %error, "the parts of an upload stay behind");
    }
    outcome
}

/// Removes what uploads have left beside an object: those whose object is there are of no use any more. If one of them is just being
/// copied by another archiver, that one tries again and finds the object.
async fn remove_uploads(objects: &dyn ObjectStore, name: &Path) {
    let Some((folder, _)) = name.as_ref().rsplit_once('/') else { return };
    let listed: Result<HashSet<Path>> =
        objects.list(Some(&Path::from(folder))).map_ok(|object| object.location).try_collect().await;
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(folder, %error, "uploads may stay behind");
            return;
        }
    };
    let object_of = |upload: &Path| Some(Path::from(upload.as_ref().strip_suffix(UPLOAD)?.rsplit_once('.')?.0));
    for upload in &listed {
        if object_of(upload).is_some_and(|object| object == *name || listed.contains(&object)) {
            remove(objects, upload).await;
        }
    }
}

/// A failure is told and no more: an upload is nobody's segment.
async fn remove(objects: &dyn ObjectStore, upload: &Path) {
    match objects.delete(upload).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!(object = %upload, %error, "an upload stays behind"),
    }
}
