//! The catalogue of detectors: what personal data and secrets look like, and how to be sure.
//!
//! A [`Detector`] is a shape to scan for and the checks beyond it: what stands beside the match
//! ([`Boundary`]), check digits, ranges and structure (`check`), and for shapes that too many things
//! share, a word near the match that says what it is (`keywords`).
//!
//! Promises that no check panics, allocates or looks further than a fixed distance from a match,
//! whatever the bytes are. Leaves finding the shapes quickly to the scanning engine. [`Finder`] is
//! the slow, plain twin that says what must be found; the engine is compared with it.

use std::{ops::Range, sync::LazyLock};

use regex_automata::{
    Input,
    meta::{BuildError, Regex},
    util::syntax,
};

pub use boundary::Boundary;

mod boundary;
mod checks;
mod contact;
mod context;
mod credential;
mod device;
mod financial;
mod health;
mod identity;
mod network;
mod tokens;

/// How far before a match, in bytes, a keyword may begin.
pub const KEYWORD_DISTANCE: usize = 48;

/// Longest match of any detector's pattern, in bytes.
pub const MAX_MATCH_BYTES: usize = 1024;

/// How far behind a match, in bytes, a keyword may end.
pub const KEYWORD_DISTANCE_BEHIND: usize = 20;

/// Names of things that have numbers but are nobody's: for `other_keys`.
const OTHER_NUMBERS: &[&str] = &[
    "order",
    "invoice",
    "cnpj",
    "iban",
    "ticket",
    "case",
    "issue",
    "timestamp",
    "ts",
    "time",
    "epoch",
    "date",
    "version",
    "ver",
    "build",
    "release",
    "revision",
    "commit",
    "sha",
    "hash",
    "digest",
    "checksum",
    "crc",
    "etag",
    "pid",
    "tid",
    "thread",
    "port",
    "seq",
    "sequence",
    "offset",
    "position",
    "pos",
    "line",
    "bytes",
    "byte",
    "size",
    "length",
    "len",
    "count",
    "total",
    "amount",
    "price",
    "sum",
    "balance",
    "qty",
    "quantity",
    "duration",
    "elapsed",
    "latency",
    "took",
    "ms",
    "us",
    "ns",
    "trace",
    "span",
    "request",
    "req",
    "correlation",
    "session",
    "transaction",
    "txn",
    "tx",
    "batch",
    "job",
    "task",
    "block",
    "blk",
    "sku",
    "product",
    "item",
    "tracking",
    "shipment",
    "parcel",
    "uuid",
    "guid",
    "serial",
    "counter",
    "metric",
    "nonce",
    "cursor",
    "shard",
    "partition",
    "lsn",
    "memory",
    "heap",
    "free",
    "used",
    "address",
    "addr",
    "ptr",
    "errno",
    "status",
];

/// A kind of sensitive data and how it is found.
///
/// Finding is defined so ([`Finder`] does it): the leftmost match of `pattern`, by the rules of a
/// leftmost-first regex, is a candidate. If [`confirms`](Self::confirms) says no, the search goes on
/// one byte behind the *start* of the candidate; if it says yes, what [`hidden`](Self::hidden)
/// returns is sensitive, and the search goes on behind the match and what is hidden.
#[derive(Debug, Clone, Copy)]
pub struct Detector {
    /// The name in a rule: `[a-z0-9_]+`, unique.
    pub name: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// What kind of data it is.
    pub category: Category,
    /// Shape, checks and their source, in a sentence or two.
    pub description: &'static str,
    /// The shape, for `regex-syntax` in byte mode. Every match has a bounded length, is never
    /// empty and holds no line end.
    pub pattern: &'static str,
    /// Decides on the bytes that `pattern` matched; `None` if the shape tells enough.
    pub check: Option<fn(&[u8]) -> bool>,
    /// What may stand beside a match.
    pub boundary: Boundary,
    /// One of these must stand near the match, in any case; empty if none is needed. A blank in a
    /// keyword stands for nothing or one of ` `, `_`, `-`, `.`.
    pub keywords: &'static [&'static str],
    /// Matches that tell enough without a keyword, such as those with hyphens in the right places.
    pub tells_alone: Option<fn(&[u8]) -> bool>,
    /// Names of other things: a match whose own key (`order_id=`, `"ts":`, `Chrome/`) has one of
    /// these words is none. As for `keywords`, but in the key right before the match only.
    pub other_keys: &'static [&'static str],
    /// Which part of a match is sensitive.
    pub part: Part,
    /// Bytes that masking keeps as they are.
    pub kept: &'static [u8],
    /// What is found, each alone in an event.
    pub examples: &'static [&'static str],
}

/// What kind of data a detector finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Cards, accounts, wallets.
    Financial,
    /// Numbers that states give to people and companies.
    Identity,
    /// How to reach a person.
    Contact,
    /// Addresses of machines, and what travels in their protocols.
    Network,
    /// Secrets that open something.
    Credential,
    /// Numbers of patients, practitioners, diagnoses.
    Health,
    /// Numbers of vehicles and devices that lead to a person.
    Device,
}

impl Category {
    /// Its name in `GET /detectors`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Financial => "financial",
            Self::Identity => "identity",
            Self::Contact => "contact",
            Self::Network => "network",
            Self::Credential => "credential",
            Self::Health => "health",
            Self::Device => "device",
        }
    }
}

/// When a detector asks for one of its keywords near a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeywordUse {
    /// Always: too many things look like it.
    Always,
    /// Unless the match is written such that it tells enough, as with hyphens in the right places.
    Sometimes,
    /// Never: there are none.
    Never,
}

impl KeywordUse {
    /// Its name in `GET /detectors`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Sometimes => "sometimes",
            Self::Never => "never",
        }
    }
}

/// Which part of a match is sensitive.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// All of it.
    Whole,
    /// A part inside it, such as the password in `password=...`; given the match, it returns an
    /// offset range. A range that is empty or outside the match means the whole match.
    Inside(fn(&[u8]) -> Range<usize>),
    /// All of it and a number of bytes behind it, such as the body behind the header of a key; given
    /// what follows the match in the event.
    Beyond(fn(&[u8]) -> usize),
    /// A part that begins inside it and may end behind it, such as a value in quotes; given the event
    /// from the match on and the length of the match, it returns an offset range. One that is empty
    /// or ends outside the event means the whole match.
    Value(fn(&[u8], usize) -> Range<usize>),
}

/// The name that an unknown one probably meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no detector has that name; the nearest is `{name}`")]
pub struct Nearest {
    /// The name of a detector.
    pub name: &'static str,
}

/// Returns all detectors, by category and name.
pub fn all() -> &'static [Detector] {
    static ALL: LazyLock<Vec<Detector>> = LazyLock::new(|| {
        let mut all = [
            contact::DETECTORS,
            &credential::detectors(),
            device::DETECTORS,
            financial::DETECTORS,
            health::DETECTORS,
            &identity::detectors(),
            network::DETECTORS,
        ]
        .concat();
        all.sort_by_key(|detector| (detector.category, detector.name));
        all
    });
    &ALL
}

/// Finds a detector.
///
/// # Errors
/// [`Nearest`] if there is none of that name.
pub fn by_name(name: &str) -> Result<&'static Detector, Nearest> {
    if let Some(detector) = all().iter().find(|detector| detector.name == name) {
        return Ok(detector);
    }
    // What is longer than any name resembles none; its beginning is enough for a guess.
    let name: Vec<char> = name.chars().take(64).flat_map(char::to_lowercase).collect();
    let nearest = all()
        .iter()
        .min_by_key(|detector| edit_distance(&name, detector.name))
        .expect("the catalogue is not empty");
    Err(Nearest { name: nearest.name })
}

impl Detector {
    /// What the detectors of a category begin with.
    const fn of(category: Category, boundary: Boundary) -> Self {
        Self {
            name: "",
            title: "",
            category,
            description: "",
            pattern: "",
            check: None,
            boundary,
            keywords: &[],
            tells_alone: None,
            other_keys: &[],
            part: Part::Whole,
            kept: b"",
            examples: &[],
        }
    }

    /// Decides on one candidate: `pattern` matched `event[start..end]`.
    ///
    /// A range outside the event is no match.
    pub fn confirms(&self, event: &[u8], start: usize, end: usize) -> bool {
        let Some(matched) = event.get(start..end) else {
            return false;
        };
        self.boundary.allows(event, start, end)
            && self.check.is_none_or(|check| check(matched))
            && self.context_allows(event, start, end)
    }

    /// Returns the part of the event that is sensitive, for a confirmed candidate.
    ///
    /// It is never empty and lies inside the event; it begins at or after `start`, and may end behind
    /// `end`. It never splits an escape of a JSON string (`\n`, `\u00e4`).
    pub fn hidden(&self, event: &[u8], start: usize, end: usize) -> Range<usize> {
        let Some(matched) = event.get(start..end).filter(|matched| !matched.is_empty()) else {
            return start..end;
        };
        match self.part {
            Part::Whole => start + escape_left(event, start, end)..end,
            Part::Beyond(beyond) => {
                let rest = &event[end..];
                start + escape_left(event, start, end)..end + beyond(rest).min(rest.len())
            }
            Part::Value(value) => {
                let part = value(&event[start..], end - start);
                if part.start < part.end
                    && part.start < end - start
                    && start + part.end <= event.len()
                {
                    start + part.start..start + part.end
                } else {
                    start..end
                }
            }
            Part::Inside(inside) => {
                let part = inside(matched);
                if part.start < part.end && part.end <= matched.len() {
                    start + part.start..start + part.end
                } else {
                    start..end
                }
            }
        }
    }

    /// Says when it asks for a keyword.
    pub fn keyword_use(&self) -> KeywordUse {
        match (self.keywords.is_empty(), self.tells_alone) {
            (true, _) => KeywordUse::Never,
            (false, Some(_)) => KeywordUse::Sometimes,
            (false, None) => KeywordUse::Always,
        }
    }

    fn context_allows(&self, event: &[u8], start: usize, end: usize) -> bool {
        if !self.other_keys.is_empty() && context::own_key_has(event, start, self.other_keys) {
            // A key may hold both, as `order_ssn` does.
            return !self.keywords.is_empty() && context::own_key_has(event, start, self.keywords);
        }
        self.keywords.is_empty()
            || self
                .tells_alone
                .is_some_and(|tells| tells(&event[start..end]))
            || context::is_near(event, start, end, self.keywords)
    }
}

/// Counts the bytes at the start of a match that belong to an escape of a JSON string.
fn escape_left(event: &[u8], start: usize, end: usize) -> usize {
    let backslashes = event[..start]
        .iter()
        .rev()
        .take(16)
        .take_while(|&&b| b == b'\\')
        .count();
    let length = match event[start] {
        _ if backslashes % 2 == 0 => 0,
        b'u' => 5,
        _ => 1,
    };
    if start + length < end { length } else { 0 }
}

/// Finds what one detector is about, in one event after the other: plainly, with the `regex`
/// engine, byte by byte behind each candidate that was none.
///
/// It costs what a regex costs for every event. The engine does the same faster.
#[derive(Debug, Clone)]
pub struct Finder {
    detector: &'static Detector,
    regex: Regex,
}

impl Finder {
    /// Compiles the pattern of a detector.
    ///
    /// # Errors
    /// None for the detectors of this catalogue; a test compiles all of them.
    pub fn build(detector: &'static Detector) -> Result<Self, Box<BuildError>> {
        let regex = Regex::builder()
            .syntax(syntax::Config::new().utf8(false))
            .build(detector.pattern)
            .map_err(Box::new)?;
        Ok(Self { detector, regex })
    }

    /// Finds the next sensitive part of the body of an event that begins at or after `at`.
    pub fn find(&self, event: &[u8], at: usize) -> Option<Range<usize>> {
        let mut at = at;
        while at < event.len() {
            let candidate = self
                .regex
                .search(&Input::new(event).span(at..event.len()))?;
            let (start, end) = (candidate.start(), candidate.end());
            if self.detector.confirms(event, start, end) {
                return Some(self.detector.hidden(event, start, end));
            }
            at = start + 1;
        }
        None
    }

    /// Finds all sensitive parts of the body of an event, from left to right.
    pub fn find_all(&self, event: &[u8]) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        while at < event.len() {
            let input = Input::new(event).span(at..event.len());
            let Some(candidate) = self.regex.search(&input) else {
                break;
            };
            let (start, end) = (candidate.start(), candidate.end());
            at = start + 1;
            if self.detector.confirms(event, start, end) {
                let hidden = self.detector.hidden(event, start, end);
                at = hidden.end.max(end);
                found.push(hidden);
            }
        }
        found
    }
}

/// Levenshtein's distance.
fn edit_distance(left: &[char], right: &str) -> usize {
    let mut row: Vec<usize> = (0..=left.len()).collect();
    for (at, right) in right.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (place, &left) in left.iter().enumerate() {
            let above = row[place + 1];
            row[place + 1] = (diagonal + usize::from(left != right))
                .min(above + 1)
                .min(row[place] + 1);
            diagonal = above;
        }
    }
    row[left.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_found() {
        let mut missed = Vec::new();
        for detector in all() {
            let finder = Finder::build(detector).expect("compiles");
            assert!(!detector.examples.is_empty(), "{}", detector.name);
            for example in detector.examples {
                if finder.find_all(example.as_bytes()).len() != 1 {
                    missed.push((detector.name, example));
                }
            }
        }
        assert!(missed.is_empty(), "{missed:#?}");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        for (name, nearest) in [
            ("credit_crad", "credit_card"),
            ("e-mail", "email"),
            ("IPV4", "ipv4"),
        ] {
            assert_eq!(
                by_name(name).map(|found| found.name),
                Err(Nearest { name: nearest })
            );
        }
        assert!(by_name(&"x".repeat(1_000_000)).is_err());
    }

    #[test]
    fn patterns_are_bounded_and_hold_no_line_end() {
        for detector in all() {
            let config = syntax::Config::new().utf8(false);
            let hir = syntax::parse_with(detector.pattern, &config).expect(detector.name);
            let longest = hir.properties().maximum_len().expect(detector.name);
            assert!(longest <= MAX_MATCH_BYTES, "{}: {longest}", detector.name);
            assert!(
                hir.properties().minimum_len() > Some(0),
                "{}",
                detector.name
            );
            assert!(!takes_line_end(&hir), "{}", detector.name);
        }
    }

    fn takes_line_end(hir: &regex_syntax::hir::Hir) -> bool {
        use regex_syntax::hir::{Class, HirKind};
        let is_end = |byte: u8| byte == b'\n' || byte == b'\r';
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => false,
            HirKind::Literal(literal) => literal.0.iter().copied().any(is_end),
            HirKind::Class(Class::Bytes(class)) => class
                .iter()
                .any(|range| (range.start()..=range.end()).any(is_end)),
            HirKind::Class(Class::Unicode(_)) => true,
            HirKind::Repetition(repetition) => takes_line_end(&repetition.sub),
            HirKind::Capture(capture) => takes_line_end(&capture.sub),
            HirKind::Concat(parts) | HirKind::Alternation(parts) => {
                parts.iter().any(takes_line_end)
            }
        }
    }
}
