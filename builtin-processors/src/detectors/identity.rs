//! Numbers that states give to people and companies.

use super::{Boundary, Category, Detector, OTHER_NUMBERS};

mod americas;
mod elsewhere;
mod europe;

const BASE: Detector = Detector {
    other_keys: OTHER_NUMBERS,
    kept: b" -",
    ..Detector::of(Category::Identity, Boundary::Number)
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
