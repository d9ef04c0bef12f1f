//! The tiles that a matrix is stored in: eight rows by one column of floats, or by a group of 32
//! columns of integers.

use core::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::dtype::{LEVELS_3, LEVELS_4};
use crate::math::{bf16_to_f32, f16_to_f32};
use crate::{GROUP, TILE_ROWS, inner_loops};

/// A tile.
pub(crate) trait Tile: Pod {
    /// What a tile row begins with, before its tiles.
    type Header: Pod;
}

impl<E: Copy> Tile for [E; TILE_ROWS]
where
    [E; TILE_ROWS]: Pod,
{
    type Header = [u16; 0];
}

/// A tile with a scale for each of its rows.
pub(crate) trait Scaled: Tile {
    /// The scale of a row.
    fn scale(&self, header: &Self::Header, row: usize) -> f32;
}

/// A group of 32 columns. Its values are stored in eight steps of four columns.
pub(crate) trait QuantizedTile: Scaled {
    /// The value of a column is `value(code) - OFFSET`.
    const OFFSET: i32;

    /// The codes of four columns of a row.
    fn codes(&self, step: usize, row: usize) -> [u8; 4];

    /// The exact dot products of what the codes stand for, before [`OFFSET`](Self::OFFSET) is
    /// subtracted, with a group of inputs.
    #[inline(always)]
    fn dots(&self, x: &[i16; GROUP]) -> [i32; TILE_ROWS] {
        inner_loops::code_dots(self, x)
    }

    /// What a code stands for.
    #[inline(always)]
    fn value(code: u8) -> i8 {
        code as i8
    }

    /// The minimum of a row, for the types that have one.
    #[inline(always)]
    fn minimum(&self, _row: usize) -> Option<f32> {
        None
    }
}

/// `N` bits of each code, in `N` vectors of 32 bytes, `[row][column % 4]`. The first vector holds
/// the first `8 / N` steps, the first of them in the lowest bits.
pub(crate) type Plane<const N: usize> = [[[u8; 4]; TILE_ROWS]; N];

/// The bits of four columns of a row in a plane.
#[inline(always)]
fn bits<const N: usize>(plane: &Plane<N>, step: usize, row: usize) -> u32 {
    let word = u32::from_le_bytes(plane[step * N / 8 % N][row % TILE_ROWS]);
    let mask = 0x0101_0101 * ((1 << N) - 1);
    word >> (N * (step % (8 / N))) & mask
}

/// Writes the lowest bits of the codes of a row to a plane.
pub(crate) fn put_bits<const N: usize>(plane: &mut Plane<N>, row: usize, codes: &[u8; GROUP]) {
    for (column, code) in codes.iter().enumerate() {
        let step = column / 4;
        let shift = N * (step % (8 / N));
        let mask = ((1u32 << N) - 1) as u8;
        let byte = &mut plane[step * N / 8 % N][row % TILE_ROWS][column % 4];
        *byte = *byte & !(mask << shift) | (code & mask) << shift;
    }
}

/// int8.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Q8Tile {
    /// f16 bits, one a row.
    pub scales: [u16; TILE_ROWS],
    /// `[column / 4][row][column % 4]`.
    pub values: [[[i8; 4]; TILE_ROWS]; GROUP / 4],
}

/// 6-bit values, −32..=31, stored plus 32.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Q6Tile {
    /// f16 bits, one a row.
    pub scales: [u16; TILE_ROWS],
    pub low: Plane<4>,
    pub high: Plane<2>,
}

/// 5-bit values, −16..=15, stored plus 16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Q5Tile {
    /// f16 bits, one a row.
    pub scales: [u16; TILE_ROWS],
    pub low: Plane<4>,
    pub high: Plane<1>,
}

/// 4-bit values, −8..=7, stored plus 8.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Q4Tile {
    /// f16 bits, one a row.
    pub scales: [u16; TILE_ROWS],
    pub nibbles: Plane<4>,
}

/// 4-bit values, 0..=15, with a minimum: `value * scale + minimum`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Q4MinTile {
    /// f16 bits, one a row.
    pub scales: [u16; TILE_ROWS],
    /// f16 bits, one a row.
    pub minima: [u16; TILE_ROWS],
    pub nibbles: Plane<4>,
}

/// Codes of 16 levels. The header of a tile row is its rows' scales, in bf16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Nl4Tile {
    /// Multiples of the row's scale.
    pub scales: [i8; TILE_ROWS],
    pub codes: Plane<4>,
}

/// Codes of 8 levels. The header of a tile row is its rows' scales, in bf16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Nl3Tile {
    /// Multiples of the row's scale.
    pub scales: [i8; TILE_ROWS],
    pub low: Plane<2>,
    pub high: Plane<1>,
}

/// The header of a tile row of uneven levels: bf16 bits, one a row.
pub(crate) type RowScales = [u16; TILE_ROWS];

/// A scale in f16 for each row.
macro_rules! f16_scales {
    ($($tile:ty),*) => {$(
        impl Tile for $tile {
            type Header = [u16; 0];
        }

        impl Scaled for $tile {
            #[inline(always)]
            fn scale(&self, _: &[u16; 0], row: usize) -> f32 {
                f16_to_f32(self.scales[row % TILE_ROWS])
            }
        }
    )*};
}
f16_scales!(Q8Tile, Q6Tile, Q5Tile, Q4Tile, Q4MinTile);

/// A multiple of the scale of the whole row, for each row.
macro_rules! row_scales {
    ($($tile:ty),*) => {$(
        impl Tile for $tile {
            type Header = RowScales;
        }

        impl Scaled for $tile {
            #[inline(always)]
            fn scale(&self, header: &RowScales, row: usize) -> f32 {
                self.scales[row % TILE_ROWS] as f32 * bf16_to_f32(header[row % TILE_ROWS])
            }
        }
    )*};
}
row_scales!(Nl4Tile, Nl3Tile);

impl QuantizedTile for Q8Tile {
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn codes(&self, step: usize, row: usize) -> [u8; 4] {
        bytemuck::cast(self.values[step % (GROUP / 4)][row % TILE_ROWS])
    }

    #[inline(always)]
    fn dots(&self, x: &[i16; GROUP]) -> [i32; TILE_ROWS] {
        inner_loops::dots(&self.values, x)
    }
}

impl QuantizedTile for Q6Tile {
    const OFFSET: i32 = 32;

    #[inline(always)]
    fn codes(&self, step: usize, row: usize) -> [u8; 4] {
        (bits(&self.low, step, row) | bits(&self.high, step, row) << 4).to_le_bytes()
    }
}

impl QuantizedTile for Q5Tile {
    const OFFSET: i32 = 16;

    #[inline(always)]
    fn codes(&self, step: usize, row: usize) -> [u8; 4] {
        (bits(&self.low, step, row) | bits(&self.high, step, row) << 4).to_le_bytes()
    }
}

impl QuantizedTile for Q4Tile {
    const OFFSET: i32 = 8;

    #[inline(always)]
    fn codes(&self, step: usize, row: usize) -> [u8; 4] {
        bits(&self.nibbles, step, row).to_le_bytes()
    }

    #[inline(always)]
    fn dots(&self, x: &[i16; GROUP]) -> [i32; TILE_ROWS] {
        inner_loops::nibble_dots(&self.nibbles, x)
    }
}

impl QuantizedTile for Q4MinTile {
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn codes(&self, step: usize, row: usize) -> [u8; 4] {
        bits(&self.nibbles, step, row).to_le_bytes()
    }

    #[inline(always)]
    fn dots(&self, x: &[i16; GROUP]) -> [i32; TILE_ROWS] {
        inner_loops::nibble_dots(&self.nibbles, x)
    }

    #[inline(always)]
    fn minimum(&self, row: usize) -> Option<f32> {
        Some(f16_to_f32(self.minima[row % TILE_ROWS]))
    }
}

impl QuantizedTile for Nl4Tile {
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn codes(&self, step: usize, row: usize) -> [u8; 4] {
        bits(&self.codes, step, row).to_le_bytes()
    }

    #[inline(always)]
    fn value(code: u8) -> i8 {
        LEVELS_4[code as usize % LEVELS_4.len()]
    }
}

impl QuantizedTile for Nl3Tile {
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn codes(&self, step: usize, row: usize) -> [u8; 4] {
        (bits(&self.low, step, row) | bits(&self.high, step, row) << 2).to_le_bytes()
    }

    #[inline(always)]
    fn value(code: u8) -> i8 {
        LEVELS_3[code as usize % LEVELS_3.len()]
    }
}

/// The tile rows of a matrix, or some of them. In its functions, a row is a tile row.
#[derive(Clone, Copy)]
pub(crate) struct TileRows<'m, W> {
    /// All tiles, if rows have no headers: a row is then found without a division.
    tiles: &'m [W],
    /// All bytes, if they have.
    bytes: &'m [u8],
    /// Tiles of a row.
    width: usize,
}

/// A tile row.
#[derive(Clone, Copy)]
pub(crate) struct TileRow<'m, W: Tile> {
    pub header: W::Header,
    pub tiles: &'m [W],
}

impl<'m, W: Tile> TileRows<'m, W> {
    const HEADER: usize = size_of::<W::Header>();

    /// No rows.
    pub(crate) const EMPTY: TileRows<'static, W> = TileRows {
        tiles: &[],
        bytes: &[],
        width: 0,
    };

    /// The rows of `width` tiles each in `data`; `None` if `data` is not aligned for them.
    pub(crate) fn new(data: &'m [u8], width: usize) -> Option<Self> {
        let (tiles, bytes): (&[W], &[u8]) = match Self::HEADER {
            0 => (bytemuck::try_cast_slice(data).ok()?, &[]),
            _ if data.as_ptr().cast::<W>().is_aligned() => (&[], data),
            _ => return None,
        };
        Some(TileRows {
            tiles,
            bytes,
            width,
        })
    }

    /// Tiles of a row, and groups or columns of an input.
    #[inline(always)]
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    fn row_bytes(&self) -> usize {
        Self::HEADER + self.width * size_of::<W>()
    }

    /// How many rows there are.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        let len = match Self::HEADER {
            0 => self.tiles.len().checked_div(self.width),
            _ => self.bytes.len().checked_div(self.row_bytes()),
        };
        len.unwrap_or(0)
    }

    /// Those of the rows `range` that exist.
    #[inline(always)]
    pub(crate) fn range(self, range: Range<usize>) -> Self {
        match Self::HEADER {
            0 => TileRows {
                tiles: some(self.tiles, &range, self.width),
                ..self
            },
            _ => TileRows {
                bytes: some(self.bytes, &range, self.row_bytes()),
                ..self
            },
        }
    }

    /// Tile row `index`; one of no tiles if there is no such row.
    #[inline(always)]
    pub(crate) fn row(&self, index: usize) -> TileRow<'m, W> {
        if Self::HEADER == 0 {
            let rest = self.tiles.get(index * self.width..);
            let tiles = rest.and_then(|rest| rest.get(..self.width));
            return TileRow {
                header: W::Header::zeroed(),
                tiles: tiles.unwrap_or_default(),
            };
        }
        let bytes = self.row_bytes();
        let row = self.bytes.get(index * bytes..(index + 1) * bytes);
        let (header, tiles) = row
            .and_then(|row| row.split_at_checked(Self::HEADER))
            .unwrap_or_default();
        TileRow {
            header: bytemuck::try_pod_read_unaligned(header).unwrap_or(W::Header::zeroed()),
            tiles: bytemuck::try_cast_slice(tiles).unwrap_or_default(),
        }
    }

    /// All rows.
    #[inline(always)]
    pub(crate) fn iter(self) -> impl Iterator<Item = TileRow<'m, W>> {
        (0..self.len()).map(move |index| self.row(index))
    }
}

/// Those of the chunks `range` of `length` items that exist.
#[inline(always)]
fn some<'a, T>(items: &'a [T], range: &Range<usize>, length: usize) -> &'a [T] {
    let start = range.start.saturating_mul(length);
    let end = range.end.saturating_mul(length).min(items.len());
    items.get(start..end).unwrap_or_default()
}
