//! `streamgate apply`, `diff` and `status`: config in files.

use std::process::{Command, Output};

use serde_json::json;

use crate::support::{Gate, RedisServer, Setup, drops, eventually, member};

fn streamgate(gate: &Gate, folder: &std::path::Path, arguments: &[&str]) -> Output {
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

#[test]
fn a_file_is_compared_applied_and_compared_again() {
    let gate = Setup::new().start();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("the folder is ours");
    };
    write(
        "gate.yaml",
        "pipelines:\n  - processors:\n      # Nobody reads these.\n      - id: drop_debug\n        type: filter\n        params: {value: DEBUG}\n    outputs: []\n",
    );
    let run = |arguments: &[&str]| streamgate(&gate, folder.path(), arguments);
    let diff = run(&["diff", "-f", "gate.yaml"]);
    assert_eq!(diff.status.code(), Some(1), "{}", said(&diff));
    assert!(
        said(&diff).contains("+      \"id\": \"drop_debug\""),
        "{}",
        said(&diff)
    );

    let draft = run(&["apply", "-f", "gate.yaml", "--draft-only"]);
    assert_eq!(draft.status.code(), Some(0), "{}", said(&draft));
    assert_eq!(gate.stats()["revision"], 0);

    let applied = run(&["apply", "-f", "gate.yaml"]);
    assert_eq!(applied.status.code(), Some(0), "{}", said(&applied));
    assert!(
        said(&applied).contains("published revision 1"),
        "{}",
        said(&applied)
    );
    gate.send(b"DEBUG one\nINFO two\n");
    assert_eq!(gate.settled(2)["filtered"], 1);

    let diff = run(&["diff", "-f", "gate.yaml"]);
    assert_eq!(diff.status.code(), Some(0), "{}", said(&diff));

    // The same in JSON, and what `GET /revisions/1` shows.
    let live = gate.get("/revisions/1").to_string();
    write("live.json", &live);
    assert_eq!(run(&["diff", "-f", "live.json"]).status.code(), Some(0));

    for (name, text, part) in [
        ("gone.json", None, "cannot read"),
        (
            "half.json",
            Some("{\"pipelines\": ["),
            "is not a valid manifest",
        ),
        ("two.json", Some("{\"pipelines\": [{}, {}]}"), "exactly one"),
        ("list.yaml", Some("- a\n- b\n"), "expected a manifest"),
        (
            "rule.yaml",
            Some("rules:\n  - {id: x, type: unheard-of}\noutputs: []\n"),
            "/rules/0/type",
        ),
    ] {
        if let Some(text) = text {
            write(name, text);
        }
        let refused = run(&["apply", "-f", name]);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains(part), "{}", said(&refused));
    }
    assert_eq!(gate.stats()["revision"], 1);
}

#[test]
fn status_shows_the_fleet_and_says_when_something_is_wrong() {
    let mut redis = RedisServer::start();
    let [a, b] = ["gate-a", "gate-b"].map(|name| member(&redis, name).start());
    a.run(&drops("DEBUG"), &[]);
    b.reaches(1);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let status = || streamgate(&a, folder.path(), &["status"]);
    eventually("both are shown", || {
        let shown = said(&status());
        shown.contains("gate-a") && shown.contains("gate-b") && shown.contains("config ok")
    });
    assert_eq!(status().status.code(), Some(0), "{}", said(&status()));
    redis.kill();
    eventually("it is told", || {
        let status = status();
        status.status.code() == Some(1) && said(&status).contains("Redis cannot be used")
    });
    let nobody = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["status", "--control", "http://127.0.0.1:1"])
        .output()
        .expect("the binary was built");
    assert_eq!(nobody.status.code(), Some(2));
    assert!(
        said(&nobody).contains("is a gate running there?"),
        "{}",
        said(&nobody)
    );
}

#[test]
fn a_draft_is_replaced_whole_or_not_at_all() {
    let gate = Setup::new().start();
    let draft = json!({
        "name": "default_pipeline", "batch_size": 7,
        "processors": [{"id": "f", "type": "filter", "params": {"value": "X"}}],
        "outputs": [{"type": "console"}],
    });
    assert_eq!(gate.edit("PUT", "/draft", &draft)["status"], "updated");
    assert_eq!(gate.get("/outputs")[0]["id"], "console-1");
    for (path, wrong) in [
        (
            "/processors/0/params/value",
            json!({"processors": [{"id": "f", "type": "filter", "params": {"value": ""}}]}),
        ),
        (
            "/outputs/0/type",
            json!({"outputs": [{"id": "o", "type": "pigeon"}]}),
        ),
        ("/batch_size", json!({"batch_size": 0})),
    ] {
        let mut body = draft.clone();
        let fields = wrong.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(fields);
        let refused = gate.try_edit("PUT", "/draft", &body);
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert_eq!(refused.json()["pointer"], path, "{}", refused.text());
        assert_eq!(gate.get("/config/batch_size")["batch_size"], 7);
    }
}
