//! From draft to live: looking at the draft, checking it, publishing it, and the history.
//!
//! Promises the order prepare, store, apply: what cannot be built is not stored, what cannot be
//! stored is not applied, and applying cannot fail.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    extract::{Request, State},
    response::Json,
};
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::{
    ControlState, Problem, Shared,
    body::{self, Id},
    error::{BodyProblems, NotBuildable, NotFound, NotReady, PublishConflict, StoreFailed},
    pins,
};
use crate::{
    config_store::RevisionSummary,
    manifest::{FORMAT_VERSION, Manifest, Pipeline},
};

/// The draft, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Draft {
    /// The revision that is live; 0 if nothing was published yet.
    live_revision: u64,
    /// Whether publishing would change anything.
    differs_from_live: bool,
    /// The draft.
    pipeline: Pipeline,
}

/// The answer when the draft can be published.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Valid {
    /// `valid`.
    status: &'static str,
    /// How many rules the draft has, disabled ones included.
    rules: usize,
    /// How many outputs it has; none means the console.
    outputs: usize,
}

/// The answer when the draft was published.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Published {
    /// `published`, or `rolled_back`.
    status: &'static str,
    /// The revision that is live now.
    revision: u64,
    /// The manifest that is live now.
    manifest: Manifest,
    /// How many gates were told.
    subscribers_notified: usize,
    /// How each of them did.
    gates: Vec<Applied>,
}

/// What a gate made of a publish.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Applied {
    /// Name of the gate.
    id: String,
    /// `applied`.
    status: &'static str,
    /// How long the change took, in milliseconds.
    apply_ms: f64,
}

/// Shows the whole draft, and whether it differs from what is live.
#[utoipa::path(
    get, path = "/draft", tag = "publish",
    responses(
        (status = 200, description = "The draft", body = Draft, example = json!({
            "live_revision": 1,
            "differs_from_live": true,
            "pipeline": {
                "name": "default_pipeline",
                "processors": [{"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}],
                "outputs": [],
                "batch_size": 100
            }
        })),
    )
)]
pub(super) async fn show_draft(State(state): State<ControlState>) -> Json<Draft> {
    let (draft, live) = (state.draft(), state.live());
    let published = pins::pinned(&draft, &state.shared.store.modules());
    Json(Draft {
        live_revision: live.revision,
        differs_from_live: published != *live.pipeline(),
        pipeline: Pipeline::clone(&draft),
    })
}

/// Builds the draft without making it live.
#[utoipa::path(
    post, path = "/validate", tag = "publish",
    responses(
        (
            status = 200, description = "The draft can be published",
            body = Valid, example = json!({"status": "valid", "rules": 1, "outputs": 0})
        ),
        BodyProblems,
        NotBuildable,
    )
)]
pub(super) async fn validate(
    State(state): State<ControlState>,
    request: Request,
) -> Result<Json<Valid>, Problem> {
    // Nothing in it is asked for; it is read so that a client which sends one gets its answer.
    body::read(request).await?;
    let valid = state.blocking(|shared| {
        let manifest = next_manifest(shared, &shared.draft.load())?;
        shared
            .gate
            .prepare(&manifest, &|digest| shared.store.module_bytes(digest))?;
        let pipeline = manifest.pipeline();
        Ok(Valid {
            status: "valid",
            rules: pipeline.processors.len(),
            outputs: pipeline.outputs.len(),
        })
    });
    valid.await.map(Json)
}

/// Makes the draft live as the next revision.
///
/// It is built first, then stored, then applied; a failure on the way changes nothing.
#[utoipa::path(
    post, path = "/publish", tag = "publish",
    responses(
        (status = 200, description = "The draft is live", body = Published, example = json!({
            "status": "published",
            "revision": 1,
            "manifest": {
                "version": "1.0",
                "revision": 1,
                "timestamp": 1767225600.0,
                "pipelines": [{
                    "name": "default_pipeline",
                    "processors": [{"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}],
                    "outputs": [],
                    "batch_size": 100
                }]
            },
            "subscribers_notified": 1,
            "gates": [{"id": "gate-1", "status": "applied", "apply_ms": 0.2}]
        })),
        BodyProblems,
        NotBuildable,
        PublishConflict,
        NotReady,
        StoreFailed,
    )
)]
pub(super) async fn publish(
    State(state): State<ControlState>,
    request: Request,
) -> Result<Json<Published>, Problem> {
    body::read(request).await?;
    state.exclusively(publish_draft).await.map(Json)
}

/// Lists what was published, newest first.
#[utoipa::path(
    get, path = "/revisions", tag = "publish",
    responses(
        (
            status = 200, description = "What was published",
            body = [RevisionSummary], example = json!([
            {"revision": 1, "timestamp": 1767225600.0, "rules": 1, "outputs": 0}
        ])),
        StoreFailed,
    )
)]
pub(super) async fn list_revisions(
    State(state): State<ControlState>,
) -> Result<Json<Vec<RevisionSummary>>, Problem> {
    let mut revisions = state
        .blocking(|shared| Ok(shared.store.revisions()?))
        .await?;
    revisions.reverse();
    Ok(Json(revisions))
}

/// Shows the manifest of a revision.
#[utoipa::path(
    get, path = "/revisions/{revision}", tag = "publish",
    params(("revision" = u64, Path, description = "Number of the revision", example = 1)),
    responses(
        (status = 200, description = "The manifest", body = Manifest, example = json!({
            "version": "1.0",
            "revision": 1,
            "timestamp": 1767225600.0,
            "pipelines": [{
                "name": "default_pipeline", "processors": [], "outputs": [], "batch_size": 100
            }]
        })),
        NotFound,
        StoreFailed,
    )
)]
pub(super) async fn show_revision(
    State(state): State<ControlState>,
    Id(revision): Id,
) -> Result<Json<Manifest>, Problem> {
    let found = state.blocking(move |shared| {
        // What is not a number is the name of no revision.
        let found = match revision.parse() {
            Ok(number) => shared.store.revision(number)?,
            Err(_) => None,
        };
        found.ok_or_else(|| Problem::unknown("revision", "unknown_revision", &revision))
    });
    found.await.map(Json)
}

/// Makes an earlier revision live again, as the next one, with the code that its WASM rules had.
///
/// The draft becomes that revision too, and its WASM rules stay pinned to their `digest`: so the next
/// publish of something else does not bring newer code back by accident. To follow the name of the
/// module again, leave the `digest` out of the rule.
#[utoipa::path(
    post, path = "/revisions/{revision}/rollback", tag = "publish",
    params(("revision" = u64, Path, description = "Number of the revision", example = 1)),
    responses(
        (status = 200, description = "The revision is live again", body = Published, example = json!({
            "status": "rolled_back",
            "revision": 3,
            "manifest": {
                "version": "1.0",
                "revision": 3,
                "timestamp": 1767225600.0,
                "rolled_back_to": 1,
                "pipelines": [{
                    "name": "default_pipeline", "processors": [], "outputs": [], "batch_size": 100
                }]
            },
            "subscribers_notified": 1,
            "gates": [{"id": "gate-1", "status": "applied", "apply_ms": 0.2}]
        })),
        BodyProblems,
        NotFound,
        NotBuildable,
        PublishConflict,
        NotReady,
        StoreFailed,
    )
)]
pub(super) async fn rollback(
    State(state): State<ControlState>,
    Id(revision): Id,
    request: Request,
) -> Result<Json<Published>, Problem> {
    body::read(request).await?;
    // What is not a number is the name of no revision.
    let Ok(to) = revision.parse() else {
        return Err(Problem::unknown("revision", "unknown_revision", &revision));
    };
    state
        .exclusively(move |shared| roll_back(shared, to))
        .await
        .map(Json)
}

/// Publishes the draft. Only one at a time.
fn publish_draft(shared: &Shared) -> Result<Published, Problem> {
    let manifest = next_manifest(shared, &shared.draft.load())?;
    publish_manifest(shared, manifest)
}

/// Publishes what was published before, and makes it the draft.
fn roll_back(shared: &Shared, to: u64) -> Result<Published, Problem> {
    let unknown = || Problem::unknown("revision", "unknown_revision", &to.to_string());
    let found = shared.store.revision(to)?.ok_or_else(unknown)?;
    let mut manifest = next_manifest(shared, found.pipeline())?;
    manifest.rolled_back_to = Some(to);
    let published = publish_manifest(shared, manifest)?;
    shared.draft.store(Arc::new(shared.store.draft()?));
    Ok(Published {
        status: "rolled_back",
        ..published
    })
}

/// Builds, stores and applies a manifest.
fn publish_manifest(shared: &Shared, manifest: Manifest) -> Result<Published, Problem> {
    if !shared.gate.is_ready() {
        return Err(Problem::shutting_down());
    }
    let modules = |digest| shared.store.module_bytes(digest);
    let prepared = shared.gate.prepare(&manifest, &modules)?;
    shared.store.publish(&manifest)?;
    let took = shared.gate.apply(prepared);
    shared.live.store(Arc::new(manifest.clone()));
    info!(
        revision = manifest.revision,
        apply_ms = milliseconds(took),
        "published a revision"
    );
    let applied = Applied {
        id: shared.gate.id().to_owned(),
        status: "applied",
        apply_ms: milliseconds(took),
    };
    Ok(Published {
        status: "published",
        revision: manifest.revision,
        manifest,
        subscribers_notified: 1,
        gates: vec![applied],
    })
}

/// The manifest that a pipeline makes if it is published now: its rules are pinned.
fn next_manifest(shared: &Shared, pipeline: &Pipeline) -> Result<Manifest, Problem> {
    let mut pipeline = pipeline.clone();
    pins::pin(&mut pipeline, &shared.store.modules())?;
    // A clock before 1970 is wrong, and no reason to refuse a publish.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Manifest {
        version: FORMAT_VERSION.to_owned(),
        revision: shared.live.load().revision + 1,
        timestamp: now.as_secs_f64(),
        rolled_back_to: None,
        pipelines: vec![pipeline],
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
