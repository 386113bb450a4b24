//! Records every request that may change something: who sent it, what became of it, and which
//! draft and which revision were replaced by which.

use std::{cell::RefCell, sync::Arc};

use axum::{extract::Request, http::Method, middleware::Next, response::Response};
use tokio::task;

use crate::{
    access::{
        Caller,
        token::{Role, TokenRecord},
    },
    audit::{AuditLog, Difference, Entry},
    http_server::ClientAddress,
};

tokio::task_local! {
    /// What the request that is handled has changed so far.
    static CHANGED: RefCell<Changed>;
}

#[derive(Debug, Clone, Default)]
struct Changed {
    draft: Option<Difference>,
    live: Option<Difference>,
    token: Option<(String, Role)>,
}

/// The code of the problem that an answer tells; an extension of the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProblemCode(pub(super) &'static str);

/// Notes that the draft was replaced.
pub(super) fn note_draft(draft: Difference) {
    note(|changed| changed.draft = Some(draft));
}

/// Notes that what is live was replaced, if it was.
pub(super) fn note_live(live: Option<Difference>) {
    note(|changed| changed.live = live);
}

/// Notes that a token was created or revoked.
pub(super) fn note_token(token: &TokenRecord) {
    note(|changed| changed.token = Some((token.name.clone(), token.role)));
}

fn note(change: impl FnOnce(&mut Changed)) {
    // Requests that only read have no record.
    let _ = CHANGED.try_with(|changed| change(&mut changed.borrow_mut()));
}

/// Begins the entry of a request.
pub(super) fn entry(caller: &Caller, request: &Request) -> Entry {
    let action = format!("{} {}", request.method(), request.uri());
    let mut entry = Entry::now(caller.name.clone(), caller.role, &action);
    let address = request.extensions().get::<ClientAddress>();
    entry.from = address.map(|ClientAddress(address)| address.to_string());
    entry
}

/// Handles a request, and records it if it may have changed something. The answer waits for the
/// record, and a client that goes away ends neither.
pub(super) async fn observe(
    log: Arc<AuditLog>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let mut entry = entry(&caller, &request);
    let handled = task::spawn(CHANGED.scope(RefCell::default(), async move {
        let response = next.run(request).await;
        let changed = CHANGED.with(RefCell::take);
        let code = response.extensions().get::<ProblemCode>();
        if let Some(ProblemCode(code)) = code {
            (*code).clone_into(&mut entry.outcome);
        }
        (entry.draft, entry.live, entry.token) = (changed.draft, changed.live, changed.token);
        log.record_in_time(entry).await;
        response
    }));
    match handled.await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => axum::response::IntoResponse::into_response(super::Problem::shutting_down()),
        },
    }
}
