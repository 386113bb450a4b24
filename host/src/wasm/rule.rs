//! A rule of type `wasm`: what its parameters say, and what one worker has of it.
//!
//! A batch goes to the guest in one call. If that fails, its events go one at a time, so that only
//! those meet `on_error` which fail by themselves. Nothing a guest answers reaches a batch before all
//! of it was checked.

use std::{
    mem,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use streamgate_guest::{Batch, Editor, Event, MAX_REWRITTEN_BYTES, Rest, Rewrite, Tally, Verdict};
use utoipa::ToSchema;

use super::{
    breaker::{Admission, Breaker, Call},
    instance::{CallError, Changes, Instance, Reason},
    limits::Limits,
    module::Module,
    quarantine::{Aside, Quarantine},
    record::{Activity, Record},
    staging::Staging,
};
use crate::{
    digest::Digest,
    manifest::{Invalid, OnError, Rule, pointer_of},
};

/// An instance whose memory passes this share of its limit is replaced between two batches, in
/// percent: a guest that leaks starts afresh before it fails.
const RECYCLE_AT_PERCENT: usize = 75;

/// Most instances that are made ready before a revision is live; a worker without one makes its own.
const MAX_READY: usize = 64;

/// `params` of a rule of type `wasm`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the module.
    pub module: String,
    /// Digest of the module: written at publish, or by whoever wants that code and no other.
    #[serde(default)]
    pub digest: Option<String>,
    /// Handed to the guest's `configure`, as JSON.
    #[serde(default = "empty")]
    pub config: Value,
    /// Whether the rule protects what must not leave.
    #[serde(default)]
    pub privacy: bool,
    /// What its guests may take.
    #[serde(default)]
    pub limits: Limits,
}

fn empty() -> Value {
    Value::Object(Map::new())
}

impl Params {
    /// Reads the parameters of a rule; pointers start at the rule.
    ///
    /// # Errors
    /// [`Invalid`] for a field that cannot be right.
    pub fn parse(rule: &Rule) -> Result<Self, Invalid> {
        let params = Value::Object(rule.params.clone());
        let params: Self = serde_path_to_error::deserialize(params).map_err(|error| {
            let pointer = format!("/params{}", pointer_of(error.path()));
            Invalid::new("invalid_params", pointer, error.into_inner().to_string())
        })?;
        params.limits.check().map_err(|fault| {
            let pointer = format!("/params/limits/{}", fault.field);
            Invalid::new("invalid_limit", pointer, fault.message)
        })?;
        params.pinned()?;
        Ok(params)
    }

    /// Returns the digest that the rule is pinned to.
    ///
    /// # Errors
    /// [`Invalid`] for a digest that is none.
    pub fn pinned(&self) -> Result<Option<Digest>, Invalid> {
        let parse = |text: &String| {
            text.parse().map_err(|error| {
                Invalid::new(
                    "invalid_digest",
                    "/params/digest",
                    format!("`digest`: {error}"),
                )
            })
        };
        self.digest.as_ref().map(parse).transpose()
    }
}

/// A rule whose module is compiled and configured; shared by the workers.
#[derive(Debug)]
pub struct WasmRule {
    rule: Rule,
    name: String,
    module: Arc<Module>,
    /// JSON.
    config: String,
    limits: Limits,
    on_error: OnError,
    privacy: bool,
    breaker: Breaker,
    quarantine: Quarantine,
    record: Arc<Record>,
    /// Instances that no worker has taken yet.
    ready: Mutex<Vec<Instance>>,
}

/// How a WASM rule is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WasmStatus {
    /// Name of the module.
    pub module: String,
    /// Digest of the code that runs.
    pub digest: String,
    /// Whether the rule is left alone for a while because it keeps failing.
    pub breaker_open: bool,
    /// How often that began.
    pub breaker_opened: u64,
    /// Whether its guests run at a low priority, since one of them failed after a long time
    /// within the last 60 s.
    pub quarantined: bool,
    /// What its guests took, said and counted.
    #[serde(flatten)]
    pub activity: Activity,
}

/// Failed events by reason, in the order of [`Reason::ALL`].
pub type Failures = [u64; Reason::ALL.len()];

/// What one run of a rule over a batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ran {
    /// What became of the events.
    pub tally: Tally,
    /// Why events failed: adds up to `failed` and `failed_dropped`.
    pub failures: Failures,
    /// Events that passed untouched because the rule's breaker is open.
    pub bypassed: u64,
}

impl WasmRule {
    /// Configures a guest with the rule's config, and makes instances for `workers` workers ready.
    /// `previous` is the rule of the same id that ran before.
    ///
    /// # Errors
    /// [`Invalid`] with the guest's words if it refuses its config, or with what went wrong.
    pub fn build(
        rule: &Rule,
        params: &Params,
        module: Arc<Module>,
        workers: usize,
        previous: Option<&Self>,
    ) -> Result<Self, Invalid> {
        let on_error = match (rule.on_error, params.privacy) {
            (Some(on_error), _) => on_error,
            (None, true) => OnError::Mask,
            (None, false) => OnError::Pass,
        };
        let record = previous
            .map(|previous| Arc::clone(&previous.record))
            .filter(|record| record.is_silent() == params.privacy)
            .unwrap_or_else(|| Arc::new(Record::new(rule.id.clone(), params.privacy)));
        let config = params.config.to_string();
        let start = || Instance::start(&module, &config, &params.limits, &record);
        let ready = (0..workers.clamp(1, MAX_READY))
            .map(|_| start())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| refused(&params.module, &error))?;
        Ok(Self {
            rule: rule.clone(),
            name: params.module.clone(),
            config,
            limits: params.limits,
            on_error,
            privacy: params.privacy,
            breaker: Breaker::new(rule.id.clone()),
            quarantine: Quarantine::new(),
            record,
            ready: Mutex::new(ready),
            module,
        })
    }

    /// Whether it was built from the same rule: then its instances, and what they remember, go on.
    pub fn is_built_from(&self, rule: &Rule) -> bool {
        self.rule == *rule
    }

    /// Says how it is.
    pub fn status(&self) -> WasmStatus {
        WasmStatus {
            module: self.name.clone(),
            digest: self.module.digest().to_string(),
            breaker_open: self.breaker.is_open(),
            breaker_opened: self.breaker.times_opened(),
            quarantined: self.quarantine.is_on(),
            activity: self.record.activity(),
        }
    }

    /// Whether the rule protects what must not leave.
    pub fn is_privacy(&self) -> bool {
        self.privacy
    }

    fn start(&self) -> Result<Instance, CallError> {
        Instance::start(&self.module, &self.config, &self.limits, &self.record)
    }
}

fn refused(module: &str, error: &CallError) -> Invalid {
    let message = &error.message;
    match error.reason {
        Reason::Error => Invalid::new(
            "config_refused",
            "/params/config",
            format!("the module `{module}` refuses its config: {message}"),
        ),
        reason => Invalid::new(
            "module_failed",
            "/params/module",
            format!(
                "the module `{module}` cannot be started ({}): {message}",
                reason.name()
            ),
        ),
    }
}

/// What one worker has of a rule.
#[derive(Debug)]
pub struct Runner {
    /// `None` only while it is aside, and after a panic there.
    core: Option<Box<Core>>,
    /// Runs the core while the rule is in quarantine.
    aside: Option<Aside<Core>>,
}

/// The part that calls guests, on whichever thread.
#[derive(Debug)]
struct Core {
    rule: Arc<WasmRule>,
    instance: Option<Instance>,
    next: Step,
    /// Whether it is aside, on a thread with a low priority.
    is_aside: bool,
    ran: Ran,
    // Scratch, kept so that the steady state allocates nothing.
    staging: Staging,
    fates: Vec<Fate>,
    bodies: Vec<u8>,
}

/// What is to be done with a batch next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// All events in one call.
    Whole,
    /// Each by itself; what the first call is.
    OneByOne(Call),
    /// Nothing: every event has its fate.
    Done,
}

/// What becomes of one event; an event without one goes on as it is.
#[derive(Debug, Clone)]
struct Fate {
    event: u32,
    becomes: Becomes,
}

#[derive(Debug, Clone)]
enum Becomes {
    Dropped,
    /// A stretch of `bodies`.
    Replaced(Range<usize>),
    Failed(Reason),
}

/// What a run of a rule made of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It goes on as it is.
    Kept,
    /// The guest dropped it.
    Dropped,
    /// The guest gave it this body.
    Replaced(&'a [u8]),
    /// The guest failed on it.
    Failed(Reason),
}

/// Scratch vectors are cut back to this many bytes after a batch that needed more.
const RESTING_BYTES: usize = 1024 * 1024;

impl Runner {
    /// Makes the worker's part of `rule`, with an instance that is ready if there is one.
    pub fn new(rule: Arc<WasmRule>) -> Self {
        let instance = rule.ready.lock().pop();
        Self {
            core: Some(Box::new(Core {
                rule,
                instance,
                next: Step::Done,
                is_aside: false,
                ran: Ran::default(),
                staging: Staging::default(),
                fates: Vec::new(),
                bodies: Vec::new(),
            })),
            aside: None,
        }
    }

    fn core(&self) -> &Core {
        self.core.as_ref().expect("it is not aside")
    }

    /// Returns the rule that it runs.
    pub fn rule(&self) -> &Arc<WasmRule> {
        &self.core().rule
    }

    /// Says what the last run made of those events that did not go on as they were, in order; for
    /// who looks on.
    pub fn outcomes(&self) -> impl Iterator<Item = (usize, Outcome<'_>)> {
        let core = self.core();
        core.fates.iter().map(|fate| {
            let outcome = match &fate.becomes {
                Becomes::Dropped => Outcome::Dropped,
                Becomes::Replaced(body) => {
                    Outcome::Replaced(without_terminator(&core.bodies[body.clone()]))
                }
                Becomes::Failed(reason) => Outcome::Failed(*reason),
            };
            (fate.event as usize, outcome)
        })
    }

    /// Applies the rule to the batch.
    pub fn run(&mut self, batch: &mut Batch) -> Ran {
        let mut core = self.core.as_mut().expect("it is not aside");
        core.begin(batch);
        while core.next != Step::Done {
            let suspect = core.rule.quarantine.is_on();
            if suspect && self.aside.is_none() {
                self.aside = Aside::start(|core: &mut Core| core.step(None));
            } else if !suspect {
                self.aside = None;
            }
            let Some(aside) = &self.aside else {
                core.step(Some(batch));
                continue;
            };
            core.staging.keep(batch);
            let sent = self.core.take().expect("it is here");
            // If it panicked, so does this, and the chain is made anew.
            let came_back = aside.run(sent).expect("a guest's call panicked");
            core = self.core.insert(came_back);
        }
        core.apply(batch);
        core.rest();
        mem::take(&mut core.ran)
    }
}

impl Core {
    /// Lays the batch out and decides what to do first.
    fn begin(&mut self, batch: &Batch) {
        self.ran = Ran::default();
        self.fates.clear();
        self.bodies.clear();
        self.next = match self.rule.breaker.admits() {
            Admission::Open => {
                self.spare(0, batch.events());
                Step::Done
            }
            admission => {
                self.staging.lay_out(batch);
                match admission {
                    Admission::Probe => Step::OneByOne(Call::Probe),
                    _ => Step::Whole,
                }
            }
        };
    }

    /// Does the next step, with the events of the batch, or with those that are kept.
    fn step(&mut self, batch: Option<&Batch>) {
        self.is_aside = batch.is_none();
        let staging = mem::take(&mut self.staging);
        let (bytes, ends) = (staging.bytes(batch), staging.ends());
        self.next = match self.next {
            Step::Whole => self.whole(bytes, ends),
            Step::OneByOne(first) => {
                self.one_by_one(bytes, ends, first);
                Step::Done
            }
            Step::Done => Step::Done,
        };
        self.staging = staging;
    }

    /// All events in one call. Returns what to do next.
    fn whole(&mut self, bytes: &[u8], ends: &[u32]) -> Step {
        let call = if ends.len() == 1 {
            Call::Single
        } else {
            Call::Batch
        };
        match self.call(bytes, ends) {
            Ok(changes) => {
                self.rule.breaker.went_well();
                self.take(&changes, 0);
                Step::Done
            }
            Err(error) => {
                let open = self.note(&error, call);
                if call == Call::Single {
                    self.fail(0, error.reason);
                } else if open {
                    self.spare(0, ends.len());
                } else {
                    return Step::OneByOne(Call::Single);
                }
                Step::Done
            }
        }
    }

    /// Each event by itself. The first one that fails with an open breaker ends it.
    fn one_by_one(&mut self, bytes: &[u8], ends: &[u32], first: Call) {
        let mut start = 0;
        let mut kind = first;
        for (at, &end) in ends.iter().enumerate() {
            let end = end as usize;
            let event = &bytes[start..end];
            start = end;
            match self.call(event, &[offset(event.len())]) {
                // What the batch has no room for need not be kept here either. That is a bound of the
                // gate, and not of the rule: an event must not fail because of what others became.
                Ok(changes) if self.bodies.len() + changes.bytes.len() > MAX_REWRITTEN_BYTES => {
                    self.fail(at, Reason::Answer);
                }
                Ok(changes) => {
                    match kind {
                        Call::Probe => self.rule.breaker.close(),
                        _ => self.rule.breaker.went_well(),
                    }
                    kind = Call::Single;
                    self.take(&changes, at);
                }
                Err(error) => {
                    self.fail(at, error.reason);
                    if self.note(&error, kind) {
                        self.spare(at + 1, ends.len());
                        return;
                    }
                }
            }
        }
    }

    /// Calls the guest, in an instance that is well, and checks its answer.
    fn call(&mut self, bytes: &[u8], ends: &[u32]) -> Result<Changes, CallError> {
        let limits = &self.rule.limits;
        let worn_out = |instance: &Instance| {
            instance.memory_bytes() / RECYCLE_AT_PERCENT > limits.memory_bytes / 100
        };
        let mut instance = match self.instance.take() {
            Some(instance) if !worn_out(&instance) => instance,
            // The old one is gone before the new one is made: there may be no slot for both.
            worn_out => {
                drop(worn_out);
                self.rule.start()?
            }
        };
        let begun = Instant::now();
        let answer = instance
            .process(bytes, ends, self.is_aside)
            .and_then(|changes| match check(&changes, ends, limits) {
                Ok(()) => Ok(changes),
                Err(message) => Err(CallError {
                    reason: Reason::Answer,
                    message,
                    took: instance.used(begun.elapsed()),
                }),
            });
        if !answer.as_ref().is_err_and(CallError::is_fatal) {
            self.instance = Some(instance);
        }
        answer
    }

    /// Notes a failure; returns whether the breaker is open.
    fn note(&self, error: &CallError, call: Call) -> bool {
        self.rule.record.failed(error);
        self.rule.quarantine.failed(error.took);
        // A failure is never free, however short: the instance has to be made again.
        let took = error.took.max(Duration::from_micros(10));
        self.rule.breaker.failed(took, call)
    }

    /// Takes what a guest wants for events from `first` on; it was checked.
    fn take(&mut self, changes: &Changes, first: usize) {
        let base = self.bodies.len();
        self.bodies.extend_from_slice(&changes.bytes);
        let first = offset(first);
        let mut dropped = changes.dropped.iter().peekable();
        let mut start = 0;
        for (&replaced, &end) in changes.replaced.iter().zip(&changes.ends) {
            while let Some(&event) = dropped.next_if(|&&event| event < replaced) {
                self.fates.push(Fate::new(first + event, Becomes::Dropped));
            }
            let end = end as usize;
            let body = base + start..base + end;
            self.fates
                .push(Fate::new(first + replaced, Becomes::Replaced(body)));
            start = end;
        }
        for &event in dropped {
            self.fates.push(Fate::new(first + event, Becomes::Dropped));
        }
    }

    fn fail(&mut self, event: usize, reason: Reason) {
        self.ran.failures[reason as usize] += 1;
        self.fates
            .push(Fate::new(offset(event), Becomes::Failed(reason)));
    }

    /// What becomes of the events `from..to` while the guest is not called: they go on as they are,
    /// or, if the rule protects something, do not.
    fn spare(&mut self, from: usize, to: usize) {
        if self.rule.privacy {
            for event in from..to {
                self.fail(event, Reason::Breaker);
            }
        } else {
            self.ran.bypassed += (to - from) as u64;
        }
    }

    /// Does to the batch what was decided.
    fn apply(&mut self, batch: &mut Batch) {
        if self.fates.is_empty() {
            return;
        }
        let mut outcome = Outcomes {
            fates: &self.fates,
            met: 0,
            ends: self.staging.ends(),
            bodies: &self.bodies,
            on_error: self.rule.on_error,
            // With an open breaker no columns were made: then all events have a fate.
            all: self.fates.len() == batch.events(),
            base: 0,
            slice_len: 0,
            tally: &mut self.ran.tally,
            failures: &mut self.ran.failures,
        };
        let edited = batch.edit_with(Rest::Keep, &mut outcome);
        debug_assert_eq!(outcome.met, outcome.fates.len(), "every fate was met");
        let tally = &self.ran.tally;
        debug_assert_eq!(edited.dropped, tally.dropped + tally.failed_dropped);
    }

    /// Gives back what a large batch took.
    fn rest(&mut self) {
        self.staging.rest();
        self.fates.shrink_to(RESTING_BYTES / size_of::<Fate>());
        self.bodies.shrink_to(RESTING_BYTES);
    }
}

/// Points at the events that have a fate, in order.
struct Outcomes<'a> {
    fates: &'a [Fate],
    /// How many of them were met.
    met: usize,
    ends: &'a [u32],
    bodies: &'a [u8],
    on_error: OnError,
    /// Whether every event has one.
    all: bool,
    /// Where the slice begins, counted from the first event, and how long it is.
    base: usize,
    slice_len: usize,
    tally: &'a mut Tally,
    failures: &'a mut Failures,
}

impl Editor for Outcomes<'_> {
    fn next(&mut self, slice: &[u8], at: usize) -> Option<usize> {
        if at == 0 {
            self.base += self.slice_len;
            self.slice_len = slice.len();
        }
        if self.all {
            return (at < slice.len()).then_some(at);
        }
        let event = self.fates.get(self.met)?.event as usize;
        let start = match event {
            0 => 0,
            _ => self.ends[event - 1] as usize,
        };
        (start < self.base + self.slice_len).then(|| start - self.base)
    }

    fn decide(&mut self, _: Event<'_>, rewrite: &mut Rewrite<'_>) -> Verdict {
        let fate = &self.fates[self.met];
        self.met += 1;
        match &fate.becomes {
            Becomes::Dropped => {
                self.tally.dropped += 1;
                Verdict::Drop
            }
            Becomes::Replaced(body) => {
                let body = without_terminator(&self.bodies[body.clone()]);
                if rewrite.push(body).is_ok() {
                    self.tally.changed += 1;
                    return Verdict::Replace;
                }
                self.failures[Reason::Answer as usize] += 1;
                on_failure(self.on_error, self.tally)
            }
            Becomes::Failed(_) => on_failure(self.on_error, self.tally),
        }
    }
}

impl Fate {
    fn new(event: u32, becomes: Becomes) -> Self {
        Self { event, becomes }
    }
}

fn on_failure(on_error: OnError, tally: &mut Tally) -> Verdict {
    match on_error {
        OnError::Pass => {
            tally.failed += 1;
            Verdict::Keep
        }
        OnError::Mask => {
            tally.failed += 1;
            Verdict::Withhold
        }
        OnError::Drop => {
            tally.failed_dropped += 1;
            Verdict::Drop
        }
    }
}

/// Checks an answer for a batch whose events end at `batch_ends` against the contract.
fn check(changes: &Changes, batch_ends: &[u32], limits: &Limits) -> Result<(), String> {
    let events = batch_ends.len();
    let most_bytes = limits.answer_bytes();
    let Changes {
        dropped,
        replaced,
        bytes,
        ends,
    } = changes;
    for (name, indexes) in [("dropped", dropped), ("replaced", replaced)] {
        if !indexes.is_sorted_by(|a, b| a < b) {
            return Err(format!("`{name}` is not strictly ascending"));
        }
        if let Some(&last) = indexes.last()
            && last as usize >= events
        {
            return Err(format!(
                "`{name}` has event {last}; the batch has {events} events"
            ));
        }
    }
    if bytes.len() > most_bytes {
        let found = bytes.len();
        return Err(format!(
            "it has {found} bytes of new bodies; expected at most {most_bytes}"
        ));
    }
    if replaced.len() != ends.len() {
        let (replaced, ends) = (replaced.len(), ends.len());
        return Err(format!(
            "`replaced` has {replaced} entries and `ends` has {ends}"
        ));
    }
    if !ends.is_sorted() {
        return Err("`ends` is not ascending".to_owned());
    }
    let last = ends.last().map_or(0, |&last| last as usize);
    if last != bytes.len() {
        let found = bytes.len();
        return Err(format!("`ends` ends at {last}, and `bytes` at {found}"));
    }
    let mut start = 0;
    for (&event, &end) in replaced.iter().zip(ends) {
        let event = event as usize;
        let event_start = event.checked_sub(1).map_or(0, |before| batch_ends[before]);
        let event_bytes = (batch_ends[event] - event_start) as usize;
        let (found, most) = ((end - start) as usize, limits.body_bytes(event_bytes));
        if found > most {
            return Err(format!(
                "the new body of event {event} has {found} bytes; expected at most {most}"
            ));
        }
        start = end;
    }
    // Both are sorted: a merge finds what is in both.
    let mut dropped = dropped.iter().peekable();
    for event in replaced {
        while dropped.next_if(|&other| other < event).is_some() {}
        if dropped.peek() == Some(&event) {
            return Err(format!("event {event} is both dropped and replaced"));
        }
    }
    Ok(())
}

/// An event keeps the terminator that it came with.
fn without_terminator(body: &[u8]) -> &[u8] {
    match body.strip_suffix(b"\n") {
        Some(body) => body.strip_suffix(b"\r").unwrap_or(body),
        None => body,
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("a batch is far smaller than 4 GiB")
}
