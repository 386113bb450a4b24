//! Secrets that are told by where they stand: headers, keys, armour.

use std::ops::Range;

use super::{super::tokens, BASE, Detector, sign};
use crate::detectors::{Boundary, Part};

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "jwt",
        title: "JSON web token",
        description: "Two or more parts in base64url with dots between; the first one is a JSON object \
            with `alg` (RFC 7515, section 3; RFC 7516).",
        pattern: r"(?-u)eyJ[A-Za-z0-9_-]{8,400}\.[A-Za-z0-9_-]{2,400}",
        check: Some(|matched| {
            let mut window = [0_u8; 5];
            tokens::base64(matched).take(300).any(|byte| {
                window.rotate_left(1);
                window[4] = byte;
                window == *b"\"alg\""
            })
        }),
        boundary: Boundary::Any,
        part: Part::Beyond(|rest| {
            let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
            let length = rest.iter().take_while(is_part).count();
            // A sentence may end behind it.
            length - usize::from(rest[..length].ends_with(b"."))
        }),
        kept: b".",
        examples: &[
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        ],
        ..BASE
    },
    Detector {
        name: "private_key",
        title: "private key",
        description: "The header of a private key in PEM and what belongs to it in the same event, up to \
            its last line (RFC 7468). Where each line is an event of its own, only the \
            first line is found.",
        pattern: r"(?-u)-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----",
        boundary: Boundary::Any,
        part: Part::Beyond(key_body),
        examples: &[
            r"-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcN\n-----END RSA PRIVATE KEY-----",
        ],
        ..BASE
    },
    Detector {
        name: "bearer_token",
        title: "bearer token",
        description: "What follows `Bearer` in 16 or more letters of a token, with a digit in it (RFC \
            6750, section 2.1).",
        pattern: r"(?i-u)bearer(?: {1,3}|%20|\+)[A-Za-z0-9._~+/-]{16,256}",
        check: Some(|matched| {
            let token = &matched[header_value(matched, matched.len())];
            token.iter().any(u8::is_ascii_digit) && !tokens::is_placeholder(token)
        }),
        boundary: Boundary::Any,
        part: Part::Value(header_value),
        examples: &["Authorization: Bearer mF_9.B5f-4.1JqM8kfe02hs"],
        ..BASE
    },
    Detector {
        name: "basic_auth",
        title: "basic credentials",
        description: "What follows `Basic`, if it is base64 of text with a colon in it (RFC 7617).",
        pattern: r"(?i-u)basic(?: {1,3}|%20|\+)[A-Za-z0-9+/=_-]{6,256}",
        check: Some(|matched| {
            let text = &matched[header_value(matched, matched.len())];
            let mut decoded = tokens::base64(text).take(128);
            let is_text = decoded
                .by_ref()
                .take_while(|&byte| byte != b':')
                .all(|byte| byte >= b' ' && byte != 0x7f);
            let has_colon = tokens::base64(text).take(128).any(|byte| byte == b':');
            is_text && has_colon && decoded.all(|byte| byte >= b' ' && byte != 0x7f)
        }),
        boundary: Boundary::Any,
        part: Part::Value(header_value),
        examples: &["Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="],
        ..BASE
    },
    Detector {
        name: "cookie",
        title: "cookies of a header",
        description: "The pairs of a `Cookie` or `Set-Cookie` header, as text or as a member of JSON (RFC \
            6265, section 4).",
        pattern: concat!(
            r"(?i-u)cookie",
            r#"(?:\\?["'])?[ \t]{0,4}[:=][ \t]{0,4}\[?(?:\\?["'])?"#,
            r#"[A-Za-z0-9_.$!%~-]{1,80}=[^\x00-\x20"'\\;]{0,200}"#
        ),
        boundary: Boundary::Any,
        part: Part::Value(cookies),
        kept: b"=;",
        examples: &["Cookie: session=8f2a91c4d0; theme=dark"],
        ..BASE
    },
    Detector {
        name: "password",
        title: "password",
        description: "The value of a key that ends with `password`, `passwd`, `passphrase`, `passcode` \
            or `pwd`: `key=value`, `key: value`, JSON. Words such as `null`, `expired` and `***`, \
            variables such as `${PW}`, and what begins with a bracket are no values.",
        pattern: concat!(
            r"(?i-u)(?:pass(?:word|wd|phrase|code)|pwd)",
            r#"(?:\\?["'])?[ \t]{0,4}(?:=>|[:=])[ \t]{0,4}(?:"#,
            r#"["'](?:[^\x00-\x1f"'\\\[\x7f]|\\[^\x00-\x1f\x7f])(?:[^\x00-\x1f"'\\\x7f]|\\[^\x00-\x1f\x7f]){0,63}"#,
            r#"|\\["'][^\x00-\x1f"'\\\[\x7f][^\x00-\x1f"'\\\x7f]{0,63}"#,
            r#"|[^\x00-\x20"'\\,;&<>(){}\[\]`|\x7f]{1,64})"#
        ),
        check: Some(|matched| {
            let value = tokens::value_in(matched);
            // The working directory of shells has that name too.
            let is_path = value.starts_with(b"/")
                && matched
                    .get(1)
                    .is_some_and(|byte| byte.eq_ignore_ascii_case(&b'w'));
            !is_path && !tokens::is_placeholder(value)
        }),
        boundary: Boundary::Any,
        part: Part::Value(tokens::value),
        examples: &[
            "password=hunter2",
            r#"{"db_password": "correct horse"}"#,
            "login pwd: S3cret!",
        ],
        ..BASE
    },
    Detector {
        name: "generic_secret",
        title: "secret by its key",
        description: "The value of a key with `secret`, `token`, `api_key`, `access_key` or the like in \
            its name, of 16 or more letters of a token that look random, with letters and digits. UUIDs, \
            and values of keys that say so (`token_id`, `secret_name`, `token_hash`), are none.",
        pattern: concat!(
            r"(?i-u)(?:secret[_. -]?key|secret|token|credential|api[_. -]?key|access[_. -]?key|auth[_. -]?key|signing[_. -]?key|private[_. -]?key)(?:[_.-][A-Za-z0-9]{1,12}){0,2}(?:,| to | is | \(|",
            sign!(),
            r")[A-Za-z0-9_+/.~-]{16,128}={0,2}"
        ),
        check: Some(|matched| {
            let (key, value) = matched.split_at(secret_start(matched));
            tokens::is_secret(value) && !names_no_secret(key)
        }),
        boundary: Boundary::Any,
        part: Part::Value(|event, matched| {
            tokens::value_from(event, matched, secret_start(&event[..matched]))
        }),
        examples: &[
            "api_key=9f8Hs2kLmQ0vX7bTz4Rw",
            r#""client_secret": "vG7-pQ2zLx9_RkT4bN81""#,
        ],
        ..BASE
    },
];

/// Words in a key that make it the key of something else.
const NO_SECRETS: &[&[u8]] = &[
    b"_id",
    b"-id",
    b".id",
    b"name",
    b"hash",
    b"sha",
    b"md5",
    b"digest",
    b"fingerprint",
    b"type",
    b"url",
    b"uri",
    b"path",
    b"arn",
    b"count",
    b"expir",
    b"length",
    b"version",
    b"public",
];

/// Where the value begins: its letters go up to the end.
fn secret_start(matched: &[u8]) -> usize {
    let is_letter = |byte: &&u8| byte.is_ascii_alphanumeric() || b"_+/.~-".contains(byte);
    let padding = matched
        .iter()
        .rev()
        .take_while(|&&byte| byte == b'=')
        .count();
    let letters = matched[..matched.len() - padding]
        .iter()
        .rev()
        .take_while(is_letter);
    matched.len() - padding - letters.count()
}

fn names_no_secret(key: &[u8]) -> bool {
    NO_SECRETS.iter().any(|word| {
        key.windows(word.len())
            .any(|window| window.eq_ignore_ascii_case(word))
    })
}

/// Behind the header of a key: up to its last line, or as far as it goes on.
fn key_body(rest: &[u8]) -> usize {
    // The next dashes are those of the last line, or of another key.
    let dashes = memchr::memmem::find(rest, b"-----").unwrap_or(rest.len());
    let behind = rest[dashes..].strip_prefix(b"-----END ").and_then(|label| {
        let close = memchr::memmem::find(&label[..label.len().min(64)], b"-----")?;
        Some(rest.len() - label.len() + close + b"-----".len())
    });
    behind.unwrap_or_else(|| {
        let within = &rest[..dashes];
        let mut at = 0;
        while let Some(&byte) = within.get(at) {
            let backslashes = within[at..]
                .iter()
                .take(8)
                .take_while(|&&byte| byte == b'\\')
                .count();
            at += match byte {
                b'\\' if matches!(rest.get(at + backslashes), Some(b'n' | b'r')) => backslashes + 1,
                // Line ends stand in a text of JSON that was decoded.
                byte if byte.is_ascii_alphanumeric() || b"+/= :,-\n\r\t".contains(&byte) => 1,
                _ => break,
            };
        }
        let body = &rest[..at.min(dashes)];
        body.len()
            - body
                .iter()
                .rev()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count()
    })
}

/// The token behind the scheme, as far as it goes on.
fn header_value(event: &[u8], matched: usize) -> Range<usize> {
    let scheme = event[..matched]
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic())
        .count();
    let gap = match &event[scheme..matched] {
        [b'%', b'2', b'0', ..] => 3,
        gap => gap
            .iter()
            .take_while(|byte| b" +".contains(byte))
            .count()
            .min(3),
    };
    let more = event[matched..]
        .iter()
        .take_while(|byte| tokens::is_token68(**byte))
        .count();
    scheme + gap..matched + more
}

/// All pairs, from the first on.
fn cookies(event: &[u8], matched: usize) -> Range<usize> {
    let ends = |byte: u8| byte <= b' ' || byte == 0x7f || b"\"'\\;".contains(&byte);
    let start = tokens::value(event, matched).start;
    let run = |at: usize| {
        let rest = event.get(at..).unwrap_or_default();
        at + rest.iter().take_while(|byte| !ends(**byte)).count()
    };
    let mut end = run(matched);
    loop {
        let next = match event.get(end..) {
            Some([b';', b' ', ..]) => end + 2,
            Some([b';', ..]) => end + 1,
            _ => return start..end,
        };
        let to = run(next);
        if to == next {
            return start..end;
        }
        end = to;
    }
}
