//! Completes the description of the API with what all routes have in common: tokens, problems, and
//! the schemas of what clients send.
//!
//! Promises that every problem a route can answer with is in the description, with an example.

use serde_json::{Map, Value, json};

use super::{guard::Need, schemas};

/// A problem: its code, its status, and an example of its `detail`.
type Described = (&'static str, u16, &'static str);

/// Problems of every route: what a web page of another origin gets.
const OF_ALL: [Described; 1] = [(
    "foreign_origin",
    403,
    "the `Origin` header says that a page of another origin sent this request",
)];

/// Problems of every route that may need a token.
const OF_GUARDED: [Described; 9] = [
    (
        "invalid_host",
        400,
        "there must be exactly one `Host` header, with a host and perhaps a port",
    ),
    (
        "token_missing",
        401,
        "a token is needed; send `Authorization: Bearer TOKEN`",
    ),
    (
        "token_malformed",
        401,
        "the `Authorization` header is not of the form `Bearer TOKEN`",
    ),
    (
        "token_unknown",
        401,
        "the token is not valid; it may have been revoked",
    ),
    ("token_expired", 401, "the token has expired"),
    (
        "role_not_enough",
        403,
        "the token has the role `viewer`; this needs `editor`",
    ),
    (
        "foreign_host",
        403,
        "the `Host` header is neither an address nor `localhost`; add the name with \
         `--control-host NAME`, or send a token",
    ),
    (
        "tokens_unavailable",
        503,
        "the tokens could not be read from Redis for too long, so none is valid until they can be",
    ),
    (
        "shutting_down",
        503,
        "the gate is shutting down; nothing was changed",
    ),
];

const NOT_JSON: Described = (
    "not_declared_as_json",
    415,
    "the body is not declared as JSON; send `Content-Type: application/json`",
);

const INVALID_PATH: Described = (
    "invalid_path",
    400,
    "the id in the path is not UTF-8 after percent-decoding",
);

/// Problems of every route that reads a body.
const OF_BODIES: [Described; 3] = [
    ("body_incomplete", 400, "the body ended before its length"),
    ("body_timeout", 408, "the body did not arrive within 30s"),
    (
        "body_too_large",
        413,
        "the body is too large; at most 1048576 bytes (1 MiB) are taken",
    ),
];

/// Problems of every route that reads a JSON document.
const OF_DOCUMENTS: [Described; 2] = [
    (
        "invalid_json",
        400,
        "the body is not valid JSON: EOF while parsing a value at line 1 column 12",
    ),
    (
        "invalid_shape",
        422,
        "the body does not have the expected shape: missing field `type`",
    ),
];

/// Problems of every route that reads the config store.
const OF_READING: [Described; 3] = [
    (
        "unusable_document",
        409,
        "`streamgate:draft` in Redis cannot be used: it is not JSON; repair or delete it",
    ),
    (
        "store_failed",
        500,
        "the config store failed, so nothing was changed; the log of the gate says why",
    ),
    (
        "store_unavailable",
        503,
        "the config store redis:6379 cannot be used: connection refused; nothing was changed, and \
         the gate goes on with what is live",
    ),
];

/// Problems of every route that changes the config store.
const OF_CHANGING: [Described; 4] = [
    (
        "cannot_sign",
        403,
        "only signed config counts, and this gate has no key to sign with",
    ),
    (
        "draft_changed",
        409,
        "somebody else changed the draft at the same time; read it and try again",
    ),
    (
        "config_too_large",
        422,
        "the config is larger than the config store takes",
    ),
    (
        "store_full",
        507,
        "the disk of the config store is full, so nothing was changed; make room on it and try \
         again",
    ),
];

const UNKNOWN_RULE: Described = ("unknown_rule", 404, "there is no rule `drop_debug`");
const UNKNOWN_OUTPUT: Described = ("unknown_output", 404, "there is no output `http-1`");
const UNKNOWN_MODULE: Described = ("unknown_module", 404, "there is no module `my-rule`");
const UNKNOWN_REVISION: Described = ("unknown_revision", 404, "there is no revision `7`");
const UNKNOWN_TOKEN: Described = ("unknown_token", 404, "there is no token `ci`");
const INVALID_REGEX: Described = (
    "invalid_regex",
    422,
    "`pattern` does not compile: unclosed group at byte 4",
);
const INVALID_URL: Described = (
    "invalid_url",
    422,
    "`logs.example.com`: relative URL without a base; expected `http://host/path` or `https://...`",
);
const ID_MISMATCH: Described = (
    "id_mismatch",
    422,
    "the `id` in the body is not the one in the path; leave it out or make them equal",
);
const TOO_MANY: Described = (
    "too_many",
    422,
    "`processors` has 10001 entries; expected at most 10000",
);
const INVALID_QUERY: Described = (
    "invalid_query",
    400,
    "`wait` is 60 s; expected at most 30 s",
);
const NOT_BUILDABLE: Described = (
    "unknown_module",
    422,
    "there is no module `my-rule`; upload it with `PUT /modules/my-rule`",
);
const BUSY: Described = (
    "busy",
    503,
    "other modules are on their way, in or out; try again when they are done",
);
const NOT_READY: Described = (
    "not_ready",
    503,
    "the gate takes no events now: it is starting or shutting down",
);
const PUBLISH_CONFLICT: [Described; 2] = [
    (
        "publish_conflict",
        409,
        "somebody else published at the same time; look at what is live and try again",
    ),
    (
        "removal_not_allowed",
        409,
        "nothing was published: no output would be left, and events would go to the console \
         (removed: `http-1`). If this is meant, add `?allow_removal=true`",
    ),
];

/// How a route works on the config store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Unused,
    Read,
    Changed,
}

/// What a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    /// A body that is read and not used.
    Ignored,
    Json,
    Code,
}

/// Returns what a route does, and its own problems. `None` for a route that is not listed.
fn own_problems(method: &str, path: &str) -> Option<(Store, Sent, Vec<Described>)> {
    use Sent::{Code, Ignored, Json, Nothing};
    use Store::{Changed, Read, Unused};
    let duplicate = |detail| ("duplicate_id", 409, detail);
    let found = match (method, path) {
        ("get", "/" | "/docs" | "/openapi.json" | "/healthz" | "/detectors") => {
            (Unused, Nothing, vec![])
        }
        ("get", "/status" | "/stats" | "/metrics" | "/tokens") => (Unused, Nothing, vec![]),
        ("get", "/docs/{file}") => (
            Unused,
            Nothing,
            vec![
                ("unknown_file", 404, "there is no file `index.js`"),
                (
                    "docs_failed",
                    500,
                    "this part of the page could not be made; the log of the gate says why",
                ),
            ],
        ),
        ("get", "/readyz") => (Unused, Nothing, vec![NOT_READY]),
        ("get", "/rules" | "/outputs" | "/modules" | "/draft" | "/revisions") => {
            (Read, Nothing, vec![])
        }
        ("get", "/config/batch_size") => (Read, Nothing, vec![]),
        ("post", "/rules") => (
            Changed,
            Json,
            vec![
                duplicate(
                    "the rule `drop_debug` exists already; choose another `id`, or replace it with \
                     PUT",
                ),
                INVALID_REGEX,
                TOO_MANY,
            ],
        ),
        ("put", "/rules") => (Changed, Json, vec![INVALID_REGEX, TOO_MANY]),
        ("get", "/rules/{id}") => (Read, Nothing, vec![UNKNOWN_RULE]),
        ("put", "/rules/{id}") => (Changed, Json, vec![INVALID_REGEX, ID_MISMATCH]),
        ("delete", "/rules/{id}") => (Changed, Nothing, vec![UNKNOWN_RULE]),
        ("post", "/outputs") => (
            Changed,
            Json,
            vec![
                duplicate(
                    "the output `http-1` exists already; choose another `id`, or replace it with \
                     PUT",
                ),
                INVALID_URL,
            ],
        ),
        ("delete", "/outputs") => (Changed, Nothing, vec![]),
        ("get", "/outputs/{id}") => (Read, Nothing, vec![UNKNOWN_OUTPUT]),
        ("put", "/outputs/{id}") => (Changed, Json, vec![INVALID_URL, ID_MISMATCH]),
        ("delete", "/outputs/{id}") => (Changed, Nothing, vec![UNKNOWN_OUTPUT]),
        ("get", "/outputs/{id}/dead-letters") | ("post", "/outputs/{id}/redrive") => {
            (Unused, Nothing, vec![UNKNOWN_OUTPUT])
        }
        ("put", "/modules/{name}") => (
            Changed,
            Code,
            vec![
                (
                    "invalid_id",
                    422,
                    "`id` is \"my rule\"; expected 1 to 128 characters out of letters, digits, \
                     `.`, `_` and `-`",
                ),
                ("not_wasm", 422, "the body is not a WASM module"),
                (
                    "too_many_modules",
                    422,
                    "there are as many modules as the config store takes",
                ),
                ("compiler_failed", 500, "the module could not be compiled"),
                ("engine_failed", 500, "the WASM engine cannot be used"),
                BUSY,
            ],
        ),
        ("get", "/modules/{name}") => (Read, Nothing, vec![UNKNOWN_MODULE]),
        ("get", "/modules/{name}/wasm") => (Read, Nothing, vec![UNKNOWN_MODULE]),
        ("delete", "/modules/{name}") => (
            Changed,
            Nothing,
            vec![
                UNKNOWN_MODULE,
                (
                    "module_in_use",
                    409,
                    "rules of the draft name the module `my-rule`: `mine`; take them out and \
                     publish first",
                ),
            ],
        ),
        ("post", "/config/batch_size") => (
            Changed,
            Json,
            vec![
                (
                    "invalid_query",
                    400,
                    "the query is not of the form `?size=100`",
                ),
                (
                    "invalid_batch_size",
                    422,
                    "batch size is 0; expected 1 to 10000 events",
                ),
                (
                    "missing_batch_size",
                    422,
                    "there is no batch size; send `?size=100`, or a body like {\"batch_size\": \
                     100}",
                ),
            ],
        ),
        ("put", "/draft") => (Changed, Json, vec![INVALID_REGEX, INVALID_URL, TOO_MANY]),
        ("post", "/validate") => (Read, Ignored, vec![NOT_BUILDABLE]),
        ("post", "/publish") => {
            let mut own = vec![INVALID_QUERY, NOT_BUILDABLE];
            own.extend(PUBLISH_CONFLICT);
            (Changed, Ignored, own)
        }
        ("post", "/revisions/{revision}/rollback") => {
            let mut own = vec![INVALID_QUERY, NOT_BUILDABLE, UNKNOWN_REVISION];
            own.extend(PUBLISH_CONFLICT);
            (Changed, Ignored, own)
        }
        ("get", "/revisions/{revision}") => (Read, Nothing, vec![UNKNOWN_REVISION]),
        ("post", "/tokens") => (
            Changed,
            Json,
            vec![
                duplicate("there is a token `ci` already; choose another name or revoke it"),
                (
                    "invalid_time",
                    422,
                    "`expires_in` is less than a second; expected a time such as `24h`",
                ),
                TOO_MANY,
            ],
        ),
        ("delete", "/tokens/{name}") => (
            Changed,
            Nothing,
            vec![
                UNKNOWN_TOKEN,
                (
                    "last_admin",
                    409,
                    "`ci` is the last token of the role `admin` that does not expire; revoke the \
                     others first",
                ),
            ],
        ),
        _ => return None,
    };
    Some(found)
}

/// Returns every problem that a route can answer with.
fn problems(method: &str, path: &str, needed: Need) -> Vec<Described> {
    let (store, sent, own) =
        own_problems(method, path).unwrap_or((Store::Unused, Sent::Nothing, vec![]));
    let mut found = own;
    found.extend(OF_ALL);
    if needed != Need::Nothing {
        found.extend(OF_GUARDED);
        if sent != Sent::Code {
            found.push(NOT_JSON);
        }
    }
    if path.contains('{') {
        found.push(INVALID_PATH);
    }
    match sent {
        Sent::Nothing => {}
        Sent::Ignored => found.extend(OF_BODIES),
        Sent::Json => {
            found.extend(OF_BODIES);
            found.extend(OF_DOCUMENTS);
        }
        Sent::Code => found.extend(OF_BODIES.map(|(code, status, detail)| match status {
            413 => (
                code,
                status,
                "the body is too large; at most 33554432 bytes (32 MiB) are taken",
            ),
            _ => (code, status, detail),
        })),
    }
    match store {
        Store::Unused => {}
        Store::Read => found.extend(OF_READING),
        Store::Changed => {
            found.extend(OF_READING);
            found.extend(OF_CHANGING);
        }
    }
    found
}

/// Completes the description. `needed` says what a route needs; `needs_token` whether the gate lets
/// nobody in without a token.
pub(super) fn complete(
    document: &mut Value,
    needed: impl Fn(&str, &str) -> Need,
    needs_token: bool,
) {
    if let Some(components) = document["components"]["schemas"].as_object_mut() {
        components.extend(schemas::components());
    }
    document["components"]["securitySchemes"] = json!({"token": {
        "type": "http", "scheme": "bearer",
        "description": "A token of `streamgate token create`. None is needed on a loopback address \
                        while there are no tokens."
    }});
    let Some(paths) = document["paths"].as_object_mut() else {
        return;
    };
    for (path, operations) in paths {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            let needed = needed(method, path);
            complete_operation(operation, method, path, needed);
            operation["security"] = match (needed, needs_token) {
                (Need::Nothing, _) => json!([]),
                (Need::Role(_), true) => json!([{"token": []}]),
                (Need::Role(_), false) => json!([{"token": []}, {}]),
            };
        }
    }
}

fn complete_operation(operation: &mut Value, method: &str, path: &str, needed: Need) {
    let parameters = operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap_or_default();
        if let Some(schema) = schemas::of_parameter(name) {
            parameter["schema"] = schema;
        }
    }
    if let Some(name) = schemas::of_body(method, path) {
        let body = &mut operation["requestBody"];
        for content in body["content"].as_object_mut().into_iter().flatten() {
            content.1["schema"] = json!({"$ref": format!("#/components/schemas/{name}")});
        }
        body["required"] = json!(name != "NewBatchSize");
    }
    if let Need::Role(role) = needed {
        let text = operation["description"].as_str().unwrap_or_default();
        let text = format!("{text}\n\nNeeds the role `{role}`.");
        operation["description"] = text.trim_start().into();
    }
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    let problems = problems(method, path, needed);
    let mut statuses: Vec<u16> = problems.iter().map(|problem| problem.1).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let of_status: Vec<Described> = problems
            .iter()
            .filter(|problem| problem.1 == status)
            .copied()
            .collect();
        responses.insert(status.to_string(), response(status, &of_status));
    }
}

/// Describes the answers of one status, with an example for each code.
fn response(status: u16, problems: &[Described]) -> Value {
    let codes: Vec<&str> = problems.iter().map(|(code, ..)| *code).collect();
    let examples: Map<String, Value> = problems
        .iter()
        .map(|(code, _, detail)| {
            let example = json!({
                "type": "about:blank", "title": title(status), "status": status, "code": code,
                "detail": detail
            });
            ((*code).to_owned(), json!({"value": example}))
        })
        .collect();
    let mut fields = json!({"status": {"const": status}, "title": {"const": title(status)}});
    // There are many codes for what is wrong with a document, and more will be added.
    if status != 422 {
        fields["code"] = json!({"enum": codes});
    }
    let list: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
    let description = match status {
        422 => format!(
            "The request is understood and cannot be right: {}, ...",
            list.join(", ")
        ),
        _ => list.join(", "),
    };
    let schema = json!({"allOf": [
        {"$ref": "#/components/schemas/Problem"},
        {"type": "object", "properties": fields}
    ]});
    let mut response = json!({
        "description": description,
        "content": {"application/problem+json": {"schema": schema, "examples": examples}}
    });
    let header = match status {
        401 => Some(("WWW-Authenticate", "`Bearer realm=\"streamgate\"`")),
        503 => Some(("Retry-After", "Seconds, if it is worth trying again")),
        _ => None,
    };
    if let Some((name, description)) = header {
        let schema = json!({"type": "string"});
        response["headers"] = json!({name: {"description": description, "schema": schema}});
    }
    response
}

fn title(status: u16) -> &'static str {
    let status = axum::http::StatusCode::from_u16(status);
    let title = status.ok().and_then(|status| status.canonical_reason());
    title.unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_listed() {
        let (_, description) = super::super::routes().split_for_parts();
        let document = serde_json::to_value(description).unwrap();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys() {
                assert!(own_problems(method, path).is_some(), "{method} {path}");
            }
        }
    }
}
