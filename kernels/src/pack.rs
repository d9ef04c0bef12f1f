//! Writes rows in the tile layout: the weights of an image on the host, and keys on the device.

use crate::dtype::groups;
use crate::math::{bf16_from_f32, f16_from_f32, f16_to_f32, round_to_i32};
use crate::tile::{
    Nl3Tile, Nl4Tile, Q4MinTile, Q4Tile, Q5Tile, Q6Tile, Q8Tile, RowScales, put_bits,
};
use crate::{DType, GROUP, TILE_ROWS};

/// Writes `row` as row `lane` of a tile row, `tile_row` being [`DType::tile_row_bytes`] long and
/// aligned to 4 bytes. Floats are rounded to nearest. q8 takes the group's largest magnitude over
/// 127, rounded to f16, as the scale and the nearest multiple of it for each weight. Writes nothing
/// if the lengths do not fit, if the type is not compiled in, or for the types of 3 to 6 bits,
/// whose scales the caller chooses: see [`pack_q4_group`], [`pack_values`] and [`pack_codes`].
pub fn pack_row(dtype: DType, tile_row: &mut [u8], lane: usize, row: &[f32]) {
    if !dtype.enabled() {
        return;
    }
    let lane = lane % TILE_ROWS;
    match dtype {
        DType::F32 => pack_floats(tile_row, lane, row, |x| x),
        DType::F16 => pack_floats(tile_row, lane, row, f16_from_f32),
        DType::Bf16 => pack_floats(tile_row, lane, row, bf16_from_f32),
        DType::Q8 => {
            for (index, group) in groups(row).enumerate() {
                let (scale, values) = quantize_q8(group);
                pack_q8_group(tile_row, lane, index, scale, &values);
            }
        }
        DType::Q6 | DType::Q5 | DType::Q4 | DType::Q4Min | DType::Nl4 | DType::Nl3 => {}
    }
}

/// The f16 scale and values of up to 32 weights in q8.
pub(crate) fn quantize_q8(weights: &[f32]) -> (u16, [i8; GROUP]) {
    let largest = weights.iter().fold(
        0.0,
        |largest: f32, w| if w.abs() > largest { w.abs() } else { largest },
    );
    let scale = f16_from_f32(largest / 127.0);
    let step = f16_to_f32(scale);
    let mut values = [0; GROUP];
    if step > 0.0 {
        for (value, w) in values.iter_mut().zip(weights) {
            *value = round_to_i32((w / step).clamp(-127.0, 127.0)) as i8;
        }
    }
    (scale, values)
}

fn pack_floats<E: bytemuck::Pod>(
    tile_row: &mut [u8],
    lane: usize,
    row: &[f32],
    narrow: fn(f32) -> E,
) where
    [E; TILE_ROWS]: bytemuck::Pod,
{
    let columns: &mut [[E; TILE_ROWS]] = bytemuck::try_cast_slice_mut(tile_row).unwrap_or_default();
    for (column, &x) in columns.iter_mut().zip(row) {
        column[lane % TILE_ROWS] = narrow(x);
    }
}

/// Writes 32 int8 weights with their f16 scale as group `index` of row `lane` of a q8 tile row.
pub fn pack_q8_group(
    tile_row: &mut [u8],
    lane: usize,
    index: usize,
    scale: u16,
    values: &[i8; GROUP],
) {
    let tiles: &mut [Q8Tile] = bytemuck::try_cast_slice_mut(tile_row).unwrap_or_default();
    if let Some(tile) = tiles.get_mut(index) {
        tile.scales[lane % TILE_ROWS] = scale;
        for (step, four) in tile.values.iter_mut().zip(values.as_chunks::<4>().0) {
            step[lane % TILE_ROWS] = *four;
        }
    }
}

/// Writes 32 values of 0..=15 with their f16 scale as group `index` of row `lane` of a 4-bit tile
/// row: q4 without a minimum (weight = `(value − 8) * scale`), q4min with one (weight =
/// `value * scale + minimum`).
pub fn pack_q4_group(
    tile_row: &mut [u8],
    lane: usize,
    index: usize,
    scale: u16,
    minimum: Option<u16>,
    values: &[u8; GROUP],
) {
    let lane = lane % TILE_ROWS;
    let nibbles = match minimum {
        None => {
            let tiles: &mut [Q4Tile] = bytemuck::try_cast_slice_mut(tile_row).unwrap_or_default();
            let Some(tile) = tiles.get_mut(index) else {
                return;
            };
            tile.scales[lane] = scale;
            &mut tile.nibbles
        }
        Some(minimum) => {
            let tiles: &mut [Q4MinTile] =
                bytemuck::try_cast_slice_mut(tile_row).unwrap_or_default();
            let Some(tile) = tiles.get_mut(index) else {
                return;
            };
            tile.scales[lane] = scale;
            tile.minima[lane] = minimum;
            &mut tile.nibbles
        }
    };
    put_bits(nibbles, lane, values);
}

/// Writes 32 values with their f16 scale as group `index` of row `lane` of a tile row of q6 (values
/// of −32..=31) or q5 (−16..=15). Nothing for another type.
pub fn pack_values(
    dtype: DType,
    tile_row: &mut [u8],
    lane: usize,
    index: usize,
    scale: u16,
    values: &[i8; GROUP],
) {
    let lane = lane % TILE_ROWS;
    let codes = |offset: i8| values.map(|value| value.wrapping_add(offset) as u8);
    match dtype {
        DType::Q6 => {
            let tiles: &mut [Q6Tile] = bytemuck::try_cast_slice_mut(tile_row).unwrap_or_default();
            if let Some(tile) = tiles.get_mut(index) {
                tile.scales[lane] = scale;
                put_bits(&mut tile.low, lane, &codes(32));
                put_bits(&mut tile.high, lane, &codes(32).map(|code| code >> 4));
            }
        }
        DType::Q5 => {
            let tiles: &mut [Q5Tile] = bytemuck::try_cast_slice_mut(tile_row).unwrap_or_default();
            if let Some(tile) = tiles.get_mut(index) {
                tile.scales[lane] = scale;
                put_bits(&mut tile.low, lane, &codes(16));
                put_bits(&mut tile.high, lane, &codes(16).map(|code| code >> 4));
            }
        }
        DType::F32 | DType::F16 | DType::Bf16 | DType::Q8 | DType::Q4 | DType::Q4Min => {}
        DType::Nl4 | DType::Nl3 => {}
    }
}

/// Writes the scale of row `lane` of a tile row of nl4 or nl3, in bf16. Nothing for another type.
///
/// bf16, because a row scale is small: the largest weight over 127 * 127. f16 would have few steps
/// there. Its own rounding costs nothing, since the scales of the groups are chosen after it.
pub fn pack_row_scale(dtype: DType, tile_row: &mut [u8], lane: usize, scale: u16) {
    if !dtype.levels().is_empty()
        && let Some((header, _)) = tile_row.split_at_mut_checked(size_of::<RowScales>())
        && let Ok(header) = bytemuck::try_from_bytes_mut::<RowScales>(header)
    {
        header[lane % TILE_ROWS] = scale;
    }
}

/// Writes the codes of 32 [`levels`](DType::levels) with their scale as group `index` of row `lane`
/// of a tile row of nl4 or nl3: weight = `level * (scale * row scale)`. Nothing for another type.
pub fn pack_codes(
    dtype: DType,
    tile_row: &mut [u8],
    lane: usize,
    index: usize,
    scale: i8,
    codes: &[u8; GROUP],
) {
    let lane = lane % TILE_ROWS;
    let Some(tiles) = tile_row.get_mut(size_of::<RowScales>()..) else {
        return;
    };
    match dtype {
        DType::Nl4 => {
            let tiles: &mut [Nl4Tile] = bytemuck::try_cast_slice_mut(tiles).unwrap_or_default();
            if let Some(tile) = tiles.get_mut(index) {
                tile.scales[lane] = scale;
                put_bits(&mut tile.codes, lane, codes);
            }
        }
        DType::Nl3 => {
            let tiles: &mut [Nl3Tile] = bytemuck::try_cast_slice_mut(tiles).unwrap_or_default();
            if let Some(tile) = tiles.get_mut(index) {
                tile.scales[lane] = scale;
                put_bits(&mut tile.low, lane, codes);
                put_bits(&mut tile.high, lane, &codes.map(|code| code >> 2));
            }
        }
        DType::F32 | DType::F16 | DType::Bf16 | DType::Q8 | DType::Q4 | DType::Q4Min => {}
        DType::Q6 | DType::Q5 => {}
    }
}
