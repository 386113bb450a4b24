//! Makes the events that are offered, and beside them the bytes that must come out.
//!
//! Events come in blocks that are made once and sent again and again: only the block number in each
//! event is patched before a block goes out, which costs the generator eight bytes an event. The
//! receiver patches its own copy of the answer in the same way and compares whole events by `memcmp`,
//! so that checking every byte costs less than receiving it.
//!
//! Shape of an event (text): `<time> c<2 digits>b<8 digits>e<4 digits> <level> trace=<16 hex> ...`:
//! connection, block, event within the block. The three together number an event. All of them, and
//! the trace id, which carries the intended send time when latency is measured, are at fixed places.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::cases::{Case, Format, Secret};

/// How many different blocks one connection sends in turn, so that caches and branch predictors of
/// the process under test do not see one short loop.
const VARIANTS: usize = 4;
/// The most events a block can hold, by the four digits of their number.
const MAX_BLOCK_EVENTS: usize = 10_000;
/// The most connections, by the two digits of their number.
pub(crate) const MAX_CONNECTIONS: usize = 100;
/// Out of 100 events, how many are at level DEBUG.
const DEBUG_PERCENT: u64 = 20;

const SERVICES: [&str; 6] = [
    "checkout", "catalog", "gateway", "billing", "search", "mailer",
];
const LEVELS: [&str; 4] = ["INFO", "INFO", "WARN", "ERROR"];
const WORDS: [&str; 24] = [
    "request",
    "handled",
    "upstream",
    "cache",
    "hit",
    "order",
    "stored",
    "retry",
    "scheduled",
    "session",
    "opened",
    "cart",
    "updated",
    "took=12ms",
    "status=200",
    "region=eu-west-1",
    "user=alice",
    "items=3",
    "path=/api/v1/orders",
    "attempt=1",
    "queue",
    "drained",
    "worker=7",
    "page=42",
];

/// Where the numbers stand in every event of a format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    number: usize,
    trace: usize,
}

impl Layout {
    /// Returns the layout of `format`.
    #[must_use]
    pub(crate) const fn of(format: Format) -> Self {
        match format {
            Format::Text => Self {
                number: 25,
                trace: 55,
            },
            Format::Json => Self {
                number: 41,
                trace: 85,
            },
        }
    }

    /// The two digits of the connection.
    #[must_use]
    pub(crate) const fn connection(self) -> Range<usize> {
        self.number + 1..self.number + 3
    }

    /// The eight digits of the block.
    #[must_use]
    pub(crate) const fn block(self) -> Range<usize> {
        self.number + 4..self.number + 12
    }

    /// The whole number of an event, letters included.
    #[must_use]
    pub(crate) const fn number(self) -> Range<usize> {
        self.number..self.number + 17
    }

    /// The sixteen hex digits that carry the send time when latency is measured.
    #[must_use]
    pub(crate) const fn trace(self) -> Range<usize> {
        self.trace..self.trace + 16
    }
}

/// Writes `value` in decimal with leading zeros over the whole of `field`.
fn write_decimal(field: &mut [u8], mut value: usize) {
    for digit in field.iter_mut().rev() {
        *digit = b"0123456789"[value % 10];
        value /= 10;
    }
}

/// Writes a send time into a trace field: nanoseconds, sixteen hex digits.
pub(crate) fn write_time(field: &mut [u8], mut nanos: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::from(nanos.to_le_bytes()[0] & 15)];
        nanos >>= 4;
    }
}

/// Reads a send time back from a trace field; `None` if it is not hexadecimal.
#[must_use]
pub(crate) fn read_time(field: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok()
}

/// The pseudo-random numbers that choose an event's content; the same in every run.
///
/// Source: splitmix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let at = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from[at]
    }
}

/// A block of events in one of its two forms: as offered, or as it must come out.
///
/// Shape: events end to end, each with its newline; `ends` is ascending, its last is `bytes.len()`.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// The events.
    pub bytes: Vec<u8>,
    /// Where each event ends.
    pub ends: Vec<usize>,
    layout: Layout,
}

impl Block {
    fn empty(layout: Layout) -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            layout,
        }
    }

    fn push(&mut self, event: &[u8]) {
        self.bytes.extend_from_slice(event);
        self.ends.push(self.bytes.len());
    }

    /// Numbers all events of the block. Cost: eight bytes written an event.
    pub(crate) fn renumber(&mut self, block: usize) {
        let mut digits = [0; 8];
        write_decimal(&mut digits, block);
        let mut start = 0;
        for &end in &self.ends {
            self.bytes[start..end][self.layout.block()].copy_from_slice(&digits);
            start = end;
        }
    }

    /// Where the event at `index` starts and ends.
    #[must_use]
    pub(crate) fn span(&self, index: usize) -> Range<usize> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[index]
    }

    /// How many events the block holds.
    #[must_use]
    pub(crate) const fn len(&self) -> usize {
        self.ends.len()
    }
}

/// What one connection sends, and what must arrive of it.
///
/// Block `n` of the stream is `offered[n % VARIANTS]`, renumbered to `n`; the same for `expected`.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// Where the numbers stand.
    pub layout: Layout,
    /// What is sent.
    pub offered: Vec<Block>,
    /// What must arrive, in this order.
    pub expected: Vec<Block>,
    /// How many blocks are sent.
    pub blocks: usize,
}

impl Stream {
    /// How many events the connection sends.
    #[must_use]
    pub(crate) fn offered_events(&self) -> usize {
        Self::total(&self.offered, self.blocks)
    }

    /// How many of them must arrive.
    #[must_use]
    pub(crate) fn expected_events(&self) -> usize {
        Self::total(&self.expected, self.blocks)
    }

    fn total(variants: &[Block], blocks: usize) -> usize {
        (0..blocks).map(|n| variants[n % VARIANTS].len()).sum()
    }
}

/// How much is offered, and how it is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// How many connections send at the same time; 1 to `MAX_CONNECTIONS`.
    pub connections: usize,
    /// At least this many events in all; rounded up to whole blocks on every connection.
    pub events: usize,
    /// Length of each event, newline included.
    pub event_bytes: usize,
    /// How many events make a block.
    pub block_events: usize,
}

impl Load {
    /// Makes the streams of all connections for `case`.
    ///
    /// # Errors
    /// If the load cannot be numbered, or if `event_bytes` is too short for an event's content.
    pub(crate) fn streams(&self, case: &Case) -> Result<Vec<Stream>> {
        ensure!(
            (1..=MAX_CONNECTIONS).contains(&self.connections),
            "found {} connections, expected 1 to {MAX_CONNECTIONS}",
            self.connections
        );
        ensure!(
            (2..=MAX_BLOCK_EVENTS).contains(&self.block_events),
            "found {} events in a block, expected 2 to {MAX_BLOCK_EVENTS}",
            self.block_events
        );
        let blocks = self
            .events
            .div_ceil(self.connections * self.block_events)
            .max(1);
        ensure!(
            blocks < 100_000_000,
            "{} events are too many to be numbered in eight digits of blocks",
            self.events
        );
        (0..self.connections)
            .map(|connection| self.stream(case, connection, blocks))
            .collect()
    }

    fn stream(&self, case: &Case, connection: usize, blocks: usize) -> Result<Stream> {
        let layout = Layout::of(case.format);
        let mut random = Random(connection as u64);
        let mut offered = Vec::with_capacity(VARIANTS);
        let mut expected = Vec::with_capacity(VARIANTS);
        for _ in 0..VARIANTS {
            let mut sent = Block::empty(layout);
            let mut wanted = Block::empty(layout);
            for index in 0..self.block_events {
                // A block ends in an event that always arrives: once it is there, all events
                // before it on its connection have been dealt with.
                let last = index + 1 == self.block_events;
                let content = Content::choose(&mut random, last);
                let number = format!("c{connection:02}b00000000e{index:04}");
                let event = content.render(case.format, &number, self.event_bytes)?;
                sent.push(event.as_bytes());
                if !(case.drops_debug && content.level == "DEBUG") {
                    wanted.push(content.masked(&event, case).as_bytes());
                }
            }
            offered.push(sent);
            expected.push(wanted);
        }
        Ok(Stream {
            connection,
            layout,
            offered,
            expected,
            blocks,
        })
    }
}

/// What an event says, before it is written in a format.
struct Content {
    level: &'static str,
    service: &'static str,
    trace: u64,
    secret: Option<(Secret, String)>,
    words: Vec<&'static str>,
}

impl Content {
    fn choose(random: &mut Random, survives: bool) -> Self {
        let level = if !survives && random.below(100) < DEBUG_PERCENT {
            "DEBUG"
        } else {
            random.pick(&LEVELS)
        };
        let mut chance = random.below(100);
        let mut kind = None;
        for secret in Secret::ALL {
            if chance < secret.share_percent() {
                kind = Some(secret);
                break;
            }
            chance -= secret.share_percent();
        }
        let secret = kind.map(|kind| (kind, secret_text(kind, random)));
        Self {
            level,
            service: random.pick(&SERVICES),
            trace: random.next(),
            secret,
            words: (0..40).map(|_| random.pick(&WORDS)).collect(),
        }
    }

    fn render(&self, format: Format, number: &str, event_bytes: usize) -> Result<String> {
        let Self {
            level,
            service,
            trace,
            ..
        } = self;
        let time = "2026-03-14T09:26:53.589Z";
        let (mut event, end) = match format {
            Format::Text => (
                format!("{time} {number} {level:<5} trace={trace:016x} {service}:"),
                "\n",
            ),
            Format::Json => (
                format!(
                    "{{\"time\":\"{time}\",\"id\":\"{number}\",\"level\":\"{level}\",{pad}\
                     \"trace\":\"{trace:016x}\",\"service\":\"{service}\",\"message\":\"",
                    // Keeps the trace id at one place whatever the length of the level is.
                    pad = " ".repeat(5 - level.len()),
                ),
                "\"}\n",
            ),
        };
        if let Some((kind, text)) = &self.secret {
            let phrase = match kind {
                Secret::Ssn => format!(" applicant ssn {text} accepted"),
                Secret::Card => format!(" card {text} charged"),
                Secret::Email => format!(" mail to {text} queued"),
                Secret::Ipv4 => format!(" peer {text} connected"),
                Secret::Phone => format!(" call {text} requested"),
            };
            event.push_str(&phrase);
        }
        let room = event_bytes
            .checked_sub(end.len())
            .filter(|&room| event.len() <= room)
            .with_context(|| {
                let needed = event.len() + end.len();
                format!("`--event-bytes` {event_bytes} is too short, found an event of {needed}")
            })?;
        for word in self.words.iter().cycle() {
            if event.len() >= room {
                break;
            }
            event.push(' ');
            event.push_str(word);
        }
        event.truncate(room);
        event.push_str(end);
        Ok(event)
    }

    /// Returns `event` with its private data replaced, if `case` wants that.
    fn masked(&self, event: &str, case: &Case) -> String {
        match &self.secret {
            Some((kind, text)) if case.masked.contains(kind) => {
                let (_, _, replacement) = kind.rule();
                event.replacen(text.as_str(), replacement, 1)
            }
            _ => event.to_owned(),
        }
    }
}

/// Makes up private data of a kind: documentation addresses and numbers nobody holds.
fn secret_text(kind: Secret, random: &mut Random) -> String {
    let four = random.below(9_000) + 1_000;
    match kind {
        // Numbers that begin with 9 are never given out.
        Secret::Ssn => format!(
            "9{:02}-{:02}-{four}",
            random.below(100),
            random.below(90) + 10
        ),
        Secret::Card => format!("4111-1111-1111-{four}"),
        Secret::Email => format!("anna.berg{}@example.com", random.below(1_000)),
        Secret::Ipv4 => format!("203.0.113.{}", random.below(256)),
        Secret::Phone => format!("(555) 010-{four}"),
    }
}

#[cfg(test)]
mod tests {
    use regex_automata::meta::Regex;

    use super::*;
    use crate::cases::CASES;

    fn load(event_bytes: usize) -> Load {
        Load {
            connections: 2,
            events: 8_000,
            event_bytes,
            block_events: 1_000,
        }
    }

    #[test]
    fn every_event_has_its_numbers_in_place_and_the_length_asked_for() {
        for case in CASES {
            for stream in load(192).streams(&case).unwrap() {
                for block in &stream.offered {
                    for index in 0..block.len() {
                        let event = &block.bytes[block.span(index)];
                        let text = String::from_utf8_lossy(event);
                        let number = format!("c{:02}b00000000e{index:04}", stream.connection);
                        assert_eq!(event.len(), 192, "{text}");
                        assert_eq!(&event[stream.layout.number()], number.as_bytes(), "{text}");
                        assert!(
                            read_time(&event[stream.layout.trace()]).is_some(),
                            "trace is elsewhere: {text}"
                        );
                        assert_eq!(memchr::memchr(b'\n', event), Some(191), "{text}");
                        if case.format == Format::Json {
                            serde_json::from_slice::<serde_json::Value>(event).unwrap();
                        }
                    }
                }
            }
        }
    }

    /// The answer made by construction is the answer that the patterns of the rules give.
    #[test]
    fn expected_answer_agrees_with_the_rules() {
        for case in CASES {
            let rules: Vec<_> = case
                .masked
                .iter()
                .map(|secret| {
                    let (_, pattern, replacement) = secret.rule();
                    (Regex::new(pattern).unwrap(), replacement)
                })
                .collect();
            for stream in load(192).streams(&case).unwrap() {
                for (offered, expected) in stream.offered.iter().zip(&stream.expected) {
                    let mut answer = String::new();
                    for index in 0..offered.len() {
                        let event = std::str::from_utf8(&offered.bytes[offered.span(index)]);
                        let mut event = event.unwrap().to_owned();
                        if case.drops_debug && event.contains("DEBUG") {
                            continue;
                        }
                        for (pattern, replacement) in &rules {
                            while let Some(hit) = pattern.find(&event) {
                                event.replace_range(hit.range(), replacement);
                            }
                        }
                        answer.push_str(&event);
                    }
                    assert!(answer.as_bytes() == expected.bytes, "case {}", case.name);
                }
            }
        }
    }

    #[test]
    fn shares_are_what_they_claim_to_be() {
        let case = Case::by_name("drop_ssn").unwrap();
        let stream = &load(192).streams(&case).unwrap()[0];
        let offered = stream.offered.iter().map(Block::len).sum::<usize>();
        let expected = stream.expected.iter().map(Block::len).sum::<usize>();
        let masked = stream
            .expected
            .iter()
            .map(|block| memchr::memmem::find_iter(&block.bytes, "XXX-XX-XXXX").count())
            .sum::<usize>();
        assert!(
            (750..850).contains(&(expected * 1_000 / offered)),
            "{expected}"
        );
        assert!((35..65).contains(&(masked * 1_000 / expected)), "{masked}");
    }

    #[test]
    fn events_too_short_for_their_content_are_refused() {
        let case = Case::by_name("pass").unwrap();
        let error = load(64).streams(&case).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`--event-bytes` 64 is too short"),
            "{error}"
        );
    }

    #[test]
    fn times_survive_the_trace_field() {
        let mut field = [0; 16];
        write_time(&mut field, 1_234_567_890_123);
        assert_eq!(read_time(&field), Some(1_234_567_890_123));
    }
}
