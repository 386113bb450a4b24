//! Sizes and times as a person writes them: `256MiB`, `64KiB`, `10s`, `250ms`.

use std::time::Duration;

/// Reads a number of bytes: a whole number, alone or with `B`, `KiB`, `MiB`, `GiB` (powers of 1024)
/// or `KB`, `MB`, `GB` (powers of 1000).
///
/// # Errors
/// Says what was found and what was expected.
pub fn bytes(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, usize); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    split(text, &UNITS)
        .and_then(|(number, unit)| usize::try_from(number).ok()?.checked_mul(unit))
        .ok_or_else(|| {
            format!("`{text}` is not a valid size; expected one like `256MiB` or `65536`")
        })
}

/// Reads a time: a whole number with `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// Says what was found and what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, usize); 5] = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    split(text, &UNITS)
        .and_then(|(number, unit)| number.checked_mul(unit as u64))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!("`{text}` is not a valid time; expected one like `250ms`, `10s`, `5m`, `12h` or `30d`")
        })
}

fn split(text: &str, units: &[(&str, usize)]) -> Option<(u64, usize)> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    Some((number.parse().ok()?, unit.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        assert_eq!(bytes("256MiB"), Ok(256 << 20));
        assert_eq!(bytes("1 kb"), Ok(1000));
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "12 parsecs",
            "99999999999999999999",
            "1e3",
        ] {
            assert!(bytes(text).is_err(), "{text}");
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(bytes("99999999999GiB").is_err());
        assert!(duration("10").is_err(), "a time needs its unit");
    }
}
