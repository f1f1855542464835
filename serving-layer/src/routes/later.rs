//! Routes whose place is kept: they come in later versions.

use actix_web::{HttpRequest, HttpResponse};

use crate::error::{Kind, Problem, Result};

/// Says so.
pub async fn not_available(request: HttpRequest) -> Result<HttpResponse> {
    let detail = format!("`{}` is not available in this version", crate::parse::shorten(request.path()));
    Err(Problem::new(Kind::NotAvailable, detail))
}
