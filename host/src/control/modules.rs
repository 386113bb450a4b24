//! The WASM modules that rules can name.
//!
//! Promises that what has a name was checked and compiled, that an upload changes nothing that is
//! live, and that nothing a rule names goes away. Compilation takes seconds for large modules; it
//! holds up no other edit.

use std::{sync::Arc, time::SystemTime};

use axum::{
    body::Bytes,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Json, Response},
};
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::{
    ControlState, Problem, Shared,
    body::{self, Id},
    pins,
};
use crate::{
    config_store::ModuleEntry,
    digest::Digest,
    manifest::check_id,
    wasm::{MAX_MODULE_BYTES, ModuleError, Stack},
};

/// The answer when a module was uploaded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModuleSaved {
    /// `added`; `updated` if the name meant other bytes before; `unchanged` if it meant these.
    status: &'static str,
    /// The module.
    module: ModuleEntry,
    /// The rules of the draft that name it: they run it from the next publish on, unless they are
    /// pinned to a digest.
    rules: Vec<String>,
}

/// A module and who uses it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModuleUse {
    /// The module.
    #[serde(flatten)]
    module: ModuleEntry,
    /// The rules of the draft that name it.
    draft_rules: Vec<String>,
    /// The rules that are live and name it; `/status` says which code they run.
    live_rules: Vec<String>,
}

/// The answer when a module was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModuleDeleted {
    /// `deleted`.
    status: &'static str,
    /// Whose name it was.
    name: String,
}

/// Lists the modules.
#[utoipa::path(
    get, path = "/modules", tag = "modules", operation_id = "list_modules",
    responses((
        status = 200, description = "The modules, by name", body = [ModuleEntry],
        example = json!([{
            "name": "my-rule",
            "digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "size_bytes": 150906,
            "uploaded": 1767225600.0,
            "kind": "core",
            "imports": ["streamgate:processor/host@1.0.0#log"],
            "exports": ["configure", "process"]
        }])
    ))
)]
pub(super) async fn list(
    State(state): State<ControlState>,
) -> Result<Json<Vec<ModuleEntry>>, Problem> {
    let modules = state.blocking(|shared| Ok(shared.store.modules()?));
    modules.await.map(Json)
}

/// Uploads a module under a name: a component, or a core module that carries its world, as the SDK
/// makes it.
///
/// It is checked and compiled before the answer. Rules that are live go on with the code that they
/// were published with; the next publish takes this one.
#[utoipa::path(
    put, path = "/modules/{name}", tag = "modules", operation_id = "put_module",
    params(("name" = String, Path, description = "Name of the module", example = "my-rule")),
    request_body(content = Vec<u8>, content_type = "application/wasm", description = "At most 32 MiB"),
    responses(
        (
            status = 200, description = "The module can be named by rules", body = ModuleSaved,
            example = json!({"status": "added", "rules": [], "module": {
            "name": "my-rule",
            "digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "size_bytes": 150906,
            "uploaded": 1767225600.0,
            "kind": "core",
            "imports": ["streamgate:processor/host@1.0.0#log"],
            "exports": ["configure", "process"]
            }})
        ),
    )
)]
pub(super) async fn put(
    State(state): State<ControlState>,
    Id(name): Id,
    request: Request,
) -> Result<Json<ModuleSaved>, Problem> {
    check_name(&name)?;
    let Ok(turn) = Arc::clone(&state.shared.transfers).try_acquire_owned() else {
        return Err(Problem::busy());
    };
    let bytes = body::read_up_to(request, MAX_MODULE_BYTES).await?;
    // Not an edit yet: others go on while this one compiles.
    let (digest, bytes, module) = state
        .blocking(move |shared| {
            let digest = Digest::of(&bytes);
            let module = shared.gate.wasm().load(digest, &bytes, Stack::default())?;
            Ok((digest, bytes, module))
        })
        .await?;
    let saved = state.exclusively(move |shared| {
        let _turn = turn;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let entry = ModuleEntry {
            name: name.clone(),
            digest,
            size_bytes: bytes.len() as u64,
            uploaded: now.unwrap_or_default().as_secs_f64(),
            info: module.info().clone(),
        };
        let modules = shared.store.modules()?;
        let known = modules.iter().find(|known| known.name == entry.name);
        let status = match known {
            None => "added",
            Some(known) if known.digest == digest => "unchanged",
            Some(_) => "updated",
        };
        shared.store.put_module(entry.clone(), &bytes)?;
        info!(module = entry.name, digest = %digest, size_bytes = entry.size_bytes, "{status} a module");
        Ok(ModuleSaved {
            status,
            rules: pins::rules_of(&shared.store.draft()?, &entry.name),
            module: entry,
        })
    });
    saved.await.map(Json)
}

/// Shows a module and which rules name it.
#[utoipa::path(
    get, path = "/modules/{name}", tag = "modules", operation_id = "show_module",
    params(("name" = String, Path, description = "Name of the module", example = "my-rule")),
    responses(
        (
            status = 200, description = "The module", body = ModuleUse,
            example = json!({
            "name": "my-rule",
            "digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "size_bytes": 150906,
            "uploaded": 1767225600.0,
            "kind": "core",
            "imports": ["streamgate:processor/host@1.0.0#log"],
            "exports": ["configure", "process"],
                "draft_rules": ["mine"],
                "live_rules": []
            })
        ),
    )
)]
pub(super) async fn show(
    State(state): State<ControlState>,
    Id(name): Id,
) -> Result<Json<ModuleUse>, Problem> {
    let shown = state.blocking(move |shared| {
        Ok(ModuleUse {
            module: find(shared, &name)?,
            draft_rules: pins::rules_of(&shared.store.draft()?, &name),
            live_rules: pins::rules_of(shared.store.live()?.pipeline(), &name),
        })
    });
    shown.await.map(Json)
}

/// Returns the bytes of a module, as they were uploaded.
#[utoipa::path(
    get, path = "/modules/{name}/wasm", tag = "modules", operation_id = "download_module",
    params(("name" = String, Path, description = "Name of the module", example = "my-rule")),
    responses(
        (status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/wasm"),
    )
)]
pub(super) async fn download(
    State(state): State<ControlState>,
    Id(name): Id,
) -> Result<Response, Problem> {
    let bytes = state
        .blocking(move |shared| {
            let digest = find(shared, &name)?.digest;
            let bytes = shared.store.module_bytes(digest)?;
            bytes.ok_or_else(|| unknown(&name))
        })
        .await?;
    let kind = HeaderValue::from_static("application/wasm");
    Ok(([(header::CONTENT_TYPE, kind)], Bytes::from(bytes)).into_response())
}

/// Takes the name of a module away. One that a rule of the draft or a live rule names stays.
///
/// Its code stays for as long as a revision is kept that needs it.
#[utoipa::path(
    delete, path = "/modules/{name}", tag = "modules", operation_id = "delete_module",
    params(("name" = String, Path, description = "Name of the module", example = "my-rule")),
    responses(
        (
            status = 200, description = "The module is gone",
            body = ModuleDeleted, example = json!({"status": "deleted", "name": "my-rule"})
        ),
    )
)]
pub(super) async fn delete(
    State(state): State<ControlState>,
    Id(name): Id,
) -> Result<Json<ModuleDeleted>, Problem> {
    let deleted = state.exclusively(move |shared| {
        let in_use = [
            ("the draft", pins::rules_of(&shared.store.draft()?, &name)),
            (
                "the live revision",
                pins::rules_of(shared.store.live()?.pipeline(), &name),
            ),
        ];
        for (where_, rules) in in_use {
            if !rules.is_empty() {
                let detail = format!(
                    "rules of {where_} name the module `{name}`: {}; take them out and publish \
                     first",
                    shorten(&rules)
                );
                return Err(Problem::new(StatusCode::CONFLICT, "module_in_use", detail));
            }
        }
        match shared.store.delete_module(&name)? {
            true => Ok(name.clone()),
            false => Err(unknown(&name)),
        }
    });
    Ok(Json(ModuleDeleted {
        status: "deleted",
        name: deleted.await?,
    }))
}

impl From<ModuleError> for Problem {
    fn from(error: ModuleError) -> Self {
        let status = match error.code {
            "engine_failed" | "compiler_failed" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.code, error.message)
    }
}

fn check_name(name: &str) -> Result<(), Problem> {
    let checked = check_id(name).map_err(|fault| fault.message);
    let checked = match name {
        "." | ".." => Err("a module cannot be called `.` or `..`".to_owned()),
        _ => checked,
    };
    checked.map_err(|detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_id", detail))
}

fn find(shared: &Shared, name: &str) -> Result<ModuleEntry, Problem> {
    let mut modules = shared.store.modules()?.into_iter();
    modules
        .find(|module| module.name == name)
        .ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Problem {
    Problem::unknown("module", "unknown_module", name)
}

/// Some of many names.
fn shorten(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}
