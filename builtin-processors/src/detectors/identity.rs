//! Numbers that states give to people and companies.

use super::{Boundary, Category, Detector, OTHER_NUMBERS, Part};

mod americas;
mod elsewhere;
mod europe;

const BASE: Detector = Detector {
    name: "",
    title: "",
    category: Category::Identity,
    description: "",
    pattern: "",
    check: None,
    boundary: Boundary::Number,
    keywords: &[],
    tells_alone: None,
    other_keys: OTHER_NUMBERS,
    part: Part::Whole,
    kept: b" -",
    examples: &[],
};

/// All of them.
pub(super) fn detectors() -> Vec<Detector> {
    [americas::DETECTORS, elsewhere::DETECTORS, europe::DETECTORS].concat()
}

fn has_hyphens(matched: &[u8]) -> bool {
    matched.contains(&b'-')
}

fn has_dots(matched: &[u8]) -> bool {
    matched.contains(&b'.')
}
