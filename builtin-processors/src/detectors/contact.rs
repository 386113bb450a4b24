//! How to reach a person: addresses of mail, numbers of telephones.

use super::{Boundary, Category, Detector, checks::digits};

const BASE: Detector = Detector::of(Category::Contact, Boundary::Word);

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "email",
        title: "e-mail address",
        description: "A local part of at most 64 bytes, `@` or `%40`, and a host name with a top-level \
            domain of letters (RFC 5321, section 4.5.3.1; RFC 1035, section 2.3.1). Dots neither \
            begin, end nor repeat in the local part; names of files such as `icon@2x.png` are none.",
        pattern: r"(?-u)[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}(?:@|%40)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,5}\.[A-Za-z]{2,24}",
        check: Some(is_email),
        kept: b"@.",
        examples: &["jane.doe@example.com", "user=jane%40example.co.uk"],
        ..BASE
    },
    Detector {
        name: "phone",
        title: "telephone number",
        description: "E.164 with `+`, an assigned country code and 8 to 15 digits (ITU-T E.164, list \
            of country codes); or ten digits of the North American plan, area code and exchange \
            from 200 and no service code (NANPA). Ten digits without separators need a keyword.",
        pattern: r"(?-u)\+1[ .+-]?(?:\([2-9]\d{2}\)[ +]?|[2-9]\d{2}[ .+-]?)[2-9]\d{2}[ .+-]?\d{4}|\+[2-9]\d{0,2}(?:[ .+-]?\(\d{1,4}\))?(?:[ .+-]?\d{1,12}){1,5}|(?:\([2-9]\d{2}\)[ +]?|[2-9]\d{2}[.-])[2-9]\d{2}[ .+-]\d{4}|[2-9]\d{2}[ +][2-9]\d{2}[ +-]\d{4}|[2-9]\d{2}[2-9]\d{6}",
        check: Some(is_phone),
        boundary: Boundary::Number,
        keywords: &[
            "phone",
            "telephone",
            "tel",
            "mobile",
            "cell",
            "fax",
            "msisdn",
            "call",
            "caller",
            "callee",
            "dial",
            "sms",
            "whatsapp",
            "contact",
        ],
        tells_alone: Some(|matched| {
            !matched.first().is_some_and(u8::is_ascii_digit)
                || matched.iter().any(|byte| b".-".contains(byte))
        }),
        other_keys: super::OTHER_NUMBERS,
        kept: b"+() .-",
        examples: &["+44 20 7946 0958", "(212) 555-0187", "phone: 2125550187"],
        ..BASE
    },
];

/// Ends of file names that stand where a top-level domain would.
const FILE_TYPES: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "mjs", "ts", "json", "html",
    "htm", "xml", "txt", "log", "yaml", "yml", "toml", "conf", "jar", "war", "exe", "dll", "tar",
    "gz", "tgz", "zip", "whl", "deb", "rpm", "lock", "service", "timer", "socket", "mount",
    "target", "slice", "scope",
];

fn is_email(matched: &[u8]) -> bool {
    let Some(at) = matched.iter().position(|&byte| byte == b'@') else {
        // `%40` may also stand inside the local part; the last one divides.
        let at = matched.windows(3).rposition(|three| three == b"%40");
        return at.is_some_and(|at| is_address(&matched[..at], &matched[at + 3..]));
    };
    is_address(&matched[..at], &matched[at + 1..])
}

fn is_address(local: &[u8], host: &[u8]) -> bool {
    let top = host.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    let labels_hold = host
        .split(|&byte| byte == b'.')
        .all(|label| !label.is_empty() && !label.starts_with(b"-") && !label.ends_with(b"-"));
    !local.is_empty()
        && !local.ends_with(b".")
        && !local.windows(2).any(|pair| pair == b"..")
        && labels_hold
        && host.len() <= 253
        && !FILE_TYPES
            .iter()
            .any(|file_type| top.eq_ignore_ascii_case(file_type.as_bytes()))
}

fn is_phone(matched: &[u8]) -> bool {
    let count = matched.iter().filter(|byte| byte.is_ascii_digit()).count();
    if matched.first() != Some(&b'+') {
        return digits::<10>(matched).is_some_and(|digits| is_north_american(&digits));
    }
    if matched.get(1) == Some(&b'1') {
        return digits::<11>(matched).is_some_and(|digits| is_north_american(&digits[1..]));
    }
    let mut code = [0; 3];
    for (place, byte) in code
        .iter_mut()
        .zip(matched.iter().filter(|byte| byte.is_ascii_digit()))
    {
        *place = byte - b'0';
    }
    (8..=15).contains(&count) && has_country_code(code)
}

/// NXX-NXX-XXXX: neither the area code nor the exchange is a service code (`N11`).
fn is_north_american(digits: &[u8]) -> bool {
    let is_code = |code: &[u8]| code[0] >= 2 && code[1..3] != [1, 1];
    // 37X and 96X are kept free for a longer plan; N9X likewise.
    let area_holds = digits[1] != 9 && digits[..2] != [3, 7] && digits[..2] != [9, 6];
    is_code(&digits[..3]) && area_holds && is_code(&digits[3..6])
}

/// Whether a number that begins so has a country code in use.
fn has_country_code([first, second, third]: [u8; 3]) -> bool {
    match (first, second) {
        (2, 0 | 7)
        | (3, 0..=4 | 6 | 9)
        | (4, 0 | 1 | 3..=9)
        | (5, 1..=8)
        | (6, 0..=6)
        | (7, _)
        | (8, 1 | 2 | 4 | 6)
        | (9, 0..=5 | 8) => true,
        (2, 1) => matches!(third, 1..=3 | 6 | 8),
        (2, 2..=6) => true,
        (2, 9) => matches!(third, 0 | 1 | 7..=9),
        (3, 5 | 7) => true,
        (3, 8) => third != 4 && third != 8,
        (4, 2) => matches!(third, 0 | 1 | 3),
        (5, 0 | 9) | (6, 8) => true,
        (6, 7) => third == 0 || (2..=9).contains(&third),
        (6, 9) => matches!(third, 0..=2),
        (8, 0) => matches!(third, 0 | 8),
        (8, 5) => matches!(third, 0 | 2 | 3 | 5 | 6),
        (8, 7) => matches!(third, 0 | 8),
        (8, 8) => matches!(third, 0 | 1 | 2 | 3 | 6 | 8),
        (9, 6) => third != 9,
        (9, 7) => third != 8,
        (9, 9) => matches!(third, 2..=6 | 8),
        _ => false,
    }
}
