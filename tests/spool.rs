//! Outputs with a spool: an outage behind the gate, and the end of the gate itself, cost nothing
//! but disk space; and what a receiver will never take is kept.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    Body, Gate, HttpReceiver, Reply, Request, Setup, TcpReceiver, eventually, lines_of,
    pseudo_random, request,
};

/// A receiver that fails until it is told to work.
fn switchable() -> (HttpReceiver, Arc<AtomicBool>) {
    let works = Arc::new(AtomicBool::new(false));
    let (seen, statuses) = (Arc::clone(&works), [500, 502, 503, 504]);
    let receiver = HttpReceiver::answering(move |number| match seen.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Status(statuses[number % 4]),
    });
    (receiver, works)
}

fn spooled(receiver: &HttpReceiver) -> Value {
    json!({"id": "out", "type": "http", "url": receiver.url(), "spool": {"max_bytes": "64MiB"}})
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let line = |number| format!("event number {number}\n").into_bytes();
    numbers.flat_map(line).collect()
}

fn spool_events(gate: &Gate) -> u64 {
    let status = gate.get("/status");
    status["outputs"][0]["spool"]["events"]
        .as_u64()
        .unwrap_or_default()
}

/// How often each line came.
fn counted(bytes: &[u8]) -> BTreeMap<Vec<u8>, usize> {
    let mut counts = BTreeMap::new();
    for line in lines_of(bytes) {
        *counts.entry(line.to_vec()).or_default() += 1;
    }
    counts
}

#[test]
fn outage_and_sigkill_cost_nothing_and_the_order_is_kept() {
    let store = tempfile::tempdir().unwrap();
    let (receiver, works) = switchable();
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([]), &[spooled(&receiver)]);
    gate.send(&numbered(0..30_000));
    eventually("all is in the spool", || spool_events(&gate) == 30_000);
    gate.kill();

    let gate = Setup::new().store(store.path()).start();
    gate.send(&numbered(30_000..40_000));
    eventually("all is in the spool", || spool_events(&gate) == 40_000);
    works.store(true, Ordering::SeqCst);
    receiver.wait_for(&numbered(0..40_000));
    let stats = gate.settled(10_000);
    assert_eq!(stats["outputs"][0]["recovered"], 30_000);
    assert_eq!(stats["outputs"][0]["sent"], 40_000);
    gate.stop();
    let left = fs::read_dir(store.path().join("outputs/output-out/spool")).unwrap();
    let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().ends_with(".segment")),
        "{names:?}"
    );
}

#[test]
fn end_with_a_dead_receiver_is_clean_and_the_next_gate_sends_the_rest() {
    let store = tempfile::tempdir().unwrap();
    let mut receiver = TcpReceiver::absent();
    let output = json!({
        "id": "out", "type": "tcp", "address": receiver.address().to_string(),
        "spool": {"max_bytes": 8_388_608, "fsync": "always"},
    });
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([]), &[output]);
    gate.send(&numbered(0..5_000));
    eventually("all is in the spool", || spool_events(&gate) == 5_000);
    gate.stop();
    receiver.resume();
    let gate = Setup::new().store(store.path()).start();
    receiver.received.wait_for(&numbered(0..5_000));
    gate.finish(0);
}

/// A receiver takes some requests of a large record and then fails. Whoever sends the rest, after a
/// change of the output or a restart, begins behind what was taken.
#[test]
fn what_was_taken_before_a_change_or_a_clean_end_is_not_sent_again() {
    let store = tempfile::tempdir().unwrap();
    let works = Arc::new(AtomicU64::new(7));
    let seen = Arc::clone(&works);
    let receiver = HttpReceiver::answering(move |_| {
        let left = seen.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        Reply::Status(if left.is_ok() { 200 } else { 503 })
    });
    let taken = || {
        receiver
            .requests()
            .iter()
            .filter(|request| request.taken)
            .count()
    };
    let output = |timeout: u64| {
        let mut output = spooled(&receiver);
        (output["timeout_ms"], output["max_in_flight"]) = (timeout.into(), 1.into());
        output
    };
    let gate = Setup::new().store(store.path()).start();
    gate.edit("POST", "/config/batch_size?size=10", &json!(null));
    gate.run(&json!([]), &[output(5_000)]);
    gate.send(&numbered(0..1_000));
    eventually("some is taken", || {
        taken() == 7 && spool_events(&gate) == 930
    });
    for (timeout, total, left) in [(5_001, 14, 860), (5_002, 21, 790)] {
        works.store(7, Ordering::SeqCst);
        gate.run(&json!([]), &[output(timeout)]);
        eventually("more is taken", || {
            taken() == total && spool_events(&gate) == left
        });
    }
    gate.stop();
    works.store(7, Ordering::SeqCst);
    let gate = Setup::new().store(store.path()).start();
    eventually("more is taken", || {
        taken() == 28 && spool_events(&gate) == 720
    });
    gate.stop();
    works.store(u64::MAX, Ordering::SeqCst);
    let gate = Setup::new().store(store.path()).start();
    receiver.wait_for(&numbered(0..1_000));
    let stats = gate.settled(0);
    assert_eq!(stats["outputs"][0]["recovered"], 720, "{stats:#}");
    assert_eq!(stats["outputs"][0]["sent"], 720, "{stats:#}");
    gate.stop();
}

#[test]
fn changed_output_takes_the_spool_over() {
    let (receiver, _) = switchable();
    let gate = Setup::new().start();
    gate.run(&json!([]), &[spooled(&receiver)]);
    gate.send(&numbered(0..2_000));
    eventually("all is in the spool", || spool_events(&gate) == 2_000);
    let better = HttpReceiver::start();
    gate.run(&json!([]), &[spooled(&better)]);
    gate.send(&numbered(2_000..3_000));
    better.wait_for(&numbered(0..3_000));
    let stats = gate.settled(3_000);
    assert_eq!(stats["outputs"][0]["recovered"], 2_000);
    gate.stop();
}

/// Events of about a kilobyte, 16 MiB in all: more than every buffer between a disk and a receiver.
const BACKLOG: usize = 16_000;

fn large(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let padding = "x".repeat(1_000);
    let line = |number| format!("event number {number} {padding}\n").into_bytes();
    numbers.flat_map(line).collect()
}

fn out(url: &str, spooled: bool) -> Value {
    match spooled {
        true => json!({"id": "out", "type": "http", "url": url, "spool": {"max_bytes": "64MiB"}}),
        false => json!({"id": "out", "type": "http", "url": url}),
    }
}

/// Every event arrives, few of them twice, and no output that was replaced has any left.
#[track_caller]
fn all_arrive(gate: Gate, taken: impl Fn() -> Vec<u8>, events: usize) {
    eventually("every event arrives", || counted(&taken()).len() == events);
    let twice: usize = counted(&taken()).values().map(|count| count - 1).sum();
    assert!(twice <= 2_000, "{twice} arrived twice");
    eventually("nothing is left", || {
        let stats = gate.pipeline();
        stats["removed_outputs"]["queued"] == 0 && stats["outputs"][0]["queued"] == 0
    });
    let stats = gate.pipeline();
    assert_eq!(stats["removed_outputs"]["discarded"], 0, "{stats:#}");
    gate.stop();
}

#[test]
fn backlog_of_any_size_is_handed_over_with_and_without_spools() {
    for (before, after) in [(true, true), (true, false), (false, true), (false, false)] {
        let (refusing, _) = switchable();
        let (again, _) = switchable();
        let gate = Setup::new().start();
        gate.run(&json!([]), &[out(&refusing.url(), before)]);
        gate.send(&large(0..BACKLOG));
        eventually("all wait", || {
            gate.pipeline()["outputs"][0]["queued"] == BACKLOG
        });
        // One more change while the first hand-over may be under way, to one that does not work
        // either.
        gate.run(&json!([]), &[out(&again.url(), after)]);
        let better = HttpReceiver::start();
        gate.run(&json!([]), &[out(&better.url(), after)]);
        gate.send(&large(BACKLOG..BACKLOG + 10));
        all_arrive(gate, || better.taken(), BACKLOG + 10);
    }
}

#[test]
fn backlog_is_handed_over_to_another_type() {
    let (refusing, _) = switchable();
    for spooled in [true, false] {
        let store = tempfile::tempdir().expect("a temporary directory");
        let gate = Setup::new().store(store.path()).start();
        gate.run(&json!([]), &[out(&refusing.url(), spooled)]);
        gate.send(&large(0..BACKLOG));
        eventually("all wait", || {
            gate.pipeline()["outputs"][0]["queued"] == BACKLOG
        });
        let dead = TcpReceiver::absent();
        let mut tcp = json!({"id": "out", "type": "tcp", "address": dead.address().to_string()});
        if spooled {
            tcp["spool"] = json!({"max_bytes": "32MiB"});
        }
        gate.run(&json!([]), &[tcp]);
        let file = json!({"id": "out", "type": "file", "path": "all.log"});
        gate.run(&json!([]), &[file]);
        let path = store.path().join("files/all.log");
        all_arrive(gate, || fs::read(&path).unwrap_or_default(), BACKLOG);
    }
}

#[test]
fn output_that_is_added_again_sends_the_backlog_of_the_removed_one() {
    let (refusing, _) = switchable();
    let gate = Setup::new().start();
    gate.run(&json!([]), &[out(&refusing.url(), true)]);
    gate.send(&large(0..BACKLOG));
    eventually("all is in the spool", || {
        spool_events(&gate) == BACKLOG as u64
    });
    gate.run(&json!([]), &[]);
    let better = HttpReceiver::start();
    gate.run(&json!([]), &[out(&better.url(), true)]);
    all_arrive(gate, || better.taken(), BACKLOG);
}

#[test]
fn forty_publishes_under_load_lose_nothing() {
    for spooled in [true, false] {
        let receiver = HttpReceiver::start();
        let gate = Setup::new().start();
        let output = |timeout: usize| {
            let mut output = out(&receiver.url(), spooled);
            output["timeout_ms"] = json!(20_000 + timeout);
            output["max_batch_events"] = json!(1_000);
            output
        };
        gate.run(&json!([]), &[output(0)]);
        let ended = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0;
                while !ended.load(Ordering::SeqCst) {
                    gate.send(&numbered(sent..sent + 500));
                    sent += 500;
                    // The receiver keeps up, more or less.
                    eventually("there is room", || {
                        gate.pipeline()["outputs"][0]["queued"].as_u64() < Some(5_000)
                    });
                }
                sent
            });
            for publish in 1..=40 {
                gate.run(&json!([]), &[output(publish)]);
                let before = receiver.requests().len();
                eventually("events flow", || receiver.requests().len() > before);
            }
            ended.store(true, Ordering::SeqCst);
            sender.join().expect("the sender ends")
        });
        all_arrive(gate, || receiver.taken(), sent);
    }
}

#[test]
fn end_does_not_wait_for_a_receiver_that_hangs_if_all_is_on_the_disk() {
    let receiver = HttpReceiver::answering(|_| Reply::Hang);
    let gate = Setup::new().flag("grace-period", "50s").start();
    gate.run(&json!([]), &[spooled(&receiver)]);
    gate.send(&numbered(0..500));
    eventually("the request hangs", || !receiver.requests().is_empty());
    let begun = std::time::Instant::now();
    gate.stop();
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn dead_letters_that_give_way_are_counted_and_each_is_redriven_once() {
    let receiver = HttpReceiver::answering(|_| Reply::Status(404));
    let gate = Setup::new().start();
    let mut output = out(&receiver.url(), false);
    output["dead_letters"] = json!({"max_bytes": "1MiB"});
    gate.run(&json!([]), &[output]);
    gate.send(&large(0..6_000));
    let stats = gate.settled(6_000);
    let status = &gate.get("/status")["outputs"][0];
    assert_eq!(status["state"], "degraded", "{status}");
    assert!(
        status["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("404")),
        "{status}"
    );
    let figure = |stats: &Value, name: &str| stats["outputs"][0][name].as_u64().expect(name);
    let there = status["dead_letters"].as_u64().expect("it keeps some");
    assert_eq!(figure(&stats, "dead_lettered"), 6_000);
    assert_eq!(figure(&stats, "dead_letters_dropped"), 6_000 - there);
    let answer = gate.edit("POST", "/outputs/out/redrive", &Value::Null);
    let redriven = answer["redriven"].as_u64().expect("a number");
    assert!(redriven <= there, "{redriven} of {there}");
    eventually("they are back", || {
        figure(&gate.pipeline(), "dead_lettered") == 6_000 + redriven
    });
    let stats = gate.pipeline();
    let there = gate.get("/status")["outputs"][0]["dead_letters"]
        .as_u64()
        .expect("some");
    let kept = figure(&stats, "dead_lettered") - redriven - figure(&stats, "dead_letters_dropped");
    assert_eq!(kept, there, "{stats:#}");
    gate.stop();
}

#[test]
fn full_spool_gives_up_what_it_is_told_to_and_counts_it() {
    for when_full in ["drop_oldest", "drop_newest", "block"] {
        let (receiver, works) = switchable();
        let mut output = spooled(&receiver);
        output["spool"] = json!({"max_bytes": "1MiB", "when_full": when_full});
        let gate = Setup::new().flag("memory-budget", "32MiB").start();
        gate.run(&json!([]), &[output]);
        let events = 1_200_000;
        gate.send(&numbered(0..events));
        eventually("all came", || gate.pipeline()["received"] == events);
        eventually("some were given up", || {
            let discarded = &gate.pipeline()["outputs"][0]["discarded"];
            let reason = if when_full == "block" {
                "queue_full"
            } else {
                "spool_full"
            };
            discarded[reason].as_u64() > Some(0)
        });
        if when_full == "drop_oldest" {
            eventually("the rest is on the disk", || {
                let discarded = gate.pipeline()["outputs"][0]["discarded"].take();
                let discarded = discarded.as_object().expect("an object");
                let lost: u64 = discarded.values().filter_map(Value::as_u64).sum();
                let kept = &gate.get("/status")["outputs"][0]["spool"]["events"];
                kept.as_u64().map(|kept| kept + lost) == Some(events as u64)
            });
        }
        let disk_bytes = &gate.get("/status")["outputs"][0]["spool"]["disk_bytes"];
        assert!(disk_bytes.as_u64() <= Some(1024 * 1024), "{disk_bytes}");
        works.store(true, Ordering::SeqCst);
        let stats = gate.settled(events as u64);
        let found = counted(&receiver.taken());
        assert_eq!(stats["outputs"][0]["sent"], found.len(), "{when_full}");
        let has = |number| found.contains_key(format!("event number {number}\n").as_bytes());
        match when_full {
            "drop_oldest" => assert!(has(events - 1) && !has(events / 2)),
            // Small ones that came last may have fitted.
            _ => assert!(has(0), "{when_full}"),
        }
        gate.stop();
    }
}

#[test]
fn disk_that_cannot_be_used_does_not_hold_the_output_up() {
    let store = tempfile::tempdir().unwrap();
    let folder = store.path().join("outputs/output-out");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("spool"), b"a file where a folder should be").unwrap();
    let receiver = HttpReceiver::start();
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([]), &[spooled(&receiver)]);
    gate.send(&numbered(0..1_000));
    receiver.wait_for(&numbered(0..1_000));
    let spool = &gate.get("/status")["outputs"][0]["spool"];
    assert!(
        spool["error"]
            .as_str()
            .is_some_and(|error| !error.is_empty()),
        "{spool}"
    );
    gate.finish(1_000);
}

#[test]
fn damaged_spool_costs_what_is_damaged_and_the_gate_starts() {
    let store = tempfile::tempdir().unwrap();
    let (receiver, works) = switchable();
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([]), &[spooled(&receiver)]);
    for part in 0..20 {
        gate.send(&numbered(part * 100..part * 100 + 100));
        eventually("it is in the spool", || {
            spool_events(&gate) == (part as u64 + 1) * 100
        });
    }
    gate.kill();
    let spool = store.path().join("outputs/output-out/spool");
    let segment = segments(&spool).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    fs::write(&segment, bytes).unwrap();
    works.store(true, Ordering::SeqCst);
    let gate = Setup::new().store(store.path()).start();
    gate.send(&numbered(2_000..2_001));
    eventually("the rest arrives", || {
        counted(&receiver.taken()).len() == 1_901
    });
    let stats = gate.settled(1);
    assert_eq!(stats["outputs"][0]["recovered"], 2_000);
    assert_eq!(
        stats["outputs"][0]["discarded"]["spool_damaged"], 100,
        "{stats:#}"
    );
    assert!(gate.get("/status")["outputs"][0]["spool"]["damaged_bytes"].as_u64() > Some(0));
    gate.stop();
}

fn segments(spool: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(spool).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "segment")
        })
        .collect()
}

#[test]
fn what_will_never_be_taken_is_kept_with_the_reason_and_can_be_sent_again() {
    let takes = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&takes);
    let receiver = HttpReceiver::answering(move |_| match seen.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Status(400),
    });
    let store = tempfile::tempdir().unwrap();
    let output = json!({"id": "out", "type": "http", "url": receiver.url()});
    let gate = Setup::new().store(store.path()).start();
    gate.run(&json!([]), &[output]);
    gate.send(b"refused 1\nnot \xff utf-8\n");
    let stats = gate.settled(2);
    assert_eq!(stats["outputs"][0]["dead_lettered"], 2);
    gate.kill();

    let gate = Setup::new().store(store.path()).start();
    assert_eq!(gate.get("/status")["outputs"][0]["dead_letters"], 2);
    let shown = gate.get("/outputs/out/dead-letters");
    let letters = shown["dead_letters"].as_array().unwrap();
    assert_eq!(letters[0]["event"], "refused 1");
    assert!(
        letters[0]["reason"].as_str().unwrap().contains("400"),
        "{shown}"
    );
    assert_eq!(letters[1]["event_bytes"], json!(b"not \xff utf-8"));
    // Those that are refused again are kept again.
    let answer = gate.edit("POST", "/outputs/out/redrive", &Value::Null);
    assert_eq!(answer, json!({"redriven": 2}));
    eventually("they are back", || {
        gate.pipeline()["outputs"][0]["dead_lettered"] == 2
    });
    takes.store(true, Ordering::SeqCst);
    gate.edit("POST", "/outputs/out/redrive", &Value::Null);
    receiver.wait_for(b"refused 1\nnot \xff utf-8\n");
    let stats = gate.settled(0);
    assert_eq!(stats["outputs"][0]["redriven"], 4);
    assert_eq!(gate.get("/status")["outputs"][0]["dead_letters"], 0);
    gate.try_edit("POST", "/outputs/nobody/redrive", &Value::Null)
        .expect(404);
    gate.stop();
}

#[test]
fn durable_ingest_answers_what_is_true() {
    let (receiver, works) = switchable();
    let refusing = HttpReceiver::answering(|_| Reply::Status(400));
    let gate = Setup::new().env("STREAMGATE_DURABLE", "true").start();
    gate.run(&json!([]), &[spooled(&receiver)]);
    let post = |text: &str| {
        gate.ingest(&Request::new("POST", "/ingest").body(Body::Whole(text.as_bytes())))
    };
    // On the disk is safe, whatever the receiver does.
    post("one\ntwo\n").expect(202);
    assert_eq!(spool_events(&gate), 2);
    // What a rule drops is too, and nothing at all.
    let rule = json!({"id": "no", "type": "filter", "params": {"value": "three"}});
    let lost = json!({
        "id": "lost", "type": "http", "url": refusing.url(), "dead_letters": false,
    });
    gate.run(&json!([rule]), &[spooled(&receiver), lost]);
    post("three\n").expect(202);
    post("").expect(202);
    // One output has lost it.
    let answer = post("four\n").expect(503);
    assert_eq!(answer.json()["code"], "not_safe");
    assert!(answer.header("retry-after").is_some());
    works.store(true, Ordering::SeqCst);
    receiver.wait_for(b"one\ntwo\nfour\n");
    gate.settled(4);
    gate.stop();
}

/// Kills the gate at random moments while senders wait for its answers, and changes its output, which
/// hands over its backlog, up to two times before. Every event that was answered with a 2xx arrives;
/// twice at most those that were under way.
#[test]
fn sigkill_loses_nothing_that_was_answered() {
    // All 200 by hand; each start and end takes its time.
    let seeds = std::env::var("STREAMGATE_TEST_KILLS").map_or(12, |seeds| seeds.parse().unwrap());
    let store = tempfile::tempdir().unwrap();
    let flaky = AtomicU64::new(0);
    let receiver =
        HttpReceiver::answering(move |_| match flaky.fetch_add(1, Ordering::SeqCst) % 7 {
            3 => Reply::Status(503),
            5 => Reply::Close,
            _ => Reply::Status(200),
        });
    let setup = || {
        let setup = Setup::new().store(store.path());
        setup.env("STREAMGATE_DURABLE", "true")
    };
    let gate = setup().start();
    gate.run(&json!([]), &[spooled(&receiver)]);
    gate.kill();
    let mut answered: Vec<Vec<u8>> = Vec::new();
    let (mut number, mut handed_over) = (0, 0);
    for seed in 0..seeds {
        let mut random = pseudo_random(seed);
        let gate = setup().start();
        let address = gate.http();
        let hand_overs = random.u64(0..3);
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let first = number + sender * 1_000_000;
                thread::spawn(move || send_until_it_fails(address, first))
            })
            .collect();
        for change in 0..=hand_overs {
            thread::sleep(Duration::from_micros(random.u64(0..30_000)));
            if change == hand_overs {
                break;
            }
            let mut output = spooled(&receiver);
            output["timeout_ms"] = random.u64(5_000..60_000).into();
            output["max_in_flight"] = random.u64(1..5).into();
            gate.edit("PUT", "/outputs/out", &output);
            gate.publish();
            handed_over += 1;
        }
        gate.kill();
        for sender in senders {
            answered.extend(sender.join().unwrap());
        }
        number += 10_000_000;
    }
    let gate = setup().start();
    eventually("all that was answered arrives", || {
        let found = counted(&receiver.taken());
        answered.iter().all(|line| found.contains_key(line))
    });
    eventually("it is at rest", || {
        gate.pipeline()["outputs"][0]["queued"] == 0
    });
    let found = counted(&receiver.taken());
    let twice: usize = found.values().map(|count| count - 1).sum();
    eprintln!(
        "{seeds} kills, {handed_over} hand-overs: {} events answered, {} arrived, {twice} of them again",
        answered.len(),
        found.len()
    );
    // In flight are up to four requests, of at most `batch_size` events each, and the records that they
    // end in, of what the four senders had given together.
    assert!(
        twice as u64 <= (seeds + handed_over) * 4 * (100 + 4 * 5),
        "{twice}"
    );
    gate.stop();
}

/// Sends requests of a few events each, and returns those that were answered with a 2xx.
fn send_until_it_fails(address: std::net::SocketAddr, first: usize) -> Vec<Vec<u8>> {
    let mut answered = Vec::new();
    for at in 0.. {
        let events = numbered(first + at * 5..first + at * 5 + 5);
        let post = Request::new("POST", "/ingest").body(Body::Whole(&events));
        match request(address, &post) {
            Ok(answer) if answer.status == 202 => {
                answered.extend(lines_of(&events).map(<[u8]>::to_vec));
            }
            // Not known to be safe: it counts as not sent.
            Ok(_) => {}
            Err(_) => break,
        }
    }
    answered
}
