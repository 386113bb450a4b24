//! What becomes of a batch in which rules panic.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicU64, Ordering},
};

use proptest::prelude::*;
use serde_json::json;
use streamgate_guest::{Editor, Event, Rest, Rewrite, WITHHELD};

use super::*;

/// A rule that panics on purpose: on events that begin with `p` when it decides on them, and on
/// those with an `s` when it searches for them. It drops those with a `d`, and puts an `R` before
/// an `r`.
#[derive(Debug, Clone)]
pub(super) struct Faulty {
    /// Events that it was asked about, all copies together.
    asked: Arc<AtomicU64>,
    /// Panics before or after its edit.
    outside: Option<&'static str>,
}

fn panic_quietly() -> ! {
    // Past the hook, which would write a message.
    resume_unwind(Box::new("on purpose"))
}

impl Editor for Faulty {
    fn next(&mut self, slice: &[u8], mut at: usize) -> Option<usize> {
        while at < slice.len() {
            match slice[at] {
                b's' => panic_quietly(),
                b'd' | b'r' | b'p' => return Some(at),
                _ => at += memchr::memchr(b'\n', &slice[at..])? + 1,
            }
        }
        None
    }

    fn decide(&mut self, event: Event<'_>, rewrite: &mut Rewrite<'_>) -> Verdict {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match event.body()[0] {
            b'd' => Verdict::Drop,
            b'r' => rewrite.replace(&[b"R", event.body()].concat()),
            _ => panic_quietly(),
        }
    }
}

impl Faulty {
    pub(super) fn process_into(&mut self, batch: &mut Batch, tally: &mut Tally) {
        if self.outside == Some("before") {
            panic_quietly();
        }
        let edited = batch.edit_with(Rest::Keep, self);
        if self.outside == Some("after") {
            panic_quietly();
        }
        *tally += edited.into();
    }
}

fn rule(kind: &str, params: &serde_json::Value) -> Rule {
    let rule = json!({"id": kind, "type": kind, "params": params});
    serde_json::from_value(rule).expect("a rule")
}

/// A chain of a faulty rule, and a filter behind it that drops what has an `x`.
struct Setup {
    books: Arc<Books>,
    compiled: CompiledChain,
    chain: Chain,
    asked: Arc<AtomicU64>,
}

impl Setup {
    fn new(on_error: OnError, outside: Option<&'static str>) -> Self {
        let books = Arc::new(Books::default());
        let filter = build_builtin(&rule("filter", &json!({"value": "x"})), None);
        let asked = Arc::new(AtomicU64::new(0));
        let faulty = Compiled::Faulty(Faulty {
            asked: Arc::clone(&asked),
            outside,
        });
        let step = |processor, on_error, id: &str| Step {
            processor,
            on_overload: OnOverload::Enforce,
            on_error,
            rule: NamedRule {
                id: id.to_owned(),
                kind: id.to_owned(),
                account: books.open_rule(),
            },
        };
        let steps = vec![
            step(faulty, on_error, "faulty"),
            step(filter.expect("valid"), OnError::Pass, "filter"),
        ];
        let compiled = CompiledChain {
            fused: fuse(&steps),
            steps,
        };
        let chain = compiled.for_worker(Chain::default());
        Self {
            books,
            compiled,
            chain,
            asked,
        }
    }

    fn run(&mut self, lines: &str) -> (Vec<u8>, Tally, Tally) {
        let mut batch = Batch::from_lines(lines);
        let events = batch.events() as u64;
        self.chain.run(&self.compiled, &mut batch, false);
        let tallies = [0, 1].map(|at| self.chain.steps[at].ran.tally);
        let dropped: u64 = tallies
            .iter()
            .map(|tally| tally.dropped + tally.failed_dropped)
            .sum();
        // The books balance.
        assert_eq!(batch.events() as u64 + dropped, events);
        assert_eq!(batch.iter().count(), batch.events());
        if events > 0 {
            let seen = events - tallies[0].dropped - tallies[0].failed_dropped;
            assert_eq!(self.chain.steps[0].seen, events);
            assert_eq!(self.chain.steps[1].seen, seen);
        }
        let _ = &self.books;
        let left = batch.slices().flatten().copied().collect();
        (left, tallies[0], tallies[1])
    }
}

/// What it must come to, one event after the other.
fn slowly(lines: &[String], on_error: OnError) -> (Vec<u8>, Tally, Tally) {
    let (mut left, mut faulty, mut filter) = (Vec::new(), Tally::default(), Tally::default());
    for line in lines {
        let line = line.as_bytes();
        let after = match line[0] {
            b'd' => {
                faulty.dropped += 1;
                continue;
            }
            b'r' => {
                faulty.changed += 1;
                [b"R", line].concat()
            }
            b'p' | b's' => match on_error {
                OnError::Drop => {
                    faulty.failed_dropped += 1;
                    continue;
                }
                OnError::Mask => {
                    faulty.failed += 1;
                    [WITHHELD, b"\n"].concat()
                }
                OnError::Pass => {
                    faulty.failed += 1;
                    line.to_vec()
                }
            },
            _ => line.to_vec(),
        };
        match after.contains(&b'x') {
            true => filter.dropped += 1,
            false => left.extend(after),
        }
    }
    (left, faulty, filter)
}

proptest! {
    #[test]
    fn only_the_event_that_a_rule_panics_on_meets_on_error(
        lines in prop::collection::vec("[drpsxyz][a-cx]{0,3}\n", 0..30),
        on_error in prop::sample::select(vec![OnError::Pass, OnError::Mask, OnError::Drop]),
    ) {
        let mut setup = Setup::new(on_error, None);
        prop_assert_eq!(setup.run(&lines.concat()), slowly(&lines, on_error));
        let asked = lines.iter().filter(|line| line.starts_with(['d', 'r', 'p'])).count();
        prop_assert_eq!(setup.asked.load(Ordering::Relaxed), asked as u64);
        let guilty = lines.iter().filter(|line| line.starts_with(['p', 's'])).count() as u64;
        let panicked: u64 = setup.chain.panicked().map(|(_, events)| events).sum();
        prop_assert_eq!(panicked, guilty);
        // The next batch is as any other.
        prop_assert_eq!(setup.run("y\n").0, b"y\n");
        prop_assert_eq!(setup.chain.panicked().count(), 0);
    }
}

#[test]
fn rest_of_a_batch_with_many_guilty_events_meets_on_error_as_a_whole() {
    let lines = "y\np\n".repeat(MOST_PANICS) + &"y\np\nr\nd\n".repeat(100);
    let mut setup = Setup::new(OnError::Mask, None);
    let (left, faulty, filter) = setup.run(&lines);
    let withheld = [WITHHELD, b"\n"].concat();
    let one_by_one = [b"y\n", withheld.as_slice()].concat();
    assert!(left == [one_by_one.repeat(MOST_PANICS), withheld.repeat(400)].concat());
    assert_eq!(faulty.failed, MOST_PANICS as u64 + 400);
    assert_eq!(filter, Tally::default());
    // Dropped is what `drop` drops, and the batch is empty then.
    let mut setup = Setup::new(OnError::Drop, None);
    let (left, faulty, _) = setup.run(&"p\n".repeat(200));
    assert_eq!((left.len(), faulty.failed_dropped), (0, 200));
}

#[test]
fn panic_outside_of_an_edit_is_about_all_events() {
    for outside in ["before", "after"] {
        let mut setup = Setup::new(OnError::Mask, Some(outside));
        let (left, faulty, _) = setup.run("a\nd\nr\n");
        let (dropped, failed) = match outside {
            "before" => (0, 3),
            _ => (1, 2),
        };
        assert_eq!(faulty.dropped, dropped, "{outside}");
        assert_eq!(faulty.failed, failed as u64, "{outside}");
        assert!(left == [WITHHELD, b"\n"].concat().repeat(failed));
    }
}

#[test]
fn fused_rules_are_asked_one_by_one_about_a_guilty_event() {
    // No native rule panics on purpose; what decides on a guilty event is asked about one that is
    // not.
    let rules = ["one", "two"].map(|word| rule("redact", &json!({"pattern": word})));
    let books = Arc::new(Books::default());
    let wasm = Wasm::new(1, crate::wasm::Compiler::Here, None);
    let parts = Parts {
        books: &books,
        wasm: &wasm,
        modules: &|_| Ok(None),
    };
    let compiled = CompiledChain::build(&rules, parts, None).expect("valid");
    let mut chain = compiled.for_worker(Chain::default());
    let mut batch = Batch::from_lines("one two\n");
    decide_on_guilty(&mut chain.steps, &compiled.steps, &mut batch);
    let left: Vec<u8> = batch.slices().flatten().copied().collect();
    assert_eq!(left, b"[REDACTED] [REDACTED]\n");
    let changed = chain.steps.iter().map(|step| step.ran.tally.changed);
    assert_eq!(changed.collect::<Vec<_>>(), [1, 1]);
    let copies = &compiled.steps;
    renew(&mut chain.steps[0], &compiled, copies, true);
    assert!(matches!(&chain.steps[0].processor, Copied::Fused(_, tallies) if tallies.len() == 2));
}

#[test]
fn what_rules_could_not_tell_the_fields_of_is_booked_for_each() {
    let in_field = |id: &str, field: &str, text: &str| {
        let params = json!({"pattern": text, "fields": [field], "on_unstructured": "pass"});
        let rule = json!({"id": id, "type": "redact", "params": params});
        serde_json::from_value::<Rule>(rule).expect("a rule")
    };
    let broken = r#"{"a" "one two""#;
    let lines = [
        r#"{"a":"one two"}"#,
        broken,
        "one",
        r#"{"b":"one two"}"#,
        "no",
        "",
    ]
    .join("\n");
    // Alone, and fused with others.
    for rules in [
        vec![in_field("one", "a", "one")],
        vec![in_field("one", "a", "one"), in_field("two", "b", "two")],
    ] {
        let books = Arc::new(Books::default());
        let wasm = Wasm::new(1, crate::wasm::Compiler::Here, None);
        let parts = Parts {
            books: &books,
            wasm: &wasm,
            modules: &|_| Ok(None),
        };
        let compiled = CompiledChain::build(&rules, parts, None).expect("valid");
        let mut chain = compiled.for_worker(Chain::default());
        for _ in 0..2 {
            let mut batch = Batch::from_lines(lines.as_str());
            chain.run(&compiled, &mut batch, false);
            books.settle(|ledger| chain.book(ledger));
        }
        let stats = books.stats(1, &compiled.rules(), &[]);
        let notes: Vec<_> = stats.pipelines[0]
            .rules
            .iter()
            .map(|rule| (rule.unstructured, rule.no_fields))
            .collect();
        assert_eq!(notes, [(2, 4), (2, 2)][..rules.len()]);
    }
}
