//! Where an event ends, and what becomes of one that is too long: each limit obeyed, and breached.

use std::{
    io::{ErrorKind, Write},
    net::Shutdown,
};

use serde_json::{Value, json};

use crate::support::{Body, Request, Setup, TcpReceiver, eventually};

/// The limit that these tests set, in bytes.
const LIMIT: usize = 1024;

const MARK: &str = " [truncated]";

#[test]
fn line_of_the_limit_passes() {
    let gate = Setup::new().flag("max-event", LIMIT.to_string()).start();
    let lines = format!("{0}\n{0}\r\n{0}", "x".repeat(LIMIT));
    gate.send(lines.as_bytes());
    let stats = gate.settled(3);
    gate.stdout.wait_for(format!("{lines}\n").as_bytes());
    assert_eq!(stats["ingest"]["tcp"]["truncated"], 0);
    gate.stop();
}

#[test]
fn line_above_the_limit_is_cut_and_counted() {
    let gate = Setup::new().flag("max-event", LIMIT.to_string()).start();
    let mut stream = gate.connect();
    // The rest of a line that was cut is no event, whether it comes at once or later.
    for length in [LIMIT + 1, LIMIT + 1, 10 * LIMIT, 700 * LIMIT] {
        let line = format!("{}\nnext\n", "y".repeat(length));
        stream.write_all(line.as_bytes()).expect("the gate reads");
    }
    stream.shutdown(Shutdown::Write).expect("it is connected");
    let stats = gate.settled(8);
    let cut = format!("{}{MARK}\nnext\n", "y".repeat(LIMIT - MARK.len()));
    gate.stdout.wait_for(cut.repeat(4).as_bytes());
    assert_eq!(stats["ingest"]["tcp"]["truncated"], 4);
    gate.stop();
}

#[test]
fn line_above_the_limit_is_cut_over_http_too() {
    let gate = Setup::new().flag("max-event", LIMIT.to_string()).start();
    let body = format!("{}\nnext\n{0}", "z".repeat(LIMIT + 1),);
    let request = Request::new("POST", "/ingest").body(Body::Whole(body.as_bytes()));
    let answer = gate.ingest(&request).expect(202).json();
    assert_eq!(answer, json!({"accepted": 3, "truncated": 2}));
    let stats = gate.settled(3);
    let cut = format!("{}{MARK}\n", "z".repeat(LIMIT - MARK.len()));
    gate.stdout.wait_for(format!("{cut}next\n{cut}").as_bytes());
    assert_eq!(stats["ingest"]["http"]["truncated"], 2);
    gate.stop();
}

#[test]
fn endless_line_takes_no_memory() {
    const MEBIBYTE: usize = 1024 * 1024;
    let receiver = TcpReceiver::start();
    let gate = Setup::new()
        .sending_to(receiver.address())
        .flag("memory-budget", "64MiB")
        .start();
    let mut stream = gate.connect();
    let piece = vec![b'a'; MEBIBYTE];
    for _ in 0..64 {
        stream.write_all(&piece).expect("the gate reads");
    }
    stream.write_all(b"\nafter\n").expect("the gate reads");
    let stats = gate.settled(2);
    assert_eq!(stats["ingest"]["tcp"]["truncated"], 1);
    let cut = format!("{}{MARK}\nafter\n", "a".repeat(256 * 1024 - MARK.len()));
    receiver.received.wait_for(cut.as_bytes());
    let peak = gate.peak_memory();
    assert!(peak < 150 * MEBIBYTE, "it took {peak} bytes");
    gate.stop();
}

#[test]
fn many_unfinished_lines_stay_within_the_budget() {
    const MEBIBYTE: usize = 1024 * 1024;
    let gate = Setup::new().flag("memory-budget", "32MiB").start();
    let beginning = vec![b'b'; 200 * 1024];
    let mut streams: Vec<_> = (0..400).map(|_| gate.connect()).collect();
    // 80 MB of beginnings: some are given up, no sender is held up for ever.
    for stream in &mut streams {
        match stream.write_all(&beginning) {
            Ok(()) => {}
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "{error}"
            ),
        }
    }
    for mut stream in streams {
        stream.write_all(b"\n").expect("the gate reads");
        stream.shutdown(Shutdown::Write).expect("it is connected");
    }
    let stats = gate.settled(400);
    assert_eq!(stats["outputs"][0]["sent"], 400);
    let peak = gate.peak_memory();
    assert!(peak < 150 * MEBIBYTE, "it took {peak} bytes");
    gate.stop();
}

#[test]
fn last_line_counts_without_a_line_feed() {
    let gate = Setup::new().start();
    gate.send(b"one\ntwo");
    gate.settled(2);
    gate.send(b"three\r");
    gate.settled(3);
    gate.send(b"");
    // A lone CR is data, and must not become the half of a line end.
    gate.stdout.wait_for(b"one\ntwo\nthree\r\r\n");
    gate.finish(3);
}

#[test]
fn line_waits_for_its_end() {
    let gate = Setup::new().start();
    let mut stream = gate.connect();
    stream.write_all(b"first\nhal").expect("the gate reads");
    gate.stdout.wait_for(b"first\n");
    assert_eq!(gate.settled(1)["received"], 1);
    stream.write_all(b"f\n").expect("the gate reads");
    gate.stdout.wait_for(b"first\nhalf\n");
    gate.finish(2);
}

#[test]
fn datagram_of_the_limit_passes() {
    let gate = Setup::new().flag("max-datagram", "100").start();
    let datagram = "d".repeat(100);
    gate.send_datagram(datagram.as_bytes());
    let stats = gate.settled(1);
    gate.stdout.wait_for(format!("{datagram}\n").as_bytes());
    assert_eq!(stats["ingest"]["udp"]["truncated"], 0);
    gate.stop();
}

#[test]
fn datagram_above_the_limit_is_cut_and_counted() {
    let gate = Setup::new().flag("max-datagram", "100").start();
    let datagram = format!("one\n{}", "e".repeat(97));
    gate.send_datagram(datagram.as_bytes());
    let stats = gate.settled(2);
    let cut = format!("one\n{}{MARK}\n", "e".repeat(96));
    gate.stdout.wait_for(cut.as_bytes());
    assert_eq!(stats["ingest"]["udp"]["truncated"], 1);
    gate.stop();
}

#[test]
fn largest_datagram_passes() {
    let gate = Setup::new().start();
    // What IPv4 leaves of 65,535 bytes.
    let datagram = [vec![b'f'; 65_506], b"\n".to_vec()].concat();
    gate.send_datagram(&datagram);
    gate.send_datagram(b"");
    gate.settled(1);
    gate.stdout.wait_for(&datagram);
    gate.stop();
}

#[test]
fn line_that_breaks_off_is_withheld() {
    let gate = Setup::new().start();
    gate.run(
        &json!([ssn_pattern()]),
        &[json!({"id": "out", "type": "console"})],
    );
    // Whether a short rest or one that fills a block: each may end in half of a value.
    for (number, filler) in (0_u64..).zip([0, 3000, 20_000]) {
        let mut stream = gate.connect();
        let half = format!("whole\n{}ssn 987-65-432", "x".repeat(filler));
        stream.write_all(half.as_bytes()).expect("the gate reads");
        gate.settled(2 * number + 1);
        // The rest may have come in several reads.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let socket = socket2::Socket::from(stream);
        // Without linger, closing sends a reset.
        socket
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("an option of TCP");
        drop(socket);
        eventually("the half line is taken", || {
            gate.pipeline()["received"] == 2 * number + 2
        });
    }
    gate.stdout
        .wait_for("whole\n[withheld by streamgate]\n".repeat(3).as_bytes());
    assert_eq!(gate.settled(6)["ingest"]["tcp"]["truncated"], 3);
    gate.finish(6);
}

fn ssn_pattern() -> Value {
    json!({"id": "pattern", "type": "redact", "params": {"pattern": r"\d{3}-\d{2}-\d{4}"}})
}

/// The length of the longest beginning of `value` that is in `text`.
fn leaked(value: &str, text: &str) -> usize {
    let is_in = |length: &usize| text.contains(&value[..*length]);
    (1..=value.len()).rev().find(is_in).unwrap_or(0)
}

#[test]
fn value_across_the_cut_does_not_leave() {
    const SMALL: usize = 64;
    const LOOK_AHEAD: usize = 4096;
    let gate = Setup::new().flag("max-event", SMALL.to_string()).start();
    let detectors = json!(["us_ssn", "credit_card", "aws_access_key"]);
    let rules = json!([
        // Moves what is at the end of the look-ahead to before the limit.
        {"id": "shrink", "type": "redact", "params": {"pattern": "y+", "replacement": ""}},
        {"id": "detectors", "type": "redact", "params": {"detectors": detectors}},
        ssn_pattern(),
    ]);
    gate.run(&rules, &[json!({"id": "out", "type": "console"})]);
    let values = [
        ("ssn ", "536-90-4399"),
        ("", "987-65-4321"),
        ("card ", "4111111111111111"),
        ("card ", "4111 1111 1111 1111"),
        ("key ", "AKIAQ3EGRIPT7TUUXPNT"),
    ];
    let mut lines = Vec::new();
    for (before, value) in values {
        for (filler, cut) in [("x", SMALL), ("y", SMALL + LOOK_AHEAD)] {
            for into in 0..=before.len() + value.len() + MARK.len() + 2 {
                let filler = filler.repeat(cut - into - 1);
                let tail = "z".repeat(80);
                lines.push((value, format!("{filler} {before}{value} {tail}\n")));
            }
        }
    }
    let all: String = lines.iter().map(|(_, line)| line.as_str()).collect();
    let count = lines.len() as u64;
    gate.send(all.as_bytes());
    let stats = gate.settled(count);
    assert_eq!(stats["ingest"]["tcp"]["truncated"], count);
    // Over HTTP it is the same.
    let request = Request::new("POST", "/ingest").body(Body::Whole(all.as_bytes()));
    let answer = gate.ingest(&request).expect(202).json();
    assert_eq!(answer, json!({"accepted": count, "truncated": count}));
    let stdout = gate.stdout.clone();
    gate.finish(2 * count);
    stdout.wait_for_end();
    let output = stdout.text();
    let found: Vec<&str> = output.lines().collect();
    assert_eq!(found.len(), 2 * lines.len());
    for ((value, line), found) in lines.iter().chain(&lines).zip(found) {
        assert!(found.len() <= SMALL, "{found}");
        let leaked = leaked(value, found);
        assert!(
            leaked <= value.len() / 3,
            "{leaked} of {value} in {found:?}, of a line of {} bytes",
            line.len()
        );
    }
}

#[test]
fn cut_does_not_divide_a_character() {
    let gate = Setup::new().flag("max-event", "64").start();
    let bodies: Vec<String> = (0..3)
        .map(|shift| "a".repeat(shift) + &"\u{20AC}".repeat(30))
        .collect();
    gate.send((bodies.join("\n") + "\n").as_bytes());
    gate.settled(3);
    let cut = |body: &String| {
        let kept = body.floor_char_boundary(64 - MARK.len());
        format!("{}{MARK}\n", &body[..kept])
    };
    let expected: String = bodies.iter().map(cut).collect();
    gate.stdout.wait_for(expected.as_bytes());
    gate.finish(3);
}
