//! Advanced SIMD, which every 64-bit Arm core has (Cortex-A53 and A72, Raspberry Pi 3 and 4).
//!
//! Integer products: `ld4` takes the bytes of two steps of four columns apart, so that a register
//! is one column, a lane a row. Widened to 16 bits, `smlal` multiplies them by one lane of a
//! register of inputs and adds to the row's own 32-bit lane. Nothing is summed across lanes, and no
//! input is ever spread over a register.

use core::arch::aarch64::*;

use bytemuck::cast;

use crate::arch::registers_128::{Simd, matmul};
use crate::{GROUP, InputGroup, Isa, TILE_ROWS};

/// The table. What is not here the compiler vectorises: Advanced SIMD is part of what it assumes.
pub(super) static NEON: Isa = Isa {
    name: "neon",
    matmul: matmul::<Neon>,
    ..*Isa::SCALAR
};

pub(super) struct Neon;

/// A register each for rows 0 to 3 and 4 to 7.
pub(super) type Floats = [float32x4_t; 2];
pub(super) type Integers = [int32x4_t; 2];

impl Simd for Neon {
    type Floats = Floats;
    type Integers = Integers;
    /// Eight columns a register, in the order they are kept in.
    type Inputs = [int16x8_t; GROUP / 8];

    #[inline(always)]
    fn from_f16(weights: [u16; TILE_ROWS]) -> Floats {
        let halves: [uint16x4_t; 2] = cast(weights);
        // SAFETY: the targets this is compiled for have Advanced SIMD, conversion of halves
        // included.
        halves.map(|four| unsafe { vcvt_f32_f16(vreinterpret_f16_u16(four)) })
    }

    #[inline(always)]
    fn from_bf16(weights: [u16; TILE_ROWS]) -> Floats {
        let halves: [uint16x4_t; 2] = cast(weights);
        // SAFETY: as in `from_f16`.
        halves.map(|four| unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(four)) })
    }

    #[inline(always)]
    fn add_product([low, high]: Floats, weights: Floats, x: f32) -> Floats {
        // SAFETY: as in `from_f16`.
        unsafe {
            [
                vaddq_f32(low, vmulq_n_f32(weights[0], x)),
                vaddq_f32(high, vmulq_n_f32(weights[1], x)),
            ]
        }
    }

    #[inline(always)]
    fn join(mut sum: Floats, dots: Integers, scales: Floats, input_scale: f32) -> Floats {
        for ((sum, dots), scales) in sum.iter_mut().zip(dots).zip(scales) {
            // SAFETY: as in `from_f16`.
            *sum = unsafe {
                vaddq_f32(
                    *sum,
                    vmulq_f32(vcvtq_f32_s32(dots), vmulq_n_f32(scales, input_scale)),
                )
            };
        }
        sum
    }

    #[inline(always)]
    fn inputs(x: &InputGroup) -> Self::Inputs {
        cast(x.values)
    }

    #[inline(always)]
    fn dots<const T: usize>(values: &[[u8; 32]; GROUP / 4], x: [Self::Inputs; T]) -> [Integers; T] {
        let mut dots = [splat(0); T];
        for (step, bytes) in values.as_chunks().0.iter().enumerate() {
            let columns = columns(bytes);
            // SAFETY: as in `from_f16`.
            let low = columns.map(|column| unsafe { vmovl_s8(vget_low_s8(column)) });
            // SAFETY: as in `from_f16`.
            let high = columns.map(|column| unsafe { vmovl_high_s8(column) });
            for (dots, x) in dots.iter_mut().zip(&x) {
                multiply(dots, cast([low, high]), x[step]);
            }
        }
        dots
    }

    #[inline(always)]
    fn levels(table: [i8; 16], codes: [u8; 32]) -> [u8; 32] {
        let halves: [uint8x16_t; 2] = cast(codes);
        // SAFETY: as in `from_f16`.
        cast(halves.map(|codes| unsafe { vqtbl1q_u8(cast(table), codes) }))
    }

    #[inline(always)]
    fn nibble_dots<const T: usize>(
        nibbles: &[[u8; 32]; GROUP / 8],
        x: [Self::Inputs; T],
        offsets: [i32; T],
    ) -> [Integers; T] {
        let mut dots = offsets.map(splat);
        for (x_step, bytes) in nibbles.as_chunks().0.iter().enumerate() {
            let columns = columns(bytes).map(cast::<_, uint8x16_t>);
            // SAFETY: as in `from_f16`.
            let low = columns.map(|columns| unsafe { vandq_u8(columns, vdupq_n_u8(15)) });
            // SAFETY: as in `from_f16`.
            let high = columns.map(|columns| unsafe { vshrq_n_u8::<4>(columns) });
            let columns: [uint8x16_t; 8] = cast([low, high]);
            // SAFETY: as in `from_f16`.
            let first = columns.map(|column| cast(unsafe { vmovl_u8(vget_low_u8(column)) }));
            // SAFETY: as in `from_f16`.
            let second = columns.map(|column| cast(unsafe { vmovl_high_u8(column) }));
            for (dots, x) in dots.iter_mut().zip(&x) {
                multiply(dots, first, x[2 * x_step]);
                multiply(dots, second, x[2 * x_step + 1]);
            }
        }
        dots
    }
}

/// The same number for every row.
#[inline(always)]
pub(super) fn splat(number: i32) -> Integers {
    cast([number; TILE_ROWS])
}

/// 64 bytes taken apart: every fourth byte in a register, in the order inputs are kept in, 0 2 1 3.
#[inline(always)]
fn columns(bytes: &[[u8; 32]; 2]) -> [int8x16_t; 4] {
    // SAFETY: as in `from_f16`, and the 64 bytes that are read are those of the argument.
    let int8x16x4_t(c0, c1, c2, c3) = unsafe { vld4q_s8(bytes.as_flattened().as_ptr().cast()) };
    [c0, c2, c1, c3]
}

/// Adds the products of eight columns of weights with their inputs.
#[inline(always)]
fn multiply(dots: &mut Integers, weights: [int16x8_t; 8], x: int16x8_t) {
    macro_rules! columns {
        ($($column:literal)*) => {$(
            // SAFETY: as in `from_f16`.
            unsafe {
                dots[0] = vmlal_laneq_s16::<$column>(dots[0], vget_low_s16(weights[$column]), x);
                dots[1] = vmlal_high_laneq_s16::<$column>(dots[1], weights[$column], x);
            }
        )*};
    }
    columns!(0 1 2 3 4 5 6 7);
}
