//! Failures as problem documents (RFC 9457): one shape for every answer that is not a success.
//!
//! Promises that a client gets a status, a stable code and a sentence with the remedy, and that
//! what only an operator should see (paths, causes) goes to the log instead.

use std::borrow::Cow;

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use super::audit::ProblemCode;
use crate::{config_store::StoreError, manifest::Invalid, pipeline::BuildError};

/// Why a request failed, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "code": "invalid_regex",
    "detail": "`pattern` does not compile: unclosed group at byte 4",
    "pointer": "/params/pattern"
}))]
pub struct Problem {
    /// `about:blank`: the kind of problem is that of the status; `code` says which.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The name of the status.
    #[schema(value_type = String)]
    title: Cow<'static, str>,
    /// The HTTP status.
    status: u16,
    /// Stable, for programs: `invalid_json`, `duplicate_id`, `unknown_rule`, ...
    code: &'static str,
    /// What was found, what was expected, and the remedy.
    detail: String,
    /// JSON pointer (RFC 6901) to the offending field of the body, or of the draft in answers of
    /// `/validate` and `/publish`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
}

impl Problem {
    /// Returns a problem that is not about a field.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: Cow::Borrowed(status.canonical_reason().unwrap_or("Error")),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            pointer: None,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).expect("made from a `StatusCode`")
    }

    /// The code, for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Says which field it is about.
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// The process is ending and takes no more work.
    pub fn shutting_down() -> Self {
        let detail = "the gate is shutting down; nothing was changed";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", detail)
    }

    /// As many modules are on their way, in or out, as there is memory for.
    pub fn busy() -> Self {
        let detail = "other modules are on their way, in or out; try again when they are done";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
    }

    /// The id in a path is that of nothing.
    pub fn unknown(what: &str, code: &'static str, id: &str) -> Self {
        // An id may be as long as a request head; nobody needs it back whole.
        let shown: String = id.chars().take(128).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            code,
            format!("there is no {what} `{shown}`"),
        )
    }

    /// The id in a body is taken.
    pub fn duplicate(what: &str, id: &str) -> Self {
        let detail = format!(
            "the {what} `{id}` exists already; choose another `id`, or replace it with PUT"
        );
        Self::new(StatusCode::CONFLICT, "duplicate_id", detail).at("/id")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = serde_json::to_vec(&self).expect("strings and numbers are always JSON");
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
        response.extensions_mut().insert(ProblemCode(self.code));
        if matches!(
            self.code,
            "busy" | "store_unavailable" | "tokens_unavailable"
        ) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(fault: Invalid) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, fault.code, fault.message).at(fault.pointer)
    }
}

impl From<BuildError> for Problem {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Invalid(fault) => fault.into(),
            BuildError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(err: StoreError) -> Self {
        match &err {
            StoreError::Conflict { .. } => {
                Self::new(StatusCode::CONFLICT, "publish_conflict", err.to_string())
            }
            StoreError::TooManyModules | StoreError::ModulesTooLarge { .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "too_many_modules",
                err.to_string(),
            ),
            StoreError::TooLarge { .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "config_too_large",
                err.to_string(),
            ),
            StoreError::DraftChanged => {
                Self::new(StatusCode::CONFLICT, "draft_changed", err.to_string())
            }
            StoreError::CannotSign => {
                Self::new(StatusCode::FORBIDDEN, "cannot_sign", err.to_string())
            }
            // What is in Redis is the operator's own, and the remedy is theirs too.
            StoreError::Document { .. } => {
                Self::new(StatusCode::CONFLICT, "unusable_document", err.to_string())
            }
            StoreError::Redis { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "store_unavailable",
                format!("{err}; nothing was changed, and the gate goes on with what is live"),
            ),
            err if err.is_full() => {
                error!(
                    error = err as &dyn std::error::Error,
                    "the disk of the config store is full"
                );
                Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "store_full",
                    "the disk of the config store is full, so nothing was changed; make room on it and \
                     try again",
                )
            }
            _ => {
                error!(
                    error = &err as &dyn std::error::Error,
                    "the config store failed"
                );
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "store_failed",
                    "the config store failed, so nothing was changed; the log of the gate says why",
                )
            }
        }
    }
}

/// Answers for a path that is not served.
pub(super) async fn unknown_path(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(128).collect();
    let detail = format!("there is nothing at `{path}`; `/docs` lists what there is");
    Problem::new(StatusCode::NOT_FOUND, "unknown_path", detail)
}

/// Answers for a method that a path does not have; axum adds the `Allow` header.
pub(super) async fn wrong_method(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(128).collect();
    let detail = format!(
        "`{path}` does not take {}; the `Allow` header and `/docs` say what it takes",
        request.method()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", detail)
}
