//! Runs all detectors over all cases and counts.

use std::{collections::BTreeMap, fmt, ops::Range};

use streamgate_processors::detectors::{self, Category, Finder};

use super::corpus::Case;

/// Pairs of a detector and a label with which its hit is right too: the value is both.
///
/// Everything else that a detector finds in a case with another label is a false positive.
const BOTH: &[(&str, &[&str])] = &[
    // Every secret with a telling shape may stand behind a key that says so, and in a header.
    ("generic_secret", &["*credential"]),
    ("bearer_token", &["jwt"]),
    // `password@host` is what an address looks like; both hide it.
    ("email", &["url_credentials"]),
    // The same keyword stands for both, and the check digits may agree by chance.
    ("us_ssn", &["us_itin", "us_ein"]),
    ("us_ein", &["us_itin", "us_ssn"]),
    ("pt_nif", &["es_dni", "es_nie"]),
    ("dk_cpr", &["se_personnummer", "no_fodselsnummer"]),
    ("se_personnummer", &["dk_cpr", "no_fodselsnummer"]),
    ("no_fodselsnummer", &["se_personnummer", "dk_cpr"]),
    ("twilio_key", &["datadog_key", "generic_secret"]),
];

/// How one detector did.
#[derive(Debug, Default)]
pub(crate) struct Score {
    pub(crate) name: &'static str,
    pub(crate) found: usize,
    pub(crate) missed: Vec<usize>,
    /// Cases in which it found what is not there.
    pub(crate) wrong: Vec<usize>,
}

impl Score {
    pub(crate) fn recall(&self) -> f64 {
        share(self.found, self.missed.len())
    }

    pub(crate) fn precision(&self) -> f64 {
        share(self.found, self.wrong.len())
    }
}

fn share(right: usize, wrong: usize) -> f64 {
    let count = |count: usize| f64::from(u32::try_from(count).expect("few cases"));
    count(right) / count(right + wrong).max(1.0)
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            found,
            missed,
            wrong,
        } = self;
        let (recall, precision) = (self.recall() * 100.0, self.precision() * 100.0);
        write!(
            f,
            "{name:<20} recall {recall:>6.2} %  precision {precision:>6.2} %  found {found:>4}  missed {:>3}  wrong {:>3}",
            missed.len(),
            wrong.len(),
        )
    }
}

/// Judges every detector.
pub(crate) fn judge(cases: &[Case]) -> Vec<Score> {
    let mut scores: BTreeMap<&str, Score> = BTreeMap::new();
    let categories: BTreeMap<&str, Category> = detectors::all()
        .iter()
        .map(|detector| (detector.name, detector.category))
        .collect();
    for detector in detectors::all() {
        let finder = Finder::build(detector).expect("compiles");
        let score = scores.entry(detector.name).or_default();
        score.name = detector.name;
        let both = BOTH.iter().find(|(name, _)| *name == detector.name);
        let is_both = |label: &str| {
            both.is_some_and(|(_, labels)| {
                labels.contains(&label)
                    || labels.contains(&"*credential")
                        && categories.get(label) == Some(&Category::Credential)
            })
        };
        for (number, case) in cases.iter().enumerate() {
            let found = finder.find_all(case.event.as_bytes());
            let mut right = 0;
            if let Some((label, at)) = &case.label {
                // All of the value must be hidden, and nothing else.
                let exact = found.iter().filter(|found| *found == at).count();
                let on_it = |found: &&Range<usize>| found.start < at.end && at.start < found.end;
                if *label == detector.name {
                    right = exact;
                    match exact {
                        0 => score.missed.push(number),
                        _ => score.found += 1,
                    }
                } else if is_both(label) {
                    right = found.iter().filter(on_it).count();
                }
            }
            if found.len() > right {
                score.wrong.push(number);
            }
        }
    }
    scores.into_values().collect()
}
