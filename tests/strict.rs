//! Nothing that a typo makes removes redaction: every key and value that a user writes is checked,
//! and a publish that takes protection away is refused.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{Answer, Gate, Setup};

const EXAMPLE: &str = include_str!("../examples/gate.yaml");

fn streamgate(gate: &Gate, folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(arguments)
        .arg("--control")
        .arg(format!("http://{}", gate.control()))
        .current_dir(folder)
        .output()
        .expect("the binary was built")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn redact() -> Value {
    json!({"id": "ssn", "type": "redact", "params": {"pattern": "[0-9]{3}-[0-9]{2}"}})
}

fn filter() -> Value {
    json!({"id": "noise", "type": "filter", "params": {"value": "DEBUG"}})
}

fn publish(gate: &Gate, query: &str) -> Answer {
    gate.try_edit("POST", &format!("/publish{query}"), &Value::Null)
}

#[test]
fn the_example_is_applied_and_is_a_first_manifest() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("gate.yaml");
    fs::write(&file, EXAMPLE).expect("the folder is ours");
    let expected = "SSN XXX-XX-XXXX\n";
    let events = b"DEBUG noise\nSSN 123-45-6789\n";

    let gate = Setup::new().start();
    let applied = streamgate(&gate, folder.path(), &["apply", "-f", "gate.yaml"]);
    assert_eq!(applied.status.code(), Some(0), "{}", said(&applied));
    gate.send(events);
    gate.stdout.wait_for(expected.as_bytes());
    let diff = streamgate(&gate, folder.path(), &["diff", "-f", "gate.yaml"]);
    assert_eq!(diff.status.code(), Some(0), "{}", said(&diff));
    gate.finish(2);

    let gate = Setup::new().flag("manifest", file.display().to_string());
    let gate = gate.start();
    gate.send(events);
    gate.stdout.wait_for(expected.as_bytes());
    gate.finish(2);
}

#[test]
fn files_with_a_typo_change_nothing() {
    let gate = Setup::new().start();
    gate.run(
        &json!([redact()]),
        &[json!({"id": "out", "type": "console"})],
    );
    let before = gate.get("/draft");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let rules = "[{id: f, type: filter, params: {value: DEBUG}}]";
    for (text, part) in [
        ("name: default_pipeline".to_owned(), "`rules` is missing"),
        (format!("rules: {rules}"), "write `outputs: []`"),
        (format!("rulse: {rules}\noutputs: []"), "did you mean"),
        (
            format!("rules: {rules}\noutput: []"),
            "did you mean `outputs`?",
        ),
        (
            format!("rules: {rules}\noutputs: []\nbatchsize: 5"),
            "did you mean `batch_size`?",
        ),
        (
            format!("rules: {rules}\nprocessors: {rules}\noutputs: []"),
            "write one of them",
        ),
        (
            "rules: [{id: f, type: filter, params: {vlaue: X}}]\noutputs: []".to_owned(),
            "/rules/0/params/vlaue",
        ),
        (
            "rules: [{id: f, type: filtr, params: {value: X}}]\noutputs: []".to_owned(),
            "did you mean `filter`?",
        ),
        (
            "rules: [{id: f, type: filter, params: {value: 5}}]\noutputs: []".to_owned(),
            "/rules/0/params/value: found the number 5",
        ),
    ] {
        let file = folder.path().join("gate.yaml");
        fs::write(&file, &text).expect("the folder is ours");
        let refused = streamgate(&gate, folder.path(), &["apply", "-f", "gate.yaml"]);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains(part), "{text}: {}", said(&refused));
        assert_eq!(gate.get("/draft"), before, "{text}");
        let ended = Setup::new().flag("manifest", file.display().to_string());
        ended.run_to_end().expect_error(2, part);
    }
    fs::write(folder.path().join("gate.yaml"), EXAMPLE).expect("the folder is ours");
    let arguments = ["apply", "-f", "gate.yaml", "--wait", "5"];
    let refused = streamgate(&gate, folder.path(), &arguments);
    assert!(said(&refused).contains("`--wait`"), "{}", said(&refused));
    assert_eq!(gate.get("/draft"), before, "a wrong flag changes nothing");
    gate.finish(0);
}

#[test]
fn the_last_redaction_and_all_outputs_are_not_removed_by_accident() {
    let gate = Setup::new().start();
    let output = json!({"id": "out", "type": "console"});
    gate.run(&json!([redact(), filter()]), std::slice::from_ref(&output));
    let with = |field: &str, value: Value| {
        let mut rule = redact();
        rule[field] = value;
        rule
    };
    let mut tags = redact();
    tags["params"]["action"] = json!("tag");
    for rules in [
        json!([filter()]),
        json!([]),
        json!([with("enabled", json!(false)), filter()]),
        json!([with("on_overload", json!("bypass"))]),
        json!([tags]),
    ] {
        gate.edit("PUT", "/rules", &rules);
        let refused = publish(&gate, "").expect(409).json();
        assert_eq!(refused["code"], "removal_not_allowed", "{refused}");
        assert_eq!(refused["pointer"], "/processors", "{refused}");
        assert!(refused["detail"].to_string().contains("`ssn`"), "{refused}");
        assert_eq!(gate.stats()["revision"], 1);
    }
    // Another rule that redacts takes its place.
    let other = json!({"id": "mail", "type": "redact", "params": {"detectors": ["email"]}});
    gate.edit("PUT", "/rules", &json!([other]));
    assert_eq!(publish(&gate, "").expect(200).json()["revision"], 2);

    gate.edit("DELETE", "/outputs", &Value::Null);
    let refused = publish(&gate, "?allow_removal=false").expect(409).json();
    assert_eq!(refused["pointer"], "/outputs", "{refused}");
    assert!(refused["detail"].to_string().contains("`out`"), "{refused}");
    publish(&gate, "?allow_removel=true").expect(400);
    let allowed = publish(&gate, "?allow_removal=true").expect(200).json();
    assert_eq!(allowed["revision"], 3, "{allowed}");

    // A rollback and `apply` are publishes too.
    gate.edit("PUT", "/rules", &json!([filter()]));
    publish(&gate, "?allow_removal=true").expect(200);
    gate.edit("POST", "/revisions/3/rollback", &Value::Null);
    gate.try_edit("POST", "/revisions/4/rollback", &Value::Null)
        .expect(409);
    gate.edit(
        "POST",
        "/revisions/4/rollback?allow_removal=true",
        &Value::Null,
    );
    gate.edit("POST", "/revisions/1/rollback", &Value::Null);
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::write(folder.path().join("gate.yaml"), "rules: []\noutputs: []\n").expect("ours");
    let refused = streamgate(&gate, folder.path(), &["apply", "-f", "gate.yaml"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(
        said(&refused).contains("--allow-removal"),
        "{}",
        said(&refused)
    );
    let arguments = ["apply", "-f", "gate.yaml", "--allow-removal"];
    let applied = streamgate(&gate, folder.path(), &arguments);
    assert_eq!(applied.status.code(), Some(0), "{}", said(&applied));
    gate.finish(0);
}

#[test]
fn what_is_live_is_not_published_again() {
    let gate = Setup::new().start();
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::write(folder.path().join("gate.yaml"), EXAMPLE).expect("the folder is ours");
    let apply = |more: &[&str]| {
        let arguments = [&["apply", "-f", "gate.yaml"], more].concat();
        said(&streamgate(&gate, folder.path(), &arguments))
    };
    let first = apply(&["--comment", "ticket 42: less noise & more"]);
    assert!(first.contains("published revision 1"), "{first}");
    let again = apply(&[]);
    assert!(
        again.contains("nothing to publish: revision 1 is this already"),
        "{again}"
    );
    let unchanged = publish(&gate, "").expect(200).json();
    assert_eq!(unchanged["status"], "unchanged", "{unchanged}");
    assert_eq!(unchanged["revision"], 1);
    assert_eq!(unchanged["manifest"]["revision"], 1);
    assert_eq!(unchanged["gates"][0]["status"], "applied");
    assert_eq!(gate.get("/revisions").as_array().map(Vec::len), Some(1));

    let forced = publish(&gate, "?republish=true&comment=again")
        .expect(200)
        .json();
    assert_eq!(forced["status"], "published", "{forced}");
    let revisions = gate.get("/revisions");
    assert_eq!(revisions[1]["comment"], "ticket 42: less noise & more");
    assert_eq!(revisions[0]["comment"], "again");
    assert_eq!(
        revisions[0]["digest"], revisions[1]["digest"],
        "{revisions}"
    );
    let digest = revisions[0]["digest"].as_str().expect("a text");
    assert_eq!((digest.len(), &digest[..7]), (71, "sha256:"));
    assert_eq!(gate.get("/revisions/1")["digest"], digest);
    assert!(revisions[0].get("author").is_none(), "{revisions}");
    for comment in ["%0A", &"x".repeat(201)] {
        publish(&gate, &format!("?republish=true&comment={comment}")).expect(400);
    }
    gate.finish(0);
}

#[test]
fn rollback_keeps_edits_that_were_not_published() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([filter()]), &[]);
    gate.run(&json!([redact(), filter()]), &[]);
    gate.run(&json!([redact()]), &[]);
    // Without edits the draft follows.
    let answer = gate.edit("POST", "/revisions/2/rollback", &Value::Null);
    assert_eq!(answer["draft"], "replaced", "{answer}");
    assert_eq!(gate.get("/rules"), json!([redact(), filter()]));
    let edited = json!([redact(), {"id": "new", "type": "filter", "params": {"value": "X"}}]);
    gate.edit("PUT", "/rules", &edited);
    for _ in 0..2 {
        let answer = gate.edit("POST", "/revisions/3/rollback", &Value::Null);
        assert_eq!(answer["draft"], "kept", "{answer}");
        assert_eq!(gate.get("/rules"), edited);
        assert_eq!(gate.get("/draft")["differs_from_live"], true);
    }
    // Also over a crash.
    gate.kill();
    let gate = Setup::new().store(store.path()).start();
    assert_eq!(gate.get("/rules"), edited);
    assert_eq!(gate.get("/revisions")[0]["rolled_back_to"], 3);
    gate.finish(0);
}

#[test]
fn stores_that_do_not_exist_are_refused() {
    for store in [
        "mysql://user:hunter2@x",
        "redis:/x",
        "http://localhost",
        "memory:x",
    ] {
        let ended = Setup::new().flag("store", store).run_to_end();
        ended.expect_error(2, "is not a kind of store");
        ended.expect_error(2, "`rediss+sentinel://`");
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
}

#[test]
fn variables_with_a_typo_are_named_and_those_of_kubernetes_are_ignored() {
    let gate = Setup::new()
        .without("tcp")
        .env("STREAMGATE_TCP", "127.0.0.1:0")
        .env("STREAMGATE_TPC", "hunter2")
        .env("STREAMGATE_BOGUS_THING", "hunter2")
        .env("STREAMGATE_SERVICE_HOST", "10.0.0.1")
        .env("STREAMGATE_SERVICE_PORT", "8080")
        .env("STREAMGATE_SERVICE_PORT_HTTP", "8080")
        .env("STREAMGATE_PORT", "tcp://10.0.0.1:8080")
        .env("STREAMGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080")
        .env("STREAMGATE_PORT_8080_TCP_ADDR", "10.0.0.1")
        .env("STREAMGATE_LOG", "info")
        .env("TCP_PORT", "tcp://10.0.0.2:1")
        .env("UDP_PORT", "udp://10.0.0.2:1")
        .env("REDIS_PORT", "tcp://10.0.0.3:6379")
        .start();
    let log = gate.log();
    let mut warned: Vec<(Value, Value)> = log
        .iter()
        .filter(|line| !line["variable"].is_null())
        .map(|line| (line["variable"].clone(), line["nearest"].clone()))
        .collect();
    warned.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(
        warned,
        [
            (json!("STREAMGATE_BOGUS_THING"), Value::Null),
            (json!("STREAMGATE_TPC"), json!("STREAMGATE_TCP")),
        ]
    );
    assert!(!gate.stderr.text().contains("hunter2"));
    gate.finish(0);
}

/// What a user writes, and where it is sent.
fn objects() -> Vec<(&'static str, &'static str, Value)> {
    let rule = |kind: &str, params: Value| json!({"id": "a", "type": kind, "params": params});
    let rules = [
        rule(
            "filter",
            json!({"value": "X", "ignore_case": true, "mode": "drop", "text": "decoded"}),
        ),
        rule("filter", json!({"values": ["X", "Y"]})),
        rule("filter", json!({"pattern": "X"})),
        rule(
            "attribute_filter",
            json!({"attribute": "a", "operator": "contains", "value": "x", "mode": "keep"}),
        ),
        rule(
            "attribute_filter",
            json!({"all": [{"path": "a", "operator": "in", "values": ["x"], "ignore_case": true}]}),
        ),
        rule(
            "redact",
            json!({"pattern": "x", "replacement": "y", "action": "replace", "ignore_case": true,
                "allow": ["z"]}),
        ),
        rule(
            "redact",
            json!({"detectors": ["email"], "fields": ["a"], "on_unstructured": "mask"}),
        ),
        rule(
            "redact",
            json!({"pattern": "x", "action": "mask", "keep_first": 1, "keep_last": 1}),
        ),
        rule(
            "sample",
            json!({"rate": 0.5, "key": "a", "except": {"value": "x"}}),
        ),
        rule(
            "sample",
            json!({"target_per_second": 5, "interval_seconds": 5, "max_keys": 100, "key": "a"}),
        ),
        rule(
            "dedupe",
            json!({"key": "a", "window_seconds": 5, "count_field": "n", "max_keys": 100}),
        ),
        rule(
            "throttle",
            json!({"per_second": 5, "burst": 10, "key": "a", "max_keys": 100}),
        ),
        json!({"id": "a", "type": "filter", "params": {"value": "X"}, "enabled": true,
            "on_overload": "bypass", "on_error": "drop"}),
    ];
    let outputs = [
        json!({"id": "o", "type": "console"}),
        json!({"id": "o", "type": "tcp", "address": "127.0.0.1:1", "tls": {},
            "spool": {"max_bytes": "1GiB", "when_full": "block", "fsync": "never"},
            "dead_letters": {"max_bytes": "1MiB"}}),
        json!({"id": "o", "type": "http", "url": "http://127.0.0.1:9/", "method": "PUT",
            "headers": {"x-a": "b"}, "framing": "ndjson", "values": "any", "compression": "gzip",
            "timeout_ms": 1000, "max_batch_bytes": 2048, "max_batch_events": 10, "linger_ms": 5,
            "max_in_flight": 2, "give_up_after_s": 60, "proxy": "http://127.0.0.1:9"}),
        json!({"id": "o", "type": "file", "path": "a.log", "rotate_bytes": "1GiB",
            "rotate_every_s": 3600, "max_files": 3, "compression": "zstd", "fsync": "never"}),
    ];
    let draft = json!({"name": "default_pipeline", "processors": [filter()], "outputs": [],
        "batch_size": 5});
    let mut objects = vec![
        ("PUT", "/draft", draft),
        ("POST", "/config/batch_size", json!({"batch_size": 5})),
    ];
    objects.extend(rules.map(|rule| ("PUT", "/rules/a", rule)));
    objects.extend(outputs.map(|output| ("PUT", "/outputs/o", output)));
    objects
}

/// The object with one key renamed or one value of another type, also in objects in it; with the
/// names that an error may mention.
fn with_one_mistake(object: &Value) -> Vec<(Vec<String>, Value)> {
    let Value::Object(fields) = object else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    for (key, value) in fields {
        let mut renamed = |name: String| {
            let mut other = fields.clone();
            let value = other.remove(key).expect("it is there");
            other.insert(name.clone(), value);
            wrong.push((vec![key.clone(), name], Value::Object(other)));
        };
        renamed(format!("{key}x"));
        renamed(format!("x_{key}"));
        let mut swapped: Vec<char> = key.chars().collect();
        let end = swapped.len();
        swapped.swap(end - 1, end - 2);
        let swapped: String = swapped.into_iter().collect();
        if swapped != *key {
            renamed(swapped);
        }
        // None of these is a type that the value may have.
        let mistyped = match value {
            Value::String(_) => vec![json!({}), json!([[]])],
            Value::Bool(_) => vec![json!("yes"), json!(1)],
            Value::Number(_) => vec![json!("five"), json!([]), json!(true)],
            Value::Array(_) => vec![json!(5), json!({})],
            _ => vec![json!(5), json!("text")],
        };
        for other in mistyped {
            let mut fields = fields.clone();
            fields.insert(key.clone(), other);
            wrong.push((vec![key.clone()], Value::Object(fields)));
        }
        // The names of headers are the user's own.
        let inner = match value {
            Value::Array(list) => with_one_mistake(list.first().unwrap_or(&Value::Null))
                .into_iter()
                .map(|(names, one)| (names, json!([one])))
                .collect(),
            value if key != "headers" => with_one_mistake(value),
            _ => Vec::new(),
        };
        for (names, value) in inner {
            let mut fields = fields.clone();
            fields.insert(key.clone(), value);
            wrong.push((names, Value::Object(fields)));
        }
    }
    wrong
}

#[test]
fn one_mistake_in_anything_that_a_user_writes_is_refused_with_the_field() {
    let gate = Setup::new().start();
    let mut count = 0;
    for (method, path, object) in objects() {
        gate.edit(method, path, &object);
        let before = gate.get("/draft");
        for (names, wrong) in with_one_mistake(&object) {
            let refused = gate.try_edit(method, path, &wrong);
            let status = refused.status;
            assert!(
                status == 422,
                "{names:?}: {status} for {method} {path} {wrong}"
            );
            let problem = refused.json();
            let told = format!("{} {}", problem["pointer"], problem["detail"]);
            let is_named = names.iter().any(|name| told.contains(name.as_str()));
            assert!(is_named, "{names:?}: {told} for {wrong}");
            count += 1;
        }
        assert_eq!(gate.get("/draft"), before, "{object}");
    }
    assert!(count > 300, "{count}");
    gate.finish(0);
}

#[test]
fn one_mistake_in_the_settings_file_is_refused_with_the_setting() {
    for (text, part) in [
        ("tpc = 'off'", "did you mean `tcp`?"),
        ("memory-budget = '1GiB'", "did you mean `memory_budget`?"),
        ("tcp = 8081", "`tcp`: "),
        ("workers = 'two'", "`workers`: "),
        ("durable = 'yes'", "`durable`: "),
        ("max_event = 5", "`max_event`: "),
        ("[tcp]\nlisten = 'x'", "tcp"),
    ] {
        let setup = Setup::new().without("tcp").without("workers");
        let file = setup.directory().join("streamgate.toml");
        fs::write(&file, text).expect("the directory is ours");
        let ended = setup.flag("config", file.display().to_string());
        ended.run_to_end().expect_error(2, part);
    }
}
