//! The outputs of the draft.
//!
//! Promises that an output which cannot be built never gets into the draft, and that each has an
//! id.

use axum::{
    extract::{Request, State},
    response::Json,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    ControlState, Problem,
    body::{self, Id},
    rules::Deleted,
};
use crate::{
    gate::check_output,
    manifest::{Invalid, MAX_OUTPUTS, Output, Pipeline, check_id, free_output_id},
    outputs::{DeadLetter, OutputPolicy},
};

/// Most dead letters that are shown at once.
const MAX_SHOWN_LETTERS: usize = 100;

/// The answer when an output was added or replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OutputSaved {
    /// `added`, or `updated` if there was one of this id.
    status: &'static str,
    /// The output, as it is in the draft now.
    output: Output,
}

/// The answer when all outputs were removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cleared {
    /// `cleared`.
    status: &'static str,
}

/// Lists the outputs of the draft; none means the console.
#[utoipa::path(
    get, path = "/outputs", tag = "outputs", operation_id = "list_outputs",
    responses(
        (status = 200, description = "The outputs", body = [Output], example = json!([
            {"id": "http-1", "type": "http", "url": "https://logs.example.com/ingest"}
        ])),
    )
)]
pub(super) async fn list(State(state): State<ControlState>) -> Result<Json<Vec<Output>>, Problem> {
    Ok(Json(state.draft().await?.outputs))
}

/// Adds an output to the draft.
///
/// An `id` that is left out is made from the type: `http-1`.
#[utoipa::path(
    post, path = "/outputs", tag = "outputs", operation_id = "add_output",
    request_body(content = Output, example = json!(
        {"type": "http", "url": "https://logs.example.com/ingest"}
    )),
    responses(
        (status = 200, description = "The output was added", body = OutputSaved, example = json!({
            "status": "added",
            "output": {"id": "http-1", "type": "http", "url": "https://logs.example.com/ingest"}
        })),
    )
)]
pub(super) async fn add(
    State(state): State<ControlState>,
    body::Json(output): body::Json<Output>,
) -> Result<Json<OutputSaved>, Problem> {
    let checked = state.check(move |shared| {
        check(
            &named(&output, &shared.store.draft()?),
            shared.gate.output_policy(),
        )?;
        Ok(output)
    });
    let output = checked.await?;
    let added = state.edit(move |draft, _| {
        let output = named(&output, draft);
        if position(draft, &output.id).is_some() {
            return Err(Problem::duplicate("output", &output.id));
        }
        push(draft, output.clone())?;
        Ok(output)
    });
    Ok(Json(OutputSaved {
        status: "added",
        output: added.await?,
    }))
}

/// Removes all outputs from the draft: events go to the console then.
#[utoipa::path(
    delete, path = "/outputs", tag = "outputs", operation_id = "clear_outputs",
    responses(
        (
            status = 200, description = "The outputs were removed",
            body = Cleared, example = json!({"status": "cleared"})
        ),
    )
)]
pub(super) async fn clear(State(state): State<ControlState>) -> Result<Json<Cleared>, Problem> {
    let cleared = state.edit(|draft, _| {
        draft.outputs.clear();
        Ok(Cleared { status: "cleared" })
    });
    cleared.await.map(Json)
}

/// Shows an output of the draft.
#[utoipa::path(
    get, path = "/outputs/{id}", tag = "outputs", operation_id = "show_output",
    params(("id" = String, Path, description = "Id of the output", example = "http-1")),
    responses(
        (status = 200, description = "The output", body = Output, example = json!(
            {"id": "http-1", "type": "http", "url": "https://logs.example.com/ingest"}
        )),
    )
)]
pub(super) async fn show(
    State(state): State<ControlState>,
    Id(id): Id,
) -> Result<Json<Output>, Problem> {
    let draft = state.draft().await?;
    let at = position(&draft, &id).ok_or_else(|| unknown(&id))?;
    Ok(Json(draft.outputs[at].clone()))
}

/// Replaces an output of the draft, or adds it.
///
/// The `id` may be left out of the body.
#[utoipa::path(
    put, path = "/outputs/{id}", tag = "outputs", operation_id = "put_output",
    params(("id" = String, Path, description = "Id of the output", example = "http-1")),
    request_body(content = Output, example = json!(
        {"id": "http-1", "type": "http", "url": "https://logs.example.com/v2/ingest"}
    )),
    responses(
        (
            status = 200, description = "The output was replaced or added",
            body = OutputSaved, example = json!({
            "status": "updated",
            "output": {"id": "http-1", "type": "http", "url": "https://logs.example.com/v2/ingest"}
        })),
    )
)]
pub(super) async fn put(
    State(state): State<ControlState>,
    Id(id): Id,
    request: Request,
) -> Result<Json<OutputSaved>, Problem> {
    let output: Output = body::parse_with_id(&body::read(request).await?, &id)?;
    let checked = state.check(move |shared| {
        check(&output, shared.gate.output_policy())?;
        Ok(output)
    });
    let output = checked.await?;
    let saved = state.edit(move |draft, _| {
        let status = match position(draft, &output.id) {
            Some(at) => {
                draft.outputs[at] = output.clone();
                "updated"
            }
            None => {
                push(draft, output.clone())?;
                "added"
            }
        };
        Ok(OutputSaved {
            status,
            output: output.clone(),
        })
    });
    saved.await.map(Json)
}

/// Removes an output from the draft.
#[utoipa::path(
    delete, path = "/outputs/{id}", tag = "outputs", operation_id = "delete_output",
    params(("id" = String, Path, description = "Id of the output", example = "http-1")),
    responses(
        (
            status = 200, description = "The output was removed",
            body = Deleted, example = json!({"status": "deleted", "id": "http-1"})
        ),
    )
)]
pub(super) async fn delete(
    State(state): State<ControlState>,
    Id(id): Id,
) -> Result<Json<Deleted>, Problem> {
    let deleted = state.edit(move |draft, _| {
        let at = position(draft, &id).ok_or_else(|| unknown(&id))?;
        draft.outputs.remove(at);
        Ok(id.clone())
    });
    Ok(Json(Deleted::new(deleted.await?)))
}

/// The dead letters of an output.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadLetters {
    /// Some of them, the oldest first; at most 100.
    dead_letters: Vec<DeadLetter>,
}

/// The answer when dead letters were taken out to be sent again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Redriven {
    /// How many events wait in the output's queue again.
    redriven: u64,
}

/// Shows events that a live output's receiver will never take, with the reason.
#[utoipa::path(
    get, path = "/outputs/{id}/dead-letters", tag = "outputs", operation_id = "show_dead_letters",
    params(("id" = String, Path, description = "Id of the output", example = "http-1")),
    responses(
        (status = 200, description = "The oldest of them", body = DeadLetters, example = json!({
            "dead_letters": [{
                "time": 1_765_432_100.5,
                "reason": "the receiver answered 400 Bad Request",
                "event": "{\"level\": \"INFO\"}"
            }]
        })),
    )
)]
pub(super) async fn dead_letters(
    State(state): State<ControlState>,
    Id(id): Id,
) -> Result<Json<DeadLetters>, Problem> {
    let shown = state.blocking(move |shared| {
        let output = shared.gate.output(&id).ok_or_else(|| unknown(&id))?;
        Ok(output.dead_letters(MAX_SHOWN_LETTERS).unwrap_or_default())
    });
    let dead_letters = shown.await?;
    Ok(Json(DeadLetters { dead_letters }))
}

/// Sends the dead letters of a live output again.
///
/// Those that are refused again are dead letters again. As many are taken as the output's queue has
/// room for.
#[utoipa::path(
    post, path = "/outputs/{id}/redrive", tag = "outputs", operation_id = "redrive_output",
    params(("id" = String, Path, description = "Id of the output", example = "http-1")),
    responses(
        (status = 200, description = "They wait to be sent", body = Redriven, example = json!({"redriven": 12})),
    )
)]
pub(super) async fn redrive(
    State(state): State<ControlState>,
    Id(id): Id,
) -> Result<Json<Redriven>, Problem> {
    let redriven = state.blocking(move |shared| {
        let output = shared.gate.output(&id).ok_or_else(|| unknown(&id))?;
        Ok(output.redrive(shared.gate.memory()).unwrap_or_default())
    });
    let redriven = redriven.await?;
    Ok(Json(Redriven { redriven }))
}

/// Returns the output with an id that the draft does not have, if it has none.
fn named(output: &Output, draft: &Pipeline) -> Output {
    let mut output = output.clone();
    if output.id.is_empty() {
        output.id = free_output_id(&draft.outputs, &output.kind);
    }
    output
}

fn check(output: &Output, policy: &OutputPolicy) -> Result<(), Invalid> {
    // In this order: an id that was made from an unknown type is not what is wrong.
    check_output(output, policy)?;
    check_id(&output.id)
}

fn push(draft: &mut Pipeline, output: Output) -> Result<(), Problem> {
    if draft.outputs.len() >= MAX_OUTPUTS {
        let message = format!("the draft has {MAX_OUTPUTS} outputs, which is the most it takes");
        return Err(Invalid::new("too_many", "", message).into());
    }
    draft.outputs.push(output);
    Ok(())
}

fn position(draft: &Pipeline, id: &str) -> Option<usize> {
    draft.outputs.iter().position(|output| output.id == id)
}

fn unknown(id: &str) -> Problem {
    Problem::unknown("output", "unknown_output", id)
}
