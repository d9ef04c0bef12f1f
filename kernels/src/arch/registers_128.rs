//! The loops of a product for instruction sets with 128-bit registers, written once over the
//! operations of such a set, its [`Simd`].
//!
//! All of it is inlined into one function per instruction set.

use core::ops::Range;

use bytemuck::Pod;

use crate::dtype::{LEVELS_3, LEVELS_4};
use crate::matrix::Tiles;
use crate::tile::{QuantizedTile, Scaled, Tile, TileRow, TileRows};
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
    /// The entry of `table` at each of `codes`, which are below 16.
    fn levels(table: [i8; 16], codes: [u8; 32]) -> [u8; 32];
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
    // A closure cannot be generic over the number of inputs, so the macro writes it twice.
    macro_rules! product {
        ($rows:ident, $inputs:expr, |$t:ident, $x:ident| $sums:expr) => {
            product(
                $rows.range(tile_rows),
                ($inputs, input.count),
                out,
                |$t, $x| $sums,
                |$t, $x| $sums,
            )
        };
    }
    macro_rules! floats {
        ($rows:ident, $widen:expr) => {
            product!($rows, input.values, |t, x| float::<S, _, PAIR, _>(
                t, x, $widen
            ))
        };
    }
    // `$dots` are the dot products of a tile with prepared inputs.
    macro_rules! groups {
        ($rows:ident, |$tile:ident, $inputs:ident, $x:ident| $dots:expr) => {
            groups!(
                $rows,
                |$tile, $inputs, $x| $dots,
                |tile, _| S::from_f16(tile.scales),
                |_| None
            )
        };
        ($rows:ident, |$tile:ident, $inputs:ident, $x:ident| $dots:expr, $scales:expr, $minima:expr) => {
            product!($rows, input.groups, |t, x| groups::<S, _, PAIR, _>(
                t,
                x,
                |$tile, $inputs, $x| $dots,
                $scales,
                $minima
            ))
        };
    }
    macro_rules! uneven {
        ($rows:ident, $table:expr) => {
            groups!(
                $rows,
                |tile, inputs, _x| S::dots(
                    &values(tile, |codes| S::levels(const { $table }, codes)),
                    inputs
                ),
                |tile, header| {
                    let scales: [f32; TILE_ROWS] =
                        core::array::from_fn(|row| tile.scale(header, row));
                    bytemuck::cast(scales)
                },
                |_| None
            )
        };
    }
    match matrix.tiles {
        #[cfg(feature = "f32")]
        Tiles::F32(rows) => floats!(rows, bytemuck::cast),
        #[cfg(feature = "f16")]
        Tiles::F16(rows) => floats!(rows, S::from_f16),
        #[cfg(feature = "bf16")]
        Tiles::Bf16(rows) => floats!(rows, S::from_bf16),
        #[cfg(feature = "q8")]
        Tiles::Q8(rows) => groups!(rows, |tile, inputs, _x| S::dots(
            bytemuck::cast_ref(&tile.values),
            inputs
        )),
        #[cfg(feature = "q6")]
        Tiles::Q6(rows) => groups!(rows, |tile, inputs, _x| S::dots(
            &values(tile, |codes| codes.map(|code| code.wrapping_sub(32))),
            inputs
        )),
        #[cfg(feature = "q5")]
        Tiles::Q5(rows) => groups!(rows, |tile, inputs, _x| S::dots(
            &values(tile, |codes| codes.map(|code| code.wrapping_sub(16))),
            inputs
        )),
        #[cfg(feature = "q4")]
        Tiles::Q4(rows) => groups!(rows, |tile, inputs, x| S::nibble_dots(
            bytemuck::cast_ref(&tile.nibbles),
            inputs,
            x.map(|x| x.sum.wrapping_mul(-8))
        )),
        #[cfg(feature = "q4")]
        Tiles::Q4Min(rows) => groups!(
            rows,
            |tile, inputs, x| S::nibble_dots(
                bytemuck::cast_ref(&tile.nibbles),
                inputs,
                x.map(|_| 0)
            ),
            |tile, _| S::from_f16(tile.scales),
            |tile| Some(S::from_f16(tile.minima))
        ),
        #[cfg(feature = "nl4")]
        Tiles::Nl4(rows) => uneven!(rows, LEVELS_4),
        #[cfg(feature = "nl3")]
        Tiles::Nl3(rows) => uneven!(rows, twice(LEVELS_3)),
    }
}

/// The values of a tile as int8: `value` turns the codes of eight rows by four columns into them.
#[inline(always)]
fn values<W: QuantizedTile>(
    tile: &W,
    value: impl Fn([u8; 32]) -> [u8; 32],
) -> [[u8; 32]; GROUP / 4] {
    let mut values = [[0; 32]; GROUP / 4];
    for (step, values) in values.iter_mut().enumerate() {
        let codes: [[u8; 4]; TILE_ROWS] = core::array::from_fn(|row| tile.codes(step, row));
        *values = value(bytemuck::cast(codes));
    }
    values
}

/// A table of eight as one of 16.
const fn twice(levels: [i8; 8]) -> [i8; 16] {
    let mut table = [0; 16];
    let mut place = 0;
    while place < 16 {
        table[place] = levels[place % 8];
        place += 1;
    }
    table
}

/// Calls `single` or, where there is more than one input, `block` with `R` tile rows at a time, and
/// stores the sums. A block that is not full repeats its last row or input and drops the copies.
#[inline(always)]
fn product<W: Tile, X, F: Pod, const R: usize>(
    tile_rows: TileRows<'_, W>,
    (inputs, count): (&[X], usize),
    out: &mut RowsMut<'_>,
    single: impl Fn([TileRow<'_, W>; R], [&[X]; 1]) -> Sums<F, R, 1>,
    block: impl Fn([TileRow<'_, W>; R], [&[X]; BLOCK]) -> Sums<F, R, BLOCK>,
) {
    let width = tile_rows.width();
    let rows = tile_rows.len();
    let column = |index: usize| {
        let start = index.min(count - 1) * width;
        inputs.get(start..start + width).unwrap_or_default()
    };
    for row in (0..rows).step_by(R) {
        let tiles = core::array::from_fn(|r| tile_rows.row((row + r).min(rows - 1)));
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
                .vector(column)
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
    rows: [TileRow<'_, [E; TILE_ROWS]>; R],
    x: [&[f32]; T],
    widen: impl Fn([E; TILE_ROWS]) -> S::Floats,
) -> Sums<S::Floats, R, T>
where
    [E; TILE_ROWS]: Tile,
{
    walk(rows, x, |sums, tiles, x| {
        for (sums, tile) in sums.iter_mut().zip(tiles) {
            let weights = widen(*tile);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = S::add_product(*sum, weights, *x);
            }
        }
    })
}

/// Group by group: the exact dot products, joined to the sums.
#[inline(always)]
fn groups<S: Simd, W: Tile, const R: usize, const T: usize>(
    rows: [TileRow<'_, W>; R],
    x: [&[InputGroup]; T],
    dots: impl Fn(&W, [S::Inputs; T], [&InputGroup; T]) -> [S::Integers; T],
    scales: impl Fn(&W, &W::Header) -> S::Floats,
    minima: impl Fn(&W) -> Option<S::Floats>,
) -> Sums<S::Floats, R, T> {
    walk(rows, x, |sums, tiles, x| {
        let inputs = x.map(S::inputs);
        for ((sums, tile), row) in sums.iter_mut().zip(tiles).zip(&rows) {
            let dots = dots(tile, inputs, x);
            let scales = scales(tile, &row.header);
            let minima = minima(tile);
            for ((sum, dots), x) in sums.iter_mut().zip(dots).zip(x) {
                *sum = S::join(*sum, dots, scales, x.scale);
                if let Some(minima) = minima {
                    *sum = S::join(*sum, bytemuck::cast([x.sum; TILE_ROWS]), minima, x.scale);
                }
            }
        }
    })
}

/// Calls `step` with the first tiles and inputs, then the second, up to the end of the shortest.
#[inline(always)]
fn walk<W: Tile, X, F: Pod, const R: usize, const T: usize>(
    rows: [TileRow<'_, W>; R],
    x: [&[X]; T],
    step: impl Fn(&mut Sums<F, R, T>, [&W; R], [&X; T]),
) -> Sums<F, R, T> {
    let mut sums = [[F::zeroed(); T]; R];
    let tiles = rows.map(|row| row.tiles);
    let length = tiles
        .map(<[W]>::len)
        .into_iter()
        .chain(x.map(<[X]>::len))
        .min()
        .unwrap_or(0);
    for place in 0..length {
        // SAFETY: no slice is shorter than `length`. Not every compiler sees it: in WebAssembly a
        // panic would be left.
        let (tiles, x) = unsafe {
            (
                tiles.map(|tiles| tiles.get_unchecked(place)),
                x.map(|x| x.get_unchecked(place)),
            )
        };
        step(&mut sums, tiles, x);
    }
    sums
}
