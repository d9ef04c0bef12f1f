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

use super::avx2::{
    self, ahead, corrected, cut, from_bf16, from_f16, from_f32, join, row_scales, shortest, tiles,
};
use super::bytes::Bytes;
use super::panel::{self, Column, Group};
use super::{input, weighted_sum};
use crate::matrix::match_tiles;
use crate::tile::TileRow;
use crate::{Activation, DType, GROUP, Input, InputGroup, Isa, Matrix, RowsMut, TILE_ROWS, vector};

/// The table. It is handed out only where AVX2, F16C and AVX-512 F, BW and VNNI were detected.
pub(crate) static AVX512: Isa = Isa {
    name: "avx512",
    // SAFETY: the table is handed out only where these instructions are.
    matmul: |matrix, input, tile_rows, out| unsafe { matmul(matrix, input, tile_rows, out) },
    arrange: None,
    // SAFETY: as above.
    quantize: |input, groups| unsafe { input::quantize(input, groups) },
    // SAFETY: as above.
    weighted_sum: |kv, values, slots, weights, out, count| unsafe {
        weighted_sum::avx512::weighted_sum(kv, values, slots, weights, out, count)
    },
    // SAFETY: as above.
    softmax: |older, newer| unsafe { softmax(older, newer) },
    // SAFETY: as above.
    gate: |activation, gate, up| unsafe { self::gate(activation, gate, up) },
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
    if input.count > INPUTS {
        with_panels(matrix, input, tile_rows, out);
    } else {
        without_panels(matrix, input, tile_rows, out);
    }
}

/// Not inlined, so that products with few inputs need no stack for a panel.
#[inline(never)]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn with_panels(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let count = input.count;
    macro_rules! floats {
        ($rows:ident, $widen:ident) => {
            panel::product::<_, _, _, INPUTS, { panel::COLUMNS }>(
                $rows.range(tile_rows),
                (input.values, count),
                out,
                |row, r, panel| panel::widen_floats(row, r, panel, |w| $widen(w)),
                |panel, x, sums| columns(panel, x, sums),
            )
        };
    }
    match_tiles!(matrix.tiles;
        F32(rows) => floats!(rows, from_f32),
        F16(rows) => floats!(rows, from_f16),
        Bf16(rows) => floats!(rows, from_bf16),
        groups(rows) => panel::product::<_, _, _, INPUTS, { panel::GROUPS }>(
            rows.range(tile_rows),
            (input.groups, count),
            out,
            |row, r, panel| panel::widen(row, r, panel),
            |panel, x, sums| groups(panel, x, sums, matrix.dtype() == DType::Q4Min),
        ),
    );
}

#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn without_panels(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let count = input.count;
    // A closure cannot be generic over the block size, so the macro writes it once a size.
    macro_rules! product {
        ($rows:ident, $several:expr) => {
            avx2::product::<_, _, { $several }>(
                $rows.range(tile_rows),
                (input.groups, count),
                out,
                |t, [x]| single(t, x),
                |t, [x]| single(t, x),
                |t, x| several(t, x),
            )
        };
    }
    match_tiles!(matrix.tiles;
        F32(_rows) => avx2::matmul(matrix, input, tile_rows, out),
        F16(_rows) => avx2::matmul(matrix, input, tile_rows, out),
        Bf16(_rows) => avx2::matmul(matrix, input, tile_rows, out),
        groups(rows) => match count {
            0..3 => product!(rows, 2),
            3..5 => product!(rows, 4),
            _ => product!(rows, INPUTS),
        },
    )
}

/// The exact dot products of a pair of tile rows with `T` inputs, joined to their sums group by
/// group.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn several<W: Bytes, const T: usize>(
    rows: [TileRow<'_, W>; 2],
    x: [&[InputGroup]; T],
) -> avx2::Sums<2, T> {
    let mut sums = [_mm512_setzero_ps(); T];
    let row_scales = row_scales(&rows);
    let tiles = tiles(&rows);
    let groups = shortest(&tiles).min(shortest(&x));
    let tiles = cut(tiles, groups);
    let x = cut(x, groups);
    for g in 0..groups {
        let tiles = [&tiles[0][g], &tiles[1][g]];
        ahead(tiles[0]);
        ahead(tiles[1]);
        let mut pairs = [_mm512_setzero_si512(); GROUP / 2];
        for step in 0..GROUP / 4 {
            let bytes = cast([tiles[0].bytes(step), tiles[1].bytes(step)]);
            [pairs[2 * step], pairs[2 * step + 1]] = words::<W>(bytes);
        }
        let mut dots = [_mm512_setzero_si512(); T];
        for pair in 0..GROUP / 2 {
            for t in 0..T {
                let x: &[[i16; 2]; GROUP / 2] = cast_ref(&x[t][g].values);
                let x = _mm512_set1_epi32(cast(x[pair]));
                dots[t] = _mm512_dpwssd_epi32(dots[t], pairs[pair], x);
            }
        }
        let scales = cast([
            tiles[0].scales(row_scales[0]),
            tiles[1].scales(row_scales[1]),
        ]);
        let minima = [tiles[0].minima(), tiles[1].minima()];
        for t in 0..T {
            let x = &x[t][g];
            let offset = _mm512_set1_epi32(x.sum.wrapping_mul(W::OFFSET));
            sums[t] = join_pair(sums[t], _mm512_sub_epi32(dots[t], offset), scales, x.scale);
            if let [Some(first), Some(second)] = minima {
                let minima = cast([first, second]);
                sums[t] = join_pair(sums[t], _mm512_set1_epi32(x.sum), minima, x.scale);
            }
        }
    }
    let mut halves = [[_mm256_setzero_ps(); T]; 2];
    for t in 0..T {
        [halves[0][t], halves[1][t]] = cast(sums[t]);
    }
    halves
}

/// Bytes of a pair of tile rows as two registers of words: the columns 0 and 2 of each row, and 1
/// and 3.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn words<W: Bytes>(bytes: __m512i) -> [__m512i; 2] {
    if W::SIGNED {
        [
            _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes)),
            _mm512_srai_epi16::<8>(bytes),
        ]
    } else {
        [
            _mm512_and_si512(bytes, _mm512_set1_epi16(0x00ff)),
            _mm512_srli_epi16::<8>(bytes),
        ]
    }
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

/// The inputs of a group, `256 high + low`, for the weights of each register.
struct Digits {
    low: [__m512i; 4],
    high: [__m512i; 4],
    /// What 128 more in every weight adds to the products with `high`, negated.
    offset: __m512i,
}

#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn digits(x: &InputGroup, steps: [[usize; 2]; 4]) -> Digits {
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
        let place = |step: usize| [(step / 2 * 4 + step % 2) as i32; TILE_ROWS];
        let place: __m512i = cast([place(steps[k][0]), place(steps[k][1])]);
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
fn single<W: Bytes, const R: usize>(
    rows: [TileRow<'_, W>; R],
    x: &[InputGroup],
) -> avx2::Sums<R, 1> {
    let mut sums = [[_mm256_setzero_ps()]; R];
    let row_scales = row_scales(&rows);
    let tiles = tiles(&rows);
    let groups = shortest(&tiles).min(x.len());
    let tiles = cut(tiles, groups);
    for (g, x) in x[..groups].iter().enumerate() {
        let digits = digits(x, W::STEPS);
        for r in 0..R {
            let tile = &tiles[r][g];
            ahead(tile);
            let dots = corrected::<W>(dots(tile, &digits), x);
            sums[r][0] = join(sums[r][0], dots, tile.scales(row_scales[r]), x.scale);
            if let Some(minima) = tile.minima() {
                sums[r][0] = join(sums[r][0], _mm256_set1_epi32(x.sum), minima, x.scale);
            }
        }
    }
    sums
}

/// The exact dot products of a group. Bytes up to 63 fit either operand.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn dots<W: Bytes>(tile: &W, x: &Digits) -> __m256i {
    let mut low = _mm512_setzero_si512();
    let mut high = if W::SIGNED { x.offset } else { low };
    for k in 0..4 {
        let bytes = tile.wide_bytes(k);
        let unsigned = if W::SIGNED {
            _mm512_xor_si512(bytes, _mm512_set1_epi8(-128))
        } else {
            bytes
        };
        low = _mm512_dpbusd_epi32(low, x.low[k], bytes);
        high = _mm512_dpbusd_epi32(high, unsigned, x.high[k]);
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
fn gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    vector::gate(activation, gate, up);
}

#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn soft_cap(x: &mut [f32], cap: f32) {
    vector::soft_cap(x, cap);
}
