//! The end: what was accepted is sent, within the grace period, and no later.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Body, Gate, HttpReceiver, PATIENCE, Reply, Request, Setup, TcpReceiver, eventually, lines_of,
    request,
};

#[test]
fn what_was_accepted_under_load_is_sent() {
    const CONNECTIONS: usize = 4;
    let receiver = TcpReceiver::start();
    let mut gate = Setup::new().sending_to(receiver.address()).start();
    let streams: Vec<_> = (0..CONNECTIONS).map(|_| gate.connect()).collect();
    let ended = thread::scope(|scope| {
        for (number, mut stream) in streams.into_iter().enumerate() {
            scope.spawn(move || {
                // Until the gate closes the connection.
                for at in 0_u64.. {
                    let first = at * 100;
                    let lines: String = (first..first + 100)
                        .map(|at| format!("{number} {at:012}\n"))
                        .collect();
                    if stream.write_all(lines.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
        eventually("events flow", || receiver.received.len() > 1_000_000);
        gate.terminate();
        gate.wait()
    });
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let last = ended
        .logged("stopped")
        .expect("the last figures are logged");
    assert_eq!(last["in_flight"], 0);
    assert_eq!(last["received"], last["delivered_to_chain_end"]);
    let received = last["received"].as_u64().expect("a number");
    let arrived = || lines_of(&receiver.received.bytes()).count() as u64;
    eventually("everything arrives", || arrived() >= received);
    assert_eq!(arrived(), received);
    in_order(&receiver.received.text());
}

/// Each connection's events are 0, 1, 2, ...; only the last may be cut.
fn in_order(events: &str) {
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    let mut cut: Vec<&str> = Vec::new();
    for line in events.lines() {
        let connection = line.get(..1).expect("a line is not empty");
        assert!(!cut.contains(&connection), "an event after a cut one");
        let next = next.entry(connection).or_default();
        let expected = format!("{connection} {next:012}");
        if line != expected {
            assert!(expected.starts_with(line), "`{line}` and not `{expected}`");
            cut.push(connection);
        }
        *next += 1;
    }
}

#[test]
fn requests_and_datagrams_that_were_accepted_are_sent() {
    let receiver = HttpReceiver::start();
    let output = json!([{"id": "out", "type": "http", "url": receiver.url()}]);
    let mut gate = Setup::new().manifest(&json!([]), &output).start();
    let lines = b"over HTTP\n".repeat(50_000);
    let post = Request::new("POST", "/ingest").body(Body::Whole(&lines));
    gate.ingest(&post).expect(202);
    for _ in 0..100 {
        gate.send_datagram(b"over UDP\n");
    }
    gate.terminate();
    let ended = gate.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let taken = receiver.taken();
    let count = |line: &[u8]| lines_of(&taken).filter(|found| *found == line).count();
    assert_eq!(count(b"over HTTP\n"), 50_000);
    assert_eq!(count(b"over UDP\n"), 100);
}

#[test]
fn connections_are_closed_and_new_ones_refused() {
    // The hanging request holds the end up, so that there is something to look at.
    let receiver = HttpReceiver::answering(|_| Reply::Hang);
    let mut gate = hanging(&receiver, "60s");
    let mut lines = gate.connect();
    let mut idle = std::net::TcpStream::connect(gate.http()).expect("the gate listens");
    idle.set_read_timeout(Some(PATIENCE)).expect("an option");
    lines.write_all(b"half a line").expect("the gate reads");
    eventually("the gate has it", || {
        gate.get("/status")["memory"]["used_bytes"].as_u64() > Some(0)
    });
    gate.terminate();
    let mut rest = Vec::new();
    assert_eq!(lines.read_to_end(&mut rest).expect("in order"), 0);
    assert_eq!(idle.read_to_end(&mut rest).expect("in order"), 0);
    for address in [gate.tcp(), gate.http()] {
        eventually("the door is closed", || {
            std::net::TcpStream::connect_timeout(&address, PATIENCE).is_err()
        });
    }
    // One can watch the drain.
    let stats = gate.stats();
    assert_eq!(stats["pipelines"][0]["received"], 2);
    gate.terminate();
    assert_eq!(gate.wait().status.code(), Some(1));
}

#[test]
fn request_that_is_under_way_is_taken_to_its_end() {
    let mut gate = Setup::new().flag("grace-period", "60s").start();
    let mut stream = std::net::TcpStream::connect(gate.http()).expect("the gate listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let body = b"one\ntwo\n";
    let head = Request::new("POST", "/ingest")
        .body(Body::Whole(body))
        .head();
    stream.write_all(head.as_bytes()).expect("the gate reads");
    stream.write_all(&body[..3]).expect("the gate reads");
    eventually("the request is read", || {
        gate.get("/status")["memory"]["used_bytes"].as_u64() > Some(0)
    });
    gate.terminate();
    eventually("it drains", || gate.logged("draining").is_some());
    stream.write_all(&body[3..]).expect("the gate reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the gate answers");
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let ended = gate.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, body);
}

#[test]
fn second_signal_ends_it_at_once() {
    let receiver = HttpReceiver::answering(|_| Reply::Hang);
    let mut gate = hanging(&receiver, "60s");
    gate.terminate();
    eventually("it drains", || gate.logged("draining").is_some());
    let begun = Instant::now();
    gate.terminate();
    let ended = gate.wait();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.logged("second signal: ending at once").is_some());
    assert!(begun.elapsed() < Duration::from_secs(10), "at once");
}

#[test]
fn grace_period_breached_ends_it_with_an_error() {
    let receiver = HttpReceiver::answering(|_| Reply::Hang);
    let mut gate = hanging(&receiver, "300ms");
    gate.terminate();
    let ended = gate.wait();
    ended.expect_error(
        1,
        "1 events (1 of the output `out`) could not be sent within the grace period",
    );
}

#[test]
fn output_that_comes_back_within_the_grace_period_gets_everything() {
    let mut receiver = TcpReceiver::absent();
    let mut gate = Setup::new()
        .sending_to(receiver.address())
        .flag("grace-period", "20s")
        .start();
    gate.send(b"one\ntwo\n");
    eventually("the output fails", || {
        gate.get("/status")["outputs"][0]["state"] == "failing"
    });
    gate.terminate();
    eventually("it drains", || gate.logged("draining").is_some());
    receiver.resume();
    let ended = gate.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    receiver.received.wait_for(b"one\ntwo\n");
}

#[test]
fn idle_gate_ends_at_once() {
    let gate = Setup::new().flag("grace-period", "60s").start();
    let idle = gate.connect();
    let begun = Instant::now();
    let ended = gate.finish(0);
    assert!(begun.elapsed() < Duration::from_secs(10), "at once");
    assert!(ended.stdout.is_empty());
    drop(idle);
}

#[test]
fn readyz_says_no_once_the_end_has_begun() {
    let receiver = HttpReceiver::answering(|_| Reply::Hang);
    let mut gate = hanging(&receiver, "60s");
    assert_eq!(gate.get("/readyz")["status"], "ready");
    gate.terminate();
    eventually("it says no", || {
        let answer = request(gate.control(), &Request::new("GET", "/readyz"));
        answer.is_ok_and(|answer| answer.status == 503)
    });
    assert_eq!(gate.get("/healthz")["status"], "ok");
    gate.terminate();
    assert_eq!(gate.wait().status.code(), Some(1));
}

#[test]
fn publish_while_it_drains_is_refused_and_holds_nothing_up() {
    let answers = Arc::new(AtomicBool::new(false));
    let answering = Arc::clone(&answers);
    let receiver = HttpReceiver::answering(move |_| match answering.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Status(503),
    });
    let mut gate = hanging(&receiver, "20s");
    gate.terminate();
    eventually("the outputs are let go of", || {
        gate.get("/status")["outputs"] == json!([])
    });
    let problem = gate.try_edit("POST", "/publish", &Value::Null);
    assert_eq!(problem.expect(503).json()["code"], "shutting_down");
    answers.store(true, Ordering::SeqCst);
    let ended = gate.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    receiver.wait_for(b"stuck\n");
}

/// A gate with one event that its output does not get rid of.
fn hanging(receiver: &HttpReceiver, grace_period: &str) -> Gate {
    let output = json!([{"id": "out", "type": "http", "url": receiver.url()}]);
    let gate = Setup::new()
        .manifest(&json!([]), &output)
        .flag("grace-period", grace_period)
        .start();
    gate.send(b"stuck\n");
    eventually("the request hangs", || !receiver.requests().is_empty());
    gate
}
