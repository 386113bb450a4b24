//! `sample`: keeps a share of the events, at random or consistently by a key.
//!
//! | parameter | means |
//! | --- | --- |
//! | `rate` | the share to keep, 0 to 1 |
//! | `key` | a JSON field, looked for in the usual OpenTelemetry places: events with the same value are kept or dropped together, on every gate |
//!
//! With a key, 56 bits of randomness come from the value, and an event is kept if they are at least
//! `(1 - rate) * 2^56`: the events kept at 10 % are among those kept at 50 %. A W3C trace id (32
//! hexadecimal digits) gives its last 56 bits, any other value the upper 56 bits of its XXH3.
//! An event without the key is sampled at random, at the same rate.
//!
//! Source: OpenTelemetry, "TraceState: Probability Sampling", rejection threshold and randomness.

use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Rest, Tally, Verdict};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    RuleError,
    json::{self, Place},
};

/// One more than the greatest randomness: 56 bits.
const RANDOMNESS_END: u64 = 1 << 56;

/// Keeps a share of the events.
#[derive(Debug, Clone)]
pub struct Sample {
    rate: f64,
    /// Kept is what has at least this randomness.
    threshold: u64,
    places: Option<Vec<Place>>,
    random: fastrand::Rng,
    /// How many more events to drop before one is kept; only without a key.
    gap: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    rate: f64,
    key: Option<String>,
}

impl Sample {
    pub(crate) fn build(params: Params) -> Result<Self, RuleError> {
        let Params { rate, key } = params;
        if !(0.0..=1.0).contains(&rate) {
            return Err(RuleError::new(
                "invalid_rate",
                "/params/rate",
                format!("`rate` is {rate}; expected the share to keep, from 0 to 1"),
            ));
        }
        if key.as_deref() == Some("") {
            return Err(RuleError::new(
                "empty_key",
                "/params/key",
                "`key` is empty; expected a name like `trace_id`, or no `key` at all",
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "0 to 2^56 is exact enough in a f64, and `rate` is between 0 and 1"
        )]
        let threshold = ((1.0 - rate) * RANDOMNESS_END as f64).round() as u64;
        let places = key.as_deref().map(json::places_of_attribute);
        let mut sample = Self {
            rate,
            threshold,
            places,
            random: fastrand::Rng::with_seed(0),
            gap: 0,
        };
        sample.reseed(0);
        Ok(sample)
    }

    /// Starts the random choices from `seed`.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.random.seed(seed);
        self.gap = self.draw_gap();
    }

    /// Draws how many events are dropped before the next one is kept: geometrically distributed, so
    /// that the dropped ones cost a step to the next line end and no draw of their own.
    fn draw_gap(&mut self) -> u64 {
        if self.rate >= 1.0 {
            return 0;
        }
        // In (0, 1], so that the logarithm is finite.
        let uniform = 1.0 - self.random.f64();
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

    fn sample_at_random(&mut self, batch: &mut Batch) -> u64 {
        let next_kept = |slice: &[u8], mut at: usize| {
            while at < slice.len() && self.gap > 0 {
                at = memchr::memchr(b'\n', &slice[at..]).map_or(slice.len(), |i| at + i + 1);
                self.gap -= 1;
            }
            if at == slice.len() {
                return None;
            }
            self.gap = self.draw_gap();
            Some(at)
        };
        batch
            .edit(Rest::Drop, next_kept, |_, _| Verdict::Keep)
            .dropped
    }

    fn sample_by_key(&mut self, batch: &mut Batch) -> u64 {
        let Self {
            threshold,
            places,
            random,
            ..
        } = self;
        let places = places.as_deref().unwrap_or_default();
        batch.retain(|event| {
            let randomness = match json::find(event.body(), places) {
                Some(value) => randomness_of(json::text(&value).as_bytes()),
                None => random.u64(..RANDOMNESS_END),
            };
            randomness >= *threshold
        })
    }
}

impl Processor for Sample {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        Tally::dropped(match self.places {
            Some(_) => self.sample_by_key(batch),
            None => self.sample_at_random(batch),
        })
    }
}

fn randomness_of(key: &[u8]) -> u64 {
    if key.len() == 32 && key.iter().all(u8::is_ascii_hexdigit) {
        let last = std::str::from_utf8(&key[18..]).expect("hexadecimal digits are ASCII");
        return u64::from_str_radix(last, 16).expect("14 digits fit in 56 bits");
    }
    xxh3_64(key) >> 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64, key: Option<&str>) -> Sample {
        Sample::build(Params {
            rate,
            key: key.map(str::to_owned),
        })
        .expect("valid")
    }

    fn kept(sample: &mut Sample, events: &str) -> Vec<String> {
        let mut batch = Batch::from_lines(events);
        let before = batch.events();
        let tally = sample.process(&mut batch);
        assert_eq!(batch.events() as u64 + tally.dropped, before as u64);
        batch
            .iter()
            .map(|event| String::from_utf8_lossy(event.body()).into_owned())
            .collect()
    }

    fn keyed_events() -> String {
        (0..10_000)
            .map(|id| format!("{{\"trace_id\":\"t{id}\"}}\n"))
            .collect()
    }

    #[test]
    fn random_sampling_keeps_the_share_across_batches() {
        for rate in [0.01, 0.1, 0.5, 0.9] {
            let mut sample = sample(rate, None);
            sample.reseed(7);
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
        assert_eq!(kept(&mut sample(1.0, None), "a\nb\n"), ["a", "b"]);
        assert!(kept(&mut sample(0.0, None), "a\nb\n").is_empty());
    }

    #[test]
    fn keyed_sampling_is_the_same_everywhere_and_nested() {
        let events = keyed_events();
        let tenth = kept(&mut sample(0.1, Some("trace_id")), &events);
        let mut elsewhere = sample(0.1, Some("trace_id"));
        elsewhere.reseed(99);
        assert_eq!(tenth, kept(&mut elsewhere, &events));
        let half = kept(&mut sample(0.5, Some("trace_id")), &events);
        assert!(tenth.iter().all(|event| half.contains(event)));
        assert!((900..1100).contains(&tenth.len()), "{}", tenth.len());
        assert!((4800..5200).contains(&half.len()), "{}", half.len());
    }

    #[test]
    fn trace_ids_are_sampled_as_opentelemetry_does() {
        let event = |randomness: &str| format!("{{\"trace_id\":\"{:0>18}{randomness}\"}}\n", "");
        let mut quarter = sample(0.25, Some("trace_id"));
        assert_eq!(kept(&mut quarter, &event("c0000000000000")).len(), 1);
        assert_eq!(kept(&mut quarter, &event("bfffffffffffff")).len(), 0);
    }
}
