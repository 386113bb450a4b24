//! Tokens: creating, listing and revoking them.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Json,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ControlState, Problem, audit,
    body::{self, Id},
};
use crate::{
    access::{
        store::UpdateError,
        token::{Role, TokenError, TokenRecord},
    },
    config::units,
    manifest::Invalid,
};

/// A token that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// Unique; 1 to 128 of `A-Z a-z 0-9 . _ -`.
    name: String,
    /// What the bearer may do.
    role: Role,
    /// How long it is valid, such as `24h`; for ever if it is left out.
    #[serde(default)]
    expires_in: Option<String>,
}

/// A token that was created. It is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedToken {
    /// `created`.
    status: &'static str,
    /// What the bearer sends, as `Authorization: Bearer TOKEN`.
    token: String,
    /// What is kept of it.
    #[serde(flatten)]
    record: TokenRecord,
}

/// A token that was revoked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevokedToken {
    /// `revoked`.
    status: &'static str,
    /// What was kept of it.
    token: TokenRecord,
}

/// Lists the tokens; what is shown cannot be used as one.
#[utoipa::path(
    get, path = "/tokens", tag = "tokens", operation_id = "list_tokens",
    responses((status = 200, description = "The tokens", body = [TokenRecord], example = json!([{
        "name": "ci", "role": "publisher", "created": 1_767_225_600,
        "digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    }])))
)]
pub(super) async fn list(State(state): State<ControlState>) -> Json<Vec<TokenRecord>> {
    Json(state.access().list())
}

/// Creates a token. The answer is the only place where it is ever shown.
#[utoipa::path(
    post, path = "/tokens", tag = "tokens", operation_id = "create_token",
    request_body(content = NewToken, example = json!({"name": "ci", "role": "publisher", "expires_in": "24h"})),
    responses(
        (status = 200, description = "The token was created", body = CreatedToken, example = json!({
            "status": "created",
            "token": "sgt_60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
            "name": "ci", "role": "publisher", "created": 1_767_225_600, "expires": 1_767_312_000,
            "digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        })),
    )
)]
pub(super) async fn create(
    State(state): State<ControlState>,
    request: Request,
) -> Result<Json<CreatedToken>, Problem> {
    let new: NewToken = body::parse(&body::read(request).await?)?;
    let lifetime = new.expires_in.as_deref().map(lifetime).transpose()?;
    let access = state.access().clone();
    let created = state.blocking(move |_| {
        let created = access.create(&new.name, new.role, lifetime);
        created.map_err(problem)
    });
    let (token, record) = created.await?;
    audit::note_token(&record);
    Ok(Json(CreatedToken {
        status: "created",
        token: token.reveal().to_owned(),
        record,
    }))
}

/// Revokes a token: it is refused from now on at this gate, and within seconds at all that share the
/// store.
#[utoipa::path(
    delete, path = "/tokens/{name}", tag = "tokens", operation_id = "revoke_token",
    params(("name" = String, Path, description = "Name of the token", example = "ci")),
    responses(
        (status = 200, description = "The token was revoked", body = RevokedToken, example = json!({
            "status": "revoked",
            "token": {
                "name": "ci", "role": "publisher", "created": 1_767_225_600,
                "digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
            }
        })),
    )
)]
pub(super) async fn revoke(
    State(state): State<ControlState>,
    Id(name): Id,
) -> Result<Json<RevokedToken>, Problem> {
    let access = state.access().clone();
    let revoked = state.blocking(move |_| access.revoke(&name).map_err(problem));
    let token = revoked.await?;
    audit::note_token(&token);
    Ok(Json(RevokedToken {
        status: "revoked",
        token,
    }))
}

fn lifetime(text: &str) -> Result<Duration, Problem> {
    let lifetime = units::duration(text)
        .map_err(|message| Problem::from(Invalid::new("invalid_time", "/expires_in", message)))?;
    match lifetime.as_secs() {
        0 => Err(Invalid::new(
            "invalid_time",
            "/expires_in",
            "`expires_in` is less than a second; expected a time such as `24h`",
        )
        .into()),
        _ => Ok(lifetime),
    }
}

fn problem(error: UpdateError) -> Problem {
    let refused = match error {
        UpdateError::Store(error) => return error.into(),
        UpdateError::Refused(refused) => refused,
    };
    let detail = refused.to_string();
    match refused {
        TokenError::Name(fault) => fault.into(),
        TokenError::Taken(_) => {
            Problem::new(StatusCode::CONFLICT, "duplicate_id", detail).at("/name")
        }
        TokenError::TooMany => Invalid::new("too_many", "", detail).into(),
        TokenError::Unknown(_) => Problem::new(StatusCode::NOT_FOUND, "unknown_token", detail),
        TokenError::LastAdmin(_) => Problem::new(StatusCode::CONFLICT, "last_admin", detail),
    }
}
