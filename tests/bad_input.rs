//! What cannot be right is refused with a reason, and changes nothing: not the draft, not what is
//! live, not the events that flow.

use serde_json::{Value, json};

use crate::support::{Answer, Body, Gate, Request, Setup, request};

/// A rule that the gate has before anything wrong is sent.
fn good_rule() -> Value {
    json!({"id": "good", "type": "redact", "params": {"pattern": "\\d+", "replacement": "#"}})
}

#[test]
fn rules_that_cannot_be_built_are_refused() {
    let redact = |params: Value| json!({"id": "bad", "type": "redact", "params": params});
    let filter = |params: Value| json!({"id": "bad", "type": "filter", "params": params});
    let by_field =
        |params: Value| json!({"id": "bad", "type": "attribute_filter", "params": params});
    let cases = [
        (redact(json!({"pattern": "(unclosed"})), "/params/pattern"),
        (
            redact(json!({"pattern": "(?=look)ahead"})),
            "/params/pattern",
        ),
        (redact(json!({"pattern": 7})), "/params/pattern"),
        (
            redact(json!({"pattern": "a", "replacment": "b"})),
            "/params/replacment",
        ),
        (redact(json!({})), "/params"),
        (filter(json!({"value": ""})), "/params/value"),
        (filter(json!({"value": "a", "mode": "drp"})), "/params/mode"),
        (
            by_field(json!({"attribute": "a", "operator": "like", "value": "b"})),
            "/params/operator",
        ),
        (
            json!({"id": "bad", "type": "sample", "params": {"rate": 2}}),
            "/params/rate",
        ),
        (
            json!({"id": "bad", "type": "sample", "params": {"rate": 0.5, "key": "a[x]"}}),
            "/params/key",
        ),
        (
            json!({"id": "bad", "type": "dedupe", "params": {"count_suffix": "again"}}),
            "/params/count_suffix",
        ),
        (
            json!({"id": "bad", "type": "throttle", "params": {"per_second": 5, "burst": 0}}),
            "/params/burst",
        ),
        (
            by_field(json!({"all": [
                {"path": "n", "operator": "gt", "value": 5},
                {"path": "n", "operator": "lt", "value": 5},
            ]})),
            "/params/all/1",
        ),
        (json!({"id": "bad", "type": "grok"}), "/type"),
        (
            json!({"id": "", "type": "filter", "params": {"value": "a"}}),
            "/id",
        ),
        (
            json!({"id": "a/b", "type": "filter", "params": {"value": "a"}}),
            "/id",
        ),
        (
            json!({"id": "x".repeat(129), "type": "filter", "params": {"value": "a"}}),
            "/id",
        ),
        (
            json!({"id": "bad", "type": "filter", "params": {"value": "a"}, "on_eror": "drop"}),
            "/on_eror",
        ),
        (
            json!({"id": "bad", "type": "filter", "params": {"value": "a"}, "enabled": "yes"}),
            "/enabled",
        ),
        (
            json!({"id": "bad", "type": "redact", "params": {"pattern": "a"}, "on_error": "pass"}),
            "/on_error",
        ),
        (json!({"type": "filter", "params": {"value": "a"}}), ""),
        (json!(["bad"]), ""),
        (json!("bad"), ""),
    ];
    let mut unharmed = Unharmed::gate();
    for (rule, pointer) in &cases {
        let answer = unharmed.gate.try_edit("POST", "/rules", rule);
        refused(&rule.to_string(), &answer, 422, Some(pointer));
        unharmed.check();
    }
    let list = json!([good_rule(), {"id": "bad", "type": "filter", "params": {"values": []}}]);
    let answer = unharmed.gate.try_edit("PUT", "/rules", &list);
    refused("a list", &answer, 422, Some("/1/params/values"));
    let twice = json!([good_rule(), good_rule()]);
    let answer = unharmed.gate.try_edit("PUT", "/rules", &twice);
    refused("a list", &answer, 422, Some("/1/id"));
    unharmed.finish();
}

#[test]
fn outputs_that_cannot_be_built_are_refused() {
    let cases = [
        (json!({"type": "kafka"}), "/type"),
        (json!({"type": "tcp"}), ""),
        (json!({"type": "tcp", "address": "nowhere"}), "/address"),
        (json!({"type": "tcp", "address": "localhost:0"}), "/address"),
        (json!({"type": "http", "url": "ftp://example.com"}), "/url"),
        (json!({"type": "http", "url": "not a url"}), "/url"),
        (
            json!({"type": "http", "url": "http://user:hunter2@example.com"}),
            "/url",
        ),
        (
            json!({"type": "http", "url": "http://example.com", "timeout_ms": 0}),
            "/timeout_ms",
        ),
        (
            json!({"type": "http", "url": "http://example.com", "headers": {"a b": "c"}}),
            "/headers/a b",
        ),
        (
            json!({"type": "console", "url": "http://example.com"}),
            "/url",
        ),
        // Where clouds keep the credentials of the machine, however it is written.
        (
            json!({"type": "http", "url": "http://169.254.169.254/latest"}),
            "/url",
        ),
        (json!({"type": "http", "url": "http://2852039166/"}), "/url"),
        (
            json!({"type": "http", "url": "http://[::ffff:a9fe:a9fe]/"}),
            "/url",
        ),
        (
            json!({"type": "tcp", "address": "[fe80::1]:514"}),
            "/address",
        ),
        (
            json!({"type": "datadog", "api_key": "env:NO_SUCH_VARIABLE"}),
            "/api_key",
        ),
        (
            json!({"type": "newrelic", "license_key": "file:/no/such/file"}),
            "/license_key",
        ),
        (json!({"type": "datadog", "api_key": "hunter2"}), "/api_key"),
        (
            json!({"type": "http", "url": "http://example.com", "headers": {"a": "${env:NO_SUCH}"}}),
            "/headers/a",
        ),
        (
            json!({"type": "cloudwatch", "region": "eu/west", "group": "g", "stream": "s"}),
            "/region",
        ),
        (
            json!({"type": "http", "url": "http://example.com", "compression": "br"}),
            "/compression",
        ),
        (
            json!({"type": "http", "url": "http://example.com", "spool": {"max_bytes": 7}}),
            "/spool/max_bytes",
        ),
        (
            json!({"type": "http", "url": "http://example.com", "spool": {"max_byts": 7}}),
            "/spool/max_byts",
        ),
        (
            json!({"type": "http", "url": "http://example.com", "max_in_flight": 65}),
            "/max_in_flight",
        ),
        (json!({"id": "a b", "type": "console"}), "/id"),
    ];
    let mut unharmed = Unharmed::gate();
    for (output, pointer) in &cases {
        let answer = unharmed.gate.try_edit("POST", "/outputs", output);
        refused(&output.to_string(), &answer, 422, Some(pointer));
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
        unharmed.check();
    }
    unharmed.finish();
}

#[test]
fn batch_sizes_out_of_range_are_refused() {
    let mut unharmed = Unharmed::gate();
    for size in ["0", "10001", "-1", "ten", "", "99999999999999999999"] {
        let path = format!("/config/batch_size?size={size}");
        let answer = unharmed.gate.try_edit("POST", &path, &Value::Null);
        refused(size, &answer, 422, None);
    }
    for body in [
        json!({"batch_size": 0}),
        json!({"batch_size": "7"}),
        json!({}),
        json!([7]),
    ] {
        let answer = unharmed.gate.try_edit("POST", "/config/batch_size", &body);
        refused(&body.to_string(), &answer, 422, None);
    }
    assert_eq!(unharmed.gate.get("/config/batch_size")["batch_size"], 100);
    unharmed.check();
    unharmed.finish();
}

#[test]
fn ids_that_are_taken_or_unknown_are_refused() {
    let mut unharmed = Unharmed::gate();
    let answer = unharmed.gate.try_edit("POST", "/rules", &good_rule());
    refused("a rule twice", &answer, 409, Some("/id"));
    let other = json!({"id": "other", "type": "filter", "params": {"value": "a"}});
    let answer = unharmed.gate.try_edit("PUT", "/rules/good", &other);
    refused("another id", &answer, 422, Some("/id"));
    for (method, path) in [
        ("GET", "/rules/unknown"),
        ("DELETE", "/rules/unknown"),
        ("GET", "/outputs/unknown"),
        ("DELETE", "/outputs/unknown"),
        ("GET", "/revisions/99"),
        ("GET", "/revisions/first"),
        ("GET", "/nothing/here"),
        ("POST", "/docs/unknown"),
    ] {
        let answer = unharmed.gate.ask(&Request::new(method, path));
        let status = if method == "POST" { 405 } else { 404 };
        refused(path, &answer, status, None);
    }
    unharmed.check();
    unharmed.finish();
}

#[test]
fn wrong_methods_are_refused_with_those_that_are_right() {
    let mut unharmed = Unharmed::gate();
    for (method, path) in [
        ("PATCH", "/rules"),
        ("DELETE", "/rules"),
        ("POST", "/rules/good"),
        ("GET", "/publish"),
        ("GET", "/validate"),
        ("POST", "/stats"),
        ("PUT", "/config/batch_size"),
    ] {
        let answer = unharmed.gate.ask(&Request::new(method, path));
        refused(path, &answer, 405, None);
        assert!(answer.header("allow").is_some(), "{path}: {answer}");
    }
    unharmed.check();
    unharmed.finish();
}

#[test]
fn bodies_that_are_no_json_are_refused() {
    let mut unharmed = Unharmed::gate();
    let whole = good_rule().to_string();
    let half = &whole[..whole.len() / 2];
    let bodies: [&[u8]; 5] = [
        half.as_bytes(),
        b"",
        b"\xff\xfe",
        b"{\"id\": nul}",
        b"{} {}",
    ];
    for body in bodies {
        for (method, path) in [
            ("POST", "/rules"),
            ("PUT", "/rules"),
            ("PUT", "/rules/good"),
            ("POST", "/outputs"),
            ("PUT", "/outputs/out"),
        ] {
            let request = Request::new(method, path)
                .header("Content-Type", "application/json")
                .body(Body::Whole(body));
            let name = format!("{method} {path} {}", body.escape_ascii());
            let answer = unharmed.gate.ask(&request);
            // What comes before the second document may be wrong too.
            assert!(matches!(answer.status, 400 | 422), "{name}: {answer}");
            refused(&name, &answer, answer.status, None);
        }
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let request = Request::new("PUT", "/rules")
        .header("Content-Type", "application/json")
        .body(Body::Whole(nested.as_bytes()));
    let answer = unharmed.gate.ask(&request);
    assert!(matches!(answer.status, 400 | 422), "{answer}");
    unharmed.check();
    unharmed.finish();
}

/// Each of these patterns is allowed, and takes megabytes. All of them together are not.
#[test]
fn patterns_that_take_too_much_memory_together_are_refused() {
    let mut unharmed = Unharmed::gate();
    let large: Vec<Value> = (0..60)
        .map(|number| {
            let pattern = format!("\\w{{1,60}}x{number}\\pL{{1,100}}");
            json!({"id": format!("r{number}"), "type": "redact", "params": {"pattern": pattern}})
        })
        .collect();
    let gate = &unharmed.gate;
    let before = gate.get("/draft")["pipeline"].clone();
    gate.edit("PUT", "/rules", &large.into());
    for path in ["/validate", "/publish"] {
        let answer = gate.try_edit("POST", path, &Value::Null);
        assert_eq!(answer.status, 422, "{answer}");
        assert_eq!(answer.json()["code"], "patterns_too_large", "{answer}");
        let pointer = answer.json()["pointer"].as_str().map(str::to_owned);
        assert!(
            pointer.is_some_and(|at| at.ends_with("/params/pattern")),
            "{answer}"
        );
    }
    // What was compiled for the attempts is given back.
    gate.edit("PUT", "/draft", &before);
    gate.edit("POST", "/validate", &Value::Null);
    let peak = gate.peak_memory();
    assert!(peak < 800 << 20, "it took {peak} bytes");
    unharmed.check();
    unharmed.finish();
}

#[test]
fn bodies_that_are_too_large_are_refused() {
    const HUNDRED_MEGABYTES: usize = 100 * 1024 * 1024;
    let mut unharmed = Unharmed::gate();
    let chunked = vec![b' '; HUNDRED_MEGABYTES];
    for (method, path) in [("POST", "/rules"), ("PUT", "/rules"), ("POST", "/publish")] {
        for body in [Body::Zeros(HUNDRED_MEGABYTES), Body::Chunked(&chunked)] {
            let request = Request::new(method, path).header("Content-Type", "application/json");
            let answer = unharmed.gate.ask(&request.body(body));
            refused(path, &answer, 413, None);
        }
    }
    let peak = unharmed.gate.peak_memory();
    assert!(peak < HUNDRED_MEGABYTES, "it took {peak} bytes");
    unharmed.check();
    unharmed.finish();
}

#[test]
fn bytes_that_are_no_http_are_refused() {
    use std::io::{Read, Write};
    let mut unharmed = Unharmed::gate();
    for address in [unharmed.gate.control(), unharmed.gate.http()] {
        for bytes in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"GARBAGE\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
        ] {
            let mut stream = std::net::TcpStream::connect(address).expect("the gate listens");
            let patience = Some(crate::support::PATIENCE);
            stream.set_read_timeout(patience).expect("an option");
            stream.write_all(bytes).expect("the gate reads");
            stream
                .shutdown(std::net::Shutdown::Write)
                .expect("it is connected");
            let mut answer = Vec::new();
            // It may also just close.
            let _ = stream.read_to_end(&mut answer);
            assert!(
                !answer.starts_with(b"HTTP/1.1 2"),
                "{}",
                answer.escape_ascii()
            );
        }
    }
    unharmed.check();
    unharmed.finish();
}

/// A gate with a rule that is live, another one in the draft, and what it should still be.
struct Unharmed {
    gate: Gate,
    draft: Value,
    revisions: Value,
    sent: u64,
}

impl Unharmed {
    fn gate() -> Self {
        let gate = Setup::new().start();
        gate.run(&json!([good_rule()]), &[]);
        let draft = json!({"id": "draft", "type": "filter", "params": {"value": "still"}});
        gate.edit("POST", "/rules", &draft);
        Self {
            draft: gate.get("/draft"),
            revisions: gate.get("/revisions"),
            gate,
            sent: 0,
        }
    }

    #[track_caller]
    fn check(&mut self) {
        assert_eq!(self.gate.get("/draft"), self.draft);
        assert_eq!(self.gate.get("/revisions"), self.revisions);
        let status = self.gate.get("/status");
        assert_eq!(status["revision"], 1);
        assert_eq!(
            status["rules"].as_array().map(Vec::len),
            Some(1),
            "{status:#}"
        );
        self.gate.send(b"still 12 here\n");
        self.sent += 1;
        let events = usize::try_from(self.sent).expect("a few");
        self.gate.stdout.wait_for(&b"still # here\n".repeat(events));
    }

    fn finish(self) {
        self.gate.finish(self.sent);
    }
}

/// Asserts that the answer is a problem document with that status and pointer.
#[track_caller]
fn refused(name: &str, answer: &Answer, status: u16, pointer: Option<&str>) {
    assert_eq!(answer.status, status, "{name}: {answer}");
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("application/problem+json"), "{name}: {answer}");
    let problem = answer.json();
    assert_eq!(problem["type"], "about:blank", "{name}: {problem}");
    assert_eq!(problem["status"], status, "{name}: {problem}");
    for field in ["title", "code", "detail"] {
        let text = problem[field].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{name}: no {field} in {problem}");
    }
    if let Some(pointer) = pointer {
        let found = problem["pointer"].as_str().unwrap_or_default();
        assert_eq!(found, pointer, "{name}: {problem}");
    }
}

#[test]
fn slow_client_of_the_control_api_holds_nobody_up() {
    use std::io::Write;
    let mut unharmed = Unharmed::gate();
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream =
                std::net::TcpStream::connect(unharmed.gate.control()).expect("the gate listens");
            let head = Request::new("POST", "/publish")
                .body(Body::Zeros(1_000))
                .head();
            stream.write_all(head.as_bytes()).expect("the gate reads");
            stream
        })
        .collect();
    let answer = request(unharmed.gate.control(), &Request::new("GET", "/rules"));
    assert_eq!(answer.expect("the control API answers").status, 200);
    unharmed.check();
    drop(slow);
    unharmed.check();
    unharmed.finish();
}
