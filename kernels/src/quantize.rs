//! Quantising the input of an integer product.

use bytemuck::{Pod, Zeroable};

use crate::math::round_to_i32;
use crate::{GROUP, dtype};

/// 32 inputs as int8 with one scale: input ≈ `value * scale`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct InputGroup {
    /// −127..=127.
    pub values: [i16; GROUP],
    /// The largest magnitude of the group over 127.
    pub scale: f32,
    /// The sum of `values`, which a weight's zero point or minimum meets.
    pub sum: i32,
}

/// Magnitudes under this make a group of zeros: their reciprocal would leave the range of f32.
const SMALLEST: f32 = 1e-30;

/// Quantises `input` group by group; the last group is padded with zeros. For each group, with `largest` its largest
/// magnitude: `scale = largest / 127` and `value = round(input * (127 / largest))`, ties to even. A group that holds
/// a number that is not finite gets the scale NaN, so that it shows in every output it reaches.
pub fn quantize(input: &[f32], groups: &mut [InputGroup]) {
    for (input, group) in dtype::groups(input).zip(groups) {
        // The order of magnitudes is the order of their bits, NaN above all.
        let largest = input.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        let (scale, inverse) = if !largest.is_finite() {
            (f32::NAN, 0.0)
        } else if largest < SMALLEST {
            (0.0, 0.0)
        } else {
            (largest / 32767.0, 32767.0 / largest)
        };
        group.values = [0; GROUP];
        if inverse != 0.0 {
            for (value, x) in group.values.iter_mut().zip(input) {
                *value = round_to_i32(x * inverse) as i16;
            }
        }
        group.scale = scale;
        group.sum = group.values.iter().map(|&value| value as i32).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(input: &[f32]) -> InputGroup {
        let mut group = [InputGroup::zeroed()];
        quantize(input, &mut group);
        group[0]
    }

    #[test]
    fn the_largest_magnitude_becomes_127_and_ties_go_to_even() {
        let group = one(&[-254.0, 1.0, 3.0, 253.0]);
        assert_eq!(group.values[..5], [-127, 0, 2, 126, 0]);
        assert_eq!((group.scale, group.sum), (2.0, 1));
    }

    #[test]
    fn zeros_denormals_and_infinities_have_a_defined_outcome() {
        assert_eq!(one(&[0.0, -0.0, 1e-38, f32::from_bits(1)]), InputGroup::zeroed());
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            let group = one(&[1.0, bad, 2.0]);
            assert!(group.scale.is_nan() && group.values == [0; 32] && group.sum == 0);
        }
        assert_eq!(one(&[f32::MAX, f32::MIN, 1.0]).values[..3], [127, -127, 0]);
    }
}
