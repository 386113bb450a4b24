//! A set of bytes, and how common they are in logs.

/// A set of bytes, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct ByteSet([u64; 4]);

impl ByteSet {
    pub(crate) const ALL: Self = Self([u64::MAX; 4]);

    pub(crate) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub(crate) fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// Whether every byte of `other` is in this set.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(other.0)
            .all(|(own, other)| own & other == other)
    }

    pub(crate) fn union(mut self, other: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        self
    }

    /// The set that tables by half a byte make of this one: all bytes whose low half is that of one
    /// byte in it, and their high half that of one.
    pub(crate) fn by_halves(&self) -> Self {
        // Each word is four stretches of 16 bytes that have the high half in common.
        let stretches = |word: u64| [0, 16, 32, 48].map(|shift| word >> shift & 0xffff);
        let low = self.0.iter().flat_map(|&word| stretches(word));
        let low = low.fold(0, |all, stretch| all | stretch);
        Self(self.0.map(|word| {
            stretches(word).into_iter().rev().fold(0, |set, stretch| {
                set << 16 | if stretch == 0 { 0 } else { low }
            })
        }))
    }

    pub(crate) fn single(byte: u8) -> Self {
        let mut set = Self::default();
        set.insert(byte);
        set
    }

    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> {
        (0..4).flat_map(|word: u8| {
            let mut left = self.0[usize::from(word)];
            std::iter::from_fn(move || {
                let bit = u8::try_from(left.trailing_zeros())
                    .ok()
                    .filter(|&bit| bit < 64)?;
                left &= left - 1;
                Some(word << 6 | bit)
            })
        })
    }

    /// Whether it is mostly a digit that falls in it.
    pub(crate) fn is_mostly_digits(&self) -> bool {
        let digits = self.bytes().filter(u8::is_ascii_digit).count();
        digits > 0 && self.bytes().count() <= digits + 4
    }

    /// The share of bytes of log text that fall in this set, roughly: letters, digits and blanks
    /// are common there, other marks are not. Behind a digit there is mostly another one.
    pub(crate) fn frequency(&self, behind_digit: bool) -> f64 {
        let share = |byte| match byte {
            b'a'..=b'z' => 0.020,
            b'0'..=b'9' => 0.025,
            b' ' => 0.080,
            b'A'..=b'Z' | b'"' | b'.' | b':' | b'-' | b'/' | b'=' | b'_' | b',' => 0.010,
            b'!'..=b'~' => 0.004,
            _ => 0.001,
        };
        if *self == Self::ALL {
            return 1.0;
        }
        let behind = |byte: u8| match byte {
            b'0'..=b'9' => 0.065,
            _ => share(byte) / 2.0,
        };
        let share = |byte| {
            if behind_digit {
                behind(byte)
            } else {
                share(byte)
            }
        };
        self.bytes().map(share).sum::<f64>().clamp(1e-6, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_make_all_bytes_that_have_both() {
        let mut set = ByteSet::default();
        b"-/19@\xff".iter().for_each(|&byte| set.insert(byte));
        let has = |is_half: fn(u8, u8) -> bool, byte| set.bytes().any(|own| is_half(own, byte));
        let expected: Vec<u8> = (0..=u8::MAX)
            .filter(|&byte| {
                has(|a, b| a & 15 == b & 15, byte) && has(|a, b| a >> 4 == b >> 4, byte)
            })
            .collect();
        assert_eq!(set.by_halves().bytes().collect::<Vec<_>>(), expected);
    }
}
