//! The 128-bit instructions of WebAssembly, in every browser since 2023 and in Node since 16.4.
//!
//! Integer products: shifts widen the four bytes of a row to two pairs of 16-bit words, even
//! columns and odd ones, which is the order inputs are kept in; `i32x4.dot_i16x8_s` multiplies and
//! adds pairs into the row's own lane.

use core::arch::wasm32::*;

use bytemuck::cast;

use crate::arch::registers_128::{Simd, matmul};
use crate::{GROUP, InputGroup, Isa, TILE_ROWS};

/// The table. What is not here the compiler vectorises.
pub(super) static SIMD128: Isa = Isa {
    name: "simd128",
    matmul: matmul::<Simd128>,
    ..*Isa::SCALAR
};

struct Simd128;

/// A register each for rows 0 to 3 and 4 to 7.
type TileRows = [v128; 2];

impl Simd for Simd128 {
    type Floats = TileRows;
    type Integers = TileRows;
    /// Pairs of columns.
    type Inputs = [i32; GROUP / 2];

    #[inline(always)]
    fn from_f16(weights: [u16; TILE_ROWS]) -> TileRows {
        let halves: v128 = cast(weights);
        // The bits of a finite number, moved to where those of an f32 are, are its 2^-112-fold, and
        // so are a subnormal's: WebAssembly flushes none to zero. So the product is exact.
        let scale = f32x4_splat(f32::from_bits((127 + 112) << 23));
        let widened = [
            u32x4_extend_low_u16x8(halves),
            u32x4_extend_high_u16x8(halves),
        ];
        widened.map(|bits| {
            let magnitude = u32x4_shl(v128_and(bits, u32x4_splat(0x7fff)), 13);
            let sign = u32x4_shl(v128_and(bits, u32x4_splat(0x8000)), 16);
            v128_or(f32x4_mul(magnitude, scale), sign)
        })
    }

    #[inline(always)]
    fn from_bf16(weights: [u16; TILE_ROWS]) -> TileRows {
        let halves: v128 = cast(weights);
        [
            i32x4_shl(u32x4_extend_low_u16x8(halves), 16),
            i32x4_shl(u32x4_extend_high_u16x8(halves), 16),
        ]
    }

    #[inline(always)]
    fn add_product([low, high]: TileRows, weights: TileRows, x: f32) -> TileRows {
        let x = f32x4_splat(x);
        [
            f32x4_add(low, f32x4_mul(weights[0], x)),
            f32x4_add(high, f32x4_mul(weights[1], x)),
        ]
    }

    #[inline(always)]
    fn join(mut sum: TileRows, dots: TileRows, scales: TileRows, input_scale: f32) -> TileRows {
        for ((sum, dots), scales) in sum.iter_mut().zip(dots).zip(scales) {
            let factor = f32x4_mul(scales, f32x4_splat(input_scale));
            *sum = f32x4_add(*sum, f32x4_mul(f32x4_convert_i32x4(dots), factor));
        }
        sum
    }

    #[inline(always)]
    fn inputs(x: &InputGroup) -> Self::Inputs {
        cast(x.values)
    }

    #[inline(always)]
    fn dots<const T: usize>(values: &[[u8; 32]; GROUP / 4], x: [Self::Inputs; T]) -> [TileRows; T] {
        let mut dots = [cast([0; TILE_ROWS]); T];
        for (step, bytes) in values.iter().enumerate() {
            let words: TileRows = cast(*bytes);
            let even = words.map(|words| i16x8_shr(i16x8_shl(words, 8), 8));
            let odd = words.map(|words| i16x8_shr(words, 8));
            for (dots, x) in dots.iter_mut().zip(&x) {
                multiply(dots, even, x[2 * step]);
                multiply(dots, odd, x[2 * step + 1]);
            }
        }
        dots
    }

    #[inline(always)]
    fn levels(table: [i8; 16], codes: [u8; 32]) -> [u8; 32] {
        let halves: [v128; 2] = cast(codes);
        cast(halves.map(|codes| i8x16_swizzle(cast(table), codes)))
    }

    #[inline(always)]
    fn nibble_dots<const T: usize>(
        nibbles: &[[u8; 32]; GROUP / 8],
        x: [Self::Inputs; T],
        offsets: [i32; T],
    ) -> [TileRows; T] {
        let mut dots = offsets.map(|offset| cast([offset; TILE_ROWS]));
        let nibble = i16x8_splat(15);
        for (step, bytes) in nibbles.iter().enumerate() {
            // As words, the columns of a row: 0 and 2 lowest, then 4 and 6, 1 and 3, 5 and 7.
            let words: TileRows = cast(*bytes);
            let columns = [
                words.map(|words| v128_and(words, nibble)),
                words.map(|words| v128_and(u16x8_shr(words, 8), nibble)),
                words.map(|words| v128_and(u16x8_shr(words, 4), nibble)),
                words.map(|words| u16x8_shr(words, 12)),
            ];
            for (dots, x) in dots.iter_mut().zip(&x) {
                for (k, columns) in columns.into_iter().enumerate() {
                    multiply(dots, columns, x[4 * step + k]);
                }
            }
        }
        dots
    }
}

/// Adds the products of two columns of weights with their inputs.
#[inline(always)]
fn multiply(dots: &mut TileRows, weights: TileRows, pair: i32) {
    for (dots, weights) in dots.iter_mut().zip(weights) {
        *dots = i32x4_add(*dots, i32x4_dot_i16x8(weights, i32x4_splat(pair)));
    }
}
