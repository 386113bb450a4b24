//! `redact`: replaces what must not leave.
//!
//! | parameter | means | default |
//! | --- | --- | --- |
//! | `pattern` | a regular expression (the syntax of the `regex` crate) | this or `detectors` is required |
//! | `detectors` | names of detectors, see [`crate::detectors`] | |
//! | `ignore_case` | whether upper and lower case are alike in `pattern`, and in the names in `fields` and `except_fields` | `false` |
//! | `text` | what `pattern` is matched with: `decoded`, the text that a reader sees, or `source`, the bytes as they are; `source` is refused with `detectors`, `fields` or `except_fields` | `decoded` |
//! | `action` | what is done to a match, see below | `replace` |
//! | `replacement` | for `replace`: what stands in its place; `$1`, `${name}` insert a group of `pattern`, `$$` a `$` | `[REDACTED]` |
//! | `keep_first`, `keep_last` | for `mask`: how many characters stay at each end | 0 |
//! | `key` | for `hash`: where the key is, `env:NAME` or `file:PATH`; 16 to 4096 bytes | required |
//! | `key_id` | for `hash`: the key's name, which stands before each hash | made from the key |
//! | `fields`, `except_fields` | JSON fields that the rule is about, or is not about | all, keys too |
//! | `on_unstructured` | with `fields` or `except_fields`: what becomes of an event that begins like JSON and cannot be read, see below | `mask` for a `pattern` with `fields`, else `scan` |
//! | `allow` | values that are left as they are | none |
//!
//! | action | a match becomes |
//! | --- | --- |
//! | `replace` | the `replacement` |
//! | `mask` | a `*` for each letter, digit and other character, with marks and blanks between them kept; if more than two thirds would stay, all are hidden |
//! | `hash` | `[<key id>:<32 letters>]`: the first 128 bits of HMAC-SHA256 under the key, so the same value has the same hash, whatever it is encoded by, and none can be guessed |
//! | `truncate` | its network: `/24` of an IPv4 address, `/48` of IPv6; what is no address is replaced by `[REDACTED]` |
//! | `drop` | nothing: the event is dropped |
//! | `tag` | what it was: the event is only counted as changed, which is a dry run |
//!
//! | `on_unstructured` | the event |
//! | --- | --- |
//! | `scan` | is looked at as a whole, as if the rule had no fields |
//! | `mask` | goes on, its body withheld: `[withheld by streamgate]` |
//! | `drop` | is dropped |
//! | `pass` | goes on as it is |
//!
//! A rule reads the texts of an event, which are decoded in this order: escapes of JSON, with JSON
//! inside JSON up to three levels; terminal codes; percent-encoding, twice; `+` in what is
//! percent-encoded. A match ends with the text that it begins in or, if it begins in a key and
//! needs more, with the key's value. A pattern that names an escape of JSON is matched with the
//! bytes too.
//!
//! Every match in an event is dealt with, from left to right. What lies outside the matches is
//! never changed, and a replacement cannot make a new event. An event that is valid JSON stays
//! valid JSON: new text is encoded for its place, a number becomes a text. What detectors find is
//! redacted until they find nothing new, so that redacting twice does what redacting once does. A
//! hash that the rule itself could have written is left, and exempts nothing around it.
//!
//! `fields` are paths as docs/rules.md says. A field that is an object or an array means all in it.
//! Plain text has no fields: with `fields` it is left alone, with `except_fields` it is redacted as
//! a whole. A value of a selected field that was cut off is hidden whole, in an event in which the
//! rule may match at all. [`Redact::take_notes`] counts the events in which fields could not be
//! told.
//!
//! Rules that follow one another are made into one by [`Redact::fuse`]: a single pass over the
//! bytes finds the events that any of them may be about. On such an event they run in order, each
//! on what the one before it left, and each has a tally of its own.

use streamgate_guest::{Batch, Processor, Tally};

use crate::{OnError, RuleError};

use self::{engine::Engine, rule::Rule};
pub use rule::Notes;
pub(crate) use rule::Params;

mod action;
mod engine;
mod fields;
mod key;
mod replacement;
mod rule;
mod search;
mod write;

/// Replaces what must not leave: one rule, or several fused.
#[derive(Debug, Clone)]
pub struct Redact {
    rules: Vec<Rule>,
    engine: Box<Engine>,
}

impl Redact {
    pub(crate) fn build(params: Params, on_error: OnError) -> Result<Self, RuleError> {
        let redact = Self::new(vec![Rule::build(params, on_error)?]);
        redact.refuse_detected_replacement()?;
        Ok(redact)
    }

    /// Makes one processor of rules that follow one another.
    pub fn fuse<'a>(rules: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::new(
            rules
                .into_iter()
                .flat_map(|redact| redact.rules.clone())
                .collect(),
        )
    }

    /// Applies the rules in order, and adds what each of them did to its tally.
    ///
    /// # Panics
    /// If there are not as many tallies as rules.
    pub fn process_each(&mut self, batch: &mut Batch, tallies: &mut [Tally]) {
        assert_eq!(tallies.len(), self.rules.len(), "each rule has a tally");
        self.engine.process(&mut self.rules, batch, tallies);
    }

    /// Returns, for each rule, of how many events it could not tell the fields, since that was
    /// asked for last.
    pub fn take_notes(&mut self) -> impl Iterator<Item = Notes> {
        self.rules
            .iter_mut()
            .map(|rule| std::mem::take(&mut rule.notes))
    }

    fn new(rules: Vec<Rule>) -> Self {
        let engine = Box::new(Engine::new(&rules));
        Self { rules, engine }
    }

    /// A replacement that the rule's own detectors find would be replaced again and again.
    fn refuse_detected_replacement(&self) -> Result<(), RuleError> {
        let Some(text) = self.rules.first().and_then(Rule::fixed_replacement) else {
            return Ok(());
        };
        let mut batch = Batch::from_lines([text, b"\n"].concat());
        self.clone().process(&mut batch);
        let same = batch
            .iter()
            .next()
            .is_some_and(|event| event.body() == text);
        match same {
            true => Ok(()),
            false => Err(RuleError::new(
                "replacement_is_detected",
                "/params/replacement",
                "`replacement` is itself what the rule's `detectors` find; choose another one",
            )),
        }
    }
}

impl Processor for Redact {
    /// Returns the sum of what the rules did.
    fn process(&mut self, batch: &mut Batch) -> Tally {
        if self.rules.len() == 1 {
            let mut tally = [Tally::default()];
            self.process_each(batch, &mut tally);
            return tally[0];
        }
        let mut tallies = vec![Tally::default(); self.rules.len()];
        self.process_each(batch, &mut tallies);
        let add = |a: Tally, b: Tally| Tally {
            dropped: a.dropped + b.dropped,
            changed: a.changed + b.changed,
            failed: a.failed + b.failed,
            failed_dropped: a.failed_dropped + b.failed_dropped,
        };
        tallies.into_iter().fold(Tally::default(), add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::{meta::Regex, util::syntax};

    use super::*;

    /// Replaces the slow way: the regex, from the start of each body. The match is put in `<>`, or
    /// left out of them.
    fn redact_slowly(regex: &Regex, body: &[u8], with_match: bool) -> Vec<u8> {
        let (mut out, mut copied) = (Vec::new(), 0);
        for found in regex.find_iter(body) {
            let shown = if with_match { found.range() } else { 0..0 };
            out.extend_from_slice(&body[copied..found.start()]);
            out.extend_from_slice(&[b"<", &body[shown], b">"].concat());
            copied = found.end();
        }
        out.extend_from_slice(&body[copied..]);
        out
    }

    fn some_pattern() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            r"\d", r"\d{2}", r"\d{1,3}", "-", "-", r"\.", "a", "[a-c]+", r"\b", "^", "$", "x?",
            "(?:a|bc)", "é", ".",
        ]);
        prop::collection::vec(piece, 1..7).prop_map(|pieces| pieces.concat())
    }

    fn some_body() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "1",
            "23",
            "-",
            "-",
            ".",
            "a",
            "bc",
            " ",
            "x",
            "é",
            "\u{661}",
            "\r",
            "some words without any digits in them, long enough for a block of 64 bytes ",
        ]);
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn redaction_agrees_with_the_slow_twin(
            pattern in some_pattern(),
            bodies in prop::collection::vec(some_body(), 1..6),
            groups in any::<bool>(),
        ) {
            let params = Params {
                pattern: Some(pattern.clone()),
                replacement: Some(if groups { "<$0>" } else { "<>" }.to_owned()),
                ..Params::default()
            };
            let Ok(mut redact) = Redact::build(params, OnError::Mask) else { return Ok(()) };
            let syntax = syntax::Config::new().utf8(false);
            let regex = Regex::builder().syntax(syntax).build(&pattern).expect("compiles");
            let joined: String = bodies.iter().flat_map(|body| [body.as_str(), "\n"]).collect();
            let mut batch = Batch::from_lines(joined);
            let expected: Vec<Vec<u8>> = batch
                .iter()
                .map(|event| redact_slowly(&regex, event.body(), groups))
                .collect();
            redact.process(&mut batch);
            let found: Vec<Vec<u8>> = batch.iter().map(|event| event.body().to_vec()).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_event_that_outgrows_the_batch_meets_on_error() {
        for (on_error, expected, failed, failed_dropped) in [
            (
                OnError::Mask,
                &b"[withheld by streamgate]\nkeep\n"[..],
                1,
                0,
            ),
            (OnError::Drop, b"keep\n", 0, 1),
        ] {
            let params = Params {
                pattern: Some("(a+)".to_owned()),
                replacement: Some("$1".repeat(200)),
                ..Params::default()
            };
            let mut redact = Redact::build(params, on_error).expect("valid");
            let mut batch = Batch::from_lines(["a".repeat(1000).as_str(), "keep"].join("\n"));
            let tally = redact.process(&mut batch);
            assert_eq!(batch.slices().collect::<Vec<_>>().concat(), expected);
            assert_eq!(
                (tally.failed, tally.failed_dropped),
                (failed, failed_dropped)
            );
        }
    }
}
