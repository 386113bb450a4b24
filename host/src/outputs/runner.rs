//! What all outputs have in common: take what waits, send it, try again, book it.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{
    Launcher, OutputSettings, OutputState,
    console::Console,
    http::HttpPost,
    queue::{Group, OutputQueue},
    retry::{Backoff, GIVE_UP_AFTER},
    tcp::TcpLines,
};
use crate::books::{DiscardReason, NamedOutput};

/// A refusal is logged at most this often for each output.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a removed output that gets on may take to send what it has.
const RETIRED_LIMIT: Duration = Duration::from_secs(60);

/// How long a removed output is kept that fails, or that nothing goes through.
const RETIRED_PATIENCE: Duration = Duration::from_secs(3);

/// How often a removed output is looked at.
const RETIRED_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What became of one attempt to send.
pub(super) enum Attempt {
    /// These bytes, whole events, were taken.
    Sent { bytes: usize },
    /// These bytes, whole events, will never be taken.
    Rejected { bytes: usize, error: String },
    /// These bytes, whole events, were taken before it failed; the rest can be tried again.
    Failed {
        bytes: usize,
        error: String,
        /// How long the receiver asked to be left alone.
        retry_after: Option<Duration>,
        /// Whether the receiver is there and it is these events that it fails on.
        answered: bool,
    },
}

enum Sender {
    Console(Console),
    Tcp(TcpLines),
    Http(Box<HttpPost>),
}

struct Runner {
    name: NamedOutput,
    queue: Arc<OutputQueue>,
    state: Arc<OutputState>,
    abort: watch::Receiver<bool>,
    running: watch::Sender<usize>,
    last_refusal_log: Option<Instant>,
}

/// Starts the output's task, or its thread where writing can block.
pub(super) fn spawn(
    launcher: &Launcher,
    settings: &OutputSettings,
    name: &NamedOutput,
    queue: &Arc<OutputQueue>,
    state: &Arc<OutputState>,
) {
    launcher.running.send_modify(|running| *running += 1);
    let runner = Runner {
        name: name.clone(),
        queue: Arc::clone(queue),
        state: Arc::clone(state),
        abort: launcher.abort.clone(),
        running: launcher.running.clone(),
        last_refusal_log: None,
    };
    match settings {
        OutputSettings::Console => {
            let runtime = launcher.runtime.clone();
            let run = move || match Console::open() {
                Ok(console) => runtime.block_on(runner.run(Sender::Console(console))),
                Err(error) => runtime.block_on(runner.refuse_all(error)),
            };
            if let Err(error) = thread::Builder::new().name("console".to_owned()).spawn(run) {
                error!(%error, "cannot start a thread for the console output");
            }
        }
        OutputSettings::Tcp(settings) => {
            let sender = Sender::Tcp(TcpLines::new(settings.clone()));
            launcher.runtime.spawn(runner.run(sender));
        }
        OutputSettings::Http(settings) => match HttpPost::build(settings) {
            Ok(sender) => {
                launcher
                    .runtime
                    .spawn(runner.run(Sender::Http(Box::new(sender))));
            }
            Err(error) => {
                launcher
                    .runtime
                    .spawn(runner.refuse_all(io::Error::other(error)));
            }
        },
    }
}

impl Runner {
    async fn run(mut self, mut sender: Sender) {
        while let Some(group) = self.queue.take().await {
            self.deliver(&group, &mut sender).await;
            self.queue.done(group);
        }
        if let Sender::Tcp(tcp) = &mut sender {
            tcp.finish().await;
        }
    }

    /// Stands in for an output that could not be made: its events are given up and counted.
    async fn refuse_all(self, error: impl std::error::Error) {
        error!(output = %self.name.id, error = %error, "cannot open the output");
        self.state.failed(error.to_string());
        while let Some(group) = self.queue.take().await {
            self.name
                .account
                .discarded(DiscardReason::Rejected, group.events());
            self.queue.done(group);
        }
    }

    /// Sends a group to its end, or gives events up; in order, and books each exactly once.
    async fn deliver(&mut self, group: &Group, sender: &mut Sender) {
        let account = Arc::clone(&self.name.account);
        let total_bytes = group.bytes();
        let total_events = group.events();
        let (mut done_bytes, mut done_events) = (0, 0);
        // How many events end in the next `bytes`.
        let events_in = |done_bytes: usize, done_events: u64, bytes: usize| match () {
            () if bytes == 0 => 0,
            () if done_bytes + bytes == total_bytes => total_events - done_events,
            () => group.events_within(done_bytes + bytes) - done_events,
        };
        let mut backoff = Backoff::new();
        let mut failing_since: Option<Instant> = None;
        let mut given_up = pin!(given_up(self.abort.clone(), self.queue.abandoned()));
        while done_bytes < total_bytes {
            let attempt = tokio::select! {
                biased;
                reason = &mut given_up => {
                    account.discarded(reason, total_events - done_events);
                    return;
                }
                attempt = sender.send(group, done_bytes, &self.queue, &self.state) => attempt,
            };
            match attempt {
                Attempt::Sent { bytes } => {
                    let events = events_in(done_bytes, done_events, bytes);
                    account.sent(events, bytes as u64);
                    (done_bytes, done_events) = (done_bytes + bytes, done_events + events);
                    if failing_since.take().is_some() {
                        info!(output = %self.name.id, "the output works again");
                    }
                    self.state.succeeded();
                    backoff.reset();
                }
                Attempt::Rejected { bytes, error } => {
                    let events = events_in(done_bytes, done_events, bytes);
                    account.discarded(DiscardReason::Rejected, events);
                    (done_bytes, done_events) = (done_bytes + bytes, done_events + events);
                    self.note_refusal(events, &error);
                    self.state.progressed();
                }
                Attempt::Failed {
                    bytes,
                    error,
                    retry_after,
                    answered,
                } => {
                    let events = events_in(done_bytes, done_events, bytes);
                    if events > 0 {
                        account.sent(events, bytes as u64);
                    }
                    (done_bytes, done_events) = (done_bytes + bytes, done_events + events);
                    let since = *failing_since.get_or_insert_with(|| {
                        warn!(output = %self.name.id, %error, "send failed, will try again");
                        Instant::now()
                    });
                    self.state.failed(error);
                    if answered && since.elapsed() > GIVE_UP_AFTER {
                        let lost = total_events - done_events;
                        warn!(output = %self.name.id, events = lost, "gave events up");
                        account.discarded(DiscardReason::GaveUp, lost);
                        return;
                    }
                    let delay = retry_after
                        .unwrap_or(Duration::ZERO)
                        .max(backoff.next_delay());
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        reason = &mut given_up => {
                            account.discarded(reason, total_events - done_events);
                            return;
                        }
                    }
                }
            }
        }
    }

    fn note_refusal(&mut self, events: u64, error: &str) {
        let due = self
            .last_refusal_log
            .is_none_or(|at| at.elapsed() > REFUSAL_LOG_INTERVAL);
        if due {
            self.last_refusal_log = Some(Instant::now());
            warn!(output = %self.name.id, events, error, "the receiver refused events for good");
        }
    }
}

/// Waits until what is queued must be given up, and says why.
async fn given_up(
    mut abort: watch::Receiver<bool>,
    mut abandoned: watch::Receiver<bool>,
) -> DiscardReason {
    // An error says that whoever could tell is gone, which is the end too.
    tokio::select! {
        _ = abort.wait_for(|abort| *abort) => DiscardReason::Shutdown,
        _ = abandoned.wait_for(|abandoned| *abandoned) => DiscardReason::Removed,
    }
}

/// Sees to it that an output that was taken out of the manifest does not keep its events, and their
/// memory, for ever: one that gets on may take [`RETIRED_LIMIT`] for what it has, any other
/// [`RETIRED_PATIENCE`]. At the end of the process the grace period rules instead.
pub(super) async fn retire(
    name: NamedOutput,
    queue: Arc<OutputQueue>,
    state: Arc<OutputState>,
    ending: Arc<AtomicBool>,
) {
    let closed = Instant::now();
    loop {
        tokio::time::sleep(RETIRED_LOOK_INTERVAL).await;
        if queue.is_done() || ending.load(Ordering::SeqCst) {
            return;
        }
        let age = closed.elapsed();
        if age > RETIRED_LIMIT || (age > RETIRED_PATIENCE && !state.gets_on()) {
            break;
        }
    }
    let events = name.account.queued();
    warn!(output = %name.id, events, "a removed output gave up what it could not send");
    let rest = queue.abandon();
    name.account
        .discarded(DiscardReason::Removed, rest.events());
    queue.done(rest);
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.running.send_modify(|running| *running -= 1);
    }
}

impl Sender {
    /// Makes one attempt at what follows the first `done` bytes of the group.
    async fn send(
        &mut self,
        group: &Group,
        done: usize,
        queue: &OutputQueue,
        state: &OutputState,
    ) -> Attempt {
        match self {
            Self::Console(console) => console.send(group, done, state),
            Self::Tcp(tcp) => tcp.send(group, done, state).await,
            Self::Http(http) => http.send(group, done, queue.batch_size()).await,
        }
    }
}
