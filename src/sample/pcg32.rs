//! The random number generator.

/// PCG32 (XSH-RR 64/32, M. O'Neill 2014, <https://www.pcg-random.org>): 8 bytes of state, one
/// 64-bit multiplication a number, the same stream on every target. Not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Pcg32 {
    state: u64,
}

impl Pcg32 {
    /// Stream 54 of the generator, the one of the reference implementation's demo.
    const INCREMENT: u64 = 54 << 1 | 1;

    /// `pcg32_srandom_r(seed, 54)`.
    pub(super) const fn new(seed: u64) -> Self {
        Pcg32 {
            state: Self::step(Self::step(0).wrapping_add(seed)),
        }
    }

    const fn step(state: u64) -> u64 {
        state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(Self::INCREMENT)
    }

    pub(super) fn next(&mut self) -> u32 {
        let state = self.state;
        self.state = Self::step(state);
        let mixed = (((state >> 18) ^ state) >> 27) as u32;
        mixed.rotate_right((state >> 59) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_reference_pcg32() {
        // Round 1 of `pcg32-demo` in https://github.com/imneme/pcg-c-basic, seeded (42, 54).
        let mut generator = Pcg32::new(42);
        let numbers = [(); 6].map(|()| generator.next());
        assert_eq!(
            numbers,
            [
                0xa15c_02b7,
                0x7b47_f409,
                0xba1d_3330,
                0x83d2_f293,
                0xbfa4_784b,
                0xcbed_606e
            ]
        );
    }
}
