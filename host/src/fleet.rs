//! A gate among others: follows what is published to the config store that they share, and tells
//! what it runs.
//!
//! Three threads, so that none of them ever waits for what another does:
//!
//! - the **listener** holds a subscription. A message is only a hint: it wakes the follower.
//! - the **follower** reads the live manifest when it is woken, after each reconnect, and every few
//!   seconds anyway; it builds what is new and makes it live. Storms are coalesced: at most ten
//!   changes a second, the last one wins.
//! - the **herald** writes what this gate runs, under a key that expires.
//!
//! Promises that events never wait for any of it, that a manifest is in force whole or not at all,
//! and that a gate never goes back to an older revision by itself
//! (`config_store::redis::superseding`).

use std::{
    cell::RefCell,
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::{
    config_store::{
        ConfigStore, Redis, StoreError,
        redis::{Fault, Found, Link, Outage, UPDATES, is_older, superseding},
    },
    digest::Digest,
    gate::Gate,
    manifest::Manifest,
    outputs::{OutputPolicy, check_secrets},
    pipeline::BuildError,
};

/// Time from one look at the live manifest to the next if nobody says anything; a random part of it
/// is left out, so that gates do not ask in step.
const POLL: Duration = Duration::from_secs(4);

/// Changes that may be made at once after a quiet time.
const BURST: u32 = 2;

/// Time for which one change is allowed: with [`BURST`] ten within any second at most.
const PACE: Duration = Duration::from_millis(125);

/// Longest time between two tries to reach Redis.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// A subscription that was silent for as long is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(5);

/// How often a gate tells what it runs, and for how long that holds.
const HEARTBEAT: Duration = Duration::from_secs(5);
const LIFETIME: Duration = Duration::from_secs(15);

/// Longest reason that is told to others, in characters.
const MAX_REASON_CHARS: usize = 500;

/// A handle to this gate's part in its fleet. Cheap to copy.
#[derive(Debug, Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    gate: Gate,
    store: Arc<ConfigStore>,
    /// Tells this process from another that has the same name.
    instance: String,
    state: Mutex<State>,
    /// Something in `state` changed that a thread waits for.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ended: bool,
    /// The follower is wanted.
    reload: bool,
    /// The herald is wanted.
    tell: bool,
    /// How each thread gets on with Redis: one may be allowed what another is not.
    listener: Health,
    follower: Health,
    herald: Health,
    /// The last change that was made.
    applied: Applied,
    refused: Option<Refusal>,
    /// The number that Redis has although this gate runs a newer one.
    behind: Option<u64>,
    counters: Counters,
    told_of_namesake: bool,
}

/// How a thread gets on with Redis.
#[derive(Debug)]
struct Health {
    /// What it does, for the log.
    work: &'static str,
    /// None until it has tried.
    last: Option<Result<(), Outage>>,
    since: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Applied {
    revision: u64,
    took: Duration,
    at: f64,
}

#[derive(Debug, Clone)]
struct Refusal {
    /// 0 if it has none, or cannot be read.
    revision: u64,
    reason: String,
    at: f64,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Manifests that were made live.
    pub applied: u64,
    /// Manifests that were not taken.
    pub refused: u64,
    /// Failures of Redis, in the order of [`Fault::ALL`].
    pub faults: [u64; Fault::ALL.len()],
}

/// How this gate stands to the config store.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ConfigStatus {
    /// Where the store is: a directory, `memory:`, or the URL of a Redis without its password.
    pub store: String,
    /// `ok`; `degraded` while Redis cannot be used, or has something that this gate does not take:
    /// it goes on with the last good config.
    pub state: &'static str,
    /// Why it is degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For how long it has been that Redis answers, or does not, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    /// Whether the gate is told of changes at once; else it asks every few seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribed: Option<bool>,
    /// Whether only signed config is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<bool>,
    /// What was in Redis and was not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedManifest>,
    /// The revision that Redis has, if it is older than the one in force: it lost something. The
    /// next publish mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_behind: Option<u64>,
}

/// A manifest that this gate does not take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefusedManifest {
    /// Its number; 0 if it has none.
    pub revision: u64,
    /// Why.
    pub reason: String,
    /// When, in seconds since 1970-01-01T00:00:00Z.
    pub at: f64,
}

/// What a gate of the fleet runs, as it says itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its name.
    pub id: String,
    /// Different in each process.
    pub instance: String,
    /// Version of its program.
    pub version: String,
    /// The revision in force.
    pub revision: u64,
    /// How long it took to make it live, in milliseconds.
    pub apply_ms: f64,
    /// When it was made live, in seconds since 1970-01-01T00:00:00Z, by the gate's clock.
    pub applied_at: f64,
    /// What it was told and did not take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedManifest>,
}

/// Checks what was found in Redis before it takes the place of what ran here: whoever can write to
/// Redis must not read secrets of this machine through it. What is signed was published by somebody
/// who may.
///
/// # Errors
/// An output refers to a secret that this gate does not allow.
pub(crate) fn check_found(
    redis: &Redis,
    found: &Manifest,
    running: &Manifest,
    policy: &OutputPolicy,
) -> Result<(), BuildError> {
    if redis.is_signed() {
        return Ok(());
    }
    let (found, known) = (&found.pipeline().outputs, &running.pipeline().outputs);
    check_secrets(found, known, policy).map_err(BuildError::Invalid)
}

impl Fleet {
    /// Starts following, if the store is one that gates share.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn join(gate: Gate, store: &Arc<ConfigStore>) -> io::Result<Option<Self>> {
        let Some(shared) = store.shared() else {
            return Ok(None);
        };
        let links = [shared.link(), shared.link(), shared.link()];
        let revision = shared.last_good().manifest().revision;
        let inner = Arc::new(Inner {
            gate,
            instance: format!("{:016x}", fastrand::u64(..)),
            state: Mutex::new(State {
                ended: false,
                reload: true,
                tell: true,
                listener: Health::new("listening to it"),
                follower: Health::new("reading from it"),
                herald: Health::new("writing to it"),
                applied: Applied {
                    revision,
                    took: Duration::ZERO,
                    at: now(),
                },
                refused: None,
                behind: None,
                counters: Counters::default(),
                told_of_namesake: false,
            }),
            changed: Condvar::new(),
            store: Arc::clone(store),
        });
        let [for_listener, for_follower, for_herald] = links;
        let run = |name: &str, work: fn(&Inner, Link), link| {
            let inner = Arc::clone(&inner);
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || work(&inner, link))
        };
        run("listener", |inner, link| inner.listen(&link), for_listener)?;
        run("follower", Inner::follow, for_follower)?;
        run("herald", Inner::tell, for_herald)?;
        Ok(Some(Self { inner }))
    }

    /// Notes that this gate made a revision live itself.
    pub fn applied(&self, revision: u64, took: Duration) {
        self.inner.note_applied(revision, took);
    }

    /// Returns what the gates that are alive say of themselves, by name. Blocks.
    ///
    /// # Errors
    /// Redis does not answer.
    pub fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let states = self.inner.redis().nodes()?;
        // What cannot be read is another program's, or a newer one's.
        let nodes = states
            .iter()
            .filter_map(|state| serde_json::from_slice(state).ok());
        Ok(nodes.collect())
    }

    /// What this gate says of itself.
    pub fn this_node(&self) -> Node {
        self.inner.node(&self.inner.state.lock())
    }

    /// Says how this gate stands to the store.
    pub fn status(&self) -> ConfigStatus {
        let redis = self.inner.redis();
        let state = self.inner.state.lock();
        let outage = [&state.follower, &state.listener, &state.herald]
            .into_iter()
            .find_map(|health| {
                let outage = health.outage()?;
                Some(format!("Redis cannot be used, {}: {outage}", health.work))
            });
        let refused = state.refused.as_ref().map(Refusal::told);
        let reason = outage.or_else(|| refused.as_ref().map(|refused| refused.reason.clone()));
        ConfigStatus {
            store: redis.shown().to_owned(),
            state: match reason {
                None => "ok",
                Some(_) => "degraded",
            },
            reason,
            for_seconds: Some(state.follower.since.elapsed().as_secs()),
            subscribed: Some(state.listener.is_well()),
            signed: Some(redis.is_signed()),
            refused,
            store_behind: state.behind,
        }
    }

    /// Whether Redis answers, and what happened since the start.
    pub fn counters(&self) -> (bool, Counters) {
        let state = self.inner.state.lock();
        (state.follower.is_well(), state.counters)
    }

    /// Says good-bye to the others. Blocks for as long as Redis takes to answer.
    pub fn leave(&self) {
        self.inner.state.lock().ended = true;
        self.inner.changed.notify_all();
        let mut link = self.inner.redis().link();
        // If it fails, the others learn of it when the state expires.
        let _ = Redis::remove_node(&mut link, self.inner.gate.id());
    }
}

impl ConfigStatus {
    /// The state of a store that no other gate shares.
    pub fn local(store: String) -> Self {
        Self {
            store,
            state: "ok",
            reason: None,
            for_seconds: None,
            subscribed: None,
            signed: None,
            refused: None,
            store_behind: None,
        }
    }
}

impl Inner {
    fn redis(&self) -> &Redis {
        self.store
            .shared()
            .expect("`Fleet::join` took a store that is shared")
    }

    /// Holds a subscription and wakes the follower.
    fn listen(&self, link: &Link) {
        let mut backoff = Backoff::default();
        while !self.has_ended() {
            match self.hear(link, &mut backoff) {
                Ok(()) => return,
                Err(outage) => self.note(|state| &mut state.listener, Err(outage)),
            }
            self.pause(backoff.next());
        }
    }

    /// Listens until the end, or until the subscription breaks.
    fn hear(&self, link: &Link, backoff: &mut Backoff) -> Result<(), Outage> {
        let failed = |error| Outage::of(&error);
        let mut connection = link.connect()?;
        let mut subscription = connection.as_pubsub();
        subscription.subscribe(UPDATES).map_err(failed)?;
        let wait = Duration::from_secs(1);
        subscription.set_read_timeout(Some(wait)).map_err(failed)?;
        *backoff = Backoff::default();
        self.note(|state| &mut state.listener, Ok(()));
        // What was published until now was not heard.
        self.state.lock().reload = true;
        self.changed.notify_all();
        let mut heard = Instant::now();
        while !self.has_ended() {
            match subscription.get_message() {
                Ok(_) => {
                    heard = Instant::now();
                    self.state.lock().reload = true;
                    self.changed.notify_all();
                }
                Err(error) if error.is_timeout() => {
                    if heard.elapsed() >= SILENCE {
                        subscription.ping::<::redis::Value>().map_err(failed)?;
                        heard = Instant::now();
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Reads what is live, and makes it so here.
    fn follow(&self, mut link: Link) {
        let mut backoff = Backoff::default();
        let mut pace = Pace::new();
        // The bytes that were looked at and need no second look.
        let mut known = None;
        let mut next = Instant::now();
        loop {
            {
                let mut state = self.state.lock();
                while !state.ended && !state.reload && Instant::now() < next {
                    self.changed.wait_until(&mut state, next);
                }
                if state.ended {
                    return;
                }
            }
            self.pause(pace.wait());
            // From here on a hint means another look.
            self.state.lock().reload = false;
            match self.look(&mut link, &mut known, &mut pace) {
                Ok(()) => {
                    backoff = Backoff::default();
                    let jitter = Duration::from_millis(fastrand::u64(0..1_000));
                    next = Instant::now() + POLL - jitter;
                    self.note(|state| &mut state.follower, Ok(()));
                }
                Err(outage) => {
                    known = None;
                    next = Instant::now() + backoff.next();
                    self.note(|state| &mut state.follower, Err(outage));
                }
            }
        }
    }

    fn look(
        &self,
        link: &mut Link,
        known: &mut Option<Digest>,
        pace: &mut Pace,
    ) -> Result<(), Outage> {
        let redis = self.redis();
        match redis.look(link, *known)? {
            Found::Same => {}
            Found::Nothing => {
                *known = None;
                let running = redis.last_good().manifest();
                let mut state = self.state.lock();
                state.refused = None;
                state.behind = (running.revision > 0).then_some(0);
                drop(state);
                // Nothing was ever published: the empty config is the right one.
                if matches!(self.store.next_revision(), Ok(1)) {
                    self.gate.note_config_known();
                }
            }
            Found::Document { digest, manifest } => {
                let settled = match manifest {
                    Ok(manifest) => self.consider(link, manifest, pace),
                    Err(reason) => {
                        self.refuse(0, reason);
                        true
                    }
                };
                *known = settled.then_some(digest);
            }
        }
        Ok(())
    }

    /// Makes a manifest live if it takes the place of what runs; false if it is worth another try
    /// although it does not change.
    fn consider(&self, link: &mut Link, manifest: Manifest, pace: &mut Pace) -> bool {
        let redis = self.redis();
        // Held until it is in force: a publish at this gate comes before or after.
        let change = self.gate.begin_change();
        let running = redis.last_good().manifest();
        let number = manifest.revision;
        let is_older = number > 0 && is_older(&manifest, &running);
        let Some(manifest) = superseding(manifest, &running) else {
            let mut state = self.state.lock();
            if is_older && state.behind != Some(number) {
                warn!(
                    in_force = running.revision,
                    in_redis = number,
                    "Redis has an older revision than is in force here; publish again to mend it"
                );
            }
            state.behind = is_older.then_some(number);
            state.refused = None;
            return true;
        };
        pace.take();
        let link = RefCell::new(link);
        let modules = |digest| redis.module_bytes_over(&mut link.borrow_mut(), digest);
        let checked = check_found(redis, &manifest, &running, self.gate.output_policy());
        match checked.and_then(|()| change.prepare(&manifest, &modules)) {
            Ok(prepared) => {
                let took = change.apply(prepared);
                redis.last_good().keep(&manifest);
                drop(change);
                self.note_applied(manifest.revision, took);
                true
            }
            Err(error) => {
                drop(change);
                // What is missing may come yet.
                let settled = match &error {
                    BuildError::Invalid(fault) => fault.code != "unknown_module",
                    BuildError::Store(_) => false,
                };
                self.refuse(number, error.to_string());
                settled
            }
        }
    }

    /// Tells the others what this gate runs.
    fn tell(&self, mut link: Link) {
        loop {
            let node = {
                let mut state = self.state.lock();
                let next = Instant::now() + HEARTBEAT;
                while !state.tell && !state.ended && Instant::now() < next {
                    self.changed.wait_until(&mut state, next);
                }
                if state.ended {
                    return;
                }
                state.tell = false;
                self.node(&state)
            };
            self.warn_of_namesake(&node);
            let state = serde_json::to_vec(&node).unwrap_or_default();
            let told = Redis::put_node(&mut link, &node.id, &state, LIFETIME);
            let failed = told.is_err();
            self.note(|state| &mut state.herald, told);
            if failed {
                self.pause(Duration::from_millis(fastrand::u64(500..1_500)));
                self.state.lock().tell = true;
            }
        }
    }

    /// Two gates of one name overwrite each other's state: a publish would wait for one only.
    fn warn_of_namesake(&self, node: &Node) {
        if self.state.lock().told_of_namesake {
            return;
        }
        let Ok(states) = self.redis().nodes() else {
            return;
        };
        let others = states
            .iter()
            .filter_map(|state| serde_json::from_slice::<Node>(state).ok());
        let has_namesake = others
            .filter(|other| other.id == node.id && other.instance != node.instance)
            // A gate that was started again finds what it said itself before.
            .any(|other| other.applied_at > node.applied_at);
        if has_namesake {
            self.state.lock().told_of_namesake = true;
            warn!(
                name = node.id,
                "another gate has the same name; give each its own with `--node`"
            );
        }
    }

    fn node(&self, state: &State) -> Node {
        Node {
            id: self.gate.id().to_owned(),
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: state.applied.revision,
            apply_ms: state.applied.took.as_secs_f64() * 1_000.0,
            applied_at: state.applied.at,
            refused: state.refused.as_ref().map(Refusal::told),
        }
    }

    fn note_applied(&self, revision: u64, took: Duration) {
        let mut state = self.state.lock();
        state.applied = Applied {
            revision,
            took,
            at: now(),
        };
        state.counters.applied += 1;
        state.refused = None;
        state.behind = None;
        state.tell = true;
        self.changed.notify_all();
    }

    fn refuse(&self, revision: u64, reason: String) {
        let mut state = self.state.lock();
        let is_new = state
            .refused
            .as_ref()
            .is_none_or(|refused| refused.revision != revision || refused.reason != reason);
        if !is_new {
            return;
        }
        warn!(
            revision,
            reason, "a manifest in Redis is not taken; the last good one stays in force"
        );
        state.refused = Some(Refusal {
            revision,
            reason,
            at: now(),
        });
        state.counters.refused += 1;
        state.tell = true;
        self.changed.notify_all();
    }

    /// Notes how a thread got on with Redis; told in the log when that changes.
    fn note(&self, of: fn(&mut State) -> &mut Health, result: Result<(), Outage>) {
        let mut state = self.state.lock();
        if let Err(outage) = &result {
            let at = Fault::ALL.iter().position(|fault| *fault == outage.fault);
            state.counters.faults[at.expect("`ALL` has all of them")] += 1;
        }
        let health = of(&mut state);
        let (was_well, is_well) = (health.is_well(), result.is_ok());
        let is_first = health.last.is_none();
        if is_first || was_well != is_well {
            health.since = Instant::now();
        }
        match &result {
            Err(outage) if is_first || was_well => warn!(
                redis = self.redis().shown(),
                reason = %outage,
                "Redis cannot be used, {}; the gate goes on with the last good config", health.work
            ),
            Ok(()) if !is_first && !was_well => {
                info!(
                    redis = self.redis().shown(),
                    "Redis can be used again, {}", health.work
                );
            }
            _ => {}
        }
        health.last = Some(result);
    }

    fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Waits for so long, or until the end.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.ended && Instant::now() < until {
            self.changed.wait_until(&mut state, until);
        }
    }
}

impl Health {
    fn new(work: &'static str) -> Self {
        Self {
            work,
            last: None,
            since: Instant::now(),
        }
    }

    fn is_well(&self) -> bool {
        matches!(self.last, Some(Ok(())))
    }

    fn outage(&self) -> Option<&Outage> {
        self.last.as_ref()?.as_ref().err()
    }
}

impl Refusal {
    fn told(&self) -> RefusedManifest {
        RefusedManifest {
            revision: self.revision,
            reason: self.reason.chars().take(MAX_REASON_CHARS).collect(),
            at: self.at,
        }
    }
}

/// Times between tries: doubled each time, and a random half of it, so that gates do not come back
/// in step.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let longest = Duration::from_millis(200) * 2_u32.pow(self.failures.min(10));
        self.failures += 1;
        let longest = longest.min(MAX_BACKOFF);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Allows [`BURST`] changes at once and one more each [`PACE`].
#[derive(Debug)]
struct Pace {
    /// Up to when the changes that were made are paid for.
    paid: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            paid: Instant::now(),
        }
    }

    /// How long the next change has to wait.
    fn wait(&self) -> Duration {
        let allowed = self.paid.checked_sub(PACE * (BURST - 1));
        allowed.map_or(Duration::ZERO, |allowed| {
            allowed.saturating_duration_since(Instant::now())
        })
    }

    fn take(&mut self) {
        self.paid = self.paid.max(Instant::now()) + PACE;
    }
}

fn now() -> f64 {
    // A clock before 1970 is wrong, and no reason to fail.
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_allows_a_burst_and_then_ten_a_second_at_most() {
        let mut pace = Pace::new();
        for _ in 0..BURST {
            assert_eq!(pace.wait(), Duration::ZERO);
            pace.take();
        }
        assert!(pace.wait() > Duration::ZERO);
        let begun = Instant::now();
        let mut made = BURST;
        while pace.paid < begun + Duration::from_secs(1) {
            pace.take();
            made += 1;
        }
        assert!(made <= 10, "{made} changes in a second");
    }

    #[test]
    fn backoff_is_bounded() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert!(backoff.next() <= MAX_BACKOFF);
        }
    }
}
