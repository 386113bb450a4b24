//! `dedupe`: drops events that are repeated within a time, and says on the next one how many.
//!
//! | parameter | means | default |
//! | --- | --- | --- |
//! | `key` | a JSON field or a list of up to 8: events whose values are alike are the same; named as for `sample`. An event that has none of them passes | the whole event |
//! | `window_seconds` | of events that are the same, the first passes, and then none for so long; 0.001 to 86,400 | 60 |
//! | `count_field` | a field that is added at the top level of a JSON event that passes after others were dropped: how many | none |
//! | `count_suffix` | what is appended to such an event that is no JSON; `{count}` stands for the number | nothing |
//! | `max_keys` | how many different events are remembered, at most 1,000,000 | 100,000 |
//!
//! What is remembered is shared by all workers: an event is a repetition whichever connection it came
//! over. An event takes about 64 bytes of memory, and when there is no more room, one that was not
//! repeated lately is forgotten: it passes once more than it should, and how many were dropped is not
//! said. The first of a window is never dropped, and a window does not grow with what is dropped.
//!
//! Events are the same if 128 bits of their XXH3 are, under a seed that is drawn when the rule is built.
//! A count that has no room in the batch is left out, and the event counts as `failed`.

use std::sync::Arc;

use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Rewrite, Tally, Verdict};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::{
    Clock, RuleError,
    clock::nanoseconds,
    json,
    key::{Key, Names},
    memory::{Memory, Plan, Spent, max_keys},
    sample::Record,
    shown,
};

/// Longest `count_suffix`.
const MAX_SUFFIX_BYTES: usize = 256;

/// Stands for a count in `count_suffix`.
const COUNT: &str = "{count}";

/// The decision to drop an event; all others are how many were dropped before it.
const DROP: u32 = u32::MAX;

/// Drops events that are repeated within a time.
#[derive(Debug, Clone)]
pub struct Dedupe {
    params: Params,
    key: Option<Key>,
    window_ns: u64,
    field: Option<Record>,
    suffix: Option<Suffix>,
    remembered: Arc<Remembered>,
    clock: Clock,
    plan: Plan<u32>,
    /// Events of the batch that there was no room to write in.
    no_room: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    key: Option<Names>,
    window_seconds: Option<f64>,
    count_field: Option<String>,
    count_suffix: Option<String>,
    max_keys: Option<usize>,
}

/// What all workers share.
#[derive(Debug)]
struct Remembered {
    seed: u64,
    windows: Memory<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// When it ends; 0 before the first event.
    end_ns: u64,
    dropped: u32,
}

impl Spent for Window {
    fn is_spent(&self, now_ns: u64) -> bool {
        // The count waits for the next event, unless there is no room for it.
        self.dropped == 0 && now_ns >= self.end_ns
    }
}

/// Appends a count to a text.
#[derive(Debug, Clone)]
struct Suffix {
    before: String,
    behind: String,
    written: Vec<u8>,
}

impl Dedupe {
    pub(crate) fn build(params: Params) -> Result<Self, RuleError> {
        let window = params.window_seconds.unwrap_or(60.0);
        if !(0.001..=86_400.0).contains(&window) {
            return Err(RuleError::new(
                "invalid_window",
                "/params/window_seconds",
                format!("`window_seconds` is {window}; expected seconds, from 0.001 to 86400"),
            ));
        }
        let field = params.count_field.as_deref();
        Ok(Self {
            key: params.key.as_ref().map(Key::build).transpose()?,
            window_ns: nanoseconds(window),
            field: field
                .map(|name| Record::build(name, "/params/count_field"))
                .transpose()?,
            suffix: params
                .count_suffix
                .as_deref()
                .map(Suffix::build)
                .transpose()?,
            remembered: Arc::new(Remembered {
                seed: fastrand::u64(..),
                windows: Memory::new(max_keys(params.max_keys)?),
            }),
            clock: Clock::default(),
            plan: Plan::default(),
            no_room: 0,
            params,
        })
    }

    pub(crate) fn look_at(&mut self, clock: &Clock) {
        self.clock = clock.clone();
    }

    /// Goes on in the middle of a batch.
    pub(crate) fn resume_from(&mut self, interrupted: &mut Self) {
        self.plan.go_on_from(&mut interrupted.plan);
        self.no_room = interrupted.no_room;
        if let (Some(field), Some(interrupted)) = (&mut self.field, &interrupted.field) {
            field.resume_from(interrupted);
        }
    }

    /// Books the events that there was no room to write in.
    fn tally(&mut self, mut tally: Tally) -> Tally {
        if let Some(field) = &mut self.field {
            tally = field.tally(tally);
        }
        tally.failed += std::mem::take(&mut self.no_room);
        tally
    }

    pub(crate) fn continue_from(&mut self, previous: &Self) {
        if self.params == previous.params {
            self.remembered = Arc::clone(&previous.remembered);
        }
    }
}

impl Processor for Dedupe {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let Self {
            key,
            window_ns,
            field,
            suffix,
            remembered,
            clock,
            plan,
            no_room,
            ..
        } = self;
        let now_ns = clock.now_ns();
        let key_of = |body: &[u8]| match &*key {
            Some(key) => key.hash(body, remembered.seed),
            None => Some(xxh3_128_with_seed(body, remembered.seed)),
        };
        let decide = |window: &mut Window| {
            if now_ns < window.end_ns {
                window.dropped = window.dropped.saturating_add(1).min(DROP - 1);
                return DROP;
            }
            window.end_ns = now_ns.saturating_add(*window_ns);
            std::mem::take(&mut window.dropped)
        };
        let windows = &remembered.windows;
        plan.make(
            batch,
            windows,
            now_ns,
            0,
            |event| key_of(event.body()),
            decide,
        );
        if plan.is_all(0) {
            return self.tally(Tally::default());
        }

        let edited = batch.edit_each(|event, rewrite| match plan.next() {
            0 => Verdict::Keep,
            DROP => Verdict::Drop,
            dropped => {
                let body = event.body();
                let written = field
                    .as_mut()
                    .and_then(|field| field.set(body, f64::from(dropped), rewrite));
                written.unwrap_or_else(|| match suffix {
                    Some(suffix) if !json::is_value(body) => {
                        let verdict = suffix.append(body, dropped, rewrite);
                        *no_room += u64::from(verdict == Verdict::Keep);
                        verdict
                    }
                    _ => Verdict::Keep,
                })
            }
        });
        self.tally(edited.into())
    }
}

impl Suffix {
    fn build(suffix: &str) -> Result<Self, RuleError> {
        let refuse = |message: String| {
            Err(RuleError::new(
                "invalid_suffix",
                "/params/count_suffix",
                message,
            ))
        };
        let Some((before, behind)) = suffix.split_once(COUNT) else {
            return refuse(format!(
                "`count_suffix` is `{}`, without `{COUNT}`; expected it where the number is to stand",
                shown(suffix)
            ));
        };
        if suffix.len() > MAX_SUFFIX_BYTES || suffix.contains(['\n', '\r']) {
            return refuse(format!(
                "`count_suffix` has {} bytes; expected at most {MAX_SUFFIX_BYTES}, and no line end",
                suffix.len()
            ));
        }
        Ok(Self {
            before: before.to_owned(),
            behind: behind.to_owned(),
            written: Vec::new(),
        })
    }

    fn append(&mut self, body: &[u8], count: u32, rewrite: &mut Rewrite<'_>) -> Verdict {
        let written = &mut self.written;
        written.clear();
        written.extend_from_slice(body);
        written.extend_from_slice(self.before.as_bytes());
        json::member::write_number(f64::from(count), written);
        written.extend_from_slice(self.behind.as_bytes());
        match rewrite.push(written) {
            Ok(()) => Verdict::Replace,
            Err(_) => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Builtin, OnError, clock::testing::Hand};

    fn dedupe(params: &Value, hand: &Hand) -> Builtin {
        let params = params.as_object().expect("an object");
        let rule = Builtin::build("dedupe", params, OnError::Pass).expect("valid");
        rule.for_worker(0, &hand.clock())
    }

    fn left(rule: &mut Builtin, events: &str) -> Vec<String> {
        let mut batch = Batch::from_lines(events);
        let before = batch.events() as u64;
        let tally = rule.process(&mut batch);
        assert_eq!(batch.events() as u64 + tally.dropped, before);
        batch
            .iter()
            .map(|event| event.text().into_owned())
            .collect()
    }

    #[test]
    fn the_first_of_a_window_passes_and_the_next_one_says_how_many_did_not() {
        let hand = Hand::default();
        let mut rule = dedupe(
            &json!({
                "window_seconds": 10, "count_field": "repeated",
                "count_suffix": " [{count} times more]",
            }),
            &hand,
        );
        let text = "down\nup\ndown\n{\"a\":1}\ndown\n{\"a\":1}\n[1]\n[1]\n";
        assert_eq!(left(&mut rule, text), ["down", "up", "{\"a\":1}", "[1]"]);
        hand.pass(9.999);
        assert_eq!(left(&mut rule, "down\n"), [""; 0]);
        hand.pass(0.001);
        assert_eq!(
            left(&mut rule, text),
            [
                "down [3 times more]",
                "up",
                "{\"a\":1,\"repeated\":1}",
                // It would be JSON no more.
                "[1]"
            ]
        );
    }

    #[test]
    fn a_window_does_not_grow_with_what_is_dropped() {
        let hand = Hand::default();
        let mut rule = dedupe(&json!({"window_seconds": 1}), &hand);
        let passes = (0..100).map(|_| {
            hand.pass(0.1);
            left(&mut rule, "x\n").len()
        });
        assert_eq!(passes.sum::<usize>(), 10);
    }

    #[test]
    fn a_key_of_several_fields_tells_apart_what_one_does_not() {
        let mut rule = dedupe(&json!({"key": ["host", "msg"]}), &Hand::default());
        let events = [
            r#"{"host":"a","msg":"x","n":1}"#,
            r#"{"host":"b","msg":"x","n":2}"#,
            r#"{"msg":"x","n":3}"#,
            r#"{"host":"x","n":4}"#,
            r#"{"host":"a","msg":"x","n":5}"#,
            r#"{"n":6}"#,
            r#"{"n":6}"#,
        ];
        let expected: Vec<&str> = events
            .iter()
            .copied()
            .filter(|e| !e.contains('5'))
            .collect();
        assert_eq!(left(&mut rule, &events.join("\n")), expected);
    }

    #[test]
    fn workers_and_unchanged_revisions_share_what_is_remembered() {
        let hand = Hand::default();
        let params = json!({"window_seconds": 10});
        let mut first = dedupe(&params, &hand);
        let mut second = first.for_worker(1, &hand.clock());
        assert_eq!(left(&mut first, "x\n").len(), 1);
        assert_eq!(left(&mut second, "x\n").len(), 0);
        let mut revision = dedupe(&params, &hand);
        revision.continue_from(&first);
        assert_eq!(left(&mut revision, "x\n").len(), 0);
        let mut changed = dedupe(&json!({"window_seconds": 11}), &hand);
        changed.continue_from(&first);
        assert_eq!(left(&mut changed, "x\n").len(), 1);
    }

    proptest! {
        /// With more keys than there is room for, too: then events pass more often, never less.
        #[test]
        fn the_first_of_a_window_is_never_lost(
            max_keys in 1..40_usize,
            steps in prop::collection::vec((0.0..0.7_f64, prop::collection::vec(0..20_u8, 0..20)), 1..40),
        ) {
            let hand = Hand::default();
            let window = 1.0;
            let params = json!({"window_seconds": window, "max_keys": max_keys, "key": "k"});
            let mut rule = dedupe(&params, &hand);
            let mut passed_at: HashMap<u8, f64> = HashMap::new();
            let mut at = 0.0;
            for (pause, keys) in steps {
                hand.pass(pause);
                at += pause;
                let events: String = keys
                    .iter()
                    .enumerate()
                    .map(|(n, key)| format!("{{\"k\":{key},\"n\":{n}}}\n"))
                    .collect();
                let left = left(&mut rule, &events);
                for (n, key) in keys.iter().enumerate() {
                    let passed = left.contains(&format!("{{\"k\":{key},\"n\":{n}}}"));
                    let since = passed_at.get(key).map(|passed| at - passed);
                    if passed {
                        // With room for all, exactly one in a window passes.
                        if max_keys >= 20 {
                            prop_assert!(since.is_none_or(|since| since >= window - 1e-6));
                        }
                        passed_at.insert(*key, at);
                    } else {
                        prop_assert!(since.is_some_and(|since| since < window + 1e-6));
                    }
                }
            }
        }
    }
}
