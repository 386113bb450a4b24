//! Rules in WASM, through a real gate: upload, publish, swap, roll back, misbehave, survive.

use std::{
    fs,
    io::Write,
    net::Shutdown,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::{Value, json};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::support::{
    Answer, Body, Gate, Request, Setup, TcpReceiver, eventually, guest, holds_within,
};

#[test]
fn every_module_builds() {
    for name in [
        "drop-keyword",
        "keep-first",
        "mask-email",
        "trim-json",
        "builtin",
        "keep-all",
        "misbehave",
    ] {
        assert!(bytes_of(name).starts_with(b"\0asm"), "{name} is no WASM");
    }
}

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(guest(name)).expect("the file is there")
}

/// A module of a few hundred bytes that keeps every event, made by hand: it compiles in no time.
///
/// `configure` and `process` answer with what lies at 1024: zeros, which are `ok` and four empty lists.
/// `cabi_realloc` gives out memory from 4096 on, and `process` takes all of it back.
const SMALL: &str = r#"(module
    (memory (export "memory") 64)
    (global $free (mut i32) (i32.const 4096))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
        (global.set $free (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
    (func (export "configure") (param i32 i32) (result i32)
        (global.set $free (i32.const 4096))
        (i32.const 1024))
    (func (export "process") (param i32 i32 i32 i32) (result i32)
        (global.set $free (i32.const 4096))
        (i32.const 1024))
)"#;

/// The small module under a digest of its own: with a custom section more, which means nothing
/// (WebAssembly core specification, 2.0, 5.5.3).
fn variant(number: u32) -> Vec<u8> {
    let wit = include_str!("../guest-sdk/wit/processor.wit");
    let mut resolve = Resolve::default();
    let package = resolve.push_str("processor.wit", wit).expect("it is valid");
    let world = resolve.select_world(&[package], None).expect("it has one");
    let mut bytes = wat::parse_str(SMALL).expect("it is valid");
    embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8)
        .expect("it has the world's shape");
    let content = format!("\x05nonce{number:010}");
    bytes.push(0);
    bytes.push(u8::try_from(content.len()).expect("it is short"));
    bytes.extend(content.into_bytes());
    bytes
}

fn try_upload(gate: &Gate, name: &str, bytes: &[u8]) -> Answer {
    let path = format!("/modules/{name}");
    let request = Request::new("PUT", &path).header("Content-Type", "application/wasm");
    // On a busy machine the compiler, which has a low priority, takes its time.
    let patience = std::time::Duration::from_secs(180);
    gate.ask(&request.body(Body::Whole(bytes)).patience(patience))
}

#[track_caller]
fn upload(gate: &Gate, name: &str, bytes: &[u8]) -> Value {
    try_upload(gate, name, bytes).expect(200).json()
}

fn rule(id: &str, module: &str, config: &Value) -> Value {
    json!({"id": id, "type": "wasm", "params": {"module": module, "config": config}})
}

fn drop_keyword(keyword: &str) -> Value {
    json!([rule("drop", "drop-keyword", &json!({"keyword": keyword}))])
}

#[track_caller]
fn status_of(gate: &Gate, rule: &str) -> Value {
    let status = gate.get("/status");
    let rules = status["rules"].as_array().expect("a list");
    let found = rules.iter().find(|status| status["id"] == rule);
    found
        .unwrap_or_else(|| panic!("no {rule}: {status:#}"))
        .clone()
}

fn metrics(gate: &Gate) -> String {
    let answer = gate.ask(&Request::new("GET", "/metrics")).expect(200);
    String::from_utf8(answer.body).expect("text")
}

#[test]
fn a_module_is_uploaded_named_and_runs() {
    let gate = Setup::new().start();
    let answer = upload(&gate, "drop-keyword", &bytes_of("drop-keyword"));
    let module = &answer["module"];
    assert_eq!(answer["status"], "added", "{answer}");
    assert_eq!(
        (&module["name"], &module["kind"]),
        (&json!("drop-keyword"), &json!("core"))
    );
    assert_eq!(module["size_bytes"], bytes_of("drop-keyword").len());
    assert_eq!(module["exports"], json!(["configure", "process"]));
    let imports = module["imports"].to_string();
    assert!(
        imports.contains("streamgate:processor/host@1.0.0#log"),
        "{imports}"
    );
    let digest = module["digest"].as_str().expect("a string");
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{digest}"
    );

    gate.run(&drop_keyword("DEBUG"), &[]);
    gate.send(b"DEBUG tick\nINFO ready\n");
    gate.stdout.wait_for(b"INFO ready\n");
    let stats = gate.settled(2);
    assert_eq!(stats["rule_dropped"], 1, "{stats:#}");
    assert_eq!(stats["rules"][0]["dropped"], 1, "{stats:#}");

    let used = gate.get("/modules/drop-keyword");
    assert_eq!(
        (&used["draft_rules"], &used["live_rules"]),
        (&json!(["drop"]), &json!(["drop"]))
    );
    assert_eq!(gate.get("/modules")[0]["digest"], digest);
    let bytes = gate
        .ask(&Request::new("GET", "/modules/drop-keyword/wasm"))
        .expect(200)
        .body;
    assert_eq!(bytes, bytes_of("drop-keyword"));
    let status = status_of(&gate, "drop");
    assert_eq!(
        (&status["state"], &status["wasm"]["digest"]),
        (&json!("active"), &json!(digest))
    );
    assert!(status["wasm"]["calls"].as_u64() > Some(0), "{status}");
    let answer = upload(&gate, "drop-keyword", &bytes_of("drop-keyword"));
    assert_eq!(
        (&answer["status"], &answer["rules"]),
        (&json!("unchanged"), &json!(["drop"]))
    );
}

/// A core module that imports `env.f`: type `() -> ()`, one import.
const IMPORTS_ENV: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x09\x01\x03env\x01f\0\0";

#[test]
fn uploads_that_are_no_processors_are_refused_with_the_reason() {
    let gate = Setup::new().start();
    for (bytes, code, says) in [
        (&b"not wasm"[..], "not_wasm", "begins with"),
        (b"", "not_wasm", "begins with"),
        (b"\x7fELF\x02\x01\x01\0", "native_code", "ELF"),
        (b"\0asm\x01\0\0\0", "no_world", "carries no world"),
        (b"\0asm\x0d\0\x01\0", "missing_export", "configure"),
        (
            b"\0asm\x01\0\0\0\xff\xff\xff",
            "invalid_module",
            "not valid",
        ),
        (IMPORTS_ENV, "unknown_import", "env#f"),
        (&bytes_of("keep-all")[..1000], "invalid_module", "not valid"),
    ] {
        let problem = try_upload(&gate, "m", bytes).expect(422).json();
        assert_eq!(problem["code"], code, "{problem}");
        assert!(problem["detail"].to_string().contains(says), "{problem}");
    }
    let too_large = Request::new("PUT", "/modules/m").body(Body::Zeros(40 << 20));
    assert_eq!(
        gate.ask(&too_large).expect(413).json()["code"],
        "body_too_large"
    );
    let problem = try_upload(&gate, "a%20b", &bytes_of("keep-all"))
        .expect(422)
        .json();
    assert_eq!(problem["code"], "invalid_id", "{problem}");
    assert_eq!(gate.get("/modules"), json!([]));
    assert_eq!(gate.logged("compiled a module"), None);
}

#[test]
fn compilation_that_costs_too_much_is_refused_and_holds_nothing_up() {
    let setup = Setup::new()
        .flag("compile-time", "1s")
        .flag("compile-memory", "64MiB");
    let gate = setup.start();
    // Large enough for one of the two limits, whichever comes first on this machine.
    let problem = try_upload(&gate, "large", &bytes_of("builtin"))
        .expect(422)
        .json();
    let code = problem["code"].as_str().expect("a string");
    assert!(
        matches!(code, "compile_time" | "compile_memory"),
        "{problem}"
    );
    // And the gate goes on: events, and modules that cost less.
    gate.send(b"hello\n");
    gate.stdout.wait_for(b"hello\n");
}

#[test]
fn rules_are_refused_with_the_field_that_is_wrong() {
    let gate = Setup::new().start();
    upload(&gate, "drop-keyword", &bytes_of("drop-keyword"));
    let refused = |rule: Value| gate.try_edit("POST", "/rules", &rule).expect(422).json();
    let problem = refused(rule("a", "nowhere", &json!({})));
    assert_eq!(
        (&problem["code"], &problem["pointer"]),
        (&json!("unknown_module"), &json!("/params/module"))
    );
    let mut pinned = rule("a", "drop-keyword", &json!({}));
    pinned["params"]["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    let problem = refused(pinned.clone());
    assert_eq!(
        (&problem["code"], &problem["pointer"]),
        (&json!("unknown_module"), &json!("/params/digest"))
    );
    pinned["params"]["digest"] = json!("sha256:0");
    assert_eq!(refused(pinned)["code"], "invalid_digest");
    let mut limited = rule("a", "drop-keyword", &json!({}));
    limited["params"]["limits"] = json!({"memory_bytes": 1});
    assert_eq!(refused(limited)["pointer"], "/params/limits/memory_bytes");
    let mut leaking = rule("a", "drop-keyword", &json!({}));
    leaking["params"]["privacy"] = json!(true);
    leaking["on_error"] = json!("pass");
    assert_eq!(refused(leaking)["code"], "leaking_on_error");

    // What only the guest can tell is told when the draft is built, in its own words.
    gate.edit(
        "POST",
        "/rules",
        &rule("a", "drop-keyword", &json!({"keywrod": "x"})),
    );
    for path in ["/validate", "/publish"] {
        let problem = gate.try_edit("POST", path, &Value::Null).expect(422).json();
        assert_eq!(problem["code"], "config_refused", "{problem}");
        assert_eq!(
            problem["pointer"], "/processors/0/params/config",
            "{problem}"
        );
        assert!(
            problem["detail"].to_string().contains("keywrod"),
            "{problem}"
        );
    }
    assert_eq!(gate.get("/status")["revision"], 0);
}

#[test]
fn a_revision_keeps_its_code_and_a_rollback_brings_it_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let gate = Setup::new().store(directory.path()).start();
    // One name, two programs: the first drops, the second keeps all.
    upload(&gate, "drop-keyword", &bytes_of("drop-keyword"));
    let first = gate.run(
        &json!([rule("r", "drop-keyword", &json!({"keyword": "DEBUG"}))]),
        &[],
    );
    let old = status_of(&gate, "r")["wasm"]["digest"].clone();
    assert_eq!(gate.get("/draft")["differs_from_live"], false);

    let answer = upload(&gate, "drop-keyword", &bytes_of("keep-all"));
    assert_eq!(
        (&answer["status"], &answer["rules"]),
        (&json!("updated"), &json!(["r"]))
    );
    assert_eq!(gate.get("/draft")["differs_from_live"], true);
    gate.send(b"DEBUG 1\nINFO 1\n");
    gate.stdout.wait_for(b"INFO 1\n");
    assert_eq!(
        status_of(&gate, "r")["wasm"]["digest"],
        old,
        "an upload changes nothing live"
    );

    gate.edit(
        "PUT",
        "/rules",
        &json!([rule("r", "drop-keyword", &json!({}))]),
    );
    gate.publish();
    assert_ne!(status_of(&gate, "r")["wasm"]["digest"], old);
    gate.send(b"DEBUG 2\n");
    gate.stdout.wait_for(b"INFO 1\nDEBUG 2\n");

    let answer = gate.edit(
        "POST",
        &format!("/revisions/{first}/rollback"),
        &Value::Null,
    );
    assert_eq!(
        (&answer["status"], &answer["revision"]),
        (&json!("rolled_back"), &json!(first + 2))
    );
    assert_eq!(answer["manifest"]["rolled_back_to"], first, "{answer}");
    assert_eq!(status_of(&gate, "r")["wasm"]["digest"], old);
    let draft = gate.get("/draft");
    assert_eq!(draft["differs_from_live"], false, "{draft}");
    assert_eq!(
        draft["pipeline"]["processors"][0]["params"]["digest"], old,
        "{draft}"
    );
    gate.send(b"DEBUG 3\nINFO 3\n");
    gate.stdout.wait_for(b"INFO 1\nDEBUG 2\nINFO 3\n");
    gate.try_edit("POST", "/revisions/99/rollback", &Value::Null)
        .expect(404);

    // And all of it is there after a crash.
    drop(gate);
    let gate = Setup::new().store(directory.path()).start();
    assert_eq!(status_of(&gate, "r")["wasm"]["digest"], old);
    gate.send(b"DEBUG 4\nINFO 4\n");
    gate.stdout.wait_for(b"INFO 4\n");
}

#[test]
fn modules_that_rules_name_cannot_be_deleted_and_others_can() {
    let gate = Setup::new().start();
    upload(&gate, "drop-keyword", &bytes_of("drop-keyword"));
    let delete = || gate.try_edit("DELETE", "/modules/drop-keyword", &Value::Null);
    gate.edit("POST", "/rules", &drop_keyword("DEBUG")[0]);
    let problem = delete().expect(409).json();
    assert_eq!(problem["code"], "module_in_use", "{problem}");
    assert!(
        problem["detail"].to_string().contains("`drop`"),
        "{problem}"
    );
    gate.publish();
    gate.edit("DELETE", "/rules/drop", &Value::Null);
    let problem = delete().expect(409).json();
    assert!(problem["detail"].to_string().contains("live"), "{problem}");
    gate.publish();
    assert_eq!(delete().expect(200).json()["status"], "deleted");
    delete().expect(404);
    // The first revision needs its code still.
    let answer = gate.edit("POST", "/revisions/1/rollback", &Value::Null);
    assert_eq!(answer["status"], "rolled_back", "{answer}");
    gate.send(b"DEBUG\nINFO\n");
    gate.stdout.wait_for(b"INFO\n");
}

/// Uploads the variant of that number and makes it live.
fn swap(gate: &Gate, number: u32) {
    let answer = upload(gate, "small", &variant(number));
    gate.edit("PUT", "/rules", &json!([rule("kept", "small", &json!({}))]));
    gate.publish();
    assert_eq!(
        status_of(gate, "kept")["wasm"]["digest"],
        answer["module"]["digest"]
    );
}

#[test]
fn hundred_hot_swaps_under_load_lose_and_double_no_event() {
    const CONNECTIONS: usize = 2;
    // The number of the next event of each connection, and what came instead of it.
    let next = Arc::new(Mutex::new(([0; CONNECTIONS], Vec::<String>::new())));
    let receiver = {
        let next = Arc::clone(&next);
        TcpReceiver::watching(move || {
            let next = Arc::clone(&next);
            let mut unfinished = Vec::new();
            move |bytes: &[u8]| {
                unfinished.extend_from_slice(bytes);
                let end = memchr::memrchr(b'\n', &unfinished).map_or(0, |at| at + 1);
                let lines = String::from_utf8_lossy(&unfinished[..end]).into_owned();
                unfinished.drain(..end);
                let (next, faults) = &mut *next.lock().expect("a watcher does not panic");
                for line in lines.lines() {
                    let mut numbers = line.split(' ').map(str::parse::<usize>);
                    match (numbers.next(), numbers.next()) {
                        (Some(Ok(connection)), Some(Ok(number))) if number == next[connection] => {
                            next[connection] += 1;
                        }
                        _ => faults.push(line.to_owned()),
                    }
                }
            }
        })
    };
    let gate = Setup::new().sending_to(receiver.address()).start();
    let ended = AtomicBool::new(false);
    let sent: Vec<usize> = thread::scope(|scope| {
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let (gate, ended) = (&gate, &ended);
                scope.spawn(move || {
                    let mut stream = gate.connect();
                    let mut number = 0;
                    while !ended.load(Ordering::SeqCst) {
                        let mut lines = String::new();
                        for _ in 0..200 {
                            lines.push_str(&format!("{connection} {number} and the rest\n"));
                            number += 1;
                        }
                        stream.write_all(lines.as_bytes()).expect("the gate reads");
                    }
                    stream.shutdown(Shutdown::Write).expect("it is connected");
                    number
                })
            })
            .collect();
        (0..100).for_each(|number| swap(&gate, number));
        ended.store(true, Ordering::SeqCst);
        let join = |sender: thread::ScopedJoinHandle<'_, usize>| sender.join();
        let sent = senders.into_iter().map(join);
        sent.collect::<Result<_, _>>().expect("no sender panicked")
    });
    let total = sent.iter().sum::<usize>() as u64;
    let stats = gate.settled(total);
    let rule = &stats["rules"][0];
    assert_eq!(
        (&rule["failed"], &rule["bypassed"]),
        (&json!(0), &json!(0)),
        "{rule}"
    );
    assert_eq!(stats["outputs"][0]["sent"], total, "{stats:#}");
    eventually(
        "every event arrives once, in the order of its connection",
        || {
            let (next, faults) = &*next.lock().expect("a watcher does not panic");
            assert!(faults.is_empty(), "{:?}", &faults[..faults.len().min(5)]);
            next[..] == sent[..]
        },
    );
    eprintln!("{total} events over 100 swaps");
}

#[test]
fn hot_swaps_keep_memory_flat() {
    let gate = Setup::new().start();
    let mut swaps = 0..;
    let mut after = |many| {
        swaps.by_ref().take(many).for_each(|number| {
            swap(&gate, number);
            gate.send(b"event\n");
        });
        gate.resident_bytes()
    };
    let early = after(50);
    let late = after(150);
    eprintln!("{early} bytes after 50 swaps, {late} after 200");
    // Each module has code, tables and an instance of its own: some 100 KiB, were they kept.
    assert!(late < early + (5 << 20), "from {early} to {late} bytes");
    assert_eq!(gate.get("/modules").as_array().map(Vec::len), Some(1));
    assert_eq!(
        gate.get("/status")["rules"][0]["wasm"]["instances"],
        gate.get("/status")["workers"]
    );
}

#[test]
fn whatever_a_guest_does_only_poisonous_events_meet_on_error_and_it_shows() {
    for (sin, reason) in [
        ("loop", "deadline"),
        ("bulk_copy", "deadline"),
        ("memory_bomb", "memory"),
        ("stack_overflow", "stack"),
        ("trap", "trap"),
        ("wrong_index", "bad_answer"),
        ("giant_answer", "bad_answer"),
        ("error", "error"),
    ] {
        let gate = Setup::new().start();
        upload(&gate, "misbehave", &bytes_of("misbehave"));
        let mut sinner = rule("sinner", "misbehave", &json!({"sin": sin, "on": "poison"}));
        sinner["on_error"] = json!("drop");
        if reason != "deadline" {
            // So that a slow machine does not make another sin of it.
            sinner["params"]["limits"] = json!({"batch_ms": 10_000});
        }
        gate.run(&json!([sinner]), &[]);
        let lines: String = (0..1_000)
            .map(|n| {
                if n == 500 {
                    "poison\n".to_owned()
                } else {
                    format!("event {n}\n")
                }
            })
            .collect();
        gate.send(lines.as_bytes());
        let stats = gate.settled(1_000);
        let rule = &stats["rules"][0];
        assert_eq!(
            (&rule["failed"], &rule["failed_dropped"]),
            (&json!(0), &json!(1)),
            "{sin}: {rule}"
        );
        assert_eq!(
            (&rule["bypassed"], &rule["failures"][reason]),
            (&json!(0), &json!(1)),
            "{sin}: {rule}"
        );
        gate.stdout
            .wait_for(lines.replace("poison\n", "").as_bytes());
        let failure = &status_of(&gate, "sinner")["wasm"]["last_failure"];
        assert_eq!(failure["reason"], reason, "{sin}: {failure}");
        let line =
            format!("streamgate_wasm_failed_events_total{{rule=\"sinner\",reason=\"{reason}\"}} 1");
        let metrics = metrics(&gate);
        assert!(
            metrics.lines().any(|found| found.starts_with(&line)),
            "{sin}: {metrics}"
        );
        assert!(gate.logged("a WASM rule failed").is_some(), "{sin}");
    }
}

#[test]
fn a_guest_that_always_fails_is_left_alone_until_it_is_well() {
    let gate = Setup::new().start();
    upload(&gate, "misbehave", &bytes_of("misbehave"));
    gate.run(
        &json!([rule("sinner", "misbehave", &json!({"sin": "loop"}))]),
        &[],
    );
    let lines = "event\n".repeat(500);
    gate.send(lines.as_bytes());
    let stats = gate.settled(500);
    let rule = &stats["rules"][0];
    assert!(rule["bypassed_by_breaker"].as_u64() > Some(400), "{rule}");
    gate.stdout.wait_for(lines.as_bytes());
    let status = status_of(&gate, "sinner");
    assert_eq!(
        (&status["state"], &status["reason"]),
        (&json!("bypassed"), &json!("breaker"))
    );
    for gauge in ["breaker_open", "quarantined"] {
        let line = format!("streamgate_wasm_{gauge}{{rule=\"sinner\"}} 1");
        assert!(metrics(&gate).contains(&line), "{gauge}");
    }
    assert!(
        gate.logged("a WASM rule keeps failing; its breaker is open")
            .is_some()
    );
}

#[test]
fn a_privacy_rule_that_fails_withholds_and_never_repeats_its_words() {
    let gate = Setup::new().start();
    upload(&gate, "misbehave", &bytes_of("misbehave"));
    let mut private = rule(
        "private",
        "misbehave",
        &json!({"sin": "error", "on": "123-45-6789"}),
    );
    private["params"]["privacy"] = json!(true);
    gate.run(&json!([private]), &[]);
    gate.send(b"harmless\nssn 123-45-6789\n");
    gate.stdout
        .wait_for(b"harmless\n[withheld by streamgate]\n");
    let failure = &status_of(&gate, "private")["wasm"]["last_failure"];
    assert!(
        failure["message"].to_string().contains("not repeated"),
        "{failure}"
    );
    gate.edit(
        "PUT",
        "/rules",
        &json!([{"id": "private", "type": "wasm", "params": {
            "module": "misbehave", "privacy": true, "config": {"sin": "trap"},
        }}]),
    );
    gate.publish();
    for _ in 0..3 {
        gate.send(&b"ssn 123-45-6789\n".repeat(100));
    }
    gate.settled(302);
    let everything = gate.stdout.text() + &gate.stderr.text() + &gate.get("/status").to_string();
    assert!(!everything.contains("123-45-6789"), "it leaked");
    assert_eq!(status_of(&gate, "private")["state"], "withheld");
}

#[test]
fn what_a_guest_logs_and_counts_is_bounded_and_shown() {
    let gate = Setup::new().start();
    upload(&gate, "misbehave", &bytes_of("misbehave"));
    let mut rules = json!([
        rule("talker", "misbehave", &json!({"sin": "log_flood"})),
        rule("counter", "misbehave", &json!({"sin": "count_flood"})),
    ]);
    for rule in rules.as_array_mut().expect("a list") {
        rule["params"]["limits"] = json!({"batch_ms": 10_000});
    }
    gate.run(&rules, &[]);
    gate.send(b"event\n");
    gate.settled(1);
    let said = gate
        .log()
        .iter()
        .filter(|line| line["message"] == "guest")
        .count();
    assert!((1..=30).contains(&said), "{said} lines");
    let suppressed = &status_of(&gate, "talker")["wasm"]["log_suppressed"];
    assert!(suppressed.as_u64() > Some(9_000), "{suppressed}");
    let metrics = metrics(&gate);
    let counters = metrics
        .matches("streamgate_guest_count_total{rule=\"counter\"")
        .count();
    assert_eq!(counters, 32, "{metrics}");
}

#[test]
fn a_gate_without_wasm_rules_starts_no_engine() {
    let gate = Setup::new().start();
    gate.run(
        &json!([{"id": "f", "type": "filter", "params": {"value": "DEBUG"}}]),
        &[],
    );
    gate.send(b"DEBUG\nINFO\n");
    gate.stdout.wait_for(b"INFO\n");
    assert!(
        !gate.threads().contains(&"wasm-clock".to_owned()),
        "{:?}",
        gate.threads()
    );
    let address_space = gate.address_space_bytes();
    assert!(
        address_space < 8 << 30,
        "{address_space} bytes are reserved"
    );
    upload(&gate, "keep-all", &bytes_of("keep-all"));
    assert!(
        gate.threads().contains(&"wasm-clock".to_owned()),
        "{:?}",
        gate.threads()
    );
    assert!(gate.address_space_bytes() > address_space);
}

#[test]
fn authors_make_test_and_push_a_module_with_the_cli() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cli = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_streamgate"))
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .expect("the binary was built");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let module = guest("drop-keyword").display().to_string();
    let config = r#"{"keyword": "DEBUG"}"#;
    fs::write(directory.path().join("events"), "INFO a\nDEBUG b\n\nlast").expect("it is ours");
    let test = [
        "module", "test", &module, "--config", config, "--input", "events",
    ];
    let (well, out, err) = cli(&test);
    assert!(well, "{err}");
    assert_eq!(out, "kept\tINFO a\ndropped\tDEBUG b\nkept\t\nkept\tlast\n");
    assert!(err.contains("4 events: 3 kept, 1 dropped"), "{err}");

    let golden = |more: &[&str]| cli(&[&test[..], &["--golden", "golden"], more].concat());
    assert!(golden(&["--update"]).0);
    assert!(golden(&[]).0);
    fs::write(
        directory.path().join("golden"),
        "kept\tINFO a\nkept\tDEBUG b\n",
    )
    .expect("ours");
    let (well, out, err) = golden(&[]);
    assert!(
        !well && out.contains("line 2:") && err.contains("3 events are not as"),
        "{out}{err}"
    );

    let (well, _, err) = cli(&[
        "module", "test", &module, "--config", "{}", "--input", "events",
    ]);
    assert!(!well && err.contains("refuses its config"), "{err}");
    let (well, _, err) = cli(&["module", "test", "events", "--input", "events"]);
    assert!(!well && err.contains("no WASM"), "{err}");

    let gate = Setup::new().start();
    let control = format!("http://{}", gate.control());
    let push = [
        "module",
        "push",
        &module,
        "--name",
        "mine",
        "--control",
        &control,
    ];
    let (well, out, err) = cli(&push);
    assert!(well && out.contains("added `mine`"), "{out}{err}");
    let events = [
        "module",
        "push",
        "events",
        "--name",
        "mine",
        "--control",
        &control,
    ];
    let (well, _, err) = cli(&events);
    assert!(!well && err.contains("no WASM"), "{err}");
    assert_eq!(gate.get("/modules")[0]["name"], "mine");
}

#[test]
fn the_template_is_a_crate_that_tests_and_builds() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let run = |program: &str, arguments: &[&str], folder: &str| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(directory.path().join(folder))
            // One build of what the tests of the repository have built, too.
            .env(
                "CARGO_TARGET_DIR",
                guest("keep-all").with_file_name("template"),
            )
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        said
    };
    let gate = env!("CARGO_BIN_EXE_streamgate");
    let sdk = format!("{root}/guest-sdk");
    run(gate, &["module", "new", "my-rule", "--sdk", &sdk], ".");
    // The lock of the repository: the template must build with what the repository has.
    fs::copy(
        format!("{root}/Cargo.lock"),
        directory.path().join("my-rule/Cargo.lock"),
    )
    .expect("both are there");
    run(env!("CARGO"), &["test", "--quiet", "--offline"], "my-rule");
    let again = Command::new(gate)
        .args(["module", "new", "my-rule"])
        .current_dir(directory.path())
        .output()
        .expect("it runs");
    assert!(!again.status.success(), "nothing is overwritten");
}

#[test]
fn an_upload_is_live_quickly_and_its_state_goes_on_when_other_rules_change() {
    let gate = Setup::new().start();
    upload(&gate, "keep-first", &bytes_of("keep-first"));
    let keep = |more: &[Value]| {
        let mut rules = vec![rule(
            "first",
            "keep-first",
            &json!({"first": 2, "window_seconds": 86_400}),
        )];
        rules.extend_from_slice(more);
        Value::Array(rules)
    };
    gate.run(&keep(&[]), &[]);
    gate.send(b"same 1\nsame 2\nsame 3\n");
    gate.stdout.wait_for(b"same 1\nsame 2\n");
    gate.settled(3);
    gate.run(
        &keep(&[json!({"id": "f", "type": "filter", "params": {"value": "DEBUG"}})]),
        &[],
    );
    gate.send(b"same 4\nother\n");
    gate.stdout.wait_for(b"same 1\nsame 2\nother\n");
    let started = &status_of(&gate, "first")["wasm"]["instances_started"];
    let workers = gate.get("/status")["workers"].clone();
    assert_eq!(
        *started, workers,
        "instances of a rule that did not change go on"
    );
    let quiet = holds_within(std::time::Duration::ZERO, || {
        gate.stdout.text().contains("same 4")
    });
    assert!(!quiet, "it remembered");
    eventually("it is counted", || {
        metrics(&gate).contains("streamgate_guest_count_total{rule=\"first\"")
    });
}
