//! The archive on a real S3 server: finding it, racing on it, killing it. What goes in and comes out is tested in `archive`.

mod location;
mod outage;
mod race;
mod weed;

use std::sync::Arc;
use std::time::Duration;

use event_log::archive::{Archive, LocationOptions, open};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3CopyIfNotExists};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;

use crate::registry::http;

/// All tests share it, each with a prefix of its own.
pub const BUCKET: &str = "tidemark-test-event-log";
const USER: &str = "tidemark";
const SECRET: &str = "tidemark-secret";

/// Where the S3 server is that the tests use; the bucket is there.
pub async fn server() -> String {
    let endpoint = std::env::var("TIDEMARK_TEST_S3").unwrap_or_else(|_| "http://127.0.0.1:18333".to_owned());
    assert!(make_bucket(&endpoint, BUCKET).await, "no S3 server at {endpoint}: ./dev up starts it");
    endpoint
}

/// Whether the bucket is there now.
pub async fn make_bucket(endpoint: &str, bucket: &str) -> bool {
    let url =
        client(endpoint, bucket).signed_url("PUT".parse().unwrap(), &Path::default(), Duration::from_secs(60)).await;
    let answer = http().put(url.unwrap().as_str().trim_end_matches('/')).send().await;
    // 409: it was there.
    answer.is_ok_and(|answer| answer.status().is_success() || answer.status().as_u16() == 409)
}

pub fn client(endpoint: &str, bucket: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_bucket_name(bucket)
        .with_access_key_id(USER)
        .with_secret_access_key(SECRET)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .build()
        .unwrap()
}

pub fn fresh_prefix() -> String {
    format!("run-{}", uuid::Uuid::new_v4())
}

/// A part of the bucket that nobody else has.
pub async fn folder() -> Arc<dyn ObjectStore> {
    Arc::new(PrefixStore::new(client(&server().await, BUCKET), fresh_prefix()))
}

/// What an operator sets for a server.
pub fn settings(endpoint: &str) -> LocationOptions {
    let variables = [("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", USER), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    LocationOptions { variables, ..LocationOptions::default() }
}

/// The archive with a prefix, as a process opens it.
pub async fn opened(endpoint: &str, prefix: &str, in_parts_above: usize) -> Archive {
    let options = LocationOptions { in_parts_above, ..settings(endpoint) };
    open(&format!("s3://{BUCKET}/{prefix}"), &options).await.unwrap()
}
