//! The loops of a product for instruction sets with 128-bit registers, written once over the
//! operations of such a set, its [`Simd`].
//!
//! All of it is inlined into one function per instruction set.

use core::ops::Range;

use bytemuck::Pod;

use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile, Tiles};
use crate::{GROUP, Input, InputGroup, Matrix, RowsMut, TILE_ROWS};

/// Operations on eight lanes, a lane a row of the tile. They run only where the instruction set was
/// detected.
pub(super) trait Simd {
    /// Eight f32.
    type Floats: Pod;
    /// Eight i32.
    type Integers: Pod;
    /// The inputs of a group, in the form that [`dots`](Self::dots) uses.
    type Inputs: Copy;

    /// Exactly; the numbers are finite.
    fn from_f16(weights: [u16; TILE_ROWS]) -> Self::Floats;
    /// Exactly.
    fn from_bf16(weights: [u16; TILE_ROWS]) -> Self::Floats;
    /// `sum + weights * x`, rounded twice.
    fn add_product(sum: Self::Floats, weights: Self::Floats, x: f32) -> Self::Floats;
    /// `sum + dots * (scales * input_scale)`, every operation rounded.
    fn join(
        sum: Self::Floats,
        dots: Self::Integers,
        scales: Self::Floats,
        input_scale: f32,
    ) -> Self::Floats;

    /// Prepares the inputs of a group.
    fn inputs(x: &InputGroup) -> Self::Inputs;
    /// The exact dot products of a group of int8 with each of the inputs.
    fn dots<const T: usize>(
        values: &[[u8; 32]; GROUP / 4],
        x: [Self::Inputs; T],
    ) -> [Self::Integers; T];
    /// The exact dot products of a group of nibbles, 0..=15, with each of the inputs, plus
    /// `offsets`.
    fn nibble_dots<const T: usize>(
        nibbles: &[[u8; 32]; GROUP / 8],
        x: [Self::Inputs; T],
        offsets: [i32; T],
    ) -> [Self::Integers; T];
}

/// Tile rows that are multiplied with an input at the same time: there are enough sums to keep the
/// adder busy, and inputs are prepared once for both.
const PAIR: usize = 2;
/// Inputs that are multiplied with a tile at the same time: its weights are widened once for all.
const BLOCK: usize = 4;

/// The sums of `R` tile rows with `T` inputs.
type Sums<F, const R: usize, const T: usize> = [[F; T]; R];

/// [`Isa::matmul`](crate::Isa::matmul) with the instructions of `S`.
#[inline(always)]
pub(super) fn matmul<S: Simd>(
    matrix: &Matrix<'_>,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let columns = matrix.columns();
    let count = input.count;
    let groups = columns.div_ceil(GROUP);
    // A closure cannot be generic over the number of inputs, so the macro writes it twice.
    macro_rules! product {
        ($tiles:ident, $inputs:expr, $width:ident, |$t:ident, $x:ident| $sums:expr) => {
            product(
                $tiles,
                $inputs,
                $width,
                count,
                tile_rows,
                out,
                |$t, $x| $sums,
                |$t, $x| $sums,
            )
        };
    }
    match matrix.tiles {
        #[cfg(feature = "f32")]
        Tiles::F32(tiles) => {
            product!(tiles, input.values, columns, |t, x| float::<S, _, PAIR, _>(
                t,
                x,
                bytemuck::cast
            ))
        }
        #[cfg(feature = "f16")]
        Tiles::F16(tiles) => {
            product!(tiles, input.values, columns, |t, x| float::<S, _, PAIR, _>(
                t,
                x,
                S::from_f16
            ))
        }
        #[cfg(feature = "bf16")]
        Tiles::Bf16(tiles) => {
            product!(tiles, input.values, columns, |t, x| float::<S, _, PAIR, _>(
                t,
                x,
                S::from_bf16
            ))
        }
        #[cfg(feature = "q8")]
        Tiles::Q8(tiles) => {
            product!(tiles, input.groups, groups, |t, x| q8::<S, PAIR, _>(t, x))
        }
        #[cfg(feature = "q4")]
        Tiles::Q4(tiles) => {
            product!(tiles, input.groups, groups, |t, x| q4::<S, PAIR, _>(t, x))
        }
        #[cfg(feature = "q4")]
        Tiles::Q4Min(tiles) => {
            product!(tiles, input.groups, groups, |t, x| q4min::<S, PAIR, _>(
                t, x
            ))
        }
    }
}

/// Calls `single` or, where there is more than one input, `block` with `R` tile rows at a time, and
/// stores the sums. `width` is how many `W`s a row and how many `X`s an input has. A block that is
/// not full repeats its last row or input and drops the copies.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a product and its shapes
fn product<W, X, F: Pod, const R: usize>(
    tiles: &[W],
    inputs: &[X],
    width: usize,
    count: usize,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    single: impl Fn([&[W]; R], [&[X]; 1]) -> Sums<F, R, 1>,
    block: impl Fn([&[W]; R], [&[X]; BLOCK]) -> Sums<F, R, BLOCK>,
) {
    let end = tile_rows
        .end
        .min(tiles.len().checked_div(width).unwrap_or(0));
    let rows = end.saturating_sub(tile_rows.start);
    let tile = |index: usize| {
        let start = (tile_rows.start + index.min(rows - 1)) * width;
        tiles.get(start..start + width).unwrap_or_default()
    };
    let column = |index: usize| {
        let start = index.min(count - 1) * width;
        inputs.get(start..start + width).unwrap_or_default()
    };
    for row in (0..rows).step_by(R) {
        let tiles = core::array::from_fn(|r| tile(row + r));
        if count == 1 {
            store(out, row..rows, 0..count, &single(tiles, [column(0)]));
            continue;
        }
        for first in (0..count).step_by(BLOCK) {
            store(
                out,
                row..rows,
                first..count,
                &block(tiles, core::array::from_fn(|t| column(first + t))),
            );
        }
    }
}

/// Stores sums at the first of `tile_rows` and `columns`, none past their ends.
#[inline(always)]
fn store<F: Pod, const R: usize, const T: usize>(
    out: &mut RowsMut<'_>,
    tile_rows: Range<usize>,
    columns: Range<usize>,
    sums: &Sums<F, R, T>,
) {
    for (tile_row, sums) in tile_rows.zip(sums) {
        for (column, sums) in columns.clone().zip(sums) {
            let sums: [f32; TILE_ROWS] = bytemuck::cast(*sums);
            let out = out
                .column(column)
                .get_mut(tile_row * TILE_ROWS..)
                .unwrap_or_default();
            match out.first_chunk_mut() {
                Some(out) => *out = sums,
                None => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum),
            }
        }
    }
}

/// Column by column: `sum = sum + weight * x`.
#[inline(always)]
fn float<S: Simd, E: Copy, const R: usize, const T: usize>(
    tiles: [&[[E; TILE_ROWS]]; R],
    x: [&[f32]; T],
    widen: impl Fn([E; TILE_ROWS]) -> S::Floats,
) -> Sums<S::Floats, R, T> {
    walk(tiles, x, |sums, tiles, x| {
        for (sums, tile) in sums.iter_mut().zip(tiles) {
            let weights = widen(*tile);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = S::add_product(*sum, weights, *x);
            }
        }
    })
}

#[inline(always)]
fn q8<S: Simd, const R: usize, const T: usize>(
    tiles: [&[Q8Tile]; R],
    x: [&[InputGroup]; T],
) -> Sums<S::Floats, R, T> {
    walk(tiles, x, |sums, tiles, x| {
        let inputs = x.map(S::inputs);
        for (sums, tile) in sums.iter_mut().zip(tiles) {
            let dots = S::dots(bytemuck::cast_ref(&tile.values), inputs);
            let scales = S::from_f16(tile.scales);
            for ((sum, dots), x) in sums.iter_mut().zip(dots).zip(x) {
                *sum = S::join(*sum, dots, scales, x.scale);
            }
        }
    })
}

#[inline(always)]
fn q4<S: Simd, const R: usize, const T: usize>(
    tiles: [&[Q4Tile]; R],
    x: [&[InputGroup]; T],
) -> Sums<S::Floats, R, T> {
    walk(tiles, x, |sums, tiles, x| {
        let inputs = x.map(S::inputs);
        let offsets = x.map(|x| x.sum.wrapping_mul(-8));
        for (sums, tile) in sums.iter_mut().zip(tiles) {
            let dots = S::nibble_dots(bytemuck::cast_ref(&tile.nibbles), inputs, offsets);
            let scales = S::from_f16(tile.scales);
            for ((sum, dots), x) in sums.iter_mut().zip(dots).zip(x) {
                *sum = S::join(*sum, dots, scales, x.scale);
            }
        }
    })
}

#[inline(always)]
fn q4min<S: Simd, const R: usize, const T: usize>(
    tiles: [&[Q4MinTile]; R],
    x: [&[InputGroup]; T],
) -> Sums<S::Floats, R, T> {
    walk(tiles, x, |sums, tiles, x| {
        let inputs = x.map(S::inputs);
        for (sums, tile) in sums.iter_mut().zip(tiles) {
            let dots = S::nibble_dots(bytemuck::cast_ref(&tile.nibbles), inputs, [0; T]);
            let scales = S::from_f16(tile.scales);
            let minima = S::from_f16(tile.minima);
            for ((sum, dots), x) in sums.iter_mut().zip(dots).zip(x) {
                *sum = S::join(*sum, dots, scales, x.scale);
                *sum = S::join(*sum, bytemuck::cast([x.sum; TILE_ROWS]), minima, x.scale);
            }
        }
    })
}

/// Calls `step` with the first tiles and inputs, then the second, up to the end of the shortest.
#[inline(always)]
fn walk<W, X, F: Pod, const R: usize, const T: usize>(
    tiles: [&[W]; R],
    x: [&[X]; T],
    step: impl Fn(&mut Sums<F, R, T>, [&W; R], [&X; T]),
) -> Sums<F, R, T> {
    let mut sums = [[F::zeroed(); T]; R];
    let length = tiles
        .map(<[W]>::len)
        .into_iter()
        .chain(x.map(<[X]>::len))
        .min()
        .unwrap_or(0);
    let tiles = tiles.map(|tile| &tile[..length]);
    let x = x.map(|x| &x[..length]);
    for place in 0..length {
        step(
            &mut sums,
            tiles.map(|tile| &tile[place]),
            x.map(|x| &x[place]),
        );
    }
    sums
}
