//! What goes wrong behind the gate, one fault after the other: nothing is lost, nothing is asked
//! more often than is right, and no other output notices.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use crate::support::{
    Gate, HttpReceiver, Received, Reply, Setup, TcpReceiver, eventually, holds_within, lines_of,
};

fn http(id: &str, url: &str) -> Value {
    json!({"id": id, "type": "http", "url": url})
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers
        .flat_map(|number| format!("event {number:08}\n").into_bytes())
        .collect()
}

/// A gate with an output to `faulty`, and another one that everything must get to at once.
fn beside(faulty: &[Value]) -> (Gate, TcpReceiver) {
    let other = TcpReceiver::start();
    let gate = Setup::new().start();
    let mut outputs = faulty.to_vec();
    outputs.push(json!({"id": "other", "type": "tcp", "address": other.address().to_string()}));
    gate.run(&json!([]), &outputs);
    (gate, other)
}

fn last_error(gate: &Gate) -> String {
    let error = &gate.get("/status")["outputs"][0]["last_error"];
    error.as_str().unwrap_or_default().to_owned()
}

/// How many attempts there may have been from the first request on: what is granted each second,
/// what was saved up, and what successes have added.
fn most_attempts(requests: &[Received]) -> f64 {
    let (Some(first), Some(last)) = (requests.first(), requests.last()) else {
        return 0.0;
    };
    let successes = requests.iter().filter(|request| request.taken).count();
    let successes = f64::from(u32::try_from(successes).expect("not so many"));
    let seconds = last.at.duration_since(first.at).as_secs_f64();
    10.0 * seconds + 20.0 + 1.2 * successes + 1.0
}

#[test]
fn server_errors_are_waited_out_in_order_and_within_the_budget() {
    let until = Instant::now() + Duration::from_secs(2);
    let receiver = HttpReceiver::answering(move |number| match Instant::now() < until {
        true => Reply::Status([500, 502, 503, 504][number % 4]),
        false => Reply::Status(200),
    });
    let (gate, other) = beside(&[http("out", &receiver.url())]);
    let mut sent = 0;
    while Instant::now() < until {
        gate.send(&numbered(sent..sent + 100));
        sent += 100;
        other.received.wait_for(&numbered(0..sent));
    }
    receiver.wait_for(&numbered(0..sent));
    let requests = receiver.requests();
    assert!(
        requests.len() as f64 <= most_attempts(&requests),
        "{}",
        requests.len()
    );
    gate.finish(sent as u64);
}

#[test]
fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    let in_seconds = || "1".to_owned();
    // A date has whole seconds.
    let as_date = || httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    let values: [fn() -> String; 2] = [in_seconds, as_date];
    for value in values {
        let receiver = HttpReceiver::answering(move |number| {
            let header = format!("Retry-After: {}\r\n", value());
            match number {
                0 => Reply::With(429, Box::leak(header.into_boxed_str())),
                _ => Reply::Status(200),
            }
        });
        let (gate, other) = beside(&[http("out", &receiver.url())]);
        gate.send(&numbered(0..10));
        other.received.wait_for(&numbered(0..10));
        receiver.wait_for(&numbered(0..10));
        let requests = receiver.requests();
        let pause = requests[1].at.duration_since(requests[0].at).as_secs_f64();
        assert!(pause >= 0.99, "{}: {pause}", value());
        gate.finish(10);
    }
}

/// Takes the body and then the connection away; answers a byte at a time, or much too much, or what
/// is no HTTP at all.
#[test]
fn answers_that_are_none_cost_neither_events_nor_memory() {
    let receiver = HttpReceiver::answering(|number| match number {
        0 => Reply::Reset,
        1 => Reply::Close,
        2 => Reply::Raw(b"\x16\x03\x01\x02\x00"),
        3 => Reply::Raw(b"HTTP/1.1 999999 what\r\n\r\n"),
        4 => Reply::Flood(64 * 1024 * 1024),
        _ => Reply::Status(200),
    });
    let (gate, other) = beside(&[http("out", &receiver.url())]);
    let before = gate.peak_memory();
    gate.send(&numbered(0..1_000));
    other.received.wait_for(&numbered(0..1_000));
    // The flood was a success, as its status says.
    receiver.wait_for(&numbered(0..1_000));
    gate.send(&numbered(1_000..2_000));
    receiver.wait_for(&numbered(0..2_000));
    let ids: Vec<_> = receiver.requests()[..5]
        .iter()
        .map(|request| request.header("x-streamgate-batch").map(str::to_owned))
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let grown = gate.peak_memory() - before;
    assert!(grown < 32 * 1024 * 1024, "{grown}");
    gate.finish(2_000);
}

#[test]
fn answer_that_trickles_ends_with_the_deadline() {
    let receiver = HttpReceiver::answering(|number| match number {
        0 => Reply::Trickle,
        _ => Reply::Status(200),
    });
    let mut output = http("out", &receiver.url());
    output["timeout_ms"] = json!(300);
    let (gate, other) = beside(&[output]);
    gate.send(&numbered(0..10));
    other.received.wait_for(&numbered(0..10));
    // Its status said that it was taken, and what follows does not matter.
    let stats = gate.settled(10);
    assert_eq!(stats["outputs"][0]["sent"], 10);
    gate.send(&numbered(10..20));
    receiver.wait_for(&numbered(10..20));
    gate.stop();
}

/// Nobody accepts, and the kernel's queue of connections is full: packets are dropped, as by a
/// firewall.
#[test]
fn connection_that_is_never_made_is_given_up_and_tried_again() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&silent, 0).unwrap();
    let address = silent.local_addr().unwrap();
    let fill = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
    let fillers: Vec<_> = std::iter::from_fn(|| fill().ok()).take(16).collect();
    let mut output = http("out", &format!("http://{address}"));
    output["timeout_ms"] = json!(300);
    let (gate, other) = beside(&[output]);
    gate.send(&numbered(0..1_000));
    other.received.wait_for(&numbered(0..1_000));
    eventually("it is told", || last_error(&gate).contains("timed out"));
    assert_eq!(gate.pipeline()["outputs"][0]["queued"], 1_000);
    drop(fillers);
    gate.kill();
}

#[test]
fn name_that_cannot_be_looked_up_is_waited_for() {
    let unknown = [
        http("out", "http://no-such-host.invalid:9"),
        json!({"id": "lines", "type": "tcp", "address": "no-such-host.invalid:9"}),
    ];
    let (gate, other) = beside(&unknown);
    gate.send(&numbered(0..1_000));
    other.received.wait_for(&numbered(0..1_000));
    eventually("both tell", || {
        let status = gate.get("/status");
        (0..2).all(|at| status["outputs"][at]["last_error"].is_string())
    });
    let stats = gate.pipeline();
    assert_eq!(stats["outputs"][0]["queued"], 1_000);
    assert_eq!(stats["outputs"][1]["queued"], 1_000);
    gate.kill();
}

/// Ten times slower than what comes: the queue fills, the rest is given up and counted, and memory
/// stays.
#[test]
fn slow_receiver_costs_what_its_queue_cannot_hold_and_no_memory() {
    const EVENTS: usize = 400_000;
    let receiver = HttpReceiver::answering(|_| Reply::Late(Duration::from_millis(20)));
    let other = TcpReceiver::start();
    let gate = Setup::new().flag("memory-budget", "32MiB").start();
    let outputs = [
        http("out", &receiver.url()),
        json!({"id": "other", "type": "tcp", "address": other.address().to_string()}),
    ];
    gate.run(&json!([]), &outputs);
    let events: Vec<u8> = (0..EVENTS)
        .flat_map(|number| format!("{number:099}\n").into_bytes())
        .collect();
    let before = gate.peak_memory();
    gate.send(&events);
    other.received.wait_for(&events);
    eventually("all came", || gate.pipeline()["received"] == EVENTS);
    let grown = gate.peak_memory().saturating_sub(before);
    assert!(grown < 48 * 1024 * 1024, "{grown}");
    let discarded = &gate.pipeline()["outputs"][0]["discarded"]["queue_full"];
    assert!(discarded.as_u64() > Some(0));
    gate.kill();
}

#[test]
fn receiver_that_flaps_is_not_flooded() {
    let began = Instant::now();
    let flaps = Duration::from_secs(3);
    // It is up for good in the end: the probes of an open breaker are seconds apart, and any number of
    // them could meet a receiver that goes on flapping while it is down.
    let receiver = HttpReceiver::answering(move |_| {
        let (now, period) = (began.elapsed(), Duration::from_millis(200));
        match now < flaps && (now.as_millis() / period.as_millis()).is_multiple_of(2) {
            true => Reply::Status(503),
            false => Reply::Status(200),
        }
    });
    let (gate, other) = beside(&[http("out", &receiver.url())]);
    let mut sent = 0;
    while began.elapsed() < flaps {
        gate.send(&numbered(sent..sent + 10));
        sent += 10;
        other.received.wait_for(&numbered(0..sent));
    }
    receiver.wait_for(&numbered(0..sent));
    let requests = receiver.requests();
    assert!(
        requests.len() as f64 <= most_attempts(&requests),
        "{}",
        requests.len()
    );
    gate.finish(sent as u64);
}

#[test]
fn redirect_to_the_credentials_of_the_machine_is_not_followed() {
    let receiver = HttpReceiver::answering(|_| {
        Reply::With(
            302,
            "Location: http://169.254.169.254/latest/meta-data/\r\n",
        )
    });
    let (gate, other) = beside(&[http("out", &receiver.url())]);
    gate.send(&numbered(0..10));
    other.received.wait_for(&numbered(0..10));
    let stats = gate.settled(10);
    assert_eq!(stats["outputs"][0]["dead_lettered"], 10);
    assert_eq!(receiver.requests().len(), 1);
    gate.stop();
}

/// The spool's disk is full, and then it is not; then its files go away altogether.
#[test]
fn disk_of_the_spool_that_fails_is_done_without_until_it_works_again() {
    let works = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&works);
    let receiver = HttpReceiver::answering(move |_| match seen.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Status(503),
    });
    let mut output = http("out", &receiver.url());
    output["spool"] = json!({"max_bytes": "64MiB"});
    let gate = Setup::new().env("STREAMGATE_DURABLE", "true").start();
    let error = |gate: &Gate| gate.get("/status")["outputs"][0]["spool"]["error"].is_string();
    let mut sent = 0;
    let mut send = |gate: &Gate| {
        gate.send(&numbered(sent..sent + 1_000));
        sent += 1_000;
        sent
    };
    gate.run(&json!([]), &[output]);
    gate.limit_file_size(Some(8));
    let all = send(&gate);
    receiver.wait_for(&numbered(0..all));
    eventually("it is told", || error(&gate));
    // What is not on a disk is not said to be.
    works.store(false, Ordering::SeqCst);
    let post = crate::support::Request::new("POST", "/ingest");
    let body = crate::support::Body::Whole(b"not safe\n");
    let (address, ended) = (gate.http(), Arc::new(AtomicUsize::new(0)));
    let status = Arc::clone(&ended);
    let waiting = thread::spawn(move || {
        let answer = crate::support::request(address, &post.body(body));
        let answer = answer.map_or(0, |answer| usize::from(answer.status));
        status.store(answer, Ordering::SeqCst);
    });
    assert!(!holds_within(Duration::from_millis(300), || {
        ended.load(Ordering::SeqCst) == 202
    }));
    works.store(true, Ordering::SeqCst);
    waiting.join().unwrap();
    // It was delivered in the end, or the sender was told that this is not known.
    let status = ended.load(Ordering::SeqCst);
    assert!(status == 202 || status == 503, "{status}");
    gate.limit_file_size(None);
    eventually("the spool works again", || {
        send(&gate);
        !error(&gate)
    });
    let folder = gate.directory().join("store/outputs/output-out");
    // At once, so that the gate does not make a part of it again meanwhile.
    let aside = gate.directory().join("removed");
    std::fs::rename(folder, &aside).unwrap();
    std::fs::remove_dir_all(aside).unwrap();
    let all = send(&gate);
    eventually("all arrive", || {
        let taken = receiver.taken();
        let mut found: Vec<&[u8]> = lines_of(&taken).collect();
        found.sort_unstable();
        found.dedup();
        found.len() == all + 1
    });
    gate.finish(all as u64 + 1);
}
