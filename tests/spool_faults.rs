//! Spools whose ground is taken away: the folder, the lock, the files; and spools of other
//! versions.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{
    Body, Gate, HttpReceiver, Reply, Request, Setup, copy_folder, eventually, lines_of,
};

fn output(receiver: &HttpReceiver, max_bytes: &str) -> Value {
    json!({"id": "out", "type": "http", "url": receiver.url(), "spool": {"max_bytes": max_bytes}})
}

fn large(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let padding = "x".repeat(1_000);
    let line = |number| format!("event number {number} {padding}\n").into_bytes();
    numbers.flat_map(line).collect()
}

fn status(gate: &Gate) -> Value {
    gate.get("/status")["outputs"][0].clone()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    let mut found: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|name| name == "segment"))
        .collect();
    found.sort();
    found
}

fn version_0_1() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/version-0.1/store")
}

#[test]
fn second_gate_on_a_spool_folder_is_refused_with_the_holder() {
    let spools = tempfile::tempdir().unwrap();
    let path = spools.path().display().to_string();
    let receiver = HttpReceiver::start();
    let gate = Setup::new().flag("spool", &path).start();
    gate.run(&json!([]), &[output(&receiver, "8MiB")]);
    let second = Setup::new().flag("spool", &path).run_to_end();
    assert_eq!(second.status.code(), Some(2), "{}", second.stderr);
    for part in [
        &path,
        &format!("process {}", gate.process_id()),
        "`--spool`",
    ] {
        assert!(second.stderr.contains(part), "{part}: {}", second.stderr);
    }
    gate.send(&large(0..10));
    receiver.wait_for(&large(0..10));
    gate.finish(10);
    let third = Setup::new().flag("spool", &path).start();
    third.stop();
}

#[test]
fn second_gate_on_a_store_is_refused_with_the_holder() {
    let store = tempfile::tempdir().unwrap();
    let gate = Setup::new().store(store.path()).start();
    let second = Setup::new().store(store.path()).run_to_end();
    assert_eq!(second.status.code(), Some(2), "{}", second.stderr);
    let path = store.path().display().to_string();
    for part in [
        &path,
        &format!("process {}", gate.process_id()),
        "`--store`",
    ] {
        assert!(second.stderr.contains(part), "{part}: {}", second.stderr);
    }
    gate.stop();
}

/// As an older version does, which knows no lock on the folder of all spools.
#[test]
fn lock_of_another_process_on_one_spool_is_seen_at_the_start_and_by_an_edit() {
    for inner in ["spool", "dead_letters"] {
        let spools = tempfile::tempdir().unwrap();
        let folder = spools.path().join("output-out").join(inner);
        fs::create_dir_all(&folder).unwrap();
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let path = spools.path().display().to_string();
        let ended = Setup::new().flag("spool", &path).run_to_end();
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        let named = folder.display().to_string();
        assert!(ended.stderr.contains(&named), "{}", ended.stderr);
    }

    let spools = tempfile::tempdir().unwrap();
    let path = spools.path().display().to_string();
    let receiver = HttpReceiver::start();
    let gate = Setup::new().flag("spool", &path).start();
    let folder = spools.path().join("output-out/spool");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    gate.run(&json!([]), &[output(&receiver, "8MiB")]);
    eventually("it is told", || status(&gate)["state"] == "degraded");
    let error = status(&gate)["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("in use by another process"), "{error}");
    let down = "streamgate_spool_up{output=\"out\",type=\"http\"} 0";
    assert!(gate.metrics().contains(down), "{}", gate.metrics());
    gate.send(&large(0..10));
    receiver.wait_for(&large(0..10));
    gate.finish(10);
}

/// Has events in several segments, with a gate that was killed.
fn waiting(store: &Path, receiver: &HttpReceiver, events: usize) -> PathBuf {
    let gate = Setup::new().store(store).start();
    gate.run(&json!([]), &[output(receiver, "1MiB")]);
    gate.send(&large(0..events));
    eventually("all is in the spool", || {
        status(&gate)["spool"]["events"] == events
    });
    gate.kill();
    let folder = store.join("outputs/output-out/spool");
    assert!(segments(&folder).len() > 3);
    folder
}

#[test]
fn segments_that_are_missing_cut_off_or_swapped_are_in_the_books() {
    for harm in ["delete", "empty", "truncate", "swap"] {
        let store = tempfile::tempdir().unwrap();
        let works = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&works);
        let receiver = HttpReceiver::answering(move |_| match seen.load(Ordering::SeqCst) {
            true => Reply::Status(200),
            false => Reply::Status(503),
        });
        let folder = waiting(store.path(), &receiver, 600);
        let paths = segments(&folder);
        match harm {
            "delete" => fs::remove_file(&paths[1]).unwrap(),
            "empty" => fs::write(&paths[1], b"").unwrap(),
            "truncate" => {
                let file = File::options().write(true).open(&paths[1]).unwrap();
                // In the middle of a record.
                let bytes = file.metadata().unwrap().len();
                file.set_len(bytes / 2 + 100).unwrap();
            }
            _ => {
                let aside = folder.join("aside");
                fs::rename(&paths[1], &aside).unwrap();
                fs::rename(&paths[2], &paths[1]).unwrap();
                fs::rename(&aside, &paths[2]).unwrap();
            }
        }
        works.store(true, Ordering::SeqCst);
        let gate = Setup::new().store(store.path()).start();
        eventually("it is read", || {
            gate.pipeline()["outputs"][0]["recovered"] != 0
        });
        let stats = gate.settled(0);
        let of = &stats["outputs"][0];
        let (sent, damaged) = (
            of["sent"].as_u64(),
            of["discarded"]["spool_damaged"].as_u64(),
        );
        let (sent, damaged) = (sent.unwrap(), damaged.unwrap());
        assert_eq!(of["recovered"], 600, "{harm}: {stats:#}");
        assert_eq!(sent + damaged, 600, "{harm}: {stats:#}");
        assert_eq!(lines_of(&receiver.taken()).count() as u64, sent, "{harm}");
        assert_eq!(damaged == 0, harm == "swap", "{harm}: {damaged}");
        assert_eq!(status(&gate)["spool"]["damaged_events"], damaged, "{harm}");
        if damaged > 0 {
            let labels = "{output=\"out\",type=\"http\"}";
            let line = format!("streamgate_spool_damaged_events{labels} {damaged}");
            assert!(gate.metrics().contains(&line), "{harm}");
            let logged = gate.log();
            let lines: Vec<_> = logged
                .iter()
                .filter(|fields| fields["message"] == "the spool is damaged")
                .collect();
            assert_eq!(lines.len(), 1, "{harm}: {lines:?}");
            assert_eq!(lines[0]["file"], paths[1].display().to_string(), "{harm}");
        }
        gate.stop();
    }
}

#[test]
fn durable_requests_are_safe_when_the_folder_of_the_spool_is_removed() {
    let store = tempfile::tempdir().unwrap();
    let receiver = HttpReceiver::answering(|_| Reply::Hang);
    let setup = || {
        Setup::new()
            .store(store.path())
            .env("STREAMGATE_DURABLE", "true")
    };
    let gate = setup().start();
    gate.run(&json!([]), &[output(&receiver, "8MiB")]);
    let mut answered = Vec::new();
    let mut post = |number: usize| {
        let event = format!("event number {number}\n");
        let answer =
            gate.ingest(&Request::new("POST", "/ingest").body(Body::Whole(event.as_bytes())));
        assert!([202, 503].contains(&answer.status), "{answer:?}");
        if answer.status == 202 {
            answered.push(event);
        }
    };
    (0..5).for_each(&mut post);
    let folder = store.path().join("outputs/output-out/spool");
    fs::remove_dir_all(&folder).unwrap();
    (5..15).for_each(&mut post);
    let status = status(&gate);
    assert_eq!(status["state"], "degraded", "{status:#}");
    let error = status["last_error"].as_str().unwrap_or_default();
    assert!(error.contains("removed or renamed"), "{status:#}");
    let down = "streamgate_spool_up{output=\"out\",type=\"http\"} 0";
    assert!(gate.metrics().contains(down), "{}", gate.metrics());
    assert!(answered.len() > 12, "it goes on: {}", answered.len());
    gate.kill();
    let works = HttpReceiver::start();
    let gate = setup().start();
    gate.run(&json!([]), &[output(&works, "8MiB")]);
    eventually("all that was answered arrives", || {
        let taken = works.taken();
        let found: Vec<_> = lines_of(&taken).collect();
        answered
            .iter()
            .all(|event| found.contains(&event.as_bytes()))
    });
    gate.settled(0);
    gate.stop();
}

#[test]
fn spool_and_dead_letters_of_version_0_1_are_drained() {
    let store = tempfile::tempdir().unwrap();
    copy_folder(&version_0_1(), store.path());
    let gate = Setup::new().store(store.path()).start();
    eventually("it is read", || status(&gate)["spool"]["events"] == 20);
    eventually("they are counted", || status(&gate)["dead_letters"] == 3);
    let receiver = HttpReceiver::start();
    gate.run(&json!([]), &[output(&receiver, "8MiB")]);
    let event = |number| format!("event number {number}\n").into_bytes();
    let events: Vec<u8> = (0..20).flat_map(event).collect();
    receiver.wait_for(&events);
    let answer = gate.edit("POST", "/outputs/out/redrive", &Value::Null);
    assert_eq!(answer, json!({"redriven": 3}));
    receiver.wait_for(&[&events[..], b"refused 0\nrefused 1\nrefused 2\n"].concat());
    assert_eq!(
        gate.settled(0)["outputs"][0]["discarded"]["spool_damaged"],
        0
    );
    gate.stop();
}

#[test]
fn spool_of_a_newer_version_is_refused_and_not_touched() {
    for inner in ["spool", "dead_letters"] {
        let store = tempfile::tempdir().unwrap();
        copy_folder(&version_0_1(), store.path());
        let folder = store.path().join("outputs/output-out").join(inner);
        fs::write(folder.join("format"), "streamgate-spool 3 a1923b09\n").unwrap();
        let names = || {
            let entries = fs::read_dir(&folder).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap())
                .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
                .collect();
            names.sort();
            names
        };
        let before = names();
        let ended = Setup::new().store(store.path()).run_to_end();
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        let named = folder.display().to_string();
        assert!(ended.stderr.contains(&named), "{}", ended.stderr);
        assert!(ended.stderr.contains("has format 3"), "{}", ended.stderr);
        assert_eq!(names(), before);
    }
}
