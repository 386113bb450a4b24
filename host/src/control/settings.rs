//! The numbers of the draft: its batch size.

use axum::{
    extract::{Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::Json,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ControlState, Problem, body};
use crate::manifest::{Invalid, MAX_BATCH_SIZE, check_batch_size};

/// The batch size of the draft.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchSize {
    /// Most events in one send of an output. A cap, never a wait.
    batch_size: u32,
}

/// A new batch size, under either name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBatchSize {
    /// Most events in one send of an output, 1 to 10,000.
    batch_size: Option<i64>,
    /// The same.
    size: Option<i64>,
}

/// The answer when the batch size was changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchSizeSaved {
    /// `updated`.
    status: &'static str,
    /// The batch size of the draft now.
    batch_size: u32,
}

/// `?size=`; a string, for a better message than that of a number.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SizeQuery {
    size: Option<String>,
}

/// Shows the batch size of the draft.
#[utoipa::path(
    get, path = "/config/batch_size", tag = "settings",
    responses(
        (
            status = 200, description = "The batch size",
            body = BatchSize, example = json!({"batch_size": 100})
        ),
    )
)]
pub(super) async fn show_batch_size(
    State(state): State<ControlState>,
) -> Result<Json<BatchSize>, Problem> {
    Ok(Json(BatchSize {
        batch_size: state.draft().await?.batch_size,
    }))
}

/// Changes the batch size of the draft: with `?size=`, or else with a JSON body.
#[utoipa::path(
    post, path = "/config/batch_size", tag = "settings",
    params(("size" = Option<u32>, Query, description = "1 to 10,000 events", example = 500)),
    request_body(content = Option<NewBatchSize>, example = json!({"batch_size": 500})),
    responses(
        (
            status = 200, description = "The batch size was changed",
            body = BatchSizeSaved, example = json!({"status": "updated", "batch_size": 500})
        ),
    )
)]
pub(super) async fn set_batch_size(
    State(state): State<ControlState>,
    query: Result<Query<SizeQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<BatchSizeSaved>, Problem> {
    let Query(query) = query.map_err(|err| {
        let detail = format!(
            "the query is not of the form `?size=100`: {}",
            err.body_text()
        );
        Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail)
    })?;
    let body = body::read(request).await?;
    let size = match query.size {
        Some(_) if !body.is_empty() => {
            let message = "`?size=` and a body are both given; send one of them";
            return Err(Invalid::new("ambiguous_batch_size", "", message).into());
        }
        Some(text) => from_query(&text)?,
        None => from_body(&body)?,
    };
    let changed = state.edit(move |draft, _| {
        draft.batch_size = size;
        Ok(BatchSizeSaved {
            status: "updated",
            batch_size: size,
        })
    });
    changed.await.map(Json)
}

fn from_query(text: &str) -> Result<u32, Problem> {
    let shown: String = text.chars().take(40).collect();
    let fault = |message| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_batch_size",
            message,
        )
    };
    let size = text.parse().map_err(|_| {
        fault(format!(
            "`size` is {shown:?}; expected a number from 1 to {MAX_BATCH_SIZE}"
        ))
    })?;
    check_batch_size(size).map_err(|invalid| fault(invalid.message))?;
    Ok(size)
}

fn from_body(bytes: &[u8]) -> Result<u32, Problem> {
    if bytes.is_empty() {
        return Err(missing());
    }
    let (found, pointer) = match body::parse(bytes)? {
        NewBatchSize {
            batch_size: Some(size),
            size: None,
        } => (size, "/batch_size"),
        NewBatchSize {
            batch_size: None,
            size: Some(size),
        } => (size, "/size"),
        NewBatchSize {
            batch_size: None,
            size: None,
        } => return Err(missing()),
        NewBatchSize {
            batch_size: Some(_),
            size: Some(_),
        } => {
            let message = "`batch_size` and `size` are the same; send one of them";
            return Err(Invalid::new("ambiguous_batch_size", "/size", message).into());
        }
    };
    let checked = u32::try_from(found)
        .ok()
        .filter(|&size| check_batch_size(size).is_ok());
    checked.ok_or_else(|| {
        let message = format!("batch size is {found}; expected 1 to {MAX_BATCH_SIZE} events");
        Invalid::new("invalid_batch_size", pointer, message).into()
    })
}

fn missing() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "missing_batch_size",
        "there is no batch size; send `?size=100`, or a body like {\"batch_size\": 100}",
    )
}
