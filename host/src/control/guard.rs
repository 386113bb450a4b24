//! What a request to the control API must have before a handler sees it.
//!
//! In this order: a `Host` that a web page cannot have pointed at this gate (DNS
//! rebinding), no sign of a page of another origin (`Origin`, `Sec-Fetch-Site`), a token whose role
//! allows the route, and a body that is declared as JSON. So a page that an operator opens cannot
//! change anything, whether there are tokens or not.
//!
//! Sources: Fetch Metadata Request Headers (W3C), section 2; RFC 6454 (`Origin`); RFC 6750 (bearer
//! tokens and what their refusals look like).

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::HttpBody,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use tracing::warn;

use super::{Problem, audit};
use crate::{
    access::{Access, CHALLENGE, Caller, Denied, token::Role},
    audit::AuditLog,
    http_server::ClientAddress,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Shortest time between two log lines about requests that were refused.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// Shortest time between two records of refused requests: a caller who may do nothing must not be able
/// to push what others did out of the audit log.
const RECORD_EVERY: Duration = Duration::from_millis(100);

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: probes of orchestrators, and pages without anything of this gate in them.
    Nothing,
    /// A caller with this role.
    Role(Role),
}

/// Why a request does not pass.
#[derive(Debug)]
struct Refusal {
    problem: Problem,
    /// Who sent it, if that is known.
    caller: Option<Caller>,
}

impl From<Problem> for Box<Refusal> {
    fn from(problem: Problem) -> Self {
        Self::new(Refusal {
            problem,
            caller: None,
        })
    }
}

/// Checks every request.
#[derive(Debug)]
pub(super) struct Guard {
    access: Access,
    log: Arc<AuditLog>,
    /// Names by which the control API is asked, in lower case, beside addresses and `localhost`.
    hosts: Vec<String>,
    refused: Mutex<Refused>,
    /// When a refused request was recorded last.
    recorded: Mutex<Option<Instant>>,
}

/// Requests that were refused and not told yet.
#[derive(Debug, Default)]
struct Refused {
    told: Option<Instant>,
    untold: u64,
}

impl Guard {
    pub(super) fn new(access: Access, log: AuditLog, hosts: Vec<String>) -> Self {
        let lower = |host: String| host.to_ascii_lowercase();
        Self {
            access,
            log: Arc::new(log),
            hosts: hosts.into_iter().map(lower).collect(),
            refused: Mutex::default(),
            recorded: Mutex::default(),
        }
    }

    /// Refuses what may not pass. `caller` is who the token says that it is.
    fn admit(
        &self,
        request: &Request,
        needed: Role,
        caller: Result<Caller, Denied>,
    ) -> Result<Caller, Box<Refusal>> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        if !matches!(&caller, Ok(caller) if caller.is_proven) {
            self.check_host(uri, headers)?;
        }
        check_origin(method, uri, headers)?;
        let caller = caller.map_err(refusal)?;
        let checked = match caller.role.includes(needed) {
            true => check_body(request),
            // There may be tokens, and nobody knows them yet.
            false if !caller.is_proven => Err(refusal(Denied::Unavailable)),
            false => Err(not_enough(caller.role, needed)),
        };
        match checked {
            Ok(()) => Ok(caller),
            Err(problem) => Err(Box::new(Refusal {
                problem,
                caller: Some(caller),
            })),
        }
    }

    /// Refuses names that are not known to be of this gate. A web page can have its own name lead to
    /// an address of this gate, but not name the gate otherwise than by that name.
    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let host = host_of(uri, headers).ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_host",
                "there must be exactly one `Host` header, with a host and perhaps a port",
            )
        })?;
        let name = host.host().trim_end_matches('.').to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        if name == "localhost" || address.parse::<IpAddr>().is_ok() || self.hosts.contains(&name) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "foreign_host",
            "the `Host` header is neither an address nor `localhost`; add the name with \
             `--control-host NAME`, or send a token",
        ))
    }

    /// Notes a request that does not pass. Who is known is in the audit log; others could fill it.
    fn note(&self, request: &Request, refusal: &Refusal) {
        self.note_refused(request, refusal);
        let Some(caller) = refusal.caller.as_ref().filter(|caller| caller.is_proven) else {
            return;
        };
        {
            let mut recorded = self.recorded.lock();
            if recorded.is_some_and(|at| at.elapsed() < RECORD_EVERY) {
                return;
            }
            *recorded = Some(Instant::now());
        }
        let mut entry = audit::entry(caller, request);
        refusal.problem.code().clone_into(&mut entry.outcome);
        let log = Arc::clone(&self.log);
        tokio::spawn(async move { log.record_in_time(entry).await });
    }

    /// Tells an operator of requests that were refused, in one line a second at most.
    fn note_refused(&self, request: &Request, refusal: &Refusal) {
        let mut refused = self.refused.lock();
        refused.untold += 1;
        if refused.told.is_some_and(|told| told.elapsed() < WARN_EVERY) {
            return;
        }
        refused.told = Some(Instant::now());
        let requests = std::mem::take(&mut refused.untold);
        let from = request.extensions().get::<ClientAddress>();
        let from = from.map(|ClientAddress(address)| address.to_string());
        let code = refusal.problem.code();
        warn!(requests, code, from, "the control API refused requests");
    }
}

/// Lets a request through to its handler if it may pass, and records what it changed.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let need = need_of(request.method(), path.map(MatchedPath::as_str));
    let Need::Role(needed) = need else {
        return match check_origin(request.method(), request.uri(), request.headers()) {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        };
    };
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let authorization = authorization.as_ref().map(HeaderValue::as_bytes);
    let caller = guard.access.caller(authorization).await;
    match guard.admit(&request, needed, caller) {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            audit::observe(Arc::clone(&guard.log), caller, request, next).await
        }
        Err(refusal) => {
            guard.note(&request, &refusal);
            answer(refusal.problem)
        }
    }
}

fn answer(problem: Problem) -> Response {
    let is_unauthorized = problem.status() == StatusCode::UNAUTHORIZED;
    let mut response = problem.into_response();
    if is_unauthorized {
        let challenge = HeaderValue::from_static(CHALLENGE);
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// What a route needs. What is not in the table needs most, so that a new route is closed until
/// somebody decides.
fn need_of(method: &Method, path: Option<&str>) -> Need {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method);
    let role = match path {
        Some(
            "/" | "/docs" | "/docs/" | "/docs/{file}" | "/openapi.json" | "/healthz" | "/readyz",
        ) => {
            // Other methods are answered with 405; a test sees to it that none of them is there.
            return Need::Nothing;
        }
        // No route has such a method: answered with 405.
        _ if !reads && !writes => Role::Viewer,
        // Events are in them.
        Some("/outputs/{id}/dead-letters") => Role::Editor,
        Some("/tokens" | "/tokens/{name}") => Role::Admin,
        Some(_) if reads => Role::Viewer,
        Some(
            "/rules"
            | "/rules/{id}"
            | "/outputs"
            | "/outputs/{id}"
            | "/outputs/{id}/redrive"
            | "/config/batch_size"
            | "/draft"
            | "/validate",
        ) => Role::Editor,
        Some("/publish" | "/revisions/{revision}/rollback" | "/modules/{name}") => Role::Publisher,
        Some(_) => Role::Admin,
        // Answered with 404.
        None => Role::Viewer,
    };
    Need::Role(role)
}

/// Returns what a route of the description needs; `method` is in lower case.
pub(super) fn needed(method: &str, path: &str) -> Need {
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
    need_of(&method.unwrap_or_default(), Some(path))
}

/// The host that a client asks for.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let mut given = headers.get_all(header::HOST).iter();
    let host = given.next()?.to_str().ok()?.parse().ok()?;
    if given.next().is_some() {
        return None;
    }
    // A target in absolute form counts for more than the header (RFC 9112, section 3.2.2).
    Some(uri.authority().cloned().unwrap_or(host))
}

/// Refuses what a page of another origin makes a browser send.
fn check_origin(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let foreign = |what: &str| {
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            format!("the `{what}` header says that a page of another origin sent this request"),
        ))
    };
    let reads = matches!(*method, Method::GET | Method::HEAD);
    for site in headers.get_all(SEC_FETCH_SITE) {
        match site.as_bytes() {
            b"same-origin" | b"none" => {}
            b"same-site" if reads => {}
            _ => return foreign("Sec-Fetch-Site"),
        }
    }
    for origin in headers.get_all(header::ORIGIN) {
        let own = host_of(uri, headers);
        let origin = origin.to_str().ok().and_then(|origin| {
            let (scheme, authority) = origin.split_once("://")?;
            let is_web = matches!(scheme, "http" | "https");
            is_web.then(|| authority.parse::<Authority>().ok())?
        });
        if origin.is_none() || origin != own {
            return foreign("Origin");
        }
    }
    Ok(())
}

/// Refuses bodies that are not declared as JSON: a browser sends those to other origins without
/// asking first.
fn check_body(request: &Request) -> Result<(), Problem> {
    let body = request.body();
    if body.is_end_stream() || body.size_hint().exact() == Some(0) {
        return Ok(());
    }
    let path = request.extensions().get::<MatchedPath>();
    let is_upload = path.is_some_and(|path| path.as_str() == "/modules/{name}");
    if is_upload && request.method() == Method::PUT {
        return Ok(());
    }
    let mut types = request.headers().get_all(header::CONTENT_TYPE).iter();
    let is_json = match (types.next().map(|kind| kind.to_str()), types.next()) {
        (Some(Ok(kind)), None) => {
            let essence = kind.split(';').next().unwrap_or_default().trim();
            let essence = essence.to_ascii_lowercase();
            essence == "application/json"
                || (essence.starts_with("application/") && essence.ends_with("+json"))
        }
        _ => false,
    };
    match is_json {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not_declared_as_json",
            "the body is not declared as JSON; send `Content-Type: application/json`",
        )),
    }
}

fn refusal(denied: Denied) -> Problem {
    let detail = match denied {
        Denied::Missing => {
            "a token is needed; send `Authorization: Bearer TOKEN` (`streamgate token create` makes \
             one)"
        }
        Denied::Malformed => "the `Authorization` header is not of the form `Bearer TOKEN`",
        Denied::Unknown => "the token is not valid; it may have been revoked",
        Denied::Expired => {
            "the token has expired; have somebody of role `admin` create another one"
        }
        Denied::Unavailable => {
            "the tokens could not be read from Redis for too long, so none is valid until they can \
             be; the one of `--bootstrap-token` is"
        }
        Denied::Role => "the role of the token is not enough",
    };
    let status = match denied {
        Denied::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Denied::Role => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    };
    Problem::new(status, denied.code(), detail)
}

fn not_enough(role: Role, needed: Role) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "role_not_enough",
        format!("the token has the role `{role}`; this needs `{needed}`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        pairs.collect()
    }

    #[test]
    fn every_route_of_the_description_has_a_role_of_its_own() {
        let (_, description) = super::super::routes().split_for_parts();
        for (path, item) in description.paths.paths {
            for (method, operation) in [
                (Method::POST, item.post),
                (Method::PUT, item.put),
                (Method::DELETE, item.delete),
            ] {
                if operation.is_none() {
                    continue;
                }
                let need = need_of(&method, Some(&path));
                assert_ne!(need, Need::Nothing, "{method} {path}");
                let is_for_admins = path.starts_with("/tokens");
                assert_eq!(
                    need == Need::Role(Role::Admin),
                    is_for_admins,
                    "{method} {path}"
                );
            }
        }
        assert_eq!(
            need_of(&Method::POST, Some("/new")),
            Need::Role(Role::Admin)
        );
        assert_eq!(need_of(&Method::DELETE, Some("/healthz")), Need::Nothing);
    }

    #[test]
    fn only_pages_of_the_gate_itself_pass() {
        let uri = Uri::from_static("/rules");
        let check = |method: &Method, pairs: &[_]| {
            let mut all = vec![("host", "localhost:8000")];
            all.extend_from_slice(pairs);
            check_origin(method, &uri, &headers(&all)).is_ok()
        };
        for passes in [
            [].as_slice(),
            &[
                ("origin", "http://localhost:8000"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[("origin", "https://localhost:8000")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(check(&Method::POST, passes), "{passes:?}");
        }
        for refused in [
            [("origin", "null")].as_slice(),
            &[("origin", "https://evil.example")],
            &[("origin", "http://localhost:8001")],
            &[("origin", "http://localhost")],
            &[("origin", "http://localhost:8000@evil.example")],
            &[("origin", "file://localhost:8000")],
            &[
                ("origin", "http://localhost:8000"),
                ("origin", "https://evil.example"),
            ],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "Cross-Site")],
            &[
                ("origin", "http://localhost:8000"),
                ("sec-fetch-site", "cross-site"),
            ],
        ] {
            assert!(!check(&Method::POST, refused), "{refused:?}");
        }
        assert!(check(&Method::GET, &[("sec-fetch-site", "same-site")]));
        assert!(!check(&Method::GET, &[("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn host_is_that_of_the_target_or_the_only_header() {
        let plain = Uri::from_static("/rules");
        let absolute = Uri::from_static("http://evil.example/rules");
        let one = headers(&[("host", "localhost:8000")]);
        assert_eq!(host_of(&plain, &one).unwrap().host(), "localhost");
        assert_eq!(host_of(&absolute, &one).unwrap().host(), "evil.example");
        let two = headers(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(host_of(&plain, &two).is_none());
        assert!(host_of(&plain, &HeaderMap::new()).is_none());
        assert!(host_of(&plain, &headers(&[("host", "a b")])).is_none());
    }
}
