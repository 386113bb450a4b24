//! More than the workers can do: what may be skipped is, what is private never.

use std::io::{ErrorKind, Read, Write};

use serde_json::{Value, json};

use crate::support::{Body, HttpReceiver, Received, Request, Setup, eventually, lines_of};

/// Events of one request, which is 14 MiB: with the least budget that is more than 80 % of the room
/// before the workers, and all of it waits at once.
const EVENTS: usize = 140_000;

#[test]
fn filter_is_bypassed_under_overload_and_redaction_is_not() {
    let (stats, requests) = overload(&json!([
        {"id": "filter", "type": "filter", "params": {"value": "DEBUG"}},
        {"id": "redact", "type": "redact", "params": {"pattern": "secret", "replacement": "*"}},
    ]));
    let bypassed = stats["rules"][0]["bypassed"].as_u64().expect("a number");
    assert!(bypassed > 0 && bypassed < EVENTS as u64, "{stats:#}");
    assert_eq!(stats["filtered"], EVENTS as u64 - bypassed);
    assert_eq!(stats["delivered_to_chain_end"], bypassed);
    assert_eq!(stats["rules"][1]["bypassed"], 0);
    assert_eq!(stats["rules"][1]["changed"], bypassed);
    for request in requests {
        assert_eq!(request.header("x-streamgate-bypassed"), Some("true"));
        for line in lines_of(&request.body) {
            assert!(line.starts_with(b"DEBUG * "), "{}", line.escape_ascii());
        }
    }
}

#[test]
fn filter_that_is_enforced_is_not_bypassed() {
    let (stats, requests) = overload(&json!([
        {"id": "filter", "type": "filter", "params": {"value": "DEBUG"}, "on_overload": "enforce"},
    ]));
    assert_eq!(stats["filtered"], EVENTS, "{stats:#}");
    assert!(requests.is_empty());
}

#[test]
fn redaction_is_bypassed_if_the_user_says_so() {
    let (stats, requests) = overload(&json!([
        {"id": "redact", "type": "redact", "on_overload": "bypass",
         "params": {"pattern": "secret", "replacement": "*"}},
    ]));
    let changed = stats["rules"][0]["changed"].as_u64().expect("a number");
    let bypassed = stats["rules"][0]["bypassed"].as_u64().expect("a number");
    assert!(bypassed > 0, "{stats:#}");
    assert_eq!(changed + bypassed, EVENTS as u64, "{stats:#}");
    let told = |request: &Received| request.header("x-streamgate-bypassed").is_some();
    let leaks =
        |request: &Received| lines_of(&request.body).any(|line| line.starts_with(b"DEBUG s"));
    assert!(requests.iter().any(leaks));
    assert!(requests.iter().filter(|request| leaks(request)).all(told));
}

/// Runs `rules` behind one that takes its time, so that the worker cannot keep up with one request
/// on any machine. Returns the books of the pipeline, without that rule, and the requests that
/// arrived.
#[track_caller]
fn overload(rules: &Value) -> (Value, Vec<Received>) {
    // Nothing in it can be looked for but by the regex engine, byte by byte.
    let slow = json!({"id": "slow", "type": "redact", "params": {"pattern": r"(?:\w|\s)+[^\w\s]"}});
    let rules: Value = [slow]
        .iter()
        .chain(rules.as_array().expect("a list"))
        .cloned()
        .collect();
    let receiver = HttpReceiver::start();
    let output = json!([{"id": "out", "type": "http", "url": receiver.url()}]);
    let gate = Setup::new()
        .flag("memory-budget", "32MiB")
        .flag("workers", "1")
        .manifest(&rules, &output)
        .start();
    let event = format!("DEBUG secret {}\n", "x".repeat(91));
    let body = event.repeat(EVENTS);
    let post = Request::new("POST", "/ingest").body(Body::Whole(body.as_bytes()));
    gate.ingest(&post).expect(202);
    let mut stats = gate.settled(EVENTS as u64);
    let status = gate.get("/status");
    assert_eq!(status["overloaded"], false, "{status:#}");
    assert!(status["overloads"].as_u64() > Some(0), "{status:#}");
    let sent = stats["outputs"][0]["sent_bytes"].as_u64();
    assert_eq!(Some(receiver.taken().len() as u64), sent);
    assert!(
        gate.logged("overload changed; rules that may be bypassed are")
            .is_some()
    );
    gate.stop();
    stats["rules"].as_array_mut().expect("a list").remove(0);
    (stats, receiver.requests())
}

#[test]
fn connection_above_the_limit_takes_the_place_of_the_one_that_is_idle_longest() {
    let gate = Setup::new().flag("max-connections", "2").start();
    let mut first = gate.connect();
    let mut second = gate.connect();
    first.write_all(b"first\n").expect("the gate reads");
    gate.stdout.wait_for(b"first\n");
    second.write_all(b"second\n").expect("the gate reads");
    gate.stdout.wait_for(b"first\nsecond\n");
    let mut third = gate.connect();
    third.write_all(b"third\n").expect("the kernel takes it");
    gate.stdout.wait_for(b"first\nsecond\nthird\n");
    assert_eq!(first.read(&mut [0]).expect("it was closed in order"), 0);
    second.write_all(b"again\n").expect("the gate reads");
    gate.stdout.wait_for(b"first\nsecond\nthird\nagain\n");
    let stats = gate.settled(4);
    assert_eq!(stats["ingest"]["tcp"]["closed_connections"], 1);
    gate.stop();
}

#[test]
fn flood_of_datagrams_is_taken_or_shed_and_counted() {
    let gate = Setup::new().flag("memory-budget", "32MiB").start();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let datagram = b"flood\n".repeat(1_000);
    let mut sent = 0;
    for _ in 0..5_000 {
        match socket.send_to(&datagram, gate.udp()) {
            Ok(_) => sent += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    // The kernel may have lost some, which the next datagram tells; what the gate saw, it has
    // booked.
    let mut received = 0;
    eventually("the flood is over", || {
        sent += u64::from(socket.send_to(&datagram, gate.udp()).is_ok());
        let figures = gate.pipeline()["ingest"]["udp"].take();
        let number = |field: &str| figures[field].as_u64().expect("a number");
        received = number("received");
        received == 1_000 * (sent - number("kernel_dropped_datagrams"))
    });
    let stats = gate.settled(received);
    let shed = stats["shed"].as_u64().expect("a number");
    assert_eq!(stats["outputs"][0]["sent"], received - shed);
    gate.stop();
}

/// Several sockets share the port; the events of each sender stay in their order.
#[test]
fn datagrams_of_a_sender_stay_in_order_over_several_sockets() {
    let gate = Setup::new().flag("udp-sockets", "4").start();
    let senders: Vec<_> = (0..8)
        .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket"))
        .collect();
    for number in 0..200 {
        for (sender, socket) in senders.iter().enumerate() {
            let datagram = format!("{sender} {number:04}\n");
            socket
                .send_to(datagram.as_bytes(), gate.udp())
                .expect("loopback takes it");
        }
        // No faster than they are read, so that none is lost.
        eventually("they are read", || {
            gate.pipeline()["received"] == (number + 1) * 8
        });
    }
    gate.settled(1_600);
    let found = gate.stdout.text();
    for sender in 0..8 {
        let of = format!("{sender} ");
        let numbers: Vec<&str> = found.lines().filter(|line| line.starts_with(&of)).collect();
        assert!(numbers.len() == 200 && numbers.is_sorted(), "{numbers:?}");
    }
    gate.stop();
}

/// A gate that does not run cannot read; what the kernel drops meanwhile is counted when it can.
#[test]
fn datagrams_that_the_kernel_drops_are_counted() {
    let gate = Setup::new().start();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut sent: u64 = 0;
    gate.freeze();
    for _ in 0..40_000 {
        let datagram = [b'x'; 1_000];
        sent += u64::from(socket.send_to(&datagram, gate.udp()).is_ok());
    }
    gate.thaw();
    let mut figures = Value::Null;
    eventually("all are accounted for", || {
        // The next datagram says what was dropped before it.
        sent += u64::from(socket.send_to(b"next\n", gate.udp()).is_ok());
        figures = gate.pipeline()["ingest"]["udp"].clone();
        let number = |field: &str| figures[field].as_u64().expect("a number");
        number("kernel_dropped_datagrams") > 0
            && number("received") + number("kernel_dropped_datagrams") == sent
    });
    gate.settled(figures["received"].as_u64().expect("a number"));
    gate.stop();
}
