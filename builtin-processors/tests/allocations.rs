//! In the steady state no rule allocates for an event.

use allocation_counter::measure;
use serde_json::{Value, json};
use streamgate_guest::{Batch, Processor};
use streamgate_processors::{Builtin, Clock, OnError};

fn lines() -> Vec<u8> {
    (0..500)
        .map(|n| {
            let level = if n % 5 == 0 { "DEBUG" } else { "INFO" };
            format!(
                "2026-11-23T08:10:{:02}.{n:06}Z {level} id={n} status=200 v1.2.{n}\n",
                n % 60
            )
        })
        .collect::<String>()
        .into_bytes()
}

/// Counts the allocations of a batch, when others went before it.
fn allocations(kind: &str, params: &Value) -> u64 {
    let params = params.as_object().expect("is an object");
    let mut rule = Builtin::build(kind, params, OnError::Mask)
        .expect("is valid")
        .for_worker(1, &Clock::default());
    let lines = lines();
    let mut batch = Batch::new(vec![0; lines.len()]);
    let mut counted = 0;
    for _ in 0..3 {
        batch.buffer_mut().copy_from_slice(&lines);
        batch.set_filled(lines.len());
        counted = measure(|| _ = rule.process(&mut batch)).count_total;
    }
    counted
}

#[test]
fn rules_allocate_nothing_in_the_steady_state() {
    for (kind, params) in [
        ("filter", json!({"value": "DEBUG"})),
        ("filter", json!({"values": ["DEBUG", "TRACE"]})),
        ("filter", json!({"pattern": r"id=\d*7\b"})),
        ("redact", json!({"pattern": r"\d{3}-\d{2}-\d{4}"})),
        (
            "redact",
            json!({"pattern": r"id=1\d\d\b", "replacement": "id=###"}),
        ),
        (
            "redact",
            json!({"detectors": ["credit_card", "email", "ipv4"]}),
        ),
        ("sample", json!({"rate": 0.5})),
    ] {
        assert_eq!(allocations(kind, &params), 0, "{kind} {params}");
    }
}
