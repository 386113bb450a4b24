//! WASM rules without a gate around them: what a guest is given, what it answers, and what becomes
//! of a batch when it breaks the contract. Real modules, built from this repository.

use std::{
    fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use serde_json::{Value, json};
use streamgate::{
    digest::Digest,
    manifest::Rule,
    wasm::{Compiler, Module, Params, Ran, Reason, Runner, Stack, Wasm, WasmRule},
};
use streamgate_guest::{Batch, Processor, WITHHELD};
use streamgate_processors::{Builtin, OnError, TYPES};

use crate::support::guest;

/// The host of all these tests.
fn host() -> &'static Wasm {
    static HOST: OnceLock<Wasm> = OnceLock::new();
    HOST.get_or_init(|| Wasm::new(1, Compiler::Here, None))
}

fn module(name: &str, stack: Stack) -> Arc<Module> {
    let bytes = fs::read(guest(name)).expect("it was built");
    host()
        .load(Digest::of(&bytes), &bytes, stack)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Builds the rule of a module; `more` are fields of the rule and of its params.
fn rule(name: &str, config: &Value, more: &Value) -> Result<Arc<WasmRule>, String> {
    let mut params = json!({"module": name, "config": config});
    for field in ["privacy", "limits"] {
        if let Some(value) = more.get(field) {
            params[field] = value.clone();
        }
    }
    let mut rule = json!({"id": "under_test", "type": "wasm", "params": params});
    if let Some(on_error) = more.get("on_error") {
        rule["on_error"] = on_error.clone();
    }
    let rule: Rule = serde_json::from_value(rule).expect("a rule");
    let params = Params::parse(&rule).map_err(|fault| fault.to_string())?;
    WasmRule::build(&rule, &params, module(name, params.limits.stack()), 1, None)
        .map(Arc::new)
        .map_err(|fault| fault.to_string())
}

fn runner(name: &str, config: &Value, more: &Value) -> Runner {
    Runner::new(rule(name, config, more).unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn run(runner: &mut Runner, lines: &str) -> (String, Ran) {
    let mut batch = Batch::from_lines(lines);
    let before = batch.events() as u64;
    let ran = runner.run(&mut batch);
    let after = batch.events() as u64;
    assert_eq!(
        before,
        after + ran.tally.dropped + ran.tally.failed_dropped,
        "{ran:?}"
    );
    let failures: u64 = ran.failures.iter().sum();
    assert_eq!(
        failures,
        ran.tally.failed + ran.tally.failed_dropped,
        "{ran:?}"
    );
    let left: Vec<u8> = batch.slices().flatten().copied().collect();
    (String::from_utf8(left).expect("text went in"), ran)
}

#[test]
fn native_rules_and_the_same_rules_as_guests_leave_the_same_bytes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../builtin-processors/testdata");
    let mut compared = 0;
    for kind in TYPES {
        let text = fs::read_to_string(folder.join(format!("{kind}.toml"))).expect("its cases");
        let cases: Value = toml::from_str(&text).expect("TOML");
        for case in cases["case"].as_array().expect("a list") {
            let params = case["params"].as_object().expect("a table");
            let name = format!("{kind}: {}", case["name"]);
            let native = Builtin::build(kind, params, OnError::Pass);
            let config = json!({"type": kind, "params": params, "on_error": "pass"});
            let guest = rule("builtin", &config, &json!({}));
            // A guest reads no files and has no environment: the key of a hash is out of its reach.
            if params
                .get("key")
                .and_then(Value::as_str)
                .is_some_and(is_reference)
            {
                guest.expect_err(&name);
                continue;
            }
            let (mut native, guest) = match (native, guest) {
                (Ok(native), Ok(guest)) => (native, guest),
                (Err(fault), Err(refusal)) => {
                    assert!(refusal.contains(&fault.to_string()), "{name}: {refusal}");
                    continue;
                }
                (native, guest) => panic!("{name}: {native:?}, but {guest:?}"),
            };
            // At random, so that it is no other share natively than in a guest, only other events.
            if kind == "sample"
                && !params.contains_key("key")
                && params["rate"].as_f64() != Some(0.0)
            {
                continue;
            }
            let mut guest = Runner::new(guest);
            let events = case["in"].as_array().into_iter().flatten();
            let events: Vec<&str> = events.filter_map(Value::as_str).collect();
            for terminator in ["\n", "\r\n"] {
                let lines: String = events
                    .iter()
                    .flat_map(|event| [event, terminator])
                    .collect();
                let mut batch = Batch::from_lines(lines.clone());
                native.process(&mut batch);
                let expected: Vec<u8> = batch.slices().flatten().copied().collect();
                let (left, _) = run(&mut guest, &lines);
                assert_eq!(left, String::from_utf8_lossy(&expected), "{name}");
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "only {compared} were compared");
}

fn is_reference(key: &str) -> bool {
    key.starts_with("file:") || key.starts_with("env:")
}

#[test]
fn keywords_are_dropped_and_terminators_kept() {
    let mut runner = runner("drop-keyword", &json!({"keyword": "DEBUG"}), &json!({}));
    let (left, ran) = run(&mut runner, "INFO a\r\nDEBUG b\n\nx DEBUG\nlast\n");
    assert_eq!(left, "INFO a\r\n\nlast\n");
    assert_eq!(
        (ran.tally.dropped, ran.tally.failed, ran.bypassed),
        (2, 0, 0)
    );
}

#[test]
fn line_feeds_in_a_new_body_forge_no_event() {
    let mut runner = runner("misbehave", &json!({"sin": "line_feeds"}), &json!({}));
    let (left, ran) = run(&mut runner, "a\r\nb\n");
    assert_eq!(left, "one two\r\none two\n");
    assert_eq!(ran.tally.changed, 2);
}

/// A sin, what counts as its reason, and what the config needs beside it.
const SINS: [(&str, Reason); 18] = [
    ("loop", Reason::Deadline),
    ("bulk_copy", Reason::Deadline),
    ("memory_bomb", Reason::Memory),
    ("stack_overflow", Reason::Stack),
    ("trap", Reason::Trap),
    ("panic", Reason::Trap),
    ("wrong_index", Reason::Answer),
    ("repeated", Reason::Answer),
    ("dropped_and_replaced", Reason::Answer),
    ("wrong_ends", Reason::Answer),
    ("short_ends", Reason::Answer),
    ("missing_ends", Reason::Answer),
    ("giant_answer", Reason::Answer),
    ("many_answers", Reason::Answer),
    ("error", Reason::Error),
    // Those that need two events do nothing to one.
    ("unordered", Reason::Answer),
    ("descending_ends", Reason::Answer),
    ("none", Reason::Answer),
];

#[test]
fn only_the_poisonous_event_meets_on_error_whatever_the_sin() {
    for (sin, reason) in SINS {
        let config = json!({"sin": sin, "on": "poison"});
        // So that a slow machine does not make another sin of it.
        let batch_ms = if reason == Reason::Deadline {
            50
        } else {
            10_000
        };
        let more = json!({"on_error": "mask", "limits": {"batch_ms": batch_ms}});
        let mut runner = runner("misbehave", &config, &more);
        // Around it, in the same batch: events in more than one slice.
        let mut batch = Batch::from_lines("a\nb\ndropped before\nc\nthe poison\r\nd\ne\n");
        batch.retain(|event| !event.body().starts_with(b"dropped"));
        let ran = runner.run(&mut batch);
        let left: Vec<u8> = batch.slices().flatten().copied().collect();
        let left = String::from_utf8(left).expect("text went in");
        let withheld = String::from_utf8_lossy(WITHHELD);
        let harmless = matches!(sin, "none" | "descending_ends" | "unordered");
        if !harmless {
            assert_eq!(left, format!("a\nb\nc\n{withheld}\r\nd\ne\n"), "{sin}");
            let mut expected = [0; Reason::ALL.len()];
            expected[reason as usize] = 1;
            assert_eq!(ran.failures, expected, "{sin}");
            assert_eq!((ran.tally.failed, ran.bypassed), (1, 0), "{sin}");
        }
        let (left, ran) = run(&mut runner, "f\ng\n");
        assert_eq!(
            (left.as_str(), ran),
            ("f\ng\n", Ran::default()),
            "after {sin}"
        );
    }
}

#[test]
fn on_error_says_what_becomes_of_the_poisonous_event() {
    let config = json!({"sin": "trap", "on": "poison"});
    for (more, expected) in [
        (json!({}), "a\npoison\nb\n"),
        (json!({"on_error": "pass"}), "a\npoison\nb\n"),
        (json!({"on_error": "drop"}), "a\nb\n"),
        (
            json!({"on_error": "mask"}),
            "a\n[withheld by streamgate]\nb\n",
        ),
        (json!({"privacy": true}), "a\n[withheld by streamgate]\nb\n"),
    ] {
        let mut runner = runner("misbehave", &config, &more);
        let (left, ran) = run(&mut runner, "a\npoison\nb\n");
        assert_eq!(left, expected, "{more}");
        assert_eq!(ran.failures[Reason::Trap as usize], 1, "{more}");
    }
}

#[test]
fn a_rule_that_always_fails_is_left_alone_and_leaks_nothing() {
    let config = json!({"sin": "trap"});
    let lines: String = (0..100).map(|n| format!("event {n}\n")).collect();

    let mut open = runner("misbehave", &config, &json!({}));
    let (left, ran) = run(&mut open, &lines);
    assert_eq!(left, lines);
    assert_eq!(ran.tally.failed + ran.bypassed, 100);
    assert!(ran.bypassed > 50, "{ran:?}");
    assert!(open.rule().status().breaker_open);

    let mut closed = runner("misbehave", &config, &json!({"privacy": true}));
    for _ in 0..2 {
        let (left, ran) = run(&mut closed, &lines);
        assert_eq!(left, "[withheld by streamgate]\n".repeat(100));
        assert_eq!((ran.tally.failed, ran.bypassed), (100, 0));
        assert!(ran.failures[Reason::Breaker as usize] > 50, "{ran:?}");
    }
}

#[test]
fn a_breaker_closes_when_the_guest_is_well_again() {
    let mut runner = runner(
        "misbehave",
        &json!({"sin": "trap", "on": "poison"}),
        &json!({}),
    );
    run(&mut runner, &"poison\n".repeat(100));
    assert!(runner.rule().status().breaker_open);
    crate::support::eventually("the breaker closes", || {
        run(&mut runner, "harmless\n");
        !runner.rule().status().breaker_open
    });
    let (_, ran) = run(&mut runner, "harmless\npoison\n");
    assert_eq!((ran.tally.failed, ran.bypassed), (1, 0));
    assert_eq!(runner.rule().status().breaker_opened, 1);
}

#[test]
fn a_guest_that_spins_is_put_into_quarantine_and_still_serves() {
    let config = json!({"sin": "loop", "on": "poison"});
    let mut runner = runner("misbehave", &config, &json!({"limits": {"batch_ms": 5}}));
    run(&mut runner, "harmless\n");
    assert!(!runner.rule().status().quarantined);
    let (left, ran) = run(&mut runner, "harmless\npoison\n");
    assert_eq!((left.as_str(), ran.tally.failed), ("harmless\npoison\n", 1));
    assert!(runner.rule().status().quarantined);
    let (left, ran) = run(&mut runner, "poison\nharmless\n");
    assert_eq!((left.as_str(), ran.tally.failed), ("poison\nharmless\n", 1));
    assert_eq!(ran.bypassed, 0);
}

#[test]
fn configs_are_refused_in_the_words_of_the_guest() {
    let refusal = |name, config| rule(name, &config, &json!({})).expect_err("it is refused");
    let words = refusal("misbehave", json!({"sin": "configure_error"}));
    assert!(words.contains("configured to refuse"), "{words}");
    assert!(words.starts_with("/params/config: "), "{words}");
    let words = refusal("drop-keyword", json!({"keyword": 3}));
    assert!(words.contains("keyword"), "{words}");
    let words = refusal("misbehave", json!({"sin": "configure_panic"}));
    assert!(
        words.contains("module_failed") || words.contains("trap"),
        "{words}"
    );
    let words = refusal("misbehave", json!({"sin": "configure_loop"}));
    assert!(words.contains("limit of 1000 ms"), "{words}");
}

#[test]
fn limits_out_of_range_are_refused() {
    for (limits, field) in [
        (json!({"memory_bytes": 1}), "memory_bytes"),
        (json!({"memory_bytes": 1_u64 << 33}), "memory_bytes"),
        (json!({"batch_ms": 0}), "batch_ms"),
        (json!({"configure_ms": 1_000_000}), "configure_ms"),
        (json!({"stack_bytes": 4096}), "stack_bytes"),
        (json!({"output_bytes": 0}), "output_bytes"),
        (json!({"log_per_second": 100_000}), "log_per_second"),
        (json!({"bogus": 1}), "limits"),
    ] {
        let error = rule("keep-all", &json!({}), &json!({"limits": limits})).expect_err("refused");
        assert!(
            error.starts_with(&format!("/params/limits/{field}")) || field == "limits",
            "{error}"
        );
    }
}

#[test]
fn limits_are_those_of_the_rule() {
    let slow = json!({"sin": "slow", "size": 200_000_000});
    let mut patient = runner("misbehave", &slow, &json!({"limits": {"batch_ms": 10_000}}));
    assert_eq!(run(&mut patient, "a\n").1, Ran::default());
    let mut hasty = runner("misbehave", &slow, &json!({"limits": {"batch_ms": 1}}));
    assert_eq!(
        run(&mut hasty, "a\n").1.failures[Reason::Deadline as usize],
        1
    );

    let giant = json!({"sin": "giant_answer", "size": 1_000_000});
    let mut bounded = runner("misbehave", &giant, &json!({}));
    assert_eq!(
        run(&mut bounded, "a\n").1.failures[Reason::Answer as usize],
        1
    );
    let wide = json!({"limits": {"output_bytes": 2_000_000}});
    let mut wide = runner("misbehave", &giant, &wide);
    let (left, _) = run(&mut wide, &"a\n".repeat(200_000));
    assert!(left.starts_with("xxx"), "{}", &left[..10]);
}

#[test]
fn calls_go_as_deep_as_the_stack_of_the_rule() {
    let deep = json!({"sin": "deep", "size": 6_000});
    let failures = |stack_bytes: usize| {
        let limits = json!({"limits": {"stack_bytes": stack_bytes}});
        let ran = run(&mut runner("misbehave", &deep, &limits), "a\n").1;
        ran.failures[Reason::Stack as usize]
    };
    assert_eq!(failures(1 << 20), 0);
    assert_eq!(failures(512 << 10), 0);
    assert_eq!(failures(64 << 10), 1);
}

#[test]
fn a_guest_that_leaks_starts_afresh_before_it_fails() {
    let leak = json!({"sin": "leak"});
    let more = json!({"limits": {"memory_bytes": 8 << 20}});
    let mut runner = runner("misbehave", &leak, &more);
    for _ in 0..100 {
        let (left, ran) = run(&mut runner, "a\n");
        assert_eq!((left.as_str(), ran), ("a\n", Ran::default()));
    }
    let activity = runner.rule().status().activity;
    assert!(activity.instances_started > 5, "{activity:?}");
    assert_eq!(activity.instances, 1, "{activity:?}");
    assert!(activity.memory_bytes <= 8 << 20, "{activity:?}");
}

#[test]
fn floods_of_log_lines_and_counters_are_bounded() {
    let patient = json!({"limits": {"batch_ms": 10_000}});
    let mut logs = runner("misbehave", &json!({"sin": "log_flood"}), &patient);
    run(&mut logs, "a\n");
    let activity = logs.rule().status().activity;
    assert_eq!(
        activity.log_lines + activity.log_suppressed,
        10_000,
        "{activity:?}"
    );
    assert!(activity.log_lines <= 30, "{activity:?}");

    let mut counts = runner("misbehave", &json!({"sin": "count_flood"}), &patient);
    run(&mut counts, "a\n");
    let activity = counts.rule().status().activity;
    assert_eq!(activity.counters.len(), 32, "{activity:?}");
    assert_eq!(activity.counts_left_out, 10_000 - 32 + 6, "{activity:?}");
}

#[test]
fn memory_of_one_instance_is_never_seen_by_the_next() {
    // A slot of the pool is used again; what the last one had in it must be gone.
    let canary = json!({"keyword": "canary-7f3a"});
    for _ in 0..50 {
        drop(runner("drop-keyword", &canary, &json!({})));
    }
    for _ in 0..50 {
        let mut next = runner("drop-keyword", &json!({"keyword": "other"}), &json!({}));
        let (left, _) = run(&mut next, "canary-7f3a\nother\n");
        assert_eq!(left, "canary-7f3a\n");
    }
}
