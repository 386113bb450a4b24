//! With no rules, what goes in comes out: byte for byte, and in order for each connection.
//!
//! `STREAMGATE_CORPUS` may name a folder; its `*.log` files are sent as well as the generated ones.

use std::{collections::BTreeMap, io::Write, net::Shutdown, thread};

use serde_json::json;

use crate::support::{
    Gate, HttpReceiver, PATIENCE, Setup, TcpReceiver, eventually, generated_logs, lines_of,
};

/// Connections at a time, where there are many.
const CONNECTIONS: usize = 50;

/// What marks the lines of a connection, where there are many.
const MARK_BYTES: usize = 3;

#[test]
fn every_byte_passes_to_a_tcp_output() {
    let receiver = TcpReceiver::start();
    let gate = Setup::new().sending_to(receiver.address()).start();
    one_after_the_other(&gate, |expected| receiver.received.wait_for(expected));
    gate.stop();
}

#[test]
fn every_byte_passes_to_the_console() {
    let gate = Setup::new().start();
    one_after_the_other(&gate, |expected| gate.stdout.wait_for(expected));
    gate.stop();
}

#[test]
fn every_byte_passes_to_an_http_output() {
    let receiver = HttpReceiver::start();
    let gate = to_http(&receiver);
    one_after_the_other(&gate, |expected| receiver.wait_for(expected));
    gate.stop();
}

#[test]
fn fifty_connections_keep_their_order_to_a_tcp_output() {
    let receiver = TcpReceiver::start();
    let gate = Setup::new().sending_to(receiver.address()).start();
    all_at_once(gate, |_, length| {
        eventually("everything arrives", || receiver.received.len() >= length);
        receiver.received.bytes()
    });
}

#[test]
fn fifty_connections_keep_their_order_to_the_console() {
    let gate = Setup::new().flag("workers", "3").start();
    all_at_once(gate, |gate, length| {
        eventually("everything arrives", || gate.stdout.len() >= length);
        gate.stdout.bytes()
    });
}

#[test]
fn fifty_connections_keep_their_order_to_an_http_output() {
    let receiver = HttpReceiver::start();
    let gate = to_http(&receiver);
    all_at_once(gate, |gate, _| {
        eventually("everything is sent", || {
            gate.pipeline()["outputs"][0]["queued"] == 0
        });
        receiver.taken()
    });
}

fn to_http(receiver: &HttpReceiver) -> Gate {
    let output = json!([{"id": "out", "type": "http", "url": receiver.url()}]);
    Setup::new().manifest(&json!([]), &output).start()
}

/// The generated files, and those of the corpus, if there is one.
fn logs() -> Vec<(String, Vec<u8>)> {
    let mut logs = generated_logs();
    if let Some(folder) = std::env::var_os("STREAMGATE_CORPUS") {
        let entries = std::fs::read_dir(folder).expect("STREAMGATE_CORPUS names a folder");
        for entry in entries {
            let path = entry.expect("the folder can be read").path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let bytes = std::fs::read(&path).expect("the file can be read");
                logs.push((path.display().to_string(), bytes));
            }
        }
    }
    logs
}

/// One connection for each file, and then one for all of them.
fn one_after_the_other(gate: &Gate, wait_for: impl Fn(&[u8])) {
    let logs = logs();
    let mut expected = Vec::new();
    let mut all = Vec::new();
    for (name, log) in &logs {
        eprintln!("file: {name}");
        gate.send(log);
        expected.extend(ended(log));
        all.extend(ended(log));
        wait_for(&expected);
    }
    gate.send(&all);
    expected.extend(all);
    wait_for(&expected);
    let stats = gate.settled(lines_of(&expected).count() as u64);
    assert_eq!(stats["received_bytes"], bytes_sent(&logs), "{stats:#}");
    assert_eq!(stats["outputs"][0]["sent_bytes"], expected.len());
}

/// What the senders sent is what was received, with the line feeds that were missing.
fn bytes_sent(logs: &[(String, Vec<u8>)]) -> usize {
    2 * logs.iter().map(|(_, log)| ended(log).len()).sum::<usize>()
}

/// The last line counts without a line feed, and gets one.
fn ended(log: &[u8]) -> Vec<u8> {
    let mut log = log.to_vec();
    if !log.ends_with(b"\n") {
        log.push(b'\n');
    }
    log
}

/// Many connections, each with a file whose lines are marked, so that they can be told apart.
fn all_at_once(gate: Gate, wait: impl Fn(&Gate, usize) -> Vec<u8>) {
    let logs = logs();
    let marked = |number: usize| -> Vec<u8> {
        let (_, log) = &logs[number % logs.len()];
        let mark = format!("{number:02}|");
        assert_eq!(mark.len(), MARK_BYTES);
        let lines = lines_of(log).map(|line| [mark.as_bytes(), line].concat());
        lines.flatten().collect()
    };
    let sent: Vec<Vec<u8>> = (0..CONNECTIONS).map(marked).collect();
    let expected: BTreeMap<usize, Vec<u8>> =
        sent.iter().map(|log| ended(log)).enumerate().collect();
    let length = expected.values().map(Vec::len).sum();
    let events: usize = expected.values().map(|log| lines_of(log).count()).sum();

    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| gate.connect()).collect();
    thread::scope(|scope| {
        for (stream, log) in streams.iter_mut().zip(&sent) {
            scope.spawn(move || {
                stream.set_write_timeout(Some(PATIENCE)).expect("an option");
                for piece in log.chunks(7_777) {
                    stream.write_all(piece).expect("the gate reads");
                }
                stream.shutdown(Shutdown::Write).expect("it is connected");
            });
        }
    });
    eventually("everything is received", || {
        gate.pipeline()["received"] == events
    });
    let arrived = wait(&gate, length);
    let mut found: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    for line in lines_of(&arrived) {
        let mark = line.get(..MARK_BYTES - 1).map(String::from_utf8_lossy);
        let number = mark.and_then(|mark| mark.parse().ok());
        let number: usize = number.unwrap_or_else(|| panic!("a torn line: {line:?}"));
        found.entry(number).or_default().extend_from_slice(line);
    }
    for (number, expected) in &expected {
        let found = found.get(number).expect("something of every connection");
        assert!(found == expected, "connection {number} differs");
    }
    assert_eq!(arrived.len(), length);
    gate.finish(events as u64);
}
