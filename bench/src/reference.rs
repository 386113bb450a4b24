//! Programs to compare the gate with, run as processes of their own like the gate.
//!
//! They promise as much as the measurement needs: they log where they listen in the gate's words, and
//! exit with code 0 on SIGTERM once everything has been forwarded.

use std::io::{Write, stderr};
use std::net::{SocketAddr, TcpStream};
use std::{process, thread};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

pub(crate) mod plain;
pub(crate) mod relay;

/// Room of one read.
const READ_BYTES: usize = 256 * 1024;

/// Logs that `listener` listens, as the gate does when stderr is no terminal.
fn announce(listener: &str, address: SocketAddr) -> Result<()> {
    let line = json!({
        "level": "INFO",
        "fields": {"message": "listening", "listener": listener, "address": address},
    });
    writeln!(stderr().lock(), "{line}").context("cannot write to stderr")
}

/// Exits with code 0 on SIGTERM. Must be called before any other thread is started.
fn exit_on_terminate() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block SIGTERM")?;
    thread::spawn(move || {
        let outcome = signals.wait();
        process::exit(i32::from(outcome.is_err()));
    });
    Ok(())
}

/// Connects to the output.
fn connect(to: SocketAddr) -> Result<TcpStream> {
    let output = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
    output.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    Ok(output)
}
