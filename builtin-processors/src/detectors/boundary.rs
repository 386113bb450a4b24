//! What may stand beside a match.
//!
//! A number inside a longer number, an address inside a version or a key inside a longer token is
//! not what it looks like. The edges of the event are always right.

/// How far a piece joined to a match by `-` or `.` is looked at.
const PIECE_BYTES: usize = 16;

/// What may stand beside a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// Anything: the pattern or the check sees to it.
    Any,
    /// No ASCII letter, digit or `_`.
    Word,
    /// No ASCII letter or digit, and no `-` or `.` that joins a piece with a digit in it: a group of
    /// a UUID, a decimal fraction, a part of a longer number are no numbers of their own.
    Number,
    /// No byte of a token: ASCII letters, digits, `_`, `-`, and no `.`, `+` or `/` that joins one.
    Token,
    /// As `Number`, and no `-` or `.` that joins a letter behind: `1.2.3.4-beta`, `1.2.3.4.in-addr`.
    Address,
    /// As `Number`, and not in the middle of an IBAN in groups of four.
    Grouped,
    /// As `Word`, and no `:` or `-` that joins one to four hexadecimal digits: a piece of a fingerprint.
    Colons,
}

impl Boundary {
    /// Says whether what stands left and right of `haystack[start..end]` is as it must be.
    ///
    /// The haystack is the body of an event; a range outside it is not allowed anywhere.
    pub fn allows(self, haystack: &[u8], start: usize, end: usize) -> bool {
        let (Some(before), Some(behind)) = (haystack.get(..start), haystack.get(end..)) else {
            return false;
        };
        if start > end {
            return false;
        }
        // The letter of `\n` or `\t` in a JSON string stands for a blank.
        let before = without_escape(before);
        let left = before.iter().rev().copied();
        let right = behind.iter().copied();
        match self {
            Self::Any => true,
            Self::Word => !begins_word(left) && !begins_word(right),
            Self::Number => !joins_number(left) && !joins_number(right),
            Self::Colons => {
                !begins_word(left.clone())
                    && !begins_word(right.clone())
                    && !joins_hex(left)
                    && !joins_hex(right)
            }
            Self::Grouped => !joins_number(left) && !joins_number(right) && !continues_iban(before),
            Self::Token => !begins_token(left) && !begins_token(right),
            Self::Address => {
                !joins_number(left) && !joins_number(right.clone()) && !joins_letter(right)
            }
        }
    }
}

/// Takes the letter of an escape off the end: what follows `\n` follows no word.
fn without_escape(before: &[u8]) -> &[u8] {
    let backslashes = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .take(16)
            .take_while(|&&b| b == b'\\')
            .count()
    };
    match before {
        [rest @ .., b'n' | b'r' | b't' | b'b' | b'f'] if backslashes(rest) % 2 == 1 => rest,
        [rest @ .., b'u', a, b, c, d]
            if [a, b, c, d].iter().all(|hex| hex.is_ascii_hexdigit())
                && backslashes(rest) % 2 == 1 =>
        {
            rest
        }
        _ => before,
    }
}

fn begins_word(mut bytes: impl Iterator<Item = u8>) -> bool {
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn begins_token(mut bytes: impl Iterator<Item = u8>) -> bool {
    match bytes.next() {
        Some(b'_' | b'-') => true,
        Some(byte) if byte.is_ascii_alphanumeric() => true,
        // A sentence ends with a stop, and a path may hold a token.
        Some(b'+') => bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric()),
        _ => false,
    }
}

/// Whether a number goes on here. Reads away from the match.
fn joins_number(mut bytes: impl Iterator<Item = u8>) -> bool {
    match bytes.next() {
        Some(byte) if byte.is_ascii_alphanumeric() => true,
        Some(b'-' | b'.') => bytes
            .take(PIECE_BYTES)
            .take_while(u8::is_ascii_alphanumeric)
            .any(|byte| byte.is_ascii_digit()),
        _ => false,
    }
}

/// Whether what stands before ends with the beginning of an IBAN: `ES80 3295 `.
fn continues_iban(before: &[u8]) -> bool {
    let mut rest = before;
    // The longest has 34 characters.
    for _ in 0..8 {
        let Some((group, blank)) = rest.len().checked_sub(5).map(|at| rest[at..].split_at(4))
        else {
            return false;
        };
        if blank != b" " || !group.iter().all(u8::is_ascii_alphanumeric) {
            return false;
        }
        if let [a, b, c, d] = group
            && a.is_ascii_uppercase()
            && b.is_ascii_uppercase()
            && c.is_ascii_digit()
            && d.is_ascii_digit()
        {
            return true;
        }
        rest = &rest[..rest.len() - 5];
    }
    false
}

/// Whether a row of hexadecimal pieces goes on here. Reads away from the match.
fn joins_hex(mut bytes: impl Iterator<Item = u8>) -> bool {
    if !matches!(bytes.next(), Some(b':' | b'-')) {
        return false;
    }
    let piece = bytes.take(5).take_while(u8::is_ascii_alphanumeric);
    let (count, hex) = piece.fold((0, true), |(count, hex), byte| {
        (count + 1, hex && byte.is_ascii_hexdigit())
    });
    (1..=4).contains(&count) && hex
}

fn joins_letter(mut bytes: impl Iterator<Item = u8>) -> bool {
    matches!(bytes.next(), Some(b'-' | b'.'))
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
}
