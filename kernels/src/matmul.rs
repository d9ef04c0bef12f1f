//! Matrix times vectors: the product of a [`Matrix`] with one or more inputs, in portable code.
//! Nearly all of the time is spent here, or in the kernel that replaces it.

use core::ops::Range;

use crate::inner_loops::{BLOCK, float};
use crate::math::{bf16_to_f32, f16_to_f32};
use crate::matrix::match_tiles;
use crate::soft_float::join;
use crate::tile::{self, Tile, TileRow, TileRows};
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
    match_tiles!(matrix.tiles;
        F32(rows) => floats(rows.range(tile_rows), input, out, |w| w),
        F16(rows) => floats(rows.range(tile_rows), input, out, f16_to_f32),
        Bf16(rows) => floats(rows.range(tile_rows), input, out, bf16_to_f32),
        groups(rows) => groups(rows.range(tile_rows), input, out),
    )
}

/// Goes through tile rows, and through the inputs `inputs_at` in blocks of `N`; only whole blocks
/// are computed.
#[inline(always)]
fn product<W: Tile, X, const N: usize>(
    rows: TileRows<'_, W>,
    inputs: &[X],
    inputs_at: Range<usize>,
    out: &mut RowsMut<'_>,
    dot: impl Fn(TileRow<'_, W>, [&[X]; N]) -> [[f32; TILE_ROWS]; N],
) {
    let width = rows.width();
    for (index, row) in rows.iter().enumerate() {
        for first in inputs_at.clone().step_by(N) {
            let input = |k: usize| {
                inputs
                    .get((first + k) * width..(first + k + 1) * width)
                    .unwrap_or_default()
            };
            for (k, sums) in dot(row, core::array::from_fn(input)).iter().enumerate() {
                for (out, sum) in out
                    .vector(first + k)
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
    rows: TileRows<'_, [E; TILE_ROWS]>,
    input: &Input<'_>,
    out: &mut RowsMut<'_>,
    widen: impl Fn(E) -> f32 + Copy,
) where
    [E; TILE_ROWS]: Tile,
{
    let values = input.values;
    let count = input.count;
    // A block of one is what the second loop does.
    let whole = if BLOCK == 1 { 0 } else { count / BLOCK * BLOCK };
    product::<_, _, BLOCK>(rows, values, 0..whole, out, |row, x| {
        float(row.tiles, x, widen)
    });
    product::<_, _, 1>(rows, values, whole..count, out, |row, x| {
        float(row.tiles, x, widen)
    });
}

/// [`matmul`] of a quantised matrix, one input at a time.
#[inline(always)]
fn groups<W: tile::QuantizedTile>(rows: TileRows<'_, W>, input: &Input<'_>, out: &mut RowsMut<'_>) {
    product(rows, input.groups, 0..input.count, out, |row, [x]| {
        [sums(row, x)]
    });
}

/// Group by group the exact dot products, joined to the sums.
#[inline(always)]
fn sums<W: tile::QuantizedTile>(row: TileRow<'_, W>, x: &[InputGroup]) -> [f32; TILE_ROWS] {
    let mut sums = [0.0; TILE_ROWS];
    for (tile, x) in row.tiles.iter().zip(x) {
        let offset = x.sum.wrapping_mul(W::OFFSET);
        let dots = tile.dots(&x.values).map(|dot| dot.wrapping_sub(offset));
        let scale = |lane| tile.scale(&row.header, lane);
        join(&mut sums, &dots, scale, x.scale);
        if tile.minimum(0).is_some() {
            let minimum = |lane| tile.minimum(lane).unwrap_or_default();
            join(&mut sums, &[x.sum; TILE_ROWS], minimum, x.scale);
        }
    }
    sums
}
