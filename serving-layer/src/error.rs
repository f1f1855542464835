//! Every way to say no: RFC 9457 problems, and the one table of what has which status.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use event_log::LogError;
use serde_json::{Map, Value, json};
use view_store::StoreError;
use views::ViewError;

use crate::ports::PortError;

/// What kind of problem it is. Its name ends the problem's `type`, and decides the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A parameter is missing, unknown, repeated or has a value that cannot be.
    InvalidParameter,
    /// The body is not what it must be.
    InvalidBody,
    /// There is no such route.
    NoSuchRoute,
    /// There is no such topic.
    NoSuchTopic,
    /// There is no such view.
    NoSuchView,
    /// The route does not know this method.
    MethodNotAllowed,
    /// The client took too long to send the request.
    RequestTimeout,
    /// A batch run is going on.
    Busy,
    /// The body is larger than the server takes.
    BodyTooLarge,
    /// The content type is not one of those the route takes.
    UnsupportedMediaType,
    /// The answer would take more work or memory than one request may.
    TooMuch,
    /// A part failed in a way that trying again does not mend.
    Internal,
    /// The route comes in a later version.
    NotAvailable,
    /// A part is down for now: try again.
    Unavailable,
    /// It is not known which events were appended: send them again.
    OutcomeUnknown,
    /// The answer is staler than was asked for.
    Stale,
    /// The answer did not reach the asked position in time.
    PositionNotReached,
}

impl Kind {
    /// The table: name, status, title.
    fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::InvalidParameter => ("invalid-parameter", 400, "A parameter is not valid"),
            Self::InvalidBody => ("invalid-body", 400, "The body is not valid"),
            Self::NoSuchRoute => ("no-such-route", 404, "There is nothing here"),
            Self::NoSuchTopic => ("no-such-topic", 404, "There is no such topic"),
            Self::NoSuchView => ("no-such-view", 404, "There is no such view"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "This route does not know the method"),
            Self::RequestTimeout => ("request-timeout", 408, "The request did not arrive in time"),
            Self::Busy => ("busy", 409, "A batch run is going on"),
            Self::BodyTooLarge => ("body-too-large", 413, "The body is too large"),
            Self::UnsupportedMediaType => ("unsupported-media-type", 415, "The content type is not supported"),
            Self::TooMuch => ("too-much", 422, "The answer would be too large"),
            Self::Internal => ("internal", 500, "Something is broken here"),
            Self::NotAvailable => ("not-available", 501, "Not available in this version"),
            Self::Unavailable => ("unavailable", 503, "A part is not available"),
            Self::OutcomeUnknown => ("outcome-unknown", 503, "It is not known which events were appended"),
            Self::Stale => ("stale", 503, "The answer is staler than asked for"),
            Self::PositionNotReached => ("position-not-reached", 504, "The position was not reached in time"),
        }
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// A problem, as the client gets it.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: String,
    members: Map<String, Value>,
}

/// What a route answers.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

impl Problem {
    /// A problem of a kind; `detail` says what is wrong this time, and what would be right.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), members: Map::new() }
    }

    /// A problem with one parameter.
    pub fn parameter(name: &str, detail: impl fmt::Display) -> Self {
        Self::new(Kind::InvalidParameter, format!("`{name}`: {detail}")).with("parameter", name)
    }

    /// Adds a member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Names the view it is about.
    pub fn of_view(self, view: &str) -> Self {
        self.with("view", view)
    }

    /// What kind of problem it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What is wrong this time.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The problem document.
    pub fn document(&self) -> Value {
        let (name, status, title) = self.kind.row();
        let mut document = json!({
            "type": format!("urn:tidemark:problem:{name}"),
            "title": title,
            "status": status,
            "detail": self.detail,
        });
        if let Value::Object(members) = &mut document {
            members.extend(self.members.clone());
        }
        document
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.status()
    }

    fn error_response(&self) -> HttpResponse {
        if self.kind == Kind::Internal {
            tracing::error!(detail = %self.detail, "a request failed");
        }
        let mut response = HttpResponse::build(self.kind.status());
        response.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")));
        if self.kind.status() == StatusCode::SERVICE_UNAVAILABLE || self.kind == Kind::Busy {
            response.insert_header((header::RETRY_AFTER, HeaderValue::from_static("1")));
        }
        if let Some(Value::String(allowed)) = self.members.get("allow") {
            response.insert_header((header::ALLOW, allowed.as_str()));
        }
        response.body(self.document().to_string())
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::NotFound(_) => Kind::NoSuchTopic,
            LogError::Invalid(_) => Kind::InvalidParameter,
            LogError::Unavailable { .. } => Kind::Unavailable,
            LogError::Damaged(_) | LogError::Hole(_) => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => Self::new(Kind::Unavailable, error.to_string()),
            StoreError::Damaged(_) | StoreError::Invalid(_) => Self::new(Kind::Internal, error.to_string()),
            StoreError::View(error) => error.into(),
        }
    }
}

impl From<ViewError> for Problem {
    fn from(error: ViewError) -> Self {
        Self::new(Kind::Internal, error.to_string())
    }
}

impl From<arrow::error::ArrowError> for Problem {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::new(Kind::Internal, error.to_string())
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        let kind = match &error {
            PortError::Busy(_) => Kind::Busy,
            PortError::NotFound(_) => Kind::NoSuchView,
            PortError::Invalid(_) => Kind::InvalidParameter,
            PortError::Unavailable(_) => Kind::Unavailable,
            PortError::Failed(_) => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}
