//! A real Redis of a test's own: on a free port, with its data in a temporary folder.
//!
//! Also included by the unit tests of the config store.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Commands, Connection};
use rustix::process::{Pid, Signal, kill_process};

/// A `redis-server`, which ends with this value.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    flags: Vec<String>,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more flags than usual: `--maxmemory 1mb`.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        // Somebody else may take the port between here and there.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .expect("a free port")
                .port();
            let mut child = spawn(port, folder.path(), &flags);
            if answers(port, &mut child) {
                return Self {
                    child,
                    port,
                    folder,
                    flags,
                };
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connection(&self) -> Connection {
        redis::Client::open(self.url())
            .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(10)))
            .expect("Redis answers")
    }

    /// Writes a value, as any other program may.
    pub(crate) fn set(&self, key: &str, value: impl AsRef<[u8]>) {
        let () = self.connection().set(key, value.as_ref()).expect("SET");
    }

    pub(crate) fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.connection().get(key).expect("GET")
    }

    /// Publishes as the seed's control plane does.
    pub(crate) fn publish(&self, manifest: impl AsRef<[u8]>) {
        self.set("streamgate_config", manifest);
        self.tell();
    }

    /// Tells whoever listens.
    pub(crate) fn tell(&self) {
        let _: usize = self
            .connection()
            .publish("streamgate_updates", "RELOAD")
            .expect("PUBLISH");
    }

    /// Ends it as a crash does. `keeping` its data, as far as it was saved.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("it ended");
    }

    /// Stops it without ending it: connections stay open, nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Starts it again on the same port, with nothing in it.
    pub(crate) fn start_again_empty(&mut self) {
        for entry in std::fs::read_dir(self.folder.path()).expect("its folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                std::fs::remove_file(path).expect("removed");
            }
        }
        self.start_again();
    }

    /// Starts it again on the same port, with what it had saved.
    pub(crate) fn start_again(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.child = spawn(self.port, self.folder.path(), &self.flags);
            if answers(self.port, &mut self.child) {
                return;
            }
            assert!(Instant::now() < deadline, "its port is taken");
        }
    }

    /// Saves its data, for a start after a kill.
    pub(crate) fn save(&self) {
        redis::cmd("SAVE")
            .exec(&mut self.connection())
            .expect("SAVE");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it lives");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &std::path::Path, flags: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder)
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed (on Debian: apt-get install redis-server)")
}

/// Waits until it answers; false if it ended instead.
fn answers(port: u16, child: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).expect("a URL");
    while Instant::now() < deadline {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        let asked = client.get_connection_with_timeout(Duration::from_secs(1));
        match asked {
            Ok(mut connection) => {
                // An answer that refuses is one too.
                match redis::cmd("PING").exec(&mut connection) {
                    Err(error) if error.code().is_none() => {}
                    _ => return true,
                }
            }
            Err(error) if error.code().is_some() => return true,
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
