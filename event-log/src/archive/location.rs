//! Opens the archive at the address that the setting `archive.url` gives.
//!
//! Before an archive in a bucket is used, it is made sure that the bucket is there and lets us in, and that the server really
//! creates an object only when there is none of that name: some take that condition and do not keep it, and two archivers could then
//! replace each other's objects.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3CopyIfNotExists};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, CopyMode, CopyOptions, Error, ObjectStore, PutMode, PutOptions, RetryConfig,
};

use super::Archive;
use crate::durable_files::DurableFiles;
use crate::error::{LogError, Result};

/// The objects with which the server is tried. No topic can have such a name.
const PUT_PROBE: &str = "probe=put-if-absent";
const COPY_PROBE: &str = "probe=copy-if-absent";
const PROBE_TEXT: &str = "Tidemark tries here whether the server creates only what is absent.\n";

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a bucket may take to show that it is there.
const GREETING: Duration = Duration::from_secs(5);
/// How long the trials may take: contended conditional requests take seconds on some servers.
const TRIALS: Duration = Duration::from_secs(30);
/// How long a request may take: a part on its way up, or what a read brings before it goes on with another request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long listings may be behind in a bucket. S3's own are not.
const LISTING_LAG: Duration = Duration::from_secs(5);

/// How an archive is reached.
#[derive(Clone)]
pub struct LocationOptions {
    /// The variables that tell region, endpoint and credentials of a bucket, `AWS_…`: those of the process by default.
    pub variables: Vec<(String, String)>,
    /// Objects in a bucket that are larger than this are put in parts.
    pub in_parts_above: usize,
}

impl Default for LocationOptions {
    fn default() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with("AWS_"))?;
            Some((name, value.into_string().ok()?))
        });
        Self { variables: variables.collect(), in_parts_above: 64 << 20 }
    }
}

/// Without the variables' values: some are secret.
impl fmt::Debug for LocationOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.variables.iter().map(|(name, _)| name).collect();
        let mut debug = f.debug_struct("LocationOptions");
        debug.field("variables", &names).field("in_parts_above", &self.in_parts_above).finish()
    }
}

/// Opens the archive at `file:///folder` or `s3://bucket/prefix`.
///
/// # Errors
///
/// Naming the setting, within seconds: `Invalid` when the address, the bucket, the credentials or the server are not such that an archive
/// can be there; `Unavailable` when it does not answer.
pub async fn open(url: &str, options: &LocationOptions) -> Result<Archive> {
    if let Some(path) = url.strip_prefix("file://") {
        return open_folder(url, path);
    }
    match url.strip_prefix("s3://") {
        Some(rest) => open_bucket(rest, options).await,
        None => Err(invalid(url, "neither file:///folder nor s3://bucket/prefix")),
    }
}

fn invalid(url: &str, reason: impl fmt::Display) -> LogError {
    LogError::Invalid(format!("archive.url: {url}: {reason}"))
}

fn open_folder(url: &str, path: &str) -> Result<Archive> {
    if !path.starts_with('/') {
        return Err(invalid(url, "a folder needs its whole path, as in file:///var/lib/tidemark/archive"));
    }
    // Only then are `%20` and the like what they are in every other address.
    let parsed = reqwest::Url::parse(url).map_err(|e| invalid(url, e))?;
    let folder: PathBuf = parsed.to_file_path().map_err(|()| invalid(url, "not the path of a folder"))?;
    let objects = DurableFiles::open(&folder).map_err(|error| invalid(url, innermost(&error)))?;
    Ok(Archive::new(Arc::new(objects), ""))
}

async fn open_bucket(rest: &str, options: &LocationOptions) -> Result<Archive> {
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket = Bucket::new(name, options)?;
    let prefix = Path::parse(prefix).map_err(|e| bucket.invalid(format_args!("the prefix {prefix:?}: {e}")))?;

    let objects = bucket.client()?;
    bucket.greet(&objects, &prefix).await?;
    let trials = bucket.try_conditions(&objects, &prefix);
    let copies = tokio::time::timeout(TRIALS, trials).await.map_err(|_| bucket.silent(TRIALS))??;

    let archive = Archive::new(Arc::new(objects), prefix.as_ref()).with_listing_lag(LISTING_LAG);
    if copies {
        return Ok(archive.in_parts_above(options.in_parts_above));
    }
    tracing::warn!(
        bucket = bucket.name,
        "the server does not keep the condition of a copy: segments of any size are put in one request"
    );
    Ok(archive)
}

/// An archiver tries again for ever; this is for the hiccups of which nobody needs to know.
fn retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        ..BackoffConfig::default()
    };
    RetryConfig { backoff, max_retries: 3, retry_timeout: Duration::from_secs(30) }
}

/// A bucket, and how to say what is wrong with it.
struct Bucket<'a> {
    name: &'a str,
    builder: AmazonS3Builder,
    /// Where it is, to tell a person.
    place: String,
    has_credentials: bool,
}

impl<'a> Bucket<'a> {
    fn new(name: &'a str, options: &LocationOptions) -> Result<Self> {
        if name.is_empty() {
            return Err(LogError::Invalid("archive.url: no bucket in it, as in s3://bucket/prefix".to_owned()));
        }
        let mut builder = AmazonS3Builder::new();
        for (name, value) in &options.variables {
            if let Ok(key) = name.to_ascii_lowercase().parse() {
                builder = builder.with_config(key, value);
            }
        }
        let told = |key: AmazonS3ConfigKey| builder.get_config_value(&key).filter(|value| !value.is_empty());
        let endpoint = told(AmazonS3ConfigKey::S3Endpoint).or_else(|| told(AmazonS3ConfigKey::Endpoint));
        let has_credentials = [
            AmazonS3ConfigKey::AccessKeyId,
            AmazonS3ConfigKey::WebIdentityTokenFile,
            AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
            AmazonS3ConfigKey::ContainerCredentialsFullUri,
        ];
        let has_credentials = has_credentials.into_iter().any(|key| told(key).is_some());
        let place = endpoint.clone().unwrap_or_else(|| {
            let region = told(AmazonS3ConfigKey::Region).or_else(|| told(AmazonS3ConfigKey::DefaultRegion));
            format!("S3 in {}", region.unwrap_or_else(|| "us-east-1".to_owned()))
        });
        // Whoever gives a plain address means it.
        let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let allow_http = plain
            || options
                .variables
                .iter()
                .any(|(name, value)| name == "AWS_ALLOW_HTTP" && value.eq_ignore_ascii_case("true"));
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT)
            .with_allow_http(allow_http);
        let builder = builder
            .with_bucket_name(name)
            .with_client_options(client)
            .with_copy_if_not_exists(S3CopyIfNotExists::Multipart);
        Ok(Self { name, builder, place, has_credentials })
    }

    fn client(&self) -> Result<AmazonS3> {
        let built = self.builder.clone().with_retry(retries()).build();
        built.map_err(|error| self.invalid(format_args!("{}; see the AWS_… variables", innermost(&error))))
    }

    fn invalid(&self, reason: impl fmt::Display) -> LogError {
        LogError::Invalid(format!("archive.url: bucket {} at {}: {reason}", self.name, self.place))
    }

    fn unavailable(&self, reason: impl fmt::Display) -> LogError {
        let hint = if self.has_credentials {
            "see AWS_ENDPOINT_URL and AWS_REGION"
        } else {
            "no credentials are set: see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        };
        let context = format!("archive.url: bucket {} at {}", self.name, self.place);
        LogError::unavailable(context, format!("{reason} ({hint})"))
    }

    fn silent(&self, time: Duration) -> LogError {
        self.unavailable(format_args!("no answer within {} s", time.as_secs()))
    }

    /// What a failed request says about the settings.
    fn failed(&self, error: &Error) -> LogError {
        // A listing's failure has no kind, but it has the server's words.
        let told = innermost(error);
        let says = |codes: &[&str]| codes.iter().any(|code| told.contains(code));
        match error {
            Error::NotFound { .. } => self.invalid(format_args!("there is no such bucket ({told})")),
            _ if says(&["NoSuchBucket", "404 Not Found"]) => {
                self.invalid(format_args!("there is no such bucket ({told})"))
            }
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => self.denied(&told),
            _ if says(&[
                "AccessDenied",
                "SignatureDoesNotMatch",
                "InvalidAccessKeyId",
                "403 Forbidden",
                "InvalidToken",
                "ExpiredToken",
            ]) =>
            {
                self.denied(&told)
            }
            _ => self.unavailable(told),
        }
    }

    fn denied(&self, told: &str) -> LogError {
        self.invalid(format_args!("it does not let us in; see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({told})"))
    }

    /// Makes sure that the bucket is there and lets us list it. It must be asked before anything is put: some servers make a bucket of
    /// whatever name something is put into.
    async fn greet(&self, objects: &AmazonS3, prefix: &Path) -> Result<()> {
        let mut listing = objects.list(Some(prefix));
        match tokio::time::timeout(GREETING, listing.next()).await {
            Ok(None | Some(Ok(_))) => Ok(()),
            Ok(Some(Err(error))) => Err(self.failed(&error)),
            Err(_) => Err(self.silent(GREETING)),
        }
    }

    /// Makes sure that a put creates only what is absent. Returns whether a copy does too.
    async fn try_conditions(&self, objects: &AmazonS3, prefix: &Path) -> Result<bool> {
        let (probe, copy) = (prefix.clone().join(PUT_PROBE), prefix.clone().join(COPY_PROBE));
        // Once it is there every put of it must fail; it stays there, so later starts see that at once.
        for _ in 0..2 {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match objects.put_opts(&probe, PROBE_TEXT.into(), options).await {
                Ok(_) => {}
                Err(Error::AlreadyExists { .. }) => return Ok(self.copies(objects, &probe, &copy).await),
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Err(self.invalid(
            "the server replaced an object that was to be created only if absent (If-None-Match: *), so archivers could \
             destroy each other's segments; use a server that keeps this condition",
        ))
    }

    async fn copies(&self, objects: &AmazonS3, probe: &Path, copy: &Path) -> bool {
        for _ in 0..2 {
            let options = CopyOptions { mode: CopyMode::Create, ..CopyOptions::default() };
            match objects.copy_opts(probe, copy, options).await {
                Ok(()) => {}
                Err(Error::AlreadyExists { .. }) => return true,
                Err(error) => {
                    tracing::warn!(bucket = self.name, %error, "trying to copy an object if it is absent");
                    return false;
                }
            }
        }
        false
    }
}

/// The cause that says most, on one line: a server's own words if there are any.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    let between = |from: &str, to: &str| Some(text.split_once(from)?.1.split_once(to)?.0.to_owned());
    let told = match (between("<Code>", "</Code>"), between("<Message>", "</Message>")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => text,
    };
    told.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}
