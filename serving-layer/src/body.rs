//! Bodies: reading them within bounds, and JSON that keeps what a hostile client wrote.

use std::fmt;

use actix_web::HttpRequest;
use actix_web::http::header;
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Kind, Problem, Result};
use crate::server::ServeSettings;

/// Reads a whole body of at most `limit` bytes, which must arrive within the request timeout.
pub async fn read(
    mut payload: Payload,
    request: &HttpRequest,
    limit: usize,
    settings: &ServeSettings,
) -> Result<Bytes> {
    let too_large = || {
        Problem::new(Kind::BodyTooLarge, format!("the body has more than {limit} bytes: send it in parts"))
            .with("limit", limit as u64)
    };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let declared: usize = declared.unwrap_or(0);
    if declared > limit {
        return Err(too_large());
    }
    let reading = async {
        let mut body = BytesMut::with_capacity(declared.min(64 << 10));
        while let Some(part) = payload.next().await {
            let part = part.map_err(|error| Problem::new(Kind::InvalidBody, format!("the body broke off: {error}")))?;
            if body.len() + part.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(settings.body_timeout, reading)
        .await
        .map_err(|_| Problem::new(Kind::RequestTimeout, "the body did not arrive in time"))?
}

/// The media type of a request, lower case and without parameters. A charset other than UTF-8 is refused, and so is a
/// compressed body.
pub fn media_type(request: &HttpRequest) -> Result<Option<String>> {
    if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(Problem::new(Kind::UnsupportedMediaType, "the body must not be compressed"));
    }
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else {
        return Ok(None);
    };
    let unsupported = |what: &str| Problem::new(Kind::UnsupportedMediaType, what);
    let value = value.to_str().map_err(|_| unsupported("the content type is not readable"))?.to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_owned();
    for parameter in parts {
        if let Some(charset) = parameter.strip_prefix("charset=")
            && charset.trim_matches('"') != "utf-8"
        {
            return Err(unsupported("the charset must be utf-8"));
        }
    }
    Ok(Some(essence))
}

/// Any JSON value. Objects keep their members as they came, the repeated ones too, so that those can be refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses a body. `serde_json` bounds the depth.
    pub fn parse(body: &[u8]) -> Result<Self> {
        serde_json::from_slice(body).map_err(|error| not_json(&error))
    }
}

/// The problem of a body that is no JSON.
pub fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(Kind::InvalidBody, format!("the body is not JSON: {error}"))
        .with("line", error.line() as u64)
        .with("column", error.column() as u64)
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}
