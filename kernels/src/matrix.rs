//! [`Matrix`]: a borrowed view of a matrix in the tile layout (drawn in the crate docs), checked
//! once when it is made.

use bytemuck::{Pod, Zeroable};

use crate::dtype::groups_mut;
use crate::math::{bf16_to_f32, f16_to_f32};
use crate::{DType, GROUP, TILE_ROWS};

/// Eight rows by 32 columns of int8.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Q8Tile {
    /// f16 bits, one a row.
    pub scales: [u16; TILE_ROWS],
    /// `[column / 4][row][column % 4]`.
    pub values: [[[i8; 4]; TILE_ROWS]; GROUP / 4],
}

/// Eight rows by 32 columns of 4-bit values, −8..=7, stored plus 8.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Q4Tile {
    /// f16 bits, one a row.
    pub scales: [u16; TILE_ROWS],
    /// `[column / 8][row][column % 4]`, columns 4..8 of each eight in the high nibbles.
    pub nibbles: [[[u8; 4]; TILE_ROWS]; GROUP / 8],
}

/// Eight rows by 32 columns of 4-bit values, 0..=15, with a minimum: `value * scale + minimum`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Q4MinTile {
    /// f16 bits, one a row.
    pub scales: [u16; TILE_ROWS],
    /// f16 bits, one a row.
    pub minima: [u16; TILE_ROWS],
    /// As in [`Q4Tile`].
    pub nibbles: [[[u8; 4]; TILE_ROWS]; GROUP / 8],
}

/// The tiles of a matrix: for each tile row, its columns (float types) or groups (quantised types)
/// in order.
///
/// There is a variant for each type that is compiled in. Every `match` lists them all, without `_`
/// and without guards: a new type is a compile error wherever something must be decided for it.
#[derive(Clone, Copy)]
pub(crate) enum Tiles<'m> {
    #[cfg(feature = "f32")]
    F32(&'m [[f32; TILE_ROWS]]),
    #[cfg(feature = "f16")]
    F16(&'m [[u16; TILE_ROWS]]),
    #[cfg(feature = "bf16")]
    Bf16(&'m [[u16; TILE_ROWS]]),
    #[cfg(feature = "q8")]
    Q8(&'m [Q8Tile]),
    #[cfg(feature = "q4")]
    Q4(&'m [Q4Tile]),
    #[cfg(feature = "q4")]
    Q4Min(&'m [Q4MinTile]),
}

/// A matrix `[rows][columns]` in the tile layout, borrowed from an image or a key cache.
///
/// Example: [`Isa`](crate::Isa).
#[derive(Clone, Copy)]
pub struct Matrix<'m> {
    rows: usize,
    columns: usize,
    pub(crate) tiles: Tiles<'m>,
}

impl<'m> Matrix<'m> {
    /// The matrix of no rows and no columns.
    pub const EMPTY: Matrix<'static> = Matrix {
        rows: 0,
        columns: 0,
        tiles: cfg_select! {
            feature = "f32" => Tiles::F32(&[]),
            feature = "f16" => Tiles::F16(&[]),
            feature = "bf16" => Tiles::Bf16(&[]),
            feature = "q8" => Tiles::Q8(&[]),
            feature = "q4" => Tiles::Q4(&[]),
        },
    };

    /// A view of `data`, which must have exactly [`DType::matrix_bytes`] bytes and be aligned to 4
    /// bytes. `None` if not, if a dimension is 0, or if the type is not compiled in.
    pub fn new(dtype: DType, rows: usize, columns: usize, data: &'m [u8]) -> Option<Self> {
        if rows == 0 || columns == 0 || dtype.matrix_bytes(rows, columns)? != data.len() {
            return None;
        }
        let tiles = match dtype {
            #[cfg(feature = "f32")]
            DType::F32 => Tiles::F32(bytemuck::try_cast_slice(data).ok()?),
            #[cfg(feature = "f16")]
            DType::F16 => Tiles::F16(bytemuck::try_cast_slice(data).ok()?),
            #[cfg(feature = "bf16")]
            DType::Bf16 => Tiles::Bf16(bytemuck::try_cast_slice(data).ok()?),
            #[cfg(feature = "q8")]
            DType::Q8 => Tiles::Q8(bytemuck::try_cast_slice(data).ok()?),
            #[cfg(feature = "q4")]
            DType::Q4 => Tiles::Q4(bytemuck::try_cast_slice(data).ok()?),
            #[cfg(feature = "q4")]
            DType::Q4Min => Tiles::Q4Min(bytemuck::try_cast_slice(data).ok()?),
            #[cfg(not(feature = "f32"))]
            DType::F32 => return None,
            #[cfg(not(feature = "f16"))]
            DType::F16 => return None,
            #[cfg(not(feature = "bf16"))]
            DType::Bf16 => return None,
            #[cfg(not(feature = "q8"))]
            DType::Q8 => return None,
            #[cfg(not(feature = "q4"))]
            DType::Q4 | DType::Q4Min => return None,
        };
        Some(Matrix {
            rows,
            columns,
            tiles,
        })
    }

    /// Rows, the outputs of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, the inputs of a product.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Tile rows, the unit in which products are computed.
    pub fn tile_rows(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self.tiles {
            #[cfg(feature = "f32")]
            Tiles::F32(_) => DType::F32,
            #[cfg(feature = "f16")]
            Tiles::F16(_) => DType::F16,
            #[cfg(feature = "bf16")]
            Tiles::Bf16(_) => DType::Bf16,
            #[cfg(feature = "q8")]
            Tiles::Q8(_) => DType::Q8,
            #[cfg(feature = "q4")]
            Tiles::Q4(_) => DType::Q4,
            #[cfg(feature = "q4")]
            Tiles::Q4Min(_) => DType::Q4Min,
        }
    }

    /// Writes row `row` to `out`, in f32: `columns` values, fewer if `out` is shorter. Nothing if
    /// there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let tile = row / TILE_ROWS;
        let lane = row % TILE_ROWS;
        match self.tiles {
            #[cfg(feature = "f32")]
            Tiles::F32(tiles) => float_row(tiles, self.columns, tile, lane, out, |w| w),
            #[cfg(feature = "f16")]
            Tiles::F16(tiles) => float_row(tiles, self.columns, tile, lane, out, f16_to_f32),
            #[cfg(feature = "bf16")]
            Tiles::Bf16(tiles) => float_row(tiles, self.columns, tile, lane, out, bf16_to_f32),
            #[cfg(feature = "q8")]
            Tiles::Q8(tiles) => group_row(tiles, self.columns, tile, lane, out, |group, c| {
                let values = group.values.as_flattened().as_flattened();
                let value = values
                    .get(c / 4 * 4 * TILE_ROWS + 4 * lane + c % 4)
                    .copied()
                    .unwrap_or(0);
                value as f32 * f16_to_f32(group.scales[lane % TILE_ROWS])
            }),
            #[cfg(feature = "q4")]
            Tiles::Q4(tiles) => group_row(tiles, self.columns, tile, lane, out, |group, c| {
                (nibble(&group.nibbles, lane, c) as f32 - 8.0)
                    * f16_to_f32(group.scales[lane % TILE_ROWS])
            }),
            #[cfg(feature = "q4")]
            Tiles::Q4Min(tiles) => group_row(tiles, self.columns, tile, lane, out, |group, c| {
                let scale = f16_to_f32(group.scales[lane % TILE_ROWS]);
                let minimum = f16_to_f32(group.minima[lane % TILE_ROWS]);
                nibble(&group.nibbles, lane, c) as f32 * scale + minimum
            }),
        }
    }

    /// Whether every weight is a finite number. Looks at every float, and at the scales and minima
    /// of the quantised types.
    pub fn is_finite(&self) -> bool {
        let f16_finite = |bits: &u16| bits & 0x7c00 != 0x7c00;
        match self.tiles {
            #[cfg(feature = "f32")]
            Tiles::F32(tiles) => all(tiles.as_flattened(), |w| w.is_finite()),
            #[cfg(feature = "f16")]
            Tiles::F16(tiles) => all(tiles.as_flattened(), f16_finite),
            #[cfg(feature = "bf16")]
            Tiles::Bf16(tiles) => all(tiles.as_flattened(), |bits| bits & 0x7f80 != 0x7f80),
            #[cfg(feature = "q8")]
            Tiles::Q8(tiles) => all(tiles, |group| all(&group.scales, f16_finite)),
            #[cfg(feature = "q4")]
            Tiles::Q4(tiles) => all(tiles, |group| all(&group.scales, f16_finite)),
            #[cfg(feature = "q4")]
            Tiles::Q4Min(tiles) => all(tiles, |group| {
                all(&group.scales, f16_finite) && all(&group.minima, f16_finite)
            }),
        }
    }
}

/// `Iterator::all` without the early exit, which would keep the loop from being vectorised.
fn all<T>(items: &[T], test: impl Fn(&T) -> bool) -> bool {
    items.iter().fold(true, |all, item| all & test(item))
}

/// The 4-bit value at column `c` of a group.
fn nibble(nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8], lane: usize, c: usize) -> u8 {
    let byte = nibbles[c / 8 % (GROUP / 8)][lane % TILE_ROWS][c % 4];
    if c % 8 < 4 { byte & 15 } else { byte >> 4 }
}

fn float_row<E: Copy>(
    tiles: &[[E; TILE_ROWS]],
    columns: usize,
    tile: usize,
    lane: usize,
    out: &mut [f32],
    widen: impl Fn(E) -> f32,
) {
    for (out, column) in out.iter_mut().zip(
        tiles
            .iter()
            .skip(tile.saturating_mul(columns))
            .take(columns),
    ) {
        *out = widen(column[lane % TILE_ROWS]);
    }
}

fn group_row<G>(
    tiles: &[G],
    columns: usize,
    tile: usize,
    lane: usize,
    out: &mut [f32],
    weight: impl Fn(&G, usize) -> f32,
) {
    let groups = columns.div_ceil(GROUP);
    debug_assert!(lane < TILE_ROWS);
    let row = tiles.iter().skip(tile.saturating_mul(groups)).take(groups);
    for (out, group) in groups_mut(out).zip(row) {
        for (c, out) in out.iter_mut().enumerate() {
            *out = weight(group, c);
        }
    }
}
