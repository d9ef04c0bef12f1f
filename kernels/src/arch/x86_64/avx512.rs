//! AVX-512 with VNNI: Intel since Ice Lake (2019), AMD since Zen 4 (2022).
//!
//! Products of floats with up to eight inputs are AVX2's.
//!
//! With several inputs, a register holds a pair of tile rows. `vpdpwssd` multiplies 16-bit words,
//! adds pairs, adds to the dot product, and reads the inputs from memory. Up to eight inputs are
//! multiplied while the weights are widened; for more, the widened weights are kept in a [panel].
//!
//! With one input, nothing is widened. A register holds eight columns of a tile row as they are
//! stored, four in each half. An input is `256 high + low`, `high` a signed byte and `low` an
//! unsigned one, and `vpdpbusd` multiplies unsigned bytes by signed ones. `low` is multiplied with
//! the weights as they are. `high` is multiplied with nibbles, or with int8 plus 128, and
//! `128 * sum(high)` is subtracted. The halves of the register are added once a group, which is
//! exact for integers.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::{cast, cast_ref};

use super::avx2::{self, Shape, ahead, cut, from_f16, join, shortest};
use super::panel::{self, Column, Group};
use super::{input, mix};
use crate::matrix::Tiles;
use crate::{Activation, GROUP, Input, InputGroup, Isa, Matrix, RowsMut, TILE_ROWS, vector};

/// The table. It is handed out only where AVX2, F16C and AVX-512 F, BW and VNNI were detected.
pub(crate) static AVX512: Isa = Isa {
    name: "avx512",
    // SAFETY: the table is handed out only where these instructions are.
    matmul: |matrix, input, tile_rows, out| unsafe { matmul(matrix, input, tile_rows, out) },
    arrange: None,
    // SAFETY: as above.
    quantize: |input, groups| unsafe { input::quantize(input, groups) },
    // SAFETY: as above.
    mix: |kv, values, slots, weights, out, count| unsafe {
        mix::avx512::mix(kv, values, slots, weights, out, count)
    },
    // SAFETY: as above.
    softmax: |older, newer| unsafe { softmax(older, newer) },
    // SAFETY: as above.
    gate: |activation, gate, value| unsafe { self::gate(activation, gate, value) },
    // SAFETY: as above.
    soft_cap: |x, cap| unsafe { soft_cap(x, cap) },
};

/// The most inputs that are multiplied at the same time, with a panel or without: eight registers
/// hold dot products and eight hold sums.
const INPUTS: usize = 8;

#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
pub(super) fn matmul(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let count = input.count;
    if count > INPUTS {
        return panel::matmul::<INPUTS>(
            matrix,
            input,
            tile_rows,
            out,
            |panel, x, sums, minima| self::groups(panel, x, sums, minima),
            |panel, x, sums| self::columns(panel, x, sums),
        );
    }
    let shape = Shape {
        width: matrix.columns().div_ceil(GROUP),
        count,
        tile_rows: tile_rows.clone(),
    };
    // A closure cannot be generic over the block size, so the macro writes it once a size.
    macro_rules! product {
        ($tiles:ident, $order:expr, $dots:expr, $join:expr, $widen:expr, $join_pair:expr) => {
            match count {
                ..3 => product!($tiles, $order, $dots, $join, $widen, $join_pair, 2),
                ..5 => product!($tiles, $order, $dots, $join, $widen, $join_pair, 4),
                _ => product!($tiles, $order, $dots, $join, $widen, $join_pair, INPUTS),
            }
        };
        ($tiles:ident, $order:expr, $dots:expr, $join:expr, $widen:expr, $join_pair:expr, $several:expr) => {
            shape.product::<_, _, { $several }>(
                $tiles,
                input.groups,
                out,
                |t, [x]| single(t, x, $order, $dots, $join),
                |t, [x]| single(t, x, $order, $dots, $join),
                |t, x| several(t, x, $widen, $join_pair),
            )
        };
    }
    match matrix.tiles {
        #[cfg(feature = "f32")]
        Tiles::F32(_) => avx2::matmul(matrix, input, tile_rows, out),
        #[cfg(feature = "f16")]
        Tiles::F16(_) => avx2::matmul(matrix, input, tile_rows, out),
        #[cfg(feature = "bf16")]
        Tiles::Bf16(_) => avx2::matmul(matrix, input, tile_rows, out),
        #[cfg(feature = "q8")]
        Tiles::Q8(tiles) => product!(
            tiles,
            IN_ORDER,
            |tile, x| bytes(cast_ref(&tile.values), x),
            |sum, tile, dots, x| join(sum, dots, from_f16(tile.scales), x.scale),
            |tiles| widen_bytes(tiles.map(|tile| &tile.values)),
            |sum, tiles, dots, x| join_pair(
                sum,
                dots,
                scales(tiles.map(|tile| tile.scales)),
                x.scale
            )
        ),
        #[cfg(feature = "q4")]
        Tiles::Q4(tiles) => product!(
            tiles,
            AS_NIBBLES,
            |tile, x| nibbles(cast_ref(&tile.nibbles), x),
            |sum, tile, dots, x| {
                let dots = _mm256_sub_epi32(dots, _mm256_set1_epi32(x.sum.wrapping_mul(8)));
                join(sum, dots, from_f16(tile.scales), x.scale)
            },
            |tiles| widen_nibbles(tiles.map(|tile| &tile.nibbles)),
            |sum, tiles, dots, x| {
                let dots = _mm512_sub_epi32(dots, _mm512_set1_epi32(x.sum.wrapping_mul(8)));
                join_pair(sum, dots, scales(tiles.map(|tile| tile.scales)), x.scale)
            }
        ),
        #[cfg(feature = "q4")]
        Tiles::Q4Min(tiles) => product!(
            tiles,
            AS_NIBBLES,
            |tile, x| nibbles(cast_ref(&tile.nibbles), x),
            |sum, tile, dots, x| {
                let sum = join(sum, dots, from_f16(tile.scales), x.scale);
                join(
                    sum,
                    _mm256_set1_epi32(x.sum),
                    from_f16(tile.minima),
                    x.scale,
                )
            },
            |tiles| widen_nibbles(tiles.map(|tile| &tile.nibbles)),
            |sum, tiles, dots, x| {
                let sum = join_pair(sum, dots, scales(tiles.map(|tile| tile.scales)), x.scale);
                join_pair(
                    sum,
                    _mm512_set1_epi32(x.sum),
                    scales(tiles.map(|tile| tile.minima)),
                    x.scale,
                )
            }
        ),
    }
}

/// The exact dot products of a pair of tile rows with `T` inputs, joined to their sums group by
/// group. `widen` returns, for each pair of an input, the two columns of each row that belong to
/// it.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn several<W, const T: usize>(
    tiles: [&[W]; 2],
    x: [&[InputGroup]; T],
    widen: impl Fn([&W; 2]) -> [__m512i; GROUP / 2],
    join: impl Fn(__m512, [&W; 2], __m512i, &InputGroup) -> __m512,
) -> avx2::Sums<2, T> {
    let mut sums = [_mm512_setzero_ps(); T];
    let groups = shortest(&tiles).min(shortest(&x));
    let tiles = cut(tiles, groups);
    let x = cut(x, groups);
    for g in 0..groups {
        let tiles = [&tiles[0][g], &tiles[1][g]];
        ahead(tiles[0]);
        ahead(tiles[1]);
        let words = widen(tiles);
        let mut dots = [_mm512_setzero_si512(); T];
        for pair in 0..GROUP / 2 {
            for t in 0..T {
                let pairs: &[[i16; 2]; GROUP / 2] = cast_ref(&x[t][g].values);
                dots[t] =
                    _mm512_dpwssd_epi32(dots[t], words[pair], _mm512_set1_epi32(cast(pairs[pair])));
            }
        }
        for t in 0..T {
            sums[t] = join(sums[t], tiles, dots[t], &x[t][g]);
        }
    }
    let mut halves = [[_mm256_setzero_ps(); T]; 2];
    for t in 0..T {
        [halves[0][t], halves[1][t]] = cast(sums[t]);
    }
    halves
}

/// A group of int8 of a pair of tile rows, as words.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn widen_bytes(values: [&[[[i8; 4]; TILE_ROWS]; GROUP / 4]; 2]) -> [__m512i; GROUP / 2] {
    let mut words = [_mm512_setzero_si512(); GROUP / 2];
    for step in 0..GROUP / 4 {
        let bytes = cast([values[0][step], values[1][step]]);
        words[2 * step] = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes));
        words[2 * step + 1] = _mm512_srai_epi16::<8>(bytes);
    }
    words
}

/// The same of nibbles, 0..=15. As words, the columns of a row: 0 and 2 lowest, then 4 and 6, 1 and
/// 3, 5 and 7.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn widen_nibbles(nibbles: [&[[[u8; 4]; TILE_ROWS]; GROUP / 8]; 2]) -> [__m512i; GROUP / 2] {
    let nibble = _mm512_set1_epi16(0x000f);
    let mut words = [_mm512_setzero_si512(); GROUP / 2];
    for step in 0..GROUP / 8 {
        let bytes = cast([nibbles[0][step], nibbles[1][step]]);
        words[4 * step] = _mm512_and_si512(bytes, nibble);
        words[4 * step + 1] = _mm512_and_si512(_mm512_srli_epi16::<8>(bytes), nibble);
        words[4 * step + 2] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble);
        words[4 * step + 3] = _mm512_srli_epi16::<12>(bytes);
    }
    words
}

/// Scales or minima of a pair of tile rows.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn scales(scales: [[u16; TILE_ROWS]; 2]) -> __m512 {
    _mm512_cvtph_ps(cast(scales))
}

/// Group by group the exact dot products, joined to the sums; `minima` says whether the groups have
/// minima. Not inlined: the loop around it would take registers away.
#[inline(never)]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn groups(
    panel: &[Group],
    x: [&[InputGroup]; INPUTS],
    out: &mut panel::Sums<INPUTS>,
    minima: bool,
) {
    let (panel, x) = panel::cut(panel, x);
    let mut sums: [__m512; INPUTS] = panel::load(out);
    for (g, group) in panel.iter().enumerate() {
        let mut dots = [_mm512_setzero_si512(); INPUTS];
        for pair in 0..GROUP / 2 {
            let weights = cast(group.words[pair]);
            for t in 0..INPUTS {
                let pairs: &[[i16; 2]; GROUP / 2] = cast_ref(&x[t][g].values);
                dots[t] =
                    _mm512_dpwssd_epi32(dots[t], weights, _mm512_set1_epi32(cast(pairs[pair])));
            }
        }
        for t in 0..INPUTS {
            let x = &x[t][g];
            sums[t] = join_pair(sums[t], dots[t], cast(group.scales), x.scale);
            if minima {
                sums[t] = join_pair(
                    sums[t],
                    _mm512_set1_epi32(x.sum),
                    cast(group.minima),
                    x.scale,
                );
            }
        }
    }
    panel::store(sums, out);
}

/// [`join`] for a pair of tile rows.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
pub(super) fn join_pair(sum: __m512, dots: __m512i, scales: __m512, input_scale: f32) -> __m512 {
    let factor = _mm512_mul_ps(scales, _mm512_set1_ps(input_scale));
    _mm512_add_ps(sum, _mm512_mul_ps(_mm512_cvtepi32_ps(dots), factor))
}

/// Column by column: `sum = sum + weight * x`.
#[inline(never)]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn columns(panel: &[Column], x: [&[f32]; INPUTS], out: &mut panel::Sums<INPUTS>) {
    let (panel, x) = panel::cut(panel, x);
    let mut sums: [__m512; INPUTS] = panel::load(out);
    for (c, column) in panel.iter().enumerate() {
        let weights = cast(column.0);
        for t in 0..INPUTS {
            sums[t] = _mm512_add_ps(sums[t], _mm512_mul_ps(weights, _mm512_set1_ps(x[t][c])));
        }
    }
    panel::store(sums, out);
}

/// Which fours of columns the halves of a register hold, register by register: of int8, and of
/// nibbles, whose low ones are taken first.
const IN_ORDER: [[i32; 2]; 4] = [[0, 1], [2, 3], [4, 5], [6, 7]];
const AS_NIBBLES: [[i32; 2]; 4] = [[0, 2], [1, 3], [4, 6], [5, 7]];

/// The inputs of a group, `256 high + low`, for the weights of each register.
struct Digits {
    low: [__m512i; 4],
    high: [__m512i; 4],
    /// What 128 more in every weight adds to the products with `high`, negated.
    offset: __m512i,
}

#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn digits(x: &InputGroup, order: [[i32; 2]; 4]) -> Digits {
    // Of each four columns, which are kept as 0 2 1 3, the low bytes; of two fours first those,
    // then the high bytes.
    let bytes = _mm_setr_epi8(0, 4, 2, 6, 8, 12, 10, 14, 1, 5, 3, 7, 9, 13, 11, 15);
    let fours = _mm512_shuffle_epi8(cast(x.values), _mm512_broadcast_i32x4(bytes));
    let zero = _mm512_setzero_si512();
    let mut digits = Digits {
        low: [zero; 4],
        high: [zero; 4],
        offset: zero,
    };
    for k in 0..4 {
        let place = order[k].map(|four| four / 2 * 4 + four % 2);
        let place: __m512i = cast([[place[0]; TILE_ROWS], [place[1]; TILE_ROWS]]);
        digits.low[k] = _mm512_permutexvar_epi32(place, fours);
        digits.high[k] =
            _mm512_permutexvar_epi32(_mm512_add_epi32(place, _mm512_set1_epi32(2)), fours);
        digits.offset = _mm512_dpbusd_epi32(digits.offset, _mm512_set1_epi8(-128), digits.high[k]);
    }
    digits.offset = _mm512_sub_epi32(zero, digits.offset);
    digits
}

/// The exact dot products of `R` tile rows with one input, joined to their sums group by group.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn single<W, const R: usize>(
    tiles: [&[W]; R],
    x: &[InputGroup],
    order: [[i32; 2]; 4],
    dots: impl Fn(&W, &Digits) -> __m256i,
    join: impl Fn(__m256, &W, __m256i, &InputGroup) -> __m256,
) -> avx2::Sums<R, 1> {
    let mut sums = [[_mm256_setzero_ps()]; R];
    let groups = shortest(&tiles).min(x.len());
    let tiles = cut(tiles, groups);
    for (g, x) in x[..groups].iter().enumerate() {
        let digits = digits(x, order);
        for r in 0..R {
            let tile = &tiles[r][g];
            ahead(tile);
            sums[r][0] = join(sums[r][0], tile, dots(tile, &digits), x);
        }
    }
    sums
}

/// The exact dot products of a group of int8.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn bytes(values: &[[u8; 64]; 4], x: &Digits) -> __m256i {
    let mut low = _mm512_setzero_si512();
    let mut high = x.offset;
    for k in 0..4 {
        let weights = cast(values[k]);
        low = _mm512_dpbusd_epi32(low, x.low[k], weights);
        high = _mm512_dpbusd_epi32(
            high,
            _mm512_xor_si512(weights, _mm512_set1_epi8(-128)),
            x.high[k],
        );
    }
    both(low, high)
}

/// The exact dot products of a group of nibbles, 0..=15.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn nibbles(nibbles: &[[u8; 64]; 2], x: &Digits) -> __m256i {
    let nibble = _mm512_set1_epi8(15);
    let mut low = _mm512_setzero_si512();
    let mut high = _mm512_setzero_si512();
    for k in 0..2 {
        let bytes = cast(nibbles[k]);
        let weights = [
            _mm512_and_si512(bytes, nibble),
            _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble),
        ];
        for half in 0..2 {
            low = _mm512_dpbusd_epi32(low, x.low[2 * k + half], weights[half]);
            high = _mm512_dpbusd_epi32(high, weights[half], x.high[2 * k + half]);
        }
    }
    both(low, high)
}

/// `256 high + low` of both halves together.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn both(low: __m512i, high: __m512i) -> __m256i {
    let halves: [__m256i; 2] = cast(_mm512_add_epi32(low, _mm512_slli_epi32::<8>(high)));
    _mm256_add_epi32(halves[0], halves[1])
}

/// This and the two below are portable loops, which the compiler vectorises with AVX-512 here.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn softmax(older: &mut [f32], newer: &mut [f32]) -> f32 {
    vector::softmax(older, newer)
}

#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn gate(activation: Activation, gate: &mut [f32], value: &[f32]) {
    vector::gate(activation, gate, value);
}

#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn soft_cap(x: &mut [f32], cap: f32) {
    vector::soft_cap(x, cap);
}
