//! Finds what a rule is about in the texts of one event.

use std::{collections::HashSet, ops::Range};

use regex_automata::{Match, util::captures::Captures};

use crate::{
    detectors::{Detector, Part},
    matcher::Pattern,
    scan::ByteSet,
    view::{Kind, Node, Region, View},
};

use super::{action::Hasher, replacement, rule::Target};

/// Bytes of a text that may be searched again, for each byte of it, because matches have to end
/// with what they begin in. Beyond that they need not: more is hidden than must be, and the work
/// stays linear.
const MOST_LOOKS: usize = 16;

/// The same, for short texts; in bytes.
const FREE_LOOKS: usize = 64 * 1024;

/// What is known of a target in a text before it is searched.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// The first and the last place where the gate has a hit.
    pub(super) hits: Option<(usize, usize)>,
    /// The first match, if the text is searched as a whole.
    pub(super) first_match: Option<Match>,
}

impl Known {
    /// Whether there may be a match at or after `at`.
    fn may_be(self, at: usize) -> bool {
        self.hits.is_none_or(|(_, last)| at <= last)
    }

    /// The first hit at or after `at`, if that is known.
    pub(super) fn first_hit(self, at: usize) -> Option<usize> {
        self.hits
            .map(|(first, _)| first)
            .filter(|&first| at <= first)
    }
}

/// Something to hide, and which target found it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// In the bytes of the event.
    pub(super) source: Range<usize>,
    /// The layer that it was found in, and where in its text.
    pub(super) layer: usize,
    pub(super) range: Range<usize>,
    pub(super) target: usize,
    /// Where its new text is, if that had to be written at once.
    pub(super) text: Range<usize>,
}

/// The new texts of one event take more room than there is.
pub(super) struct TooMuch;

/// Which parts of a text a rule is about, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    /// What is searched, each by itself. Empty: all of the text.
    pub(super) only: Vec<Range<usize>>,
    /// What is left as it is.
    pub(super) except: Vec<Range<usize>>,
}

impl Parts {
    pub(super) fn clear(&mut self) {
        self.only.clear();
        self.except.clear();
    }
}

/// The search of one event for the targets of a rule.
pub(super) struct Search<'a> {
    pub(super) body: &'a [u8],
    pub(super) view: &'a View,
    pub(super) hasher: Option<&'a Hasher>,
    pub(super) allow: &'a HashSet<Box<[u8]>>,
    pub(super) replacement: &'a [replacement::Part],
    pub(super) captures: Option<&'a mut Captures>,
    pub(super) found: &'a mut Vec<Found>,
    /// What was found and is allowed: the target, and where in the bytes of the event.
    pub(super) allowed: &'a mut Vec<(usize, Range<usize>)>,
    pub(super) texts: &'a mut Vec<u8>,
    pub(super) room: usize,
}

/// Where the search of a text is.
struct Cursor<'a> {
    text: &'a [u8],
    regions: &'a [Region],
    /// The region that `at` is in.
    region: usize,
    at: usize,
    /// Bytes that may still be looked at.
    looks: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a [u8], regions: &'a [Region]) -> Self {
        Self {
            text,
            regions,
            region: 0,
            at: 0,
            looks: text.len() * MOST_LOOKS + FREE_LOOKS,
        }
    }

    /// Finds the next match, and how far it could have gone. `at_once` lets matches go as far as
    /// any may.
    fn next(
        &mut self,
        pattern: &Pattern,
        at_once: bool,
        known: Known,
        mut captures: Option<&mut Captures>,
    ) -> Option<(Match, usize)> {
        let length = self.text.len();
        if self.at == 0
            && captures.is_none()
            && let Some(first) = known.first_match
            && let Some(limit) = self.limit_of(first, at_once)
        {
            self.at = first.end();
            return Some((first, limit));
        }
        while self.at < length && known.may_be(self.at) {
            let (next, limit, reach) = match self.looks > 0 {
                true => self.region_at(),
                false => (length, length, length),
            };
            let mut limit = if at_once { reach } else { limit };
            loop {
                let part = self.at..limit.max(self.at);
                let hit = known.first_hit(self.at);
                let found = pattern.next_match(self.text, part, hit, captures.as_deref_mut());
                let end = found.map_or(limit, |found| found.end());
                self.looks = self.looks.saturating_sub(end.saturating_sub(self.at));
                match found {
                    Some(found) if found.start() < next => {
                        self.at = found.end();
                        return Some((found, limit));
                    }
                    _ if limit < reach => {
                        limit = reach;
                        continue;
                    }
                    // It begins in a later region, and may not go as far. Before it nothing begins
                    // that goes no farther than this.
                    Some(found) => self.skip_to(found.start(), limit),
                    None => self.skip_to(length, limit),
                }
                break;
            }
        }
        None
    }

    /// Returns how far the first match in all of the text could have gone, if the search by regions
    /// finds it too: no other begins before it, and it ends with its region.
    fn limit_of(&mut self, first: Match, at_once: bool) -> Option<usize> {
        let behind = self
            .regions
            .partition_point(|region| region.start <= first.start());
        let Some(region) = behind.checked_sub(1).map(|number| self.regions[number]) else {
            return Some(self.text.len());
        };
        let limit = if at_once { region.reach } else { region.limit };
        let is_whole = first.end() <= limit;
        is_whole.then(|| {
            self.region = behind - 1;
            limit
        })
    }

    /// Returns where the region of `at` ends, and how far a match in it may go.
    fn region_at(&mut self) -> (usize, usize, usize) {
        let length = self.text.len();
        while let Some(next) = self.regions.get(self.region + 1)
            && next.start <= self.at
        {
            self.region += 1;
        }
        let next = self
            .regions
            .get(self.region + 1)
            .map_or(length, |one| one.start);
        match self.regions.get(self.region) {
            Some(region) => (next, region.limit, region.reach),
            None => (next, length, length),
        }
    }

    /// Goes to `at`, or to the first region before that whose matches may go beyond `limit`.
    fn skip_to(&mut self, at: usize, limit: usize) {
        while let Some(next) = self.regions.get(self.region + 1)
            && next.start <= at
        {
            self.region += 1;
            if next.reach > limit {
                self.at = next.start;
                return;
            }
        }
        self.at = at;
    }
}

impl Search<'_> {
    /// Finds a target in the parts of a layer that a rule is about.
    pub(super) fn run(
        &mut self,
        layer: usize,
        number: usize,
        target: &Target,
        parts: Option<&Parts>,
        known: Known,
    ) -> Result<(), TooMuch> {
        match (target.detector, parts) {
            (Some(detector), _) => {
                self.detect(layer, number, target, detector, parts, known);
                Ok(())
            }
            (None, None) => {
                let regions = self.view.regions(layer);
                self.match_all(layer, number, &target.pattern, regions, known)
            }
            (None, Some(parts)) => self.match_parts(layer, number, &target.pattern, parts),
        }
    }

    /// Finds the matches of a user's pattern in the bytes of the event, as if they were one text.
    pub(super) fn match_source(
        &mut self,
        number: usize,
        target: &Target,
        known: Known,
    ) -> Result<(), TooMuch> {
        let first = self.found.len();
        let body = self.body;
        let mut cursor = Cursor::new(body, &[]);
        while let Some((found, _)) = self.next(&mut cursor, &target.pattern, known) {
            let range = self.view.text_of(0, found.range());
            self.add(0, number, range, body, found.range())?;
        }
        for found in &mut self.found[first..] {
            // A piece of an encoding that it holds a part of is hidden as a whole.
            found.source = self.view.source_of(0, found.range.clone());
        }
        Ok(())
    }

    fn next(
        &mut self,
        cursor: &mut Cursor<'_>,
        pattern: &Pattern,
        known: Known,
    ) -> Option<(Match, usize)> {
        cursor.next(pattern, false, known, self.captures.as_deref_mut())
    }

    fn match_all(
        &mut self,
        layer: usize,
        number: usize,
        pattern: &Pattern,
        regions: &[Region],
        known: Known,
    ) -> Result<(), TooMuch> {
        let text = self.view.text(layer, self.body);
        let mut cursor = Cursor::new(text, regions);
        // No pattern matches the empty string, so every turn moves on.
        while let Some((found, _)) = self.next(&mut cursor, pattern, known) {
            self.add(layer, number, found.range(), text, found.range())?;
        }
        Ok(())
    }

    /// Finds a user's pattern in each part by itself: its anchors are the ends of the part.
    fn match_parts(
        &mut self,
        layer: usize,
        number: usize,
        pattern: &Pattern,
        parts: &Parts,
    ) -> Result<(), TooMuch> {
        let text = self.view.text(layer, self.body);
        for part in &parts.only {
            let inner = &text[part.clone()];
            let mut cursor = Cursor::new(inner, &[]);
            while let Some((found, _)) = self.next(&mut cursor, pattern, Known::default()) {
                let range = part.start + found.start()..part.start + found.end();
                self.add_outside(&parts.except, layer, number, range, inner, found.range())?;
            }
        }
        Ok(())
    }

    /// Finds what a detector confirms, as [`crate::detectors::Finder`] does, in the parts.
    fn detect(
        &mut self,
        layer: usize,
        number: usize,
        target: &Target,
        detector: &Detector,
        parts: Option<&Parts>,
        known: Known,
    ) {
        let view = self.view;
        let text = view.text(layer, self.body);
        let nodes = view.nodes(layer);
        let mut cursor = Cursor::new(text, view.regions(layer));
        while let Some((found, limit)) = cursor.next(&target.pattern, true, known, None) {
            let (start, end) = (found.start(), found.end());
            if !detector.confirms(text, start, end) {
                cursor.at = next_start(text, start, &target.never_beside);
                continue;
            }
            let mut hidden = detector.hidden(&text[..limit], start, end);
            if matches!(detector.part, Part::Value(_)) {
                hidden.end = end_of_value(nodes, &hidden).max(hidden.end);
            }
            cursor.at = hidden.end.max(end);
            match parts {
                None => self.keep(layer, number, hidden, 0..0),
                Some(parts) if parts.only.is_empty() => {
                    for piece in outside(&parts.except, hidden) {
                        self.keep(layer, number, piece, 0..0);
                    }
                }
                Some(parts) => {
                    let first = parts.only.partition_point(|part| part.end <= hidden.start);
                    for part in parts.only[first..]
                        .iter()
                        .take_while(|part| part.start < hidden.end)
                    {
                        let piece = part.start.max(hidden.start)..part.end.min(hidden.end);
                        if piece.start < piece.end {
                            self.keep(layer, number, piece, 0..0);
                        }
                    }
                }
            }
        }
    }

    fn add_outside(
        &mut self,
        except: &[Range<usize>],
        layer: usize,
        number: usize,
        range: Range<usize>,
        text: &[u8],
        found: Range<usize>,
    ) -> Result<(), TooMuch> {
        if except.is_empty() {
            return self.add(layer, number, range, text, found);
        }
        for piece in outside(except, range) {
            self.add(layer, number, piece, text, found.clone())?;
        }
        Ok(())
    }

    /// Adds the match of a pattern, and writes what stands in its place if that names a group of
    /// it.
    fn add(
        &mut self,
        layer: usize,
        number: usize,
        range: Range<usize>,
        text: &[u8],
        found: Range<usize>,
    ) -> Result<(), TooMuch> {
        debug_assert!(found.end <= text.len());
        let written = self.texts.len();
        if let Some(captures) = &self.captures {
            for part in self.replacement {
                let text = match part {
                    replacement::Part::Text(text) => text,
                    replacement::Part::Group(group) => match captures.get_group(*group) {
                        Some(group) => &text[group.range()],
                        None => continue,
                    },
                };
                if self.texts.len() + text.len() > self.room {
                    return Err(TooMuch);
                }
                self.texts.extend_from_slice(text);
            }
        }
        let written = written..self.texts.len();
        self.keep(layer, number, range, written);
        Ok(())
    }

    /// Keeps what was found, but for values that are allowed, and hashes that were put there
    /// before.
    fn keep(&mut self, layer: usize, number: usize, range: Range<usize>, text: Range<usize>) {
        let bytes = self.view.text(layer, self.body);
        if !self.allow.is_empty() && self.allow.contains(&bytes[range.clone()]) {
            let source = self.view.source_of(layer, range);
            return self.allowed.push((number, source));
        }
        let Some(hasher) = self.hasher else {
            return self.push(layer, number, range, text);
        };
        // A token exempts itself and nothing else: anybody can write one.
        let mut at = range.start;
        while let Some(token) = hasher.token_in(bytes, at..range.end) {
            if at < token.start {
                self.push(layer, number, at..token.start, text.clone());
            }
            at = token.end;
        }
        if at < range.end {
            self.push(layer, number, at..range.end, text);
        }
    }

    fn push(&mut self, layer: usize, number: usize, range: Range<usize>, text: Range<usize>) {
        let range = self.view.without_split_pieces(layer, range);
        self.found.push(Found {
            source: self.view.source_of(layer, range.clone()),
            layer,
            range,
            target: number,
            text,
        });
    }
}

/// Where behind `start` a match may begin next, if it does not count right behind some bytes: a
/// long word is passed at once. What stands behind an escape, which is not decoded everywhere, is
/// let pass.
fn next_start(text: &[u8], start: usize, never_beside: &ByteSet) -> usize {
    /// Of the longest escape, `\u0040`.
    const ESCAPE_BYTES: usize = 6;
    let mut next = start + 1;
    while let Some(&before) = text.get(next - 1).filter(|_| next < text.len()) {
        let near = &text[next.saturating_sub(ESCAPE_BYTES)..next];
        if !never_beside.contains(before) || near.contains(&b'\\') {
            break;
        }
        next += 1;
    }
    next
}

/// Where the value ends that begins with a text of JSON: quotes in it are part of it.
fn end_of_value(nodes: &[Node], hidden: &Range<usize>) -> usize {
    let at = nodes.partition_point(|node| node.start < hidden.start);
    match nodes.get(at) {
        Some(node) if node.start == hidden.start && node.kind == Kind::Text => node.end,
        _ => hidden.end,
    }
}

/// Returns the pieces of a range that are in none of the exceptions, which are in order.
fn outside(except: &[Range<usize>], range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let first = except.partition_point(|one| one.end <= range.start);
    let end = range.end;
    let mut at = range.start;
    let inside = except[first..]
        .iter()
        .take_while(move |one| one.start < end)
        .cloned()
        .chain(std::iter::once(end..end));
    inside.filter_map(move |one| {
        let piece = at..one.start;
        at = at.max(one.end);
        (piece.start < piece.end).then_some(piece)
    })
}
