//! [`Matrix`]: a borrowed view of a matrix in the tile layout (see the crate docs), checked
//! once when it is made.

use crate::dtype::groups_mut;
use crate::math::{bf16_to_f32, f16_to_f32};
use crate::tile::{
    Nl3Tile, Nl4Tile, Q4MinTile, Q4Tile, Q5Tile, Q6Tile, Q8Tile, QuantizedTile, Tile, TileRows,
};
use crate::{DType, GROUP, TILE_ROWS};

/// The tiles of a matrix: for each tile row its header, if it has one, and its columns (float
/// types) or groups (quantised types) in order.
///
/// There is a variant for each type that is compiled in. Every `match` lists them all, without `_`
/// and without guards: a new type is a compile error wherever something must be decided for it.
#[derive(Clone, Copy)]
pub(crate) enum Tiles<'m> {
    #[cfg(feature = "f32")]
    F32(TileRows<'m, [f32; TILE_ROWS]>),
    #[cfg(feature = "f16")]
    F16(TileRows<'m, [u16; TILE_ROWS]>),
    #[cfg(feature = "bf16")]
    Bf16(TileRows<'m, [u16; TILE_ROWS]>),
    #[cfg(feature = "q8")]
    Q8(TileRows<'m, Q8Tile>),
    #[cfg(feature = "q6")]
    Q6(TileRows<'m, Q6Tile>),
    #[cfg(feature = "q5")]
    Q5(TileRows<'m, Q5Tile>),
    #[cfg(feature = "q4")]
    Q4(TileRows<'m, Q4Tile>),
    #[cfg(feature = "q4")]
    Q4Min(TileRows<'m, Q4MinTile>),
    #[cfg(feature = "nl4")]
    Nl4(TileRows<'m, Nl4Tile>),
    #[cfg(feature = "nl3")]
    Nl3(TileRows<'m, Nl3Tile>),
}

/// `match` on [`Tiles`] with one arm for all quantised types, which calls something that is generic
/// over the tile.
macro_rules! match_tiles {
    (
        $tiles:expr;
        F32($f32:ident) => $of_f32:expr,
        F16($f16:ident) => $of_f16:expr,
        Bf16($bf16:ident) => $of_bf16:expr,
        groups($rows:ident) => $of_groups:expr $(,)?
    ) => {
        match $tiles {
            #[cfg(feature = "f32")]
            $crate::matrix::Tiles::F32($f32) => $of_f32,
            #[cfg(feature = "f16")]
            $crate::matrix::Tiles::F16($f16) => $of_f16,
            #[cfg(feature = "bf16")]
            $crate::matrix::Tiles::Bf16($bf16) => $of_bf16,
            #[cfg(feature = "q8")]
            $crate::matrix::Tiles::Q8($rows) => $of_groups,
            #[cfg(feature = "q6")]
            $crate::matrix::Tiles::Q6($rows) => $of_groups,
            #[cfg(feature = "q5")]
            $crate::matrix::Tiles::Q5($rows) => $of_groups,
            #[cfg(feature = "q4")]
            $crate::matrix::Tiles::Q4($rows) => $of_groups,
            #[cfg(feature = "q4")]
            $crate::matrix::Tiles::Q4Min($rows) => $of_groups,
            #[cfg(feature = "nl4")]
            $crate::matrix::Tiles::Nl4($rows) => $of_groups,
            #[cfg(feature = "nl3")]
            $crate::matrix::Tiles::Nl3($rows) => $of_groups,
        }
    };
}
pub(crate) use match_tiles;

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
            feature = "f32" => Tiles::F32(TileRows::EMPTY),
            feature = "f16" => Tiles::F16(TileRows::EMPTY),
            feature = "bf16" => Tiles::Bf16(TileRows::EMPTY),
            feature = "q8" => Tiles::Q8(TileRows::EMPTY),
            feature = "q6" => Tiles::Q6(TileRows::EMPTY),
            feature = "q5" => Tiles::Q5(TileRows::EMPTY),
            feature = "q4" => Tiles::Q4(TileRows::EMPTY),
            feature = "nl4" => Tiles::Nl4(TileRows::EMPTY),
            feature = "nl3" => Tiles::Nl3(TileRows::EMPTY),
        },
    };

    /// A view of `data`, which must have exactly [`DType::matrix_bytes`] bytes and be aligned to 4
    /// bytes. `None` if not, if a dimension is 0, or if the type is not compiled in.
    pub fn new(dtype: DType, rows: usize, columns: usize, data: &'m [u8]) -> Option<Self> {
        if rows == 0 || columns == 0 || dtype.matrix_bytes(rows, columns)? != data.len() {
            return None;
        }
        // A tile row holds a tile for each column, or for each group.
        let width = if dtype.is_quantized() {
            columns.div_ceil(GROUP)
        } else {
            columns
        };
        let tiles = match dtype {
            #[cfg(feature = "f32")]
            DType::F32 => Tiles::F32(TileRows::new(data, width)?),
            #[cfg(feature = "f16")]
            DType::F16 => Tiles::F16(TileRows::new(data, width)?),
            #[cfg(feature = "bf16")]
            DType::Bf16 => Tiles::Bf16(TileRows::new(data, width)?),
            #[cfg(feature = "q8")]
            DType::Q8 => Tiles::Q8(TileRows::new(data, width)?),
            #[cfg(feature = "q6")]
            DType::Q6 => Tiles::Q6(TileRows::new(data, width)?),
            #[cfg(feature = "q5")]
            DType::Q5 => Tiles::Q5(TileRows::new(data, width)?),
            #[cfg(feature = "q4")]
            DType::Q4 => Tiles::Q4(TileRows::new(data, width)?),
            #[cfg(feature = "q4")]
            DType::Q4Min => Tiles::Q4Min(TileRows::new(data, width)?),
            #[cfg(feature = "nl4")]
            DType::Nl4 => Tiles::Nl4(TileRows::new(data, width)?),
            #[cfg(feature = "nl3")]
            DType::Nl3 => Tiles::Nl3(TileRows::new(data, width)?),
            #[cfg(not(feature = "f32"))]
            DType::F32 => return None,
            #[cfg(not(feature = "f16"))]
            DType::F16 => return None,
            #[cfg(not(feature = "bf16"))]
            DType::Bf16 => return None,
            #[cfg(not(feature = "q8"))]
            DType::Q8 => return None,
            #[cfg(not(feature = "q6"))]
            DType::Q6 => return None,
            #[cfg(not(feature = "q5"))]
            DType::Q5 => return None,
            #[cfg(not(feature = "q4"))]
            DType::Q4 | DType::Q4Min => return None,
            #[cfg(not(feature = "nl4"))]
            DType::Nl4 => return None,
            #[cfg(not(feature = "nl3"))]
            DType::Nl3 => return None,
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
            #[cfg(feature = "q6")]
            Tiles::Q6(_) => DType::Q6,
            #[cfg(feature = "q5")]
            Tiles::Q5(_) => DType::Q5,
            #[cfg(feature = "q4")]
            Tiles::Q4(_) => DType::Q4,
            #[cfg(feature = "q4")]
            Tiles::Q4Min(_) => DType::Q4Min,
            #[cfg(feature = "nl4")]
            Tiles::Nl4(_) => DType::Nl4,
            #[cfg(feature = "nl3")]
            Tiles::Nl3(_) => DType::Nl3,
        }
    }

    /// Writes row `row` to `out`, in f32: `columns` values, fewer if `out` is shorter. Nothing if
    /// there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        match_tiles!(self.tiles;
            F32(rows) => float_row(rows, row, out, |w| w),
            F16(rows) => float_row(rows, row, out, f16_to_f32),
            Bf16(rows) => float_row(rows, row, out, bf16_to_f32),
            groups(rows) => group_row(rows, row, out),
        )
    }

    /// Whether every weight is a finite number. Looks at every float, and at the scales and minima
    /// of the quantised types.
    pub fn is_finite(&self) -> bool {
        let is_f16 = |bits: &u16| bits & 0x7c00 != 0x7c00;
        let is_bf16 = |bits: &u16| bits & 0x7f80 != 0x7f80;
        // The largest weight of a row is 127 * 128 times its scale.
        let is_row_scale = |bits: &u16| (bf16_to_f32(*bits) * 16384.0).is_finite();
        match self.tiles {
            #[cfg(feature = "f32")]
            Tiles::F32(rows) => all_rows(rows, |_| true, |tile| all(tile, |w| w.is_finite())),
            #[cfg(feature = "f16")]
            Tiles::F16(rows) => all_rows(rows, |_| true, |tile| all(tile, is_f16)),
            #[cfg(feature = "bf16")]
            Tiles::Bf16(rows) => all_rows(rows, |_| true, |tile| all(tile, is_bf16)),
            #[cfg(feature = "q8")]
            Tiles::Q8(rows) => all_rows(rows, |_| true, |tile| all(&tile.scales, is_f16)),
            #[cfg(feature = "q6")]
            Tiles::Q6(rows) => all_rows(rows, |_| true, |tile| all(&tile.scales, is_f16)),
            #[cfg(feature = "q5")]
            Tiles::Q5(rows) => all_rows(rows, |_| true, |tile| all(&tile.scales, is_f16)),
            #[cfg(feature = "q4")]
            Tiles::Q4(rows) => all_rows(rows, |_| true, |tile| all(&tile.scales, is_f16)),
            #[cfg(feature = "q4")]
            Tiles::Q4Min(rows) => all_rows(
                rows,
                |_| true,
                |tile| all(&tile.scales, is_f16) && all(&tile.minima, is_f16),
            ),
            #[cfg(feature = "nl4")]
            Tiles::Nl4(rows) => all_rows(rows, |header| all(header, is_row_scale), |_| true),
            #[cfg(feature = "nl3")]
            Tiles::Nl3(rows) => all_rows(rows, |header| all(header, is_row_scale), |_| true),
        }
    }
}

/// Whether the headers and the tiles of all rows pass.
fn all_rows<W: Tile>(
    rows: TileRows<'_, W>,
    header: impl Fn(&W::Header) -> bool,
    tile: impl Fn(&W) -> bool,
) -> bool {
    rows.iter()
        .all(|row| header(&row.header) && all(row.tiles, &tile))
}

/// `Iterator::all` without the early exit, which would keep the loop from being vectorised.
fn all<T>(items: &[T], test: impl Fn(&T) -> bool) -> bool {
    items.iter().fold(true, |all, item| all & test(item))
}

fn float_row<E: Copy>(
    rows: TileRows<'_, [E; TILE_ROWS]>,
    row: usize,
    out: &mut [f32],
    widen: impl Fn(E) -> f32,
) where
    [E; TILE_ROWS]: Tile,
{
    let tiles = rows.row(row / TILE_ROWS).tiles;
    for (out, column) in out.iter_mut().zip(tiles) {
        *out = widen(column[row % TILE_ROWS]);
    }
}

fn group_row<W: QuantizedTile>(rows: TileRows<'_, W>, row: usize, out: &mut [f32]) {
    let tile_row = rows.row(row / TILE_ROWS);
    let lane = row % TILE_ROWS;
    for (out, tile) in groups_mut(out).zip(tile_row.tiles) {
        let scale = tile.scale(&tile_row.header, lane);
        let minimum = tile.minimum(lane);
        for (c, out) in out.iter_mut().enumerate() {
            let codes = u32::from_le_bytes(tile.codes(c / 4, lane));
            let value = W::value((codes >> (8 * (c % 4))) as u8) as i32 - W::OFFSET;
            let weight = value as f32 * scale;
            *out = minimum.map_or(weight, |minimum| weight + minimum);
        }
    }
}
