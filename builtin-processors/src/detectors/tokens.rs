//! The shapes of secrets: what stands for none, where a value begins and ends, what an encoding holds.
//!
//! Every function takes any bytes, looks at a bounded part of them or once at each, and never
//! allocates.

use std::ops::Range;

use super::checks;

/// Words that stand where a secret would, in lower case.
const PLACEHOLDERS: &[&str] = &[
    "null",
    "nil",
    "none",
    "true",
    "false",
    "undefined",
    "nan",
    "empty",
    "unset",
    "redacted",
    "masked",
    "hidden",
    "removed",
    "filtered",
    "secret",
    "password",
    "string",
    "required",
    "invalid",
    "incorrect",
    "expired",
    "missing",
    "wrong",
    "changed",
    "reset",
    "ok",
    "failed",
    "failure",
    "success",
    "accepted",
    "rejected",
    "correct",
    "not",
    "is",
    "for",
    "authentication",
    "publickey",
    "must",
    "and",
    "or",
    "your",
    "the",
    "a",
    "to",
    "from",
    "in",
    "on",
    "with",
    "was",
    "has",
    "no",
    "yes",
    "unknown",
    "protected",
    "encrypted",
    "default",
    "set",
    "valid",
    "mismatch",
    "does",
    "cannot",
    "please",
    "too",
    "enter",
];

/// Whether a value stands for a secret that is not there: a word, a variable, a row of stars.
pub(super) fn is_placeholder(value: &[u8]) -> bool {
    let stars = value.iter().filter(|&&byte| byte == b'*').count();
    let others = value
        .iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .count();
    let is_word = |word: &&str| value.eq_ignore_ascii_case(word.as_bytes());
    let alike = value.windows(2).all(|pair| pair[0] == pair[1]);
    // What was masked before, with some of it kept, stays as it is.
    3 * stars >= stars + others || alike || is_variable(value) || PLACEHOLDERS.iter().any(is_word)
}

/// Whether a value is the name of one: `${PW}`, `$(pass)`, `$DB_PASSWORD`, `%PW%`, `%s`, `{{ pw }}`.
fn is_variable(value: &[u8]) -> bool {
    let is_name = |name: &[u8]| {
        !name.is_empty()
            && name
                .iter()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
    };
    match value {
        [b'$', b'{' | b'(', ..] | [b'{', b'{', ..] | [b'%', b's' | b'v' | b'q' | b'('] => true,
        [b'$', name @ ..] | [b'%', name @ .., b'%'] => is_name(name),
        _ => false,
    }
}

/// Whether a value is a UUID: an identifier, drawn at random as secrets are.
pub(super) fn is_uuid(value: &[u8]) -> bool {
    value.len() == 36
        && value.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Whether a value is a secret by its looks: random, with letters and digits, and no identifier.
pub(super) fn is_secret(value: &[u8]) -> bool {
    value.iter().any(u8::is_ascii_digit)
        && value.iter().any(u8::is_ascii_alphabetic)
        && checks::is_random(value)
        && !is_uuid(value)
        && !is_placeholder(value)
}

/// Finds the value in `key = value`, `"key": "value"`, `\"key\":\"value\"` or `key => 'value'`, given
/// the event from the key on and the length of the match, which ends inside the value.
///
/// A value in quotes ends with them, one without ends before a blank or what divides fields.
pub(super) fn value(event: &[u8], matched: usize) -> Range<usize> {
    value_from(event, matched, value_start(&event[..matched]))
}

/// As [`value`], of a value that begins at `start`.
pub(super) fn value_from(event: &[u8], matched: usize, start: usize) -> Range<usize> {
    let quote = match start.checked_sub(1).map(|at| event[at]) {
        Some(quote @ (b'"' | b'\'')) => Some(quote),
        _ => None,
    };
    let escaped = start >= 2 && event[start - 2] == b'\\';
    let Some(quote) = quote else {
        let rest = &event[matched..];
        let more = rest.iter().take_while(|byte| !divides(**byte)).count();
        return start..matched + more;
    };
    let mut at = start;
    while let Some(&byte) = event.get(at) {
        match byte {
            b'\\' if escaped && event.get(at + 1) == Some(&quote) => return start..at,
            b'\\' => at += 1,
            byte if byte == quote => return start..at,
            _ => {}
        }
        at += 1;
    }
    // Nobody closed the quotes: what matched is the value.
    start..matched
}

/// Where the value begins: behind the first `=` or `:`, blanks, a bracket and an opening quote.
fn value_start(matched: &[u8]) -> usize {
    let sign = matched.iter().position(|byte| b"=:".contains(byte));
    let mut start = sign.map_or(0, |at| at + 1);
    for (skipped, most) in [(&b">"[..], 1), (b" \t", 8), (b"[", 1)] {
        let rest = matched.get(start..).unwrap_or_default().iter().take(most);
        start += rest.take_while(|byte| skipped.contains(byte)).count();
    }
    // A backslash belongs to an escaped quote, or else to the value.
    let quote = matched.get(start..).unwrap_or_default();
    start += match quote {
        [b'\\', b'"' | b'\'', ..] => 2,
        [b'"' | b'\'', ..] => 1,
        _ => 0,
    };
    start.min(matched.len().saturating_sub(1))
}

/// What of a token goes on behind what was matched of it.
pub(super) fn rest_of_token(rest: &[u8]) -> usize {
    let is_letter = |byte: &&u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    rest.iter().take_while(is_letter).count()
}

/// The value that a match holds, as far as the match goes.
pub(super) fn value_in(matched: &[u8]) -> &[u8] {
    &matched[value_start(matched)..]
}

/// What ends a value without quotes.
fn divides(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f || b"\"'\\,;&<>(){}[]`|".contains(&byte)
}

/// Bytes of tokens as HTTP headers hold them (RFC 6750, section 2.1).
pub(super) fn is_token68(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

/// Decodes base64, of either alphabet, up to the first byte that is none.
pub(super) fn base64(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut letters = text.iter().map_while(|byte| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    });
    let (mut bits, mut count) = (0_u32, 0);
    std::iter::from_fn(move || {
        while count < 8 {
            bits = bits << 6 | letters.next()?;
            count += 6;
        }
        count -= 8;
        Some((bits >> count).to_le_bytes()[0])
    })
}

/// CRC-32 of the letters before the last six, written in these (GitHub Blog, "Behind GitHub's new
/// authentication token formats", 2021: base62, digits first, filled up with zeros).
pub(super) fn has_crc(token: &[u8]) -> bool {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let Some((random, check)) = token.split_last_chunk::<6>() else {
        return false;
    };
    let mut crc = checks::crc_32(random);
    check.iter().rev().all(|&letter| {
        let expected = LETTERS[(crc % 62) as usize];
        crc /= 62;
        letter == expected
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_where_their_quotes_do() {
        for (event, matched, expected) in [
            (r#"password=abc def"#, 10, "abc"),
            (r#""password":"a b\"c","x":1"#, 14, r#"a b\"c"#),
            (r#"\"password\":\"a b\",\"x\""#, 18, "a b"),
            ("password: 'it is' x", 13, "it is"),
            ("password => \"open", 14, "o"),
            ("password=a&b=c", 10, "a"),
        ] {
            let range = value(event.as_bytes(), matched);
            assert_eq!(&event[range], expected, "{event}");
        }
    }

    #[test]
    fn base64_of_the_standard() {
        // RFC 4648, section 10.
        for (text, bytes) in [("Zm9vYmFy", "foobar"), ("Zm9vYg==", "foob"), ("", "")] {
            assert!(base64(text.as_bytes()).eq(bytes.bytes()), "{text}");
        }
    }
}
