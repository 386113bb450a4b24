//! Numbers of European states.

use super::{super::checks, BASE, Detector, has_dots, has_hyphens};
use crate::detectors::Boundary;

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "uk_nino",
        title: "UK national insurance number",
        description: "Two letters, six digits and A to D; D, F, I, Q, U and V stand in no prefix, O not \
            second, and BG, GB, KN, NK, NT, TN and ZZ are not used (HMRC, NIM39110). Without blanks it \
            needs a keyword.",
        pattern: r"(?-u)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ +]?\d{2}[ +]?\d{2}[ +]?\d{2}[ +]?[A-D]",
        check: Some(|matched| {
            !matches!(
                matched.get(..2),
                Some(b"BG" | b"GB" | b"KN" | b"NK" | b"NT" | b"TN" | b"ZZ")
            )
        }),
        boundary: Boundary::Word,
        keywords: &[
            "nino",
            "national insurance",
            "ni number",
            "ni no",
            "insurance no",
        ],
        tells_alone: Some(|matched| matched.contains(&b' ')),
        examples: &["AB 12 34 56 C", "nino=AB123456C"],
        ..BASE
    },
    Detector {
        name: "uk_utr",
        title: "UK unique taxpayer reference",
        description: "Ten digits, the first is a check digit by modulus 11 (HMRC; as in \
            python-stdnum, stdnum.gb.utr). Always needs a keyword.",
        pattern: r"(?-u)\d{5}[ +]\d{5}|\d{10}",
        check: Some(|matched| {
            checks::digits::<10>(matched).is_some_and(|digits| {
                let sum = checks::weighted(&digits[1..], &[6, 7, 8, 9, 10, 5, 4, 3, 2]);
                b"21987654321"[(sum % 11) as usize] - b'0' == digits[0]
                    && !checks::are_alike(&digits)
            })
        }),
        keywords: &[
            "utr",
            "unique taxpayer",
            "taxpayer reference",
            "tax reference",
        ],
        examples: &["UTR 19558 39661", "utr=1955839661"],
        ..BASE
    },
    Detector {
        name: "es_dni",
        title: "Spanish DNI",
        description: "Eight digits and the letter that modulus 23 gives (Real Decreto 1553/2005, art. \
            11). Without a hyphen it needs a keyword.",
        pattern: r"(?-u)\d{8}[ +-]?[A-HJ-NP-TV-Z]",
        check: Some(|matched| {
            checks::alphanumerics::<9>(matched).is_some_and(|characters| is_spanish(characters, 0))
        }),
        boundary: Boundary::Word,
        keywords: &["dni", "nif", "documento nacional", "identidad"],
        tells_alone: Some(has_hyphens),
        examples: &["54362315-K", "dni: 54362315K"],
        ..BASE
    },
    Detector {
        name: "es_nie",
        title: "Spanish NIE",
        description: "X, Y or Z, seven digits and the letter that modulus 23 gives (Orden \
            INT/2058/2008). Without a hyphen it needs a keyword.",
        pattern: r"(?-u)[XYZxyz][ +-]?\d{7}[ +-]?[A-HJ-NP-TV-Za-hj-np-tv-z]",
        check: Some(|matched| {
            checks::alphanumerics::<9>(matched).is_some_and(|mut characters| {
                let prefix = characters[0].wrapping_sub(b'X');
                characters[0] = b'0';
                is_spanish(characters, prefix)
            })
        }),
        boundary: Boundary::Word,
        keywords: &["nie", "nif", "extranjero", "identidad"],
        tells_alone: Some(has_hyphens),
        examples: &["X-2482300-W", "nie: X2482300W"],
        ..BASE
    },
    Detector {
        name: "fr_nir",
        title: "French NIR (social security number)",
        description: "13 digits (2A and 2B for Corsica) and a key of two, 97 less the number modulo 97; \
            sex and month are looked at (INSEE, décret 82-103). Without blanks it needs a keyword.",
        pattern: r"(?-u)[1-478][ +]\d{2}[ +]\d{2}[ +](?:\d{2}|2[ABab])[ +]\d{3}[ +]\d{3}[ +]\d{2}|[1-478]\d{4}(?:\d{2}|2[ABab])\d{6}[ +]?\d{2}",
        check: Some(is_fr_nir),
        keywords: &[
            "nir",
            "insee",
            "securite sociale",
            "sécurité sociale",
            "secu",
            "vitale",
            "social security",
        ],
        tells_alone: Some(|matched| matched.iter().filter(|&&byte| byte == b' ').count() > 1),
        examples: &["2 95 10 99 126 111 93", "nir=295109912611193"],
        ..BASE
    },
    Detector {
        name: "de_steuer_id",
        title: "German tax identification number",
        description: "Eleven digits, not from 0: among the first ten one digit stands twice or three \
            times, not three in a row, every other at most once; the last one checks by ISO/IEC 7064, MOD 11,10 (BZSt, \
            AO §139b). Always needs a keyword.",
        pattern: r"(?-u)[1-9]\d[ +]\d{3}[ +]\d{3}[ +]\d{3}|[1-9]\d{10}",
        check: Some(is_de_steuer_id),
        keywords: &[
            "steuer id",
            "steueridnr",
            "steuer idnr",
            "steueridentifikationsnummer",
            "identifikationsnummer",
            "steuernummer",
            "idnr",
            "tax id",
            "tin",
        ],
        examples: &["Steuer-ID: 36 574 261 809", "steuer_id=36574261809"],
        ..BASE
    },
    Detector {
        name: "it_codice_fiscale",
        title: "Italian codice fiscale",
        description: "16 letters and digits: name, year, a letter for the month, day, municipality, and \
            a check letter modulo 26; digits may be replaced by letters (D.M. 23 dicembre 1976).",
        pattern: r"(?-u)[A-Za-z]{6}[0-9LMNP-Vlmnp-v]{2}[ABCDEHLMPRSTabcdehlmprst][0-9LMNP-Vlmnp-v]{2}[A-Za-z][0-9LMNP-Vlmnp-v]{3}[A-Za-z]",
        check: Some(is_it_codice_fiscale),
        boundary: Boundary::Word,
        other_keys: &[],
        examples: &["RCCMNL83S18D969H"],
        ..BASE
    },
    Detector {
        name: "nl_bsn",
        title: "Dutch BSN",
        description: "Nine digits by the eleven test: weights 9 to 2 and -1 (Wet algemene bepalingen \
            burgerservicenummer). Always needs a keyword.",
        pattern: r"(?-u)\d{4}\.\d{2}\.\d{3}|\d{9}",
        check: Some(|matched| {
            checks::digits::<9>(matched).is_some_and(|digits| {
                let sum = checks::weighted(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]);
                sum % 11 == u32::from(digits[8]) && !checks::are_alike(&digits)
            })
        }),
        keywords: &[
            "bsn",
            "burgerservicenummer",
            "burger service",
            "sofinummer",
            "sofi",
        ],
        kept: b".",
        examples: &["BSN 1112.22.333", "bsn=111222333"],
        ..BASE
    },
    Detector {
        name: "be_nrn",
        title: "Belgian national register number",
        description: "A day of birth, a serial number and 97 less the number modulo 97, with a 2 in \
            front for those born from 2000 (arrêté royal du 3 avril 1984). Without dots it needs a \
            keyword.",
        pattern: r"(?-u)\d{2}\.\d{2}\.\d{2}-\d{3}[.-]\d{2}|\d{2}[ +]\d{2}[ +]\d{2}[ +]\d{3}[ +]\d{2}|\d{6}-\d{3}-\d{2}|\d{11}",
        check: Some(is_be_nrn),
        keywords: &[
            "rijksregister",
            "rijksregisternummer",
            "registre national",
            "numero national",
            "nationaal nummer",
            "national number",
            "insz",
            "niss",
            "nrn",
        ],
        tells_alone: Some(has_dots),
        kept: b". -",
        examples: &["85.07.30-033.28", "rijksregisternummer 85073003328"],
        ..BASE
    },
    Detector {
        name: "pl_pesel",
        title: "Polish PESEL",
        description: "A day of birth with the century in the month, a serial number and a check digit \
            (ustawa o ewidencji ludności, art. 15). Always needs a keyword.",
        pattern: r"(?-u)\d{11}",
        check: Some(is_pl_pesel),
        keywords: &["pesel"],
        examples: &["PESEL: 44051401359"],
        ..BASE
    },
    Detector {
        name: "se_personnummer",
        title: "Swedish personal identity number",
        description: "A day of birth (from 61 on for co-ordination numbers), three digits and Luhn's \
            check digit (Skatteverket, SKV 704). Always needs a keyword: times look alike.",
        pattern: r"(?-u)(?:19|20)\d{6}[-+]?\d{4}|\d{6}[-+]?\d{4}",
        check: Some(is_se_personnummer),
        keywords: &[
            "personnummer",
            "personnr",
            "samordningsnummer",
            "personal identity",
            "pnr",
            "ssn",
        ],
        kept: b"-+",
        examples: &["personnummer 880320-0016", "pnr: 198803200016"],
        ..BASE
    },
    Detector {
        name: "no_fodselsnummer",
        title: "Norwegian national identity number",
        description: "A day of birth (plus 40 for D-numbers), three digits and two check digits by \
            modulus 11 (Skatteetaten, folkeregisterforskriften). Always needs a keyword.",
        pattern: r"(?-u)\d{6}[ +-]?\d{5}",
        check: Some(is_no_fodselsnummer),
        keywords: &[
            "fodselsnummer",
            "fødselsnummer",
            "fnr",
            "personnummer",
            "d nummer",
            "dnr",
        ],
        examples: &["fødselsnummer 151086 95088", "fnr=15108695088"],
        ..BASE
    },
    Detector {
        name: "fi_hetu",
        title: "Finnish personal identity code",
        description: "A day of birth, a sign for the century, a number from 002 and a check character \
            modulo 31 (Digital and Population Data Services Agency; signs of 2023). One that ends \
            with a digit needs a keyword.",
        pattern: r"(?-u)\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]",
        check: Some(is_fi_hetu),
        boundary: Boundary::Number,
        keywords: &[
            "hetu",
            "henkilotunnus",
            "henkilötunnus",
            "personbeteckning",
            "ssn",
        ],
        tells_alone: Some(|matched| matched.last().is_some_and(u8::is_ascii_alphabetic)),
        kept: b"-+",
        examples: &["131052-308T", "hetu=290572-0210"],
        ..BASE
    },
    Detector {
        name: "dk_cpr",
        title: "Danish CPR number",
        description: "A day of birth and four digits; since 2007 not all have a check digit, so none is \
            asked for (CPR-kontoret, \"Personnummeret i CPR\"). Always needs a keyword.",
        pattern: r"(?-u)\d{6}[ +-]?\d{4}",
        check: Some(|matched| {
            checks::digits::<10>(matched).is_some_and(|digits| {
                let two = |at: usize| checks::number(&digits[at..at + 2]);
                checks::is_short_date(two(2), two(0), two(4))
            })
        }),
        keywords: &["cpr", "cprnr", "cpr nr", "cpr nummer"],
        examples: &["CPR: 211062-5629", "cpr_nummer=2110625629"],
        ..BASE
    },
    Detector {
        name: "pt_nif",
        title: "Portuguese NIF",
        description: "Nine digits, not from 0, of those from 4 only 45, the last one a check digit by modulus 11 (Portaria \
            386/98). Always needs a keyword.",
        pattern: r"(?-u)(?:[1-35-9]\d|45)\d[ +]\d{3}[ +]\d{3}|(?:[1-35-9]\d|45)\d{7}",
        check: Some(|matched| {
            checks::digits::<9>(matched).is_some_and(|digits| {
                let sum = checks::weighted(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]);
                (11 - sum % 11) % 11 % 10 == u32::from(digits[8]) && !checks::are_alike(&digits)
            })
        }),
        keywords: &[
            "nif",
            "nipc",
            "contribuinte",
            "numero fiscal",
            "número fiscal",
        ],
        examples: &["NIF 501 964 843", "contribuinte: 501964843"],
        ..BASE
    },
    Detector {
        name: "ie_pps",
        title: "Irish PPS number",
        description: "Seven digits, a check letter modulo 23 and maybe one more letter (Department of \
            Social Protection, S.I. 2012). Always needs a keyword.",
        pattern: r"(?-u)\d{7}[A-W][A-IT-W]?",
        check: Some(is_ie_pps),
        boundary: Boundary::Word,
        keywords: &["pps", "ppsn", "pps no", "personal public service"],
        examples: &["PPS: 6433435F", "ppsn=6433435OA"],
        ..BASE
    },
    Detector {
        name: "ch_ahv",
        title: "Swiss AHV number",
        description: "13 digits from 756 with the check digit of EAN-13 (AHVV, art. 133). Without dots it \
            needs a keyword.",
        pattern: r"(?-u)756\.\d{4}\.\d{4}\.\d{2}|756\d{10}",
        check: Some(|matched| {
            checks::digits::<13>(matched).is_some_and(|digits| {
                let sum = checks::weighted(&digits, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]);
                sum.is_multiple_of(10)
            })
        }),
        keywords: &[
            "ahv",
            "avs",
            "ahvn13",
            "navs13",
            "sozialversicherungsnummer",
        ],
        tells_alone: Some(has_dots),
        kept: b".",
        examples: &["756.9217.0769.85", "ahv 7569217076985"],
        ..BASE
    },
];

/// The letter of eight digits, of which the first is replaced for foreigners.
fn is_spanish(mut characters: [u8; 9], prefix: u8) -> bool {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let letter = characters[8];
    characters
        .iter_mut()
        .for_each(|byte| *byte = byte.wrapping_sub(b'0'));
    characters[0] = characters[0].wrapping_add(prefix);
    let number = checks::number(&characters[..8]);
    LETTERS[(number % 23) as usize] == letter && number > 0
}

fn is_fr_nir(matched: &[u8]) -> bool {
    let Some(mut characters) = checks::alphanumerics::<15>(matched) else {
        return false;
    };
    // Corsica: A and B are 0, and as many millions less.
    let less = match characters[6] {
        b'A' => 1_000_000,
        b'B' => 2_000_000,
        _ => 0,
    };
    if less > 0 {
        characters[6] = b'0';
    }
    let digits = characters.map(|byte| byte.wrapping_sub(b'0'));
    let month = checks::number(&digits[3..5]);
    let number = checks::number(&digits[..13]).wrapping_sub(less);
    matches!(month, 1..=12 | 20..=42 | 50..=99)
        && digits[5..7] != [0, 0]
        && 97 - number % 97 == checks::number(&digits[13..])
}

fn is_de_steuer_id(matched: &[u8]) -> bool {
    let Some(digits) = checks::digits::<11>(matched) else {
        return false;
    };
    let mut counts = [0; 10];
    for &digit in &digits[..10] {
        counts[usize::from(digit)] += 1;
    }
    let repeated = counts.iter().filter(|&&count| count > 1).count();
    let most = counts.iter().max().copied().unwrap_or(0);
    let in_a_row = digits[..10]
        .windows(3)
        .any(|three| three[0] == three[1] && three[1] == three[2]);
    digits[0] != 0 && repeated == 1 && most <= 3 && !in_a_row && checks::mod_11_10(&digits)
}

fn is_it_codice_fiscale(matched: &[u8]) -> bool {
    // The value of `0` or `A`, `1` or `B`, and so on at odd places, counted from 1.
    const ODD: [u32; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24,
        23,
    ];
    let Some(characters) = checks::alphanumerics::<16>(matched) else {
        return false;
    };
    let value = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        _ => byte.wrapping_sub(b'A') % 26,
    };
    let sum: u32 = characters[..15]
        .iter()
        .enumerate()
        .map(|(at, &byte)| match at % 2 {
            0 => ODD[usize::from(value(byte))],
            _ => u32::from(value(byte)),
        })
        .sum();
    // A digit, or the letter that stands for it: `L` is 0, `V` is 9, without `O`.
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => u64::from(byte - b'0'),
        b'L'..=b'N' => u64::from(byte - b'L'),
        _ => u64::from(byte.wrapping_sub(b'P')) + 3,
    };
    let day = digit(characters[9]) * 10 + digit(characters[10]);
    u32::from(characters[15].wrapping_sub(b'A')) == sum % 26 && matches!(day, 1..=31 | 41..=71)
}

fn is_be_nrn(matched: &[u8]) -> bool {
    let Some(digits) = checks::digits::<11>(matched) else {
        return false;
    };
    let (month, day) = (checks::number(&digits[2..4]), checks::number(&digits[4..6]));
    let number = checks::number(&digits[..9]);
    let check = checks::number(&digits[9..]);
    let holds = |number: u64| 97 - number % 97 == check;
    // Unknown days and months are 0; 20 and 40 are added for those without a register entry.
    month % 20 <= 12
        && month < 60
        && day <= 31
        && digits[6..9] != [0; 3]
        && (holds(number) || holds(2_000_000_000 + number))
}

fn is_pl_pesel(matched: &[u8]) -> bool {
    checks::digits::<11>(matched).is_some_and(|digits| {
        let sum = checks::weighted(&digits[..10], &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]);
        let two = |at: usize| checks::number(&digits[at..at + 2]);
        let century = [1900, 2000, 2100, 2200, 1800][(two(2) / 20) as usize % 5];
        (10 - sum % 10) % 10 == u32::from(digits[10])
            && checks::is_date(century + two(0), two(2) % 20, two(4))
    })
}

fn is_se_personnummer(matched: &[u8]) -> bool {
    let count = matched.iter().filter(|byte| byte.is_ascii_digit()).count();
    let digits = match count {
        10 => checks::digits::<10>(matched),
        _ => matched.get(2..).and_then(checks::digits::<10>),
    };
    digits.is_some_and(|digits| {
        let two = |at: usize| checks::number(&digits[at..at + 2]);
        let day = match two(4) {
            day @ 61.. => day - 60,
            day => day,
        };
        checks::luhn(&digits) && checks::is_short_date(two(2), day, two(0))
    })
}

fn is_no_fodselsnummer(matched: &[u8]) -> bool {
    checks::digits::<11>(matched).is_some_and(|digits| {
        let two = |at: usize| checks::number(&digits[at..at + 2]);
        // D-numbers add 40 to the day; synthetic ones 40 or 80 to the month.
        let (day, month) = (two(0) % 40, two(2) % 40);
        let first = checks::weighted(&digits[..10], &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1]);
        let second = checks::weighted(&digits, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1]);
        first.is_multiple_of(11)
            && second.is_multiple_of(11)
            && checks::is_short_date(month, day, two(4))
    })
}

fn is_fi_hetu(matched: &[u8]) -> bool {
    const CHECKS: &[u8; 31] = b"0123456789ABCDEFHJKLMNPRSTUVWXY";
    let Some(&check) = matched.last() else {
        return false;
    };
    // The sign between may be a letter, the check too: neither is a digit of the number.
    let (Some(birth), Some(serial)) = (matched.get(..6), matched.get(7..10)) else {
        return false;
    };
    let mut number = [0; 9];
    number[..6].copy_from_slice(birth);
    number[6..].copy_from_slice(serial);
    checks::digits::<9>(&number).is_some_and(|digits| {
        let two = |at: usize| checks::number(&digits[at..at + 2]);
        let remainder = checks::number(&digits) % 31;
        CHECKS[remainder as usize] == check
            && checks::number(&digits[6..]) >= 2
            && checks::is_short_date(two(2), two(0), two(4))
    })
}

fn is_ie_pps(matched: &[u8]) -> bool {
    let (Some(digits), Some(&check)) = (
        matched.get(..7).and_then(checks::digits::<7>),
        matched.get(7),
    ) else {
        return false;
    };
    let extra = match matched.get(8) {
        // T and W say something else than a number.
        Some(letter @ b'A'..=b'I') => u32::from(letter - b'A') + 1,
        _ => 0,
    };
    let sum = checks::weighted(&digits, &[8, 7, 6, 5, 4, 3, 2]) + 9 * extra;
    b"WABCDEFGHIJKLMNOPQRSTUV"[(sum % 23) as usize] == check
}
