//! What all outputs have in common: take what waits, send it, try again, book it.
//!
//! An output has one lane, or several where the order does not matter ([`max_in_flight`]); each takes
//! a group of events, and is done with all of them before it takes the next. When an attempt may be
//! made is decided for all lanes in one place, the [`Pace`].
//!
//! [`max_in_flight`]: super::settings::HttpSettings::max_in_flight

use std::{
    io,
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
    dead_letters::DeadLetters,
    exchange::Refused,
    file::FileLines,
    http::HttpRequests,
    pace::{Cause, Pace},
    queue::{Filling, Group, OutputQueue},
    spooling::{Place, Spooled, Spooling},
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

/// How often a lane looks whether its output has ended without working.
const END_LOOK_INTERVAL: Duration = Duration::from_millis(100);

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
    File(FileLines),
    Tcp(TcpLines),
    Http(Box<HttpRequests>),
    /// Stands in for an output that could not be made: its events are given up and counted.
    Broken(String),
}

/// What an output keeps on disk.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) spooling: Option<Arc<Spooling>>,
    pub(super) dead_letters: Option<Arc<DeadLetters>>,
}

/// What the lanes of an output share.
struct Desk {
    name: NamedOutput,
    queue: Arc<OutputQueue>,
    state: Arc<OutputState>,
    pace: Pace,
    filling: Filling,
    give_up_after: Duration,
    files: Files,
    abort: watch::Receiver<bool>,
    running: watch::Sender<usize>,
    last_refusal_log: Mutex<Option<Instant>>,
}

/// Events for a lane, and where they came from.
enum Taken {
    Queued(Group),
    Spooled(Spooled),
}

/// Takes groups and sends them, one after the other.
struct Lane {
    desk: Arc<Desk>,
    sender: Sender,
}

/// What a lane had in hand is in the spool still, and nothing of it was acknowledged.
struct LeftInSpool;

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
) -> Files {
    launcher.running.send_modify(|running| *running += 1);
    let (lanes, filling) = match &settings.target {
        Target::Console | Target::File(_) | Target::Tcp(_) => (1, Filling::default()),
        Target::Http(http) => (
            http.max_in_flight,
            Filling {
                bytes: http.batching.max_bytes,
                linger: http.batching.linger,
            },
        ),
    };
    let files = open_files(launcher, settings, filling, name, (queue, state));
    let kept = Files {
        spooling: files.spooling.clone(),
        dead_letters: files.dead_letters.clone(),
    };
    let desk = Arc::new(Desk {
        name: name.clone(),
        files,
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
        Target::Console => run_in_thread(launcher, desk, "console", || {
            Console::open().map(Sender::Console)
        }),
        Target::File(settings) => {
            let (settings, id) = (settings.clone(), name.id.clone());
            run_in_thread(launcher, desk, "file", move || {
                FileLines::start(settings, id).map(Sender::File)
            });
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
    kept
}

/// Runs an output whose writing blocks in a thread of its own.
fn run_in_thread(
    launcher: &Launcher,
    desk: Arc<Desk>,
    name: &str,
    open: impl FnOnce() -> io::Result<Sender> + Send + 'static,
) {
    let runtime = launcher.runtime.clone();
    let run = move || {
        let sender = open().unwrap_or_else(|error| Sender::Broken(error.to_string()));
        runtime.block_on(Lane { desk, sender }.run());
    };
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        error!(%error, "cannot start a thread for a {name} output");
    }
}

/// Opens what an output keeps on disk. What cannot be opened is done without, and told of.
fn open_files(
    launcher: &Launcher,
    settings: &OutputSettings,
    filling: Filling,
    name: &NamedOutput,
    (queue, state): (&Arc<OutputQueue>, &Arc<OutputState>),
) -> Files {
    let delivery = &settings.delivery;
    let Some(folder) = &launcher.policy.folder else {
        return Files::default();
    };
    if delivery.spool.is_none() && delivery.dead_letters.is_none() {
        return Files::default();
    }
    let stop = launcher.take_over(&name.id);
    // `id` has only characters that a file's name may have, and `output-` keeps `..` out.
    let folder = folder.join(format!("output-{}", name.id));
    let dead_letters = delivery
        .dead_letters
        .map(|max_bytes| Arc::new(DeadLetters::new(&folder, max_bytes)));
    let spooling = delivery.spool.and_then(|spool| {
        let started = Spooling::start(
            Place {
                folder: folder.join("spool"),
                settings: spool.into(),
                filling,
            },
            name.clone(),
            (Arc::clone(queue), Arc::clone(state)),
            (stop, launcher.abort.clone()),
            Arc::clone(&launcher.ending),
            launcher.runtime.clone(),
        );
        let failed = |error| error!(output = %name.id, %error, "the output has no spool");
        started.map_err(failed).ok()
    });
    Files {
        spooling,
        dead_letters,
    }
}

impl Lane {
    async fn run(mut self) {
        let desk = Arc::clone(&self.desk);
        if let Sender::Broken(error) = &self.sender {
            error!(output = %desk.name.id, %error, "cannot open the output");
            desk.state.failed(error.clone());
        }
        while let Some(taken) = desk.take().await {
            let group = taken.group();
            let lost = self.deliver(&taken).await;
            match lost {
                Ok(0) if !group.is_awaited() || desk.letters_are_safe() => group.settle(),
                _ => group.lose(),
            }
            if lost.is_ok() {
                desk.done(taken);
            }
        }
        match &mut self.sender {
            Sender::Tcp(tcp) => tcp.finish().await,
            Sender::File(file) => file.finish(&desk.name.id),
            Sender::Console(_) | Sender::Http(_) | Sender::Broken(_) => {}
        }
    }

    /// Sends a group to its end, or gives events up; in order, and books each exactly once. Returns
    /// how many were discarded; an error says that what is left `stays` in the spool.
    async fn deliver(&mut self, taken: &Taken) -> Result<u64, LeftInSpool> {
        let desk = Arc::clone(&self.desk);
        let (group, stays) = (taken.group(), taken.stays());
        let account = &desk.name.account;
        let mut given_up = pin!(desk.given_up());
        let mut lost = 0;
        // Above what was taken from the queue lie events of a request that may be tried again alone.
        let mut works = vec![Work::new(Held::Given(group))];
        loop {
            let nothing_above = works.len() == 1;
            let Some(work) = works.last_mut() else {
                break;
            };
            if nothing_above {
                desk.advanced(taken, work.done_bytes);
            }
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
                    if stays {
                        return Err(LeftInSpool);
                    }
                    let left = works.iter().map(Work::events_left).sum();
                    account.discarded(reason, left);
                    return Ok(lost + left);
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
                    lost += desk.refuse(work.group.lines(from), events, &error);
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
                    let booked = (events, bytes);
                    let (gone, again) =
                        desk.book_partly(&work.group, from, booked, &rejected, &retry);
                    lost += gone;
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
                        lost += desk.give_up(work, &error);
                        self.sender.forget();
                    }
                }
            }
        }
        Ok(lost)
    }
}

impl Desk {
    /// Takes what is next; `None` at the end.
    async fn take(&self) -> Option<Taken> {
        match &self.files.spooling {
            None => self.queue.take(self.filling).await.map(Taken::Queued),
            Some(spooling) => spooling.take().await.map(Taken::Spooled),
        }
    }

    /// Says that events are sent, or given up and counted.
    fn done(&self, taken: Taken) {
        match (taken, &self.files.spooling) {
            (Taken::Queued(group), _) => self.queue.done(group),
            (Taken::Spooled(spooled), Some(spooling)) => spooling.done(spooled),
            (Taken::Spooled(_), None) => {}
        }
    }

    /// Says that the first `bytes` of a group are sent, or given up and counted.
    fn advanced(&self, taken: &Taken, bytes: usize) {
        if let (Taken::Spooled(spooled), Some(spooling)) = (taken, &self.files.spooling) {
            spooling.advanced(spooled, bytes);
        }
    }

    /// Waits until what a lane has in hand must be given up, and says why.
    async fn given_up(&self) -> DiscardReason {
        let mut abort = self.abort.clone();
        let mut abandoned = self.queue.abandoned();
        // An error says that whoever could tell is gone, which is the end too.
        tokio::select! {
            _ = abort.wait_for(|abort| *abort) => DiscardReason::Shutdown,
            _ = abandoned.wait_for(|abandoned| *abandoned) => DiscardReason::Removed,
            () = self.no_longer_spooled() => DiscardReason::Removed,
        }
    }

    /// Waits until an output with a spool is to let go of it, or ends while it does not work.
    async fn no_longer_spooled(&self) {
        let Some(spooling) = &self.files.spooling else {
            return std::future::pending().await;
        };
        let mut stopped = spooling.stopped();
        let ends = async {
            while !(spooling.is_filled() && self.state.is_failing()) {
                tokio::time::sleep(END_LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = ends => {}
        }
    }

    /// Keeps events that will never be taken with the dead letters, or counts them as discarded and
    /// returns how many were.
    fn refuse<'a>(&self, events: impl Iterator<Item = &'a [u8]>, count: u64, error: &str) -> u64 {
        let mut last = self.last_refusal_log.lock();
        if last.is_none_or(|at| at.elapsed() > REFUSAL_LOG_INTERVAL) {
            *last = Some(Instant::now());
            warn!(output = %self.name.id, events = count, error, "the receiver refused events for good");
        }
        drop(last);
        self.bury(events, count, error, DiscardReason::Rejected)
    }

    /// Forces dead letters to the disk, for a sender that waits.
    fn letters_are_safe(&self) -> bool {
        let Some(letters) = &self.files.dead_letters else {
            return true;
        };
        let synced = tokio::task::block_in_place(|| letters.sync());
        if let Err(error) = &synced {
            warn!(output = %self.name.id, error, "cannot force dead letters to the disk");
        }
        synced.is_ok()
    }

    fn bury<'a>(
        &self,
        events: impl Iterator<Item = &'a [u8]>,
        count: u64,
        error: &str,
        otherwise: DiscardReason,
    ) -> u64 {
        let account = &self.name.account;
        let Some(letters) = &self.files.dead_letters else {
            account.discarded(otherwise, count);
            return count;
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let bury = || {
            let (mut kept, mut lost) = (0, 0);
            for event in events.take(count) {
                match letters.keep(event, error) {
                    Ok(_) => kept += 1,
                    Err(_) => lost += 1,
                }
            }
            account.dead_lettered(kept);
            account.discarded(otherwise, lost);
            lost
        };
        // It writes to the disk, which may take its time.
        tokio::task::block_in_place(bury)
    }

    /// Books a request of which only some events were taken. Returns how many were discarded, and
    /// those that may be tried again.
    fn book_partly(
        &self,
        group: &Group,
        from: usize,
        (events, bytes): (u64, usize),
        rejected: &[Refused],
        retry: &[usize],
    ) -> (u64, Option<Group>) {
        let mut rejected = rejected.iter().peekable();
        let mut retry = retry.iter().peekable();
        let (mut again, mut sent, mut sent_bytes) = (Vec::new(), events, bytes as u64);
        let mut lost = 0;
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
                Some(refused) => lost += self.refuse([line].into_iter(), 1, &refused.reason),
                None => {
                    again.extend_from_slice(line);
                    again.push(b'\n');
                }
            }
        }
        self.name.account.sent(sent, sent_bytes);
        let again = (!again.is_empty()).then(|| Group::of_lines(again, group.origin()));
        (lost, again)
    }

    /// Gives up what a receiver kept failing on.
    fn give_up(&self, work: &mut Work<'_>, error: &str) -> u64 {
        let events = work.events_left();
        warn!(output = %self.name.id, events, error, "gave events up");
        let left = work.group.lines(work.done_bytes);
        let lost = self.bury(left, events, error, DiscardReason::GaveUp);
        work.advance(work.group.bytes() - work.done_bytes);
        lost
    }
}

impl Taken {
    fn group(&self) -> &Group {
        match self {
            Self::Queued(group) => group,
            Self::Spooled(spooled) => &spooled.group,
        }
    }

    /// Whether its events stay on the disk if a lane lets go of them.
    fn stays(&self) -> bool {
        matches!(self, Self::Spooled(spooled) if Spooling::keeps(spooled))
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
        let events = self.group.events_in(self.done_bytes, bytes);
        self.done_bytes += bytes;
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
            Self::File(file) => file.send(group, done, &desk.state),
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
