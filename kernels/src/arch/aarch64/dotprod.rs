//! The dot product instructions of Armv8.2 (Cortex-A55, A76 and later, Raspberry Pi 5, every Apple
//! silicon).
//!
//! `sdot` and `udot` multiply bytes, four columns of four rows at a time, in the order of a tile in
//! memory. An input of 16 bits is two digits, `x = 256 high + low`. `high` is signed and is
//! multiplied with the weights as they are; `low` is 0..=255 and is multiplied with `weight + 128`:
//! `sum(w x) = 256 sum(w high) + sum((w + 128) low) − 128 sum(low)`. Nibbles are 0..=15 and fit
//! either digit.
//!
//! The intrinsics are not stable in Rust 1.95, hence the assembly.

use core::arch::aarch64::*;
use core::arch::asm;

use bytemuck::cast;

use super::neon::{Floats, Integers, Neon, splat};
use crate::arch::registers_128::{Simd, matmul};
use crate::{GROUP, InputGroup, Isa, TILE_ROWS};

/// The table. It is handed out only where the dot product instructions were detected.
pub(super) static DOTPROD: Isa = Isa {
    name: "dotprod",
    matmul: matmul::<DotProd>,
    ..*Isa::SCALAR
};

struct DotProd;

/// The digits of a group's inputs, columns in order.
#[derive(Clone, Copy)]
pub(super) struct Digits {
    high: [int8x16_t; 2],
    low: [uint8x16_t; 2],
    /// 128 times the sum of the low digits.
    offset: i32,
}

impl Simd for DotProd {
    type Floats = Floats;
    type Integers = Integers;
    type Inputs = Digits;

    #[inline(always)]
    fn from_f16(weights: [u16; TILE_ROWS]) -> Floats {
        Neon::from_f16(weights)
    }

    #[inline(always)]
    fn from_bf16(weights: [u16; TILE_ROWS]) -> Floats {
        Neon::from_bf16(weights)
    }

    #[inline(always)]
    fn add_product(sum: Floats, weights: Floats, x: f32) -> Floats {
        Neon::add_product(sum, weights, x)
    }

    #[inline(always)]
    fn join(sum: Floats, dots: Integers, scales: Floats, input_scale: f32) -> Floats {
        Neon::join(sum, dots, scales, input_scale)
    }

    #[inline(always)]
    fn inputs(x: &InputGroup) -> Digits {
        const ORDER: [u8; 16] = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15];
        let x: [[uint8x16_t; 2]; 2] = cast(x.values);
        // SAFETY: the targets this is compiled for have Advanced SIMD.
        let low = x.map(|[a, b]| unsafe { vqtbl1q_u8(vuzp1q_u8(a, b), cast(ORDER)) });
        // SAFETY: as above.
        let high = x.map(|[a, b]| cast(unsafe { vqtbl1q_u8(vuzp2q_u8(a, b), cast(ORDER)) }));
        // SAFETY: as above.
        let sum = unsafe { vaddlvq_u8(low[0]) as i32 + vaddlvq_u8(low[1]) as i32 };
        Digits {
            high,
            low,
            offset: 128 * sum,
        }
    }

    #[inline(always)]
    fn dots<const T: usize>(values: &[[u8; 32]; GROUP / 4], x: [Digits; T]) -> [Integers; T] {
        let halves: [[[uint8x16_t; 2]; 4]; 2] = cast(*values);
        // SAFETY: as in `inputs`.
        let flip = |bytes| unsafe { veorq_u8(bytes, vdupq_n_u8(128)) };
        let flipped = halves.map(|steps| steps.map(|step| step.map(flip)));
        x.map(|x| {
            let mut high = splat(0);
            let mut low = splat(-x.offset);
            for half in 0..2 {
                multiply(
                    &mut high,
                    &mut low,
                    cast(halves[half]),
                    flipped[half],
                    x.high[half],
                    x.low[half],
                );
            }
            joined(high, low)
        })
    }

    #[inline(always)]
    fn levels(table: [i8; 16], codes: [u8; 32]) -> [u8; 32] {
        Neon::levels(table, codes)
    }

    #[inline(always)]
    fn nibble_dots<const T: usize>(
        nibbles: &[[u8; 32]; GROUP / 8],
        x: [Digits; T],
        offsets: [i32; T],
    ) -> [Integers; T] {
        let halves: [[[uint8x16_t; 2]; 2]; 2] = cast(*nibbles);
        // SAFETY: as in `inputs`.
        let low = |bytes| unsafe { vandq_u8(bytes, vdupq_n_u8(15)) };
        let high = |bytes| unsafe { vshrq_n_u8::<4>(bytes) };
        let steps = halves.map(|[a, b]| [a.map(low), a.map(high), b.map(low), b.map(high)]);
        core::array::from_fn(|t| {
            let mut high = splat(0);
            let mut low = splat(offsets[t]);
            for (half, steps) in steps.into_iter().enumerate() {
                multiply(
                    &mut high,
                    &mut low,
                    cast(steps),
                    steps,
                    x[t].high[half],
                    x[t].low[half],
                );
            }
            joined(high, low)
        })
    }
}

/// Adds the products of four steps of four columns with both digits of their inputs.
#[inline(always)]
fn multiply(
    high: &mut Integers,
    low: &mut Integers,
    signed: [[int8x16_t; 2]; 4],
    unsigned: [[uint8x16_t; 2]; 4],
    x_high: int8x16_t,
    x_low: uint8x16_t,
) {
    macro_rules! steps {
        ($($step:literal)*) => {$(
            for rows in 0..2 {
                // SAFETY: the table is handed out only where the instructions were detected; they
                // read and write only registers.
                unsafe {
                    asm!(".arch_extension dotprod", "sdot {:v}.4s, {:v}.16b, {:v}.4b[{}]",
                        inout(vreg) high[rows], in(vreg) signed[$step][rows], in(vreg) x_high, const $step,
                        options(pure, nomem, nostack, preserves_flags));
                    asm!(".arch_extension dotprod", "udot {:v}.4s, {:v}.16b, {:v}.4b[{}]",
                        inout(vreg) low[rows], in(vreg) unsigned[$step][rows], in(vreg) x_low, const $step,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        )*};
    }
    steps!(0 1 2 3);
}

/// `256 high + low`.
#[inline(always)]
fn joined(high: Integers, low: Integers) -> Integers {
    // SAFETY: as in `inputs`.
    core::array::from_fn(|rows| unsafe { vaddq_s32(vshlq_n_s32::<8>(high[rows]), low[rows]) })
}
