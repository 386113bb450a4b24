//! What the end-to-end tests have in common: the gate as a process, receivers behind it, a client
//! of its HTTP sides, and the books.
//!
//! Promises that nothing waits without a deadline and that nothing sleeps for time: [`eventually`]
//! polls a condition. A failing test prints how its gate was started, what it logged, and what
//! arrived.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

mod books;
mod capture;
mod events;
mod fleet;
mod gate;
mod guests;
mod http;
mod keys;
mod proxy;
mod receiver;
pub(crate) mod redis;

pub(crate) use self::{
    books::{assert_books_balance, is_at_rest},
    capture::Capture,
    events::{compress, decompressed, generated_logs, lines_of, pseudo_random},
    fleet::{drops, foreign, member},
    gate::{Ended, Gate, Setup},
    guests::{guest, js_guest},
    http::{Answer, Body, Request, read_answer, request, request_written_first},
    keys::{bad_certificates, certificates, client_config, server_config, signing_keys},
    proxy::HttpProxy,
    receiver::{HttpReceiver, Received, Reply, TcpReceiver},
    redis::RedisServer,
};

/// How long a test waits for anything. Far more than is needed, on a slow machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at a condition.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// Polls until `condition` holds; panics with `what` if it does not within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        holds_within(PATIENCE, condition),
        "not within {} s: {what}",
        PATIENCE.as_secs()
    );
}

/// Polls until `condition` holds, and says whether it came to that.
pub(crate) fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(POLL_EVERY);
    }
}

/// A port that is ours for as long as this lives, whether we listen on it or not.
///
/// It is bound, so that nobody else gets it, and does not listen, so that connections are refused.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _reservation: Socket,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = bound(&SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = socket.local_addr().expect("the socket is bound");
        Self {
            address: address.as_socket().expect("an IP address"),
            _reservation: socket,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to listen. May be called again when the last listener is gone.
    pub(crate) fn listen(&self) -> std::net::TcpListener {
        let socket = bound(&self.address);
        socket.listen(128).expect("the port is ours");
        socket.into()
    }
}

fn bound(address: &SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option of TCP");
    // The reservation and the listener have the same port.
    socket.set_reuse_port(true).expect("an option of TCP");
    socket.bind(&(*address).into()).expect("the port is ours");
    socket
}

/// Copies a folder of the test data, which must not change.
pub(crate) fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("the directory is ours");
    for entry in std::fs::read_dir(from).expect("test data") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("there is room")),
        }
    }
}

/// Changes a text in all files of a folder: a store that was written by hand, or by an older gate.
pub(crate) fn replace_in_files(folder: &std::path::Path, from: &str, to: &str) {
    for entry in std::fs::read_dir(folder).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            replace_in_files(&path, from, to);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            // Without a checksum it is a file of version 0.1.
            let document = text.split("\n#streamgate-store ").next().unwrap_or(&text);
            std::fs::write(&path, document.replace(from, to)).expect("it is ours");
        }
    }
}
