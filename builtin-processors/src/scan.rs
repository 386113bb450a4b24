//! Scans bytes for a *shape*: a row of byte classes that every match of a pattern contains.
//!
//! Most patterns that people write hold a stretch of fixed length: three digits, a hyphen, two
//! digits, a hyphen, four digits. [`Shape::of`] finds the most telling such stretch in a pattern's
//! HIR, and [`Shape::find`] looks for it 64 bytes at a time: one bit mask for each class that occurs,
//! shifted by its places in the row and combined with AND, as in Parabix. Nearly all bytes pass
//! unread by any regex engine; where a shape is found, the regex decides.
//!
//! Promises that [`Shape::find`] misses no match. Classes are ASCII; a character beyond ASCII that a
//! class of the pattern also takes in (`\d` means every digit of Unicode) is found by its first byte
//! instead, and makes a candidate of the event that it stands in.
//!
//! There are two engines, and a property test that they agree: `scalar` runs everywhere, `avx2` where
//! the processor has it.

use regex_syntax::hir::{Class, Hir, HirKind, Literal};

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;

/// Longest row that is looked for. More places would hardly tell more.
const MAX_PLACES: u32 = 32;

/// Most classes in a row: each costs a mask.
const MAX_CLASSES: usize = 8;

/// Places that are walked over at most: nested repetitions multiply them.
const MAX_STEPS: usize = 10_000;

/// A row that lets more than one position in this many through, on random printable text, is not
/// worth looking for.
const LEAST_SELECTIVITY: f64 = 60.0;

/// A set of bytes, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ByteSet([u64; 4]);

/// A row of byte classes that every match of a pattern contains.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The distinct classes in the row, the rarest first.
    classes: Vec<RowClass>,
    /// First bytes of the characters beyond ASCII that could stand at one of the places.
    beyond: ByteSet,
    /// Length of the row.
    length: usize,
    /// How far before the row an ASCII match may begin, if there is a bound.
    most_before: Option<usize>,
}

/// A class of ASCII bytes and where in the row it stands.
#[derive(Clone, Debug)]
struct RowClass {
    set: ByteSet,
    /// For each low half of a byte, which high halves make it one of the set: one bit each.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only the vector engine reads it")
    )]
    high_halves: [u8; 16],
    /// Ascending.
    places: Vec<u8>,
}

impl ByteSet {
    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub(crate) fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    fn union(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
    }

    fn single(byte: u8) -> Self {
        let mut set = Self::default();
        set.insert(byte);
        set
    }

    /// The share of bytes of log text that fall in this set, roughly: letters, digits and blanks
    /// are common there, other marks are not.
    fn frequency(&self) -> f64 {
        (0..128_u8)
            .filter(|&byte| self.contains(byte))
            .map(|byte| match byte {
                b'a'..=b'z' => 0.020,
                b'0'..=b'9' => 0.025,
                b' ' => 0.080,
                b'A'..=b'Z' | b'"' | b'.' | b':' | b'-' | b'/' | b'=' | b'_' | b',' => 0.010,
                b'!'..=b'~' => 0.004,
                _ => 0.001,
            })
            .sum::<f64>()
            .min(1.0)
    }
}

impl Shape {
    /// Finds the most telling row in a pattern, if one is worth looking for.
    ///
    /// The pattern must match no line feed, as `matcher::widen` sees to.
    pub(crate) fn of(hir: &Hir) -> Option<Self> {
        let mut rows = Rows::new();
        rows.walk(hir);
        rows.end();
        let exhausted = rows.steps == MAX_STEPS;
        let (row, most_before) = rows.best.filter(|_| !exhausted)?;
        Some(Self::from_row(&row, most_before))
    }

    /// Finds the next byte at or after `at` that a match may contain.
    pub(crate) fn find(&self, haystack: &[u8], at: usize) -> Option<usize> {
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            return avx2::find(self, haystack, at);
        }
        scalar::find(self, haystack, at)
    }

    fn from_row(row: &[Place], most_before: Option<usize>) -> Self {
        let mut classes: Vec<RowClass> = Vec::new();
        let mut beyond = ByteSet::default();
        for (at, place) in (0..).zip(row) {
            beyond.union(&place.beyond);
            if let Some(class) = classes.iter_mut().find(|class| class.set == place.ascii) {
                class.places.push(at);
            } else if classes.len() < MAX_CLASSES {
                classes.push(RowClass::new(place.ascii, at));
            }
            // A place that is not checked lets more through, and misses nothing.
        }
        classes.sort_by(|a, b| a.set.frequency().total_cmp(&b.set.frequency()));
        Self {
            classes,
            beyond,
            length: row.len(),
            most_before,
        }
    }

    /// Returns how far before the row a match of ASCII characters only may begin, if there is a
    /// bound.
    pub(crate) fn most_before(&self) -> Option<usize> {
        self.most_before
    }

    /// Whether the whole row lies at `at`.
    fn is_at(&self, haystack: &[u8], at: usize) -> bool {
        let Some(row) = haystack.get(at..at + self.length) else {
            return false;
        };
        let stands = |class: &RowClass| {
            class
                .places
                .iter()
                .all(|&place| class.set.contains(row[usize::from(place)]))
        };
        self.classes.iter().all(stands)
    }
}

impl RowClass {
    fn new(set: ByteSet, place: u8) -> Self {
        let mut high_halves = [0; 16];
        for byte in (0..128_u8).filter(|&byte| set.contains(byte)) {
            high_halves[usize::from(byte & 15)] |= 1 << (byte >> 4);
        }
        Self {
            set,
            high_halves,
            places: vec![place],
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    static HAS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *HAS.get_or_init(|| std::is_x86_feature_detected!("avx2"))
}

/// One place in a row: which bytes of ASCII may stand there, and the first bytes of the other
/// characters that may.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Place {
    ascii: ByteSet,
    beyond: ByteSet,
}

/// The rows of a pattern, found from left to right.
struct Rows {
    row: Vec<Place>,
    /// How many bytes of an ASCII match come before the row, and before the next place, at most.
    before_row: Option<usize>,
    before: Option<usize>,
    best: Option<(Vec<Place>, Option<usize>)>,
    best_selectivity: f64,
    /// How much of the pattern was walked over.
    steps: usize,
}

impl Rows {
    fn new() -> Self {
        Self {
            row: Vec::new(),
            before_row: Some(0),
            before: Some(0),
            best: None,
            best_selectivity: 0.0,
            steps: 0,
        }
    }

    fn walk(&mut self, hir: &Hir) {
        if self.steps == MAX_STEPS {
            return;
        }
        self.steps += 1;
        match hir.kind() {
            // What is zero bytes long moves no place.
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(Literal(bytes)) => {
                for &byte in bytes {
                    self.push(place_of_byte(byte));
                }
            }
            HirKind::Class(class) => match place_of_class(class) {
                Some(place) => self.push(place),
                // It matches nothing, and so does what it is part of.
                None => self.end(),
            },
            HirKind::Capture(capture) => self.walk(&capture.sub),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.walk(part)),
            HirKind::Repetition(repetition) => {
                // The least number of turns follows what came before; if there may be more, as many
                // again precede what comes after, and between the two the distance is unknown.
                let turns = repetition.min.min(MAX_PLACES);
                let fixed = repetition.max == Some(repetition.min) && turns == repetition.min;
                let begun = self.before;
                for _ in 0..turns {
                    self.walk(&repetition.sub);
                }
                if !fixed {
                    self.end();
                    self.before = begun
                        .zip(repetition.max)
                        .zip(repetition.sub.properties().maximum_len())
                        .and_then(|((begun, most), length)| {
                            let more = usize::try_from(most - turns).ok()?;
                            more.checked_mul(length)?.checked_add(begun)
                        });
                    for _ in 0..turns {
                        self.walk(&repetition.sub);
                    }
                }
            }
            HirKind::Alternation(_) => {
                self.end();
                let length = hir.properties().maximum_len();
                self.before = self
                    .before
                    .zip(length)
                    .map(|(before, length)| before + length);
            }
        }
    }

    fn push(&mut self, place: Place) {
        if self.row.len() == MAX_PLACES as usize {
            self.end();
        }
        if self.row.is_empty() {
            self.before_row = self.before;
        }
        self.row.push(place);
        self.before = self.before.map(|before| before + 1);
    }

    /// Ends a row: what comes next has no fixed distance to it.
    fn end(&mut self) {
        let row = std::mem::take(&mut self.row);
        let told: f64 = row
            .iter()
            .map(|place| 1.0 / place.ascii.frequency().max(1e-6))
            .product();
        if !row.is_empty() && told >= LEAST_SELECTIVITY && told > self.best_selectivity {
            self.best_selectivity = told;
            self.best = Some((row, self.before_row));
        }
    }
}

fn place_of_byte(byte: u8) -> Place {
    match byte.is_ascii() {
        true => Place {
            ascii: ByteSet::single(byte),
            beyond: ByteSet::default(),
        },
        // A byte of a longer character, or one that is no UTF-8: found by itself.
        false => Place {
            ascii: ByteSet::default(),
            beyond: ByteSet::single(byte),
        },
    }
}

/// `None` for a class that takes more than one byte of something else than a character.
fn place_of_class(class: &Class) -> Option<Place> {
    let mut place = Place {
        ascii: ByteSet::default(),
        beyond: ByteSet::default(),
    };
    match class {
        Class::Bytes(class) => {
            for range in class.ranges() {
                for byte in range.start()..=range.end() {
                    let set = if byte.is_ascii() {
                        &mut place.ascii
                    } else {
                        &mut place.beyond
                    };
                    set.insert(byte);
                }
            }
        }
        Class::Unicode(class) => {
            for range in class.ranges() {
                for ascii in range.start().max('\0')..=range.end().min('\x7f') {
                    place.ascii.insert(u8::try_from(ascii).expect("is ASCII"));
                }
                if range.end() > '\x7f' {
                    let first = first_byte(range.start().max('\u{80}'));
                    for byte in first..=first_byte(range.end()) {
                        place.beyond.insert(byte);
                    }
                }
            }
        }
    }
    (!place.ascii.is_empty() || !place.beyond.is_empty()).then_some(place)
}

/// The first byte of a character in UTF-8. It grows with the character.
fn first_byte(character: char) -> u8 {
    let mut bytes = [0; 4];
    character.encode_utf8(&mut bytes).as_bytes()[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::{meta::Regex, util::syntax};

    use super::*;

    fn shape(pattern: &str) -> Option<Shape> {
        let config = syntax::Config::new().utf8(false);
        Shape::of(&syntax::parse_with(pattern, &config).expect("compiles"))
    }

    #[test]
    fn telling_rows_are_found() {
        for (pattern, length) in [
            (r"\d{3}-\d{2}-\d{4}", Some(11)),
            (r"\(\d{3}\) \d{3}-\d{4}", Some(14)),
            (r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}", Some(3)),
            (r"\b\d{1,3}\.\d{1,3}\b", Some(3)),
            (r"(?P<key>AKIA)[0-9A-Z]{16}", Some(20)),
            (r"x{100}", Some(32)),
            (r"[a-z]+", None),
            (r"foo|bar", None),
            (r"\w\s\w", None),
        ] {
            assert_eq!(
                shape(pattern).map(|shape| shape.length),
                length,
                "{pattern}"
            );
        }
    }

    #[test]
    fn the_distance_to_the_start_of_a_match_is_known() {
        for (pattern, most_before) in [
            (r"\d{3}-\d{2}-\d{4}", Some(0)),
            // A digit of Unicode has up to four bytes.
            (r"\b\d{1,3}\.\d{1,3}\b", Some(8)),
            (r"[0-9]{1,3}\.[0-9]{1,3}", Some(2)),
            (r"(?:ab|cde)?key=\d{16}", Some(3)),
            (r"[a-z]+@[a-z]+", None),
            (r"x*AKIA", None),
        ] {
            let shape = shape(pattern).expect("has a row");
            assert_eq!(shape.most_before(), most_before, "{pattern}");
        }
    }

    #[test]
    fn nested_repetitions_do_not_explode() {
        let nested = (0..40).fold("a".to_owned(), |inner, _| format!("(?:{inner}b?)+"));
        assert!(shape(&nested).is_none());
    }

    #[test]
    fn digits_beyond_ascii_are_not_missed() {
        let shape = shape(r"\d{3}-\d{2}-\d{4}").expect("has a row");
        let text = "id \u{661}23-45-6789 and more text behind it to fill a block of 64 bytes";
        assert_eq!(shape.find(text.as_bytes(), 0), Some(3));
        assert_eq!(
            shape.find("naïve façade — no digits, 12-34".as_bytes(), 0),
            None
        );
    }

    fn some_pattern() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just(r"\d".to_owned()),
            Just("-".to_owned()),
            Just("ab".to_owned()),
            Just("[a-f]".to_owned()),
            Just(".".to_owned()),
            Just("é".to_owned()),
            Just(r"(?-u:\xff)".to_owned()),
            Just(r"\b".to_owned()),
            Just("[^a]".to_owned()),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                4 => prop::collection::vec(inner.clone(), 1..5).prop_map(|parts| parts.concat()),
                1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
                2 => (inner.clone(), 0u8..4).prop_map(|(sub, n)| format!("(?:{sub}){{{n}}}")),
                1 => (inner.clone(), 0u8..3).prop_map(|(sub, n)| format!("(?:{sub}){{{n},}}")),
                1 => inner.prop_map(|sub| format!("(?:{sub})?")),
            ]
        })
    }

    fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
        let pieces: [&[u8]; 10] = [
            b"1",
            b"23",
            b"-",
            b"ab",
            b"f",
            b" ",
            "é".as_bytes(),
            "\u{661}".as_bytes(),
            b"\xff",
            b"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        ];
        let piece = prop::sample::select(pieces.to_vec());
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn no_match_is_missed(pattern in some_pattern(), haystack in some_bytes()) {
            let config = syntax::Config::new().utf8(false);
            let hir = syntax::parse_with(&pattern, &config).expect("compiles");
            let Some(shape) = Shape::of(&hir) else { return Ok(()) };
            let regex = Regex::builder().build_from_hir(&hir).expect("compiles");
            if regex.is_match(&haystack) {
                prop_assert!(shape.find(&haystack, 0).is_some(), "{:?}", shape);
            }
        }

        #[test]
        fn the_engines_agree(
            pattern in some_pattern(),
            haystack in some_bytes(),
            at in 0usize..100,
        ) {
            let Some(shape) = shape(&pattern) else { return Ok(()) };
            let at = at.min(haystack.len());
            prop_assert_eq!(shape.find(&haystack, at), scalar::find(&shape, &haystack, at));
        }
    }
}
