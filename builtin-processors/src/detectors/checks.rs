//! The arithmetic of check digits, for any bytes.
//!
//! Each function takes what a pattern matched, separators included, and never allocates. What is no
//! digit is skipped where a number is read, so that `123-45` and `12345` are one number.

/// Returns what is behind the first `count` bytes.
pub(super) fn behind(bytes: &[u8], count: usize) -> &[u8] {
    bytes.get(count..).unwrap_or_default()
}

/// Returns the last `count` bytes, or all if there are fewer.
pub(super) fn last(bytes: &[u8], count: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(count)..]
}

/// Collects exactly `N` digits; `None` if there are more or fewer.
pub(super) fn digits<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let mut digits = [0; N];
    let mut count = 0;
    for byte in bytes.iter().filter(|byte| byte.is_ascii_digit()) {
        *digits.get_mut(count)? = byte - b'0';
        count += 1;
    }
    (count == N).then_some(digits)
}

/// Collects exactly `N` ASCII letters and digits, letters in upper case.
pub(super) fn alphanumerics<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let mut found = [0; N];
    let mut count = 0;
    for byte in bytes.iter().filter(|byte| byte.is_ascii_alphanumeric()) {
        *found.get_mut(count)? = byte.to_ascii_uppercase();
        count += 1;
    }
    (count == N).then_some(found)
}

/// Reads digits as a number; the caller passes at most 19.
pub(super) fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0_u64, |number, &digit| {
        number.wrapping_mul(10).wrapping_add(u64::from(digit))
    })
}

/// Sums up digits by their weights, as far as both go.
pub(super) fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits
        .iter()
        .zip(weights)
        .map(|(&digit, weight)| u32::from(digit) * weight)
        .sum()
}

/// Luhn's sum over digits is a multiple of ten (ISO/IEC 7812-1, annex B).
pub(super) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, &digit)| match (at % 2, u32::from(digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Luhn's sum over the digits in the bytes.
pub(super) fn luhn_in<const N: usize>(bytes: &[u8]) -> bool {
    digits::<N>(bytes).is_some_and(|digits| luhn(&digits))
}

/// The remainder by 97 of letters and digits, `A` as 10 to `Z` as 35 (ISO/IEC 7064, MOD 97-10).
pub(super) fn mod_97(characters: impl Iterator<Item = u8>) -> u32 {
    characters.fold(0, |remainder, byte| match byte {
        b'0'..=b'9' => (remainder * 10 + u32::from(byte - b'0')) % 97,
        b'A'..=b'Z' => (remainder * 100 + u32::from(byte - b'A') + 10) % 97,
        b'a'..=b'z' => (remainder * 100 + u32::from(byte - b'a') + 10) % 97,
        _ => remainder,
    })
}

/// ISO/IEC 7064, MOD 11,10: the last digit checks the others.
pub(super) fn mod_11_10(digits: &[u8]) -> bool {
    let Some((&check, rest)) = digits.split_last() else {
        return false;
    };
    let product = rest.iter().fold(10, |product, &digit| {
        let sum = (product + u32::from(digit)) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == u32::from(check)
}

/// Verhoeff's check over digits, the check digit last (J. Verhoeff, "Error Detecting Decimal Codes",
/// 1969): products in the dihedral group of ten elements.
pub(super) fn verhoeff(digits: &[u8]) -> bool {
    const PERMUTATION: [u8; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    let multiply = |a: u8, b: u8| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => (a + b - 5) % 5 + 5,
        (false, true) => (a - 5 + 5 - b) % 5 + 5,
        (false, false) => (a + 5 - b) % 5,
    };
    let mut check = 0;
    for (at, &digit) in digits.iter().rev().enumerate() {
        let permuted = (0..at % 8).fold(digit % 10, |digit, _| PERMUTATION[usize::from(digit)]);
        check = multiply(check, permuted);
    }
    check == 0
}

/// Whether there is such a day; of `year` only what makes it a leap year counts.
pub(super) fn is_date(year: u64, month: u64, day: u64) -> bool {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=last).contains(&day)
}

/// Whether there is such a day in a year of which only the last two digits are known.
pub(super) fn is_short_date(month: u64, day: u64, year: u64) -> bool {
    // 2000 was a leap year, so `00` may be one.
    is_date(2000 + year % 100, month, day)
}

/// Whether all are alike: `000000000` passes most check digits and is nobody's number.
pub(super) fn are_alike(digits: &[u8]) -> bool {
    digits.windows(2).all(|pair| pair[0] == pair[1])
}

/// CRC-32 as in zip (ISO 3309, reflected 0x04c11db7), bit by bit: it runs on candidates only.
pub(super) fn crc_32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

/// Shannon's entropy in bits a byte, of the first 256 bytes.
pub(super) fn entropy(bytes: &[u8]) -> f64 {
    let bytes = &bytes[..bytes.len().min(256)];
    let mut counts = [0_u16; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let total = bytes.iter().fold(0.0, |total, _| total + 1.0);
    counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let share = f64::from(count) / total;
            -share * share.log2()
        })
        .sum()
}

/// Whether bytes look drawn at random rather than written: at least 3 bits a byte, or nearly as much
/// as their number allows. Text of names and words has less.
pub(super) fn is_random(bytes: &[u8]) -> bool {
    let distinct_at_best = match bytes.len() {
        0..=15 => 2.4,
        16..=23 => 2.7,
        _ => 3.0,
    };
    entropy(bytes) >= distinct_at_best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<u8> {
        text.bytes().map(|byte| byte - b'0').collect()
    }

    #[test]
    fn check_digits_of_the_standards() {
        // ISO/IEC 7812-1, annex B.
        assert!(luhn(&values("79927398713")) && !luhn(&values("79927398710")));
        // ISO/IEC 7064: the example of 11.
        assert!(mod_11_10(&values("07945")) && !mod_11_10(&values("07946")));
        // 236 and its check digit 3.
        assert!(verhoeff(&values("2363")) && !verhoeff(&values("2364")));
        // ISO 13616-1: the digits moved to the end leave 1.
        assert_eq!(mod_97("WEST12345698765432GB82".bytes()), 1);
        // The check value of CRC-32.
        assert_eq!(crc_32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (year, month, day, expected) in [
            (2000, 2, 29, true),
            (1900, 2, 29, false),
            (2023, 2, 29, false),
            (2024, 4, 31, false),
            (2024, 13, 1, false),
            (2024, 12, 31, true),
            (2024, 1, 0, false),
        ] {
            assert_eq!(is_date(year, month, day), expected, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn entropy_is_shannons() {
        assert!(entropy(b"aaaa").abs() < 1e-9);
        assert!((entropy(b"abcd") - 2.0).abs() < 1e-9);
        assert!(is_random(b"9f8Hs2kLmQ0vX7bTz4Rw") && !is_random(b"aaaaaaaaaaaaaaaaaaab"));
    }
}
