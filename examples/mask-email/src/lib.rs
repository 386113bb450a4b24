//! Masks e-mail addresses. The idea to take from here: rewriting, and searching many events at once.

use std::ops::Range;

use memchr::{memchr, memchr_iter};
use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Rest, Tally, Verdict, export};

/// Puts `replacement` in the place of every e-mail address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskEmail {
    #[serde(default = "default_replacement")]
    replacement: String,
    /// Where new bodies are made; kept, so that memory is taken once and not for each event.
    #[serde(skip)]
    body: Vec<u8>,
}

fn default_replacement() -> String {
    "[email]".to_owned()
}

impl Processor for MaskEmail {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        let Self { replacement, body } = self;
        let edited = batch.edit(
            Rest::Keep,
            // One search runs over many events; only those with an `@` are looked at.
            |slice, at| memchr(b'@', &slice[at..]).map(|found| at + found),
            |event, rewrite| {
                body.clear();
                match mask(event.body(), replacement.as_bytes(), body) {
                    true => rewrite.replace(body),
                    false => Verdict::Keep,
                }
            },
        );
        edited.into()
    }
}

export!(MaskEmail);

/// Writes `body` with its addresses replaced to `masked`; says whether it has any.
fn mask(body: &[u8], replacement: &[u8], masked: &mut Vec<u8>) -> bool {
    let mut copied = 0;
    for at in memchr_iter(b'@', body) {
        // The host of one address can look like the name of the next.
        let Some(address) = address_around(body, copied, at) else {
            continue;
        };
        masked.extend_from_slice(&body[copied..address.start]);
        masked.extend_from_slice(replacement);
        copied = address.end;
    }
    masked.extend_from_slice(&body[copied..]);
    copied > 0
}

/// Finds the address whose `@` is at `at`, and which begins at `from` or later: a name, and a host with
/// a dot in it. Bytes beyond ASCII count as letters of the name.
fn address_around(body: &[u8], from: usize, at: usize) -> Option<Range<usize>> {
    let of_name =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte) || *byte > 127;
    let of_host = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let name = body[from..at]
        .iter()
        .rev()
        .take_while(|byte| of_name(byte))
        .count();
    let host = &body[at + 1..];
    let host = &host[..host.iter().take_while(|byte| of_host(byte)).count()];
    // A full stop behind the address belongs to the sentence.
    let ends_with_label = host.iter().rposition(u8::is_ascii_alphanumeric)?;
    let host = &host[..=ends_with_label];
    let dotted = memchr(b'.', host).is_some_and(|dot| dot > 0);
    (name > 0 && dotted).then(|| at - name..at + 1 + host.len())
}

#[cfg(test)]
mod tests {
    use streamgate_guest::testing::{Harness, Outcome};

    use super::*;

    #[test]
    fn addresses_are_masked_and_nothing_else() {
        let mut harness = Harness::<MaskEmail>::configure("{}").unwrap();
        for (event, masked) in [
            ("from ann@example.org", "from [email]"),
            ("<a.b+c@mail.example.org>,x@y.zz.", "<[email]>,[email]."),
            ("jürgen@example.org", "[email]"),
            ("a@b.c@d.e", "[email]@d.e"),
        ] {
            assert_eq!(harness.run([event]), [Outcome::replaced(masked)], "{event}");
        }
        for event in [
            "",
            "no address",
            "@",
            "user@localhost",
            "@example.org",
            "a@.b",
            "a@-.",
        ] {
            assert_eq!(harness.run([event]), [Outcome::Kept], "{event}");
        }
    }

    #[test]
    fn the_replacement_is_configured() {
        let mut harness = Harness::<MaskEmail>::configure(r#"{"replacement": ""}"#).unwrap();
        assert_eq!(
            harness.survivors(["to a@b.cc", "a@b.cc", "x"]),
            ["to ", "", "x"]
        );
    }
}
