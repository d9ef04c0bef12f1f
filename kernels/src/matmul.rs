//! Matrix times vectors: the product of a [`Matrix`] with one or more inputs, in portable code.
//! Nearly all of the time is spent here, or in the kernel that replaces it.

use core::ops::Range;

use crate::math::{bf16_to_f32, f16_to_f32};
use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile, Tiles};
use crate::portable::{BLOCK, dots, float, nibble_dots};
use crate::soft::join;
use crate::{GROUP, InputGroup, InputTile, Matrix, RowsMut, TILE_ROWS};

/// The inputs of a product: `count` vectors, for float matrices as they are, for quantised ones as
/// groups.
///
/// Example: [`Isa`](crate::Isa).
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// How many vectors.
    pub count: usize,
    /// `[count][columns]`.
    pub values: &'a [f32],
    /// `[count][columns.div_ceil(32)]`, from [`Isa::quantize`](crate::Isa::quantize).
    pub groups: &'a [InputGroup],
    /// The same inputs again, `[count.div_ceil(16)][columns.div_ceil(32)]`, from
    /// [`Isa::arrange`](crate::Isa::arrange); or none.
    pub tiles: &'a [InputTile],
}

impl<'a> Input<'a> {
    /// Some of the inputs of a matrix of `columns` columns. Their [`InputTile`]s are left out
    /// unless the first input starts one.
    pub fn some(&self, inputs: Range<usize>, columns: usize) -> Input<'a> {
        let width = columns.div_ceil(GROUP);
        let first = inputs.start;
        let tiles = if first.is_multiple_of(InputTile::INPUTS) {
            self.tiles
        } else {
            &[]
        };
        Input {
            count: inputs.len(),
            values: self.values.get(first * columns..).unwrap_or_default(),
            groups: self.groups.get(first * width..).unwrap_or_default(),
            tiles: tiles
                .get(first / InputTile::INPUTS * width..)
                .unwrap_or_default(),
        }
    }
}

/// [`Isa::matmul`](crate::Isa::matmul), portably.
pub(crate) fn matmul(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let columns = matrix.columns();
    match matrix.tiles {
        #[cfg(feature = "f32")]
        Tiles::F32(tiles) => floats(tiles, input, columns, tile_rows, out, |w| w),
        #[cfg(feature = "f16")]
        Tiles::F16(tiles) => floats(tiles, input, columns, tile_rows, out, f16_to_f32),
        #[cfg(feature = "bf16")]
        Tiles::Bf16(tiles) => floats(tiles, input, columns, tile_rows, out, bf16_to_f32),
        #[cfg(feature = "q8")]
        Tiles::Q8(tiles) => quantized(tiles, input, columns, tile_rows, out, q8),
        #[cfg(feature = "q4")]
        Tiles::Q4(tiles) => quantized(tiles, input, columns, tile_rows, out, q4),
        #[cfg(feature = "q4")]
        Tiles::Q4Min(tiles) => quantized(tiles, input, columns, tile_rows, out, q4min),
    }
}

/// Goes through tile rows, and through the inputs `inputs_at` in blocks of `N`; only whole blocks
/// are computed. `width` is how many `W`s a row and how many `X`s an input has.
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
    let rows = tiles
        .chunks_exact(width)
        .skip(tile_rows.start)
        .take(tile_rows.len());
    for (index, tile) in rows.enumerate() {
        for first in inputs_at.clone().step_by(N) {
            let input = |k: usize| {
                inputs
                    .get((first + k) * width..(first + k + 1) * width)
                    .unwrap_or_default()
            };
            for (k, sums) in dot(tile, core::array::from_fn(input)).iter().enumerate() {
                for (out, sum) in out
                    .column(first + k)
                    .iter_mut()
                    .skip(index * TILE_ROWS)
                    .zip(sums)
                {
                    *out = *sum;
                }
            }
        }
    }
}

/// [`matmul`] of a float matrix: whole blocks of inputs, then one by one.
#[inline(always)]
fn floats<E: Copy>(
    tiles: &[[E; TILE_ROWS]],
    input: &Input<'_>,
    columns: usize,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    widen: impl Fn(E) -> f32 + Copy,
) {
    let values = input.values;
    let count = input.count;
    // A block of one is what the second loop does.
    let whole = if BLOCK == 1 { 0 } else { count / BLOCK * BLOCK };
    product::<_, _, BLOCK>(
        tiles,
        values,
        columns,
        0..whole,
        tile_rows.clone(),
        out,
        |t, x| float(t, x, widen),
    );
    product::<_, _, 1>(
        tiles,
        values,
        columns,
        whole..count,
        tile_rows,
        out,
        |t, x| float(t, x, widen),
    );
}

/// [`matmul`] of a quantised matrix, one input at a time.
#[inline(always)]
fn quantized<W>(
    tiles: &[W],
    input: &Input<'_>,
    columns: usize,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    dot: impl Fn(&[W], [&[InputGroup]; 1]) -> [[f32; TILE_ROWS]; 1],
) {
    let groups = columns.div_ceil(GROUP);
    product(
        tiles,
        input.groups,
        groups,
        0..input.count,
        tile_rows,
        out,
        dot,
    );
}

#[inline(always)]
fn q8(tile: &[Q8Tile], [x]: [&[InputGroup]; 1]) -> [[f32; TILE_ROWS]; 1] {
    let mut sums = [0.0; TILE_ROWS];
    for (group, x) in tile.iter().zip(x) {
        join(
            &mut sums,
            &dots(&group.values, &x.values),
            &group.scales,
            x.scale,
        );
    }
    [sums]
}

#[inline(always)]
fn q4(tile: &[Q4Tile], [x]: [&[InputGroup]; 1]) -> [[f32; TILE_ROWS]; 1] {
    let mut sums = [0.0; TILE_ROWS];
    for (group, x) in tile.iter().zip(x) {
        let dots = nibble_dots(&group.nibbles, &x.values)
            .map(|dot| dot.wrapping_sub(x.sum.wrapping_mul(8)));
        join(&mut sums, &dots, &group.scales, x.scale);
    }
    [sums]
}

#[inline(always)]
fn q4min(tile: &[Q4MinTile], [x]: [&[InputGroup]; 1]) -> [[f32; TILE_ROWS]; 1] {
    let mut sums = [0.0; TILE_ROWS];
    for (group, x) in tile.iter().zip(x) {
        join(
            &mut sums,
            &nibble_dots(&group.nibbles, &x.values),
            &group.scales,
            x.scale,
        );
        join(&mut sums, &[x.sum; TILE_ROWS], &group.minima, x.scale);
    }
    [sums]
}
