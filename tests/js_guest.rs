//! The contract is open to any language: a module in JavaScript, in a real gate.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{Body, Request, Setup, TcpReceiver, js_guest};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/js-rename");

/// Compiling an engine for JavaScript takes some 30 s of processor time in a gate that is built for
/// tests, at a low priority.
const COMPILED_WITHIN: Duration = Duration::from_secs(600);

#[test]
fn rule_in_javascript_changes_events() {
    let Some(file) = js_guest() else {
        return;
    };
    let module = fs::read(file).expect("it was built");
    let receiver = TcpReceiver::start();
    let store = tempfile::tempdir().expect("a temporary directory");
    let setup = || Setup::new().store(store.path()).flag("compile-time", "10m");
    let gate = setup().start();
    let upload = Request::new("PUT", "/modules/js-rename")
        .body(Body::Whole(&module))
        .patience(COMPILED_WITHIN);
    let answer = gate.ask(&upload).expect(200).json();
    assert_eq!(answer["status"], "added", "{answer}");

    let rule = |config: &Value| {
        json!([{"id": "rename", "type": "wasm", "params": {
            "module": "js-rename", "config": config, "limits": {"batch_ms": 2_000},
        }}])
    };
    let output = json!({"id": "out", "type": "tcp", "address": receiver.address().to_string()});
    let rename = json!({"rename": {"msg": "message", "text": "message", "lvl": "level"}});
    gate.run(&rule(&rename), &[output]);
    let events = read("testdata/events.ndjson");
    gate.send(events.as_bytes());
    let (expected, changed) = golden();
    receiver.received.wait_for(expected.as_bytes());
    let stats = gate.settled(events.lines().count() as u64);
    assert_eq!(stats["rules"][0]["changed"], changed, "{stats:#}");

    // What the module throws in `configure` is what the publisher reads; nothing that is live
    // changes.
    gate.edit("PUT", "/rules", &rule(&json!({})));
    let refused = gate.try_edit("POST", "/publish", &Value::Null).expect(422);
    let problem = refused.to_string();
    assert!(
        problem.contains("`rename` is empty or missing"),
        "{problem}"
    );
    gate.stop();

    // The next start compiles nothing.
    let gate = setup().start();
    let loaded = gate.logged("loaded a module").expect("it has the rule");
    assert_eq!(loaded["from_cache"], true, "{loaded}");
    gate.send(b"{\"msg\":\"again\"}\n");
    gate.finish(1);

    // Without what was compiled, the gate is alive while it compiles, and not ready.
    fs::remove_dir_all(store.path().join("compiled")).expect("it is ours");
    let gate = setup().launch();
    let ask = |path| gate.ask(&Request::new("GET", path));
    assert_eq!(ask("/healthz").expect(200).json()["status"], "ok");
    assert_eq!(ask("/readyz").expect(503).json()["code"], "not_ready");
    assert_eq!(ask("/rules").expect(503).json()["code"], "not_ready");
    assert!(gate.logged("ready").is_none(), "it still compiles");
    // And it ends when it is told to.
    gate.stop();
}

#[test]
fn tests_of_the_example_in_javascript_pass() {
    // They run the functions of the module in Node.js, without a gate and without packages.
    let node = Command::new("node")
        .arg("--test")
        .current_dir(EXAMPLE)
        .output();
    let Ok(output) = node else {
        eprintln!("no node; the tests of examples/js-rename were not run");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(EXAMPLE).join(name)).expect("it is a file of the example")
}

/// Returns the events that are to come out, and how many of them are changed.
///
/// The file is what `streamgate module test` writes: what became of an event, a tab, its body.
fn golden() -> (String, usize) {
    let golden = read("testdata/golden");
    let outcomes = || golden.lines().filter_map(|line| line.split_once('\t'));
    let bodies = outcomes().map(|(_, body)| format!("{body}\n")).collect();
    let changed = outcomes().filter(|(outcome, _)| *outcome == "replaced");
    (bodies, changed.count())
}
