//! The product of a [`Matrix`] with one or more input vectors: where nearly all of the time is spent.

use core::ops::Range;

use crate::math::{bf16_to_f32, f16_to_f32};
use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile, Tiles};
#[cfg(any(target_arch = "arm", target_arch = "riscv32"))]
use crate::narrow::{dots, float, nibble_dots};
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

/// Inputs that meet a float tile together, so that its weights are widened once for all of them.
const BLOCK: usize = 4;

/// [`Isa::matmul`](crate::Isa::matmul), portably.
pub(crate) fn matmul(matrix: &Matrix<'_>, input: &Input<'_>, tile_rows: Range<usize>, out: &mut RowsMut<'_>) {
    let (groups, count) = (matrix.columns().div_ceil(GROUP), input.count);
    match matrix.tiles {
        Tiles::Q8(tiles) if cfg!(feature = "q8") => product(tiles, input.groups, groups, 0..count, tile_rows, out, q8),
        Tiles::Q4(tiles) if cfg!(feature = "q4") => product(tiles, input.groups, groups, 0..count, tile_rows, out, q4),
        Tiles::Q4Min(tiles) if cfg!(feature = "q4") => {
            product(tiles, input.groups, groups, 0..count, tile_rows, out, q4min)
        }
        _ => float_matrix(matrix, input, tile_rows, out),
    }
}

/// [`matmul`] of a float matrix: what instruction sets with kernels for integers alone do with the others. On boards all
/// share one copy.
#[cfg_attr(any(target_arch = "arm", target_arch = "riscv32"), inline(never))]
#[cfg_attr(not(any(target_arch = "arm", target_arch = "riscv32")), inline(always))]
pub(crate) fn float_matrix(matrix: &Matrix<'_>, input: &Input<'_>, tile_rows: Range<usize>, out: &mut RowsMut<'_>) {
    let (columns, count) = (matrix.columns(), input.count);
    match matrix.tiles {
        Tiles::F32(tiles) if cfg!(feature = "f32") => {
            floats(tiles, input.values, columns, count, tile_rows, out, |w| w)
        }
        Tiles::F16(tiles) if cfg!(feature = "f16") => {
            floats(tiles, input.values, columns, count, tile_rows, out, f16_to_f32)
        }
        Tiles::Bf16(tiles) if cfg!(feature = "bf16") => {
            floats(tiles, input.values, columns, count, tile_rows, out, bf16_to_f32)
        }
        _ => {}
    }
}

/// Walks tile rows and blocks of `N` inputs, for as many whole blocks as `inputs_at` holds. `width` is what a row has of
/// `W`s and an input of `X`s.
#[inline(always)]
fn product<W, X, const N: usize>(
    tiles: &[W],
    inputs: &[X],
    width: usize,
    inputs_at: Range<usize>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    dot: impl Fn(&[W], [&[X]; N]) -> [[f32; TILE_ROWS]; N],
) {
    let width = width.max(1);
    let rows = tiles.chunks_exact(width).skip(tile_rows.start).take(tile_rows.len());
    for (index, tile) in rows.enumerate() {
        for first in inputs_at.clone().step_by(N) {
            let input = |k: usize| inputs.get((first + k) * width..(first + k + 1) * width).unwrap_or_default();
            for (k, sums) in dot(tile, core::array::from_fn(input)).iter().enumerate() {
                for (out, sum) in out.column(first + k).iter_mut().skip(index * TILE_ROWS).zip(sums) {
                    *out = *sum;
                }
            }
        }
    }
}

/// The products of float matrices: whole blocks of inputs, then one by one.
#[inline(always)]
fn floats<E: Copy>(
    tiles: &[[E; TILE_ROWS]],
    inputs: &[f32],
    columns: usize,
    count: usize,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    widen: impl Fn(E) -> f32 + Copy,
) {
    // Without vectors a tile is read again for each input all the same: a block would only be more code.
    let narrow = cfg!(any(target_arch = "arm", target_arch = "riscv32"));
    let whole = if narrow { 0 } else { count - count % BLOCK };
    product::<_, _, BLOCK>(tiles, inputs, columns, 0..whole, tile_rows.clone(), out, |t, x| float(t, x, widen));
    product::<_, _, 1>(tiles, inputs, columns, whole..count, tile_rows, out, |t, x| float(t, x, widen));
}

#[cfg(not(any(target_arch = "arm", target_arch = "riscv32")))]
#[inline(always)]
fn float<E: Copy, const N: usize>(
    tile: &[[E; TILE_ROWS]],
    x: [&[f32]; N],
    widen: impl Fn(E) -> f32 + Copy,
) -> [[f32; TILE_ROWS]; N] {
    let mut sums = [[0.0; TILE_ROWS]; N];
    let mut x = x.map(<[f32]>::iter);
    for w in tile {
        let w = w.map(widen);
        for (sums, x) in sums.iter_mut().zip(&mut x) {
            let Some(x) = x.next() else { break };
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum += w * x;
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
#[cfg(not(any(target_arch = "arm", target_arch = "riscv32")))]
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
fn q8(tile: &[Q8Tile], [x]: [&[InputGroup]; 1]) -> [[f32; TILE_ROWS]; 1] {
    let mut sums = [0.0; TILE_ROWS];
    for (group, x) in tile.iter().zip(x) {
        join(&mut sums, &dots(&group.values, &x.values), &group.scales, x.scale);
    }
    [sums]
}

/// The nibbles of a group as int8 in the order of a q8 tile, 0..=15.
// Inlined, it keeps LLVM from vectorising the products behind it; where there are no vectors a call is only a call.
#[cfg(not(any(target_arch = "arm", target_arch = "riscv32")))]
#[cfg_attr(target_pointer_width = "64", inline(never))]
#[cfg_attr(not(target_pointer_width = "64"), inline(always))]
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

/// [`dots`] with nibbles, 0..=15.
#[cfg(not(any(target_arch = "arm", target_arch = "riscv32")))]
#[inline(always)]
fn nibble_dots(nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8], x: &[i16; GROUP]) -> [i32; TILE_ROWS] {
    dots(&widen(nibbles), x)
}

#[inline(always)]
fn q4(tile: &[Q4Tile], [x]: [&[InputGroup]; 1]) -> [[f32; TILE_ROWS]; 1] {
    let mut sums = [0.0; TILE_ROWS];
    for (group, x) in tile.iter().zip(x) {
        let dots = nibble_dots(&group.nibbles, &x.values).map(|dot| dot.wrapping_sub(x.sum.wrapping_mul(8)));
        join(&mut sums, &dots, &group.scales, x.scale);
    }
    [sums]
}

#[inline(always)]
fn q4min(tile: &[Q4MinTile], [x]: [&[InputGroup]; 1]) -> [[f32; TILE_ROWS]; 1] {
    let mut sums = [0.0; TILE_ROWS];
    for (group, x) in tile.iter().zip(x) {
        join(&mut sums, &nibble_dots(&group.nibbles, &x.values), &group.scales, x.scale);
        join(&mut sums, &[x.sum; TILE_ROWS], &group.minima, x.scale);
    }
    [sums]
}
