//! The description of the API: OpenAPI for programs, Swagger UI for people.
//!
//! Promises that it works offline: everything the page needs is in this binary, and its content
//! security policy lets a browser ask nobody else.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use axum::{
    Extension,
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tracing::error;
use utoipa_swagger_ui::Config;

use super::{Problem, body::Id, describe, guard};
use crate::access::Access;

/// Swagger UI's own page links relatively, which breaks at `/docs` without a slash.
const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="UTF-8">
    <title>StreamGate control API</title>
    <link rel="stylesheet" href="/docs/swagger-ui.css">
    <link rel="stylesheet" href="/docs/index.css">
    <link rel="icon" type="image/png" href="/docs/favicon-32x32.png" sizes="32x32">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/swagger-ui-standalone-preset.js"></script>
    <script src="/docs/swagger-initializer.js"></script>
  </body>
</html>
"#;

/// Swagger UI sets `style` attributes and has its icons as `data:` URLs; nothing else is let in.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; font-src 'self'; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The description as it is served.
#[derive(Debug, Clone)]
pub(super) struct Document {
    access: Access,
    /// While requests need no token, and when they do.
    open: Bytes,
    closed: Bytes,
}

impl Document {
    /// Writes the description as JSON, once.
    pub(super) fn build(description: &utoipa::openapi::OpenApi, access: Access) -> Self {
        let document = serde_json::to_value(description).expect("a description is always JSON");
        let write = |needs_token| {
            let mut document = document.clone();
            describe::complete(&mut document, guard::needed, needs_token);
            document.to_string().into()
        };
        Self {
            access,
            open: write(false),
            closed: write(true),
        }
    }
}

/// Describes the API as OpenAPI 3.1.
#[utoipa::path(
    get, path = "/openapi.json", tag = "docs", operation_id = "describe",
    responses((
        status = 200, description = "This document", content_type = "application/json",
        body = Object, example = json!({"openapi": "3.1.0"})
    ))
)]
pub(super) async fn openapi(Extension(document): Extension<Document>) -> Response {
    let json = match document.access.needs_token() {
        true => document.closed,
        false => document.open,
    };
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// Shows the API as a page to read and to try out.
#[utoipa::path(
    get, path = "/docs", tag = "docs", operation_id = "show_docs",
    responses((
        status = 200, description = "The page", content_type = "text/html",
        body = String, example = json!("<!DOCTYPE html>...")
    ))
)]
pub(super) async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
    ];
    (headers, PAGE).into_response()
}

/// Serves a part of the page.
#[utoipa::path(
    get, path = "/docs/{file}", tag = "docs", operation_id = "show_docs_file",
    params(("file" = String, Path, description = "Name of the part", example = "swagger-ui.css")),
    responses(
        (
            status = 200, description = "A style sheet, script or icon",
            content_type = "text/css", body = String, example = json!("body { margin: 0; }")
        ),
    )
)]
pub(super) async fn file(Id(name): Id) -> Result<Response, Problem> {
    static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
        let config = Config::new(["/openapi.json"])
            // The other layout has a field for descriptions from other hosts.
            .use_base_layout()
            .try_it_out_enabled(true)
            // By default it asks a host of its makers to check the description.
            .validator_url("none");
        Arc::new(config)
    });
    let found = utoipa_swagger_ui::serve(&name, Arc::clone(&CONFIG)).map_err(|err| {
        error!(error = %err, file = %name, "Swagger UI could not write its configuration");
        let detail = "this part of the page could not be made; the log of the gate says why";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "docs_failed", detail)
    })?;
    let found = found.ok_or_else(|| Problem::unknown("file", "unknown_file", &name))?;
    let headers = [
        (header::CONTENT_TYPE, found.content_type),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY.to_owned()),
        // They change with the binary only, and are large.
        (header::CACHE_CONTROL, "public, max-age=3600".to_owned()),
    ];
    let body = match found.bytes {
        Cow::Borrowed(bytes) => Body::from(Bytes::from_static(bytes)),
        Cow::Owned(bytes) => Body::from(bytes),
    };
    Ok((headers, body).into_response())
}
