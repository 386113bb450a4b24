//! TLS towards receivers: nothing is sent to one that is not who it says.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Gate, HttpReceiver, Reply, Setup, TcpReceiver, bad_certificates, certificates, eventually,
    server_config,
};

/// An `http` and a `tcp` output over TLS, to receivers of the same kind.
fn outputs(folder: &Path, posts: &str, lines: std::net::SocketAddr) -> [Value; 2] {
    let tls = json!({"ca": folder.join("ca.pem")});
    [
        json!({"id": "posts", "type": "http", "url": posts, "tls": tls, "timeout_ms": 2_000}),
        json!({"id": "lines", "type": "tcp", "address": lines.to_string(), "tls": tls}),
    ]
}

fn numbered(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|number| format!("event {number:08}\n").into_bytes())
        .collect()
}

fn last_error(gate: &Gate, output: usize) -> String {
    let status = gate.get("/status");
    let error = &status["outputs"][output]["last_error"];
    error.as_str().unwrap_or_default().to_owned()
}

/// Waits until both outputs tell an error that has one of these words; nothing is given up
/// meanwhile.
#[track_caller]
fn both_refuse(gate: &Gate, words: &[&str], events: u64) {
    for output in 0..2 {
        eventually("it is told", || {
            let error = last_error(gate, output).to_lowercase();
            words.iter().any(|word| error.contains(word))
        });
        let stats = gate.pipeline();
        assert_eq!(stats["outputs"][output]["queued"], events, "{stats:#}");
    }
}

#[test]
fn events_travel_over_tls_to_receivers_of_the_given_authority() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let posts = HttpReceiver::secured(server_config(folder.path(), "server", false));
    let lines = TcpReceiver::secured(server_config(folder.path(), "server", false));
    let gate = Setup::new().start();
    gate.run(
        &json!([]),
        &outputs(folder.path(), &posts.url(), lines.address()),
    );
    let events = numbered(20_000);
    gate.send(&events);
    posts.wait_for(&events);
    lines.received.wait_for(&events);
    gate.finish(20_000);
}

#[test]
fn receiver_that_asks_for_a_certificate_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let posts = HttpReceiver::secured(server_config(folder.path(), "server", true));
    let lines = TcpReceiver::secured(server_config(folder.path(), "server", true));
    let gate = Setup::new().start();
    let mut outputs = outputs(folder.path(), &posts.url(), lines.address());
    gate.run(&json!([]), &outputs);
    let events = numbered(100);
    gate.send(&events);
    both_refuse(&gate, &["certificate"], 100);
    assert!(posts.requests().is_empty() && lines.received.len() == 0);
    for output in &mut outputs {
        output["tls"]["certificate"] = json!(folder.path().join("client.pem"));
        output["tls"]["key"] = json!(folder.path().join("client.key"));
    }
    gate.run(&json!([]), &outputs);
    gate.send(&events);
    // What the outputs before them still had comes too, before the rest or behind it.
    let all = [events.as_slice(), &events].concat();
    posts.wait_for(&all);
    lines.received.wait_for(&all);
    gate.kill();
}

#[test]
fn receiver_with_a_certificate_that_is_not_good_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    bad_certificates(folder.path());
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    for (of, name) in [
        (folder.path(), "expired"),
        (folder.path(), "elsewhere"),
        (other.path(), "server"),
    ] {
        let posts = HttpReceiver::secured(server_config(of, name, false));
        let lines = TcpReceiver::secured(server_config(of, name, false));
        let gate = Setup::new().start();
        let outputs = outputs(folder.path(), &posts.url(), lines.address());
        gate.run(&json!([]), &outputs);
        gate.send(&numbered(10));
        both_refuse(&gate, &["certificate"], 10);
        assert!(
            posts.requests().is_empty() && lines.received.len() == 0,
            "{name}"
        );
        gate.kill();
    }
}

#[test]
fn receiver_without_tls_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let posts = HttpReceiver::answering(|_| Reply::Status(200));
    let lines = TcpReceiver::start();
    let gate = Setup::new().start();
    let url = posts.url().replace("http:", "https:");
    gate.run(&json!([]), &outputs(folder.path(), &url, lines.address()));
    gate.send(&numbered(10));
    eventually("it is told", || !last_error(&gate, 0).is_empty());
    // What came is a greeting of TLS at most.
    assert!(posts.requests().is_empty());
    let greeting = lines.received.bytes();
    assert!(!greeting.windows(5).any(|bytes| bytes == b"event"));
    assert_eq!(gate.pipeline()["outputs"][0]["queued"], 10);
    gate.kill();
}

#[test]
fn handshake_that_stalls_is_given_up_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let stalls = TcpReceiver::hanging();
    let url = format!("https://{}", stalls.address());
    let gate = Setup::new().start();
    let [mut posts, _] = outputs(folder.path(), &url, stalls.address());
    posts["timeout_ms"] = json!(300);
    gate.run(&json!([]), &[posts]);
    gate.send(&numbered(10));
    eventually("it is told", || last_error(&gate, 0).contains("timed out"));
    assert_eq!(gate.pipeline()["outputs"][0]["queued"], 10);
    gate.kill();
}

#[test]
fn files_of_tls_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    std::fs::write(folder.path().join("empty.pem"), "nothing").unwrap();
    let path = |name: &str| folder.path().join(name);
    let gate = Setup::new().start();
    for (tls, field) in [
        (json!({"ca": path("absent.pem")}), "ca"),
        (json!({"ca": path("empty.pem")}), "ca"),
        (json!({"certificate": path("client.pem")}), "key"),
        (json!({"key": path("client.key")}), "certificate"),
        (
            json!({"certificate": path("client.pem"), "key": path("empty.pem")}),
            "key",
        ),
        (
            json!({"certificate": path("client.pem"), "key": path("server.key")}),
            "certificate",
        ),
        (json!({"verify": false}), "verify"),
    ] {
        let output = json!({"type": "http", "url": "https://127.0.0.1:1", "tls": tls});
        let answer = gate.try_edit("POST", "/outputs", &output).expect(422);
        assert_eq!(
            answer.json()["pointer"],
            format!("/tls/{field}"),
            "{answer}"
        );
        let output = json!({"type": "tcp", "address": "127.0.0.1:1", "tls": tls});
        let answer = gate.try_edit("POST", "/outputs", &output).expect(422);
        assert_eq!(
            answer.json()["pointer"],
            format!("/tls/{field}"),
            "{answer}"
        );
    }
    let output = json!({"type": "http", "url": "http://127.0.0.1:1", "tls": {}});
    let answer = gate.try_edit("POST", "/outputs", &output).expect(422);
    assert_eq!(answer.json()["pointer"], "/tls", "{answer}");
    gate.stop();
}
