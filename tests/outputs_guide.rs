//! `docs/outputs.md`: its samples are accepted, and its commands do what it says.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{HttpReceiver, Reply, Request, Setup, eventually};

const GUIDE: &str = include_str!("../docs/outputs.md");

/// Returns the text of the code block after that comment.
fn block_after(comment: &str) -> &'static str {
    let (_, after) = GUIDE
        .split_once(comment)
        .unwrap_or_else(|| panic!("the guide has no `{comment}`"));
    let (_, block) = after.split_once("```").expect("a block follows");
    let (_, block) = block.split_once('\n').expect("its language ends the line");
    block.split_once("```").expect("the block ends").0
}

#[test]
fn samples_are_accepted() {
    let gate = Setup::new()
        .env("STREAMGATE_SECRET_LOGS", "a")
        .env("STREAMGATE_SECRET_PROXY", "a")
        .env("DD_API_KEY", "b")
        .env("NEW_RELIC_LICENSE_KEY", "c")
        .env("AWS_ACCESS_KEY_ID", "d")
        .env("AWS_SECRET_ACCESS_KEY", "e")
        .start();
    let samples: Vec<Value> =
        serde_json::from_str(block_after("<!-- outputs: each is accepted -->")).expect("JSON");
    for output in &samples {
        let answer = gate.edit("POST", "/outputs", output);
        assert_eq!(answer["output"], *output);
    }
    gate.edit("POST", "/validate", &Value::Null);
    // All types are there.
    let answer = gate.try_edit("POST", "/outputs", &json!({"type": "?"}));
    let types = answer.expect(422).json()["detail"].to_string();
    for output in samples {
        let kind = output["type"].as_str().expect("a type");
        assert!(types.contains(&format!("`{kind}`")), "{types}");
        assert!(GUIDE.contains(kind), "{kind}");
    }
    gate.stop();
}

#[test]
fn dead_letters_are_shown_and_sent_again() {
    let receiver = HttpReceiver::answering(|number| match number {
        0 => Reply::Status(400),
        _ => Reply::Status(200),
    });
    let gate = Setup::new().start();
    let output = json!({"id": "posts", "type": "http", "url": receiver.url()});
    gate.run(&json!([]), &[output]);
    gate.send(b"an event\n");
    gate.settled(1);
    let here = format!("localhost:{}", gate.control().port());
    let block = block_after("<!-- dead letters: shown and sent again -->");
    let said: Vec<Value> = block
        .lines()
        .map(|line| {
            let line = line.replace("localhost:8000", &here);
            let output = Command::new("bash").args(["-c", &line]).output();
            let output = output.expect("bash is installed");
            serde_json::from_slice(&output.stdout).expect("JSON")
        })
        .collect();
    assert_eq!(said[0]["dead_letters"][0]["event"], "an event");
    assert_eq!(said[1], json!({"redriven": 1}));
    receiver.wait_for(b"an event\n");
    gate.finish(1);
}

#[test]
fn metrics_of_the_guide_are_there() {
    let receiver = HttpReceiver::answering(|number| match number {
        0 => Reply::Status(400),
        _ => Reply::Status(503),
    });
    let output = json!({
        "id": "posts", "type": "http", "url": receiver.url(), "spool": {"max_bytes": "1MiB"},
    });
    let gate = Setup::new().start();
    gate.run(&json!([]), &[output]);
    gate.send(b"refused\n");
    eventually("it is refused", || {
        gate.pipeline()["outputs"][0]["dead_lettered"] == 1
    });
    gate.send(b"kept\n");
    eventually("it waits on the disk, and attempts fail", || {
        let status = gate.get("/status");
        let output = &status["outputs"][0];
        output["spool"]["events"] == 1 && output["state"] != "ok"
    });
    let metrics = gate.ask(&Request::new("GET", "/metrics")).text();
    let value = |name: &str| {
        let labels = "{output=\"posts\",type=\"http\"} ";
        let line = metrics.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.strip_prefix(labels)
        });
        line.unwrap_or_else(|| panic!("no `{name}` in {metrics}"))
            .parse::<f64>()
            .expect("a number")
    };
    let (_, table) = GUIDE.split_once("| metric | is |").expect("a table");
    let names = table
        .split('`')
        .filter(|name| name.starts_with("streamgate_"));
    let mut seen = 0;
    for name in names.map(|name| name.split('{').next().unwrap_or(name)) {
        value(name);
        seen += 1;
    }
    assert_eq!(seen, 9);
    assert!(value("streamgate_output_up") == 0.0 && value("streamgate_spool_up") == 1.0);
    assert!(value("streamgate_output_dead_letters") == 1.0);
    assert!(value("streamgate_spool_events") == 1.0);
    gate.kill();
}
