//! The mix of values with AVX2. Up to four queries at once: a value that is read and widened serves them all, and their sums,
//! eight registers or nearly, keep the adder busy.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::cast;

use super::avx2::{from_bf16, from_f16, from_f32};
use crate::{GROUP, Kv, TILE_ROWS};

/// Rows that meet all channels of all queries before the next are read, so that they are read from the first cache: 16 KB of
/// a head of 64 in f16.
const STRETCH: usize = 128;
/// How many rows ahead values are asked for.
const AHEAD: usize = 32;
/// Queries that meet a row at once.
const QUERIES: usize = 4;

/// [`Isa::mix`](crate::Isa::mix).
#[target_feature(enable = "avx2,f16c")]
pub(super) fn mix(kv: Kv, values: &[u8], slots: Range<usize>, weights: &[f32], out: &mut [f32], count: usize) {
    let width = |all: usize| all.checked_div(count).unwrap_or(0);
    let (table, channels) = (width(weights.len()), width(out.len()));
    let bytes = kv.value_bytes(channels).unwrap_or(0);
    if bytes == 0 {
        return;
    }
    let end = slots.end.min(table).min(values.len() / bytes);
    for start in (slots.start..end).step_by(STRETCH) {
        let slots = start..end.min(start.saturating_add(STRETCH));
        let table_part = Table { kv, bytes, channels, rows: &values[slots.start * bytes..slots.end * bytes] };
        for first in (0..count).step_by(QUERIES) {
            let out = &mut out[first * channels..];
            let weights = |q: usize| {
                let start = (first + q) * table;
                &weights[start + slots.start..start + slots.end]
            };
            match count - first {
                1 => table_part.mix([weights(0)], out),
                2 => table_part.mix([weights(0), weights(1)], out),
                3 => table_part.mix([weights(0), weights(1), weights(2)], out),
                _ => table_part.mix([weights(0), weights(1), weights(2), weights(3)], out),
            }
        }
    }
}

/// Asks for values to be brought to the first cache.
#[inline(always)]
fn prefetch(values: *const u8) {
    // SAFETY: a prefetch reads nothing that the program could see, whatever its address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(values.cast()) };
}

/// Some rows of a table of values.
struct Table<'a> {
    kv: Kv,
    /// Of a row.
    bytes: usize,
    channels: usize,
    rows: &'a [u8],
}

impl Table<'_> {
    /// Mixes them for `Q` queries, with whose channels `out` starts.
    #[target_feature(enable = "avx2,f16c")]
    fn mix<const Q: usize>(&self, weights: [&[f32]; Q], out: &mut [f32]) {
        match self.kv {
            Kv::F32 if cfg!(feature = "f32") => self.floats(weights, out, |eight: [u8; 32]| from_f32(cast(eight))),
            Kv::F16 if cfg!(feature = "f16") => self.floats(weights, out, |eight: [u8; 16]| from_f16(cast(eight))),
            Kv::Bf16 if cfg!(feature = "bf16") => self.floats(weights, out, |eight: [u8; 16]| from_bf16(cast(eight))),
            Kv::Q8 if cfg!(feature = "q8") => {
                for first in (0..self.channels).step_by(if Q <= 2 { GROUP } else { GROUP / 2 }) {
                    if Q <= 2 {
                        self.q8::<Q, 4>(weights, out, first);
                    } else {
                        self.q8::<Q, 2>(weights, out, first);
                    }
                }
            }
            _ => {}
        }
    }

    /// Eight channels are `N` bytes.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn floats<const Q: usize, const N: usize>(
        &self,
        weights: [&[f32]; Q],
        out: &mut [f32],
        widen: impl Fn([u8; N]) -> __m256 + Copy,
    ) {
        let mut first = 0;
        while first < self.channels {
            if Q <= 2 && self.channels - first >= 4 * TILE_ROWS {
                self.some(weights, out, first, |row| read::<N, 4>(row, first, widen), |_, weight| weight);
                first += 4 * TILE_ROWS;
            } else {
                self.some(weights, out, first, |row| read::<N, 2>(row, first, widen), |_, weight| weight);
                first += 2 * TILE_ROWS;
            }
        }
    }

    /// `C` eights of channels from channel `first` on, all of one group.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn q8<const Q: usize, const C: usize>(&self, weights: [&[f32]; Q], out: &mut [f32], first: usize) {
        let group = first / GROUP * (2 + GROUP);
        let read = |row: &[u8]| {
            let eights = row[group + 2 + first % GROUP..].as_chunks::<8>().0;
            let mut values = [_mm256_setzero_ps(); C];
            for c in 0..C {
                values[c] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(cast(eights[c]))));
            }
            values
        };
        let scale = |row: &[u8], weight| {
            let scale = _mm_cvtsi32_si128(u16::from_le_bytes([row[group], row[group + 1]]) as i32);
            _mm256_mul_ps(weight, _mm256_broadcastss_ps(_mm_cvtph_ps(scale)))
        };
        self.some(weights, out, first, read, scale);
    }

    /// Mixes `C` eights of channels from channel `first` on, which stay in registers over all rows. `read` gives them of a
    /// row, `scale` what a weight becomes for it.
    #[inline(never)]
    #[target_feature(enable = "avx2,f16c")]
    fn some<const Q: usize, const C: usize>(
        &self,
        mut weights: [&[f32]; Q],
        out: &mut [f32],
        first: usize,
        read: impl Fn(&[u8]) -> [__m256; C],
        scale: impl Fn(&[u8], __m256) -> __m256,
    ) {
        let lanes = (self.channels.saturating_sub(first)).min(C * TILE_ROWS);
        let mut sums = [[_mm256_setzero_ps(); C]; Q];
        for q in 0..Q {
            let mut channels = [[0.0; TILE_ROWS]; C];
            let out = &out[q * self.channels + first..][..lanes];
            channels.as_flattened_mut()[..lanes].copy_from_slice(out);
            for c in 0..C {
                sums[q][c] = cast(channels[c]);
            }
        }
        let rows = self.rows.chunks_exact(self.bytes);
        for weights in &mut weights {
            *weights = &weights[..rows.len()];
        }
        for (index, row) in rows.enumerate() {
            prefetch(row.as_ptr().wrapping_add(AHEAD * self.bytes + first * self.bytes / self.channels));
            let values = read(row);
            for q in 0..Q {
                let weight = scale(row, _mm256_set1_ps(weights[q][index]));
                for c in 0..C {
                    sums[q][c] = _mm256_add_ps(sums[q][c], _mm256_mul_ps(values[c], weight));
                }
            }
        }
        for q in 0..Q {
            let mut channels = [[0.0f32; TILE_ROWS]; C];
            for c in 0..C {
                channels[c] = cast(sums[q][c]);
            }
            out[q * self.channels + first..][..lanes].copy_from_slice(&channels.as_flattened()[..lanes]);
        }
    }
}

/// `C` eights of a row of floats from channel `first` on, padded with zeros.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn read<const N: usize, const C: usize>(row: &[u8], first: usize, widen: impl Fn([u8; N]) -> __m256) -> [__m256; C] {
    let bytes = &row[first * N / TILE_ROWS..];
    let mut padded = [[0; N]; C];
    let eights = match bytes.as_chunks::<N>().0.first_chunk::<C>() {
        Some(eights) => eights,
        None => {
            padded.as_flattened_mut()[..bytes.len()].copy_from_slice(bytes);
            &padded
        }
    };
    let mut values = [_mm256_setzero_ps(); C];
    for c in 0..C {
        values[c] = widen(eights[c]);
    }
    values
}
