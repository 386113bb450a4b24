//! A publish while events flow: no event is lost, doubled, reordered or processed by two revisions,
//! and a revision is in force as soon as its publish is answered.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::Shutdown,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Gate, PATIENCE, Setup, TcpReceiver, eventually};

/// Senders at full speed.
const CONNECTIONS: usize = 4;

#[test]
fn thousand_publishes_lose_no_event_and_mix_no_revisions() {
    publishes_under_load(1_000, Setup::new().flag("store", "memory:"));
}

#[test]
fn publishes_to_a_store_on_disk_lose_no_event_either() {
    publishes_under_load(50, Setup::new());
}

#[test]
fn published_rule_is_in_force_when_the_publish_is_answered() {
    in_force(Setup::new().flag("store", "memory:").start());
}

#[test]
fn published_rule_is_in_force_with_a_store_on_disk_too() {
    in_force(Setup::new().start());
}

#[test]
fn revision_that_cannot_be_built_changes_nothing() {
    let gate = Setup::new().start();
    gate.run(&rules_of(1), &[]);
    let broken = json!([{"id": "r", "type": "redact", "params": {"pattern": "("}}]);
    let problem = gate.try_edit("PUT", "/rules", &broken).expect(422).json();
    assert_eq!(problem["pointer"], "/0/params/pattern", "{problem}");
    assert_eq!(gate.get("/rules"), rules_of(1));
    gate.send(b"rev=A rev=B\n");
    gate.stdout.wait_for(b"a=1 b=1\n");
    gate.finish(1);
}

#[test]
fn console_that_goes_on_prints_every_event_once() {
    let gate = Setup::new().start();
    let mut stream = gate.connect();
    let mut expected = Vec::new();
    for number in 1..=50 {
        gate.run(&rules_of(number), &[]);
        let line = format!("{number} rev=A rev=B\n");
        stream.write_all(line.as_bytes()).expect("the gate reads");
        expected.extend(format!("{number} a={number} b={number}\n").into_bytes());
        gate.stdout.wait_for(&expected);
    }
    stream.shutdown(Shutdown::Write).expect("it is connected");
    gate.finish(50);
}

/// The rules of revision `number`: each replaces its token by the number.
fn rules_of(number: u64) -> Value {
    let rule = |id: &str, pattern: &str| {
        let replacement = format!("{id}={number}");
        json!({"id": id, "type": "redact", "params": {
            "pattern": pattern, "replacement": replacement,
        }})
    };
    json!([rule("a", "rev=A"), rule("b", "rev=B")])
}

fn publishes_under_load(publishes: u64, setup: Setup) {
    let checker = Arc::new(Mutex::new(Checker::default()));
    let receiver = {
        let checker = Arc::clone(&checker);
        TcpReceiver::watching(move || {
            let checker = Arc::clone(&checker);
            let mut unfinished = Vec::new();
            move |bytes: &[u8]| {
                let mut checker = checker.lock().expect("a checker does not panic");
                checker.take(&mut unfinished, bytes);
            }
        })
    };
    let gate = setup.sending_to(receiver.address()).start();
    // The last revision whose publish was answered, and whether it is enough. The gate begins with
    // revision 1, which has no rules.
    let (answered, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let sent: Vec<u64> = thread::scope(|scope| {
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let (gate, answered, ended) = (&gate, &answered, &ended);
                scope.spawn(move || send_numbered(gate, number, answered, ended))
            })
            .collect();
        for _ in 0..publishes {
            let next = answered.load(Ordering::SeqCst).max(1) + 1;
            gate.edit("PUT", "/rules", &rules_of(next));
            assert_eq!(gate.publish(), next);
            answered.store(next, Ordering::SeqCst);
        }
        ended.store(true, Ordering::SeqCst);
        let join = |sender: thread::ScopedJoinHandle<'_, u64>| sender.join();
        let sent = senders.into_iter().map(join);
        sent.collect::<Result<_, _>>().expect("no sender panicked")
    });
    let total: u64 = sent.iter().sum();
    let stats = gate.settled(total);
    assert_eq!(stats["outputs"][0]["sent"], total, "{stats:#}");
    gate.stop();
    eventually("the receiver has everything", || {
        let checker = checker.lock().expect("a checker does not panic");
        checker.fault.is_some() || checker.events >= total
    });
    let checker = checker.lock().expect("a checker does not panic");
    assert_eq!(checker.fault, None);
    assert_eq!(checker.events, total);
    for (number, sent) in sent.iter().enumerate() {
        let arrived = &checker.connections[&(number as u64)];
        assert_eq!(arrived.next, *sent, "connection {number}");
        assert!(arrived.revision <= publishes + 1);
    }
    eprintln!("{total} events during {publishes} publishes");
}

/// Sends until it is enough; each event carries its connection, its number, and the last revision
/// that was answered before it was written.
fn send_numbered(gate: &Gate, number: usize, answered: &AtomicU64, ended: &AtomicBool) -> u64 {
    let mut stream = gate.connect();
    let mut sent = 0;
    let mut piece = Vec::new();
    while !ended.load(Ordering::SeqCst) {
        let least = answered.load(Ordering::SeqCst);
        piece.clear();
        for _ in 0..500 {
            let event = writeln!(piece, "{number} {sent} {least} rev=A padding rev=B");
            event.expect("memory takes everything");
            sent += 1;
        }
        stream.write_all(&piece).expect("the gate reads");
    }
    stream.shutdown(Shutdown::Write).expect("it is connected");
    sent
}

/// Looks at events as they arrive, for there are too many to keep.
#[derive(Default)]
struct Checker {
    events: u64,
    connections: HashMap<u64, Arrived>,
    fault: Option<String>,
}

#[derive(Default)]
struct Arrived {
    next: u64,
    revision: u64,
}

impl Checker {
    fn take(&mut self, unfinished: &mut Vec<u8>, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(unfinished).into_owned();
                unfinished.clear();
                if let Err(fault) = self.event(line.trim_end()) {
                    self.fault
                        .get_or_insert_with(|| format!("{fault} in `{line}`"));
                }
            }
        }
    }

    fn event(&mut self, line: &str) -> Result<(), &'static str> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [connection, number, least, a, "padding", b] = fields[..] else {
            return Err("another shape");
        };
        let number_of = |text: &str| text.parse::<u64>().map_err(|_| "no number");
        let (connection, number) = (number_of(connection)?, number_of(number)?);
        let revision = match (a.strip_prefix("a="), b.strip_prefix("b=")) {
            (Some(a), Some(b)) if a == b => number_of(a)?,
            // What revision 1 leaves.
            (None, None) if a == "rev=A" && b == "rev=B" => 0,
            _ => return Err("two revisions"),
        };
        if revision < number_of(least)? {
            return Err("a revision that was out of force");
        }
        let arrived = self.connections.entry(connection).or_default();
        if number != arrived.next {
            return Err("an event is missing, doubled or out of order");
        }
        if revision < arrived.revision {
            return Err("a step back to an earlier revision");
        }
        *arrived = Arrived {
            next: number + 1,
            revision,
        };
        self.events += 1;
        Ok(())
    }
}

/// Publishes fifty times, and sends an event on an open connection after each answer.
fn in_force(gate: Gate) {
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = receiver.local_addr().expect("it is bound").to_string();
    gate.run(
        &rules_of(1),
        &[json!({"id": "out", "type": "tcp", "address": address})],
    );
    let mut stream = gate.connect();
    stream.write_all(b"rev=A rev=B\n").expect("the gate reads");
    receiver
        .set_nonblocking(true)
        .expect("an option of sockets");
    let mut accepted = None;
    eventually("the gate connects", || {
        accepted = receiver.accept().ok();
        accepted.is_some()
    });
    let (arriving, _) = accepted.expect("it did");
    let options = [
        arriving.set_nonblocking(false),
        arriving.set_read_timeout(Some(PATIENCE)),
    ];
    assert!(options.iter().all(Result::is_ok), "options of sockets");
    let mut arriving = BufReader::new(arriving).lines();
    let mut next = || arriving.next().expect("an event").expect("in time");
    assert_eq!(next(), "a=1 b=1");
    let mut slowest = Duration::ZERO;
    for number in 2..=51 {
        gate.edit("PUT", "/rules", &rules_of(number));
        assert_eq!(gate.publish(), number);
        let answered = Instant::now();
        stream.write_all(b"rev=A rev=B\n").expect("the gate reads");
        assert_eq!(next(), format!("a={number} b={number}"));
        slowest = slowest.max(answered.elapsed());
    }
    eprintln!("the slowest event arrived {slowest:?} after the answer");
    gate.finish(51);
}
