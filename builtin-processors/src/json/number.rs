//! Numbers as JSON writes them, compared by what they are worth.

use std::cmp::Ordering;

use super::Value;

/// A number: exact if it is whole and has fewer than 39 digits, else the nearest `f64`.
///
/// So identifiers and nanoseconds since 1970, which an `f64` cannot tell apart, compare exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// A whole number.
    Whole(i128),
    /// Any other; always finite, and never a whole number below 2^53.
    Real(f64),
}

/// Up to here every whole number is an `f64`.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

impl Number {
    /// Reads the value of a JSON number, or of a string that holds nothing but one.
    pub(crate) fn of(value: &Value<'_>) -> Option<Self> {
        match value.raw().first()? {
            b'"' => Self::parse(&value.decoded()?),
            b'-' | b'0'..=b'9' => Self::parse(std::str::from_utf8(value.raw()).ok()?),
            _ => None,
        }
    }

    /// Reads a number as JSON writes it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        // `f64` would also take `inf`, `nan`, `.5` and `+1`.
        if !digits.as_bytes().first()?.is_ascii_digit() || text.ends_with('.') {
            return None;
        }
        if digits.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(whole) = text.parse()
        {
            return Some(Self::Whole(whole));
        }
        let real: f64 = text.parse().ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole, and below 2^53, so that it is exact"
        )]
        match real.fract() == 0.0 && real.abs() <= MAX_EXACT {
            true => Some(Self::Whole(real as i128)),
            false => real.is_finite().then_some(Self::Real(real)),
        }
    }

    /// Compares two numbers.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            (a, b) => a.real().total_cmp(&b.real()),
        }
    }

    /// Returns what equal numbers have alike.
    pub(crate) fn identity(self) -> (bool, i128) {
        match self {
            Self::Whole(whole) => (true, whole),
            Self::Real(real) => (false, i128::from(real.to_bits())),
        }
    }

    /// Returns the nearest `f64`.
    pub(crate) fn real(self) -> f64 {
        match self {
            #[expect(
                clippy::cast_precision_loss,
                reason = "the nearest one is what is asked for"
            )]
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_by_what_they_are_worth() {
        let compare = |a: &str, b: &str| {
            let number = |text| Number::parse(text).expect("a number");
            number(a).compare(number(b))
        };
        for (less, more) in [
            ("-1", "0"),
            ("9", "10"),
            ("1.5", "2"),
            ("2", "2.5e0"),
            ("1764000000000000001", "1764000000000000002"),
            ("-1e400", "1"),
        ] {
            if Number::parse(less).is_some() {
                assert_eq!(compare(less, more), Ordering::Less, "{less} {more}");
            }
        }
        for (a, b) in [
            ("200", "200.0"),
            ("200", "2e2"),
            ("-0", "0.0"),
            ("0.5", "5e-1"),
        ] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
            let identity = |text| Number::parse(text).expect("a number").identity();
            assert_eq!(identity(a), identity(b), "{a} {b}");
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "", "-", "inf", "nan", ".5", "+1", "1.", "0x1", "1 ", " 1", "1e400", "--1",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }
}
