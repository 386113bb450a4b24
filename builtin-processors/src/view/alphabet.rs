//! Which encoded bytes can matter to a rule: most escapes stand for a quote, a slash or a blank,
//! and most rules look for something that holds none of these.

use super::decode;
use crate::scan::ByteSet;

/// The bytes that something a rule looks for can be made of.
///
/// Where the bytes of an event hold nothing that a rule looks for, a text of the event holds
/// something only if one of its bytes was decoded, or if it stands right behind an escape that hid
/// its beginning: in `%20536-22-8741` the digits join on to others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Alphabet {
    /// What it can hold.
    pub(crate) inside: ByteSet,
    /// What it can begin with, where it counts only if certain bytes do not stand before it.
    pub(crate) first: ByteSet,
}

impl Alphabet {
    /// Anything may be looked for.
    pub(crate) const ALL: Self = Self {
        inside: ByteSet::ALL,
        first: ByteSet::ALL,
    };

    /// Returns the bytes of some words, in upper and lower case.
    pub(crate) fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut alphabet = Self::default();
        for byte in words.into_iter().flat_map(str::bytes) {
            alphabet.inside.insert(byte.to_ascii_lowercase());
            alphabet.inside.insert(byte.to_ascii_uppercase());
        }
        alphabet
    }

    pub(crate) fn union(self, other: &Self) -> Self {
        Self {
            inside: self.inside.union(&other.inside),
            first: self.first.union(&other.first),
        }
    }

    /// Says whether an encoding in the event may stand for something that is looked for. Takes the
    /// escapes as if all of the event were a text of JSON, and so sees more of them than a view
    /// has.
    pub(super) fn may_be_encoded(&self, body: &[u8]) -> bool {
        let mut at = 0;
        let (mut is_percent, mut has_plus) = (false, memchr::memchr(b'+', body).is_some());
        while let Some(found) = super::find_trigger(body, at) {
            let rest = &body[found..];
            let length = match rest[0] {
                b'%' => {
                    is_percent = true;
                    match decode::percent_at(body, found) {
                        Some(byte) if self.is_made_of(&[byte], &mut has_plus) => return true,
                        _ => 3,
                    }
                }
                b'\\' => match decode::escape(rest) {
                    Some(escape) if self.is_made_of(escape.decoded(), &mut has_plus) => {
                        return true;
                    }
                    Some(escape) => escape.length,
                    // It is text as it is.
                    None => {
                        at = found + 2;
                        continue;
                    }
                },
                // What a terminal code divides is one piece without it.
                _ => return true,
            };
            at = found + length;
            if body.get(at).is_some_and(|&next| self.first.contains(next)) {
                return true;
            }
        }
        // Where there is percent-encoding, a `+` may be a blank.
        is_percent && has_plus && self.inside.contains(b' ')
    }

    /// Says whether decoded bytes may be a part of what is looked for, or of another encoding.
    fn is_made_of(&self, decoded: &[u8], has_plus: &mut bool) -> bool {
        const ENCODING: &[u8] = b"\\%\x1b";
        *has_plus |= decoded == b"+";
        let mut decoded = decoded.iter();
        decoded.any(|&byte| self.inside.contains(byte) || ENCODING.contains(&byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_part_counts() {
        let digits = Alphabet::of_words(["0123456789-"]);
        let word = Alphabet::of_words(["debug"]);
        let mut behind = digits;
        behind.first = digits.inside;
        let blank = Alphabet::of_words(["a b"]);
        for (alphabet, event, expected) in [
            (&digits, r#"{"a":"x\"y\n\/z\u00e9"}"#, false),
            (&digits, r#"{"a":"\u0031"}"#, true),
            (&digits, r#"{"a":"\n1"}"#, false),
            (&behind, r#"{"a":"\n1"}"#, true),
            (&behind, r#"{"a":"\nx1"}"#, false),
            (&digits, "/a%20b%2Fc?d=1%", false),
            (&digits, "/a%31", true),
            (&digits, "/a%2531", true),
            (&digits, "/a%5Cu0031", true),
            (&digits, r"\\u0031", true),
            (&digits, r"\u002531", true),
            (&digits, "\u{1b}[0m", true),
            (&digits, r"C:\program", false),
            (&word, "/%2Fx+y", false),
            (&word, r"\u0044", true),
            (&blank, "/%2Fa+b", true),
            (&blank, "/%2Fa%2Bb", true),
            (&blank, "/%2Fa", false),
            (&blank, "a+b", false),
        ] {
            assert_eq!(
                alphabet.may_be_encoded(event.as_bytes()),
                expected,
                "{event}"
            );
        }
    }
}
