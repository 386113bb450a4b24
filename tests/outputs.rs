//! Outputs: fan-out, batches, retries; and none of them ever slows another.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{
    Capture, Gate, HttpReceiver, Reply, Setup, TcpReceiver, decompressed, eventually, lines_of,
};

#[test]
fn batch_size_caps_what_is_in_a_request() {
    let receiver = HttpReceiver::start();
    let gate = Setup::new().start();
    gate.edit("POST", "/config/batch_size?size=7", &Value::Null);
    assert_eq!(gate.get("/config/batch_size"), json!({"batch_size": 7}));
    gate.run(&json!([]), &[http("out", &receiver)]);
    gate.send(&numbered(0..1_000));
    receiver.wait_for(&numbered(0..1_000));
    // The cap of an output that goes on as it is changes too.
    gate.edit("POST", "/config/batch_size", &json!({"batch_size": 500}));
    gate.publish();
    gate.send(&numbered(1_000..3_000));
    receiver.wait_for(&numbered(0..3_000));
    let sizes: Vec<usize> = receiver
        .requests()
        .iter()
        .map(|request| lines_of(&request.body).count())
        .collect();
    let mut seen = 0;
    for &size in &sizes {
        let cap = if seen < 1_000 { 7 } else { 500 };
        assert!((1..=cap).contains(&size), "{sizes:?}");
        seen += size;
    }
    assert!(sizes.contains(&7) && sizes.contains(&500), "{sizes:?}");
    gate.finish(3_000);
}

#[test]
fn request_has_the_headers_of_the_output() {
    let receiver = HttpReceiver::start();
    let gate = Setup::new().start();
    let mut output = http("vendor", &receiver);
    output["url"] = json!(format!("{}/v1/logs?source=a", receiver.url()));
    output["headers"] = json!({"x-team": "abc", "content-type": "application/x-ndjson"});
    gate.run(&json!([]), &[output]);
    gate.send(b"one\n");
    receiver.wait_for(b"one\n");
    let [request] = &receiver.requests()[..] else {
        panic!("expected one request");
    };
    assert_eq!(request.line, "POST /v1/logs?source=a HTTP/1.1");
    let value = |name: &str| {
        let mut headers = request.headers.iter();
        headers
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(value("x-team"), Some("abc"));
    assert_eq!(value("x-streamgate-bypassed"), None);
    assert_eq!(value("content-type"), Some("application/x-ndjson"));
    gate.finish(1);
}

#[test]
fn every_output_gets_every_event() {
    let (one, two, posts) = (
        TcpReceiver::start(),
        TcpReceiver::start(),
        HttpReceiver::start(),
    );
    let gate = Setup::new().start();
    let outputs = [
        tcp("one", one.address()),
        tcp("two", two.address()),
        http("posts", &posts),
        json!({"id": "console", "type": "console"}),
    ];
    gate.run(&json!([]), &outputs);
    let events = numbered(0..20_000);
    gate.send(&events);
    one.received.wait_for(&events);
    two.received.wait_for(&events);
    posts.wait_for(&events);
    gate.stdout.wait_for(&events);
    let stats = gate.settled(20_000);
    for output in stats["outputs"].as_array().expect("a list") {
        assert_eq!(output["sent"], 20_000, "{output:#}");
    }
    gate.stop();
}

/// One refuses connections, one accepts a request and never answers; the third gets everything. And
/// when the two come back, they get everything too.
#[test]
fn dead_and_hanging_outputs_hold_nobody_up() {
    let live = TcpReceiver::start();
    let mut dead = TcpReceiver::absent();
    let answers = Arc::new(AtomicBool::new(false));
    let answering = Arc::clone(&answers);
    let hanging = HttpReceiver::answering(move |_| match answering.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Hang,
    });
    let gate = Setup::new().start();
    let mut hanging_output = http("hanging", &hanging);
    hanging_output["timeout_ms"] = json!(1_000);
    let outputs = [
        tcp("dead", dead.address()),
        hanging_output,
        tcp("live", live.address()),
    ];
    gate.run(&json!([]), &outputs);
    let events = numbered(0..20_000);
    gate.send(&events);
    live.received.wait_for(&events);
    eventually("the dead output is said to fail", || {
        let status = gate.get("/status");
        status["outputs"][0]["state"] == "failing" && status["outputs"][2]["state"] == "ok"
    });
    let stats = gate.pipeline();
    assert_eq!(stats["outputs"][0]["queued"], 20_000, "{stats:#}");
    assert_eq!(stats["outputs"][1]["queued"], 20_000, "{stats:#}");

    answers.store(true, Ordering::SeqCst);
    dead.resume();
    dead.received.wait_for(&events);
    hanging.wait_for(&events);
    gate.finish(20_000);
}

#[test]
fn what_a_dead_output_cannot_queue_is_discarded_there_and_counted() {
    const EVENTS: usize = 400_000;
    let live = TcpReceiver::start();
    let mut dead = TcpReceiver::absent();
    let gate = Setup::new().flag("memory-budget", "32MiB").start();
    let outputs = [tcp("dead", dead.address()), tcp("live", live.address())];
    gate.run(&json!([]), &outputs);
    let events = padded(EVENTS);
    gate.send(&events);
    live.received.wait_for(&events);
    eventually("all are received", || gate.pipeline()["received"] == EVENTS);
    let stats = gate.pipeline();
    let figures = &stats["outputs"][0];
    assert_eq!(figures["offered"], EVENTS);
    let lost = figures["discarded"]["queue_full"]
        .as_u64()
        .expect("a number");
    assert!(lost > 0 && lost < EVENTS as u64, "{figures:#}");
    assert_eq!(stats["outputs"][1]["sent"], EVENTS);

    dead.resume();
    let stats = gate.settled(EVENTS as u64);
    assert_eq!(stats["outputs"][0]["sent"], EVENTS as u64 - lost);
    let sent = stats["outputs"][0]["sent_bytes"]
        .as_u64()
        .expect("a number");
    eventually("it arrives", || dead.received.len() as u64 == sent);
    let arrived = dead.received.bytes();
    assert_eq!(lines_of(&arrived).count() as u64, EVENTS as u64 - lost);
    let kept: Vec<&[u8]> = lines_of(&arrived).collect();
    assert!(kept.is_sorted(), "order is kept around the gap");
    gate.stop();
}

#[test]
fn sender_is_not_held_up_when_every_output_hangs() {
    const EVENTS: usize = 400_000;
    let hanging = TcpReceiver::hanging();
    let gate = Setup::new()
        .sending_to(hanging.address())
        .flag("memory-budget", "32MiB")
        .flag("grace-period", "100ms")
        .start();
    gate.send(&padded(EVENTS));
    eventually("all are received", || {
        let stats = gate.pipeline();
        stats["received"] == EVENTS && stats["in_flight"] == 0
    });
    let stats = gate.pipeline();
    let lost = &stats["outputs"][0]["discarded"]["queue_full"];
    assert!(lost.as_u64() > Some(0), "{stats:#}");
    let state = &gate.get("/status")["outputs"][0]["state"];
    assert_eq!(state, "stalled");
    ends_undrained(gate);
}

#[test]
fn http_output_tries_again_without_loss_or_duplicates() {
    let receiver = HttpReceiver::answering(|number| match number {
        0 | 3 => Reply::Status(503),
        1 => Reply::With(429, "Retry-After: 1\r\n"),
        2 => Reply::Close,
        4 => Reply::Status(500),
        _ => Reply::Status(200),
    });
    let gate = Setup::new().start();
    gate.run(&json!([]), &[http("out", &receiver)]);
    gate.send(&numbered(0..2_000));
    receiver.wait_for(&numbered(0..2_000));
    let stats = gate.settled(2_000);
    assert_eq!(stats["outputs"][0]["sent"], 2_000);
    gate.stop();
}

#[test]
fn events_that_are_refused_for_good_are_counted() {
    for status in [302, 400, 404, 422] {
        let receiver = HttpReceiver::answering(move |number| match number {
            0 => Reply::With(status, "Location: /elsewhere\r\n"),
            _ => Reply::Status(200),
        });
        let gate = Setup::new().start();
        gate.run(&json!([]), &[http("out", &receiver)]);
        gate.send(b"refused 1\nrefused 2\n");
        let stats = gate.settled(2);
        let output = &stats["outputs"][0];
        assert_eq!(output["dead_lettered"], 2, "{status}: {stats:#}");
        gate.send(b"taken\n");
        receiver.wait_for(b"taken\n");
        gate.finish(3);
    }
}

#[test]
fn events_are_kept_while_the_credentials_are_refused() {
    let receiver = HttpReceiver::answering(|number| match number {
        0 => Reply::Status(401),
        1 => Reply::Status(403),
        _ => Reply::Status(200),
    });
    let gate = Setup::new().start();
    gate.run(&json!([]), &[http("out", &receiver)]);
    gate.send(&numbered(0..1));
    eventually("the breaker opens", || {
        gate.get("/status")["outputs"][0]["state"] == "open"
    });
    let error = &gate.get("/status")["outputs"][0]["last_error"];
    assert!(error.as_str().unwrap().contains("401"), "{error}");
    receiver.wait_for(&numbered(0..1));
    gate.finish(1);
    assert_eq!(receiver.requests().len(), 3);
}

#[test]
fn request_that_is_too_large_is_split_down_to_the_event_that_is() {
    let receiver = HttpReceiver::judging(|request| match request.body {
        ref body if body.len() > 100 => Reply::Status(413),
        _ => Reply::Status(200),
    });
    let gate = Setup::new().start();
    gate.run(&json!([]), &[http("out", &receiver)]);
    let large = [vec![b'x'; 200], b"\n".to_vec()].concat();
    gate.send(&[numbered(0..500), large, numbered(500..1_000)].concat());
    receiver.wait_for(&numbered(0..1_000));
    let stats = gate.settled(1_001);
    assert_eq!(stats["outputs"][0]["sent"], 1_000);
    assert_eq!(stats["outputs"][0]["dead_lettered"], 1);
    gate.stop();
}

#[test]
fn same_body_has_the_same_batch_id_when_it_is_sent_again() {
    let receiver = HttpReceiver::answering(|number| match number {
        0 => Reply::Close,
        1 => Reply::Status(503),
        _ => Reply::Status(200),
    });
    let gate = Setup::new().start();
    gate.run(&json!([]), &[http("out", &receiver)]);
    gate.send(&numbered(0..1));
    receiver.wait_for(&numbered(0..1));
    gate.send(&numbered(1..2));
    receiver.wait_for(&numbered(0..2));
    let header = |name: &str| -> Vec<String> {
        let requests = receiver.requests();
        let values = requests.iter().map(|request| request.header(name));
        values
            .map(|value| value.unwrap_or_default().to_owned())
            .collect()
    };
    let ids = header("x-streamgate-batch");
    assert_eq!(ids.len(), 4);
    assert!(
        ids[0].len() == 32 && ids[..3].iter().all(|id| *id == ids[0]),
        "{ids:?}"
    );
    assert_ne!(ids[3], ids[0]);
    assert!(
        header("x-streamgate-revision")
            .iter()
            .all(|revision| revision == "1")
    );
    gate.finish(2);
}

#[test]
fn bodies_are_compressed() {
    for compression in ["gzip", "zstd"] {
        let receiver = HttpReceiver::start();
        let mut output = http("out", &receiver);
        output["compression"] = json!(compression);
        output["method"] = json!("PUT");
        let gate = Setup::new().start();
        gate.run(&json!([]), &[output]);
        gate.send(&padded(2_000));
        let stats = gate.settled(2_000);
        assert_eq!(stats["outputs"][0]["sent"], 2_000);
        let mut found = Vec::new();
        for request in receiver.requests() {
            assert!(request.line.starts_with("PUT / "), "{}", request.line);
            assert_eq!(request.header("content-encoding"), Some(compression));
            found.extend(decompressed(compression, &request.body));
        }
        assert_same_lines(&found, &padded(2_000));
        gate.stop();
    }
}

#[test]
fn header_holds_a_secret_that_is_shown_nowhere_and_can_be_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first-of-two\n").unwrap();
    let receiver = HttpReceiver::judging(|request| match request.header("authorization") {
        Some("Bearer second-of-two") => Reply::Status(200),
        _ => Reply::Status(401),
    });
    let mut output = http("out", &receiver);
    output["headers"] = json!({"authorization": format!("Bearer ${{file:{}}}", token.display())});
    let secrets = folder.path().display().to_string();
    let gate = Setup::new().flag("secret-files", secrets).start();
    gate.run(&json!([]), &[output]);
    gate.send(b"event\n");
    eventually("the first one is refused", || {
        !receiver.requests().is_empty()
    });
    std::fs::write(&token, "second-of-two\n").unwrap();
    receiver.wait_for(b"event\n");
    for path in ["/status", "/stats", "/outputs", "/revisions"] {
        let answer = gate.get(path).to_string();
        assert!(!answer.contains("-of-two"), "{path}: {answer}");
    }
    let log = gate.finish(1).stderr;
    assert!(
        log.contains("listening") && !log.contains("-of-two"),
        "{log}"
    );
}

#[test]
fn events_travel_at_once_unless_asked_to_linger() {
    let receiver = HttpReceiver::start();
    let mut output = http("out", &receiver);
    output["linger_ms"] = json!(60_000);
    output["max_batch_bytes"] = json!(1_024);
    let gate = Setup::new().start();
    gate.run(&json!([]), &[output]);
    // Less than a batch waits for more, and goes when there is enough.
    for events in 0..10 {
        gate.send(&numbered(events..events + 1));
    }
    assert!(receiver.requests().is_empty());
    gate.send(&numbered(10..500));
    eventually("a full batch is sent", || !receiver.requests().is_empty());
    // The end does not wait.
    gate.stop();
    assert_same_lines(&receiver.taken(), &numbered(0..500));
}

#[test]
fn requests_in_flight_are_as_many_as_is_allowed_and_lose_nothing() {
    let receiver = HttpReceiver::answering(|number| match number % 10 {
        7 => Reply::Status(503),
        _ => Reply::Status(200),
    });
    let mut output = http("out", &receiver);
    output["max_in_flight"] = json!(8);
    output["max_batch_events"] = json!(50);
    let gate = Setup::new().start();
    gate.run(&json!([]), &[output]);
    gate.send(&numbered(0..5_000));
    let stats = gate.settled(5_000);
    assert_eq!(stats["outputs"][0]["sent"], 5_000);
    let mut found: Vec<Vec<u8>> = lines_of(&receiver.taken()).map(<[u8]>::to_vec).collect();
    found.sort_unstable();
    let expected = numbered(0..5_000);
    let mut expected: Vec<Vec<u8>> = lines_of(&expected).map(<[u8]>::to_vec).collect();
    expected.sort_unstable();
    assert!(found == expected, "{} of 5000 arrived", found.len());
    gate.stop();
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = HttpReceiver::start();
    let location: &'static str =
        Box::leak(format!("Location: {}\r\n", elsewhere.url()).into_boxed_str());
    let receiver = HttpReceiver::answering(move |_| Reply::With(307, location));
    let gate = Setup::new().start();
    gate.run(&json!([]), &[http("out", &receiver)]);
    gate.send(b"event\n");
    let stats = gate.settled(1);
    assert_eq!(stats["outputs"][0]["dead_lettered"], 1);
    assert!(elsewhere.requests().is_empty());
    gate.stop();
}

#[test]
fn tcp_output_connects_again() {
    let mut receiver = TcpReceiver::start();
    let gate = Setup::new().sending_to(receiver.address()).start();
    gate.send(b"before\n");
    receiver.received.wait_for(b"before\n");
    receiver.pause();
    receiver.resume();
    gate.send(b"after\n");
    receiver.received.wait_for(b"before\nafter\n");
    receiver.pause();
    gate.send(b"while it was away\n");
    eventually("it is missed", || {
        gate.get("/status")["outputs"][0]["state"] == "failing"
    });
    receiver.resume();
    receiver
        .received
        .wait_for(b"before\nafter\nwhile it was away\n");
    gate.finish(3);
}

#[test]
fn output_that_is_replaced_sends_what_it_has() {
    let (old, new) = (TcpReceiver::start(), TcpReceiver::start());
    let gate = Setup::new().sending_to(old.address()).start();
    gate.send(&numbered(0..5_000));
    eventually("it is taken", || gate.pipeline()["received"] == 5_000);
    eventually("it is worked on", || gate.pipeline()["in_flight"] == 0);
    gate.run(&json!([]), &[tcp("out", new.address())]);
    gate.send(b"new\n");
    new.received.wait_for(b"new\n");
    old.received.wait_for(&numbered(0..5_000));
    let stats = gate.settled(5_001);
    assert_eq!(stats["outputs"][0]["offered"], 1, "{stats:#}");
    gate.stop();
}

/// An address is mistyped again and again, then right: what could not be sent there must not take
/// the memory that events need.
#[test]
fn outputs_that_were_replaced_do_not_keep_the_memory() {
    const EVENTS: usize = 250_000;
    let live = TcpReceiver::start();
    let gate = Setup::new().flag("memory-budget", "32MiB").start();
    for typo in 1..=3 {
        let dead = TcpReceiver::absent();
        gate.run(&json!([]), &[tcp("out", dead.address())]);
        gate.send(&padded(EVENTS));
        eventually("all are received", || {
            gate.pipeline()["received"] == typo * EVENTS
        });
    }
    gate.run(&json!([]), &[tcp("out", live.address())]);
    gate.send(b"at last\n");
    // Behind what the others could not send.
    eventually("the last event arrives", || {
        live.received.text().contains("at last\n")
    });
    gate.stop();
}

#[test]
fn two_consoles_tear_no_event() {
    let gate = Setup::new().start();
    let console = |id: &str| json!({"id": id, "type": "console"});
    gate.run(&json!([]), &[console("one"), console("two")]);
    let events = numbered(0..100_000);
    gate.send(&events);
    gate.settled(100_000);
    eventually("both printed everything", || {
        gate.stdout.len() == 2 * events.len()
    });
    assert_same_lines(&gate.stdout.bytes(), &events.repeat(2));
    gate.stop();
}

#[test]
fn console_that_is_replaced_tears_no_event() {
    // Nobody reads it yet, so the old consoles are still at it when the new one begins.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let gate = Setup::new().stdout(writer).start();
    let mut stream = gate.connect();
    let mut sent = Vec::new();
    for round in 0..5_usize {
        let console = json!({"id": format!("console-{round}"), "type": "console"});
        gate.run(&json!([]), &[console]);
        let events = numbered(round * 20_000..(round + 1) * 20_000);
        stream.write_all(&events).expect("the gate reads");
        sent.extend(events);
        eventually("the workers are done", || {
            let stats = gate.pipeline();
            stats["received"] == (round + 1) * 20_000 && stats["in_flight"] == 0
        });
    }
    drop(stream);
    let printed = Capture::of(reader);
    eventually("everything is printed", || printed.len() >= sent.len());
    assert_same_lines(&printed.bytes(), &sent);
    gate.finish(100_000);
}

/// In any order.
#[track_caller]
fn assert_same_lines(found: &[u8], expected: &[u8]) {
    let mut found: Vec<&[u8]> = lines_of(found).collect();
    let mut expected: Vec<&[u8]> = lines_of(expected).collect();
    found.sort_unstable();
    expected.sort_unstable();
    let differs = found
        .iter()
        .zip(&expected)
        .find(|(found, expected)| found != expected);
    if let Some((found, expected)) = differs {
        panic!(
            "`{}` and not `{}`",
            found.escape_ascii(),
            expected.escape_ascii()
        );
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn console_that_nobody_reads_holds_nobody_up() {
    let live = TcpReceiver::start();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let gate = Setup::new().stdout(writer).start();
    let console = json!({"id": "console", "type": "console"});
    gate.run(&json!([]), &[console, tcp("live", live.address())]);
    let events = numbered(0..50_000);
    gate.send(&events);
    live.received.wait_for(&events);
    let late = Capture::of(reader);
    late.wait_for(&events);
    gate.finish(50_000);
}

#[test]
fn console_that_is_closed_holds_nobody_up() {
    let live = TcpReceiver::start();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let gate = Setup::new()
        .stdout(writer)
        .flag("grace-period", "300ms")
        .start();
    let console = json!({"id": "console", "type": "console"});
    gate.run(&json!([]), &[console, tcp("live", live.address())]);
    gate.send(b"one\n");
    live.received.wait_for(b"one\n");
    eventually("the console fails", || {
        gate.get("/status")["outputs"][0]["state"] == "failing"
    });
    gate.send(b"two\n");
    live.received.wait_for(b"one\ntwo\n");
    ends_undrained(gate);
}

#[test]
fn console_that_blocks_does_not_hold_up_the_end() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let gate = Setup::new()
        .stdout(writer)
        .flag("grace-period", "300ms")
        .start();
    gate.send(&numbered(0..50_000));
    eventually("it is on its way", || {
        let stats = gate.pipeline();
        stats["received"] == 50_000 && stats["in_flight"] == 0
    });
    ends_undrained(gate);
    drop(reader);
}

fn tcp(id: &str, address: SocketAddr) -> Value {
    json!({"id": id, "type": "tcp", "address": address.to_string()})
}

fn http(id: &str, receiver: &HttpReceiver) -> Value {
    json!({"id": id, "type": "http", "url": receiver.url()})
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers
        .flat_map(|number| format!("event {number:08}\n").into_bytes())
        .collect()
}

/// Events of 100 bytes, which sort in their order.
fn padded(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|number| format!("{number:099}\n").into_bytes())
        .collect()
}

/// Ends a gate that cannot send all it has.
#[track_caller]
fn ends_undrained(mut gate: Gate) {
    gate.terminate();
    gate.wait()
        .expect_error(1, "could not be sent within the grace period");
}

/// `give_up_after_s` on an output whose receiver does not answer: refused in edits, and a live
/// config that has it runs.
#[test]
fn field_that_has_no_effect_is_refused_in_edits_only() {
    let store = tempfile::tempdir().expect("a directory");
    let receiver = TcpReceiver::start();
    let gate = Setup::new().store(store.path()).start();
    for mut output in [
        json!({"type": "tcp", "address": "h:1"}),
        json!({"type": "file", "path": "a.log"}),
    ] {
        output["give_up_after_s"] = json!(60);
        let answer = gate.try_edit("POST", "/outputs", &output).expect(422);
        let problem = answer.json();
        assert_eq!(problem["pointer"], "/give_up_after_s", "{problem}");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains("has no effect"), "{detail}");
    }
    let output = json!({
        "id": "lines", "type": "tcp", "address": receiver.address().to_string(),
        "dead_letters": false,
    });
    gate.run(&json!([]), &[output]);
    gate.stop();
    crate::support::replace_in_files(store.path(), "dead_letters", "give_up_after_s");
    let gate = Setup::new().store(store.path()).start();
    gate.send(b"an event\n");
    receiver.received.wait_for(b"an event\n");
    let status = gate.get("/status");
    let warnings = status["outputs"][0]["warnings"].to_string();
    assert!(warnings.contains("give_up_after_s"), "{status:#}");
    gate.finish(1);
}
