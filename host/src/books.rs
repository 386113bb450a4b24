//! The books: every event is delivered, or counted with the reason why not.
//!
//! One [`Ledger`] behind one lock, taken once a batch (never once an event) by whoever moves events
//! on: ingest, a worker, an output. So [`Books::stats`] is a consistent snapshot in which, always,
//!
//! ```text
//! received  = in_flight + delivered_to_chain_end + filtered + sampled + deduplicated + throttled
//!           + rule_dropped + shed
//! an output's offered + recovered + redriven = sent + dead_lettered + discarded (by reason) + queued
//! ```
//!
//! `in_flight` and `queued` are booked as events come and go, not computed from the rest, so that
//! the equations can fail and tests can assert them. An output's `offered` is the pipeline's
//! `delivered_to_chain_end` since that output was made, `recovered` what it found in its spool then
//! or took over from the output that it replaced, and `redriven` what was taken out of its dead
//! letters.
//!
//! Accounts of rules and outputs live as long as something refers to them ([`RuleAccount`],
//! [`OutputAccount`]); what was booked for a rule that is gone stays in the pipeline's totals.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use serde::Serialize;
use streamgate_guest::Tally;
use streamgate_processors::{DropAccount, Notes};
use utoipa::ToSchema;

use crate::{
    manifest::DEFAULT_PIPELINE,
    wasm::{Failures, Reason},
};

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingest {
    /// Lines over TCP.
    Tcp,
    /// Datagrams.
    Udp,
    /// `POST /ingest`.
    Http,
}

/// Why an event that arrived was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// A datagram came when the memory budget was spent; nothing can push a sender of UDP back.
    NoMemory,
}

/// Why an output gave an event up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardReason {
    /// The output's queue was full: it is slower than its input, or does not answer at all.
    QueueFull,
    /// The receiver refused it in a way that a retry cannot mend.
    Rejected,
    /// The receiver kept failing on it for longer than the output retries.
    GaveUp,
    /// The process ended before it could be sent.
    Shutdown,
    /// The output was taken out of the manifest, and could not send what it had left.
    Removed,
    /// The output's spool was full, and this gave way.
    SpoolFull,
    /// The output's spool was damaged.
    SpoolDamaged,
    /// A task of the output panicked while it had it in hand, or let go of it unbooked.
    Internal,
}

const DISCARD_REASONS: [(DiscardReason, &str); 8] = [
    (DiscardReason::QueueFull, "queue_full"),
    (DiscardReason::Rejected, "rejected"),
    (DiscardReason::GaveUp, "gave_up"),
    (DiscardReason::Shutdown, "shutdown"),
    (DiscardReason::Removed, "removed"),
    (DiscardReason::SpoolFull, "spool_full"),
    (DiscardReason::SpoolDamaged, "spool_damaged"),
    (DiscardReason::Internal, "internal"),
];

/// The accounts of the whole process. Cheap to share.
#[derive(Debug, Default)]
pub struct Books {
    ledger: Mutex<Ledger>,
}

/// All accounts, as they stand between two bookings.
#[derive(Debug, Default)]
pub struct Ledger {
    ingest: [IngestAccount; 3],
    in_flight: u64,
    delivered: u64,
    delivered_bytes: u64,
    filtered: u64,
    sampled: u64,
    deduplicated: u64,
    throttled: u64,
    rule_dropped: u64,
    rules: Slots<RuleFigures>,
    outputs: Slots<OutputFigures>,
    /// What outputs that were removed gave up, those that are gone included.
    removed_discarded: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct IngestAccount {
    received: u64,
    received_bytes: u64,
    shed_no_memory: u64,
    truncated: u64,
    refused_requests: u64,
    kernel_dropped: u64,
    evicted: u64,
    closed_connections: u64,
    refused_connections: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct RuleFigures {
    seen: u64,
    dropped: u64,
    changed: u64,
    failed: u64,
    failed_dropped: u64,
    bypassed: u64,
    bypassed_by_breaker: u64,
    unstructured: u64,
    no_fields: u64,
    failures: Failures,
}

#[derive(Debug, Default, Clone, Copy)]
struct OutputFigures {
    offered: u64,
    recovered: u64,
    redriven: u64,
    queued: u64,
    sent: u64,
    sent_bytes: u64,
    dead_lettered: u64,
    dead_letters_dropped: u64,
    discarded: [u64; DISCARD_REASONS.len()],
}

impl OutputFigures {
    /// Takes events off those that are queued; returns how many were. An attempt that hung when its
    /// output was given up may end well later, when its events are booked already: each is booked
    /// once.
    fn take_queued(&mut self, events: u64) -> u64 {
        let events = events.min(self.queued);
        self.queued -= events;
        events
    }
}

/// A rule's account; closed when the last holder is gone.
#[derive(Debug)]
pub struct RuleAccount {
    books: Arc<Books>,
    slot: usize,
}

/// An output's account; closed when the last holder is gone.
#[derive(Debug)]
pub struct OutputAccount {
    books: Arc<Books>,
    slot: usize,
}

impl Books {
    /// Books events that came in and are on their way to the workers.
    pub fn received(&self, ingest: Ingest, events: usize, bytes: usize) {
        let mut ledger = self.ledger.lock();
        let account = &mut ledger.ingest[ingest as usize];
        account.received += events as u64;
        account.received_bytes += bytes as u64;
        ledger.in_flight += events as u64;
    }

    /// Books events that came in and could not be taken.
    pub fn shed(&self, ingest: Ingest, reason: ShedReason, events: usize, bytes: usize) {
        let account = &mut self.ledger.lock().ingest[ingest as usize];
        account.received += events as u64;
        account.received_bytes += bytes as u64;
        match reason {
            ShedReason::NoMemory => account.shed_no_memory += events as u64,
        }
    }

    /// Books events that were cut because they, or their datagram, were too long.
    pub fn truncated(&self, ingest: Ingest, events: u64) {
        if events > 0 {
            self.ledger.lock().ingest[ingest as usize].truncated += events;
        }
    }

    /// Books a request that was refused whole; its events are the sender's still.
    pub fn refused(&self, ingest: Ingest) {
        self.ledger.lock().ingest[ingest as usize].refused_requests += 1;
    }

    /// Books datagrams that the kernel dropped, since nobody read them in time.
    pub fn dropped_by_kernel(&self, ingest: Ingest, datagrams: u32) {
        let mut ledger = self.ledger.lock();
        ledger.ingest[ingest as usize].kernel_dropped += u64::from(datagrams);
    }

    /// Books half a line or a body that did not go on and was given up, as its room was needed.
    pub fn evicted(&self, ingest: Ingest) {
        self.ledger.lock().ingest[ingest as usize].evicted += 1;
    }

    /// Books a connection that was closed as its place was needed.
    pub fn closed_connection(&self, ingest: Ingest) {
        self.ledger.lock().ingest[ingest as usize].closed_connections += 1;
    }

    /// Books a connection that there was no place for.
    pub fn refused_connection(&self, ingest: Ingest) {
        self.ledger.lock().ingest[ingest as usize].refused_connections += 1;
    }

    /// Books several things at once, so that no snapshot sees some of them only.
    pub fn settle(&self, book: impl FnOnce(&mut Ledger)) {
        book(&mut self.ledger.lock());
    }

    /// Opens an account for a rule.
    pub fn open_rule(self: &Arc<Self>) -> Arc<RuleAccount> {
        let slot = self.ledger.lock().rules.open();
        Arc::new(RuleAccount {
            books: Arc::clone(self),
            slot,
        })
    }

    /// Opens an account for an output.
    pub fn open_output(self: &Arc<Self>) -> Arc<OutputAccount> {
        let slot = self.ledger.lock().outputs.open();
        Arc::new(OutputAccount {
            books: Arc::clone(self),
            slot,
        })
    }

    /// Returns how many events are queued in all outputs, those of earlier revisions too.
    pub fn queued(&self) -> u64 {
        self.ledger.lock().queued()
    }

    /// Takes a snapshot. `rules` and `outputs` are those of the revision that is shown.
    pub fn stats(&self, revision: u64, rules: &[NamedRule], outputs: &[NamedOutput]) -> Stats {
        let ledger = self.ledger.lock();
        let sum = |field: fn(&IngestAccount) -> u64| ledger.ingest.iter().map(field).sum();
        let shed: u64 = sum(|account| account.shed_no_memory);
        let [tcp, udp, http] = ledger.ingest.map(|account| IngestStats {
            received: account.received,
            received_bytes: account.received_bytes,
            shed: account.shed_no_memory,
            truncated: account.truncated,
            refused_requests: account.refused_requests,
            kernel_dropped_datagrams: account.kernel_dropped,
            evicted: account.evicted,
            closed_connections: account.closed_connections,
            refused_connections: account.refused_connections,
        });
        let rules = rules
            .iter()
            .map(|rule| {
                let figures = ledger.rules.get(rule.account.slot);
                RuleStats {
                    id: rule.id.clone(),
                    kind: rule.kind.clone(),
                    seen: figures.seen,
                    dropped: figures.dropped,
                    changed: figures.changed,
                    bypassed: figures.bypassed,
                    bypassed_by_breaker: figures.bypassed_by_breaker,
                    failed: figures.failed,
                    failed_dropped: figures.failed_dropped,
                    unstructured: figures.unstructured,
                    no_fields: figures.no_fields,
                    failures: failures(&rule.kind, &figures.failures),
                }
            })
            .collect();
        let outputs: Vec<OutputStats> = outputs
            .iter()
            .map(|output| {
                let figures = ledger.outputs.get(output.account.slot);
                let discarded = DISCARD_REASONS
                    .iter()
                    .map(|(reason, name)| ((*name).to_owned(), figures.discarded[*reason as usize]))
                    .collect();
                OutputStats {
                    id: output.id.clone(),
                    kind: output.kind.clone(),
                    offered: figures.offered,
                    recovered: figures.recovered,
                    redriven: figures.redriven,
                    sent: figures.sent,
                    sent_bytes: figures.sent_bytes,
                    dead_lettered: figures.dead_lettered,
                    dead_letters_dropped: figures.dead_letters_dropped,
                    discarded,
                    queued: figures.queued,
                }
            })
            .collect();
        Stats {
            revision,
            pipelines: vec![PipelineStats {
                name: DEFAULT_PIPELINE.to_owned(),
                received: sum(|account| account.received),
                received_bytes: sum(|account| account.received_bytes),
                in_flight: ledger.in_flight,
                delivered_to_chain_end: ledger.delivered,
                delivered_to_chain_end_bytes: ledger.delivered_bytes,
                filtered: ledger.filtered,
                sampled: ledger.sampled,
                deduplicated: ledger.deduplicated,
                throttled: ledger.throttled,
                rule_dropped: ledger.rule_dropped,
                shed,
                ingest: IngestsStats { tcp, udp, http },
                rules,
                removed_outputs: RemovedOutputsStats {
                    queued: ledger.queued()
                        - outputs.iter().map(|output| output.queued).sum::<u64>(),
                    discarded: ledger.removed_discarded,
                },
                outputs,
            }],
        }
    }
}

impl Ledger {
    fn queued(&self) -> u64 {
        self.outputs.rows.iter().map(|figures| figures.queued).sum()
    }

    /// Books that events reached the end of the chain, with the bytes they then had.
    pub fn delivered(&mut self, events: u64, bytes: usize) {
        self.in_flight -= events;
        self.delivered += events;
        self.delivered_bytes += bytes as u64;
    }

    /// Books what one rule did to a batch of which it saw `seen` events.
    pub fn rule(&mut self, rule: &RuleAccount, account: DropAccount, seen: u64, tally: Tally) {
        let figures = self.rules.get_mut(rule.slot);
        figures.seen += seen;
        figures.dropped += tally.dropped;
        figures.changed += tally.changed;
        figures.failed += tally.failed;
        figures.failed_dropped += tally.failed_dropped;
        self.in_flight -= tally.dropped + tally.failed_dropped;
        self.rule_dropped += tally.failed_dropped;
        match account {
            DropAccount::Filtered => self.filtered += tally.dropped,
            DropAccount::Sampled => self.sampled += tally.dropped,
            DropAccount::Deduplicated => self.deduplicated += tally.dropped,
            DropAccount::Throttled => self.throttled += tally.dropped,
            DropAccount::RuleDropped => self.rule_dropped += tally.dropped,
        }
    }

    /// Books that events passed a rule by, untouched, because the gate is overloaded.
    pub fn bypassed(&mut self, rule: &RuleAccount, events: u64) {
        self.rules.get_mut(rule.slot).bypassed += events;
    }

    /// Books events that passed a WASM rule by, untouched, because its breaker is open.
    pub fn bypassed_by_breaker(&mut self, rule: &RuleAccount, events: u64) {
        let figures = self.rules.get_mut(rule.slot);
        figures.bypassed += events;
        figures.bypassed_by_breaker += events;
    }

    /// Books why events failed that [`Self::rule`] books as failed.
    pub fn failures(&mut self, rule: &RuleAccount, failures: &Failures) {
        let figures = self.rules.get_mut(rule.slot);
        for (figure, more) in figures.failures.iter_mut().zip(failures) {
            *figure += more;
        }
    }

    /// Books events that a redact rule could not tell the fields of.
    pub fn notes(&mut self, rule: &RuleAccount, notes: Notes) {
        let figures = self.rules.get_mut(rule.slot);
        figures.unstructured += notes.unstructured;
        figures.no_fields += notes.no_fields;
    }

    /// Books events of a batch that was given up because its chain panicked.
    pub fn lost_to_a_panic(&mut self, events: u64) {
        self.in_flight -= events;
        self.rule_dropped += events;
    }

    /// Books events as handed to an output; they are queued from here on.
    pub fn offered(&mut self, output: &OutputAccount, events: u64) {
        let figures = self.outputs.get_mut(output.slot);
        figures.offered += events;
        figures.queued += events;
    }
}

impl OutputAccount {
    /// Books queued events as sent.
    pub fn sent(&self, events: u64, bytes: u64) {
        self.books.settle(|ledger| {
            let figures = ledger.outputs.get_mut(self.slot);
            let events = figures.take_queued(events);
            figures.sent += events;
            figures.sent_bytes += bytes;
        });
    }

    /// Books queued events as given up.
    pub fn discarded(&self, reason: DiscardReason, events: u64) {
        self.books.settle(|ledger| {
            let figures = ledger.outputs.get_mut(self.slot);
            let events = figures.take_queued(events);
            figures.discarded[reason as usize] += events;
            if reason == DiscardReason::Removed {
                ledger.removed_discarded += events;
            }
        });
    }

    /// Books queued events as dead letters.
    pub fn dead_lettered(&self, events: u64) {
        self.books.settle(|ledger| {
            let figures = ledger.outputs.get_mut(self.slot);
            let events = figures.take_queued(events);
            figures.dead_lettered += events;
        });
    }

    /// Books events that were found in a spool, or come from the output that this one replaces;
    /// they are queued from here on.
    pub fn recovered(&self, events: u64) {
        self.books.settle(|ledger| {
            let figures = ledger.outputs.get_mut(self.slot);
            figures.recovered += events;
            figures.queued += events;
        });
    }

    /// Books events that were taken out of the dead letters; they are queued from here on.
    pub fn redriven(&self, events: u64) {
        self.books.settle(|ledger| {
            let figures = ledger.outputs.get_mut(self.slot);
            figures.redriven += events;
            figures.queued += events;
        });
    }

    /// Takes [`Self::redriven`] back, for events that went back to the dead letters.
    pub fn not_redriven(&self, events: u64) {
        self.books.settle(|ledger| {
            let figures = ledger.outputs.get_mut(self.slot);
            let events = figures.take_queued(events);
            figures.redriven -= events;
        });
    }

    /// Books dead letters that gave way to newer ones. They were booked as dead letters and stay
    /// so.
    pub fn dead_letters_dropped(&self, events: u64) {
        self.books.settle(|ledger| {
            ledger.outputs.get_mut(self.slot).dead_letters_dropped += events;
        });
    }

    /// Books queued events of an output that ends as left for another one, which books them as
    /// recovered: in a spool, or handed on in memory. A spool may have more than is queued here,
    /// since what was sent and not acknowledged is sent again.
    pub fn handed_on(&self, events: u64) {
        self.books.settle(|ledger| {
            let figures = ledger.outputs.get_mut(self.slot);
            figures.queued = figures.queued.saturating_sub(events);
        });
    }

    /// Returns how many events were given up because the process ended.
    pub fn left_behind(&self) -> u64 {
        let ledger = self.books.ledger.lock();
        let discarded = &ledger.outputs.get(self.slot).discarded;
        discarded[DiscardReason::Shutdown as usize]
    }

    /// Returns how many events are queued.
    pub fn queued(&self) -> u64 {
        self.books.ledger.lock().outputs.get(self.slot).queued
    }
}

impl Drop for RuleAccount {
    fn drop(&mut self) {
        self.books.ledger.lock().rules.close(self.slot);
    }
}

impl Drop for OutputAccount {
    fn drop(&mut self) {
        self.books.ledger.lock().outputs.close(self.slot);
    }
}

/// A dense table whose rows are reused.
#[derive(Debug, Default)]
struct Slots<T> {
    rows: Vec<T>,
    free: Vec<usize>,
}

impl<T: Default> Slots<T> {
    fn open(&mut self) -> usize {
        if let Some(slot) = self.free.pop() {
            self.rows[slot] = T::default();
            return slot;
        }
        self.rows.push(T::default());
        self.rows.len() - 1
    }

    fn close(&mut self, slot: usize) {
        self.free.push(slot);
    }

    fn get(&self, slot: usize) -> &T {
        &self.rows[slot]
    }

    fn get_mut(&mut self, slot: usize) -> &mut T {
        &mut self.rows[slot]
    }
}

fn failures(kind: &str, failures: &Failures) -> BTreeMap<&'static str, u64> {
    let reasons = match kind {
        crate::manifest::WASM => &Reason::ALL[..],
        _ => &[],
    };
    let figure = |reason: &Reason| (reason.name(), failures[*reason as usize]);
    reasons.iter().map(figure).collect()
}

/// A rule of the revision whose figures are asked for.
#[derive(Debug, Clone)]
pub struct NamedRule {
    /// The rule's id.
    pub id: String,
    /// The rule's type.
    pub kind: String,
    /// Where its figures are.
    pub account: Arc<RuleAccount>,
}

/// An output of the revision whose figures are asked for.
#[derive(Debug, Clone)]
pub struct NamedOutput {
    /// The output's id.
    pub id: String,
    /// The output's type.
    pub kind: String,
    /// Where its figures are.
    pub account: Arc<OutputAccount>,
}

/// The books, as `GET /stats` answers them. All figures count from the start of the process.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Stats {
    /// The revision that is live.
    pub revision: u64,
    /// Exactly one today.
    pub pipelines: Vec<PipelineStats>,
}

/// The books of one pipeline, in events unless the name says bytes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PipelineStats {
    /// The pipeline's name.
    pub name: String,
    /// Events that arrived. Equals the sum of `in_flight`, `delivered_to_chain_end`, `filtered`,
    /// `sampled`, `deduplicated`, `throttled`, `rule_dropped` and `shed`.
    pub received: u64,
    /// Their bytes, terminators included.
    pub received_bytes: u64,
    /// Events that are waiting for a worker or are being worked on.
    pub in_flight: u64,
    /// Events that every rule let pass.
    pub delivered_to_chain_end: u64,
    /// Their bytes when they left the chain.
    pub delivered_to_chain_end_bytes: u64,
    /// Dropped by a `filter` or an `attribute_filter`.
    pub filtered: u64,
    /// Dropped by a `sample`.
    pub sampled: u64,
    /// Dropped as repetitions, by a `dedupe`.
    pub deduplicated: u64,
    /// Dropped by the rate limit of a `throttle`.
    pub throttled: u64,
    /// Dropped by a rule in another way, or because a rule failed on them.
    pub rule_dropped: u64,
    /// Arrived when there was no memory to take them (UDP only; TCP and HTTP senders wait).
    pub shed: u64,
    /// The ways in.
    pub ingest: IngestsStats,
    /// The rules of the live revision, in order.
    pub rules: Vec<RuleStats>,
    /// The outputs of the live revision.
    pub outputs: Vec<OutputStats>,
    /// Outputs of earlier revisions.
    pub removed_outputs: RemovedOutputsStats,
}

/// What outputs that are no longer in the manifest still have, and could not send, in events.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RemovedOutputsStats {
    /// Events that they still have to send.
    pub queued: u64,
    /// Events that they gave up.
    pub discarded: u64,
}

/// Figures of each way in.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct IngestsStats {
    /// Lines over TCP.
    pub tcp: IngestStats,
    /// Datagrams.
    pub udp: IngestStats,
    /// `POST /ingest`.
    pub http: IngestStats,
}

/// Figures of one way in.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct IngestStats {
    /// Events that arrived.
    pub received: u64,
    /// Their bytes, terminators included.
    pub received_bytes: u64,
    /// Of `received`: those that could not be taken in.
    pub shed: u64,
    /// Of `received`: those that were cut because they were too long.
    pub truncated: u64,
    /// Requests that were refused whole (their events are not in `received`).
    pub refused_requests: u64,
    /// Datagrams that the kernel dropped since they were not read in time; how many events were in
    /// them is not known. Told with the next datagram of the same socket.
    pub kernel_dropped_datagrams: u64,
    /// Half lines and bodies that did not go on and were given up, since their room in the memory
    /// budget was needed.
    pub evicted: u64,
    /// Connections that were closed since their place was needed by a new one.
    pub closed_connections: u64,
    /// Connections that were refused since there was no place.
    pub refused_connections: u64,
}

/// What one rule did, in events, since it was first published.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RuleStats {
    /// The rule's id.
    pub id: String,
    /// The rule's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Events that it looked at.
    pub seen: u64,
    /// Events that it dropped.
    pub dropped: u64,
    /// Events that it changed.
    pub changed: u64,
    /// Events that passed it by untouched: the gate was overloaded, or the rule's breaker open.
    pub bypassed: u64,
    /// Of these, those that passed it by because its breaker was open (WASM rules only).
    pub bypassed_by_breaker: u64,
    /// Events that it failed on and that went on, untouched or withheld (`on_error`).
    pub failed: u64,
    /// Events that it failed on and that were dropped (`on_error`).
    pub failed_dropped: u64,
    /// Events that begin like JSON and could not be read, so that the rule could not tell their
    /// fields; `on_unstructured` says what became of them (redact rules with `fields` or
    /// `except_fields` only).
    pub unstructured: u64,
    /// Events that may hold what the rule looks for, have none of its `fields`, and passed it
    /// untouched (redact rules with `fields` only).
    pub no_fields: u64,
    /// Why they failed (WASM rules only): adds up to `failed` and `failed_dropped`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<&'static str, u64>,
}

/// What one output did, in events, since it was made.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OutputStats {
    /// The output's id.
    pub id: String,
    /// The output's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Events that reached the end of the chain. With `recovered` and `redriven` it equals the sum
    /// of `sent`, `dead_lettered`, `queued` and all of `discarded`.
    pub offered: u64,
    /// Events that were found in the output's spool when it was made.
    pub recovered: u64,
    /// Events that were taken out of the dead letters to be sent again.
    pub redriven: u64,
    /// Events that the receiver took.
    pub sent: u64,
    /// Their bytes, terminators included.
    pub sent_bytes: u64,
    /// Events that the receiver will never take, and that were kept with the reason.
    pub dead_lettered: u64,
    /// Dead letters that gave way to newer ones, those of earlier outputs with this id included.
    pub dead_letters_dropped: u64,
    /// Events that the output gave up, by reason.
    pub discarded: BTreeMap<String, u64>,
    /// Events that wait, or are being sent.
    pub queued: u64,
}
