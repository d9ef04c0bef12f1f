//! The innermost loops of the portable products, for cores without vector registers
//! (microcontrollers).
//!
//! Those of `with_vectors.rs` run across the eight lanes of a tile. Here the lanes are written out,
//! so that sums and inputs stay in registers. A compiler for a small core does not do that by
//! itself, least of all at `opt-level = "s"`: its loop over rows loads and stores a sum in every
//! iteration.

use bytemuck::cast_ref;

use crate::soft_float::add_product;
use crate::tile::QuantizedTile;
use crate::{GROUP, TILE_ROWS};

/// Inputs that are multiplied with a float tile at the same time. A tile is read again for each
/// input anyway, so a larger block would only be more code.
pub(crate) const BLOCK: usize = 1;

/// The exact dot products of eight rows with a group of inputs, four rows at a time: twelve
/// registers hold their sums and the inputs of four columns.
pub(crate) fn dots(
    weights: &[[[i8; 4]; TILE_ROWS]; GROUP / 4],
    x: &[i16; GROUP],
) -> [i32; TILE_ROWS] {
    let weights: &[[[[u8; 4]; 4]; 2]; GROUP / 4] = cast_ref(weights);
    let mut dots = [[0; 4]; 2];
    for (half, dots) in dots.iter_mut().enumerate() {
        for ([top, bottom], x) in weights.iter().zip(x.as_chunks::<4>().0) {
            let rows = if half == 0 { top } else { bottom };
            *dots = add_products(*dots, rows, x, |byte| byte as i8 as i32);
        }
    }
    bytemuck::cast(dots)
}

/// [`dots`] with nibbles, 0..=15.
pub(crate) fn nibble_dots(
    nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8],
    x: &[i16; GROUP],
) -> [i32; TILE_ROWS] {
    let nibbles: &[[[[u8; 4]; 4]; 2]; GROUP / 8] = cast_ref(nibbles);
    let x: &[[[i16; 4]; 2]; GROUP / 8] = cast_ref(x);
    let mut dots = [[0; 4]; 2];
    for (half, dots) in dots.iter_mut().enumerate() {
        for ([top, bottom], [low, high]) in nibbles.iter().zip(x) {
            let rows = if half == 0 { top } else { bottom };
            *dots = add_products(*dots, rows, low, |byte| (byte & 15) as i32);
            *dots = add_products(*dots, rows, high, |byte| (byte >> 4) as i32);
        }
    }
    bytemuck::cast(dots)
}

/// [`dots`] with what the codes of a tile stand for.
pub(crate) fn code_dots<W: QuantizedTile>(tile: &W, x: &[i16; GROUP]) -> [i32; TILE_ROWS] {
    let x: &[[[i16; 4]; 2]; GROUP / 8] = cast_ref(x);
    let mut dots = [[0; 4]; 2];
    for (half, dots) in dots.iter_mut().enumerate() {
        for (pair, x) in x.iter().enumerate() {
            for (step, x) in x.iter().enumerate() {
                let row = |row: usize| tile.codes(2 * pair + step, 4 * half + row);
                let rows = [row(0), row(1), row(2), row(3)];
                *dots = add_products(*dots, &rows, x, |code| W::value(code) as i32);
            }
        }
    }
    bytemuck::cast(dots)
}

/// Adds the products of four rows by four columns. Inputs are in the order of columns 0 2 1 3.
#[inline(always)]
fn add_products(
    [a, b, c, d]: [i32; 4],
    [of_a, of_b, of_c, of_d]: &[[u8; 4]; 4],
    &[x0, x2, x1, x3]: &[i16; 4],
    value: impl Fn(u8) -> i32,
) -> [i32; 4] {
    let [x0, x1, x2, x3] = [x0 as i32, x1 as i32, x2 as i32, x3 as i32];
    let add = |sum: i32, w: &[u8; 4]| {
        sum + value(w[0]) * x0 + value(w[1]) * x1 + value(w[2]) * x2 + value(w[3]) * x3
    };
    [add(a, of_a), add(b, of_b), add(c, of_c), add(d, of_d)]
}

/// The products of a tile row of floats with `N` inputs, one input after the other: no more than
/// eight sums stay in registers.
#[inline(always)]
pub(crate) fn float<E: Copy, const N: usize>(
    tile: &[[E; TILE_ROWS]],
    x: [&[f32]; N],
    widen: impl Fn(E) -> f32 + Copy,
) -> [[f32; TILE_ROWS]; N] {
    let mut sums = [[0.0; TILE_ROWS]; N];
    for (sums, x) in sums.iter_mut().zip(x) {
        for (w, x) in tile.iter().zip(x) {
            let [a, b, c, d, e, f, g, h] = *w;
            let [sum_a, sum_b, sum_c, sum_d, sum_e, sum_f, sum_g, sum_h] = *sums;
            *sums = [
                add_product(sum_a, widen(a), *x),
                add_product(sum_b, widen(b), *x),
                add_product(sum_c, widen(c), *x),
                add_product(sum_d, widen(d), *x),
                add_product(sum_e, widen(e), *x),
                add_product(sum_f, widen(f), *x),
                add_product(sum_g, widen(g), *x),
                add_product(sum_h, widen(h), *x),
            ];
        }
    }
    sums
}
