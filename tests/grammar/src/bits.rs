//! [`Bits`]: a set of tokens.

/// A bit for each token.
#[derive(Clone, PartialEq)]
pub struct Bits(pub Vec<u32>);

impl Bits {
    /// One of each of `items`.
    pub fn of<T>(items: &[T], fits: impl Fn(&T) -> bool) -> Self {
        let word = |items: &[T]| {
            let bits = items.iter().enumerate();
            bits.fold(0, |word, (bit, item)| word | u32::from(fits(item)) << bit)
        };
        Bits(items.chunks(32).map(word).collect())
    }

    pub fn none(&self) -> Self {
        Bits(vec![0; self.0.len()])
    }

    pub fn and(&self, other: &Self) -> Self {
        let words = self.0.iter().zip(&other.0);
        Bits(words.map(|(a, b)| a & b).collect())
    }

    /// The tokens that are not in `other`.
    pub fn without(&self, other: &Self) -> Vec<u32> {
        let words = self.0.iter().zip(&other.0).map(|(a, b)| a & !b);
        let bits = |(at, word): (u32, u32)| {
            let bits = (0..32).filter(move |bit| word >> bit & 1 != 0);
            bits.map(move |bit| at * 32 + bit)
        };
        (0..).zip(words).flat_map(bits).collect()
    }

    /// The first token from `id` on, or the first of all if there is none.
    pub fn next(&self, id: usize) -> Option<u32> {
        let words = self.0.len();
        let found = (0..=words).find_map(|index| {
            let at = (id / 32 + index) % words;
            let skipped = if index == 0 { id % 32 } else { 0 };
            let word = self.0[at] >> skipped << skipped;
            (word != 0).then(|| at * 32 + word.trailing_zeros() as usize)
        });
        found.map(|id| id as u32)
    }
}
