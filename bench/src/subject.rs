//! The process under test, seen from outside: started, measured, stopped.
//!
//! CPU time is read from the process's own CPU clock (`clock_getcpuclockid(3)`): user and system time
//! of all its threads, exited ones included, in nanoseconds. Work that the kernel does for a socket
//! on the sender's time (on loopback that is nearly all of it) counts for the sender.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Deserialize;

/// How long a process may take until it listens.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long a process may take to drain and exit after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How many of its last log lines are shown when it fails.
const LOG_LINES: usize = 20;
/// Length of a tick in `/proc/<pid>/stat`: `USER_HZ` is 100 on all architectures we run on.
const TICK: Duration = Duration::from_millis(10);

/// What a process has said on stderr so far.
#[derive(Debug, Default)]
struct Log {
    listening: HashMap<String, SocketAddr>,
    last: VecDeque<String>,
    ended: bool,
}

/// CPU time that a process has used since it was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTime {
    /// User and system time, exact.
    pub total: Duration,
    /// User time in whole ticks of 10 ms.
    pub user: Duration,
    /// System time in whole ticks of 10 ms.
    pub system: Duration,
}

/// A running process under test; killed when dropped.
pub(crate) struct Subject {
    name: String,
    child: Child,
    pid: Pid,
    clock: ClockId,
    log: Arc<(Mutex<Log>, Condvar)>,
}

impl Subject {
    /// Starts `command` and waits until it has logged an address for each of `listeners`.
    ///
    /// # Errors
    /// If it cannot be started, exits, or does not listen in time; with its last log lines.
    pub(crate) fn start(name: &str, command: Command, listeners: &[&str]) -> Result<Self> {
        Self::start_with(command, name, listeners, Stdio::null())
    }

    /// As [`Self::start`], with a stdout.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_with(
        mut command: Command,
        name: &str,
        listeners: &[&str],
        stdout: Stdio,
    ) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("pid is no i32")?);
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        let stderr = child.stderr.take().context("child has no stderr")?;
        thread::spawn({
            let log = log.clone();
            move || follow(stderr, &log)
        });
        let subject = Self {
            name: name.to_owned(),
            child,
            pid,
            clock: ClockId::pid_cpu_clock_id(pid).context("process has no CPU clock")?,
            log,
        };
        subject.wait_listening(listeners)?;
        Ok(subject)
    }

    /// Returns its stdout, if that is a pipe and was not taken yet.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Asks the process to stop and waits until it has.
    ///
    /// # Errors
    /// If it does not stop in time, or not with exit code 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill(self.pid, Signal::SIGTERM).with_context(|| format!("cannot stop `{}`", self.name))?;
        let status = self.wait_exit()?;
        ensure!(
            status.success(),
            "`{}` stopped with {status}, expected exit code 0{}",
            self.name,
            self.last_log()
        );
        Ok(())
    }

    /// Returns the address of a listener named in `start`.
    ///
    /// # Errors
    /// If it has not logged that listener.
    pub(crate) fn address(&self, listener: &str) -> Result<SocketAddr> {
        self.lock()
            .listening
            .get(listener)
            .copied()
            .with_context(|| format!("`{}` has no listener `{listener}`", self.name))
    }

    /// Reads the CPU time used so far.
    ///
    /// # Errors
    /// If the process is gone.
    pub(crate) fn cpu_time(&self) -> Result<CpuTime> {
        let gone = || format!("`{}` is gone{}", self.name, self.last_log());
        let total = clock_gettime(self.clock).with_context(gone)?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).with_context(gone)?;
        // proc(5): the name of the program, field 2, may hold blanks; utime and stime are 14 and 15.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let mut ticks = after_name
            .split_whitespace()
            .skip(11)
            .map(|field| field.parse().map(|ticks: u32| TICK * ticks));
        let mut next = || {
            ticks
                .next()
                .and_then(Result::ok)
                .context("/proc/<pid>/stat is too short")
        };
        Ok(CpuTime {
            total: Duration::from(total),
            user: next()?,
            system: next()?,
        })
    }

    /// Reads the most memory the process ever had resident, in bytes.
    ///
    /// # Errors
    /// If the process is gone.
    pub(crate) fn peak_resident_bytes(&self) -> Result<u64> {
        self.memory_of("VmHWM:")
    }

    fn memory_of(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .with_context(|| format!("`{}` is gone", self.name))?;
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|value| value.trim().strip_suffix(" kB"))
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("/proc/<pid>/status has no `{field}`"))?;
        Ok(kibibytes * 1024)
    }

    /// Reads the memory that the process has resident, in bytes.
    ///
    /// # Errors
    /// If the process is gone.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        self.memory_of("VmRSS:")
    }

    /// Returns its last log lines, each on a line of its own, to be put behind an error.
    #[must_use]
    pub(crate) fn last_log(&self) -> String {
        let log = self.lock();
        let mut text = String::new();
        for line in &log.last {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        text
    }

    fn wait_listening(&self, listeners: &[&str]) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        let mut log = self.lock();
        loop {
            let missing = listeners
                .iter()
                .find(|&&listener| !log.listening.contains_key(listener));
            let Some(missing) = missing else {
                return Ok(());
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if log.ended || left.is_zero() {
                let what = if log.ended { "ended" } else { "waited 20 s" };
                drop(log);
                bail!(
                    "`{}`: {what} before listener `{missing}` was logged{}",
                    self.name,
                    self.last_log()
                );
            }
            log = self
                .log
                .1
                .wait_timeout(log, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(log, _)| log);
        }
    }

    fn wait_exit(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for exit")? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(anyhow!(
                    "waited {STOP_DEADLINE:?} for `{}` to stop after SIGTERM{}",
                    self.name,
                    self.last_log()
                ));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Both fail if it has been stopped already, as it should have been.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Follows stderr to its end, so that the process never waits for us.
fn follow(stderr: ChildStderr, log: &(Mutex<Log>, Condvar)) {
    for line in BufReader::new(stderr).lines() {
        let Ok(line) = line else { break };
        let mut log_now = log.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((listener, address)) = parse_listening(&line) {
            log_now.listening.insert(listener, address);
            log.1.notify_all();
        }
        if log_now.last.len() == LOG_LINES {
            log_now.last.pop_front();
        }
        log_now.last.push_back(line);
    }
    log.0.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    log.1.notify_all();
}

/// Reads a listener's name and address from a log line, whether its fields are nested or not.
fn parse_listening(line: &str) -> Option<(String, SocketAddr)> {
    #[derive(Deserialize)]
    struct Fields {
        message: String,
        listener: String,
        address: SocketAddr,
    }
    #[derive(Deserialize)]
    struct Nested {
        fields: Fields,
    }
    let fields = serde_json::from_str::<Nested>(line)
        .map(|nested| nested.fields)
        .or_else(|_| serde_json::from_str::<Fields>(line))
        .ok()?;
    (fields.message == "listening").then_some((fields.listener, fields.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_is_read_from_nested_and_flat_log_lines() {
        let wanted = Some(("tcp".to_owned(), "127.0.0.1:41234".parse().unwrap()));
        let fields = r#""message":"listening","listener":"tcp","address":"127.0.0.1:41234""#;
        let nested = format!(r#"{{"level":"INFO","fields":{{{fields}}},"target":"x"}}"#);
        assert_eq!(parse_listening(&nested), wanted);
        assert_eq!(parse_listening(&format!("{{{fields}}}")), wanted);
        assert_eq!(parse_listening(r#"{"fields":{"message":"started"}}"#), None);
        assert_eq!(parse_listening("plain text"), None);
    }

    #[test]
    fn process_that_ends_at_once_is_reported_with_its_log() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option >&2; exit 2"]);
        let error = Subject::start("gate", command, &["tcp"]).err().unwrap();
        assert!(error.to_string().contains("no such option"), "{error}");
    }

    #[test]
    fn cpu_time_and_memory_are_read() {
        let mut command = Command::new("sh");
        let listening = r#"{"message":"listening","listener":"tcp","address":"127.0.0.1:1"}"#;
        let script = format!(
            "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo '{listening}' >&2; sleep 60"
        );
        command.args(["-c", &script]);
        let subject = Subject::start("busy", command, &["tcp"]).unwrap();
        let cpu = subject.cpu_time().unwrap();
        assert!(cpu.total > Duration::from_millis(10), "{cpu:?}");
        assert!(cpu.total + TICK >= cpu.user + cpu.system, "{cpu:?}");
        assert!(subject.peak_resident_bytes().unwrap() > 100_000);
    }
}
