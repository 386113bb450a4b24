//! Rules that look at every event allocate nothing for one, once their scratch space has grown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use streamgate_guest::{Batch, Processor};
use streamgate_processors::{Builtin, Clock, OnError};

const EVENTS: usize = 1_000;

#[test]
fn no_event_costs_an_allocation_in_the_steady_state() {
    let status = json!({"attribute": "status", "operator": "gte", "value": 500});
    for (kind, params) in [
        ("sample", json!({"rate": 0.1})),
        ("sample", json!({"rate": 0.1, "except": {"value": "ERROR"}})),
        ("sample", json!({"rate": 0.1, "record_rate": "n"})),
        ("sample", json!({"rate": 0.1, "key": "trace_id"})),
        (
            "sample",
            json!({"rate": 0.1, "key": ["trace_id", "service.name"], "except": status, "record_rate": "n"}),
        ),
        ("sample", json!({"target_per_second": 100})),
        (
            "sample",
            json!({"target_per_second": 100, "key": "service.name", "record_rate": "n"}),
        ),
        ("attribute_filter", status),
        (
            "attribute_filter",
            json!({"any": [
                {"path": "service.name", "operator": "in", "values": ["a", "b", 3]},
                {"path": "items[*].id", "operator": "not_equals", "value": 7},
                {"path": "level", "operator": "contains", "value": "RR"},
            ]}),
        ),
        ("dedupe", json!({"window_seconds": 0.05})),
        (
            "dedupe",
            json!({"key": "trace_id", "window_seconds": 0.05, "count_field": "n", "max_keys": 2000}),
        ),
        ("throttle", json!({"per_second": 100})),
        (
            "throttle",
            json!({"per_second": 10, "key": "trace_id", "max_keys": 2000}),
        ),
    ] {
        check(kind, &params);
    }
}

fn check(kind: &str, params: &Value) {
    let built = Builtin::build(kind, params.as_object().expect("an object"), OnError::Pass);
    let now_ms = Arc::new(AtomicU64::new(0));
    let hand = Arc::clone(&now_ms);
    let clock = Clock::new(move || Duration::from_millis(hand.load(Ordering::Relaxed)));
    let mut rule = built.expect("valid").for_worker(1, &clock);
    let mut batch = Batch::new(vec![0; 1 << 20]);
    let mut run = |from: usize| -> u64 {
        let lines: String = (from..from + EVENTS).map(event).collect();
        batch.set_filled(0);
        batch.buffer_mut()[..lines.len()].copy_from_slice(lines.as_bytes());
        batch.set_filled(lines.len());
        now_ms.fetch_add(10, Ordering::Relaxed);
        let measured = allocation_counter::measure(|| {
            rule.process(&mut batch);
        });
        measured.count_total
    };
    // Long enough for every key to have come by, and for shares to have been computed.
    for round in 0..200 {
        run(round % 20 * 50);
    }
    let counts: u64 = (0..50).map(|round| run(round % 20 * 50)).sum();
    // Of 50,000 events; a vector may still double once.
    assert!(counts <= 3, "{kind} {params}: {counts}");
}

fn event(number: usize) -> String {
    let level = ["INFO", "WARN", "ERROR"][number % 3];
    format!(
        "{{\"level\":\"{level}\",\"status\":{},\"service\":{{\"name\":\"s{}\"}},\
         \"trace_id\":\"{number:032x}\",\"items\":[{{\"id\":1}},{{\"id\":{number}}}]}}\n",
        200 + number % 400,
        number % 10,
    )
}
