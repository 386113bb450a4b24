//! Shares that follow the volume, so that as many events a second are kept as the target says.
//!
//! Each value of the key has an account: what it brings a second, as an exponentially weighted
//! moving average. At the end of every interval the averages are brought up to date and the shares
//! computed from them: an account that brings `n` in an interval is entitled to `ln(1 + n)` parts
//! of the target; what one does not use goes to the others. So a value that is a thousand times as
//! frequent as another one is not a thousand times as much of what is kept, and rare ones are kept
//! whole.
//!
//! **Bursts.** When the running interval has brought `burst_multiple` times the events that were
//! expected in all of it, the shares are computed at once: an average jumps up to what was seen,
//! and falls only with the intervals. In the interval in which the volume grows tenfold, about
//! three times the target is kept; in one that begins with a flood of a thousand times the target,
//! about four times. Then it is the target.
//!
//! **Many workers.** All of them book on the same accounts under one lock, taken once for 4,096
//! events, so that the target is what they keep together. Each gate has its own.
//!
//! **Bounds.** At most `max_keys` accounts, and one more for all other values, and one for events
//! without the key. An account that has come down to half an event in an interval is closed.
//!
//! Source: Honeycomb's Refinery and dynsampler-go, `EMADynamicSampler` and `EMAThroughput` (weight
//! 0.5, a burst is twice the sum, an account ages out at 0.5). Ours keeps real shares where those
//! round to one in n, reaches the target exactly by filling up small accounts first, and takes what
//! an interval brought by the time it had, so that one that was cut short by a burst counts as it
//! should.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use streamgate_guest::Batch;

use super::{Except, Params};
use crate::{
    Clock, RuleError,
    clock::nanoseconds,
    key::{Key, Names},
};

/// Events are booked so many at a time.
const EVENTS_AT_ONCE: usize = 4096;

const MAX_KEYS: usize = 10_000;

/// Events of one batch that may fail to be weighed, each by itself.
const MOST_FAULTS: usize = 64;

/// An account with fewer events in an interval is closed.
const AGE_OUT: f64 = 0.5;

/// Shortest time by which what an unfinished interval brought is taken, in seconds.
const SHORTEST_LOOK: f64 = 0.25;

/// Accounts that are always open.
const KEYLESS: usize = 0;
const OTHERS: usize = 1;

/// Computes the shares of a target.
#[derive(Debug, Clone)]
pub(super) struct Dynamic {
    settings: Settings,
    clock: Clock,
    ledger: Arc<Mutex<Ledger>>,
    /// The keys of events whose account is to be asked for.
    keys: Vec<Option<u128>>,
    /// How many events each one stands for that is kept; 0 for what is dropped, and no number for
    /// what cannot be weighed, as the search for its fields panics.
    weights: Vec<f64>,
    /// How many of them were told, and whether the rest is for the next batch.
    told: usize,
    goes_on: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Settings {
    key: Option<Names>,
    target: f64,
    interval: f64,
    weight: f64,
    burst_multiple: f64,
    max_keys: usize,
}

/// The accounts, which all workers share.
#[derive(Debug)]
struct Ledger {
    numbers: HashMap<u128, usize>,
    accounts: Vec<Account>,
    /// When the running interval began; `None` before the first event.
    began_ns: Option<u64>,
    /// Events in the running interval.
    seen: f64,
    /// With more of them it is a burst.
    burst_at: f64,
    /// Scratch: the numbers of accounts, smallest first.
    order: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    key: u128,
    /// Events in the running interval.
    count: f64,
    /// Events a second.
    average: f64,
    /// The probability with which an event is kept.
    share: f64,
}

impl Account {
    fn new(key: u128) -> Self {
        Self {
            key,
            count: 0.0,
            average: 0.0,
            // What was never seen is rare until it is known not to be.
            share: 1.0,
        }
    }
}

impl Dynamic {
    pub(super) fn build(target: f64, params: &Params) -> Result<Self, RuleError> {
        let refuse = |name: &str, found: f64, expected: &str| {
            Err(RuleError::new(
                "invalid_number",
                format!("/params/{name}"),
                format!("`{name}` is {found}; expected {expected}"),
            ))
        };
        let settings = Settings {
            key: params.key.clone(),
            target,
            interval: params.interval_seconds.unwrap_or(5.0),
            weight: params.weight.unwrap_or(0.5),
            burst_multiple: params.burst_multiple.unwrap_or(2.0),
            max_keys: params.max_keys.unwrap_or(500),
        };
        if !(0.001..=1e9).contains(&target) {
            let expected = "events a second, from 0.001 to 1,000,000,000";
            return refuse("target_per_second", target, expected);
        }
        if !(0.1..=3600.0).contains(&settings.interval) {
            let expected = "seconds, from 0.1 to 3600";
            return refuse("interval_seconds", settings.interval, expected);
        }
        if !(settings.weight > 0.0 && settings.weight <= 1.0) {
            return refuse("weight", settings.weight, "more than 0, and at most 1");
        }
        if !(settings.burst_multiple > 1.0 && settings.burst_multiple <= 1e6) {
            let expected = "more than 1, and at most 1,000,000";
            return refuse("burst_multiple", settings.burst_multiple, expected);
        }
        let max_keys_fault = |message: String| {
            Err(RuleError::new(
                "invalid_number",
                "/params/max_keys",
                message,
            ))
        };
        match params.max_keys {
            Some(max) if !(1..=MAX_KEYS).contains(&max) => {
                return max_keys_fault(format!("`max_keys` is {max}; expected 1 to {MAX_KEYS}"));
            }
            Some(_) if params.key.is_none() => {
                return Err(RuleError::new(
                    "conflicting_params",
                    "/params/max_keys",
                    "`max_keys` is given without `key`; add one, or remove it",
                ));
            }
            _ => {}
        }
        let ledger = Ledger::new(&settings);
        Ok(Self {
            settings,
            clock: Clock::default(),
            ledger: Arc::new(Mutex::new(ledger)),
            keys: Vec::new(),
            weights: Vec::new(),
            told: 0,
            goes_on: false,
        })
    }

    pub(super) fn look_at(&mut self, clock: &Clock) {
        self.clock = clock.clone();
    }

    /// Goes on with the accounts of a rule that says the same.
    pub(super) fn continue_from(&mut self, previous: &Self) {
        if self.settings == previous.settings {
            self.ledger = Arc::clone(&previous.ledger);
        }
    }

    /// Goes on in the middle of a batch: what was weighed has been booked.
    pub(super) fn resume_from(&mut self, interrupted: &mut Self) {
        self.weights = std::mem::take(&mut interrupted.weights);
        self.told = interrupted.told;
        self.goes_on = true;
    }

    /// Decides on each event of the batch, for [`next_weight`](Self::next_weight) to tell.
    ///
    /// # Panics
    /// If the search for fields panics in many events; for few of them, `next_weight` does.
    pub(super) fn weigh(
        &mut self,
        batch: &Batch,
        key: Option<&Key>,
        mut except: Option<&mut Except>,
        random: &mut fastrand::Rng,
    ) {
        /// What a worker keeps for the next batch.
        const RESTING_WEIGHTS: usize = 64 * 1024;
        if std::mem::take(&mut self.goes_on) && self.weights.len() - self.told == batch.events() {
            return;
        }
        let now_ns = self.clock.now_ns();
        self.weights.clear();
        self.weights.shrink_to(RESTING_WEIGHTS);
        self.keys.clear();
        self.told = 0;
        let (mut booked, mut faults, mut read) = (0, 0, 0);
        let mut events = batch.iter();
        loop {
            // Once a batch, and once more for each event that it catches.
            let weighed = catch_unwind(AssertUnwindSafe(|| {
                for event in &mut events {
                    read += 1;
                    let excepted = except
                        .as_mut()
                        .is_some_and(|except| except.holds_for(event.body()));
                    // An exception has its weight; what has none yet is marked by a negative one.
                    if excepted {
                        self.weights.push(1.0);
                    } else {
                        self.keys
                            .push(key.and_then(|key| key.hash(event.body(), 0)));
                        self.weights.push(-1.0);
                    }
                    if self.keys.len() == EVENTS_AT_ONCE {
                        self.book(booked, now_ns, random);
                        booked = self.weights.len();
                    }
                }
            }));
            match weighed {
                Ok(()) => break,
                Err(panic) if faults == MOST_FAULTS => resume_unwind(panic),
                Err(_) => {
                    faults += 1;
                    self.weights.truncate(read - 1);
                    self.weights.push(f64::NAN);
                }
            }
        }
        self.book(booked, now_ns, random);
    }

    /// Tells how many events the next one stands for, in their order, or 0 if it is to be dropped.
    ///
    /// # Panics
    /// If it could not be weighed: so an edit is interrupted at the event that it is about.
    pub(super) fn next_weight(&mut self) -> f64 {
        let weight = self.weights[self.told];
        self.told += 1;
        if weight.is_nan() {
            // The panic was reported when it was caught.
            resume_unwind(Box::new("an event cannot be weighed"));
        }
        weight
    }

    /// Books the events whose keys wait, and weighs them: those without a weight from `first` on.
    fn book(&mut self, first: usize, now_ns: u64, random: &mut fastrand::Rng) {
        if self.keys.is_empty() {
            return;
        }
        // A worker that panicked here left whole numbers behind; shares are computed anew soon.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.end_interval(&self.settings, now_ns);
        let undecided = self.weights[first..]
            .iter_mut()
            .filter(|weight| **weight < 0.0);
        for (key, weight) in self.keys.drain(..).zip(undecided) {
            let share = ledger.book(&self.settings, key, now_ns);
            *weight = match random.f64() < share {
                true => 1.0 / share,
                false => 0.0,
            };
        }
    }
}

impl Ledger {
    fn new(settings: &Settings) -> Self {
        Self {
            numbers: HashMap::new(),
            accounts: vec![Account::new(0), Account::new(0)],
            began_ns: None,
            seen: 0.0,
            burst_at: burst_at(settings, 0.0),
            order: Vec::new(),
        }
    }

    /// Books one event; returns with which probability it is to be kept.
    fn book(&mut self, settings: &Settings, key: Option<u128>, now_ns: u64) -> f64 {
        let number = match key {
            None => KEYLESS,
            Some(key) => match self.numbers.get(&key) {
                Some(&number) => number,
                None if self.numbers.len() < settings.max_keys => {
                    let number = self.accounts.len();
                    self.numbers.insert(key, number);
                    self.accounts.push(Account::new(key));
                    number
                }
                None => OTHERS,
            },
        };
        self.accounts[number].count += 1.0;
        self.seen += 1.0;
        if self.seen > self.burst_at {
            self.meet_burst(settings, now_ns);
            // Accounts may have been closed, this one not: it has just brought something.
            let number = match key {
                Some(key) => self.numbers.get(&key).copied().unwrap_or(OTHERS),
                None => KEYLESS,
            };
            return self.accounts[number].share;
        }
        self.accounts[number].share
    }

    /// If the interval is over: brings the averages up to date, and shares the target.
    fn end_interval(&mut self, settings: &Settings, now_ns: u64) {
        let began_ns = *self.began_ns.get_or_insert(now_ns);
        let elapsed_ns = now_ns.saturating_sub(began_ns);
        if elapsed_ns < nanoseconds(settings.interval) {
            return;
        }
        let elapsed = seconds(elapsed_ns);
        // Intervals without an event are made up for here.
        let remains = (1.0 - settings.weight).powf(elapsed / settings.interval);
        for account in &mut self.accounts {
            let brought = account.count / elapsed;
            account.average = match account.average {
                // Nothing was known: half of what was seen would be too little.
                0.0 => brought,
                average => brought + (average - brought) * remains,
            };
        }
        self.close_small_accounts(settings);
        self.begin_interval(settings, now_ns);
    }

    /// Brings the averages up to what was seen already, and shares the target.
    fn meet_burst(&mut self, settings: &Settings, now_ns: u64) {
        let elapsed = seconds(now_ns.saturating_sub(self.began_ns.unwrap_or(now_ns)));
        let elapsed = elapsed.max(SHORTEST_LOOK.min(settings.interval));
        for account in &mut self.accounts {
            account.average = account.average.max(account.count / elapsed);
        }
        self.begin_interval(settings, now_ns);
    }

    fn begin_interval(&mut self, settings: &Settings, now_ns: u64) {
        self.share(settings);
        let sum = self.accounts.iter().map(|account| account.average).sum();
        self.burst_at = burst_at(settings, sum);
        self.began_ns = Some(now_ns);
        self.seen = 0.0;
        for account in &mut self.accounts {
            account.count = 0.0;
        }
    }

    fn close_small_accounts(&mut self, settings: &Settings) {
        let mut number = OTHERS + 1;
        while let Some(account) = self.accounts.get(number) {
            if account.average * settings.interval >= AGE_OUT {
                number += 1;
                continue;
            }
            self.numbers.remove(&account.key);
            self.accounts.swap_remove(number);
            if let Some(moved) = self.accounts.get(number) {
                self.numbers.insert(moved.key, number);
            }
        }
    }

    /// Shares the target among the accounts.
    fn share(&mut self, settings: &Settings) {
        let Self {
            accounts, order, ..
        } = self;
        let parts = |account: &Account| (account.average * settings.interval).ln_1p();
        order.clear();
        order.extend(0..accounts.len());
        // The smallest use least of what they are entitled to.
        order.sort_unstable_by(|&a, &b| accounts[a].average.total_cmp(&accounts[b].average));
        let mut left = settings.target;
        let mut parts_left: f64 = accounts.iter().map(parts).sum();
        for &number in &*order {
            let account = &mut accounts[number];
            let mine = parts(account);
            let entitled = match parts_left > 0.0 {
                true => left * (mine / parts_left).min(1.0),
                false => left,
            };
            account.share = match account.average <= entitled {
                true => 1.0,
                false => entitled / account.average,
            };
            left = (left - account.average.min(entitled)).max(0.0);
            parts_left -= mine;
        }
    }
}

/// Returns with how many events an interval is a burst, if so many are expected a second. What does
/// not exceed the target is none.
fn burst_at(settings: &Settings, expected: f64) -> f64 {
    let expected = (expected * settings.burst_multiple).max(settings.target);
    (expected * settings.interval).max(1.0)
}

fn seconds(nanoseconds: u64) -> f64 {
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64()
}
