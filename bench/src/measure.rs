//! One run: a load through one process, its answer checked, its cost read from outside.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cases::Case;
use crate::contender::{Books, Contender, Running};
use crate::events::{Load, Stream};
use crate::generator::{Generator, Offer, Pace};
use crate::receiver::{Checker, Receiver};

/// What a run has cost. All of it belongs to the process under test alone.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    /// Events offered to it.
    pub offered_events: u64,
    /// Events that had to come out, and did.
    pub arrived_events: u64,
    /// Bytes offered to it.
    pub offered_bytes: u64,
    /// From the first byte offered to the last event's arrival.
    pub wall_ns: u64,
    /// User and system time between the same two instants.
    pub cpu_ns: u64,
    /// User time of that, in steps of 10 ms.
    pub user_ns: u64,
    /// System time of that, in steps of 10 ms.
    pub system_ns: u64,
    /// The most memory it ever had resident.
    pub peak_resident_bytes: u64,
    /// Whether its own books were there and agreed; those that disagree are an error.
    pub books_checked: bool,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and times are far below 2^53"
)]
impl Cost {
    /// CPU nanoseconds for each event offered.
    #[must_use]
    pub(crate) fn cpu_ns_per_event(&self) -> f64 {
        self.cpu_ns as f64 / self.offered_events as f64
    }

    /// Events offered for each second of wall time.
    #[must_use]
    pub(crate) fn events_per_second(&self) -> f64 {
        self.offered_events as f64 * 1e9 / self.wall_ns as f64
    }

    /// Megabytes (10^6) offered for each second of wall time.
    #[must_use]
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.offered_bytes as f64 * 1e3 / self.wall_ns as f64
    }
}

/// What a paced run has shown, in nanoseconds.
pub(crate) struct Delay {
    /// From an event's intended send time to its arrival.
    pub latency: Histogram<u64>,
    /// How late the generator itself was.
    pub lateness: Histogram<u64>,
}

/// Offers `load` of `case` to `contender` as fast as it goes, with `window` blocks of a
/// connection under way at most.
///
/// # Errors
/// If anything is wrong with what came out, or the run stalls.
pub(crate) fn cost(contender: &Contender, case: &Case, load: Load, window: usize) -> Result<Cost> {
    let case = answer_of(contender, case);
    let streams = load.streams(&case)?;
    let checker = Arc::new(Checker::new(&streams, None));
    let offer = &Offer::Window(window, checker.clone());
    let (cost, _) = run(contender, &case, load, streams, offer, checker)?;
    Ok(cost)
}

/// Offers `load` of `case` to `contender` at a fixed rate.
///
/// # Errors
/// If anything is wrong with what came out, or the run stalls.
pub(crate) fn delay(
    contender: &Contender,
    case: &Case,
    load: Load,
    pace: Pace,
) -> Result<(Cost, Delay)> {
    let case = answer_of(contender, case);
    let streams = load.streams(&case)?;
    let checker = Arc::new(Checker::new(&streams, Some(pace.origin)));
    let (cost, lateness) = run(
        contender,
        &case,
        load,
        streams,
        &Offer::Paced(pace),
        checker.clone(),
    )?;
    let latency = checker.latency()?;
    Ok((cost, Delay { latency, lateness }))
}

/// The relay answers every case like the one without rules.
fn answer_of(contender: &Contender, case: &Case) -> Case {
    if contender.applies_rules() {
        *case
    } else {
        Case {
            drops_debug: false,
            masked: &[],
            ..*case
        }
    }
}

fn run(
    contender: &Contender,
    case: &Case,
    load: Load,
    streams: Vec<Stream>,
    offer: &Offer,
    checker: Arc<Checker>,
) -> Result<(Cost, Histogram<u64>)> {
    let offered_events: usize = streams.iter().map(Stream::offered_events).sum();
    let arrived_events: usize = streams.iter().map(Stream::expected_events).sum();
    let mut receiver = Receiver::bind(checker)?;
    let running = contender.start(case, receiver.address())?;
    let name = || format!("`{}`, case `{}`", contender.name(), case.name);
    let generator = Generator::connect(running.ingest, streams, offer).with_context(name)?;

    let before = running.subject.cpu_time()?;
    let started = generator.start();
    let completed = receiver.wait_complete();
    let after = running.subject.cpu_time();

    let completed =
        completed.with_context(|| format!("{}{}", name(), running.subject.last_log()))?;
    let after = after?;
    // Its connections stay open until the process was asked to stop, as a service's do.
    let offered = generator.finish().with_context(name)?;
    let mut cost = Cost {
        offered_events: offered_events as u64,
        arrived_events: arrived_events as u64,
        offered_bytes: (offered_events * load.event_bytes) as u64,
        wall_ns: nanos(completed.saturating_duration_since(started)),
        cpu_ns: nanos(after.total.saturating_sub(before.total)),
        user_ns: nanos(after.user.saturating_sub(before.user)),
        system_ns: nanos(after.system.saturating_sub(before.system)),
        peak_resident_bytes: running.subject.peak_resident_bytes()?,
        books_checked: false,
    };
    cost.books_checked = running
        .check_books(expected_books(case, &cost))
        .with_context(name)?;
    let Running { subject, .. } = running;
    subject.stop().with_context(name)?;
    receiver.wait_closed().with_context(name)?;
    Ok((cost, offered.lateness))
}

fn expected_books(case: &Case, cost: &Cost) -> Books {
    let dropped = cost.offered_events - cost.arrived_events;
    let by_guest = case.guest.is_some();
    Books {
        received: cost.offered_events,
        filtered: if by_guest { 0 } else { dropped },
        rule_dropped: if by_guest { dropped } else { 0 },
        delivered_to_chain_end: cost.arrived_events,
        sent: cost.arrived_events,
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
