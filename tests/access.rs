//! Who may use the control API: tokens and roles, pages of other origins, the audit log, and that
//! no secret is shown anywhere.

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::Instant,
};

use serde_json::{Value, json};

use crate::support::{
    Answer, Body, Gate, HttpReceiver, PATIENCE, RedisServer, Reply, Request, Setup, drops,
    eventually, member, signing_keys,
};

/// Runs a command of the binary.
fn streamgate(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the binary was built")
}

#[track_caller]
fn printed(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Creates a token in a directory.
#[track_caller]
fn create(store: &Path, name: &str, role: &str, more: &[&str]) -> String {
    let store = store.display().to_string();
    let mut arguments = vec!["token", "create", name, "--role", role, "--store", &store];
    arguments.extend_from_slice(more);
    printed(&streamgate(&arguments, &[])).trim().to_owned()
}

fn with<'a>(token: &str, request: Request<'a>) -> Request<'a> {
    request.header("Authorization", format!("Bearer {token}"))
}

fn ask(gate: &Gate, token: &str, method: &str, path: &str) -> Answer {
    gate.ask(&with(token, Request::new(method, path)))
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["code"], code, "{}", answer.text());
    if status == 401 {
        let challenge = answer.header("www-authenticate");
        assert!(challenge.is_some_and(|value| value.starts_with("Bearer ")));
    }
}

/// All routes of the description, with an id in place of each parameter.
fn routes(gate: &Gate) -> Vec<(String, String)> {
    routes_of(&gate.get("/openapi.json"))
}

fn routes_of(description: &Value) -> Vec<(String, String)> {
    let paths = description["paths"].as_object().expect("an object");
    let mut routes = Vec::new();
    for (path, operations) in paths {
        for method in ["get", "post", "put", "delete"] {
            if operations[method].is_object() {
                let path = path
                    .replace("{file}", "index.css")
                    .replace("{revision}", "1");
                let path = path.replace("{id}", "one").replace("{name}", "one");
                routes.push((method.to_uppercase(), path));
            }
        }
    }
    assert!(routes.len() > 35, "{routes:?}");
    routes
}

fn state(gate: &Gate, token: Option<&str>) -> [Value; 3] {
    ["/draft", "/revisions", "/modules"].map(|path| {
        let request = Request::new("GET", path);
        let request = match token {
            Some(token) => with(token, request),
            None => request,
        };
        gate.ask(&request).expect(200).json()
    })
}

#[test]
fn pages_of_other_origins_change_nothing() {
    let gate = Setup::new().start();
    gate.run(&drops("DEBUG"), &[]);
    let before = state(&gate, None);
    let own = format!("http://{}", gate.control());
    let foreign: [&[(&str, &str)]; 9] = [
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", "http://localhost:1")],
        &[("Origin", &own), ("Origin", "https://evil.example")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Host", "evil.example")],
        &[("Host", "evil.example:8000")],
        &[("Host", "localhost.evil.example")],
    ];
    let body = json!({"id": "x", "type": "filter", "params": {"value": "x"}}).to_string();
    for (method, path) in routes(&gate) {
        let changes = method != "GET";
        for headers in foreign {
            let is_site = headers[0] == ("Sec-Fetch-Site", "same-site");
            let is_host = headers[0].0 == "Host";
            let is_open = matches!(
                path.as_str(),
                "/" | "/docs" | "/docs/index.css" | "/openapi.json" | "/healthz" | "/readyz"
            );
            if (is_site && !changes) || (is_host && is_open) {
                continue;
            }
            let mut request = Request::new(&method, &path).without_host(is_host);
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if changes {
                request = request
                    .header("Content-Type", "application/json")
                    .body(Body::Whole(body.as_bytes()));
            }
            let answer = gate.ask(&request);
            assert_eq!(
                answer.status,
                403,
                "{method} {path} {headers:?}: {}",
                answer.text()
            );
        }
        // What a form of a page can send.
        let is_upload = method == "PUT" && path.starts_with("/modules/");
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain; a=application/json",
            "application/jsonx",
        ] {
            if !changes || is_upload {
                continue;
            }
            let request = Request::new(&method, &path)
                .header("Content-Type", kind)
                .body(Body::Whole(body.as_bytes()));
            refused(&gate.ask(&request), 415, "not_declared_as_json");
        }
        if changes && !is_upload {
            let request = Request::new(&method, &path).body(Body::Chunked(body.as_bytes()));
            refused(&gate.ask(&request), 415, "not_declared_as_json");
        }
    }
    assert_eq!(state(&gate, None), before);
    // The gate's own page, and commands without a body.
    for request in [
        Request::new("POST", "/publish")
            .header("Origin", format!("http://{}", gate.control()))
            .header("Host", gate.control().to_string())
            .without_host(true)
            .header("Sec-Fetch-Site", "same-origin"),
        Request::new("POST", "/publish")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(Body::Whole(b"")),
        Request::new("POST", "/publish").header("Sec-Fetch-Site", "none"),
    ] {
        gate.ask(&request).expect(200);
    }
    gate.stop();
}

#[test]
fn names_that_are_configured_may_be_asked_for() {
    let gate = Setup::new()
        .env("STREAMGATE_CONTROL_HOST", "gate.example,Other.Example")
        .start();
    for host in [
        "gate.example",
        "GATE.example:8000",
        "other.example.",
        "127.0.0.1",
        "[::1]:80",
    ] {
        let request = Request::new("GET", "/status").header("Host", host);
        gate.ask(&request.without_host(true)).expect(200);
    }
    for hosts in [
        &["evil.example"][..],
        &["localhost", "localhost"],
        &[],
        &["a b"],
    ] {
        let mut request = Request::new("GET", "/status").without_host(true);
        for host in hosts {
            request = request.header("Host", *host);
        }
        let status = gate.ask(&request).status;
        assert!(matches!(status, 400 | 403), "{hosts:?}: {status}");
    }
    gate.stop();
}

/// What each role may do: the statuses 401 and 403 say no, any other that the role is enough.
#[test]
fn each_role_may_do_what_it_is_for() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let roles = ["sender", "viewer", "editor", "publisher", "admin"];
    let tokens = roles.map(|role| create(store.path(), role, role, &[]));
    let gate = Setup::new().store(store.path()).start();
    let open = [
        "/",
        "/docs",
        "/docs/index.css",
        "/openapi.json",
        "/healthz",
        "/readyz",
    ];
    for (method, path) in routes(&gate) {
        // The least role that is enough, as its place in the list.
        let least = match (method.as_str(), path.as_str()) {
            (_, path) if open.contains(&path) => continue,
            (_, path) if path.starts_with("/tokens") => 4,
            ("GET", "/outputs/one/dead-letters") => 2,
            ("GET", _) => 1,
            (_, path) if path.starts_with("/modules") => 3,
            (_, "/publish" | "/revisions/1/rollback") => 3,
            _ => 2,
        };
        for (place, token) in tokens.iter().enumerate() {
            // Admins would revoke or replace what is asked with.
            if place == 4 && path.starts_with("/tokens") && method != "GET" {
                continue;
            }
            let answer = ask(&gate, token, &method, &path);
            let may = place >= least;
            let said = format!("{method} {path} as {}: {}", roles[place], answer.status);
            assert_eq!(answer.status == 403, !may, "{said}");
            assert_ne!(answer.status, 401, "{said}");
        }
        refused(
            &gate.ask(&Request::new(&method, &path)),
            401,
            "token_missing",
        );
    }
    for path in open {
        let answer = gate.ask(&Request::new("GET", path));
        assert_eq!(answer.status, 200, "{path}");
    }
    // A path that is not there tells only those who may read.
    refused(
        &gate.ask(&Request::new("GET", "/nothing")),
        401,
        "token_missing",
    );
    assert_eq!(ask(&gate, &tokens[1], "GET", "/nothing").status, 404);
    gate.stop();
}

#[test]
fn tokens_that_are_not_valid_are_refused() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let admin = create(store.path(), "ops", "admin", &[]);
    let short = create(store.path(), "short", "viewer", &["--expires", "1s"]);
    let gate = Setup::new().store(store.path()).start();
    let status =
        |header: &str| gate.ask(&Request::new("GET", "/status").header("Authorization", header));
    assert_eq!(status(&format!("Bearer {admin}")).status, 200);
    assert_eq!(status(&format!("bearer  {admin}")).status, 200);
    let mut other = admin.clone();
    other.replace_range(10..11, if &admin[10..11] == "0" { "1" } else { "0" });
    for (header, code) in [
        (format!("Bearer {other}"), "token_unknown"),
        (format!("Bearer {}", admin.to_uppercase()), "token_unknown"),
        (format!("Bearer {admin}x"), "token_unknown"),
        (format!("Bearer {}", "x".repeat(8_000)), "token_unknown"),
        (format!("Basic {admin}"), "token_malformed"),
        (admin.clone(), "token_malformed"),
        ("Bearer".to_owned(), "token_malformed"),
        (String::new(), "token_malformed"),
    ] {
        refused(&status(&header), 401, code);
    }
    let query = format!("/status?access_token={admin}");
    refused(
        &gate.ask(&Request::new("GET", &query)),
        401,
        "token_missing",
    );
    eventually("it expires", || {
        let answer = ask(&gate, &short, "GET", "/status");
        answer.status == 401 && answer.json()["code"] == "token_expired"
    });
    // Created and revoked while the gate runs: on the command line, and over the API.
    let late = create(store.path(), "late", "viewer", &[]);
    assert_eq!(ask(&gate, &late, "GET", "/status").status, 200);
    let path = store.path().display().to_string();
    let revoke = |name| streamgate(&["token", "revoke", name, "--store", &path], &[]);
    assert_eq!(printed(&revoke("late")), "revoked the token `late`\n");
    eventually("it is revoked", || {
        ask(&gate, &late, "GET", "/status").status == 401
    });
    let new = json!({"name": "ci", "role": "editor", "expires_in": "1h"}).to_string();
    let post = |body: &str| {
        let request = Request::new("POST", "/tokens").header("Content-Type", "application/json");
        gate.ask(&with(&admin, request).body(Body::Whole(body.as_bytes())))
    };
    let created = post(&new).expect(200).json();
    let token = created["token"].as_str().expect("a token").to_owned();
    assert_eq!(ask(&gate, &token, "GET", "/draft").status, 200);
    refused(&post(&new), 409, "duplicate_id");
    for (body, pointer) in [
        (json!({"name": "a b", "role": "editor"}), "/name"),
        (json!({"name": "a", "role": "king"}), "/role"),
        (
            json!({"name": "a", "role": "editor", "expires_in": "soon"}),
            "/expires_in",
        ),
        (
            json!({"name": "a", "role": "editor", "expires_in": "0s"}),
            "/expires_in",
        ),
        (
            json!({"name": "a", "role": "editor", "expire": "1h"}),
            "/expire",
        ),
    ] {
        let answer = post(&body.to_string());
        assert_eq!(
            (answer.status, &answer.json()["pointer"]),
            (422, &json!(pointer))
        );
    }
    assert_eq!(ask(&gate, &admin, "DELETE", "/tokens/ci").status, 200);
    refused(&ask(&gate, &token, "GET", "/draft"), 401, "token_unknown");
    refused(
        &ask(&gate, &admin, "DELETE", "/tokens/ci"),
        404,
        "unknown_token",
    );
    // Nobody locks everybody out.
    refused(
        &ask(&gate, &admin, "DELETE", "/tokens/ops"),
        409,
        "last_admin",
    );
    assert!(!revoke("ops").status.success());
    let list = ask(&gate, &admin, "GET", "/tokens").json();
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    let listed = printed(&streamgate(&["token", "list", "--store", &path], &[]));
    assert!(
        listed.contains("expired") && listed.contains("never"),
        "{listed}"
    );
    gate.stop();
}

#[test]
fn gate_that_others_can_reach_makes_a_token_at_its_first_start() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let setup = || {
        Setup::new()
            .flag("control", "0.0.0.0:0")
            .store(store.path())
    };
    let gate = setup().start();
    let file = store.path().join("admin-token");
    let mode = std::fs::metadata(&file).expect("it was made").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let path = store.path().display().to_string();
    let token = printed(&streamgate(&["token", "show", "--store", &path], &[]));
    let token = token.trim();
    assert_eq!(std::fs::read_to_string(&file).expect("text").trim(), token);
    refused(
        &gate.ask(&Request::new("GET", "/status")),
        401,
        "token_missing",
    );
    for path in ["/healthz", "/readyz"] {
        gate.ask(&Request::new("GET", path)).expect(200);
    }
    // With a token any name will do.
    let request = Request::new("GET", "/status").header("Host", "gate.internal");
    gate.ask(&with(token, request.without_host(true)))
        .expect(200);
    let log = gate.stop();
    assert!(log.stderr.contains("admin-token") && !log.stderr.contains(token));
    // The commands of the same binary take it from the environment.
    let gate = setup().start();
    let control = format!("http://127.0.0.1:{}", gate.control().port());
    let status = ["status", "--control", &control];
    printed(&streamgate(&status, &[("STREAMGATE_TOKEN", token)]));
    let without = streamgate(&status, &[]);
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(
        !without.status.success() && said.contains("STREAMGATE_TOKEN"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&file).expect("text").trim(), token);
    gate.stop();
}

#[test]
fn gate_that_others_can_reach_starts_without_a_token_only_if_told_to() {
    let memory = || {
        Setup::new()
            .flag("control", "0.0.0.0:0")
            .flag("store", "memory:")
    };
    memory().run_to_end().expect_error(2, "--bootstrap-token");
    let gate = memory().env("STREAMGATE_INSECURE_CONTROL", "true").start();
    gate.get("/status");
    assert!(gate.stop().stderr.contains("--insecure-control"));
    let gate = memory()
        .env("STREAMGATE_BOOTSTRAP_TOKEN", "env:FIRST")
        .env("FIRST", "0123456789abcdef0123456789abcdef")
        .start();
    refused(
        &gate.ask(&Request::new("GET", "/status")),
        401,
        "token_missing",
    );
    let token = "0123456789abcdef0123456789abcdef";
    assert_eq!(ask(&gate, token, "GET", "/tokens").status, 200);
    gate.stop();
    for (reference, part) in [
        ("hunter2hunter2hunter2hunter2hunter2", "file:PATH"),
        ("env:NOT_THERE", "NOT_THERE"),
        ("file:/not/there", "/not/there"),
    ] {
        let ended = memory().flag("bootstrap-token", reference).run_to_end();
        ended.expect_error(2, part);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
}

#[test]
fn damaged_tokens_let_nobody_in() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let token = create(store.path(), "ops", "viewer", &[]);
    let gate = Setup::new().store(store.path()).start();
    let file = store.path().join("tokens.json");
    let text = std::fs::read_to_string(&file).expect("text");
    std::fs::write(&file, text.replace("viewer", "admin")).expect("it is ours");
    eventually("it is told", || {
        gate.logged("the tokens of the control API cannot be read; those that were read last count")
            .is_some()
    });
    refused(
        &gate.ask(&Request::new("GET", "/status")),
        401,
        "token_missing",
    );
    refused(
        &ask(&gate, &token, "POST", "/publish"),
        403,
        "role_not_enough",
    );
    gate.stop();
    let ended = Setup::new().store(store.path()).run_to_end();
    ended.expect_error(2, "tokens.json");
}

#[test]
fn audit_log_says_who_changed_what() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let admin = create(store.path(), "ops", "admin", &[]);
    let viewer = create(store.path(), "eve", "viewer", &[]);
    let gate = Setup::new().store(store.path()).start();
    let put = |body: &Value| {
        let body = body.to_string();
        let request = Request::new("PUT", "/rules").header("Content-Type", "application/json");
        gate.ask(&with(&admin, request).body(Body::Whole(body.as_bytes())))
    };
    put(&drops("DEBUG")).expect(200);
    put(&json!([{"id": "x", "type": "nothing"}])).expect(422);
    assert_eq!(ask(&gate, &viewer, "POST", "/publish").status, 403);
    assert_eq!(ask(&gate, &admin, "POST", "/publish").status, 200);
    assert_eq!(ask(&gate, &admin, "GET", "/status").status, 200);
    let revisions = ask(&gate, &admin, "GET", "/revisions").json();
    assert_eq!(revisions[0]["author"], "ops", "{revisions}");
    assert_eq!(ask(&gate, "sgt_unknown", "POST", "/publish").status, 401);
    let odd = "/rules/%1b%5b0m%0aforged";
    assert_eq!(ask(&gate, &admin, "DELETE", odd).status, 404);
    gate.stop();
    let text = std::fs::read_to_string(store.path().join("audit.jsonl")).expect("text");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {} {} {}",
                text("who"),
                text("role"),
                text("action"),
                text("outcome")
            )
        })
        .collect();
    let expected = [
        "ops admin PUT /rules done",
        "ops admin PUT /rules unknown_rule_type",
        "eve viewer POST /publish role_not_enough",
        "ops admin POST /publish done",
        "ops admin DELETE /rules/%1b%5b0m%0aforged unknown_rule",
    ];
    assert_eq!(told[2..], expected, "{text}");
    assert!(told[0].starts_with("command line, user ") && told[0].contains("token create ops"));
    let difference =
        |line: &Value, what: &str| (line[what]["before"].clone(), line[what]["after"].clone());
    let (before, after) = difference(&lines[2], "draft");
    assert!(
        before != after
            && after
                .as_str()
                .is_some_and(|text| text.starts_with("sha256:"))
    );
    assert_eq!(difference(&lines[5], "live"), (before, after));
    assert_eq!(lines[5]["from"], "127.0.0.1");
    assert!(!text.contains(&admin) && !text.contains(&viewer));
}

/// What takes no line, or not at once, holds nothing up; and who may do nothing cannot push out what
/// others did.
#[test]
fn audit_log_holds_nothing_up_and_cannot_be_flushed() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let admin = create(store.path(), "ops", "admin", &[]);
    let sender = create(store.path(), "app", "sender", &[]);
    let gate = Setup::new().store(store.path()).start();
    let audit = store.path().join("audit.jsonl");
    let before = std::fs::read_to_string(&audit)
        .expect("text")
        .lines()
        .count();
    let begun = Instant::now();
    for _ in 0..200 {
        assert_eq!(ask(&gate, &sender, "DELETE", "/rules/x").status, 403);
    }
    // One in a tenth of a second, and one for each end.
    let most = begun.elapsed().as_millis() / 100 + 2;
    let body = json!({"name": "ci", "role": "viewer"}).to_string();
    let post = Request::new("POST", "/tokens").header("Content-Type", "application/json");
    let post = with(&admin, post).body(Body::Whole(body.as_bytes()));
    gate.ask(&post).expect(200);
    let text = std::fs::read_to_string(&audit).expect("text");
    let lines: Vec<&str> = text.lines().skip(before).collect();
    // The last one is of the token.
    assert!(lines.len() as u128 <= most + 1, "{} lines", lines.len());
    assert!(
        lines
            .last()
            .is_some_and(|line| line.contains("[\"ci\",\"viewer\"]")),
        "{text}"
    );
    std::fs::remove_file(&audit).expect("it is ours");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &audit,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .expect("a pipe");
    assert_eq!(ask(&gate, &admin, "DELETE", "/tokens/ci").status, 200);
    let told = gate.logged("cannot write the audit log; the entry is here");
    assert!(told.is_some_and(|told| {
        told["entry"]
            .as_str()
            .is_some_and(|it| it.contains("/tokens/ci"))
    }));
    gate.stop();
}

#[test]
fn tokens_of_a_fleet_count_at_every_gate() {
    let redis = RedisServer::start();
    let gates = ["a", "b"].map(|name| member(&redis, name).start());
    gates[0].get("/status");
    let body = json!({"name": "ops", "role": "admin"}).to_string();
    let post = Request::new("POST", "/tokens").header("Content-Type", "application/json");
    let created = gates[0]
        .ask(&post.body(Body::Whole(body.as_bytes())))
        .expect(200)
        .json();
    let admin = created["token"].as_str().expect("a token").to_owned();
    eventually("it counts at both", || {
        gates.iter().all(|gate| {
            ask(gate, &admin, "GET", "/status").status == 200
                && gate.ask(&Request::new("GET", "/status")).status == 401
        })
    });
    let url = redis.url();
    let arguments = ["token", "create", "ci", "--role", "viewer", "--store", &url];
    let ci = printed(&streamgate(&arguments, &[])).trim().to_owned();
    for gate in &gates {
        assert_eq!(ask(gate, &ci, "GET", "/status").status, 200);
    }
    assert_eq!(ask(&gates[1], &admin, "DELETE", "/tokens/ci").status, 200);
    eventually("it is revoked at both", || {
        gates
            .iter()
            .all(|gate| ask(gate, &ci, "GET", "/status").status == 401)
    });
    // A Redis that lost everything neither opens the gates nor brings a token back, and gets back
    // what gates know.
    let list = redis.bytes("streamgate_tokens").expect("it was written");
    redis::cmd("FLUSHALL")
        .exec(&mut redis.connection())
        .expect("FLUSHALL");
    eventually("it has the tokens again", || {
        redis.bytes("streamgate_tokens").as_ref() == Some(&list)
    });
    redis.set("streamgate_tokens", r#"{"generation":1,"tokens":[]}"#);
    let arguments = ["token", "revoke", "ops", "--store", &url];
    assert!(
        !streamgate(&arguments, &[]).status.success(),
        "it is not in an older list, or the last"
    );
    assert_eq!(ask(&gates[0], &admin, "GET", "/status").status, 200);
    let new = Request::new("POST", "/tokens").header("Content-Type", "application/json");
    let body = json!({"name": "later", "role": "viewer"}).to_string();
    let new = with(&admin, new).body(Body::Whole(body.as_bytes()));
    gates[1].ask(&new).expect(200);
    for gate in &gates {
        eventually("the tokens are as they were", || {
            gate.ask(&Request::new("GET", "/status")).status == 401
                && ask(gate, &admin, "GET", "/status").status == 200
                && ask(gate, &ci, "GET", "/status").status == 401
        });
    }
}

/// There may be tokens in a Redis that does not answer.
#[test]
fn gate_that_does_not_know_the_tokens_yet_lets_nobody_change_anything() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    let body = json!({"name": "ops", "role": "admin"}).to_string();
    let post = Request::new("POST", "/tokens").header("Content-Type", "application/json");
    let created = gate
        .ask(&post.body(Body::Whole(body.as_bytes())))
        .expect(200)
        .json();
    let admin = created["token"].as_str().expect("a token").to_owned();
    redis.freeze();
    let gate = member(&redis, "b").flag("cache", "off").launch();
    eventually("it answers", || {
        gate.ask(&Request::new("GET", "/status")).status == 200
    });
    for (method, path) in [
        ("POST", "/publish"),
        ("GET", "/tokens"),
        ("POST", "/validate"),
    ] {
        refused(
            &gate.ask(&Request::new(method, path)),
            503,
            "tokens_unavailable",
        );
    }
    redis.thaw();
    eventually("it knows them", || {
        gate.ask(&Request::new("GET", "/status")).status == 401
            && ask(&gate, &admin, "GET", "/tokens").status == 200
    });
}

#[test]
fn tokens_of_a_signed_fleet_are_signed_too() {
    let redis = RedisServer::start();
    let keys = tempfile::tempdir().expect("a temporary directory");
    let (private, _) = signing_keys(keys.path(), "ours");
    let gate = member(&redis, "a")
        .flag("signing-key", private.display().to_string())
        .start();
    let body = json!({"name": "ops", "role": "viewer"}).to_string();
    let post = Request::new("POST", "/tokens").header("Content-Type", "application/json");
    let created = gate
        .ask(&post.body(Body::Whole(body.as_bytes())))
        .expect(200)
        .json();
    let token = created["token"].as_str().expect("a token").to_owned();
    assert_eq!(ask(&gate, &token, "GET", "/status").status, 200);
    // Who can write to Redis makes themself an admin.
    let list = redis.bytes("streamgate_tokens").expect("it was written");
    let forged = String::from_utf8(list)
        .expect("text")
        .replace("viewer", "admin");
    redis.set("streamgate_tokens", forged);
    eventually("it is told", || {
        gate.logged("the tokens of the control API cannot be read; those that were read last count")
            .is_some()
    });
    refused(
        &ask(&gate, &token, "POST", "/publish"),
        403,
        "role_not_enough",
    );
}

/// Sends bytes, and returns the statuses of all answers that come until the gate closes, or until one
/// more request is answered.
fn statuses(address: std::net::SocketAddr, bytes: &[u8]) -> (Vec<u16>, bool) {
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let _ = stream.write_all(bytes);
    let mut answers = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let text = String::from_utf8_lossy(&answers).into_owned();
        // An answer follows the body of the one before it without a line end.
        let heads = text.split("HTTP/1.1 ").skip(1);
        let found: Vec<u16> = heads
            .filter_map(|head| head.get(..3)?.parse().ok())
            .collect();
        if found.contains(&404) {
            return (found, false);
        }
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => answers.extend_from_slice(&buffer[..read]),
            _ => return (found, true),
        }
    }
}

/// Where one request ends and the next begins is never a matter of opinion: what proxies could read
/// in two ways is refused, and the connection closed.
#[test]
fn requests_with_two_lengths_are_refused() {
    let gate = Setup::new().start();
    let refused = [
        "Content-Length: 0\r\nContent-Length: 5\r\n\r\nabcde",
        "Content-Length: 0, 5\r\n\r\n",
        "Content-Length: +0\r\n\r\n",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 0x0\r\n\r\n",
        "Content-Length: 99999999999999999999999\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        "X-A: b\rc\r\nContent-Length: 0\r\n\r\n",
        "X-A: b\0c\r\nContent-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
    ];
    let closed = [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    ];
    for (address, path) in [(gate.control(), "/publish"), (gate.http(), "/ingest")] {
        let send = |rest: &str| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            );
            let next = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
            statuses(address, format!("{head}{rest}{next}").as_bytes())
        };
        for rest in refused {
            assert_eq!(send(rest), (vec![400], true), "{path} {rest:?}");
        }
        for rest in closed {
            let (answers, is_closed) = send(rest);
            assert!(
                answers.len() == 1 && is_closed,
                "{path} {rest:?}: {answers:?}"
            );
        }
        assert_eq!(send("Content-Length: 0\r\n\r\n").0.len(), 2, "{path}");
    }
    gate.stop();
}

/// An id in a path is a name, and never leads to a file.
#[test]
fn paths_lead_nowhere_else() {
    let gate = Setup::new().start();
    let outside = gate.directory().join("outside");
    std::fs::write(&outside, "not yours").expect("it is ours");
    for id in [
        "..",
        "../outside",
        "..%2foutside",
        "%2e%2e%2foutside",
        "..%5coutside",
        "%2e%2e",
        "a%00b",
        "%ff",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "....//outside",
        "..;/outside",
        "%252e%252e%252foutside",
    ] {
        for (method, path) in [
            ("GET", format!("/docs/{id}")),
            ("GET", format!("/modules/{id}")),
            ("GET", format!("/modules/{id}/wasm")),
            ("PUT", format!("/modules/{id}")),
            ("DELETE", format!("/modules/{id}")),
            ("GET", format!("/outputs/{id}/dead-letters")),
            ("GET", format!("/revisions/{id}")),
            ("PUT", format!("/rules/{id}")),
        ] {
            let request = Request::new(method, &path).header("Content-Type", "application/json");
            let answer = gate.ask(&match method {
                "PUT" => request.body(Body::Whole(b"\0asm\x01\0\0\0")),
                _ => request,
            });
            assert!(
                matches!(answer.status, 400 | 404 | 405 | 422),
                "{method} {path}: {answer}"
            );
            let text = answer.text();
            assert!(
                !text.contains("not yours") && !text.contains("root:"),
                "{text}"
            );
        }
    }
    assert_eq!(
        std::fs::read_to_string(outside).expect("it is there"),
        "not yours"
    );
    gate.stop();
}

/// Everything that the gate says, after everything that it was told.
#[test]
fn secrets_are_in_no_answer_log_line_or_metric() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let token = create(store.path(), "ops", "admin", &[]);
    let canaries = [
        "canary-vendor-0123456789",
        "canary-header-0123456789",
        "canary-bootstrap-0123456789abcdef",
    ];
    let receiver = HttpReceiver::answering(|_| Reply::Status(401));
    let setup = Setup::new()
        .store(store.path())
        .env("STREAMGATE_SECRET_VENDOR", canaries[0])
        .env("STREAMGATE_SECRET_HEADER", canaries[1])
        .env("STREAMGATE_BOOTSTRAP_TOKEN", "env:FIRST")
        .env("FIRST", canaries[2])
        .env("STREAMGATE_LOG", "debug")
        .flag("grace-period", "100ms");
    let mut gate = setup.start();
    let edit = |method: &str, path: &str, body: &Value| {
        let body = body.to_string();
        let request = Request::new(method, path).header("Content-Type", "application/json");
        gate.ask(&with(canaries[2], request).body(Body::Whole(body.as_bytes())))
    };
    let outputs = [
        json!({"id": "a", "type": "http", "url": receiver.url(),
               "headers": {"authorization": "Bearer ${env:STREAMGATE_SECRET_HEADER}"}}),
        json!({"id": "b", "type": "datadog", "endpoint": receiver.url(), "api_key": "env:STREAMGATE_SECRET_VENDOR"}),
        // These are refused, and not repeated.
        json!({"id": "c", "type": "datadog", "endpoint": receiver.url(), "api_key": canaries[0]}),
        json!({"id": "d", "type": "http", "url": receiver.url(), "headers": {"x-api-key": canaries[1]}}),
        json!({"id": "e", "type": "http", "url": format!("http://user:{}@localhost:1/", canaries[1])}),
    ];
    let mut answers = Vec::new();
    for output in &outputs {
        answers.push(edit("POST", "/outputs", output).text());
    }
    edit("PUT", "/rules", &drops("DEBUG")).expect(200);
    edit("POST", "/publish", &json!({})).expect(200);
    gate.send(b"INFO one\n");
    eventually("the receiver refused it", || {
        !receiver.requests().is_empty()
    });
    eventually("the error is told", || {
        let status = ask(&gate, &token, "GET", "/status").json();
        status["outputs"].as_array().is_some_and(|outputs| {
            outputs
                .iter()
                .any(|output| output["last_error"].is_string())
        })
    });
    let sent = format!("{:?}", receiver.requests());
    assert!(
        sent.contains(canaries[0]) || sent.contains(canaries[1]),
        "they were used: {sent}"
    );
    for (method, path) in routes_of(&gate.get("/openapi.json")) {
        answers.push(ask(&gate, &token, "GET", &path).text());
        if method != "GET" && !path.starts_with("/tokens") {
            answers.push(ask(&gate, &token, &method, &path).text());
        }
    }
    for path in ["/revisions/1", "/outputs/a", "/outputs/b", "/draft"] {
        answers.push(ask(&gate, &token, "GET", path).text());
    }
    let audit = std::fs::read_to_string(store.path().join("audit.jsonl")).expect("text");
    let kept = std::fs::read_to_string(store.path().join("tokens.json")).expect("text");
    gate.terminate();
    let ended = gate.wait();
    answers.extend([audit, kept, ended.stderr]);
    for answer in &answers {
        for secret in canaries.iter().chain([&token.as_str()]) {
            assert!(!answer.contains(secret), "{secret} in {answer}");
        }
    }
}
