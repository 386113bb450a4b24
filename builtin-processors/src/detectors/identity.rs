//! Numbers that states give to people and companies.

use super::{Boundary, Category, Detector, OTHER_NUMBERS, Part, checks};

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

pub(super) const DETECTORS: &[Detector] = &[Detector {
    name: "us_ssn",
    title: "US social security number",
    description: "Three, two and four digits: the area is not 000, 666 or from 900, the group not 00, \
        the serial not 0000, and it is none of the numbers that were printed in advertisements \
        (SSA, \"Social Security Number Randomization\", 2011). Without hyphens it needs a keyword.",
    pattern: r"(?-u)\d{3}-\d{2}-\d{4}|\d{3} \d{2} \d{4}|\d{9}",
    check: Some(is_us_ssn),
    keywords: &[
        "ssn",
        "social security",
        "social",
        "socsec",
        "ss#",
        "taxpayer",
        "tax id",
        "tin",
    ],
    tells_alone: Some(has_hyphens),
    examples: &["536-90-4399", "ssn: 536904399"],
    ..BASE
}];

fn has_hyphens(matched: &[u8]) -> bool {
    matched.contains(&b'-')
}

fn is_us_ssn(matched: &[u8]) -> bool {
    let Some(digits) = checks::digits::<9>(matched) else {
        return false;
    };
    let area = checks::number(&digits[..3]);
    let advertised = matches!(
        checks::number(&digits),
        78_051_120 | 219_099_999 | 123_456_789
    );
    area != 0
        && area != 666
        && area < 900
        && digits[3..5] != [0, 0]
        && digits[5..] != [0; 4]
        && !advertised
        && !checks::are_alike(&digits)
}
