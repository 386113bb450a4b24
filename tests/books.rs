//! The books balance at every moment, not only at rest: [`Gate::stats`] asserts it at each look.

use std::{
    io::Write,
    net::Shutdown,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use serde_json::json;

use crate::support::{Body, Gate, HttpReceiver, Request, Setup, TcpReceiver, eventually};

#[test]
fn books_balance_while_everything_moves() {
    const ROUNDS: u64 = 60;
    let fast = TcpReceiver::start();
    let posts = HttpReceiver::start();
    let gone = TcpReceiver::absent();
    let gate = Setup::new()
        .flag("memory-budget", "32MiB")
        .flag("workers", "2")
        .start();
    let outputs = [
        json!({"id": "fast", "type": "tcp", "address": fast.address().to_string()}),
        json!({"id": "posts", "type": "http", "url": posts.url()}),
        json!({"id": "gone", "type": "tcp", "address": gone.address().to_string()}),
    ];
    gate.run(&rules(0), &outputs);
    let (finished, looks) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| over_tcp(&gate, ROUNDS, &finished));
        }
        scope.spawn(|| over_http(&gate, ROUNDS, &finished));
        scope.spawn(|| {
            for round in 0..ROUNDS {
                gate.send_datagram(&lines(round));
                gate.edit("PUT", "/rules", &rules(round));
                gate.publish();
            }
            finished.fetch_add(1, Ordering::SeqCst);
        });
        eventually("all senders are done", || {
            gate.stats();
            looks.fetch_add(1, Ordering::SeqCst);
            finished.load(Ordering::SeqCst) == 4
        });
    });
    assert!(looks.into_inner() > 5, "it was looked at meanwhile");
    eventually("the workers are done", || gate.pipeline()["in_flight"] == 0);
    let stats = gate.pipeline();
    assert_eq!(stats["received"], 4 * ROUNDS * LINES, "{stats:#}");
    for account in ["filtered", "sampled"] {
        assert!(stats[account].as_u64() > Some(0), "{account}: {stats:#}");
    }
    // A removed output gives up what it cannot send, and says so.
    let queued = stats["outputs"][2]["queued"].clone();
    assert!(queued.as_u64() > Some(0), "{stats:#}");
    gate.run(&rules(0), &outputs[..2]);
    eventually("the removed output gives up", || {
        gate.pipeline()["removed_outputs"] == json!({"queued": 0, "discarded": queued})
    });
    gate.settled(4 * ROUNDS * LINES);
    gate.stop();
}

/// Events of one send.
const LINES: u64 = 500;

fn lines(round: u64) -> Vec<u8> {
    let line = |at: u64| match at % 3 {
        0 => format!("DEBUG {round} {at} nothing\n"),
        1 => format!("INFO {round} {at} user@example.com\n"),
        _ => format!("{{\"level\": \"INFO\", \"trace_id\": \"{at}\"}}\n"),
    };
    (0..LINES).flat_map(|at| line(at).into_bytes()).collect()
}

fn rules(round: u64) -> serde_json::Value {
    json!([
        {"id": "debug", "type": "filter", "params": {"value": "DEBUG"}},
        {"id": "mail", "type": "redact", "params": {
            "pattern": "\\w+@\\w+\\.com", "replacement": format!("<{round}>"),
        }},
        {"id": "half", "type": "sample", "params": {"rate": 0.5, "key": "trace_id"}},
    ])
}

fn over_tcp(gate: &Gate, rounds: u64, finished: &AtomicU64) {
    let mut stream = gate.connect();
    for round in 0..rounds {
        stream.write_all(&lines(round)).expect("the gate reads");
    }
    stream.shutdown(Shutdown::Write).expect("it is connected");
    finished.fetch_add(1, Ordering::SeqCst);
}

fn over_http(gate: &Gate, rounds: u64, finished: &AtomicU64) {
    for round in 0..rounds {
        let body = lines(round);
        let post = Request::new("POST", "/ingest").body(Body::Whole(&body));
        eventually("the request is taken", || gate.ingest(&post).status == 202);
    }
    finished.fetch_add(1, Ordering::SeqCst);
}
