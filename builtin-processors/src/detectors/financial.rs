//! Cards, accounts, wallets.

use super::{Boundary, Category, Detector, OTHER_NUMBERS, Part, checks};

const BASE: Detector = Detector {
    name: "",
    title: "",
    category: Category::Financial,
    description: "",
    pattern: "",
    check: None,
    boundary: Boundary::Number,
    keywords: &[],
    tells_alone: None,
    other_keys: &[],
    part: Part::Whole,
    kept: b" -",
    examples: &[],
};

pub(super) const DETECTORS: &[Detector] = &[Detector {
    name: "credit_card",
    title: "payment card number",
    description: "12 to 19 digits in a row, or in groups as printed on cards; an issuer's range with \
        its lengths (Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay, \
        Maestro, Mir, RuPay, Elo, Verve) and Luhn's check digit (ISO/IEC 7812-1).",
    pattern: r"(?-u)[2-6]\d{3}(?:[ -]\d{4}){3}|3[47]\d{2}[ -]\d{6}[ -]\d{5}|3\d{3}[ -]\d{6}[ -]\d{4}|62\d{4}[ -]\d{13}|[2-6]\d{11,18}",
    check: Some(is_card),
    other_keys: OTHER_NUMBERS,
    examples: &[
        "4111111111111111",
        "5555 5555 5555 4444",
        "3782-822463-10005",
    ],
    ..BASE
}];

fn is_card(matched: &[u8]) -> bool {
    let mut digits = [0; 19];
    let mut count = 0;
    for byte in matched.iter().filter(|byte| byte.is_ascii_digit()) {
        let Some(place) = digits.get_mut(count) else {
            return false;
        };
        *place = byte - b'0';
        count += 1;
    }
    let digits = &digits[..count];
    count >= 12
        && checks::luhn(digits)
        && is_issued(checks::number(&digits[..6]), count)
        && !checks::are_alike(digits)
}

/// Whether an issuer has numbers of this length that begin with these six digits.
fn is_issued(first_six: u64, length: usize) -> bool {
    match first_six {
        // Visa.
        400_000..=499_999 => matches!(length, 13 | 16 | 19),
        // Mastercard.
        510_000..=559_999 | 222_100..=272_099 => length == 16,
        // American Express.
        340_000..=349_999 | 370_000..=379_999 => length == 15,
        // Diners Club.
        300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999 => {
            (14..=19).contains(&length)
        }
        // JCB.
        352_800..=358_999 => (16..=19).contains(&length),
        // Mir.
        220_000..=220_499 => (16..=19).contains(&length),
        // Verve.
        506_099..=506_198 | 650_002..=650_027 | 507_865..=507_964 => {
            matches!(length, 16 | 18 | 19)
        }
        // Maestro.
        501_800..=501_899
        | 502_000..=502_099
        | 503_800..=503_899
        | 589_300..=589_399
        | 630_400..=630_499
        | 675_900..=675_999
        | 676_100..=676_399 => (12..=19).contains(&length),
        // Elo.
        506_700..=506_799 | 509_000..=509_999 | 627_780 | 636_297 | 636_368 => length == 16,
        // Discover.
        601_100..=601_199 | 644_000..=659_999 => (16..=19).contains(&length),
        // UnionPay, also with Discover.
        620_000..=629_999 => (16..=19).contains(&length),
        // RuPay.
        600_000..=609_999 | 508_000..=508_999 | 817_200..=820_199 => length == 16,
        // Troy.
        979_200..=979_289 => length == 16,
        _ => false,
    }
}
