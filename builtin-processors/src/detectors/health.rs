//! Numbers of patients and practitioners.

use super::{Boundary, Category, Detector, OTHER_NUMBERS, checks};

const BASE: Detector = Detector {
    other_keys: OTHER_NUMBERS,
    kept: b" -",
    ..Detector::of(Category::Health, Boundary::Number)
};

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "uk_nhs",
        title: "UK NHS number",
        description: "Ten digits, the last one a check digit by modulus 11 (NHS Data Dictionary, \"NHS \
            NUMBER\"). Always needs a keyword.",
        pattern: r"(?-u)\d{3}[ +-]\d{3}[ +-]\d{4}|\d{10}",
        check: Some(|matched| {
            checks::digits::<10>(matched).is_some_and(|digits| {
                let sum = checks::weighted(&digits[..9], &[10, 9, 8, 7, 6, 5, 4, 3, 2]);
                (11 - sum % 11) % 11 == u32::from(digits[9]) && !checks::are_alike(&digits)
            })
        }),
        keywords: &["nhs", "national health", "chi number", "patient"],
        examples: &["NHS number 943 476 5870", "nhs_no=9434765870"],
        ..BASE
    },
    Detector {
        name: "us_npi",
        title: "US national provider identifier",
        description: "Ten digits from 1 or 2; with 80840 in front they have Luhn's check digit (45 CFR \
            162.406). Always needs a keyword.",
        pattern: r"(?-u)[12]\d{9}",
        check: Some(|matched| {
            checks::digits::<10>(matched).is_some_and(|digits| {
                let mut prefixed = [8, 0, 8, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                prefixed[5..].copy_from_slice(&digits);
                checks::luhn(&prefixed)
            })
        }),
        keywords: &["npi", "national provider", "provider id", "provider number"],
        examples: &["NPI: 1234567893"],
        ..BASE
    },
    Detector {
        name: "us_dea",
        title: "US DEA number",
        description: "Two letters, of which the second may be 9, and seven digits with a check digit (DEA, \
            Office of Diversion Control). Always needs a keyword.",
        pattern: r"(?-u)[A-HJ-MP-UX][A-Z9]\d{7}",
        check: Some(|matched| {
            matched
                .get(2..)
                .and_then(checks::digits::<7>)
                .is_some_and(|digits| {
                    let sum = checks::weighted(&digits[..6], &[1, 2, 1, 2, 1, 2]);
                    sum % 10 == u32::from(digits[6])
                })
        }),
        boundary: Boundary::Word,
        keywords: &["dea", "drug enforcement", "prescriber"],
        examples: &["DEA AP5836727", "dea_number=F91234563"],
        ..BASE
    },
    Detector {
        name: "us_mbi",
        title: "US Medicare beneficiary identifier",
        description: "Eleven letters and digits, each place of its own kind, without S, L, O, I, B and Z \
            (CMS, \"Understanding the Medicare Beneficiary Identifier Format\"). Without hyphens it \
            needs a keyword.",
        pattern: r"(?-u)[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-?[AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-?[AC-HJKMNP-RT-Y]{2}\d{2}",
        boundary: Boundary::Word,
        keywords: &["mbi", "medicare", "beneficiary"],
        tells_alone: Some(|matched| matched.contains(&b'-')),
        other_keys: &[],
        examples: &["1EG4-TE5-MK72", "mbi=1EG4TE5MK72"],
        ..BASE
    },
    Detector {
        name: "au_medicare",
        title: "Australian Medicare number",
        description: "Eight digits from 2 to 6, a check digit by modulus 10, an issue number, and maybe \
            the place on the card (Services Australia; METeOR 270101). Always needs a keyword.",
        pattern: r"(?-u)[2-6]\d{3}[ +-]?\d{5}[ +-]?\d(?:[ +/-]?\d)?",
        check: Some(|matched| {
            let mut digits = [0; 9];
            let found = matched.iter().filter(|byte| byte.is_ascii_digit());
            for (place, byte) in digits.iter_mut().zip(found) {
                *place = byte - b'0';
            }
            let sum = checks::weighted(&digits[..8], &[1, 3, 7, 9, 1, 3, 7, 9]);
            sum % 10 == u32::from(digits[8]) && !checks::are_alike(&digits)
        }),
        keywords: &["medicare", "medicare card"],
        kept: b" -/",
        examples: &["Medicare 2123 45670 1", "medicare_number=2123456701"],
        ..BASE
    },
];
