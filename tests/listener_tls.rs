//! TLS, PROXY headers and tokens at the gate's own listeners.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
};

use rustix::process::Signal;
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::json;

use crate::support::{
    Answer, Body, Gate, PATIENCE, Request, Setup, certificates, client_config, eventually,
    read_answer,
};

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A connection over TLS whose handshake is still to come.
fn connect(address: SocketAddr, config: ClientConfig) -> TlsStream {
    let socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let name = ServerName::from(address.ip());
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    StreamOwned::new(session, socket)
}

fn ask(
    address: SocketAddr,
    config: ClientConfig,
    request: &Request<'_>,
) -> std::io::Result<Answer> {
    let mut stream = connect(address, config);
    let mut bytes = request.head().into_bytes();
    if let Body::Whole(body) = request.body {
        bytes.extend_from_slice(body);
    }
    stream.write_all(&bytes)?;
    read_answer(stream)
}

/// Sends lines, and waits until the gate has closed the connection too.
fn send(address: SocketAddr, config: ClientConfig, bytes: &[u8]) -> std::io::Result<()> {
    let mut stream = connect(address, config);
    for part in bytes.chunks(50_000) {
        stream.write_all(part)?;
    }
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(std::net::Shutdown::Write)?;
    match stream.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}

fn tls(folder: &Path, asks: bool) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    let (certificate, key) = (file("server.pem"), file("server.key"));
    match asks {
        false => format!("cert={certificate},key={key}"),
        true => format!("cert={certificate},key={key},client-ca={}", file("ca.pem")),
    }
}

fn secured(folder: &Path, asks: bool) -> Setup {
    ["tcp-tls", "http-tls", "control-tls"]
        .into_iter()
        .fold(Setup::new(), |setup, flag| {
            setup.flag(flag, tls(folder, asks))
        })
}

fn command(gate: &Gate, folder: &Path, more: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .arg("status")
        .arg("--control")
        .arg(format!("https://{}", gate.control()))
        .args(more)
        .env_clear()
        .current_dir(folder)
        .output()
        .expect("the binary was built")
}

#[test]
fn every_listener_speaks_tls() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    certificates(folder.path());
    let gate = secured(folder.path(), false).start();
    let client = || client_config(folder.path(), None);
    let lines: String = (0..20_000)
        .map(|number| format!("event {number:08}\n"))
        .collect();
    send(gate.tcp(), client(), lines.as_bytes()).expect("it is taken");
    let post = Request::new("POST", "/ingest").body(Body::Whole(b"one\ntwo\n"));
    assert_eq!(
        ask(gate.http(), client(), &post).expect("an answer").status,
        202
    );
    gate.stdout.wait_for((lines + "one\ntwo\n").as_bytes());
    let stats = ask(gate.control(), client(), &Request::new("GET", "/stats"));
    assert_eq!(stats.expect("an answer").status, 200);
    let status = command(&gate, folder.path(), &["--control-ca", "ca.pem"]);
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stderr)
    );
    assert!(
        !command(&gate, folder.path(), &[]).status.success(),
        "the CA is not known"
    );
    // What is not TLS is closed, and counted.
    for address in [gate.tcp(), gate.http()] {
        let mut plain = TcpStream::connect(address).expect("it listens");
        plain.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let _ = plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut rest = Vec::new();
        let _ = plain.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
    eventually("they are counted", || {
        let stats = ask(gate.control(), client(), &Request::new("GET", "/stats"));
        let ingest = stats.expect("an answer").json()["pipelines"][0]["ingest"].clone();
        ingest["tcp"]["refused_connections"] == 1 && ingest["http"]["refused_connections"] == 1
    });
    assert!(
        gate.logged("refused a connection: its PROXY header or TLS handshake failed")
            .is_some()
    );
    let ended = gate.stop();
    assert!(ended.status.success(), "{}", ended.stderr);
}

#[test]
fn clients_show_a_certificate_where_one_is_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    certificates(folder.path());
    let gate = secured(folder.path(), true).start();
    let (with, without) = (
        || client_config(folder.path(), Some("client")),
        || client_config(folder.path(), None),
    );
    let post = Request::new("POST", "/ingest").body(Body::Whole(b"one\n"));
    let get = Request::new("GET", "/status");
    assert_eq!(
        ask(gate.http(), with(), &post).expect("an answer").status,
        202
    );
    assert_eq!(
        ask(gate.control(), with(), &get).expect("an answer").status,
        200
    );
    send(gate.tcp(), with(), b"two\n").expect("it is taken");
    assert!(ask(gate.http(), without(), &post).is_err());
    assert!(ask(gate.control(), without(), &get).is_err());
    assert!(send(gate.tcp(), without(), b"three\n").is_err());
    let shown = [
        "--control-ca",
        "ca.pem",
        "--control-cert",
        "client.pem",
        "--control-key",
        "client.key",
    ];
    let status = command(&gate, folder.path(), &shown);
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stderr)
    );
    assert!(!command(&gate, folder.path(), &shown[..2]).status.success());
    gate.stdout.wait_for(b"one\ntwo\n");
    assert_eq!(gate.stop().stdout, b"one\ntwo\n");
}

#[test]
fn certificates_are_read_again_without_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    certificates(folder.path());
    let gate = secured(folder.path(), false).start();
    let mut open = connect(gate.tcp(), client_config(folder.path(), None));
    open.write_all(b"before\n").expect("it is taken");
    gate.stdout.wait_for(b"before\n");
    let get = Request::new("GET", "/");
    let old = client_config(folder.path(), None);
    // Files that do not belong together change nothing.
    let key = folder.path().join("server.key");
    let before = std::fs::read(&key).expect("a key");
    std::fs::copy(folder.path().join("client.key"), &key).expect("it is ours");
    gate.signal(Signal::HUP);
    eventually("it is told", || {
        gate.logged("the new certificates cannot be used; those that were read last count")
            .is_some()
    });
    assert!(ask(gate.http(), old.clone(), &get).is_ok());
    std::fs::write(&key, before).expect("it is ours");
    // Another CA, and a certificate of it.
    certificates(folder.path());
    gate.signal(Signal::HUP);
    eventually("the new one is shown", || {
        ask(gate.http(), client_config(folder.path(), None), &get).is_ok()
    });
    assert!(
        ask(gate.http(), old, &get).is_err(),
        "the old CA does not know it"
    );
    // The connection from before goes on.
    open.write_all(b"after\n").expect("it is taken");
    gate.stdout.wait_for(b"before\nafter\n");
    gate.stop();
}

#[test]
fn certificates_that_cannot_be_used_are_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) = (file("server.pem"), file("client.key"));
    for (flag, value, part) in [
        (
            "tcp-tls",
            format!("cert={certificate},key={key}"),
            "do not belong together",
        ),
        (
            "http-tls",
            format!("cert={certificate},key=/not/there"),
            "/not/there",
        ),
        (
            "control-tls",
            format!("cert={key},key={key}"),
            "holds no certificate",
        ),
        ("control-tls", certificate, "expected `cert=FILE,key=FILE`"),
        (
            "proxy-protocol",
            "udp".to_owned(),
            "expected `tcp` or `http`",
        ),
    ] {
        Setup::new()
            .flag(flag, value)
            .run_to_end()
            .expect_error(2, part);
    }
}

#[test]
fn load_balancer_says_for_whom_it_connects() {
    let gate = Setup::new().flag("proxy-protocol", "tcp,http").start();
    let mut stream = TcpStream::connect(gate.tcp()).expect("it listens");
    for part in ["PROXY TCP4 192.0.2.7 ", "127.0.0.1 1 2\r\none\n", "two\n"] {
        stream.write_all(part.as_bytes()).expect("a socket");
    }
    gate.stdout.wait_for(b"one\ntwo\n");
    let mut stream = TcpStream::connect(gate.http()).expect("it listens");
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend([192, 0, 2, 7, 127, 0, 0, 1, 0, 1, 0, 2]);
    bytes.extend(b"POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nthree\n");
    stream.write_all(&bytes).expect("a socket");
    assert_eq!(read_answer(stream).expect("an answer").status, 202);
    gate.stdout.wait_for(b"one\ntwo\nthree\n");
    for (address, bytes) in [
        (gate.tcp(), "INFO no header\n"),
        (gate.http(), "GET / HTTP/1.1\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let _ = stream.write_all(bytes.as_bytes());
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    eventually("they are counted", || {
        let ingest = gate.pipeline()["ingest"].clone();
        ["tcp", "http"]
            .iter()
            .all(|listener| ingest[listener]["refused_connections"] == 1)
    });
    gate.settled(3);
    gate.stop();
}

#[test]
fn senders_need_a_token_where_it_is_asked_for() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let create = |name: &str, role: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_streamgate"))
            .args(["token", "create", name, "--role", role, "--store"])
            .arg(store.path())
            .env_clear()
            .output()
            .expect("the binary was built");
        String::from_utf8(output.stdout)
            .expect("text")
            .trim()
            .to_owned()
    };
    let sender = create("app", "sender");
    let gate = Setup::new()
        .store(store.path())
        .env("STREAMGATE_HTTP_TOKENS", "true")
        .start();
    let post = |token: Option<&str>| {
        let request = Request::new("POST", "/ingest").body(Body::Whole(b"line\n"));
        gate.ingest(&match token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        })
    };
    // A token of a sender closes the control API to nobody.
    gate.get("/status");
    let admin = create("ops", "admin");
    assert_eq!(post(Some(&sender)).status, 202);
    for (token, status, code) in [
        (None, 401, "token_missing"),
        (Some("sgt_x"), 401, "token_unknown"),
        (Some(admin.as_str()), 403, "role_not_enough"),
    ] {
        let answer = post(token);
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (status, &json!(code)),
            "{answer}"
        );
    }
    let request = Request::new("GET", "/stats").header("Authorization", format!("Bearer {admin}"));
    let stats = gate.ask(&request).expect(200).json()["pipelines"][0].take();
    assert_eq!(stats["ingest"]["http"]["refused_requests"], 3, "{stats:#}");
    assert_eq!(stats["received"], 1, "{stats:#}");
    gate.stop();
}
