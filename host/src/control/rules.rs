//! The rules of the draft.
//!
//! Promises that a rule which cannot be built never gets into the draft, and that the order is the
//! one the user gave.

use axum::{
    extract::{Request, State},
    response::Json,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    ControlState, Problem,
    body::{self, Id},
    pins,
};
use crate::{
    gate::check_rule,
    manifest::{Invalid, MAX_RULES, Pipeline, Rule, check_id, check_pipeline},
};

/// The answer when a rule was added or replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RuleSaved {
    /// `added`, or `updated` if there was one of this id.
    status: &'static str,
    /// The rule, as it is in the draft now.
    rule: Rule,
}

/// The answer when the list was replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RulesReplaced {
    /// `updated`.
    status: &'static str,
    /// How many rules the draft has now.
    rules: usize,
}

/// The answer when a rule or an output was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deleted {
    /// `deleted`.
    status: &'static str,
    /// Whose id it was.
    id: String,
}

/// Lists the rules of the draft, in the order they are applied.
#[utoipa::path(
    get, path = "/rules", tag = "rules", operation_id = "list_rules",
    responses(
        (status = 200, description = "The rules", body = [Rule], example = json!([
            {"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}
        ])),
    )
)]
pub(super) async fn list(State(state): State<ControlState>) -> Result<Json<Vec<Rule>>, Problem> {
    Ok(Json(state.draft().await?.processors))
}

/// Adds a rule at the end of the draft.
#[utoipa::path(
    post, path = "/rules", tag = "rules", operation_id = "add_rule",
    request_body(content = Rule, example = json!(
        {"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}
    )),
    responses(
        (status = 200, description = "The rule was added", body = RuleSaved, example = json!({
            "status": "added",
            "rule": {"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}
        })),
    )
)]
pub(super) async fn add(
    State(state): State<ControlState>,
    body::Json(rule): body::Json<Rule>,
) -> Result<Json<RuleSaved>, Problem> {
    let rule = checked(&state, rule).await?;
    let added = state.edit(move |draft, store| {
        pins::check(&rule, store)?;
        if position(draft, &rule.id).is_some() {
            return Err(Problem::duplicate("rule", &rule.id));
        }
        push(draft, rule.clone())?;
        Ok(rule.clone())
    });
    Ok(Json(RuleSaved {
        status: "added",
        rule: added.await?,
    }))
}

/// Replaces all rules of the draft by an ordered list.
#[utoipa::path(
    put, path = "/rules", tag = "rules", operation_id = "replace_rules",
    request_body(content = [Rule], example = json!([
        {"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}},
        {"id": "ssn", "type": "redact", "params": {"pattern": "\\d{3}-\\d{2}-\\d{4}", "replacement": "XXX-XX-XXXX"}}
    ])),
    responses(
        (
            status = 200, description = "The rules were replaced",
            body = RulesReplaced, example = json!({"status": "updated", "rules": 2})
        ),
    )
)]
pub(super) async fn replace_all(
    State(state): State<ControlState>,
    body::Json(rules): body::Json<Vec<Rule>>,
) -> Result<Json<RulesReplaced>, Problem> {
    let checked = state.check(move |shared| {
        let mut draft = shared.store.draft()?;
        draft.processors = rules;
        check_pipeline(&draft).map_err(from_the_list)?;
        for (at, rule) in draft.processors.iter().enumerate() {
            let checked = check(rule).and_then(|()| pins::check(rule, &shared.store));
            checked.map_err(|fault| fault.under(&format!("/{at}")))?;
        }
        Ok(draft.processors)
    });
    let rules = checked.await?;
    let replaced = state.edit(move |draft, store| {
        draft.processors.clone_from(&rules);
        check_pipeline(draft).map_err(from_the_list)?;
        for (at, rule) in draft.processors.iter().enumerate() {
            // A module may have been removed since.
            pins::check(rule, store).map_err(|fault| fault.under(&format!("/{at}")))?;
        }
        Ok(draft.processors.len())
    });
    Ok(Json(RulesReplaced {
        status: "updated",
        rules: replaced.await?,
    }))
}

/// Shows a rule of the draft.
#[utoipa::path(
    get, path = "/rules/{id}", tag = "rules", operation_id = "show_rule",
    params(("id" = String, Path, description = "Id of the rule", example = "drop_debug")),
    responses(
        (status = 200, description = "The rule", body = Rule, example = json!(
            {"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}
        )),
    )
)]
pub(super) async fn show(
    State(state): State<ControlState>,
    Id(id): Id,
) -> Result<Json<Rule>, Problem> {
    let draft = state.draft().await?;
    let at = position(&draft, &id).ok_or_else(|| unknown(&id))?;
    Ok(Json(draft.processors[at].clone()))
}

/// Replaces a rule of the draft in its place, or adds it at the end.
///
/// The `id` may be left out of the body.
#[utoipa::path(
    put, path = "/rules/{id}", tag = "rules", operation_id = "put_rule",
    params(("id" = String, Path, description = "Id of the rule", example = "drop_debug")),
    request_body(content = Rule, example = json!(
        {"id": "drop_debug", "type": "filter", "params": {"value": "TRACE"}}
    )),
    responses(
        (
            status = 200, description = "The rule was replaced or added",
            body = RuleSaved, example = json!({
            "status": "updated",
            "rule": {"id": "drop_debug", "type": "filter", "params": {"value": "TRACE"}}
        })),
    )
)]
pub(super) async fn put(
    State(state): State<ControlState>,
    Id(id): Id,
    request: Request,
) -> Result<Json<RuleSaved>, Problem> {
    let rule: Rule = body::parse_with_id(&body::read(request).await?, &id)?;
    let rule = checked(&state, rule).await?;
    let saved = state.edit(move |draft, store| {
        pins::check(&rule, store)?;
        let status = match position(draft, &rule.id) {
            Some(at) => {
                draft.processors[at] = rule.clone();
                "updated"
            }
            None => {
                push(draft, rule.clone())?;
                "added"
            }
        };
        Ok(RuleSaved {
            status,
            rule: rule.clone(),
        })
    });
    saved.await.map(Json)
}

/// Removes a rule from the draft.
#[utoipa::path(
    delete, path = "/rules/{id}", tag = "rules", operation_id = "delete_rule",
    params(("id" = String, Path, description = "Id of the rule", example = "drop_debug")),
    responses(
        (
            status = 200, description = "The rule was removed",
            body = Deleted, example = json!({"status": "deleted", "id": "drop_debug"})
        ),
    )
)]
pub(super) async fn delete(
    State(state): State<ControlState>,
    Id(id): Id,
) -> Result<Json<Deleted>, Problem> {
    let deleted = state.edit(move |draft, _| {
        let at = position(draft, &id).ok_or_else(|| unknown(&id))?;
        draft.processors.remove(at);
        Ok(id.clone())
    });
    Ok(Json(Deleted::new(deleted.await?)))
}

impl Deleted {
    pub(super) fn new(id: String) -> Self {
        Self {
            status: "deleted",
            id,
        }
    }
}

/// Returns the rule if it can be built; that its module is there is to be checked with the edit.
async fn checked(state: &ControlState, rule: Rule) -> Result<Rule, Problem> {
    let checked = state.check(move |_| {
        check(&rule)?;
        Ok(rule)
    });
    checked.await
}

fn check(rule: &Rule) -> Result<(), Invalid> {
    check_id(&rule.id)?;
    check_rule(rule)
}

fn push(draft: &mut Pipeline, rule: Rule) -> Result<(), Problem> {
    if draft.processors.len() >= MAX_RULES {
        let message = format!("the draft has {MAX_RULES} rules, which is the most it takes");
        return Err(Invalid::new("too_many", "", message).into());
    }
    draft.processors.push(rule);
    Ok(())
}

fn position(draft: &Pipeline, id: &str) -> Option<usize> {
    draft.processors.iter().position(|rule| rule.id == id)
}

fn unknown(id: &str) -> Problem {
    Problem::unknown("rule", "unknown_rule", id)
}

/// The fault of a draft, seen from the list of rules that the client sent.
fn from_the_list(mut fault: Invalid) -> Invalid {
    if let Some(pointer) = fault.pointer.strip_prefix("/processors") {
        fault.pointer = pointer.to_owned();
    }
    fault
}
