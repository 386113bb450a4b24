//! Numbers of the Americas.

use super::{super::checks, BASE, Detector, has_dots, has_hyphens};
use crate::detectors::Boundary;

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "us_ssn",
        title: "US social security number",
        description: "Three, two and four digits. Next to a keyword, any such number. With hyphens and \
            without a keyword, one that was or can be assigned: the area is not 000, 666 or from 900, the \
            group not 00, the serial not 0000, and it is not one of the numbers that were printed in \
            advertisements (SSA, \"Social Security Number Randomization\", 2011).",
        pattern: r"(?-u)\d{3}-\d{2}-\d{4}|\d{3}[ +]\d{2}[ +]\d{4}|\d{9}",
        keywords: &[
            "ssn",
            "social security",
            "socsec",
            "ss#",
            "taxpayer",
            "tax id",
            "tin",
        ],
        tells_alone: Some(|matched| has_hyphens(matched) && is_us_ssn(matched)),
        examples: &["536-90-4399", "ssn: 536904399", "ssn=219-09-9999"],
        ..BASE
    },
    Detector {
        name: "us_itin",
        title: "US individual taxpayer identification number",
        description: "Nine digits from 900, with 50 to 65, 70 to 88, 90 to 92 or 94 to 99 in the \
            middle (IRS, Internal Revenue Manual 3.21.263). Without hyphens it needs a keyword.",
        pattern: r"(?-u)9\d{2}-\d{2}-\d{4}|9\d{2}[ +]\d{2}[ +]\d{4}|9\d{8}",
        check: Some(is_us_itin),
        keywords: &["itin", "individual taxpayer", "taxpayer", "tax id", "tin"],
        tells_alone: Some(has_hyphens),
        examples: &["912-90-3456", "itin=912903456"],
        ..BASE
    },
    Detector {
        name: "us_ein",
        title: "US employer identification number",
        description: "Two digits that a campus of the IRS hands out, and seven more (IRS, \"How EINs \
            are assigned and valid EIN prefixes\"). Always needs a keyword.",
        pattern: r"(?-u)\d{2}-\d{7}|\d{9}",
        check: Some(is_us_ein),
        keywords: &[
            "ein",
            "fein",
            "employer identification",
            "employer id",
            "federal tax id",
            "tax id",
            "taxpayer",
        ],
        examples: &["EIN: 91-1144442", "federal tax id 911144442"],
        ..BASE
    },
    Detector {
        name: "us_passport",
        title: "US passport number",
        description: "A letter and eight digits (since 2021) or nine digits, not all alike, near the \
            word \"passport\" (22 CFR 51; US Department of State).",
        pattern: r"(?-u)[A-Z]\d{8}|\d{9}",
        check: Some(|matched| {
            let letters = matched
                .iter()
                .take_while(|byte| byte.is_ascii_alphabetic())
                .count();
            !checks::are_alike(checks::behind(matched, letters))
        }),
        boundary: Boundary::Word,
        keywords: &["passport", "passports"],
        examples: &["passport A12345678", "passport_number=340020013"],
        ..BASE
    },
    Detector {
        name: "ca_sin",
        title: "Canadian social insurance number",
        description: "Nine digits, alone or in threes, not from 0 or 8, with Luhn's check digit (ESDC, \
            \"Social Insurance Number\"). Always needs a keyword.",
        pattern: r"(?-u)[1-79]\d{2}-\d{3}-\d{3}|[1-79]\d{2}[ +]\d{3}[ +]\d{3}|[1-79]\d{8}",
        check: Some(|matched| {
            checks::digits::<9>(matched)
                .is_some_and(|digits| checks::luhn(&digits) && !checks::are_alike(&digits))
        }),
        keywords: &[
            "sin",
            "social insurance",
            "nas",
            "assurance sociale",
            "canadian sin",
        ],
        examples: &["SIN 123-456-782", "social insurance number: 123456782"],
        ..BASE
    },
    Detector {
        name: "br_cpf",
        title: "Brazilian CPF number",
        description: "Eleven digits, the last two are check digits by modulus 11 (Receita Federal, IN \
            RFB 2.172/2024). Without dots it needs a keyword.",
        pattern: r"(?-u)\d{3}\.\d{3}\.\d{3}-\d{2}|\d{9}-\d{2}|\d{11}",
        check: Some(is_br_cpf),
        keywords: &["cpf", "cadastro de pessoas", "pessoa fisica"],
        tells_alone: Some(has_dots),
        kept: b".-",
        examples: &["390.533.447-05", "cpf=39053344705"],
        ..BASE
    },
    Detector {
        name: "br_cnpj",
        title: "Brazilian CNPJ number",
        description: "Twelve letters or digits (letters since July 2026) and two check digits by \
            modulus 11 (Receita Federal, IN RFB 2.229/2024). Without `/` it needs a keyword.",
        pattern: r"(?-u)[0-9A-Z]{2}\.[0-9A-Z]{3}\.[0-9A-Z]{3}/[0-9A-Z]{4}-\d{2}|\d{14}",
        check: Some(is_br_cnpj),
        keywords: &["cnpj", "cadastro nacional", "pessoa juridica"],
        tells_alone: Some(|matched| matched.contains(&b'/')),
        kept: b"./-",
        examples: &["16.727.230/0001-97", "cnpj: 16727230000197"],
        ..BASE
    },
    Detector {
        name: "mx_curp",
        title: "Mexican CURP",
        description: "18 letters and digits: letters of the name, a day of birth, a state of Mexico, \
            consonants of the name, and a check digit (RENAPO, \"Instructivo normativo para la \
            asignación de la CURP\").",
        pattern: r"(?-u)[A-Z][AEIOUX][A-Z]{2}\d{6}[HMX][A-Z]{2}[B-DF-HJ-NP-TV-Z]{3}[0-9A-Z]\d",
        check: Some(is_mx_curp),
        boundary: Boundary::Word,
        other_keys: &[],
        examples: &["BOXW310820HNERXN09"],
        ..BASE
    },
];

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

fn is_us_itin(matched: &[u8]) -> bool {
    checks::digits::<9>(matched).is_some_and(|digits| {
        let group = checks::number(&digits[3..5]);
        digits[0] == 9 && matches!(group, 50..=65 | 70..=88 | 90..=92 | 94..=99)
    })
}

fn is_us_ein(matched: &[u8]) -> bool {
    checks::digits::<9>(matched).is_some_and(|digits| {
        let prefix = checks::number(&digits[..2]);
        matches!(
            prefix,
            1..=6 | 10..=16 | 20..=27 | 30..=48 | 50..=68 | 71..=77 | 80..=88 | 90..=95 | 98 | 99
        ) && !checks::are_alike(&digits[2..])
    })
}

fn is_br_cpf(matched: &[u8]) -> bool {
    let Some(digits) = checks::digits::<11>(matched) else {
        return false;
    };
    let check = |count: u32| {
        let weights = (2..=count + 1).rev();
        let sum: u32 = digits
            .iter()
            .zip(weights)
            .map(|(&digit, weight)| u32::from(digit) * weight)
            .sum();
        sum * 10 % 11 % 10
    };
    !checks::are_alike(&digits)
        && check(9) == u32::from(digits[9])
        && check(10) == u32::from(digits[10])
}

fn is_br_cnpj(matched: &[u8]) -> bool {
    const WEIGHTS: [u32; 13] = [6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2];
    let Some(characters) = checks::alphanumerics::<14>(matched) else {
        return false;
    };
    // By their distance from `0` in ASCII.
    let values = characters.map(|byte| byte.wrapping_sub(b'0'));
    let check = |count: usize| match checks::weighted(&values[..count], &WEIGHTS[13 - count..]) % 11
    {
        0 | 1 => 0,
        rest => 11 - rest,
    };
    !checks::are_alike(&values)
        && check(12) == u32::from(values[12])
        && check(13) == u32::from(values[13])
}

fn is_mx_curp(matched: &[u8]) -> bool {
    const STATES: &[&[u8; 2]] = &[
        b"AS", b"BC", b"BS", b"CC", b"CL", b"CM", b"CS", b"CH", b"DF", b"DG", b"GT", b"GR", b"HG",
        b"JC", b"MC", b"MN", b"MS", b"NT", b"NL", b"OC", b"PL", b"QT", b"QR", b"SP", b"SL", b"SR",
        b"TC", b"TS", b"TL", b"VZ", b"YN", b"ZS", b"NE",
    ];
    let Some(characters) = checks::alphanumerics::<18>(matched) else {
        return false;
    };
    let two = |at: usize| {
        u64::from(characters[at].wrapping_sub(b'0')) * 10
            + u64::from(characters[at + 1].wrapping_sub(b'0'))
    };
    // `Ñ` has a value of its own, between `N` and `O`.
    let value = |byte: u8| match byte {
        b'0'..=b'9' => u32::from(byte - b'0'),
        b'A'..=b'N' => u32::from(byte - b'A') + 10,
        _ => u32::from(byte.wrapping_sub(b'A')) + 11,
    };
    let sum: u32 = characters[..17]
        .iter()
        .zip((2..=18).rev())
        .map(|(&byte, weight)| value(byte) * weight)
        .sum();
    checks::is_short_date(two(6), two(8), two(4))
        && STATES.iter().any(|state| state[..] == characters[11..13])
        && (10 - sum % 10) % 10 == value(characters[17])
}
