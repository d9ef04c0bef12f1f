//! 32-bit Arm microcontrollers.
//!
//! Compilers for them find neither the multiply-adds of pairs nor a schedule that keeps sums in registers, so a whole tile
//! row with one input is one function of assembly; the walk around it is here. Products of float matrices stay portable.

#[cfg(feature = "dsp")]
mod dsp;
#[cfg(feature = "mve")]
mod mve;

use core::ops::Range;

use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile, Tiles};
use crate::{GROUP, Input, InputGroup, Isa, Matrix, RowsMut, TILE_ROWS, matmul};

/// What this machine can run: what the cargo features say.
pub(crate) fn tables() -> [Option<&'static Isa>; 2] {
    [
        #[cfg(feature = "mve")]
        Some(&mve::MVE),
        #[cfg(feature = "dsp")]
        Some(&dsp::DSP),
        #[cfg(not(all(feature = "mve", feature = "dsp")))]
        None,
    ]
}

/// Writes the products of a tile row of `groups` groups, at least one, with an input as long to eight sums.
type Kernel<W> =
    unsafe extern "C" fn(tiles: *const W, x: *const InputGroup, groups: usize, sums: *mut [f32; TILE_ROWS]);

/// The kernels of an instruction set.
struct Kernels {
    q8: Kernel<Q8Tile>,
    q4: Kernel<Q4Tile>,
    q4min: Kernel<Q4MinTile>,
}

impl Kernels {
    /// [`Isa::matmul`] with these.
    #[inline(always)]
    fn matmul(&self, matrix: &Matrix<'_>, input: &Input<'_>, tile_rows: Range<usize>, out: &mut RowsMut<'_>) {
        let groups = matrix.columns().div_ceil(GROUP);
        match matrix.tiles {
            Tiles::Q8(tiles) if cfg!(feature = "q8") => product(self.q8, tiles, groups, input, tile_rows, out),
            Tiles::Q4(tiles) if cfg!(feature = "q4") => product(self.q4, tiles, groups, input, tile_rows, out),
            Tiles::Q4Min(tiles) if cfg!(feature = "q4") => product(self.q4min, tiles, groups, input, tile_rows, out),
            _ => matmul::float_matrix(matrix, input, tile_rows, out),
        }
    }
}

#[inline(always)]
fn product<W>(
    kernel: Kernel<W>,
    tiles: &[W],
    groups: usize,
    input: &Input<'_>,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
) {
    let groups = groups.max(1);
    let mut rest = tiles.get(tile_rows.start.saturating_mul(groups)..).unwrap_or_default();
    for index in 0..tile_rows.len() {
        let Some((tiles, after)) = rest.split_at_checked(groups) else { break };
        rest = after;
        let mut inputs = input.groups;
        for column in 0..input.count {
            let Some((x, after)) = inputs.split_at_checked(groups) else { break };
            inputs = after;
            let out = out.column(column).get_mut(index * TILE_ROWS..).unwrap_or_default();
            // SAFETY: both slices hold `groups` elements, which is not 0; whoever hands out the table says that the core has
            // the instructions.
            let run = |sums: &mut [f32; TILE_ROWS]| unsafe { kernel(tiles.as_ptr(), x.as_ptr(), groups, sums) };
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
