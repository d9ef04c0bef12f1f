//! Quantising the input of an integer product.

use bytemuck::{Pod, Zeroable};

use crate::math::round_to_i32;
use crate::{GROUP, dtype};

/// 32 inputs in 16 bits with one scale: input ≈ `value * scale`.
///
/// Why 16 bits, where others take 8: the weights should decide the accuracy of a quantised model.
/// Measured as the KL divergence from f32 on SmolLM2-135M with its Q4_1 weights as they are: 3.8e-3
/// nats a token with 8 bits (outliers in a group leave the rest of it few steps), 6e-8 with 16. It
/// costs nothing where memory limits decoding, or where the instructions multiply 16-bit numbers
/// (SSE2 and AVX2 `pmaddwd`, Armv7E-M `smlad`, wasm `dot_i16x8`). Where they multiply bytes
/// (`sdot`), the input is split into two digits.
///
/// Example: [`Isa`](crate::Isa).
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct InputGroup {
    /// −32767..=32767. Each four columns are in the order 0 2 1 3. A mask and a shift (or
    /// Armv7E-M's `sxtb16`) widen the bytes of four weights to pairs of 16-bit words in the same
    /// order, so a multiply-add of pairs (`pmaddwd`, `smlad`) needs no shuffle.
    pub values: [i16; GROUP],
    /// The largest magnitude of the group over 32767.
    pub scale: f32,
    /// The sum of `values`. A weight's zero point or minimum is multiplied with it.
    pub sum: i32,
}

/// A group of smaller magnitudes becomes zeros: their reciprocal could be outside the range of f32.
const SMALLEST: f32 = 1e-30;

/// `(scale, inverse)` of a group with this largest magnitude. The inverse is 0 if all values are.
#[inline(always)]
pub(crate) fn scales(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < SMALLEST {
        (0.0, 0.0)
    } else {
        (largest / 32767.0, 32767.0 / largest)
    }
}

/// [`Isa::quantize`](crate::Isa::quantize), portably.
#[inline(always)]
pub(crate) fn quantize(input: &[f32], groups: &mut [InputGroup]) {
    for (input, group) in dtype::groups(input).zip(groups) {
        // The order of magnitudes is the order of their bits, NaN above all.
        let largest = input
            .iter()
            .fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
        let (scale, inverse) = scales(f32::from_bits(largest));
        group.values = [0; GROUP];
        if inverse != 0.0 {
            for (value, x) in group.values.iter_mut().zip(input) {
                *value = round_to_i32(x * inverse) as i16;
            }
            for four in group.values.as_chunks_mut::<4>().0 {
                four.swap(1, 2);
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
    fn the_largest_magnitude_becomes_32767_and_ties_go_to_even() {
        let group = one(&[-65534.0, 1.0, 3.0, 65533.0]);
        assert_eq!(group.values[..5], [-32767, 2, 0, 32766, 0]);
        assert_eq!((group.scale, group.sum), (2.0, 1));
    }

    #[test]
    fn zeros_denormals_and_infinities_have_a_defined_outcome() {
        assert_eq!(
            one(&[0.0, -0.0, 1e-38, f32::from_bits(1)]),
            InputGroup::zeroed()
        );
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            let group = one(&[1.0, bad, 2.0]);
            assert!(group.scale.is_nan() && group.values == [0; 32] && group.sum == 0);
        }
        assert_eq!(
            one(&[f32::MAX, f32::MIN, 1.0]).values[..3],
            [32767, 0, -32767]
        );
    }
}
