//! Requests to the registry's servers, and what their answers mean.
//!
//! `schema_registry_converter` makes the requests it knows; the others go to the same REST API beside it.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use schema_registry_converter::async_impl::schema_registry::{SrSettings, perform_sr_call};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, RawRegisteredSchema, SrCall};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::options::{ConfluentOptions, without_passwords};
use crate::error::{LogError, Result};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// How much of an error's text is told.
const TOLD_BYTES: usize = 500;

/// Why a request got no answer that can be used.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such thing.
    Missing(String),
    /// The registry will not do this, or what it has is of no use.
    Refused(String),
    /// It refuses because of what else is there: an earlier version, or a request at the same moment.
    Conflict(String),
    /// It does not let us in.
    Denied(String),
    /// It does not answer, or says that it cannot.
    Down(String),
}

impl Failure {
    /// By what the caller should do. Not being let in is like being down: it may pass, and says nothing of what was asked for.
    pub fn error(self, context: &str) -> LogError {
        match self {
            Self::Missing(what) => LogError::NotFound(format!("{context}: {what}")),
            Self::Refused(reason) | Self::Conflict(reason) => LogError::Invalid(format!("{context}: {reason}")),
            Self::Denied(reason) | Self::Down(reason) => {
                LogError::unavailable(format!("schema registry (registry.url): {context}"), reason)
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing(reason) | Self::Refused(reason) | Self::Conflict(reason) => reason,
            Self::Denied(reason) | Self::Down(reason) => reason,
        })
    }
}

/// The servers of one registry.
pub(super) struct Servers {
    all: Vec<Server>,
    client: Client,
    /// The one that answered last: it is asked first.
    preferred: AtomicUsize,
}

struct Server {
    /// Without a slash at the end, a user or a password.
    url: String,
    settings: SrSettings,
    login: Login,
}

#[derive(Clone)]
enum Login {
    Nobody,
    User(String, Option<String>),
    Token(String),
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|server| &server.url)).finish()
    }
}

impl Servers {
    /// Asks nothing yet. Takes a moment when certificates are to be read.
    ///
    /// # Errors
    ///
    /// `Invalid` naming the setting that is wrong.
    pub fn new(options: &ConfluentOptions) -> Result<Self> {
        let invalid = |reason: String| LogError::Invalid(reason);
        if options.token.is_some() && options.user.is_some() {
            return Err(invalid("registry.token and registry.user: only one of them can be used".to_owned()));
        }
        let is_plain = addresses(options).all(|text| text.starts_with("http://"));
        let tls = tls(options, is_plain)?;
        let builder = || {
            let builder = ClientBuilder::new().connect_timeout(CONNECT_TIMEOUT).timeout(options.timeout);
            let builder = builder.tls_backend_preconfigured(tls.clone());
            if is_plain { builder.redirect(within_http()) } else { builder }
        };
        let mut all = Vec::new();
        for text in addresses(options) {
            let wrong =
                |reason: &dyn fmt::Display| invalid(format!("registry.url: {}: {reason}", without_passwords(text)));
            let (url, login) = parse_url(text, options).map_err(|reason| wrong(&reason))?;
            let mut settings = SrSettings::new_builder(url.clone());
            match &login {
                Login::Nobody => {}
                Login::User(user, password) => {
                    settings.set_basic_authorization(user, password.as_deref());
                }
                Login::Token(token) => {
                    settings.set_token_authorization(token);
                }
            }
            settings.set_timeout(options.timeout);
            let settings = settings.build_with(builder()).map_err(|e| wrong(&e))?;
            all.push(Server { url, settings, login });
        }
        if all.is_empty() {
            return Err(invalid("registry.url: no address in it".to_owned()));
        }
        let client = builder().build().map_err(|e| invalid(format!("registry.url: {}", innermost(&e))))?;
        Ok(Self { all, client, preferred: AtomicUsize::new(0) })
    }

    /// Makes sure that a registry that handles Avro is there and lets us in.
    ///
    /// # Errors
    ///
    /// `Invalid` when another address, user or password is wanted, `Unavailable` when nothing answers.
    pub async fn greet(&self) -> Result<()> {
        let mut wrong = Vec::new();
        let mut silent = Vec::new();
        for server in &self.all {
            let told = |reason: &dyn fmt::Display| format!("{}: {reason}", server.url);
            match self.rest::<Vec<String>>(server, Method::GET, "/schemas/types", None).await {
                Ok(types) if types.iter().any(|kind| kind == "AVRO") => return Ok(()),
                Ok(_) => wrong.push(told(&"the registry does not handle Avro")),
                Err(Failure::Denied(reason)) => wrong.push(told(&format_args!(
                    "the registry does not let us in; see registry.user, registry.password and registry.token ({reason})"
                ))),
                Err(Failure::Missing(reason) | Failure::Refused(reason) | Failure::Conflict(reason)) => {
                    wrong.push(told(&format_args!("no schema registry answers at this address ({reason})")));
                }
                Err(Failure::Down(reason)) => silent.push(reason),
            }
        }
        if silent.is_empty() {
            return Err(LogError::Invalid(format!("registry.url: {}", wrong.join("; "))));
        }
        silent.append(&mut wrong);
        Err(LogError::unavailable("registry.url", silent.join("; ")))
    }

    /// Makes a request that `schema_registry_converter` knows.
    pub async fn ask(&self, call: SrCall<'_>) -> Result<RawRegisteredSchema, Failure> {
        let mut failures = Failures::default();
        for (index, server) in self.in_turn() {
            match perform_sr_call(&server.settings, call).await {
                Ok(answer) => return Ok(self.answered(index, answer)),
                Err(error) => failures.add(server.failure(&error))?,
            }
        }
        failures.last()
    }

    /// The numbers of a subject's versions, ascending.
    pub async fn versions(&self, subject: &str) -> Result<Vec<u32>, Failure> {
        let mut numbers: Vec<u32> =
            self.rest_in_turn(Method::GET, &format!("/subjects/{}/versions", escaped(subject)), None).await?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// What the registry's own rules for a subject have against a schema.
    pub async fn objection(&self, subject: &str, schema: &str) -> Result<Option<String>, Failure> {
        #[derive(Deserialize)]
        struct Verdict {
            is_compatible: bool,
            /// Confluent's.
            messages: Option<Vec<String>>,
            /// Apicurio's.
            reason: Option<String>,
        }
        let subject = escaped(subject);
        // All versions that the subject's mode wants; older registries compare with one at a time, and only the latest counts then.
        let paths = ["versions", "versions/latest"]
            .map(|versions| format!("/compatibility/subjects/{subject}/{versions}?verbose=true"));
        for path in paths {
            match self.rest_in_turn::<Verdict>(Method::POST, &path, Some(schema_body(schema))).await {
                Ok(Verdict { is_compatible: true, .. }) => return Ok(None),
                Ok(Verdict { messages, reason, .. }) => {
                    let told = messages.map(|messages| messages.join("; ")).or(reason).filter(|it| !it.is_empty());
                    return Ok(Some(cut(&told.unwrap_or_else(|| "it is not compatible".to_owned()))));
                }
                Err(Failure::Missing(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(None)
    }

    /// Deletes a version.
    pub async fn withdraw(&self, subject: &str, version: u32) -> Result<(), Failure> {
        let path = format!("/subjects/{}/versions/{version}", escaped(subject));
        self.rest_in_turn::<serde_json::Value>(Method::DELETE, &path, None).await.map(|_| ())
    }

    async fn rest_in_turn<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<T, Failure> {
        let mut failures = Failures::default();
        for (index, server) in self.in_turn() {
            match self.rest(server, method.clone(), path, body.clone()).await {
                Ok(answer) => return Ok(self.answered(index, answer)),
                Err(failure) => failures.add(failure)?,
            }
        }
        failures.last()
    }

    async fn rest<T: DeserializeOwned>(
        &self,
        server: &Server,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<T, Failure> {
        let down = |error: &reqwest::Error| Failure::Down(format!("{}: {}", server.url, innermost(error)));
        let mut request = self.client.request(method, format!("{}{path}", server.url));
        request = match &server.login {
            Login::Nobody => request,
            Login::User(user, password) => request.basic_auth(user, password.as_ref()),
            Login::Token(token) => request.bearer_auth(token),
        };
        if let Some(body) = body {
            request = request.header("content-type", CONTENT_TYPE).body(body);
        }
        let answer = request.header("accept", CONTENT_TYPE).send().await.map_err(|e| down(&e))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| down(&e))?;
        if !status.is_success() {
            let told = serde_json::from_str(&text).map(|error: RawError| error.message);
            return Err(server.refused(status, told.ok().as_deref()));
        }
        serde_json::from_str(&text).map_err(|_| server.stranger())
    }

    fn in_turn(&self) -> impl Iterator<Item = (usize, &Server)> {
        let first = self.preferred.load(Ordering::Relaxed);
        (0..self.all.len()).map(move |next| (first + next) % self.all.len()).map(|index| (index, &self.all[index]))
    }

    fn answered<T>(&self, index: usize, answer: T) -> T {
        self.preferred.store(index, Ordering::Relaxed);
        answer
    }
}

impl Server {
    /// What a failed request of `schema_registry_converter` means.
    fn failure(&self, error: &SRCError) -> Failure {
        // It tells the status in words only.
        let status = error.error.strip_prefix("HTTP request to schema registry failed with status ");
        let status = status.and_then(|text| StatusCode::from_bytes(text.as_bytes().get(..3)?).ok());
        let source = error.source();
        if let Some(status) = status {
            let told = source.and_then(|source| source.downcast_ref::<RawError>()).filter(|told| told.error_code > 0);
            return self.refused(status, told.map(|told| told.message.as_str()));
        }
        match source.and_then(|source| source.downcast_ref::<reqwest::Error>()) {
            Some(error) if !error.is_decode() => Failure::Down(format!("{}: {}", self.url, innermost(error))),
            _ => self.stranger(),
        }
    }

    fn refused(&self, status: StatusCode, told: Option<&str>) -> Failure {
        let reason = match told {
            Some(told) => format!("{} (HTTP {})", cut(told), status.as_u16()),
            None => format!("HTTP {status}"),
        };
        match status.as_u16() {
            404 | 405 => Failure::Missing(reason),
            401 | 403 => Failure::Denied(reason),
            408 | 429 => Failure::Down(format!("{}: {reason}", self.url)),
            409 => Failure::Conflict(reason),
            400..=499 => Failure::Refused(reason),
            _ => Failure::Down(format!("{}: {reason}", self.url)),
        }
    }

    /// Something answers, but not as a registry does: a proxy, say, whose registry is down.
    fn stranger(&self) -> Failure {
        Failure::Down(format!("{}: the answer is not a schema registry's", self.url))
    }
}

/// What several servers failed with. What one of them knows for certain counts more than that another is down.
#[derive(Default)]
struct Failures(Option<Failure>);

impl Failures {
    fn add(&mut self, failure: Failure) -> Result<(), Failure> {
        match (&self.0, failure) {
            (_, failure @ (Failure::Refused(_) | Failure::Conflict(_))) => return Err(failure),
            (Some(Failure::Missing(_)), _) => {}
            (_, failure) => self.0 = Some(failure),
        }
        Ok(())
    }

    fn last<T>(self) -> Result<T, Failure> {
        Err(self.0.unwrap_or_else(|| Failure::Down("no address".to_owned())))
    }
}

fn addresses(options: &ConfluentOptions) -> impl Iterator<Item = &str> {
    options.urls.split(',').map(str::trim).filter(|text| !text.is_empty())
}

/// Which certificates are trusted: the system's, and those of the settings. The system's are left out where no address wants them.
fn tls(options: &ConfluentOptions, is_plain: bool) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if !is_plain {
        let system = rustls_native_certs::load_native_certs();
        let (_, unusable) = roots.add_parsable_certificates(system.certs);
        tracing::debug!(trusted = roots.len(), unusable, errors = ?system.errors, "the system's certificates");
    }
    if let Some(file) = &options.ca_file {
        let wrong = |reason: String| LogError::Invalid(format!("registry.ca_file: {}: {reason}", file.display()));
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| wrong(e.to_string()))? {
            let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
            roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
        }
        if roots.len() == before {
            return Err(wrong("no certificate in it".to_owned()));
        }
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let tls = tls.with_safe_default_protocol_versions();
    let tls = tls.map_err(|e| LogError::Invalid(format!("registry.url: {e}")))?;
    Ok(tls.with_root_certificates(roots).with_no_client_auth())
}

/// Follows where it is sent, unless that is to where certificates are wanted.
fn within_http() -> Policy {
    Policy::custom(|attempt| match attempt.url().scheme() {
        "https" => attempt.error("it sends us on to https: give that address"),
        _ => Policy::default().redirect(attempt),
    })
}

/// Splits an address into what may be shown and who asks there.
fn parse_url(text: &str, options: &ConfluentOptions) -> Result<(String, Login), String> {
    let mut url = Url::parse(text).map_err(|e| e.to_string())?;
    if !["http", "https"].contains(&url.scheme()) || url.host().is_none() {
        return Err("not an http or https address".to_owned());
    }
    let login = if let Some(token) = &options.token {
        Login::Token(token.clone())
    } else if let Some(user) = &options.user {
        Login::User(user.clone(), options.password.clone())
    } else if !url.username().is_empty() {
        Login::User(unescaped(url.username())?, url.password().map(unescaped).transpose()?)
    } else {
        Login::Nobody
    };
    let stripped = url.set_username("").and_then(|()| url.set_password(None));
    stripped.map_err(|()| "it cannot have a user".to_owned())?;
    Ok((url.as_str().trim_end_matches('/').to_owned(), login))
}

/// A part of an address as plain text.
fn unescaped(part: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match after.get(..2).filter(|_| *first == b'%').and_then(hex) {
            Some(byte) => (bytes.push(byte), rest = &after[2..]).1,
            None => (bytes.push(*first), rest = after).1,
        }
    }
    String::from_utf8(bytes).map_err(|_| "its user or password is not UTF-8".to_owned())
}

/// A subject as a part of an address.
pub(super) fn escaped(subject: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(subject.len());
    for byte in subject.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A schema as requests bring it.
pub(super) fn schema_body(schema: &str) -> String {
    json!({"schema": schema, "schemaType": "AVRO"}).to_string()
}

/// The cause that says most: `reqwest` wraps it in what was being done.
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    cut(&inner.to_string())
}

/// Text of somebody else's, on one line and not too long.
fn cut(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TOLD_BYTES) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
