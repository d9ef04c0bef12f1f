//! The innermost loops of the portable products, for targets with vector registers: they run across
//! the eight lanes of a tile, and the compiler vectorises them. `without_vectors.rs` is for
//! microcontrollers.

use crate::tile::QuantizedTile;
use crate::{GROUP, TILE_ROWS};

/// Inputs that are multiplied with a float tile at the same time: its weights are widened once.
pub(crate) const BLOCK: usize = 4;

/// The products of a tile row of floats with `N` inputs.
#[inline(always)]
pub(crate) fn float<E: Copy, const N: usize>(
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

/// The exact dot products of eight rows with a group of inputs. Columns are added in pairs, as
/// multiply-add instructions (`pmaddwd`, `smlad`) do; for integers the order does not matter.
#[inline(always)]
pub(crate) fn dots(
    weights: &[[[i8; 4]; TILE_ROWS]; GROUP / 4],
    x: &[i16; GROUP],
) -> [i32; TILE_ROWS] {
    let mut x = *x;
    // Back from the order 0 2 1 3 of `InputGroup::values`.
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

/// What the codes of a tile stand for, `[column / 4][row][column % 4]`.
#[inline(never)]
fn values<W: QuantizedTile>(tile: &W) -> [[[i8; 4]; TILE_ROWS]; GROUP / 4] {
    let mut values = [[[0; 4]; TILE_ROWS]; GROUP / 4];
    for (step, values) in values.iter_mut().enumerate() {
        for (row, values) in values.iter_mut().enumerate() {
            *values = tile.codes(step, row).map(W::value);
        }
    }
    values
}

/// [`dots`] with what the codes of a tile stand for.
#[inline(always)]
pub(crate) fn code_dots<W: QuantizedTile>(tile: &W, x: &[i16; GROUP]) -> [i32; TILE_ROWS] {
    dots(&values(tile), x)
}

/// The nibbles of a group as int8 in the order of a q8 tile, 0..=15.
// If it is inlined, LLVM does not vectorise the products after it.
#[inline(never)]
fn widen(nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8]) -> [[[i8; 4]; TILE_ROWS]; GROUP / 4] {
    let mut values = [[[0; 4]; TILE_ROWS]; GROUP / 4];
    for (values, bytes) in values.as_chunks_mut::<2>().0.iter_mut().zip(nibbles) {
        let [low, high] = values;
        let low = low.as_flattened_mut();
        let high = high.as_flattened_mut();
        let bytes = bytes.as_flattened();
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = (byte & 15) as i8;
            *high = (byte >> 4) as i8;
        }
    }
    values
}

/// [`dots`] with nibbles, 0..=15.
#[inline(always)]
pub(crate) fn nibble_dots(
    nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8],
    x: &[i16; GROUP],
) -> [i32; TILE_ROWS] {
    dots(&widen(nibbles), x)
}
