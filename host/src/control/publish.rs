//! From draft to live: looking at the draft, checking it, publishing it, and the history.
//!
//! Promises the order prepare, store, apply: what cannot be built is not stored, what cannot be
//! stored is not applied, and applying cannot fail. What other gates make of a publish is their
//! business: it is waited for, for a bounded time, and told.

use std::time::{Duration, Instant, SystemTime};

use axum::{
    extract::{Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::Json,
};
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::{
    ControlState, Problem, Shared, audit,
    body::{self, Id},
    pins,
};
use crate::{
    access::Caller,
    audit::Difference,
    config::units,
    config_store::{ConfigStore, RevisionSummary},
    fleet::Node,
    gate::{Change, check_output, check_rule},
    manifest::{
        FORMAT_VERSION, Invalid, Manifest, Pipeline, Rule, check_pipeline, name_outputs,
        written::check_pipeline_keys,
    },
    nearest::with_suggestion,
};

/// How long a publish waits for the other gates if the client does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(2);

/// Longest time that a client may have it wait.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Longest comment on a revision, in characters.
const MAX_COMMENT_CHARS: usize = 200;

/// Times between two looks at what the other gates say: short at first, for most are quick.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const MAX_LOOK: Duration = Duration::from_millis(100);

/// Largest draft that is taken as a whole, in bytes.
const MAX_DRAFT_BYTES: usize = 16 * 1024 * 1024;

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
    /// `published`, `rolled_back`, or `unchanged` if the draft is live already: then nothing was
    /// published.
    status: &'static str,
    /// The revision that is live now.
    revision: u64,
    /// The manifest that is live now.
    manifest: Manifest,
    /// How many gates were told.
    subscribers_notified: usize,
    /// How each of them did.
    gates: Vec<Applied>,
    /// Of a rollback: `kept` if the draft has edits that were not published and was left alone;
    /// `replaced` if it is the revision that is live now.
    #[serde(skip_serializing_if = "Option::is_none")]
    draft: Option<&'static str>,
    /// What was live before and is now, for the audit log.
    #[serde(skip)]
    replaced: Option<Difference>,
}

/// What a gate made of a publish.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Applied {
    /// Name of the gate.
    id: String,
    /// `applied`; `failed` if it refuses the revision; `pending` if it has not said anything yet.
    status: &'static str,
    /// How long the change took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    apply_ms: Option<f64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The query of a publish or a rollback.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishQuery {
    /// How long to wait for the other gates.
    wait: Option<String>,
    /// Kept with the revision.
    comment: Option<String>,
    /// Whether the last rule that protects privacy, or all outputs, may go.
    allow_removal: Option<bool>,
    /// Whether to publish what is live already.
    republish: Option<bool>,
}

/// How a revision is to be published.
#[derive(Debug, Default)]
struct Terms {
    wait: Duration,
    author: Option<String>,
    comment: Option<String>,
    allow_removal: bool,
    republish: bool,
}

/// The answer when the draft was replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DraftReplaced {
    /// `updated`, or `unchanged`.
    status: &'static str,
    /// How many rules the draft has, disabled ones included.
    rules: usize,
    /// How many outputs it has; none means the console.
    outputs: usize,
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
pub(super) async fn show_draft(State(state): State<ControlState>) -> Result<Json<Draft>, Problem> {
    let shown = state.blocking(|shared| {
        let (draft, live) = (shared.store.draft()?, shared.store.live()?);
        let published = pins::pinned(&draft, &shared.store.modules()?);
        Ok(Draft {
            live_revision: live.revision,
            differs_from_live: published != *live.pipeline(),
            pipeline: draft,
        })
    });
    shown.await.map(Json)
}

/// Replaces the whole draft: rules, outputs and batch size.
///
/// An output's `id` that is left out is made from its type.
#[utoipa::path(
    put, path = "/draft", tag = "publish",
    request_body(content = Pipeline, example = json!({
        "name": "default_pipeline",
        "processors": [{"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}],
        "outputs": [],
        "batch_size": 100
    })),
    responses(
        (
            status = 200, description = "The draft was replaced", body = DraftReplaced,
            example = json!({"status": "updated", "rules": 1, "outputs": 0})
        ),
    )
)]
pub(super) async fn replace_draft(
    State(state): State<ControlState>,
    request: Request,
) -> Result<Json<DraftReplaced>, Problem> {
    let bytes = body::read_up_to(request, MAX_DRAFT_BYTES).await?;
    let value: serde_json::Value = body::parse(&bytes)?;
    check_pipeline_keys(&value)?;
    let mut pipeline: Pipeline = body::parse_value(value)?;
    name_outputs(&mut pipeline.outputs);
    let checked = state.check(move |shared| {
        let (store, policy) = (&shared.store, shared.gate.output_policy());
        check_pipeline(&pipeline)?;
        for (at, rule) in pipeline.processors.iter().enumerate() {
            let checked = check_rule(rule).and_then(|()| pins::check(rule, store));
            checked.map_err(|fault| fault.under(&format!("/processors/{at}")))?;
        }
        for (at, output) in pipeline.outputs.iter().enumerate() {
            check_output(output, policy).map_err(|fault| fault.under(&format!("/outputs/{at}")))?;
        }
        Ok(pipeline)
    });
    let pipeline = checked.await?;
    let replaced = state.edit(move |draft, store| {
        // A module may have been removed since.
        check_modules(&pipeline, store)?;
        let is_other = *draft != pipeline;
        draft.clone_from(&pipeline);
        Ok(DraftReplaced {
            status: if is_other { "updated" } else { "unchanged" },
            rules: pipeline.processors.len(),
            outputs: pipeline.outputs.len(),
        })
    });
    replaced.await.map(Json)
}

/// Builds the draft without making it live.
#[utoipa::path(
    post, path = "/validate", tag = "publish",
    responses(
        (
            status = 200, description = "The draft can be published",
            body = Valid, example = json!({"status": "valid", "rules": 1, "outputs": 0})
        ),
    )
)]
pub(super) async fn validate(
    State(state): State<ControlState>,
    request: Request,
) -> Result<Json<Valid>, Problem> {
    // Nothing in it is asked for; it is read so that a client which sends one gets its answer.
    body::read(request).await?;
    let valid = state.check(|shared| {
        let manifest = next_manifest(shared, &shared.store.draft()?, &Terms::default())?;
        check_outputs(shared, &manifest)?;
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
/// It is built first, then stored, then applied; a failure on the way changes nothing. Other gates
/// on the same config store are told, and their outcome is waited for. A draft that is live already
/// is not published again. One without the last rule that protects privacy, or without any output,
/// is refused unless `allow_removal` is given.
#[utoipa::path(
    post, path = "/publish", tag = "publish",
    params(
        ("wait" = Option<String>, Query,
         description = "How long to wait for other gates, 0 to 30s; 2s if it is left out",
         example = "500ms"),
        ("comment" = Option<String>, Query,
         description = "Kept with the revision; up to 200 characters", example = "ticket 42"),
        ("allow_removal" = Option<bool>, Query,
         description = "Publish also what removes the last rule that protects privacy, or all \
                        outputs",
         example = false),
        ("republish" = Option<bool>, Query,
         description = "Publish also what is live already: rules read their key files again",
         example = false)
    ),
    responses(
        (status = 200, description = "The draft is live", body = Published, example = json!({
            "status": "published",
            "revision": 1,
            "manifest": {
                "version": "1.0",
                "revision": 1,
                "timestamp": 1767225600.0,
                "comment": "ticket 42",
                "digest": "sha256:0f343b0931126a20f133d67c2b018a3b5e8c7d4f1a2b3c4d5e6f708192a3b4c5",
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
    )
)]
pub(super) async fn publish(
    State(state): State<ControlState>,
    query: Result<Query<PublishQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<Published>, Problem> {
    let terms = terms_of(query, &request)?;
    body::read(request).await?;
    let wait = terms.wait;
    let published = state
        .publishing(move |shared| publish_draft(shared, &terms))
        .await?;
    audit::note_live(published.replaced);
    Ok(Json(with_other_gates(&state, published, wait).await))
}

/// Lists what was published, newest first.
#[utoipa::path(
    get, path = "/revisions", tag = "publish",
    responses(
        (
            status = 200, description = "What was published",
            body = [RevisionSummary], example = json!([{
                "revision": 1, "timestamp": 1767225600.0, "rules": 1, "outputs": 0,
                "comment": "ticket 42",
                "digest": "sha256:0f343b0931126a20f133d67c2b018a3b5e8c7d4f1a2b3c4d5e6f708192a3b4c5"
            }])),
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
/// A draft with edits that were not published is left alone. Otherwise the draft becomes that
/// revision too, and its WASM rules stay pinned to their `digest`: so the next publish of something
/// else does not bring newer code back by accident. To follow the name of
/// the module again, leave the `digest` out of the rule.
#[utoipa::path(
    post, path = "/revisions/{revision}/rollback", tag = "publish",
    params(
        ("revision" = u64, Path, description = "Number of the revision", example = 1),
        ("wait" = Option<String>, Query,
         description = "How long to wait for other gates, 0 to 30s; 2s if it is left out",
         example = "500ms"),
        ("comment" = Option<String>, Query,
         description = "Kept with the revision; up to 200 characters", example = "ticket 42"),
        ("allow_removal" = Option<bool>, Query,
         description = "Go back also to what has no rule that protects privacy, or no output",
         example = false)
    ),
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
            "gates": [{"id": "gate-1", "status": "applied", "apply_ms": 0.2}],
            "draft": "replaced"
        })),
    )
)]
pub(super) async fn rollback(
    State(state): State<ControlState>,
    Id(revision): Id,
    query: Result<Query<PublishQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<Published>, Problem> {
    let terms = terms_of(query, &request)?;
    body::read(request).await?;
    let wait = terms.wait;
    // What is not a number is the name of no revision.
    let Ok(to) = revision.parse() else {
        return Err(Problem::unknown("revision", "unknown_revision", &revision));
    };
    let published = state
        .publishing(move |shared| roll_back(shared, to, &terms))
        .await?;
    audit::note_live(published.replaced);
    Ok(Json(with_other_gates(&state, published, wait).await))
}

/// Publishes the draft, if it is not live already. Only one at a time.
fn publish_draft(shared: &Shared, terms: &Terms) -> Result<Published, Problem> {
    let change = shared.gate.begin_change();
    let manifest = next_manifest(shared, &shared.store.draft()?, terms)?;
    // Also of what is live: an earlier version may have let it in.
    check_outputs(shared, &manifest)?;
    let live = shared.store.live()?;
    if !terms.republish && is_live(shared, &live, manifest.pipeline())? {
        return Ok(unchanged(shared, live));
    }
    check_removal(&live, manifest.pipeline(), terms)?;
    publish_manifest(shared, &change, manifest)
}

/// Whether a publish of the pipeline would change nothing, here or in the store.
fn is_live(shared: &Shared, live: &Manifest, pipeline: &Pipeline) -> Result<bool, Problem> {
    let is_same = live.revision > 0 && live.pipeline() == pipeline;
    Ok(is_same
        && shared.gate.is_ready()
        && shared.gate.revision() == live.revision
        && shared.store.holds(live.revision)?)
}

/// The answer when there is nothing to publish.
fn unchanged(shared: &Shared, live: Manifest) -> Published {
    Published {
        status: "unchanged",
        revision: live.revision,
        manifest: live,
        subscribers_notified: 0,
        gates: vec![Applied {
            id: shared.gate.id().to_owned(),
            status: "applied",
            apply_ms: None,
            reason: None,
        }],
        draft: None,
        replaced: None,
    }
}

/// Refuses to take away the last rule that protects privacy, or all outputs, by accident.
fn check_removal(live: &Manifest, next: &Pipeline, terms: &Terms) -> Result<(), Problem> {
    if terms.allow_removal {
        return Ok(());
    }
    let live = live.pipeline();
    let names = |ids: Vec<&str>| {
        let shown: Vec<String> = ids.iter().take(10).map(|id| format!("`{id}`")).collect();
        let rest = ids.len() - shown.len();
        match rest {
            0 => shown.join(", "),
            rest => format!("{} and {rest} more", shown.join(", ")),
        }
    };
    let protecting: Vec<&str> = live
        .processors
        .iter()
        .filter(|rule| rule.always_protects())
        .map(|rule| rule.id.as_str())
        .collect();
    let mut removed = Vec::new();
    let mut pointer = "/outputs";
    if !protecting.is_empty() && !next.processors.iter().any(Rule::always_protects) {
        pointer = "/processors";
        removed.push(format!(
            "no rule would protect privacy any more (removed, disabled, set to bypass or to only \
             count: {})",
            names(protecting)
        ));
    }
    if !live.outputs.is_empty() && next.outputs.is_empty() {
        let outputs = live
            .outputs
            .iter()
            .map(|output| output.id.as_str())
            .collect();
        removed.push(format!(
            "no output would be left, and events would go to the console (removed: {})",
            names(outputs)
        ));
    }
    if removed.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "nothing was published: {}. If this is meant, add `?allow_removal=true`, or use \
         `streamgate apply --allow-removal`",
        removed.join("; ")
    );
    Err(Problem::new(StatusCode::CONFLICT, "removal_not_allowed", detail).at(pointer))
}

/// Publishes what was published before, and makes it the draft if that has no edits.
fn roll_back(shared: &Shared, to: u64, terms: &Terms) -> Result<Published, Problem> {
    let unknown = || Problem::unknown("revision", "unknown_revision", &to.to_string());
    let found = shared.store.revision(to)?.ok_or_else(unknown)?;
    let change = shared.gate.begin_change();
    let mut manifest = next_manifest(shared, found.pipeline(), terms)?;
    manifest.rolled_back_to = Some(to);
    check_removal(&shared.store.live()?, manifest.pipeline(), terms)?;
    let published = publish_manifest(shared, &change, manifest)?;
    // It is done, whatever becomes of the question.
    let draft = shared.store.draft().ok();
    let draft = draft.map(|draft| match draft == *published.manifest.pipeline() {
        true => "replaced",
        false => "kept",
    });
    Ok(Published {
        status: "rolled_back",
        draft,
        ..published
    })
}

/// Refuses outputs that a gate which has them already would still run.
fn check_outputs(shared: &Shared, manifest: &Manifest) -> Result<(), Invalid> {
    let policy = shared.gate.output_policy();
    for (at, output) in manifest.pipeline().outputs.iter().enumerate() {
        check_output(output, policy).map_err(|fault| fault.under(&format!("/outputs/{at}")))?;
    }
    Ok(())
}

/// Checks that the store has the modules of all rules.
fn check_modules(pipeline: &Pipeline, store: &ConfigStore) -> Result<(), Invalid> {
    for (at, rule) in pipeline.processors.iter().enumerate() {
        pins::check(rule, store).map_err(|fault| fault.under(&format!("/processors/{at}")))?;
    }
    Ok(())
}

/// Builds, stores and applies a manifest. Edits go on while it is built.
fn publish_manifest(
    shared: &Shared,
    change: &Change<'_>,
    manifest: Manifest,
) -> Result<Published, Problem> {
    if !shared.gate.is_ready() {
        return Err(Problem::shutting_down());
    }
    check_outputs(shared, &manifest)?;
    let modules = |digest| shared.store.module_bytes(digest);
    let prepared = change.prepare(&manifest, &modules)?;
    let (subscribers_notified, replaced) = {
        let _editing = shared.editing.blocking_lock();
        // A module may have been removed while it was built.
        check_modules(manifest.pipeline(), &shared.store)?;
        let replaced = Difference::between(shared.store.live()?.pipeline(), manifest.pipeline());
        (shared.store.publish(&manifest)?, replaced)
    };
    let took = change.apply(prepared);
    if let Some(fleet) = &shared.fleet {
        fleet.applied(manifest.revision, took);
    }
    info!(
        revision = manifest.revision,
        apply_ms = milliseconds(took),
        "published a revision"
    );
    let applied = Applied {
        id: shared.gate.id().to_owned(),
        status: "applied",
        apply_ms: Some(milliseconds(took)),
        reason: None,
    };
    Ok(Published {
        status: "published",
        revision: manifest.revision,
        manifest,
        subscribers_notified,
        gates: vec![applied],
        draft: None,
        replaced: Some(replaced),
    })
}

/// Adds what the other gates make of it, as far as they say so in time.
async fn with_other_gates(
    state: &ControlState,
    mut published: Published,
    wait: Duration,
) -> Published {
    if state.shared.fleet.is_none() {
        return published;
    }
    let deadline = Instant::now() + wait;
    let mut pause = FIRST_LOOK;
    loop {
        let nodes = state.blocking(|shared| match &shared.fleet {
            Some(fleet) => Ok(fleet.nodes()?),
            None => Ok(Vec::new()),
        });
        // It is published, whatever becomes of the question.
        let nodes = nodes.await.unwrap_or_default();
        let id = state.gate().id();
        let others = nodes.iter().filter(|node| node.id != id);
        let others: Vec<_> = others
            .map(|node| outcome(node, published.revision))
            .collect();
        let all_said = others.iter().all(|other| other.status != "pending");
        let time_left = deadline.saturating_duration_since(Instant::now());
        if all_said || time_left.is_zero() {
            published.gates.extend(others);
            return published;
        }
        tokio::time::sleep(pause.min(time_left)).await;
        pause = (pause * 2).min(MAX_LOOK);
    }
}

/// What a gate says of a revision.
fn outcome(node: &Node, revision: u64) -> Applied {
    let id = node.id.clone();
    if node.revision >= revision {
        return Applied {
            id,
            status: "applied",
            apply_ms: Some(node.apply_ms),
            reason: None,
        };
    }
    let refused = node.refused.as_ref();
    let refused = refused.filter(|refused| refused.revision >= revision);
    Applied {
        id,
        status: if refused.is_some() {
            "failed"
        } else {
            "pending"
        },
        apply_ms: None,
        reason: refused.map(|refused| refused.reason.clone()),
    }
}

/// Reads the query of a publish, and who sends it.
fn terms_of(
    query: Result<Query<PublishQuery>, QueryRejection>,
    request: &Request,
) -> Result<Terms, Problem> {
    let refuse = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail);
    let Query(query) = query.map_err(|error| {
        let found = error.body_text();
        let found = with_suggestion(found);
        refuse(format!(
            "the query cannot be read; `wait`, `comment`, `allow_removal` and `republish` may be \
             in it: {found}"
        ))
    })?;
    let wait = match query.wait.as_deref() {
        None => DEFAULT_WAIT,
        Some("0") => Duration::ZERO,
        Some(text) => {
            units::duration(text).map_err(|message| refuse(format!("`wait`: {message}")))?
        }
    };
    if wait > MAX_WAIT {
        return Err(refuse(format!(
            "`wait` is {} s; expected at most {} s",
            wait.as_secs(),
            MAX_WAIT.as_secs()
        )));
    }
    let comment = query.comment.filter(|comment| !comment.is_empty());
    if let Some(comment) = &comment {
        let count = comment.chars().count();
        if count > MAX_COMMENT_CHARS || comment.chars().any(char::is_control) {
            return Err(refuse(format!(
                "`comment` has {count} characters; expected at most {MAX_COMMENT_CHARS}, and no \
                 control characters"
            )));
        }
    }
    let author = request.extensions().get::<Caller>();
    Ok(Terms {
        wait,
        author: author.and_then(|caller| caller.name.clone()),
        comment,
        allow_removal: query.allow_removal.unwrap_or(false),
        republish: query.republish.unwrap_or(false),
    })
}

/// The manifest that a pipeline makes if it is published now: its rules are pinned.
fn next_manifest(shared: &Shared, pipeline: &Pipeline, terms: &Terms) -> Result<Manifest, Problem> {
    let mut pipeline = pipeline.clone();
    pins::pin(&mut pipeline, &shared.store.modules()?)?;
    // A clock before 1970 is wrong, and no reason to refuse a publish.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Manifest {
        version: FORMAT_VERSION.to_owned(),
        revision: shared.store.next_revision()?,
        timestamp: now.as_secs_f64(),
        rolled_back_to: None,
        author: terms.author.clone(),
        comment: terms.comment.clone(),
        digest: Some(pipeline.digest()),
        pipelines: vec![pipeline],
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
