//! `filter`: drops or keeps events by keyword or pattern, anywhere in the event.
//!
//! | parameter | means | default |
//! | --- | --- | --- |
//! | `value` | a keyword | one of the three is required |
//! | `values` | keywords, any of which matches; at most 100,000 | |
//! | `pattern` | a regular expression (the syntax of the `regex` crate) | |
//! | `ignore_case` | whether upper and lower case are alike | `false` |
//! | `mode` | `drop` what matches, or `keep` only what matches | `drop` |
//! | `text` | where it is looked for: in the `decoded` text, as a reader sees it, or in the bytes of the event (`source`) | `decoded` |
//!
//! Filters that drop by keyword and follow one another are [`fuse`](Filter::fuse)d: one pass finds
//! the events that any of them is about, and only there they are asked one after the other.

use std::sync::Arc;

use serde::Deserialize;
use streamgate_guest::{Batch, Editor, Event, Processor, Rest, Rewrite, Tally, Verdict};

use crate::{RuleError, Text, matcher::Pattern, text_matcher::TextMatcher, view::TextName};

/// Drops or keeps events by keyword or pattern.
#[derive(Debug, Clone)]
pub struct Filter {
    matcher: Box<TextMatcher>,
    mode: Mode,
    /// Its keywords, if they are few enough to be looked for together with those of others.
    keywords: Option<Arc<Keywords>>,
}

#[derive(Debug)]
struct Keywords {
    words: Vec<String>,
    ignore_case: bool,
}

/// Most keywords that a filter may have and still be fused: those of more are found as quickly
/// alone.
const MOST_FUSED_KEYWORDS: usize = 1_000;

/// Fewest filters that are fused: a single keyword is looked for at the speed of memory, and two of
/// them are too.
const FEWEST_FUSED: usize = 3;

/// Filters that run as one.
#[derive(Debug, Clone)]
pub struct FusedFilters {
    filters: Vec<Filter>,
    /// Finds the events that one of them matches, and maybe others.
    scout: Box<TextMatcher>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    value: Option<Text>,
    values: Option<Vec<Text>>,
    pattern: Option<String>,
    #[serde(default)]
    ignore_case: bool,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    text: TextName,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    #[default]
    Drop,
    Keep,
}

impl Filter {
    pub(crate) fn build(params: Params) -> Result<Self, RuleError> {
        let Params {
            value,
            values,
            pattern,
            ignore_case,
            mode,
            text,
        } = params;
        let of_source = text == TextName::Source;
        let mut kept = None;
        let mut of_keywords = |keywords: Vec<(String, String)>| {
            let matcher = TextMatcher::keywords(&keywords, ignore_case, of_source);
            if keywords.len() <= MOST_FUSED_KEYWORDS && !of_source {
                let words = keywords.into_iter().map(|(_, word)| word).collect();
                kept = Some(Arc::new(Keywords { words, ignore_case }));
            }
            matcher
        };
        let matcher = match (value, values, pattern) {
            (Some(Text(value)), None, None) => {
                of_keywords(vec![("/params/value".to_owned(), value)])?
            }
            (None, Some(values), None) => {
                let keywords: Vec<(String, String)> = values
                    .into_iter()
                    .enumerate()
                    .map(|(at, Text(value))| (format!("/params/values/{at}"), value))
                    .collect();
                of_keywords(keywords)?
            }
            (None, None, Some(pattern)) => {
                let pattern = Pattern::build(&pattern, ignore_case, "/params/pattern")?;
                TextMatcher::pattern(pattern, of_source)
            }
            (None, None, None) => {
                return Err(RuleError::new(
                    "missing_param",
                    "/params",
                    "a filter needs one of `value`, `values` and `pattern`; none is given",
                ));
            }
            _ => {
                return Err(RuleError::new(
                    "conflicting_params",
                    "/params",
                    "a filter takes one of `value`, `values` and `pattern`; more than one is given",
                ));
            }
        };
        Ok(Self {
            matcher: Box::new(matcher),
            mode,
            keywords: kept,
        })
    }

    /// Whether it can be fused with its neighbours.
    pub fn is_fusible(&self) -> bool {
        self.mode == Mode::Drop && self.keywords.is_some()
    }

    /// Makes one processor of filters that follow one another; `None` if that saves nothing.
    pub fn fuse<'a>(filters: impl IntoIterator<Item = &'a Self>) -> Option<FusedFilters> {
        let filters: Vec<Self> = filters.into_iter().cloned().collect();
        if filters.len() < FEWEST_FUSED || !filters.iter().all(Self::is_fusible) {
            return None;
        }
        let all = || {
            filters
                .iter()
                .filter_map(|filter| filter.keywords.as_deref())
        };
        // What is found without regard to case is found with it; only ASCII folds as keywords do.
        let ignore_case = all().any(|keywords| keywords.ignore_case);
        let mut words: Vec<(String, String)> = all()
            .flat_map(|keywords| &keywords.words)
            .map(|word| (String::new(), word.clone()))
            .collect();
        if ignore_case && !words.iter().all(|(_, word)| word.is_ascii()) {
            return None;
        }
        words.sort();
        words.dedup();
        let scout = TextMatcher::keywords(&words, ignore_case, false).ok()?;
        Some(FusedFilters {
            filters,
            scout: Box::new(scout),
        })
    }
}

impl FusedFilters {
    /// Applies the filters in order, and adds what each of them did to its tally.
    ///
    /// # Panics
    /// If there are not as many tallies as filters.
    pub fn process_each(&mut self, batch: &mut Batch, tallies: &mut [Tally]) {
        let Self { filters, scout } = self;
        assert_eq!(tallies.len(), filters.len(), "each filter has a tally");
        batch.edit_with(
            Rest::Keep,
            &mut FusedPass {
                filters,
                scout,
                tallies,
            },
        );
        scout.rest();
    }
}

/// One pass of fused filters over a batch.
struct FusedPass<'a> {
    filters: &'a [Filter],
    scout: &'a mut TextMatcher,
    tallies: &'a mut [Tally],
}

impl Editor for FusedPass<'_> {
    fn next(&mut self, slice: &[u8], at: usize) -> Option<usize> {
        self.scout.next(slice, at)
    }

    fn decide(&mut self, event: Event<'_>, _: &mut Rewrite<'_>) -> Verdict {
        if !self.scout.matches_next(event) {
            return Verdict::Keep;
        }
        let (scout, body) = (&*self.scout, event.body());
        let matches = |filter: &Filter| scout.holds(body, filter.matcher.matcher());
        match self.filters.iter().position(matches) {
            Some(first) => {
                self.tallies[first].dropped += 1;
                Verdict::Drop
            }
            None => Verdict::Keep,
        }
    }
}

/// One pass of a filter over a batch.
struct Pass<'a> {
    matcher: &'a mut TextMatcher,
    mode: Mode,
}

impl Editor for Pass<'_> {
    fn next(&mut self, slice: &[u8], at: usize) -> Option<usize> {
        self.matcher.next(slice, at)
    }

    fn decide(&mut self, event: Event<'_>, _: &mut Rewrite<'_>) -> Verdict {
        match (self.matcher.matches_next(event), self.mode) {
            (true, Mode::Drop) | (false, Mode::Keep) => Verdict::Drop,
            (true, Mode::Keep) | (false, Mode::Drop) => Verdict::Keep,
        }
    }
}

impl Processor for Filter {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let Self { matcher, mode, .. } = self;
        let rest = match mode {
            Mode::Drop => Rest::Keep,
            Mode::Keep => Rest::Drop,
        };
        let mode = *mode;
        let edited = batch.edit_with(rest, &mut Pass { matcher, mode });
        matcher.rest();
        Tally::dropped(edited.dropped)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn filter(words: &[String], ignore_case: bool) -> Filter {
        let params = json!({"values": words, "ignore_case": ignore_case});
        Filter::build(serde_json::from_value(params).unwrap()).unwrap()
    }

    fn left(batch: &Batch) -> String {
        String::from_utf8(batch.slices().collect::<Vec<_>>().concat()).unwrap()
    }

    proptest! {
        #[test]
        fn fused_filters_do_what_they_do_one_after_another(
            filters in prop::collection::vec(
                (prop::collection::vec("[abAB]{1,5}", 1..4), any::<bool>()), 3..6),
            lines in prop::collection::vec("[abAB x]{0,12}", 0..12),
        ) {
            let mut filters: Vec<Filter> =
                filters.iter().map(|(words, ignore_case)| filter(words, *ignore_case)).collect();
            let mut fused = Filter::fuse(&filters).expect("all drop by keyword");
            let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let mut together = Batch::from_lines(lines.as_str());
            let mut tallies = vec![Tally::default(); filters.len()];
            fused.process_each(&mut together, &mut tallies);
            let mut apart = Batch::from_lines(lines.as_str());
            let expected: Vec<Tally> =
                filters.iter_mut().map(|filter| filter.process(&mut apart)).collect();
            prop_assert_eq!(left(&together), left(&apart));
            prop_assert_eq!(tallies, expected);
        }
    }

    #[test]
    fn filters_look_at_the_text_that_a_reader_sees() {
        let params = json!({"value": "level=DEBUG"});
        let mut filter = Filter::build(serde_json::from_value(params).unwrap()).unwrap();
        let written = [
            "level=DEBUG",
            r#"{"m":"level=DEBUG"}"#,
            r#"{"m":"level\u003dDEBUG"}"#,
            r#"{"l":"{\"m\":\"level\\u003dDEBUG\"}"}"#,
            "q=level%3DDEBUG",
            "\x1b[36mlevel\x1b[0m=DEBUG",
        ];
        let others = [
            r#"{"m":"\nlevel-DEBUG \"a\""}"#,
            r"C:\level\u003dDEBUG",
            "100%3",
            "level",
        ];
        let lines = [&written[..], &others].concat().join("\n");
        let mut batch = Batch::from_lines(lines);
        assert_eq!(filter.process(&mut batch).dropped, 6);
        assert_eq!(left(&batch), others.join("\n") + "\n");
        // The letter of an escape is not a letter of the text.
        let params = json!({"value": "nlevel", "mode": "keep"});
        let mut filter = Filter::build(serde_json::from_value(params).unwrap()).unwrap();
        let mut batch = Batch::from_lines("{\"m\":\"a\\nlevel\"}\n{\"m\":\"nlevel \\\"\"}\n");
        assert_eq!(filter.process(&mut batch).dropped, 1);
        assert_eq!(left(&batch), "{\"m\":\"nlevel \\\"\"}\n");
        let params = json!({"value": "nlevel", "text": "source"});
        let mut filter = Filter::build(serde_json::from_value(params).unwrap()).unwrap();
        let mut batch = Batch::from_lines("{\"m\":\"a\\nlevel\"}\n");
        assert_eq!(filter.process(&mut batch).dropped, 1);
    }

    #[test]
    fn only_filters_that_drop_by_keyword_are_fused() {
        let build = |params| Filter::build(serde_json::from_value(params).unwrap()).unwrap();
        let word = build(json!({"value": "a"}));
        assert!(Filter::fuse([&word, &word, &word]).is_some());
        assert!(Filter::fuse([&word, &word]).is_none());
        for other in [
            json!({"value": "a", "mode": "keep"}),
            json!({"pattern": "a+"}),
        ] {
            assert!(Filter::fuse([&word, &word, &build(other)]).is_none());
        }
    }
}
