//! Events to stdout, and nothing else ever goes there.
//!
//! Writing to a pipe that nobody reads blocks, so this output has a thread of its own.

use std::{
    fs::File,
    io::{self, IoSlice, Write},
    os::fd::AsFd,
};

use parking_lot::Mutex;

use super::{OutputState, pace::Cause, queue::Group, runner::Attempt};

/// Held for a whole send: there is one stdout, and may be several consoles, such as one that is
/// replaced and still has events. The kernel takes part of a write, so that lines would be torn.
static TURN: Mutex<()> = Mutex::new(());

/// Slices in one write. The kernel takes 1,024 at most (`IOV_MAX` in limits.h).
pub(super) const MAX_SLICES: usize = 1024;

/// Writes to stdout, past the line buffer of the standard library.
#[derive(Debug)]
pub(super) struct Console {
    stdout: File,
}

impl Console {
    pub(super) fn open() -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self {
            stdout: stdout.into(),
        })
    }

    pub(super) fn send(&mut self, group: &Group, done: usize, state: &OutputState) -> Attempt {
        let _turn = TURN.lock();
        match write(&mut self.stdout, group, done, state) {
            (bytes, Ok(())) => Attempt::Sent { bytes },
            (bytes, Err(error)) => failed(
                group,
                done,
                bytes,
                format!("cannot write to stdout: {error}"),
            ),
        }
    }
}

/// Writes what follows the first `done` bytes of a group, and returns how much was written.
pub(super) fn write(
    file: &mut File,
    group: &Group,
    done: usize,
    state: &OutputState,
) -> (usize, io::Result<()>) {
    let mut written = 0;
    loop {
        let slices: Vec<IoSlice<'_>> = group
            .slices(done + written)
            .take(MAX_SLICES)
            .map(IoSlice::new)
            .collect();
        if slices.is_empty() {
            return (written, Ok(()));
        }
        match file.write_vectored(&slices) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => {
                written += bytes;
                state.progressed();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
}

/// An event of which only the beginning was written is written again from its start.
pub(super) fn failed(group: &Group, done: usize, written: usize, error: String) -> Attempt {
    let bytes = group.event_start(done + written) - done;
    Attempt::Failed {
        bytes,
        error,
        cause: Cause::Unreachable,
        retry_after: None,
    }
}
