//! Hides secrets in answers. Edits refuse secrets that are written into a config; a config from
//! before that may have some. Every answer of the control API passes here, so that no route can
//! show them.

use axum::{
    body::{Body, to_bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use crate::outputs::hide_literals;

/// Fields that an answer has at least one of if it shows such a secret.
const FIELDS: [&[u8]; 3] = [b"\"headers\"", b"\"url\"", b"\"endpoint\""];

/// Puts `<hidden>` in the place of secrets in an answer of JSON.
pub(super) async fn hide_secrets(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "application/json") {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // Handlers have made the whole body already.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let has = |field: &&[u8]| memchr::memmem::find(&bytes, field).is_some();
    if FIELDS.iter().any(has)
        && let Ok(mut document) = serde_json::from_slice::<Value>(&bytes)
        && hide_literals(&mut document)
    {
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::from(document.to_string()));
    }
    Response::from_parts(parts, Body::from(bytes))
}
