//! The gate as a process: the real binary on free ports, with a store of its own.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Answer, Body, Capture, PATIENCE, Request, books, eventually, holds_within, http};

/// Longer than the longest grace period that a test lets run out.
const END_WITHIN: Duration = Duration::from_secs(30);

/// A gate that is not started yet.
pub(crate) struct Setup {
    directory: TempDir,
    flags: BTreeMap<&'static str, String>,
    environment: BTreeMap<&'static str, String>,
    manifest: Option<Value>,
    stdout: Option<Stdio>,
    ulimit: Option<&'static str>,
}

/// A running gate. It is killed when this is dropped.
pub(crate) struct Gate {
    process: Child,
    addresses: BTreeMap<String, SocketAddr>,
    /// What came out of the console output.
    pub(crate) stdout: Capture,
    /// The log.
    pub(crate) stderr: Capture,
    setup: Setup,
}

/// A gate that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Setup {
    /// All listeners on free ports of the loopback address, and a store that is empty.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = directory.path().join("store").display().to_string();
        let free = || "127.0.0.1:0".to_owned();
        let flags = BTreeMap::from([
            ("tcp", free()),
            ("udp", free()),
            ("http", free()),
            ("control", free()),
            ("store", store),
            ("node", "gate-under-test".to_owned()),
        ]);
        Self {
            directory,
            flags,
            environment: BTreeMap::new(),
            manifest: None,
            stdout: None,
            ulimit: None,
        }
    }

    /// Gives it another stdout than the one that is captured.
    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Starts it in a shell that has called `ulimit` with these arguments.
    pub(crate) fn ulimit(mut self, arguments: &'static str) -> Self {
        self.ulimit = Some(arguments);
        self
    }

    /// Sets `--flag value`.
    pub(crate) fn flag(mut self, flag: &'static str, value: impl Into<String>) -> Self {
        self.flags.insert(flag, value.into());
        self
    }

    /// Leaves a flag to its default.
    pub(crate) fn without(mut self, flag: &'static str) -> Self {
        self.flags.remove(flag);
        self
    }

    pub(crate) fn env(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.environment.insert(variable, value.into());
        self
    }

    /// Begins with these rules and outputs.
    pub(crate) fn manifest(mut self, rules: &Value, outputs: &Value) -> Self {
        self.manifest = Some(json!({
            "version": "1.0",
            "pipelines": [{
                "name": "default_pipeline",
                "processors": rules,
                "outputs": outputs,
                "batch_size": 100,
            }],
        }));
        self
    }

    /// Begins with one TCP output.
    pub(crate) fn sending_to(self, address: SocketAddr) -> Self {
        let output = json!([{"id": "out", "type": "tcp", "address": address.to_string()}]);
        self.manifest(&json!([]), &output)
    }

    /// Keeps the store in a directory that outlives this gate.
    pub(crate) fn store(self, directory: &Path) -> Self {
        self.flag("store", directory.display().to_string())
    }

    /// Lets outputs refer to files of its directory as secrets.
    pub(crate) fn secrets_in_its_directory(self) -> Self {
        let directory = self.directory().display().to_string();
        self.flag("secret-files", directory)
    }

    /// A directory for files of the test; it goes with the gate.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn command(&mut self) -> Command {
        let binary = env!("CARGO_BIN_EXE_streamgate");
        let mut command = match self.ulimit {
            None => Command::new(binary),
            Some(arguments) => {
                let mut shell = Command::new("/bin/sh");
                let script = format!("ulimit {arguments} && exec \"$0\" \"$@\"");
                shell.args(["-c", &script, binary]);
                shell
            }
        };
        command
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(self.stdout.take().unwrap_or_else(Stdio::piped))
            .stderr(Stdio::piped());
        for (flag, value) in &self.flags {
            command.arg(format!("--{flag}={value}"));
        }
        if let Some(manifest) = &self.manifest {
            let path = self.directory.path().join("manifest.json");
            std::fs::write(&path, manifest.to_string()).expect("the directory is ours");
            command.arg("--manifest").arg(path);
        }
        command
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(self) -> Gate {
        let mut gate = self.launch();
        gate.wait_until_ready();
        gate
    }

    /// Starts it and waits until the control API listens.
    #[track_caller]
    pub(crate) fn launch(mut self) -> Gate {
        let mut process = self.command().spawn().expect("the binary was built");
        let stdout = process
            .stdout
            .take()
            .map_or_else(Capture::none, Capture::of);
        let stderr = Capture::of(process.stderr.take().expect("piped"));
        let mut gate = Gate {
            process,
            addresses: BTreeMap::new(),
            stdout,
            stderr,
            setup: self,
        };
        gate.wait_until_logged("listening");
        gate
    }

    /// Runs it where it is expected to end by itself.
    #[track_caller]
    pub(crate) fn run_to_end(mut self) -> Ended {
        let mut process = self.command().spawn().expect("the binary was built");
        let stdout = process
            .stdout
            .take()
            .map_or_else(Capture::none, Capture::of);
        let stderr = Capture::of(process.stderr.take().expect("piped"));
        let mut status = None;
        let ended = holds_within(PATIENCE, || {
            status = process.try_wait().expect("our child");
            status.is_some()
        });
        if !ended {
            let _ = process.kill();
            let _ = process.wait();
            panic!("the gate did not end; it logged {}", stderr.tail());
        }
        stdout.wait_for_end();
        stderr.wait_for_end();
        Ended {
            status: status.expect("it ended"),
            stdout: stdout.bytes(),
            stderr: stderr.text(),
        }
    }
}

impl Gate {
    /// Waits until it takes events.
    #[track_caller]
    pub(crate) fn wait_until_ready(&mut self) {
        self.wait_until_logged("ready");
    }

    #[track_caller]
    fn wait_until_logged(&mut self, message: &str) {
        eventually(&format!("the gate logs `{message}`"), || {
            let exited = self.process.try_wait().expect("our child");
            assert!(exited.is_none(), "the gate ended: {exited:?}");
            self.logged(message).is_some()
        });
        self.addresses = self.listeners();
    }

    /// Returns where it has logged that it listens.
    fn listeners(&self) -> BTreeMap<String, SocketAddr> {
        let log = self.log().into_iter();
        let listening = log.filter(|fields| fields["message"] == "listening");
        let listener = listening.map(|fields| {
            let text = |field: &str| fields[field].as_str().expect("a string").to_owned();
            let address = text("address").parse().expect("an address");
            (text("listener"), address)
        });
        listener.collect()
    }

    /// The directory that it was started in; it goes with the gate.
    pub(crate) fn directory(&self) -> &Path {
        self.setup.directory()
    }

    pub(crate) fn tcp(&self) -> SocketAddr {
        self.address("tcp")
    }

    pub(crate) fn udp(&self) -> SocketAddr {
        self.address("udp")
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.address("http")
    }

    pub(crate) fn control(&self) -> SocketAddr {
        self.address("control")
    }

    /// Whether it listens there.
    pub(crate) fn listens(&self, listener: &str) -> bool {
        self.listeners().contains_key(listener)
    }

    #[track_caller]
    fn address(&self, listener: &str) -> SocketAddr {
        let known = self.addresses.get(listener).copied();
        known
            .or_else(|| self.listeners().get(listener).copied())
            .unwrap_or_else(|| panic!("the gate does not listen on {listener}"))
    }

    /// Connects to its TCP side.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.tcp(), PATIENCE).expect("the gate listens");
        let limits = [
            stream.set_read_timeout(Some(PATIENCE)),
            stream.set_write_timeout(Some(PATIENCE)),
            stream.set_nodelay(true),
        ];
        assert!(limits.iter().all(Result::is_ok), "options of sockets");
        stream
    }

    /// Sends bytes over one connection and ends it.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("the gate reads");
        stream.shutdown(Shutdown::Write).expect("it is connected");
    }

    /// Sends one datagram.
    pub(crate) fn send_datagram(&self, bytes: &[u8]) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sent = socket
            .send_to(bytes, self.udp())
            .expect("loopback takes it");
        assert_eq!(sent, bytes.len());
    }

    /// Sends a request to its `/ingest`.
    #[track_caller]
    pub(crate) fn ingest(&self, request: &Request<'_>) -> Answer {
        http::request(self.http(), request).expect("the gate answers")
    }

    /// Sends a request to the control API.
    #[track_caller]
    pub(crate) fn ask(&self, request: &Request<'_>) -> Answer {
        http::request(self.control(), request).expect("the control API answers")
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.ask(&Request::new("GET", path)).expect(200).json()
    }

    /// Sends JSON to the control API, whatever it answers.
    #[track_caller]
    pub(crate) fn try_edit(&self, method: &str, path: &str, body: &Value) -> Answer {
        let text = body.to_string();
        let body = match body {
            Value::Null => Body::Whole(b""),
            _ => Body::Whole(text.as_bytes()),
        };
        let request = Request::new(method, path).header("Content-Type", "application/json");
        self.ask(&request.body(body))
    }

    /// Sends JSON to the control API, which accepts it.
    #[track_caller]
    pub(crate) fn edit(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_edit(method, path, body).expect(200).json()
    }

    /// Makes the draft live, whatever that removes and also if it is live already; returns its
    /// revision.
    #[track_caller]
    pub(crate) fn publish(&self) -> u64 {
        let path = "/publish?allow_removal=true&republish=true";
        let answer = self.edit("POST", path, &Value::Null);
        assert_eq!(answer["status"], "published", "{answer}");
        answer["revision"].as_u64().expect("a number")
    }

    /// Replaces rules and outputs, and makes them live.
    #[track_caller]
    pub(crate) fn run(&self, rules: &Value, outputs: &[Value]) -> u64 {
        self.edit("PUT", "/rules", rules);
        self.edit("DELETE", "/outputs", &Value::Null);
        for output in outputs {
            self.edit("POST", "/outputs", output);
        }
        self.publish()
    }

    /// Returns the books, which balance at every moment.
    #[track_caller]
    pub(crate) fn stats(&self) -> Value {
        let stats = self.get("/stats");
        books::assert_books_balance(&stats);
        stats
    }

    /// Returns the books of the pipeline.
    #[track_caller]
    pub(crate) fn pipeline(&self) -> Value {
        self.stats()["pipelines"][0].take()
    }

    /// Waits until the pipeline has received that many events and nothing is under way; returns its
    /// books.
    #[track_caller]
    pub(crate) fn settled(&self, received: u64) -> Value {
        let mut stats = Value::Null;
        let settled = holds_within(PATIENCE, || {
            stats = self.stats();
            stats["pipelines"][0]["received"] == received && books::is_at_rest(&stats)
        });
        assert!(settled, "expected {received} events, at rest: {stats:#}");
        stats["pipelines"][0].take()
    }

    /// What `GET /metrics` says.
    #[track_caller]
    pub(crate) fn metrics(&self) -> String {
        self.ask(&Request::new("GET", "/metrics"))
            .expect(200)
            .text()
    }

    /// Returns the fields of every log line.
    pub(crate) fn log(&self) -> Vec<Value> {
        fields_of(&self.stderr.text())
    }

    /// Returns the fields of the first log line with that message.
    pub(crate) fn logged(&self, message: &str) -> Option<Value> {
        let mut log = self.log().into_iter();
        log.find(|fields| fields["message"] == message)
    }

    /// Returns the most memory that it ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> usize {
        self.memory_of("VmHWM:")
    }

    /// Returns the memory that it has, in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        self.memory_of("VmRSS:")
    }

    /// Returns the addresses that it has reserved, in bytes.
    pub(crate) fn address_space_bytes(&self) -> usize {
        self.memory_of("VmSize:")
    }

    /// A figure of `/proc/<pid>/status`, `proc(5)`.
    fn memory_of(&self, field: &str) -> usize {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let text = line.expect("Linux says so").trim();
        let kibibytes = text.strip_suffix(" kB").expect("in KiB");
        kibibytes.parse::<usize>().expect("a number") * 1024
    }

    /// Returns the names of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let tasks = format!("/proc/{}/task", self.process.id());
        let tasks = std::fs::read_dir(tasks).expect("it runs");
        tasks
            // One that has ended in between has no name any more.
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Stops it without ending it.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        let pid = Pid::from_raw(pid).expect("a pid");
        kill_process(pid, signal).expect("our child");
    }

    /// Waits until the process has ended, whether its output was read or not.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = holds_within(END_WITHIN, || {
            status = self.process.try_wait().expect("our child");
            status.is_some()
        });
        assert!(ended, "the gate does not end");
        status.expect("it ended")
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Ended {
        let status = self.wait_for_exit();
        self.stdout.wait_for_end();
        self.stderr.wait_for_end();
        Ended {
            status,
            stdout: self.stdout.bytes(),
            stderr: self.stderr.text(),
        }
    }

    /// Ends it in order; it must leave with 0.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Ended {
        self.terminate();
        let ended = self.wait();
        assert_eq!(ended.status.code(), Some(0), "a clean end");
        ended
    }

    /// The usual end of a test: that many events came, the books balance, and it ends in order.
    #[track_caller]
    pub(crate) fn finish(self, received: u64) -> Ended {
        self.settled(received);
        self.stop()
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        let status = self.wait().status;
        assert_eq!(status.signal(), Some(9));
    }

    /// A handle that kills it from another thread, where `self` is in use.
    /// Has the kernel refuse what would make a file longer, as a full disk would.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        let pid = Pid::from_raw(self.process_id().cast_signed()).expect("not 0");
        prlimit(Some(pid), Resource::Fsize, limit).expect("our child");
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let Setup {
                flags,
                environment,
                manifest,
                ..
            } = &self.setup;
            eprintln!("--- the gate was started with {flags:?} {environment:?}");
            if let Some(manifest) = manifest {
                eprintln!("--- and this manifest: {manifest}");
            }
            eprintln!("--- it logged {}", self.stderr.tail());
            eprintln!("--- on stdout came {}", self.stdout.tail());
        }
    }
}

impl Ended {
    /// Asserts the exit code, and that the error is one sentence on one line that holds `part`.
    #[track_caller]
    pub(crate) fn expect_error(&self, code: i32, part: &str) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        let told: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| !line.starts_with('{'))
            .collect();
        let [sentence] = told.as_slice() else {
            panic!("expected one sentence, found {told:?}");
        };
        assert!(sentence.contains(part), "no `{part}` in `{sentence}`");
        assert!(self.stdout.is_empty(), "stdout is for events");
    }

    /// Returns the fields of the first log line with that message.
    pub(crate) fn logged(&self, message: &str) -> Option<Value> {
        let mut log = fields_of(&self.stderr).into_iter();
        log.find(|fields| fields["message"] == message)
    }
}

fn fields_of(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines
        .filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["fields"].take()))
        .collect()
}
