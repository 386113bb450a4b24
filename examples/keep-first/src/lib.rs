//! Keeps the first events of each kind in a window of time: an application that says the same thing a
//! thousand times a second is heard, and not paid for. The ideas to take from here: state, bounded;
//! a config that is checked; the clock and counters of the gate.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hasher},
};

use serde::Deserialize;
use streamgate_guest::{Batch, Configure, Processor, Tally, export, host, parse_config};

/// Keeps the first events of each kind.
///
/// Two events are of a kind if they differ in numbers only, hexadecimal ones and UUIDs included.
#[derive(Debug)]
pub struct KeepFirst {
    config: Config,
    /// The number of the window that `seen` is about.
    window: u64,
    /// How many events of a kind were seen in this window. Every worker of the gate has its own
    /// instance, so these are the ones that this worker saw.
    seen: HashMap<u64, u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How many events of a kind are kept in a window.
    first: u64,
    #[serde(default = "a_minute")]
    window_seconds: u64,
    /// How many kinds are told apart; events of any further kind are kept.
    #[serde(default = "ten_thousand")]
    max_kinds: usize,
}

fn a_minute() -> u64 {
    60
}

fn ten_thousand() -> usize {
    10_000
}

// By hand, as not every config that can be read makes sense.
impl Configure for KeepFirst {
    fn configure(config: &str) -> Result<Self, String> {
        let config: Config = parse_config(config)?;
        if config.first == 0 {
            return Err("`first` is 0 and nothing would be kept; expected at least 1".to_owned());
        }
        if !(1..=86_400).contains(&config.window_seconds) {
            return Err(format!(
                "`window_seconds` is {}; expected 1 to 86400",
                config.window_seconds
            ));
        }
        Ok(Self {
            config,
            window: 0,
            seen: HashMap::new(),
        })
    }
}

impl Processor for KeepFirst {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        // Within a batch the clock stands still, so one look is enough.
        let window = host::now_ms() / (self.config.window_seconds * 1000);
        if window != self.window {
            self.window = window;
            self.seen.clear();
        }
        let suppressed = batch.retain(|event| self.keeps(kind_of(event.body())));
        // A call to the gate costs more than an event: once a batch, and only if there is something.
        if suppressed > 0 {
            host::count("suppressed", suppressed);
        }
        Tally::dropped(suppressed)
    }
}

export!(KeepFirst);

impl KeepFirst {
    fn keeps(&mut self, kind: u64) -> bool {
        if self.seen.len() >= self.config.max_kinds && !self.seen.contains_key(&kind) {
            return true;
        }
        let seen = self.seen.entry(kind).or_default();
        *seen += 1;
        *seen <= self.config.first
    }
}

/// Hashes the event without its numbers.
fn kind_of(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let of_word = |a: &u8, b: &u8| is_of_word(*a) && is_of_word(*b);
    for word in body.chunk_by(of_word) {
        let is_number = word
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
            && word.iter().any(u8::is_ascii_digit);
        if is_number {
            hasher.write_u8(b'0');
            continue;
        }
        // `user42` and `user7` are of a kind.
        for part in word.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
            match part[0].is_ascii_digit() {
                true => hasher.write_u8(b'0'),
                false => hasher.write(part),
            }
        }
    }
    hasher.finish()
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

#[cfg(test)]
mod tests {
    use streamgate_guest::testing::Harness;

    use super::*;

    fn harness(config: &str) -> Harness<KeepFirst> {
        Harness::configure(config).unwrap()
    }

    #[test]
    fn the_first_of_each_kind_go_on() {
        let mut harness = harness(r#"{"first": 2}"#);
        let survivors = harness.survivors([
            "user 1 logged in",
            "user 22 logged in",
            "disk full",
            "user 333 logged in",
        ]);
        assert_eq!(
            survivors,
            ["user 1 logged in", "user 22 logged in", "disk full"]
        );
        // State outlives the batch.
        assert_eq!(
            harness.survivors(["user 4 logged in", "disk full"]),
            ["disk full"]
        );
        assert_eq!(harness.counted("suppressed"), 2);
    }

    #[test]
    fn a_new_window_begins_anew() {
        let mut harness = harness(r#"{"first": 1, "window_seconds": 10}"#);
        for (now_ms, kept) in [
            (50_000, 1),
            (59_999, 0),
            (60_000, 1),
            (75_000, 1),
            (75_000, 0),
        ] {
            harness.set_now_ms(now_ms);
            assert_eq!(harness.survivors(["tick"]).len(), kept, "at {now_ms}");
        }
    }

    #[test]
    fn kinds_beyond_the_bound_are_kept() {
        let mut harness = harness(r#"{"first": 1, "max_kinds": 1}"#);
        assert_eq!(harness.survivors(["a", "b", "a", "b"]), ["a", "b", "b"]);
    }

    #[test]
    fn numbers_make_no_kind() {
        let kind = |event: &str| kind_of(event.as_bytes());
        for (one, other) in [
            ("took 5 ms", "took 12345 ms"),
            ("id=0a1b2c", "id=ffff7"),
            ("user42 in", "user7 in"),
            (
                "018f2b1c-9a7e-7c3d-8e21-0123456789ab",
                "deadbeef-0000-4000-8000-00000000000f",
            ),
        ] {
            assert_eq!(kind(one), kind(other), "{one} | {other}");
        }
        assert_ne!(kind("cafe opened"), kind("face opened"));
    }

    #[test]
    fn a_config_that_makes_no_sense_is_refused() {
        for (config, message) in [
            (
                r#"{"first": 0}"#,
                "`first` is 0 and nothing would be kept; expected at least 1",
            ),
            (
                r#"{"first": 1, "window_seconds": 0}"#,
                "`window_seconds` is 0; expected 1 to 86400",
            ),
            ("{}", "missing field `first`"),
        ] {
            let refused = Harness::<KeepFirst>::configure(config).unwrap_err();
            assert_eq!(refused, message);
        }
    }
}
