//! [`Digest`]: 64 bits that stand for a run's logits.

/// A 64-bit FNV-1a digest of numbers, by their bits: what a host test and a device compare instead
/// of the logits.
///
/// ```
/// # use pocketlm::run::Digest;
/// let mut digest = Digest::new();
/// digest.update(&[1.0, -0.5]);
/// assert_eq!(digest.value(), 0x0979_d8ee_2da2_0b75);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Digest(u64);

impl Digest {
    /// The digest of nothing.
    pub const fn new() -> Self {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    /// Adds numbers, each as its four bytes, little-endian. Every NaN counts as the same one: which
    /// bits a NaN has is the one thing IEEE 754 leaves to the machine.
    pub fn update(&mut self, numbers: &[f32]) {
        for number in numbers {
            let bits = if number.is_nan() {
                f32::NAN.to_bits()
            } else {
                number.to_bits()
            };
            for byte in bits.to_le_bytes() {
                self.0 = (self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }

    /// The digest so far.
    pub const fn value(&self) -> u64 {
        self.0
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}
