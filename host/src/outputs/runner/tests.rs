//! Lanes and their supervisor, with senders that do as they are told; no process, no socket.

use std::{collections::VecDeque, sync::atomic::AtomicUsize};

use super::*;
use crate::{
    books::Books,
    memory::{BlockSize, MIN_BUDGET_BYTES, Memory},
    outputs::{Delivery, Origin, Room},
};

/// What a sender does with an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
    Send,
    Fail,
    Panic,
}

/// Does the deeds in order, and the last one for ever.
#[derive(Clone)]
pub(super) struct Scripted {
    deeds: Arc<Mutex<VecDeque<Deed>>>,
    sent: Arc<AtomicUsize>,
}

impl Scripted {
    fn new(deeds: &[Deed]) -> Self {
        Self {
            deeds: Arc::new(Mutex::new(deeds.iter().copied().collect())),
            sent: Arc::default(),
        }
    }

    fn sent(&self) -> usize {
        self.sent.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(super) fn send(&self, group: &Group, done: usize) -> Attempt {
        let deed = {
            let mut deeds = self.deeds.lock();
            match deeds.len() {
                1 => deeds[0],
                _ => deeds.pop_front().expect("a script has a deed"),
            }
        };
        let bytes = group.bytes() - done;
        match deed {
            Deed::Send => {
                let events = group.events_behind(done).count();
                self.sent
                    .fetch_add(events, std::sync::atomic::Ordering::SeqCst);
                Attempt::Sent { bytes }
            }
            Deed::Fail => Attempt::Failed {
                bytes: 0,
                error: "told to fail".to_owned(),
                cause: Cause::Unreachable,
                retry_after: None,
            },
            Deed::Panic => panic!("told to panic"),
        }
    }
}

struct Bench {
    registry: Arc<Registry>,
    books: Arc<Books>,
    memory: Arc<Memory>,
}

struct Output {
    desk: Arc<Desk>,
    release: oneshot::Sender<()>,
}

impl Bench {
    fn new() -> Self {
        Self {
            registry: Arc::default(),
            books: Arc::default(),
            memory: Memory::new(MIN_BUDGET_BYTES),
        }
    }

    fn start(&self, id: &str, sender: &Scripted) -> Output {
        self.registry.replace(id);
        let name = NamedOutput {
            id: id.to_owned(),
            kind: "scripted".to_owned(),
            account: self.books.open_output(),
        };
        let room = Arc::new(Room::default());
        let queue = Arc::new(OutputQueue::new(100, 1 << 40, room));
        let entry = self.registry.add(name, queue, None, false);
        let desk = Arc::new(Desk {
            entry,
            state: Arc::new(OutputState::new(false)),
            pace: Pace::new(1),
            filling: Filling::default(),
            give_up_after: Duration::from_secs(300),
            spooling: None,
            last_refusal_log: Mutex::new(None),
        });
        let (release, released) = oneshot::channel();
        let sender = sender.clone();
        let open = Open::InTask(Arc::new(move || Sender::Scripted(sender.clone())));
        let supervisor = supervise(
            Arc::clone(&desk),
            Arc::clone(&self.registry),
            open,
            1,
            released,
        );
        tokio::spawn(supervisor);
        Output { desk, release }
    }

    fn offer(&self, output: &Output, lines: &[u8]) {
        let size = BlockSize::fitting(lines.len()).expect("a block fits");
        let mut block = self.memory.try_acquire(size).expect("there is memory");
        block.buffer_mut()[..lines.len()].copy_from_slice(lines);
        block.set_filled(lines.len());
        let delivery = Arc::new(Delivery::new(block, Origin::UNKNOWN, Vec::new()));
        let entry = &output.desk.entry;
        let events = delivery.events();
        self.books
            .settle(|ledger| ledger.offered(&entry.name.account, events));
        assert!(entry.queue.push(&delivery, || {}), "there is room");
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn lane_that_panics_is_counted_shown_and_started_again() {
    let (bench, sender) = (Bench::new(), Scripted::new(&[Deed::Panic, Deed::Send]));
    let output = bench.start("o", &sender);
    bench.offer(&output, b"one\ntwo\n");
    let state = Arc::clone(&output.desk.state);
    eventually("it is seen", || state.is_failing()).await;
    assert_eq!(
        output.desk.entry.name.account.queued(),
        0,
        "both are given up"
    );
    bench.offer(&output, b"three\n");
    eventually("the next one is sent", || sender.sent() == 1).await;
    assert!(!state.is_failing(), "it works again");
    drop(output.release);
    bench.registry.ended().await;
}

#[tokio::test]
async fn backlog_goes_to_the_newest_output_with_the_id() {
    let bench = Bench::new();
    let [first, second, third] =
        [&[Deed::Fail], &[Deed::Fail], &[Deed::Send]].map(|deeds| Scripted::new(deeds));
    let one = bench.start("o", &first);
    for _ in 0..10 {
        bench.offer(&one, b"event\n");
    }
    let two = bench.start("o", &second);
    bench.offer(&one, b"late\n");
    bench.offer(&two, b"event\n");
    let three = bench.start("o", &third);
    let other = bench.start("other", &third);
    for output in [one, two, other] {
        drop(output.release);
    }
    eventually("all arrive", || third.sent() == 12).await;
    drop(three.release);
    bench.registry.ended().await;
    assert_eq!(bench.books.queued(), 0);
}

#[tokio::test]
async fn what_is_left_at_the_end_is_told_with_the_id() {
    let (bench, sender) = (Bench::new(), Scripted::new(&[Deed::Fail]));
    let output = bench.start("o", &sender);
    bench.offer(&output, b"one\ntwo\n");
    bench.registry.begin_end();
    drop(output.release);
    eventually("it is tried", || output.desk.state.is_failing()).await;
    bench.registry.abort();
    bench.registry.ended().await;
    assert_eq!(bench.registry.left_behind(), [("o".to_owned(), 2)]);
    assert_eq!(bench.books.queued(), 0);
}
