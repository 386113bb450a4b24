//! Secrets that open something.

use super::{Boundary, Category, Detector, Part};

mod generic;
mod services;

const BASE: Detector = Detector {
    name: "",
    title: "",
    category: Category::Credential,
    description: "",
    pattern: "",
    check: None,
    boundary: Boundary::Word,
    keywords: &[],
    tells_alone: None,
    other_keys: &[],
    part: Part::Whole,
    kept: b"",
    examples: &[],
};

/// What stands between a key and its value, with the quotes of both.
macro_rules! sign {
    () => {
        r#"(?:\\?["'])?[ \t]{0,4}(?:=>|[:=])[ \t]{0,4}(?:\\?["'])?"#
    };
}
use sign;

/// All of them.
pub(super) fn detectors() -> Vec<Detector> {
    [generic::DETECTORS, services::DETECTORS].concat()
}
