//! Numbers of Asia, Africa and Oceania.

use super::{super::checks, BASE, Detector, has_hyphens};
use crate::detectors::Boundary;

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "au_tfn",
        title: "Australian tax file number",
        description: "Nine digits, a weighted sum of which is a multiple of 11 (ATO; as in \
            python-stdnum, stdnum.au.tfn). Always needs a keyword.",
        pattern: r"(?-u)\d{3}[ +]\d{3}[ +]\d{3}|\d{3}-\d{3}-\d{3}|\d{9}",
        check: Some(|matched| {
            checks::digits::<9>(matched).is_some_and(|digits| {
                checks::weighted(&digits, &[1, 4, 3, 7, 5, 8, 6, 9, 10]).is_multiple_of(11)
                    && !checks::are_alike(&digits)
            })
        }),
        keywords: &["tfn", "tax file"],
        examples: &["TFN 123 456 782", "tax file number: 123456782"],
        ..BASE
    },
    Detector {
        name: "au_abn",
        title: "Australian business number",
        description: "Eleven digits, not from 0; the first one less 1, a weighted sum is a multiple of \
            89 (Australian Business Register, \"Format of the ABN\"). Always needs a keyword.",
        pattern: r"(?-u)[1-9]\d[ +]\d{3}[ +]\d{3}[ +]\d{3}|[1-9]\d{10}",
        check: Some(|matched| {
            checks::digits::<11>(matched).is_some_and(|mut digits| {
                digits[0] = digits[0].wrapping_sub(1);
                let weights = [10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19];
                digits[0] < 9 && checks::weighted(&digits, &weights).is_multiple_of(89)
            })
        }),
        keywords: &["abn", "australian business", "business number"],
        examples: &["ABN 83 914 571 673", "abn=83914571673"],
        ..BASE
    },
    Detector {
        name: "in_aadhaar",
        title: "Indian Aadhaar number",
        description: "Twelve digits, not from 0 or 1 and no palindrome, with Verhoeff's check digit \
            (UIDAI, \"A UID Numbering Scheme\", 2010). Always needs a keyword.",
        pattern: r"(?-u)[2-9]\d{3}[ +-]\d{4}[ +-]\d{4}|[2-9]\d{11}",
        check: Some(|matched| {
            checks::digits::<12>(matched).is_some_and(|digits| {
                checks::verhoeff(&digits) && !digits.iter().eq(digits.iter().rev())
            })
        }),
        keywords: &["aadhaar", "aadhar", "adhaar", "uidai", "uid", "आधार"],
        examples: &["Aadhaar: 2341 2341 2346", "aadhaar_no=234123412346"],
        ..BASE
    },
    Detector {
        name: "in_pan",
        title: "Indian permanent account number",
        description: "Five letters, four digits and a letter; the fourth letter is a kind of holder, \
            the digits are not 0000 (Income Tax Department, Rule 114). Always needs a keyword.",
        pattern: r"(?-u)[A-Za-z]{3}[ABCFGHJLPTabcfghjlpt][A-Za-z]\d{4}[A-Za-z]",
        check: Some(|matched| matched.get(5..9) != Some(b"0000")),
        boundary: Boundary::Word,
        keywords: &["pan", "permanent account", "income tax"],
        examples: &["PAN: ACUPA7085R", "pan_no=ACUPA7085R"],
        ..BASE
    },
    Detector {
        name: "sg_nric",
        title: "Singapore NRIC or FIN",
        description: "S, T, F, G or M, seven digits and a check letter modulo 11 (ICA; as in \
            python-stdnum's kin for M since 2022). Always needs a keyword.",
        pattern: r"(?-u)[STFGMstfgm]\d{7}[A-Za-z]",
        check: Some(is_sg_nric),
        boundary: Boundary::Word,
        keywords: &[
            "nric",
            "fin",
            "ic no",
            "ic number",
            "identity card",
            "singpass",
            "work permit",
        ],
        examples: &["NRIC S1234567D", "fin=G1234567X"],
        ..BASE
    },
    Detector {
        name: "cn_resident_id",
        title: "Chinese resident identity number",
        description: "A division, a day of birth from 1900 to 2099, three digits, and a check character \
            by ISO/IEC 7064, MOD 11-2 (GB 11643-1999).",
        pattern: r"(?-u)[1-8]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])\d{2}\d{3}[0-9Xx]",
        check: Some(is_cn_resident_id),
        other_keys: &[],
        examples: &["360426199101010071"],
        ..BASE
    },
    Detector {
        name: "kr_rrn",
        title: "South Korean resident registration number",
        description: "A day of birth, a digit for sex and century, and six digits. The last is a check \
            digit only up to October 2020; a number without it needs a keyword (Resident Registration \
            Act, enforcement rule 2).",
        pattern: r"(?-u)\d{6}-\d{7}|\d{13}",
        check: Some(|matched| {
            checks::digits::<13>(matched).is_some_and(|digits| {
                let two = |at: usize| checks::number(&digits[at..at + 2]);
                checks::is_short_date(two(2), two(4), two(0)) && !checks::are_alike(&digits[6..])
            })
        }),
        keywords: &[
            "rrn",
            "jumin",
            "resident registration",
            "alien registration",
            "주민등록번호",
            "주민번호",
        ],
        tells_alone: Some(|matched| {
            let weights = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5];
            has_hyphens(matched)
                && checks::digits::<13>(matched).is_some_and(|digits| {
                    let sum = checks::weighted(&digits, &weights);
                    (11 - sum % 11) % 10 == u32::from(digits[12])
                })
        }),
        examples: &["971013-9019902", "rrn: 971013-9019903"],
        ..BASE
    },
    Detector {
        name: "jp_my_number",
        title: "Japanese individual number",
        description: "Twelve digits, the last one a check digit by modulus 11 (Order of the Ministry \
            of Internal Affairs 85/2014, art. 5). Always needs a keyword.",
        pattern: r"(?-u)\d{4}[ +-]\d{4}[ +-]\d{4}|\d{12}",
        check: Some(|matched| {
            checks::digits::<12>(matched).is_some_and(|digits| {
                let sum = checks::weighted(&digits[..11], &[6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]);
                let check = match sum % 11 {
                    0 | 1 => 0,
                    rest => 11 - rest,
                };
                check == u32::from(digits[11]) && !checks::are_alike(&digits)
            })
        }),
        keywords: &[
            "my number",
            "individual number",
            "kojin bango",
            "マイナンバー",
            "個人番号",
        ],
        examples: &["my_number=123456789018"],
        ..BASE
    },
    Detector {
        name: "za_id",
        title: "South African identity number",
        description: "A day of birth, four digits, 0 to 2 for citizenship, a digit, and Luhn's check \
            digit (Identification Act 68 of 1997). Always needs a keyword.",
        pattern: r"(?-u)\d{6}[ +]?\d{4}[ +]?[012]\d{2}",
        check: Some(|matched| {
            checks::digits::<13>(matched).is_some_and(|digits| {
                let two = |at: usize| checks::number(&digits[at..at + 2]);
                checks::luhn(&digits) && checks::is_short_date(two(2), two(4), two(0))
            })
        }),
        keywords: &[
            "id number",
            "id no",
            "identity number",
            "south african",
            "sa id",
            "rsa id",
            "za id",
        ],
        examples: &["SA ID: 7503305044089"],
        ..BASE
    },
    Detector {
        name: "tr_tckn",
        title: "Turkish identity number",
        description: "Eleven digits, not from 0, with two check digits (Nüfus ve Vatandaşlık İşleri; as \
            in python-stdnum, stdnum.tr.tckimlik). Always needs a keyword.",
        pattern: r"(?-u)[1-9]\d{10}",
        check: Some(|matched| {
            checks::digits::<11>(matched).is_some_and(|digits| {
                let odd = checks::weighted(&digits[..9], &[1, 0, 1, 0, 1, 0, 1, 0, 1]);
                let even = checks::weighted(&digits[..9], &[0, 1, 0, 1, 0, 1, 0, 1, 0]);
                let tenth = (odd * 7 + 10 * even - even) % 10;
                let all = (odd + even + u32::from(digits[9])) % 10;
                tenth == u32::from(digits[9]) && all == u32::from(digits[10])
            })
        }),
        keywords: &["tckn", "tc kimlik", "kimlik", "tc no", "tcno"],
        examples: &["TC Kimlik No: 17291716060", "tckn=17291716060"],
        ..BASE
    },
    Detector {
        name: "il_id",
        title: "Israeli identity number",
        description: "Nine digits with Luhn's check digit (Population Registry; as in python-stdnum, \
            stdnum.il.idnr). Always needs a keyword.",
        pattern: r"(?-u)\d{8}-\d|\d{9}",
        check: Some(|matched| {
            checks::digits::<9>(matched)
                .is_some_and(|digits| checks::luhn(&digits) && !checks::are_alike(&digits))
        }),
        keywords: &[
            "teudat zehut",
            "israeli id",
            "israel id",
            "zehut",
            "תעודת זהות",
            "מספר זהות",
            "ת.ז",
        ],
        examples: &["Teudat Zehut: 03933742-3", "israeli_id=039337423"],
        ..BASE
    },
];

fn is_sg_nric(matched: &[u8]) -> bool {
    let (Some(digits), Some(&first), Some(&last)) = (
        checks::digits::<7>(matched),
        matched.first(),
        matched.last(),
    ) else {
        return false;
    };
    let (offset, letters) = match first.to_ascii_uppercase() {
        b'S' => (0, b"JZIHGFEDCBA"),
        b'T' => (4, b"JZIHGFEDCBA"),
        b'F' => (0, b"XWUTRQPNMLK"),
        b'G' => (4, b"XWUTRQPNMLK"),
        _ => (3, b"XWUTRQPNJLK"),
    };
    let sum = offset + checks::weighted(&digits, &[2, 7, 6, 5, 4, 3, 2]);
    letters[(sum % 11) as usize] == last.to_ascii_uppercase()
}

fn is_cn_resident_id(matched: &[u8]) -> bool {
    let Some(characters) = checks::alphanumerics::<18>(matched) else {
        return false;
    };
    let digits = characters.map(|byte| byte.wrapping_sub(b'0'));
    let check = match characters[17] {
        b'X' => 10,
        digit => u32::from(digit.wrapping_sub(b'0')),
    };
    // MOD 11-2: the weights are powers of two.
    let sum = checks::weighted(
        &digits[..17],
        &[7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2],
    );
    let two = |at: usize| checks::number(&digits[at..at + 2]);
    (sum + check) % 11 == 1
        && checks::is_date(checks::number(&digits[6..10]), two(10), two(12))
        && matches!(two(0), 11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81..=83)
}
