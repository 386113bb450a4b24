//! The rules of a revision as ordered steps.
//!
//! A [`CompiledChain`] is immutable and shared; each worker runs a [`Chain`] of its own, made from
//! it when the worker first sees the revision. Redact rules that follow one another run as one, in
//! a single pass over the bytes, and so do filters that drop by keyword; each keeps its own
//! account.
//!
//! A rule that panics does so on one event: that one meets the rule's `on_error`, and a fresh copy
//! of the rule goes on behind it. Rules with a memory have decided on each event once, whoever does
//! it.

use std::{iter, mem, ops::Range, sync::Arc};

use serde::Serialize;
use streamgate_guest::{Batch, Tally, Verdict};
use streamgate_processors::{
    Builtin, DropAccount, Filter, FusedFilters, Notes, OnError as ProcessorOnError, Redact,
    check_texts, is_privacy,
};
use utoipa::ToSchema;

use super::{clock::CLOCK, panics};
use crate::{
    books::{Books, Ledger, NamedRule, RuleAccount},
    config_store::StoreError,
    digest::Digest,
    manifest::{Invalid, OnError, OnOverload, Rule, WASM},
    nearest::nearest,
    wasm::{Module, Params, Ran, Reason, Runner, Wasm, WasmRule, WasmStatus},
};

/// Events of one batch on which a step may panic, each by itself; the rest of the batch meets
/// `on_error` as a whole then. A panic costs some microseconds, and a fresh copy of the step.
const MOST_PANICS: usize = 64;

/// Where a chain's modules come from: their bytes by digest, or `None` if there are none.
pub type ModuleSource<'a> = &'a dyn Fn(Digest) -> Result<Option<Vec<u8>>, StoreError>;

/// The enabled rules of a revision, compiled.
#[derive(Debug)]
pub struct CompiledChain {
    steps: Vec<Step>,
    /// Neighbouring steps that run as one, in order.
    fused: Vec<(Range<usize>, Fused)>,
}

/// Rules that run as one.
#[derive(Debug, Clone)]
enum Fused {
    Redact(Redact),
    Filters(FusedFilters),
}

#[derive(Debug)]
struct Step {
    processor: Compiled,
    on_overload: OnOverload,
    on_error: OnError,
    rule: NamedRule,
}

#[derive(Debug)]
enum Compiled {
    Builtin(Builtin),
    Wasm(Arc<WasmRule>),
    #[cfg(test)]
    Faulty(tests::Faulty),
}

/// What a chain is built with.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// Opens accounts for rules.
    pub books: &'a Arc<Books>,
    /// Compiles modules.
    pub wasm: &'a Wasm,
    /// Has their bytes.
    pub modules: ModuleSource<'a>,
}

/// Why a chain cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A rule cannot be right.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store failed to hand out a module.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One rule's state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RuleStatus {
    /// The rule's id.
    pub id: String,
    /// The rule's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `active`; `bypassed` while events pass it by untouched, or `withheld` while the bodies of
    /// events are, because it is a privacy rule that keeps failing.
    pub state: &'static str,
    /// Why it is not active: `overload` or `breaker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What there is to say of its module, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wasm: Option<WasmStatus>,
}

/// One worker's copy of a chain.
#[derive(Debug, Default)]
pub struct Chain {
    steps: Vec<WorkerStep>,
}

#[derive(Debug)]
struct WorkerStep {
    processor: Copied,
    /// What its drops are booked on.
    drop_account: DropAccount,
    on_overload: OnOverload,
    on_error: OnError,
    account: Arc<RuleAccount>,
    /// What the last batch came to, until it is booked.
    seen: u64,
    overloaded: u64,
    ran: Ran,
    /// What a redact rule could not tell the fields of.
    notes: Notes,
    /// Events on which it panicked, or that were given up because it did so too often.
    panicked: u64,
}

#[derive(Debug)]
enum Copied {
    Builtin(Box<Builtin>),
    /// This step and those behind it, as many as there are tallies.
    Fused(Box<Fused>, Vec<Tally>),
    /// A step that runs in the fused one before it.
    InFused,
    Wasm(Box<Runner>),
    #[cfg(test)]
    Faulty(Box<tests::Faulty>),
}

impl CompiledChain {
    /// Compiles the rules. A rule that was in `previous` under the same id and type keeps its
    /// account; a WASM rule that did not change keeps its instances too, and a native one what it
    /// remembers of earlier events.
    ///
    /// # Errors
    /// [`BuildError::Invalid`] for the first rule that cannot be built; its pointer starts at the
    /// pipeline.
    pub fn build(
        rules: &[Rule],
        parts: Parts<'_>,
        previous: Option<&Self>,
    ) -> Result<Self, BuildError> {
        let mut steps = Vec::with_capacity(rules.len());
        for (at, rule) in rules.iter().enumerate() {
            let known = previous.and_then(|chain| chain.step(&rule.id, &rule.kind));
            let processor = match rule.kind.as_str() {
                WASM => build_wasm(rule, parts, known),
                _ => build_builtin(rule, known),
            };
            let processor = processor.map_err(|error| match error {
                BuildError::Invalid(fault) => fault.under(&format!("/processors/{at}")).into(),
                other => other,
            })?;
            if !rule.enabled {
                continue;
            }
            let account = match known {
                Some(step) => Arc::clone(&step.rule.account),
                None => parts.books.open_rule(),
            };
            let rule_name = NamedRule {
                id: rule.id.clone(),
                kind: rule.kind.clone(),
                account,
            };
            steps.push(Step {
                on_overload: on_overload(rule, processor.is_privacy()),
                on_error: on_error(rule, processor.is_privacy()),
                processor,
                rule: rule_name,
            });
        }
        let fused = fuse(&steps);
        Ok(Self { steps, fused })
    }

    /// A chain of no rules.
    pub fn empty() -> Self {
        Self {
            steps: Vec::new(),
            fused: Vec::new(),
        }
    }

    /// Returns the rules that run, in order.
    pub fn rules(&self) -> Vec<NamedRule> {
        self.steps.iter().map(|step| step.rule.clone()).collect()
    }

    /// Says of each rule whether it runs.
    pub fn statuses(&self, overloaded: bool) -> Vec<RuleStatus> {
        let status = |step: &Step| {
            let wasm = match &step.processor {
                Compiled::Wasm(rule) => Some(rule.status()),
                _ => None,
            };
            let bypassed = overloaded && step.on_overload == OnOverload::Bypass;
            let broken = wasm.as_ref().is_some_and(|wasm| wasm.breaker_open);
            let (state, reason) = match (bypassed, broken) {
                (true, _) => ("bypassed", Some("overload")),
                (false, true) if step.processor.is_privacy() => ("withheld", Some("breaker")),
                (false, true) => ("bypassed", Some("breaker")),
                (false, false) => ("active", None),
            };
            RuleStatus {
                id: step.rule.id.clone(),
                kind: step.rule.kind.clone(),
                state,
                reason,
                wasm,
            }
        };
        self.steps.iter().map(status).collect()
    }

    /// Returns a copy for one worker. Instances of rules that did not change are taken over from
    /// `previous`, with what they remember.
    pub fn for_worker(&self, previous: Chain) -> Chain {
        let mut runners: Vec<Box<Runner>> = previous
            .steps
            .into_iter()
            .filter_map(|step| match step.processor {
                Copied::Wasm(runner) => Some(runner),
                _ => None,
            })
            .collect();
        let mut alone = |processor: &Compiled| match processor {
            Compiled::Builtin(builtin) => Copied::Builtin(Box::new(copy_of(builtin))),
            #[cfg(test)]
            Compiled::Faulty(faulty) => Copied::Faulty(Box::new(faulty.clone())),
            Compiled::Wasm(rule) => {
                let kept = runners
                    .iter()
                    .position(|runner| Arc::ptr_eq(runner.rule(), rule));
                Copied::Wasm(match kept {
                    Some(at) => runners.swap_remove(at),
                    None => Box::new(Runner::new(Arc::clone(rule))),
                })
            }
        };
        let mut copied = |at: usize, step: &Step| {
            let fused = self.fused.iter().find(|(steps, _)| steps.contains(&at));
            match fused {
                Some((steps, fused)) if steps.start == at => {
                    let tallies = vec![Tally::default(); steps.len()];
                    Copied::Fused(Box::new(fused.clone()), tallies)
                }
                Some(_) => Copied::InFused,
                None => alone(&step.processor),
            }
        };
        let steps = self
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| (copied(at, step), step))
            .map(|(processor, step)| WorkerStep {
                processor,
                drop_account: step.processor.drop_account(),
                on_overload: step.on_overload,
                on_error: step.on_error,
                account: Arc::clone(&step.rule.account),
                seen: 0,
                overloaded: 0,
                ran: Ran::default(),
                notes: Notes::default(),
                panicked: 0,
            })
            .collect();
        Chain { steps }
    }

    fn step(&self, id: &str, kind: &str) -> Option<&Step> {
        self.steps
            .iter()
            .find(|step| step.rule.id == id && step.rule.kind == kind)
    }
}

impl Compiled {
    /// Whether it protects what must not leave: it is never skipped by default.
    fn is_privacy(&self) -> bool {
        match self {
            Self::Builtin(builtin) => matches!(builtin, Builtin::Redact(_)),
            Self::Wasm(rule) => rule.is_privacy(),
            #[cfg(test)]
            Self::Faulty(_) => true,
        }
    }

    fn drop_account(&self) -> DropAccount {
        match self {
            Self::Builtin(builtin) => builtin.drop_account(),
            _ => DropAccount::RuleDropped,
        }
    }
}

impl Chain {
    /// Runs every step over the batch; `compiled` is what this is a copy of. What was done is
    /// remembered until [`book`](Self::book).
    pub fn run(&mut self, compiled: &CompiledChain, batch: &mut Batch, overloaded: bool) {
        let mut at = 0;
        while let Some(first) = self.steps.get(at) {
            let count = match &first.processor {
                Copied::Fused(_, tallies) => tallies.len(),
                _ => 1,
            };
            let these = &mut self.steps[at..at + count];
            run_steps(these, compiled, at, batch, overloaded);
            at += count;
        }
    }

    /// Returns the steps that panicked in the last run, by their place among the rules, and on how
    /// many events.
    pub fn panicked(&self) -> impl Iterator<Item = (usize, u64)> {
        let steps = self.steps.iter().enumerate();
        steps.filter_map(|(at, step)| (step.panicked > 0).then_some((at, step.panicked)))
    }

    /// Returns whether it has no rules.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns whether the last run let events pass a rule untouched, because of overload or
    /// because the rule is broken.
    pub fn bypassed(&self) -> bool {
        let bypassed = |step: &WorkerStep| step.overloaded + step.ran.bypassed > 0;
        self.steps.iter().any(bypassed)
    }

    /// Books what the last run did.
    pub fn book(&self, ledger: &mut Ledger) {
        for step in &self.steps {
            let (account, ran) = (&step.account, &step.ran);
            if step.seen > 0 {
                ledger.rule(account, step.drop_account, step.seen, ran.tally);
            }
            if step.overloaded > 0 {
                ledger.bypassed(account, step.overloaded);
            }
            if ran.bypassed > 0 {
                ledger.bypassed_by_breaker(account, ran.bypassed);
            }
            if ran.tally.failed + ran.tally.failed_dropped > 0 {
                ledger.failures(account, &ran.failures);
            }
            if step.notes != Notes::default() {
                ledger.notes(account, step.notes);
            }
        }
    }
}

/// Runs one step, or those that are fused into one; the first of them is number `at` of the chain.
fn run_steps(
    steps: &mut [WorkerStep],
    compiled: &CompiledChain,
    at: usize,
    batch: &mut Batch,
    overloaded: bool,
) {
    let mut events = batch.events() as u64;
    for step in &mut *steps {
        (step.seen, step.overloaded, step.ran) = (0, 0, Ran::default());
        (step.notes, step.panicked) = (Notes::default(), 0);
    }
    let Some(first) = steps.first_mut().filter(|_| events > 0) else {
        return;
    };
    if overloaded && first.on_overload == OnOverload::Bypass {
        steps.iter_mut().for_each(|step| step.overloaded = events);
        return;
    }
    if let Copied::Fused(_, tallies) = &mut first.processor {
        tallies.fill(Tally::default());
    }
    let ran = panics::catch(|| run_first(first, batch));
    take_notes(steps);
    if ran.is_err() {
        let copies = &compiled.steps[at..at + steps.len()];
        recover(steps, compiled, copies, batch, events);
    }
    let mut tallies = match &mut steps[0].processor {
        Copied::Fused(_, tallies) => mem::take(tallies),
        _ => Vec::new(),
    };
    for (step, tally) in steps.iter_mut().zip(&tallies) {
        step.ran.tally += *tally;
    }
    for step in &mut *steps {
        step.seen = events - step.ran.bypassed;
        events -= step.ran.tally.dropped + step.ran.tally.failed_dropped;
    }
    if let Copied::Fused(_, kept) = &mut steps[0].processor {
        mem::swap(kept, &mut tallies);
    }
}

/// Lets a step do its work, and those that are fused with it theirs.
fn run_first(step: &mut WorkerStep, batch: &mut Batch) {
    match &mut step.processor {
        Copied::Builtin(builtin) => builtin.process_into(batch, &mut step.ran.tally),
        Copied::Wasm(runner) => step.ran = runner.run(batch),
        Copied::Fused(fused, tallies) => match &mut **fused {
            Fused::Redact(redact) => redact.process_each(batch, tallies),
            Fused::Filters(filters) => filters.process_each(batch, tallies),
        },
        Copied::InFused => {}
        #[cfg(test)]
        Copied::Faulty(faulty) => faulty.process_into(batch, &mut step.ran.tally),
    }
}

/// Takes what redact rules noted, from the copy that ran them, which a panic may cost. None of the
/// others has notes.
fn take_notes(steps: &mut [WorkerStep]) {
    let Some((first, behind)) = steps.split_first_mut() else {
        return;
    };
    let redact = match &mut first.processor {
        Copied::Builtin(builtin) => match &mut **builtin {
            Builtin::Redact(redact) => redact,
            _ => return,
        },
        Copied::Fused(fused, _) => match &mut **fused {
            Fused::Redact(redact) => redact,
            Fused::Filters(_) => return,
        },
        _ => return,
    };
    let all = iter::once(&mut first.notes).chain(behind.iter_mut().map(|step| &mut step.notes));
    for (notes, more) in all.zip(redact.take_notes()) {
        add_notes(notes, more);
    }
}

fn add_notes(notes: &mut Notes, more: Notes) {
    notes.unstructured += more.unstructured;
    notes.no_fields += more.no_fields;
}

/// Goes on after a panic: the event that it was about meets `on_error`, the events behind it get a
/// fresh copy of the step. `copies` are the steps as they were compiled; `events` the batch had
/// before.
#[cold]
fn recover(
    steps: &mut [WorkerStep],
    compiled: &CompiledChain,
    copies: &[Step],
    batch: &mut Batch,
    events: u64,
) {
    // Of what was decided, some rules have counted what they did, and others would have at the end.
    let has_counted = match &steps[0].processor {
        Copied::Builtin(builtin) => matches!(**builtin, Builtin::Redact(_)),
        Copied::Fused(..) => true,
        _ => false,
    };
    // A panic in a WASM rule is one of ours, and not about an event.
    let is_native = !matches!(steps[0].processor, Copied::Wasm(_));
    let mut events = events;
    let (mut guilty, mut panics) = (0, 0);
    loop {
        panics += 1;
        let Some(interrupted) = is_native.then(|| batch.isolate_interrupted()).flatten() else {
            // Not in an edit, or after it: it is not known what was done to which event.
            if !has_counted {
                let left = batch.events() as u64;
                steps[0].ran.tally.dropped += events.saturating_sub(left);
            }
            break;
        };
        if !has_counted {
            let tally = &mut steps[0].ran.tally;
            tally.dropped += interrupted.edited.dropped;
            tally.changed += interrupted.edited.changed;
        }
        renew(&mut steps[0], compiled, copies, true);
        if interrupted.at_event {
            guilty += 1;
            decide_on_guilty(steps, copies, batch);
        }
        batch.go_on();
        events = batch.events() as u64;
        // Most panics that are not at an event are followed by one that is.
        if events == 0 || guilty == MOST_PANICS || panics == 2 * MOST_PANICS {
            break;
        }
        let first = &mut steps[0];
        let ran = panics::catch(|| run_first(first, batch));
        take_notes(steps);
        if ran.is_ok() {
            batch.rejoin();
            return;
        }
    }
    if !batch.is_empty() {
        give_up(steps, batch);
        // What was decided for events that are given up is for nobody else.
        renew(&mut steps[0], compiled, copies, false);
    }
    batch.rejoin();
}

/// Replaces the copy of a step whose scratch space is not to be trusted.
fn renew(step: &mut WorkerStep, compiled: &CompiledChain, copies: &[Step], resume: bool) {
    let first = &copies[0];
    match (&mut step.processor, &first.processor) {
        (Copied::Builtin(copy), Compiled::Builtin(builtin)) => {
            let mut fresh = copy_of(builtin);
            if resume {
                fresh.resume_from(copy);
            }
            **copy = fresh;
        }
        (Copied::Wasm(runner), Compiled::Wasm(rule)) => {
            **runner = Runner::new(Arc::clone(rule));
        }
        (Copied::Fused(copy, _), _) => {
            let is_first = |range: &Range<usize>| std::ptr::eq(&compiled.steps[range.start], first);
            if let Some((_, fused)) = compiled.fused.iter().find(|(range, _)| is_first(range)) {
                **copy = fused.clone();
            }
        }
        #[cfg(test)]
        (Copied::Faulty(copy), Compiled::Faulty(faulty)) => **copy = faulty.clone(),
        _ => {}
    }
}

/// Decides on the only event of the batch, on which one of the steps panics.
fn decide_on_guilty(steps: &mut [WorkerStep], copies: &[Step], batch: &mut Batch) {
    let [_, _, ..] = steps else {
        fail_all(&mut steps[0], batch);
        return;
    };
    // Fused: each by itself, to find out which one it is. Those before it have counted what they
    // did, and it has noted what it saw.
    let mut done = vec![(Tally::default(), Notes::default()); steps.len()];
    let mut guilty = None;
    for (at, copy) in copies.iter().enumerate() {
        let Compiled::Builtin(builtin) = &copy.processor else {
            continue;
        };
        let ((tally, notes), mut builtin) = (&mut done[at], copy_of(builtin));
        if panics::catch(|| builtin.process_into(batch, tally)).is_err() {
            *tally = Tally::default();
            fail_all(&mut steps[at], batch);
            guilty.get_or_insert(at);
        } else if let Builtin::Redact(redact) = &mut builtin {
            redact.take_notes().for_each(|more| add_notes(notes, more));
        }
        if batch.is_empty() {
            break;
        }
    }
    for (step, (tally, notes)) in steps.iter_mut().zip(done).skip(guilty.unwrap_or(0)) {
        step.ran.tally += tally;
        add_notes(&mut step.notes, notes);
    }
}

/// Lets all events that are left meet `on_error`: of the first step that does not let them pass.
fn give_up(steps: &mut [WorkerStep], batch: &mut Batch) {
    for step in steps {
        fail_all(step, batch);
        if step.on_error != OnError::Pass {
            return;
        }
    }
}

/// Lets all events of the batch meet a step's `on_error`.
fn fail_all(step: &mut WorkerStep, batch: &mut Batch) {
    let events = batch.events() as u64;
    let tally = &mut step.ran.tally;
    let verdict = match step.on_error {
        OnError::Pass => Verdict::Keep,
        OnError::Mask => Verdict::Withhold,
        OnError::Drop => Verdict::Drop,
    };
    match step.on_error {
        OnError::Drop => tally.failed_dropped += events,
        _ => tally.failed += events,
    }
    if verdict != Verdict::Keep {
        batch.edit_each(|_, _| verdict);
    }
    if matches!(step.processor, Copied::Wasm(_)) {
        step.ran.failures[Reason::Trap as usize] += events;
    }
    step.panicked += events;
}

fn copy_of(builtin: &Builtin) -> Builtin {
    builtin.for_worker(fastrand::u64(..), &CLOCK)
}

/// Finds steps of one kind that follow one another and are bypassed alike, and makes one of each
/// row.
fn fuse(steps: &[Step]) -> Vec<(Range<usize>, Fused)> {
    fn redact(step: &Step) -> Option<&Redact> {
        match &step.processor {
            Compiled::Builtin(Builtin::Redact(redact)) => Some(redact),
            _ => None,
        }
    }
    fn filter(step: &Step) -> Option<&Filter> {
        match &step.processor {
            Compiled::Builtin(Builtin::Filter(filter)) if filter.is_fusible() => Some(filter),
            _ => None,
        }
    }
    let mut fused = Vec::new();
    let mut start = 0;
    for alike in steps.chunk_by(|a, b| {
        let same_kind = redact(a).is_some() && redact(b).is_some()
            || filter(a).is_some() && filter(b).is_some();
        same_kind && a.on_overload == b.on_overload
    }) {
        let end = start + alike.len();
        let one = match alike {
            [first, _, ..] if redact(first).is_some() => {
                Some(Fused::Redact(Redact::fuse(alike.iter().filter_map(redact))))
            }
            [_, _, ..] => Filter::fuse(alike.iter().filter_map(filter)).map(Fused::Filters),
            _ => None,
        };
        fused.extend(one.map(|one| (start..end, one)));
        start = end;
    }
    fused
}

/// Checks one rule by building it, as far as that is possible without the bytes of modules; the
/// pointer of a fault starts at the rule.
///
/// # Errors
/// [`Invalid`] names the field and the remedy.
pub fn check_rule(rule: &Rule) -> Result<(), Invalid> {
    if rule.kind == WASM {
        return check_wasm(rule).map(drop);
    }
    if !streamgate_processors::TYPES.contains(&rule.kind.as_str()) {
        return Err(unknown_type(&rule.kind));
    }
    build_rule(rule)?;
    // Stored rules that have it so are still built.
    check_texts(&rule.kind, &rule.params)
        .map_err(|error| Invalid::new(error.code, error.pointer, error.message))
}

/// Says which types there are; the native processors do not know of `wasm`.
fn unknown_type(kind: &str) -> Invalid {
    let shown: String = kind.chars().take(60).collect();
    let types = streamgate_processors::TYPES.iter().chain([&WASM]);
    let list: Vec<String> = types.clone().map(|name| format!("`{name}`")).collect();
    let mut message = format!(
        "rule type is `{shown}`; expected one of {}",
        list.join(", ")
    );
    if let Some(name) = nearest(kind, types.copied()) {
        message.push_str(&format!("; did you mean `{name}`?"));
    }
    Invalid::new("unknown_rule_type", "/type", message)
}

fn build_rule(rule: &Rule) -> Result<Builtin, Invalid> {
    let is_privacy = is_privacy(&rule.kind);
    if is_privacy {
        refuse_leaks(rule)?;
    }
    let on_error = match on_error(rule, is_privacy) {
        OnError::Pass => ProcessorOnError::Pass,
        OnError::Mask => ProcessorOnError::Mask,
        OnError::Drop => ProcessorOnError::Drop,
    };
    Builtin::build(&rule.kind, &rule.params, on_error)
        .map_err(|error| Invalid::new(error.code, error.pointer, error.message))
}

/// Builds a native rule; one that did not change goes on with what it remembers.
fn build_builtin(rule: &Rule, known: Option<&Step>) -> Result<Compiled, BuildError> {
    let mut builtin = build_rule(rule)?;
    if let Some(Compiled::Builtin(previous)) = known.map(|step| &step.processor) {
        builtin.continue_from(previous);
    }
    Ok(Compiled::Builtin(builtin))
}

fn check_wasm(rule: &Rule) -> Result<Params, Invalid> {
    let params = Params::parse(rule)?;
    if params.privacy {
        refuse_leaks(rule)?;
    }
    Ok(params)
}

fn refuse_leaks(rule: &Rule) -> Result<(), Invalid> {
    if rule.on_error != Some(OnError::Pass) {
        return Ok(());
    }
    let kind = match rule.kind.as_str() {
        WASM => "`wasm` rule with `privacy`".to_owned(),
        kind => format!("`{kind}` rule"),
    };
    Err(Invalid::new(
        "leaking_on_error",
        "/on_error",
        format!(
            "`on_error` of a {kind} is `pass`, which lets raw data out; expected `mask` or `drop`"
        ),
    ))
}

fn build_wasm(rule: &Rule, parts: Parts<'_>, known: Option<&Step>) -> Result<Compiled, BuildError> {
    let params = check_wasm(rule)?;
    let previous = match known.map(|step| &step.processor) {
        Some(Compiled::Wasm(previous)) => Some(previous),
        _ => None,
    };
    if let Some(previous) = previous.filter(|previous| previous.is_built_from(rule)) {
        return Ok(Compiled::Wasm(Arc::clone(previous)));
    }
    let module = load(&params, parts)?;
    let previous = previous.map(AsRef::as_ref);
    let built = WasmRule::build(rule, &params, module, parts.wasm.workers(), previous)?;
    Ok(Compiled::Wasm(Arc::new(built)))
}

/// Loads the module that a rule is pinned to.
fn load(params: &Params, parts: Parts<'_>) -> Result<Arc<Module>, BuildError> {
    let unknown = |message| Invalid::new("unknown_module", "/params/module", message);
    let name = &params.module;
    let digest = params.pinned()?.ok_or_else(|| {
        unknown(format!(
            "the rule is not pinned to the code of `{name}`; it has no `digest`"
        ))
    })?;
    // Also if it is compiled already: what is published must be there after a restart.
    let bytes = (parts.modules)(digest)?.ok_or_else(|| {
        unknown(format!(
            "the store has no module `{name}` with the digest {digest}; upload it with `PUT \
             /modules/{name}`"
        ))
    })?;
    let loaded = parts.wasm.load(digest, &bytes, params.limits.stack());
    Ok(loaded.map_err(|error| Invalid::new(error.code, "/params/module", error.message))?)
}

fn on_error(rule: &Rule, is_privacy: bool) -> OnError {
    let default = match is_privacy {
        true => OnError::Mask,
        false => OnError::Pass,
    };
    rule.on_error.unwrap_or(default)
}

fn on_overload(rule: &Rule, is_privacy: bool) -> OnOverload {
    let default = match is_privacy {
        true => OnOverload::Enforce,
        false => OnOverload::Bypass,
    };
    rule.on_overload.unwrap_or(default)
}

#[cfg(test)]
mod tests;
