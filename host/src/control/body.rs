//! Reads what a client sends: bounded JSON bodies, ids in paths.
//!
//! Promises that no body takes more memory or time than its limit, whatever its headers claim, and
//! that whoever sends something else than asked for is told where it went wrong. The content type
//! is not looked at: `curl -d` says form data and sends JSON.

use std::time::Duration;

use axum::{
    body::{Bytes, HttpBody},
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{StatusCode, request::Parts},
};
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_path_to_error::Segment;
use tokio::time;

use super::error::Problem;
use crate::{manifest::written, nearest::with_suggestion};

/// Largest body of a request, in bytes; a larger one is answered with 413. A rule is some hundred
/// bytes, so this is room for thousands of them in one `PUT /rules`.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Longest time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body of a given shape.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

/// The last part of the path, as the client wrote it.
#[derive(Debug)]
pub(super) struct Id(pub(super) String);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        parse(&read(request).await?).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(_) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_path",
                "the id in the path is not UTF-8 after percent-decoding",
            )),
        }
    }
}

/// Reads a whole body.
///
/// # Errors
/// 413 if it is larger than [`MAX_BODY_BYTES`], 408 if it takes too long, 400 if it breaks off.
pub(super) async fn read(request: Request) -> Result<Bytes, Problem> {
    read_up_to(request, MAX_BODY_BYTES).await
}

/// Reads a whole body of at most that many bytes.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_up_to(request: Request, most_bytes: usize) -> Result<Bytes, Problem> {
    read_within(request, most_bytes, BODY_TIMEOUT).await
}

async fn read_within(
    request: Request,
    most_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, Problem> {
    let mut body = request.into_body();
    // The length a client claims is known before the first byte.
    if body.size_hint().lower() > most_bytes as u64 {
        return Err(too_large(most_bytes));
    }
    let mut bytes = Vec::new();
    let deadline = time::Instant::now() + timeout;
    loop {
        let frame = match time::timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(too_slow(timeout)),
            Ok(None) => return Ok(bytes.into()),
            Ok(Some(Err(_))) => return Err(broken_off()),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers are of no use here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > most_bytes {
            return Err(too_large(most_bytes));
        }
        bytes.extend_from_slice(&data);
    }
}

/// Parses a body.
///
/// # Errors
/// 400 if it is not JSON, with where; 422 if it is JSON of another shape, with a pointer, or has a
/// key twice in one object.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|err| {
        let at = pointer(err.path());
        // A field may be wrong long before the body turns out to be half of one.
        match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => wrong_shape(err.inner(), at),
            Err(err) => not_json(&err),
        }
    })?;
    reader.end().map_err(|err| not_json(&err))?;
    // Of a key that stands twice in a map, one value would silently be lost.
    written::read_json(bytes).map_err(|err| wrong_shape(&err, String::new()))?;
    Ok(value)
}

/// Parses a JSON value that was parsed from a body.
///
/// # Errors
/// 422 if it has another shape, with a pointer.
pub(super) fn parse_value<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value)
        .map_err(|err| wrong_shape(err.inner(), pointer(err.path())))
}

/// Parses the body of `PUT .../{id}`: the `id` in it may be left out, and must else be the same.
pub(super) fn parse_with_id<T: DeserializeOwned>(bytes: &[u8], id: &str) -> Result<T, Problem> {
    let mut value: Value = parse(bytes)?;
    if let Value::Object(fields) = &mut value {
        let written = fields.entry("id").or_insert_with(|| id.into());
        if written.as_str().is_some_and(|written| written != id) {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "id_mismatch",
                "the `id` in the body is not the one in the path; leave it out or make them equal",
            )
            .at("/id"));
        }
    }
    parse_value(value)
}

fn too_large(most_bytes: usize) -> Problem {
    let mebibytes = most_bytes >> 20;
    let detail =
        format!("the body is too large; at most {most_bytes} bytes ({mebibytes} MiB) are taken");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

fn too_slow(timeout: Duration) -> Problem {
    let detail = format!("the body did not arrive within {timeout:?}");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
}

fn broken_off() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "body_incomplete",
        "the body ended before its length",
    )
}

fn not_json(err: &serde_json::Error) -> Problem {
    let detail = format!("the body is not valid JSON: {err}");
    Problem::new(StatusCode::BAD_REQUEST, "invalid_json", detail)
}

fn wrong_shape(err: &serde_json::Error, pointer: String) -> Problem {
    let found = with_suggestion(err.to_string());
    let detail = format!("the body does not have the expected shape: {found}");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_shape", detail).at(pointer)
}

/// Writes a path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
            Segment::Enum { variant } => pointer.push_str(&format!("/{}", escape(variant))),
            Segment::Unknown => break,
        }
    }
    pointer
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::manifest::Rule;

    fn check(body: &str, status: u16, code: &str, pointer: Option<&str>, detail: &str) {
        let problem = parse::<Vec<Rule>>(body.as_bytes()).unwrap_err();
        let found = serde_json::to_value(&problem).unwrap();
        assert_eq!(found["status"], status, "{found}");
        assert_eq!(found["code"], code, "{found}");
        assert_eq!(
            found.get("pointer").and_then(Value::as_str),
            pointer,
            "{found}"
        );
        let text = found["detail"].as_str().unwrap();
        assert!(text.contains(detail), "{text}");
    }

    #[tokio::test]
    async fn body_timeout_breached_is_told() {
        let endless = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let request = Request::new(Body::from_stream(endless));
        let problem = read_within(request, MAX_BODY_BYTES, Duration::from_millis(10))
            .await
            .unwrap_err();
        let found = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            (&found["status"], &found["code"]),
            (&408.into(), &"body_timeout".into())
        );
    }

    #[test]
    fn half_a_body_is_told_where_it_ends() {
        check(
            "[{\"id\": \"a\"",
            400,
            "invalid_json",
            None,
            "line 1 column 11",
        );
        check("", 400, "invalid_json", None, "EOF");
        check("[] []", 400, "invalid_json", None, "trailing");
        check(r#"[{"bogus": 1}, "#, 400, "invalid_json", None, "EOF");
        check(&"[".repeat(100_000), 400, "invalid_json", None, "EOF");
    }

    #[test]
    fn nesting_that_would_exhaust_the_stack_is_refused() {
        let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let problem = parse::<Value>(nested.as_bytes()).unwrap_err();
        let found = serde_json::to_value(&problem).unwrap();
        assert_eq!(found["status"], 422, "{found}");
        assert!(
            found["detail"]
                .as_str()
                .unwrap()
                .contains("recursion limit"),
            "{found}"
        );
    }

    #[test]
    fn wrong_shape_is_told_the_field() {
        check(
            r#"{}"#,
            422,
            "invalid_shape",
            Some(""),
            "expected a sequence",
        );
        check(
            r#"[{"id":1,"type":"x"}]"#,
            422,
            "invalid_shape",
            Some("/0/id"),
            "expected a string",
        );
        check(
            r#"[{"id":"a","type":"x","a/b~":1}]"#,
            422,
            "invalid_shape",
            Some("/0/a~1b~0"),
            "unknown field",
        );
        check(
            r#"[{"id":"a"}]"#,
            422,
            "invalid_shape",
            Some("/0"),
            "missing field `type`",
        );
        check(
            r#"[{"id":"a","type":"x","on_error":"explode"}]"#,
            422,
            "invalid_shape",
            Some("/0/on_error"),
            "unknown variant",
        );
    }

    #[test]
    fn id_of_the_path_is_filled_in_and_must_match() {
        let rule: Rule = parse_with_id(br#"{"type":"filter"}"#, "a").unwrap();
        assert_eq!(rule.id, "a");
        parse_with_id::<Rule>(br#"{"id":"a","type":"filter"}"#, "a").unwrap();
        let problem = parse_with_id::<Rule>(br#"{"id":"b","type":"filter"}"#, "a").unwrap_err();
        assert_eq!(
            serde_json::to_value(&problem).unwrap()["code"],
            "id_mismatch"
        );
        let problem = parse_with_id::<Rule>(br#"{"id":null,"type":"filter"}"#, "a").unwrap_err();
        assert_eq!(serde_json::to_value(&problem).unwrap()["pointer"], "/id");
    }
}
