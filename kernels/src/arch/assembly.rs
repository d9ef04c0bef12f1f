//! The loop around kernels in assembly. Such a kernel multiplies a whole tile row with one input.
//! It is for machines whose compilers neither find the instructions nor keep the sums in registers.

use core::ops::Range;

use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile, Tiles};
use crate::{GROUP, Input, InputGroup, Matrix, RowsMut, TILE_ROWS, matmul};

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
        let columns = matrix.columns();
        let groups = columns.div_ceil(GROUP);
        let values = input.values;
        let count = input.count;
        match matrix.tiles {
            #[cfg(feature = "f32")]
            Tiles::F32(tiles) => match self.f32 {
                Some(kernel) => product(kernel, tiles, values, columns, count, tile_rows, out),
                None => matmul::matmul(matrix, input, tile_rows, out),
            },
            #[cfg(feature = "f16")]
            Tiles::F16(tiles) => match self.f16 {
                Some(kernel) => product(kernel, tiles, values, columns, count, tile_rows, out),
                None => matmul::matmul(matrix, input, tile_rows, out),
            },
            #[cfg(feature = "bf16")]
            Tiles::Bf16(tiles) => match self.bf16 {
                Some(kernel) => product(kernel, tiles, values, columns, count, tile_rows, out),
                None => matmul::matmul(matrix, input, tile_rows, out),
            },
            #[cfg(feature = "q8")]
            Tiles::Q8(tiles) => {
                product(self.q8, tiles, input.groups, groups, count, tile_rows, out)
            }
            #[cfg(feature = "q4")]
            Tiles::Q4(tiles) => {
                product(self.q4, tiles, input.groups, groups, count, tile_rows, out)
            }
            #[cfg(feature = "q4")]
            Tiles::Q4Min(tiles) => product(
                self.q4min,
                tiles,
                input.groups,
                groups,
                count,
                tile_rows,
                out,
            ),
        }
    }
}

/// `width` is how many `W`s a row and how many `X`s an input has.
#[inline(always)]
fn product<W, X>(
    kernel: Kernel<W, X>,
    tiles: &[W],
    inputs: &[X],
    width: usize,
    count: usize,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let width = width.max(1);
    let mut rest = tiles
        .get(tile_rows.start.saturating_mul(width)..)
        .unwrap_or_default();
    for index in 0..tile_rows.len() {
        let Some((tiles, after)) = rest.split_at_checked(width) else {
            break;
        };
        rest = after;
        let mut inputs = inputs;
        for column in 0..count {
            let Some((x, after)) = inputs.split_at_checked(width) else {
                break;
            };
            inputs = after;
            let out = out
                .column(column)
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
