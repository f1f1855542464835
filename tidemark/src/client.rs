//! The HTTP client of the commands that talk to a running server.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;

/// Where a server is when nobody says otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// A server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    server: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nothing was sent: this is no address.
    NoAddress {
        /// What was given as one.
        server: String,
    },
    /// Nothing was sent: nobody listens there.
    NobodyThere {
        /// The server that was asked.
        server: String,
    },
    /// The connection broke after something was sent: whether it was done, nobody knows.
    Lost {
        /// What happened, in words.
        reason: String,
    },
    /// The server answered that it will not.
    Refused(Box<Refusal>),
}

/// An answer of `application/problem+json` (RFC 9457), or any other that is no success.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem it is.
    pub title: String,
    /// What is wrong this time.
    pub detail: String,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress { server } => {
                write!(f, "--server {server}: not an address such as {DEFAULT_SERVER}")
            }
            Self::NobodyThere { server } => {
                write!(f, "nobody answers on {server}: is `tidemark run` running there? (--server URL)")
            }
            Self::Lost { reason } => write!(f, "the connection broke: {reason}"),
            Self::Refused(refusal) => match (refusal.title.as_str(), refusal.detail.as_str()) {
                (title, "") => write!(f, "{title} ({})", refusal.status),
                // The title says only what kind of detail it is.
                (_, detail) => write!(f, "{detail} ({})", refusal.status),
            },
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// Whether what was asked for may have been done, in whole or in part.
    pub fn leaves_doubt(&self) -> bool {
        match self {
            Self::NoAddress { .. } | Self::NobodyThere { .. } => false,
            Self::Lost { .. } => true,
            Self::Refused(refusal) => refusal.status >= 500,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::NoAddress { .. } => Failure::usage(error),
            ClientError::Refused(refusal) if matches!(refusal.status, 400 | 404 | 501) => Failure::usage(error),
            _ => Failure::new(error),
        }
    }
}

/// The answer to a delivery of events.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Delivery {
    /// How many events are in the log now.
    pub accepted: u64,
    /// The others.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
}

/// An event that was not accepted.
#[derive(Debug, Clone, Deserialize)]
pub struct Rejected {
    /// Its number in the delivery, from 0.
    pub index: u64,
    /// Why.
    pub error: String,
}

impl Client {
    /// A server by its URL; without a scheme, HTTP.
    pub fn new(server: &str) -> Self {
        let server = server.trim_end_matches('/');
        let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        Self { http: reqwest::Client::new(), server }
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Posts events to a topic.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn deliver(&self, topic: &str, media_type: &str, body: Bytes) -> Result<Delivery, ClientError> {
        let request = self.request(Method::POST, &format!("/v1/topics/{}/events", segment(topic)));
        self.json(request.header(CONTENT_TYPE, media_type).body(body)).await
    }

    /// Gets a path and reads its JSON.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(String, String)]) -> Result<T, ClientError> {
        self.json(self.request(Method::GET, path).query(query)).await
    }

    /// Posts JSON and reads JSON.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(String, String)],
        body: &Value,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, path).query(query).json(body)).await
    }

    /// Gets a path and hands over its bytes.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn bytes(&self, path: &str, query: &[(String, String)]) -> Result<Bytes, ClientError> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.server))
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let body = self.send(request).await?;
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::Lost { reason: format!("the answer is not what was expected: {error}") })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Bytes, ClientError> {
        let lost = |error: reqwest::Error| {
            if error.is_builder() {
                return ClientError::NoAddress { server: self.server.clone() };
            }
            if error.is_connect() {
                return ClientError::NobodyThere { server: self.server.clone() };
            }
            ClientError::Lost { reason: in_full(&error) }
        };
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let body = response.bytes().await.map_err(lost)?;
        if status.is_success() {
            return Ok(body);
        }
        let mut refusal: Refusal = serde_json::from_slice(&body).unwrap_or_else(|_| Refusal {
            title: status.canonical_reason().unwrap_or("refused").to_owned(),
            detail: String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(),
            ..Refusal::default()
        });
        refusal.status = status.as_u16();
        Err(ClientError::Refused(Box::new(refusal)))
    }

    /// Waits until the server answers at all, at most so long.
    ///
    /// # Errors
    ///
    /// The last error when time is over.
    pub async fn wait_ready(&self, at_most: Duration) -> Result<(), ClientError> {
        let deadline = tokio::time::Instant::now() + at_most;
        loop {
            match self.bytes("/readyz", &[]).await {
                Ok(_) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// An error with its causes: reqwest keeps the telling part in the last one.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
