//! The loop around kernels in assembly. Such a kernel multiplies a whole tile row with one input.
//! It is for machines whose compilers neither find the instructions nor keep the sums in registers.

use core::ops::Range;

use crate::matrix::Tiles;
use crate::tile::{Q4MinTile, Q4Tile, Q8Tile, Tile, TileRows};
use crate::{Input, InputGroup, Matrix, RowsMut, TILE_ROWS, matmul};

/// Writes the products of a tile row of `width` groups or columns, at least one, with an input as
/// long to eight sums.
pub(super) type Kernel<W, X> =
    unsafe extern "C" fn(tiles: *const W, x: *const X, width: usize, sums: *mut [f32; TILE_ROWS]);

/// The kernels of an instruction set. A float type without one uses the portable code.
pub(super) struct Kernels {
    pub(super) f32: Option<Kernel<[f32; TILE_ROWS], f32>>,
    pub(super) f16: Option<Kernel<[u16; TILE_ROWS], f32>>,
    pub(super) bf16: Option<Kernel<[u16; TILE_ROWS], f32>>,
    pub(super) q8: Kernel<Q8Tile, InputGroup>,
    pub(super) q4: Kernel<Q4Tile, InputGroup>,
    pub(super) q4min: Kernel<Q4MinTile, InputGroup>,
}

impl Kernels {
    /// [`Isa::matmul`] with these.
    #[inline(always)]
    pub(super) fn matmul(
        &self,
        matrix: &Matrix<'_>,
        input: &Input<'_>,
        tile_rows: Range<usize>,
        out: &mut RowsMut<'_>,
    ) {
        let values = (input.values, input.count);
        let groups = (input.groups, input.count);
        match matrix.tiles {
            #[cfg(feature = "f32")]
            Tiles::F32(rows) => match self.f32 {
                Some(kernel) => product(kernel, rows.range(tile_rows), values, out),
                None => matmul::matmul(matrix, input, tile_rows, out),
            },
            #[cfg(feature = "f16")]
            Tiles::F16(rows) => match self.f16 {
                Some(kernel) => product(kernel, rows.range(tile_rows), values, out),
                None => matmul::matmul(matrix, input, tile_rows, out),
            },
            #[cfg(feature = "bf16")]
            Tiles::Bf16(rows) => match self.bf16 {
                Some(kernel) => product(kernel, rows.range(tile_rows), values, out),
                None => matmul::matmul(matrix, input, tile_rows, out),
            },
            #[cfg(feature = "q8")]
            Tiles::Q8(rows) => product(self.q8, rows.range(tile_rows), groups, out),
            #[cfg(feature = "q6")]
            Tiles::Q6(_) => matmul::matmul(matrix, input, tile_rows, out),
            #[cfg(feature = "q5")]
            Tiles::Q5(_) => matmul::matmul(matrix, input, tile_rows, out),
            #[cfg(feature = "q4")]
            Tiles::Q4(rows) => product(self.q4, rows.range(tile_rows), groups, out),
            #[cfg(feature = "q4")]
            Tiles::Q4Min(rows) => product(self.q4min, rows.range(tile_rows), groups, out),
            #[cfg(feature = "nl4")]
            Tiles::Nl4(_) => matmul::matmul(matrix, input, tile_rows, out),
            #[cfg(feature = "nl3")]
            Tiles::Nl3(_) => matmul::matmul(matrix, input, tile_rows, out),
        }
    }
}

#[inline(always)]
fn product<W: Tile, X>(
    kernel: Kernel<W, X>,
    rows: TileRows<'_, W>,
    (inputs, count): (&[X], usize),
    out: &mut RowsMut<'_>,
) {
    let width = rows.width();
    for (index, row) in rows.iter().enumerate() {
        let tiles = row.tiles;
        if tiles.is_empty() || tiles.len() != width {
            break;
        }
        for (column, x) in inputs.chunks_exact(width).take(count).enumerate() {
            let out = out
                .vector(column)
                .get_mut(index * TILE_ROWS..)
                .unwrap_or_default();
            // SAFETY: both slices hold `width` elements, which is not 0, and the table is handed
            // out only where the core has the instructions.
            let run = |sums: &mut [f32; TILE_ROWS]| unsafe {
                kernel(tiles.as_ptr(), x.as_ptr(), width, sums)
            };
            match out.first_chunk_mut() {
                Some(sums) => run(sums),
                None => {
                    let mut sums = [0.0; TILE_ROWS];
                    run(&mut sums);
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
                }
            }
        }
    }
}
