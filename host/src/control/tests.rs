//! The control API as a client sees it: through the router, and where the wire matters, through a
//! real socket.

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};

use super::*;
use crate::{
    access::AccessSettings,
    config_store::{RedisSettings, StoreLocation},
};

/// A control API that needs no token.
fn open_router(store: ConfigStore) -> Router {
    let (memory, redis) = (StoreLocation::Memory, RedisSettings::default());
    let access = Access::open(&memory, redis, AccessSettings::default()).unwrap();
    let state = ControlState::new(Gate::without_doors(), access, Arc::new(store), None);
    router(state, AuditLog::new(None), Vec::new())
}

/// A control API over a memory store.
struct Api {
    router: Router,
}

impl Api {
    fn new() -> Self {
        Self::over(&StoreLocation::Memory)
    }

    fn over(location: &StoreLocation) -> Self {
        Self::with(ConfigStore::open(location, RedisSettings::default()).unwrap())
    }

    fn with(store: ConfigStore) -> Self {
        Self {
            router: open_router(store),
        }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        TowerToHyperService::new(self.router.clone())
            .call(request)
            .await
            .unwrap()
    }

    /// Sends a request; checks what every answer has.
    async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(body.into())
            .unwrap();
        let response = self.send(request).await;
        let (parts, body) = response.into_parts();
        assert_eq!(parts.headers["x-content-type-options"], "nosniff");
        assert!(!parts.headers.contains_key("access-control-allow-origin"));
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        if !parts.status.is_success() {
            assert_eq!(parts.headers["content-type"], "application/problem+json");
            assert_eq!(body["type"], "about:blank");
            assert_eq!(body["status"], parts.status.as_u16());
            assert_eq!(body["title"], parts.status.canonical_reason().unwrap());
            assert!(
                body["detail"]
                    .as_str()
                    .is_some_and(|detail| !detail.is_empty())
            );
        }
        (parts.status.as_u16(), body)
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body.to_string()).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    /// Sends what must be refused with this status and code, and leave draft and live as they are.
    async fn refused(
        &self,
        method: &str,
        path: &str,
        body: &str,
        status: u16,
        code: &str,
    ) -> Value {
        let before = (self.get("/draft").await, self.get("/revisions").await);
        let (found, problem) = self.call(method, path, body.to_owned()).await;
        assert_eq!(
            (found, &problem["code"]),
            (status, &json!(code)),
            "{problem}"
        );
        assert_eq!(
            (self.get("/draft").await, self.get("/revisions").await),
            before
        );
        problem
    }
}

fn rule(id: &str) -> Value {
    json!({"id": id, "type": "filter", "params": {"value": id}})
}

#[tokio::test]
async fn quick_start_answers_as_documented() {
    let api = Api::new();
    let added = api.ok("POST", "/rules", rule("drop_debug")).await;
    assert_eq!(
        added,
        json!({"status": "added", "rule": rule("drop_debug")})
    );
    assert_eq!(api.get("/rules").await, json!([rule("drop_debug")]));
    assert_eq!(api.get("/draft").await["differs_from_live"], true);

    let (status, published) = api.call("POST", "/publish", "").await;
    assert_eq!(status, 200, "{published}");
    assert_eq!(published["status"], "published");
    assert_eq!(published["revision"], 1);
    assert_eq!(
        published["manifest"]["pipelines"][0]["processors"],
        json!([rule("drop_debug")])
    );
    assert!(published["manifest"]["timestamp"].as_f64().unwrap() > 1e9);
    assert_eq!(published["subscribers_notified"], 1);
    assert_eq!(published["gates"][0]["status"], "applied");
    assert!(published["gates"][0]["apply_ms"].is_number());
    assert_eq!(api.get("/draft").await["differs_from_live"], false);
    assert_eq!(api.get("/status").await["revision"], 1);
}

#[tokio::test]
async fn health_is_told() {
    let api = Api::new();
    let index = api.get("/").await;
    assert_eq!(index["status"], "ok");
    assert_eq!(index["service"], "streamgate-control-plane");
    for link in index["links"].as_object().unwrap().values() {
        let request = Request::get(link.as_str().unwrap())
            .header("host", "localhost")
            .body(Body::empty())
            .unwrap();
        assert_eq!(api.send(request).await.status(), 200, "{link}");
    }
    assert_eq!(api.get("/healthz").await, json!({"status": "ok"}));
    assert_eq!(api.get("/readyz").await, json!({"status": "ready"}));
}

#[tokio::test]
async fn rules_are_edited_in_place_and_order() {
    let api = Api::new();
    for id in ["a", "b"] {
        api.ok("POST", "/rules", rule(id)).await;
    }
    let put = api
        .ok(
            "PUT",
            "/rules/a",
            json!({"type": "redact", "params": {"pattern": "x"}}),
        )
        .await;
    assert_eq!(put["status"], "updated");
    assert_eq!(
        put["rule"],
        json!({"id": "a", "type": "redact", "params": {"pattern": "x"}})
    );
    assert_eq!(
        api.ok("PUT", "/rules/c", rule("c")).await["status"],
        "added"
    );
    let ids = |rules: Value| -> Vec<String> {
        let rules = rules.as_array().unwrap().clone();
        rules
            .iter()
            .map(|rule| rule["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(api.get("/rules").await), ["a", "b", "c"]);
    assert_eq!(api.get("/rules/b").await, rule("b"));

    let replaced = api.ok("PUT", "/rules", json!([rule("c"), rule("a")])).await;
    assert_eq!(replaced, json!({"status": "updated", "rules": 2}));
    assert_eq!(ids(api.get("/rules").await), ["c", "a"]);

    let (status, deleted) = api.call("DELETE", "/rules/c", "").await;
    assert_eq!(
        (status, deleted),
        (200, json!({"status": "deleted", "id": "c"}))
    );
    api.refused("DELETE", "/rules/c", "", 404, "unknown_rule")
        .await;
    api.refused("GET", "/rules/c", "", 404, "unknown_rule")
        .await;
    api.refused("GET", "/rules/%FF", "", 400, "invalid_path")
        .await;
}

#[tokio::test]
async fn wrong_rules_are_refused_with_a_pointer() {
    let api = Api::new();
    api.ok("POST", "/rules", rule("a")).await;
    let mine = rule("a").to_string();
    let cases = [
        ("POST", "/rules", mine.as_str(), 409, "duplicate_id", "/id"),
        (
            "POST",
            "/rules",
            r#"{"id":"b","type":"nonsense"}"#,
            422,
            "unknown_rule_type",
            "/type",
        ),
        (
            "POST",
            "/rules",
            r#"{"id":"b c","type":"filter"}"#,
            422,
            "invalid_id",
            "/id",
        ),
        (
            "POST",
            "/rules",
            r#"{"id":"b","type":"filter","x":1}"#,
            422,
            "invalid_shape",
            "/x",
        ),
        (
            "POST",
            "/rules",
            r#"{"type":"filter"}"#,
            422,
            "invalid_shape",
            "",
        ),
        (
            "PUT",
            "/rules/b",
            r#"{"id":"c","type":"filter"}"#,
            422,
            "id_mismatch",
            "/id",
        ),
        (
            "PUT",
            "/rules/b",
            r#"{"type":"filter","enabled":"no"}"#,
            422,
            "invalid_shape",
            "/enabled",
        ),
        (
            "PUT",
            "/rules/%20",
            r#"{"type":"filter"}"#,
            422,
            "invalid_id",
            "/id",
        ),
        (
            "PUT",
            "/rules",
            r#"[{"id":"x","type":"filter","params":{"value":"x"}},{"id":"x","type":"filter","params":{"value":"x"}}]"#,
            422,
            "duplicate_id",
            "/1/id",
        ),
        (
            "PUT",
            "/rules",
            r#"[{"id":"x","type":"filter","params":{"value":"x"}},{"id":"y","type":"nonsense"}]"#,
            422,
            "unknown_rule_type",
            "/1/type",
        ),
    ];
    for (method, path, body, status, code, pointer) in cases {
        let problem = api.refused(method, path, body, status, code).await;
        assert_eq!(problem["pointer"], pointer, "{problem}");
    }
    let problem = api
        .refused("POST", "/rules", r#"{"id": "b", "ty"#, 400, "invalid_json")
        .await;
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("line 1 column"),
        "{problem}"
    );
    api.refused("POST", "/rules", "", 400, "invalid_json").await;
}

#[tokio::test]
async fn detectors_are_listed_as_rules_name_them() {
    let api = Api::new();
    let listed = api.ok("GET", "/detectors", json!(null)).await;
    let listed = listed.as_array().unwrap();
    assert!(listed.len() >= 60, "{}", listed.len());
    for detector in listed {
        let rule =
            json!({"id": "r", "type": "redact", "params": {"detectors": [detector["name"]]}});
        api.ok("PUT", "/rules/r", rule).await;
        assert!(
            detector["examples"]
                .as_array()
                .is_some_and(|examples| !examples.is_empty())
        );
    }
}

#[tokio::test]
async fn outputs_are_edited() {
    let api = Api::new();
    let http = |id: &str, url: &str| json!({"id": id, "type": "http", "url": url});
    let added = api
        .ok(
            "POST",
            "/outputs",
            json!({"type": "http", "url": "http://a"}),
        )
        .await;
    assert_eq!(
        added,
        json!({"status": "added", "output": http("http-1", "http://a")})
    );
    let added = api
        .ok(
            "POST",
            "/outputs",
            json!({"type": "http", "url": "http://b"}),
        )
        .await;
    assert_eq!(added["output"]["id"], "http-2");
    api.refused(
        "POST",
        "/outputs",
        &http("http-2", "http://x").to_string(),
        409,
        "duplicate_id",
    )
    .await;
    let problem = api
        .refused(
            "POST",
            "/outputs",
            r#"{"type":"http"}"#,
            422,
            "invalid_output",
        )
        .await;
    assert_eq!(problem["pointer"], "");
    assert!(problem["detail"].as_str().unwrap().contains("`url`"));
    let problem = api
        .refused(
            "POST",
            "/outputs",
            r#"{"type":"a b"}"#,
            422,
            "unknown_output_type",
        )
        .await;
    assert_eq!(problem["pointer"], "/type");

    let put = api
        .ok(
            "PUT",
            "/outputs/http-1",
            json!({"type": "http", "url": "http://c"}),
        )
        .await;
    assert_eq!(
        put,
        json!({"status": "updated", "output": http("http-1", "http://c")})
    );
    let put = api
        .ok("PUT", "/outputs/screen", json!({"type": "console"}))
        .await;
    assert_eq!(put["status"], "added");
    assert_eq!(api.get("/outputs/http-1").await, http("http-1", "http://c"));
    let (status, _) = api.call("DELETE", "/outputs/screen", "").await;
    assert_eq!(status, 200);
    api.refused("DELETE", "/outputs/screen", "", 404, "unknown_output")
        .await;
    api.refused("GET", "/outputs/screen", "", 404, "unknown_output")
        .await;
    assert_eq!(api.get("/outputs").await.as_array().unwrap().len(), 2);
    let (status, cleared) = api.call("DELETE", "/outputs", "").await;
    assert_eq!((status, cleared), (200, json!({"status": "cleared"})));
    assert_eq!(api.get("/outputs").await, json!([]));
}

#[tokio::test]
async fn batch_size_is_taken_from_query_or_body() {
    let api = Api::new();
    assert_eq!(
        api.get("/config/batch_size").await,
        json!({"batch_size": 100})
    );
    for (path, body, size) in [
        ("/config/batch_size?size=7", "", 7),
        ("/config/batch_size", r#"{"batch_size": 8}"#, 8),
        ("/config/batch_size", r#"{"size": 10000}"#, 10_000),
    ] {
        let (status, answer) = api.call("POST", path, body).await;
        assert_eq!(
            (status, answer),
            (200, json!({"status": "updated", "batch_size": size}))
        );
        assert_eq!(
            api.get("/config/batch_size").await,
            json!({"batch_size": size})
        );
    }
    for (path, body, status, code) in [
        ("/config/batch_size?size=0", "", 422, "invalid_batch_size"),
        (
            "/config/batch_size?size=many",
            "",
            422,
            "invalid_batch_size",
        ),
        ("/config/batch_size?size=1&size=2", "", 400, "invalid_query"),
        (
            "/config/batch_size",
            r#"{"batch_size": -1}"#,
            422,
            "invalid_batch_size",
        ),
        (
            "/config/batch_size",
            r#"{"size": 10001}"#,
            422,
            "invalid_batch_size",
        ),
        (
            "/config/batch_size",
            r#"{"size": 1, "batch_size": 2}"#,
            422,
            "ambiguous_batch_size",
        ),
        ("/config/batch_size", r#"{"sise": 1}"#, 422, "invalid_shape"),
        ("/config/batch_size", "{}", 422, "missing_batch_size"),
        ("/config/batch_size", "", 422, "missing_batch_size"),
        ("/config/batch_size", "{", 400, "invalid_json"),
    ] {
        api.refused("POST", path, body, status, code).await;
    }
}

#[tokio::test]
async fn draft_that_does_not_build_is_not_published() {
    let api = Api::new();
    api.ok("POST", "/rules", rule("a")).await;
    let valid = api.ok("POST", "/validate", json!({})).await;
    assert_eq!(valid, json!({"status": "valid", "rules": 1, "outputs": 0}));
    assert_eq!(
        api.get("/revisions").await,
        json!([]),
        "validating publishes nothing"
    );

    // A draft that an earlier version of the program may have let in.
    let store = ConfigStore::open(&StoreLocation::Memory, RedisSettings::default()).unwrap();
    let mut draft = Pipeline::empty();
    draft.processors = serde_json::from_value(json!([
        rule("a"),
        {"id": "b", "type": "filter", "params": {"pattern": "("}},
    ]))
    .unwrap();
    store.save_draft(&draft, &Pipeline::empty()).unwrap();
    let api = Api::with(store);
    for path in ["/validate", "/publish"] {
        let problem = api.refused("POST", path, "", 422, "invalid_regex").await;
        assert_eq!(problem["pointer"], "/processors/1/params/pattern");
    }
    assert_eq!(api.get("/status").await["revision"], 0);
}

#[tokio::test]
async fn revisions_are_listed_newest_first() {
    let api = Api::new();
    for id in ["a", "b"] {
        api.ok("POST", "/rules", rule(id)).await;
        api.ok("POST", "/publish", json!({})).await;
    }
    let revisions = api.get("/revisions").await;
    assert_eq!(revisions.as_array().unwrap().len(), 2);
    assert_eq!(revisions[0]["revision"], 2);
    assert_eq!(revisions[0]["rules"], 2);
    assert_eq!(revisions[1]["rules"], 1);
    let first = api.get("/revisions/1").await;
    assert_eq!(first["pipelines"][0]["processors"], json!([rule("a")]));
    for number in ["0", "3", "-1", "latest"] {
        let path = format!("/revisions/{number}");
        api.refused("GET", &path, "", 404, "unknown_revision").await;
    }
}

#[tokio::test]
async fn edits_outlast_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let location = StoreLocation::Directory(dir.path().into());
    let api = Api::over(&location);
    api.ok("POST", "/rules", rule("a")).await;
    api.ok("POST", "/publish", json!({})).await;
    api.ok("POST", "/rules", rule("b")).await;
    drop(api);
    let api = Api::over(&location);
    assert_eq!(api.get("/rules").await, json!([rule("a"), rule("b")]));
    assert_eq!(api.get("/draft").await["live_revision"], 1);
    assert_eq!(api.ok("POST", "/publish", json!({})).await["revision"], 2);
}

#[tokio::test]
async fn store_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::over(&StoreLocation::Directory(dir.path().into()));
    api.ok("POST", "/rules", rule("a")).await;
    // A full disk cannot be had here; a directory that is gone fails the same writes.
    std::fs::remove_dir_all(dir.path()).unwrap();
    api.refused(
        "POST",
        "/rules",
        &rule("b").to_string(),
        500,
        "store_failed",
    )
    .await;
    let problem = api
        .refused("POST", "/publish", "", 500, "store_failed")
        .await;
    let path = dir.path().to_str().unwrap();
    assert!(
        !problem.to_string().contains(path),
        "paths are not for clients: {problem}"
    );
    assert_eq!(
        api.get("/status").await["revision"],
        0,
        "nothing was applied"
    );
}

#[tokio::test]
async fn concurrent_edits_are_all_kept() {
    let api = Api::new();
    let adds = (0..50).map(|number| {
        let api = &api;
        async move { api.ok("POST", "/rules", rule(&format!("r{number}"))).await }
    });
    futures_util::future::join_all(adds).await;
    assert_eq!(api.get("/rules").await.as_array().unwrap().len(), 50);
}

#[tokio::test]
async fn publish_goes_on_when_the_client_goes_away() {
    let api = Api::new();
    api.ok("POST", "/rules", rule("a")).await;
    let request = Request::post("/publish")
        .header("host", "localhost")
        .body(Body::empty())
        .unwrap();
    let mut publishing = Box::pin(api.send(request));
    // Polled until it waits for its thread, then dropped like the future of a closed connection.
    tokio::select! {
        biased;
        _ = &mut publishing => {}
        () = std::future::ready(()) => {}
    }
    drop(publishing);
    // This one comes after it.
    let again = api.ok("POST", "/publish?republish=true", json!({})).await;
    assert_eq!(again["revision"], 2);
    assert_eq!(api.get("/status").await["revision"], 2);
    assert_eq!(api.get("/revisions").await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let api = Api::new();
    for path in ["/nowhere", "/rules/a/b", "/rules/", "/docs/a/b"] {
        api.refused("GET", path, "", 404, "unknown_path").await;
    }
    api.refused("GET", "/docs/nothing.js", "", 404, "unknown_file")
        .await;
    for (method, path) in [("PATCH", "/rules"), ("GET", "/publish"), ("OPTIONS", "/")] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Body::empty())
            .unwrap();
        let response = api.send(request).await;
        assert!(response.headers().contains_key("allow"), "{method} {path}");
        api.refused(method, path, "", 405, "wrong_method").await;
    }
}

#[tokio::test]
async fn body_limit_obeyed() {
    let api = Api::new();
    let mut rule = rule("a");
    let keywords = vec!["x".repeat(10_000); body::MAX_BODY_BYTES / 10_003 - 1];
    rule["params"] = json!({"values": keywords});
    let length = rule.to_string().len();
    assert!((body::MAX_BODY_BYTES * 9 / 10..body::MAX_BODY_BYTES).contains(&length));
    api.ok("POST", "/rules", rule).await;
}

#[tokio::test]
async fn body_limit_breached_is_named() {
    let api = Api::new();
    let large = "x".repeat(body::MAX_BODY_BYTES + 1);
    for (method, path) in [
        ("POST", "/rules"),
        ("PUT", "/outputs/a"),
        ("POST", "/publish"),
    ] {
        let problem = api
            .refused(method, path, &large, 413, "body_too_large")
            .await;
        assert!(
            problem["detail"].as_str().unwrap().contains("1048576"),
            "{problem}"
        );
    }
}

/// Serves an API on a socket, as the process does.
async fn connect() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let forever = std::future::pending();
    tokio::spawn(http_server::serve(
        listener,
        Api::new().router,
        http_options(),
        forever,
    ));
    TcpStream::connect(address).await.unwrap()
}

async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let limit = Duration::from_secs(20);
    time::timeout(limit, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn client_that_sends_100_megabytes_gets_its_answer() {
    let megabyte = vec![b'x'; 1024 * 1024];
    let mut chunk = format!("{:x}\r\n", megabyte.len()).into_bytes();
    chunk.extend_from_slice(&megabyte);
    chunk.extend_from_slice(b"\r\n");
    let cases = [
        ("Content-Length: 104857600", &megabyte),
        ("Transfer-Encoding: chunked", &chunk),
    ];
    for (header, part) in cases {
        let mut stream = connect().await;
        let head = format!(
            "POST /rules HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n{header}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Writes everything before it reads anything, like many a client.
        for _ in 0..100 {
            stream.write_all(part).await.unwrap();
        }
        if header.contains("chunked") {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let answer = read_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{header}: {answer}");
        assert!(answer.contains("body_too_large"), "{answer}");
    }
}

#[tokio::test]
async fn claimed_length_is_refused_before_the_body() {
    let mut stream = connect().await;
    let head = "POST /rules HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
                Content-Length: 104857600\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn every_route_is_described() {
    let api = Api::new();
    let description = api.get("/openapi.json").await;
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = description["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 28, "{:?}", paths.keys());
    let schemas = description["components"]["schemas"].as_object().unwrap();
    let mut ids = std::collections::HashSet::new();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{name} has no summary");
            let operation_id = operation["operationId"].as_str().unwrap();
            assert!(
                ids.insert(operation_id.to_owned()),
                "{operation_id} is there twice"
            );
            assert!(operation["tags"][0].is_string(), "{name} has no tag");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.contains_key("200"), "{name} has no answer");
            for (status, answer) in answers {
                assert!(
                    answer["description"].is_string(),
                    "{name} {status} has no description"
                );
                let kind = if status == "200" {
                    ""
                } else {
                    "application/problem+json"
                };
                let contents = answer["content"].as_object().unwrap();
                assert!(
                    contents.keys().all(|found| found.contains(kind)),
                    "{name} {status}"
                );
                // The books and the status are described by their schemas, bytes by themselves.
                let exempt = ["/stats", "/status", "/modules/{name}/wasm"].contains(&path.as_str());
                for content in contents.values().filter(|_| status == "200" && !exempt) {
                    assert!(!content["example"].is_null(), "{name} has no example");
                }
            }
            let is_given_something = method == "post" && !operation["requestBody"].is_null();
            if method == "put" || (is_given_something && !answers.contains_key("409")) {
                assert!(answers.contains_key("422"), "{name} cannot be refused?");
            }
            // Whatever is said to answer does.
            let wanted = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let uri = path
                .replace("{id}", "x")
                .replace("{name}", "x")
                .replace("{revision}", "1")
                .replace("{file}", "x");
            let request = Request::builder()
                .method(wanted)
                .uri(uri)
                .body(Body::empty())
                .unwrap();
            let status = api.send(request).await.status();
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{name}");
        }
    }
    // No reference leads nowhere.
    let text = description.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "the schema {name} is missing");
    }
}

#[tokio::test]
async fn docs_work_offline() {
    let api = Api::new();
    let fetch = async |path: &str| {
        let response = api
            .send(
                Request::get(path)
                    .header("host", "localhost")
                    .body(Body::empty())
                    .unwrap(),
            )
            .await;
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(!policy.contains("http"), "{path}: {policy}");
        let kind = response.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (kind, String::from_utf8_lossy(&bytes).into_owned())
    };
    for path in ["/docs", "/docs/"] {
        let (kind, page) = fetch(path).await;
        assert!(kind.starts_with("text/html"));
        let links: Vec<&str> = page
            .split(['"', '\''])
            .filter(|text| text.contains('/') && !text.contains(['<', ' ', ';']))
            .filter(|text| !text.starts_with("image/"))
            .collect();
        assert_eq!(links.len(), 6, "{links:?}");
        for link in links {
            assert!(link.starts_with("/docs/"), "{link}");
            let (_, content) = fetch(link).await;
            assert!(!content.is_empty(), "{link}");
        }
    }
    let (kind, start) = fetch("/docs/swagger-initializer.js").await;
    assert!(kind.contains("javascript"), "{kind}");
    assert!(start.contains("\"/openapi.json\""), "{start}");
    assert!(!start.contains("http"), "{start}");
}

#[tokio::test]
async fn reading_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::over(&StoreLocation::Directory(dir.path().into()));
    api.ok("POST", "/rules", rule("a")).await;
    api.ok("POST", "/publish", json!({})).await;
    let files = || {
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        (
            read("draft.json"),
            read("live.json"),
            read("revisions/1.json"),
        )
    };
    let before = files();
    let description = api.get("/openapi.json").await;
    for path in description["paths"].as_object().unwrap().keys() {
        let uri = path
            .replace("{id}", "a")
            .replace("{revision}", "1")
            .replace("{file}", "index.css");
        for method in [Method::GET, Method::HEAD] {
            let request = Request::builder()
                .method(method)
                .uri(&uri)
                .body(Body::empty())
                .unwrap();
            assert!(!api.send(request).await.status().is_server_error(), "{uri}");
        }
    }
    assert_eq!(files(), before);
}
