//! Products with several inputs. A stretch of a pair of tile rows is widened once, into a panel,
//! which then meets all inputs, some at a time: with AVX2 four, so that eight registers hold sums,
//! two hold weights and one holds inputs.
//!
//! A panel and the stretch of inputs that meets it lie in the first cache. Between two panels of a
//! row the sums wait in the output, which changes nothing about them: they are f32 in a register as
//! well.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::{Zeroable, cast, cast_ref};

use super::avx2::{from_bf16, from_f16, from_f32, join};
use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile, Tiles};
use crate::{GROUP, Input, InputGroup, Matrix, RowsMut, TILE_ROWS};

/// Tile rows of a panel.
const ROWS: usize = 2;

/// The groups that a panel has at most, 18 KB.
const GROUPS: usize = 16;
/// The columns that a panel of floats has at most, 16 KB.
const COLUMNS: usize = 256;

/// The sums of a pair of tile rows with `N` inputs.
pub(super) type Sums<const N: usize> = [[f32; ROWS * TILE_ROWS]; N];

/// A group of 16 rows, widened.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Group {
    /// Of each row the pair of columns that meets this pair of the inputs.
    pub(super) words: [[__m256i; ROWS]; GROUP / 2],
    pub(super) scales: [__m256; ROWS],
    pub(super) minima: [__m256; ROWS],
}

/// A column of 16 rows, widened.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Column(pub(super) [__m256; ROWS]);

/// [`Isa::matmul`](crate::Isa::matmul), `N` inputs at a time. `groups` and `columns` add the
/// products of a panel with them to their sums; the former is told whether the groups have minima.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn matmul<const N: usize>(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    groups: impl Fn(&[Group], [&[InputGroup]; N], &mut Sums<N>, bool),
    columns: impl Fn(&[Column], [&[f32]; N], &mut Sums<N>),
) {
    let count = input.count;
    macro_rules! product {
        ($tiles:ident, $widen:expr, $minima:literal) => {{
            let width = (matrix.columns().div_ceil(GROUP), count);
            let multiply = |panel: &[Group], x: [&[InputGroup]; N], sums: &mut Sums<N>| {
                groups(panel, x, sums, $minima)
            };
            product::<_, _, _, N, GROUPS>(
                ($tiles, input.groups),
                width,
                tile_rows,
                out,
                $widen,
                multiply,
            )
        }};
        ($tiles:ident, $widen:expr) => {{
            let widen = |tile: &_, r: usize, column: &mut Column| column.0[r] = $widen(*tile);
            product::<_, _, _, N, COLUMNS>(
                ($tiles, input.values),
                (matrix.columns(), count),
                tile_rows,
                out,
                widen,
                columns,
            )
        }};
    }
    match matrix.tiles {
        #[cfg(feature = "q8")]
        Tiles::Q8(tiles) => {
            product!(tiles, |tile, r, wide| widen_q8(tile, r, wide), false)
        }
        #[cfg(feature = "q4")]
        Tiles::Q4(tiles) => {
            product!(tiles, |tile, r, wide| widen_q4(tile, r, wide), false)
        }
        #[cfg(feature = "q4")]
        Tiles::Q4Min(tiles) => {
            product!(tiles, |tile, r, wide| widen_q4min(tile, r, wide), true)
        }
        #[cfg(feature = "f32")]
        Tiles::F32(tiles) => product!(tiles, |weights| from_f32(weights)),
        #[cfg(feature = "f16")]
        Tiles::F16(tiles) => product!(tiles, |weights| from_f16(weights)),
        #[cfg(feature = "bf16")]
        Tiles::Bf16(tiles) => {
            product!(tiles, |weights| from_bf16(weights))
        }
    }
}

/// Walks tile rows of `width` groups or columns, and `count` inputs as long, by panels of at most
/// `LENGTH`. `widen` puts a piece of one of the pair's tile rows into the panel, `multiply` adds
/// the products of a panel and a block of inputs to their sums. A block that is not full repeats
/// its last input and drops the copies.
#[inline(always)]
fn product<W, X, P: Copy + Zeroable, const N: usize, const LENGTH: usize>(
    (tiles, inputs): (&[W], &[X]),
    (width, count): (usize, usize),
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    widen: impl Fn(&W, usize, &mut P),
    multiply: impl Fn(&[P], [&[X]; N], &mut Sums<N>),
) {
    let end = tile_rows
        .end
        .min(tiles.len().checked_div(width).unwrap_or(0));
    let rows = end.saturating_sub(tile_rows.start);
    let mut memory = [P::zeroed(); LENGTH];
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
                panel
                    .iter_mut()
                    .zip(tile)
                    .for_each(|(wide, tile)| widen(tile, r, wide));
            }
            // The panel after this one, on the way while this one is at work.
            let (next_row, next) = if end < width {
                (first_row, end)
            } else {
                (first_row + ROWS, 0)
            };
            let ahead: [&[W]; ROWS] = core::array::from_fn(|r| {
                let row = (tile_rows.start + next_row + r) * width;
                if next_row + r < rows {
                    tiles.get(row + next..row + width.min(next + length))
                } else {
                    None
                }
                .unwrap_or_default()
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

/// Takes the sums of a pair of tile rows with an input, `column`, from the output, where they wait.
#[inline(always)]
pub(super) fn take(
    out: &mut RowsMut<'_>,
    column: usize,
    tile_row: usize,
    sums: &mut [f32; ROWS * TILE_ROWS],
) {
    let out = out
        .column(column)
        .get(tile_row * TILE_ROWS..)
        .unwrap_or_default();
    match out.first_chunk() {
        Some(out) => *sums = *out,
        None => sums.iter_mut().zip(out).for_each(|(sum, out)| *sum = *out),
    }
}

/// Puts the first `lanes` sums there.
#[inline(always)]
pub(super) fn put(
    out: &mut RowsMut<'_>,
    column: usize,
    tile_row: usize,
    lanes: usize,
    sums: &[f32; ROWS * TILE_ROWS],
) {
    let out = out
        .column(column)
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

/// Asks for tiles to be brought to the second cache: the first holds a panel and its inputs.
#[inline(always)]
pub(super) fn prefetch<W>(tiles: &[W]) {
    (0..size_of_val(tiles))
        .step_by(64)
        .for_each(|offset| prefetch_line(tiles.as_ptr().cast(), offset));
}

/// Asks for the line `offset` bytes after `start`.
#[inline(always)]
pub(super) fn prefetch_line(start: *const i8, offset: usize) {
    // SAFETY: a prefetch reads nothing that the program could see, whatever its address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(offset)) };
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_q8(tile: &Q8Tile, r: usize, wide: &mut Group) {
    for step in 0..GROUP / 4 {
        let bytes = cast(tile.values[step]);
        wide.words[2 * step][r] = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
        wide.words[2 * step + 1][r] = _mm256_srai_epi16::<8>(bytes);
    }
    wide.scales[r] = from_f16(tile.scales);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_q4(tile: &Q4Tile, r: usize, wide: &mut Group) {
    nibbles(&tile.nibbles, _mm256_set1_epi16(8), r, &mut wide.words);
    wide.scales[r] = from_f16(tile.scales);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_q4min(tile: &Q4MinTile, r: usize, wide: &mut Group) {
    nibbles(&tile.nibbles, _mm256_setzero_si256(), r, &mut wide.words);
    wide.scales[r] = from_f16(tile.scales);
    wide.minima[r] = from_f16(tile.minima);
}

/// Nibbles less `offset`. As words, the columns of a row: 0 and 2 lowest, then 4 and 6, 1 and 3, 5
/// and 7.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn nibbles(
    nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8],
    offset: __m256i,
    r: usize,
    words: &mut [[__m256i; ROWS]; GROUP / 2],
) {
    let nibble = _mm256_set1_epi16(0x000f);
    for step in 0..GROUP / 8 {
        let bytes = cast(nibbles[step]);
        words[4 * step][r] = _mm256_sub_epi16(_mm256_and_si256(bytes, nibble), offset);
        words[4 * step + 1][r] = _mm256_sub_epi16(
            _mm256_and_si256(_mm256_srli_epi16::<8>(bytes), nibble),
            offset,
        );
        words[4 * step + 2][r] = _mm256_sub_epi16(
            _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble),
            offset,
        );
        words[4 * step + 3][r] = _mm256_sub_epi16(_mm256_srli_epi16::<12>(bytes), offset);
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
