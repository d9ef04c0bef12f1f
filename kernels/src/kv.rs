//! The key and value tables of attention. Keys are a [`Matrix`](crate::Matrix) whose rows are
//! positions, so scores are a matrix product, a lane a key. Values are stored row by row, and their
//! weighted sum is computed with a lane a channel.

use core::ops::Range;

use crate::dtype::{groups, groups_mut};
use crate::math::{bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use crate::pack::quantize_q8;
use crate::soft_float::add_product;
use crate::tile::Q8Tile;
use crate::{DType, GROUP, TILE_ROWS, pack_row};

/// How keys and values are kept.
///
/// Example: [`Isa`](crate::Isa).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Kv {
    /// As computed.
    F32,
    /// Rounded to binary16; magnitudes beyond its range become ±65504.
    F16,
    /// Rounded to bfloat16.
    Bf16,
    /// int8 in groups of 32 channels with an f16 scale; queries are quantised as well.
    Q8,
}

impl Kv {
    /// Every type.
    pub const ALL: [Kv; 4] = [Kv::F32, Kv::F16, Kv::Bf16, Kv::Q8];

    /// The element type of the tables; its kernels must be [compiled in](DType::enabled).
    pub const fn dtype(self) -> DType {
        match self {
            Kv::F32 => DType::F32,
            Kv::F16 => DType::F16,
            Kv::Bf16 => DType::Bf16,
            Kv::Q8 => DType::Q8,
        }
    }

    /// Bytes of one row of values of `channels` channels; `None` on overflow.
    pub const fn value_bytes(self, channels: usize) -> Option<usize> {
        match self {
            Kv::F32 => channels.checked_mul(4),
            Kv::F16 | Kv::Bf16 => channels.checked_mul(2),
            Kv::Q8 => channels.div_ceil(GROUP).checked_mul(2 + GROUP),
        }
    }
}

/// Stores a key as row `slot` of a key table, `keys` being [`DType::matrix_bytes`] long and aligned
/// to 4 bytes. Writes nothing if the slot is past the end of the table.
pub fn store_key(kv: Kv, keys: &mut [u8], slot: usize, key: &[f32]) {
    let bytes = kv.dtype().tile_row_bytes(key.len()).unwrap_or(0);
    let start = (slot / TILE_ROWS).saturating_mul(bytes);
    if let Some(tile_row) = keys.get_mut(start..start.saturating_add(bytes)) {
        pack_row(kv.dtype(), tile_row, slot % TILE_ROWS, key);
    }
}

/// Stores a row of values as row `slot` of a value table, which is `[slots][Kv::value_bytes]` and
/// aligned to 4 bytes. Writes nothing if the slot is past the end of the table, or if the type is
/// not compiled in.
pub fn store_value(kv: Kv, values: &mut [u8], slot: usize, value: &[f32]) {
    if !kv.dtype().enabled() {
        return;
    }
    let Some(row) = values.get_mut(value_part(kv, value.len(), slot)) else {
        return;
    };
    match kv {
        Kv::F32 => store_floats(row, value, |x| x),
        Kv::F16 => store_floats(row, value, f16_from_f32),
        Kv::Bf16 => store_floats(row, value, bf16_from_f32),
        Kv::Q8 => {
            for (bytes, group) in row
                .as_chunks_mut::<{ 2 + GROUP }>()
                .0
                .iter_mut()
                .zip(groups(value))
            {
                let (scale, values) = quantize_q8(group);
                let (scale_bytes, value_bytes) = bytes.split_at_mut(2);
                scale_bytes.copy_from_slice(&scale.to_le_bytes());
                value_bytes.copy_from_slice(bytemuck::bytes_of(&values));
            }
        }
    }
}

// If it is inlined, the loop is vectorised.
#[cfg_attr(not(target_os = "none"), inline(always))]
fn store_floats<E: bytemuck::Pod>(row: &mut [u8], value: &[f32], narrow: impl Fn(f32) -> E) {
    let row: &mut [E] = bytemuck::try_cast_slice_mut(row).unwrap_or_default();
    for (element, &x) in row.iter_mut().zip(value) {
        *element = narrow(x);
    }
}

/// Where the bytes of key `slot` are in a key table, piece by piece in the order of the channels.
/// Keys are stored eight together; with these ranges one of them can be copied elsewhere.
pub fn key_parts(kv: Kv, channels: usize, slot: usize) -> impl Iterator<Item = Range<usize>> {
    const STEPS: usize = 1 + GROUP / 4;
    // Whether a tile holds a group of eight keys, or one channel of them.
    let in_groups = match kv {
        Kv::F32 | Kv::F16 | Kv::Bf16 => false,
        Kv::Q8 => true,
    };
    let size = kv.value_bytes(1).unwrap_or(0);
    let start = (slot / TILE_ROWS).saturating_mul(kv.dtype().tile_row_bytes(channels).unwrap_or(0));
    let lane = slot % TILE_ROWS;
    let pieces = if in_groups {
        channels.div_ceil(GROUP) * STEPS
    } else {
        channels
    };
    (0..pieces).map(move |piece| {
        let (offset, size) = match (in_groups, piece % STEPS) {
            (false, _) => ((piece * TILE_ROWS + lane) * size, size),
            // The scales of a tile, then four channels of each row at a time.
            (true, 0) => (piece / STEPS * size_of::<Q8Tile>() + 2 * lane, 2),
            (true, step) => {
                let step = 2 * TILE_ROWS + (step - 1) * 4 * TILE_ROWS;
                (piece / STEPS * size_of::<Q8Tile>() + step + 4 * lane, 4)
            }
        };
        let start = start.saturating_add(offset);
        start..start.saturating_add(size)
    })
}

/// Where the row of values `slot` is in a value table.
pub fn value_part(kv: Kv, channels: usize, slot: usize) -> Range<usize> {
    let bytes = kv.value_bytes(channels).unwrap_or(0);
    let start = slot.saturating_mul(bytes);
    start..start.saturating_add(bytes)
}

/// [`Isa::weighted_sum`](crate::Isa::weighted_sum), portably.
pub(crate) fn weighted_sum(
    kv: Kv,
    values: &[u8],
    slots: Range<usize>,
    weights: &[f32],
    out: &mut [f32],
    count: usize,
) {
    let width = |all: usize| all.checked_div(count).unwrap_or(0);
    let table = width(weights.len());
    let channels = width(out.len());
    let mut weights = weights;
    let mut out = out;
    for _ in 0..count {
        let (these, other_weights) = weights.split_at_checked(table).unwrap_or_default();
        let (channels, other_out) = out.split_at_mut_checked(channels).unwrap_or_default();
        weighted_sum_of_query(
            kv,
            values,
            slots.clone(),
            these.get(slots.start..).unwrap_or_default(),
            channels,
        );
        (weights, out) = (other_weights, other_out);
    }
}

#[inline(never)]
fn weighted_sum_of_query(
    kv: Kv,
    values: &[u8],
    slots: Range<usize>,
    weights: &[f32],
    out: &mut [f32],
) {
    if !kv.dtype().enabled() {
        return;
    }
    let bytes = kv.value_bytes(out.len()).unwrap_or(0);
    let mut rest = values
        .get(slots.start.saturating_mul(bytes)..)
        .unwrap_or_default();
    let weights = weights.iter().take(slots.len());
    let rows = core::iter::from_fn(|| {
        let (row, after) = rest.split_at_checked(bytes)?;
        rest = after;
        Some(row)
    });
    match kv {
        Kv::F32 => rows
            .zip(weights)
            .for_each(|(row, &weight)| weighted_sum_of_floats(row, weight, out, |x: f32| x)),
        Kv::F16 => rows
            .zip(weights)
            .for_each(|(row, &weight)| weighted_sum_of_floats(row, weight, out, f16_to_f32)),
        Kv::Bf16 => rows
            .zip(weights)
            .for_each(|(row, &weight)| weighted_sum_of_floats(row, weight, out, bf16_to_f32)),
        Kv::Q8 => {
            for (row, weight) in rows.zip(weights) {
                for (bytes, out) in row
                    .as_chunks::<{ 2 + GROUP }>()
                    .0
                    .iter()
                    .zip(groups_mut(out))
                {
                    let weight = weight * f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]));
                    for (out, &value) in out.iter_mut().zip(&bytes[2..]) {
                        *out = add_product(*out, value as i8 as f32, weight);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn weighted_sum_of_floats<E: bytemuck::Pod>(
    row: &[u8],
    weight: f32,
    out: &mut [f32],
    widen: impl Fn(E) -> f32,
) {
    let row: &[E] = bytemuck::try_cast_slice(row).unwrap_or_default();
    for (out, &value) in out.iter_mut().zip(row) {
        *out = add_product(*out, weight, widen(value));
    }
}
