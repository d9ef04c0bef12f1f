//! The product of a [`Matrix`] with one or more input vectors: where nearly all of the time is spent.

use core::ops::Range;

use crate::math::{bf16_to_f32, f16_to_f32};
use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile, Tiles};
use crate::{GROUP, InputGroup, Matrix, RowsMut, TILE_ROWS};

/// The inputs of a product: `count` vectors, for float matrices as they are, for quantised ones as groups.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// How many vectors.
    pub count: usize,
    /// `[count][columns]`.
    pub values: &'a [f32],
    /// `[count][columns.div_ceil(32)]`, from [`Isa::quantize`](crate::Isa::quantize).
    pub groups: &'a [InputGroup],
}

/// Inputs that meet a tile together, so that its weights are unpacked once for all of them.
const BLOCK: usize = 4;

/// [`Isa::matmul`](crate::Isa::matmul), portably.
pub(crate) fn matmul(matrix: &Matrix<'_>, input: &Input<'_>, tile_rows: Range<usize>, out: &mut RowsMut<'_>) {
    let (groups, count) = (matrix.columns().div_ceil(GROUP), input.count);
    match matrix.tiles {
        Tiles::Q8(tiles) if cfg!(feature = "q8") => product(tiles, input.groups, groups, count, tile_rows, out, q8),
        Tiles::Q4(tiles) if cfg!(feature = "q4") => product(tiles, input.groups, groups, count, tile_rows, out, q4),
        Tiles::Q4Min(tiles) if cfg!(feature = "q4") => {
            product(tiles, input.groups, groups, count, tile_rows, out, q4min)
        }
        _ => floats(matrix, input, tile_rows, out),
    }
}

/// [`matmul`] of a float matrix: what instruction sets with kernels for integers alone do with the others.
#[inline(always)]
pub(crate) fn floats(matrix: &Matrix<'_>, input: &Input<'_>, tile_rows: Range<usize>, out: &mut RowsMut<'_>) {
    let (columns, count) = (matrix.columns(), input.count);
    match matrix.tiles {
        Tiles::F32(tiles) if cfg!(feature = "f32") => {
            product(tiles, input.values, columns, count, tile_rows, out, |t, x| float(t, x, |w| w))
        }
        Tiles::F16(tiles) if cfg!(feature = "f16") => {
            product(tiles, input.values, columns, count, tile_rows, out, |t, x| float(t, x, f16_to_f32))
        }
        Tiles::Bf16(tiles) if cfg!(feature = "bf16") => {
            product(tiles, input.values, columns, count, tile_rows, out, |t, x| float(t, x, bf16_to_f32))
        }
        _ => {}
    }
}

/// Walks tile rows and blocks of inputs. `width` is what a row has of `W`s and an input of `X`s.
#[inline(always)]
fn product<W, X>(
    tiles: &[W],
    inputs: &[X],
    width: usize,
    count: usize,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    dot: impl Fn(&[W], [&[X]; BLOCK]) -> [[f32; TILE_ROWS]; BLOCK],
) {
    let width = width.max(1);
    let rows = tiles.chunks_exact(width).skip(tile_rows.start).take(tile_rows.len());
    for (index, tile) in rows.enumerate() {
        let start = index * TILE_ROWS;
        for first in (0..count).step_by(BLOCK) {
            // A short last block repeats an input and drops the copies.
            let column = |k: usize| {
                let start = (first + k).min(count - 1) * width;
                inputs.get(start..start + width).unwrap_or(&[])
            };
            if count - first == 1 {
                let x = column(0);
                let sums = dot(tile, [x, &[], &[], &[]]);
                store(out, first, start, &sums[0]);
            } else {
                let sums = dot(tile, [column(0), column(1), column(2), column(3)]);
                for (k, sums) in sums.iter().enumerate().take(count - first) {
                    store(out, first + k, start, sums);
                }
            }
        }
    }
}

#[inline(always)]
fn store(out: &mut RowsMut<'_>, column: usize, start: usize, sums: &[f32; TILE_ROWS]) {
    for (out, sum) in out.column(column).iter_mut().skip(start).zip(sums) {
        *out = *sum;
    }
}

#[inline(always)]
fn float<E: Copy>(
    tile: &[[E; TILE_ROWS]],
    x: [&[f32]; BLOCK],
    widen: impl Fn(E) -> f32 + Copy,
) -> [[f32; TILE_ROWS]; BLOCK] {
    let mut sums = [[0.0; TILE_ROWS]; BLOCK];
    if x[1].is_empty() {
        for (w, x) in tile.iter().zip(x[0]) {
            for (sum, w) in sums[0].iter_mut().zip(w) {
                *sum += widen(*w) * x;
            }
        }
    } else {
        let [x0, x1, x2, x3] = x;
        for ((((w, x0), x1), x2), x3) in tile.iter().zip(x0).zip(x1).zip(x2).zip(x3) {
            let w = w.map(widen);
            for (sums, x) in sums.iter_mut().zip([x0, x1, x2, x3]) {
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum += w * x;
                }
            }
        }
    }
    sums
}

/// Adds a group's exact dot products to the sums.
#[inline(always)]
fn join(sums: &mut [f32; TILE_ROWS], dots: &[i32; TILE_ROWS], scales: &[u16; TILE_ROWS], input_scale: f32) {
    for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scales) {
        *sum += *dot as f32 * (f16_to_f32(*scale) * input_scale);
    }
}

/// The exact dot products of eight rows with a group of inputs. The sums run over pairs of columns because that is
/// what multiply-add instructions do (`pmaddwd`, `smlad`); integers do not mind.
#[inline(always)]
fn dots(weights: &[[[i8; 4]; TILE_ROWS]; GROUP / 4], x: &[i16; GROUP]) -> [i32; TILE_ROWS] {
    let mut x = *x;
    for four in x.as_chunks_mut::<4>().0 {
        four.swap(1, 2);
    }
    let mut dots = [0i32; TILE_ROWS];
    for (step, x) in weights.iter().zip(x.as_chunks::<4>().0) {
        for (dot, w) in dots.iter_mut().zip(step) {
            *dot += (w[0] as i32 * x[0] as i32 + w[1] as i32 * x[1] as i32)
                + (w[2] as i32 * x[2] as i32 + w[3] as i32 * x[3] as i32);
        }
    }
    dots
}

#[inline(always)]
fn q8(tile: &[Q8Tile], x: [&[InputGroup]; BLOCK]) -> [[f32; TILE_ROWS]; BLOCK] {
    let mut sums = [[0.0; TILE_ROWS]; BLOCK];
    for (sums, x) in sums.iter_mut().zip(x) {
        for (group, x) in tile.iter().zip(x) {
            join(sums, &dots(&group.values, &x.values), &group.scales, x.scale);
        }
    }
    sums
}

/// The nibbles of a group as int8 in the order of a q8 tile, 0..=15.
#[inline(always)]
fn widen(nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8]) -> [[[i8; 4]; TILE_ROWS]; GROUP / 4] {
    let mut values = [[[0; 4]; TILE_ROWS]; GROUP / 4];
    for (values, bytes) in values.as_chunks_mut::<2>().0.iter_mut().zip(nibbles) {
        let [low, high] = values;
        let (low, high, bytes) = (low.as_flattened_mut(), high.as_flattened_mut(), bytes.as_flattened());
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = (byte & 15) as i8;
            *high = (byte >> 4) as i8;
        }
    }
    values
}

#[inline(always)]
fn q4(tile: &[Q4Tile], x: [&[InputGroup]; BLOCK]) -> [[f32; TILE_ROWS]; BLOCK] {
    let mut sums = [[0.0; TILE_ROWS]; BLOCK];
    for (sums, x) in sums.iter_mut().zip(x) {
        for (group, x) in tile.iter().zip(x) {
            let dots = dots(&widen(&group.nibbles), &x.values).map(|dot| dot - 8 * x.sum);
            join(sums, &dots, &group.scales, x.scale);
        }
    }
    sums
}

#[inline(always)]
fn q4min(tile: &[Q4MinTile], x: [&[InputGroup]; BLOCK]) -> [[f32; TILE_ROWS]; BLOCK] {
    let mut sums = [[0.0; TILE_ROWS]; BLOCK];
    for (sums, x) in sums.iter_mut().zip(x) {
        for (group, x) in tile.iter().zip(x) {
            join(sums, &dots(&widen(&group.nibbles), &x.values), &group.scales, x.scale);
            join(sums, &[x.sum; TILE_ROWS], &group.minima, x.scale);
        }
    }
    sums
}
