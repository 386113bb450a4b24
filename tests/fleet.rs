//! Many gates, one config: what is published at one is in force at all, and so is what is brought
//! back.

use std::thread;

use serde_json::{Value, json};

use crate::support::{
    Body, Gate, RedisServer, Request, Setup, drops, eventually, foreign, guest, member,
};

fn three(redis: &RedisServer) -> [Gate; 3] {
    let gates = ["a", "b", "c"].map(|name| member(redis, name).start());
    eventually("they know of each other", || {
        gates
            .iter()
            .all(|gate| names(&gate.get("/status")["fleet"]) == ["a", "b", "c"])
    });
    gates
}

fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list").iter();
    let mut names: Vec<String> = list
        .map(|one| one["id"].as_str().expect("a string").to_owned())
        .collect();
    names.sort();
    names
}

fn upload(gate: &Gate, name: &str, file: &str) {
    let bytes = std::fs::read(guest(file)).expect("the module was built");
    let path = format!("/modules/{name}");
    let mut request = Request::new("PUT", &path).body(Body::Whole(&bytes));
    request.patience *= 6;
    gate.ask(&request).expect(200);
}

#[test]
fn one_publish_is_in_force_at_every_gate() {
    let redis = RedisServer::start();
    let gates = three(&redis);
    // The draft is shared: edited at one, published at another.
    gates[0].edit("PUT", "/rules", &drops("DEBUG"));
    let answer = gates[1].edit("POST", "/publish?republish=true&wait=10s", &Value::Null);
    assert_eq!(answer["revision"], 1);
    assert_eq!(answer["subscribers_notified"], 3, "{answer}");
    assert_eq!(names(&answer["gates"]), ["a", "b", "c"], "{answer}");
    for gate in answer["gates"].as_array().expect("a list") {
        assert_eq!(gate["status"], "applied", "{answer}");
        assert!(gate["apply_ms"].is_number(), "{answer}");
    }
    for gate in &gates {
        assert_eq!(gate.revision(), 1);
        gate.send(b"DEBUG one\nINFO two\n");
        assert_eq!(gate.settled(2)["filtered"], 1);
        assert_eq!(gate.get("/rules"), drops("DEBUG"));
        assert_eq!(gate.config()["state"], "ok");
    }
}

#[test]
fn a_gate_that_was_away_catches_up() {
    let redis = RedisServer::start();
    let [a, b, c] = three(&redis);
    c.stop();
    eventually("it took its leave", || {
        names(&a.get("/status")["fleet"]) == ["a", "b"]
    });
    a.run(&drops("ONE"), &[]);
    a.run(&drops("TWO"), &[]);
    b.reaches(2);
    let c = member(&redis, "c").start();
    assert_eq!(c.revision(), 2);
    c.send(b"ONE\nTWO\n");
    assert_eq!(c.settled(2)["filtered"], 1);
}

#[test]
fn rollback_brings_rules_and_code_back_at_every_gate() {
    let redis = RedisServer::start();
    let gates = three(&redis);
    let [a, b, c] = &gates;
    upload(a, "mine", "drop-keyword");
    let rule = json!([{
        "id": "w", "type": "wasm",
        "params": {"module": "mine", "config": {"keyword": "DEBUG"}},
    }]);
    b.run(&rule, &[]);
    upload(c, "mine", "keep-all");
    let rule = json!([{"id": "w", "type": "wasm", "params": {"module": "mine"}}]);
    a.run(&rule, &[]);
    for gate in &gates {
        gate.reaches(2);
        gate.send(b"DEBUG one\n");
        assert_eq!(
            gate.settled(1)["rule_dropped"],
            0,
            "the newer code keeps it"
        );
    }
    let answer = c.edit("POST", "/revisions/1/rollback?wait=20s", &Value::Null);
    assert_eq!(answer["status"], "rolled_back");
    assert_eq!(names(&answer["gates"]), ["a", "b", "c"]);
    for gate in &gates {
        gate.reaches(3);
        gate.send(b"DEBUG two\n");
        assert_eq!(
            gate.settled(2)["rule_dropped"],
            1,
            "the older code drops it"
        );
        assert_eq!(gate.get("/draft")["differs_from_live"], false);
    }
}

#[test]
fn of_publishers_at_the_same_time_each_gets_a_revision_or_a_conflict() {
    const ROUNDS: usize = 15;
    let redis = RedisServer::start();
    let gates = three(&redis);
    let answers = thread::scope(|scope| {
        let publish = |gate| {
            move || {
                let gate: &Gate = gate;
                (0..ROUNDS)
                    .map(|_| gate.try_edit("POST", "/publish?republish=true&wait=0", &Value::Null))
                    .collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = gates
            .iter()
            .map(|gate| scope.spawn(publish(gate)))
            .collect();
        threads
            .into_iter()
            .flat_map(|one| one.join().expect("no panic"))
            .collect::<Vec<_>>()
    });
    let mut revisions = Vec::new();
    for answer in answers {
        match answer.status {
            200 => revisions.push(answer.json()["revision"].as_u64().expect("a number")),
            409 => assert_eq!(answer.json()["code"], "publish_conflict"),
            other => panic!("{other}: {}", answer.text()),
        }
    }
    revisions.sort_unstable();
    let count = revisions.len() as u64;
    assert_eq!(
        revisions,
        (1..=count).collect::<Vec<_>>(),
        "none twice, none left out"
    );
    for gate in &gates {
        gate.reaches(count);
    }
}

#[test]
fn edits_at_two_gates_at_the_same_time_are_all_kept() {
    let redis = RedisServer::start();
    let gates = ["a", "b"].map(|name| member(&redis, name).start());
    thread::scope(|scope| {
        for (at, gate) in gates.iter().enumerate() {
            scope.spawn(move || {
                for number in 0..15 {
                    let id = format!("r{at}-{number}");
                    let rule = json!({"id": id, "type": "filter", "params": {"value": id}});
                    gate.edit("POST", "/rules", &rule);
                }
            });
        }
    });
    let rules = gates[0].get("/rules");
    assert_eq!(rules.as_array().expect("a list").len(), 30);
    assert_eq!(rules, gates[1].get("/rules"));
}

#[test]
fn publish_says_which_gate_could_not_follow() {
    let redis = RedisServer::start();
    let a = member(&redis, "a").start();
    let small = member(&redis, "small")
        .flag("compile-memory", "64MiB")
        .start();
    eventually("they know of each other", || {
        names(&a.get("/status")["fleet"]) == ["a", "small"]
    });
    // What cannot be compiled within that memory, and within the default it can.
    upload(&a, "large", "builtin");
    let params =
        json!({"module": "large", "config": {"type": "filter", "params": {"value": "DEBUG"}}});
    a.edit(
        "PUT",
        "/rules",
        &json!([{"id": "w", "type": "wasm", "params": params}]),
    );
    let answer = a.edit("POST", "/publish?republish=true&wait=30s", &Value::Null);
    let gates = answer["gates"].as_array().expect("a list");
    let outcome = |id: &str| {
        gates
            .iter()
            .find(|gate| gate["id"] == id)
            .expect("it is listed")
    };
    assert_eq!(outcome("a")["status"], "applied", "{answer}");
    assert_eq!(outcome("small")["status"], "failed", "{answer}");
    let reason = outcome("small")["reason"].as_str().expect("a reason");
    assert!(reason.contains("memory"), "{reason}");
    assert_eq!(small.revision(), 0, "the old one stays in force");
    assert_eq!(small.config()["state"], "degraded");
    small.send(b"still here\n");
    small.settled(1);
}

#[test]
fn what_another_program_writes_is_applied() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    redis.publish(foreign("DEBUG"));
    gate.comes_to_drop("DEBUG");
    // Fields that nobody knows, lists that Go writes as null.
    redis.publish(
        r#"{"version": "1.0", "timestamp": 4102444800.5, "author": "somebody", "pipelines": [{
            "name": "default_pipeline", "batch_size": 0, "outputs": null, "colour": "red",
            "processors": [{"id": "f", "type": "filter", "order": 1, "comment": null,
                "params": {"value": "TRACE"}}]}]}"#,
    );
    gate.comes_to_drop("TRACE");
    // A publish of ours comes after it, and has a number.
    assert_eq!(gate.run(&drops("NOISE"), &[]), 1);
    gate.comes_to_drop("NOISE");
}

#[test]
fn the_seeds_variables_select_its_redis() {
    let redis = RedisServer::start();
    redis.publish(foreign("DEBUG"));
    let gate = Setup::new()
        .without("store")
        .env("REDIS_HOST", "127.0.0.1")
        .env("REDIS_PORT", redis.port.to_string())
        .start();
    gate.comes_to_drop("DEBUG");
    assert_eq!(gate.config()["store"], redis.url());
}

#[test]
fn what_we_write_another_program_can_read() {
    let redis = RedisServer::start();
    let gate = member(&redis, "a").start();
    let rules = json!([
        {"id": "a", "type": "filter", "params": {"values": ["X", "Y"], "ignore_case": true}},
        {"id": "b", "type": "redact", "params": {"pattern": "secret", "replacement": "***"}},
        {"id": "c", "type": "attribute_filter",
            "params": {"attribute": "level", "operator": "equals", "value": "debug"}},
    ]);
    gate.run(&rules, &[]);
    let text = redis.bytes("streamgate_config").expect("it was published");
    let manifest: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(manifest["version"], "1.0");
    assert!(manifest["timestamp"].is_number());
    let pipeline = &manifest["pipelines"][0];
    assert_eq!(pipeline["name"], "default_pipeline");
    assert_eq!(pipeline["batch_size"], 100);
    for rule in pipeline["processors"].as_array().expect("a list") {
        let params = rule["params"].as_object().expect("an object");
        assert!(params.values().all(Value::is_string), "{rule}");
    }
    assert_eq!(pipeline["processors"][1]["params"]["pattern"], "secret");
    // And it is the same config still, here and after a start.
    assert_eq!(gate.get("/rules"), rules);
    gate.stop();
    let gate = member(&redis, "b").start();
    assert_eq!(gate.get("/rules"), rules);
    gate.send(b"an x\nno letter\n");
    assert_eq!(gate.settled(2)["filtered"], 1);
}
