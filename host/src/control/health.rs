//! How the gate is doing: for people, for orchestrators, for programs.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Json},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ControlState, Problem};
use crate::{
    books::Stats,
    fleet::{ConfigStatus, Fleet, Node},
    gate::Status,
    metrics,
};

/// The gate's state, and how it stands to its config store and to other gates.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusAnswer {
    #[serde(flatten)]
    gate: Status,
    /// How it stands to its config store.
    config: ConfigStatus,
    /// What the gates that share the store say of themselves, this one included; only this one while
    /// the store cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<Vec<Node>>,
}

/// What this is, and where to go from here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Index {
    /// `ok`.
    status: &'static str,
    /// `streamgate-control-plane`.
    service: &'static str,
    /// Version of the gate.
    version: &'static str,
    /// Paths worth knowing.
    links: Links,
}

/// Paths worth knowing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Links {
    /// The API, described for people.
    docs: &'static str,
    /// The API, described for programs.
    openapi: &'static str,
    /// The rules of the draft.
    rules: &'static str,
    /// What redact rules can name.
    detectors: &'static str,
    /// The outputs of the draft.
    outputs: &'static str,
    /// The modules that rules can name.
    modules: &'static str,
    /// The whole draft.
    draft: &'static str,
    /// What was published.
    revisions: &'static str,
    /// How the gate is doing.
    status: &'static str,
    /// What happened to every event.
    stats: &'static str,
    /// The same, for Prometheus.
    metrics: &'static str,
}

/// One word.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`, or `ready`.
    status: &'static str,
}

/// Says what this is.
#[utoipa::path(
    get, path = "/", tag = "gate",
    responses((status = 200, description = "What this is", body = Index, example = json!({
        "status": "ok",
        "service": "streamgate-control-plane",
        "version": "0.1.0",
        "links": {
            "docs": "/docs", "openapi": "/openapi.json", "rules": "/rules", "detectors": "/detectors",
            "outputs": "/outputs", "modules": "/modules", "draft": "/draft", "revisions": "/revisions", "status": "/status", "stats": "/stats",
            "metrics": "/metrics"
        }
    })))
)]
pub(super) async fn index() -> Json<Index> {
    Json(Index {
        status: "ok",
        service: "streamgate-control-plane",
        version: env!("CARGO_PKG_VERSION"),
        links: Links {
            docs: "/docs",
            openapi: "/openapi.json",
            rules: "/rules",
            detectors: "/detectors",
            outputs: "/outputs",
            modules: "/modules",
            draft: "/draft",
            revisions: "/revisions",
            status: "/status",
            stats: "/stats",
            metrics: "/metrics",
        },
    })
}

/// Answers as long as the process can answer: restart it if this fails.
#[utoipa::path(
    get, path = "/healthz", tag = "gate",
    responses((
        status = 200, description = "The process answers",
        body = Health, example = json!({"status": "ok"})
    ))
)]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Says whether the gate takes events: send it none if this fails.
#[utoipa::path(
    get, path = "/readyz", tag = "gate",
    responses((
        status = 200, description = "Events are taken",
        body = Health, example = json!({"status": "ready"})
    ))
)]
pub(super) async fn readyz(State(state): State<ControlState>) -> Result<Json<Health>, Problem> {
    if !state.gate().is_ready() {
        let detail = "the gate takes no events now: it is starting or shutting down";
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_ready",
            detail,
        ));
    }
    Ok(Json(Health { status: "ready" }))
}

/// Shows what the gate runs and how each part of it is doing.
#[utoipa::path(
    get, path = "/status", tag = "gate",
    responses((
        status = 200, description = "How each part is doing",
        body = StatusAnswer
    ))
)]
pub(super) async fn status(State(state): State<ControlState>) -> Json<StatusAnswer> {
    let gate = state.gate().status();
    let Some(fleet) = &state.shared.fleet else {
        return Json(StatusAnswer {
            gate,
            config: ConfigStatus::local(state.shared.store.location()),
            fleet: None,
        });
    };
    let config = fleet.status();
    let nodes = state.blocking(|shared| match &shared.fleet {
        Some(fleet) => Ok(fleet.nodes()?),
        None => Ok(Vec::new()),
    });
    // Without Redis a gate knows of itself only.
    let nodes = nodes.await.unwrap_or_else(|_| vec![fleet.this_node()]);
    Json(StatusAnswer {
        gate,
        config,
        fleet: Some(nodes),
    })
}

/// Shows the books: what happened to every event.
#[utoipa::path(
    get, path = "/stats", tag = "gate",
    responses((
        status = 200, description = "The books",
        body = Stats
    ))
)]
pub(super) async fn stats(State(state): State<ControlState>) -> Json<Stats> {
    Json(state.gate().stats())
}

/// Shows the same figures, and those of modules, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "gate",
    responses((
        status = 200, description = "Every metric, as OpenMetrics text",
        body = String, content_type = "application/openmetrics-text",
        example = "# HELP streamgate_revision Revision that is live.\n# TYPE streamgate_revision gauge\nstreamgate_revision 1\n# EOF\n"
    ))
)]
pub(super) async fn show_metrics(State(state): State<ControlState>) -> impl IntoResponse {
    let gate = state.gate();
    let fleet = state.shared.fleet.as_ref().map(Fleet::counters);
    let text = metrics::write(&gate.stats(), &gate.status(), fleet);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}
