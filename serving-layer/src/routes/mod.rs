//! The route table: one file per resource.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, Resource, Route, guard, web};
use prometheus::IntCounter;
use serde::Serialize;

use crate::error::{Kind, Problem, Result};
use crate::metrics::Metrics;
use crate::server::Serving;

pub mod batch_runs;
pub mod console;
pub mod dead_letters;
pub mod events;
pub mod health;
pub mod keys;
pub mod later;
pub mod lookup;
pub mod metrics;
pub mod status;
pub mod topics;
pub mod verify;
pub mod views;

/// What every handler gets.
pub type Shared = web::Data<Serving>;

/// Every route there is.
pub fn configure(app: &mut web::ServiceConfig, serving: &Serving) {
    let at = |pattern, allow| at(pattern, pattern, allow, &serving.metrics);
    // Tried in this order: the hot ones first. Comparing a path is cheaper than taking a pattern apart, so every view has a route.
    for view in serving.views.iter().filter(|view| is_plain(&view.view.name)) {
        let path = format!("/v1/views/{}", view.view.name);
        let lookup = self::at(&path, VIEW, "GET, HEAD", &serving.metrics).app_data(view.clone());
        app.service(lookup.route(get().to(lookup::one)));
    }
    app.service(at(VIEW, "GET, HEAD").route(get().to(lookup::one)))
        .service(at("/", "GET, HEAD").route(get().to(console::page)))
        .service(at("/console.js", "GET, HEAD").route(get().to(console::script)))
        .service(at("/chart.js", "GET, HEAD").route(get().to(console::chart)))
        .service(at("/console.css", "GET, HEAD").route(get().to(console::style)))
        .service(at("/v1/topics", "GET, HEAD").route(get().to(topics::list)))
        .service(at("/v1/topics/{topic}/events", "POST").route(web::post().to(events::append)))
        .service(at("/v1/topics/{topic}/dead-letters", "GET, HEAD").route(get().to(dead_letters::list)))
        .service(at("/v1/views", "GET, HEAD").route(get().to(views::list)))
        .service(at("/v1/views/{view}/keys", "GET, HEAD").route(get().to(keys::list)))
        .service(at("/v1/views/{view}/lookup", "POST").route(web::post().to(lookup::many)))
        .service(
            at("/v1/batch/runs", "GET, HEAD, POST")
                .route(web::post().to(batch_runs::start))
                .route(get().to(batch_runs::list)),
        )
        .service(at("/v1/status", "GET, HEAD").route(get().to(status::status)))
        .service(at("/v1/verify", "POST").route(web::post().to(verify::verify)))
        .service(at("/healthz", "GET, HEAD").route(get().to(health::live)))
        .service(at("/readyz", "GET, HEAD").route(get().to(health::ready)))
        .service(at("/metrics", "GET, HEAD").route(get().to(metrics::text)))
        // Their places; they come in later versions.
        .service(at("/v1/views/{view}/changes", "GET, HEAD").route(get().to(later::not_available)))
        .service(at("/v1/sql", "POST").route(web::post().to(later::not_available)))
        .service(at("/get-online-features", "POST").route(web::post().to(later::not_available)))
        .service(at("/openapi.json", "GET, HEAD").route(get().to(later::not_available)));
}

fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// A resource as metrics know it: its path pattern, and the counter of what nearly all requests come to.
#[derive(Clone)]
struct Counted {
    pattern: &'static str,
    answered_get: IntCounter,
}

/// Where a view is asked.
const VIEW: &str = "/v1/views/{view}";

/// Whether a name is the same in a path, and no pattern.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// A resource that refuses other methods and names those it knows. Metrics know it as `pattern`.
fn at(path: &str, pattern: &'static str, allow: &'static str, metrics: &Metrics) -> Resource {
    let answered_get = metrics.http_requests.with_label_values(&["GET", pattern, "200"]);
    let refuse = move |request: HttpRequest| async move {
        let detail = format!("{} is not among {allow}", request.method());
        Err::<HttpResponse, _>(Problem::new(Kind::MethodNotAllowed, detail).with("allow", allow))
    };
    web::resource(path).app_data(Counted { pattern, answered_get }).default_service(web::to(refuse))
}

/// The answer to paths that are none of ours.
pub async fn no_such_route(request: HttpRequest) -> Result<HttpResponse> {
    Err(Problem::new(Kind::NoSuchRoute, format!("there is nothing at `{}`", crate::parse::shorten(request.path()))))
}

/// Around every request: counts it, logs it, echoes its `x-request-id`.
pub async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    let id = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= 128).cloned();
    let mut response = next.call(request).await?;
    let (request, status) = (response.request(), response.status());
    match request.app_data::<Counted>() {
        Some(route) if status == StatusCode::OK && request.method() == Method::GET => route.answered_get.inc(),
        route => {
            if let Some(serving) = request.app_data::<Shared>() {
                let route = route.map_or("none", |route| route.pattern);
                let labels = [known_method(request.method()), route, status.as_str()];
                serving.metrics.http_requests.with_label_values(&labels).inc();
            }
        }
    }
    tracing::debug!(method = %request.method(), path = request.path(), status = status.as_u16(), "request");
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

/// A client may invent methods, and must not invent time series.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

/// A part of the path.
fn segment<'r>(request: &'r HttpRequest, name: &str) -> &'r str {
    request.match_info().get(name).unwrap_or_default()
}

/// A 200 whose body is JSON text already.
fn json_text(text: String) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json"))).body(text)
}

/// A 200 with a JSON body.
fn json<T: Serialize>(value: &T) -> Result<HttpResponse> {
    let text = serde_json::to_string(value).map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    Ok(json_text(text))
}

/// The parameters of routes that know a few: each at most once, no others.
fn parameters<const N: usize>(query: &str, known: [&str; N]) -> Result<[Option<String>; N]> {
    let mut values = [const { None }; N];
    let pairs = web::Query::<Vec<(String, String)>>::from_query(query)
        .map_err(|error| Problem::new(Kind::InvalidParameter, format!("the query cannot be read: {error}")))?;
    for (name, value) in pairs.into_inner() {
        let Some(index) = known.iter().position(|known| *known == name) else {
            let detail = if N == 0 {
                "unknown; there are none here".to_owned()
            } else {
                format!("unknown; there are {}", known.join(", "))
            };
            return Err(Problem::parameter(&crate::parse::shorten(&name), detail));
        };
        if values[index].replace(value).is_some() {
            return Err(Problem::parameter(&name, "given more than once"));
        }
    }
    Ok(values)
}

/// A parameter that is true or false; false when absent.
fn flag(name: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Problem::parameter(name, "expected `true` or `false`")),
    }
}

/// A parameter that is a number.
fn number<T: std::str::FromStr>(name: &str, value: Option<&str>) -> Result<Option<T>> {
    let Some(value) = value else {
        return Ok(None);
    };
    value.parse().map(Some).map_err(|_| Problem::parameter(name, "expected a number"))
}
