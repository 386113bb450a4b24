//! Cards, accounts, wallets.

use sha2::{Digest, Sha256};
use sha3::Keccak256;

use super::{Boundary, Category, Detector, OTHER_NUMBERS, checks};

const BASE: Detector = Detector {
    kept: b" -",
    ..Detector::of(Category::Financial, Boundary::Number)
};

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "credit_card",
        title: "payment card number",
        description: "12 to 19 digits in a row, or in groups as printed on cards; an issuer's range with \
        its lengths (Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay, \
        Maestro, Mir, RuPay, Elo, Verve) and Luhn's check digit (ISO/IEC 7812-1). Rows of \
        12, 13 and 17 to 19 digits need a keyword: identity numbers look alike.",
        pattern: r"(?-u)[2-689]\d{3}(?:[ +-]\d{4}){3}|3[47]\d{2}[ +-]\d{6}[ +-]\d{5}|3\d{3}[ +-]\d{6}[ +-]\d{4}|62\d{4}[ +-]\d{13}|[2-689]\d{11,18}",
        check: Some(is_card),
        boundary: Boundary::Grouped,
        keywords: &[
            "card",
            "credit",
            "debit",
            "pan",
            "payment",
            "cc",
            "visa",
            "mastercard",
            "maestro",
            "unionpay",
            "kreditkarte",
            "carte",
            "tarjeta",
        ],
        tells_alone: Some(|matched| {
            let digits = matched.iter().filter(|byte| byte.is_ascii_digit()).count();
            (14..=16).contains(&digits) || digits < matched.len()
        }),
        other_keys: OTHER_NUMBERS,
        examples: &[
            "4111111111111111",
            "5555 5555 5555 4444",
            "3782-822463-10005",
        ],
        ..BASE
    },
    Detector {
        name: "iban",
        title: "IBAN",
        description: "A country, two check digits and as many letters and digits as that country's \
            accounts have; the remainder by 97 is 1 (ISO 13616-1; SWIFT IBAN registry, release 99).",
        pattern: IBAN,
        check: Some(|matched| {
            let (head, tail) = matched.split_at(matched.len().min(4));
            checks::mod_97(tail.iter().chain(head).copied()) == 1
        }),
        boundary: Boundary::Word,
        examples: &[
            "GR16 0110 1250 0000 0001 2300 695",
            "iban=DE89370400440532013000",
        ],
        ..BASE
    },
    Detector {
        name: "aba_routing",
        title: "US bank routing number",
        description: "Nine digits from a district of the Federal Reserve, with a check digit of weights \
            3, 7, 1 (ABA Routing Number Policy). Always needs a keyword.",
        pattern: r"(?-u)\d{4}-\d{4}-\d|\d{9}",
        check: Some(|matched| {
            checks::digits::<9>(matched).is_some_and(|digits| {
                let district = checks::number(&digits[..2]);
                let sum = checks::weighted(&digits, &[3, 7, 1, 3, 7, 1, 3, 7, 1]);
                sum.is_multiple_of(10) && matches!(district, 1..=12 | 21..=32 | 61..=72 | 80)
            })
        }),
        keywords: &["routing", "aba", "rtn", "ach", "bank number"],
        other_keys: OTHER_NUMBERS,
        examples: &["routing number 111000025", "aba=021000021"],
        ..BASE
    },
    Detector {
        name: "swift_bic",
        title: "SWIFT BIC",
        description: "A bank, a country in use, a place, and maybe a branch: eight or eleven characters \
            (ISO 9362; ISO 3166-1). Always needs a keyword.",
        pattern: r"(?-u)[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?",
        check: Some(|matched| {
            let country = matched.get(4..6).unwrap_or_default();
            COUNTRIES
                .as_bytes()
                .chunks_exact(2)
                .any(|known| known == country)
        }),
        boundary: Boundary::Word,
        keywords: &["bic", "swift", "swift code", "bic code"],
        examples: &["BIC: DEUTDEFF500", "swift_code=AGRIFRPP"],
        ..BASE
    },
    Detector {
        name: "btc_address",
        title: "Bitcoin address",
        description: "Base58 with a checksum of SHA-256 twice (versions 0 and 5), or bech32 and bech32m \
            with theirs (Bitcoin Wiki, \"Base58Check encoding\"; BIP 173; BIP 350).",
        pattern: r"(?-u)[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{11,87}|BC1[02-9AC-HJ-NP-Z]{11,87}",
        check: Some(|matched| match matched.first() {
            Some(b'b' | b'B') => is_bech32(matched),
            _ => is_base58_check(matched),
        }),
        boundary: Boundary::Word,
        examples: &[
            "1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        ],
        ..BASE
    },
    Detector {
        name: "eth_address",
        title: "Ethereum address",
        description: "`0x` and 40 hexadecimal digits: in one case, or in two as the checksum of \
            Keccak-256 says (EIP-55). Not a row of few different digits, as special addresses are.",
        pattern: r"(?-u)0x[0-9A-Fa-f]{40}",
        check: Some(is_ethereum),
        boundary: Boundary::Word,
        examples: &["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"],
        ..BASE
    },
];

/// By length, for each country its letters, and groups of four.
const IBAN: &str = concat!(
    "(?-u)",
    r"(?:NO)\d{2}(?:[ +]?[0-9A-Z]{4}){2}[ +]?[0-9A-Z]{3}|",
    r"(?:BE)\d{2}(?:[ +]?[0-9A-Z]{4}){3}|",
    r"(?:DK|F[IKO]|GL|NL|SD)\d{2}(?:[ +]?[0-9A-Z]{4}){3}[ +]?[0-9A-Z]{2}|",
    r"(?:MK|SI)\d{2}(?:[ +]?[0-9A-Z]{4}){3}[ +]?[0-9A-Z]{3}|",
    r"(?:AT|BA|EE|KZ|L[TU]|MN|XK)\d{2}(?:[ +]?[0-9A-Z]{4}){4}|",
    r"(?:CH|HR|L[IV])\d{2}(?:[ +]?[0-9A-Z]{4}){4}[ +]?[0-9A-Z]{1}|",
    r"(?:B[GH]|CR|DE|G[BE]|IE|ME|RS|VA)\d{2}(?:[ +]?[0-9A-Z]{4}){4}[ +]?[0-9A-Z]{2}|",
    r"(?:AE|GI|I[LQ]|OM|SO|TL)\d{2}(?:[ +]?[0-9A-Z]{4}){4}[ +]?[0-9A-Z]{3}|",
    r"(?:AD|CZ|ES|MD|PK|RO|S[AEK]|TN|VG)\d{2}(?:[ +]?[0-9A-Z]{4}){5}|",
    r"(?:LY|PT|ST)\d{2}(?:[ +]?[0-9A-Z]{4}){5}[ +]?[0-9A-Z]{1}|",
    r"(?:IS|TR)\d{2}(?:[ +]?[0-9A-Z]{4}){5}[ +]?[0-9A-Z]{2}|",
    r"(?:BI|DJ|FR|GR|IT|M[CR]|SM)\d{2}(?:[ +]?[0-9A-Z]{4}){5}[ +]?[0-9A-Z]{3}|",
    r"(?:A[LZ]|BY|CY|DO|GT|H[NU]|LB|NI|PL|SV)\d{2}(?:[ +]?[0-9A-Z]{4}){6}|",
    r"(?:BR|EG|PS|QA|UA)\d{2}(?:[ +]?[0-9A-Z]{4}){6}[ +]?[0-9A-Z]{1}|",
    r"(?:JO|KW|MU|YE)\d{2}(?:[ +]?[0-9A-Z]{4}){6}[ +]?[0-9A-Z]{2}|",
    r"(?:MT|SC)\d{2}(?:[ +]?[0-9A-Z]{4}){6}[ +]?[0-9A-Z]{3}|",
    r"(?:LC)\d{2}(?:[ +]?[0-9A-Z]{4}){7}|",
    r"(?:RU)\d{2}(?:[ +]?[0-9A-Z]{4}){7}[ +]?[0-9A-Z]{1}",
);

/// ISO 3166-1, alpha-2, and XK, which banks use.
const COUNTRIES: &str = "ADAEAFAGAIALAMAOAQARASATAUAWAXAZBABBBDBEBFBGBHBIBJBLBMBNBOBQBRBSBTBVBWBYBZ\
    CACCCDCFCGCHCICKCLCMCNCOCRCUCVCWCXCYCZDEDJDKDMDODZECEEEGEHERESETFIFJFKFMFOFRGAGBGDGEGFGGGHGIGLGM\
    GNGPGQGRGSGTGUGWGYHKHMHNHRHTHUIDIEILIMINIOIQIRISITJEJMJOJPKEKGKHKIKMKNKPKRKWKYKZLALBLCLILKLRLSLT\
    LULVLYMAMCMDMEMFMGMHMKMLMMMNMOMPMQMRMSMTMUMVMWMXMYMZNANCNENFNGNINLNONPNRNUNZOMPAPEPFPGPHPKPLPMPN\
    PRPSPTPWPYQARERORSRURWSASBSCSDSESGSHSISJSKSLSMSNSOSRSSSTSVSXSYSZTCTDTFTGTHTJTKTLTMTNTOTRTTTVTWTZ\
    UAUGUMUSUYUZVAVCVEVGVIVNVUWFWSXKYEYTZAZMZW";

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

/// 25 bytes, the last four of which are the beginning of SHA-256 of SHA-256 of the others.
fn is_base58_check(matched: &[u8]) -> bool {
    const LETTERS: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut bytes = [0_u8; 25];
    for letter in matched {
        let Some((mut carry, _)) = (0_u32..).zip(LETTERS).find(|(_, known)| *known == letter)
        else {
            return false;
        };
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        if carry != 0 {
            return false;
        }
    }
    let leading = matched.iter().take_while(|&&letter| letter == b'1').count();
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    let (payload, check) = bytes.split_at(21);
    let hash = Sha256::digest(Sha256::digest(payload));
    matches!(payload[0], 0 | 5) && leading == zeros && hash[..4] == *check
}

/// The human-readable part is `bc`, and the polynomial of the rest is 1, or that of bech32m.
fn is_bech32(matched: &[u8]) -> bool {
    const LETTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const BECH32M: u32 = 0x2bc8_30a3;
    let step = |sum: u32, value: u32| {
        let top = sum >> 25;
        [
            0x3b6a_57b2,
            0x2650_8e6d,
            0x1ea1_19fa,
            0x3d42_33dd,
            0x2a14_62b3,
        ]
        .iter()
        .enumerate()
        .filter(|(bit, _)| top >> bit & 1 == 1)
        .fold((sum & 0x01ff_ffff) << 5 ^ value, |sum, (_, generator)| {
            sum ^ generator
        })
    };
    // `b` and `c`: their high bits, a zero, their low bits.
    let mut sum = [3, 3, 0, 2, 3].into_iter().fold(1, step);
    for letter in matched.iter().skip(3).map(u8::to_ascii_lowercase) {
        let Some((value, _)) = (0_u32..).zip(LETTERS).find(|(_, known)| **known == letter) else {
            return false;
        };
        sum = step(sum, value);
    }
    sum == 1 || sum == BECH32M
}

fn is_ethereum(matched: &[u8]) -> bool {
    let Some(digits) = matched.get(2..42) else {
        return false;
    };
    let lower = !digits.iter().any(u8::is_ascii_uppercase);
    let upper = !digits.iter().any(u8::is_ascii_lowercase);
    if lower || upper {
        return checks::entropy(digits) > 2.5;
    }
    let mut address = [0; 40];
    address.copy_from_slice(digits);
    address.make_ascii_lowercase();
    let hash = Keccak256::digest(address);
    let is_high = |at: usize| hash[at / 2] >> (4 * (1 - at % 2)) & 8 != 0;
    let mut letters = digits.iter().enumerate();
    letters.all(|(at, digit)| {
        !digit.is_ascii_alphabetic() || digit.is_ascii_uppercase() == is_high(at)
    })
}
