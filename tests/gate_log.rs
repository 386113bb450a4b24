//! The log of the gate itself: whatever becomes of stderr, only log lines are lost.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Body, Request, Setup, eventually, request};

#[test]
fn unread_log_holds_nothing_up() {
    let mut gate = Setup::new().env("STREAMGATE_LOG", "trace").start();
    let console = json!({"id": "out", "type": "console"});
    gate.run(&json!([]), std::slice::from_ref(&console));
    let stderr = gate.stderr.clone();
    let unread = stderr.pause();
    let lost = |gate: &crate::support::Gate| {
        let metrics = gate
            .ask(&Request::new("GET", "/metrics"))
            .expect(200)
            .text();
        let name = "streamgate_log_lines_dropped_total";
        let line = metrics.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split(' ').nth(1));
        value.expect(name).parse::<f64>().expect("a number") > 0.0
    };
    eventually("log lines are dropped", || {
        for _ in 0..20 {
            gate.edit("PUT", "/rules", &json!([]));
            gate.publish();
        }
        lost(&gate)
    });
    // Every part of the gate goes on.
    gate.ask(&Request::new("GET", "/healthz")).expect(200);
    gate.get("/status");
    gate.send(b"over TCP\n");
    let event = Request::new("POST", "/ingest").body(Body::Whole(b"over HTTP\n"));
    gate.ingest(&event).expect(202);
    gate.settled(2);
    gate.terminate();
    let status = gate.wait_for_exit();
    assert_eq!(status.code(), Some(0));
    drop(unread);
    assert_eq!(gate.stdout.len(), b"over TCP\nover HTTP\n".len());
}

/// A gate whose stderr cannot be written to. It has an address of the loopback network for itself,
/// as its log cannot say where it listens.
fn start_without_log(stderr: Stdio, address: &str) -> (Child, SocketAddr, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let http = format!("{address}:8080");
    let control = format!("{address}:8000");
    let process = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .env_clear()
        .current_dir(directory.path())
        .args(["--tcp=off", "--udp=off"])
        .arg(format!("--http={http}"))
        .arg(format!("--control={control}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .expect("the binary was built");
    eventually("the gate is ready", || {
        let control = control.parse().expect("an address");
        let answer = request(control, &Request::new("GET", "/readyz"));
        answer.is_ok_and(|answer| answer.status == 200)
    });
    (process, http.parse().expect("an address"), directory)
}

#[test]
fn log_that_cannot_be_written_holds_nothing_up() {
    let full = OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it");
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    for (stderr, address) in [
        (Stdio::from(full), "127.77.0.1"),
        (Stdio::from(closed), "127.77.0.2"),
    ] {
        let (mut process, http, _directory) = start_without_log(stderr, address);
        let event = Request::new("POST", "/ingest").body(Body::Whole(b"an event\n"));
        request(http, &event).expect("an answer").expect(202);
        let mut stdout = process.stdout.take().expect("piped");
        let mut line = [0; 9];
        stdout.read_exact(&mut line).expect("the event comes out");
        assert_eq!(&line, b"an event\n");
        let pid = Pid::from_raw(process.id().cast_signed()).expect("not 0");
        kill_process(pid, Signal::TERM).expect("our child");
        assert_eq!(process.wait().expect("our child").code(), Some(0));
    }
}

#[test]
fn signals_that_are_not_meant_to_end_it_do_nothing() {
    let gate = Setup::new().start();
    let console = json!({"id": "out", "type": "console"});
    gate.run(&json!([]), &[console]);
    for signal in [
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::PIPE,
    ] {
        gate.signal(signal);
    }
    let mut stream = gate.connect();
    stream.write_all(b"still here\n").expect("the gate reads");
    drop(stream);
    gate.finish(1);
}
