//! What is written in place of a match.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Keeps the ends of what it hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask {
    pub(super) keep_first: usize,
    pub(super) keep_last: usize,
}

/// Replaces by a keyed hash, so that alike values stay alike and none can be guessed.
#[derive(Clone)]
pub(super) struct Hasher {
    state: Hmac<Sha256>,
    id: String,
}

/// Letters of a hash that are shown: 128 bits.
const HASH_LETTERS: usize = 32;

/// Longest name of a key.
pub(super) const MAX_KEY_ID_BYTES: usize = 32;

/// Shortest key, in bytes; RFC 2104 wants no less than half of the hash.
pub(super) const MIN_KEY_BYTES: usize = 16;

/// Longest key, in bytes.
pub(super) const MAX_KEY_BYTES: usize = 4096;

impl Mask {
    /// Writes the value with a `*` for each letter, digit and other character that is not kept;
    /// marks and blanks between them stay. If more than two thirds would be shown, all are hidden.
    pub(super) fn write(self, value: &[u8], kept: &[u8], out: &mut Vec<u8>) {
        let hides = |byte: u8| hides(byte, kept);
        let count = value.iter().filter(|byte| hides(**byte)).count();
        let (first, last) = match 3 * self.keep_first.saturating_add(self.keep_last) <= 2 * count {
            true => (self.keep_first, self.keep_last),
            false => (0, 0),
        };
        let mut seen = 0;
        for &byte in value {
            if !hides(byte) {
                // The first byte of a character stands for all of it.
                if byte & 0xc0 != 0x80 {
                    out.push(byte);
                }
                continue;
            }
            let shown = seen < first || seen >= count - last;
            out.push(if shown && byte.is_ascii() { byte } else { b'*' });
            seen += 1;
        }
    }
}

/// Whether masking hides a byte: a letter, a digit, or the first byte of a longer character.
fn hides(byte: u8, kept: &[u8]) -> bool {
    match byte {
        _ if kept.contains(&byte) => false,
        0x80.. => byte & 0xc0 != 0x80,
        _ => byte.is_ascii_alphanumeric(),
    }
}

impl Hasher {
    pub(super) fn new(key: &[u8], id: Option<String>) -> Self {
        let state = Hmac::new_from_slice(key).expect("a key of HMAC may have any length");
        let mut hasher = Self {
            state,
            id: String::new(),
        };
        hasher.id = id.unwrap_or_else(|| {
            let mut name = Vec::new();
            hasher.letters(b"streamgate key id", &mut name);
            name.truncate(8);
            String::from_utf8(name).expect("is ASCII")
        });
        hasher
    }

    /// Writes `[<key id>:<hash>]`.
    pub(super) fn write(&self, value: &[u8], out: &mut Vec<u8>) {
        out.push(b'[');
        out.extend_from_slice(self.id.as_bytes());
        out.push(b':');
        self.letters(value, out);
        out.push(b']');
    }

    /// Finds the first token of this key, `[<key id>:<hash>]`, that a range of a text holds a part of.
    pub(super) fn token_in(&self, text: &[u8], range: Range<usize>) -> Option<Range<usize>> {
        let length = self.id.len() + HASH_LETTERS + 3;
        let from = (range.start + 1).saturating_sub(length);
        let to = text.len().min(range.end.saturating_add(length - 1));
        let near = text.get(from..to)?;
        memchr::memchr_iter(b'[', near)
            .map(|at| from + at)
            .take_while(|at| *at < range.end)
            .find(|at| self.is_token(text.get(*at..at + length)))
            .map(|at| at..at + length)
            .filter(|token| range.start < token.end)
    }

    fn is_token(&self, token: Option<&[u8]>) -> bool {
        let letters = token
            .and_then(|token| token.strip_prefix(b"["))
            .and_then(|token| token.strip_prefix(self.id.as_bytes()))
            .and_then(|token| token.strip_prefix(b":"))
            .and_then(|token| token.strip_suffix(b"]"));
        letters.is_some_and(|letters| letters.iter().all(|letter| (b'a'..=b'p').contains(letter)))
    }

    /// Writes the hash as letters from `a` to `p`, four bits each: no detector takes them for a number.
    fn letters(&self, value: &[u8], out: &mut Vec<u8>) {
        let mut state = self.state.clone();
        state.update(value);
        let hash = state.finalize().into_bytes();
        for byte in hash.iter().take(HASH_LETTERS / 2) {
            out.extend_from_slice(&[b'a' + (byte >> 4), b'a' + (byte & 15)]);
        }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        f.debug_struct("Hasher")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Writes the network of an address: the first 24 bits of IPv4, 48 of IPv6. `false` if it is none.
pub(super) fn write_network(value: &[u8], out: &mut Vec<u8>) -> bool {
    use std::io::Write;
    let text = match std::str::from_utf8(value) {
        Ok(text) => text,
        Err(_) => return false,
    };
    let network = match text.parse() {
        Ok(IpAddr::V4(address)) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !0xff)),
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            // The last 32 bits are an address of IPv4.
            Some(inner) => {
                let network = Ipv4Addr::from_bits(inner.to_bits() & !0xff);
                IpAddr::V6(network.to_ipv6_mapped())
            }
            None => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 48))),
        },
        Err(_) => return false,
    };
    write!(out, "{network}").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(value: &str, keep_first: usize, keep_last: usize) -> String {
        let mut out = Vec::new();
        let mask = Mask {
            keep_first,
            keep_last,
        };
        mask.write(value.as_bytes(), b"", &mut out);
        String::from_utf8(out).expect("is UTF-8")
    }

    #[test]
    fn masks_keep_ends_marks_and_length() {
        for (value, first, last, expected) in [
            ("4111-1111 1111-1234", 0, 4, "****-**** ****-1234"),
            ("4111111111111234", 4, 4, "4111********1234"),
            ("ab", 1, 1, "**"),
            ("secret", 2, 2, "se**et"),
            ("secret", 3, 2, "******"),
            ("a.b@c.de", 0, 0, "*.*@*.**"),
            ("né à", 0, 0, "** *"),
            ("", 3, 3, ""),
        ] {
            assert_eq!(masked(value, first, last), expected, "{value}");
        }
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        // RFC 4231, test case 2: key `Jefe`; 5bdcc146bf60754e6a042426089575c7...
        let hasher = Hasher::new(b"Jefe", Some("k1".to_owned()));
        let mut out = Vec::new();
        hasher.write(b"what do ya want for nothing?", &mut out);
        assert_eq!(out, b"[k1:flnmmbeglpgahfeogkaececgaijfhfmh]");
        for (start, end) in [(0, out.len()), (1, 5), (4, 36)] {
            assert_eq!(hasher.token_in(&out, start..end), Some(0..37));
        }
        let others = b"[k1:flnmmbeglpgahfeogkaececgaijfhfm1]";
        assert_eq!(hasher.token_in(others, 0..37), None);
        let behind = [b"a ", out.as_slice(), b" b"].concat();
        assert_eq!(hasher.token_in(&behind, 0..behind.len()), Some(2..39));
        assert_eq!(hasher.token_in(&behind, 0..2), None);
        assert_eq!(hasher.token_in(&behind, 39..41), None);
        let other = Hasher::new(b"another key of 16", None);
        assert_eq!(other.id.len(), 8);
        assert!(!format!("{other:?}").contains("another"));
    }

    #[test]
    fn addresses_become_their_network() {
        for (address, network) in [
            ("192.168.17.42", Some("192.168.17.0")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1::")),
            ("::ffff:10.1.2.3", Some("::ffff:10.1.2.0")),
            ("::1", Some("::")),
            ("300.1.1.1", None),
            ("x", None),
        ] {
            let mut out = Vec::new();
            let is_address = write_network(address.as_bytes(), &mut out);
            assert_eq!(
                is_address.then_some(out.as_slice()),
                network.map(str::as_bytes)
            );
        }
    }
}
