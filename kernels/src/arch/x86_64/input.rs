//! Quantising with AVX2, a group in four registers.

use core::arch::x86_64::*;

use bytemuck::cast;

use crate::{GROUP, InputGroup, dtype, input_group};

/// [`Isa::quantize`](crate::Isa::quantize).
#[target_feature(enable = "avx2,f16c")]
pub(super) fn quantize(input: &[f32], groups: &mut [InputGroup]) {
    for (input, group) in dtype::groups(input).zip(groups) {
        *group = match input.as_array() {
            Some(input) => quantize_group(input),
            None => {
                let mut padded = [0.0; GROUP];
                padded[..input.len()].copy_from_slice(input);
                quantize_group(&padded)
            }
        };
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn quantize_group(input: &[f32; GROUP]) -> InputGroup {
    let x: [__m256; 4] = cast(*input);
    // The order of magnitudes is the order of their bits, NaN above all.
    let magnitude = |x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fff_ffff));
    let halves = [
        _mm256_max_epi32(magnitude(x[0]), magnitude(x[1])),
        _mm256_max_epi32(magnitude(x[2]), magnitude(x[3])),
    ];
    let largest: [__m128i; 2] = cast(_mm256_max_epi32(halves[0], halves[1]));
    let largest = _mm_max_epi32(largest[0], largest[1]);
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32::<0b01_00_11_10>(largest));
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32::<0b10_11_00_01>(largest));
    let (scale, inverse) = input_group::scales(f32::from_bits(_mm_cvtsi128_si32(largest) as u32));
    if inverse == 0.0 {
        return InputGroup {
            values: [0; GROUP],
            scale,
            sum: 0,
        };
    }
    // The conversion rounds to nearest, ties to even: the default mode, which Rust relies on. The
    // shuffle swaps the middle two of four values. Packing interleaves fours of both registers, and
    // the last step puts them back in order.
    let inverse = _mm256_set1_ps(inverse);
    let round =
        |x| _mm256_shuffle_epi32::<0b11_01_10_00>(_mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)));
    let pack = |low, high| {
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(round(low), round(high)))
    };
    let values = [pack(x[0], x[1]), pack(x[2], x[3])];
    let ones = _mm256_set1_epi16(1);
    let sums = _mm256_add_epi32(
        _mm256_madd_epi16(values[0], ones),
        _mm256_madd_epi16(values[1], ones),
    );
    let sums: [i32; 8] = cast(sums);
    InputGroup {
        values: cast(values),
        scale,
        sum: sums.iter().sum(),
    }
}
