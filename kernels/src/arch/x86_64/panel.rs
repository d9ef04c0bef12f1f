//! Products of quantised weights, and of bf16, with several inputs. A stretch of a pair of tile rows is widened once, into
//! a panel, which then meets all inputs, four at a time: eight registers hold sums, two hold weights and one holds inputs.
//!
//! A panel and the stretch of four inputs that meets it lie in the first cache. Between two panels of a row the sums wait
//! in the output, which changes nothing about them: they are f32 in a register as well.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::{Zeroable, cast};

use super::avx2::{from_f16, join};
use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile};
use crate::{GROUP, InputGroup, RowsMut, TILE_ROWS};

/// Tile rows of a panel.
const ROWS: usize = 2;
/// Inputs that meet it at once. A block that is not full repeats its last input and drops the copies.
const INPUTS: usize = 4;

/// The groups that a panel has at most, 18 KB.
pub(super) const GROUPS: usize = 16;
/// The columns that a panel of floats has at most, 16 KB.
pub(super) const COLUMNS: usize = 256;

/// The sums of a pair of tile rows with a block of inputs.
type Sums = [[__m256; INPUTS]; ROWS];

/// Walks tile rows of `width` groups or columns, and `count` inputs as long, by panels of at most `LENGTH`. `widen` is what
/// becomes of a piece of a tile row, `multiply` adds the products of a panel and a block of inputs to their sums.
#[inline(always)]
pub(super) fn product<W, X, P: Copy + Zeroable, const LENGTH: usize>(
    (tiles, inputs): (&[W], &[X]),
    (width, count): (usize, usize),
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    widen: impl Fn(&W, &mut P),
    multiply: impl Fn(&[[P; ROWS]], [&[X]; INPUTS], &mut Sums),
) {
    let end = tile_rows.end.min(tiles.len().checked_div(width).unwrap_or(0));
    let rows = end.saturating_sub(tile_rows.start);
    let mut memory = [[P::zeroed(); ROWS]; LENGTH];
    // All panels of a row about as long.
    let length = width.div_ceil(width.div_ceil(LENGTH).max(1)).max(1);
    for first_row in (0..rows).step_by(ROWS) {
        // What there is of the pair.
        let lanes = (rows - first_row).min(ROWS) * TILE_ROWS;
        for start in (0..width).step_by(length) {
            let end = width.min(start + length);
            let panel = &mut memory[..end - start];
            for r in 0..ROWS {
                let row = (tile_rows.start + (first_row + r).min(rows - 1)) * width;
                let tile = tiles.get(row + start..row + end).unwrap_or_default();
                panel.iter_mut().zip(tile).for_each(|(wide, tile)| widen(tile, &mut wide[r]));
            }
            // The panel after this one, on the way while this one is at work.
            let (next_row, next) = if end < width { (first_row, end) } else { (first_row + ROWS, 0) };
            let ahead: [&[W]; ROWS] = core::array::from_fn(|r| {
                let row = (tile_rows.start + next_row + r) * width;
                if next_row + r < rows { tiles.get(row + next..row + width.min(next + length)) } else { None }
                    .unwrap_or_default()
            });
            let share = length.div_ceil(count.div_ceil(INPUTS).max(1));
            for first in (0..count).step_by(INPUTS) {
                for tiles in ahead {
                    let start = (first / INPUTS * share).min(tiles.len());
                    prefetch(&tiles[start..tiles.len().min(start + share)]);
                }
                let mut x: [&[X]; INPUTS] = [&[]; INPUTS];
                for t in 0..INPUTS {
                    let column = (first + t).min(count - 1) * width;
                    x[t] = inputs.get(column + start..column + end).unwrap_or_default();
                }
                let mut sums: Sums = cast([[[0.0f32; TILE_ROWS]; INPUTS]; ROWS]);
                if start > 0 {
                    for t in 0..INPUTS.min(count - first) {
                        let out = out.column(first + t).get(first_row * TILE_ROWS..).unwrap_or_default();
                        let mut rows = [0.0; ROWS * TILE_ROWS];
                        match out.first_chunk() {
                            Some(out) => rows = *out,
                            None => rows.iter_mut().zip(out).for_each(|(row, out)| *row = *out),
                        }
                        let rows: [__m256; ROWS] = cast(rows);
                        for r in 0..ROWS {
                            sums[r][t] = rows[r];
                        }
                    }
                }
                multiply(panel, x, &mut sums);
                for t in 0..INPUTS.min(count - first) {
                    let out = out.column(first + t).get_mut(first_row * TILE_ROWS..).unwrap_or_default();
                    let rows: [f32; ROWS * TILE_ROWS] = cast([sums[0][t], sums[1][t]]);
                    match out.first_chunk_mut() {
                        Some(out) if lanes == rows.len() => *out = rows,
                        _ => out.iter_mut().zip(rows).take(lanes).for_each(|(out, sum)| *out = sum),
                    }
                }
            }
        }
    }
}

/// Asks for tiles to be brought to the second cache: the first holds a panel and its inputs.
#[inline(always)]
fn prefetch<W>(tiles: &[W]) {
    let start = tiles.as_ptr().cast::<i8>();
    for offset in (0..size_of_val(tiles)).step_by(64) {
        // SAFETY: a prefetch reads nothing that the program could see, whatever its address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(offset)) };
    }
}

/// A group of eight rows, widened.
#[derive(Clone, Copy, Zeroable)]
#[repr(C)]
pub(super) struct Group {
    /// Of each row the pair of columns that meets this pair of the inputs.
    words: [__m256i; GROUP / 2],
    scales: __m256,
    minima: __m256,
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn widen_q8(tile: &Q8Tile, wide: &mut Group) {
    for step in 0..GROUP / 4 {
        let bytes = cast(tile.values[step]);
        wide.words[2 * step] = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
        wide.words[2 * step + 1] = _mm256_srai_epi16::<8>(bytes);
    }
    wide.scales = from_f16(tile.scales);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn widen_q4(tile: &Q4Tile, wide: &mut Group) {
    nibbles(&tile.nibbles, _mm256_set1_epi16(8), &mut wide.words);
    wide.scales = from_f16(tile.scales);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn widen_q4min(tile: &Q4MinTile, wide: &mut Group) {
    nibbles(&tile.nibbles, _mm256_setzero_si256(), &mut wide.words);
    wide.scales = from_f16(tile.scales);
    wide.minima = from_f16(tile.minima);
}

/// Nibbles less `offset`. As words, the columns of a row: 0 and 2 lowest, then 4 and 6, 1 and 3, 5 and 7.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn nibbles(nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8], offset: __m256i, words: &mut [__m256i; GROUP / 2]) {
    let nibble = _mm256_set1_epi16(0x000f);
    for step in 0..GROUP / 8 {
        let bytes = cast(nibbles[step]);
        words[4 * step] = _mm256_sub_epi16(_mm256_and_si256(bytes, nibble), offset);
        words[4 * step + 1] = _mm256_sub_epi16(_mm256_and_si256(_mm256_srli_epi16::<8>(bytes), nibble), offset);
        words[4 * step + 2] = _mm256_sub_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble), offset);
        words[4 * step + 3] = _mm256_sub_epi16(_mm256_srli_epi16::<12>(bytes), offset);
    }
}

/// Group by group the exact dot products, joined to the sums; `MINIMA` says whether the groups have minima. Not inlined: the
/// loop around it would take registers away.
#[inline(never)]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn multiply<const MINIMA: bool>(panel: &[[Group; ROWS]], x: [&[InputGroup]; INPUTS], out: &mut Sums) {
    let (panel, x) = cut(panel, x);
    let mut sums = *out;
    for (g, groups) in panel.iter().enumerate() {
        let mut dots = [[_mm256_setzero_si256(); INPUTS]; ROWS];
        for pair in 0..GROUP / 2 {
            for t in 0..INPUTS {
                let pairs: &[[i16; 2]; GROUP / 2] = bytemuck::cast_ref(&x[t][g].values);
                let x = _mm256_set1_epi32(cast(pairs[pair]));
                for r in 0..ROWS {
                    dots[r][t] = _mm256_add_epi32(dots[r][t], _mm256_madd_epi16(groups[r].words[pair], x));
                }
            }
        }
        for r in 0..ROWS {
            for t in 0..INPUTS {
                let x = &x[t][g];
                sums[r][t] = join(sums[r][t], dots[r][t], groups[r].scales, x.scale);
                if MINIMA {
                    sums[r][t] = join(sums[r][t], _mm256_set1_epi32(x.sum), groups[r].minima, x.scale);
                }
            }
        }
    }
    *out = sums;
}

/// Column by column: `sum = sum + weight * x`.
#[inline(never)]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn multiply_floats(panel: &[[__m256; ROWS]], x: [&[f32]; INPUTS], out: &mut Sums) {
    let (panel, x) = cut(panel, x);
    let mut sums = *out;
    for (c, weights) in panel.iter().enumerate() {
        for t in 0..INPUTS {
            let x = _mm256_set1_ps(x[t][c]);
            for r in 0..ROWS {
                sums[r][t] = _mm256_add_ps(sums[r][t], _mm256_mul_ps(weights[r], x));
            }
        }
    }
    *out = sums;
}

/// All of them cut to one length, so that an index below it needs no check.
#[inline(always)]
fn cut<'a, P, X>(panel: &'a [[P; ROWS]], mut x: [&'a [X]; INPUTS]) -> (&'a [[P; ROWS]], [&'a [X]; INPUTS]) {
    let length = x.iter().map(|x| x.len()).min().unwrap_or(0).min(panel.len());
    for x in &mut x {
        *x = &x[..length];
    }
    (&panel[..length], x)
}
