//! Finds keywords and patterns in whole slices of events.
//!
//! The rule of the house: never run a regex per event. A [`Matcher`] scans a slice of many events
//! for the next *candidate*; only the event it lies in is then decided on, by [`Matcher::confirms`]
//! or by the exact regex. For keywords candidates are exact. For a pattern the scan looks for what
//! every match must contain (`scan`), or else runs a widened form of the pattern that can match
//! wherever the exact one can, never across two events; so nothing is missed.

use std::{ops::Range, sync::Arc};

use aho_corasick::AhoCorasick;
use memchr::memmem;
use regex_automata::{
    Input, Match, MatchKind, PatternID,
    meta::Regex,
    util::{captures::Captures, syntax},
};
use regex_syntax::hir::{Class, ClassBytes, ClassUnicode, Hir, HirKind, Look, Repetition};

use crate::{
    RuleError,
    compiled::{self, CompiledMemory},
    scan::{ByteSet, Gate, Rows, SHORTEST_WORD, Words},
    shown,
    view::Alphabet,
};

/// Longest pattern or keyword, in bytes.
pub(crate) const MAX_PATTERN_BYTES: usize = 16 * 1024;

/// Most keywords in one rule.
pub(crate) const MAX_KEYWORDS: usize = 100_000;

/// Memory that one compiled pattern may take, in bytes; the `regex` crate's default. Beyond it the
/// rule is refused.
const MAX_COMPILED_BYTES: usize = 10 * 1024 * 1024;

/// Cache of the lazy DFA in each direction, for each pattern and worker, in bytes.
const DFA_CACHE_BYTES: usize = 512 * 1024;

/// Most lengths of a match that the regex is given beyond a hit.
const MOST_AHEAD: usize = 16;

/// Finds the next event that a filter is about.
#[derive(Debug, Clone)]
pub(crate) enum Matcher {
    /// One keyword.
    Keyword(Box<memmem::Finder<'static>>),
    /// Many keywords, or one without regard to case, in one pass.
    Words(Arc<Words>),
    /// The same, where one of them is very short.
    Keywords(AhoCorasick),
    /// A regular expression.
    Pattern(Box<Pattern>),
}

impl Matcher {
    /// Matches any of the keywords.
    ///
    /// # Errors
    /// [`RuleError`] if there is none, too many, or one of them is empty, too long or holds a line
    /// feed or a carriage return, which the body of an event cannot be relied on to hold.
    pub(crate) fn keywords(
        keywords: &[(String, String)],
        ignore_case: bool,
    ) -> Result<Self, RuleError> {
        let refuse = |pointer: &str, message: String| {
            Err(RuleError::new("invalid_keyword", pointer, message))
        };
        for (pointer, keyword) in keywords {
            if keyword.is_empty() {
                return refuse(
                    pointer,
                    "the keyword is empty and would match every event".into(),
                );
            }
            if keyword.len() > MAX_PATTERN_BYTES {
                let length = keyword.len();
                return refuse(
                    pointer,
                    format!("the keyword has {length} bytes; expected at most {MAX_PATTERN_BYTES}"),
                );
            }
            if keyword.contains(['\n', '\r']) {
                return refuse(
                    pointer,
                    "the keyword contains a line end, and an event ends there; remove it".into(),
                );
            }
        }
        let words: Vec<&str> = keywords
            .iter()
            .map(|(_, keyword)| keyword.as_str())
            .collect();
        match words.as_slice() {
            [] => refuse(
                "/params/values",
                "no keyword is given; expected at least one".to_owned(),
            ),
            many if many.len() > MAX_KEYWORDS => refuse(
                "/params/values",
                format!(
                    "{} keywords are given; expected at most {MAX_KEYWORDS}",
                    many.len()
                ),
            ),
            [word] if !ignore_case => Ok(Self::Keyword(Box::new(
                memmem::Finder::new(word.as_bytes()).into_owned(),
            ))),
            words if ignore_case && !words.iter().all(|word| word.is_ascii()) => {
                // Aho-Corasick folds ASCII only; the regex engine knows all of Unicode.
                let escaped: Vec<String> = words
                    .iter()
                    .map(|word| regex_syntax::escape(word))
                    .collect();
                let pattern = Pattern::build(&escaped.join("|"), true, "/params/values")?;
                Ok(Self::Pattern(Box::new(pattern)))
            }
            words if words.iter().all(|word| word.len() >= SHORTEST_WORD) => {
                Ok(Self::Words(Arc::new(Words::new(words, ignore_case))))
            }
            words => AhoCorasick::builder()
                .ascii_case_insensitive(ignore_case)
                // Only leftmost searches have a vectorised prefilter.
                .match_kind(aho_corasick::MatchKind::LeftmostFirst)
                .build(words)
                .map(Self::Keywords)
                .map_err(|error| {
                    RuleError::new("keywords_too_large", "/params/values", error.to_string())
                }),
        }
    }

    /// Finds a byte of the next event that may match, at or after `at`.
    pub(crate) fn find(&self, slice: &[u8], at: usize) -> Option<usize> {
        match self {
            Self::Keyword(finder) => finder.find(&slice[at..]).map(|hit| at + hit),
            Self::Words(words) => words.find(slice, at),
            Self::Keywords(automaton) => {
                let input = aho_corasick::Input::new(slice)
                    .span(at..slice.len())
                    .earliest(true);
                automaton.find(input).map(|hit| hit.start())
            }
            Self::Pattern(pattern) => pattern.find(slice, at),
        }
    }

    /// Says whether it matches in the text of an event, which may hold line feeds.
    pub(crate) fn matches_text(&self, text: &[u8]) -> bool {
        match self {
            Self::Pattern(pattern) => pattern.is_match(text),
            _ => self.find(text, 0).is_some(),
        }
    }

    /// Says whether the event that [`find`](Self::find) pointed at does match.
    pub(crate) fn confirms(&self, body: &[u8]) -> bool {
        match self {
            Self::Keyword(_) | Self::Words(_) | Self::Keywords(_) => true,
            Self::Pattern(pattern) => pattern.is_match(body),
        }
    }
}

/// A user's regular expression: one form to scan with, one to decide with.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// Finds something in every event that `exact` matches in, and maybe in others.
    scan: Scan,
    /// The user's words, applied to the body of one event.
    exact: Regex,
    /// The most bytes that a match may have, if there is a bound.
    longest: Option<usize>,
    /// The forms that slices of events and single texts are scanned with, see [`widen`].
    in_slices: Hir,
    in_texts: Hir,
    /// What `scan` and `exact` take.
    _memory: CompiledMemory,
}

/// What a pattern is matched against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// The bodies of events.
    Events,
    /// Parts of them.
    Parts,
    /// The bodies of events, where a match counts only if none of the bytes stands right before or
    /// behind it; some that do not count may not be found.
    Beside(ByteSet),
}

/// How whole slices are scanned for a pattern.
#[derive(Debug, Clone)]
enum Scan {
    /// For stretches of fixed length one of which every match contains.
    Rows {
        rows: Rows,
        gate: Box<Gate>,
        /// How many bytes before a hit of the gate a match may begin, if there is a bound.
        reach_back: Option<usize>,
    },
    /// By the widened pattern, where there is no such stretch that tells enough.
    Regex(Regex),
}

impl Pattern {
    /// Compiles the pattern that stands at `pointer` in the rule.
    ///
    /// # Errors
    /// [`RuleError`] if it does not compile, takes too much memory, matches the empty string (and
    /// so every event), or can match in no event.
    pub(crate) fn build(
        pattern: &str,
        ignore_case: bool,
        pointer: &str,
    ) -> Result<Self, RuleError> {
        Self::build_for(pattern, ignore_case, Use::Events, pointer)
    }

    /// As [`build`](Self::build), for another use.
    pub(crate) fn build_for(
        pattern: &str,
        ignore_case: bool,
        purpose: Use,
        pointer: &str,
    ) -> Result<Self, RuleError> {
        if pattern.len() > MAX_PATTERN_BYTES && pointer.ends_with("/pattern") {
            let length = pattern.len();
            return Err(RuleError::new(
                "pattern_too_long",
                pointer,
                format!("the pattern has {length} bytes; expected at most {MAX_PATTERN_BYTES}"),
            ));
        }
        let invalid = |message: String| RuleError::new("invalid_regex", pointer, message);
        let syntax = syntax::Config::new()
            .utf8(false)
            .case_insensitive(ignore_case);
        let hir = syntax::parse_with(pattern, &syntax).map_err(|error| {
            invalid(format!(
                "`{}` does not compile: {}",
                shown(pattern),
                one_line(&error)
            ))
        })?;
        if hir.properties().minimum_len() == Some(0) {
            return Err(RuleError::new(
                "pattern_matches_empty",
                pointer,
                format!(
                    "`{}` matches the empty string, and so every event",
                    shown(pattern)
                ),
            ));
        }
        let in_texts = widen(&hir, purpose == Use::Parts, true);
        let in_slices = widen(&hir, purpose == Use::Parts, false);
        if in_texts.properties().minimum_len().is_none() {
            return Err(RuleError::new(
                "pattern_never_matches",
                pointer,
                format!("`{}` matches no text at all", shown(pattern)),
            ));
        }
        let mut memory = CompiledMemory::default();
        let mut compile = |hir: &Hir| {
            let built = Regex::builder()
                .configure(regex_config())
                .build_from_hir(hir);
            let regex = built.map_err(|error| {
                let cause = match error.size_limit() {
                    Some(limit) => format!("it takes more than {limit} bytes when compiled"),
                    None => error.to_string(),
                };
                invalid(format!("`{}` does not compile: {cause}", shown(pattern)))
            })?;
            match memory.charge(&regex) {
                true => Ok(regex),
                false => Err(RuleError::new(
                    "patterns_too_large",
                    pointer,
                    format!(
                        "with `{}`, all compiled patterns take more than {} MiB, those of the live \
                         revision included; use fewer or simpler patterns (a counted repetition of \
                         `\\w` or `\\pL` is large), or raise `--memory-budget`",
                        shown(pattern),
                        compiled::limit() >> 20
                    ),
                )),
            }
        };
        let rows = Rows::of(&in_texts).map(|rows| match purpose {
            Use::Beside(never) => rows.never_beside(never),
            Use::Events | Use::Parts => rows,
        });
        let scan = match rows {
            Some(rows) if rows.are_telling() => Scan::Rows {
                gate: Box::new(Gate::new([(0, &rows)])),
                reach_back: Gate::reach_back(&rows),
                rows,
            },
            _ => Scan::Regex(compile(&in_slices)?),
        };
        let exact = compile(&hir)?;
        Ok(Self {
            scan,
            exact,
            longest: hir.properties().maximum_len(),
            in_slices,
            in_texts,
            _memory: memory,
        })
    }

    /// Whether the forms for slices and for texts differ.
    fn knows_line_feeds(&self) -> bool {
        self.in_slices != self.in_texts
    }

    /// Returns what a gate for several patterns can look for instead of this one, if there is any.
    pub(crate) fn rows(&self) -> Option<&Rows> {
        match &self.scan {
            Scan::Rows { rows, .. } => Some(rows),
            Scan::Regex(_) => None,
        }
    }

    /// Returns what the scan has its hits in, in a text that does not have them in its encoded
    /// form.
    pub(crate) fn alphabet(&self) -> Alphabet {
        match self.rows() {
            Some(rows) => rows.alphabet(),
            None => {
                let mut inside = ByteSet::default();
                match add_bytes(&self.in_texts, &mut inside) {
                    Some(()) => Alphabet {
                        inside,
                        ..Alphabet::default()
                    },
                    None => Alphabet::ALL,
                }
            }
        }
    }

    pub(crate) fn find(&self, slice: &[u8], at: usize) -> Option<usize> {
        match &self.scan {
            Scan::Rows { gate, .. } => gate.find(slice, at),
            Scan::Regex(widened) => find_end(widened, slice, at),
        }
    }

    /// Says whether the pattern matches in the body of an event.
    pub(crate) fn is_match(&self, body: &[u8]) -> bool {
        match &self.scan {
            Scan::Rows { .. } => self.next_match(body, 0..body.len(), None, None).is_some(),
            Scan::Regex(_) => self.exact.is_match(body),
        }
    }

    /// Finds the next match in a part of a body; its groups too if there is a place for them.
    /// Anchors are about the body. `known` is the first place in the part or behind it where a gate
    /// that looks for [`rows`](Self::rows) has a hit, if that is known.
    pub(crate) fn next_match(
        &self,
        body: &[u8],
        part: Range<usize>,
        known: Option<usize>,
        mut captures: Option<&mut Captures>,
    ) -> Option<Match> {
        let Scan::Rows {
            gate, reach_back, ..
        } = &self.scan
        else {
            return self.search(body, part, captures);
        };
        // The regex is slow, so it gets no more than what a match around a hit can lie in. Where
        // hits are dense and none of them is in a match, it gets twice as much each time: else it
        // would look at every byte as often as a match is long.
        let mut next = known.or_else(|| gate.find_in(body, part.clone()));
        let (mut least, mut ahead) = (part.start, 0);
        loop {
            let hit = next.filter(|&hit| hit < part.end)?;
            let start = reach_back.map_or(part.start, |back| hit.saturating_sub(back));
            let start = start.max(least);
            // Up to here a match may begin, and is not cut off.
            let complete = hit.saturating_add(ahead);
            let end = self
                .longest
                .and_then(|longest| complete.checked_add(longest))
                .map_or(part.end, |end| end.min(part.end));
            let found = self.search(body, start..end, captures.as_deref_mut());
            match found {
                Some(found) if found.start() <= complete || end == part.end => return Some(found),
                None if end == part.end => return None,
                // What begins behind that has a hit of its own.
                _ => next = gate.find_in(body, complete + 1..part.end),
            }
            least = complete + 1;
            let longest = self.longest.unwrap_or_default();
            ahead = (2 * ahead).clamp(longest, MOST_AHEAD * longest);
        }
    }

    fn search(
        &self,
        body: &[u8],
        span: Range<usize>,
        captures: Option<&mut Captures>,
    ) -> Option<Match> {
        let input = Input::new(body).span(span);
        match captures {
            None => self.exact.search(&input),
            Some(captures) => {
                self.exact.search_captures(&input, captures);
                captures.get_match()
            }
        }
    }

    pub(crate) fn captures(&self) -> Captures {
        self.exact.create_captures()
    }

    /// Finds the group of that name.
    pub(crate) fn group(&self, name: &str) -> Option<usize> {
        self.exact.group_info().to_index(PatternID::ZERO, name)
    }

    /// Returns the number of groups, the whole match included.
    pub(crate) fn group_count(&self) -> usize {
        self.exact.group_info().group_len(PatternID::ZERO)
    }
}

/// Finds the last byte of the next match of a widened pattern.
fn find_end(widened: &Regex, slice: &[u8], at: usize) -> Option<usize> {
    let input = Input::new(slice).span(at..slice.len()).earliest(true);
    // The start would cost a second, backward scan; the end lies in the same event, since the
    // widened pattern matches no line feed and never the empty string.
    widened.search_half(&input).map(|hit| hit.offset() - 1)
}

/// Looks for all patterns that have no rows, in few passes.
#[derive(Debug, Clone)]
pub(crate) struct Residue {
    /// One regex for all of them; several where one would take too much memory, or too many states.
    in_slices: Vec<Regex>,
    /// The same for single texts.
    in_texts: Vec<Regex>,
    /// What they take.
    _memory: CompiledMemory,
}

/// Longest match, in bytes, of a pattern that is looked for together with others. What counts
/// further (`{26,35}`) multiplies the states of a common automaton, until it is built anew at every
/// byte.
const MAX_FUSED_MATCH: usize = 32;

impl Residue {
    /// Makes the scan for those of `patterns` that have no rows.
    pub(crate) fn new<'a>(patterns: impl IntoIterator<Item = &'a Pattern>) -> Self {
        let without_rows: Vec<&Pattern> = patterns
            .into_iter()
            .filter(|pattern| pattern.rows().is_none())
            .collect();
        let knows_line_feeds = without_rows
            .iter()
            .any(|pattern| pattern.knows_line_feeds());
        let (alone, together): (Vec<&Pattern>, Vec<&Pattern>) = without_rows
            .into_iter()
            .partition(|pattern| pattern.longest.is_some_and(|bytes| bytes > MAX_FUSED_MATCH));
        let mut memory = CompiledMemory::default();
        let mut regexes = |form: fn(&Pattern) -> &Hir| {
            let mut regexes = Vec::new();
            fuse(&together, form, &mut regexes, &mut memory);
            for pattern in &alone {
                fuse(&[pattern], form, &mut regexes, &mut memory);
            }
            regexes
        };
        let in_slices = regexes(|pattern| &pattern.in_slices);
        let in_texts = match knows_line_feeds {
            true => regexes(|pattern| &pattern.in_texts),
            false => in_slices.clone(),
        };
        Self {
            in_slices,
            in_texts,
            _memory: memory,
        }
    }

    /// Returns how many passes it takes.
    pub(crate) fn passes(&self) -> usize {
        self.in_slices.len()
    }

    /// Finds a byte of the next event of a slice that one of the patterns of a pass may match in,
    /// at or after `at`.
    pub(crate) fn find_in_pass(&self, pass: usize, slice: &[u8], at: usize) -> Option<usize> {
        find_end(&self.in_slices[pass], slice, at)
    }

    /// Says whether one of the patterns may match in the text of an event.
    pub(crate) fn may_match(&self, text: &[u8]) -> bool {
        self.in_texts.iter().any(|regex| regex.is_match(text))
    }
}

/// Compiles patterns into one regex, or each half of them if that is too large.
fn fuse(
    patterns: &[&Pattern],
    form: fn(&Pattern) -> &Hir,
    regexes: &mut Vec<Regex>,
    memory: &mut CompiledMemory,
) {
    if patterns.is_empty() {
        return;
    }
    let hirs: Vec<&Hir> = patterns.iter().map(|pattern| form(pattern)).collect();
    let built = Regex::builder()
        .configure(regex_config())
        .build_many_from_hir(&hirs);
    match (built, patterns) {
        (Ok(regex), _) if memory.charge(&regex) => regexes.push(regex),
        // One was compiled before, with a little less in its classes.
        (_, [only]) => regexes.push(only.exact.clone()),
        (_, many) => {
            let (low, high) = many.split_at(many.len() / 2);
            fuse(low, form, regexes, memory);
            fuse(high, form, regexes, memory);
        }
    }
}

fn regex_config() -> regex_automata::meta::Config {
    regex_automata::meta::Config::new()
        .match_kind(MatchKind::LeftmostFirst)
        .utf8_empty(false)
        .nfa_size_limit(Some(MAX_COMPILED_BYTES))
        .hybrid_cache_capacity(DFA_CACHE_BYTES)
}

/// Makes the pattern that scans whole slices, or single texts: it matches somewhere inside every
/// event that `hir` matches in.
///
/// For slices, line feeds are taken out of every class, so that no match spans two events: an event
/// in the middle of a long match would be missed. The text of an event may hold line feeds. An
/// anchor at the start becomes the start of a line, or nothing if it may be that of a part; other
/// anchors become nothing, since what they look at (the end of a body, before `\n` or `\r\n`)
/// cannot be said in one look. Word boundaries stay: the edge of a body and a line end are alike to
/// them. Groups are dropped.
fn widen(hir: &Hir, in_parts: bool, with_feeds: bool) -> Hir {
    let inner = |hir: &Hir| widen(hir, in_parts, with_feeds);
    match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) if !with_feeds && literal.0.contains(&b'\n') => Hir::fail(),
        HirKind::Literal(literal) => Hir::literal(literal.0.clone()),
        HirKind::Class(class) if with_feeds => Hir::class(class.clone()),
        HirKind::Class(Class::Unicode(class)) => {
            let mut class = class.clone();
            let feed = regex_syntax::hir::ClassUnicodeRange::new('\n', '\n');
            class.difference(&ClassUnicode::new([feed]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(class)) => {
            let mut class = class.clone();
            let feed = regex_syntax::hir::ClassBytesRange::new(b'\n', b'\n');
            class.difference(&ClassBytes::new([feed]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Look(Look::Start | Look::StartLF) if in_parts => Hir::empty(),
        HirKind::Look(Look::Start | Look::StartLF) => Hir::look(Look::StartLF),
        HirKind::Look(Look::End | Look::EndLF | Look::StartCRLF | Look::EndCRLF) => Hir::empty(),
        HirKind::Look(boundary) => Hir::look(*boundary),
        HirKind::Repetition(repetition) => Hir::repetition(Repetition {
            sub: Box::new(inner(&repetition.sub)),
            ..repetition.clone()
        }),
        HirKind::Capture(capture) => inner(&capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(inner).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(inner).collect()),
    }
}

/// Adds the bytes that a match may hold. `None` if it also depends on what stands around.
fn add_bytes(hir: &Hir, bytes: &mut ByteSet) -> Option<()> {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Look(_) => return None,
        HirKind::Literal(literal) => literal.0.iter().for_each(|&byte| bytes.insert(byte)),
        HirKind::Class(Class::Bytes(class)) => {
            for range in class.ranges() {
                (range.start()..=range.end()).for_each(|byte| bytes.insert(byte));
            }
        }
        HirKind::Class(Class::Unicode(class)) => {
            for range in class.ranges() {
                let ascii = u32::from(range.start())..=u32::from(range.end()).min(0x7f);
                ascii.for_each(|byte| bytes.insert(u8::try_from(byte).unwrap_or_default()));
                if !range.end().is_ascii() {
                    (0x80..=u8::MAX).for_each(|byte| bytes.insert(byte));
                }
            }
        }
        HirKind::Repetition(repetition) => add_bytes(&repetition.sub, bytes)?,
        HirKind::Capture(capture) => add_bytes(&capture.sub, bytes)?,
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            for part in parts {
                add_bytes(part, bytes)?;
            }
        }
    }
    Some(())
}

/// The last line of a syntax error is what went wrong; the lines before it draw the pattern.
fn one_line(error: &regex_syntax::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use streamgate_guest::{Batch, Event};

    use super::*;

    /// Every event that the exact pattern matches must be found, however events lie side by side.
    fn found(pattern: &Pattern, batch: &Batch) -> Vec<bool> {
        let mut found = Vec::new();
        for slice in batch.slices() {
            let mut at = 0;
            let mut hit = pattern.find(slice, at);
            for event in Batch::from_lines(slice).iter() {
                let end = at + event.bytes().len();
                let candidate = hit.is_some_and(|hit| hit < end);
                found.push(candidate && pattern.is_match(event.body()));
                at = end;
                if candidate {
                    hit = pattern.find(slice, at);
                }
            }
        }
        found
    }

    #[test]
    fn anchors_and_line_ends_are_those_of_the_event() {
        let batch = Batch::from_lines("a b\nb\r\nb \n\nx\rb\r\nab\n");
        for (pattern, expected) in [
            (r"^b", [false, true, true, false, false, false]),
            (r"b$", [true, true, false, false, true, true]),
            (r"^b$", [false, true, false, false, false, false]),
            (r"\Ab\z", [false, true, false, false, false, false]),
            (r"\bb\b", [true, true, true, false, true, false]),
            (r"(?m)^b", [false, true, true, false, false, false]),
            (r"a\s*b", [true, false, false, false, false, true]),
            (r"[^a]b", [true, false, false, false, true, false]),
            (r"(?s)..", [true, false, true, false, true, true]),
            (r"\r", [false, false, false, false, true, false]),
        ] {
            let pattern = Pattern::build(pattern, false, "").expect("compiles");
            assert_eq!(found(&pattern, &batch), expected, "{pattern:?}");
        }
    }

    #[test]
    fn match_that_could_go_on_in_the_next_event_does_not_hide_its_own() {
        let batch = Batch::from_lines(b"\xff  \n\n\n".to_vec());
        for pattern in [r"(?:\B\s)+", r"\s+", r"[^b]+"] {
            let pattern = Pattern::build(pattern, false, "").expect("compiles");
            assert_eq!(found(&pattern, &batch), [true, false, false], "{pattern:?}");
        }
        // In the text of an event a line feed is as good as any other character.
        let pattern = Pattern::build("[^b]+", false, "").expect("compiles");
        assert!(pattern.rows().is_none() && pattern.is_match(b"b\n\nb"));
        assert!(Residue::new([&pattern]).may_match(b"b\n\nb"));
    }

    #[test]
    fn patterns_that_cannot_be_right_are_refused() {
        for (pattern, code) in [
            ("a(", "invalid_regex"),
            ("a*", "pattern_matches_empty"),
            ("", "pattern_matches_empty"),
            (r"[^\s\S]", "pattern_never_matches"),
            (r"(\w{500}){500}", "invalid_regex"),
        ] {
            let error = Pattern::build(pattern, false, "/params/pattern").expect_err(pattern);
            assert_eq!(
                (error.code, error.pointer.as_str()),
                (code, "/params/pattern")
            );
        }
    }

    fn some_pattern() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("a".to_owned()),
            Just(".".to_owned()),
            Just(r"\s".to_owned()),
            Just(r"\b".to_owned()),
            Just(r"\B".to_owned()),
            Just("^".to_owned()),
            Just("$".to_owned()),
            Just("[^b]".to_owned()),
            Just(r"\r".to_owned()),
            Just(r"(?-u:\xff)".to_owned()),
            Just("é".to_owned()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
                inner.clone().prop_map(|sub| format!("(?:{sub})?")),
                inner.clone().prop_map(|sub| format!("(?:{sub})+")),
                inner.prop_map(|sub| format!("({sub})")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn scanning_misses_no_event(
            pattern in some_pattern(),
            lines in prop::collection::vec(
                prop::collection::vec(
                    prop::sample::select(vec![b'a', b'b', b' ', b'\r', 0xff, 0xc3, 0xa9]), 0..5),
                1..8),
        ) {
            let Ok(pattern) = Pattern::build(&pattern, false, "") else { return Ok(()) };
            let joined = lines.join(&b'\n');
            let batch = Batch::from_lines(joined);
            let expected: Vec<bool> =
                batch.iter().map(Event::body).map(|body| pattern.is_match(body)).collect();
            prop_assert_eq!(found(&pattern, &batch), expected);
        }
    }
}
