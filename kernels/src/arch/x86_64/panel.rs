//! Products with many inputs: weights are widened once for all of them.
//!
//! # What it computes
//!
//! A panel is a stretch of two tile rows, at most 16 groups or 256 columns of them, whose weights
//! are widened to 16-bit words or to f32. It is multiplied with all inputs, `N` at a time:
//!
//! ```text
//! for each pair of tile rows:
//!     for each stretch of columns:
//!         panel = widen(both tile rows, stretch)
//!         for each block of N inputs:
//!             prefetch a share of the next panel's weights
//!             sums = 0.0 in the first stretch, else what is in the output
//!             sums += panel * inputs                   // `groups` or `columns` of the caller
//!             output = sums
//! ```
//!
//! `avx2` (N = 4), `avxvnni` (N = 4) and `avx512` (N = 8) share this loop. Each brings its own
//! multiplication for quantised types, and `avx512` one for floats.
//!
//! # Why this shape
//!
//! * **The first cache.** Without a panel, widening is repeated for every block of inputs. The
//!   widened weights of a whole row would not fit the first cache; a panel takes at most 18 KB of
//!   it and leaves the rest to the inputs.
//! * **Registers.** With AVX2, two tile rows by four inputs take eight registers for dot products,
//!   two for weights and one for inputs. The multiplication is a function of its own that is not
//!   inlined, because the loops around it would take registers from it.
//! * **The same bits.** Between two stretches the sums wait in the output. They are f32 in a
//!   register too, so nothing is rounded on the way.
//! * **Prefetching.** Each block of inputs prefetches its share of the next panel into the second
//!   cache. Without that, prefill spent a tenth of its time waiting for memory.
//!
//! # What was tried
//!
//! * Panels for few inputs cost more than they save: `avx2` starts at 9, `avxvnni` at 7, `avx512`
//!   at 9.
//! * Panels of f32 and f16 in `avx2` lose a tenth and a few per cent; bf16 gains an eighth.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::{Zeroable, cast, cast_ref};

use super::avx2::{join, words};
use super::bytes::Bytes;
use crate::tile::{Tile, TileRow, TileRows};
use crate::{GROUP, InputGroup, RowsMut, TILE_ROWS};

/// Tile rows in a panel.
const ROWS: usize = 2;

/// The most groups in a panel: 18 KB.
pub(super) const GROUPS: usize = 16;
/// The most columns in a panel of floats: 16 KB.
pub(super) const COLUMNS: usize = 256;

/// The sums of a pair of tile rows with `N` inputs.
pub(super) type Sums<const N: usize> = [[f32; ROWS * TILE_ROWS]; N];

/// A group of 16 rows, widened.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Group {
    /// For each pair of inputs, the two columns of each row that it is multiplied with.
    pub(super) words: [[__m256i; ROWS]; GROUP / 2],
    pub(super) scales: [__m256; ROWS],
    pub(super) minima: [__m256; ROWS],
}

/// A column of 16 rows, widened.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Column(pub(super) [__m256; ROWS]);

/// The loop above, with panels of at most `LENGTH`, which is [`GROUPS`] or [`COLUMNS`]. `widen`
/// writes a stretch of one of the two tile rows to the panel. `multiply` adds the products of a
/// panel and a block of inputs to the sums. A block that is not full repeats its last input and
/// drops the copies.
#[inline(always)]
pub(super) fn product<W: Tile, X, P: Copy + Zeroable, const N: usize, const LENGTH: usize>(
    tile_rows: TileRows<'_, W>,
    (inputs, count): (&[X], usize),
    out: &mut RowsMut<'_>,
    widen: impl Fn(TileRow<'_, W>, usize, &mut [P]),
    multiply: impl Fn(&[P], [&[X]; N], &mut Sums<N>),
) {
    let width = tile_rows.width();
    let rows = tile_rows.len();
    let mut memory = [P::zeroed(); LENGTH];
    // The panels of a row are about equally long.
    let length = width.div_ceil(width.div_ceil(LENGTH).max(1)).max(1);
    for first_row in (0..rows).step_by(ROWS) {
        // The rows that exist of the pair.
        let lanes = (rows - first_row).min(ROWS) * TILE_ROWS;
        for start in (0..width).step_by(length) {
            let end = width.min(start + length);
            let panel = &mut memory[..end - start];
            for r in 0..ROWS {
                let row = tile_rows.row((first_row + r).min(rows - 1));
                widen(part(row, start..end), r, panel);
            }
            // The tiles of the next panel, which are prefetched while this one is multiplied.
            let (next_row, next) = if end < width {
                (first_row, end)
            } else {
                (first_row + ROWS, 0)
            };
            let ahead: [&[W]; ROWS] = core::array::from_fn(|r| {
                let row = tile_rows.row(next_row + r);
                part(row, next..width.min(next + length)).tiles
            });
            let share = length.div_ceil(count.div_ceil(N).max(1));
            for first in (0..count).step_by(N) {
                for tiles in ahead {
                    let start = (first / N * share).min(tiles.len());
                    prefetch(&tiles[start..tiles.len().min(start + share)]);
                }
                let mut x: [&[X]; N] = [&[]; N];
                for t in 0..N {
                    let column = (first + t).min(count - 1) * width;
                    x[t] = inputs.get(column + start..column + end).unwrap_or_default();
                }
                let mut sums = [[0.0; ROWS * TILE_ROWS]; N];
                if start > 0 {
                    for t in 0..N.min(count - first) {
                        take(out, first + t, first_row, &mut sums[t]);
                    }
                }
                multiply(panel, x, &mut sums);
                for t in 0..N.min(count - first) {
                    put(out, first + t, first_row, lanes, &sums[t]);
                }
            }
        }
    }
}

/// A stretch of a tile row.
#[inline(always)]
pub(super) fn part<W: Tile>(row: TileRow<'_, W>, range: Range<usize>) -> TileRow<'_, W> {
    TileRow {
        tiles: row.tiles.get(range).unwrap_or_default(),
        ..row
    }
}

/// Reads the sums of a pair of tile rows and input `column` back from the output.
#[inline(always)]
pub(super) fn take(
    out: &mut RowsMut<'_>,
    column: usize,
    tile_row: usize,
    sums: &mut [f32; ROWS * TILE_ROWS],
) {
    let out = out
        .vector(column)
        .get(tile_row * TILE_ROWS..)
        .unwrap_or_default();
    match out.first_chunk() {
        Some(out) => *sums = *out,
        None => sums.iter_mut().zip(out).for_each(|(sum, out)| *sum = *out),
    }
}

/// Writes the first `lanes` sums to the output.
#[inline(always)]
pub(super) fn put(
    out: &mut RowsMut<'_>,
    column: usize,
    tile_row: usize,
    lanes: usize,
    sums: &[f32; ROWS * TILE_ROWS],
) {
    let out = out
        .vector(column)
        .get_mut(tile_row * TILE_ROWS..)
        .unwrap_or_default();
    match out.first_chunk_mut() {
        Some(out) if lanes == out.len() => *out = *sums,
        _ => out
            .iter_mut()
            .zip(sums)
            .take(lanes)
            .for_each(|(out, sum)| *out = *sum),
    }
}

/// Prefetches tiles into the second cache. The first is full of a panel and its inputs.
#[inline(always)]
pub(super) fn prefetch<W>(tiles: &[W]) {
    (0..size_of_val(tiles))
        .step_by(64)
        .for_each(|offset| prefetch_line(tiles.as_ptr().cast(), offset));
}

/// Prefetches the cache line `offset` bytes after `start`.
#[inline(always)]
pub(super) fn prefetch_line(start: *const i8, offset: usize) {
    // SAFETY: a prefetch has no effect that the program can observe, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(offset)) };
}

/// Writes a stretch of tile row `r` to a panel.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn widen<W: Bytes>(row: TileRow<'_, W>, r: usize, panel: &mut [Group]) {
    let row_scales = W::row_scales(&row.header);
    let offset = _mm256_set1_epi16(W::OFFSET as i16);
    for (group, tile) in panel.iter_mut().zip(row.tiles) {
        for step in 0..GROUP / 4 {
            let words = words::<W>(tile.bytes(step));
            for k in 0..2 {
                group.words[2 * step + k][r] = _mm256_sub_epi16(words[k], offset);
            }
        }
        group.scales[r] = tile.scales(row_scales);
        if let Some(minima) = tile.minima() {
            group.minima[r] = minima;
        }
    }
}

/// The same for floats, which `widen` turns into f32.
#[inline(always)]
pub(super) fn widen_floats<E: Copy>(
    row: TileRow<'_, [E; TILE_ROWS]>,
    r: usize,
    panel: &mut [Column],
    widen: impl Fn([E; TILE_ROWS]) -> __m256,
) where
    [E; TILE_ROWS]: Tile,
{
    for (column, weights) in panel.iter_mut().zip(row.tiles) {
        column.0[r] = widen(*weights);
    }
}

/// Group by group the exact dot products, joined to the sums; `minima` says whether the groups have
/// minima. Not inlined: the loop around it would take registers away.
#[inline(never)]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn groups<const N: usize>(
    panel: &[Group],
    x: [&[InputGroup]; N],
    out: &mut Sums<N>,
    minima: bool,
) {
    let (panel, x) = cut(panel, x);
    let mut sums: [[__m256; ROWS]; N] = load(out);
    for (g, group) in panel.iter().enumerate() {
        let mut dots = [[_mm256_setzero_si256(); ROWS]; N];
        for pair in 0..GROUP / 2 {
            for t in 0..N {
                let pairs: &[[i16; 2]; GROUP / 2] = cast_ref(&x[t][g].values);
                let x = _mm256_set1_epi32(cast(pairs[pair]));
                for r in 0..ROWS {
                    dots[t][r] =
                        _mm256_add_epi32(dots[t][r], _mm256_madd_epi16(group.words[pair][r], x));
                }
            }
        }
        for r in 0..ROWS {
            for t in 0..N {
                let x = &x[t][g];
                sums[t][r] = join(sums[t][r], dots[t][r], group.scales[r], x.scale);
                if minima {
                    sums[t][r] = join(
                        sums[t][r],
                        _mm256_set1_epi32(x.sum),
                        group.minima[r],
                        x.scale,
                    );
                }
            }
        }
    }
    store(sums, out);
}

/// Column by column: `sum = sum + weight * x`.
#[inline(never)]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn columns<const N: usize>(panel: &[Column], x: [&[f32]; N], out: &mut Sums<N>) {
    let (panel, x) = cut(panel, x);
    let mut sums: [[__m256; ROWS]; N] = load(out);
    for (c, column) in panel.iter().enumerate() {
        for t in 0..N {
            let x = _mm256_set1_ps(x[t][c]);
            for r in 0..ROWS {
                sums[t][r] = _mm256_add_ps(sums[t][r], _mm256_mul_ps(column.0[r], x));
            }
        }
    }
    store(sums, out);
}

/// The sums as registers.
#[inline(always)]
pub(super) fn load<R: bytemuck::Pod, const N: usize>(sums: &Sums<N>) -> [R; N] {
    let mut registers = [R::zeroed(); N];
    for t in 0..N {
        registers[t] = cast(sums[t]);
    }
    registers
}

/// Registers as the sums.
#[inline(always)]
pub(super) fn store<R: bytemuck::Pod, const N: usize>(registers: [R; N], sums: &mut Sums<N>) {
    for t in 0..N {
        sums[t] = cast(registers[t]);
    }
}

/// All of them cut to one length, so that an index below it needs no check.
#[inline(always)]
pub(super) fn cut<'a, P, X, const N: usize>(
    panel: &'a [P],
    mut x: [&'a [X]; N],
) -> (&'a [P], [&'a [X]; N]) {
    let length = x
        .iter()
        .map(|x| x.len())
        .min()
        .unwrap_or(0)
        .min(panel.len());
    for x in &mut x {
        *x = &x[..length];
    }
    (&panel[..length], x)
}
