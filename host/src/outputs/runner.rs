//! What all outputs have in common: take what waits, send it, try again, book it.
//!
//! An output has one lane, or several where the order does not matter ([`max_in_flight`]); each
//! takes a group of events, and is done with all of them before it takes the next. When an attempt
//! may be made is decided for all lanes in one place, the [`Pace`]. A supervisor starts the lanes,
//! starts them again if they panic, says how long an output that was removed may still send, and
//! has the last word on what is left ([`supervise`]); `lifecycle.rs` has the phases.
//!
//! [`max_in_flight`]: super::settings::HttpSettings::max_in_flight

use std::{
    io,
    ops::Deref,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::{JoinSet, block_in_place, spawn_blocking},
    time::sleep,
};
use tracing::{error, warn};

use super::{
    Launcher, OutputHandle, OutputSettings, OutputState, Registry, Target,
    console::Console,
    dead_letters::DeadLetters,
    exchange::Refused,
    file::FileLines,
    http::{Clients, HttpRequests},
    lifecycle::{Entry, Phase},
    pace::{Cause, Pace},
    queue::{Arrived, Filling, Group, Lines, OutputQueue},
    settings::SpoolSettings,
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

/// How often an output that ends is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// At the end of the process, for so long an output sends what is in its spool; the next process
/// sends the rest.
const SPOOL_END_LIMIT: Duration = Duration::from_secs(1);

/// An attempt that is under way when the output lets go of its events may take so long: what it
/// would have sent is not sent twice then.
const ATTEMPT_END_LIMIT: Duration = Duration::from_secs(2);

/// A lane that has not ended so long after that hangs in a write.
const HANGING_LIMIT: Duration = Duration::from_secs(1);

/// A lane that panicked is started again after this.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

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
    Tcp(Box<TcpLines>),
    Http(Box<HttpRequests>),
    /// Stands in for an output that could not be made: its events are given up and counted.
    Broken(String),
    #[cfg(test)]
    Scripted(tests::Scripted),
}

/// Makes the sender of a lane.
#[derive(Clone)]
enum Open {
    /// Of one that blocks: in a thread of this name.
    InThread(
        &'static str,
        Arc<dyn Fn() -> io::Result<Sender> + Send + Sync>,
    ),
    /// Of one that does not, once it is made.
    InTask(Arc<dyn Fn() -> Sender + Send + Sync>),
}

/// What the lanes of an output share.
struct Desk {
    entry: Arc<Entry>,
    state: Arc<OutputState>,
    pace: Pace,
    filling: Filling,
    give_up_after: Duration,
    spooling: Option<Arc<Spooling>>,
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

/// The output lets go of what a lane has in hand.
struct LetGo;

/// How a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// There is nothing more to send, or the output lets go of it.
    Well,
    /// It panicked, or could not be started.
    Badly,
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

/// Starts an output: its lanes, the threads of its spool, and who watches over them.
pub(super) fn spawn(
    launcher: &Launcher,
    settings: OutputSettings,
    name: NamedOutput,
    queue: Arc<OutputQueue>,
) -> Arc<OutputHandle> {
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
    let before = launcher.registry.replace(&name.id);
    let delivery = &settings.delivery;
    // `id` has only characters that a file's name may have, and `output-` keeps `..` out.
    let folder = launcher.policy.folder.as_ref();
    let folder = folder.map(|folder| folder.join(format!("output-{}", name.id)));
    let dead_letters = folder.as_ref().zip(delivery.dead_letters);
    let dead_letters = dead_letters.map(|(folder, max_bytes)| {
        let make = || DeadLetters::new(folder, max_bytes);
        let letters = launcher.registry.dead_letters(&name.id, max_bytes, make);
        // Reads all that an earlier process left.
        let counted = Arc::clone(&letters);
        launcher.runtime.spawn_blocking(move || counted.begin());
        letters
    });
    let place = folder.and_then(|folder| {
        let folder = folder.join("spool");
        let leftover = delivery.spool.is_none();
        let spool = delivery
            .spool
            .or_else(|| (before.spooled || folder.exists()).then(SpoolSettings::leftover))?;
        Some(Place {
            folder,
            settings: spool.into(),
            filling,
            leftover,
        })
    });
    let state = Arc::new(OutputState::new(delivery.spool.is_some()));
    let (registry, spooled) = (&launcher.registry, place.is_some());
    let entry = registry.add(name, queue, dead_letters, spooled);
    let id = &entry.name.id;
    let spooling = place.and_then(|place| {
        let (entry, state) = (Arc::clone(&entry), Arc::clone(&state));
        let started = Spooling::start(place, entry, state, launcher.runtime.clone());
        let failed = |error| error!(output = %id, %error, "the output has no spool");
        started.map_err(failed).ok()
    });
    let desk = Arc::new(Desk {
        entry: Arc::clone(&entry),
        state: Arc::clone(&state),
        pace: Pace::new(lanes),
        filling,
        give_up_after: delivery.give_up_after,
        spooling: spooling.clone(),
        last_refusal_log: Mutex::new(None),
    });
    let open = opener(&settings.target, launcher, id.clone());
    let (release, released) = oneshot::channel();
    let registry = Arc::clone(&launcher.registry);
    launcher
        .runtime
        .spawn(supervise(desk, registry, open, lanes, released));
    Arc::new(OutputHandle {
        settings,
        state,
        entry,
        spooling,
        _released: release,
    })
}

fn opener(target: &Target, launcher: &Launcher, id: String) -> Open {
    match target.clone() {
        Target::Console => {
            Open::InThread("console", Arc::new(|| Console::open().map(Sender::Console)))
        }
        Target::File(settings) => {
            let open = move || FileLines::start(settings.clone(), id.clone()).map(Sender::File);
            Open::InThread("file", Arc::new(open))
        }
        Target::Tcp(settings) => {
            let policy = launcher.policy.clone();
            Open::InTask(Arc::new(move || {
                let sender = TcpLines::new(settings.clone(), policy.clone());
                sender.map_or_else(Sender::Broken, |sender| Sender::Tcp(Box::new(sender)))
            }))
        }
        Target::Http(settings) => {
            // Made before the lanes are, which then begin at once.
            let clients = Clients::new(settings, &launcher.policy).map(Arc::new);
            Open::InTask(Arc::new(move || match &clients {
                Ok(clients) => Sender::Http(Box::new(HttpRequests::new(Arc::clone(clients)))),
                Err(error) => Sender::Broken(error.clone()),
            }))
        }
    }
}

/// Watches over an output from its start to its end:
///
/// 1. The lanes run. One that panics is started again.
/// 2. The handle is dropped: no worker hands events over any more. The queue is closed when outputs
///    that this one replaced have ended, since they may have something for it.
/// 3. The lanes end, since all is sent or the output lets go of it ([`see_out`] says when).
/// 4. What is left goes to the successor, stays on the disk, or is counted as given up.
async fn supervise(
    desk: Arc<Desk>,
    registry: Arc<Registry>,
    open: Open,
    lanes: usize,
    released: oneshot::Receiver<()>,
) {
    let life = &desk.entry.life;
    let mut tasks = JoinSet::new();
    for _ in 0..lanes {
        start_lane(&mut tasks, &desk, &open);
    }
    {
        let mut seen_out = pin!(see_out(&desk, &registry, released));
        loop {
            tokio::select! {
                () = &mut seen_out => break,
                ended = tasks.join_next() => match ended {
                    // A panic outside of an attempt is an error here.
                    Some(Ok(Ended::Well)) => {}
                    Some(_) if life.phase().lets_go() => {}
                    Some(_) => {
                        desk.state.task_failed(&desk.entry.name.id, "lane");
                        tokio::select! {
                            () = sleep(RESTART_PAUSE) => {}
                            () = life.lets_go() => {}
                        }
                        start_lane(&mut tasks, &desk, &open);
                    }
                    None if desk.entry.queue.is_closed() => break,
                    // They have let go of what they had, and a worker may still have the handle.
                    None => tokio::select! {
                        () = &mut seen_out => break,
                        () = sleep(LOOK_INTERVAL) => {}
                    },
                },
            }
        }
    }
    tasks.abort_all();
    let account = &desk.entry.name.account;
    if let Some(spooling) = &desk.spooling {
        account.handed_on(spooling.close().await);
    }
    let reason = match life.phase() {
        Phase::Aborted(reason) => reason,
        _ if registry.is_ending() => DiscardReason::Shutdown,
        _ => DiscardReason::Removed,
    };
    let mut lost = 0;
    for group in registry.remove(&desk.entry) {
        lost += group.events();
        account.discarded(reason, group.events());
        group.lose();
        desk.entry.queue.done(group);
    }
    // What a lane has that hangs, or what a task let go of without a word.
    let unbooked = account.queued();
    account.discarded(reason, unbooked);
    if lost + unbooked > 0 {
        let events = lost + unbooked;
        warn!(output = %desk.entry.name.id, events, ?reason, "the output ended with events left");
    }
    registry.note_end(&desk.entry);
}

fn start_lane(tasks: &mut JoinSet<Ended>, desk: &Arc<Desk>, open: &Open) {
    let desk = Arc::clone(desk);
    let (name, open) = match open.clone() {
        Open::InTask(open) => {
            // It may read files.
            let opened = spawn_blocking(move || open());
            tasks.spawn(async move {
                match opened.await {
                    Ok(sender) => Lane::new(desk, sender).run().await,
                    Err(_) => Ended::Badly,
                }
            });
            return;
        }
        Open::InThread(name, open) => (name, open),
    };
    let (end, ended) = oneshot::channel();
    let (runtime, state) = (Handle::current(), Arc::clone(&desk.state));
    let run = move || {
        let sender = open().unwrap_or_else(|error| Sender::Broken(error.to_string()));
        let _ = end.send(runtime.block_on(Lane::new(desk, sender).run()));
    };
    // A thread that is not started or panics drops `end`.
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        error!(%error, "cannot start a thread for a {name} output");
        state.failed(&error.to_string());
    }
    tasks.spawn(async move { ended.await.unwrap_or(Ended::Badly) });
}

/// Closes the queue when nothing more can come, and decides how long the output may take for what
/// it has: one that was removed and makes progress [`RETIRED_LIMIT`], any other
/// [`RETIRED_PATIENCE`]; at the end of the process the grace period rules, but what is in a spool
/// stays there after [`SPOOL_END_LIMIT`], or at once if the receiver fails. Returns when its lanes
/// need not be waited for any longer.
async fn see_out(desk: &Desk, registry: &Registry, released: oneshot::Receiver<()>) {
    let Entry { life, queue, .. } = &*desk.entry;
    let _ = released.await;
    tokio::select! {
        () = registry.succeeded_all(&desk.entry) => {}
        () = life.lets_go() => {}
    }
    queue.close();
    let spooling = desk.spooling.as_deref().filter(|own| !own.is_leftover());
    let closed = Instant::now();
    let mut filled = None;
    loop {
        let in_spool = spooling.is_some_and(|own| own.is_filled() && own.is_open());
        if in_spool && filled.is_none() {
            filled = Some(Instant::now());
        }
        match life.phase() {
            Phase::HandingOver | Phase::Aborted(_) => break,
            Phase::Draining => {
                let late = filled.is_some_and(|at| at.elapsed() > SPOOL_END_LIMIT);
                if in_spool && (late || desk.state.is_failing()) {
                    life.advance(Phase::HandingOver);
                }
            }
            Phase::Running | Phase::Retired => {
                let age = closed.elapsed();
                if age > RETIRED_LIMIT || (age > RETIRED_PATIENCE && !desk.state.gets_on()) {
                    let spooled = desk.spooling.is_some();
                    let removed = Phase::Aborted(DiscardReason::Removed);
                    life.advance(if spooled { Phase::HandingOver } else { removed });
                }
            }
        }
        tokio::select! {
            () = life.lets_go() => {}
            () = sleep(LOOK_INTERVAL) => {}
        }
    }
    let aborted = |phase: &Phase| matches!(phase, Phase::Aborted(_));
    tokio::select! {
        () = life.reached(aborted) => {}
        // What a lane has in hand from the disk stays there, whether it hangs or not.
        () = sleep(ATTEMPT_END_LIMIT + HANGING_LIMIT), if desk.spooling.is_some() => return,
    }
    sleep(HANGING_LIMIT).await;
}

impl Lane {
    fn new(desk: Arc<Desk>, sender: Sender) -> Self {
        Self { desk, sender }
    }

    async fn run(mut self) -> Ended {
        let desk = Arc::clone(&self.desk);
        if let Sender::Broken(error) = &self.sender {
            error!(output = %desk.entry.name.id, %error, "cannot open the output");
            desk.state.failed(error);
        }
        while let Some(taken) = desk.take().await {
            let group = taken.group();
            // Above what was taken from the queue lie events of a request that may be tried again
            // alone.
            let mut works = vec![Work::new(Held::Given(group))];
            let delivered = AssertUnwindSafe(self.deliver(&taken, &mut works));
            match delivered.catch_unwind().await {
                Ok(Ok(0)) if !group.is_awaited() || desk.letters_are_safe() => group.settle(),
                Ok(Ok(_)) => group.lose(),
                Ok(Err(LetGo)) if taken.stays() => return Ended::Well,
                Ok(Err(LetGo)) => {
                    let rest = Work::rest_of(&works);
                    drop(works);
                    desk.give_back(taken, rest);
                    return Ended::Well;
                }
                Err(_) => {
                    let left = works.iter().map(Work::events_left).sum();
                    let account = &desk.entry.name.account;
                    account.discarded(DiscardReason::Internal, left);
                    group.lose();
                    drop(works);
                    desk.done(taken);
                    // The sender may be half-way through something.
                    return Ended::Badly;
                }
            }
            drop(works);
            desk.done(taken);
        }
        match &mut self.sender {
            Sender::Tcp(tcp) => tcp.finish().await,
            Sender::File(file) => file.finish(&desk.entry.name.id),
            _ => {}
        }
        Ended::Well
    }

    /// Sends a group to its end, or gives events up; in order, and books each exactly once. Returns
    /// how many were discarded; an error leaves in `works` what is left.
    async fn deliver(&mut self, taken: &Taken, works: &mut Vec<Work<'_>>) -> Result<u64, LetGo> {
        let desk = Arc::clone(&self.desk);
        let account = &desk.entry.name.account;
        let mut out_of_time = pin!(desk.out_of_time());
        let mut lost = 0;
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
            let turn = tokio::select! {
                biased;
                () = desk.entry.life.lets_go() => return Err(LetGo),
                turn = desk.pace.turn() => turn,
            };
            let attempt = tokio::select! {
                biased;
                () = &mut out_of_time => return Err(LetGo),
                attempt = self.sender.send(&work.group, work.done_bytes, &desk) => attempt,
            };
            match attempt {
                Attempt::Sent { bytes } => {
                    let events = work.advance(bytes);
                    account.sent(events, bytes as u64);
                    turn.succeeded();
                    desk.state.works(&desk.entry.name.id);
                    work.failing_since = None;
                }
                Attempt::Rejected { bytes, error } => {
                    let from = work.done_bytes;
                    let events = work.group.events_in(from, bytes);
                    lost += desk.refuse(work.group.events_behind(from), events, &error);
                    work.advance(bytes);
                    turn.succeeded();
                    desk.state.refuses(&error);
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
                            desk.state.works(&desk.entry.name.id);
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
                    desk.state
                        .fails(&desk.entry.name.id, &error, desk.pace.is_open());
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
    /// Takes what is next; `None` at the end, or if the output lets go of it.
    async fn take(&self) -> Option<Taken> {
        let next = async {
            if let Some(spooling) = &self.spooling {
                if let Some(spooled) = spooling.take().await {
                    return Some(Taken::Spooled(spooled));
                }
                if !spooling.is_leftover() {
                    return None;
                }
            }
            self.entry.queue.take(self.filling).await.map(Taken::Queued)
        };
        tokio::select! {
            biased;
            () = self.entry.life.lets_go() => None,
            next = next => next,
        }
    }

    /// Says that events are sent, or given up and counted.
    fn done(&self, taken: Taken) {
        match (taken, &self.spooling) {
            (Taken::Queued(group), _) => self.entry.queue.done(group),
            (Taken::Spooled(spooled), Some(spooling)) => spooling.done(spooled),
            (Taken::Spooled(_), None) => {}
        }
    }

    /// Puts what a lane had in memory into the queue again, of which the first part may be done;
    /// `rest` has the other then.
    fn give_back(&self, taken: Taken, rest: Option<Group>) {
        let queue = &self.entry.queue;
        let group = match taken {
            Taken::Queued(group) => group,
            Taken::Spooled(spooled) => spooled.group,
        };
        match rest {
            None => queue.give_back(group),
            Some(rest) => {
                group.lose();
                queue.done(group);
                queue.give_back(rest);
            }
        }
    }

    /// Says that the first `bytes` of a group are sent, or given up and counted.
    fn advanced(&self, taken: &Taken, bytes: usize) {
        if let (Taken::Spooled(spooled), Some(spooling)) = (taken, &self.spooling) {
            spooling.advanced(spooled, bytes);
        }
    }

    /// Waits until an attempt that is under way must end.
    async fn out_of_time(&self) {
        let life = &self.entry.life;
        life.lets_go().await;
        tokio::select! {
            () = life.reached(|phase| matches!(phase, Phase::Aborted(_))) => {}
            () = sleep(ATTEMPT_END_LIMIT) => {}
        }
    }

    /// Keeps events that will never be taken with the dead letters, or counts them as discarded and
    /// returns how many were.
    fn refuse<'a>(
        &self,
        events: impl Iterator<Item = Arrived<'a>>,
        count: u64,
        error: &str,
    ) -> u64 {
        let mut last = self.last_refusal_log.lock();
        if last.is_none_or(|at| at.elapsed() > REFUSAL_LOG_INTERVAL) {
            *last = Some(Instant::now());
            let output = &self.entry.name.id;
            warn!(%output, events = count, error, "the receiver refused events for good");
        }
        drop(last);
        self.bury(events, count, error, DiscardReason::Rejected)
    }

    /// Forces dead letters to the disk, for a sender that waits.
    fn letters_are_safe(&self) -> bool {
        let Some(letters) = &self.entry.dead_letters else {
            return true;
        };
        let synced = block_in_place(|| letters.sync());
        if let Err(error) = &synced {
            warn!(output = %self.entry.name.id, error, "cannot force dead letters to the disk");
        }
        synced.is_ok()
    }

    fn bury<'a>(
        &self,
        events: impl Iterator<Item = Arrived<'a>>,
        count: u64,
        error: &str,
        otherwise: DiscardReason,
    ) -> u64 {
        let account = &self.entry.name.account;
        let Some(letters) = &self.entry.dead_letters else {
            account.discarded(otherwise, count);
            return count;
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let bury = || {
            let (mut kept, mut lost, mut dropped) = (0, 0, 0);
            for event in events.take(count) {
                match letters.keep(event.text(), error) {
                    Ok(older) => {
                        kept += 1;
                        dropped += older.events;
                    }
                    Err(_) => lost += 1,
                }
            }
            account.dead_lettered(kept);
            account.dead_letters_dropped(dropped);
            account.discarded(otherwise, lost);
            lost
        };
        // It writes to the disk, which may take its time.
        block_in_place(bury)
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
        let (mut again, mut sent, mut sent_bytes) = (Lines::default(), events, bytes as u64);
        let mut lost = 0;
        let count = usize::try_from(events).unwrap_or(usize::MAX);
        for (index, event) in group.events_behind(from).take(count).enumerate() {
            let refused = rejected.next_if(|refused| refused.index == index);
            let retried = retry.next_if(|retried| **retried == index).is_some();
            if refused.is_none() && !retried {
                continue;
            }
            sent -= 1;
            sent_bytes -= event.line.len() as u64 + 1;
            match refused {
                Some(refused) => lost += self.refuse([event].into_iter(), 1, &refused.reason),
                None => again.push_line(event.line, event.at),
            }
        }
        self.entry.name.account.sent(sent, sent_bytes);
        let again = (!again.is_empty()).then(|| Group::of_lines(again, group.origin()));
        (lost, again)
    }

    /// Gives up what a receiver kept failing on.
    fn give_up(&self, work: &mut Work<'_>, error: &str) -> u64 {
        let events = work.events_left();
        warn!(output = %self.entry.name.id, events, error, "gave events up");
        let left = work.group.events_behind(work.done_bytes);
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

    /// Copies what is left of them, in order; `None` if they are as they were taken.
    fn rest_of(works: &[Self]) -> Option<Group> {
        let [.., work] = works else { return None };
        if works.len() == 1 && work.done_bytes == 0 {
            return None;
        }
        let mut lines = Lines::default();
        for work in works.iter().rev() {
            work.group.copy_rest(work.done_bytes, &mut lines);
        }
        Some(Group::of_lines(lines, work.group.origin()))
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

impl Sender {
    /// Makes one attempt at what follows the first `done` bytes of the group.
    async fn send(&mut self, group: &Group, done: usize, desk: &Desk) -> Attempt {
        match self {
            Self::Console(console) => console.send(group, done, &desk.state),
            Self::File(file) => file.send(group, done, &desk.state),
            Self::Tcp(tcp) => tcp.send(group, done, &desk.state).await,
            Self::Http(http) => http.send(group, done, desk.entry.queue.batch_size()).await,
            Self::Broken(error) => Attempt::Rejected {
                bytes: group.bytes() - done,
                error: error.clone(),
            },
            #[cfg(test)]
            Self::Scripted(scripted) => scripted.send(group, done),
        }
    }

    /// Forgets what the last attempt failed on.
    fn forget(&mut self) {
        if let Self::Http(http) = self {
            http.forget();
        }
    }
}

#[cfg(test)]
mod tests;
