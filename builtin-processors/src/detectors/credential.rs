//! Secrets that open something.

use super::{Boundary, Category, Detector};

mod generic;
mod services;

const BASE: Detector = Detector::of(Category::Credential, Boundary::Word);

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
