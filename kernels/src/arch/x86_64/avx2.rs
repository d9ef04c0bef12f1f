//! AVX2 with F16C: Intel since Haswell (2013), AMD since Excavator and Zen.
//!
//! # What it computes
//!
//! The products of a matrix with one or more inputs. A register holds eight lanes, and a lane is a
//! row of a tile, so a product needs no sum across lanes. The number of inputs decides the loop:
//!
//! | inputs | loop |
//! |---|---|
//! | 1 | four tile rows at a time, each from another quarter of the matrix |
//! | 2 to 8; for f32 and f16 any number | two tile rows, far apart, by two, three or four inputs |
//! | 9 and more, quantised or bf16 | a [panel] of widened weights by four inputs |
//!
//! One input, for a type of integers, in pseudo-code:
//!
//! ```text
//! for each four tile rows, far apart:
//!     sums = [0.0; 4]                                  // four registers of eight f32
//!     for each group of 32 columns:
//!         for each tile row r:
//!             prefetch what lies 2 KB ahead of this tile
//!             dots = 0                                 // a register of eight i32
//!             for each pair of columns:
//!                 words = widen(tile, pair)            // eight rows by two i16
//!                 dots += vpmaddwd(words, broadcast(input, pair))
//!             sums[r] += dots as f32 * (scales * input_scale)
//! ```
//!
//! # Why this shape
//!
//! * **One input is limited by memory.** Tile rows far apart are separate streams, and four streams
//!   keep more reads in flight than one. The hardware prefetcher comes too late and fills only the
//!   first cache, so the loop prefetches 2 KB ahead into the second.
//! * **Several inputs are limited by widening.** A pair of tile rows is widened once for up to four
//!   inputs. Two by four is what 16 registers hold: eight dot products, two words of weights, one
//!   of inputs, and temporaries. No register is left for a constant, which is why int8 is widened
//!   by shifts alone. A block that is not full repeats its last row or input and drops the copies.
//! * **`vpmaddwd` fits the storage.** The bytes of four columns of a row are one 32-bit lane. A
//!   mask and a shift widen them to pairs of 16-bit words, even columns in one register and odd
//!   columns in another. Inputs are stored in that order (`InputGroup`), so nothing is shuffled.
//! * **Loops go by index.** `array::map` and the iterator adapters are compiled without these
//!   instructions. Their closures would not be inlined, but called for every element.
//!
//! # What was tried
//!
//! * With several inputs: adjacent tile rows, two or three inputs computed as four, and no
//!   prefetching. Prompts of 2, 4 and 8 tokens took 15.6, 16.0 and 22.1 ms, and take 8.7, 11.6 and
//!   20.7 ms now (SmolLM2-135M q8, one thread).
//! * Other distances for prefetching: 512 bytes decode 13 to 22 % fewer tokens a second than 2 KB
//!   (`avx512`, Q4_1); 1, 3 and 4 KB are no better.
//! * Panels for f32 and f16: f32 loses a tenth and f16 a few per cent. bf16 gains an eighth.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::cast;

use super::bytes::Bytes;
use super::{input, panel, weighted_sum};
use crate::matrix::match_tiles;
use crate::tile::{Tile, TileRow, TileRows};
use crate::{Activation, DType, GROUP, Input, InputGroup, Isa, Matrix, RowsMut, TILE_ROWS, vector};

/// The table. It is handed out only where AVX2 and F16C were detected.
pub(crate) static AVX2: Isa = Isa {
    name: "avx2",
    // SAFETY: the table is handed out only where AVX2 and F16C are.
    matmul: |matrix, input, tile_rows, out| unsafe { matmul(matrix, input, tile_rows, out) },
    arrange: None,
    // SAFETY: as above.
    quantize: |input, groups| unsafe { input::quantize(input, groups) },
    // SAFETY: as above.
    weighted_sum: |kv, values, slots, weights, out, count| unsafe {
        weighted_sum::avx2::weighted_sum(kv, values, slots, weights, out, count)
    },
    // SAFETY: as above.
    softmax: |older, newer| unsafe { softmax(older, newer) },
    // SAFETY: as above.
    gate: |activation, gate, up| unsafe { self::gate(activation, gate, up) },
    // SAFETY: as above.
    soft_cap: |x, cap| unsafe { soft_cap(x, cap) },
};

/// Tile rows that are read at the same time with one input: memory streams.
const STREAMS: usize = 4;
/// With several inputs: tile rows, and at most inputs, that are multiplied at the same time.
const PAIR: usize = 2;
pub(super) const BLOCK: usize = 4;
/// The most inputs for which float weights are prefetched: every block of inputs repeats the
/// prefetches.
const ASKING: usize = 16;

#[target_feature(enable = "avx2,f16c")]
pub(super) fn matmul(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    // With few inputs a panel costs more than it saves.
    if input.count > 2 * BLOCK {
        with_panels(matrix, input, tile_rows, out);
    } else {
        without_panels(matrix, input, tile_rows, out);
    }
}

/// Not inlined, so that products with few inputs need no stack for a panel. bf16 gains an eighth by
/// a panel; f32, and f16, which widens in one instruction, lose a little.
#[inline(never)]
#[target_feature(enable = "avx2,f16c")]
fn with_panels(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let count = input.count;
    match_tiles!(matrix.tiles;
        F32(_rows) => without_panels(matrix, input, tile_rows, out),
        F16(_rows) => without_panels(matrix, input, tile_rows, out),
        Bf16(rows) => panel::product::<_, _, _, BLOCK, { panel::COLUMNS }>(
            rows.range(tile_rows),
            (input.values, count),
            out,
            |row, r, panel| panel::widen_floats(row, r, panel, |w| from_bf16(w)),
            |panel, x, sums| panel::columns(panel, x, sums),
        ),
        groups(rows) => panel::product::<_, _, _, BLOCK, { panel::GROUPS }>(
            rows.range(tile_rows),
            (input.groups, count),
            out,
            |row, r, panel| panel::widen(row, r, panel),
            |panel, x, sums| panel::groups(panel, x, sums, matrix.dtype() == DType::Q4Min),
        ),
    );
}

#[target_feature(enable = "avx2,f16c")]
fn without_panels(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let count = input.count;
    // A closure cannot be generic over the block size, so the macros write it once a size.
    macro_rules! several {
        ($rows:ident, $inputs:expr, |$t:ident, $x:ident| $sums:expr) => {
            match count {
                2 => product!($rows, $inputs, 2, |$t, $x| $sums),
                3 | 5 | 6 => product!($rows, $inputs, 3, |$t, $x| $sums),
                _ => product!($rows, $inputs, BLOCK, |$t, $x| $sums),
            }
        };
    }
    macro_rules! product {
        ($rows:ident, $inputs:expr, $block:expr, |$t:ident, $x:ident| $sums:expr) => {
            product::<_, _, { $block }>(
                $rows.range(tile_rows),
                ($inputs, count),
                out,
                |$t, $x| $sums,
                |$t, $x| $sums,
                |$t, $x| $sums,
            )
        };
    }
    macro_rules! floats {
        ($rows:ident, $widen:expr) => {
            if count <= ASKING {
                several!($rows, input.values, |t, x| float::<_, _, _, true>(
                    t, x, $widen
                ))
            } else {
                several!($rows, input.values, |t, x| float::<_, _, _, false>(
                    t, x, $widen
                ))
            }
        };
    }
    match_tiles!(matrix.tiles;
        F32(rows) => floats!(rows, |w| from_f32(w)),
        F16(rows) => floats!(rows, |w| from_f16(w)),
        Bf16(rows) => floats!(rows, |w| from_bf16(w)),
        groups(rows) => several!(rows, input.groups, |t, x| groups(t, x)),
    )
}

/// The sums of `R` tile rows with `T` inputs.
pub(super) type Sums<const R: usize, const T: usize> = [[__m256; T]; R];

/// Goes through tile rows and `count` inputs. `streams`, `single` and `block` are the same function
/// for three block sizes: four tile rows by one input, one tile row by one input, and two tile rows
/// by `T` inputs.
#[inline(always)]
pub(super) fn product<W: Tile, X, const T: usize>(
    tile_rows: TileRows<'_, W>,
    (inputs, count): (&[X], usize),
    out: &mut RowsMut<'_>,
    streams: impl Fn([TileRow<'_, W>; STREAMS], [&[X]; 1]) -> Sums<STREAMS, 1>,
    single: impl Fn([TileRow<'_, W>; 1], [&[X]; 1]) -> Sums<1, 1>,
    block: impl Fn([TileRow<'_, W>; PAIR], [&[X]; T]) -> Sums<PAIR, T>,
) {
    let width = tile_rows.width();
    let rows = tile_rows.len();
    let column = |index: usize| {
        inputs
            .get(index * width..(index + 1) * width)
            .unwrap_or_default()
    };

    let blocks = if count == 1 {
        0
    } else {
        count.next_multiple_of(T)
    };
    let apart = rows.div_ceil(PAIR);
    for index in 0..apart {
        let pair = core::array::from_fn(|r| tile_rows.row((index + r * apart).min(rows - 1)));
        for first in (0..blocks).step_by(T) {
            let sums = block(
                pair,
                core::array::from_fn(|t| column((first + t).min(count - 1))),
            );
            for (row, sums) in (index..rows).step_by(apart).zip(sums) {
                for (t, sums) in sums.iter().enumerate().take(count - first) {
                    store(out, first + t, row, *sums);
                }
            }
        }
    }
    if count == 1 {
        let apart = rows / STREAMS;
        for index in 0..apart {
            let sums = streams(
                core::array::from_fn(|r| tile_rows.row(index + r * apart)),
                [column(0)],
            );
            for (r, [sums]) in sums.into_iter().enumerate() {
                store(out, 0, index + r * apart, sums);
            }
        }
        for index in apart * STREAMS..rows {
            let [[sums]] = single([tile_rows.row(index)], [column(0)]);
            store(out, 0, index, sums);
        }
    }
}

#[inline(always)]
fn store(out: &mut RowsMut<'_>, column: usize, tile_row: usize, sums: __m256) {
    let sums: [f32; TILE_ROWS] = cast(sums);
    let start = tile_row * TILE_ROWS;
    match out.vector(column).get_mut(start..) {
        Some(out) if out.len() >= TILE_ROWS => out[..TILE_ROWS].copy_from_slice(&sums),
        Some(out) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum),
        None => {}
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn from_f32(weights: [f32; TILE_ROWS]) -> __m256 {
    cast(weights)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn from_f16(weights: [u16; TILE_ROWS]) -> __m256 {
    _mm256_cvtph_ps(cast(weights))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn from_bf16(weights: [u16; TILE_ROWS]) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(cast(
        weights,
    ))))
}

/// Column by column: `sum = sum + weight * x`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn float<E: Copy, const R: usize, const T: usize, const ASKS: bool>(
    rows: [TileRow<'_, [E; TILE_ROWS]>; R],
    x: [&[f32]; T],
    widen: impl Fn([E; TILE_ROWS]) -> __m256,
) -> Sums<R, T>
where
    [E; TILE_ROWS]: Tile,
{
    let mut sums = [[_mm256_setzero_ps(); T]; R];
    let tiles = tiles(&rows);
    let columns = shortest(&tiles).min(shortest(&x));
    let tiles = cut(tiles, columns);
    let x = cut(x, columns);
    for c in 0..columns {
        let mut weights = [_mm256_setzero_ps(); R];
        for r in 0..R {
            if ASKS && c % (64 / size_of::<[E; TILE_ROWS]>()) == 0 {
                ahead(&tiles[r][c]);
            }
            weights[r] = widen(tiles[r][c]);
        }
        for t in 0..T {
            let x = _mm256_set1_ps(x[t][c]);
            for r in 0..R {
                sums[r][t] = _mm256_add_ps(sums[r][t], _mm256_mul_ps(weights[r], x));
            }
        }
    }
    sums
}

/// The tiles of each row.
#[inline(always)]
pub(super) fn tiles<'m, W: Tile, const R: usize>(rows: &[TileRow<'m, W>; R]) -> [&'m [W]; R] {
    let mut tiles = [rows[0].tiles; R];
    for r in 1..R {
        tiles[r] = rows[r].tiles;
    }
    tiles
}

/// The scales of each row.
#[inline(always)]
pub(super) fn row_scales<W: Bytes, const R: usize>(rows: &[TileRow<'_, W>; R]) -> [__m256; R] {
    let mut scales = [W::row_scales(&rows[0].header); R];
    for r in 1..R {
        scales[r] = W::row_scales(&rows[r].header);
    }
    scales
}

/// The length that all slices have.
#[inline(always)]
pub(super) fn shortest<E, const N: usize>(slices: &[&[E]; N]) -> usize {
    slices.iter().map(|slice| slice.len()).min().unwrap_or(0)
}

/// The first `length` of every slice, so that an index below it needs no check.
#[inline(always)]
pub(super) fn cut<E, const N: usize>(mut slices: [&[E]; N], length: usize) -> [&[E]; N] {
    for slice in &mut slices {
        *slice = &slice[..length];
    }
    slices
}

/// How far ahead weights are prefetched with one input or a few, in bytes. The hardware prefetcher
/// alone comes too late.
const AHEAD: usize = 2048;

/// Prefetches the weights `AHEAD` bytes after these into the second cache.
#[inline(always)]
pub(super) fn ahead<W>(weights: &W) {
    for offset in (0..size_of::<W>()).step_by(64) {
        let place = core::ptr::from_ref(weights)
            .cast::<i8>()
            .wrapping_add(AHEAD + offset);
        // SAFETY: a prefetch has no effect that the program can observe, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place) };
    }
}

/// Adds a group's exact dot products to the sums: `sum = sum + dot * (scale * input_scale)`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn join(sum: __m256, dots: __m256i, scales: __m256, input_scale: f32) -> __m256 {
    let factor = _mm256_mul_ps(scales, _mm256_set1_ps(input_scale));
    _mm256_add_ps(sum, _mm256_mul_ps(_mm256_cvtepi32_ps(dots), factor))
}

/// The exact dot products of `R` groups of weights with `T` of inputs.
type Dots<const R: usize, const T: usize> = [[__m256i; T]; R];

/// Adds the products of pair `pair` of the inputs with the two columns of each tile row that belong
/// to it.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn multiply<const R: usize, const T: usize>(
    dots: &mut Dots<R, T>,
    weights: [__m256i; R],
    x: [&InputGroup; T],
    pair: usize,
) {
    for t in 0..T {
        let pairs: &[[i16; 2]; GROUP / 2] = bytemuck::cast_ref(&x[t].values);
        let x = _mm256_set1_epi32(cast(pairs[pair]));
        for r in 0..R {
            dots[r][t] = _mm256_add_epi32(dots[r][t], _mm256_madd_epi16(weights[r], x));
        }
    }
}

/// Group `g` of every input.
#[inline(always)]
fn group<'a, const T: usize>(x: &[&'a [InputGroup]; T], g: usize) -> [&'a InputGroup; T] {
    let mut groups = [&x[0][g]; T];
    for t in 1..T {
        groups[t] = &x[t][g];
    }
    groups
}

/// Bytes as two registers of words: the columns 0 and 2 of each row, and 1 and 3.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn words<W: Bytes>(bytes: __m256i) -> [__m256i; 2] {
    if W::SIGNED {
        [
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)),
            _mm256_srai_epi16::<8>(bytes),
        ]
    } else {
        [
            _mm256_and_si256(bytes, _mm256_set1_epi16(0x00ff)),
            _mm256_srli_epi16::<8>(bytes),
        ]
    }
}

/// The dot products of bytes that are [`OFFSET`](crate::tile::QuantizedTile::OFFSET) too large,
/// corrected.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn corrected<W: Bytes>(dots: __m256i, x: &InputGroup) -> __m256i {
    match W::OFFSET {
        0 => dots,
        _ => _mm256_sub_epi32(dots, _mm256_set1_epi32(x.sum.wrapping_mul(W::OFFSET))),
    }
}

/// Group by group: the exact dot products, joined to the sums.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn groups<W: Bytes, const R: usize, const T: usize>(
    rows: [TileRow<'_, W>; R],
    x: [&[InputGroup]; T],
) -> Sums<R, T> {
    let mut sums = [[_mm256_setzero_ps(); T]; R];
    let row_scales = row_scales(&rows);
    let tiles = tiles(&rows);
    let groups = shortest(&tiles).min(shortest(&x));
    let tiles = cut(tiles, groups);
    let x = cut(x, groups);
    for g in 0..groups {
        let x = group(&x, g);
        let mut dots = [[_mm256_setzero_si256(); T]; R];
        for r in 0..R {
            ahead(&tiles[r][g]);
        }
        for step in 0..GROUP / 4 {
            let mut even = [_mm256_setzero_si256(); R];
            let mut odd = even;
            for r in 0..R {
                [even[r], odd[r]] = words::<W>(tiles[r][g].bytes(step));
            }
            multiply(&mut dots, even, x, 2 * step);
            multiply(&mut dots, odd, x, 2 * step + 1);
        }
        for r in 0..R {
            let tile = &tiles[r][g];
            let scales = tile.scales(row_scales[r]);
            for t in 0..T {
                let dots = corrected::<W>(dots[r][t], x[t]);
                sums[r][t] = join(sums[r][t], dots, scales, x[t].scale);
                if let Some(minima) = tile.minima() {
                    sums[r][t] = join(sums[r][t], _mm256_set1_epi32(x[t].sum), minima, x[t].scale);
                }
            }
        }
    }
    sums
}

/// This and the two below are portable loops, which the compiler vectorises with AVX2 here.
#[target_feature(enable = "avx2,f16c")]
fn softmax(older: &mut [f32], newer: &mut [f32]) -> f32 {
    vector::softmax(older, newer)
}

#[target_feature(enable = "avx2,f16c")]
fn gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    vector::gate(activation, gate, up);
}

#[target_feature(enable = "avx2,f16c")]
fn soft_cap(x: &mut [f32], cap: f32) {
    vector::soft_cap(x, cap);
}
