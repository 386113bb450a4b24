//! The bare relay: a thread a connection, large blocking reads, `write_all`. It looks at no byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};

use super::{READ_BYTES, announce, connect, exit_on_terminate};

/// Flags of the relay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where every accepted connection is forwarded to, by a connection of its own
    #[arg(long)]
    forward: SocketAddr,
}

/// Relays until the process is told to stop.
///
/// # Errors
/// If it cannot listen or accept.
pub(crate) fn run(args: &Args) -> Result<()> {
    exit_on_terminate()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    announce("tcp", listener.local_addr()?)?;
    let forward = args.forward;
    for accepted in listener.incoming() {
        let input = accepted.context("cannot accept")?;
        // A broken connection ends alone; the receiver misses what is missing.
        thread::spawn(move || relay(input, forward));
    }
    Ok(())
}

fn relay(mut input: TcpStream, forward: SocketAddr) -> Result<()> {
    input.set_nodelay(true)?;
    let mut output = connect(forward)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => output.write_all(&buffer[..length])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
