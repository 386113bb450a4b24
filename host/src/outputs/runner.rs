//! What all outputs have in common: take what waits, send it, try again, book it.
//!
//! An output has one lane, or several where the order does not matter ([`max_in_flight`]); each takes
//! a group of events, and is done with all of them before it takes the next. When an attempt may be
//! made is decided for all lanes in one place, the [`Pace`].
//!
//! [`max_in_flight`]: super::settings::HttpSettings::max_in_flight

use std::{
    ops::Deref,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{error, warn};

use super::{
    Launcher, OutputSettings, OutputState, Target,
    console::Console,
    exchange::Refused,
    http::HttpRequests,
    pace::{Cause, Pace},
    queue::{Filling, Group, OutputQueue},
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
    /// Of these bytes, whole events, some will never be taken and some may be tried again, by their
    /// index among the events of the attempt, ascending; all others were taken.
    Partly {
        bytes: usize,
        rejected: Vec<Refused>,
        retry: Vec<usize>,
    },
    /// These bytes, whole events, will never be taken.
    Rejected { bytes: usize, error: String },
    /// These bytes, whole events, were taken before it failed; the rest can be tried again.
    Failed {
        bytes: usize,
        error: String,
        cause: Cause,
        /// How long the receiver asked to be left alone.
        retry_after: Option<Duration>,
    },
}

enum Sender {
    Console(Console),
    Tcp(TcpLines),
    Http(Box<HttpRequests>),
    /// Stands in for an output that could not be made: its events are given up and counted.
    Broken(String),
}

/// What the lanes of an output share.
struct Desk {
    name: NamedOutput,
    queue: Arc<OutputQueue>,
    state: Arc<OutputState>,
    pace: Pace,
    filling: Filling,
    give_up_after: Duration,
    abort: watch::Receiver<bool>,
    running: watch::Sender<usize>,
    last_refusal_log: Mutex<Option<Instant>>,
}

/// Takes groups and sends them, one after the other.
struct Lane {
    desk: Arc<Desk>,
    sender: Sender,
}

/// Events that a lane has in hand, in order.
struct Work<'a> {
    group: Held<'a>,
    done_bytes: usize,
    done_events: u64,
    failing_since: Option<Instant>,
}

enum Held<'a> {
    Given(&'a Group),
    Own(Group),
}

/// Starts the output's lanes, or its thread where writing can block.
pub(super) fn spawn(
    launcher: &Launcher,
    settings: &OutputSettings,
    name: &NamedOutput,
    queue: &Arc<OutputQueue>,
    state: &Arc<OutputState>,
) {
    launcher.running.send_modify(|running| *running += 1);
    let (lanes, filling) = match &settings.target {
        Target::Console | Target::Tcp(_) => (1, Filling::default()),
        Target::Http(http) => (
            http.max_in_flight,
            Filling {
                bytes: http.batching.max_bytes,
                linger: http.batching.linger,
            },
        ),
    };
    let desk = Arc::new(Desk {
        name: name.clone(),
        queue: Arc::clone(queue),
        state: Arc::clone(state),
        pace: Pace::new(lanes),
        filling,
        give_up_after: settings.delivery.give_up_after,
        abort: launcher.abort.clone(),
        running: launcher.running.clone(),
        last_refusal_log: Mutex::new(None),
    });
    match &settings.target {
        Target::Console => {
            let runtime = launcher.runtime.clone();
            let run = move || {
                let sender = Console::open().map(Sender::Console);
                let sender = sender.unwrap_or_else(|error| Sender::Broken(error.to_string()));
                runtime.block_on(Lane { desk, sender }.run());
            };
            if let Err(error) = thread::Builder::new().name("console".to_owned()).spawn(run) {
                error!(%error, "cannot start a thread for the console output");
            }
        }
        Target::Tcp(settings) => {
            let sender = TcpLines::new(settings.clone(), launcher.policy.clone());
            let sender = sender.map_or_else(Sender::Broken, Sender::Tcp);
            launcher.runtime.spawn(Lane { desk, sender }.run());
        }
        Target::Http(settings) => {
            let shared = Arc::new(settings.clone());
            let client = HttpRequests::client(settings, &launcher.policy);
            for _ in 0..lanes {
                let sender = match &client {
                    Ok(client) => {
                        let requests = HttpRequests::new(client.clone(), Arc::clone(&shared));
                        Sender::Http(Box::new(requests))
                    }
                    Err(error) => Sender::Broken(error.clone()),
                };
                let desk = Arc::clone(&desk);
                launcher.runtime.spawn(Lane { desk, sender }.run());
            }
        }
    }
}

impl Lane {
    async fn run(mut self) {
        let desk = Arc::clone(&self.desk);
        if let Sender::Broken(error) = &self.sender {
            error!(output = %desk.name.id, %error, "cannot open the output");
            desk.state.failed(error.clone());
        }
        while let Some(group) = desk.queue.take(desk.filling).await {
            self.deliver(&group).await;
            desk.queue.done(group);
        }
        if let Sender::Tcp(tcp) = &mut self.sender {
            tcp.finish().await;
        }
    }

    /// Sends a group to its end, or gives events up; in order, and books each exactly once.
    async fn deliver(&mut self, group: &Group) {
        let desk = Arc::clone(&self.desk);
        let account = &desk.name.account;
        let mut given_up = pin!(given_up(desk.abort.clone(), desk.queue.abandoned()));
        // Above what was taken from the queue lie events of a request that may be tried again alone.
        let mut works = vec![Work::new(Held::Given(group))];
        while let Some(work) = works.last_mut() {
            if work.is_done() {
                works.pop();
                continue;
            }
            let tried = async {
                let turn = desk.pace.turn().await;
                let attempt = self.sender.send(&work.group, work.done_bytes, &desk);
                (turn, attempt.await)
            };
            let (turn, attempt) = tokio::select! {
                biased;
                reason = &mut given_up => {
                    let left = works.iter().map(Work::events_left).sum();
                    account.discarded(reason, left);
                    return;
                }
                tried = tried => tried,
            };
            match attempt {
                Attempt::Sent { bytes } => {
                    let events = work.advance(bytes);
                    account.sent(events, bytes as u64);
                    turn.succeeded();
                    desk.state.works(&desk.name.id);
                    work.failing_since = None;
                }
                Attempt::Rejected { bytes, error } => {
                    let from = work.done_bytes;
                    let events = work.advance(bytes);
                    desk.refuse(work.group.lines(from), events, &error);
                    turn.succeeded();
                    desk.state.progressed();
                }
                Attempt::Partly {
                    bytes,
                    rejected,
                    retry,
                } => {
                    let from = work.done_bytes;
                    let events = work.advance(bytes);
                    let again =
                        desk.book_partly(&work.group, from, (events, bytes), &rejected, &retry);
                    match again {
                        None => {
                            turn.succeeded();
                            desk.state.works(&desk.name.id);
                        }
                        Some(again) => {
                            turn.failed(Cause::Answered, None);
                            desk.state.progressed();
                            let since = work.failing_since.take();
                            let mut again = Work::new(Held::Own(again));
                            again.failing_since = since.or_else(|| Some(Instant::now()));
                            works.push(again);
                        }
                    }
                }
                Attempt::Failed {
                    bytes,
                    error,
                    cause,
                    retry_after,
                } => {
                    let events = work.advance(bytes);
                    if events > 0 {
                        account.sent(events, bytes as u64);
                    }
                    turn.failed(cause, retry_after);
                    desk.state.fails(&desk.name.id, &error, desk.pace.is_open());
                    let since = *work.failing_since.get_or_insert_with(Instant::now);
                    if cause == Cause::Answered && since.elapsed() > desk.give_up_after {
                        desk.give_up(work, &error);
                        self.sender.forget();
                    }
                }
            }
        }
    }
}

impl Desk {
    /// Books events that will never be taken.
    fn refuse<'a>(&self, events: impl Iterator<Item = &'a [u8]>, count: u64, error: &str) {
        let _ = events;
        self.name.account.discarded(DiscardReason::Rejected, count);
        let mut last = self.last_refusal_log.lock();
        if last.is_none_or(|at| at.elapsed() > REFUSAL_LOG_INTERVAL) {
            *last = Some(Instant::now());
            warn!(output = %self.name.id, events = count, error, "the receiver refused events for good");
        }
    }

    /// Books a request of which only some events were taken, and returns those that may be tried
    /// again.
    fn book_partly(
        &self,
        group: &Group,
        from: usize,
        (events, bytes): (u64, usize),
        rejected: &[Refused],
        retry: &[usize],
    ) -> Option<Group> {
        let mut rejected = rejected.iter().peekable();
        let mut retry = retry.iter().peekable();
        let (mut again, mut sent, mut sent_bytes) = (Vec::new(), events, bytes as u64);
        let count = usize::try_from(events).unwrap_or(usize::MAX);
        for (index, line) in group.lines(from).take(count).enumerate() {
            let refused = rejected.next_if(|refused| refused.index == index);
            let retried = retry.next_if(|retried| **retried == index).is_some();
            if refused.is_none() && !retried {
                continue;
            }
            sent -= 1;
            sent_bytes -= line.len() as u64 + 1;
            match refused {
                Some(refused) => self.refuse([line].into_iter(), 1, &refused.reason),
                None => {
                    again.extend_from_slice(line);
                    again.push(b'\n');
                }
            }
        }
        self.name.account.sent(sent, sent_bytes);
        (!again.is_empty()).then(|| Group::of_lines(again, group.origin()))
    }

    /// Gives up what a receiver kept failing on.
    fn give_up(&self, work: &mut Work<'_>, error: &str) {
        let events = work.events_left();
        warn!(output = %self.name.id, events, error, "gave events up");
        self.name.account.discarded(DiscardReason::GaveUp, events);
        work.advance(work.group.bytes() - work.done_bytes);
    }
}

impl<'a> Work<'a> {
    fn new(group: Held<'a>) -> Self {
        Self {
            group,
            done_bytes: 0,
            done_events: 0,
            failing_since: None,
        }
    }

    fn is_done(&self) -> bool {
        self.done_bytes == self.group.bytes()
    }

    fn events_left(&self) -> u64 {
        self.group.events() - self.done_events
    }

    /// Notes that the next `bytes` are done with, and returns how many events they are.
    fn advance(&mut self, bytes: usize) -> u64 {
        if bytes == 0 {
            return 0;
        }
        self.done_bytes += bytes;
        let events = self.group.events_within(self.done_bytes) - self.done_events;
        self.done_events += events;
        events
    }
}

impl Deref for Held<'_> {
    type Target = Group;

    fn deref(&self) -> &Group {
        match self {
            Self::Given(group) => group,
            Self::Own(group) => group,
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

impl Drop for Desk {
    fn drop(&mut self) {
        self.running.send_modify(|running| *running -= 1);
    }
}

impl Sender {
    /// Makes one attempt at what follows the first `done` bytes of the group.
    async fn send(&mut self, group: &Group, done: usize, desk: &Desk) -> Attempt {
        match self {
            Self::Console(console) => console.send(group, done, &desk.state),
            Self::Tcp(tcp) => tcp.send(group, done, &desk.state).await,
            Self::Http(http) => http.send(group, done, desk.queue.batch_size()).await,
            Self::Broken(error) => Attempt::Rejected {
                bytes: group.bytes() - done,
                error: error.clone(),
            },
        }
    }

    /// Forgets what the last attempt failed on.
    fn forget(&mut self) {
        if let Self::Http(http) = self {
            http.forget();
        }
    }
}
