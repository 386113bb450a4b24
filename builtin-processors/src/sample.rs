//! `sample`: keeps a share of the events, at random, consistently by a key, or as many as a second
//! may have.
//!
//! | parameter | means | default |
//! | --- | --- | --- |
//! | `rate` | the share to keep, 0 to 1 | this or `target_per_second` |
//! | `target_per_second` | how many events to keep a second, all workers together; the share follows the volume | |
//! | `key` | a JSON field or a list of up to 8. With `rate`: events with the same value are kept or dropped together, on every gate. With `target_per_second`: each value has a share of its own, and rare ones lose least. A name is looked for in the usual OpenTelemetry places; one that begins with `/` or holds a `[` is a path, as in `attribute_filter` | at random |
//! | `except` | what is always kept: a condition as in `attribute_filter` or a keyword as in `filter`, or a list of them | nothing |
//! | `record_rate` | a field that is added at the top level of JSON events: how many events each stands for | none |
//! | `interval_seconds` | with a target: how often the shares are computed anew, 0.1 to 3600 | 5 |
//! | `weight` | with a target: how much the last interval counts in the moving average, above 0 to 1 | 0.5 |
//! | `burst_multiple` | with a target: shares are computed at once when an interval brings so many times the events expected in it; above 1 | 2 |
//! | `max_keys` | with a target and a key: so many values have a share of their own, the others one in common; at most 10,000 | 500 |
//!
//! **Consistent.** 56 bits of randomness come from the value, and an event is kept if they are at
//! least `(1 - rate) * 2^56`: the events kept at 10 % are among those kept at 50 %. A W3C trace id
//! (32 hexadecimal digits, not all 0) gives its last 56 bits, as OpenTelemetry's samplers take
//! them; any other value the upper 56 bits of its XXH3. An event without the key is sampled at
//! random, at the same rate. Source: OpenTelemetry, "TraceState: Probability Sampling", rejection
//! threshold and randomness.
//!
//! **By target**: see `sample/dynamic.rs`. Excepted events are kept beside the target.
//!
//! **Recorded rate.** The sum of the field over what is left estimates how many events there were,
//! without bias. If the field is there and a number, as after another `sample`, it is multiplied;
//! an excepted event stands for 1. Text and malformed JSON are not changed. An event that there is
//! no room to write in goes on as it is and counts as `failed`.

use serde::Deserialize;
use streamgate_guest::{
    Batch, Editor, Event, Processor, Rest, Rewrite, Tally, Verdict, every_event,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Clock, RuleError,
    json::member,
    key::{Key, Names},
};
use dynamic::Dynamic;
use except::Except;

mod dynamic;
mod except;

/// One more than the greatest randomness: 56 bits.
const RANDOMNESS_END: u64 = 1 << 56;

/// Longest name of a field that is written.
const MAX_NAME_BYTES: usize = 256;

/// Keeps a share of the events.
#[derive(Debug, Clone)]
pub struct Sample {
    how: How,
    key: Option<Key>,
    except: Option<Except>,
    record: Option<Record>,
    random: fastrand::Rng,
}

#[derive(Debug, Clone)]
enum How {
    Rate(Rate),
    Target(Box<Dynamic>),
}

#[derive(Debug, Clone)]
struct Rate {
    rate: f64,
    /// Kept is what has at least this randomness.
    threshold: u64,
    /// How many more events to drop before one is kept; only without a key.
    gap: u64,
}

/// Writes into an event how many it stands for.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    key: String,
    quoted_key: String,
    body: Vec<u8>,
    failed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    rate: Option<f64>,
    key: Option<Names>,
    except: Option<serde_json::Value>,
    record_rate: Option<String>,
    target_per_second: Option<f64>,
    interval_seconds: Option<f64>,
    weight: Option<f64>,
    burst_multiple: Option<f64>,
    max_keys: Option<usize>,
}

impl Sample {
    pub(crate) fn build(params: &Params) -> Result<Self, RuleError> {
        let key = params.key.as_ref().map(Key::build).transpose()?;
        let how = match (params.rate, params.target_per_second) {
            (Some(rate), None) => {
                refuse_without_target(params)?;
                How::Rate(Rate::build(rate)?)
            }
            (None, Some(target)) => How::Target(Box::new(Dynamic::build(target, params)?)),
            (None, None) => {
                return Err(RuleError::new(
                    "missing_param",
                    "/params",
                    "a sample needs `rate` or `target_per_second`; neither is given",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(RuleError::new(
                    "conflicting_params",
                    "/params/target_per_second",
                    "a sample takes `rate` or `target_per_second`; both are given",
                ));
            }
        };
        let record = params.record_rate.as_deref();
        let mut sample = Self {
            how,
            key,
            except: params.except.as_ref().map(Except::build).transpose()?,
            record: record
                .map(|name| Record::build(name, "/params/record_rate"))
                .transpose()?,
            random: fastrand::Rng::with_seed(0),
        };
        sample.for_worker(0, &Clock::default());
        Ok(sample)
    }

    /// Starts the random choices from `seed`, and looks at that clock.
    pub(crate) fn for_worker(&mut self, seed: u64, clock: &Clock) {
        self.random.seed(seed);
        match &mut self.how {
            How::Rate(rate) => rate.gap = rate.draw_gap(&mut self.random),
            How::Target(dynamic) => dynamic.look_at(clock),
        }
    }

    /// Goes on in the middle of a batch.
    pub(crate) fn resume_from(&mut self, interrupted: &mut Self) {
        if let (How::Target(dynamic), How::Target(interrupted)) =
            (&mut self.how, &mut interrupted.how)
        {
            dynamic.resume_from(interrupted);
        }
        if let (Some(record), Some(interrupted)) = (&mut self.record, &interrupted.record) {
            record.resume_from(interrupted);
        }
    }

    /// Takes over what an unchanged rule remembers.
    pub(crate) fn continue_from(&mut self, previous: &Self) {
        if let (How::Target(dynamic), How::Target(previous)) = (&mut self.how, &previous.how) {
            dynamic.continue_from(previous);
        }
    }

    fn sample_at_random(
        batch: &mut Batch,
        rate: &mut Rate,
        random: &mut fastrand::Rng,
        except: Option<&mut Except>,
        record: Option<&mut Record>,
    ) -> Tally {
        let mut kept = KeptAtRandom {
            stands_for: 1.0 / rate.rate,
            rate,
            random,
            except,
            exception: usize::MAX,
            excepted: false,
            record,
        };
        let edited = batch.edit_with(Rest::Drop, &mut kept);
        match kept.record {
            Some(record) => record.tally(edited.into()),
            None => Tally::dropped(edited.dropped),
        }
    }

    fn sample_by_key(
        batch: &mut Batch,
        rate: &Rate,
        key: &Key,
        random: &mut fastrand::Rng,
        mut except: Option<&mut Except>,
        mut record: Option<&mut Record>,
    ) -> Tally {
        let stands_for = 1.0 / rate.rate;
        let edited = batch.edit_each(|event, rewrite| {
            let body = event.body();
            let randomness =
                randomness_of(key, body).unwrap_or_else(|| random.u64(..RANDOMNESS_END));
            let is_kept = randomness >= rate.threshold;
            // What is kept anyway need only be asked about if that is written down.
            let excepted = (!is_kept || record.is_some())
                && except.as_mut().is_some_and(|except| except.holds_for(body));
            let weight = match (excepted, is_kept) {
                (true, _) => 1.0,
                (false, true) => stands_for,
                (false, false) => return Verdict::Drop,
            };
            match &mut record {
                Some(record) => record.write(body, weight, rewrite),
                None => Verdict::Keep,
            }
        });
        match record {
            Some(record) => record.tally(edited.into()),
            None => edited.into(),
        }
    }

    fn sample_by_target(
        batch: &mut Batch,
        dynamic: &mut Dynamic,
        key: Option<&Key>,
        random: &mut fastrand::Rng,
        except: Option<&mut Except>,
        mut record: Option<&mut Record>,
    ) -> Tally {
        dynamic.weigh(batch, key, except, random);
        let edited = batch.edit(Rest::Keep, every_event, |event, rewrite| {
            let weight = dynamic.next_weight();
            match &mut record {
                _ if weight == 0.0 => Verdict::Drop,
                Some(record) => record.write(event.body(), weight, rewrite),
                None => Verdict::Keep,
            }
        });
        match record {
            Some(record) => record.tally(edited.into()),
            None => edited.into(),
        }
    }
}

impl Processor for Sample {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let Self {
            how,
            key,
            except,
            record,
            random,
        } = self;
        let (except, record) = (except.as_mut(), record.as_mut());
        match (how, key) {
            (How::Rate(rate), None) => Self::sample_at_random(batch, rate, random, except, record),
            (How::Rate(rate), Some(key)) => {
                Self::sample_by_key(batch, rate, key, random, except, record)
            }
            (How::Target(dynamic), key) => {
                Self::sample_by_target(batch, dynamic, key.as_ref(), random, except, record)
            }
        }
    }
}

/// Points at the events that are kept by a rate, without a key.
struct KeptAtRandom<'a> {
    rate: &'a mut Rate,
    random: &'a mut fastrand::Rng,
    except: Option<&'a mut Except>,
    /// The next exception in the slice; `usize::MAX` if there is none.
    exception: usize,
    /// Whether the event that was pointed at last is one.
    excepted: bool,
    record: Option<&'a mut Record>,
    stands_for: f64,
}

impl Editor for KeptAtRandom<'_> {
    fn next(&mut self, slice: &[u8], mut at: usize) -> Option<usize> {
        // A slice is gone through from its start; what was found in the one before is void then.
        if let Some(except) = &mut self.except
            && (at == 0 || self.exception < at)
        {
            self.exception = except.next(slice, at).unwrap_or(usize::MAX);
        }
        while at < slice.len() {
            if at == self.exception {
                self.excepted = true;
                return Some(at);
            }
            if self.rate.gap == 0 {
                self.excepted = false;
                self.rate.gap = self.rate.draw_gap(self.random);
                return Some(at);
            }
            at = memchr::memchr(b'\n', &slice[at..]).map_or(slice.len(), |i| at + i + 1);
            self.rate.gap -= 1;
        }
        None
    }

    fn decide(&mut self, event: Event<'_>, rewrite: &mut Rewrite<'_>) -> Verdict {
        let weight = match self.excepted {
            true => 1.0,
            false => self.stands_for,
        };
        match &mut self.record {
            Some(record) => record.write(event.body(), weight, rewrite),
            None => Verdict::Keep,
        }
    }
}

impl Rate {
    fn build(rate: f64) -> Result<Self, RuleError> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(RuleError::new(
                "invalid_rate",
                "/params/rate",
                format!("`rate` is {rate}; expected the share to keep, from 0 to 1"),
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "0 to 2^56 is exact enough in a f64, and `rate` is between 0 and 1"
        )]
        let threshold = ((1.0 - rate) * RANDOMNESS_END as f64).round() as u64;
        Ok(Self {
            rate,
            threshold,
            gap: 0,
        })
    }

    /// Draws how many events are dropped before the next one is kept: geometrically distributed, so
    /// that the dropped ones cost a step to the next line end and no draw of their own.
    fn draw_gap(&self, random: &mut fastrand::Rng) -> u64 {
        if self.rate >= 1.0 {
            return 0;
        }
        // In (0, 1], so that the logarithm is finite.
        let uniform = 1.0 - random.f64();
        let gap = (uniform.ln() / (1.0 - self.rate).ln()).floor();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, which is what an endless gap wants"
        )]
        if self.rate > 0.0 {
            gap as u64
        } else {
            u64::MAX
        }
    }
}

impl Record {
    /// Builds the writer of a field of that name.
    ///
    /// # Errors
    /// [`RuleError`] at `pointer` if the name is empty or too long.
    pub(crate) fn build(name: &str, pointer: &str) -> Result<Self, RuleError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(RuleError::new(
                "invalid_field",
                pointer,
                format!(
                    "the field's name has {} bytes; expected 1 to {MAX_NAME_BYTES}",
                    name.len()
                ),
            ));
        }
        Ok(Self {
            key: name.to_owned(),
            quoted_key: serde_json::Value::from(name).to_string(),
            body: Vec::new(),
            failed: 0,
        })
    }

    /// Multiplies the field of a JSON event by `factor`; of one that has no such number, makes it
    /// that.
    fn write(&mut self, body: &[u8], factor: f64, rewrite: &mut Rewrite<'_>) -> Verdict {
        let Some(member) = member::find(body, &self.key) else {
            return Verdict::Keep;
        };
        let before = member.number.map(|number| number.real());
        let product = before.filter(|before| *before > 0.0).unwrap_or(1.0) * factor;
        // Without bound over many rules, and JSON knows no infinity.
        let number = product.min(f64::MAX);
        member.write(body, &self.quoted_key, number, &mut self.body);
        self.replace(rewrite)
    }

    /// Sets the field of a JSON event; `None` if it is none.
    pub(crate) fn set(
        &mut self,
        body: &[u8],
        number: f64,
        rewrite: &mut Rewrite<'_>,
    ) -> Option<Verdict> {
        let member = member::find(body, &self.key)?;
        member.write(body, &self.quoted_key, number, &mut self.body);
        Some(self.replace(rewrite))
    }

    fn replace(&mut self, rewrite: &mut Rewrite<'_>) -> Verdict {
        match rewrite.push(&self.body) {
            Ok(()) => Verdict::Replace,
            Err(_) => {
                self.failed += 1;
                Verdict::Keep
            }
        }
    }

    /// Goes on in the middle of a batch.
    pub(crate) fn resume_from(&mut self, interrupted: &Self) {
        self.failed = interrupted.failed;
    }

    /// Books the events that there was no room to write in.
    pub(crate) fn tally(&mut self, tally: Tally) -> Tally {
        Tally {
            failed: std::mem::take(&mut self.failed),
            ..tally
        }
    }
}

/// Returns 56 bits of randomness that are the same wherever an event with that key is seen; `None`
/// if it has none, or an all-zero trace id, which is no id.
fn randomness_of(key: &Key, body: &[u8]) -> Option<u64> {
    const NO_ID: u128 = u128::MAX;
    let hash = key.read(body, |text| match trace_randomness(text) {
        Some(_) if text.iter().all(|digit| *digit == b'0') => NO_ID,
        Some(randomness) => u128::from(randomness),
        None => u128::from(xxh3_64(text) >> 8),
    })?;
    match u64::try_from(hash) {
        Ok(randomness) if randomness < RANDOMNESS_END => Some(randomness),
        _ if hash == NO_ID => None,
        // The hash of several fields.
        _ => u64::try_from(hash >> 72).ok(),
    }
}

/// Returns the last 56 bits of a W3C trace id; `None` if it is none.
fn trace_randomness(text: &[u8]) -> Option<u64> {
    if text.len() != 32 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let last = std::str::from_utf8(&text[18..]).expect("hexadecimal digits are ASCII");
    Some(u64::from_str_radix(last, 16).expect("14 digits fit in 56 bits"))
}

fn refuse_without_target(params: &Params) -> Result<(), RuleError> {
    let given = [
        ("interval_seconds", params.interval_seconds.is_some()),
        ("weight", params.weight.is_some()),
        ("burst_multiple", params.burst_multiple.is_some()),
        ("max_keys", params.max_keys.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => Err(RuleError::new(
            "conflicting_params",
            format!("/params/{name}"),
            format!("`{name}` is for `target_per_second`; `rate` is given, which does not change"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Builtin, OnError, clock::testing::Hand};

    fn sample(params: &Value, seed: u64) -> Builtin {
        let params = params.as_object().expect("an object");
        let rule = Builtin::build("sample", params, OnError::Pass).expect("valid");
        rule.for_worker(seed, &Clock::default())
    }

    fn kept(sample: &mut Builtin, events: &str) -> Vec<String> {
        let mut batch = Batch::from_lines(events);
        let before = batch.events();
        let tally = sample.process(&mut batch);
        assert_eq!(batch.events() as u64 + tally.dropped, before as u64);
        batch
            .iter()
            .map(|event| event.text().into_owned())
            .collect()
    }

    fn keyed_events() -> String {
        (0..10_000)
            .map(|id| format!("{{\"trace_id\":\"t{id}\"}}\n"))
            .collect()
    }

    #[test]
    fn random_sampling_keeps_the_share_across_batches() {
        for rate in [0.01_f64, 0.1, 0.5, 0.9] {
            let mut sample = sample(&json!({"rate": rate}), 7);
            let events = "x\n".repeat(100);
            let total: usize = (0..1000).map(|_| kept(&mut sample, &events).len()).sum();
            let expected = rate * 100_000.0;
            // Six standard deviations of a binomial distribution.
            let tolerance = 6.0 * (100_000.0 * rate * (1.0 - rate)).sqrt();
            assert!(
                (total as f64 - expected).abs() < tolerance,
                "{rate}: {total}"
            );
        }
        assert_eq!(
            kept(&mut sample(&json!({"rate": 1}), 0), "a\nb\n"),
            ["a", "b"]
        );
        assert!(kept(&mut sample(&json!({"rate": 0}), 0), "a\nb\n").is_empty());
    }

    #[test]
    fn keyed_sampling_is_the_same_everywhere_and_nested() {
        let events = keyed_events();
        let by_key = |rate: f64| json!({"rate": rate, "key": "trace_id"});
        let tenth = kept(&mut sample(&by_key(0.1), 0), &events);
        assert_eq!(tenth, kept(&mut sample(&by_key(0.1), 99), &events));
        let half = kept(&mut sample(&by_key(0.5), 0), &events);
        assert!(tenth.iter().all(|event| half.contains(event)));
        assert!((900..1100).contains(&tenth.len()), "{}", tenth.len());
        assert!((4800..5200).contains(&half.len()), "{}", half.len());
    }

    #[test]
    fn trace_ids_are_sampled_as_opentelemetry_does() {
        let event = |randomness: &str| format!("{{\"trace_id\":\"{:0>18}{randomness}\"}}\n", "");
        let mut quarter = sample(&json!({"rate": 0.25, "key": "trace_id"}), 0);
        assert_eq!(kept(&mut quarter, &event("c0000000000000")).len(), 1);
        assert_eq!(kept(&mut quarter, &event("bfffffffffffff")).len(), 0);
        // No id, and so sampled at random.
        let none = event("00000000000000").repeat(1000);
        let left = kept(&mut quarter, &none).len();
        assert!((150..350).contains(&left), "{left}");
    }

    #[test]
    fn exceptions_are_kept_at_any_rate() {
        let events = "INFO a\nERROR b\r\nINFO c\nx\nERROR\n{\"level\":\"ERROR\",\"code\":500}\n\
                      {\"code\":503}\n{\"code\":499}\n";
        let errors = ["ERROR b", "ERROR", "{\"level\":\"ERROR\",\"code\":500}"];
        let codes = ["{\"level\":\"ERROR\",\"code\":500}", "{\"code\":503}"];
        let both = ["ERROR b", "ERROR", codes[0], codes[1]];
        let code = json!({"attribute": "code", "operator": "gte", "value": 500});
        for (except, expected) in [
            (json!({"value": "ERROR"}), &errors[..]),
            (json!({"pattern": "^ERR.R"}), &errors[..2]),
            (
                json!({"values": ["error", "fatal"], "ignore_case": true}),
                &errors,
            ),
            (code.clone(), &codes),
            (json!([{"value": "ERROR"}, code.clone()]), &both),
            (
                json!({"all": [code, {"path": "level", "operator": "exists"}]}),
                &codes[..1],
            ),
        ] {
            for key in [None, Some("trace_id")] {
                let mut params = json!({"rate": 0, "except": except});
                if let Some(key) = key {
                    params["key"] = key.into();
                }
                assert_eq!(kept(&mut sample(&params, 1), events), expected, "{params}");
            }
        }
        // Batches of another shape find nothing that was found in the one before.
        let mut rule = sample(&json!({"rate": 0, "except": {"value": "E"}}), 1);
        for events in ["x\nx\nE\n", "E\nx\n", "x\n", "xxxxxx\nE\n", "E\nE\nx\nx\n"] {
            let expected = events.lines().filter(|event| *event == "E").count();
            assert_eq!(kept(&mut rule, events).len(), expected);
        }
    }

    #[test]
    fn recorded_rates_restore_the_totals() {
        let events: String = (0..20_000)
            .map(|id| format!("{{\"k\":\"t{id}\",\"e\":{}}}\n", id % 100 == 0))
            .collect();
        let except = json!({"path": "e", "operator": "equals", "value": true});
        for params in [
            json!({"rate": 0.1}),
            json!({"rate": 0.1, "key": "k"}),
            json!({"rate": 0.3, "except": except}),
            json!({"rate": 0.3, "key": "k", "except": except}),
        ] {
            let mut params = params;
            params["record_rate"] = "n".into();
            let left = kept(&mut sample(&params, 3), &events);
            let parsed = left.iter().map(|event| -> Value {
                serde_json::from_str(event).expect("what was JSON is JSON")
            });
            let counts: Vec<f64> = parsed
                .map(|event| event["n"].as_f64().expect("one"))
                .collect();
            let total: f64 = counts.iter().sum();
            // The variance of the sum of 1/p is (1 - p) / p an event.
            let rate = params["rate"].as_f64().expect("a number");
            let tolerance = 6.0 * (20_000.0 * (1.0 - rate) / rate).sqrt();
            assert!((total - 20_000.0).abs() < tolerance, "{params}: {total}");
            let excepted = counts.iter().filter(|&&count| count == 1.0).count();
            assert_eq!(
                excepted,
                if params.get("except").is_some() {
                    200
                } else {
                    0
                }
            );
        }
    }

    #[test]
    fn a_second_sample_multiplies_what_the_first_recorded() {
        let mut rule = sample(&json!({"rate": 1, "record_rate": "n"}), 0);
        assert_eq!(
            kept(
                &mut rule,
                "{\"n\":4}\n{\"n\":\"x\"}\n{\"n\":-1}\ntext\n{\"n\":2\n[]\n{}\n"
            ),
            [
                "{\"n\":4}",
                "{\"n\":1}",
                "{\"n\":1}",
                "text",
                "{\"n\":2",
                "[]",
                "{\"n\":1}"
            ]
        );
    }

    #[test]
    fn events_without_room_for_the_rate_go_on_and_are_counted() {
        let name = "n".repeat(MAX_NAME_BYTES);
        let params = json!({"rate": 1, "record_rate": name});
        let mut batch = Batch::from_lines("{}\n".repeat(80_000));
        let tally = sample(&params, 0).process(&mut batch);
        assert_eq!(batch.events(), 80_000);
        assert!(tally.failed > 0 && tally.changed > 0, "{tally:?}");
        assert_eq!(tally.failed + tally.changed, 80_000);
    }

    /// Sends a flow for some seconds, ten batches each; returns the events that were kept.
    fn flow(rule: &mut Builtin, hand: &Hand, seconds: usize, batch: &str) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..seconds * 10 {
            hand.pass(0.1);
            all.extend(kept(rule, batch));
        }
        all
    }

    fn by_target(params: &Value, hand: &Hand) -> Builtin {
        sample(params, 5).for_worker(5, &hand.clock())
    }

    #[test]
    fn the_target_is_met_at_any_volume() {
        let hand = Hand::default();
        let mut rule = by_target(&json!({"target_per_second": 100}), &hand);
        // Below the target nothing is lost.
        assert_eq!(flow(&mut rule, &hand, 20, &"x\n".repeat(9)).len(), 20 * 90);
        for per_second in [200, 1_000, 5_000] {
            let batch = "x\n".repeat(per_second / 10);
            flow(&mut rule, &hand, 30, &batch);
            let kept = flow(&mut rule, &hand, 100, &batch).len();
            assert!((9_000..11_000).contains(&kept), "{per_second}: {kept}");
        }
    }

    #[test]
    fn all_workers_keep_one_target() {
        let hand = Hand::default();
        let rule = by_target(&json!({"target_per_second": 100}), &hand);
        let mut workers = [0, 1, 2, 3].map(|seed| rule.for_worker(seed, &hand.clock()));
        let batch = "x\n".repeat(100);
        let mut total = 0;
        for second in 0..130 {
            for _ in 0..10 {
                hand.pass(0.1);
                for worker in &mut workers {
                    let kept = kept(worker, &batch).len();
                    if second >= 30 {
                        total += kept;
                    }
                }
            }
        }
        assert!((9_000..11_000).contains(&total), "{total}");
    }

    #[test]
    fn a_burst_is_met_within_an_interval() {
        let hand = Hand::default();
        let mut rule = by_target(&json!({"target_per_second": 100}), &hand);
        flow(&mut rule, &hand, 60, &"x\n".repeat(100));
        // Ten times the volume: at the share that was right before, it would be 5,000 in 5 seconds.
        let burst = flow(&mut rule, &hand, 5, &"x\n".repeat(1_000)).len();
        assert!(burst < 2_000, "{burst}");
        // And the first events of all are no flood either.
        let hand = Hand::default();
        let mut rule = by_target(&json!({"target_per_second": 100}), &hand);
        let first = flow(&mut rule, &hand, 5, &"x\n".repeat(10_000)).len();
        assert!(first < 2_500, "{first}");
    }

    #[test]
    fn rare_keys_are_kept_whole_and_the_others_share() {
        let hand = Hand::default();
        let params = json!({"target_per_second": 100, "key": "k", "record_rate": "n"});
        let mut rule = by_target(&params, &hand);
        let event = |key: &str| format!("{{\"k\":\"{key}\"}}\n");
        let batch = event("loud").repeat(1000) + &event("medium").repeat(100) + &event("rare");
        flow(&mut rule, &hand, 30, &batch);
        let left = flow(&mut rule, &hand, 100, &batch);
        let of = |key: &str| {
            left.iter()
                .map(|event| serde_json::from_str::<Value>(event).expect("JSON"))
                .filter(|event| event["k"] == key)
                .map(|event| event["n"].as_f64().expect("recorded"))
                .collect::<Vec<f64>>()
        };
        let (loud, medium, rare) = (of("loud"), of("medium"), of("rare"));
        assert!((9_000..11_000).contains(&left.len()), "{}", left.len());
        assert_eq!(rare.len(), 1_000, "rare ones lose nothing");
        assert!(medium.len() > 3_000, "{}", medium.len());
        assert!(
            loud.len() < 2 * medium.len(),
            "{} {}",
            loud.len(),
            medium.len()
        );
        for (counts, total) in [(loud, 1e6), (medium, 1e5), (rare, 1e3)] {
            let restored: f64 = counts.iter().sum();
            assert!(
                (restored - total).abs() < 0.1 * total,
                "{restored} of {total}"
            );
        }
    }

    #[test]
    fn more_keys_than_accounts_do_not_exceed_the_target() {
        let hand = Hand::default();
        let params = json!({"target_per_second": 100, "key": "k", "max_keys": 10});
        let mut rule = by_target(&params, &hand);
        let batch = |second: usize| -> String {
            (0..500)
                .map(|n| format!("{{\"k\":{}}}\n", second * 500 + n))
                .collect()
        };
        let mut total = 0;
        for step in 0..1_300 {
            hand.pass(0.1);
            let kept = kept(&mut rule, &batch(step)).len();
            if step >= 300 {
                total += kept;
            }
        }
        assert!(total < 12_000, "{total}");
    }

    #[test]
    fn exceptions_are_kept_beside_the_target() {
        let hand = Hand::default();
        let params = json!({"target_per_second": 10, "except": {"value": "ERROR"}});
        let mut rule = by_target(&params, &hand);
        let batch = "INFO\n".repeat(100) + &"ERROR\n".repeat(50);
        flow(&mut rule, &hand, 20, &batch);
        let left = flow(&mut rule, &hand, 50, &batch);
        let errors = left.iter().filter(|event| *event == "ERROR").count();
        assert_eq!(errors, 50 * 10 * 50);
        let others = left.len() - errors;
        assert!((350..650).contains(&others), "{others}");
    }

    #[test]
    fn an_unchanged_target_goes_on_with_its_shares() {
        let hand = Hand::default();
        let params = json!({"target_per_second": 10});
        let mut before = by_target(&params, &hand);
        let batch = "x\n".repeat(1_000);
        flow(&mut before, &hand, 20, &batch);
        let mut after = sample(&params, 0);
        after.continue_from(&before);
        let mut after = after.for_worker(1, &hand.clock());
        assert!(kept(&mut after, &batch).len() < 20);
        let mut changed = by_target(&json!({"target_per_second": 11}), &hand);
        changed.continue_from(&before);
        assert!(kept(&mut changed, &batch).len() > 20);
    }

    proptest! {
        #[test]
        fn what_a_lower_rate_keeps_a_higher_one_keeps(
            low in 0.0..1.0_f64,
            more in 0.0..1.0_f64,
            ids in prop::collection::vec("[0-9a-f]{32}|[a-z]{1,9}", 1..60),
        ) {
            let high = low + (1.0 - low) * more;
            let events: String = ids.iter().map(|id| format!("{{\"id\":\"{id}\"}}\n")).collect();
            let by_key = |rate: f64| json!({"rate": rate, "key": "id"});
            let few = kept(&mut sample(&by_key(low), 1), &events);
            let many = kept(&mut sample(&by_key(high), 2), &events);
            prop_assert!(few.iter().all(|event| many.contains(event)));
        }

        #[test]
        fn what_was_json_is_json(event in ".{0,20}", rest in "[ \t]{0,3}") {
            let body = serde_json::json!({"m": event}).to_string() + &rest;
            let left = kept(&mut sample(&json!({"rate": 1, "record_rate": "n \"ü"}), 0), &body);
            let parsed: Value = serde_json::from_str(&left[0]).expect("JSON");
            prop_assert_eq!(parsed, json!({"m": event, "n \"ü": 1}));
        }
    }
}
