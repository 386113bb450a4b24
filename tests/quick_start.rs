//! The commands and samples of the README do what it says: word for word, but for the ports.
//!
//! Run with both kinds of netcat that people have: OpenBSD's and that of Nmap.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::support::{Capture, Gate, HttpReceiver, PATIENCE, Setup, eventually, holds_within};

const README: &str = include_str!("../README.md");

#[test]
fn quick_start_works_with_the_nc_of_openbsd() {
    quick_start("nc.openbsd");
}

#[test]
fn quick_start_works_with_ncat() {
    quick_start("ncat");
}

#[test]
fn datagrams_work_with_the_nc_of_openbsd() {
    datagrams("nc.openbsd", "nc -u -w1");
}

#[test]
fn datagrams_work_with_ncat() {
    datagrams("ncat", "nc -u");
}

#[test]
fn ingest_samples_are_accepted() {
    let gate = Setup::new().start();
    let shell = Shell::new("ncat", &gate, None);
    let mut accepted = 0;
    for command in commands("<!-- ingest: each of these is accepted -->") {
        let answer = shell.run(&command.text);
        let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
        accepted += answer["accepted"].as_u64().expect("a number");
        gate.settled(accepted);
    }
    assert_eq!(accepted, 5);
    gate.stdout
        .wait_for(b"one\ntwo\n{\"level\": \"INFO\"}\nthree\nfour\n");
    gate.stop();
}

#[test]
fn rule_samples_are_accepted() {
    let gate = Setup::new().start();
    let rules = sample("<!-- rules: every one of them is accepted -->");
    let count = rules.as_array().expect("a list").len();
    let answer = gate.edit("PUT", "/rules", &rules);
    assert_eq!(answer["rules"], count);
    gate.edit("POST", "/validate", &Value::Null);
    assert_eq!(gate.publish(), 1);
    gate.send(b"{\"resource\": {\"attributes\": {\"service.name\": \"test\"}}}\nSSN 123-45-6789\n");
    let stats = gate.settled(2);
    assert_eq!(stats["rules"].as_array().map(Vec::len), Some(count - 1));
    assert_eq!(stats["rules"][2]["dropped"], 1, "{stats:#}");
    assert_eq!(stats["rules"][4]["changed"], 1, "{stats:#}");
    gate.stop();
}

#[test]
fn output_samples_are_accepted() {
    let gate = Setup::new().start();
    for output in sample("<!-- outputs: every one of them is accepted -->")
        .as_array()
        .expect("a list")
    {
        let id = output["id"].as_str().expect("samples have ids");
        let answer = gate.edit("PUT", &format!("/outputs/{id}"), output);
        assert_eq!(answer["output"], *output);
    }
    gate.edit("POST", "/validate", &Value::Null);
    gate.finish(0);
}

/// A command of the README, and what it says under it.
#[derive(Debug)]
struct Documented {
    text: String,
    /// What is to come out of the gate, without the `# Output: ` before it.
    output: Option<String>,
}

/// The blocks of the quick start, in order, with all that they promise.
fn quick_start(netcat: &str) {
    let receiver = HttpReceiver::start();
    let gate = everywhere();
    let shell = Shell::new(netcat, &gate, Some(receiver.port()));
    let mut printed = String::new();
    let mut sent = 0;
    let mut run = |comment: &str| {
        let mut answers = Vec::new();
        for command in commands(&format!("<!-- quick start: {comment} -->")) {
            if !command.text.contains("| nc ") {
                answers.push(shell.run(&command.text));
                continue;
            }
            let netcat = shell.start(&command.text);
            sent += 1;
            // Nothing is under way any more, so that silence is silence.
            gate.settled(sent);
            netcat.end();
            match command.output.as_deref() {
                None | Some("(silence)") => {}
                Some(output) => printed.push_str(&format!("{output}\n")),
            }
            gate.stdout.wait_for(printed.as_bytes());
        }
        answers
    };
    run("pass through");
    for answer in run("add a rule") {
        let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
        let status = answer["status"].as_str();
        assert!(matches!(status, Some("added" | "published")), "{answer}");
    }
    run("filtered");
    run("redact");
    run("forward");
    let answers = run("books");

    eventually("the receiver has the request", || {
        !receiver.requests().is_empty()
    });
    let requests = receiver.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].line.starts_with("POST / "), "{requests:?}");
    assert_eq!(requests[0].body.trim_ascii_end(), b"Hello Datadog");
    let stats: Value = serde_json::from_str(&answers[0]).expect("the answer is JSON");
    crate::support::assert_books_balance(&stats);
    assert_eq!(stats["pipelines"][0]["filtered"], 1, "{stats:#}");
    assert_eq!(
        printed,
        "DEBUG: test log\nINFO: payment processed\nSSN: XXX-XX-XXXX\n"
    );
    gate.finish(5);
}

fn datagrams(netcat: &str, command: &str) {
    let gate = everywhere();
    let shell = Shell::new(netcat, &gate, None);
    let mut sent = 0;
    let mut send = |text: &str, lines: u64| {
        let netcat = shell.start(&format!("printf '{text}' | {command} localhost 8082"));
        sent += lines;
        gate.settled(sent);
        netcat.end();
    };
    send("DEBUG: one\\n", 1);
    send("no line feed", 1);
    send("DEBUG: two\\nINFO: three\\n", 2);
    let passed = "DEBUG: one\nno line feed\nDEBUG: two\nINFO: three\n";
    gate.stdout.wait_for(passed.as_bytes());

    let rule = json!([{"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}]);
    gate.run(&rule, &[]);
    send("DEBUG: four\\n", 1);
    send("INFO: five\\nDEBUG: six\\nINFO: seven", 3);
    let passed = format!("{passed}INFO: five\nINFO: seven\n");
    gate.stdout.wait_for(passed.as_bytes());
    let stats = gate.settled(8);
    assert_eq!(stats["filtered"], 2);
    assert_eq!(stats["ingest"]["udp"]["received"], 8);
    gate.stop();
}

/// A gate that is there for `localhost`, whichever address that is.
fn everywhere() -> Gate {
    let any = match UdpSocket::bind("[::1]:0") {
        Ok(_) => "[::]:0",
        Err(_) => "0.0.0.0:0",
    };
    Setup::new().flag("tcp", any).flag("udp", any).start()
}

/// Returns the text of the code block after that comment.
fn block_after(comment: &str) -> &'static str {
    let (_, after) = README
        .split_once(comment)
        .unwrap_or_else(|| panic!("the README has no `{comment}`"));
    let (_, block) = after.split_once("```").expect("a block follows");
    let (_, block) = block.split_once('\n').expect("its language ends the line");
    block.split_once("```").expect("the block ends").0
}

fn sample(comment: &str) -> Value {
    serde_json::from_str(block_after(comment)).expect("the sample is JSON")
}

/// Takes a block apart: a line that ends in a backslash goes on, a comment belongs to what is
/// before it.
fn commands(comment: &str) -> Vec<Documented> {
    let mut commands: Vec<Documented> = Vec::new();
    let mut continued = false;
    for line in block_after(comment).lines() {
        if let Some(note) = line.strip_prefix("# ") {
            let last = commands.last_mut().expect("a note on a command");
            last.output = note.strip_prefix("Output: ").map(str::to_owned);
        } else if continued {
            let last = commands.last_mut().expect("it was begun");
            last.text.push_str(&format!("\n{line}"));
        } else if !line.trim().is_empty() {
            commands.push(Documented {
                text: line.to_owned(),
                output: None,
            });
        }
        continued = line.ends_with('\\');
    }
    assert!(!commands.is_empty(), "no commands after `{comment}`");
    commands
}

/// Runs commands as a reader would, with one kind of netcat as `nc`.
struct Shell {
    folder: tempfile::TempDir,
    /// What the README says, and what it is here.
    places: Vec<(String, String)>,
    ends_by_itself: bool,
}

/// A command that runs.
struct Running {
    process: Child,
    ends_by_itself: bool,
    command: String,
    stdout: Capture,
    stderr: Capture,
}

impl Shell {
    fn new(netcat: &str, gate: &Gate, receiver: Option<u16>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        symlink(find(netcat), folder.path().join("nc")).expect("the directory is ours");
        let listeners = BTreeMap::from([
            (8081, Some(gate.tcp())),
            (8082, Some(gate.udp())),
            (8080, Some(gate.http())),
            (8000, Some(gate.control())),
            (
                9000,
                receiver.map(|port| SocketAddr::from(([127, 0, 0, 1], port))),
            ),
        ]);
        let mut places = Vec::new();
        for (documented, address) in listeners {
            let Some(address) = address else { continue };
            for between in [" ", ":"] {
                places.push((
                    format!("localhost{between}{documented}"),
                    format!("localhost{between}{}", address.port()),
                ));
            }
        }
        Self {
            folder,
            places,
            ends_by_itself: netcat == "ncat",
        }
    }

    /// Starts a command in a process group of its own.
    fn start(&self, command: &str) -> Running {
        let mut command = command.to_owned();
        for (documented, here) in &self.places {
            command = command.replace(documented, here);
        }
        let path = std::env::var("PATH").expect("there is a path");
        let mut process = Command::new("bash")
            .args(["-o", "pipefail", "-c", &command])
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash is installed");
        let stdout = Capture::of(process.stdout.take().expect("piped"));
        let stderr = Capture::of(process.stderr.take().expect("piped"));
        // Nmap's ends when its input does, but over UDP it cannot know.
        let ends_by_itself = self.ends_by_itself && !command.contains("-u");
        Running {
            process,
            ends_by_itself,
            command,
            stdout,
            stderr,
        }
    }

    /// Runs a command to its end and returns what it printed.
    fn run(&self, command: &str) -> String {
        let mut running = self.start(command);
        running.ends_by_itself = true;
        running.end()
    }
}

impl Running {
    /// Waits for the end, or makes it where the program waits for more.
    fn end(mut self) -> String {
        if self.ends_by_itself {
            let mut status = None;
            holds_within(PATIENCE, || {
                status = self.process.try_wait().expect("our child");
                status.is_some()
            });
            let stderr = self.stderr.text();
            let status = status.unwrap_or_else(|| panic!("{} does not end", self.command));
            assert!(status.success(), "{}: {status}: {stderr}", self.command);
            self.stdout.wait_for_end();
        }
        self.stdout.text()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        let pid = Pid::from_raw(pid).expect("a pid");
        // Not yet waited for, or else gone: the number is nobody else's.
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = self.process.wait();
        }
        if thread::panicking() {
            eprintln!("--- `{}` said {}", self.command, self.stderr.tail());
        }
    }
}

fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("there is a path");
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate: &PathBuf| Path::exists(candidate))
        .unwrap_or_else(|| panic!("`{program}` is not installed; see `tests/run`"))
}
