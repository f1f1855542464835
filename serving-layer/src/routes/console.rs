//! `/`: a page that shows events going in and views changing. It asks nobody but this server.

use actix_web::HttpResponse;
use actix_web::http::header;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub async fn page() -> HttpResponse {
    shipped("text/html; charset=utf-8", include_str!("../console/index.html"))
}

/// What moves on it.
pub async fn script() -> HttpResponse {
    shipped("text/javascript; charset=utf-8", include_str!("../console/console.js"))
}

/// The drawings on it.
pub async fn chart() -> HttpResponse {
    shipped("text/javascript; charset=utf-8", include_str!("../console/chart.js"))
}

/// How it looks.
pub async fn style() -> HttpResponse {
    shipped("text/css; charset=utf-8", include_str!("../console/console.css"))
}

fn shipped(content_type: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, content_type))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(text)
}
