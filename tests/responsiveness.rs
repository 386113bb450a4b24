//! The threads that serve sockets do nothing else: a probe of `/healthz` every 5 ms is answered at
//! once whatever outputs, files, requests and edits do.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::support::{
    Body, Gate, HttpReceiver, Reply, Request, Setup, compress, eventually, request,
};

/// Time between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(5);

/// The longest that an answer may take, also on a machine that is busy.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// Probes a gate all the time.
struct Watchdog {
    ended: Arc<AtomicBool>,
    prober: JoinHandle<Duration>,
}

impl Watchdog {
    fn start(gate: &Gate) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (address, seen) = (gate.control(), Arc::clone(&ended));
        let prober = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !seen.load(Ordering::SeqCst) {
                let begun = Instant::now();
                // What is not answered in time counts with that time.
                let _ = request(address, &Request::new("GET", "/healthz"));
                longest = longest.max(begun.elapsed());
                thread::sleep(PROBE_EVERY);
            }
            longest
        });
        Self { ended, prober }
    }

    #[track_caller]
    #[expect(
        clippy::print_stdout,
        reason = "the measured gap is a result of the test"
    )]
    fn expect_no_gap(self, during: &str) {
        self.ended.store(true, Ordering::SeqCst);
        let longest = self.prober.join().expect("the prober");
        println!("longest gap during {during}: {longest:?}");
        assert!(longest < LONGEST_GAP, "{during}: {longest:?}");
    }
}

/// Asks for the status and the metrics all the time, until the condition holds.
fn scraping(gate: &Gate, until: &str, condition: impl FnMut() -> bool) {
    let (ended, address) = (AtomicBool::new(false), gate.control());
    thread::scope(|scope| {
        for path in ["/status", "/metrics"] {
            let ended = &ended;
            scope.spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    let _ = request(address, &Request::new("GET", path));
                }
            });
        }
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(until, condition);
        }));
        ended.store(true, Ordering::SeqCst);
        if let Err(panic) = held {
            std::panic::resume_unwind(panic);
        }
    });
}

fn make_pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("the folder is ours");
}

#[test]
fn replacing_an_output_with_dead_letters_holds_nothing_up() {
    let late = Duration::from_millis(1_800);
    let receiver = HttpReceiver::judging(move |request| {
        match memchr::memmem::find(&request.body, b"poison") {
            Some(_) => Reply::Status(400),
            None => Reply::Late(late),
        }
    });
    let gate = Setup::new().start();
    let output = |max_bytes: &str| {
        json!({
            "id": "out", "type": "http", "url": receiver.url(),
            "dead_letters": {"max_bytes": max_bytes}, "max_batch_events": 1,
        })
    };
    gate.run(&json!([]), &[output("16MiB")]);
    gate.send(b"poison\n");
    eventually("there is a dead letter", || {
        gate.get("/status")["outputs"][0]["dead_letters"] == 1
    });
    let watchdog = Watchdog::start(&gate);
    let before = receiver.requests().len();
    for number in 0..60 {
        gate.send(format!("event {number}\n").as_bytes());
    }
    eventually("some are on their way", || {
        receiver.requests().len() > before
    });
    gate.edit("PUT", "/outputs/out", &output("8MiB"));
    gate.publish();
    let at_publish = receiver.requests().len();
    scraping(
        &gate,
        "the new output sends, and has the dead letter",
        || {
            let sends = receiver.requests().len() > at_publish + 1;
            sends && gate.get("/status")["outputs"][0]["dead_letters"] == 1
        },
    );
    watchdog.expect_no_gap("the hand-over of dead letters");
    gate.kill();
}

#[test]
fn secret_that_cannot_be_read_holds_up_its_output_only() {
    let accepts = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&accepts);
    let receiver = HttpReceiver::answering(move |_| match seen.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Status(401),
    });
    let other = HttpReceiver::start();
    let gate = Setup::new().secrets_in_its_directory().start();
    let token = gate.directory().join("token");
    fs::write(&token, "secret").unwrap();
    let secret = format!("${{file:{}}}", token.display());
    let outputs = [
        json!({"id": "out", "type": "http", "url": receiver.url(), "headers": {"x-token": secret}}),
        json!({"id": "other", "type": "http", "url": other.url()}),
    ];
    gate.run(&json!([]), &outputs);
    fs::remove_file(&token).unwrap();
    make_pipe(&token);
    let watchdog = Watchdog::start(&gate);
    gate.send(b"first\n");
    scraping(&gate, "the output says what is wrong", || {
        let error = &gate.get("/status")["outputs"][0]["last_error"];
        error.as_str().is_some_and(|error| {
            error.contains("a pipe (FIFO)") && error.contains("expected a regular file")
        })
    });
    other.wait_for(b"first\n");
    accepts.store(true, Ordering::SeqCst);
    fs::remove_file(&token).unwrap();
    fs::write(&token, "secret").unwrap();
    receiver.wait_for(b"first\n");
    watchdog.expect_no_gap("a secret that cannot be read");
    gate.finish(1);
}

#[test]
fn json_that_is_much_larger_unpacked_holds_nothing_up() {
    let gate = Setup::new().start();
    let receiver = HttpReceiver::start();
    gate.run(
        &json!([{"id": "none", "type": "filter", "params": {"value": "1"}}]),
        &[json!({"id": "out", "type": "http", "url": receiver.url()})],
    );
    let mut text = b"[1".to_vec();
    while text.len() < 15 << 20 {
        text.extend_from_slice(b",1");
    }
    text.push(b']');
    let body = compress("zstd", &text);
    assert!(body.len() < 64 << 10, "{}", body.len());
    let watchdog = Watchdog::start(&gate);
    let address: SocketAddr = gate.http();
    let post = || {
        let request_ = Request::new("POST", "/ingest")
            .header("Content-Type", "application/json")
            .header("Content-Encoding", "zstd")
            .body(Body::Whole(&body));
        request(address, &request_).expect("it is answered").status
    };
    let statuses: Vec<u16> = thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(post)).collect();
        let joined = clients.into_iter().map(|client| client.join());
        joined.map(|status| status.expect("a client")).collect()
    });
    assert!(statuses.contains(&202), "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [202, 429].contains(status)),
        "{statuses:?}"
    );
    watchdog.expect_no_gap("large JSON");
    gate.stop();
}

#[test]
fn edits_that_name_a_pipe_are_refused_and_others_go_on() {
    let gate = Setup::new().secrets_in_its_directory().start();
    let pipe = gate.directory().join("pipe");
    make_pipe(&pipe);
    let watchdog = Watchdog::start(&gate);
    let rule = json!({"id": "hashed", "type": "redact", "params": {
        "pattern": "x+", "action": "hash", "key": format!("file:{}", pipe.display()),
    }});
    let reference = format!("${{file:{}}}", pipe.display());
    let output = |field: &str, value: Value| {
        let mut output = json!({"id": "out", "type": "http", "url": "https://127.0.0.1:9"});
        output[field] = value;
        output
    };
    let edits = [
        ("POST", "/rules", rule.clone()),
        ("PUT", "/rules/hashed", rule.clone()),
        ("PUT", "/rules", json!([rule])),
        (
            "POST",
            "/outputs",
            output("headers", json!({"x-token": reference})),
        ),
        ("POST", "/outputs", output("tls", json!({"ca": pipe}))),
    ];
    for (method, path, body) in edits {
        let answer = gate.try_edit(method, path, &body).expect(422).text();
        assert!(
            answer.contains("a pipe (FIFO)") && answer.contains("expected a regular file"),
            "{method} {path}: {answer}"
        );
    }
    gate.edit(
        "POST",
        "/rules",
        &json!({"id": "drop", "type": "filter", "params": {"value": "DEBUG"}}),
    );
    gate.publish();
    watchdog.expect_no_gap("edits that name a pipe");
    gate.stop();
}
