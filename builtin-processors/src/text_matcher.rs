//! Finds events by what stands anywhere in their text, however it is encoded.

use streamgate_guest::Event;

use crate::{
    RuleError,
    matcher::{Matcher, Pattern},
    view::{Alphabet, View, find_trigger},
};

/// There is none.
const NOWHERE: usize = usize::MAX;

/// Finds keywords or a pattern in the text of events: in their bytes, and in a [`View`] of those
/// with a trigger.
#[derive(Debug, Clone)]
pub(crate) struct TextMatcher {
    matcher: Matcher,
    /// Whether it looks at the bytes of events only.
    of_source: bool,
    /// What a match can be made of.
    alphabet: Alphabet,
    view: View,
    /// Where in the slice the matcher has its next hit, and where the next trigger is.
    hit: usize,
    trigger: usize,
}

impl TextMatcher {
    /// Looks for a pattern.
    pub(crate) fn pattern(pattern: Pattern, of_source: bool) -> Self {
        let alphabet = pattern.alphabet();
        Self::new(Matcher::Pattern(Box::new(pattern)), alphabet, of_source)
    }

    fn new(matcher: Matcher, alphabet: Alphabet, of_source: bool) -> Self {
        Self {
            alphabet,
            matcher,
            of_source,
            view: View::default(),
            hit: NOWHERE,
            trigger: NOWHERE,
        }
    }

    /// Looks for any of the keywords.
    ///
    /// # Errors
    /// As [`Matcher::keywords`].
    pub(crate) fn keywords(
        keywords: &[(String, String)],
        ignore_case: bool,
        of_source: bool,
    ) -> Result<Self, RuleError> {
        let matcher = Matcher::keywords(keywords, ignore_case)?;
        let alphabet = match &matcher {
            Matcher::Pattern(pattern) => pattern.alphabet(),
            _ => Alphabet::of_words(keywords.iter().map(|(_, word)| word.as_str())),
        };
        Ok(Self::new(matcher, alphabet, of_source))
    }

    /// Finds a byte of the next event that may match, at or after `at`. At 0 it is another slice.
    pub(crate) fn next(&mut self, slice: &[u8], at: usize) -> Option<usize> {
        if at == 0 || self.hit < at {
            self.hit = self.matcher.find(slice, at).unwrap_or(NOWHERE);
        }
        if self.of_source {
            self.trigger = NOWHERE;
        } else if at == 0 || self.trigger < at {
            self.trigger = find_trigger(slice, at).unwrap_or(NOWHERE);
        }
        let next = self.hit.min(self.trigger);
        (next != NOWHERE).then_some(next)
    }

    /// Says whether the event matches that [`next`](Self::next) pointed at.
    pub(crate) fn matches_next(&mut self, event: Event<'_>) -> bool {
        let (start, body) = (event.offset(), event.body());
        let is_hit = (start..start + event.bytes().len()).contains(&self.hit);
        let has_trigger = (start..start + body.len()).contains(&self.trigger);
        self.matches(body, is_hit, has_trigger)
    }

    /// Says whether an event matches, whatever was found before.
    pub(crate) fn matches_body(&mut self, body: &[u8]) -> bool {
        let is_hit = self.matcher.matches_text(body);
        let has_trigger = !self.of_source && find_trigger(body, 0).is_some();
        self.matches(body, is_hit, has_trigger)
    }

    /// Says whether the text that was looked at last holds a match of another matcher.
    pub(crate) fn holds(&self, body: &[u8], matcher: &Matcher) -> bool {
        (0..self.view.layers()).any(|layer| matcher.matches_text(self.view.text(layer, body)))
    }

    /// Returns what looks for it in one text.
    pub(crate) fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    /// Lets go of what an unusual event took.
    pub(crate) fn rest(&mut self) {
        self.view.rest();
    }

    fn matches(&mut self, body: &[u8], is_hit: bool, has_trigger: bool) -> bool {
        let matcher = &self.matcher;
        let needs_view = has_trigger
            && (is_hit
                || self
                    .view
                    .may_hold(body, &self.alphabet, |text| matcher.find(text, 0).is_some()));
        self.view.begin(body, needs_view);
        match needs_view {
            true => self.holds(body, &self.matcher),
            false => is_hit && self.matcher.confirms(body),
        }
    }
}
