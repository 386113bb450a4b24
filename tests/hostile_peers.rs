//! Peers that take what they can get and do not go on: an honest sender is served all the same, and
//! the memory stays bounded by the budget.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{Body, Gate, HttpReceiver, PATIENCE, Request, Setup, eventually, request};

const MEBIBYTE: usize = 1024 * 1024;

/// The budget of these tests.
const BUDGET: &str = "64MiB";

/// What the gate may take at most with it: a quarter more and 40 MiB; and 40 MiB since the
/// allocator keeps pages of 4 MiB of which only a part is in use, for as long as lengths of lines
/// change.
const MOST_BYTES: usize = 80 * MEBIBYTE + 40 * MEBIBYTE + 40 * MEBIBYTE;

fn gate() -> Gate {
    Setup::new().flag("memory-budget", BUDGET).start()
}

/// Lets this process have as many sockets as it may.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("a soft limit may be raised");
}

/// Connects from the loopback address that ends with `last`: to the gate each is another peer.
fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from(([127, 0, 0, last], 0));
    socket.bind(&from.into()).expect("an address of loopback");
    socket
        .connect_timeout(&to.into(), PATIENCE)
        .expect("the gate listens");
    let stream = TcpStream::from(socket);
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .expect("an option of sockets");
    stream
}

/// Writes what the gate takes; it may not read, or close the connection.
fn push(mut stream: &TcpStream, bytes: &[u8]) {
    if let Err(error) = stream.write_all(bytes) {
        let may_be = [
            ErrorKind::WouldBlock,
            ErrorKind::TimedOut,
            ErrorKind::BrokenPipe,
            ErrorKind::ConnectionReset,
        ];
        assert!(may_be.contains(&error.kind()), "{error}");
    }
}

/// Opens connections to `to`, and sends each the same.
fn attack(last: u8, to: SocketAddr, connections: usize, bytes: &[u8]) -> Vec<TcpStream> {
    raise_limit();
    (0..connections)
        .map(|_| {
            let stream = connect_from(last, to);
            push(&stream, bytes);
            stream
        })
        .collect()
}

/// Sends an event over each transport, as a good client does, and waits until each is delivered and
/// the gate says that it is well.
#[track_caller]
fn honest_senders_are_served(gate: &Gate) {
    let began = Instant::now();
    let mut tcp = gate.connect();
    tcp.write_all(b"honest over TCP\n").expect("the gate reads");
    eventually("the event over TCP is delivered", || {
        gate.stdout.text().contains("honest over TCP\n")
    });
    let over_tcp = began.elapsed();
    eventually("the event over HTTP is taken", || {
        let post = Request::new("POST", "/ingest").body(Body::Whole(b"honest over HTTP\n"));
        request(gate.http(), &post).is_ok_and(|answer| answer.status == 202)
    });
    eventually("the event over HTTP is delivered", || {
        gate.stdout.text().contains("honest over HTTP\n")
    });
    let over_http = began.elapsed();
    // UDP promises no sender that a datagram arrives: it is sent until it does.
    let mut sent: Option<Instant> = None;
    eventually("an event over UDP is delivered", || {
        if sent.is_none_or(|sent| sent.elapsed() > Duration::from_millis(100)) {
            gate.send_datagram(b"honest over UDP\n");
            sent = Some(Instant::now());
        }
        gate.stdout.text().contains("honest over UDP\n")
    });
    let over_udp = began.elapsed();
    gate.ask(&Request::new("GET", "/healthz")).expect(200);
    let all = began.elapsed();
    eprintln!("served over TCP in {over_tcp:?}, HTTP {over_http:?}, UDP {over_udp:?}, all {all:?}");
}

/// The end of each test: memory was bounded, the books balance, and it ends in order.
#[track_caller]
fn end(gate: Gate) -> Value {
    let peak = gate.peak_memory();
    eprintln!("it took {} MiB", peak / MEBIBYTE);
    assert!(peak <= MOST_BYTES, "it took {peak} bytes");
    let mut stats = Value::Null;
    eventually(
        "all connections have ended, and nothing is under way",
        || {
            // The figures are looked at when nothing is held any more.
            let memory = gate.get("/status")["memory"]["used_bytes"].take();
            stats = gate.pipeline();
            memory == 0 && stats["in_flight"] == 0 && stats["outputs"][0]["queued"] == 0
        },
    );
    gate.stop();
    stats
}

fn figure(stats: &Value, ingest: &str, field: &str) -> u64 {
    stats["ingest"][ingest][field].as_u64().expect("a number")
}

#[test]
fn half_lines_let_go_when_others_need_the_room() {
    let gate = gate();
    let beginning = vec![b'a'; 200_000];
    let held = attack(2, gate.tcp(), 600, &beginning);
    honest_senders_are_served(&gate);
    eventually("what was given up is logged", || {
        let message =
            "the memory budget is spent; half lines and bodies that do not go on are given up";
        gate.logged(message).is_some()
    });
    drop(held);
    let stats = end(gate);
    // Half lines that were not given up are events: their connections ended in order.
    assert!(figure(&stats, "tcp", "evicted") > 0, "{stats:#}");
    assert_eq!(figure(&stats, "tcp", "received"), 601, "{stats:#}");
}

#[test]
fn half_lines_are_charged_by_their_length() {
    let gate = gate();
    let held = attack(2, gate.tcp(), 3_000, &[b'a'; 2_100]);
    let memory = || gate.get("/status")["memory"]["used_bytes"].as_u64();
    eventually("each is charged 3 KiB", || {
        memory() == Some(3_000 * 3 * 1024)
    });
    honest_senders_are_served(&gate);
    drop(held);
    let stats = end(gate);
    assert_eq!(figure(&stats, "tcp", "evicted"), 0, "{stats:#}");
    assert_eq!(figure(&stats, "tcp", "received"), 3_001, "{stats:#}");
}

#[test]
fn half_lines_of_many_connections_let_go() {
    let gate = gate();
    let held = attack(2, gate.tcp(), 4_000, &[b'a'; 17_000]);
    honest_senders_are_served(&gate);
    drop(held);
    end(gate);
}

/// Half a line that another peer holds, and that is older, stays.
#[test]
fn the_peer_that_holds_most_lets_go_first() {
    let gate = gate();
    let honest = connect_from(3, gate.tcp());
    push(&honest, b"a line in two");
    eventually("it is held", || {
        gate.get("/status")["memory"]["used_bytes"] == 1024
    });
    let held = attack(2, gate.tcp(), 600, &[b'a'; 200_000]);
    honest_senders_are_served(&gate);
    push(&honest, b" parts\n");
    eventually("the line arrives whole", || {
        gate.stdout.text().contains("a line in two parts\n")
    });
    drop(held);
    end(gate);
}

#[test]
fn slow_bodies_let_go_when_others_need_the_room() {
    let gate = gate();
    let head =
        b"POST /ingest HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    let held = attack(2, gate.http(), 1_024, head);
    honest_senders_are_served(&gate);
    drop(held);
    end(gate);
}

#[test]
fn large_bodies_that_stop_let_go_when_others_need_the_room() {
    let gate = gate();
    let mut body = Request::new("POST", "/ingest")
        .body(Body::Zeros(2 * MEBIBYTE))
        .head();
    body.push_str(&"a line\n".repeat(MEBIBYTE / 7));
    let held = attack(2, gate.http(), 100, body.as_bytes());
    honest_senders_are_served(&gate);
    let mut answers = 0;
    for mut stream in &held {
        let mut start = [0; 12];
        stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .expect("an option");
        if stream.read_exact(&mut start).is_ok() {
            assert_eq!(&start, b"HTTP/1.1 429");
            answers += 1;
        }
    }
    drop(held);
    let stats = end(gate);
    assert!(answers > 0, "{stats:#}");
    assert!(figure(&stats, "http", "evicted") > 0, "{stats:#}");
}

/// One frame of a window of 8 MiB, with RLE blocks that become 12 MiB of lines, and has no end.
#[test]
fn windows_of_decoders_are_charged() {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3];
    for _ in 0..96 {
        // Not the last, of type RLE, 128 KiB of one byte.
        frame.extend_from_slice(&[0x02, 0x00, 0x10, b'a']);
    }
    let gate = gate();
    let mut request = b"POST /ingest HTTP/1.1\r\nHost: gate\r\nContent-Encoding: zstd\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    request.extend_from_slice(format!("{:x}\r\n", frame.len()).as_bytes());
    request.extend_from_slice(&frame);
    request.extend_from_slice(b"\r\n");
    let held = attack(2, gate.http(), 400, &request);
    honest_senders_are_served(&gate);
    drop(held);
    end(gate);
}

#[test]
fn what_parsing_json_takes_is_charged() {
    let gate = gate();
    let (http, element) = (
        gate.http(),
        format!("{{\"text\":\"{}\"}},", "x".repeat(1000)),
    );
    let body = format!("[{}null]", element.repeat(15 * MEBIBYTE / element.len()));
    // Escapes are undone in a copy.
    let escaped = format!("[\"{}\"]", "\\t".repeat(7 * MEBIBYTE));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let body = if number % 2 == 0 {
                body.clone()
            } else {
                escaped.clone()
            };
            thread::spawn(move || {
                let post = Request::new("POST", "/ingest")
                    .header("Content-Type", "application/json")
                    .body(Body::Whole(body.as_bytes()));
                request(http, &post).expect("the gate answers").status
            })
        })
        .collect();
    honest_senders_are_served(&gate);
    for client in clients {
        let status = client.join().expect("the client does not panic");
        assert!([202, 429].contains(&status), "{status}");
    }
    end(gate);
}

#[test]
fn heads_that_do_not_end_make_room_for_newcomers() {
    let gate = gate();
    let padding = "x".repeat(15 * 1024);
    let head = format!("POST /ingest HTTP/1.1\r\nHost: gate\r\nPadding: {padding}");
    let held = attack(2, gate.http(), 2_000, head.as_bytes());
    honest_senders_are_served(&gate);
    drop(held);
    let stats = end(gate);
    assert!(
        figure(&stats, "http", "closed_connections") > 0,
        "{stats:#}"
    );
}

#[test]
fn idle_connections_make_room_for_newcomers() {
    let gate = Setup::new()
        .flag("memory-budget", BUDGET)
        .flag("max-connections", "100")
        .start();
    // The first is idle longest, and goes; the half line of it is withheld.
    let mut first = gate.connect();
    first.write_all(b"said\n").expect("the gate reads");
    gate.stdout.wait_for(b"said\n");
    let held = attack(2, gate.tcp(), 1_000, b"");
    honest_senders_are_served(&gate);
    drop(held);
    let stats = end(gate);
    assert!(figure(&stats, "tcp", "closed_connections") > 0, "{stats:#}");
    assert_eq!(figure(&stats, "tcp", "received"), 2, "{stats:#}");
}

/// An address that has all places, and uses them, gives one up to another address.
#[test]
fn busy_connections_of_one_address_leave_places_to_others() {
    let gate = Setup::new()
        .flag("memory-budget", BUDGET)
        .flag("max-connections", "20")
        .start();
    let (tcp, stop) = (
        gate.tcp(),
        std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)),
    );
    let stopped = std::sync::Arc::clone(&stop);
    let busy = thread::spawn(move || {
        let mut streams = attack(2, tcp, 20, b"busy\n");
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            streams.retain_mut(|stream| stream.write_all(b"busy\n").is_ok());
            thread::sleep(Duration::from_millis(20));
        }
    });
    eventually("all places are taken", || {
        figure(&gate.pipeline(), "tcp", "received") >= 40
    });
    honest_senders_are_served(&gate);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().expect("it does not panic");
    let stats = end(gate);
    // The place of the first sender was not needed; those over HTTP have places of their own.
    assert_eq!(figure(&stats, "tcp", "closed_connections"), 1, "{stats:#}");
    assert_eq!(figure(&stats, "tcp", "refused_connections"), 0, "{stats:#}");
}

#[test]
fn half_heads_on_the_control_api_do_not_stop_it() {
    let gate = gate();
    let held = attack(2, gate.control(), 300, b"GET /healthz HTTP/1.1\r\nHost");
    for _ in 0..10 {
        // Less than the time after which half a head is closed anyway.
        let probe = Request::new("GET", "/healthz").patience(Duration::from_secs(4));
        gate.ask(&probe).expect(200);
    }
    honest_senders_are_served(&gate);
    drop(held);
    end(gate);
}

/// With few open files, the control API and outputs have some left when senders have taken theirs.
#[test]
fn descriptors_are_left_for_control_and_outputs() {
    let receiver = HttpReceiver::start();
    let output = json!([
        {"id": "out", "type": "http", "url": receiver.url()},
        {"id": "console", "type": "console"},
    ]);
    let gate = Setup::new()
        .flag("memory-budget", BUDGET)
        .manifest(&json!([]), &output)
        .ulimit("-n 96")
        .start();
    assert!(
        gate.logged(
            "the limit of open files allows fewer connections than `max_connections`; \
        raise it (`ulimit -n`, `LimitNOFILE=` of systemd)"
        )
        .is_some()
    );
    let over_tcp = attack(2, gate.tcp(), 500, b"");
    let over_http = attack(2, gate.http(), 500, b"");
    honest_senders_are_served(&gate);
    eventually("the output delivers", || {
        receiver.taken().windows(8).any(|part| part == b"over UDP")
    });
    let refused = gate.stderr.text().matches("cannot accept").count();
    assert_eq!(refused, 0, "accepting never fails for want of descriptors");
    drop((over_tcp, over_http));
    end(gate);
}

#[test]
fn soft_limit_of_open_files_is_raised() {
    let gate = Setup::new().ulimit("-S -n 200").start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gate.process_id()));
    let limits = limits.expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let fields: Vec<&str> = line.expect("there is one").split_whitespace().collect();
    assert_ne!(fields[3], "200", "{fields:?}");
    assert_eq!(fields[3], fields[4], "{fields:?}");
    gate.stop();
}
