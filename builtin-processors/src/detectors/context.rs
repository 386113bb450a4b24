//! What the words near a match say about it.
//!
//! A row of digits says little. The key that it is the value of (`ssn=`, `"order_id":`) or a word
//! near it says what it is.

use super::{KEYWORD_DISTANCE, KEYWORD_DISTANCE_BEHIND};

/// Words in a key that say nothing about its value: `order number 17` is about an order.
const EMPTY_WORDS: &[&str] = &[
    "number", "num", "no", "nr", "id", "is", "was", "value", "code", "for", "of",
];

/// Longest own key that is looked at.
const KEY_BYTES: usize = 40;

/// Whether one of the keywords stands near `event[start..end]`.
pub(super) fn is_near(event: &[u8], start: usize, end: usize, keywords: &[&str]) -> bool {
    let before = &event[start.saturating_sub(KEYWORD_DISTANCE)..start];
    let behind = &event[end..event.len().min(end + KEYWORD_DISTANCE_BEHIND)];
    // Behind, another field is about itself.
    let behind = match behind.iter().position(|byte| b",;&|\t{}[]=".contains(byte)) {
        Some(field) => &behind[..field],
        None => behind,
    };
    has_any(before, keywords) || has_any(behind, keywords)
}

/// Whether the key of the value at `start` has one of the words in it.
pub(super) fn own_key_has(event: &[u8], start: usize, words: &[&str]) -> bool {
    has_any(own_key(event, start), words)
}

/// Returns the word or words right before a value that say what it is: `order_id` for
/// `"order_id": 17`, `order no` for `order no 17`, `Chrome` for `Chrome/17`.
fn own_key(event: &[u8], start: usize) -> &[u8] {
    let before = &event[start.saturating_sub(KEY_BYTES)..start];
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte) || byte >= 0x80;
    let is_joint = |byte: u8| b" \"'`=:/\\#([<".contains(&byte);
    let mut from = before.len();
    let mut words_end = None;
    // At most two words more when all of them say nothing.
    for _ in 0..3 {
        let joint = before[..from]
            .iter()
            .rev()
            .take_while(|&&byte| is_joint(byte))
            .count();
        // A wide gap, or the end of another value, ends what belongs together.
        if joint > 6 {
            break;
        }
        let word_end = from - joint;
        let length = before[..word_end]
            .iter()
            .rev()
            .take_while(|&&byte| is_word(byte))
            .count();
        if length == 0 {
            break;
        }
        from = word_end - length;
        words_end.get_or_insert(word_end);
        let word = &before[from..word_end];
        let word = word.strip_suffix(b".").unwrap_or(word);
        if !EMPTY_WORDS
            .iter()
            .any(|empty| word.eq_ignore_ascii_case(empty.as_bytes()))
        {
            break;
        }
    }
    words_end.map_or(&[], |end| &before[from..end])
}

fn has_any(text: &[u8], words: &[&str]) -> bool {
    !text.is_empty() && words.iter().any(|word| has(text, word.as_bytes()))
}

fn has(text: &[u8], word: &[u8]) -> bool {
    let Some(&first) = word.first() else {
        return false;
    };
    let is_here = |at: usize| match length_at(&text[at..], word) {
        Some(length) => stands_alone(text, at, at + length),
        None => false,
    };
    match first {
        // Upper and lower case of other scripts may differ in the first byte too.
        0x80.. => (0..text.len()).any(is_here),
        _ => {
            let (lower, upper) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
            memchr::memchr2_iter(lower, upper, text).any(is_here)
        }
    }
}

/// Returns how many bytes of the text the word takes, if the text begins with it.
fn length_at(text: &[u8], word: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut letters = word;
    while let Some((&letter, rest)) = letters.split_first() {
        letters = rest;
        let byte = text.get(at);
        if letter == b' ' {
            at += usize::from(byte.is_some_and(|byte| b" _-.+".contains(byte)));
        } else if letter >= 0xc0 {
            // Beyond ASCII, upper and lower case are characters of the same length, mostly.
            if byte.is_none_or(|&byte| byte < 0xc0) {
                return None;
            }
            let wanted = first_character(word_from(word, letters.len() + 1))?;
            let found = first_character(text.get(at..)?)?;
            if found != wanted && !found.to_lowercase().eq(wanted.to_lowercase()) {
                return None;
            }
            at += found.len_utf8();
            letters = &letters[wanted.len_utf8() - 1..];
        } else if byte.is_some_and(|byte| byte.eq_ignore_ascii_case(&letter)) {
            at += 1;
        } else {
            return None;
        }
    }
    Some(at)
}

/// The last bytes of a word.
fn word_from(word: &[u8], length: usize) -> &[u8] {
    &word[word.len() - length..]
}

fn first_character(text: &[u8]) -> Option<char> {
    let length = match text.first()? {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    std::str::from_utf8(text.get(..length)?)
        .ok()?
        .chars()
        .next()
}

/// Whether `text[start..end]` is a word by itself: no letter joins it, but for `camelCase`.
fn stands_alone(text: &[u8], start: usize, end: usize) -> bool {
    // Words of other scripts are not divided by blanks.
    let (Some(first), Some(last)) = (text.get(start), end.checked_sub(1).map(|last| text[last]))
    else {
        return false;
    };
    let left = start.checked_sub(1).map(|left| text[left]);
    let joined_left = first.is_ascii_alphabetic()
        && left.is_some_and(|left| {
            left.is_ascii_alphabetic() && !(left.is_ascii_lowercase() && first.is_ascii_uppercase())
        })
        && !is_escape(&text[..start]);
    let joined_right = last.is_ascii_alphabetic()
        && text.get(end).is_some_and(|right| {
            let plural = *right == b's' && !text.get(end + 1).is_some_and(u8::is_ascii_alphabetic);
            right.is_ascii_alphabetic()
                && !(last.is_ascii_lowercase() && right.is_ascii_uppercase())
                && !plural
        });
    !joined_left && !joined_right
}

/// Whether text ends with an escape of a JSON string, such as `\n`.
fn is_escape(text: &[u8]) -> bool {
    matches!(text, [.., b'\\', b'n' | b'r' | b't'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_keys_are_found_in_every_dialect() {
        for (event, key) in [
            ("order_id=17", "order_id"),
            (r#"{"order_id": "17"#, "order_id"),
            (r#"{\"order_id\":\"17"#, "order_id"),
            ("a=1 order no. 17", "order no."),
            ("the order number is 17", "order number is"),
            ("Mozilla/5.0 Chrome/17", "Chrome"),
            ("17", ""),
            ("a, 17", ""),
        ] {
            let start = event.len() - 2;
            let found = own_key(event.as_bytes(), start);
            assert_eq!(String::from_utf8_lossy(found), key, "{event}");
        }
    }

    #[test]
    fn keywords_are_whole_words() {
        for (text, word, expected) in [
            ("user_ssn=", "ssn", true),
            ("userSsn=", "ssn", true),
            ("ssnLast=", "ssn", true),
            ("ssns=", "ssn", true),
            ("session=", "ssn", false),
            ("using ", "sin", false),
            ("tax-id", "tax id", true),
            ("taxId", "tax id", true),
            ("TAX_ID", "tax id", true),
            ("身份证号", "身份证", true),
            ("FØDSELSNUMMER", "fødselsnummer", true),
            ("FODSELSNUMMER", "fødselsnummer", false),
        ] {
            assert_eq!(
                has(text.as_bytes(), word.as_bytes()),
                expected,
                "{text} {word}"
            );
        }
    }

    #[test]
    fn a_field_behind_is_about_itself() {
        let event = b"a=123456789,ssn=1";
        assert!(!is_near(event, 2, 11, &["ssn"]));
        let event = b"123456789 (SSN)";
        assert!(is_near(event, 0, 9, &["ssn"]));
    }
}
