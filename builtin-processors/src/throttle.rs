//! `throttle`: lets pass so many events a second, and drops the rest.
//!
//! | parameter | means | default |
//! | --- | --- | --- |
//! | `per_second` | how many events pass in the long run, 0.001 to 1,000,000; all workers together | required |
//! | `burst` | how many may pass at once after a pause, 1 to 1,000,000 | `per_second`, rounded up |
//! | `key` | a JSON field or a list of up to 8: each value has a rate of its own; named as for `sample`. Events that have none of them share one | one rate for all |
//! | `max_keys` | how many values are remembered, at most 1,000,000 | 100,000 |
//!
//! In any `t` seconds at most `per_second * t + burst` events of a key pass. Time is looked at once a
//! batch, so of a batch the first ones pass.
//!
//! The state of a key is one instant, when its events would have come had they come evenly; one that has
//! passed says no more than no state at all, so keys that are idle cost nothing for long. A key takes
//! about 48 bytes. With more active keys than there is room for, one that was not seen lately is
//! forgotten, and may have its burst again.
//!
//! Source: ITU-T I.371, generic cell rate algorithm, virtual scheduling. The time between two events is
//! rounded up to nanoseconds, so that the rate is kept to, and missed by 0.1 % at most.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Tally};

use crate::{
    Clock, RuleError,
    clock::nanoseconds,
    key::{Key, Names},
    memory::{Memory, Plan, Spent, max_keys},
};

/// Lets pass so many events a second.
#[derive(Debug, Clone)]
pub struct Throttle {
    params: Params,
    key: Option<Key>,
    limit: Limit,
    remembered: Arc<Remembered>,
    clock: Clock,
    plan: Plan<bool>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    per_second: f64,
    burst: Option<u64>,
    key: Option<Names>,
    max_keys: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    /// Time between two events at the rate.
    increment_ns: u64,
    /// Time that a full burst is ahead.
    burst_ns: u64,
}

/// What all workers share.
#[derive(Debug)]
struct Remembered {
    seed: u64,
    /// For a rule without a key: no lock, and one step for a whole batch.
    one: AtomicU64,
    keys: Memory<Arrival>,
}

/// When the next event of a key would come if its events came evenly ("theoretical arrival time").
#[derive(Debug, Default)]
struct Arrival(u64);

impl Spent for Arrival {
    fn is_spent(&self, now_ns: u64) -> bool {
        self.0 <= now_ns
    }
}

impl Throttle {
    pub(crate) fn build(params: Params) -> Result<Self, RuleError> {
        let rate = params.per_second;
        if !(0.001..=1e6).contains(&rate) {
            return Err(RuleError::new(
                "invalid_rate",
                "/params/per_second",
                format!("`per_second` is {rate}; expected events a second, from 0.001 to 1000000"),
            ));
        }
        if let Some(burst) = params.burst
            && !(1..=1_000_000).contains(&burst)
        {
            return Err(RuleError::new(
                "invalid_burst",
                "/params/burst",
                format!("`burst` is {burst}; expected 1 to 1000000 events"),
            ));
        }
        if params.max_keys.is_some() && params.key.is_none() {
            return Err(RuleError::new(
                "conflicting_params",
                "/params/max_keys",
                "`max_keys` is given without `key`; add one, or remove it",
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and a million"
        )]
        let burst = params.burst.unwrap_or(rate.ceil() as u64);
        let increment_ns = nanoseconds(1.0 / rate);
        Ok(Self {
            key: params.key.as_ref().map(Key::build).transpose()?,
            limit: Limit {
                increment_ns,
                // At most 10^12 * 10^6, which fits.
                burst_ns: increment_ns.saturating_mul(burst),
            },
            remembered: Arc::new(Remembered {
                seed: fastrand::u64(..),
                one: AtomicU64::new(0),
                keys: Memory::new(max_keys(params.max_keys)?),
            }),
            clock: Clock::default(),
            plan: Plan::default(),
            params,
        })
    }

    pub(crate) fn look_at(&mut self, clock: &Clock) {
        self.clock = clock.clone();
    }

    /// Goes on in the middle of a batch.
    pub(crate) fn resume_from(&mut self, interrupted: &mut Self) {
        self.plan.go_on_from(&mut interrupted.plan);
    }

    pub(crate) fn continue_from(&mut self, previous: &Self) {
        if self.params == previous.params {
            self.remembered = Arc::clone(&previous.remembered);
        }
    }
}

impl Processor for Throttle {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let Self {
            key,
            limit,
            remembered,
            clock,
            plan,
            ..
        } = self;
        let now_ns = clock.now_ns();
        let Some(key) = key else {
            let events = batch.events() as u64;
            let mut left = limit.admit_shared(&remembered.one, events, now_ns);
            if left == events {
                return Tally::default();
            }
            return Tally::dropped(batch.retain(|_| {
                let passes = left > 0;
                left -= u64::from(passes);
                passes
            }));
        };
        let key_of = |body: &[u8]| Some(key.hash(body, remembered.seed).unwrap_or(0));
        let decide = |arrival: &mut Arrival| limit.admit(&mut arrival.0, 1, now_ns) == 1;
        let keys = &remembered.keys;
        plan.make(
            batch,
            keys,
            now_ns,
            true,
            |event| key_of(event.body()),
            decide,
        );
        if plan.is_all(true) {
            return Tally::default();
        }
        Tally::dropped(batch.retain(|_| plan.next()))
    }
}

impl Limit {
    /// Admits as many of so many events as the rate allows now; returns how many.
    fn admit(self, arrival: &mut u64, events: u64, now_ns: u64) -> u64 {
        let next = (*arrival).max(now_ns);
        let room = now_ns.saturating_add(self.burst_ns).saturating_sub(next);
        let admitted = events.min(room / self.increment_ns);
        *arrival = next + admitted * self.increment_ns;
        admitted
    }

    fn admit_shared(self, arrival: &AtomicU64, events: u64, now_ns: u64) -> u64 {
        let mut admitted = 0;
        // It never fails: the closure always has an answer.
        let _ = arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            let mut after = before;
            admitted = self.admit(&mut after, events, now_ns);
            Some(after)
        });
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Builtin, OnError, clock::testing::Hand};

    fn throttle(params: &Value, hand: &Hand) -> Builtin {
        let params = params.as_object().expect("an object");
        let rule = Builtin::build("throttle", params, OnError::Pass).expect("valid");
        rule.for_worker(0, &hand.clock())
    }

    fn passed(rule: &mut Builtin, events: &str) -> usize {
        let mut batch = Batch::from_lines(events);
        let before = batch.events() as u64;
        let tally = rule.process(&mut batch);
        assert_eq!(batch.events() as u64 + tally.dropped, before);
        batch.events()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let hand = Hand::default();
        let mut rule = throttle(&json!({"per_second": 2, "burst": 5}), &hand);
        assert_eq!(passed(&mut rule, &"x\n".repeat(20)), 5);
        assert_eq!(passed(&mut rule, "x\n"), 0);
        hand.pass(0.5);
        assert_eq!(passed(&mut rule, "x\nx\n"), 1);
        hand.pass(100.0);
        assert_eq!(passed(&mut rule, &"x\n".repeat(20)), 5);
    }

    #[test]
    fn the_first_of_a_batch_pass() {
        let mut rule = throttle(&json!({"per_second": 2}), &Hand::default());
        let mut batch = Batch::from_lines("1\n2\n3\n4\n");
        rule.process(&mut batch);
        assert_eq!(batch.slices().collect::<Vec<_>>(), [b"1\n2\n"]);
    }

    #[test]
    fn the_burst_is_the_rate_rounded_up_by_default() {
        let mut rule = throttle(&json!({"per_second": 2.5}), &Hand::default());
        assert_eq!(passed(&mut rule, "1\n2\n3\n4\n"), 3);
    }

    #[test]
    fn each_key_has_a_rate_and_events_without_one_share_another() {
        let mut rule = throttle(
            &json!({"per_second": 1, "burst": 2, "key": "tenant"}),
            &Hand::default(),
        );
        let of = |tenant: &str| format!("{{\"tenant\":\"{tenant}\"}}\n");
        let events = [
            of("a").repeat(3),
            of("b"),
            "text\n".repeat(3),
            of("b").repeat(3),
        ];
        assert_eq!(passed(&mut rule, &events.concat()), 2 + 2 + 2);
    }

    #[test]
    fn all_workers_keep_to_one_rate() {
        let hand = Hand::default();
        for params in [
            json!({"per_second": 10}),
            json!({"per_second": 10, "key": "k"}),
        ] {
            let rule = throttle(&params, &hand);
            let threads: Vec<_> = (0..4)
                .map(|seed| {
                    let mut worker = rule.for_worker(seed, &hand.clock());
                    std::thread::spawn(move || {
                        (0..100)
                            .map(|_| passed(&mut worker, "{\"k\":1}\n{\"k\":1}\n"))
                            .sum::<usize>()
                    })
                })
                .collect();
            let total: usize = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .sum();
            assert_eq!(total, 10, "{params}");
        }
    }

    #[test]
    fn an_unchanged_rule_goes_on_and_a_changed_one_begins_anew() {
        let hand = Hand::default();
        let params = json!({"per_second": 1, "key": "k"});
        let mut before = throttle(&params, &hand);
        assert_eq!(passed(&mut before, "{\"k\":1}\n"), 1);
        for (params, passes) in [(params, 0), (json!({"per_second": 1.5, "key": "k"}), 1)] {
            let mut after = throttle(&params, &hand);
            after.continue_from(&before);
            assert_eq!(passed(&mut after, "{\"k\":1}\n"), passes, "{params}");
        }
    }

    #[test]
    fn bounds_are_those_that_the_arithmetic_has_room_for() {
        let hand = Hand::default();
        hand.pass(3e9);
        let mut slow = throttle(&json!({"per_second": 0.001, "burst": 1_000_000}), &hand);
        assert_eq!(passed(&mut slow, "x\nx\n"), 2);
        let mut fast = throttle(&json!({"per_second": 1e6, "burst": 1}), &hand);
        assert_eq!(passed(&mut fast, "x\nx\n"), 1);
    }

    proptest! {
        #[test]
        fn no_span_of_time_lets_more_pass_than_rate_and_burst(
            per_second in 0.5..5_000.0_f64,
            burst in 1..50_u64,
            steps in prop::collection::vec((0.0..0.2_f64, 0..3_usize, 1..60_usize), 1..60),
        ) {
            let hand = Hand::default();
            let params = json!({"per_second": per_second, "burst": burst, "key": "k"});
            let mut rule = throttle(&params, &hand);
            let mut one = throttle(&json!({"per_second": per_second, "burst": burst}), &hand);
            let mut at = 0.0;
            let mut log: HashMap<usize, Vec<(f64, usize)>> = HashMap::new();
            for (pause, key, events) in steps {
                hand.pass(pause);
                // The hand rounds up to nanoseconds.
                at += pause + 1e-9;
                let events = format!("{{\"k\":{key}}}\n").repeat(events);
                log.entry(key).or_default().push((at, passed(&mut rule, &events)));
                log.entry(99).or_default().push((at, passed(&mut one, &events)));
            }
            for times in log.values() {
                for (from, &(begin, _)) in times.iter().enumerate() {
                    let mut sum = 0;
                    for &(end, count) in &times[from..] {
                        sum += count;
                        let most = per_second * (end - begin) + burst as f64;
                        prop_assert!(sum as f64 <= most + 1e-6, "{} > {}", sum, most);
                    }
                }
            }
        }

        #[test]
        fn a_flow_below_the_rate_loses_nothing(
            per_second in 1.0..1_000.0_f64,
            pauses in prop::collection::vec(1.001..3.0_f64, 1..100),
        ) {
            let hand = Hand::default();
            let mut rule = throttle(&json!({"per_second": per_second, "burst": 1}), &hand);
            for pause in pauses {
                prop_assert_eq!(passed(&mut rule, "x\n"), 1);
                hand.pass(pause / per_second);
            }
        }
    }
}
