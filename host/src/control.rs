//! The control API: edits the draft, and makes it live.
//!
//! Promises that nothing is half-applied: an edit is checked and in the store before it is
//! answered, a publish is built, then stored, then applied, and whatever fails leaves draft and
//! live as they were. A client that goes away in the middle changes nothing of that. Failures are
//! problem documents, and every route is in `/openapi.json`. Whether a rule can be built is for
//! `gate` to say; accepting connections is for `http_server`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    http::{HeaderValue, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Json, Response},
    routing::get,
};
use serde_json::json;
use tokio::{
    sync::{Mutex, Semaphore},
    task,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::guard::Guard;
use crate::{
    access::Access,
    audit::{AuditLog, Difference},
    config_store::{ConfigStore, StoreError},
    fleet::Fleet,
    gate::Gate,
    http_server,
    manifest::Pipeline,
};

mod audit;
mod body;
mod describe;
mod detectors;
mod docs;
mod error;
mod guard;
mod health;
mod hide;
mod modules;
mod outputs;
mod pins;
mod publish;
mod rules;
mod schemas;
mod settings;
mod tokens;

pub use self::error::Problem;

/// Most connections to the control API. Each may hold a body of 1 MiB.
const MAX_CONNECTIONS: usize = 128;

/// Longest time for the head of a request, and between two of one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Most modules that are on their way at a time, in or out. Each holds 32 MiB at most.
const MAX_TRANSFERS: usize = 2;

/// Most requests at a time that compile rules or read the files that they name; others wait.
const MAX_CHECKS: usize = 4;

/// How often an edit is tried when others keep changing the draft.
const MAX_EDIT_ATTEMPTS: usize = 8;

/// What every handler works on; clones are the same state.
#[derive(Debug, Clone)]
pub struct ControlState {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    gate: Gate,
    access: Access,
    store: Arc<ConfigStore>,
    /// The other gates, if the store is one that gates share.
    fleet: Option<Fleet>,
    /// One for each module that is on its way, in or out, so that their bytes are bounded.
    transfers: Arc<Semaphore>,
    /// Held while the store is changed, so that edits come one after the other. Readers do not wait
    /// for it. Nobody who holds it opens a file that a user names, or compiles anything.
    editing: Arc<Mutex<()>>,
    /// Held from before a revision is built until it is live; edits go on meanwhile.
    publishing: Arc<Mutex<()>>,
    /// One for each request that compiles rules or reads the files that they name.
    checks: Arc<Semaphore>,
}

impl ControlState {
    /// Puts together what the control API works on.
    pub fn new(gate: Gate, access: Access, store: Arc<ConfigStore>, fleet: Option<Fleet>) -> Self {
        Self {
            shared: Arc::new(Shared {
                gate,
                access,
                store,
                fleet,
                transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
                editing: Arc::default(),
                publishing: Arc::default(),
                checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            }),
        }
    }

    fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    fn access(&self) -> &Access {
        &self.shared.access
    }

    /// Reads the draft.
    async fn draft(&self) -> Result<Pipeline, Problem> {
        self.blocking(|shared| Ok(shared.store.draft()?)).await
    }

    /// Changes the draft: `change` gets a copy and may refuse; what it leaves is stored, and only
    /// then seen. What `change` puts there was checked before ([`Self::check`]). It does not run on
    /// the async runtime, and runs again if somebody at another gate changed the draft meanwhile.
    async fn edit<T: Send + 'static>(
        &self,
        change: impl Fn(&mut Pipeline, &ConfigStore) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let edited = self.exclusively(move |shared| {
            for _ in 1..MAX_EDIT_ATTEMPTS {
                match try_edit(shared, &change) {
                    Err(EditError::Store(StoreError::DraftChanged)) => {}
                    done => return done.map_err(Problem::from),
                }
            }
            Ok(try_edit(shared, &change)?)
        });
        let (answer, difference) = edited.await?;
        audit::note_draft(difference);
        Ok(answer)
    }

    /// Runs `work`, which compiles rules or opens files that a user names and changes nothing, on a
    /// thread where it may block. Edits do not wait for it.
    async fn check<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = Arc::clone(&self.shared.checks).acquire_owned().await;
        let permit = permit.expect("it is never closed");
        self.blocking(move |shared| {
            let _permit = permit;
            work(shared)
        })
        .await
    }

    /// Runs `work` with no other edit beside it, on a thread where it may block.
    async fn exclusively<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.in_turn(&self.shared.editing, work).await
    }

    /// Runs `work` with no other publish beside it, on a thread where it may block.
    async fn publishing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.in_turn(&self.shared.publishing, work).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        turns: &Arc<Mutex<()>>,
        work: impl FnOnce(&Shared) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = Arc::clone(turns).lock_owned().await;
        // From here on it runs to its end even if the client goes away and this future is dropped:
        // what was stored is also applied. So the turn goes along.
        self.blocking(move |shared| {
            let _turn = turn;
            work(shared)
        })
        .await
    }

    /// Runs `work`, which changes nothing, on a thread where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let shared = Arc::clone(&self.shared);
        finish(task::spawn_blocking(move || work(&shared)).await)
    }
}

/// Why an edit did not happen.
enum EditError {
    Refused(Problem),
    Store(StoreError),
}

impl From<StoreError> for EditError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Refused(problem) => problem,
            EditError::Store(error) => error.into(),
        }
    }
}

fn try_edit<T>(
    shared: &Shared,
    change: impl Fn(&mut Pipeline, &ConfigStore) -> Result<T, Problem>,
) -> Result<(T, Difference), EditError> {
    let before = shared.store.draft()?;
    let mut draft = before.clone();
    let answer = change(&mut draft, &shared.store).map_err(EditError::Refused)?;
    shared.store.save_draft(&draft, &before)?;
    Ok((answer, Difference::between(&before, &draft)))
}

/// Passes a result on; a panic in the work goes on where it would have gone without the thread.
fn finish<T>(ended: Result<Result<T, Problem>, task::JoinError>) -> Result<T, Problem> {
    ended.unwrap_or_else(|err| match err.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Problem::shutting_down()),
    })
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "StreamGate control API",
        description = "Edits change the draft; `POST /publish` makes the draft live. Failures are \
                       problem documents (RFC 9457) with a stable `code`."
    ),
    components(schemas(Problem)),
    tags(
        (name = "rules", description = "The rules of the draft, in the order they are applied"),
        (name = "outputs", description = "Where events go"),
        (name = "modules", description = "Rules in WASM: the code that rules of type `wasm` run"),
        (name = "settings", description = "Numbers of the draft"),
        (name = "publish", description = "From draft to live, and what was live before"),
        (name = "tokens", description = "Who may use this API"),
        (name = "gate", description = "How the gate is doing"),
        (name = "docs", description = "This description")
    )
)]
struct Description;

/// All routes there are.
fn routes() -> OpenApiRouter<ControlState> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(health::index))
        .routes(routes!(rules::list, rules::add, rules::replace_all))
        .routes(routes!(rules::show, rules::put, rules::delete))
        .routes(routes!(detectors::list))
        .routes(routes!(outputs::list, outputs::add, outputs::clear))
        .routes(routes!(outputs::show, outputs::put, outputs::delete))
        .routes(routes!(outputs::dead_letters))
        .routes(routes!(outputs::redrive))
        .routes(routes!(modules::list))
        .routes(routes!(modules::show, modules::put, modules::delete))
        .routes(routes!(modules::download))
        .routes(routes!(settings::show_batch_size, settings::set_batch_size))
        .routes(routes!(publish::show_draft, publish::replace_draft))
        .routes(routes!(publish::validate))
        .routes(routes!(publish::publish))
        .routes(routes!(publish::list_revisions))
        .routes(routes!(publish::show_revision))
        .routes(routes!(publish::rollback))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::status))
        .routes(routes!(health::stats))
        .routes(routes!(health::show_metrics))
        .routes(routes!(docs::openapi))
        .routes(routes!(docs::page))
        .routes(routes!(docs::file))
        // A link to it may end in a slash.
        .route("/docs/", get(docs::page))
}

/// Builds the control API. `hosts` are names by which it is asked, beside addresses and `localhost`.
pub fn router(state: ControlState, log: AuditLog, hosts: Vec<String>) -> Router {
    let (router, description) = routes().split_for_parts();
    let document = docs::Document::build(&description, state.access().clone());
    let guard = Arc::new(Guard::new(state.access().clone(), log, hosts));
    router
        .layer(Extension(document))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::map_response(hide::hide_secrets))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .layer(middleware::map_response(add_headers))
        .with_state(state)
}

/// Answers while the gate starts, which may take as long as its modules are compiled.
pub fn starting(path: &Uri) -> Response {
    let answer = match path.path() {
        "/healthz" => Json(json!({"status": "ok"})).into_response(),
        _ => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_ready",
            "the gate is starting: it reads its config and compiles its modules; try again when \
             `/readyz` answers with 200",
        )
        .into_response(),
    };
    with_headers(answer)
}

/// Returns the limits that the control API is served with.
pub fn http_options() -> http_server::Options {
    http_server::Options {
        listener: "control",
        max_connections: MAX_CONNECTIONS,
        head_timeout: HEAD_TIMEOUT,
        ..http_server::Options::default()
    }
}

/// Adds what every answer has. No CORS headers: pages of other origins have no business here.
async fn add_headers(response: Response) -> Response {
    with_headers(response)
}

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
